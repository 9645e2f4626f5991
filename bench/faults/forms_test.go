package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Each form holds the one before it, but for what stands for something bigger, and no form runs both.
func TestTheFormsHoldEachOther(t *testing.T) {
	names := map[string]bool{}
	for _, s := range allScenarios() {
		if names[s.name] {
			t.Errorf("two scenarios are called %s", s.name)
		}
		names[s.name] = true
	}
	for _, s := range allScenarios() {
		if s.standsFor != "" && !names[s.standsFor] {
			t.Errorf("%s stands for %s, which does not exist", s.name, s.standsFor)
		}
		for f := formShort; f < formLong; f++ {
			if s.runsIn(f) && !s.runsIn(f+1) && s.standsFor == "" {
				t.Errorf("%s runs in the %s form and not in the %s one", s.name, f, f+1)
			}
		}
		if s.standsFor == "" && !s.runsIn(formUsual) {
			t.Errorf("make faults leaves out %s", s.name)
		}
	}
	for f := formShort; f <= formLong; f++ {
		chosen := choose("", f)
		for _, s := range chosen {
			if slices.ContainsFunc(chosen, func(o scenario) bool { return s.standsFor == o.name }) {
				t.Errorf("the %s form runs %s beside %s", f, s.name, s.standsFor)
			}
		}
	}
	if only := choose("redis-mix,edits", formLong); len(only) != 2 {
		t.Errorf("two were named, %d are chosen", len(only))
	}
}

// The sizes that the short form needs are in what it is made of, before it has run.
func TestTheShortFormCanComeToItsGoal(t *testing.T) {
	deliveries := 0
	for _, s := range choose("", formShort) {
		if s.name == "random" {
			deliveries += s.events * perCompany
		}
	}
	if kills := randomShort + sweepShort; kills < least[formShort].kills || deliveries < least[formShort].deliveries {
		t.Errorf("%d kills, %d deliveries beside them", kills, deliveries)
	}
}

