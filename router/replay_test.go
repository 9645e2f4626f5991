package router

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// replayed reads the tasks that replays have written, by id; a copy is an error unless allowed.
func (w *world) replayed(n int, copies bool) map[string]schemas.Task {
	w.t.Helper()
	out := map[string]schemas.Task{}
	for _, rec := range w.read(w.client.Topics().Replay, n) {
		var task schemas.Task
		if err := schemas.DecodeTask(rec.Value, &task); err != nil {
			w.t.Fatal(err)
		}
		if _, double := out[task.ID]; double && !copies {
			w.t.Errorf("task %s was written twice", task.ID)
		}
		out[task.ID] = task
	}
	return out
}

func (w *world) startReplay(d ReplayDraft) *schemas.Replay {
	w.t.Helper()
	o, err := StartReplay(w.ctx, w.client, w.table, d)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// over waits until an order is over, and returns how far it has come.
func (w *world) over(id string) *ReplayProgress {
	w.t.Helper()
	var p *ReplayProgress
	for range 300 {
		var err error
		if p, err = ReplayState(w.ctx, w.client, w.table, id); err != nil {
			w.t.Fatal(err)
		}
		if over(&p.Replay) {
			return p
		}
		later(time.Second)
	}
	w.t.Fatalf("the replay is not over: %+v", p)
	return nil
}

// deliver plays the deliverers' part: it commits the ends of `replay` as they are, every second.
func (w *world) deliver() {
	group, err := w.client.JoinGroup(kafka.GroupConfig{ID: w.config.TopicPrefix + DefaultConfig().DelivererGroup, Spread: []string{w.client.Topics().Replay, w.client.Topics().Retry}})
	if err != nil {
		w.t.Fatal(err)
	}
	run(w.t, func(ctx context.Context) error {
		defer group.Close()
		gen, err := group.Next(ctx)
		if err != nil {
			return nil
		}
		defer gen.Release()
		for tick := time.NewTicker(time.Second); ; {
			ends := map[kafka.TP]kafka.Committed{}
			for _, topic := range []string{w.client.Topics().Replay, w.client.Topics().Retry} {
				last, err := w.client.Offsets(ctx, topic, kafka.Latest)
				if err != nil {
					return nil
				}
				for p, end := range last {
					ends[kafka.TP{Topic: topic, Partition: p}] = kafka.Committed{Offset: end}
				}
			}
			gen.Commit(ctx, ends)
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return nil
			}
		}
	})
}

// A replay makes exactly the tasks of its range that its subscription wants and its filters let through, under ids of their own and the webhook-id of before; a
// plan says the same numbers beforehand, and writes nothing.
func TestAReplayRoutesItsRangeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "booking.*", "customer.creation")
		w.subscribe("sub_2", "c_b", FormatClassic, "*")
		w.start(nil)
		publish := func(n int) {
			for i := range n {
				for _, company := range []string{"c_a", "c_b"} {
					w.publish([]string{"booking.creation", "customer.creation", "customer.amendment", "inventory.change"}[i%4], company)
				}
			}
		}
		publish(20)
		later(time.Minute)
		from := time.Now()
		publish(40)
		later(time.Minute)
		to := time.Now()
		publish(20)
		later(time.Minute)
		inventory := w.client.Topics().Events["inventory"]
		ends, err := w.client.Offsets(w.ctx, inventory, kafka.Latest)
		if err != nil {
			t.Fatal(err)
		}
		part := int32(0)
		for p, end := range ends {
			if end > ends[part] {
				part = p
			}
		}
		for _, c := range []struct {
			name  string
			draft ReplayDraft
			want  int // -1: some
		}{
			{"one subscription", ReplayDraft{Subscription: "sub_1", From: from, To: to}, 20},
			{"a pattern", ReplayDraft{Subscription: "sub_1", From: from, To: to, Events: []string{"*.creation", "product.*"}}, 20},
			{"another pattern", ReplayDraft{Subscription: "sub_2", From: from, To: to, Events: []string{"customer.*"}}, 20},
			{"a company", ReplayDraft{Company: "c_b", From: from, To: to}, 40},
			{"all, from the earliest to now", ReplayDraft{All: true}, 40 + 80},
			{"nothing is in it", ReplayDraft{All: true, From: to.Add(30 * time.Second)}, 0},
			{"offsets", ReplayDraft{Subscription: "sub_2", Begins: []schemas.PartitionOffset{{Topic: inventory, Partition: part, Offset: ends[part] / 3}}}, -1},
		} {
			before := len(w.replayed(0, false))
			plan, err := PlanReplay(w.ctx, w.client, w.table, DefaultConfig(), c.draft, nil)
			if err != nil {
				t.Fatal(c.name, err)
			}
			if n := len(w.replayed(0, false)); n != before {
				t.Errorf("%s: a plan wrote %d tasks", c.name, n-before)
			}
			o := w.startReplay(c.draft)
			p := w.over(o.ID)
			got, bytes := 0, 0
			for _, task := range w.replayed(0, false) {
				if task.Replay != o.ID {
					continue
				}
				got++
				bytes += len(task.Body)
				if task.Lane != schemas.LaneReplay || task.ID != schemas.TaskID(task.Source, task.EventID, task.Subscription, o.ID) || len(task.Body) == 0 {
					t.Errorf("%s: %+v", c.name, task)
				}
			}
			if c.want >= 0 && got != c.want || c.want < 0 && got == 0 {
				t.Errorf("%s: %d tasks, want %d", c.name, got, c.want)
			}
			if plan.Tasks != int64(got) || plan.Bytes != int64(bytes) || p.Matched != int64(got) || p.Scanned != p.Total || p.Replay.State != schemas.ReplayDone {
				t.Errorf("%s: %d tasks and %d bytes; the plan said %+v, the state %+v", c.name, got, bytes, plan, p)
			}
		}
	})
}

