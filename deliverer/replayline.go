package deliverer

import (
	"bytes"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// Tasks of replays and catch-ups stand in a line of their own, behind the lane's line: one of them is sent only while no live task could be, and however many
// of them wait, what is live is as fast as ever.
//
//	live flows            replays have at most a quarter of the sends that the receiver takes at a time, and at least one
//	nothing live lately   all but a quarter: the live task that comes next finds a connection free
//
// What the lane learns of its receiver is shared: circuit, holds, rate, how many sends are of use. Sends of replays do not count against the sends that
// live tasks may have (want), or one slow replay would make them wait. What the lane hands back is counted apart: a backlog of replays must not put
// off live tasks for as long as it needs itself.
//
// Between two tasks of one entity the same holds: they are never sent at once, and a live one goes before a replay's that is still in line.
type replayLine struct {
	line    line
	busy    int       // senders that have one of it in hand
	liveAt  time.Time // when a live task came up last
	backlog int64     // as the lane's, of replays
	slow    bool      // as the lane's

	ended    int64 // answers ever
	tickEnds int64
	rate     float64 // as the lane's, of replays alone
	usual    float64
}

const (
	// liveFlows is for how long after a live task the next one is expected.
	liveFlows = 2 * time.Second
	// replayCopies: from so long a line on bodies are copied out of their fetch buffers, which would otherwise be kept whole for as long as one task waits.
	replayCopies = 256
	// holdReplays is for how long at least the tasks of a paused replay are handed back.
	holdReplays = 30 * time.Second
)

// standsBack says whether a task goes to the line of replays. One of a catch-up whose subscription asks for order does not: its live tasks wait for it.
func (l *lane) standsBack(it *item) bool {
	if it.Lane == schemas.LaneCatchUp {
		live, ok := l.d.table.Get(l.id)
		return !ok || live.Order != schemas.OrderEntity
	}
	return it.Lane == schemas.LaneReplay
}

func (l *lane) lineOf(it *item) *line {
	if it.back {
		return &l.replays.line
	}
	return &l.line
}

// pace is what handing back goes by: how many tasks of the kind are handed back already, and what the lane gets done of them in a second, as far as it is known.
func (l *lane) pace(it *item) (backlog *int64, rate float64) {
	backlog, rate = &l.backlog, l.usual // l.rate halves with each quarter of a second of silence: after three the backlog seemed to need hours
	if it.back {
		backlog, rate = &l.replays.backlog, l.replays.usual
	}
	if most := l.press.rateNow(); most > 0 && (!it.back || rate == 0) {
		rate = most
	}
	return backlog, rate
}

// nextLine is the line whose first task is to be looked at next; nil: none.
func (l *lane) nextLine(now time.Time) *line {
	switch {
	case l.line.n > 0 && l.busy-l.replays.busy < l.want:
		return &l.line
	case l.replaysMay(now) > 0:
		return &l.replays.line
	}
	return nil
}

// replaysMay is how many more replays may be sent just now.
func (l *lane) replaysMay(now time.Time) int {
	r := &l.replays
	if r.line.n == 0 || l.line.n > 0 || !l.d.replays.known.Load() {
		return 0
	}
	most := max(1, min(l.press.most, int(l.press.limit)))
	share := max(1, most/4)
	if now.Sub(r.liveAt) > liveFlows {
		share = max(1, most-share)
	}
	return max(0, min(share-r.busy, l.want-l.busy, r.line.n))
}

// useful is how many senders have something to do.
func (l *lane) useful(now time.Time) int {
	live := min(l.want, l.busy-l.replays.busy+l.line.n)
	return min(live+l.replays.busy+l.replaysMay(now), max(l.press.most, l.want))
}

// enqueueReplay puts a task in the line of replays, if there is room. The lane's mutex is held.
func (l *lane) enqueueReplay(it *item, now time.Time) {
	r := &l.replays
	room := 1 << 30
	if r.slow {
		room = l.keepAt(r.rate)
	}
	if rate := l.press.rateNow(); rate > 0 {
		room = min(room, max(1, int(rate*lineAge.Seconds())))
	}
	switch {
	case l.stopped(it, now):
		l.leaveEntity(it)
		l.endNow(it)
	case r.line.n >= room || l.stuck(now):
		l.handBack(it, schemas.ReasonFull, 0, now)
	default:
		if r.line.n >= replayCopies || l.answer > slowAnswer {
			it.Body = bytes.Clone(it.Body)
		}
		it.arrived = now
		r.line.push(it)
	}
}

// overtakes makes a live task the holder of its entity, in place of a replay's that is in line and has not been sent.
func (l *lane) overtakes(it, holder *item) bool {
	if it.back || !holder.back || holder.attempted {
		return false
	}
	it.followers, holder.followers = holder.followers, line{}
	l.entities[it.EntityID] = it
	return true
}

// nextFollower takes out the one that goes next of those behind an item: the first live one, else the first.
func (it *item) nextFollower() *item {
	var before *item
	f := it.followers.head
	for f != nil && f.back {
		before, f = f, f.next
	}
	if f == nil || before == nil {
		return it.followers.pop()
	}
	if before.next = f.next; f.next == nil {
		it.followers.tail = before
	}
	f.next = nil
	it.followers.n--
	return f
}

// tick takes over what was answered in the last d.
func (r *replayLine) tick(d time.Duration) {
	r.rate += (float64(r.ended-r.tickEnds)/d.Seconds() - r.rate) / 2
	r.usual = max(r.rate, r.usual*(1-min(d.Seconds()/usualFades.Seconds(), 1)))
	r.tickEnds = r.ended
}

// sweepReplays is sweep for the line of replays. What live tasks leave no room for becomes old in it, and goes to a tier.
func (l *lane) sweepReplays(hung bool, now time.Time) {
	r := &l.replays
	switch {
	case r.line.n == 0:
	case l.choked(), !l.d.lease.holds(now):
		for it := r.line.head; it != nil; it = it.next {
			it.arrived = now
		}
		if l.line.n == 0 {
			l.endedAt = now
		}
	case hung:
		l.shedFrom(&r.line, 0, schemas.ReasonFull, 0, now)
	case now.Sub(r.line.head.arrived) > lineAge:
		if keep := l.keepAt(r.rate); r.line.n > keep {
			r.slow = true
			l.shedFrom(&r.line, keep, schemas.ReasonFull, 0, now)
		}
	}
}

// stopped decides about a task whose replay may not be sent: it is dropped if the replay is cancelled, and handed back if it is paused. The wait is that of
// a tier, or a paused replay would be written anew every few seconds.
func (l *lane) stopped(it *item, now time.Time) bool {
	if it.Replay == "" {
		return false
	}
	switch l.d.replays.stateOf(it.Replay) {
	case schemas.ReplayCancelled:
		it.out = outcome{verdict: schemas.VerdictDropped, reason: schemas.ReasonCancelled, started: now}
	case schemas.ReplayPaused:
		wait := holdReplays
		for _, t := range l.d.tiers {
			if t.Wait >= holdReplays {
				wait = t.Wait
				break
			}
		}
		it.out = outcome{verdict: schemas.VerdictPostponed, reason: schemas.ReasonHold, due: now.Add(wait)}
	default:
		return false
	}
	return true
}

// stopReplays takes tasks whose replay may not be sent out of the line, and lets the others go: what is known of replays has changed.
func (l *lane) stopReplays(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.replays.line
	l.replays.line = line{}
	for it := all.pop(); it != nil; it = all.pop() {
		if l.stopped(it, now) {
			l.leaveEntity(it)
			l.endNow(it)
		} else {
			l.replays.line.push(it)
		}
	}
	l.work(now)
}

func (d *Deliverer) stopReplays() {
	now := time.Now()
	for _, l := range d.allLanes() {
		l.stopReplays(now)
	}
}
