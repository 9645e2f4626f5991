package deliverer

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// The flusher takes an item out of the books and then waits for the broker; commits in between name it and its copies.
func TestAnItemBeingWrittenIsNamedWithItsCopies(t *testing.T) {
	p := &part{progress: newProgress(0)}
	l := &lane{byID: map[string]*item{}, entities: map[string]*item{}}
	it := &item{Task: schemas.Task{ID: "a"}, part: p, offset: 3, lane: l, until: noon.Add(time.Second)}
	if _, first := l.admit(it, noon); !first {
		t.Fatal("no first")
	}
	if _, first := l.admit(&item{Task: schemas.Task{ID: "a"}, part: p, offset: 5}, noon); first {
		t.Fatal("two first ones")
	}
	l.strike(it)
	named := map[*part][]underWay{}
	nameFlying(named, it)
	if len(named[p]) != 2 {
		t.Errorf("named: %v", named[p])
	}
	if l.byID["a"] != nil {
		t.Error("a copy could still join what is written")
	}
}

// A copy ends with the item that it is a copy of. A later try or another round is none.
func TestALaterTryOrRoundIsNoCopy(t *testing.T) {
	d := &Deliverer{tiers: testTiers()}
	d.collector.signal = make(chan struct{}, 1)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}}
	entry := func(round int64, attempt int32) *item {
		return &item{Task: schemas.Task{ID: "a", Round: round, Attempt: attempt}}
	}
	held := entry(7, 2)
	l.admit(held, noon)
	for _, c := range []struct {
		it   *item
		copy bool
	}{{entry(7, 2), true}, {entry(7, 1), true}, {entry(0, 9), true}, {entry(7, 3), false}, {entry(8, 1), false}} {
		if _, first := l.admit(c.it, noon); first {
			t.Fatal("two first ones")
		}
		if isCopy := held.copies == c.it; isCopy != c.copy {
			t.Errorf("round %d attempt %d: copy %v", c.it.Round, c.it.Attempt, isCopy)
		}
		if hops := c.it.out.verdict == verdictHop && !c.it.out.due.Before(noon.Add(d.tiers[0].Wait)); hops == c.copy {
			t.Errorf("round %d attempt %d: goes on by itself: %v", c.it.Round, c.it.Attempt, hops)
		}
	}
	if n := len(d.collector.ended); n != 2 {
		t.Errorf("%d go through a tier", n)
	}
}

// A lane that is over its rate is looked at by every sender at every tick; it asks for one look, not for one each.
func TestALaneOverItsRateAsksTheKeeperOnce(t *testing.T) {
	d := &Deliverer{tiers: testTiers()}
	d.keeper = newKeeper(d)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}, press: newPressure(4, 0.5)}
	for i := range 200 {
		l.refused(schemas.ReasonRate, 2*time.Second-time.Duration(i)*10*time.Millisecond, noon.Add(time.Duration(i)*10*time.Millisecond))
	}
	if n := len(d.keeper.times); n != 1 {
		t.Errorf("%d entries in the keeper's clock", n)
	}
	l.refused(schemas.ReasonRate, 100*time.Millisecond, noon)
	if n := len(d.keeper.times); n != 2 {
		t.Errorf("an earlier look was not asked for: %d", n)
	}
}

// Orders may come from another broker than their progress, and before it.
func TestNothingIsRedrivenBeforeItsProgressIsRead(t *testing.T) {
	d := &Deliverer{}
	d.topics.Replays, d.topics.Progress, d.topics.Dead = "replays", "progress", "dead"
	d.redriver, d.replays = newRedriver(d), newReplays(d)
	r := d.replays
	orders, progress := kafka.TP{Topic: "replays"}, kafka.TP{Topic: "progress"}
	r.unread = map[kafka.TP]int64{orders: 1, progress: 3}
	order := &schemas.Replay{ID: "r1", Kind: schemas.ReplayRedrive, State: schemas.ReplayRunning}
	bring := func(tp kafka.TP, next int64, value []byte) {
		if err := r.note(t.Context(), []kafka.Batch{{TP: tp, Next: next, Records: []kafka.Record{{Offset: next - 1, Key: []byte("r1"), Value: value}}}}); err != nil {
			t.Fatal(err)
		}
	}
	woken := func() {
		select {
		case <-d.redriver.signal:
		default:
			t.Error("nobody was woken")
		}
	}
	bring(orders, 1, schemas.AppendReplay(nil, order))
	bring(progress, 2, schemas.AppendProgress(nil, &schemas.Progress{Replay: "r1", Topic: "dead", Next: 5}))
	if r.ready || len(r.redrives()) > 0 {
		t.Error("it would begin before it has read how far the owner before came")
	}
	bring(progress, 3, schemas.AppendProgress(nil, &schemas.Progress{Replay: "r1", Topic: "dead", Next: 9, Done: true}))
	if !r.ready || len(r.redrives()) != 1 || !r.done[redrivePart{"r1", 0}].Done {
		t.Error("it would never begin")
	}
	woken()
}

