package deliverer

import (
	"context"
	"sync"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// verdictSeen ends an item whose mark appeared: somebody else has finished it.
const verdictSeen schemas.Verdict = "seen"

// verdictGoesOn ends an item whose try has a mark: its task goes on by a record in a tier. Only where order asks for the difference.
const verdictGoesOn schemas.Verdict = "goes_on"

// collector is where ended items wait to be written. Senders only append; one flusher takes what is there and brings it through the order of
// durability: tier and dead records, attempts, marks, progress (lane.go says what a crash between two of them means).
type collector struct {
	mu     sync.Mutex
	ended  []*item
	signal chan struct{} // capacity 1
	enough chan struct{} // capacity 1: flushEnough are waiting
	late   chan struct{} // capacity 1: no commit was accepted for a moment

	// books is held by the flusher while items change hands, and never over a round trip. It comes before mu and before a lane's mutex.
	books   sync.Mutex
	shelves map[int32]*shelf
	written []*item // durable; their marks and progress are under way
}

const (
	// flushEnough do not wait for more: what has been answered and has no mark yet is what a crash repeats, and where much ends at once that is much.
	flushEnough = 64
	// flushMost are written to a partition at once.
	flushMost = 2000
	// flushBytes is about how much of bodies is written to a partition at once.
	flushBytes = 4 << 20
	// flushLook is how often a flusher with unwritten items looks whether some partition takes none, and whether Kafka hears us at all.
	flushLook = 250 * time.Millisecond
)

// collect takes over an item that has come to something. Called with or without a lane's mutex held.
func (d *Deliverer) collect(it *item) {
	c := &d.collector
	c.mu.Lock()
	c.ended = append(c.ended, it)
	n := len(c.ended)
	c.mu.Unlock()
	if n == 1 {
		poke(c.signal)
	}
	if n == flushEnough {
		poke(c.enough)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// unflushed are the items that have ended and may not be durable, marked and finished yet.
func (c *collector) unflushed() []*item {
	c.books.Lock()
	defer c.books.Unlock()
	out := append([]*item(nil), c.written...)
	for _, s := range c.shelves {
		for o := range s.all() {
			out = append(append(out, o.flying...), o.waiting...)
		}
		for _, r := range s.refused {
			out = append(out, r.it)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(out, c.ended...)
}

// flusher writes what was collected. One goroutine owns it.
//
//	collector ─▶ outlet of a tier or of dead ─▶ outlet of attempts ─▶ marks ─▶ progress
//
// Each partition that is written to has an outlet (outlet.go): one write is under way at a time, and what comes meanwhile waits and goes in one piece
// when it has ended. So a partition without a leader holds up nothing but its own.
type flusher struct {
	d       *Deliverer
	buf     []byte
	key     []byte
	task    schemas.Task
	attempt schemas.Attempt
	marks   []Mark
	claims  []*item
	counts  map[attemptLabel]int
	spare   []*item        // a buffer for collector.ended
	free    []*kafka.Write // with their buffers
	taken   uint64         // how often the collector was emptied
	drains  []drain

	noteMu sync.Mutex
	ended  []*outlet // whose writes have ended
	acked  chan struct{}
}

// drain is somebody who waits until what was taken up to a time is written.
type drain struct {
	taken uint64
	done  chan struct{}
}

type attemptLabel struct {
	verdict schemas.Verdict
	reason  schemas.Reason
}

func newFlusher(d *Deliverer) *flusher {
	return &flusher{d: d, counts: map[attemptLabel]int{}, acked: make(chan struct{}, 1)}
}

// run flushes until ctx ends. drain is answered when everything collected before is written, but for what goes to partitions that take nothing.
func (f *flusher) run(ctx context.Context) {
	c := &f.d.collector
	defer f.abandon()
	linger, look := newStopped(), newStopped()
	defer linger.Stop()
	defer look.Stop()
	looking := false
	for {
		take, claim := false, false
		select {
		case <-ctx.Done():
			return
		case done := <-f.d.drain:
			f.drains = append(f.drains, drain{f.taken + 1, done})
			take = true
		case <-c.signal:
			linger.Reset(f.d.cfg.Linger)
			continue
		case <-linger.C:
			take = true
		case <-c.enough:
			take = true
		case <-f.acked:
		case <-c.late:
			claim = true
		case <-look.C:
			looking, claim = false, true
		}
		open := f.step(ctx, take)
		if claim && f.claim(ctx, time.Now()) {
			open = true
		}
		if open && !looking {
			looking = true
			look.Reset(flushLook)
		}
	}
}

// newStopped is a timer that does not run yet.
func newStopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// step brings everything one step on that can go on. take says to empty the collector, too. open says that something is not written or not marked yet.
func (f *flusher) step(ctx context.Context, take bool) (open bool) {
	d, c := f.d, &f.d.collector
	c.books.Lock()
	now := time.Now()
	f.settle(now)
	if take {
		f.take(now)
	}
	open = f.begin(now)
	f.judge(now)
	written := c.written // only we write to it
	c.books.Unlock()
	if len(written) > 0 {
		f.mark(ctx, written)
		f.count(written)
		fault.Before(fault.FlushFinish)
		for _, it := range written {
			f.finish(it)
		}
		fault.After(fault.FlushFinish, nil)
		c.books.Lock()
		clear(c.written)
		c.written = c.written[:0]
		c.books.Unlock()
	}
	var owes, soon bool
	if d.marks.Owes() {
		owes, soon = d.marks.Settle(ctx)
	}
	waiting := f.drains[:0]
	for _, w := range f.drains {
		if d.collector.drained(w.taken) && !soon {
			close(w.done)
		} else {
			waiting = append(waiting, w)
		}
	}
	f.drains = waiting
	return open || owes
}

// take empties the collector. The books are held.
func (f *flusher) take(now time.Time) {
	c := &f.d.collector
	c.mu.Lock()
	items := c.ended
	c.ended = f.spare
	c.mu.Unlock()
	f.taken++
	for _, it := range items {
		it.taken = f.taken
		f.route(it, now)
	}
	clear(items)
	f.spare = items[:0]
}

// route puts an item where it is written next. The books are held.
func (f *flusher) route(it *item, now time.Time) {
	s := f.shelfOf(it.part.tp.Partition)
	switch it.out.verdict {
	case "": // the process ends: nothing happened
		return
	case schemas.VerdictRetry, schemas.VerdictPostponed, verdictHop:
		it.lane.strike(it)
		if it.stand != nil && f.joins(it) {
			s.put(&s.line, it)
			return
		}
		s.put(&s.tiers[tierFor(f.d.tiers, it.out.due.Sub(now))], it)
	case verdictGoesOn:
		if it.stand != nil && f.joins(it) {
			s.put(&s.line, it)
			return
		}
		f.over(s, it)
	case schemas.VerdictDead:
		s.put(&s.dead, it)
	default:
		if it.out.started.IsZero() {
			f.over(s, it)
		} else {
			s.put(&s.tried, it)
		}
	}
}

// settle takes over what became of the writes that have ended. The books are held.
func (f *flusher) settle(now time.Time) {
	f.noteMu.Lock()
	ended := f.ended
	f.ended = nil
	f.noteMu.Unlock()
	for _, o := range ended {
		f.settleOne(o, now)
	}
	for _, s := range f.d.collector.shelves {
		s.askAgain(now)
	}
}

// stored goes on with an item that stands where its outlet writes. A task that was handed back untried makes no attempt; it is counted.
func (f *flusher) stored(o *outlet, it *item, now time.Time) {
	s := o.shelf
	s.held--
	s.bytes -= int64(it.size)
	it.refused = time.Time{}
	if o == &s.line {
		f.lined(s, it, now)
		return
	}
	if o == &s.tried || it.out.started.IsZero() { // a hop, a task handed back untried
		f.over(s, it)
		return
	}
	s.put(&s.tried, it)
}

// add encodes an item for its outlet.
func (f *flusher) add(o *outlet, it *item, into *kafka.Records) {
	switch {
	case o == &o.shelf.line:
		f.addLine(o, it, into)
	case o == &o.shelf.tried:
		f.attemptOf(it)
		f.buf = schemas.AppendAttempt(f.buf[:0], &f.attempt)
		into.Add(o.tp, []byte(it.Subscription), nil, f.buf)
	case o == &o.shelf.dead:
		f.buf = schemas.AppendDead(f.buf[:0], &schemas.Dead{
			Task: it.Task, Reason: it.out.reason, At: it.out.started.Add(it.out.duration).UnixMilli(), Status: it.out.status, Detail: it.out.detail})
		into.Add(o.tp, []byte(it.Subscription), nil, f.buf)
	default:
		f.taskAfter(it)
		f.buf = schemas.AppendTaskHead(f.buf[:0], &f.task, len(it.Body))
		into.Add(o.tp, []byte(it.Subscription), nil, f.buf, it.Body)
	}
}

// taskAfter sets f.task to the task as it goes on.
func (f *flusher) taskAfter(it *item) {
	f.task = it.Task
	t := &f.task
	t.Due = it.out.due.Add(time.Millisecond - 1).UnixMilli() // rounded up: never before its time
	switch it.out.verdict {
	case schemas.VerdictRetry:
		t.Attempt++
		t.Postponed = 0
		t.Last = &schemas.LastAttempt{At: it.out.started.UnixMilli(), Status: it.out.status, Reason: it.out.reason, Detail: it.out.detail}
	case schemas.VerdictPostponed:
		t.Postponed++
	}
}

func (f *flusher) attemptOf(it *item) {
	f.attempt = schemas.Attempt{
		TaskID: it.ID, Subscription: it.Subscription, Company: it.Company, EventID: it.EventID, EventType: it.EventType, EntityID: it.EntityID,
		Number: it.Attempt, Round: it.Round, StartedAt: it.out.started.UnixMilli(), DurationMicros: it.out.duration.Microseconds(),
		Address: it.out.address, Status: it.out.status, Verdict: it.out.verdict, Reason: it.out.reason, Answer: it.out.answer,
		BytesSent: it.out.sent, BytesReceived: it.out.received, Source: it.Source, Replay: it.Replay,
	}
	if !it.out.due.IsZero() {
		f.attempt.NextDue = it.out.due.UnixMilli()
	}
}

// count counts what is written, once each.
func (f *flusher) count(items []*item) {
	clear(f.counts)
	for _, it := range items {
		if it.out.verdict == verdictHop || it.out.verdict == verdictSeen || it.out.verdict == verdictGoesOn {
			continue
		}
		f.counts[attemptLabel{it.out.verdict, it.out.reason}]++
		if it.out.verdict == schemas.VerdictDelivered && it.Source.Time > 0 && it.Replay == "" {
			f.d.metrics.seconds.Observe(it.out.started.Add(it.out.duration).Sub(time.UnixMilli(it.Source.Time)).Seconds())
		}
	}
	for label, n := range f.counts {
		f.d.metrics.attempts.WithLabelValues(string(label.verdict), string(label.reason)).Add(float64(n))
	}
}

// mark sets the marks of what has ended, after it is durable and never before. Postponed tasks get none, and neither do dropped ones. A task that ended as
// paused gets one only while the lease holds. The sequence that this prevents: its partition goes to another owner while we write its letter; the
// subscription is resumed; the new owner notes where the pause's letters end (resumed.go); our letter lands behind that, and its mark keeps the new owner from
// trying the task, so that nobody ever does.
func (f *flusher) mark(ctx context.Context, items []*item) {
	f.marks = f.marks[:0]
	now := time.Now()
	for _, it := range items {
		switch it.out.verdict {
		case schemas.VerdictRetry:
			f.marks = append(f.marks, Mark{TaskID: it.ID, Round: it.Round, Attempt: it.Attempt})
		case schemas.VerdictDelivered, schemas.VerdictDead:
			if it.out.reason == schemas.ReasonPaused && !f.d.lease.holds(now) {
				continue
			}
			f.marks = append(f.marks, Mark{TaskID: it.ID, Round: it.Round})
		}
	}
	f.d.recent.add(f.marks)
	if len(f.marks) > 0 && f.d.marks.Set(ctx, f.marks) {
		f.d.metrics.failOpen.Inc()
	}
}

// finish counts an item and its copies as finished and lets go of their memory.
func (f *flusher) finish(it *item) {
	if it.stand != nil {
		it.lane.endsInLine(it)
	}
	it.lane.strike(it) // of what has reached an end: its marks stand by now, and no copy slips in between
	for c := it; c != nil; {
		next := c.next
		if c == it {
			next = it.copies
		}
		f.d.finishOffset(c.part, c.offset)
		f.d.memory.release(c)
		c = next
	}
}

// finishOffset counts an offset as finished, and stops the partition if that breaks the accounting.
func (d *Deliverer) finishOffset(p *part, off int64) {
	if err := p.finish(off); err != nil {
		d.stopPart(p, err)
	}
}