// What a draft must not be.
func TestABadReplayIsRefusedWithACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.put(&schemas.Subscription{ID: "sub_2", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"*"}, State: schemas.StatePaused})
		now := time.Now()
		for code, d := range map[string]ReplayDraft{
			CodeReplayWho:       {Subscription: "sub_1", All: true},
			CodeReplayNobody:    {Subscription: "sub_3"},
			CodeReplayNotActive: {Subscription: "sub_2"},
			CodeReplayRange:     {Subscription: "sub_1", From: now, To: now.Add(-time.Second)},
			CodeReplayRate:      {Subscription: "sub_1", Rate: -1},
		} {
			_, err := StartReplay(w.ctx, w.client, w.table, d)
			var e *ReplayError
			if !errors.As(err, &e) || e.Code() != code {
				t.Errorf("%+v: %v, want %s", d, err, code)
			}
		}
		if _, err := StartReplay(w.ctx, w.client, w.table, ReplayDraft{All: true, To: now.Add(time.Hour)}); err == nil {
			t.Error("a replay of what is yet to come was taken")
		}
		if _, err := SetReplayState(w.ctx, w.client, "rpl_none", schemas.ReplayPaused, ""); err == nil {
			t.Error("a replay that is not there was paused")
		}
	})
}

// A rate holds over all routers together, and so does a subscription's own; a paused replay stands still and goes on where it stood; a cancelled one is over
// within 5 s and stays so.
func TestAReplayHasItsRateIsPausedAndCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.put(&schemas.Subscription{ID: "sub_slow", Version: 1, Company: "c_a", Name: "s", URL: "https://r.example/", Events: []string{"*"}, State: schemas.StateActive, ReplayRate: 5,
			Spans: []schemas.Cut{{At: time.Now().Add(-time.Hour).UnixMilli(), Kind: schemas.CutLive}}})
		w.deliver()
		w.start(nil)
		w.start(nil)
		for i := range 3000 {
			w.publish([]string{"booking.creation", "customer.creation"}[i%2], "c_a")
		}
		later(10 * time.Second)
		o := w.startReplay(ReplayDraft{Subscription: "sub_1", Rate: 40})
		slow := w.startReplay(ReplayDraft{Subscription: "sub_slow"})
		count := func(id string) (n int) {
			for _, task := range w.replayed(0, false) {
				if task.Replay == id {
					n++
				}
			}
			return n
		}
		within := func(what string, n int, rate, seconds float64) {
			if most := rate * (seconds + 2); float64(n) > most || float64(n) < rate*seconds/2 {
				t.Errorf("%s: %d tasks in %v s at %v a second", what, n, seconds, rate)
			}
		}
		later(20 * time.Second)
		within("a replay's rate", count(o.ID), 40, 20)
		within("a subscription's rate", count(slow.ID), 5, 20)
		set := func(state string) {
			if _, err := SetReplayState(w.ctx, w.client, o.ID, state, "by a test"); err != nil {
				t.Fatal(err)
			}
		}
		set(schemas.ReplayPaused)
		later(2 * time.Second)
		stood := count(o.ID)
		later(20 * time.Second)
		if n := count(o.ID); n != stood {
			t.Errorf("%d tasks of a paused replay", n-stood)
		}
		set(schemas.ReplayRunning)
		later(20 * time.Second)
		within("after the pause", count(o.ID)-stood, 40, 20)
		set(schemas.ReplayCancelled)
		later(5 * time.Second)
		stood = count(o.ID)
		later(time.Minute)
		if n := count(o.ID); n != stood {
			t.Errorf("%d tasks of a replay that was cancelled 5 s ago", n-stood)
		}
		if _, err := SetReplayState(w.ctx, w.client, o.ID, schemas.ReplayRunning, ""); err == nil {
			t.Error("a cancelled replay was resumed")
		}
		// Somebody who had not seen the cancel: his record comes later, and changes nothing.
		w.writeOrder(o)
		later(time.Minute)
		if n := count(o.ID); n != stood {
			t.Errorf("%d tasks of a replay that was cancelled for good", n-stood)
		}
	})
}

