package subscriptions

import (
	"cmp"
	"context"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// Pause stops the sends to a subscription at once, keeps what is owed to it, and returns when no router routes to it any more: what is published from
// then on waits in the log, what comes up before waits in `dead` as paused, and Resume sends both. Pausing what is paused changes nothing; what is disabled
// is stopped already, and Pause refuses.
func (w *Writer) Pause(ctx context.Context, id, reason string) (*Live, error) {
	var at placed
	l, err := w.change(ctx, id, w.pausing(reason, &at), func(l *Live, s *schemas.Subscription) error {
		switch l.State {
		case schemas.StatePaused:
			return errNothing
		case schemas.StateDisabled:
			return Refusals{refuse(CodeDisabled, "id", "%s is disabled, which stops it just as well (%s)", id, cmp.Or(l.StateReason, "no reason is known"))}
		}
		s.State, s.StateReason = schemas.StatePaused, reason
		return nil
	})
	if err != nil {
		return l, err
	}
	w.notePause(ctx, l, at)
	return l, w.awaitCut(ctx, l, at)
}

// Disable stops the sends to a subscription that asked for it (410), or that has been failing for too long. It is routed up to a cut two seconds from now;
// Disable does not wait for it to pass. What is disabled or paused already stays as it is.
func (w *Writer) Disable(ctx context.Context, id, reason string) error {
	var at placed
	l, err := w.change(ctx, id, w.pausing(reason, &at), func(l *Live, s *schemas.Subscription) error {
		if l.State != schemas.StateActive {
			return errNothing
		}
		s.State, s.StateReason = schemas.StateDisabled, reason
		return nil
	})
	if err == nil {
		w.notePause(ctx, l, at)
	}
	return err
}

// pausing writes a record with a cut "paused".
func (w *Writer) pausing(reason string, at *placed) func(context.Context, *schemas.Subscription) (*Live, error) {
	return func(ctx context.Context, s *schemas.Subscription) (l *Live, err error) {
		*at, err = w.writeCut(ctx, s, schemas.Cut{Kind: schemas.CutPaused, Reason: reason})
		return at.l, err
	}
}

// Resumed is what came of Resume.
type Resumed struct {
	*Live
	// CatchUp and Redrive are the ids of the orders: for what was published while the subscription was not live, and for what came up meanwhile and lies
	// in `dead`. Empty: it was active already.
	CatchUp, Redrive string
	Gaps             []Gap // what is gone, if that was accepted
}

// Resume makes a paused or disabled subscription active again, without loss: what was published meanwhile is routed by a catch-up, what came up meanwhile
// is redriven, and from the cut on it is live again. It returns when the cut has passed; both orders are worked off after that. What is active stays so.
//
// If retention has taken events of the span, Resume names them and refuses (CodeRetentionGap), unless acceptGap is set.
//
// Beside an error it returns what was written, if anything was.
//
// What if the process dies, or loses
//
//	before the orders are written: nothing has changed.
//	between the orders and the record: the catch-up is named by no cut and does nothing; the redrive waits until the subscription is live. The next Resume
//	    writes another catch-up, and the same redrive.
//	between the record and the confirmation: it is active, and the catch-up begins a minute behind the cut (schemas/span.go).
//	after that: all of it is done by those who own the partitions.
//	the race against another Resume: as in the second case; the other's orders are worked off.
//	the race against another change: its orders are named by nobody, and it begins again from what stands now.
func (w *Writer) Resume(ctx context.Context, id string, acceptGap bool) (*Resumed, error) {
	out := &Resumed{}
	var at placed
	var catchUp *schemas.Replay
	l, err := w.change(ctx, id, func(ctx context.Context, s *schemas.Subscription) (l *Live, err error) {
		cut := schemas.Cut{Kind: schemas.CutLive}
		catchUp, out.Redrive, out.Gaps, err = w.orderResume(ctx, s, acceptGap)
		if err != nil {
			return nil, err
		}
		if catchUp != nil {
			cut.Reason = catchUp.ID
		}
		now, err := w.writeCut(ctx, s, cut)
		if now.l != nil {
			at = now
		}
		return now.l, err
	}, func(l *Live, s *schemas.Subscription) error {
		if l.State == schemas.StateActive { // by us, perhaps: a cut that lay much too far ahead, and that somebody's change kept from being moved
			return errNothing
		}
		s.State, s.StateReason, s.FailingSince = schemas.StateActive, "", 0
		return nil
	})
	switch {
	case err == nil && at.l == nil: // it was active; another may have resumed it just now
		return &Resumed{Live: l}, w.awaitCut(ctx, l, at)
	case err != nil && at.l == nil:
		return nil, err
	}
	if out.Live = l; l == nil {
		out.Live = at.l
	}
	if catchUp != nil {
		out.CatchUp = catchUp.ID
	}
	if err != nil {
		return out, err
	}
	w.confirm(ctx, catchUp, at)
	return out, w.awaitCut(ctx, l, at)
}

// awaitCut returns when the last cut of a subscription has passed: the one that was just written, or else the one that stands.
func (w *Writer) awaitCut(ctx context.Context, l *Live, at placed) error {
	passed := at.passed
	if n := len(l.Spans); at.l == nil && n > 0 {
		passed = time.Now().Add(time.UnixMilli(l.Spans[n-1].At).Add(w.cfg.ClockSpread).Sub(w.c.BrokerNow()))
	}
	if d := time.Until(passed); d > 0 {
		wait(ctx, d)
	}
	return context.Cause(ctx)
}
