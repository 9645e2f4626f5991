package deliverer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
)

const (
	commitMost = 3 * time.Second // for one commit
	drainMost  = time.Second     // for writing down what has ended, before a hand-over
	// graceShared is how much of the grace is left when the others begin to wait for us. They do for kafka.RebalanceTimeout; then the coordinator goes on
	// without us, and would refuse the last commit, which names what has ended and what is under way.
	graceShared = kafka.RebalanceTimeout - commitMost - drainMost - time.Second
	resolve     = 5 * time.Second // for finding the start of partitions
)

// generations is Run's own goroutine: it takes part in one generation of the group after the other, and stops in the end.
//
// A rebalance must cost nothing, since kafka-go revokes everything at each join and leave. So when a generation ends: no send starts any more
// (lease.go), what has ended is written, the commit names what is under way, and the generation is released; sends run on, fetch loops read on, lines
// stay. When the next generation gives a partition back with the offset and the metadata that we committed last, nobody else has had it, and
// everything goes on as if nothing had happened.
func (d *Deliverer) generations(reading, writing context.Context, group *kafka.Group, readers *sync.WaitGroup, stopReading func()) error {
	var failed error
	for reading.Err() == nil {
		gen, err := group.Next(reading)
		if err != nil {
			if reading.Err() == nil {
				failed = fmt.Errorf("the group is closed: %w", err)
			}
			break
		}
		if err := d.begin(writing, gen); err != nil {
			d.lease.frozen.Store(true)
			gen.Release()
			if !over(gen) { // else the next one is on its way
				d.log.Error("a generation could not begin; trying again", zap.Error(err))
				pause(reading, time.Second)
			}
			continue
		}
		d.serve(reading, writing, gen)
		if reading.Err() != nil {
			stopReading()
			readers.Wait()
			d.finishWithin(d.cfg.Grace, writing, gen)
		}
		d.lease.frozen.Store(true)
		d.drainWithin(drainMost)
		if err := d.commit(writing, gen, true, fault.DelivererLastCommit); err != nil {
			d.log.Warn("the last commit of a generation failed; its successor asks the marks", zap.Error(err))
			d.unheard()
		}
		gen.Release()
	}
	stopReading()
	readers.Wait()
	d.lease.frozen.Store(true)
	return errors.Join(failed, group.Close())
}

func pause(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(t):
	}
}

// serve commits until the generation or reading ends.
func (d *Deliverer) serve(reading, writing context.Context, gen *kafka.Generation) {
	tick := time.NewTicker(d.cfg.CommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-reading.Done():
			return
		case <-gen.Done():
			return
		case <-tick.C:
		case <-d.lines.ask:
		}
		if err := d.commit(writing, gen, false, fault.DelivererCommit); errors.Is(err, kafka.ErrFenced) {
			d.unheard()
			d.log.Warn("fenced: another member owns our partitions")
			return
		} else if err != nil {
			d.log.Warn("a commit failed; trying again", zap.Error(err))
		}
	}
}

// over says that a generation is revoked.
func over(gen *kafka.Generation) bool {
	select {
	case <-gen.Done():
		return true
	default:
		return false
	}
}

// finishWithin waits until no send is under way, but not longer than grace, and graceShared once others wait for us. No new one starts. It commits all the
// while: whoever stops us may lose patience.
func (d *Deliverer) finishWithin(grace time.Duration, writing context.Context, gen *kafka.Generation) {
	d.lease.frozen.Store(true)
	end := time.NewTimer(grace)
	defer end.Stop()
	look, commit := time.NewTicker(5*time.Millisecond), time.NewTicker(d.cfg.CommitInterval)
	defer look.Stop()
	defer commit.Stop()
	begun, done := time.Now(), gen.Done()
	for d.busy() > 0 {
		select {
		case <-look.C:
		case <-end.C:
			return
		case <-done:
			done = nil
			end.Reset(min(graceShared, grace-time.Since(begun)))
		case <-commit.C:
			if err := d.commit(writing, gen, false, fault.DelivererCommit); errors.Is(err, kafka.ErrFenced) {
				d.log.Warn("fenced while the last sends end: another member owns our partitions")
				return
			} else if err != nil {
				d.log.Warn("a commit failed; trying again", zap.Error(err))
			}
		}
	}
}

