package deliverer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// TestALeaseThatWasLostAndCameBackPostponesNothing: a deliverer that cannot commit sends nothing. When it could again, it found that its lanes had done
// nothing lately and that their lines were old, took the receivers for slow, and handed all but one task of each lane back to a tier of up to half an
// hour: after Kafka had been away for some seconds, healthy receivers waited for minutes.
func TestALeaseThatWasLostAndCameBackPostponesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual = true })
		s := w.subscribe("/delay/400ms/a")
		d := w.start()
		put := func(n int) {
			var tasks []*schemas.Task
			for range n {
				tasks = append(tasks, w.task(s))
			}
			w.put(tasks...)
		}
		put(60)
		w.must(w.receiver.WaitDelivered(w.within(time.Minute), "/delay/400ms/a", 60))
		d.lease.frozen.Store(true) // as it is when the coordinator does not answer; nothing thaws it but us
		put(100)
		time.Sleep(10 * time.Second) // virtual
		if n := len(w.receiver.Ledger()); n > 60 {
			t.Fatalf("%d were sent, and there was no lease", n-60)
		}
		d.lease.frozen.Store(false)
		w.must(w.receiver.WaitDelivered(w.within(time.Minute), "/delay/400ms/a", 160))
		for _, tier := range w.kafka.Topics().Tiers {
			if n := len(w.read(tier.Name)); n > 0 {
				t.Errorf("%d tasks were handed back to %s", n, tier.Name)
			}
		}
		d.stop()
	})
}
