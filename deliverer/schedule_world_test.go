package deliverer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// TestTheWholeScheduleInVirtualTime: ten tries over 75 h 35 m of a receiver that always fails, with a restart of the deliverer between any two tries and
// Redis emptied in between. Each try comes within a second and its jitter; in the end the task is dead, and a redrive delivers it.
func TestTheWholeScheduleInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		w := newWorld(t, func(c *worldConfig) {
			c.virtual, c.partitions, c.quiet = true, 1, true
			c.receiver = sandbox.ReceiverConfig{Script: func(*sandbox.Received) string {
				if fail {
					return "/status/500"
				}
				return "/ok"
			}}
		})
		// Fewer idle round trips: three virtual days of them cost real time.
		slow := func(cfg *Config, _ *Deps) { cfg.CommitInterval, cfg.FetchWait = 2*time.Second, 10*time.Second }
		s := w.subscribe("/flaky")
		task := w.task(s)
		w.put(task)
		w.stopTable()
		r := w.start(slow)
		schedule := DefaultSchedule()
		last := time.Now()
		for try := 1; try <= len(schedule); try++ {
			w.must(w.receiver.Wait(w.ctx, func(l []*sandbox.Received) bool { return len(l) == try }))

			got := w.receiver.Ledger()[try-1]
			wait := schedule[try-1] + Jitter(task.ID, int32(try), schedule[try-1])
			if late := got.At.Sub(last) - wait; try > 1 && (late < 0 || late > time.Second) {
				t.Errorf("try %d came %v after the one before, want %v (late by %v)", try, got.At.Sub(last), wait, late)
			}
			if got.Attempt != try || got.Signature != nil {
				t.Errorf("try %d: attempt %d, signature %v", try, got.Attempt, got.Signature)
			}
			last = got.At
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(w.attempts()); n != try {
				t.Fatalf("%d attempts after try %d", n, try)
			}
			r.stop()
			w.redis.Flush()
			r = w.start(slow)
		}
		dead := w.dead()
		if len(dead) != 1 || dead[0].Reason != schemas.ReasonExhausted || dead[0].Task.Attempt != 10 {
			t.Fatalf("dead: %+v", dead)
		}
		fail = false
		order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
		w.must(err)
		w.must(w.receiver.WaitDelivered(w.ctx, "", 1))
		if again := w.receiver.Ledger()[10]; again.Attempt != 1 || again.WebhookID != schemas.WebhookID(s.ID, task.EventID) {
			t.Errorf("the redriven task: %+v", again)
		}
		time.Sleep(time.Minute)
		state, err := RedriveProgress(w.ctx, w.kafka, order)
		w.must(err)
		if !state.Done || state.Matched != 1 || len(w.receiver.Ledger()) != 11 {
			t.Errorf("redrive %+v, %d requests", state, len(w.receiver.Ledger()))
		}
		r.stop()
	})
}
