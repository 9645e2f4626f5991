package main

import (
	"fmt"
	"slices"
	"strings"
)

// form is how much of the rig runs, and in which size.
type form int

const (
	formShort  form = iota - 2 // what make prove-short takes: some minutes
	formMiddle                 // what `make prove` takes: every kind of fault once, within 45 minutes beside all the rest that it runs
	formUsual                  // every scenario but those that stand for others
	formLong                   // the sizes that the published figures stand on
)

func (f form) String() string {
	return [...]string{"short", "middle", "usual", "long"}[f-formShort]
}

// runsIn says whether a scenario is part of a form. One that stands for another, bigger one gives way to it.
func (s *scenario) runsIn(f form) bool {
	if f < s.from {
		return false
	}
	return s.standsFor == "" || !slices.ContainsFunc(allScenarios(), func(o scenario) bool { return o.name == s.standsFor && o.runsIn(f) })
}

// choose picks the scenarios that are named, whatever the form, or else those of the form.
func choose(only string, f form) (wanted []scenario) {
	for _, s := range allScenarios() {
		if only == "" && s.runsIn(f) || only != "" && slices.Contains(strings.Split(only, ","), s.name) {
			wanted = append(wanted, s)
		}
	}
	return wanted
}

// least is what the scenarios of a form must come to together, or the form has not shown what it is there for.
var least = map[form]struct{ kills, enumerated, deliveries int }{
	formShort:  {60, 0, 100_000},
	formMiddle: {60, 0, 100_000},
	formUsual:  {60, 0, 100_000},
	formLong:   {500, 300, 1_000_000},
}

// mostRepeated is the share of the deliveries under load beside kills that may come twice. Where a list names the places, a process dies each second, as a
// rule in the middle of the first thing that it does: there most of what a life sends is sent again, the share says how long the list is, and each duplicate
// must be explained like any other.
const mostRepeated = 0.005

// tally adds up what the scenarios came to.
type tally struct {
	ran, failed int
	skipped     []string // names
	kills       int      // SIGKILLs of our own processes
	enumerated  int      // of these: at a write, or at a point of the code, that a list has named
	beside      books    // of scenarios in which processes were killed under load
	places      books    // of those in which they were killed at enumerated places
	without     books    // of all others
	unexplained int
}

// books are the deliveries of some scenarios.
type books struct{ deliveries, duplicates, lost int }

// add enters one scenario.
func (t *tally) add(s *scenario, f *Finding, faults []Fault) {
	kills := 0
	for _, x := range faults {
		if x.Kind == KillDeliverer || x.Kind == KillRouter {
			kills++
		}
	}
	t.kills += kills
	if s.enumerated {
		t.enumerated += kills
	}
	t.unexplained += len(f.Unexplained)
	b := &t.without
	if kills > 0 && s.enumerated {
		b = &t.places
	} else if kills > 0 {
		b = &t.beside
	}
	b.deliveries += f.Delivered
	b.duplicates += f.Duplicates
	b.lost += len(f.Lost)
}

func (b books) share() float64 { return float64(b.duplicates) / float64(max(b.deliveries, 1)) }

func (t *tally) String() string {
	return fmt.Sprintf("%d kills (%d at enumerated places) over %d deliveries, lost %d, duplicates %.3f %% under load (at the places %d of %d), unexplained %d; "+
		"without a kill %d deliveries, lost %d, duplicates %d", t.kills, t.enumerated, t.beside.deliveries+t.places.deliveries, t.beside.lost+t.places.lost,
		100*t.beside.share(), t.places.duplicates, t.places.deliveries, t.unexplained, t.without.deliveries, t.without.lost, t.without.duplicates)
}

// missed says what a form has not come to.
func (t *tally) missed(f form) (wrong []string) {
	want := least[f]
	for _, n := range []struct {
		what       string
		have, want int
	}{{"kills", t.kills, want.kills}, {"kills at enumerated places", t.enumerated, want.enumerated}, {"deliveries beside kills", t.beside.deliveries + t.places.deliveries, want.deliveries}} {
		if n.have < n.want {
			wrong = append(wrong, fmt.Sprintf("%d %s, the %s form is to have %d", n.have, n.what, f, n.want))
		}
	}
	if n := t.beside.lost + t.places.lost + t.without.lost; n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d lost", n))
	}
	if t.beside.share() > mostRepeated {
		wrong = append(wrong, fmt.Sprintf("%.3f %% duplicates beside kills under load, %.1f %% are allowed", 100*t.beside.share(), 100*mostRepeated))
	}
	return wrong
}