func TestTheTallyIsHeldAgainstItsForm(t *testing.T) {
	good := func() *tally {
		return &tally{kills: 520, enumerated: 320, beside: books{deliveries: 1_100_000, duplicates: 2000}, without: books{deliveries: 10_000}}
	}
	for name, c := range map[string]struct {
		change func(*tally)
		form   form
		want   string
	}{
		"enough":                        {func(*tally) {}, formLong, ""},
		"kills":                         {func(s *tally) { s.kills = 499 }, formLong, "499 kills, the long form is to have 500"},
		"places":                        {func(s *tally) { s.enumerated = 299 }, formLong, "299 kills at enumerated places"},
		"deliveries beside no kill":     {func(s *tally) { s.beside.deliveries, s.without.deliveries = 99_999, 9_999_999 }, formShort, "99999 deliveries beside kills"},
		"fewer are enough for CI":       {func(s *tally) { s.kills, s.enumerated, s.beside.deliveries = 60, 0, 500_000 }, formShort, ""},
		"lost beside a kill":            {func(s *tally) { s.beside.lost = 1 }, formLong, "1 lost"},
		"lost without one":              {func(s *tally) { s.without.lost = 2 }, formLong, "2 lost"},
		"more than one in two hundred":  {func(s *tally) { s.beside.duplicates = 5600 }, formLong, "0.509 % duplicates beside kills under load"},
		"duplicates at the places are":  {func(s *tally) { s.places = books{9000, 4000, 0} }, formLong, ""}, // for the checker to explain
		"lost at a place":               {func(s *tally) { s.places.lost = 1 }, formLong, "1 lost"},
		"duplicates without a kill are": {func(s *tally) { s.without.duplicates = 9000 }, formLong, ""}, // for the scenario itself to forbid
	} {
		s := good()
		c.change(s)
		if got := strings.Join(s.missed(c.form), "; "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestTheTallyKnowsWhichDeliveriesWereBesideKills(t *testing.T) {
	var s tally
	s.add(&scenario{enumerated: true}, &Finding{Delivered: 100, Duplicates: 1}, []Fault{{Kind: KillRouter}, {Kind: KillDeliverer}, {Kind: RedisLost}})
	s.add(&scenario{}, &Finding{Delivered: 30, Duplicates: 2, Lost: make([]Breach, 3)}, []Fault{{Kind: KillRouter}})
	s.add(&scenario{}, &Finding{Delivered: 7, Unexplained: make([]Breach, 4)}, []Fault{{Kind: StopCont}})
	want := tally{kills: 3, enumerated: 2, beside: books{30, 2, 3}, places: books{100, 1, 0}, without: books{7, 0, 0}, unexplained: 4}
	if fmt.Sprint(&s) != fmt.Sprint(&want) {
		t.Errorf("%v, want %v", &s, &want)
	}
}

// steady is a flow with a delivery each 10 ms at each of three receivers from 30 s before a join on, and how long each takes.
func steady(join time.Time, takes func(name string, at time.Time) time.Duration) map[string][]rig.Request {
	seen := map[string][]rig.Request{}
	for _, name := range []string{"a", "b", "c"} {
		for i := range 7000 {
			due := join.Add(-30*time.Second + time.Duration(i)*10*time.Millisecond)
			at := due.Add(takes(name, due))
			seen[name] = append(seen[name], rig.Request{Name: name, Due: due.UnixNano(), At: at.UnixNano()})
		}
	}
	return seen
}

// A p99 that a join moves fails its scenario, also if it is that of a single receiver; what a join does to one delivery in two hundred does not.
func TestAMovedP99FailsItsScenario(t *testing.T) {
	join := time.Unix(1_800_000_000, 0)
	leave, end := join.Add(20*time.Second), join.Add(40*time.Second)
	usually := func(string, time.Time) time.Duration { return 10 * time.Millisecond }
	slow := func(who string, share int, late time.Duration) func(string, time.Time) time.Duration {
		n := 0
		return func(name string, at time.Time) time.Duration {
			if n++; at.After(join) && strings.Contains(who, name) && n%share == 0 {
				return late
			}
			return 10 * time.Millisecond
		}
	}
	for name, c := range map[string]struct {
		takes func(string, time.Time) time.Duration
		moved bool
	}{
		"nothing":              {usually, false},
		"all":                  {slow("abc", 20, 30*time.Millisecond), true},
		"one of three":         {slow("b", 60, 13*time.Millisecond), true}, // over all three it would not show
		"within the bound":     {slow("abc", 20, 11*time.Millisecond), false},
		"one in two hundred":   {slow("abc", 200, time.Second), false},
		"one, one in hundreds": {slow("c", 300, time.Second), false},
	} {
		w := &world{from: join, to: end, moves: []time.Time{join, leave}, ran: &Run{Receivers: steady(join, c.takes)}}
		told, wrong := (&scenario{compareP99: true}).judge(&Finding{}, w)
		if (len(wrong) > 0) != c.moved || len(told) != 1 || !strings.Contains(told[0], "over the 10 s around each: ") {
			t.Errorf("%s: %v, %v", name, told, wrong)
		}
	}
}

func TestAScenarioForbidsWhatItForbids(t *testing.T) {
	w := &world{}
	for _, c := range []struct {
		s    scenario
		f    Finding
		want int
	}{
		{scenario{noRepeat: true}, Finding{Delivered: 1000, Duplicates: 1}, 1},
		{scenario{noRepeat: true}, Finding{Delivered: 1000}, 0},
		{scenario{}, Finding{Delivered: 1000, Duplicates: 900}, 0},
		{scenario{maxDuplicates: mostRepeated}, Finding{Delivered: 1000, Duplicates: 5}, 0},
		{scenario{maxDuplicates: mostRepeated}, Finding{Delivered: 1000, Duplicates: 6}, 1},
	} {
		if _, wrong := c.s.judge(&c.f, w); len(wrong) != c.want {
			t.Errorf("%+v: %v", c.s, wrong)
		}
	}
}

// Whoever kills under load is bound by how much a kill may repeat.
func TestEveryScenarioThatKillsBoundsItsDuplicates(t *testing.T) {
	for _, name := range []string{"kill-deliverer", "kill-router", "random", "failover"} {
		i := slices.IndexFunc(allScenarios(), func(s scenario) bool { return s.name == name })
		if i < 0 {
			t.Errorf("there is no %s", name)
		} else if s := allScenarios()[i]; !s.noRepeat && s.maxDuplicates != mostRepeated {
			t.Errorf("%s may repeat as much as it likes", name)
		}
	}
}

// docs/robustness.md has a row for each scenario, and none for others.
func TestThePageHasEveryScenario(t *testing.T) {
	page, err := os.ReadFile("../../docs/robustness.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllSubmatch(page, -1) {
		rows[string(m[1])] = true
	}
	for _, s := range allScenarios() {
		if !rows[s.name] {
			t.Errorf("the page has no %s", s.name)
		}
		delete(rows, s.name)
	}
	for name := range rows {
		t.Errorf("the page has a %s that is no scenario", name)
	}
}

// What a machine does not allow is neither held nor broken: it is not run, and counted.
func TestWhatCannotRunIsSkippedAndCounted(t *testing.T) {
	r := &runner{}
	r.one(t.Context(), &scenario{name: "it", unable: func(context.Context) string { return "no mount" }, alone: func(context.Context, *runner, *scenario) error {
		t.Error("it ran")
		return nil
	}})
	ran := false
	r.one(t.Context(), &scenario{name: "other", unable: func(context.Context) string { return "" }, alone: func(context.Context, *runner, *scenario) error {
		ran = true
		return nil
	}})
	if !ran || r.sum.ran != 1 || !slices.Equal(r.sum.skipped, []string{"it"}) || !r.conclude(false) {
		t.Errorf("ran %v, %d, skipped %v", ran, r.sum.ran, r.sum.skipped)
	}
}
