package router

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
)

// partition is one source partition while this process owns it. All fields but tp are guarded by owned.mu.
type partition struct {
	tp        kafka.TP
	next      int64 // every record below it is routed, durably
	committed int64 // what the group knows of it; never above next
	high      int64 // end of the log when it was last fetched
	parked    string
	waits     *writer   // parked until this schema is settled
	until     time.Time // or until then

	// handed are the catch-ups of ordered subscriptions that the live path has taken over from at next or before, and whose progress may not say so yet:
	// they go with every commit. unsaid: the last commit said otherwise. See handover.go.
	handed []string
	unsaid bool
}

// owned is the set of source partitions of this process, and where each stands.
//
// A rebalance costs nothing: a partition that comes back in the very next generation with the offset that was last committed keeps its position
// and its state. Between two generations the gate is shut: what was under way is finished (its tasks have the same ids when another router writes
// them too), and nothing new is begun.
type owned struct {
	metrics *metrics
	stopped atomic.Int32 // parked partitions: full is asked for every partition in every round, and is nearly always no

	mu    sync.Mutex
	parts map[kafka.TP]*partition
	open  bool
	gate  chan struct{} // closed while open
	mine  map[int32]bool
}

func newOwned(m *metrics) *owned {
	return &owned{metrics: m, parts: map[kafka.TP]*partition{}, gate: make(chan struct{})}
}

// holders are the partitions as they stand now, one per batch: begin takes a batch only if its partition is still the same one, for a
// partition that left and came back starts elsewhere.
func (o *owned) holders(bs []kafka.Batch) []*partition {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*partition, len(bs))
	for i := range bs {
		out[i] = o.parts[bs[i].TP]
	}
	return out
}

// wait returns when the gate is open.
func (o *owned) wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		open, gate := o.open, o.gate
		o.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin says from which offset on a batch is to be routed; nil if not at all. back: its partition is parked, and the fetcher is to be set back to
// the offset. That happens when the fetcher asked full just before the partition was parked, and read its position just after it was set
// back: without a second setting back, those records would be skipped.
func (o *owned) begin(b *kafka.Batch, holder *partition) (p *partition, from int64, back bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p = o.parts[b.TP]
	if p == nil || p != holder || b.Next <= p.next {
		return nil, 0, false
	}
	if p.parked != "" {
		return nil, p.next, true
	}
	p.high = b.HighWatermark
	return p, p.next, false
}

// next is where an owned partition stands.
func (o *owned) next(tp kafka.TP) (int64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.parts[tp]
	if p == nil {
		return 0, false
	}
	return p.next, true
}

// holder is a partition of which work may be done now: it is ours, and we are in a generation. nil: not so.
func (o *owned) holder(tp kafka.TP) *partition {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.open {
		return nil
	}
	return o.parts[tp]
}

// done notes that everything below next is durable.
func (o *owned) done(p *partition, next int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.next = max(p.next, next)
}

// park stops a partition: until a writer's schema is settled, or until a time. next is where it stands, -1: where it stood. It returns where it
// stands; false if it is not ours any more.
func (o *owned) park(p *partition, next int64, why string, waits *writer, until time.Time) (int64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if next < 0 {
		next = p.next
	}
	if o.parts[p.tp] != p {
		return next, false
	}
	o.stop(p, why)
	if p.waits != handingOver { // which ends by itself, and must not be cut short
		p.waits, p.until = waits, until
	}
	return next, true
}

// stop begins the parking of p. Holds mu.
func (o *owned) stop(p *partition, why string) {
	if p.parked == "" {
		o.stopped.Add(1)
		o.metrics.waiting.WithLabelValues(why).Inc()
		p.parked = why
	}
}

// unpark lets partitions go on; it says whether there was one.
func (o *owned) unpark(which func(*partition) bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	any := false
	for _, p := range o.parts {
		if p.parked != "" && which(p) {
			o.clear(p)
			any = true
		}
	}
	return any
}

// clear ends the parking of p. Holds mu.
func (o *owned) clear(p *partition) {
	if p.parked == "" {
		return
	}
	o.metrics.waiting.WithLabelValues(p.parked).Dec()
	o.stopped.Add(-1)
	p.parked, p.waits, p.until = "", nil, time.Time{}
}

// full leaves parked partitions out of the fetches.
func (o *owned) full(tp kafka.TP) bool {
	if o.stopped.Load() == 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.parts[tp]
	return p != nil && p.parked != ""
}

// shut closes the gate.
func (o *owned) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open {
		o.open, o.gate = false, make(chan struct{})
	}
}

