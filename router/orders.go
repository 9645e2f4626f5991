package router

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// orders is what a router knows of `replays` and `progress`: the orders that routers work off (reroutes, replays, catch-ups), and how far each has come. All
// routers read all of both topics, because a partition may come to any of them. Whoever works off an order looks here before each batch, so it obeys a
// change as soon as it was read.
//
// An order that is over stays over: a record that comes later under its id was written by somebody who had not seen that, and would have its work begin again
// from nothing, since its progress is forgotten.
type orders struct {
	s       *shared
	kafka   *kafka.Client
	offsets func(ctx context.Context, topic string, at int64) (map[int32]int64, error)
	loaded  chan struct{} // closed when both topics were read to the end that they had at the start
	changed []func()      // called, with the lock held, when there may be something to do; set before run

	mu       sync.RWMutex
	standing map[string]*schemas.Replay        // running and paused, by id; values are never changed
	over     map[string]struct{}               // done and cancelled
	progress map[string]map[kafka.TP]*progress // by order and partition
	handed   map[string]map[kafka.TP]struct{}  // see handover.go
	leftOut  map[string]map[kafka.TP]struct{}  // see handover.go
}

type progress = schemas.Progress

func newOrders(r *Router) *orders {
	return &orders{s: &r.shared, kafka: r.kafka, offsets: r.offsets, loaded: make(chan struct{}), standing: map[string]*schemas.Replay{},
		over: map[string]struct{}{}, progress: map[string]map[kafka.TP]*progress{}, handed: map[string]map[kafka.TP]struct{}{}, leftOut: map[string]map[kafka.TP]struct{}{}}
}

// run follows both topics until ctx ends.
func (o *orders) run(ctx context.Context) {
	pos, ends := map[kafka.TP]int64{}, map[kafka.TP]int64{}
	for _, topic := range []string{o.s.topics.Replays, o.s.topics.Progress} {
		first, err := o.offsets(ctx, topic, kafka.Earliest)
		if err != nil {
			return
		}
		last, err := o.offsets(ctx, topic, kafka.Latest)
		if err != nil {
			return
		}
		for p, end := range last {
			tp := kafka.TP{Topic: topic, Partition: p}
			pos[tp] = first[p]
			if end > first[p] {
				ends[tp] = end
			}
		}
	}
	if len(ends) == 0 {
		close(o.loaded)
	}
	fetcher := o.kafka.NewFetcher(kafka.FetchConfig{
		Empty: true, MaxWait: time.Second,
		OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true },
	})
	fetcher.Assign(pos)
	_ = fetcher.Run(ctx, func(ctx context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			for j := range b.Records {
				o.learn(b.Topic, &b.Records[j])
			}
			if end, waiting := ends[b.TP]; waiting && (b.Next >= end || o.kafka.LogEnds(ctx, b)) {
				if delete(ends, b.TP); len(ends) == 0 {
					close(o.loaded)
				}
			}
		}
		return nil
	}) // it ends with ctx only
}

// learn takes over one record.
func (o *orders) learn(topic string, rec *kafka.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if topic == o.s.topics.Replays {
		o.learnOrder(rec)
		return
	}
	if rec.Value == nil {
		return
	}
	p := new(progress)
	if err := schemas.DecodeProgress(rec.Value, p); err != nil || p.Topic != o.s.topics.Undecodable && o.s.entities[p.Topic] == "" {
		return // a redrive's, or one that a newer release wrote: at worst a partition is worked off again, under the same ids
	}
	o.note(p)
}

// learnOrder takes over a record of `replays`. Holds mu.
func (o *orders) learnOrder(rec *kafka.Record) {
	var r schemas.Replay
	if rec.Value == nil {
		o.forget(string(rec.Key))
		delete(o.over, string(rec.Key))
		return
	}
	if err := schemas.DecodeReplay(rec.Value, &r); err != nil {
		o.s.log.Error("a record of the topic replays cannot be read: if it is work for routers, this one takes no part in it", zap.ByteString("replay", rec.Key), zap.Error(err))
		return
	}
	if r.Kind == schemas.ReplayRedrive {
		return // the deliverers'
	}
	if _, over := o.over[r.ID]; over {
		return
	}
	if r.State == schemas.ReplayRunning || r.State == schemas.ReplayPaused {
		o.standing[r.ID] = &r
	} else {
		o.forget(r.ID)
		o.over[r.ID] = struct{}{}
	}
	for _, f := range o.changed {
		f()
	}
}

// forget drops an order with all that is known of its progress. Holds mu.
func (o *orders) forget(id string) {
	delete(o.standing, id)
	delete(o.progress, id)
	delete(o.handed, id)
	delete(o.leftOut, id)
}

// note keeps a progress. What was done stays done: whoever says less was late. Holds mu.
func (o *orders) note(p *progress) {
	if _, over := o.over[p.Replay]; over {
		return
	}
	m := o.progress[p.Replay]
	if m == nil {
		m = map[kafka.TP]*progress{}
		o.progress[p.Replay] = m
	}
	tp := kafka.TP{Topic: p.Topic, Partition: p.Partition}
	if old := m[tp]; old == nil || !old.Done && (p.Done || p.Next >= old.Next) {
		m[tp] = p
	}
}

// saved keeps a progress that this process has written, without waiting until it is read back.
func (o *orders) saved(ps ...progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range ps {
		o.note(&ps[i])
	}
}

// get is an order that is not over; nil: there is none of that id.
func (o *orders) get(id string) *schemas.Replay {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.standing[id]
}

// running says whether an order still stands and is not paused.
func (o *orders) running(id string) bool {
	r := o.get(id)
	return r != nil && r.State == schemas.ReplayRunning
}

// list gives the orders of some kinds that are not over.
func (o *orders) list(kinds ...string) (out []*schemas.Replay) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, r := range o.standing {
		for _, k := range kinds {
			if r.Kind == k {
				out = append(out, r)
			}
		}
	}
	return out
}

// at is how far an order has come in a partition. The zero value with Replay and place filled in: nothing is noted.
func (o *orders) at(id string, tp kafka.TP) progress {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if p := o.progress[id][tp]; p != nil {
		return *p
	}
	return progress{Replay: id, Topic: tp.Topic, Partition: tp.Partition}
}

// left counts those of some partitions that an order is not through with.
func (o *orders) left(id string, tps []kafka.TP) (n int) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, tp := range tps {
		if p := o.progress[id][tp]; p == nil || !p.Done {
			n++
		}
	}
	return n
}

// end notes that an order is over, as this process has just written.
func (o *orders) end(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(id)
	o.over[id] = struct{}{}
}
