package deliverer

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// A redrive puts dead tasks back in line. Its order is a record in `replays`; the owner of partition p of `dead` reads that partition from its start to
// the end that the order names, and writes each dead letter that it asks for to the smallest tier, as attempt 1 of the round after the letter's,
// due now. Behind it goes a marker to `dead`, which says that the letter is taken out (taken.go). How far the order has come stands in `progress`.
//
// A letter is taken out once, whatever is ordered, and however long ago: before an owner works a partition off it reads all markers in it, and one partition's
// orders are worked off one after the other.
//
// What if the process dies
//
//	between the members in `lines` and the tier's records: the successor loads members for which nothing has come up. The letters stand, and get their tasks from it.
//	between the tier's records and the markers: the successor writes the same tasks again, at most redriveBatch of them. They carry the same round, so
//	    their marks in Redis and the rule that a lane holds a task once keep the copies apart. They come up within the same minute.
//	between the markers and the progress record: the successor goes over the same letters, finds the markers, and writes nothing. The markers
//	    name the redrive and the letter, so it counts them as the dead owner would have done.
//	after the progress record: the successor goes on behind it.
//	earlier, between a dead letter and its mark: the successor tried the task again, and it died again. Two letters of one death stand in `dead`; their
//	    tasks carry the same round, because it counts the redrives of the task and does not name the letter: one marker takes out both.
//
// When every partition is through, the owner of the first writes the order once more, as done. Dying before that costs nothing: its successor finds the same
// progress.
//
// Partitions are worked off redriveAbreast at a time, each for as long as it moves on: one that cannot be read or written gives its place up after
// redriveStuck, and is tried again later.
type redriver struct {
	d      *Deliverer
	signal chan struct{} // capacity 1: an order, an assignment or an awaited subscription has changed, or lines are loaded
	waits  atomic.Int32  // orders that wait until their subscription is live again

	mu    sync.Mutex
	books map[int32]*book
}

// book is what is known of a partition of `dead` while this process owns it and has something to do there. One goroutine at a time has it.
type book struct {
	own *part // of `retry`: the same for as long as nobody else has had the partition
	tp  kafka.TP
	*taken
	// written are letters whose tasks stand in the tier and whose markers are not acknowledged. Without it a partition of `dead` that takes nothing
	// would have its letters written to the tier again with each try.
	written map[recentMark]bool
	// unwritten are places that letters have in lines while their tasks do not stand in the tier.
	unwritten map[*standing]givenPlace
}

const (
	redriveBatch   = 500              // dead letters written together
	redriveAgain   = 5 * time.Second  // after a failure
	redriveLook    = time.Minute      // while an order waits for its subscription
	redriveAbreast = 4                // partitions
	redriveStuck   = 10 * time.Second // without a step forward
	// orphanMost is how long an order may name a subscription that nobody knows.
	orphanMost = time.Hour
)

func newRedriver(d *Deliverer) *redriver {
	return &redriver{d: d, signal: make(chan struct{}, 1), books: map[int32]*book{}}
}

func (r *redriver) wake() { poke(r.signal) }

// changed is the table's note: an order may have waited for it.
func (r *redriver) changed() {
	if r.waits.Load() > 0 {
		r.wake()
	}
}

// run works off what is ours, until ctx ends.
func (r *redriver) run(ctx context.Context) {
	look := newStopped()
	defer look.Stop()
	for {
		if r.waits.Load() > 0 {
			look.Reset(redriveLook)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.signal:
		case <-look.C:
		}
		if r.work(ctx) {
			continue
		}
		pause(ctx, redriveAgain)
		r.wake()
	}
}

// work does what there is to do in our partitions. False: something failed, come again.
func (r *redriver) work(ctx context.Context) bool {
	orders := r.d.replays.redrives()
	open := map[int32][]*schemas.Replay{}
	var failed atomic.Bool
	waits := int32(0)
	for _, o := range orders {
		if o.Cut != 0 {
			ready, err := r.resumed(ctx, o)
			if err != nil && ctx.Err() == nil {
				r.d.log.Warn("a redrive whose subscription is gone cannot be taken back yet", zap.String("replay", o.ID), zap.Error(err))
				failed.Store(true)
			}
			if !ready {
				waits++
				continue
			}
		}
		for _, p := range r.partitions(o) {
			if !r.through(o.ID, p) {
				open[p] = append(open[p], o)
			}
		}
	}
	r.waits.Store(waits)
	var parts sync.WaitGroup
	places := make(chan struct{}, redriveAbreast)
	for p, list := range open {
		own := r.d.owned(p)
		if own == nil || own.unlined.Load() || ctx.Err() != nil {
			continue // what is not loaded yet has no epoch, and members need one; lines.install wakes us
		}
		places <- struct{}{}
		parts.Go(func() {
			defer func() { <-places }()
			if err := r.partition(ctx, r.book(own), list); err != nil && ctx.Err() == nil {
				r.d.log.Warn("redrives have to wait", zap.Int32("partition", p), zap.Int("orders", len(list)), zap.Error(err))
				failed.Store(true)
				return
			}
			r.shut(p)
		})
	}
	parts.Wait()
	r.shutOthers(open)
	for _, o := range orders {
		if err := r.close(ctx, o); err != nil && ctx.Err() == nil {
			r.d.log.Warn("a redrive is through and cannot be called done yet", zap.String("replay", o.ID), zap.Error(err))
			failed.Store(true)
		}
	}
	return !failed.Load()
}

