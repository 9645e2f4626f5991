package deliverer

import (
	"errors"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

var (
	okay   = Judgement{Verdict: schemas.VerdictDelivered}
	strike = Judgement{Verdict: schemas.VerdictRetry, Reason: schemas.ReasonHTTP5xx, Strike: true}
	slower = Judgement{Verdict: schemas.VerdictRetry, Reason: schemas.ReasonThrottled, Throttled: true}
)

func TestCircuitOpensAfterFiveStraightFailuresAndProbesOneAtATime(t *testing.T) {
	p, now := newPressure(64, 0), noon
	for i := range circuitStrikes {
		if ok, _, _ := p.allow(now, 0); !ok {
			t.Fatalf("try %d was not allowed", i)
		}
		if c := p.ended(now, &strike, 1, 10); c.opened != (i == circuitStrikes-1) {
			t.Fatalf("try %d: opened %v", i, c.opened)
		}
	}
	wait := probeFirst
	for i := range 10 {
		ok, why, left := p.allow(now, 0)
		if ok || why != schemas.ReasonCircuit || left != wait {
			t.Fatalf("probe %d: allowed %v (%s) after %v, want %v", i, ok, why, left, wait)
		}
		now = now.Add(wait)
		if ok, _, _ = p.allow(now, 0); !ok {
			t.Fatalf("probe %d was not allowed when its time had come", i)
		}
		if ok, _, _ = p.allow(now, 1); ok {
			t.Fatal("two probes at a time")
		}
		p.ended(now, &strike, 1, 0)
		wait = min(2*wait, probeMost)
	}
	now = now.Add(wait)
	p.allow(now, 0)
	if c := p.ended(now, &okay, 1, 0); !c.closed {
		t.Fatal("a success did not close the circuit")
	}
	if ok, _, _ := p.allow(now, 1); ok {
		t.Fatal("the lane did not ramp: a second send at once after the circuit closed")
	}
	for range 200 {
		p.ended(now, &okay, 1, 0)
	}
	if ok, _, _ := p.allow(now, 63); !ok {
		t.Fatal("the lane never came back to its full concurrency")
	}
}

func TestASuccessResetsTheStrikes(t *testing.T) {
	p := newPressure(64, 0)
	for range 10 {
		for range circuitStrikes - 1 {
			p.ended(noon, &strike, 1, 10)
		}
		p.ended(noon, &okay, 1, 10)
	}
	if p.open {
		t.Fatal("the circuit opened without five straight failures")
	}
}

func TestRetryAfterHoldsTheWholeLane(t *testing.T) {
	p := newPressure(64, 0)
	j := slower
	j.HoldLane = noon.Add(time.Minute)
	p.ended(noon, &j, 10, 100)
	if ok, why, wait := p.allow(noon.Add(time.Second), 0); ok || why != schemas.ReasonHold || wait != 59*time.Second {
		t.Fatalf("allowed %v (%s), wait %v", ok, why, wait)
	}
	if ok, _, _ := p.allow(noon.Add(time.Minute), 0); !ok {
		t.Fatal("held for longer than was asked for")
	}
}

func TestThrottlingFallsByHalvesAndComesBackInSteps(t *testing.T) {
	p, now := newPressure(64, 0), noon
	p.ended(now, &slower, 40, 100)
	p.ended(now.Add(time.Millisecond), &slower, 39, 100) // an answer to what was under way already
	if p.limit != 20 || p.rate != 50 {
		t.Fatalf("limit %v rate %v after the first fall", p.limit, p.rate)
	}
	now = now.Add(2 * time.Second)
	p.ended(now, &slower, 20, 50)
	if p.limit != 10 || p.rate != 25 {
		t.Fatalf("limit %v rate %v after the second fall", p.limit, p.rate)
	}
	for range 300 {
		now = now.Add(time.Second)
		p.tick(now, 20)
	}
	if p.rate != 0 || p.limit != 64 {
		t.Fatalf("limit %v rate %v after 300 quiet seconds", p.limit, p.rate)
	}
}

func TestMaxRateIsKept(t *testing.T) {
	p, now, sent := newPressure(64, 20), noon, 0
	for range 10_000 { // ten seconds, a millisecond at a time
		for {
			ok, _, _ := p.allow(now, 0)
			if !ok {
				break
			}
			sent++
		}
		now = now.Add(time.Millisecond)
	}
	if sent < 198 || sent > 203 {
		t.Fatalf("%d sends in 10 s at 20/s", sent)
	}
}

// With a short session the lease is short too, and a commit interval that one lost commit would let run past it is refused by name, with the reason.
func TestTheLeaseFollowsTheSession(t *testing.T) {
	l := newLease(noon, time.Second)
	l.frozen.Store(false)
	l.renew(noon)
	if !l.holds(noon.Add(660*time.Millisecond)) || l.holds(noon.Add(670*time.Millisecond)) {
		t.Error("the lease is not two thirds of a second long")
	}
	kc := kafka.DefaultConfig()
	kc.SessionTimeout = time.Second
	client, err := kafka.Open(kc, kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var fe *FieldError
	if _, err := New(DefaultConfig(), Deps{Kafka: client}); !errors.As(err, &fe) || fe.Field != "commit_interval" {
		t.Errorf("a commit each 500 ms with a session of 1 s: %v", err)
	}
}

func TestLeaseEndsByItselfAndWhileFrozen(t *testing.T) {
	l := newLease(noon, 6*time.Second)
	l.renew(noon)
	if l.holds(noon) {
		t.Fatal("a lease before the first generation")
	}
	l.frozen.Store(false)
	if !l.holds(noon.Add(3999*time.Millisecond)) || l.holds(noon.Add(4*time.Second)) {
		t.Fatal("the lease is not 4 s long")
	}
	l.renew(noon.Add(3 * time.Second))
	l.renew(noon.Add(time.Second)) // an older commit answered late
	if !l.holds(noon.Add(6 * time.Second)) {
		t.Fatal("a late answer shortened the lease")
	}
	l.frozen.Store(true)
	if l.holds(noon.Add(4 * time.Second)) {
		t.Fatal("a send could start between two generations")
	}
}
