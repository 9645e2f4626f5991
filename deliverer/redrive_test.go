package deliverer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// One partition cannot be worked off: the others are. When it can be, the order is written as done, and nobody keeps it in memory.
func TestAPartitionThatIsStuckHoldsUpNoOtherRedriveAndTheEndIsWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.memory, c.tiers = true, []time.Duration{time.Second, time.Minute} })
	a, b := w.apart("/ok/a", "/ok/b")
	if w.partition(a) > w.partition(b) { // orders name partitions in their order
		a, b = b, a
	}
	var letters kafka.Records
	for _, s := range []*subscriptions.Live{a, b} {
		task := w.task(s)
		letters.Add(kafka.TP{Topic: w.kafka.Topics().Dead, Partition: w.partition(s)}, []byte(s.ID), nil,
			schemas.AppendDead(nil, &schemas.Dead{Task: *task, Reason: schemas.ReasonExhausted, At: time.Now().UnixMilli()}))
	}
	_, err := w.appender.Append(w.ctx, &letters)
	w.must(err)
	fault := w.refuse(w.kafka.Topics().Tiers[0].Name, w.partition(a), kerr.NotLeaderForPartition, "")
	r := w.start()
	order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{})
	w.must(err)
	w.eventually(20*time.Second, "the other is delivered", func() bool { return count(w.attempts(), b.ID) == 1 })
	if n := count(w.attempts(), a.ID); n != 0 {
		t.Errorf("%d attempts of what cannot be redriven", n)
	}
	state := func() (state string) {
		for _, rec := range w.read(w.kafka.Topics().Replays) {
			var o schemas.Replay
			w.must(schemas.DecodeReplay(rec.Value, &o))
			if o.ID == order.ID {
				state = o.State
			}
		}
		return state
	}
	if s := state(); s != schemas.ReplayRunning {
		t.Errorf("the order is %s", s)
	}
	fault.Remove()
	w.eventually(25*time.Second, "the order's end", func() bool { return state() == schemas.ReplayDone })
	w.eventually(10*time.Second, "the last delivery", func() bool { return count(w.attempts(), a.ID) == 1 })
	w.eventually(5*time.Second, "nothing of it in memory", func() bool {
		r.redriver.mu.Lock()
		books := len(r.redriver.books)
		r.redriver.mu.Unlock()
		r.replays.mu.Lock()
		defer r.replays.mu.Unlock()
		return books == 0 && len(r.replays.orders) == 0 && len(r.replays.done) == 0
	})
	for _, ahead := range []time.Duration{0, time.Minute} {
		order.CreatedAt += ahead.Milliseconds()
		if s, err := RedriveProgress(w.ctx, w.kafka, order); err != nil || !s.Done || s.Matched != 2 {
			t.Errorf("ordered by a clock that is %v ahead: progress %+v, %v", ahead, s, err)
		}
	}
}
