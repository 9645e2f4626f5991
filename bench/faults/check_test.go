package main

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Each row plants one breach in ledgers that are in order otherwise; the checker must find that one and no other.
func TestCheckFindsEachPlantedBreach(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(d time.Duration) int64 { return t0.Add(d).UnixNano() }
	entry := func(seq int64, id string, d time.Duration) rig.Entry {
		return rig.Entry{At: at(d), Done: at(d) + 1, Seq: seq, ID: id, Attempt: 1, Status: 200, Sum: uint64(seq)}
	}
	kill := Fault{KillDeliverer, "", t0.Add(10 * time.Second), t0.Add(10 * time.Second)}
	cases := map[string]struct {
		change func(r *Run)
		want   func(f *Finding) int
	}{
		"lost":                   {func(r *Run) { r.Receivers["a"] = r.Receivers["a"][:1] }, func(f *Finding) int { return len(f.Lost) }},
		"answered 500 is lost":   {func(r *Run) { r.Receivers["a"][1].Status = 500 }, func(f *Finding) int { return len(f.Lost) }},
		"never answered is lost": {func(r *Run) { r.Receivers["a"][1].Done = 0 }, func(f *Finding) int { return len(f.Lost) }},
		"ghost":                  {func(r *Run) { r.Receivers["a"] = append(r.Receivers["a"], entry(99, "x", 0)) }, func(f *Finding) int { return len(f.Ghost) }},
		"other company":          {func(r *Run) { r.Receivers["a"] = append(r.Receivers["a"], entry(2, "x", 0)) }, func(f *Finding) int { return len(f.Misrouted) }},
		"duplicate long before the kill": {func(r *Run) {
			r.Receivers["a"] = append(r.Receivers["a"], entry(0, "m0", 12*time.Second))
			r.Faults = []Fault{kill}
		}, func(f *Finding) int { return len(f.Unexplained) }},
		"duplicate beside another fault": {func(r *Run) {
			r.Receivers["a"] = append(r.Receivers["a"], entry(0, "m0", 1500*time.Millisecond))
			r.Faults = []Fault{{Other, "", t0, t0.Add(time.Minute)}}
		}, func(f *Finding) int { return len(f.Unexplained) }},
		"two bodies": {func(r *Run) {
			r.Receivers["a"] = append(r.Receivers["a"], rig.Entry{Seq: 0, ID: "m0", Sum: 77, Status: 500})
		}, func(f *Finding) int { return len(f.Changed) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := inOrder(entry)
			if f := Check(r); !f.OK() || f.Delivered != 3 || f.Owed != 3 {
				t.Fatalf("ledgers in order: %+v", f)
			}
			c.change(r)
			f := Check(r)
			if c.want(f) != 1 || f.OK() {
				t.Errorf("found %+v", f)
			}
			if n := len(f.Lost) + len(f.Ghost) + len(f.Misrouted) + len(f.Unexplained) + len(f.Changed); n != 1 {
				t.Errorf("one breach was planted, %d found: %+v", n, f)
			}
		})
	}
	t.Run("explained duplicate", func(t *testing.T) {
		r := inOrder(entry)
		r.Receivers["a"][1] = entry(1, "m1", 9900*time.Millisecond)
		r.Receivers["a"] = append(r.Receivers["a"], entry(1, "m1", 17*time.Second))
		r.Faults = []Fault{kill}
		if f := Check(r); !f.OK() || f.Duplicates != 1 {
			t.Errorf("%+v", f)
		}
	})
	t.Run("unknown fate may arrive or not", func(t *testing.T) {
		r := inOrder(entry)
		r.Events[1].Fate = rig.Unknown
		r.Receivers["a"] = r.Receivers["a"][:1]
		if f := Check(r); !f.OK() || f.Owed != 2 {
			t.Errorf("%+v", f)
		}
	})
}

// inOrder: receiver a wants company 0 (events 0 and 1), receiver b company 1 (event 2).
func inOrder(entry func(int64, string, time.Duration) rig.Entry) *Run {
	return &Run{
		Events: []rig.Sent{{Company: 0, Fate: rig.Accepted}, {Company: 0, Fate: rig.Accepted}, {Company: 1, Fate: rig.Accepted}},
		Owed:   map[string]func(int) bool{"a": func(c int) bool { return c == 0 }, "b": func(c int) bool { return c == 1 }},
		Receivers: map[string][]rig.Entry{
			"a": {entry(0, "m0", time.Second), entry(1, "m1", 2*time.Second)},
			"b": {entry(2, "m2", time.Second)},
		},
	}
}
