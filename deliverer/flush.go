package deliverer

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// verdictSeen ends an item whose mark appeared: somebody else has finished it.
const verdictSeen schemas.Verdict = "seen"

// collector is where ended items wait to be written. Senders only append; one flusher takes all that is there and writes it in one go, in the order of
// durability: tier and dead records, attempts, marks, progress (lane.go says what a crash between two of them means).
type collector struct {
	mu       sync.Mutex
	ended    []*item
	flushing []*item
	since    time.Time
	signal   chan struct{} // capacity 1
	enough   chan struct{} // capacity 1: flushMost are waiting
}

const (
	// flushMost are written at once without waiting for more.
	flushMost = 2000
	// flushAgain is the pause before what could not be written is tried again.
	flushAgain = time.Second
)

// collect takes over an item that has come to something. Called with or without a lane's mutex held.
func (d *Deliverer) collect(it *item) {
	c := &d.collector
	c.mu.Lock()
	c.ended = append(c.ended, it)
	n := len(c.ended)
	if n == 1 {
		c.since = time.Now()
	}
	c.mu.Unlock()
	if n == 1 {
		poke(c.signal)
	}
	if n == flushMost {
		poke(c.enough)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// unflushed are the items that have ended and may not be durable yet.
func (c *collector) unflushed() []*item {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]*item(nil), c.flushing...), c.ended...)
}

// flusher writes what was collected. One goroutine owns it.
type flusher struct {
	d       *Deliverer
	later   kafka.Records // tiers and dead
	tried   kafka.Records
	buf     []byte
	task    schemas.Task
	attempt schemas.Attempt
	marks   []Mark
	counts  map[attemptLabel]int
}

type attemptLabel struct {
	verdict schemas.Verdict
	reason  schemas.Reason
}

