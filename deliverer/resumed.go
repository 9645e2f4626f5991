package deliverer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// What came up while a subscription was paused lies in `dead` as `paused`, and resume orders a redrive of it: of that pause, and of nothing that comes later.
// Where that ends nobody can say who gives the order: tasks come up as paused until the deliverer that has the lane sees that the subscription is active
// again, and that may be later. So the order names the pause by its cut, and has no end; the owner of the partition finds the end, in these steps:
//
//	1. its table holds the subscription as active, with a live cut behind the pause's
//	2. no task is on its way to `dead` as paused any more (letGo, unwritten), and none that has a letter still holds its place in a line (ending)
//	3. it writes a marker without a task to `dead`: there is the end
//	4. it redrives what lies before the marker, as any redrive does
//
// What if the process dies
//
//	before 3: the successor begins at 1. If the subscription is paused again by then, the order waits, and takes the letters of both pauses in the end.
//	after 3: the successor finds the marker among the others (taken.go). The first one counts.
//
// What another owner was writing when it lost the partition may land behind the marker. It is not lost by that: a task that ended as paused gets its mark
// only while the lease holds (flusher.mark), so the new owner, who finds it unfinished, tries it.

// Of a subscription that keeps order, what came up in a pause stands before all that was published later. So its lane sends nothing of a line until the redrives of its
// pauses are over, and these give every letter its place in its line before they put it back (redriver.put). What comes up meanwhile is postponed.
//
//	5. the letters' members go to `lines`, their tasks to the smallest tier, the markers to `dead`
//	6. the redrive is written as done
//	7. lanes send
//
// Dying in 5, or between 5 and 6: the successor's lane waits as this one did, since it does not know the order to be over. It goes over the letters again as after any
// redrive, and a member that stands gets its task, or finds it.

// awaitsRedrive says that the subscription keeps order, and that what its pauses have ended may not be back in line.
func (d *Deliverer) awaitsRedrive(set *settings) bool {
	if len(set.redrives) == 0 || set.redriven.Load() {
		return false
	}
	if !d.replays.haveEnded(set.redrives) {
		return true
	}
	set.redriven.Store(true)
	return false
}

// awaitsLetters says that a task which a sender has in hand must wait for what pauses have ended: their redrives are not over, or have ended since the task was picked
// and put back what stands before it.
func (l *lane) awaitsLetters(it *item, set *settings) bool {
	if len(set.redrives) == 0 {
		return false
	}
	if l.d.awaitsRedrive(set) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !it.stand.mayStay()
}

// resumed says whether a redrive after a pause may begin. An order whose subscription is gone is taken back, by the owner of its partition.
func (r *redriver) resumed(ctx context.Context, o *schemas.Replay) (bool, error) {
	live, ok := r.d.table.Get(o.Subscription)
	if ok && live.State != schemas.StateDeleted {
		_, closed := live.SpanEnd(o.Cut)
		return closed && live.State == schemas.StateActive, nil
	}
	if !ok && time.Since(time.UnixMilli(o.CreatedAt)) < orphanMost || !r.d.Owns(r.partitions(o)[0]) || !r.d.replays.running(o.ID) {
		return false, nil
	}
	over := *o
	over.State, over.Note = schemas.ReplayCancelled, "the subscription is deleted"
	err := r.restate(ctx, &over)
	if err == nil {
		r.d.log.Info("a redrive is taken back: its subscription is deleted", zap.String("replay", o.ID), zap.String("subscription", o.Subscription))
	}
	return false, err
}

// bounds are where an order begins and ends in a partition.
func (r *redriver) bounds(s *steps, o *schemas.Replay, b *book) (begin, end int64, err error) {
	starts, err := r.d.kafka.Offsets(s, b.tp.Topic, kafka.Earliest)
	if err != nil {
		return 0, 0, err
	}
	begin = starts[b.tp.Partition]
	for _, at := range o.Begins {
		if at.Topic == b.tp.Topic && at.Partition == b.tp.Partition {
			begin = max(begin, at.Offset)
		}
	}
	if o.Cut != 0 {
		end, err = r.endOf(s, o, b)
		return begin, end, err
	}
	for _, at := range o.Ends {
		if at.Topic == b.tp.Topic && at.Partition == b.tp.Partition {
			end = at.Offset
		}
	}
	return begin, end, nil
}

// endOf is where a redrive after a pause ends: at its marker, which is written if there is none. The markers of the partition are read.
func (r *redriver) endOf(s *steps, o *schemas.Replay, b *book) (int64, error) {
	l := r.d.laneIfAny(o.Subscription)
	if l != nil {
		l.letGo()
	}
	for r.d.collector.unwritten(o.Subscription) || l != nil && l.ending() {
		pause(s, 50*time.Millisecond)
		if s.Err() != nil {
			return 0, errUnwritten
		}
	}
	if end, ok := b.ends[o.ID]; ok {
		return end, nil
	}
	at := schemas.Source{Topic: b.tp.Topic, Partition: b.tp.Partition}
	var out kafka.Records
	out.Add(b.tp, []byte(o.Subscription), nil, appendMarker(nil, o.ID, o.Subscription, nil, at, time.Now().UnixMilli()))
	err := fault.Before(fault.RedriveEnd)
	if err == nil {
		_, err = r.d.appender.Append(s, &out)
		err = fault.After(fault.RedriveEnd, err)
	}
	if err != nil {
		return 0, err
	}
	if err := r.catchUp(s, b); err != nil {
		return 0, err
	}
	end, ok := b.ends[o.ID]
	if !ok {
		return 0, fmt.Errorf("the marker of the end of %s was written and is not there", o.ID)
	}
	return end, nil
}

var errUnwritten = errors.New("the ends of tasks that came up while the subscription was paused are not written yet")

// letGo returns when every task that a sender has found to be paused is with the collector, and none is found so any more by settings older than what the
// table holds now. The sequence that it prevents: a sender reads that the subscription is paused; the table learns that it is active; the redriver sees that,
// finds nothing on its way to `dead`, and writes the end; the sender hands over its task, and the letter lies behind the end.
func (l *lane) letGo() {
	l.mu.Lock() // who compared the count before has handed over (lane.end)
	defer l.mu.Unlock()
	l.changes.Add(1) // the table tells the lane only after it has changed
}

// ending says whether a task that a pause has ended still holds its place in a line: its letter may stand, but its attempt, its tombstones or its mark do not. Its task
// could not be put back into that place (lines.putBack), which is given up in a moment, and what was published later would go before it.
func (l *lane) ending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.order == nil {
		return false
	}
	for _, e := range l.order.lines {
		if slices.ContainsFunc(e.all, func(st *standing) bool { return st.where == ending && st.it.out.reason == schemas.ReasonPaused }) {
			return true
		}
	}
	return false
}

// unwritten says whether tasks of a subscription are on their way to `dead` as paused.
func (c *collector) unwritten(subscription string) bool {
	ours := func(it *item) bool {
		return it.Subscription == subscription && it.out.verdict == schemas.VerdictDead && it.out.reason == schemas.ReasonPaused
	}
	c.books.Lock()
	defer c.books.Unlock()
	for _, s := range c.shelves {
		if slices.ContainsFunc(s.dead.flying, ours) || slices.ContainsFunc(s.dead.waiting, ours) ||
			slices.ContainsFunc(s.refused, func(r refusal) bool { return ours(r.it) }) {
			return true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.ended, ours)
}

// laneIfAny is the lane of a subscription that has one.
func (d *Deliverer) laneIfAny(id string) *lane {
	d.lanesMu.RLock()
	defer d.lanesMu.RUnlock()
	return d.lanes[id]
}