// Several at once: none waits for another. Six orders, four workers, one of them with next to no rate: the others are done in about the same time.
func TestReplaysAreFairToEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.deliver()
		w.start(func(c *Config) { c.ReplayOrders = 2 })
		for range 600 {
			w.publish("booking.creation", "c_a")
		}
		later(5 * time.Second)
		slow := w.startReplay(ReplayDraft{Subscription: "sub_1", Rate: 0.1})
		var others []*schemas.Replay
		for range 5 {
			others = append(others, w.startReplay(ReplayDraft{Subscription: "sub_1", Rate: 30}))
		}
		later(10 * time.Second)
		got := map[string]int{}
		for _, task := range w.replayed(0, false) {
			got[task.Replay]++
		}
		least, most := 1<<30, 0
		for _, o := range others {
			least, most = min(least, got[o.ID]), max(most, got[o.ID])
		}
		if least < 150 || most > 2*least || got[slow.ID] > 3 {
			t.Errorf("after 10 s at 30 a second: between %d and %d tasks, and %d of the slow one", least, most, got[slow.ID])
		}
	})
}

// Backpressure: while nobody delivers, no more wait in a partition of `replay` than may be outstanding; when they do, the rest follows.
func TestNoMoreIsReplayedThanMayBeOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.start(func(c *Config) { c.ReplayOutstanding = 100 })
		for range 500 {
			w.publish("booking.creation", "c_a")
		}
		later(5 * time.Second)
		o := w.startReplay(ReplayDraft{Subscription: "sub_1"})
		later(time.Minute)
		if n := len(w.replayed(0, false)); n != 100 {
			t.Errorf("%d tasks wait, and 100 may", n)
		}
		w.deliver()
		later(time.Minute)
		if n := len(w.replayed(0, false)); n != 500 || w.over(o.ID).Replay.State != schemas.ReplayDone {
			t.Errorf("%d of 500 tasks in the end", n)
		}
	})
}