// The owner of the first copy is gone, the second is ours: it waits for its time, and for the send of the owner before, as if it had come alone.
func TestACopyThatSurvivesWaitsForItsTime(t *testing.T) {
	for _, c := range []struct {
		name        string
		due, awaits time.Duration
		inLine      bool
		settles     bool
	}{{"due", 0, 0, true, false}, {"due later", 3 * time.Second, 0, false, false}, {"perhaps under way elsewhere", 0, 3 * time.Second, false, true}} {
		d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 10, mostBytes: 10}, cfg: DefaultConfig()}
		d.keeper = newKeeper(d)
		l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}}
		now := time.Now()
		first := &item{Task: schemas.Task{ID: "a"}, part: &part{}}
		second := &item{Task: schemas.Task{ID: "a", Due: now.Add(c.due).UnixMilli()}, part: &part{}, awaits: now.Add(c.awaits)}
		d.memory.take(2, 0, 0)
		l.admit(first, now)
		l.admit(second, now)
		first.part.lost.Store(true)
		l.drop(first)
		if inLine := l.line.head == second; inLine != c.inLine {
			t.Errorf("%s: in line %v", c.name, inLine)
		}
		if waits := len(d.keeper.times) == 1; waits == c.inLine || waits && (d.keeper.times[0].settle == second) != c.settles {
			t.Errorf("%s: the clock has %+v", c.name, d.keeper.times)
		}
	}
}

// A task that was taken for a send, is not sent after all, and belongs to another process by now: that one has it. A record of ours would come up beside its own.
func TestWhatIsPostponedUnsentOfALostPartitionIsDropped(t *testing.T) {
	for _, lost := range []bool{false, true} {
		d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 10, mostBytes: 10}, cfg: DefaultConfig()}
		d.keeper = newKeeper(d)
		d.collector.signal, d.collector.enough = make(chan struct{}, 1), make(chan struct{}, 1)
		l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}}
		it := &item{Task: schemas.Task{ID: "a"}, part: &part{}, lane: l, until: noon.Add(time.Second)}
		d.memory.take(1, 0, 0)
		l.admit(it, noon)
		it.part.lost.Store(lost)
		l.comesLate(it, noon)
		if written := len(d.collector.ended) == 1; written == lost {
			t.Errorf("lost %v: a record is written: %v", lost, written)
		}
		if forgotten := l.byID["a"] == nil; forgotten != lost {
			t.Errorf("lost %v: forgotten: %v", lost, forgotten)
		}
	}
}

// A send that this process made under the generation before, and that has ended since, is not waited for, and not repeated: with or without Redis.
func TestWhatEndedHereIsSettledWithoutRedis(t *testing.T) {
	d := &Deliverer{tiers: testTiers(), recent: newRecent(), metrics: new(metrics), marks: new(Marks)}
	d.metrics.failOpen = prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	d.keeper = newKeeper(d)
	d.collector.signal = make(chan struct{}, 1)
	d.recent.add([]Mark{{TaskID: "a"}})
	now := time.Now()
	it := &item{Task: schemas.Task{ID: "a", Attempt: 1}, part: &part{}, awaits: now.Add(-time.Millisecond)}
	if due := d.keeper.settled(t.Context(), []*item{it}, now); len(due) != 0 || len(d.collector.ended) != 1 || it.out.verdict != verdictSeen {
		t.Errorf("%d are tried again, verdict %q", len(due), it.out.verdict)
	}
}

// A receiver that hangs on one entity: what waits behind it takes memory as a line does, and goes when memory is scarce.
func TestTasksBehindAHungEntityCountWhenMemoryIsScarce(t *testing.T) {
	d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 500, mostBytes: 1 << 20}, cfg: DefaultConfig(), lease: newLease(noon, 6*time.Second)}
	d.keeper = newKeeper(d)
	d.collector.signal, d.collector.enough = make(chan struct{}, 1), make(chan struct{}, 1)
	d.lease.frozen.Store(false)
	d.lease.renew(noon)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}, press: newPressure(4, 0), endedAt: noon, busy: 1}
	sent := &item{part: &part{}, lane: l}
	sent.EntityID = "b1"
	l.entities["b1"] = sent
	l.senders = []*sender{{it: sent}}
	for range lineShort + 1 {
		sent.followers.push(&item{part: &part{}, lane: l, arrived: noon})
	}
	d.memory.take(lineShort+2, 0, 0)
	now := noon.Add(lineSilent + time.Millisecond)
	l.sweep(now)
	if n := len(d.collector.ended); n != lineShort+1 {
		t.Errorf("%d were handed back", n)
	}
}

