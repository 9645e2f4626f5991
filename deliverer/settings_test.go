package deliverer

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// The sequence that this chases: a sender finds that the subscription has changed and begins to read it; a second sender is told that this has been
// noticed already, and takes the settings from before the change, or none at all on a lane that is new.
func TestNoSenderTakesSettingsFromBeforeAChangeThatItCouldSee(t *testing.T) {
	w := newWorld(t, func(c *worldConfig) { c.quiet = true })
	l := w.subscribe("/ok")
	cfg, deps := w.options()
	d, err := New(cfg, deps)
	w.must(err)
	for i := range 300 {
		lane := newLane(d, l.ID, time.Now())
		start := make(chan struct{})
		var wg sync.WaitGroup
		errs := make(chan error, 64)
		for range 4 {
			wg.Go(func() {
				<-start
				for range 4 {
					seen := lane.changes.Load()
					if set := lane.settingsNow(); set == nil || set.live == nil {
						errs <- fmt.Errorf("lane %d: a sender got no settings", i)
					} else if set.change < seen {
						errs <- fmt.Errorf("lane %d: settings of change %d after change %d was seen", i, set.change, seen)
					}
				}
			})
		}
		wg.Go(func() {
			<-start
			for range 4 {
				lane.changes.Add(1)
			}
		})
		close(start)
		wg.Wait()
		lane.conns.Close()
		select {
		case err := <-errs:
			t.Fatal(err)
		default:
		}
	}
}

// A sender sets its deadline when it takes a task, and once that was before it read the settings: the first send of a lane had the default time-out,
// and the first after a change the old one.
func TestTheFirstSendAndTheFirstAfterAChangeHaveTheirSubscriptionsTimeout(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "/hang" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Timeout = 20 * time.Second })
		w.member()
		w.put(w.task(s))
		pass(22 * time.Second)
		shorter := 2 * time.Second
		s, err := w.writer.Update(w.ctx, s.ID, subscriptions.Change{Timeout: &shorter})
		w.must(err)
		w.put(w.task(s))
		pass(4 * time.Second)
		as := w.attempts()
		if len(as) < 2 {
			t.Fatalf("%d attempts", len(as))
		}
		for i, want := range []time.Duration{20 * time.Second, shorter} {
			if took := time.Duration(as[i].DurationMicros) * time.Microsecond; took != want {
				t.Errorf("send %d was given up after %v, want %v", i+1, took, want)
			}
		}
	})
}
