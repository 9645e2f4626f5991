package deliverer

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// replays follows the topics `replays` and `progress` for a deliverer. Two of its parts go by what stands there:
//
//	the redriver   redrives that are not over, and how far they have come        redrive.go
//	the lanes      replays and catch-ups that are paused or cancelled            replayline.go
//
// Neither does anything before both topics have been read to where they ended when we began. An order stands as running for ever, so who reads it before its
// progress would redrive again what was redriven days ago; and a replay may have been cancelled while no deliverer ran, so who has not read that
// would send it. Orders that are over leave our memory, and so does their progress. A replay that was cancelled stays: its tasks may come up for as long
// as they are kept.
type replays struct {
	d *Deliverer

	mu     sync.Mutex
	orders map[string]*schemas.Replay // redrives, running or paused
	done   map[redrivePart]schemas.Progress
	ended  map[string]struct{} // redrives of pauses that are over, for lanes that keep order (resumed.go); as many as there were pauses
	unread map[kafka.TP]int64  // partitions that are not read to where they ended when we began, with those ends
	ready  bool                // there are none

	known   atomic.Bool                       // ready, for the lanes
	stopped atomic.Pointer[map[string]string] // states of replays and catch-ups that may not be sent, by id; replaced, never changed
}

type redrivePart struct {
	replay    string
	partition int32
}

// strangeMost is how long progress is kept whose order has not been read: it may come from another broker, later.
const strangeMost = time.Hour

func newReplays(d *Deliverer) *replays {
	r := &replays{d: d, orders: map[string]*schemas.Replay{}, done: map[redrivePart]schemas.Progress{}, ended: map[string]struct{}{}}
	r.stopped.Store(&map[string]string{})
	return r
}

