package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
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
	r := newRedriver(d)
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
		case <-r.signal:
		default:
			t.Error("nobody was woken")
		}
	}
	bring(orders, 1, schemas.AppendReplay(nil, order))
	bring(progress, 2, schemas.AppendProgress(nil, &schemas.Progress{Replay: "r1", Topic: "dead", Next: 5}))
	if r.ready {
		t.Error("it would begin before it has read how far the owner before came")
	}
	woken()
	bring(progress, 3, schemas.AppendProgress(nil, &schemas.Progress{Replay: "r1", Topic: "dead", Next: 9, Done: true}))
	if !r.ready || !r.done[redrivePart{"r1", 0}].Done {
		t.Error("it would never begin")
	}
	woken()
}
