package kafka_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	kgo "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// fetches watches a broker's fetch requests: how many partitions they name and take back, and may refuse one.
type fetches struct {
	requests, named, forgotten atomic.Int64
	refuse                     atomic.Int32 // an error code for the next request within a session, and for all that follow in the same
	dead, with                 atomic.Int32 // that session, and the code
}

func (w *fetches) watch(b *sandbox.Broker) {
	b.Cluster().ControlKey(int16(kmsg.Fetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
		b.Cluster().KeepControl()
		req := q.(*kmsg.FetchRequest)
		w.requests.Add(1)
		for _, t := range req.Topics {
			w.named.Add(int64(len(t.Partitions)))
		}
		w.forgotten.Add(int64(len(req.ForgottenTopics)))
		if code := w.refuse.Load(); code != 0 && req.SessionID != 0 && w.refuse.CompareAndSwap(code, 0) {
			w.dead.Store(req.SessionID)
			w.with.Store(code)
		}
		if req.SessionID != 0 && req.SessionID == w.dead.Load() {
			resp := req.ResponseKind().(*kmsg.FetchResponse)
			resp.ErrorCode = int16(w.with.Load())
			return resp, nil, true
		}
		return nil, nil, false
	})
}

func sessionWorld(t *testing.T) (*world, *fetches) {
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	seen := &fetches{}
	seen.watch(b)
	return &world{t: t, addrs: b.Addrs()}, seen
}

// With a hundred partitions and one that has something new, a request names that one.
func TestAFetchNamesOnlyWhatHasChanged(t *testing.T) {
	w, seen := sessionWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 100)
	pos := map[kafka.TP]int64{}
	for p := range int32(100) {
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	f := w.run(cl, kafka.FetchConfig{}, nil)
	f.Assign(pos)
	a := cl.NewAppender(kafka.AppenderConfig{})
	first, other := kafka.TP{Topic: topic, Partition: 7}, kafka.TP{Topic: topic, Partition: 93}
	w.append(a, first, "warm")
	f.offsets(first, 1)
	requests, named := seen.requests.Load(), seen.named.Load()
	for i := range 20 {
		w.append(a, first, fmt.Sprint(i))
		w.append(a, other, fmt.Sprint(i))
		f.offsets(first, i+2)
		f.offsets(other, i+1)
	}
	requests, named = seen.requests.Load()-requests, seen.named.Load()-named
	if requests < 20 || named < 20 || named > 2*requests { // each record moves a position, which the next request must say
		t.Errorf("%d requests for 40 records, naming %d partitions", requests, named)
	}
	// A partition that leaves is taken back, and is not read any more; the others are.
	delete(pos, other)
	for tp := range pos {
		pos[tp] = kafka.KeepPosition
	}
	f.Assign(pos)
	w.append(a, first, "after")
	f.offsets(first, 22)
	w.append(a, other, "nobody reads this")
	w.append(a, first, "and this")
	f.offsets(first, 23)
	if got := f.offsets(other, 20); len(got) != 20 {
		t.Errorf("%d records of a partition that left, want the 20 before", len(got))
	}
}

// A broker lets go of sessions to make room for others. Nothing is lost and nothing comes twice.
func TestASessionThatTheBrokerForgotBeginsAnew(t *testing.T) {
	for _, code := range []kgo.Error{kgo.FetchSessionIDNotFound, kgo.InvalidFetchSessionEpoch} {
		t.Run(code.Title(), func(t *testing.T) {
			w, seen := sessionWorld(t)
			cl := w.open(w.config(), kafka.Options{})
			topic := w.topic(cl, 3)
			tp := kafka.TP{Topic: topic, Partition: 1}
			f := w.run(cl, kafka.FetchConfig{}, nil)
			f.Assign(map[kafka.TP]int64{{Topic: topic}: 0, tp: 0, {Topic: topic, Partition: 2}: 0})
			a := cl.NewAppender(kafka.AppenderConfig{})
			for i := range 10 {
				if i%3 == 1 {
					seen.refuse.Store(int32(code))
				}
				w.append(a, tp, fmt.Sprint(i))
				f.offsets(tp, i+1)
			}
			if got := f.offsets(tp, 10); !slices.Equal(got, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
				t.Errorf("read %v", got)
			}
			if seen.refuse.Load() != 0 {
				t.Error("no session was refused: nothing was shown")
			}
		})
	}
}

// A partition that is full is taken back from the session, else the broker would answer at once, again and again, with what nobody takes. When it is wanted
// again, it is read from where it stopped.
func TestAFullPartitionIsTakenBackFromTheSession(t *testing.T) {
	w, seen := sessionWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	open, full := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	var shut atomic.Bool
	f := w.run(cl, kafka.FetchConfig{Full: func(tp kafka.TP) bool { return tp == full && shut.Load() }}, nil)
	f.Assign(map[kafka.TP]int64{open: 0, full: 0})
	a := cl.NewAppender(kafka.AppenderConfig{})
	w.append(a, full, "0")
	f.offsets(full, 1)
	shut.Store(true)
	w.append(a, open, "0") // ends the poll that still names both
	f.offsets(open, 1)
	w.append(a, open, "1")
	f.offsets(open, 2)
	w.append(a, full, "1", "2")
	for i := range 5 {
		w.append(a, open, fmt.Sprint(i))
		f.offsets(open, i+3)
	}
	if seen.forgotten.Load() == 0 {
		t.Error("the full partition was never taken back")
	}
	shut.Store(false)
	f.Wake()
	if got := f.offsets(full, 3); !slices.Equal(got, []int64{0, 1, 2}) {
		t.Errorf("read %v", got)
	}
}
