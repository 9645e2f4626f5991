package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// A subscription that sets no bound of its own goes by the deployment's; one that does goes by its own, also above it.
func TestTheDeploymentBoundsTheConcurrencyOfWhoSetsNone(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "/hang" }, func(t *testing.T, w *world) {
		plain := w.subscribe("/plain")
		own := w.subscribe("/own", func(d *subscriptions.Draft) { d.MaxConcurrency = 4 })
		for range 8 {
			w.put(w.task(plain), w.task(own))
		}
		w.start(func(c *Config, _ *Deps) { c.MaxConcurrency = 2 })
		pass(3 * time.Second) // their time-out is 5 s: nothing has ended yet
		got := map[string]int{}
		for _, r := range w.receiver.Ledger() {
			got[r.Path]++
		}
		if got["/plain"] != 2 || got["/own"] != 4 {
			t.Errorf("sends at once: %v, want 2 by the deployment and 4 by its own setting", got)
		}
	})
}

// The tasks are sent one at a time here, so that no try is under way when the circuit opens.
func TestTheDeploymentSaysAfterHowManyFailuresACircuitOpens(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "/status/500" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxConcurrency = 1 })
		for range 8 {
			w.put(w.task(s))
		}
		w.start(func(c *Config, _ *Deps) { c.CircuitFailures = 2 })
		pass(probeFirst - time.Second)
		if n := len(w.receiver.Ledger()); n != 2 {
			t.Errorf("%d tries before the first probe, want 2", n)
		}
	})
}
