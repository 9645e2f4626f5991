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
// due now. How far it has come stands in `progress`.
//
// What if the process dies
//
//	between the tier's records and the progress record: the successor writes the same tasks again. They carry the same round, so their marks and the
//	    rule that a lane holds a task once keep the copies apart.
//	after the progress record: the successor goes on behind it.
//	earlier, between a dead letter and its mark: the successor tried the task again, and it died again. Two letters of one death stand in `dead`; their
//	    tasks carry the same round, because it counts the redrives of the task and does not name the letter.
//
// When every partition is through, the owner of the first that the order names writes the order once more, as done. Dying before that costs nothing: its
// successor finds the same progress. Orders that are over leave our memory, and so does their progress.
//
// redriver follows both topics and works; run is its goroutine. Partitions are worked off redriveAbreast at a time, each for as long as it moves on: one
// that cannot be read or written gives its place up after redriveStuck, and is tried again later.
type redriver struct {
	d      *Deliverer
	signal chan struct{} // capacity 1: an order or an assignment has changed

	mu     sync.Mutex
	orders map[string]*schemas.Replay
	done   map[redrivePart]schemas.Progress
	// unread are the partitions of both topics that have not been read to where they ended when we began. Until there are none nothing is redriven: an
	// order stands as running for ever, and whoever reads it before its progress would send again what it sent days ago, when no mark stands any more.
	unread map[kafka.TP]int64
	ready  bool
}

type redrivePart struct {
	replay    string
	partition int32
}

const (
	redriveBatch   = 500              // dead letters written together
	redriveAgain   = 5 * time.Second  // after a failure
	redriveAbreast = 4                // partitions
	redriveStuck   = 10 * time.Second // without a step forward
	// redriveStrange is how long progress is kept whose order has not been read: it may come from another broker, later.
	redriveStrange = time.Hour
)

func newRedriver(d *Deliverer) *redriver {
	return &redriver{d: d, signal: make(chan struct{}, 1), orders: map[string]*schemas.Replay{}, done: map[redrivePart]schemas.Progress{}}
}

func (r *redriver) wake() { poke(r.signal) }

