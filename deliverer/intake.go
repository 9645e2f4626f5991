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

// intake turns fetched batches into items in lanes: one decode, one look-up of all marks, one lock per lane and batch. Each fetch loop has one, used
// by its handler's goroutine alone.
type intake struct {
	d       *Deliverer
	fetcher *kafka.Fetcher

	items   []*item
	marks   []Mark
	seen    []bool
	over    []bool // of those seen: their tasks have ended, not only this try
	inHand  []bool // of partitions that we have just been given: somebody else has the try in hand
	touched []*lane
	byLane  map[*lane][]*item
	slab    []item
	gaps    map[kafka.TP]int64 // where a batch began behind the expected offset
	peeked  schemas.Task       // a tier's record that is looked at and not taken
}

func newIntake(d *Deliverer) *intake {
	return &intake{d: d, byLane: map[*lane][]*item{}, gaps: map[kafka.TP]int64{}}
}

const (
	// intakeMost is how many tasks are taken in at a time, so that a big answer does not go far over the bound of memory.
	intakeMost = 2048
	// intakeReplays is how many of replays are: what is live waits for the link to Redis while they are looked up.
	intakeReplays = 256
	// slabSize is how many items are allocated together. A single long wait keeps its slab, so slabs are small.
	slabSize = 32
	// settle is how often a task that the owner before may be sending is looked up again.
	settle = 250 * time.Millisecond
)

func (in *intake) item() *item {
	if len(in.slab) == 0 {
		in.slab = make([]item, slabSize)
	}
	it := &in.slab[0]
	in.slab = in.slab[1:]
	return it
}

// handle takes one answer's batches in.
func (in *intake) handle(ctx context.Context, bs []kafka.Batch) error {
	parts := *in.d.parts.Load()
	for i := range bs {
		b := &bs[i]
		p := parts[b.TP]
		if p == nil || p.lost.Load() || p.stopped.Load() || p.unlined.Load() {
			continue
		}
		p.mu.Lock()
		p.high = b.HighWatermark
		p.mu.Unlock()
		if p.handed == 0 {
			p.handed = b.HighWatermark
		}
		for rest := b.Records; len(rest) > 0; {
			if err := in.d.memory.wait(ctx); err != nil {
				return nil // stopping: what was not taken in is read again
			}
			fault.Before(fault.IntakeTake)
			n, on := in.take(p, b, rest)
			fault.After(fault.IntakeTake, nil)
			if len(in.items) >= mostAtOnce(p) {
				in.settle(ctx)
				in.placed()
			}
			if rest = rest[n:]; !on {
				break
			}
		}
	}
	in.settle(ctx)
	in.placed()
	return nil
}

func mostAtOnce(p *part) int {
	if p.replay {
		return intakeReplays
	}
	return intakeMost
}

// take turns records of a batch into items, up to mostAtOnce in all. on is false if the rest of the batch must not be read now.
func (in *intake) take(p *part, b *kafka.Batch, rs []kafka.Record) (n int, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	skew := in.d.kafka.Skew()
	if first := rs[0].Offset; first > p.progress.next && b.LogStart <= p.progress.next && in.gap(p, first) {
		return len(rs), false
	}
	for n = 0; n < len(rs) && len(in.items) < mostAtOnce(p); n++ {
		r := &rs[n]
		if r.Offset < p.progress.next {
			continue // a batch comes whole, from before the asked offset on
		}
		if p.tier > 0 {
			if at := in.readyAt(r, p.tier, skew, now); at.After(now) {
				fault.Before(fault.IntakePark)
				in.park(p, r.Offset, at)
				fault.After(fault.IntakePark, nil)
				return n, false
			}
		}
		it := in.item()
		if err := schemas.DecodeTask(r.Value, &it.Task); err != nil {
			if !in.unreadable(p, r, it, err) {
				return n, false
			}
		}
		if err := p.progress.take(r.Offset); err != nil {
			in.d.stopPart(p, err)
			return n, false
		}
		finished, until := p.inherited.at(r.Offset)
		if finished {
			if err := p.progress.finish(r.Offset); err != nil {
				in.d.stopPart(p, err)
				return n, false
			}
			continue
		}
		it.part, it.offset, it.size, it.awaits, it.replay = p, r.Offset, len(r.Value), until, p.replay
		in.items = append(in.items, it)
	}
	p.inherited.forget(p.progress.base)
	return n, true
}

// gap says whether a batch that begins behind the expected offset is to be dropped and the position asked for again. A stale answer looks just like a
// log with a hole, and only one of the two comes back twice.
func (in *intake) gap(p *part, first int64) (again bool) {
	if in.gaps[p.tp] == first {
		delete(in.gaps, p.tp)
		return false
	}
	in.gaps[p.tp] = first
	in.fetcher.Seek(p.tp, p.progress.next)
	return true
}

