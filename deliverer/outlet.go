package deliverer

import (
	"errors"
	"iter"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// This file is what the flusher does where a partition takes no records. Two things can be wrong with one:
//
// It takes nothing for now: no leader, too few replicas, no right to write. What goes to it waits in its outlet, in memory, and so do the offsets of
// these items; everything else goes on. If more waits than one partition's share (shareOf), all that leads there stops, which is the tasks of the same
// partition number: they are not read, and their lanes send nothing (choked). The Appender tries on, at least twice a second.
//
// It takes everything but some record: too large, against a policy of the broker. The rest of its batch is written once, in ever smaller pieces
// until the record stands alone (refuse). Of this record nothing that is owed may be lost, and nobody may be told that it was done:
//
//	an attempt: is written without the receiver's answer; if that is refused as well, what it says stands in our log, and the task goes on. What was
//	    owed is done or stands in a tier already; only its history is poorer.
//	a task for a tier: becomes a dead letter, with its body, which is there to be seen and to be redriven.
//	a dead letter: is kept in memory and tried again each minute. Its offset stays open, so that a restart brings it back.

const (
	// sickAfter is how long a write may take before its partition counts as one that takes nothing.
	sickAfter = time.Second
	// refusedAgain is when a dead letter is tried again that was refused for good: somebody must change a setting of the broker first.
	refusedAgain = time.Minute
	// refusedFor is how long any other record is tried that is refused for good, each refusedSoon: a setting may be under change, and what is refused now is taken then.
	refusedFor, refusedSoon = 3 * time.Second, time.Second
	// freeMost are the writes that are kept for their buffers.
	freeMost = 32
	// shareLeast is how many items one partition may hold at least, however many partitions share the memory.
	shareLeast = 16
)

// outlet is the way to one partition of a topic that outcomes go to. The books of the collector guard it.
type outlet struct {
	shelf    *shelf
	at       fault.Point // of its writes
	tp       kafka.TP
	appender *kafka.Appender
	write    *kafka.Write // under way; nil: none
	since    time.Time    // when it began
	flying   []*item      // what it writes, in order
	waiting  []*item      // what comes after it
	most     int          // so many go at once, because some record was refused; 0: any number
	ended    func()       // of each write: leaves a note
}

// shelf holds the outlets of all topics for one partition number, which is the number of the partitions that their tasks come from.
type shelf struct {
	partition int32
	tried     outlet
	dead      outlet
	tiers     []outlet
	line      outlet // members of lines; all of them before their tier records
	refused   []refusal
	held      int   // items in the outlets, and refused
	bytes     int64 // of these
	sick      bool
}

// refusal is an item whose record was refused for good.
type refusal struct {
	o     *outlet
	it    *item
	again time.Time
}

// all are the outlets of a shelf.
func (s *shelf) all() iter.Seq[*outlet] {
	return func(yield func(*outlet) bool) {
		if !yield(&s.line) {
			return
		}
		for i := range s.tiers {
			if !yield(&s.tiers[i]) {
				return
			}
		}
		_ = yield(&s.dead) && yield(&s.tried)
	}
}

// shelfOf finds or makes the shelf of a partition number.
func (f *flusher) shelfOf(partition int32) *shelf {
	c := &f.d.collector
	s := c.shelves[partition]
	if s != nil {
		return s
	}
	s = &shelf{partition: partition, tiers: make([]outlet, len(f.d.tiers))}
	open := func(o *outlet, topic string, a *kafka.Appender, at fault.Point) {
		o.shelf, o.at, o.tp, o.appender = s, at, kafka.TP{Topic: topic, Partition: partition}, a
		o.ended = func() {
			f.noteMu.Lock()
			f.ended = append(f.ended, o)
			f.noteMu.Unlock()
			poke(f.acked)
		}
	}
	for i := range s.tiers {
		open(&s.tiers[i], f.d.tiers[i].Name, f.d.appender, fault.FlushTiers)
	}
	open(&s.line, f.d.topics.Lines, f.d.appender, fault.FlushLines)
	open(&s.dead, f.d.topics.Dead, f.d.appender, fault.FlushDead)
	open(&s.tried, f.d.topics.Attempts, f.d.attempts, fault.FlushAttempts)
	if c.shelves == nil {
		c.shelves = map[int32]*shelf{}
	}
	c.shelves[partition] = s
	return s
}

// put gives an item to an outlet.
func (s *shelf) put(o *outlet, it *item) {
	o.waiting = append(o.waiting, it)
	s.held++
	s.bytes += int64(it.size)
}

// askAgain puts refused items whose time has come back in line.
func (s *shelf) askAgain(now time.Time) {
	s.refused = slices.DeleteFunc(s.refused, func(r refusal) bool {
		if r.again.After(now) {
			return false
		}
		r.o.waiting = append(r.o.waiting, r.it)
		return true
	})
}

// begin starts a write wherever something waits and none is under way: together, so that they travel together. The books are held.
func (f *flusher) begin(now time.Time) (open bool) {
	var later, tried []*kafka.Write
	for _, s := range f.d.collector.shelves {
		open = open || s.held > 0
		for o := range s.all() {
			if o.write != nil || len(o.waiting) == 0 || fault.Before(o.at) != nil {
				continue
			}
			f.load(o, now)
			if o == &s.tried {
				tried = append(tried, o.write)
			} else {
				later = append(later, o.write)
			}
		}
	}
	// An error says that the client is closed, and then ctx ends too.
	if later != nil {
		f.d.appender.Begin(later...)
	}
	if tried != nil {
		f.d.attempts.Begin(tried...)
	}
	return open
}

// load makes an outlet's next write.
func (f *flusher) load(o *outlet, now time.Time) {
	if n := len(f.free); n > 0 {
		o.write, f.free = f.free[n-1], f.free[:n-1]
	} else {
		o.write = new(kafka.Write)
	}
	o.write.Ended, o.since = o.ended, now
	most := len(o.waiting)
	if o.most > 0 {
		most = min(most, o.most)
	}
	n := 0
	for n < most && (n == 0 || n < flushMost && o.write.Records.Size() < flushBytes) {
		f.add(o, o.waiting[n], &o.write.Records)
		n++
	}
	if n == len(o.waiting) {
		o.flying, o.waiting = o.waiting, o.flying[:0]
		return
	}
	o.flying = append(o.flying[:0], o.waiting[:n]...)
	o.waiting = slices.Delete(o.waiting, 0, n)
}

// settleOne takes over what became of an outlet's write, batch by batch.
func (f *flusher) settleOne(o *outlet, now time.Time) {
	acks, _ := o.write.Result()
	lost := fault.After(o.at, nil)
	if len(f.free) < freeMost {
		f.free = append(f.free, o.write)
	}
	o.write = nil
	items := o.flying
	var again []*item
	refused := false
	for i := range acks {
		batch := items[:acks[i].Count]
		items = items[acks[i].Count:]
		if acks[i].Err == nil && lost == nil {
			for _, it := range batch {
				f.stored(o, it, now)
			}
			continue
		}
		var pe *kafka.PartitionError
		if !errors.As(acks[i].Err, &pe) || !pe.Rejected {
			again = append(again, batch...)
			continue
		}
		refused = true
		if len(batch) > 1 {
			o.most = max(1, len(batch)/2)
			again = append(again, batch...)
		} else if f.refuse(o, batch[0], pe, now) {
			again = append(again, batch[0])
		}
	}
	if len(items) > 0 {
		panic("BUG: a write ends without an answer for each of its records")
	}
	if !refused && o.most > 0 {
		if o.most *= 2; o.most >= flushMost {
			o.most = 0
		}
	}
	clear(o.flying)
	o.flying = o.flying[:0]
	o.waiting = slices.Insert(o.waiting, 0, again...)
}

// refuse decides what becomes of an item whose record Kafka will never take. True: the outlet tries it again, written shorter.
func (f *flusher) refuse(o *outlet, it *item, err error, now time.Time) (again bool) {
	d, s := f.d, o.shelf
	d.metrics.refused.WithLabelValues(o.tp.Topic).Inc()
	fields := []zap.Field{zap.String("topic", o.tp.Topic), zap.Int32("partition", o.tp.Partition), zap.String("task", it.ID), zap.String("subscription", it.Subscription),
		zap.Error(err)}
	switch {
	case o == &s.tried && (it.out.answer != nil || it.out.detail != "" || it.out.address != ""):
		d.log.Error("Kafka refuses an attempt's record; it is written without the answer and its details", fields...)
		it.out.answer, it.out.detail, it.out.address = nil, "", ""
		return true
	case o != &s.dead && it.refusedFor(now) < refusedFor:
		s.refused = append(s.refused, refusal{o, it, now.Add(refusedSoon)})
	case o == &s.tried:
		d.log.Error("Kafka refuses an attempt's record for good; it stands here and nowhere else", append(fields, zap.Int32("attempt", it.Attempt),
			zap.Int64("round", it.Round), zap.Time("at", it.out.started), zap.Duration("took", it.out.duration), zap.String("verdict", string(it.out.verdict)),
			zap.String("reason", string(it.out.reason)), zap.Int32("status", it.out.status))...)
		f.stored(o, it, now)
	case o == &s.line:
		d.log.Error("Kafka refuses a member of a line for good; its task goes on, and after a change of owner later ones of its entity may overtake it", fields...)
		f.stored(o, it, now)
	case o == &s.dead:
		d.log.Error("Kafka refuses a dead letter for good; it is kept in memory, its offset stays open, and it is tried again each minute (is max.message.bytes of dead "+
			"smaller than that of retry?)", fields...)
		s.refused = append(s.refused, refusal{o, it, now.Add(refusedAgain)})
	default:
		d.log.Error("Kafka refuses a task for its tier for good; it becomes a dead letter (is max.message.bytes of the tier smaller than that of retry?)", fields...)
		if it.out.started.IsZero() {
			it.out.started = now
		}
		if it.out.verdict != schemas.VerdictRetry {
			it.out.reason = schemas.ReasonLocal
		}
		it.out.verdict, it.out.due, it.out.detail = schemas.VerdictDead, time.Time{}, "its tier refuses the record"
		s.dead.waiting = append(s.dead.waiting, it)
	}
	return false
}

// refusedFor is for how long an item's record has been refused.
func (it *item) refusedFor(now time.Time) time.Duration {
	if it.refused.IsZero() {
		it.refused = now
	}
	return now.Sub(it.refused)
}

// judge sees which shelves have a partition that takes nothing, says so once, and chokes those that hold more than their share. The books are held.
func (f *flusher) judge(now time.Time) {
	d := f.d
	var choked map[int32]bool
	changed := false
	for _, s := range d.collector.shelves {
		sick := len(s.refused) > 0
		for o := range s.all() {
			if o.write == nil || now.Sub(o.since) <= sickAfter {
				continue
			}
			sick = true
			if !s.sick {
				d.metrics.flushFailed.Inc()
				d.log.Error("a partition takes no outcomes; those that go to it wait in memory, their tasks stay unfinished, and it is tried again",
					zap.String("topic", o.tp.Topic), zap.Int32("partition", o.tp.Partition), zap.Int("waiting", s.held))
			}
		}
		if s.sick && !sick {
			d.log.Info("all outcomes of a partition are written again", zap.Int32("partition", s.partition))
		}
		s.sick = sick
		was, is := d.chokes(s.partition), false
		if sick {
			tasks, bytes := d.shareOf()
			if was { // so that it does not go to and fro
				tasks, bytes = tasks/2, bytes/2
			}
			is = s.held >= tasks || s.bytes >= bytes
		}
		changed = changed || is != was
		if is {
			if choked == nil {
				choked = map[int32]bool{}
			}
			choked[s.partition] = true
		}
	}
	if !changed {
		return
	}
	if choked == nil {
		d.choked.Store(nil)
	} else {
		d.choked.Store(&choked)
	}
	if d.memory.onRoom != nil {
		d.memory.onRoom()
	}
}

// shareOf is how many outcomes may wait for partitions of one number: all numbers together a quarter of the memory, so that even when every one of them
// takes nothing for now there is room for what is in the lanes.
func (d *Deliverer) shareOf() (tasks int, bytes int64) {
	owned := 0
	for tp := range *d.parts.Load() {
		if tp.Topic == d.topics.Retry {
			owned++
		}
	}
	share := int64(4 * max(owned, 1))
	return max(shareLeast, int(d.cfg.TasksInMemory/share)), d.cfg.BytesInMemory / share
}

// chokes says that tasks of a partition number may not be read or sent, because what came of them cannot be written.
func (d *Deliverer) chokes(partition int32) bool {
	m := d.choked.Load()
	return m != nil && (*m)[partition]
}

// heldCounts is how many items the outlets hold, by partition number.
func (c *collector) heldCounts() map[int32]int {
	c.books.Lock()
	defer c.books.Unlock()
	out := make(map[int32]int, len(c.shelves))
	for _, s := range c.shelves {
		out[s.partition] = s.held
	}
	return out
}

// drained says that everything of the flush of this number, and of those before, is written, but for what goes to partitions that take nothing.
func (c *collector) drained(taken uint64) bool {
	c.books.Lock()
	defer c.books.Unlock()
	for _, s := range c.shelves {
		if s.sick {
			continue
		}
		for o := range s.all() {
			for _, it := range o.flying {
				if it.taken <= taken {
					return false
				}
			}
			for _, it := range o.waiting {
				if it.taken <= taken {
					return false
				}
			}
		}
	}
	return true
}

// abandon gives up what is being written: the process ends.
func (f *flusher) abandon() {
	c := &f.d.collector
	c.books.Lock()
	defer c.books.Unlock()
	for _, s := range c.shelves {
		for o := range s.all() {
			if o.write != nil {
				o.appender.Abandon(o.write)
			}
		}
	}
}
