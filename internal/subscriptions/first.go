package subscriptions

import (
	"context"
	"errors"
	mrand "math/rand/v2"
	"time"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

// CreateAfter makes a subscription that gets something made for it alone before anything else. first has to bring that into line, and to know that it is
// there, before it returns; it is called when every router knows the subscription, and before any event is owed to it. Then the subscription becomes live, with a
// catch-up from a time before first was called: so what first shows and what comes behind it overlap, and nothing lies between. Otherwise as Create.
//
// What if the process dies
//
//	before the record is written: nothing has changed.
//	between the record and its cut: the subscription stands without a span. Nothing is owed to it but what was made for it alone, and nothing makes it live: it
//	    is to be deleted and made again, as after an error. What first put in line arrives all the same.
//	behind the order or the cut: as in Create.
func (w *Writer) CreateAfter(ctx context.Context, d Draft, first func(context.Context, *Live) error) (*Live, secrets.Secret, error) {
	for losses := 0; ; losses++ {
		l, plain, from, err := w.createBare(ctx, d)
		switch {
		case errors.Is(err, errTwin) && losses < maxLosses:
			wait(ctx, mrand.N(5*time.Millisecond<<min(losses, 7)))
			continue
		case errors.Is(err, errTwin):
			return nil, secrets.Secret{}, Refusals{refuse(CodeConflict, "name", "others made subscriptions of that name at the same time, %d times in a row; none was kept here", losses+1)}
		case l == nil:
			return nil, secrets.Secret{}, err
		case err != nil:
			return l, plain, err
		}
		if wait(ctx, routerStaleness+w.cfg.ClockSpread); ctx.Err() != nil {
			return l, plain, context.Cause(ctx)
		}
		if err := first(ctx, l); err != nil {
			return l, plain, err
		}
		now, err := w.goLive(ctx, l.ID, from, d.AcceptGap)
		if now != nil {
			l = now
		}
		return l, plain, err
	}
}

// createBare writes the record of a new subscription without spans. from is a broker time that no broker's clock had reached when it was not yet there: an event
// with an older stamp was published before, and what first shows holds it. l beside an error: it stands or may stand.
func (w *Writer) createBare(ctx context.Context, d Draft) (l *Live, plain secrets.Secret, from int64, err error) {
	s, plain, err := w.draft(d, w.c.BrokerNow())
	if err != nil {
		return nil, plain, 0, err
	}
	if err := w.table.CatchUp(ctx); err != nil {
		return nil, plain, 0, err
	}
	if err := w.admit(s); err != nil {
		return nil, plain, 0, err
	}
	from, s.BackfillFrom = s.BackfillFrom, 0 // until it is live there is no span that could begin there
	l, a, err := w.writeTimed(ctx, s)
	if errors.Is(err, ErrUnknown) {
		l = &Live{Subscription: *s, keyring: w.keys}
	}
	if err != nil {
		return l, plain, 0, err
	}
	if stamp := a.earliest.Add(-w.cfg.ClockSpread).UnixMilli(); from == 0 || stamp < from {
		from = stamp
	}
	if err = w.withdrawTwin(ctx, l); errors.Is(err, errTwin) {
		l = nil
	}
	return l, plain, from, err
}

// goLive gives a subscription without spans its cut, and a catch-up from a time on, and returns when the cut has passed.
func (w *Writer) goLive(ctx context.Context, id string, from int64, acceptGap bool) (*Live, error) {
	var at placed
	var order *schemas.Replay
	l, err := w.change(ctx, id, func(ctx context.Context, s *schemas.Subscription) (_ *Live, err error) {
		if order, err = w.orderBackfill(ctx, s, acceptGap); err != nil {
			return nil, err
		}
		now, err := w.writeCut(ctx, s, schemas.Cut{Kind: schemas.CutLive, Reason: order.ID})
		if now.l != nil {
			at = now
		}
		return now.l, err
	}, func(l *Live, s *schemas.Subscription) error {
		if n := len(l.Spans); l.State == schemas.StateActive && n == 1 && at.l != nil && l.Spans[0] == at.l.Spans[0] {
			return errNothing // our own cut, which lay much too far ahead, and which somebody's change kept from being moved
		}
		if l.State != schemas.StateActive || len(l.Spans) > 0 {
			return Refusals{refuse(CodeConflict, "", "somebody else has paused %s before it was live; delete it, and make it again", id)}
		}
		s.BackfillFrom = from
		return nil
	})
	if err != nil {
		if l == nil {
			l = at.l
		}
		return l, err
	}
	w.confirm(ctx, order, at)
	return l, w.awaitCut(ctx, l, at)
}