// The sequence: a catch-up of an ordered subscription hands a partition over to live, and its router is stopped before it has written "through" to `progress`.
// Its successor goes on for long, and then the write comes through. The successor's live must have owed the subscription all that came meanwhile: had it
// left it out for the catch-up, nobody would ever route that, for the catch-up is through.
func TestAHandOverIsKnownFromTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		s := schemas.Subscription{ID: "sub_1", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"booking.*"}, State: schemas.StateActive,
			Order: schemas.OrderEntity, BackfillFrom: 1}
		want := map[string]bool{}
		o := schemas.CatchUp("rpl_1", &s, 1, time.Now().UnixMilli())
		o.To = time.Now().Add(2250 * time.Millisecond).UnixMilli()
		publish := func(n int) {
			for range n {
				m, src := w.publish("booking.creation", "c_a")
				replay := ""
				if time.Now().UnixMilli() < o.To {
					replay = o.ID
				}
				want[schemas.TaskID(src, m.EventID, s.ID, replay)] = true
			}
		}
		publish(40)
		w.writeOrder(&o)
		s.Spans = []schemas.Cut{{At: o.To, Kind: schemas.CutLive, Reason: o.ID}}
		w.put(&s)
		handed := w.refuseProgressAfterAHandOver()
		w.deliver()
		stop := w.start(nil)
		later(20 * time.Second)
		if len(handed.at) != 1 {
			t.Fatalf("%d partitions were handed over, and this test is about the first", len(handed.at))
		}
		stop()
		handed.refuse.Store(false)
		paused := o // so that live alone could route what comes
		paused.State = schemas.ReplayPaused
		w.writeOrder(&paused)
		stop = w.start(nil)
		publish(40)
		later(20 * time.Second)
		for tp, at := range handed.at {
			key := stretchKey(o.ID, tp)
			var rs kafka.Records
			rs.Add(w.place(w.client.Topics().Progress, key), key, nil, schemas.AppendProgress(nil, &progress{Replay: o.ID, Topic: tp.Topic, Partition: tp.Partition, Next: at, Done: true}))
			w.write(&rs)
		}
		later(time.Second)
		stop() // and once more: now it stands in progress only
		w.start(nil)
		later(10 * time.Second)
		w.writeOrder(&o)
		publish(40)
		later(time.Minute)
		got := w.tasks(0, true)
		for id := range want {
			if _, ok := got[id]; !ok {
				t.Errorf("%s is missed", id)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d tasks, and %d are owed", len(got), len(want))
		}
		if w.over(o.ID).Replay.State != schemas.ReplayDone {
			t.Error("the catch-up is not done")
		}
	})
}

// handOvers are the hand-overs that a group's commits have named.
type handOvers struct {
	refuse atomic.Bool
	at     map[kafka.TP]int64
}

// refuseProgressAfterAHandOver has `progress` take nothing any more as soon as a commit names a hand-over of a partition of bookings.
func (w *world) refuseProgressAfterAHandOver() *handOvers {
	h := &handOvers{at: map[kafka.TP]int64{}}
	names := w.client.Topics()
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetCommit), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		for _, topic := range q.(*kmsg.OffsetCommitRequest).Topics {
			for _, p := range topic.Partitions {
				tp := kafka.TP{Topic: topic.Topic, Partition: p.Partition}
				if _, known := h.at[tp]; p.Metadata != nil && strings.HasPrefix(*p.Metadata, "handed=rpl_1") && !known && len(h.at) == 0 && topic.Topic == names.Events["booking"] {
					h.at[tp] = p.Offset
					h.refuse.Store(true)
				}
			}
		}
		return nil, nil, false
	})
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		req := q.(*kmsg.ProduceRequest)
		if !h.refuse.Load() || len(req.Topics) != 1 || req.Topics[0].Topic != names.Progress {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = names.Progress
		for _, p := range req.Topics[0].Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, 19 // too few replicas: it is tried again
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	return h
}

// An order whose subscription was never made is taken away after an hour, and not before; one whose subscription is alive and paused stays.
func TestAnOrderThatNothingWillComeOfIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		paused := schemas.Subscription{ID: "sub_1", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"*"}, State: schemas.StatePaused,
			Spans: []schemas.Cut{{At: 1, Kind: schemas.CutLive}, {At: time.Now().UnixMilli(), Kind: schemas.CutPaused}}}
		w.put(&paused)
		waits := schemas.CatchUp("rpl_waits", &paused, paused.PausedAt(), time.Now().UnixMilli())
		lost := schemas.CatchUp("rpl_lost", &schemas.Subscription{ID: "sub_none"}, 1, time.Now().UnixMilli())
		w.writeOrder(&waits)
		w.writeOrder(&lost)
		w.start(nil)
		state := func(id string) string {
			o, err := FindReplay(w.ctx, w.client, id)
			if err != nil || o == nil {
				t.Fatal(id, err)
			}
			return o.State
		}
		later(50 * time.Minute)
		if state(lost.ID) != schemas.ReplayRunning {
			t.Error("it was taken away before its subscription could come")
		}
		later(9*time.Minute + 30*time.Second)
		w.ctx = context.Background()
		later(time.Minute)
		if state(lost.ID) != schemas.ReplayCancelled || state(waits.ID) != schemas.ReplayRunning {
			t.Errorf("the lost one is %s, the one that waits %s", state(lost.ID), state(waits.ID))
		}
	})
}