// partitions are those of `dead` that an order names, in its order.
func (r *redriver) partitions(o *schemas.Replay) (out []int32) {
	if o.Cut != 0 {
		return []int32{kafka.Partition([]byte(o.Subscription), r.d.kafka.Config().Partitions)}
	}
	for _, end := range o.Ends {
		if end.Topic == r.d.topics.Dead {
			out = append(out, end.Partition)
		}
	}
	return out
}

// through says that a partition of an order is worked off.
func (r *redriver) through(id string, partition int32) bool {
	p, _ := r.d.replays.progressOf(id, partition)
	return p.Done
}

// book is the book of a partition. One of an earlier time of ours is of no use: others may have written to the partition since.
func (r *redriver) book(own *part) *book {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := own.tp.Partition
	b := r.books[p]
	if b == nil || b.own != own {
		b = &book{own: own, tp: kafka.TP{Topic: r.d.topics.Dead, Partition: p}, taken: newTaken(), written: map[recentMark]bool{},
			unwritten: map[*standing]givenPlace{}}
		r.books[p] = b
	}
	return b
}

// shut forgets a book: there is nothing more to do.
func (r *redriver) shut(partition int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.d.lines.giveUp(r.books[partition].unwritten)
	delete(r.books, partition)
}

// shutOthers forgets the books of partitions that others own by now. Where no order asks for anything any more, as when it was cancelled after a failure, nobody comes
// to write what is unwritten.
func (r *redriver) shutOthers(open map[int32][]*schemas.Replay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, b := range r.books {
		switch {
		case b.own.lost.Load():
			delete(r.books, p)
		case open[p] == nil:
			r.d.lines.giveUp(b.unwritten)
		}
	}
}

// steps bounds work that may stand still: its context ends after redriveStuck without a move.
type steps struct {
	context.Context
	timer *time.Timer
}

func (s *steps) moved() { s.timer.Reset(redriveStuck) }

// partition works the open orders of one partition off, or as much of it as it can without standing still for redriveStuck.
func (r *redriver) partition(ctx context.Context, b *book, orders []*schemas.Replay) error {
	ctx, stuck := context.WithCancelCause(ctx)
	defer stuck(nil)
	s := &steps{ctx, time.AfterFunc(redriveStuck, func() { stuck(errStuck) })}
	defer s.timer.Stop()
	for _, o := range orders {
		if err := r.part(s, o, b); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		s.moved()
	}
	return nil
}

// catchUp reads the markers that are not read yet.
func (r *redriver) catchUp(s *steps, b *book) error {
	if !r.holds(b) { // before the end is asked for: what an owner before us wrote lies below it
		return errNotOurs
	}
	return scan(s, r.d.kafka, map[kafka.TP]int64{b.tp: b.next}, func(int64, int64) { s.moved() }, func(_ kafka.TP, rec *kafka.Record) bool {
		b.note(rec)
		return true
	})
}

func (r *redriver) holds(b *book) bool { return r.d.owned(b.tp.Partition) == b.own }

// part works one partition of an order off.
func (r *redriver) part(s *steps, o *schemas.Replay, b *book) error {
	if err := r.catchUp(s, b); err != nil {
		return err
	}
	begin, end, err := r.bounds(s, o, b)
	if err != nil {
		return err
	}
	p, known := r.d.replays.progressOf(o.ID, b.tp.Partition)
	if !known {
		p = schemas.Progress{Replay: o.ID, Topic: b.tp.Topic, Partition: b.tp.Partition}
	}
	p.Next = max(p.Next, begin)
	if p.Next >= end {
		p.Done = true
		return r.save(s, &p)
	}
	reading, stop := context.WithCancel(s)
	defer stop()
	f := r.d.kafka.NewFetcher(kafka.FetchConfig{OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(map[kafka.TP]int64{b.tp: p.Next})
	var failed error
	err = f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			if failed = r.batches(s, o, end, b, &p, bs[i].Records); failed != nil || p.Done {
				stop()
				return nil
			}
		}
		return nil
	})
	if failed != nil || p.Done {
		return failed
	}
	return cmp.Or(s.Err(), err)
}

