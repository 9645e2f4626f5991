package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// plan is everything that a seed decides: the world, what is asked of it, and what is done to it. It is data, made before anything starts, and it is
// printed when the seed fails.
type plan struct {
	Seed       uint64
	Kind       string // steady: no jump over idle time; hours: jumps; days: the longest schedules
	Partitions int
	Brokers    int
	Routers    int
	Deliverers int
	Tiers      []time.Duration
	Commit     time.Duration
	FetchWait  time.Duration
	Heartbeat  time.Duration
	Latency    time.Duration // of every link, each way
	Companies  []string
	Subs       []subPlan
	Steps      []step // in the order of their times
	Length     time.Duration
}

// subPlan is one subscription and how its receiver behaves.
type subPlan struct {
	N           int
	Company     string
	Events      []string
	Format      string
	Schedule    []time.Duration // nil: the default
	Timeout     time.Duration
	Concurrency int
	Rate        float64
	CreateAt    time.Duration // 0: before everything begins
	Phases      []phase       // ascending; the last one lasts for ever
}

// phase is how a receiver behaves from a time on.
type phase struct {
	From time.Duration
	Mode string
}

// step is one thing that happens at a time.
type step struct {
	At   time.Duration
	What string
	Sub  int           // of create, edit, delete
	N    int           // of publish: events; of a fault on a process: which
	For  time.Duration // of publish: over what time; of a fault: how long
	P    float64       // how likely each request is hit
	Text string
}

func (s step) String() string {
	return fmt.Sprintf("%-9v %s sub=%d n=%d for=%v p=%.2f %s", s.At, s.What, s.Sub, s.N, s.For, s.P, s.Text)
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %s, %d partitions, %d brokers, %d routers, %d deliverers, tiers %v, commit %v, fetch wait %v, heartbeat %v, latency %v, length %v\n",
		p.Seed, p.Kind, p.Partitions, p.Brokers, p.Routers, p.Deliverers, p.Tiers, p.Commit, p.FetchWait, p.Heartbeat, p.Latency, p.Length)
	for _, s := range p.Subs {
		fmt.Fprintf(&b, "  sub %d: %s %v %s schedule %v timeout %v concurrency %d rate %v created %v phases %v\n",
			s.N, s.Company, s.Events, s.Format, s.Schedule, s.Timeout, s.Concurrency, s.Rate, s.CreateAt, s.Phases)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "  %v\n", s)
	}
	return b.String()
}

// dice draws from a seed.
type dice struct{ *rand.Rand }

func (d dice) between(a, b time.Duration) time.Duration {
	return a + time.Duration(d.Int64N(int64(b-a)+1))
}
func (d dice) chance(p float64) bool { return d.Float64() < p }

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

// Both forms of the tiers, from small to large.
var (
	shortTiers   = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}
	defaultTiers = []time.Duration{5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour}
)

// makePlan makes the plan of a seed.
func makePlan(seed uint64) *plan {
	d := dice{rand.New(rand.NewPCG(seed, 0x5eed))}
	p := &plan{Seed: seed, Kind: "hours", Partitions: pick(d, 1, 2, 3, 4), Brokers: pick(d, 1, 1, 1, 1, 1, 1, 1, 3), Routers: pick(d, 1, 1, 2),
		Deliverers: pick(d, 1, 2, 2, 3), Tiers: pick(d, shortTiers, defaultTiers, defaultTiers), Commit: pick(d, 500*time.Millisecond, time.Second, 2*time.Second),
		FetchWait: pick(d, 2*time.Second, 10*time.Second, 10*time.Second, 10*time.Second), Heartbeat: pick(d, time.Second, 2*time.Second),
		Latency: pick(d, 0, 0, 200*time.Microsecond, 2*time.Millisecond, 20*time.Millisecond)}
	switch {
	case seed%10 == 7:
		p.Kind, p.Length = "steady", d.between(5*time.Minute, 10*time.Minute)
		p.FetchWait, p.Heartbeat = 500*time.Millisecond, 500*time.Millisecond
	case seed%50 == 13: // one of them takes as long as thirty others
		p.Kind, p.Length, p.Brokers, p.FetchWait, p.Heartbeat = "days", d.between(24*time.Hour, 4*24*time.Hour), 1, 10*time.Second, 2*time.Second
		p.Routers, p.Deliverers = 1, 1+d.IntN(2)
	default:
		p.Length = d.between(time.Hour, 4*time.Hour)
	}
	for i := range 1 + d.IntN(3) {
		p.Companies = append(p.Companies, fmt.Sprintf("co%d", i))
	}
	for i := range 1 + d.IntN(5) {
		p.Subs = append(p.Subs, p.sub(d, i))
	}
	if p.Kind == "days" && d.chance(0.7) { // one that fails for so long that it is disabled
		p.Subs[0].Phases = []phase{{0, "500"}}
		p.Subs[0].Schedule = []time.Duration{0, 10 * time.Minute}
		p.Length = 6*24*time.Hour + d.between(0, 12*time.Hour)
	}
	p.workload(d)
	p.faults(d)
	// A seed in which nothing is sent proves nothing: the first subscription gets something, and its receiver can be reached and stays for that long.
	for i := range p.Subs[0].Phases {
		if ph := &p.Subs[0].Phases[i]; ph.Mode == "refuse" {
			ph.Mode = "ok"
		}
	}
	for i := range p.Steps {
		if s := &p.Steps[i]; s.What == "delete" && s.Sub == 0 {
			s.At = max(s.At, sureAt+10*time.Minute)
		}
	}
	p.Steps = append(p.Steps, step{At: sureAt, What: "publish", N: 3, Text: surely})
	slices.SortStableFunc(p.Steps, func(a, b step) int { return int(a.At - b.At) })
	return p
}

