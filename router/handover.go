package router

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// An ordered subscription (order: entity) gets the events of an entity in their order, and two topics have no order between them. So its catch-up writes to
// `retry`, as the live path does, and live waits for it: in a source partition in which its catch-up is not through, the live path leaves the subscription
// out, and the catch-up goes on behind its span, making the tasks that live leaves out (the same tasks, under the same ids) until it has come to where
// live is. There it hands over. Other subscriptions and other partitions are not touched.
//
// Who is left out is read from the subscription's own record: the cut "live" names its catch-up, so a router that knows the cut knows that there is a
// catch-up, even if it has not read the order yet. It is left out until the router knows that the catch-up is through.
//
//  1. the catch-up has come to where live was a moment ago. The partition is parked for live, and what live has at hand is waited for; another catch-up that
//     has come so far waits its turn. Death: as if nothing had been; the successor's live leaves the subscription out as before.
//  2. the catch-up routes what came meanwhile, up to where live stands now. Death: the same events are routed again, under the same ids.
//  3. the offset at which live stands is committed, and the commit's metadata names the catch-up. Before: as 2. After: the successor reads the name with
//     the offset. The commit is fenced by the generation, so of a router that lost the partition and does not know it nothing counts.
//  4. live takes the subscription in again, and the partition goes on.
//  5. the progress says that the catch-up is through; only then do commits stop naming it. Death before: the successor knows it from the commit, and writes the
//     progress.
//
// The commit comes first because progress is not fenced: a router that was stopped between 2 and 4, for so long that it lost the partition, may write
// "through" at any time later. By then the new owner's live has left the subscription out far behind that place, and nobody would ever route that.
//
// The end of a catch-up in one case is no hand-over: the subscription was paused again meanwhile. Then it ends at that cut, where live has nothing to say.

// handingOver is what a partition waits for while a catch-up hands it over.
var handingOver = &writer{why: whyHandOver}

const (
	whyHandOver = "hand_over"
	// handOverNear is how many records behind live a catch-up may be to begin its hand-over: few enough that the partition does not stand still for long.
	handOverNear = 2000
	handOverWait = 10 * time.Second // for what live has at hand, and for the commit
	mostHanded   = 100              // catch-ups named by one commit: metadata has at most 4,096 bytes
)

// gate drops those of subs that the live path leaves out for now. It is not sure before the orders are loaded, if it has to know them.
func (o *orders) gate(src *schemas.Source, subs []*subscriptions.Live) ([]*subscriptions.Live, bool) {
	keep := subs
	for i := 0; i < len(keep); i++ {
		if keep[i].Order != schemas.OrderEntity {
			continue
		}
		out, sure := o.leaves(keep[i], src)
		if !sure {
			return subs, false
		}
		if out {
			keep = slices.Delete(keep, i, i+1)
			i--
		}
	}
	return keep, true
}

// leaves says whether the live path leaves an ordered subscription out: one of its catch-ups up to here is not through in that partition.
func (o *orders) leaves(l *subscriptions.Live, src *schemas.Source) (out, sure bool) {
	tp := kafka.TP{Topic: src.Topic, Partition: src.Partition}
	for i := range l.Spans {
		c := &l.Spans[i]
		if c.At > src.Time {
			break
		}
		if c.Kind != schemas.CutLive || c.Reason == "" {
			continue
		}
		select {
		case <-o.loaded:
		default:
			return false, false
		}
		if !o.through(c.Reason, tp) {
			o.leave(c.Reason, tp)
			return true, true
		}
	}
	return false, true
}

// through says that a catch-up has nothing left in a partition.
func (o *orders) through(id string, tp kafka.TP) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if _, over := o.over[id]; over {
		return true
	}
	if p := o.progress[id][tp]; p != nil && p.Done {
		return true
	}
	_, handed := o.handed[id][tp]
	return handed
}

// leave notes that live has left a subscription out because of a catch-up: should its order be taken off, the catch-up hands over all the same.
func (o *orders) leave(id string, tp kafka.TP) {
	o.mu.RLock()
	_, known := o.leftOut[id][tp]
	o.mu.RUnlock()
	if !known {
		o.mu.Lock()
		defer o.mu.Unlock()
		add(o.leftOut, id, tp)
	}
}

// left says whether live has left a subscription out for a catch-up, in this process.
func (o *orders) hasLeft(id string, tp kafka.TP) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	_, left := o.leftOut[id][tp]
	return left
}

