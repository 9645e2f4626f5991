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
	r.owned.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil, nil)
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
		r.owned.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil, nil)
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

// The sequence: the commit that names a catch-up reaches the broker, and its answer reaches nobody, so the hand-over is given up and live goes on without the
// subscription. Before a commit has said so, there is another generation, and it gives the partition back to where it was: the process keeps it at what it has done,
// and must not believe its own commit of before, for the catch-up has not come so far.
func TestAHandOverThatWasTakenBackIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, func(c *kafka.Config) { c.Partitions = 1 })
		w.deliver()
		w.start(nil)
		w.publish("booking.creation", "c_a")
		later(time.Second)
		s, o := w.ordered("sub_1", "rpl_1", time.Now().UnixMilli())
		later(10 * time.Second)
		named := w.takeCommitsWithoutAnAnswer(o.ID)
		w.writeOrder(&o)
		<-named
		paused := o // so that the catch-up stays behind live
		paused.State = schemas.ReplayPaused
		w.writeOrder(&paused)
		later(2 * handOverWait)
		want := map[string]bool{}
		publish := func() {
			for range 20 {
				m, src := w.publish("booking.creation", "c_a")
				want[schemas.TaskID(src, m.EventID, s.ID, "")] = true
			}
		}
		publish()
		later(5 * time.Second)
		<-w.anotherGeneration()
		later(5 * time.Second)
		publish()
		w.writeOrder(&o)
		w.over(o.ID)
		publish()
		later(10 * time.Second)
		got := w.tasks(0, true)
		missed := 0
		for id := range want {
			if _, ok := got[id]; !ok {
				missed++
			}
		}
		if missed > 0 || len(got) != len(want) {
			t.Errorf("%d are missed; %d tasks, and %d are owed", missed, len(got), len(want))
		}
	})
}

// What a commit says of hand-overs is believed where a partition begins, and not where it is kept: there the next commit says what the process knows.
func TestOnlyAPartitionThatBeginsBelievesItsCommit(t *testing.T) {
	tp := kafka.TP{Topic: "t", Partition: 1}
	for name, c := range map[string]struct {
		between int64    // what the group has when the partition comes back
		says    []string // and the hand-overs named with it
		knows   string   // of this process
		next    int64
		believe bool
		due     string // "-": nothing
	}{
		"kept, a hand-over that was taken back":          {120, []string{"rpl_1"}, "", 150, false, ""},
		"kept, a hand-over that the group does not know": {150, nil, "rpl_2", 150, false, "handed=rpl_2"},
		"kept, as it was said":                           {150, []string{"rpl_2"}, "rpl_2", 150, false, "-"},
		"begins anew":                                    {160, []string{"rpl_1"}, "", 160, true, "handed=rpl_1"},
	} {
		m, _ := newMetrics(nil, nil)
		o, believed := newOwned(m), false
		hand := func(id string, at kafka.TP) { believed = believed || id == "rpl_1" && at == tp }
		take := func(offset int64, handed []string) {
			o.take(map[kafka.TP]start{tp: {offset: offset, committed: true, handed: handed}}, nil, hand)
		}
		take(100, nil)
		p := o.holder(tp)
		o.done(p, 120)
		if err := o.freeze(p); err != nil || o.hand("rpl_1", p, 120) != nil {
			t.Fatal(name, err)
		}
		o.unhand("rpl_1", p) // after a commit without an answer
		o.unpark(func(*partition) bool { return true })
		o.done(p, 150)
		if c.knows != "" {
			p.handed = []string{c.knows}
		}
		o.commitDone(map[kafka.TP]kafka.Committed{tp: {Offset: 110, Metadata: handedText(p.handed)}})
		o.shut()
		take(c.between, c.says)
		if next, _ := o.next(tp); next != c.next || believed != c.believe {
			t.Errorf("%s: at %d, believed: %v", name, next, believed)
		}
		due, is := o.due()[tp]
		if is != (c.due != "-") || is && (due.Metadata != c.due || due.Offset != c.next) {
			t.Errorf("%s: to be committed: %v %+v", name, is, due)
		}
	}
}

// takeCommitsWithoutAnAnswer has the broker take the router's commits that name a catch-up in a partition of bookings so late that nobody waits for the answer, and
// refuse those that come behind them, until offsets are asked for again.
func (w *world) takeCommitsWithoutAnAnswer(order string) (named <-chan struct{}) {
	came := make(chan struct{})
	over := false // of the broker's goroutine, which runs one control at a time
	group, cluster := GroupID(w.client.Topics()), w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.OffsetCommit), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := q.(*kmsg.OffsetCommitRequest)
		if req.Group != group || over {
			return nil, nil, false
		}
		if names(req, w.client.Topics().Events["booking"], order) {
			select {
			case <-came:
			default:
				close(came)
			}
			cluster.SleepControl(func() { later(3 * time.Second) })
			return nil, nil, false
		}
		select {
		case <-came:
		default:
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, 14 // the coordinator is loading
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	cluster.ControlKey(int16(kmsg.OffsetFetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		select {
		case <-came:
			over = true
		default:
		}
		return nil, nil, false
	})
	return came
}

// anotherGeneration has the router's group begin another one, with the same members.
func (w *world) anotherGeneration() (begun <-chan struct{}) {
	joined := make(chan struct{})
	cluster := w.broker.Cluster()
	mine := func(group string) bool { return group == GroupID(w.client.Topics()) }
	cluster.ControlKey(int16(kmsg.Heartbeat), func(q kmsg.Request) (kmsg.Response, error, bool) {
		req := q.(*kmsg.HeartbeatRequest)
		if !mine(req.Group) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = 27 // a rebalance is under way
		return resp, nil, true
	})
	cluster.ControlKey(int16(kmsg.JoinGroup), func(q kmsg.Request) (kmsg.Response, error, bool) {
		if mine(q.(*kmsg.JoinGroupRequest).Group) {
			cluster.DropControl()
			close(joined)
		}
		return nil, nil, false
	})
	return joined
}