// "To now" means where the logs end, not a time: a clock that is a little behind, or the millisecond in which the order is made, must not leave an event out.
func TestAReplayWithoutAnEndHasAllThatWasAcceptedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.start(nil)
		w.deliver()
		later(time.Minute)
		for range 3 {
			w.publish("booking.creation", "c_a") // in virtual time nothing passes until the order is made
		}
		plan, err := PlanReplay(w.ctx, w.client, w.table, DefaultConfig(), ReplayDraft{Subscription: "sub_1"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o := w.startReplay(ReplayDraft{Subscription: "sub_1"})
		w.publish("booking.creation", "c_a")
		counted := w.startReplay(plan.Draft) // what was counted, whatever came since
		if p, q := w.over(o.ID), w.over(counted.ID); plan.Tasks != 3 || p.Matched != 3 || q.Matched != 3 {
			t.Errorf("planned %d, replayed %d, and as counted %d, want 3", plan.Tasks, p.Matched, q.Matched)
		}
	})
}

// staleLeader is the broker's, and ends before the bubble does.
func (w *world) staleLeader(topic string) (asked <-chan struct{}) {
	w.t.Cleanup(func() { later(2 * time.Second) }) // no bubble ends while an answer is held back
	return w.broker.StaleLeader(topic)
}

// The sequence: the leader of a source partition changes while a replay reads it, or the command that counts beforehand. For a moment the new one shows less than
// was acknowledged, and that is not where the log ends.
func TestAReplayDoesNotTakeANewLeadersMarkForTheEnd(t *testing.T) {
	for name, count := range map[string]func(w *world) int64{
		"replay": func(w *world) int64 {
			return w.over(w.startReplay(ReplayDraft{Subscription: "sub_1"}).ID).Matched
		},
		"plan": func(w *world) int64 {
			plan, err := PlanReplay(w.ctx, w.client, w.table, DefaultConfig(), ReplayDraft{Subscription: "sub_1"}, nil)
			if err != nil {
				w.t.Fatal(err)
			}
			return plan.Tasks
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, true, nil)
				w.subscribe("sub_1", "c_a", FormatStandard, "*")
				w.start(nil)
				w.deliver()
				for range 100 {
					w.publish("booking.creation", "c_a")
				}
				later(time.Second)
				asked := w.staleLeader(w.client.Topics().Events["booking"])
				if n := count(w); n != 100 {
					t.Errorf("%d of 100 events", n)
				}
				<-asked
				if n := len(w.replayed(0, false)); name == "replay" && n != 100 {
					t.Errorf("%d tasks of 100", n)
				}
			})
		})
	}
}

// The sequence: the leader of `progress` changes as a router begins. Had the router taken the new one's mark for the end, live would leave out the subscription of
// a catch-up that is through, and nobody would ever route that.
func TestARouterBeginsWithAllThatWasNotedOfCatchUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, func(c *kafka.Config) { c.Partitions = 1 })
		_, o := w.ordered("sub_1", "rpl_1", time.Now().UnixMilli())
		booking, progressed := w.client.Topics().Events["booking"], w.client.Topics().Progress
		key := stretchKey(o.ID, kafka.TP{Topic: booking})
		var rs kafka.Records
		rs.Add(w.place(progressed, key), key, nil, schemas.AppendProgress(nil, &progress{Replay: o.ID, Topic: booking, Done: true}))
		w.write(&rs)
		later(5 * time.Second)
		for range 5 {
			w.publish("booking.creation", "c_a")
		}
		asked := w.staleLeader(progressed)
		w.start(nil)
		<-asked
		later(10 * time.Second)
		if n := len(w.tasks(0, false)); n != 5 {
			t.Errorf("%d of 5 events were routed", n)
		}
	})
}

