package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Processes that die, stall, stop and come back while events flow: at random moments of a plan that its seed decides, one after the other as an operator
// does it, and once in a way that shows how long a task may wait.

var killScenarios = []scenario{theRandom(), theRestarts(), theRolling("rolling-few", 4), theRolling("rolling-twenty", 20), theFailover(),
	{name: "no-fault", what: "nothing at all", noRepeat: true, from: formMiddle, events: 4000, long: 200_000, rate: 800, act: func(context.Context, *world) error { return nil }},
}

// action is what is done to a process.
type action string

const (
	actKill  action = "SIGKILL"
	actStop  action = "SIGSTOP"
	actEnd   action = "SIGTERM"
	randomly        = 2 * time.Second // the session of the groups
)

// step is one line of a plan.
type step struct {
	at   time.Duration // from the start of the flow
	who  string
	do   action
	hold time.Duration // stopped for so long, or away for so long before it is started again
}

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// planOf draws a plan with so many kills, spread over the time. Of eight steps five are kills, one a stall within the session, one a stall beyond it, and
// one an orderly stop. The same seed draws the same plan.
func planOf(rng *rand.Rand, procs []string, kills int, within time.Duration) []step {
	kinds := []func() (action, time.Duration){
		func() (action, time.Duration) { return actStop, randomly/10 + upTo(rng, randomly/2) },
		func() (action, time.Duration) { return actStop, randomly + randomly/4 + upTo(rng, randomly) },
		func() (action, time.Duration) { return actEnd, upTo(rng, time.Second) },
	}
	n := kills + kills*3/5
	var plan []step
	for i := range n {
		s := step{at: time.Duration((float64(i) + rng.Float64()) / float64(n) * float64(within)), who: procs[rng.IntN(len(procs))]}
		if i*kills/n != (i+1)*kills/n {
			s.do, s.hold = actKill, upTo(rng, 1500*time.Millisecond)
		} else {
			s.do, s.hold = kinds[rng.IntN(len(kinds))]()
		}
		plan = append(plan, s)
	}
	return plan
}

// random is the seeded scenario.
type random struct {
	mu    sync.Mutex
	done  map[string]int
	kills int
}

func theRandom() scenario {
	r := &random{done: map[string]int{}}
	return scenario{name: "random", what: "SIGKILL, SIGSTOP within and beyond the session, SIGTERM, on two routers and three deliverers", act: r.act, check: r.report,
		deploy: shortSession(randomly), events: 40_000, rate: 300, long: 200_000, rest: 3 * time.Minute, maxDuplicates: mostRepeated, from: formShort}
}

const (
	randomShort = 48 // kills; of half as many one at the top of a backlog decides
	randomLong  = 200
)

