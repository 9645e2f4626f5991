package router

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The router reads the order, and the record whose cut names it, before the order says where it ends: it takes the end for a minute away. The end comes a moment
// later, and the catch-up must begin when that has passed, not when the minute has.
func TestACatchUpIsNotHeldUpByTheEndThatItHadBeforeItWasConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.start(nil)
		s := schemas.Subscription{ID: "sub_1", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"*"}, State: schemas.StatePaused,
			Spans: []schemas.Cut{{At: 1, Kind: schemas.CutLive}, {At: time.Now().UnixMilli(), Kind: schemas.CutPaused}}}
		w.put(&s)
		later(2 * time.Second)
		w.publish("booking.creation", "c_a")
		later(2 * time.Second)
		order := schemas.CatchUp("rpl_1", &s, s.PausedAt(), time.Now().UnixMilli())
		w.writeOrder(&order)
		cut := time.Now().Add(2250 * time.Millisecond).UnixMilli()
		s.Version, s.State, s.Spans = 2, schemas.StateActive, append(slices.Clone(s.Spans), schemas.Cut{At: cut, Kind: schemas.CutLive, Reason: order.ID})
		w.put(&s)
		later(1100 * time.Millisecond) // the replayer has looked at it
		order.To = cut
		w.writeOrder(&order)
		began := time.Now()
		w.replayed(1, false)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the catch-up began %v after its end was known", took)
		}
	})
}