// take makes start the set of owned partitions, keeps what may be kept, and opens the gate. It returns the positions for the fetcher. hand learns, before anything
// of the partition is routed, which catch-ups had handed it over to live.
func (o *owned) take(start map[kafka.TP]start, undecodable map[int32]bool, hand func(id string, tp kafka.TP)) map[kafka.TP]int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	pos := make(map[kafka.TP]int64, len(start))
	for tp, p := range o.parts {
		if _, stays := start[tp]; !stays {
			o.clear(p)
			delete(o.parts, tp)
			o.metrics.lag.DeleteLabelValues(tp.Topic, strconv.Itoa(int(tp.Partition)))
		}
	}
	for tp, s := range start {
		// Between what we committed and what we have done, nobody else can have come further without our noticing: had another router owned it in
		// between, there would have been a generation without it. A commit whose answer was lost lies in there too.
		if p := o.parts[tp]; p != nil && s.offset >= p.committed && s.offset <= p.next {
			if s.committed {
				p.committed = s.offset
			}
			// What that commit says of hand-overs is older than what we know: one whose answer was lost is taken back, and live has gone on without its
			// subscription. The next commit says so.
			p.unsaid = p.unsaid || handedText(s.handed) != handedText(p.handed)
			pos[tp] = kafka.KeepPosition
			continue
		} else if p != nil {
			o.clear(p)
		}
		for _, id := range s.handed {
			hand(id, tp)
		}
		committed := s.offset
		if !s.committed {
			committed = -1
		}
		o.parts[tp] = &partition{tp: tp, next: s.offset, committed: committed, handed: s.handed, unsaid: len(s.handed) > 0}
		pos[tp] = s.offset
	}
	o.mine = undecodable
	if !o.open {
		o.open = true
		close(o.gate)
	}
	return pos
}

// ownsUndecodable says whether this process works off that partition of `undecodable`.
func (o *owned) ownsUndecodable(p int32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open && o.mine[p]
}

// due are the offsets to commit.
func (o *owned) due() map[kafka.TP]kafka.Committed {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[kafka.TP]kafka.Committed{}
	for tp, p := range o.parts {
		o.metrics.lag.WithLabelValues(tp.Topic, strconv.Itoa(int(tp.Partition))).Set(float64(max(0, p.high-p.next)))
		if p.next > p.committed || p.unsaid {
			out[tp] = kafka.Committed{Offset: p.next, Metadata: handedText(p.handed)}
		}
	}
	return out
}

// commitDone notes what was committed.
func (o *owned) commitDone(offsets map[kafka.TP]kafka.Committed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for tp, c := range offsets {
		if p := o.parts[tp]; p != nil {
			p.committed = max(p.committed, c.Offset)
			p.unsaid = c.Metadata != handedText(p.handed)
		}
	}
}

// start is where a partition begins in a generation.
type start struct {
	offset    int64
	committed bool
	handed    []string // what the last commit said of hand-overs
}

// generations takes part in the group until ctx ends. background outlives ctx, for the last commit.
func (r *Router) generations(ctx, background context.Context, group *kafka.Group, fetched <-chan struct{}) {
	for {
		gen, err := group.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("the router's group has ended", zap.Error(err))
			}
			return
		}
		r.generation(ctx, background, gen, fetched)
		if ctx.Err() != nil {
			return
		}
	}
}

// generation works through one generation: begin, commit twice a second, and at its end once more before others may have the partitions.
func (r *Router) generation(ctx, background context.Context, gen *kafka.Generation, fetched <-chan struct{}) {
	defer gen.Release()
	starts, err := r.starts(ctx, gen)
	if err != nil {
		return // ctx or the generation ended meanwhile
	}
	mine := map[int32]bool{}
	for tp := range gen.Assigned {
		if tp.Topic == r.topics.Undecodable {
			mine[tp.Partition] = true
		}
	}
	fault.Before(fault.RouterTake)
	pos := r.owned.take(starts, mine, r.orders.hand)
	defer r.owned.shut()
	r.begun(pos)
	r.fetcher.Assign(pos)
	fault.After(fault.RouterTake, nil)
	r.joined.Store(true)
	r.commit(background, gen, fault.RouterFirstCommit) // where a partition begins is known to the group before anything of it is routed
	r.log.Info("owns source partitions", zap.Int32("generation", gen.ID), zap.Int("partitions", len(starts)), zap.Int("undecodable", len(mine)))
	r.reroute.wake()
	r.replay.wake()
	tick := time.NewTicker(r.cfg.CommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := time.Now()
			if r.owned.unpark(func(p *partition) bool { return p.waits == nil && !now.Before(p.until) }) {
				r.fetcher.Wake()
			}
			r.commit(background, gen, fault.RouterCommit)
		case <-r.commitNow:
			r.commit(background, gen, fault.RouterCommit)
		case <-gen.Done():
			r.owned.shut()
			r.commit(background, gen, fault.RouterLastCommit)
			return
		case <-ctx.Done():
			<-fetched // handle finishes what it has at hand, within grace
			r.commit(background, gen, fault.RouterLastCommit)
			return
		}
	}
}