// run follows both topics until ctx ends.
func (r *replays) run(ctx context.Context) {
	f := r.d.kafka.NewFetcher(kafka.FetchConfig{MaxWait: max(2*time.Second, r.d.cfg.FetchWait), OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	if !r.begin(ctx, f) {
		return
	}
	if err := f.Run(ctx, r.note); err != nil && ctx.Err() == nil {
		r.d.log.Error("replays are not followed any more", zap.Error(err))
	}
}

// begin assigns all partitions of both topics from their start.
func (r *replays) begin(ctx context.Context, f *kafka.Fetcher) bool {
	for ctx.Err() == nil {
		pos, unread := map[kafka.TP]int64{}, map[kafka.TP]int64{}
		var failed error
		for _, topic := range []string{r.d.topics.Replays, r.d.topics.Progress} {
			at, err := bounds(ctx, r.d.kafka, topic)
			if err != nil {
				failed = err
				break
			}
			for p, b := range at {
				tp := kafka.TP{Topic: topic, Partition: p}
				pos[tp] = b[0]
				if b[1] > b[0] {
					unread[tp] = b[1]
				}
			}
		}
		if failed == nil {
			r.mu.Lock()
			r.unread, r.ready = unread, len(unread) == 0
			ready := r.ready
			r.mu.Unlock()
			if ready {
				r.tell(true, true)
			}
			f.Assign(pos)
			return true
		}
		r.d.log.Warn("replays cannot be read; trying again", zap.Error(failed))
		pause(ctx, time.Second)
	}
	return false
}

// note takes over what stands in both topics.
func (r *replays) note(_ context.Context, bs []kafka.Batch) error {
	redrives, stops := false, map[string]string{}
	r.mu.Lock()
	for i := range bs {
		b := &bs[i]
		for j := range b.Records {
			rec := &b.Records[j]
			if b.Topic == r.d.topics.Progress {
				redrives = r.noteProgress(rec) || redrives
			} else {
				redrives = r.noteOrder(rec, stops) || redrives
			}
		}
		if end, ok := r.unread[b.TP]; ok && b.Next >= end {
			delete(r.unread, b.TP)
			r.ready = len(r.unread) == 0
			redrives = redrives || r.ready
		}
	}
	ready := r.ready
	r.mu.Unlock()
	lanes := r.noteStops(stops)
	if ready {
		r.tell(redrives, lanes)
	}
	return nil
}

// tell passes on what has changed.
func (r *replays) tell(redrives, lanes bool) {
	if !r.known.Swap(true) {
		lanes = true
	}
	if lanes {
		r.d.stopReplays()
	}
	if redrives {
		r.d.redriver.wake()
	}
}

// noteProgress takes over how far a redrive has come. True: the redriver has something to do by it. r.mu is held.
func (r *replays) noteProgress(rec *kafka.Record) bool {
	var p schemas.Progress
	if rec.Value == nil || schemas.DecodeProgress(rec.Value, &p) != nil || p.Topic != r.d.topics.Dead {
		return false
	}
	key := redrivePart{p.Replay, p.Partition}
	if p.Next < r.done[key].Next {
		return false
	}
	r.done[key] = p
	return p.Done
}

// noteOrder takes over an order; stops collects what it says of a replay or catch-up. True: the redriver has something to do by it. r.mu is held.
func (r *replays) noteOrder(rec *kafka.Record, stops map[string]string) bool {
	if rec.Value == nil {
		r.forget(string(rec.Key))
		stops[string(rec.Key)] = ""
		return false
	}
	o := new(schemas.Replay)
	if err := schemas.DecodeReplay(rec.Value, o); err != nil {
		r.d.log.Error("a replay cannot be read", zap.ByteString("key", rec.Key), zap.Error(err))
		return false
	}
	standing := o.State == schemas.ReplayRunning || o.State == schemas.ReplayPaused
	switch {
	case o.Kind == schemas.ReplayReplay || o.Kind == schemas.ReplayCatchUp:
		stops[o.ID] = ""
		if o.State == schemas.ReplayPaused || o.State == schemas.ReplayCancelled {
			stops[o.ID] = o.State
		}
	case o.Kind == schemas.ReplayRedrive && standing:
		r.orders[o.ID] = o
		return true
	case o.Kind == schemas.ReplayRedrive:
		r.end(o)
	}
	return false
}

// noteStops enters which replays may not be sent from now on, and which may again (""). True: something has changed.
func (r *replays) noteStops(stops map[string]string) (changed bool) {
	old := *r.stopped.Load()
	for id, state := range stops {
		changed = changed || old[id] != state
	}
	if !changed {
		return false
	}
	next := make(map[string]string, len(old)+len(stops))
	for id, state := range old {
		next[id] = state
	}
	for id, state := range stops {
		if state == "" {
			delete(next, id)
		} else {
			next[id] = state
		}
	}
	r.stopped.Store(&next)
	return true
}

// stateOf is the state of a replay or catch-up whose tasks may not be sent: paused or cancelled. Empty: they may, as far as is known.
func (r *replays) stateOf(id string) string {
	if id == "" {
		return ""
	}
	return (*r.stopped.Load())[id]
}

// forget drops a redrive that is over, its progress, and progress that is old and belongs to no order. r.mu is held.
func (r *replays) forget(id string) {
	delete(r.orders, id)
	strange := time.Now().Add(-strangeMost).UnixMilli()
	for key, p := range r.done {
		if key.replay == id || r.orders[key.replay] == nil && p.At < strange {
			delete(r.done, key)
		}
	}
}

// redrives are those that are running, the oldest first; none before all is known.
func (r *replays) redrives() (out []*schemas.Replay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ready {
		return nil
	}
	for _, o := range r.orders {
		if o.State == schemas.ReplayRunning {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *schemas.Replay) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return out
}

// running says whether a redrive stands and is neither paused nor over.
func (r *replays) running(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.orders[id]
	return o != nil && o.State == schemas.ReplayRunning
}

// progressOf is how far a redrive has come in a partition.
func (r *replays) progressOf(id string, partition int32) (p schemas.Progress, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known = r.done[redrivePart{id, partition}]
	return p, known
}

// saved notes progress of ours that is durable.
func (r *replays) saved(p *schemas.Progress) {
	r.mu.Lock()
	r.done[redrivePart{p.Replay, p.Partition}] = *p
	r.mu.Unlock()
}

// over forgets a redrive that we have written as over.
func (r *replays) over(o *schemas.Replay) {
	r.mu.Lock()
	r.end(o)
	r.mu.Unlock()
}

// end forgets a redrive that is over, but for that it was, if a pause ordered it. r.mu is held.
func (r *replays) end(o *schemas.Replay) {
	r.forget(o.ID)
	if o.Cut != 0 {
		r.ended[o.ID] = struct{}{}
	}
}

// haveEnded says whether the redrives of pauses are known to be over.
func (r *replays) haveEnded(ids []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if _, ok := r.ended[id]; !ok {
			return false
		}
	}
	return true
}
