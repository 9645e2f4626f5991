package deliverer

import (
	"bytes"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

func TestATaskIsDeliveredOnceWithItsBytesAndHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/ok")
	w.start()
	task := w.task(s)
	w.put(task, task) // a router that crashed writes the same task twice
	w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "/ok", 1))
	w.eventually(5*time.Second, "an attempt in the log", func() bool { return len(w.attempts()) == 1 })
	ledger := w.receiver.Ledger()
	if len(ledger) != 1 {
		t.Fatalf("%d requests", len(ledger))
	}
	got := ledger[0]
	if !bytes.Equal(got.Body, task.Body) || got.Signature != nil || got.Attempt != 1 || got.WebhookID != schemas.WebhookID(s.ID, task.EventID) ||
		got.Header.Get("Content-Type") != "application/json" || got.Header.Get("User-Agent") != "hookferry/dev" {
		t.Errorf("received %q with %v, signature %v", got.Body, got.Header, got.Signature)
	}
	a := w.attempts()[0]
	if a.Verdict != schemas.VerdictDelivered || a.Status != 200 || a.TaskID != task.ID || a.Number != 1 || string(a.Answer) != "ok" || a.Address != w.receiver.Addr() {
		t.Errorf("attempt %+v", a)
	}
}

func TestAFailedTryIsMadeAgainFromItsTier(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.tiers = []time.Duration{time.Second, 5 * time.Second} })
	s := w.subscribe("/flap/2", func(d *subscriptions.Draft) {
		d.Schedule = []time.Duration{0, time.Second, 2 * time.Second}
	})
	w.start()
	w.put(w.task(s))
	w.must(w.receiver.Wait(w.within(15*time.Second), func(l []*sandbox.Received) bool { return len(l) >= 3 }))
	ledger := w.receiver.Ledger()
	if len(ledger) != 3 || !ledger[2].Delivered() {
		t.Errorf("%d requests, the last one answered with %d", len(ledger), ledger[len(ledger)-1].Status)
	}
	for i, wait := range []time.Duration{0, time.Second, 2 * time.Second} {
		if ledger[i].Attempt != i+1 || ledger[i].WebhookID != ledger[0].WebhookID || !bytes.Equal(ledger[i].Body, ledger[0].Body) || ledger[i].Signature != nil {
			t.Errorf("try %d: %+v", i+1, ledger[i])
		}
		if i == 0 {
			continue
		}
		if gap := ledger[i].At.Sub(ledger[i-1].At); gap < wait || gap > wait+time.Second {
			t.Errorf("try %d came %v after the one before, want %v", i+1, gap, wait)
		}
	}
	w.eventually(5*time.Second, "three attempts", func() bool { return len(w.attempts()) == 3 })
}

func TestOneHungReceiverDelaysNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.partitions = 1 })
	both := w.subscribeAll("/hang", "/ok")
	w.start()
	w.put(w.task(both[0]))
	w.requests(1) // it hangs, and what comes now comes behind it
	for range 20 {
		var ts []*schemas.Task
		for range 100 {
			ts = append(ts, w.task(both[0]))
		}
		w.put(append(ts, w.task(both[1]))...)
	}
	begun := time.Now()
	w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "/ok", 20))
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("20 tasks beside a hung receiver took %v", took)
	}
}

func TestDeletingASubscriptionStopsItsSendsWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/delay/20ms", func(d *subscriptions.Draft) { d.MaxConcurrency = 2 })
	w.start()
	var ts []*schemas.Task
	for range 500 {
		ts = append(ts, w.task(s))
	}
	w.put(ts...)
	w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "", 5))
	w.must(w.writer.Delete(w.ctx, s.ID))
	deleted := time.Now()
	w.eventually(15*time.Second, "an end for each task", func() bool { return len(ends(w.attempts())) == len(ts) })
	last := w.receiver.Ledger()
	if late := last[len(last)-1].At.Sub(deleted); late > 2*time.Second {
		t.Errorf("a send %v after the delete", late)
	}
	got := ends(w.attempts())
	dropped := 0
	for _, v := range got {
		if v == schemas.VerdictDropped {
			dropped++
		}
	}
	if dropped == 0 || dropped+len(last) < len(ts) {
		t.Errorf("%d dropped, %d sent, of %d", dropped, len(last), len(ts))
	}
}

