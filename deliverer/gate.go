package deliverer

import (
	"bytes"
	"slices"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// This file is what a lane does for a subscription that asks for order: it stands before the lane's line, and lets in only who stands first of an entity.
//
//	admitted ──▶ early or settling ──▶ waiting ──▶ out: in the lane's line, under way ──▶ ended ──▶ the next goes
//	                                     │                    │
//	                                     └────────────────────┴──▶ a tier, and all that wait behind it, for the same time
//
// While the first is in memory, its followers wait in memory; when it goes to a tier they go to a tier, due when it is, and so does whoever comes later.
// So a head that waits for five hours costs one more record of each follower for each of its tries, and the hops of the tiers.
//
// A lane without order has neither strict nor order set, its items have no standing, and nothing here is called for them.

const (
	// entityMoves is how many tasks of an entity may wait in memory for longer than lineAge while its line moves.
	entityMoves = 64
	// entityMost is how many may wait in memory at all, as a part of what fits there.
	entityPart  = 8
	entityLeast = 64
	// followsBy is how much later than the first of its line a follower comes up from a tier: the first, which may be late by a second, has been tried by then,
	// and if it has failed its followers go on to its next due without a wait in memory for thousands of them.
	followsBy = lastSecond
)

// orderNow takes over whether the subscription asks for order, if its record has changed. The lane's mutex is held.
func (l *lane) orderNow(now time.Time) {
	changes := l.changes.Load()
	if changes == l.orderAt {
		return
	}
	l.orderAt = changes // counted before the table is read: a change in between makes the next look
	live, ok := l.d.table.Get(l.id)
	l.keepOrder(live, ok, now)
}

// keepOrder is orderNow with the record in hand. Of two readers of the table the later knows better, and what is read under the mutex is never older than
// what was.
func (l *lane) keepOrder(live *subscriptions.Live, known bool, now time.Time) {
	strict := known && live.Order == schemas.OrderEntity && live.State != schemas.StateDeleted
	if strict == l.strict {
		return
	}
	l.strict = strict
	o := l.order
	if o == nil {
		return
	}
	o.strict = strict
	for e := range o.crowds {
		l.advance(e, now)
	}
}

// takePlace gives an item that was admitted its place in the line of its entity, if the subscription asks for order, or its task is a member from when it did.
// One of a lost partition gets none: what this lane knows is about the partition as we own it now. The lane's mutex is held.
func (l *lane) takePlace(it *item) {
	if !inLine(&it.Task) || it.part.lost.Load() {
		return
	}
	key := lineKey{it.Source.Topic, it.Source.Partition, it.EntityID}
	if l.order == nil {
		if !l.strict {
			return
		}
		l.order = newOrder(l.d.lines.bookOf(it.part.tp.Partition), true)
	}
	st := l.order.find(key, it.Source.Offset)
	if st == nil && l.strict && opensPlace(&it.Task) {
		st = l.order.enter(key, it.Source.Offset)
	}
	if st == nil || st.it != nil { // another event at the same place: its topic was made anew
		return
	}
	if st.order && it.Postponed > 0 { // admit took it for one of the backlog
		l.backlog++
	}
	st.order, it.back = false, false // one of a catch-up goes with what is live, since that waits for it
	l.order.attach(st, it)
}

// marked ends an item that has a mark, which says that its task has ended, or only that this try has: then its next record lies in a tier, and who comes
// later must not overtake it. That record may be the work of an owner before, and its member record refused, so this one is made a member of ours
// before its offset counts as finished.
func (l *lane) marked(it *item, now time.Time) {
	it.lane, it.out = l, outcome{verdict: verdictSeen}
	var st *standing
	key := lineKey{it.Source.Topic, it.Source.Partition, it.EntityID}
	if l.order != nil {
		st = l.order.find(key, it.Source.Offset)
	}
	switch {
	case !inLine(&it.Task) || it.part.lost.Load():
	case it.mark == markEnd:
		if st != nil && st.it == nil { // else the copy in memory comes to an end of its own
			it.stand = st
			l.order.remove(st)
			l.advance(st.line, now)
		}
	case st != nil || l.strict && opensPlace(&it.Task):
		if l.order == nil {
			l.order = newOrder(l.d.lines.bookOf(it.part.tp.Partition), true)
		}
		if st == nil {
			st = l.order.enter(key, it.Source.Offset)
		}
		if st.it == nil {
			l.order.suspect(st)
		}
		it.stand, it.out.verdict = st, verdictGoesOn
	}
	l.d.collect(it)
}

// settled is marked for an item that waited in memory for the owner before.
func (l *lane) settled(it *item, ended bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := it.stand
	o := st.line.of
	if st.it == it {
		if ended {
			o.remove(st)
		} else {
			o.leave(st, 0)
			o.suspect(st)
		}
	}
	if !ended {
		it.out.verdict = verdictGoesOn
	}
	l.advance(st.line, now)
}

// arrive takes an item whose own time has come: it goes into the lane's line if it stands first, waits in memory, or is handed back. The mutex is held.
func (l *lane) arrive(it *item, now time.Time) {
	st := it.stand
	it.arrived = now
	if st.it != it || st.gone { // cannot be; but nothing that is owed gets lost over it
		l.line.push(it)
		return
	}
	e := st.line
	if due := e.behind(st, now); due > 0 {
		l.giveBack(st, due, now)
		return
	}
	e.of.put(st, waiting)
	if e.mayGo(st) {
		e.of.put(st, out)
		if l.line.n >= l.room(now) {
			l.handBack(it, schemas.ReasonFull, 0, now)
			return
		}
		l.line.push(it)
		return
	}
	l.advance(e, now)
	if st.where != waiting {
		return
	}
	it.Body = bytes.Clone(it.Body) // it would keep its whole fetch buffer
	l.activate(now)
	if most := max(entityLeast, int(l.d.cfg.TasksInMemory/entityPart)); e.waiting > most {
		l.sendBack(e.lastWaiting(), now)
	}
}

// advance lets in who may go next, or hands everybody back who would wait for long. Whatever changes a line calls it. The mutex is held.
func (l *lane) advance(e *entityLine, now time.Time) {
	for {
		st, back, due := e.next(now)
		if st != nil {
			l.letIn(st, now)
			continue
		}
		if back {
			for _, st := range slices.Clone(e.all) {
				if st.where == waiting {
					l.giveBack(st, due, now)
				}
			}
		}
		return
	}
}

// letIn puts a task that has waited and stands first into the lane's line: at its front.
func (l *lane) letIn(st *standing, now time.Time) {
	it := st.it
	st.line.of.put(st, out)
	if it.part.lost.Load() {
		l.drop(it)
		return
	}
	it.arrived = now // in the lane's line
	l.line.pushFront(it)
	l.work(now)
}

// stepBack returns a task that was let in to its line, because somebody has come who stands before it. It may hold its entity, if it has waited behind a task
// outside lines: who is let in next would wait behind it, and it for them.
func (l *lane) stepBack(it *item, now time.Time) {
	l.leaveEntity(it)
	it.stand.line.of.put(it.stand, waiting)
	l.advance(it.stand.line, now)
}

// mayStay says whether a task that was let in may still go.
func (st *standing) mayStay() bool {
	e := st.line
	return st.gone || !e.of.strict || st == e.first() && e.settling == 0
}

// giveBack hands a task back that waits behind others: a tier record, no try counted.
func (l *lane) giveBack(st *standing, due int64, now time.Time) {
	it := st.it
	if it.part.lost.Load() {
		l.drop(it)
		return
	}
	it.out = outcome{verdict: schemas.VerdictPostponed, reason: schemas.ReasonOrder, due: time.UnixMilli(due).Add(followsBy)}
	st.order = true
	l.leaves(it, time.UnixMilli(due), now)
	fault.Before(fault.LineHandBack)
	l.d.collect(it)
	fault.After(fault.LineHandBack, nil)
}

// sendBack hands a task back that has waited for long, or for which there is no room, until the one before it may have ended.
func (l *lane) sendBack(st *standing, now time.Time) {
	f := st.line.first()
	due := now.Add(postponeFor(0, st.it.Postponed, 0, 0, l.d.tiers)) // nobody knows when the first comes up
	switch {
	case f == st: // it waits for the gate
	case f.where == inTier && f.due > now.UnixMilli():
		due = time.UnixMilli(f.due)
	case f.where == settling:
		due = f.it.awaits
	case f.where == early:
		due = time.UnixMilli(f.it.Due)
	case f.where == out && f.it.attempted && f.it.until.After(now):
		due = f.it.until
	}
	l.giveBack(st, due.UnixMilli(), now)
}

// leaves notes that an item's record goes to a tier. It does not come up before the smallest tier has passed.
func (l *lane) leaves(it *item, due, now time.Time) {
	st := it.stand
	if st.it == it && !st.gone {
		st.line.of.leave(st, later(due, now.Add(l.d.tiers[0].Wait)).UnixMilli())
	}
}

// tried notes what a try came to, before the collector has the item: from then on the flusher may be through with it at any moment. Who comes next is
// let in by book. A death must be written down before the next may go; else a crash brings the dead task back behind its successor.
func (l *lane) tried(it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.comesTo(it)
}

// comesTo is tried with the lane's mutex held.
func (l *lane) comesTo(it *item) {
	st, now := it.stand, time.Now()
	if st.it != it || st.gone {
		return
	}
	switch it.out.verdict {
	case schemas.VerdictRetry, schemas.VerdictPostponed:
		l.leaves(it, it.out.due, now)
	case schemas.VerdictDelivered:
		st.line.of.remove(st)
		st.line.moved = now
	case schemas.VerdictDead, schemas.VerdictDropped:
		st.line.of.put(st, ending)
	}
}

// endsInLine lets the next go when an item's end is written and marked.
func (l *lane) endsInLine(it *item) {
	switch it.out.verdict {
	case schemas.VerdictDead, schemas.VerdictDropped, schemas.VerdictDelivered, verdictSeen:
	default:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st, now := it.stand, time.Now()
	if st.gone || st.it != nil && st.it != it { // a copy came up while this was being written, and has an end of its own
		return
	}
	st.line.of.remove(st)
	st.line.moved = now
	l.advance(st.line, now)
}

// vanishes takes an item out of its line that leaves memory because its partition is lost, and with it all that the lane knows of its lines.
func (l *lane) vanishes(it *item) {
	st := it.stand
	if st.it != it || st.gone {
		return
	}
	if len(st.records) == 0 {
		st.line.of.remove(st)
		return
	}
	st.line.of.leave(st, 0)
	st.line.of.suspect(st)
}

// sweepLines hands back who has waited for long behind others. While a line moves its first tasks may stay.
func (l *lane) sweepLines(now time.Time, hung bool) {
	o := l.order
	if o.waiting == 0 {
		return
	}
	ours := l.d.lease.holds(now) && !l.d.chokes(o.book.partition)
	for e := range o.crowds {
		n, sent := 0, false
		moves := !hung && now.Sub(e.moved) <= lineAge
		for i := 0; i < len(e.all) && n < e.waiting; { // sendBack takes from those that wait
			st := e.all[i]
			i++
			if st.where != waiting {
				continue
			}
			switch {
			case !ours: // nobody's fault
				st.it.arrived = now
				n++
			case moves && n < entityMoves, !hung && now.Sub(st.it.arrived) <= lineAge:
				n++
			default:
				l.sendBack(st, now)
				sent = true
			}
		}
		if sent {
			l.advance(e, now)
		}
	}
}

// forgetLines drops all that a lane knows of its lines, and what waits in them: the partition is not ours any more, or is ours anew.
func (l *lane) forgetLines() {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.order
	if o == nil {
		return
	}
	l.order = nil
	for e := range o.crowds {
		for _, st := range slices.Clone(e.all) {
			if st.where == waiting {
				l.drop(st.it)
			}
		}
	}
}

// mark is what Redis, or this process itself, knows of a task that was read.
type mark uint8

const (
	markNone mark = iota
	markTry       // the try about to be made has ended, and the task goes on by another record
	markEnd       // the task has ended
)

func markOf(over bool) mark {
	if over {
		return markEnd
	}
	return markTry
}

// early notes that an item which waited for the owner before waits for its time now.
func (l *lane) early(it *item, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it.stand.line.of.put(it.stand, early)
	l.advance(it.stand.line, now)
}
