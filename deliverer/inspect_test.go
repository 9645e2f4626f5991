package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

func TestLagCountsWhatIsNotFinishedAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.partitions = 1 })
	subs := w.subscribeAll("/hang", "/ok", "/status/503")
	r := w.start()
	var ts []*schemas.Task
	for range 5 {
		ts = append(ts, w.task(subs[0]), w.task(subs[1]))
	}
	w.put(append(ts, w.task(subs[2]))...)
	w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "/ok", 5))
	w.must(w.receiver.Wait(w.within(10*time.Second), func(l []*sandbox.Received) bool { return len(l) >= 7 }))
	var got map[string]Lag
	w.eventually(4*time.Second, "what hangs and what waits for its retry", func() bool {
		lags, err := ReadLag(w.ctx, w.kafka, r.cfg.Group, "", nil)
		w.must(err)
		got = map[string]Lag{}
		for _, l := range lags {
			got[l.Subscription] = l
		}
		retry := got[subs[2].ID]
		return len(got) == 2 && got[subs[0].ID].Waiting == 5 && retry.Waiting == 1 && retry.Retrying == 1
	})
	if due := got[subs[2].ID].OldestDue; time.Until(due) < -6*time.Second || time.Until(due) > 6*time.Second {
		t.Errorf("the retry is due %v", due)
	}
	n := 0
	w.must(ReadAttempts(w.ctx, w.kafka, AttemptFilter{Subscription: subs[1].ID, Verdict: schemas.VerdictDelivered}, nil, func(a *schemas.Attempt) {
		if n++; a.Subscription != subs[1].ID {
			t.Errorf("an attempt of %s", a.Subscription)
		}
	}))
	if n != 5 {
		t.Errorf("%d attempts, want 5", n)
	}
}