func (d *Deliverer) busy() (n int) {
	for _, l := range d.keeper.lanes() {
		l.mu.Lock()
		n += l.busy
		l.mu.Unlock()
	}
	return n
}

// drainWithin has the flusher write everything that has ended.
func (d *Deliverer) drainWithin(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	done := make(chan struct{})
	select {
	case d.drain <- done:
	case <-timer.C:
		return
	}
	select {
	case <-done:
	case <-timer.C:
	}
}

// begin takes over what the generation assigns: parts that stayed ours go on, others begin at their committed offset, lost ones end. If the generation is
// over before that is done, it gives up at once, because the others wait for us.
func (d *Deliverer) begin(ctx context.Context, gen *kafka.Generation) error {
	old := *d.parts.Load()
	next := map[kafka.TP]*part{}
	kept := d.keptPartitions(old, gen)
	fresh := map[kafka.TP]kafka.Committed{}
	for tp, c := range gen.Assigned {
		if tp.Topic == d.topics.Dead {
			continue
		}
		if kept[tp.Partition] {
			next[tp] = old[tp]
		} else {
			fresh[tp] = c
		}
	}
	if err := whileOn(ctx, gen, func(ctx context.Context) error { return d.open(ctx, fresh, next) }); err != nil {
		return err
	}
	lost, changed := 0, map[int32]bool{}
	for tp, p := range old {
		if next[tp] != p {
			p.lost.Store(true)
			lost++
			changed[tp.Partition] = true
		}
	}
	fault.Before(fault.DelivererTake)
	d.parts.Store(&next)
	d.lastGen = gen.ID
	if lost > 0 {
		for _, l := range d.allLanes() {
			l.dropLost()
		}
	}
	d.lines.begin(gen, fresh, changed)
	hot, cold := map[kafka.TP]int64{}, map[kafka.TP]int64{}
	for tp, p := range next {
		at := int64(kafka.KeepPosition)
		if old[tp] != p {
			at = p.next()
		}
		if p.tier > 0 || p.replay {
			cold[tp] = at
		} else {
			hot[tp] = at
		}
	}
	d.hot.Assign(hot)
	d.cold.Assign(cold)
	fault.After(fault.DelivererTake, nil)
	d.lease.frozen.Store(false)
	d.log.Info("a generation of the group begins", zap.Int32("generation", gen.ID), zap.Int("partitions", len(next)), zap.Int("fresh", len(fresh)), zap.Int("lost", lost))
	if err := d.commit(ctx, gen, true, fault.DelivererFirstCommit); err != nil {
		d.log.Warn("the first commit of a generation failed; trying again", zap.Error(err))
	}
	now := time.Now()
	for _, l := range d.keeper.lanes() {
		l.mu.Lock()
		l.work(now)
		l.mu.Unlock()
	}
	d.redriver.wake()
	return nil
}

// whileOn does something for as long as a generation stands.
func whileOn(ctx context.Context, gen *kafka.Generation, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-gen.Done():
		case <-ended:
		}
		cancel()
	})
	err := do(ctx)
	close(ended)
	watch.Wait()
	return err
}

// keptPartitions are those that nobody else has had since our last commit: for all topics of the partition, what stands committed is what we committed
// last, metadata and all. A generation that we were not part of may have had an owner that sent and died before its first commit; then only a
// partition of which nothing is in memory is kept.
func (d *Deliverer) keptPartitions(old map[kafka.TP]*part, gen *kafka.Generation) map[int32]bool {
	kept := map[int32]bool{}
	for tp, c := range gen.Assigned {
		if tp.Topic == d.topics.Dead {
			continue
		}
		same, known := kept[tp.Partition]
		p := old[tp]
		ok := p != nil && !p.lost.Load() && !p.unlined.Load() && p.lastCommitted() == c
		if ok && gen.ID != d.lastGen+1 {
			open, _ := p.counts()
			ok = open == 0 && !p.fenced && !d.lines.asks(tp.Partition) // that owner's fence would be younger than ours
		}
		kept[tp.Partition] = ok && (same || !known)
	}
	return kept
}