// A log that ends before the end that was asked for (it was cut by an unclean election) ends a replay all the same.
func TestAReplayEndsWhereTheLogDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.start(nil)
		w.deliver()
		_, src := w.publish("booking.creation", "c_a")
		var asked atomic.Int64
		w.broker.Cluster().ControlKey(int16(kmsg.ListOffsets), func(q kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.Cluster().KeepControl()
			if q.(*kmsg.ListOffsetsRequest).Topics[0].Topic == src.Topic {
				asked.Add(1)
			}
			return nil, nil, false
		})
		o := schemas.Replay{ID: "rpl_1", Kind: schemas.ReplayReplay, Subscription: "sub_1", Company: "c_a", State: schemas.ReplayRunning, CreatedAt: time.Now().UnixMilli(),
			Begins: []schemas.PartitionOffset{{Topic: src.Topic, Partition: src.Partition}},
			Ends:   []schemas.PartitionOffset{{Topic: src.Topic, Partition: src.Partition, Offset: src.Offset + 50}}}
		w.writeOrder(&o)
		later(3 * time.Second)
		if n := asked.Load(); w.over(o.ID).Replay.State != schemas.ReplayDone || len(w.replayed(0, false)) != 1 || n > 10 {
			t.Errorf("%d tasks; the broker was asked %d times where the log begins and ends", len(w.replayed(0, false)), n)
		}
	})
}

// What comes in one piece stands before what is live, in the broker and in a deliverer: a rate is never spent by more than a twentieth of a second at once, and
// over a minute it is kept all the same. Nor is what has gathered in a pause or while others had their turn: that comes at twice the rate.
func TestARateComesInSmallPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, perSecond := range []float64{0.5, 10, 2000, 20_000} {
			var b bucket
			goOn := func(d time.Duration) (total, most float64) {
				for began := time.Now(); time.Since(began) < d; {
					piece := 0.0
					wait := b.look(perSecond, time.Now())
					for ; wait == 0; wait = b.look(perSecond, time.Now()) {
						b.spend(1)
						piece++
					}
					total, most = total+piece, max(most, piece)
					later(wait + time.Microsecond)
				}
				return total, most
			}
			if total, most := goOn(time.Minute); most > max(25, perSecond/19) || total < 59*perSecond || total > 61*perSecond+2 {
				t.Errorf("%v/s: %v in a minute, %v at once", perSecond, total, most)
			}
			for i := range 4 { // whatever is left of the piece before
				later(time.Minute)
				if total, most := goOn(500 * time.Millisecond); most > max(50, perSecond/9) || total > 1.2*perSecond+2 {
					t.Errorf("%v/s: after a pause %v in half a second, %v at once", perSecond, total, most)
				}
				goOn(5*time.Second + time.Duration(i)*50*time.Millisecond)
			}
			if total, most := goOn(time.Minute); most > max(50, perSecond/9) || total < 59*perSecond {
				t.Errorf("%v/s: %v in the minute after that, %v at once", perSecond, total, most)
			}
		}
	})
}

// The stretches of an order share its rate, and each works off what it got before it looks again. What comes in meanwhile is not for who looks next, or each would
// come at a time of its own: they come together, twenty times a second at most.
func TestTheStretchesOfARateComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, seconds = 2000, 10
		var b bucket
		total, times := 0, 0
		for range seconds * 1000 {
			before := total
			for ; b.look(perSecond, time.Now()) == 0; total++ {
				b.spend(1)
			}
			if total > before {
				times++
			}
			later(time.Millisecond) // somebody looks at every time
		}
		if times > 21*seconds || total < 0.98*perSecond*seconds || total > 1.02*perSecond*seconds {
			t.Errorf("%d tasks at %d times in %d s", total, times, seconds)
		}
	})
}

