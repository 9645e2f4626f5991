package kafka_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// faultyWorld is a world whose broker can be told what to refuse.
func faultyWorld(t *testing.T) (*world, *kfake.Cluster) {
	t.Helper()
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &world{t: t, addrs: b.Addrs(), dial: (&net.Dialer{}).DialContext}, b.Cluster()
}

// begun is a Write of one record, and the end of it.
func begun(tp kafka.TP, value string) (*kafka.Write, chan struct{}) {
	w, ended := new(kafka.Write), make(chan struct{})
	w.Records.Add(tp, nil, nil, []byte(value))
	w.Ended = func() { close(ended) }
	return w, ended
}

func within(t *testing.T, d time.Duration, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(d):
		t.Fatalf("not within %v: %s", d, what)
	}
}

func TestAPartitionWithoutALeaderHoldsUpNothingThatWasBegunWithIt(t *testing.T) {
	w, cluster := faultyWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	a := cl.NewAppender(kafka.AppenderConfig{})
	sick, well := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.NotLeaderForPartition, Count: -1})
	first, firstEnded := begun(sick, "0")
	other, otherEnded := begun(well, "well")
	if err := a.Begin(first, other); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the healthy partition", otherEnded)
	if acks, err := other.Result(); err != nil || len(acks) != 1 || acks[0].Base != 0 || acks[0].TP != well {
		t.Fatalf("%+v, %v", acks, err)
	}
	second, secondEnded := begun(sick, "1")
	if err := a.Begin(second); err != nil {
		t.Fatal(err)
	}
	if err := fault.Wait(w.ctx(), 3); err != nil {
		t.Fatal(err)
	}
	select {
	case <-firstEnded:
		t.Fatal("acknowledged by nobody")
	case <-secondEnded:
		t.Fatal("the second before the first")
	default:
	}
	fault.Remove()
	within(t, 5*time.Second, "the healed partition", firstEnded)
	within(t, 5*time.Second, "what came behind", secondEnded)
	for tp, rs := range w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{sick: 0}, count(2)) {
		for i, r := range rs {
			if string(r.Value) != fmt.Sprint(i) {
				t.Errorf("%v: offset %d holds %q", tp, i, r.Value)
			}
		}
	}
}

// A partition whose replicas lag makes the broker hold back its whole answer. What travels with it the first time waits; what comes later does not.
func TestAPartitionThatMakesItsBrokerSlowIsAskedApart(t *testing.T) {
	w, cluster := faultyWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	a := cl.NewAppender(kafka.AppenderConfig{})
	sick, well := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	w.append(a, well, "the producer id and the leaders are known")
	w.append(a, sick, "here too")
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.NotEnoughReplicas})
	release, held := make(chan struct{}), make(chan struct{}, 100)
	cluster.ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if fault.Hits() == 0 {
			return nil, nil, false
		}
		for _, rt := range q.(*kmsg.ProduceRequest).Topics {
			for _, rp := range rt.Partitions {
				if rp.Partition == 0 {
					held <- struct{}{}
					cluster.SleepControl(func() { <-release })
				}
			}
		}
		return nil, nil, false
	})
	write, ended := begun(sick, "slow")
	if err := a.Begin(write); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the broker holds the sick partition's answer", held)
	ctx, cancel := context.WithTimeout(w.ctx(), 4*time.Second)
	defer cancel()
	var r kafka.Records
	r.Add(well, nil, nil, []byte("fast"))
	if _, err := a.Append(ctx, &r); err != nil {
		t.Error("the healthy partition waits for the sick one: ", err)
	}
	close(release)
	within(t, 10*time.Second, "the sick partition's end", ended)
}

// A router of a new deployment asked whether anything had been routed before the last minute: nothing had at the first question, the other router wrote, and the
// end at the second stood behind that. It took the deployment for an old one, and refused its partitions until somebody would decide.
func TestAnOffsetByTimeIsNotBehindWhatIsAppendedMeanwhile(t *testing.T) {
	w, cluster := faultyWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 1)
	other := w.open(w.config(), kafka.Options{}).NewAppender(kafka.AppenderConfig{})
	questions := 0
	cluster.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if questions++; questions == 2 {
			cluster.SleepControl(func() { w.append(other, kafka.TP{Topic: topic}, "v") })
		}
		return nil, nil, false
	})
	got, err := cl.Offsets(w.ctx(), topic, time.Now().Add(-time.Minute).UnixMilli())
	if err != nil || got[0] != 0 || questions != 2 {
		t.Errorf("after %d questions: %v %v, and the record lies at 0", questions, got, err)
	}
}
