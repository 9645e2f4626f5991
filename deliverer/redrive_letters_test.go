package deliverer

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// A deliverer wrote a dead letter and died before its mark; its successor tried the task again, which died again. Two letters of one death stand in `dead`:
// a redrive of both is one delivery. A task that was redriven and died again is redriven again.
func TestTwoLettersOfOneDeathAreRedrivenOnce(t *testing.T) {
	var works atomic.Bool
	script := func(*sandbox.Received) string {
		if works.Load() {
			return "/ok"
		}
		return "/abort"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.member()
		w.put(w.task(s))
		w.requests(1)
		pass(time.Second)
		topic := w.kafka.Topics().Dead
		letters := w.read(topic)
		if len(letters) != 1 {
			t.Fatalf("%d dead letters", len(letters))
		}
		var rs kafka.Records
		rs.Add(kafka.TP{Topic: topic, Partition: kafka.Partition(letters[0].Key, w.kafka.Config().Partitions)}, letters[0].Key, nil, letters[0].Value)
		_, err := w.kafka.NewAppender(kafka.AppenderConfig{}).Append(w.ctx, &rs)
		w.must(err)
		redrive := func() {
			_, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
			w.must(err)
			pass(time.Minute)
		}
		redrive()
		dead := 0
		for _, d := range w.dead() {
			if d.Reason != schemas.ReasonRedriven {
				dead++
			}
		}
		if n := len(w.receiver.Ledger()); n != 2 || dead != 3 {
			t.Fatalf("%d requests and %d letters after a redrive that died again", n, dead)
		}
		works.Store(true)
		redrive()
		if n := len(w.receiver.Ledger()); n != 3 {
			t.Errorf("%d requests for a task that died, was redriven and died, and was redriven", n)
		}
	})
}