// open makes the parts of partitions that are new to us. Nothing is read of them before lines.install, and nothing taken from an answer that was asked for under
// the generation before.
func (d *Deliverer) open(ctx context.Context, fresh map[kafka.TP]kafka.Committed, into map[kafka.TP]*part) error {
	tiers := map[string]time.Duration{}
	for _, t := range d.tiers {
		tiers[t.Name] = t.Wait
	}
	starts := map[string]map[int32]int64{}
	for tp, c := range fresh {
		if c.Offset < 0 && starts[tp.Topic] == nil {
			bounded, cancel := context.WithTimeout(ctx, resolve)
			at, err := d.kafka.Offsets(bounded, tp.Topic, kafka.Earliest)
			cancel()
			if err != nil {
				return err
			}
			starts[tp.Topic] = at
		}
	}
	attempted := map[int32]int64{}
	if starts[d.topics.Retry] != nil {
		bounded, cancel := context.WithTimeout(ctx, resolve)
		defer cancel()
		var err error
		if attempted, err = d.kafka.Offsets(bounded, d.topics.Attempts, kafka.Latest); err != nil {
			return err
		}
	}
	for tp, c := range fresh {
		none := c.Offset < 0
		if none {
			c.Offset = starts[tp.Topic][tp.Partition]
		}
		p := newPart(tp, tiers[tp.Topic], tp.Topic == d.topics.Replay, c)
		p.unlined.Store(true)
		into[tp] = p
		if none {
			p.committed.Offset = -1
			if tp.Topic == d.topics.Retry && attempted[tp.Partition] > 0 {
				d.stopPart(p, errors.New("there is no committed offset although this partition has been delivered from before: from its start on, everything "+
					"that is kept would be sent again (to choose an offset, stop the deliverers and run kafka-consumer-groups.sh --reset-offsets for the group "+
					d.kafka.Config().TopicPrefix+d.cfg.Group+")"))
			}
			continue
		}
		in, err := decodeMeta(c.Offset, c.Metadata)
		if err != nil {
			d.log.Warn("the metadata of a commit cannot be read; what stands behind its offset is tried unless a mark stands", zap.String("topic", tp.Topic),
				zap.Int32("partition", tp.Partition), zap.Error(err))
		}
		p.inherited = in
	}
	return nil
}

// commit commits what has changed since the last commit, and at least one partition, because an accepted commit is what the lease rests on.
func (d *Deliverer) commit(ctx context.Context, gen *kafka.Generation, all bool, at fault.Point) error {
	now := time.Now()
	parts := *d.parts.Load()
	flying := d.flying()
	offsets := map[kafka.TP]kafka.Committed{}
	var spare kafka.TP
	for tp, p := range parts {
		if p.stopped.Load() && p.lastCommitted().Offset < 0 {
			continue // nothing may be committed where nobody knows where to begin
		}
		c, err := p.commit(now, flying[p])
		if err != nil {
			d.stopPart(p, err)
			continue
		}
		if spare.Topic == "" {
			spare = tp
		}
		if all || c != p.lastCommitted() {
			offsets[tp] = c
		}
	}
	if len(offsets) == 0 {
		if spare.Topic == "" {
			return nil
		}
		offsets[spare] = parts[spare].lastCommitted()
	}
	bounded, cancel := context.WithTimeout(ctx, commitMost)
	defer cancel()
	defer d.watchCommit(now)()
	if err := fault.Before(at); err != nil {
		return err
	}
	if err := fault.After(at, gen.Commit(bounded, offsets)); err != nil {
		return err
	}
	for tp, c := range offsets {
		parts[tp].accepted(c)
	}
	if d.lease.renew(now) {
		d.hot.Wake()
		d.cold.Wake()
	}
	return nil
}

// flying are the sends under way by partition, sorted by offset. Senders are asked first and the collector second: an item moves from the one to the
// other, and it is better named twice than not at all.
func (d *Deliverer) flying() map[*part][]underWay {
	into := map[*part][]underWay{}
	for _, l := range d.keeper.lanes() {
		l.flying(into)
	}
	for _, it := range d.collector.unflushed() {
		if it.lane == nil {
			continue
		}
		it.lane.mu.Lock()
		nameFlying(into, it)
		it.lane.mu.Unlock()
	}
	for _, list := range into {
		sortUnderWay(list)
	}
	return into
}