// A replay with a rate comes many times a second for a few tasks: what it has read and may not take yet it keeps, and does not have the broker read it again.
func TestWhatARateLeavesIsNotReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.deliver()
		w.start(nil)
		const events = 2000
		for range events {
			w.publish("booking.creation", "c_a")
		}
		later(10 * time.Second)
		var fetches atomic.Int64
		w.broker.Cluster().ControlKey(int16(kmsg.Fetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.Cluster().KeepControl()
			r := q.(*kmsg.FetchRequest)
			if r.SessionEpoch == -1 && slices.ContainsFunc(r.Topics, func(t kmsg.FetchRequestTopic) bool { return t.Topic == "t.events.booking" }) { // live reads in a session
				fetches.Add(1)
			}
			return nil, nil, false
		})
		o := w.startReplay(ReplayDraft{Subscription: "sub_1", Rate: 100})
		w.over(o.ID)
		if n := len(w.replayed(0, false)); n != events {
			t.Errorf("%d of %d events were replayed", n, events)
		}
		if n := fetches.Load(); n > 10 {
			t.Errorf("the broker was asked %d times for %d events", n, events)
		}
	})
}

// Retention is faster than a replay with a rate. What it takes is said: in the log, and in the metric that says it for live.
func TestWhatRetentionTakesBeforeAReplayIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		core, logs := observer.New(zapcore.ErrorLevel)
		w.log = zap.New(core)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		w.deliver()
		stop := w.start(nil)
		const events = 200
		for range events {
			w.publish("booking.creation", "c_a")
		}
		later(10 * time.Second)
		o := w.startReplay(ReplayDraft{Subscription: "sub_1", Rate: 1})
		later(time.Minute)
		stop() // and with it what it has read and may not take yet
		done, err := ReplayState(w.ctx, w.client, w.table, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.clear(w.client.Topics().Events["booking"])
		r := w.router(nil)
		run(t, r.Run)
		if p := w.over(o.ID); p.Matched != done.Matched {
			t.Errorf("%d events were replayed, %d of them before retention took the rest", p.Matched, done.Matched)
		}
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(r.metrics.lost)
		families, err := metrics.Gather()
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		counted := int64(0)
		for _, m := range families[0].GetMetric() {
			counted += int64(m.GetCounter().GetValue())
		}
		said := int64(0)
		for _, l := range logs.FilterMessageSnippet("DATA LOSS").All() {
			m := l.ContextMap()
			said += m["lost_to"].(int64) - m["lost_from"].(int64) + 1
			if m["replay"] != o.ID || m["subscription"] != "sub_1" {
				t.Errorf("%v", m)
			}
		}
		if counted != events-done.Matched || said != events-done.Matched || done.Matched < 50 || done.Matched > 100 {
			t.Errorf("of %d events %d were replayed, %d are counted as lost, and %d said to be", events, done.Matched, counted, said)
		}
	})
}

// clear takes all that a topic has, as retention does.
func (w *world) clear(topic string) {
	w.t.Helper()
	ends, err := w.client.Offsets(w.ctx, topic, kafka.Latest)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addrs()...), kgo.Dialer(w.broker.Dial))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	del, one := kmsg.NewPtrDeleteRecordsRequest(), kmsg.NewDeleteRecordsRequestTopic()
	one.Topic = topic
	for p, end := range ends {
		part := kmsg.NewDeleteRecordsRequestTopicPartition()
		part.Partition, part.Offset = p, end
		one.Partitions = append(one.Partitions, part)
	}
	del.Topics = append(del.Topics, one)
	if _, err := c.Request(w.ctx, del); err != nil {
		w.t.Fatal(err)
	}
}

// What all replays together keep between their turns is bounded: who comes over the bound lets go of his, and reads again.
func TestWhatReplaysKeepIsBounded(t *testing.T) {
	keeps := func(id string, bytes int64) *work {
		b := kafka.Batch{Records: []kafka.Record{{Offset: 1}}, Bytes: bytes}
		return &work{id: id, parts: map[kafka.TP]*stretch{{Topic: id}: {kept: b}}}
	}
	a, b, c := keeps("a", replayKept-10), keeps("b", 11), keeps("c", 10)
	y := &replayer{works: map[string]*work{"a": a, "b": b, "c": c}}
	for _, w := range []*work{a, b, c} {
		y.put(w, time.Now())
	}
	for w, want := range map[*work]int{a: 1, b: 0, c: 1} {
		if got := len(w.parts[kafka.TP{Topic: w.id}].kept.Records); got != want {
			t.Errorf("%s keeps %d records, want %d", w.id, got, want)
		}
	}
}