// readyAt is when a record of a tier may be read: when its tier has passed, or when it is due. The tier was chosen to end before that, so only a broker's clock
// that was ahead when it stamped the record, and is right again, makes the second one the earlier; then the tier would take as much longer.
func (in *intake) readyAt(r *kafka.Record, wait, skew time.Duration, now time.Time) time.Time {
	at := readyAt(r.Time, wait, skew)
	if at.After(now) && schemas.DecodeTask(r.Value, &in.peeked) == nil && in.peeked.Due > 0 {
		return earlier(at, time.UnixMilli(in.peeked.Due))
	}
	return at
}

// park leaves a tier's partition out of the fetches until its head is ready; nothing of it stays in memory.
func (in *intake) park(p *part, off int64, at time.Time) {
	p.parked.Store(at.UnixMilli() + 1)
	in.fetcher.Seek(p.tp, off)
	t := timed{at: at.Add(2 * time.Millisecond), fetcher: in.fetcher}
	if in.d.cfg.FetchWait > fetchLong {
		t.seek, t.offset = p, off
	}
	in.d.keeper.add(t)
}

// unreadable deals with a record that is no task. One of a newer release stops the partition, since skipping it would lose it. Anything else was not
// written by a router: it becomes a dead letter with its bytes, and does not stop what stands behind it.
func (in *intake) unreadable(p *part, r *kafka.Record, it *item, err error) (on bool) {
	var newer *schemas.NewerSchemaError
	if errors.As(err, &newer) {
		in.d.stopPart(p, fmt.Errorf("offset %d: %w", r.Offset, err))
		return false
	}
	in.d.log.Error("a record of a task topic is no task; it is kept as a dead letter", zap.String("topic", p.tp.Topic), zap.Int32("partition", p.tp.Partition),
		zap.Int64("offset", r.Offset), zap.Error(err))
	it.Task = schemas.Task{
		ID:           schemas.TaskID(schemas.Source{Topic: p.tp.Topic, Partition: p.tp.Partition, Offset: r.Offset}, "", string(r.Key), ""),
		Subscription: string(r.Key), Source: schemas.Source{Topic: p.tp.Topic, Partition: p.tp.Partition, Offset: r.Offset, Time: r.Time},
		Attempt: 1, ContentType: "application/octet-stream", Body: r.Value,
	}
	it.out = outcome{verdict: schemas.VerdictDead, reason: schemas.ReasonProtocol, started: time.Now(), detail: "the record could not be read as a task"}
	return true
}

// settle looks all items up and hands them to their lanes.
func (in *intake) settle(ctx context.Context) {
	if len(in.items) == 0 {
		return
	}
	d := in.d
	var bytes, replays int64
	asked, others := time.Now(), false
	in.marks = in.marks[:0]
	for _, it := range in.items {
		bytes += int64(it.size)
		if it.replay {
			replays++
		}
		others = others || it.part.inOtherHands(it.offset, asked)
		in.marks = append(in.marks, Mark{TaskID: it.ID, Round: it.Round, Attempt: it.Attempt})
	}
	d.memory.take(int64(len(in.items)), bytes, replays)
	if cap(in.seen) < len(in.items) {
		in.seen, in.over = make([]bool, len(in.items)), make([]bool, len(in.items))
	}
	in.seen, in.over = in.seen[:len(in.items)], in.over[:len(in.items)]
	clear(in.seen)
	clear(in.over)
	var inHand []bool
	if others {
		in.inHand = slices.Grow(in.inHand[:0], len(in.items))[:len(in.items)]
		inHand = in.inHand
	}
	if d.marks.Look(ctx, in.marks, in.seen, in.over, inHand) {
		d.metrics.failOpen.Inc()
	}
	d.recent.look(in.marks, in.seen, in.over)
	now := time.Now()
	for i, it := range in.items {
		if in.seen[i] && d.lines.concern(it.Subscription) {
			it.mark = markOf(in.over[i])
		} else if in.seen[i] {
			fault.Before(fault.IntakeSeen)
			d.metrics.skipped.Inc()
			d.finishOffset(it.part, it.offset)
			d.memory.release(it)
			fault.After(fault.IntakeSeen, nil)
			continue
		}
		if it.out.verdict != "" {
			d.collect(it)
			continue
		}
		if others && inHand[i] && it.part.inOtherHands(it.offset, asked) {
			d.metrics.awaited.Inc()
			it.awaits = later(it.awaits, now.Add(handMost))
		}
		l := d.laneOf(it.Subscription, now)
		if len(in.byLane[l]) == 0 {
			in.touched = append(in.touched, l)
		}
		in.byLane[l] = append(in.byLane[l], it)
	}
	in.catchUp(ctx)
	for _, l := range in.touched {
		fault.Before(fault.IntakePlace)
		in.place(l, in.byLane[l], now)
		fault.After(fault.IntakePlace, nil)
		clear(in.byLane[l])
		in.byLane[l] = in.byLane[l][:0]
	}
	if len(in.byLane) > 4096 {
		clear(in.byLane)
	}
	clear(in.items)
	clear(in.touched)
	in.items, in.touched = in.items[:0], in.touched[:0]
}

