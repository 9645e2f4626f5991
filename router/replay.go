package router

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// A replay routes a stretch of the log again; a catch-up is the same for the past part of a subscription's span. Both are orders in `replays`. Whoever owns a
// source partition does the part of the order that lies in it, beside the live path: with its own reading, its own pass, and no lock in common but for the
// moment of a hand-over (handover.go).
//
// A stretch is the part of one order in one source partition, from the first record of its range (begin) to the end:
//
//  1. scanned: records are read, and the tasks of those that are wanted collected. Death: nothing happened.
//  2. the tasks are appended, acks=all, to `replay` (of an ordered catch-up: to `retry`). Death: they exist, and the progress does not know it. The next owner
//     makes them again under the same ids, and the marks drop the copies.
//  3. the progress is written: how far, how many. Death: the next owner goes on from there.
//  4. when all stretches of an order are through, the owner of the first one writes the order as done. Death: its successor finds the same progress.
//
// Which events an order means is decided by their append time alone, as on the live path; the begin and end of a stretch only save reading. Brokers' clocks may
// lie apart and a leader's may step back, so it ends where the log is certainly later: at the first record that was appended margin after the range.
//
// # Turns
//
//	replayer.run ─── worker ×replay_orders: takes the order that has waited longest, scans its stretches for a turn, puts it back
//
// An order that must wait (its rate, too much outstanding, an unknown schema, a span without an end) is put back with the time when to look again, and keeps no
// worker. So no order waits for another; several share by turns, and within a turn the broker's answers go round the stretches.
type replayer struct {
	r      *Router
	limits *limits
	margin time.Duration
	kick   chan struct{} // there may be something to do

	mu    sync.Mutex
	works map[string]*work
}

// work is what this process knows of an order that stands, besides what stands in orders.
type work struct {
	id string
	// Guarded by replayer.mu:
	busy  bool
	turn  time.Time // when its last turn ended
	ready time.Time // nothing to do before
	kept  int64     // bytes in memory that are fetched and not scanned

	// Of the worker that has it:
	parts  map[kafka.TP]*stretch
	begins map[kafka.TP]int64
	ends   map[kafka.TP]int64
	bucket bucket
}

const (
	replayTurn  = time.Second      // how long an order may keep a worker if another waits
	replayAgain = time.Second      // after a failure, and when an order has nothing to do for now
	replayLost  = time.Hour        // how long an order may stand whose subscription nobody knows
	replayStuck = 30 * time.Second // for a write that is no step of a scan
	replayKept  = 64 << 20         // bytes that all orders together may keep between their turns; who comes over it reads again
)

func newReplayer(r *Router) *replayer {
	y := &replayer{r: r, margin: r.clockSpread + time.Second, kick: make(chan struct{}, 1), works: map[string]*work{}}
	y.limits = newLimits(r)
	return y
}