// batches puts back what the order asks for among these records, and notes how far it has come.
func (r *redriver) batches(s *steps, o *schemas.Replay, end int64, b *book, p *schemas.Progress, rs []kafka.Record) error {
	for len(rs) > 0 && !p.Done {
		n := min(len(rs), redriveBatch)
		if !r.holds(b) {
			return errNotOurs
		}
		if !r.d.replays.running(o.ID) {
			p.Done = true
			return nil
		}
		if err := r.put(s, o, end, b, p, rs[:n]); err != nil {
			return err
		}
		p.Done = p.Next >= end
		if err := r.save(s, p); err != nil {
			return err
		}
		s.moved()
		rs = rs[n:]
	}
	return nil
}

var (
	errStuck   = errors.New("the partition has given and taken nothing for 10 s (has it a leader?)")
	errNotOurs = errors.New("the partition belongs to another deliverer now")
)

// put takes out the letters that the order asks for: their tasks go to the smallest tier, behind their members in `lines` where order is kept, and then
// the markers go to `dead`.
func (r *redriver) put(ctx context.Context, o *schemas.Replay, end int64, b *book, p *schemas.Progress, rs []kafka.Record) error {
	t := r.choose(o, end, b, p, rs)
	err := r.write(ctx, fault.RedriveLines, &t.members)
	if err == nil {
		err = r.write(ctx, fault.RedriveTasks, &t.tasks)
	}
	if err == nil {
		for _, st := range t.places {
			delete(b.unwritten, st)
		}
		for _, key := range t.put {
			b.written[key] = true
		}
		r.d.metrics.redriven.Add(float64(len(t.put)))
		err = r.write(ctx, fault.RedriveMarkers, &t.markers)
	}
	if err != nil {
		b.forget(t.fresh) // those that are written after all are read before the next try
		return err
	}
	for _, key := range t.put {
		delete(b.written, key)
	}
	return nil
}

// takings are what comes of a batch of dead letters.
type takings struct {
	members, tasks, markers kafka.Records
	fresh                   []recentMark // letters that are entered in the book
	put                     []recentMark // of these, those whose task is among tasks
	places                  []*standing  // of those in lines
}

// choose makes the records for the letters that the order asks for and that stand, enters them in the book, and moves p on.
func (r *redriver) choose(o *schemas.Replay, end int64, b *book, p *schemas.Progress, rs []kafka.Record) (out takings) {
	var buf []byte
	var dead schemas.Dead
	now := time.Now().UnixMilli()
	tier := kafka.TP{Topic: r.d.tiers[0].Name, Partition: b.tp.Partition}
	for i := range rs {
		rec := &rs[i]
		if rec.Offset < p.Next {
			continue
		}
		if rec.Offset >= end {
			p.Next = end
			break
		}
		p.Next = rec.Offset + 1
		p.Scanned++
		if err := schemas.DecodeDead(rec.Value, &dead); err != nil {
			r.d.log.Error("a dead letter cannot be read", zap.Int32("partition", b.tp.Partition), zap.Int64("offset", rec.Offset), zap.Error(err))
			continue
		}
		if !wanted(o, &dead) {
			continue
		}
		elsewhere := r.elsewhere(o, &dead)
		t := dead.Task
		if !b.take(&t, o.ID, rec.Offset) {
			if !elsewhere && b.tookThis(&t, o.ID, rec.Offset) {
				p.Matched++ // by an owner before us, who did not come to note it
			}
			continue
		}
		key := letterOf(&t)
		out.fresh = append(out.fresh, key)
		at := schemas.Source{Topic: b.tp.Topic, Partition: b.tp.Partition, Offset: rec.Offset, Time: dead.At}
		buf = appendMarker(buf[:0], o.ID, t.Subscription, &t, at, now)
		out.markers.Add(b.tp, []byte(t.Subscription), nil, buf)
		if elsewhere {
			continue
		}
		p.Matched++
		if b.written[key] {
			continue
		}
		out.put = append(out.put, key)
		t.Round, t.Attempt, t.Due, t.Postponed, t.FirstTriedAt = t.Round+1, 1, now, 0, 0
		t.Last = &schemas.LastAttempt{At: dead.At, Status: dead.Status, Reason: dead.Reason, Detail: dead.Detail}
		if at := r.d.lines.putBack(b.own, &t, &out.members); at.st != nil {
			b.unwritten[at.st] = at
			out.places = append(out.places, at.st)
		}
		buf = schemas.AppendTask(buf[:0], &t)
		out.tasks.Add(tier, []byte(t.Subscription), nil, buf)
	}
	return out
}

