package subscriptions_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// What comes first finds a subscription that every process knows and that nothing is owed to; behind it, everything since before it was called is owed.
func TestWhatComesFirstComesBeforeEverythingAndNothingLiesBetween(t *testing.T) {
	for name, from := range map[string]int64{"from the start": 0, "backfilled": time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC).UnixMilli()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWholeWorld(t)
				p, there := w.process(), w.process()
				d := draft("c0ffee01", "crm", "*")
				d.From, d.AcceptGap = from, true
				began, called := time.Now(), time.Time{}
				l, secret, err := p.CreateAfter(t.Context(), d, func(_ context.Context, l *subscriptions.Live) error {
					called = time.Now()
					known, ok := there.Get(l.ID)
					if !ok || known.Version != 1 || len(known.Spans) != 0 || known.LiveAt(called.UnixMilli()) || known.State != schemas.StateActive {
						t.Errorf("another process knows %+v", known)
					}
					if since := time.Since(began); since < 2*time.Second {
						t.Errorf("called after %v, when a router need not know the subscription yet", since)
					}
					return nil
				})
				if err != nil || len(secret.Reveal()) == 0 {
					t.Fatal(err)
				}
				if err := there.CatchUp(t.Context()); err != nil {
					t.Fatal(err)
				}
				l, _ = there.Get(l.ID)
				checkSpans(t, p.client, &l.Subscription)
				if len(l.Spans) != 1 || !l.LiveAt(time.Now().UnixMilli()) {
					t.Errorf("it has returned, and the spans are %v at %d", l.Spans, time.Now().UnixMilli())
				}
				if want := began.Add(-time.Second).UnixMilli(); from == 0 && l.BackfillFrom > want || from != 0 && l.BackfillFrom != from {
					t.Errorf("owed from %d on, and it began at %d", l.BackfillFrom, began.UnixMilli())
				}
				for at := called.UnixMilli(); at < time.Now().UnixMilli(); at += 100 {
					if _, ok := l.RoutedAs(at); !ok {
						t.Errorf("an event of %d is owed to nobody", at)
					}
				}
			})
		})
	}
}

// Whatever keeps a subscription from its beginning, nothing is owed to it, and who asked learns what stands.
func TestASubscriptionWhoseFirstEventFailsIsNotLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		broken := errors.New("no snapshot")
		for name, c := range map[string]struct {
			first func(context.Context, *subscriptions.Live) error
			code  string
		}{
			"fails": {func(context.Context, *subscriptions.Live) error { return broken }, broken.Error()},
			"paused": {func(ctx context.Context, l *subscriptions.Live) error {
				_, err := p.Pause(ctx, l.ID, "too early")
				return err
			}, subscriptions.CodeConflict},
			"deleted": {func(ctx context.Context, l *subscriptions.Live) error { return p.Delete(ctx, l.ID) }, subscriptions.CodeDeleted},
		} {
			d := draft("c0ffee01", name, "*")
			d.From = subscriptions.Earliest
			l, secret, err := p.CreateAfter(t.Context(), d, c.first)
			if code(err) != c.code || l == nil || len(secret.Reveal()) == 0 {
				t.Errorf("%s: %v, %v", name, l, err)
				continue
			}
			if now, ok := p.Get(l.ID); !ok || now.LiveAt(time.Now().Add(time.Hour).UnixMilli()) || now.BackfillFrom != 0 {
				t.Errorf("%s: %+v", name, now)
			}
		}
		for id, list := range orders(t, p.client) {
			if o := last(list); o.Kind == schemas.ReplayCatchUp {
				t.Errorf("the order %s: %+v", id, o)
			}
		}
		_, _, err := p.CreateAfter(t.Context(), draft("c0ffee01", "fails", "*"), func(context.Context, *subscriptions.Live) error {
			t.Error("called for what was refused")
			return nil
		})
		if code(err) != subscriptions.CodeNameTaken {
			t.Error(err)
		}
	})
}

// Somebody changes the subscription while its cut is being written: both come to be.
func TestAChangeWhileASubscriptionGoesLiveIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p, other := w.process(), w.process()
		done := make(chan error, 1)
		l, _, err := p.CreateAfter(t.Context(), draft("c0ffee01", "crm", "*"), func(_ context.Context, l *subscriptions.Live) error {
			go func() {
				_, err := other.Update(t.Context(), l.ID, subscriptions.Change{URL: new("https://other.example.com/in")})
				done <- err
			}()
			return nil
		})
		if err := errors.Join(err, <-done, other.CatchUp(t.Context())); err != nil {
			t.Fatal(err)
		}
		l, _ = other.Get(l.ID)
		if l.URL != "https://other.example.com/in" || len(l.Spans) != 1 {
			t.Errorf("%+v", l.Subscription)
		}
		checkSpans(t, p.client, &l.Subscription)
	})
}
