package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// No place is taken twice, the start of a life is taken whole, and the rest evenly up to its end.
func TestPlacesCoverAWholeLife(t *testing.T) {
	for _, c := range []struct{ writes, n int }{{92, 160}, {92, 22}, {1135, 160}, {10, 44}, {1, 2}} {
		places := sweepPlaces(c.writes, c.n, rand.New(rand.NewPCG(1, 1)))
		var at []int
		for _, p := range places {
			n := 2 * (p.N - 1)
			if p.After {
				n++
			}
			at = append(at, n)
		}
		slices.Sort(at)
		want := min(c.n, 2*c.writes)
		if len(slices.Compact(slices.Clone(at))) != want || at[0] != 0 || at[len(at)-1] >= 2*c.writes {
			t.Errorf("%+v: %v", c, at)
		}
		widest := 0
		for i := 1; i < len(at); i++ {
			widest = max(widest, at[i]-at[i-1])
		}
		if even := 2*c.writes/max(1, want-min(sweepStart, want/2)) + 1; widest > even || 2*c.writes-at[len(at)-1] > even+1 {
			t.Errorf("%+v: a gap of %d places, the last is %d of %d: %v", c, widest, at[len(at)-1], 2*c.writes, at)
		}
	}
}

func TestASeedDrawsOnePlan(t *testing.T) {
	draw := func(seed uint64) []step {
		return planOf(rand.New(rand.NewPCG(seed, 1)), []string{"router", "deliverer-1", "deliverer-2"}, 60, 2*time.Minute)
	}
	plan := draw(7)
	if !slices.Equal(plan, draw(7)) {
		t.Error("the same seed drew another plan")
	}
	if slices.Equal(plan, draw(8)) {
		t.Error("another seed drew the same plan")
	}
	kills, longer, shorter, ends := 0, 0, 0, 0
	for i, s := range plan {
		switch {
		case s.do == actKill:
			kills++
		case s.do == actEnd:
			ends++
		case s.hold > randomly:
			longer++
		default:
			shorter++
		}
		if i > 0 && s.at < plan[i-1].at || s.at >= 2*time.Minute {
			t.Errorf("step %d at %v", i, s.at)
		}
	}
	if kills != 60 || longer == 0 || shorter == 0 || ends == 0 {
		t.Errorf("%d kills, %d long stalls, %d short ones, %d stops", kills, longer, shorter, ends)
	}
}
