package router

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// A partition is frozen by one hand-over at a time: the second does not get it, and does not thaw it under the hands of the first.
func TestAPartitionIsFrozenByOneHandOverAtATime(t *testing.T) {
	w := newWorld(t, false, nil)
	r, tp := w.router(nil), kafka.TP{Topic: w.client.Topics().Events["booking"]}
	r.owned.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil)
	p := r.owned.holder(tp)
	if next, err := r.freeze(w.ctx, p); next != 100 || err != nil {
		t.Fatal(next, err)
	}
	if _, err := r.freeze(w.ctx, p); !errors.Is(err, errHandOver) {
		t.Errorf("the second got: %v", err)
	}
	if !r.owned.full(tp) {
		t.Error("the second has thawed it")
	}
	r.thaw(p)
	if _, err := r.freeze(w.ctx, p); err != nil || !r.owned.full(tp) {
		t.Errorf("after the first has thawed it: %v", err)
	}
}

// Who waits in vain for what live has at hand lets go of the partition again.
func TestAFreezeThatComesToNothingLeavesThePartitionAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		r, tp := w.router(nil), kafka.TP{Topic: w.client.Topics().Events["booking"]}
		r.owned.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil)
		r.routing <- struct{}{} // for longer than a hand-over waits
		if _, err := r.freeze(w.ctx, r.owned.holder(tp)); !errors.Is(err, errHandOver) || r.owned.full(tp) {
			t.Errorf("parked: %v; %v", r.owned.full(tp), err)
		}
	})
}

// ordered makes a subscription to bookings, live in two seconds and ordered, with a catch-up of what lies before; in all other topics it is through.
func (w *world) ordered(id, order string, from int64) (schemas.Subscription, schemas.Replay) {
	w.t.Helper()
	s := schemas.Subscription{ID: id, Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"booking.*"}, State: schemas.StateActive,
		Order: schemas.OrderEntity, BackfillFrom: from}
	o := schemas.CatchUp(order, &s, from, time.Now().UnixMilli())
	o.To = time.Now().Add(2250 * time.Millisecond).UnixMilli()
	s.Spans = []schemas.Cut{{At: o.To, Kind: schemas.CutLive, Reason: o.ID}}
	var rs kafka.Records
	for _, topic := range w.client.Topics().EventTopics() {
		for p := range int32(w.config.Partitions) {
			if tp := (kafka.TP{Topic: topic, Partition: p}); topic != w.client.Topics().Events["booking"] {
				key := stretchKey(o.ID, tp)
				rs.Add(w.place(w.client.Topics().Progress, key), key, nil, schemas.AppendProgress(nil, &progress{Replay: o.ID, Topic: topic, Partition: p, Done: true}))
			}
		}
	}
	w.write(&rs)
	w.put(&s)
	return s, o
}

// held is a request that the broker has and does not look at yet.
type held struct{ came, goes chan struct{} }

func newHeld() held { return held{make(chan struct{}), make(chan struct{})} }

// holdCommit has the broker hold the first commit that names a catch-up in a partition of bookings.
func (w *world) holdCommit(order string) held {
	h := newHeld()
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetCommit), func(q kmsg.Request) (kmsg.Response, error, bool) {
		if names(q.(*kmsg.OffsetCommitRequest), w.client.Topics().Events["booking"], order) {
			w.broker.Cluster().DropControl()
			close(h.came)
			w.broker.Cluster().SleepControl(func() { <-h.goes })
		}
		return nil, nil, false
	})
	return h
}

// names says whether a commit names a catch-up in a partition of a topic.
func names(q *kmsg.OffsetCommitRequest, topic, order string) bool {
	for _, t := range q.Topics {
		for _, p := range t.Partitions {
			if t.Topic == topic && p.Metadata != nil && strings.Contains(*p.Metadata, order) {
				return true
			}
		}
	}
	return false
}

// The sequence: two ordered catch-ups hand the same partition over, beside each other, and what the first does must not let live go on before the second is
// done: live leaves out the subscription of the second for that long, and nobody would ever route what it has passed.
func TestTwoHandOversOfAPartitionLoseNothing(t *testing.T) {
	for name, beside := range map[string]func(w *world, first, second *schemas.Replay) held{
		"the first writes its progress while the second is frozen": func(w *world, first, second *schemas.Replay) held {
			note, commit := newHeld(), w.holdCommit(second.ID)
			named := w.holdCommit(first.ID)
			w.writeOrder(first)
			<-named.came
			w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
				if q.(*kmsg.ProduceRequest).Topics[0].Topic == w.client.Topics().Progress {
					w.broker.Cluster().DropControl()
					close(note.came)
					w.broker.Cluster().SleepControl(func() { <-note.goes })
				}
				return nil, nil, false
			})
			close(named.goes)
			<-note.came
			w.writeOrder(second)
			<-commit.came
			close(note.goes)
			return commit
		},
		"the second comes while the first is frozen": func(w *world, first, second *schemas.Replay) held {
			commit := w.holdCommit(first.ID)
			w.writeOrder(first)
			<-commit.came
			later(time.Millisecond) // the two look for their commits every other millisecond
			w.writeOrder(second)
			return commit
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, true, func(c *kafka.Config) { c.Partitions = 1 })
				w.deliver()
				w.start(nil)
				for range 5 {
					w.publish("booking.creation", "c_a")
				}
				later(time.Second)
				now := time.Now().UnixMilli()
				s1, o1 := w.ordered("sub_1", "rpl_1", now)
				s2, o2 := w.ordered("sub_2", "rpl_2", now)
				later(10 * time.Second)
				frozen := beside(w, &o1, &o2)
				want := map[string]string{}
				publish := func(n int) {
					for range n {
						m, src := w.publish("booking.creation", "c_a")
						for _, s := range []schemas.Subscription{s1, s2} {
							want[schemas.TaskID(src, m.EventID, s.ID, "")] = s.ID
						}
					}
				}
				publish(20)
				later(500 * time.Millisecond)
				close(frozen.goes)
				began := time.Now()
				publish(20)
				w.over(o1.ID)
				w.over(o2.ID)
				if d := time.Since(began); d > 10*time.Second {
					t.Errorf("the two took %v", d)
				}
				publish(20)
				later(10 * time.Second)
				got := w.tasks(0, true)
				missed := map[string]int{}
				for id, sub := range want {
					if _, ok := got[id]; !ok {
						missed[sub]++
					}
				}
				if len(missed) > 0 || len(got) != len(want) {
					t.Errorf("missed: %v; %d tasks, and %d are owed", missed, len(got), len(want))
				}
			})
		})
	}
}
