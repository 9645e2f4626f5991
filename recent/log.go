package recent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

const (
	// askEvery is how often the log is asked where it ends, which tells how old the answers are; startEvery, where it begins.
	askEvery   = time.Second
	startEvery = 30 * time.Second
	askLimit   = 10 * time.Second
)

// bookings follows the topic of bookings, all its partitions from their beginning, without a group: every process that answers has the whole.
//
//	run ─┬─ Fetcher.Run ── handle   the only one that changes the model
//	     └─ watch                   asks where the topic begins and ends
//
// Nothing of it is written anywhere. A process that dies reads the topic again.
type bookings struct {
	c       *kafka.Client
	topic   string
	log     *zap.Logger
	metrics *metrics
	decoder *decoder

	mu        sync.RWMutex
	model     *Model
	next      []int64       // by partition: everything below it is in the model. nil before run has asked for the beginnings
	first     []int64       // the ends when run began: beyond them it is loaded
	moved     chan struct{} // closed and replaced when next grows, or the topic is read anew
	asOf      time.Time     // everything that was acknowledged by then is in the model; zero: not loaded yet
	read      int64         // records, since run began
	skipped   int64
	recreated bool
}

func newBookings(c *kafka.Client, log *zap.Logger, m *metrics, only string) *bookings {
	b := &bookings{c: c, topic: c.Topics().Events["booking"], log: log, metrics: m, model: NewModel(), moved: make(chan struct{})}
	b.decoder = &decoder{registry: c.Registry(), log: log, only: only, readers: map[schemas.Frame]*writer{}, waiting: m.wait}
	return b
}

// follow runs until ctx ends. A topic that was made anew is read anew.
func (b *bookings) follow(ctx context.Context) error {
	for {
		err := b.run(ctx)
		b.mu.Lock()
		again := b.recreated && ctx.Err() == nil
		if again {
			b.log.Warn("the topic of bookings ends before the place where it was read: it was made anew, and is read from its beginning")
			b.model, b.next, b.first, b.asOf, b.read, b.recreated = NewModel(), nil, nil, time.Time{}, 0, false
			b.wake()
		}
		b.mu.Unlock()
		if !again {
			return err
		}
	}
}

func (b *bookings) run(ctx context.Context) error {
	starts, err := b.c.Offsets(ctx, b.topic, kafka.Earliest)
	if err != nil {
		return err
	}
	ends, err := b.c.Offsets(ctx, b.topic, kafka.Latest)
	if err != nil {
		return err
	}
	next, first, pos := make([]int64, len(starts)), make([]int64, len(starts)), map[kafka.TP]int64{}
	for p, start := range starts {
		next[p], first[p], pos[kafka.TP{Topic: b.topic, Partition: p}] = start, ends[p], start
	}
	b.mu.Lock()
	b.next, b.first = next, first
	b.wake()
	b.mu.Unlock()
	running, stop := context.WithCancel(ctx)
	defer stop()
	f := b.c.NewFetcher(kafka.FetchConfig{OutOfRange: func(tp kafka.TP, asked, start, _ int64) (int64, bool) {
		if asked < start { // retention was faster, and no batch may ever say so
			b.passed(tp.Partition, start)
			return start, true
		}
		b.mu.Lock()
		b.recreated = true
		b.mu.Unlock()
		stop()
		return 0, false
	}})
	f.Assign(pos)
	var wg sync.WaitGroup
	wg.Go(func() { b.watch(running) })
	err = f.Run(running, b.handle)
	stop()
	wg.Wait()
	return err
}

// handle takes what a fetch brought.
func (b *bookings) handle(ctx context.Context, bs []kafka.Batch) error {
	for i := range bs {
		changes, skipped, err := b.changes(ctx, &bs[i])
		if err != nil { // ctx's: it was waiting for the registry
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		b.take(&bs[i], changes, skipped)
	}
	return nil
}

// changes decodes a batch, without the lock: who asks does not wait for it.
func (b *bookings) changes(ctx context.Context, batch *kafka.Batch) (out []Change, skipped int64, err error) {
	for j := range batch.Records {
		ch, ok, reason, err := b.decoder.change(ctx, batch.TP, &batch.Records[j])
		switch {
		case err != nil:
			return nil, 0, err
		case ok:
			out = append(out, ch)
		case reason != "":
			skipped++
			b.metrics.skip(reason)
		}
	}
	return out, skipped, nil
}

func (b *bookings) take(batch *kafka.Batch, changes []Change, skipped int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.model.Trim(batch.Partition, batch.LogStart)
	for i := range changes {
		b.model.Apply(&changes[i])
	}
	b.read += int64(len(batch.Records))
	b.skipped += skipped
	b.metrics.count(len(changes))
	b.reach(batch.Partition, batch.Next)
}

// passed says that nothing lies below start any more.
func (b *bookings) passed(partition int32, start int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.model.Trim(partition, start)
	b.reach(partition, start)
}

// reach says that everything below next is in the model. mu is held.
func (b *bookings) reach(partition int32, next int64) {
	if int(partition) < len(b.next) && next > b.next[partition] {
		b.next[partition] = next
		b.wake()
	}
}

// wake has everybody look again who waits. mu is held.
func (b *bookings) wake() {
	close(b.moved)
	b.moved = make(chan struct{})
}

// watch asks where the topic begins and ends until ctx ends.
func (b *bookings) watch(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	starts := time.Now()
	for {
		limit, cancel := context.WithTimeout(ctx, askLimit)
		err := b.catchUp(limit)
		if err == nil && time.Since(starts) >= startEvery {
			starts = time.Now()
			err = b.trim(limit)
		}
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			b.log.Warn("the end of the topic of bookings is not known; answers grow old", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *bookings) trim(ctx context.Context) error {
	starts, err := b.c.Offsets(ctx, b.topic, kafka.Earliest)
	if err != nil {
		return err
	}
	b.mu.Lock()
	for p, start := range starts {
		b.model.Trim(p, start)
	}
	stale := b.model.Stale()
	b.mu.Unlock()
	for _, company := range stale {
		b.mu.Lock()
		b.model.Sweep(company)
		b.mu.Unlock()
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	b.metrics.size(b.model.Size())
	return nil
}

// catchUp returns when the model holds all that was acknowledged when it was called.
func (b *bookings) catchUp(ctx context.Context) error {
	asked := time.Now()
	ends, err := b.c.Offsets(ctx, b.topic, kafka.Latest)
	if err != nil {
		return err
	}
	for {
		b.mu.Lock()
		moved, there := b.moved, b.next != nil
		for p, end := range ends {
			there = there && int(p) < len(b.next) && b.next[p] >= end
		}
		if there && b.asOf.IsZero() {
			b.metrics.size(b.model.Size())
		}
		if there && asked.After(b.asOf) {
			b.asOf = asked
		}
		b.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// loading says why nothing can be answered yet, nil if it can.
func (b *bookings) loading() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.asOf.IsZero() {
		return nil
	}
	left := int64(0)
	for p := range b.first {
		left += max(0, b.first[p]-b.next[p])
	}
	if b.next == nil {
		return &loadingError{"recent: the topic of bookings has not been found yet"}
	}
	return &loadingError{fmt.Sprintf("recent: the bookings are being read, about %d events are left", left)}
}

type loadingError struct{ sentence string }

func (e *loadingError) Error() string { return e.sentence }

// Code is stable: programs may compare it.
func (e *loadingError) Code() string { return "recent_loading" }

// age is how old an answer may be now.
func (b *bookings) age() float64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.asOf.IsZero() {
		return 0
	}
	return time.Since(b.asOf).Seconds()
}