// hand notes that a catch-up has handed over to live, as a commit says.
func (o *orders) hand(id string, tp kafka.TP) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, over := o.over[id]; !over {
		add(o.handed, id, tp)
	}
}

// wasHanded says whether a commit named the catch-up.
func (o *orders) wasHanded(id string, tp kafka.TP) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	_, handed := o.handed[id][tp]
	return handed
}

func add(m map[string]map[kafka.TP]struct{}, id string, tp kafka.TP) {
	if m[id] == nil {
		m[id] = map[kafka.TP]struct{}{}
	}
	m[id][tp] = struct{}{}
}

// handedText is the metadata of a commit, and handedOf reads it.
func handedText(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return "handed=" + strings.Join(ids, ",")
}

func handedOf(metadata string) []string {
	text, ok := strings.CutPrefix(metadata, "handed=")
	if !ok || text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

var errHandOver = errors.New("the hand-over has to wait")

// freeze parks a partition for live and waits until nothing of it is at hand. It returns where live stands. One hand-over at a time has it frozen: with two, the
// first to be done would thaw it, live would go on without the subscription of the other, and the other would hand over at a place that live has left behind.
// With an error it is not frozen by the caller, who must not thaw it then.
func (r *Router) freeze(ctx context.Context, p *partition) (next int64, err error) {
	if err := r.owned.freeze(p); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			r.thaw(p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	select {
	case r.routing <- struct{}{}:
		<-r.routing
	case <-ctx.Done():
		return 0, errHandOver
	}
	next, ok := r.owned.next(p.tp)
	if !ok {
		return 0, errNotOwned
	}
	return next, nil
}

// thaw lets live go on. Only who froze the partition calls it.
func (r *Router) thaw(p *partition) {
	if r.owned.unpark(func(q *partition) bool { return q == p && p.waits == handingOver }) {
		r.fetcher.Wake()
	}
}

// hand commits that a catch-up has handed its partition over at next, while it is frozen there. Nil: whoever owns the partition next will know.
func (r *Router) hand(ctx context.Context, id string, p *partition, next int64) error {
	if err := fault.Before(fault.ReplayHand); err != nil {
		return err
	}
	return fault.After(fault.ReplayHand, r.commitHanded(ctx, id, p, next))
}

func (r *Router) commitHanded(ctx context.Context, id string, p *partition, next int64) error {
	if err := r.owned.hand(id, p, next); err != nil {
		return err
	}
	select {
	case r.commitNow <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond) // a commit tells nobody
	defer tick.Stop()
	for {
		switch said, ours := r.owned.said(id, p); {
		case said:
			r.orders.hand(id, p.tp)
			return nil
		case !ours:
			return errNotOwned
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			// The commit may have come through. If it has not, taking the name back costs nothing; if it has, live and catch-up both route what comes
			// between here and the next hand-over, under the same ids, should this router die before its next commit.
			r.owned.unhand(id, p)
			return errHandOver
		}
	}
}

// freeze parks a partition for a hand-over, whatever else it may be parked for, unless another hand-over has it.
func (o *owned) freeze(p *partition) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.parts[p.tp] != p {
		return errNotOwned
	}
	if p.waits == handingOver {
		return errHandOver
	}
	o.stop(p, whyHandOver)
	p.waits, p.until = handingOver, time.Time{}
	return nil
}

// hand has the next commits name a catch-up. The partition must be frozen at next.
func (o *owned) hand(id string, p *partition, next int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.parts[p.tp] != p {
		return errNotOwned
	}
	if p.waits != handingOver || p.next != next || len(p.handed) >= mostHanded {
		return errHandOver
	}
	if !slices.Contains(p.handed, id) {
		p.handed, p.unsaid = append(slices.Clip(p.handed), id), true
	}
	return nil
}

// said says whether the group has the name of a catch-up with the partition's offset, and whether the partition is still ours.
func (o *owned) said(id string, p *partition) (said, ours bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !p.unsaid && slices.Contains(p.handed, id), o.parts[p.tp] == p
}

// unhand has the next commits leave the name out: its progress says it, or it did not happen.
func (o *owned) unhand(id string, p *partition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(p.handed, id); i >= 0 {
		p.handed, p.unsaid = slices.Delete(slices.Clone(p.handed), i, i+1), true
	}
}