// elsewhere says that a letter's event comes to its receiver by a catch-up as well: it was routed by a router that did not know yet of a pause. The letter
// is taken out and not sent, but for an order that names the task itself.
func (r *redriver) elsewhere(o *schemas.Replay, dead *schemas.Dead) bool {
	if dead.Reason != schemas.ReasonPaused || o.TaskID != "" {
		return false
	}
	live, ok := r.d.table.Get(dead.Task.Subscription)
	return ok && live.CaughtUp(&dead.Task)
}

// write appends records at a named point, if there are any.
func (r *redriver) write(ctx context.Context, at fault.Point, out *kafka.Records) error {
	if out.Len() == 0 {
		return nil
	}
	if err := fault.Before(at); err != nil {
		return err
	}
	_, err := r.d.appender.Append(ctx, out)
	return fault.After(at, err)
}

// wanted says whether an order asks for a dead letter. One without its body cannot be sent, by no redrive; neither can a marker.
func wanted(o *schemas.Replay, dead *schemas.Dead) bool {
	return len(dead.Task.Body) > 0 && !dead.TakesOut() && matches(o, dead)
}

// matches says whether the filters of an order let a dead letter through.
func matches(o *schemas.Replay, dead *schemas.Dead) bool {
	t := &dead.Task
	switch {
	case o.Subscription != "" && t.Subscription != o.Subscription,
		o.Company != "" && o.Company != schemas.AnyCompany && t.Company != o.Company,
		o.Reason != "" && dead.Reason != o.Reason,
		!subscriptions.Matches(o.Events, t.EventType),
		o.Entity != "" && t.EntityID != o.Entity,
		o.EventID != "" && t.EventID != o.EventID,
		o.TaskID != "" && t.ID != o.TaskID,
		o.From != 0 && dead.At < o.From,
		o.To != 0 && dead.At >= o.To:
		return false
	}
	return true
}

// save notes how far an order has come in a partition.
func (r *redriver) save(ctx context.Context, p *schemas.Progress) error {
	p.At = time.Now().UnixMilli()
	key := []byte(p.Replay + "/" + strconv.Itoa(int(p.Partition)))
	var out kafka.Records
	out.Add(kafka.TP{Topic: r.d.topics.Progress, Partition: kafka.Partition(key, r.d.kafka.Config().Partitions)}, key, nil, schemas.AppendProgress(nil, p))
	if err := r.write(ctx, fault.RedriveProgress, &out); err != nil {
		return err
	}
	r.d.replays.saved(p)
	return nil
}

// close writes that an order is done, if it is and if that is ours to say.
func (r *redriver) close(ctx context.Context, o *schemas.Replay) error {
	over := *o
	over.State = schemas.ReplayDone
	places := r.partitions(o)
	for _, p := range places {
		at, _ := r.d.replays.progressOf(o.ID, p)
		if !at.Done {
			return nil
		}
		if o.Cut != 0 {
			over.Ends = []schemas.PartitionOffset{{Topic: r.d.topics.Dead, Partition: p, Offset: at.Next}}
		}
	}
	first := int32(0)
	if len(places) > 0 {
		first = places[0]
	}
	if !r.d.Owns(first) || !r.d.replays.running(o.ID) {
		return nil
	}
	if err := r.restate(ctx, &over); err != nil {
		return err
	}
	r.d.log.Info("a redrive is done", zap.String("replay", o.ID))
	return nil
}

// restate writes an order that is over.
func (r *redriver) restate(ctx context.Context, o *schemas.Replay) error {
	key := []byte(o.ID)
	var out kafka.Records
	out.Add(kafka.TP{Topic: r.d.topics.Replays, Partition: kafka.Partition(key, r.d.kafka.Config().Partitions)}, key, nil, schemas.AppendReplay(nil, o))
	bounded, cancel := context.WithTimeout(ctx, redriveStuck)
	defer cancel()
	if _, err := r.d.appender.Append(bounded, &out); err != nil {
		return err
	}
	r.d.replays.over(o)
	return nil
}
