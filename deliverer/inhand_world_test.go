package deliverer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// TestWhatIsInHandWhileKafkaIsGoneIsNotSentAgain: a deliverer that Kafka does not hear for longer than a session has a try in hand, which was answered and could not be written
// down, or is still being made. Whoever is given its partition waits for what it says when it is heard again.
func TestWhatIsInHandWhileKafkaIsGoneIsNotSentAgain(t *testing.T) {
	for _, path := range []string{"/ok", "/delay/7s"} {
		for _, order := range []string{"", schemas.OrderEntity} {
			t.Run(path[1:3]+order, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, s, a, b := newDeaf(t, path, order)
					task := w.taskOf(s, "e")
					go a.dam.hold(8 * time.Second)
					synctest.Wait() // its fetch is at the broker, and what it writes from now on is not
					w.put(task)
					time.Sleep(30 * time.Second)
					requests := w.receiver.Ledger()
					if len(requests) != 1 || requests[0].Header.Get("User-Agent") != a.agent {
						for _, r := range requests {
							t.Logf("%v: %s, try %d", r.At, r.Header.Get("User-Agent"), r.Attempt)
						}
						t.Errorf("%d requests; one by %s is right", len(requests), a.agent)
					}
					if n := len(w.attempts()); n == 0 {
						t.Error("the attempt was not written")
					}
					if tasks, _ := b.memory.counts(); !b.Owns(0) || tasks > 0 {
						t.Error("the other one has not taken over, or is not through with it")
					}
				})
			})
		}
	}
}

// TestWhatWasInTheHandsOfTheDeadIsSent: what a process says in Redis to have in hand ends nothing. If it dies then, its successor makes the try again, no later than a failover
// may take.
func TestWhatWasInTheHandsOfTheDeadIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, a, _ := newDeaf(t, "/ok", "")
		go a.dam.hold(time.Minute)
		synctest.Wait()
		w.put(w.taskOf(s, "e"))
		time.Sleep(3 * time.Second)
		a.cord.cut()
		a.cancel()
		time.Sleep(time.Minute)
		requests := w.receiver.Ledger()
		if len(requests) != 2 || requests[0].Header.Get("User-Agent") != a.agent {
			t.Fatalf("%d requests; one by %s and one by its successor are right", len(requests), a.agent)
		}
		session := w.kafka.Config().SessionTimeout
		if took := requests[1].At.Sub(requests[0].At); took < session+handMost-2*time.Second || took > session+handMost+time.Second {
			t.Errorf("tried again after %v", took)
		}
	})
}

// newDeaf is a world with one partition, the deliverer that owns it, and one that stands by.
func newDeaf(t *testing.T, path, order string) (w *world, s *subscriptions.Live, owner, other *troubled) {
	w = newWorld(t, func(wc *worldConfig) {
		wc.virtual, wc.partitions, wc.quiet = true, 1, true
		wc.receiver = sandbox.ReceiverConfig{Script: func(*sandbox.Received) string { return path }}
	})
	s = w.subscribe("/s", func(d *subscriptions.Draft) { d.Timeout, d.Order = 10*time.Second, order })
	owner, other = w.troubled("a"), w.troubled("b")
	time.Sleep(20*time.Second + 5*time.Millisecond) // a fetch has begun
	if other.Owns(0) {
		owner, other = other, owner
	}
	if !owner.Owns(0) {
		t.Fatal("nobody owns the partition")
	}
	return w, s, owner, other
}
