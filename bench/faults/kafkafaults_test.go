package main

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

func TestLateAfterCountsFromHealingOrFromWhenItWasDue(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1_000_000, 0).Add(time.Duration(s * float64(time.Second))) }
	ns := func(s float64) int64 { return at(s).UnixNano() }
	sent := func(due float64, fate rig.Fate) rig.Sent { return rig.Sent{Due: ns(due), Fate: fate} }
	got := func(seq int64, when float64, status int16) rig.Request {
		return rig.Request{Seq: seq, At: ns(when), Done: ns(when), Status: status}
	}
	heal, until := at(10), at(30)
	for _, c := range []struct {
		name string
		sent rig.Sent
		got  []rig.Request
		want time.Duration
	}{
		{"arrived before healing", sent(1, rig.Accepted), []rig.Request{got(7, 2, 200)}, 0},
		{"due before, arrived after", sent(1, rig.Accepted), []rig.Request{got(7, 13, 200)}, 3 * time.Second},
		{"due after healing", sent(12, rig.Accepted), []rig.Request{got(7, 13, 200)}, time.Second},
		{"the first copy counts", sent(1, rig.Accepted), []rig.Request{got(7, 12, 200), got(7, 29, 200)}, 2 * time.Second},
		{"a failed try is no arrival", sent(1, rig.Accepted), []rig.Request{got(7, 11, 503), got(7, 15, 200)}, 5 * time.Second},
		{"never: up to the next fault", sent(1, rig.Accepted), nil, 20 * time.Second},
		{"after the next fault: that one's matter", sent(1, rig.Accepted), []rig.Request{got(7, 35, 200)}, 20 * time.Second},
		{"due behind the next fault", sent(31, rig.Accepted), nil, 0},
		{"not accepted", sent(1, rig.Unknown), nil, 0},
	} {
		r := &Run{First: 7, Events: []rig.Sent{c.sent}, Owed: map[string]func(int) bool{"a": func(int) bool { return true }}, Receivers: map[string][]rig.Request{"a": c.got}}
		if l := LateAfter(r, heal, until); l.Took != c.want {
			t.Errorf("%s: %v instead of %v", c.name, l.Took, c.want)
		}
	}
}
