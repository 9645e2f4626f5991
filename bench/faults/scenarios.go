package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Four companies with five subscriptions each: 20 subscriptions, every event is owed to five of them.
const (
	companies  = 4
	perCompany = 5
)

// scenario is one way of breaking things. act runs while events flow and returns what it did; it may take as long as the flow.
type scenario struct {
	name       string
	what       string
	brokers    int
	act        func(ctx context.Context, w *world) error
	noRepeat   bool          // not one duplicate is allowed
	flow       time.Duration // spread the events over this time instead of the rate asked for
	compareP99 bool          // the p99 of the 40 s with the fault in it must stay within 1.2 times that of the 30 s before
}

var scenarios = []scenario{
	{name: "kill-deliverer", what: "kill -9 one of two deliverers, start it again 4 s later, twice", brokers: 1, act: killDeliverers},
	{name: "kill-router", what: "kill -9 the router, start it again, three times", brokers: 1, act: killRouters, noRepeat: true},
	{name: "rolling-restart", what: "stop and start each deliverer and the router in turn", brokers: 1, act: rollingRestart, noRepeat: true},
	{name: "add-remove", what: "add a third deliverer, later take it away", brokers: 1, act: addRemove, noRepeat: true, flow: 78 * time.Second, compareP99: true},
	{name: "redis-flush", what: "FLUSHALL every second", brokers: 1, act: flushRedis, noRepeat: true},
	{name: "redis-stop", what: "Redis gone for 20 s", brokers: 1, act: stopRedis, noRepeat: true},
	{name: "kill-leader", what: "three brokers, kill -9 one that leads, start it again", brokers: 3, act: killBroker, noRepeat: true},
}

// world is a running deployment and the log of what was done to it.
type world struct {
	d      *rig.Deployment
	faults []Fault
	from   time.Time // when act began and ended
	to     time.Time
}