// wake makes a worker look for work.
func (y *replayer) wake() {
	select {
	case y.kick <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (y *replayer) run(ctx context.Context) {
	select {
	case <-y.r.orders.loaded:
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range y.r.cfg.ReplayOrders {
		wg.Go(func() { y.worker(ctx) })
	}
}

// worker takes turns until ctx ends.
func (y *replayer) worker(ctx context.Context) {
	pass := newPastPass(&y.r.shared)
	for ctx.Err() == nil {
		w, wait := y.take()
		if w != nil {
			y.put(w, y.turn(ctx, pass, w))
			continue
		}
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-y.kick:
		case <-later:
		case <-ctx.Done():
		}
	}
}

// take gives the order that has waited longest; nil: none has anything to do before wait has passed. 0: not before something changes.
func (y *replayer) take() (w *work, wait time.Duration) {
	orders := y.r.orders.list(schemas.ReplayReplay, schemas.ReplayCatchUp)
	y.mu.Lock()
	defer y.mu.Unlock()
	stands := make(map[string]bool, len(orders))
	for _, o := range orders {
		stands[o.ID] = true
		if y.works[o.ID] == nil {
			y.works[o.ID] = &work{id: o.ID, parts: map[kafka.TP]*stretch{}, begins: map[kafka.TP]int64{}, ends: map[kafka.TP]int64{}}
		}
	}
	now := time.Now()
	more := false
	for id, c := range y.works {
		switch {
		case c.busy:
		case !stands[id]:
			delete(y.works, id)
		case c.ready.After(now):
			if d := c.ready.Sub(now); wait == 0 || d < wait {
				wait = d
			}
		case w == nil || c.turn.Before(w.turn) || c.turn.Equal(w.turn) && c.id < w.id:
			more = w != nil
			w = c
		default:
			more = true
		}
	}
	y.r.metrics.replays.Set(float64(len(y.works)))
	if w != nil {
		w.busy = true
		if more {
			y.wake()
		}
	}
	return w, wait
}

// put gives an order back, with the time when to look at it again.
func (y *replayer) put(w *work, ready time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	w.kept = 0
	for _, st := range w.parts {
		w.kept += st.kept.Bytes
	}
	all := int64(0)
	for _, c := range y.works {
		all += c.kept
	}
	if all > replayKept {
		w.forget()
		w.kept = 0
	}
	w.busy, w.turn, w.ready = false, time.Now(), ready
}

// forget lets go of what is fetched and not scanned: it is read again. Only the worker that has the order calls it; put counts.
func (w *work) forget() {
	for _, st := range w.parts {
		st.kept = kafka.Batch{}
	}
}

// wanted says whether an order waits for a worker.
func (y *replayer) wanted() bool {
	now := time.Now()
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, w := range y.works {
		if !w.busy && !w.ready.After(now) {
			return true
		}
	}
	return false
}

// standing is how many orders there are to share what may be kept.
func (y *replayer) standing() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return max(1, len(y.works))
}

// turn does for an order what can be done now, for about replayTurn if others wait. It returns when to look at it again.
func (y *replayer) turn(ctx context.Context, pass *pass, w *work) time.Time {
	o := y.r.orders.get(w.id)
	if o == nil || o.State != schemas.ReplayRunning {
		w.forget()
		return time.Now().Add(replayAgain)
	}
	ready, err := y.advance(ctx, pass, w, o)
	if err == nil {
		return ready
	}
	if ctx.Err() == nil && !errors.Is(err, errNotOwned) {
		y.r.log.Warn("a replay has to wait: it goes on where it stands", zap.String("replay", o.ID), zap.String("kind", o.Kind), zap.Error(err))
	}
	return time.Now().Add(replayAgain)
}

var errNotOwned = errors.New("the partition is not ours any more")

// advance is turn without what follows from an error.
func (y *replayer) advance(ctx context.Context, pass *pass, w *work, o *schemas.Replay) (ready time.Time, err error) {
	if err := pass.fresh(ctx); err != nil {
		return ready, err
	}
	c, wait, why := y.choose(o)
	if c == nil {
		w.forget()
		if why != "" {
			return time.Now().Add(replayAgain), y.sweep(ctx, o, why)
		}
		return time.Now().Add(wait), nil
	}
	parts, err := y.stretches(ctx, w, c)
	if err != nil {
		return ready, err
	}
	if len(parts) > 0 {
		s := &scanning{y: y, pass: pass, w: w, c: c, parts: parts, share: y.share(w, o)}
		if err := s.run(ctx); err != nil {
			return ready, err
		}
	}
	ready = time.Now().Add(replayAgain)
	for _, st := range w.parts {
		if !st.p.Done && st.until.Before(ready) {
			ready = st.until
		}
	}
	return ready, y.close(ctx, o)
}

// share is this router's part of a rate: as many as it has of the partitions that the order is not through with.
func (y *replayer) share(w *work, o *schemas.Replay) float64 {
	mine := 0
	for _, st := range w.parts {
		if !st.p.Done {
			mine++
		}
	}
	return float64(mine) / float64(max(mine, y.r.orders.left(o.ID, y.scope(o))))
}

// scope lists the source partitions that an order is about, in a fixed order.
func (y *replayer) scope(o *schemas.Replay) (out []kafka.TP) {
	if o.Kind == schemas.ReplayReplay {
		for _, end := range o.Ends {
			if y.r.entities[end.Topic] != "" {
				out = append(out, kafka.TP{Topic: end.Topic, Partition: end.Partition})
			}
		}
		return out
	}
	for _, topic := range y.r.topics.EventTopics() {
		for p := range y.r.counts[topic] {
			out = append(out, kafka.TP{Topic: topic, Partition: int32(p)})
		}
	}
	return out
}

// speaks says whether this process writes what is to be said once of an order: it owns the first of its partitions.
func (y *replayer) speaks(o *schemas.Replay) bool {
	first := kafka.TP{Topic: y.r.topics.EventTopics()[0]}
	if scope := y.scope(o); len(scope) > 0 {
		first = scope[0]
	}
	return y.r.owned.holder(first) != nil
}

// close writes that an order is done, if it is and if that is ours to say.
func (y *replayer) close(ctx context.Context, o *schemas.Replay) error {
	if y.r.orders.left(o.ID, y.scope(o)) > 0 || !y.speaks(o) || !y.r.orders.running(o.ID) {
		return nil
	}
	over := *o
	over.State = schemas.ReplayDone
	if err := y.write(ctx, &over); err != nil {
		return err
	}
	y.r.log.Info("a replay is done", zap.String("replay", o.ID), zap.String("kind", o.Kind), zap.String("subscription", o.Subscription))
	return nil
}

// sweep takes an order away that nothing will ever come of, an hour after it was written: its subscription was never made, is deleted, or was started again by
// another order. Its writer may have died between the two, which is why nobody else will.
func (y *replayer) sweep(ctx context.Context, o *schemas.Replay, why string) error {
	if y.r.kafka.BrokerNow().Sub(time.UnixMilli(o.CreatedAt)) < replayLost || !y.speaks(o) {
		return nil
	}
	over := *o
	over.State, over.Note = schemas.ReplayCancelled, why
	if err := y.write(ctx, &over); err != nil {
		return err
	}
	y.r.log.Info("a replay has nothing to do and is taken away", zap.String("replay", o.ID), zap.String("kind", o.Kind), zap.String("why", why))
	return nil
}

// write writes the last state of an order.
func (y *replayer) write(ctx context.Context, o *schemas.Replay) error {
	ctx, cancel := context.WithTimeout(ctx, replayStuck)
	defer cancel()
	key := []byte(o.ID)
	var out kafka.Records
	out.Add(kafka.TP{Topic: y.r.topics.Replays, Partition: kafka.Partition(key, y.r.counts[y.r.topics.Replays])}, key, nil, schemas.AppendReplay(nil, o))
	if err := fault.Before(fault.ReplayClose); err != nil {
		return err
	}
	_, err := y.r.pastOut.Append(ctx, &out)
	if err = fault.After(fault.ReplayClose, err); err != nil {
		return err
	}
	y.r.orders.end(o.ID)
	return nil
}

// choose says which events an order means as things stand. nil: it has to wait; with why, for ever.
func (y *replayer) choose(o *schemas.Replay) (c *choice, wait time.Duration, why string) {
	c = &choice{order: o, company: o.Company, from: o.From, to: cmp.Or(o.To, math.MaxInt64)}
	if o.Subscription != "" {
		l, ok := y.r.table.Get(o.Subscription)
		switch {
		case !ok:
			return nil, 0, "there is no such subscription"
		case l.State == schemas.StateDeleted:
			return nil, 0, "the subscription is deleted"
		case o.Kind == schemas.ReplayCatchUp && l.CatchUpOver(o):
			return nil, 0, "the subscription was started by another order"
		case l.State != schemas.StateActive:
			return nil, replayAgain, ""
		}
		c.sub, c.company = l, l.Company
	}
	if c.company == schemas.AnyCompany {
		c.company = ""
	}
	c.types = typesWanted(y.r.types, o, c.sub)
	if o.Kind == schemas.ReplayReplay {
		return c, 0, ""
	}
	to, named := c.sub.CatchUpEnd(o)
	if !named {
		return nil, replayAgain, ""
	}
	// Before the brokers' clocks have passed the end it may be moved, and events from before it may still come. It may be moved nearer, too: an order whose end is
	// not confirmed yet has one a minute away, for a moment; so it is looked at again soon.
	if left := time.UnixMilli(to).Add(y.margin).Sub(y.r.kafka.BrokerNow()); left > 0 {
		return nil, min(left+time.Millisecond, replayAgain), ""
	}
	c.to = to
	c.ordered = c.sub.Order == schemas.OrderEntity
	c.paused = pausedBehind(c.sub, o.ID)
	return c, 0, ""
}

// pausedBehind is the first cut "paused" behind the cut that names an order; 0: none.
func pausedBehind(l *subscriptions.Live, order string) int64 {
	named := false
	for i := range l.Spans {
		switch c := &l.Spans[i]; {
		case c.Kind == schemas.CutLive && c.Reason == order:
			named = true
		case named && c.Kind == schemas.CutPaused:
			return c.At
		}
	}
	return 0
}

// choice says which events an order means, and for whom.
type choice struct {
	order    *schemas.Replay
	sub      *subscriptions.Live // the one it is for; nil: many
	company  string              // empty: every one
	types    map[string]*schemas.EventType
	from, to int64 // append times; to is out
	// Of a catch-up:
	ordered bool
	paused  int64 // the next cut "paused" behind its span; 0: none
}

// means says whether the order routes an event that was appended at t, and under which replay its task goes: none where live owes it as well. beyond: also what
// live leaves out behind the span (handover.go).
func (c *choice) means(t int64, beyond bool) (replay string, ok bool) {
	if c.order.Kind == schemas.ReplayReplay {
		return c.order.ID, t >= c.from && t < c.to
	}
	if replay, ok = c.sub.CatchesUp(c.order, t); ok || !beyond || t < c.to || c.paused != 0 && t >= c.paused {
		return replay, ok
	}
	replay, ok = c.sub.RoutedAs(t)
	return replay, ok && replay == ""
}

// typesWanted are the event types that an order may route: wanted by its own patterns and, if it is for one subscription, by that one's.
func typesWanted(all map[string]*schemas.EventType, o *schemas.Replay, l *subscriptions.Live) map[string]*schemas.EventType {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(name string, _ *schemas.EventType) bool {
		return !subscriptions.Matches(o.Events, name) || l != nil && !subscriptions.Matches(l.Events, name)
	})
	return out
}

// wantsEntity says whether any of the types is an entity's.
func (c *choice) wantsEntity(entity string) bool {
	for _, t := range c.types {
		if t.Entity == entity {
			return true
		}
	}
	return false
}

// who appends the subscriptions that get an event of a type: the one, or all active ones of the company that want it.
func (c *choice) who(table *subscriptions.Table, company, eventType string, dst []*subscriptions.Live) []*subscriptions.Live {
	if c.sub != nil {
		return append(dst, c.sub)
	}
	dst = table.Match(company, eventType, math.MaxInt64, dst) // by their last cut
	return slices.DeleteFunc(dst, func(l *subscriptions.Live) bool {
		return l.State != schemas.StateActive || c.order.Company != "" && l.Company != c.order.Company
	})
}
