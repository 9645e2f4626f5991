package producer

import (
	"cmp"
	"context"
	"slices"
)

// Pending is the events of one Start on their way.
type Pending struct {
	p     *Producer
	count int
	done  chan struct{} // closed when every event has its fate

	// Guarded by Producer.mu until done is closed; then nobody writes.
	items  []*item
	left   int
	faults []*EventError
}

// Done is closed when every event has its fate; Wait then returns at once.
func (w *Pending) Done() <-chan struct{} { return w.done }

// Wait returns when every event is accepted, rejected or given up, as Publish does. If ctx ends first, those that were not sent yet are rejected and
// will not be sent; those under way are unknown.
func (w *Pending) Wait(ctx context.Context) error {
	select {
	case <-w.done:
	case <-ctx.Done():
		w.abandon(context.Cause(ctx))
	}
	if len(w.faults) == 0 {
		return nil
	}
	return &Error{Events: w.faults, Count: w.count}
}

// end notes the fate of one event; nil: accepted. Holds Producer.mu. Each event ends once.
func (w *Pending) end(fault *EventError) {
	if fault != nil {
		w.faults = append(w.faults, fault)
	}
	w.left--
	switch {
	case w.left < 0:
		panic("BUG: an event has two fates")
	case w.left == 0:
		slices.SortFunc(w.faults, func(a, b *EventError) int { return cmp.Compare(a.Index, b.Index) })
		delete(w.p.underWay, w)
		w.items = nil
		close(w.done)
	}
}

// abandon gives every event a fate now. An item that was not sent stays in its feed, which passes over it.
func (w *Pending) abandon(cause error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	for _, it := range w.items {
		fault := &EventError{Index: it.index, EventID: it.id, Fate: ErrRejected, Retry: true, Err: cause, code: codeNotAccepted}
		switch it.state {
		case itemEnded:
			continue
		case itemSending:
			fault.Fate, fault.code = ErrUnknown, codeUnknown
		}
		it.state = itemEnded
		w.end(fault)
	}
}