// surely marks the burst whose events the first subscription wants, and sureAt is when it comes.
const (
	surely = "for the first"
	sureAt = 30 * time.Second
)

func (p *plan) sub(d dice, n int) subPlan {
	s := subPlan{N: n, Company: pick(d, p.Companies...), Format: pick(d, "standard", "standard", "cloudevents", "classic"),
		Timeout: pick(d, time.Second, 5*time.Second, 15*time.Second, 30*time.Second), Concurrency: pick(d, 0, 0, 1, 4)}
	s.Events = pick(d, []string{"*"}, []string{"booking.*"}, []string{"*.creation"}, []string{"booking.creation", "customer.*"}, []string{"*.removal", "inventory.*"})
	switch d.IntN(4) {
	case 0: // the default
	case 1:
		s.Schedule = []time.Duration{0, time.Second, 2 * time.Second, 5 * time.Second}
	case 2:
		s.Schedule = []time.Duration{0, 10 * time.Second, time.Minute, 10 * time.Minute, 30 * time.Minute}
	case 3:
		s.Schedule = []time.Duration{0}
		for range d.IntN(6) {
			s.Schedule = append(s.Schedule, d.between(time.Second, 20*time.Minute))
		}
	}
	if d.chance(0.2) {
		s.Rate = pick(d, 0.5, 2, 10, 50)
	}
	if n > 0 && d.chance(0.3) {
		s.CreateAt = d.between(0, p.Length/2)
	}
	at := time.Duration(0)
	for {
		mode := "ok"
		if !d.chance(0.45) {
			mode = p.mode(d)
		}
		s.Phases = append(s.Phases, phase{at, mode})
		at += d.between(time.Minute, p.Length/2)
		if at > p.Length || d.chance(0.3) {
			break
		}
	}
	if last := s.Phases[len(s.Phases)-1]; last.Mode != "ok" { // all come back in the end: a circuit that stays open tries one task in five minutes
		s.Phases = append(s.Phases, phase{max(at, p.Length+pick(d, 0, 0, 10*time.Minute, time.Hour)), "ok"})
	}
	return s
}

func (p *plan) mode(d dice) string {
	return pick(d,
		"500", "503", "refuse", "reset", "hang", "early",
		fmt.Sprintf("slow %v", d.between(10*time.Millisecond, 3*time.Second)),
		fmt.Sprintf("slow %v", d.between(3*time.Second, 40*time.Second)),
		fmt.Sprintf("flaky %.2f", d.Float64()),
		fmt.Sprintf("flap %d", 1+d.IntN(3)),
		fmt.Sprintf("429 %d", pick(d, 1, 5, 30, 300)),
		fmt.Sprintf("503 %d", pick(d, 2, 20, 120)),
		"429", "gone", "302", "404")
}

// workload is what the platform and its companies do.
func (p *plan) workload(d dice) {
	for range 1 + d.IntN(2) { // stretches of some minutes in which much happens, and hours between them
		at := d.between(0, p.Length)
		for range 1 + d.IntN(4) {
			n := pick(d, 1, 3, 10, 30, 60)
			p.Steps = append(p.Steps, step{At: at + d.between(0, 2*time.Minute), What: "publish", N: n, For: pick(d, 0, time.Second, 20*time.Second, time.Minute)})
		}
	}
	if p.Kind == "days" { // a few a day, or nothing is ever tried
		for at := time.Duration(0); at < p.Length; at += d.between(4*time.Hour, 12*time.Hour) {
			p.Steps = append(p.Steps, step{At: at, What: "publish", N: 1 + d.IntN(3)})
		}
	}
	for i := range p.Subs {
		if p.Subs[i].CreateAt > 0 {
			p.Steps = append(p.Steps, step{At: p.Subs[i].CreateAt, What: "create", Sub: i})
		}
		for range d.IntN(3) {
			p.Steps = append(p.Steps, step{At: d.between(p.Subs[i].CreateAt+time.Minute, p.Length+time.Minute), What: "edit", Sub: i, Text: pick(d, "path", "timeout", "concurrency", "schedule", "rate")})
		}
		if d.chance(0.15) {
			p.Steps = append(p.Steps, step{At: d.between(p.Subs[i].CreateAt+time.Minute, p.Length+time.Minute), What: "delete", Sub: i})
		}
	}
}

// faults are put near the bursts, because nothing breaks where nothing happens.
func (p *plan) faults(d dice) {
	var bursts []time.Duration
	for _, s := range p.Steps {
		if s.What == "publish" {
			bursts = append(bursts, s.At)
		}
	}
	if d.chance(0.15) {
		return // without a fault every duplicate is a bug
	}
	for range 2 + d.IntN(14) {
		s := step{At: max(0, pick(d, bursts...)+pick(d, d.between(-time.Second, 3*time.Second), d.between(-10*time.Second, 40*time.Second))), N: d.IntN(4), Sub: pick(d, d.IntN(20), d.IntN(200), d.IntN(2000)), P: pick(d, 0.1, 0.3, 1), For: d.between(time.Second, 30*time.Second)}
		if d.chance(0.1) {
			s.For = d.between(30*time.Second, 3*time.Minute)
		}
		s.What = pick(d, "crash deliverer", "crash deliverer", "crash deliverer", "crash router", "restart deliverer", "restart router", "join deliverer", "leave deliverer",
			"stall deliverer", "stall router", "redis flush", "redis down", "redis slow", "redis dark",
			"produce refused", "produce lost", "produce swallowed", "commit lost", "commit refused", "not leader", "broker slow", "fetch errors",
			"cut deliverer", "dark deliverer", "cut router", "dark router", "leaders move", "coordinator moves")
		p.Steps = append(p.Steps, s)
	}
}