// A receiver, or its machine, that pauses for some seconds in the middle of a stream is not slow: what is handed back meanwhile comes up soon after. One that
// has been silent for minutes is.
func TestAPauseOfTheReceiverPutsNothingOffForLong(t *testing.T) {
	d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 1 << 20, mostBytes: 1 << 40}, cfg: DefaultConfig(), lease: newLease(noon, 6*time.Second)}
	d.keeper = newKeeper(d)
	d.collector.signal, d.collector.enough = make(chan struct{}, 1), make(chan struct{}, 1)
	d.lease.frozen.Store(false)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}, press: newPressure(1, 0), endedAt: noon, tickAt: noon, busy: 1, want: 1, active: true}
	l.senders = []*sender{{it: &item{part: &part{}, lane: l}}}
	now := noon
	ticks := func(n int, ends int64) {
		for range n {
			now = now.Add(250 * time.Millisecond)
			d.lease.renew(now)
			for range 250 {
				l.line.push(&item{part: &part{}, lane: l, arrived: now})
			}
			for range ends {
				l.line.pop()
			}
			if l.ended += ends; ends > 0 {
				l.endedAt = now
			}
			l.tick(now)
		}
	}
	longest := func() (most time.Duration) {
		for _, it := range d.collector.ended {
			most = max(most, it.out.due.Sub(now))
		}
		return most
	}
	ticks(40, 250) // a thousand a second for ten seconds
	if n := len(d.collector.ended); n != 0 {
		t.Fatalf("%d were handed back while all went well", n)
	}
	ticks(12, 0)
	if n, most := len(d.collector.ended), longest(); n == 0 || most > time.Minute {
		t.Errorf("after 3 s of silence %d are handed back, for %v at most", n, most)
	}
	ticks(4*5*60, 0)
	if most := longest(); most < 10*time.Minute {
		t.Errorf("after five minutes of silence tasks are handed back for %v at most: each time is a write", most)
	}
}

// A lane whose line had become old, and that was empty when the keeper looked, is slow no more: else whatever comes after a rest finds room for one task, and the
// others go to a tier, one round after the other.
func TestALaneThatIsEmptyIsSlowNoMore(t *testing.T) {
	l := &lane{slow: true, active: true}
	l.replays.slow = true
	if l.tick(time.Now()) || l.slow || l.replays.slow {
		t.Errorf("an empty lane: active %v, slow %v, for replays %v", l.active, l.slow, l.replays.slow)
	}
}

// A lane whose circuit is open waits for an answer that closes it. It is forgotten like others when none can come any more: else it counts as failing for the life of the
// process.
func TestALaneWhoseCircuitIsOpenIsKeptWhileAnAnswerMayCome(t *testing.T) {
	for _, c := range []struct {
		name string
		of   func(w *world, d *Deliverer, s *subscriptions.Live)
		gone bool
	}{
		{"nothing happens", func(*world, *Deliverer, *subscriptions.Live) {}, false},
		{"in the middle of a rebalance", func(_ *world, d *Deliverer, _ *subscriptions.Live) { d.lease.frozen.Store(true) }, false},
		{"deleted", func(w *world, _ *Deliverer, s *subscriptions.Live) { w.must(w.writer.Delete(w.ctx, s.ID)) }, true},
		{"disabled", func(w *world, _ *Deliverer, s *subscriptions.Live) { w.must(w.writer.Disable(w.ctx, s.ID, "test")) }, true},
		{"paused", func(w *world, _ *Deliverer, s *subscriptions.Live) {
			w.become(s, schemas.StatePaused, schemas.CutPaused)
		}, true},
		{"the partition is another's", func(_ *world, d *Deliverer, _ *subscriptions.Live) { d.parts.Store(&map[kafka.TP]*part{}) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
				s := w.subscribe("/x")
				d, err := New(w.options())
				w.must(err)
				tp := kafka.TP{Topic: d.topics.Retry}
				d.parts.Store(&map[kafka.TP]*part{tp: newPart(tp, 0, false, kafka.Committed{})})
				d.lease.frozen.Store(false)
				l := d.laneOf(s.ID, time.Now())
				l.press.open = true
				c.of(w, d, s)
				w.must(w.table.CatchUp(w.ctx))
				d.slowTick(l.usedAt.Add(idleLane - time.Second))
				if d.laneIfAny(s.ID) == nil {
					t.Error("forgotten before its time")
				}
				d.slowTick(l.usedAt.Add(idleLane + time.Second))
				if gone := d.laneIfAny(s.ID) == nil; gone != c.gone {
					t.Errorf("forgotten: %v", gone)
				}
			})
		})
	}
}
