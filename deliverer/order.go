package deliverer

import (
	"cmp"
	"slices"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// This file is pure: who stands where in the lines of one lane, and who may be tried next. Times go in, decisions come out; the lane holds the lock and the
// clock (gate.go), and what of a line survives this process stands in lines.go.
//
// A line is the outstanding tasks of one entity, by the place of their events in the source partition. Only who stands first may be tried, and nobody else
// while that goes on. Whom the first waits for, all wait for: a task that must wait for longer than a moment leaves memory for a tier, and so does everybody
// behind it, each for the same time.

// lineKey names a line of a lane. An entity's events come from one source partition, so their offsets order them.
type lineKey struct {
	topic     string
	partition int32
	entity    string
}

// inLine says whether a task may have a place in a line. A replay has none, which is a stretch of the log that was sent before; nor has what is about no entity.
func inLine(t *schemas.Task) bool { return t.Lane != schemas.LaneReplay && t.EntityID != "" }

// opensPlace says whether a task that may have a place gets one, if none is kept for it. A redriven one does not, since it had its end before: but for
// what a pause has ended, which has waited like all that was published in it.
func opensPlace(t *schemas.Task) bool {
	return t.Round == 0 || t.Last != nil && t.Last.Reason == schemas.ReasonPaused
}

// where says what a standing task is doing.
type where uint8

const (
	inTier   where = iota // its record lies in a tier: nothing of it is in memory
	early                 // in memory, and its time has not come
	settling              // in memory; the owner before may be sending it
	waiting               // in memory, and ready; others stand before it
	out                   // in the lane's line, under way, or behind a task of the entity that stands outside lines
	ending                // it has come to its end, which is not written down yet
)

// standing is the place of one outstanding task in its line.
type standing struct {
	line   *entityLine
	offset int64 // of its event
	it     *item // nil: in a tier
	where  where
	gone   bool // taken out: the task has ended
	order  bool // it was handed back for others that stand before it
	// unproven: nobody has seen its tier record. It was read from `lines`, or a mark speaks of it; see lineBook for when it is an orphan. round is the book's
	// when that began.
	unproven bool
	round    uint32
	due      int64 // ms: in a tier, when it comes up
	told     int64 // ms: the due that its youngest member record tells
	// records are what stands of it in `lines`; clearing is the one whose tombstone is being written.
	records  []lineRecord
	clearing lineRecord
}

// entityLine is one line.
type entityLine struct {
	key      lineKey
	of       *order
	all      []*standing // ascending by offset
	waiting  int
	out      int // one at most, but for a lane that keeps order no more
	settling int
	moved    time.Time // when somebody in it came to an end
}

// order is the lines of one lane. Its lane's mutex guards it.
type order struct {
	book    *lineBook
	strict  bool // else the subscription does not ask for order any more: nobody waits, and members are only taken out
	lines   map[lineKey]*entityLine
	crowds  map[*entityLine]struct{} // those in which somebody waits
	waiting int                      // in all of them
	members int                      // standing tasks
}

func newOrder(book *lineBook, strict bool) *order {
	return &order{book: book, strict: strict, lines: map[lineKey]*entityLine{}, crowds: map[*entityLine]struct{}{}}
}

// find returns the standing of a place, if it has one.
func (o *order) find(key lineKey, offset int64) *standing {
	if e := o.lines[key]; e != nil {
		if i, ok := e.search(offset); ok {
			return e.all[i]
		}
	}
	return nil
}

// enter finds or makes the standing of a place. A new one stands in a tier, where nobody has seen it.
func (o *order) enter(key lineKey, offset int64) *standing {
	e := o.lines[key]
	if e == nil {
		// Of a task's texts, which share one allocation, an hours-long line must not keep more than it needs.
		e = &entityLine{key: lineKey{o.book.topic(key.topic), key.partition, string([]byte(key.entity))}, of: o}
		o.lines[e.key] = e
	}
	i, ok := e.search(offset)
	if ok {
		return e.all[i]
	}
	st := &standing{line: e, offset: offset}
	if i == len(e.all) {
		e.all = append(e.all, st)
	} else {
		e.all = slices.Insert(e.all, i, st)
	}
	o.members++
	o.suspect(st)
	return st
}

func (e *entityLine) search(offset int64) (int, bool) {
	if n := len(e.all); n == 0 || e.all[n-1].offset < offset { // most come at the end
		return n, false
	}
	return slices.BinarySearchFunc(e.all, offset, func(s *standing, at int64) int { return cmp.Compare(s.offset, at) })
}

// first is who stands first.
func (e *entityLine) first() *standing { return e.all[0] }

// put says what a standing task is doing from now on.
func (o *order) put(st *standing, w where) {
	if st.gone {
		return
	}
	o.count(st, -1)
	st.where = w
	o.count(st, 1)
}

func (o *order) count(st *standing, n int) {
	e := st.line
	switch st.where {
	case waiting:
		e.waiting += n
		o.waiting += n
		if e.waiting == 0 {
			delete(o.crowds, e)
		} else {
			o.crowds[e] = struct{}{}
		}
	case out:
		e.out += n
	case settling:
		e.settling += n
	}
}

// attach gives a standing its item: its record has come up.
func (o *order) attach(st *standing, it *item) {
	st.it, it.stand = it, st
	o.put(st, early)
	o.prove(st)
}

// leave says that a standing's record goes to a tier, or lies there: it comes up at due, ms.
func (o *order) leave(st *standing, due int64) {
	st.it, st.due = nil, due
	o.put(st, inTier)
}

// suspect: nobody knows yet whether something will come up for this standing.
func (o *order) suspect(st *standing) {
	if !st.unproven {
		st.unproven = true
		o.book.unproven.Add(1)
	}
	st.round = o.book.round.Load()
}

func (o *order) prove(st *standing) {
	if st.unproven {
		st.unproven = false
		o.book.unproven.Add(-1)
	}
}

// remove takes a standing out for good.
func (o *order) remove(st *standing) {
	if st.gone {
		return
	}
	o.count(st, -1)
	o.prove(st)
	e := st.line
	if e.all[0] == st {
		e.all[0] = nil
		e.all = e.all[1:]
	} else if i, ok := e.search(st.offset); ok {
		e.all = slices.Delete(e.all, i, i+1)
	}
	st.gone = true
	o.members--
	if len(e.all) == 0 {
		delete(o.lines, e.key)
	}
}

// mayGo says whether a waiting task may be tried now, as far as its line goes. What comes from a tier waits until everything is read that may stand before
// it and has no record in `lines` (lineBook.gated).
func (e *entityLine) mayGo(st *standing) bool {
	if !e.of.strict {
		return true
	}
	return st == e.first() && e.out == 0 && e.settling == 0 && (!e.of.book.gated.Load() || st.it.part.tier == 0)
}

// next decides about the line as it stands: may is the task that is to be tried now, nil for none. With back, all that wait are to be handed back until due.
func (e *entityLine) next(now time.Time) (may *standing, back bool, due int64) {
	if e.waiting == 0 {
		return nil, false, 0
	}
	if !e.of.strict {
		i := slices.IndexFunc(e.all, func(s *standing) bool { return s.where == waiting })
		return e.all[i], false, 0
	}
	st := e.first()
	switch {
	case st.where == inTier && farOff(st.due, now):
		return nil, true, st.due
	case st.where == waiting && e.mayGo(st):
		return st, false, 0
	}
	return nil, false, 0
}

// behind says until when a task that has just come must be handed back: for who stands first, or right before it, and waits in a tier for longer than a
// moment. 0: it may wait in memory.
func (e *entityLine) behind(st *standing, now time.Time) (due int64) {
	if !e.of.strict || st == e.first() {
		return 0
	}
	if f := e.first(); f.where == inTier {
		due = f.due
	}
	if i, ok := e.search(st.offset); ok && i > 0 && e.all[i-1].where == inTier {
		due = max(due, e.all[i-1].due)
	}
	if !farOff(due, now) {
		return 0
	}
	return due
}

// lastWaiting is who waits at the end of the line.
func (e *entityLine) lastWaiting() *standing {
	for i := len(e.all) - 1; i >= 0; i-- {
		if e.all[i].where == waiting {
			return e.all[i]
		}
	}
	return nil
}

// farOff: too far for waiting in memory.
func farOff(due int64, now time.Time) bool { return time.UnixMilli(due).Sub(now) > lastSecond }