func (r *random) act(ctx context.Context, w *world) error {
	if err := errors.Join(w.d.StartRouter(ctx, "router-2"), w.d.StartDeliverer(ctx, "deliverer-3")); err != nil {
		return err
	}
	procs := []string{"router", "router-2", "deliverer-1", "deliverer-2", "deliverer-3"}
	kills := randomShort
	if w.form == formLong {
		kills = randomLong
	}
	plan := planOf(w.rng, procs, kills, time.Duration(float64(w.events)/w.rate*0.95*1e9))
	begin := time.Now()
	// One goroutine a process: its steps follow one another, however long each takes, and those of different processes overlap as the plan has it.
	errs := make([]error, len(procs))
	var wg sync.WaitGroup
	for i, who := range procs {
		wg.Go(func() {
			for _, s := range plan {
				if s.who != who || errs[i] != nil {
					continue
				}
				if errs[i] = pause(ctx, time.Until(begin.Add(s.at))); errs[i] == nil {
					errs[i] = r.take(ctx, w, s)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// take does one step.
func (r *random) take(ctx context.Context, w *world, s step) error {
	p, deliverer := w.d.Proc(s.who), strings.HasPrefix(s.who, "deliverer")
	select {
	case <-p.Done():
		return fmt.Errorf("%s ended by itself: see %s", s.who, p.Log)
	default:
	}
	kind := Other
	var err error
	switch s.do {
	case actKill:
		if kind = KillRouter; deliverer {
			kind = KillDeliverer
		}
		w.faultOn(kind, s.who, func() error { p.Kill(); return nil })
	case actStop:
		if deliverer {
			kind = StopCont
		}
		return r.count(s, w.faultOn(kind, s.who, func() error {
			p.Signal(syscall.SIGSTOP)
			defer p.Signal(syscall.SIGCONT)
			return pause(ctx, s.hold)
		}))
	case actEnd:
		if deliverer {
			kind = StopDeliverer
		}
		err = w.faultOn(kind, s.who, func() error { return p.Stop(20 * time.Second) })
	}
	if err == nil {
		err = pause(ctx, s.hold)
	}
	if err == nil {
		err = startAgain(ctx, w, s.who)
	}
	return r.count(s, err)
}

func (r *random) count(s step, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what := string(s.do)
	if s.do == actStop && s.hold > randomly {
		what += " beyond the session"
	}
	r.done[what+" "+strings.TrimRight(s.who, "-123")]++
	if s.do == actKill {
		r.kills++
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", s.do, s.who, err)
	}
	return err
}

func startAgain(ctx context.Context, w *world, name string) error {
	if strings.HasPrefix(name, "router") {
		return w.d.StartRouter(ctx, name)
	}
	return w.d.StartDeliverer(ctx, name)
}

func (r *random) report(context.Context, *world) error {
	var text []string
	for what, n := range r.done {
		text = append(text, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(text)
	fmt.Printf("      %d kills: %s\n", r.kills, strings.Join(text, ", "))
	return nil
}

// rolling restarts every process in turn, again and again.
type rolling struct {
	rounds int
	most   time.Duration // that anything may take from when it was due until it arrives; 0: that is only told
	stops  []time.Duration
}

// stopMost is how long a process may take to stop in good order, and how late anything may be that its restart held up.
const stopMost = 2 * time.Second

func theRolling(name string, rounds int) scenario {
	r := &rolling{rounds: rounds, most: stopMost}
	s := scenario{name: name, what: fmt.Sprintf("%d rolling restarts of two deliverers and a router", rounds), act: r.act, check: r.report,
		deploy: shortSession(randomly), events: 1500 * rounds, rate: 200, long: 3000 * rounds, noRepeat: true}
	if name != "rolling-twenty" {
		s.from, s.standsFor = formMiddle, "rolling-twenty"
	}
	return s
}

// theRestarts are two of them under five times the load, with the session that is the default: there what was held up takes its time to come through.
func theRestarts() scenario {
	r := &rolling{rounds: 2}
	return scenario{name: "rolling-restart", what: "stop and start each deliverer and the router in turn, twice, under load", act: r.act, check: r.report, noRepeat: true}
}

func (r *rolling) act(ctx context.Context, w *world) error {
	for range r.rounds {
		for _, name := range []string{"deliverer-1", "deliverer-2", "router"} {
			kind := StopDeliverer
			if name == "router" {
				kind = Other
			}
			began := time.Now()
			if err := w.faultOn(kind, name, func() error { return w.d.Proc(name).Stop(20 * time.Second) }); err != nil {
				return fmt.Errorf("stop %s: %w", name, err)
			}
			r.stops = append(r.stops, time.Since(began))
			if err := errors.Join(startAgain(ctx, w, name), pause(ctx, time.Second)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rolling) report(_ context.Context, w *world) error {
	longest, median := rig.Quantile(r.stops, 1), rig.Quantile(r.stops, 0.5)
	slowest := slices.Max(append(waits(w.ran, time.Time{}), 0))
	goal := ""
	if r.most > 0 {
		goal = fmt.Sprintf(" (goal <= %v)", r.most)
	}
	fmt.Printf("      %d stops in %d rounds: median %.2f s, longest %.2f s (goal <= %v); longest wait from due to arrival %.2f s%s\n",
		len(r.stops), r.rounds, median.Seconds(), longest.Seconds(), stopMost, slowest.Seconds(), goal)
	switch {
	case longest > stopMost:
		return fmt.Errorf("a stop took %v", longest)
	case r.most > 0 && slowest > r.most:
		return fmt.Errorf("something came %v after it was due", slowest)
	}
	return nil
}

// waits is how long each delivery took from when it was due until it first arrived, of those that arrived after a moment.
func waits(r *Run, after time.Time) (all []time.Duration) {
	for _, requests := range r.Receivers {
		first := map[int64]bool{}
		for i := range requests {
			q := &requests[i]
			if first[q.Seq] || !q.Good() {
				continue
			}
			first[q.Seq] = true
			if time.Unix(0, q.At).After(after) {
				all = append(all, time.Duration(q.At-q.Due))
			}
		}
	}
	return all
}

// failover kills one of two deliverers for good, with the session that is the default.
type failover struct{ killed time.Time }

const (
	failoverSession = 6 * time.Second
	failoverMost    = failoverSession + 5*time.Second
)

func theFailover() scenario {
	f := &failover{}
	return scenario{name: "failover", what: "kill -9 one of two deliverers for good: how long does a task wait?", act: f.act, check: f.report,
		events: 6000, rate: 200, maxDuplicates: mostRepeated, from: formMiddle}
}

func (f *failover) act(ctx context.Context, w *world) error {
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	f.killed = time.Now()
	return w.faultOn(KillDeliverer, "deliverer-1", func() error { w.d.Proc("deliverer-1").Kill(); return nil })
}

// report looks at the first arrival of each delivery that came after the kill. A send that the dead process had under way, named in its last commit, may be
// waited out until its deadline; here every receiver answers at once, and a request that had been written has arrived, so there is none to excuse.
func (f *failover) report(_ context.Context, w *world) error {
	longest, over, moved := time.Duration(0), 0, 0
	for _, late := range waits(w.ran, f.killed) {
		longest = max(longest, late)
		if late > time.Second {
			moved++
		}
		if late > failoverMost {
			over++
		}
	}
	fmt.Printf("      longest wait from due to arrival after the kill: %.2f s (goal <= %v); %d waited longer than a second, %d longer than the goal\n",
		longest.Seconds(), failoverMost, moved, over)
	if over > 0 || moved == 0 {
		return fmt.Errorf("%d tasks waited longer than %v, %d for the session to end", over, failoverMost, moved)
	}
	return nil
}