// place gives a lane its tasks of this batch: those due now go in line, those due within moments wait in memory, the others go on to a smaller tier.
func (in *intake) place(l *lane, items []*item, now time.Time) {
	d := in.d
	l.mu.Lock()
	defer func() { l.mu.Unlock() }()
	l.orderNow(now)
	ready := items[:0]
	for _, it := range items {
		for l.closed { // between laneOf and here
			l.mu.Unlock()
			l = d.laneOf(it.Subscription, now)
			l.mu.Lock()
			l.orderNow(now)
		}
		if it.mark != markNone {
			d.metrics.skipped.Inc()
			l.marked(it, now)
			continue
		}
		if _, first := l.admit(it, now); !first {
			d.metrics.copies.Inc()
		} else if l.whenDue(it, now) {
			ready = append(ready, it)
		}
	}
	if len(ready) > 0 {
		l.enqueue(ready, now)
	}
}

// catchUp makes sure that the table knows what the tasks of this batch refer to (design rule 10): at most one reading to the end per batch.
func (in *intake) catchUp(ctx context.Context) {
	d := in.d
	var behind []*lane
	for _, l := range in.touched {
		newest := int64(0)
		for _, it := range in.byLane[l] {
			newest = max(newest, it.SubscriptionVersion)
		}
		l.mu.Lock()
		asks := newest > l.known
		l.mu.Unlock()
		if !asks {
			continue
		}
		if live, ok := d.table.Get(l.id); !ok || live.Version < newest {
			behind = append(behind, l)
			continue
		}
		l.mu.Lock()
		l.known = max(l.known, newest)
		l.orderAt = 0 // the lane may have been asked about the record before its note came
		l.mu.Unlock()
	}
	if len(behind) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, catchUpMost)
	err := d.table.CatchUp(bounded)
	cancel()
	if err != nil {
		d.log.Warn("the subscriptions could not be read to their end; tasks are tried by what is known", zap.Error(err))
	}
	for _, l := range behind {
		newest := int64(0)
		for _, it := range in.byLane[l] {
			newest = max(newest, it.SubscriptionVersion)
		}
		live, ok := d.table.Get(l.id)
		l.changes.Add(1)
		if !ok && err != nil {
			// Not knowing is not knowing that it is gone: these wait in a tier.
			in.unknown(l)
			continue
		}
		l.mu.Lock()
		if ok && live.Version < newest && !l.warned {
			l.warned = true
			d.log.Warn("a task names a newer version of its subscription than the topic has; it is tried by what stands", zap.String("subscription", l.id),
				zap.Int64("version", newest), zap.Int64("stands", live.Version))
		}
		if ok {
			l.known = max(l.known, newest)
		}
		l.orderAt = 0
		l.mu.Unlock()
	}
}

// catchUpMost bounds the reading of the subscriptions to their end.
const catchUpMost = 5 * time.Second

// unknown postpones a lane's tasks of this batch because nobody can say by which settings they are to be tried.
func (in *intake) unknown(l *lane) {
	d, now := in.d, time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strict, l.orderAt = true, 0 // perhaps it asks for order: until that is known, nobody overtakes these
	for _, it := range in.byLane[l] {
		if it.mark != markNone && !l.closed {
			l.marked(it, now)
			continue
		}
		switch open, first := l.admit(it, now); {
		case !open:
			it.out = outcome{verdict: schemas.VerdictPostponed, reason: schemas.ReasonLocal, due: now.Add(d.tiers[0].Wait)}
			d.collect(it)
		case first:
			l.handBack(it, schemas.ReasonLocal, 0, now)
		}
	}
	in.byLane[l] = in.byLane[l][:0]
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// placed says that everything stands in its lane that this loop has taken of `retry`.
func (in *intake) placed() {
	if in.fetcher == in.d.hot {
		in.d.lines.placed()
	}
}