// run flushes until ctx ends; drain is answered when everything collected before is written.
func (f *flusher) run(ctx context.Context) {
	c := &f.d.collector
	for {
		select {
		case <-ctx.Done():
			return
		case done := <-f.d.drain:
			f.flush(ctx)
			close(done)
			continue
		case <-c.signal:
		}
		if linger := f.d.cfg.Linger; linger > 0 {
			timer := time.NewTimer(linger)
			select {
			case <-timer.C:
			case <-c.enough:
				timer.Stop()
			case done := <-f.d.drain:
				timer.Stop()
				f.flush(ctx)
				close(done)
				continue
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
		f.flush(ctx)
	}
}

// flush writes everything that is collected now.
func (f *flusher) flush(ctx context.Context) {
	c := &f.d.collector
	c.mu.Lock()
	c.flushing, c.ended = c.ended, c.flushing[:0]
	items := c.flushing
	c.mu.Unlock()
	if len(items) == 0 {
		return
	}
	written, failed := f.writeLater(ctx, items)
	written, failedToo := f.writeAttempts(ctx, written)
	failed = append(failed, failedToo...)
	f.mark(ctx, written)
	f.count(written)
	for _, it := range written {
		f.finish(it)
	}
	c.mu.Lock()
	clear(c.flushing)
	c.flushing = c.flushing[:0]
	c.ended = append(c.ended, failed...)
	c.mu.Unlock()
	if len(failed) > 0 && ctx.Err() == nil {
		f.d.metrics.flushFailed.Inc()
		time.AfterFunc(flushAgain, func() { poke(c.signal) })
	}
}

// writeLater writes the records of tasks that go on in a tier, and dead letters.
func (f *flusher) writeLater(ctx context.Context, items []*item) (written, failed []*item) {
	d, now := f.d, time.Now()
	byTP := map[kafka.TP]bool{}
	where := make([]kafka.TP, len(items))
	f.later.Reset()
	for i, it := range items {
		if it.durable {
			continue
		}
		switch it.out.verdict {
		case schemas.VerdictRetry, schemas.VerdictPostponed, verdictHop:
			it.lane.strike(it)
			where[i] = kafka.TP{Topic: d.tiers[tierFor(d.tiers, it.out.due.Sub(now))].Name, Partition: it.part.tp.Partition}
			f.taskAfter(it)
			f.buf = schemas.AppendTaskHead(f.buf[:0], &f.task, len(it.Body))
			f.later.Add(where[i], []byte(it.Subscription), nil, f.buf, it.Body)
		case schemas.VerdictDead:
			where[i] = kafka.TP{Topic: d.topics.Dead, Partition: it.part.tp.Partition}
			f.buf = schemas.AppendDead(f.buf[:0], &schemas.Dead{
				Task: it.Task, Reason: it.out.reason, At: it.out.started.Add(it.out.duration).UnixMilli(), Status: it.out.status, Detail: it.out.detail})
			f.later.Add(where[i], []byte(it.Subscription), nil, f.buf)
		}
	}
	if f.later.Len() > 0 {
		if _, err := d.appender.Append(ctx, &f.later); err != nil {
			f.explain(err, byTP, "tier and dead records")
		}
	}
	written = items[:0:0]
	for i, it := range items {
		if where[i].Topic != "" && byTP[where[i]] {
			failed = append(failed, it)
			continue
		}
		it.durable = true // if its attempt cannot be written now, only that is tried again
		if it.out.verdict != "" {
			written = append(written, it)
		}
	}
	return written, failed
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

// writeAttempts writes what was tried and what ended. A task that was handed back untried makes no attempt; it is counted.
func (f *flusher) writeAttempts(ctx context.Context, items []*item) (written, failed []*item) {
	d := f.d
	f.tried.Reset()
	byTP := map[kafka.TP]bool{}
	for _, it := range items {
		if it.out.started.IsZero() { // a hop, a mark that appeared, a task handed back untried
			continue
		}
		f.attemptOf(it)
		f.buf = schemas.AppendAttempt(f.buf[:0], &f.attempt)
		f.tried.Add(kafka.TP{Topic: d.topics.Attempts, Partition: it.part.tp.Partition}, []byte(it.Subscription), nil, f.buf)
	}
	if f.tried.Len() > 0 {
		if _, err := d.attempts.Append(ctx, &f.tried); err != nil {
			f.explain(err, byTP, "attempts")
		}
	}
	if len(byTP) == 0 {
		return items, nil
	}
	for _, it := range items {
		if !it.out.started.IsZero() && byTP[kafka.TP{Topic: d.topics.Attempts, Partition: it.part.tp.Partition}] {
			failed = append(failed, it)
		} else {
			written = append(written, it)
		}
	}
	return written, failed
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

// explain notes which partitions failed and says so, once per flush.
func (f *flusher) explain(err error, byTP map[kafka.TP]bool, what string) {
	var ae *kafka.AppendError
	if !errors.As(err, &ae) {
		// Nothing is known about any partition: all of them are tried again.
		for tp := range *f.d.parts.Load() {
			byTP[kafka.TP{Topic: f.d.topics.Attempts, Partition: tp.Partition}] = true
			byTP[kafka.TP{Topic: f.d.topics.Dead, Partition: tp.Partition}] = true
			for _, t := range f.d.tiers {
				byTP[kafka.TP{Topic: t.Name, Partition: tp.Partition}] = true
			}
		}
	} else {
		for _, p := range ae.Partitions {
			byTP[p.TP] = true
		}
	}
	if !errors.Is(err, context.Canceled) {
		f.d.log.Error("outcomes could not be written; their tasks stay unfinished and it is tried again", zap.String("what", what), zap.Error(err))
	}
}

// count counts what is written, once each.
func (f *flusher) count(items []*item) {
	clear(f.counts)
	for _, it := range items {
		if it.out.verdict == verdictHop || it.out.verdict == verdictSeen {
			continue
		}
		f.counts[attemptLabel{it.out.verdict, it.out.reason}]++
		if it.out.verdict == schemas.VerdictDelivered && it.Source.Time > 0 {
			f.d.metrics.seconds.Observe(it.out.started.Add(it.out.duration).Sub(time.UnixMilli(it.Source.Time)).Seconds())
		}
	}
	for label, n := range f.counts {
		f.d.metrics.attempts.WithLabelValues(string(label.verdict), string(label.reason)).Add(float64(n))
	}
}

// mark sets the marks of what has ended, after it is durable and never before. Postponed tasks get none, and neither do dropped ones.
func (f *flusher) mark(ctx context.Context, items []*item) {
	f.marks = f.marks[:0]
	for _, it := range items {
		switch it.out.verdict {
		case schemas.VerdictRetry:
			f.marks = append(f.marks, Mark{TaskID: it.ID, Round: it.Round, Attempt: it.Attempt})
		case schemas.VerdictDelivered, schemas.VerdictDead:
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
