package deliverer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// lineOf builds one line from a picture: a letter for each place, by offset 10, 20, ... Upper case: due in an hour.
//
//	t T in a tier, due now or in an hour   e early   s settling   w W waits; W came from a tier   o out   d ending
func lineOf(o *order, picture string, now time.Time) *entityLine {
	places := map[rune]where{'t': inTier, 'T': inTier, 'e': early, 's': settling, 'w': waiting, 'W': waiting, 'o': out, 'd': ending}
	var e *entityLine
	for i, c := range picture {
		st := o.enter(lineKey{"events.booking", 1, "e"}, int64(10*(i+1)))
		e = st.line
		switch c {
		case 't':
			o.leave(st, now.UnixMilli())
		case 'T':
			o.leave(st, now.Add(time.Hour).UnixMilli())
		default:
			p := &part{}
			if c == 'W' {
				p.tier = time.Minute
			}
			o.attach(st, &item{part: p})
			o.put(st, places[c])
		}
	}
	return e
}

func TestWhoMayGoNext(t *testing.T) {
	for _, c := range []struct {
		line          string
		loose, gated  bool
		next          int64 // offset; 0: nobody
		back          bool
		last, lastDue int64 // for whom who came last must be handed back, in hours
	}{
		{line: "w", next: 10},
		{line: "ww", next: 10},
		{line: "ow"},
		{line: "dw"},
		{line: "ew"},
		{line: "sw"},
		{line: "tw"},
		{line: "Tw", back: true, lastDue: 1},
		{line: "TTw", back: true, lastDue: 1},
		{line: "tTw", lastDue: 1},
		{line: "wT", next: 10},
		{line: "wo"},
		{line: "ws"},
		{line: "eTw", lastDue: 1},
		{line: "Te"},
		{line: "W", next: 10},
		{line: "W", gated: true},
		{line: "w", gated: true, next: 10},
		{line: "tw", loose: true, next: 20},
		{line: "Tw", loose: true, next: 20},
		{line: "ow", loose: true, next: 20},
	} {
		b := &lineBook{}
		b.gated.Store(c.gated)
		o := newOrder(b, !c.loose)
		e := lineOf(o, c.line, noon)
		st, back, _ := e.next(noon)
		next := int64(0)
		if st != nil {
			next = st.offset
		}
		if next != c.next || back != c.back {
			t.Errorf("%s (loose %v, gated %v): next %d, back %v", c.line, c.loose, c.gated, next, back)
		}
		want := int64(0)
		if c.lastDue > 0 {
			want = noon.Add(time.Duration(c.lastDue) * time.Hour).UnixMilli()
		}
		if last := e.all[len(e.all)-1]; last.where == waiting {
			if due := e.behind(last, noon); due != want {
				t.Errorf("%s: who came last waits until %v", c.line, time.UnixMilli(due))
			}
		}
	}
}

// Whatever happens in whatever order, the books of the lines add up, and who may go is who stands first.
func TestTheBooksOfLinesAddUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	b := &lineBook{}
	o := newOrder(b, true)
	for step := range 200_000 {
		key := lineKey{"events.booking", int32(rng.IntN(2)), fmt.Sprint("e", rng.IntN(5))}
		offset := int64(rng.IntN(40))
		st := o.find(key, offset)
		switch n := rng.IntN(10); {
		case st == nil:
			o.enter(key, offset)
		case n == 0:
			o.remove(st)
		case n < 3:
			o.leave(st, int64(rng.IntN(1000)))
			if n == 2 {
				o.suspect(st)
			}
		case st.it == nil:
			o.attach(st, &item{part: &part{}})
		default:
			o.put(st, []where{early, settling, waiting, out, ending}[rng.IntN(5)])
		}
		if step%100 != 0 {
			continue
		}
		members, waits, unproven := 0, 0, int64(0)
		for _, e := range o.lines {
			counts := map[where]int{}
			for _, st := range e.all {
				counts[st.where]++
				members++
				if st.unproven {
					unproven++
				}
			}
			waits += counts[waiting]
			_, crowded := o.crowds[e]
			sorted := slices.IsSortedFunc(e.all, func(a, b *standing) int { return int(a.offset - b.offset) })
			if !sorted || e.waiting != counts[waiting] || e.out != counts[out] || e.settling != counts[settling] || crowded != (e.waiting > 0) {
				t.Fatalf("step %d: %v, and the line says %d waiting, %d out, %d settling, crowded %v, sorted %v", step, counts, e.waiting, e.out, e.settling, crowded, sorted)
			}
			if st, _, _ := e.next(noon); st != nil && (st != e.all[0] || counts[out]+counts[settling] > 0) {
				t.Fatalf("step %d: %d may go in %v", step, st.offset, counts)
			}
		}
		if o.members != members || o.waiting != waits || b.unproven.Load() != unproven {
			t.Fatalf("step %d: %d members, %d wait, %d unproven; the books say %d, %d, %d", step, members, waits, unproven, o.members, o.waiting, b.unproven.Load())
		}
	}
}

func TestWhatHasAPlaceInALine(t *testing.T) {
	for _, c := range []struct {
		task       schemas.Task
		may, opens bool
	}{
		{schemas.Task{EntityID: "e", Lane: schemas.LaneLive}, true, true},
		{schemas.Task{EntityID: "e", Lane: schemas.LaneCatchUp, Replay: "rpl_1"}, true, true},
		{schemas.Task{EntityID: "e", Lane: schemas.LaneReplay, Replay: "rpl_1"}, false, true},
		{schemas.Task{EntityID: "e", Lane: schemas.LaneLive, Round: 1, Last: &schemas.LastAttempt{Reason: schemas.ReasonExhausted}}, true, false},
		{schemas.Task{EntityID: "e", Lane: schemas.LaneLive, Round: 1}, true, false},
		{schemas.Task{EntityID: "e", Lane: schemas.LaneLive, Round: 1, Last: &schemas.LastAttempt{Reason: schemas.ReasonPaused}}, true, true},
		{schemas.Task{Lane: schemas.LaneLive}, false, true},
	} {
		if may, opens := inLine(&c.task), opensPlace(&c.task); may != c.may || opens != c.opens {
			t.Errorf("%+v: may %v, opens %v", c.task, may, opens)
		}
	}
}

// Lanes without order must not pay for it: nothing of it is allocated for them.
func TestALaneWithoutOrderAllocatesNothingForIt(t *testing.T) {
	d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 10, mostBytes: 10}, lease: newLease(time.Now(), time.Minute), cfg: DefaultConfig()}
	d.keeper = newKeeper(d)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}}
	it := &item{Task: schemas.Task{ID: "a", EntityID: "e"}, part: &part{}}
	items := []*item{it}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		l.orderNow(now)
		l.admit(it, now)
		l.enqueue(items, now)
		l.line.pop()
		delete(l.byID, "a")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if it.stand != nil || l.order != nil {
		t.Error("it has a place in a line")
	}
}