// ends is what came of each task, by its id.
func ends(as []schemas.Attempt) map[string]schemas.Verdict {
	out := map[string]schemas.Verdict{}
	for _, a := range as {
		if a.Verdict != schemas.VerdictRetry && a.Verdict != schemas.VerdictPostponed && out[a.TaskID] != schemas.VerdictDelivered {
			out[a.TaskID] = a.Verdict
		}
	}
	return out
}

func TestWithoutRedisEverythingIsDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/ok")
	w.redis.Stop()
	w.start()
	var ts []*schemas.Task
	for range 200 {
		ts = append(ts, w.task(s))
	}
	w.put(ts...)
	w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "/ok", len(ts)))
}

func TestTasksOfADisabledSubscriptionEndAsPausedAndA410Disables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/status/410")
	w.start()
	w.put(w.task(s))
	w.eventually(10*time.Second, "disabled", func() bool { l, ok := w.table.Get(s.ID); return ok && l.State == schemas.StateDisabled })
	w.put(w.task(s))
	w.eventually(10*time.Second, "two dead letters", func() bool { return len(w.dead()) == 2 })
	reasons := map[schemas.Reason]int{}
	for _, d := range w.dead() {
		reasons[d.Reason]++
		if len(d.Task.Body) == 0 {
			t.Error("a dead letter without its body")
		}
	}
	if reasons[schemas.ReasonGone] != 1 || reasons[schemas.ReasonPaused] != 1 || len(w.receiver.Ledger()) != 1 {
		t.Errorf("dead %v, %d requests", reasons, len(w.receiver.Ledger()))
	}
}

// The receiver asks for no more while the deliverer is told to stop: nobody might ask it again for long.
func TestA410BesideAStopDisables(t *testing.T) {
	t.Parallel()
	asked, told := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *worldConfig) { c.receiver.Notify = func(*sandbox.Received) { close(asked); <-told } })
	s := w.subscribe("/status/410")
	d := w.start()
	w.put(w.task(s))
	<-asked
	d.cancel()
	close(told)
	w.must(<-d.ended)
	d.ended <- nil
	w.must(w.table.CatchUp(w.within(10 * time.Second)))
	if l, _ := w.table.Get(s.ID); l.State != schemas.StateDisabled || len(w.receiver.Ledger()) != 1 {
		t.Errorf("%s, %d requests", l.State, len(w.receiver.Ledger()))
	}
}

func TestATaskWithoutItsBodyEndsAsTooLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/ok")
	w.start()
	task := w.task(s)
	task.Body, task.Last = nil, &schemas.LastAttempt{Reason: schemas.ReasonTooLarge, Detail: "2,000,000 bytes"}
	w.put(task)
	w.eventually(10*time.Second, "a dead letter", func() bool { return len(w.dead()) == 1 })
	if d := w.dead()[0]; d.Reason != schemas.ReasonTooLarge || d.Detail != "2,000,000 bytes" || len(w.receiver.Ledger()) != 0 {
		t.Errorf("%+v", d)
	}
}

func TestTwoTasksOfOneEntityAreNeverUnderWayAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.subscribe("/delay/10ms")
	w.start()
	var ts []*schemas.Task
	for i := range 300 {
		task := w.task(s)
		task.EntityID = "b" + string(rune('a'+i%7))
		ts = append(ts, task)
	}
	w.put(ts...)
	w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", len(ts)))
	w.eventually(5*time.Second, "all attempts", func() bool { return len(w.attempts()) == len(ts) })
	type span struct{ from, to int64 }
	last := map[string]span{}
	for _, a := range w.attempts() { // one partition: in the order in which they ended
		from := a.StartedAt * 1000
		if l, ok := last[a.EntityID]; ok && from+1000 < l.to {
			t.Fatalf("entity %s: a send began %d us before the one before it ended", a.EntityID, l.to-from)
		}
		last[a.EntityID] = span{from, from + a.DurationMicros}
	}
}
