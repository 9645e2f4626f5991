// Package router turns events into tasks: it reads the topics of events, asks the table of subscriptions who wants each event, and writes one task
// per subscription to `retry`. Start reading at handle, the life of one fetch; pass.go has the life of one event.
//
// # One batch, and what happens if the process dies between two steps
//
// A batch is what one fetch brought for one source partition.
//
//  1. fetched. Death: nothing happened. The successor reads from the committed offset.
//  2. matched and rendered, in memory. Death: the same. A batch may be matched again later against a newer table; what decides is the append time of
//     the event against the spans of a subscription, so the answer differs only for what was edited or deleted meanwhile.
//  3. tasks appended, acks=all (some partitions of `retry` may have theirs before others). Death: tasks exist whose source offset is not
//     committed. The successor writes them again with the same ids, and the deliverers' marks drop the copies.
//  4. undecodable records appended. Death: as before; a record may stand in `undecodable` twice, with the same source coordinates.
//  5. counted as done (partition.next). Death: as 3, for at most a commit interval.
//  6. committed by the generation. Death: nothing is open.
//
// The next batch of a partition is matched only after step 5 of the one before, so the tasks of one source partition stand in `retry` in its order.
// A batch that cannot be finished (an append failed, a schema is not known yet) is dropped from memory, its partition is set back to
// the first record that is not done, and left out of the fetches until it may go on: no other partition waits for it.
//
// # Goroutines
//
//	Run ─┬─ generations   joins the group, gives partitions to the fetcher, commits
//	     ├─ fetcher.Run ─── handle: the only one that routes live events
//	     ├─ orders          reads `replays` and `progress`, for the next two
//	     ├─ rerouter        routes undecodable records again, beside the live path
//	     ├─ replayer        works off replays and catch-ups, beside the live path
//	     └─ resolver        one asker per schema id that is waited for
//
// handle and generations meet in owned, under its lock; the rest of the state has one owner each.
package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// Deps are what a router works with. It closes none of it.
type Deps struct {
	Kafka   *kafka.Client
	Table   *subscriptions.Table // runs on its own, before and beside the router
	Log     *zap.Logger
	Metrics prometheus.Registerer // nil: not registered
	// ClockSpread is how far the brokers' clocks may lie apart, as the writers of subscriptions go by: subscriptions.clock_spread.
	ClockSpread time.Duration
}

// Router is the service.
type Router struct {
	shared
	kafka   *kafka.Client
	fetcher *kafka.Fetcher
	owned   *owned
	live    *pass
	orders  *orders
	reroute *rerouter
	replay  *replayer
	joined  atomic.Bool

	beyondMu sync.Mutex
	beyond   map[kafka.TP]bool // partitions that stopped, since their position lies beyond their end

	routing   chan struct{} // holds a token while a fetch is being routed: who puts one in knows that nothing is
	commitNow chan struct{}
}

// New makes a router. It makes no round trip; a Router runs once.
func New(cfg Config, d Deps) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	log := d.Log
	if log == nil {
		log = zap.NewNop()
	}
	log = log.Named("router")
	m, err := newMetrics(d.Metrics, func() float64 { return time.Since(d.Table.LastGoodRead()).Seconds() })
	if err != nil {
		return nil, err
	}
	// A counter that begins with its first loss does not increase.
	for entity, topic := range d.Kafka.Topics().Events {
		m.lost.WithLabelValues(topic)
		m.wrongPartition.WithLabelValues(entity)
	}
	for _, reason := range UndecodableReasons() {
		m.undecodable.WithLabelValues(reason)
	}
	r := &Router{kafka: d.Kafka, beyond: map[kafka.TP]bool{}, routing: make(chan struct{}, 1), commitNow: make(chan struct{}, 1), shared: *newShared(cfg, d.Kafka, d.Table, m, log)}
	r.clockSpread = d.ClockSpread
	r.owned = newOwned(m)
	r.schemas = newResolver(d.Kafka.Registry(), cfg.UnknownSchemaWait, log, r.schemaSettled)
	r.fetcher = d.Kafka.NewFetcher(kafka.FetchConfig{
		MaxBytes: int32(cfg.FetchBytes), PartitionBytes: int32(cfg.PartitionBytes),
		Pace: new(pacer).pace, Full: r.owned.full, OutOfRange: r.outOfRange,
	})
	r.orders = newOrders(r)
	r.live = newPass(&r.shared)
	r.live.gate = r.orders.gate
	r.reroute = newRerouter(r)
	r.replay = newReplayer(r)
	r.orders.changed = []func(){r.reroute.wake, r.replay.wake}
	return r, nil
}

