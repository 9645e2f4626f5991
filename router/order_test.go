package router

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The sequence: an event was read and matched, its tasks cannot be written for now, and the router stops. A batch that counted as done already would be
// committed, and the event would be nowhere.
func TestAnEventIsNotDoneBeforeItsTasksAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		var refuse atomic.Bool
		retry := w.client.Topics().Retry
		w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.Cluster().KeepControl()
			req := q.(*kmsg.ProduceRequest)
			if !refuse.Load() || len(req.Topics) != 1 || req.Topics[0].Topic != retry {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic = retry
			for _, p := range req.Topics[0].Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, 19 // too few replicas: it is tried again
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		})
		refuse.Store(true)
		stop := w.start(nil)
		for range 10 {
			w.publish("booking.creation", "c_a")
		}
		later(5 * time.Second)
		stop()
		refuse.Store(false)
		w.start(nil)
		later(time.Minute)
		if n := len(w.read(retry, 0)); n != 10 {
			t.Errorf("%d tasks for 10 events", n)
		}
	})
}
