package subscriptions

import (
	"context"

	"github.com/hookferry/hookferry/schemas"
)

// SetFailing notes since when (ms) a subscription's receiver has been failing, 0: it works. The deliverer calls it once per change of state; a subscription
// that is failing already keeps its first time, so that restarts of the deliverer do not start the five days anew.
func (w *Writer) SetFailing(ctx context.Context, id string, since int64) error {
	_, err := w.change(ctx, id, w.write, func(l *Live, s *schemas.Subscription) error {
		if l.State != schemas.StateActive || (l.FailingSince != 0) == (since != 0) {
			return errNothing
		}
		s.FailingSince = since
		return nil
	})
	return err
}