// run follows `replays` and `progress`, and works off what is ours, until ctx ends.
func (r *redriver) run(ctx context.Context) {
	var followers sync.WaitGroup
	defer followers.Wait()
	f := r.d.kafka.NewFetcher(kafka.FetchConfig{MaxWait: max(2*time.Second, r.d.cfg.FetchWait), OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	followers.Go(func() {
		if !r.follow(ctx, f) {
			return
		}
		if err := f.Run(ctx, r.note); err != nil && ctx.Err() == nil {
			r.d.log.Error("replays are not followed any more", zap.Error(err))
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signal:
		}
		if r.work(ctx) {
			continue
		}
		pause(ctx, redriveAgain)
		r.wake()
	}
}

// follow assigns all partitions of both topics from their start.
func (r *redriver) follow(ctx context.Context, f *kafka.Fetcher) bool {
	for ctx.Err() == nil {
		pos, unread := map[kafka.TP]int64{}, map[kafka.TP]int64{}
		var failed error
		for _, topic := range []string{r.d.topics.Replays, r.d.topics.Progress} {
			starts, err := r.d.kafka.Offsets(ctx, topic, kafka.Earliest)
			var ends map[int32]int64
			if err == nil {
				ends, err = r.d.kafka.Offsets(ctx, topic, kafka.Latest)
			}
			if err != nil {
				failed = err
				break
			}
			for p, at := range starts {
				tp := kafka.TP{Topic: topic, Partition: p}
				pos[tp] = at
				if ends[p] > at {
					unread[tp] = ends[p]
				}
			}
		}
		if failed == nil {
			r.mu.Lock()
			r.unread, r.ready = unread, len(unread) == 0
			r.mu.Unlock()
			f.Assign(pos)
			return true
		}
		r.d.log.Warn("replays cannot be read; trying again", zap.Error(failed))
		pause(ctx, time.Second)
	}
	return false
}

// note takes over what stands in both topics.
func (r *redriver) note(_ context.Context, bs []kafka.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := false
	for i := range bs {
		b := &bs[i]
		for j := range b.Records {
			rec := &b.Records[j]
			if b.Topic == r.d.topics.Progress {
				var p schemas.Progress
				if rec.Value == nil || schemas.DecodeProgress(rec.Value, &p) != nil || p.Topic != r.d.topics.Dead {
					continue
				}
				if key := (redrivePart{p.Replay, p.Partition}); p.Next >= r.done[key].Next {
					r.done[key] = p
					changed = changed || p.Done
				}
				continue
			}
			if rec.Value == nil {
				r.forget(string(rec.Key))
				continue
			}
			var order schemas.Replay
			if err := schemas.DecodeReplay(rec.Value, &order); err != nil {
				r.d.log.Error("a replay cannot be read", zap.ByteString("key", rec.Key), zap.Error(err))
				continue
			}
			if order.Kind == schemas.ReplayRedrive && order.State == schemas.ReplayRunning {
				r.orders[order.ID] = &order
				changed = true
			} else {
				r.forget(order.ID)
			}
		}
		if end, ok := r.unread[b.TP]; ok && b.Next >= end {
			delete(r.unread, b.TP)
			r.ready = len(r.unread) == 0
			changed = changed || r.ready
		}
	}
	if changed {
		r.wake()
	}
	return nil
}

// forget drops an order that is over, its progress, and progress that is old and belongs to no order. r.mu is held.
func (r *redriver) forget(id string) {
	delete(r.orders, id)
	strange := time.Now().Add(-redriveStrange).UnixMilli()
	for key, p := range r.done {
		if key.replay == id || r.orders[key.replay] == nil && p.At < strange {
			delete(r.done, key)
		}
	}
}

// work does what there is to do in our partitions. False: something failed, come again.
func (r *redriver) work(ctx context.Context) bool {
	r.mu.Lock()
	if !r.ready {
		r.mu.Unlock()
		return true // note wakes us
	}
	var orders []*schemas.Replay
	for _, o := range r.orders {
		orders = append(orders, o)
	}
	r.mu.Unlock()
	var failed atomic.Bool
	var parts sync.WaitGroup
	places := make(chan struct{}, redriveAbreast)
	for _, o := range orders {
		for _, end := range o.Ends {
			if end.Topic != r.d.topics.Dead || ctx.Err() != nil || !r.d.Owns(end.Partition) || r.through(o.ID, end.Partition) {
				continue
			}
			places <- struct{}{}
			parts.Go(func() {
				defer func() { <-places }()
				if err := r.part(ctx, o, end); err != nil && ctx.Err() == nil {
					r.d.log.Warn("a redrive has to wait", zap.String("replay", o.ID), zap.Int32("partition", end.Partition), zap.Error(err))
					failed.Store(true)
				}
			})
		}
	}
	parts.Wait()
	for _, o := range orders {
		if err := r.close(ctx, o); err != nil && ctx.Err() == nil {
			r.d.log.Warn("a redrive is through and cannot be called done yet", zap.String("replay", o.ID), zap.Error(err))
			failed.Store(true)
		}
	}
	return !failed.Load()
}

// through says that a partition of an order is worked off.
func (r *redriver) through(id string, partition int32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[redrivePart{id, partition}].Done
}

// close writes that an order is done, if it is and if that is ours to say.
func (r *redriver) close(ctx context.Context, o *schemas.Replay) error {
	first := int32(0)
	for i, end := range o.Ends {
		if i == 0 {
			first = end.Partition
		}
		if !r.through(o.ID, end.Partition) {
			return nil
		}
	}
	if !r.d.Owns(first) || !r.running(o.ID) {
		return nil
	}
	over := *o
	over.State = schemas.ReplayDone
	key := []byte(o.ID)
	var out kafka.Records
	out.Add(kafka.TP{Topic: r.d.topics.Replays, Partition: kafka.Partition(key, r.d.kafka.Config().Partitions)}, key, nil, schemas.AppendReplay(nil, &over))
	bounded, cancel := context.WithTimeout(ctx, redriveStuck)
	defer cancel()
	if _, err := r.d.appender.Append(bounded, &out); err != nil {
		return err
	}
	r.mu.Lock()
	r.forget(o.ID)
	r.mu.Unlock()
	r.d.log.Info("a redrive is done", zap.String("replay", o.ID))
	return nil
}

// part works one partition of an order off, or as much of it as it can without standing still for redriveStuck.
func (r *redriver) part(ctx context.Context, o *schemas.Replay, end schemas.PartitionOffset) error {
	ctx, stuck := context.WithCancelCause(ctx)
	defer stuck(nil)
	moves := time.AfterFunc(redriveStuck, func() { stuck(errStuck) })
	defer moves.Stop()
	r.mu.Lock()
	p, known := r.done[redrivePart{o.ID, end.Partition}]
	r.mu.Unlock()
	if p.Done {
		return nil
	}
	tp := kafka.TP{Topic: r.d.topics.Dead, Partition: end.Partition}
	if !known {
		p = schemas.Progress{Replay: o.ID, Topic: tp.Topic, Partition: tp.Partition}
	}
	starts, err := r.d.kafka.Offsets(ctx, tp.Topic, kafka.Earliest)
	if err != nil {
		return err
	}
	p.Next = max(p.Next, starts[tp.Partition])
	if p.Next >= end.Offset {
		p.Done = true
		return r.save(ctx, &p)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	f := r.d.kafka.NewFetcher(kafka.FetchConfig{OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(map[kafka.TP]int64{tp: p.Next})
	var failed error
	err = f.Run(reading, func(ctx context.Context, bs []kafka.Batch) error {
		for i := range bs {
			if failed = r.batch(ctx, o, end, &p, bs[i].Records); failed != nil || p.Done {
				stop()
				return nil
			}
			moves.Reset(redriveStuck)
		}
		return nil
	})
	if failed != nil {
		return failed
	}
	if p.Done {
		return nil
	}
	return cmp.Or(context.Cause(ctx), err)
}

// batch puts back what the order asks for among these records, and notes how far it has come.
func (r *redriver) batch(ctx context.Context, o *schemas.Replay, end schemas.PartitionOffset, p *schemas.Progress, rs []kafka.Record) error {
	for len(rs) > 0 && !p.Done {
		n := min(len(rs), redriveBatch)
		if !r.d.Owns(end.Partition) {
			return errNotOurs
		}
		if !r.running(o.ID) {
			p.Done = true
			return nil
		}
		if err := r.put(ctx, o, end, p, rs[:n]); err != nil {
			return err
		}
		p.Done = p.Next >= end.Offset
		if err := r.save(ctx, p); err != nil {
			return err
		}
		rs = rs[n:]
	}
	return nil
}

var errStuck = errors.New("the partition has given and taken nothing for 10 s (has it a leader?)")

var errNotOurs = &notOurs{}

type notOurs struct{}

func (*notOurs) Error() string { return "the partition belongs to another deliverer now" }

func (r *redriver) running(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.orders[id]
	return o != nil && o.State == schemas.ReplayRunning
}

// put writes the tasks of the dead letters that the order asks for to the smallest tier.
func (r *redriver) put(ctx context.Context, o *schemas.Replay, end schemas.PartitionOffset, p *schemas.Progress, rs []kafka.Record) error {
	var out kafka.Records
	var buf []byte
	now := time.Now()
	tier := kafka.TP{Topic: r.d.tiers[0].Name, Partition: end.Partition}
	for i := range rs {
		if rs[i].Offset < p.Next {
			continue
		}
		if rs[i].Offset >= end.Offset {
			p.Next = end.Offset
			break
		}
		p.Next = rs[i].Offset + 1
		p.Scanned++
		var dead schemas.Dead
		if err := schemas.DecodeDead(rs[i].Value, &dead); err != nil {
			r.d.log.Error("a dead letter cannot be read", zap.Int32("partition", end.Partition), zap.Int64("offset", rs[i].Offset), zap.Error(err))
			continue
		}
		if !wanted(o, &dead) {
			continue
		}
		p.Matched++
		t := dead.Task
		t.Round, t.Attempt, t.Due, t.Postponed, t.FirstTriedAt = t.Round+1, 1, now.UnixMilli(), 0, 0
		t.Last = &schemas.LastAttempt{At: dead.At, Status: dead.Status, Reason: dead.Reason, Detail: dead.Detail}
		buf = schemas.AppendTask(buf[:0], &t)
		out.Add(tier, []byte(t.Subscription), nil, buf)
	}
	n := out.Len()
	if n == 0 {
		return nil
	}
	if err := fault.Before(fault.RedriveTasks); err != nil {
		return err
	}
	_, err := r.d.appender.Append(ctx, &out)
	if err = fault.After(fault.RedriveTasks, err); err != nil {
		return err
	}
	r.d.metrics.redriven.Add(float64(n))
	return nil
}

// wanted says whether an order asks for a dead letter. One without its body cannot be sent, by no redrive.
func wanted(o *schemas.Replay, dead *schemas.Dead) bool {
	return len(dead.Task.Body) > 0 && matches(o, dead)
}

// matches says whether the filters of an order let a dead letter through.
func matches(o *schemas.Replay, dead *schemas.Dead) bool {
	t := &dead.Task
	switch {
	case o.Subscription != "" && t.Subscription != o.Subscription,
		o.Reason != "" && dead.Reason != o.Reason,
		!subscriptions.Matches(o.Events, t.EventType),
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
	if err := fault.Before(fault.RedriveProgress); err != nil {
		return err
	}
	_, err := r.d.appender.Append(ctx, &out)
	if err = fault.After(fault.RedriveProgress, err); err != nil {
		return err
	}
	r.mu.Lock()
	r.done[redrivePart{p.Replay, p.Partition}] = *p
	r.mu.Unlock()
	return nil
}
