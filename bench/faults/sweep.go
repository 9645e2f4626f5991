package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// What a crash costs depends on the two steps between which it comes, and there are only so many: whatever a process does to the world, it does by writing
// to a socket. So a router and a deliverer are killed at their first write, at their second, and so on over the whole of a small workload, half of the
// times before the write and half after it, and started again each time. What flows meanwhile must all arrive, with no duplicate but those that a
// deliverer's death explains.

var sweepScenarios = []scenario{theSweep()}

func theSweep() scenario {
	s := &sweep{began: make(chan struct{}), measured: make(chan struct{}), over: make(chan struct{})}
	return scenario{name: "sweep", what: "kill -9 router and deliverer at their n-th write to a socket, n swept", deploy: shortSession(time.Second),
		paths: mixedPaths, act: s.act, publish: s.publish, check: s.report, rest: 3 * time.Minute, enumerated: true, from: formShort}
}

// shortSession lets a group miss a dead member soon: a rig that kills each second would measure little but waiting otherwise.
func shortSession(d time.Duration) func(c *rig.DeployConfig) {
	return func(c *rig.DeployConfig) {
		c.Settings = map[string]string{"HOOKFERRY_KAFKA_SESSION_TIMEOUT": d.String(), "HOOKFERRY_DELIVERER_COMMIT_INTERVAL": min(500*time.Millisecond, d/4).String()}
	}
}

const (
	sweepUnit  = 200 // events of the workload; five times as many deliveries
	sweepRate  = 60  // events a second while places are swept
	sweepLong  = 320 // places in the long form, and
	sweepShort = 44  // in the others
	sweepStart = 30  // so many places of a process's start are all taken: it joins, reads, finds its offsets
	// sweepReach is how long a life may take to come to its place.
	sweepReach = 30 * time.Second
)

// sweep is the state that the scenario's flow and its kills share.
type sweep struct {
	began    chan struct{} // closed when the processes run whose writes are counted
	measured chan struct{} // closed when the workload has been delivered once, and its writes counted
	over     chan struct{} // closed when every place has been

	mu    sync.Mutex
	kills map[string][]sweepKill // by process
	total map[string]int         // writes of a life that sees the whole workload
}

// sweepKill is one death.
type sweepKill struct {
	at   rig.KillAt
	what string
	when time.Time
}