// newShared makes what passes share, without a resolver.
func newShared(cfg Config, c *kafka.Client, table *subscriptions.Table, m *metrics, log *zap.Logger) *shared {
	lz4 := kafka.AppenderConfig{Compression: kafka.Lz4}
	s := &shared{cfg: cfg, table: table, types: eventTypes(), liveOut: c.NewAppender(lz4), pastOut: c.NewAppender(lz4), topics: c.Topics(),
		entities: map[string]string{}, counts: map[string]int{}, metrics: m, log: log}
	for entity, topic := range s.topics.Events {
		s.entities[topic] = entity
	}
	// The services start only when the topics are as they must be, so the specification says how many partitions there are.
	for _, spec := range s.topics.All() {
		s.counts[spec.Name] = spec.Partitions
	}
	return s
}

// Name is the service's name.
func (r *Router) Name() string { return "router" }

// Ready says why the router is not routing yet: it has not loaded the subscriptions or has no place in its group.
func (r *Router) Ready() error {
	select {
	case <-r.table.Loaded():
	default:
		return errors.New("router: the subscriptions are not loaded yet")
	}
	if !r.joined.Load() {
		return errors.New("router: has not joined its group yet")
	}
	return nil
}

// Run routes until ctx ends, and returns when everything it started has ended. It takes part in the group only after the table is loaded, because a
// partition that it owned before would wait for it.
func (r *Router) Run(ctx context.Context) error {
	select {
	case <-r.table.Loaded():
	case <-ctx.Done():
		return nil
	}
	group, err := r.kafka.JoinGroup(kafka.GroupConfig{ID: r.GroupID(), Spread: append(r.topics.EventTopics(), r.topics.Undecodable)})
	if err != nil {
		return err
	}
	// Three steps of stopping: fetching ends with ctx; what handle has at hand it finishes within grace; then the offsets are committed and
	// the group is left.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	r.schemas.ctx = ctx
	taking, stopTaking := context.WithCancel(ctx)
	defer stopTaking()
	var wg sync.WaitGroup
	var fetchErr error
	fetched := make(chan struct{})
	wg.Go(func() {
		defer close(fetched)
		if fetchErr = r.fetcher.Run(taking, r.handle); errors.Is(fetchErr, context.Canceled) {
			fetchErr = nil
		}
		stopTaking()
	})
	wg.Go(func() { r.orders.run(taking) })
	wg.Go(func() { r.reroute.run(taking) })
	wg.Go(func() { r.replay.run(taking) })
	r.generations(taking, background, group, fetched)
	closeErr := group.Close()
	stopTaking()
	wg.Wait()
	r.schemas.wg.Wait()
	if ctx.Err() != nil && closeErr != nil {
		r.log.Warn("the group was not left in good order: it will wait for this member's session to end", zap.Error(closeErr))
		closeErr = nil
	}
	return errors.Join(fetchErr, closeErr)
}

// GroupID names the consumer group of all routers of a deployment.
func (r *Router) GroupID() string { return GroupID(r.topics) }

// GroupID names the consumer group of all routers of a deployment: the prefix of its topics + "router".
func GroupID(topics kafka.Names) string {
	const last = "retry"
	return topics.Retry[:len(topics.Retry)-len(last)] + "router"
}

// item is the part of a batch that a flush will finish.
type item struct {
	p    *partition
	next int64 // the offset behind the last record of it
	bad  bool  // it has undecodable records in the flush
}