// commit tells the group what is done. An error is not fatal: the next tick commits more, or the generation is over and Done says so.
func (r *Router) commit(ctx context.Context, gen *kafka.Generation, at fault.Point) {
	offsets := r.owned.due()
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := fault.Before(at)
	if err == nil {
		err = fault.After(at, gen.Commit(ctx, offsets))
	}
	if err != nil {
		if !errors.Is(err, kafka.ErrFenced) {
			r.log.Warn("offsets were not committed: they go with the next commit", zap.Error(err))
		}
		return
	}
	r.owned.commitDone(offsets)
}

// starts finds where each partition of a generation begins. It returns an error only if ctx or the generation ended.
func (r *Router) starts(ctx context.Context, gen *kafka.Generation) (map[kafka.TP]start, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with this call
		select {
		case <-gen.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	out := map[kafka.TP]start{}
	var blank []kafka.TP
	for tp, c := range gen.Assigned {
		if r.entities[tp.Topic] == "" {
			continue
		}
		if c.Offset >= 0 {
			out[tp] = start{c.Offset, true, handedOf(c.Metadata)}
		} else if next, ours := r.owned.next(tp); ours {
			out[tp] = start{offset: next} // begun in the generation before, whose commit did not arrive
		} else {
			blank = append(blank, tp)
		}
	}
	r.metrics.waiting.WithLabelValues("no_committed_offset").Set(0)
	if len(blank) == 0 {
		return out, nil
	}
	fresh, err := r.neverRouted(ctx)
	if err != nil {
		return nil, err
	}
	if !fresh {
		r.refuse(blank)
		return out, nil
	}
	earliest := map[string]map[int32]int64{}
	for _, tp := range blank {
		if earliest[tp.Topic] == nil {
			if earliest[tp.Topic], err = r.offsets(ctx, tp.Topic, kafka.Earliest); err != nil {
				return nil, err
			}
		}
		out[tp] = start{offset: earliest[tp.Topic][tp.Partition]}
	}
	return out, nil
}

// startingWindow is how long routers of a new deployment may take to all commit for the first time: each partition's owner does so before it
// routes anything of it.
const startingWindow = time.Minute

// neverRouted says whether this deployment is new: no router wrote a task or an undecodable record, but perhaps within the last minute, when
// the routers of a new deployment started together. Offsets do not shrink, so retention does not make an old deployment look new. One that routed
// events which nobody wanted looks new, too, and may: nothing came of them, and their append times say so again.
func (r *Router) neverRouted(ctx context.Context) (bool, error) {
	before := time.Now().Add(-startingWindow).UnixMilli()
	for _, topic := range []string{r.topics.Retry, r.topics.Undecodable} {
		first, err := r.offsets(ctx, topic, before)
		if err != nil {
			return false, err
		}
		for _, offset := range first {
			if offset > 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// offsets asks until there is an answer or ctx ends.
func (r *Router) offsets(ctx context.Context, topic string, at int64) (map[int32]int64, error) {
	for {
		out, err := r.kafka.Offsets(ctx, topic, at)
		if err == nil || ctx.Err() != nil {
			return out, errors.Join(err, ctx.Err())
		}
		r.log.Warn("cannot ask for offsets: asking again", zap.String("topic", topic), zap.Error(err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// refuse says, for partitions without a committed offset in a deployment that has routed before, what to run. Starting them at the earliest record
// might send two weeks of events again, and starting at the end might lose some: both are for people to choose.
func (r *Router) refuse(blank []kafka.TP) {
	r.metrics.waiting.WithLabelValues("no_committed_offset").Set(float64(len(blank)))
	for _, tp := range blank {
		r.log.Error("a partition is not routed: the group has no committed offset for it, though this deployment has routed before. Decide where to begin, with all routers stopped",
			zap.String("topic", tp.Topic), zap.Int32("partition", tp.Partition), zap.String("run", resetCommand(r.GroupID(), tp, "--to-earliest")),
			zap.String("or_to_skip", resetCommand(r.GroupID(), tp, "--to-latest")))
	}
}

func resetCommand(group string, tp kafka.TP, to string) string {
	return "kafka-consumer-groups.sh --bootstrap-server BROKER --group " + group + " --topic " + tp.Topic + ":" + strconv.Itoa(int(tp.Partition)) +
		" --reset-offsets " + to + " --execute"
}