// sweepPlaces spreads n places over a life of so many writes, each of which has two, before it and after it: the first ones all, the others evenly, in
// an order that mixes short and long lives, so that no backlog builds up behind a hundred processes that die while they start.
func sweepPlaces(writes, n int, rng *rand.Rand) []rig.KillAt {
	n = min(n, 2*writes)
	first := min(sweepStart, n/2)
	var out []rig.KillAt
	for i := range n {
		place := i
		if i >= first {
			place = first + (i-first)*(2*writes-first)/(n-first)
		}
		out = append(out, rig.KillAt{N: place/2 + 1, After: place%2 == 1})
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// publish lets the workload flow once, to count its writes, and then on and on until every place has been.
func (s *sweep) publish(ctx context.Context, w *world, p *rig.Publisher) ([]rig.Sent, error) {
	select {
	case <-s.began:
	case <-s.over:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	all, err := p.Open(ctx, sweepUnit, 2*sweepRate)
	if err != nil {
		return all, err
	}
	if err := rig.Until(time.Minute, "the workload arrives", func() bool { return w.d.Farm.Count() >= sweepUnit*perCompany || ctx.Err() != nil }); err != nil {
		return all, err
	}
	close(s.measured)
	for {
		select {
		case <-s.over:
			return all, nil
		case <-ctx.Done():
			return all, ctx.Err()
		default:
		}
		more, err := p.Open(ctx, sweepRate/2, sweepRate)
		if all = append(all, more...); err != nil {
			return all, err
		}
	}
}

// act counts the writes of the workload, sweeps both processes side by side, the second half of it with another deliverer beside the one that dies, and
// leaves both alive.
func (s *sweep) act(ctx context.Context, w *world) error {
	defer close(s.over)
	s.kills, s.total = map[string][]sweepKill{}, map[string]int{}
	for _, name := range []string{"router", "deliverer-1", "deliverer-2"} {
		if err := w.d.Proc(name).Stop(30 * time.Second); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
	}
	if err := s.measure(ctx, w); err != nil {
		return err
	}
	n := sweepShort
	if w.form == formLong {
		n = sweepLong
	}
	routers := sweepPlaces(s.total["router"], n/2, w.rng)
	deliverers := sweepPlaces(s.total["deliverer-1"], n-len(routers), w.rng) // a router writes less often
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, 2)
	var wg sync.WaitGroup
	// Who has been everywhere lives on: the other one needs something to do.
	wg.Go(func() {
		if errs[0] = s.lives(ctx, w, cancel, "router", KillRouter, routers); errs[0] == nil {
			errs[0] = w.d.StartRouter(ctx, "router")
		}
	})
	wg.Go(func() {
		errs[1] = s.lives(ctx, w, cancel, "deliverer-1", KillDeliverer, deliverers[:len(deliverers)/2])
		if errs[1] == nil {
			errs[1] = w.d.StartDeliverer(ctx, "deliverer-2")
		}
		if errs[1] == nil {
			errs[1] = s.lives(ctx, w, cancel, "deliverer-1", KillDeliverer, deliverers[len(deliverers)/2:])
		}
		if errs[1] == nil {
			errs[1] = w.d.StartDeliverer(ctx, "deliverer-1")
		}
	})
	wg.Wait()
	return errors.Join(errs...)
}

// measure lets a router and a deliverer live through the workload and counts their writes.
func (s *sweep) measure(ctx context.Context, w *world) error {
	var all []*rig.Traced
	for _, name := range []string{"router", "deliverer-1"} {
		t, err := w.d.StartTraced(name, strings.TrimSuffix(name, "-1"), rig.KillAt{})
		if err != nil {
			return err
		}
		all = append(all, t)
	}
	close(s.began)
	select {
	case <-s.measured:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Minute):
		return errors.New("the workload does not arrive even without a kill")
	}
	for _, t := range all {
		if err := t.Stop(10 * time.Second); err != nil {
			return fmt.Errorf("stop %s after the workload: %w", t.Name, err)
		}
		s.total[t.Name] = t.Writes
	}
	return nil
}

// lives starts a process once for each place and sees to it that it dies there. What goes wrong ends the other sweep, too.
func (s *sweep) lives(ctx context.Context, w *world, cancel func(), name string, kind FaultKind, places []rig.KillAt) (err error) {
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	for _, at := range places {
		t, err := w.d.StartTraced(name, strings.TrimSuffix(name, "-1"), at)
		if err != nil {
			return err
		}
		select {
		case <-t.Done():
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sweepReach):
			t.Kill()
			return fmt.Errorf("%s did not come to its place (%v) within %v: after %d writes nothing goes on", name, at, sweepReach, t.Writes)
		}
		if !t.Killed {
			log, _ := os.ReadFile(t.Log)
			return fmt.Errorf("%s ended by itself after %d writes (%v): %s", name, t.Writes, t.Err(), log[max(0, len(log)-2000):])
		}
		s.mu.Lock()
		s.kills[name] = append(s.kills[name], sweepKill{at, t.What, t.At})
		s.mu.Unlock()
		w.log(Fault{kind, name + ", " + at.String() + ": " + t.What, t.At, t.At})
	}
	return nil
}

// report says where they died.
func (s *sweep) report(_ context.Context, w *world) error {
	places := 0
	for _, name := range slices.Sorted(maps.Keys(s.kills)) {
		distinct, sorts := map[rig.KillAt]bool{}, map[string]int{}
		for _, k := range s.kills[name] {
			distinct[k.at] = true
			sorts[k.what]++
		}
		var text []string
		for _, what := range slices.Sorted(maps.Keys(sorts)) {
			text = append(text, fmt.Sprintf("%s %d", what, sorts[what]))
		}
		places += len(distinct)
		fmt.Printf("      %s: %d kills at %d places of the %d writes of a life (%s)\n", name, len(s.kills[name]), len(distinct), s.total[name], strings.Join(text, ", "))
	}
	want := 40
	if w.form == formLong {
		want = 300
	}
	if places < want {
		return fmt.Errorf("%d places, %d are wanted", places, want)
	}
	return nil
}

// mixedPaths: of the five receivers of a company one fails now and then at the first try, so that tiers and retries are written, one breaks the connection,
// and one is slow, so that a death meets sends under way.
func mixedPaths(_, i int) string {
	return []string{"/some/8/flap/1", "/some/16/flap/1/reset", "/delay/20ms", "/ok", "/ok"}[i]
}