// handle is the life of one fetch: batches of several source partitions, in the order of the answer. It returns an error only when ctx has ended;
// what it has collected by then is written down within grace.
func (r *Router) handle(ctx context.Context, batches []kafka.Batch) error {
	writing, cancel := r.withGrace(ctx)
	defer cancel()
	holders := r.owned.holders(batches)
	if err := r.owned.wait(ctx); err != nil {
		return err
	}
	select {
	case r.routing <- struct{}{}:
		defer func() { <-r.routing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var items []item
	for i := range batches {
		b := &batches[i]
		p, from, back := r.owned.begin(b, holders[i])
		if back {
			r.fetcher.Seek(b.TP, from)
		}
		if p == nil {
			continue
		}
		if err := r.live.fresh(ctx); err != nil {
			return err
		}
		var err error
		if items, err = r.batch(ctx, writing, p, b, from, items); err != nil {
			return err
		}
	}
	r.finish(writing, items)
	return ctx.Err()
}

// batch routes the records of one batch from an offset on, and appends what a flush will finish to items, which it empties whenever it flushes.
func (r *Router) batch(ctx, writing context.Context, p *partition, b *kafka.Batch, from int64, items []item) ([]item, error) {
	at := len(items)
	items = append(items, item{p: p, next: from})
	src := schemas.Source{Topic: b.Topic, Partition: b.Partition}
	now := time.Now().UnixMilli()
	routed := 0
	defer func() { r.metrics.events.WithLabelValues(r.entities[b.Topic]).Add(float64(routed)) }()
	for i := range b.Records {
		rec := &b.Records[i]
		if rec.Offset < from {
			continue
		}
		src.Offset, src.Time = rec.Offset, rec.Time
		out := outcome{reason: reasonTooLarge}
		if rec.LeftOut == 0 {
			var err error
			if out, err = r.event(ctx, &src, rec.Value, now); err != nil {
				return items, err
			}
		}
		switch {
		case out.wait != nil:
			fault.Before(fault.RouterPark)
			r.owned.park(p, items[at].next, r.schemas.whyOf(out.wait), out.wait, time.Time{})
			r.fetcher.Seek(p.tp, items[at].next)
			fault.After(fault.RouterPark, nil)
			// The answer may have come between find and park: then nobody would wake the partition.
			if reader, reason, _ := r.schemas.find(out.wait.frame); reader != nil || reason != "" {
				r.schemaSettled(out.wait)
			}
			return items, nil
		case out.reason != "":
			r.live.undecodable(b.TP, rec, out.reason)
			items[at].bad = true
		default:
			routed++
		}
		items[at].next = rec.Offset + 1
		if r.live.full() {
			if !r.finish(writing, items) {
				return nil, nil
			}
			items, at = append(items[:0], item{p: p, next: rec.Offset + 1}), 0
		}
		if i%256 == 255 {
			if err := r.live.fresh(ctx); err != nil {
				return items, err
			}
		}
	}
	items[at].next = max(items[at].next, b.Next)
	return items, nil
}

// event is the live pass's event, once the orders are loaded if it must know them.
func (r *Router) event(ctx context.Context, src *schemas.Source, value []byte, now int64) (outcome, error) {
	out := r.live.event(src, value, now)
	for out.orders {
		select {
		case <-r.orders.loaded:
		case <-ctx.Done():
			return out, ctx.Err()
		}
		if err := r.live.fresh(ctx); err != nil {
			return out, err
		}
		out = r.live.event(src, value, now)
	}
	return out, nil
}

// finish flushes, and counts as done what is durable. It is false if something failed: then the partitions concerned are set back to what was done
// before, and parked for a second. An append that failed is loud, because it only fails when Kafka refuses the records: what is transient the
// appender has tried again until ctx ended.
func (r *Router) finish(ctx context.Context, items []item) bool {
	tasksErr, badErr := r.live.flush(ctx)
	if tasksErr == nil && badErr == nil {
		fault.Before(fault.RouterDone)
		for _, it := range items {
			r.owned.done(it.p, it.next)
		}
		fault.After(fault.RouterDone, nil)
		return true
	}
	r.metrics.repeats.Inc()
	again := time.Now().Add(time.Second)
	for _, it := range items {
		if tasksErr == nil && !it.bad {
			r.owned.done(it.p, it.next)
			continue
		}
		why := "tasks_not_written"
		if tasksErr == nil {
			why = "undecodable_not_written"
		}
		if next, ok := r.owned.park(it.p, -1, why, nil, again); ok {
			r.fetcher.Seek(it.p.tp, next)
		}
		if ctx.Err() == nil {
			r.log.Error("a partition stops: what comes of its events could not be written; it is tried again each second",
				zap.String("why", why), zap.String("topic", it.p.tp.Topic), zap.Int32("partition", it.p.tp.Partition), zap.Error(errors.Join(tasksErr, badErr)))
		}
	}
	return false
}

// withGrace is a context for the writing of what handle has at hand: it outlives ctx by grace.
func (r *Router) withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(r.cfg.Grace, cancel)
		context.AfterFunc(out, func() { t.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// schemaSettled lets the partitions go on that waited for w.
func (r *Router) schemaSettled(w *writer) {
	if r.owned.unpark(func(p *partition) bool { return p.waits == w }) {
		r.fetcher.Wake()
	}
}

// outOfRange is what happens when the position of a partition is not in its log any more (design rule 13).
func (r *Router) outOfRange(tp kafka.TP, asked, start, end int64) (int64, bool) {
	where := []zap.Field{zap.String("topic", tp.Topic), zap.Int32("partition", tp.Partition), zap.Int64("position", asked), zap.Int64("log_start", start), zap.Int64("log_end", end)}
	if asked < start {
		r.metrics.lost.WithLabelValues(tp.Topic).Add(float64(start - asked))
		r.log.Error("DATA LOSS: retention removed events before they were routed; going on at the first that is left",
			append(where, zap.Int64("lost_from", asked), zap.Int64("lost_to", start-1))...)
		return start, true
	}
	r.log.Error("a partition stops: its position lies beyond the end of the log, so the topic was made anew or restored. Decide where to go on, with all routers stopped",
		append(where, zap.String("run", resetCommand(r.GroupID(), tp, "--to-earliest")))...)
	r.beyondMu.Lock()
	defer r.beyondMu.Unlock()
	r.beyond[tp] = true
	r.metrics.waiting.WithLabelValues("beyond_end").Set(float64(len(r.beyond)))
	return 0, false
}

// begun forgets partitions that have stopped and are not ours any more, or begin anew and will be found again.
func (r *Router) begun(pos map[kafka.TP]int64) {
	r.beyondMu.Lock()
	defer r.beyondMu.Unlock()
	maps.DeleteFunc(r.beyond, func(tp kafka.TP, _ bool) bool {
		at, ours := pos[tp]
		return !ours || at != kafka.KeepPosition
	})
	r.metrics.waiting.WithLabelValues("beyond_end").Set(float64(len(r.beyond)))
}

// pacer says how long a fetch loop waits before it asks again. Below some thousand records a second it asks at once: a wait would only add
// latency. Above, each Kafka request costs more than the records in it, so a loop that brought n waits n times 300 us, at most 5 ms.
type pacer struct {
	mu   sync.Mutex
	last time.Time
	rate float64 // records a second, smoothed over about 100 ms
}

const (
	paceAbove = 1000.0
	paceEach  = 300 * time.Microsecond
	paceMost  = 5 * time.Millisecond
)

func (p *pacer) pace(records int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	gap := max(now.Sub(p.last).Seconds(), 1e-6)
	p.last = now
	weight := min(gap/0.1, 1)
	p.rate += (float64(records)/gap - p.rate) * weight
	if p.rate < paceAbove {
		return 0
	}
	return min(paceMost, time.Duration(records)*paceEach)
}
