package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

func testTiers() (out []kafka.Tier) {
	for _, d := range []time.Duration{5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour} {
		out = append(out, kafka.Tier{Name: d.String(), Wait: d})
	}
	return out
}

// walk follows a task through the tiers to the moment it is tried, each tier read late by a little, and counts the records written.
func walk(tiers []kafka.Tier, remaining, late time.Duration) (tried time.Duration, hops int) {
	at := time.Duration(0)
	for {
		at += tiers[tierFor(tiers, remaining-at)].Wait + late
		hops++
		if left := remaining - at; left <= 0 {
			return at, hops
		} else if waitsInMemory(tiers, left) {
			return remaining, hops
		}
	}
}

func TestATaskComesUpOnTimeThroughTheTiers(t *testing.T) {
	tiers := testTiers()
	for d := 5 * time.Second; d < 25*time.Hour; d += d/7 + 13*time.Millisecond {
		tried, hops := walk(tiers, d, 300*time.Millisecond)
		if tried < d || tried-d > time.Second {
			t.Errorf("due in %v, tried after %v", d, tried)
		}
		if hops > 40 {
			t.Errorf("due in %v: %d records", d, hops)
		}
	}
	for _, step := range DefaultSchedule()[1:] {
		for _, spent := range []time.Duration{0, 20 * time.Millisecond, 200 * time.Millisecond} { // between the decision and the write
			if _, hops := walk(tiers, step-spent, 5*time.Millisecond); hops > 20 {
				t.Errorf("a wait of %v makes %d records", step, hops)
			}
		}
	}
}

func TestPostponingGrowsAndEnds(t *testing.T) {
	tiers := testTiers()
	last := time.Duration(0)
	for n := range int32(40) {
		d := postponeFor(0, n, 0, 0, tiers)
		if d < last || d < tiers[0].Wait || d > postponeMostLane {
			t.Fatalf("handed back %d times: %v after %v", n, d, last)
		}
		last = d
	}
	for _, c := range []struct {
		least   time.Duration
		backlog int64
		rate    float64
		want    time.Duration
	}{
		{0, 10, 100, 5 * time.Second},
		{0, 6000, 10, 5 * time.Minute},
		{0, 1 << 40, 10, postponeMostLane},
		{0, 100_000, 0, 5 * time.Minute},
		{2 * time.Hour, 0, 0, 2 * time.Hour}, // a hold that was asked for is longer than what we would choose
	} {
		if got := postponeFor(c.least, 0, c.backlog, c.rate, tiers); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
