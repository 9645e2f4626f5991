package kafka_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// threeBrokers is a world of three, with a way to move the leader of partition 0 of a topic.
func threeBrokers(t *testing.T) (*world, func(topic string, round int)) {
	w := newWorld(t)
	if !w.real {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{Brokers: 3})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		w.addrs = b.Addrs()
		return w, func(topic string, round int) {
			if err := b.Cluster().MoveTopicPartition(topic, 0, int32(round%3)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(w.addrs) < 3 {
		t.Skip("HOOKFERRY_TEST_KAFKA names fewer than three brokers: a leader has nowhere to go")
	}
	tr := &kgo.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	admin := &kgo.Client{Addr: kgo.TCP(w.addrs...), Transport: tr}
	return w, func(topic string, round int) {
		m, err := admin.Metadata(w.ctx(), &kgo.MetadataRequest{Topics: []string{topic}})
		if err != nil {
			t.Fatal(err)
		}
		var ids []int
		for _, r := range m.Topics[0].Partitions[0].Replicas {
			ids = append(ids, r.ID)
		}
		slices.Sort(ids)
		k := round % len(ids)
		ids = append(ids[k:], ids[:k]...) // the first replica is the one preferred as leader
		if _, err := admin.AlterPartitionReassignments(w.ctx(), &kgo.AlterPartitionReassignmentsRequest{
			Topic: topic, Assignments: []kgo.AlterPartitionReassignmentsRequestAssignment{{PartitionID: 0, BrokerIDs: ids}},
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.ElectLeaders(w.ctx(), &kgo.ElectLeadersRequest{Topic: topic, Partitions: []int{0}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAMovedLeaderLosesDoublesAndDelaysNothing(t *testing.T) {
	w, move := threeBrokers(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 6)
	a := cl.NewAppender(kafka.AppenderConfig{})
	f := w.run(cl, kafka.FetchConfig{}, nil)
	pos := map[kafka.TP]int64{}
	for p := range int32(6) {
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	f.Assign(pos)
	longest := time.Duration(0)
	n := 0
	for round := range 9 {
		move(topic, round)
		for range 5 {
			var r kafka.Records
			for tp := range pos {
				r.Add(tp, nil, nil, []byte(fmt.Sprint(n)))
			}
			began := time.Now()
			if _, err := a.Append(w.ctx(), &r); err != nil {
				t.Fatal(err)
			}
			n++
			for tp := range pos {
				f.offsets(tp, n)
			}
			longest = max(longest, time.Since(began))
		}
	}
	for tp := range pos {
		if got := f.offsets(tp, n); len(got) != n || got[n-1] != int64(n-1) {
			t.Fatalf("%v: %d records, the last at %d", tp, len(got), got[len(got)-1])
		}
	}
	t.Logf("longest way through a move: %v", longest)
	if longest > 3*time.Second {
		t.Fatalf("it took %v", longest)
	}
}

func TestGapsThatCompactionLeavesAreCrossed(t *testing.T) {
	w := newWorld(t)
	if !w.real {
		t.Skip("the broker in memory compacts only when told to, and leaves no gaps that a real one would not: HOOKFERRY_TEST_KAFKA")
	}
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1, "cleanup.policy", "compact", "segment.ms", "500", "max.compaction.lag.ms", "500",
		"min.cleanable.dirty.ratio", "0.01", "delete.retention.ms", "100")}
	a := cl.NewAppender(kafka.AppenderConfig{})
	for range 10 {
		var r kafka.Records
		for k := range 20 {
			r.Add(tp, []byte(fmt.Sprint(k)), nil, []byte("v"))
		}
		if _, err := a.Append(w.ctx(), &r); err != nil {
			t.Fatal(err)
		}
	}
	late := time.After(50 * time.Second)
	for round := 0; ; round++ {
		acks := w.append(a, tp, fmt.Sprint("roll ", round)) // rolls the segment when its time has come
		end := acks[0].Base + 1
		got := w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{tp: 0}, func(got map[kafka.TP][]kafka.Record) bool {
			rs := got[tp]
			return len(rs) > 0 && rs[len(rs)-1].Offset == end-1
		})[tp]
		if len(got) < 50 { // of 200 and the rolls
			last := int64(-1)
			for _, r := range got {
				if r.Offset <= last {
					t.Fatal("offsets do not ascend")
				}
				last = r.Offset
			}
			t.Logf("%d of %d records are left", len(got), end)
			return
		}
		select {
		case <-late:
			t.Fatalf("no compaction: %d records", len(got))
		case <-time.After(200 * time.Millisecond): // the cleaner tells nobody when it is done
		}
	}
}