func (w *world) fault(kind FaultKind, do func() error) error {
	start := time.Now()
	err := do()
	w.faults = append(w.faults, Fault{kind, start, time.Now()})
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func killDeliverers(ctx context.Context, w *world) error {
	for _, name := range []string{"deliverer-1", "deliverer-2"} {
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		w.fault(KillDeliverer, func() error { w.d.Proc(name).Kill(); return nil })
		if err := pause(ctx, 4*time.Second); err != nil {
			return err
		}
		if err := w.d.StartDeliverer(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func killRouters(ctx context.Context, w *world) error {
	for range 3 {
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		w.fault(Other, func() error { w.d.Proc("router").Kill(); return nil })
		if err := w.d.StartRouter(ctx, "router"); err != nil {
			return err
		}
	}
	return nil
}

func rollingRestart(ctx context.Context, w *world) error {
	for _, name := range []string{"deliverer-1", "deliverer-2", "router", "deliverer-1", "deliverer-2"} {
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		err := w.fault(Other, func() error { return w.d.Proc(name).Stop(10 * time.Second) })
		if err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		start := w.d.StartDeliverer
		if name == "router" {
			start = w.d.StartRouter
		}
		if err := start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// addRemove: a join and a leave within 40 s. Each stops the sends of every lane for as long as the members need to learn of it and to join again, some
// tenths of a second, and what comes in that time is late; so the window decides what a p99 says, and it is named beside it.
func addRemove(ctx context.Context, w *world) error {
	if err := pause(ctx, 34*time.Second); err != nil {
		return err
	}
	w.from = time.Now()
	if err := w.d.StartDeliverer(ctx, "deliverer-3"); err != nil {
		return err
	}
	if err := pause(ctx, 20*time.Second); err != nil {
		return err
	}
	err := w.fault(Other, func() error { return w.d.Proc("deliverer-3").Stop(10 * time.Second) })
	if err == nil {
		err = pause(ctx, time.Until(w.from.Add(40*time.Second)))
	}
	w.to = time.Now()
	return err
}

func flushRedis(ctx context.Context, w *world) error {
	for range 15 {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := w.fault(Other, func() error { _, err := w.d.Redis.Do("FLUSHALL"); return err }); err != nil {
			return err
		}
	}
	return nil
}

func stopRedis(ctx context.Context, w *world) error {
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	return w.fault(Other, func() error {
		w.d.Redis.Kill()
		if err := pause(ctx, 20*time.Second); err != nil {
			return err
		}
		return w.d.Redis.Start()
	})
}

func killBroker(ctx context.Context, w *world) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	return w.fault(Other, func() error {
		if err := syscall.Kill(w.d.Kafka.PID(1), syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill broker 1: %w", err)
		}
		if err := pause(ctx, 8*time.Second); err != nil {
			return err
		}
		return w.d.Kafka.Start(ctx, 3)
	})
}

// runScenario starts a fresh deployment, lets events flow while the scenario acts, waits until all is quiet, and checks.
func runScenario(ctx context.Context, s scenario, dir string, events int, rate float64) error {
	began := time.Now()
	if s.flow > 0 {
		rate = float64(events) / s.flow.Seconds()
	}
	d, err := rig.Deploy(ctx, rig.DeployConfig{Dir: dir, Brokers: s.brokers, Heap: "384m"})
	if err != nil {
		return err
	}
	defer d.Close()
	w := &world{d: d}
	var subs []rig.Subscription
	owed := map[string]func(int) bool{}
	var names []string
	for c := range companies {
		names = append(names, fmt.Sprintf("company%d", c))
		for i := range perCompany {
			name := fmt.Sprintf("r-%d-%d", c, i)
			subs = append(subs, rig.Subscription{Company: names[c], Path: "/ok/" + name})
			owed[name] = func(company int) bool { return company == c }
		}
	}
	if err := errors.Join(d.Subscribe(ctx, subs), d.StartRouter(ctx, "router"), d.StartDeliverer(ctx, "deliverer-1"), d.StartDeliverer(ctx, "deliverer-2")); err != nil {
		return err
	}
	p, err := d.Publisher(names)
	if err != nil {
		return err
	}
	acted := make(chan error, 1)
	go func() { acted <- s.act(ctx, w) }()
	ledger, err := p.Open(ctx, events, rate)
	if aerr := <-acted; err == nil {
		err = aerr
	}
	if err != nil {
		return err
	}
	want := int64(events * perCompany)
	rig.Until(60*time.Second, "all owed arrive", func() bool { return d.Farm.Count() >= want })
	time.Sleep(8 * time.Second) // longer than a session time-out: a late second copy would show up now
	seen, err := d.Farm.Ledger("r-")
	if err != nil {
		return err
	}
	f := Check(&Run{Events: ledger, Owed: owed, Receivers: seen, Faults: w.faults})
	return s.verdict(f, seen, w, time.Since(began))
}

// verdict prints one line, and what was found wrong below it.
func (s *scenario) verdict(f *Finding, seen map[string][]rig.Entry, w *world, took time.Duration) error {
	ok := f.OK() && !(s.noRepeat && f.Duplicates > 0)
	note := ""
	if s.compareP99 {
		before, during := p99(seen, w.from.Add(-30*time.Second), w.from), p99(seen, w.from, w.to)
		ratio := float64(during) / float64(before)
		note = fmt.Sprintf(", p99 %.1f ms over 30 s before, %.1f ms over 40 s with a join and a leave: %.2f x (goal <= 1.2)", ms(before), ms(during), ratio)
	}
	word := "ok  "
	if !ok {
		word = "FAIL"
	}
	fmt.Printf("%s  %-16s %s: accepted %d, unknown %d, owed %d, delivered %d, lost %d, duplicates %d, unexplained %d%s (%.0f s)\n",
		word, s.name, s.what, f.Accepted, f.Unknown, f.Owed, f.Delivered, len(f.Lost), f.Duplicates, len(f.Unexplained), note, took.Seconds())
	for _, list := range [][]string{f.Lost, f.Ghost, f.Misrouted, f.Unexplained, f.Changed} {
		for i, line := range list {
			if i == 5 {
				fmt.Printf("      and %d more\n", len(list)-i)
				break
			}
			fmt.Println("      " + line)
		}
	}
	if !ok {
		return errors.New("see above")
	}
	return nil
}

// p99 of the time from due to arrival, of what arrived between two moments.
func p99(seen map[string][]rig.Entry, from, to time.Time) time.Duration {
	var d []time.Duration
	for _, l := range seen {
		for _, e := range l {
			if at := time.Unix(0, e.At); at.After(from) && at.Before(to) {
				d = append(d, time.Duration(e.At-e.Due))
			}
		}
	}
	return rig.Quantile(d, 0.99)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
