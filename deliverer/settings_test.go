package deliverer

import (
	"fmt"
	"sync"
	"testing"
	"time"
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
