package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Ten companies; fan subscriptions each, all of which want every booking event.
const companies = 10

type bench struct {
	profiles               string
	report                 report
	measure, latency, bare time.Duration
	replayed               int // events of a replay
	replayRate             float64
	asLive                 bool // windows beside as many live deliveries as the replay makes
	d                      *rig.Deployment
	farm                   *rig.FarmClient
	body                   []byte
}

func (b *bench) run(ctx context.Context, dir string, only []string) error {
	want := func(phase string) bool { return only[0] == "" || slices.Contains(only, phase) }
	// A broker that has all of its compiler, as in production, and that does not stop to collect: with a collector that does, its pauses of 15 to 40 ms are
	// the p99 (docs/performance.md).
	d, err := rig.Deploy(ctx, rig.DeployConfig{Dir: dir, Brokers: 1, Heap: "4g", KafkaEnv: map[string]string{"KAFKA_OPTS": "-XX:-UseSerialGC -XX:+UseZGC"}, Profile: b.profiles != ""})
	if err != nil {
		return err
	}
	defer d.Close()
	b.d, b.farm = d, d.Farm
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	b.report.BareBefore = b.runBare(ctx)
	for _, p := range []struct {
		name string
		run  func(context.Context) error
	}{{"fan1", b.fan(1)}, {"fan10", b.fan(10)}, {"latency", b.latencies}, {"hang", b.hanging}, {"replay", b.replaying}, {"order", b.ordering}} {
		if !want(p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", p.name)
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	b.report.BareAfter = b.runBare(ctx)
	for _, c := range d.Crashes() {
		b.report.Crashes = append(b.report.Crashes, c.String())
	}
	return nil
}

// prepare makes the subscriptions, warms the broker's JVM with 100,000 deliveries and takes the body that the bare loop will post.
func (b *bench) prepare(ctx context.Context) error {
	var subs []rig.Subscription
	for c := range companies {
		subs = append(subs, rig.Subscription{Company: company("one", c), Path: fmt.Sprintf("/ok/one-%d", c)})
		for i := range 10 {
			subs = append(subs, rig.Subscription{Company: company("ten", c), Path: fmt.Sprintf("/ok/ten-%d-%d", c, i)})
		}
		path := fmt.Sprintf("/ok/mixed-%d", c)
		if c >= 8 {
			path = fmt.Sprintf("/hang/stuck-%d", c)
		}
		subs = append(subs, rig.Subscription{Company: company("mixed", c), Path: path})
	}
	subs = append(subs, rig.Subscription{Company: company("rep", 0), Path: "/ok/rep-0"})
	if err := b.d.Subscribe(ctx, subs); err != nil {
		return err
	}
	if err := b.d.StartRouter(ctx, "router"); err != nil {
		return err
	}
	if err := b.d.StartDeliverer(ctx, "deliverer"); err != nil {
		return err
	}
	p, err := b.d.Publisher(companiesOf("ten"))
	if err != nil {
		return err
	}
	warm := 10 * time.Second
	if b.measure < 5*time.Second {
		warm = 2 * time.Second
	}
	n, _, err := p.Closed(ctx, warm, 3000, 10, b.farm.Count)
	if err == nil {
		err = rig.Until(60*time.Second, "the warm-up arrives", func() bool { return b.farm.Count() >= int64(n*10) })
	}
	if err != nil {
		return err
	}
	b.report.EventBytes = p.EventBytes()
	b.body, err = b.d.SampleBody(ctx)
	b.report.BodyBytes = len(b.body)
	return err
}

func company(set string, c int) string { return fmt.Sprintf("co%s%d", set, c) }

func companiesOf(set string) (all []string) {
	for c := range companies {
		all = append(all, company(set, c))
	}
	return all
}

// runBare posts the very body that the pipeline sends, to the same farm, over 32 connections.
func (b *bench) runBare(ctx context.Context) rig.Bare {
	return rig.RunBare(ctx, "http://"+b.farm.Addr+"/ok/bare", b.body, 32, b.bare)
}

// fan measures the sustained rate: the publisher runs along, at most 3,000 deliveries are outstanding, the first two seconds do not count.
func (b *bench) fan(fan int) func(context.Context) error {
	return func(ctx context.Context) error {
		set := map[int]string{1: "one", 10: "ten"}[fan]
		p, err := b.d.Publisher(companiesOf(set))
		if err != nil {
			return err
		}
		if err := b.farm.Reset(); err != nil {
			return err
		}
		type end struct {
			events int
			err    error
		}
		done := make(chan end, 1)
		go func() {
			n, _, err := p.Closed(ctx, b.measure+2*time.Second, 3000, fan, b.farm.Count)
			done <- end{n, err}
		}()
		time.Sleep(2 * time.Second)
		at, cpu, n := time.Now(), b.d.CPU(), b.farm.Count()
		profiled := b.profile(fan)
		time.Sleep(b.measure - 100*time.Millisecond)
		got, took := b.farm.Count()-n, time.Since(at)
		use := b.d.CPU()
		e := <-done
		if err := errors.Join(e.err, profiled()); err != nil {
			return err
		}
		f := Sustained{FanOut: fan, PerSecond: float64(got) / took.Seconds(), CPUMicros: map[string]float64{}}
		for name, t := range use {
			f.CPUMicros[name] = float64((t - cpu[name]).Microseconds()) / float64(max(got, 1))
		}
		if err := rig.Until(30*time.Second, "all published events arrive", func() bool { return b.farm.Count() >= int64(e.events*fan) }); err != nil {
			f.Missing = e.events*fan - int(b.farm.Count())
		}
		s, err := b.farm.Stats(set)
		f.Duplicates = s.Duplicates
		b.report.Sustained = append(b.report.Sustained, f)
		return err
	}
}

// profile begins to take profiles, if they are wanted, and returns how to wait for them.
func (b *bench) profile(fan int) (wait func() error) {
	if b.profiles == "" {
		return func() error { return nil }
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, name := range []string{"router", "deliverer"} {
		wg.Go(func() {
			errs[i] = b.d.Profile(name, filepath.Join(b.profiles, fmt.Sprintf("%s-%d.prof", name, fan)), int(b.measure.Seconds())-1)
		})
	}
	return func() error { wg.Wait(); return errors.Join(errs...) }
}

func (b *bench) latencies(ctx context.Context) error {
	for _, rate := range []float64{100, 500, 1000} {
		hop50, hop99, err := b.d.Hop(ctx, b.report.EventBytes, int(rate*b.latency.Seconds()/3), rate)
		if err != nil {
			return err
		}
		l, err := b.open(ctx, "one", rate)
		l.Hop50, l.Hop99 = ms(hop50), ms(hop99)
		if err != nil {
			return err
		}
		b.report.Latency = append(b.report.Latency, l)
	}
	return nil
}

// open publishes at a fixed rate and measures from when an event was due to when a receiver had read it. The first second does not count: in it the
// publisher gets its connections and its producer id.
func (b *bench) open(ctx context.Context, set string, rate float64) (Latency, error) {
	l := Latency{PerSecond: rate}
	p, err := b.d.Publisher(companiesOf(set))
	if err != nil {
		return l, err
	}
	if err := b.farm.Reset(); err != nil {
		return l, err
	}
	first := int(rate)
	if _, err := p.Open(ctx, first, rate); err != nil {
		return l, err
	}
	if err := rig.Until(20*time.Second, "the first second arrives", func() bool { return b.farm.Count() >= int64(first) }); err != nil {
		return l, err
	}
	if err := b.farm.Reset(); err != nil {
		return l, err
	}
	m, err := b.d.Marks(ctx)
	if err != nil {
		return l, err
	}
	n := int(rate * b.latency.Seconds())
	if _, err := p.Open(ctx, n, rate); err != nil {
		return l, err
	}
	rig.Until(20*time.Second, "all arrive", func() bool { return b.farm.Count() >= int64(n) })
	s, err := b.farm.Stats(set)
	if err != nil {
		return l, err
	}
	l.P50, l.P99, l.Max, l.Missing, l.Duplicates = ms(s.P50), ms(s.P99), ms(s.Max), n-s.Delivered+s.Duplicates, s.Duplicates
	seen, err := b.farm.Ledger(set)
	if err != nil {
		return l, err
	}
	l.Mean, l.Slowest, err = b.d.Stages(ctx, m, seen)
	return l, err
}

const hangTurns = 3

// hanging compares eight healthy receivers beside two that never answer with the same load on ten healthy ones. They take turns, so that both are of the same
// minute: the tail of a machine moves by more than the goal within one. The first second of a turn counts for neither.
func (b *bench) hanging(ctx context.Context) error {
	sets, owed := [2]string{"one", "mixed"}, [2]int{companies, companies - 2}
	for _, rate := range []float64{200, 1000} {
		var publishers [2]*rig.Publisher
		for i, set := range sets {
			p, err := b.d.Publisher(companiesOf(set))
			if err != nil {
				return err
			}
			publishers[i] = p
		}
		if err := b.farm.Reset(); err != nil {
			return err
		}
		m, err := b.d.Marks(ctx)
		if err != nil {
			return err
		}
		length := b.latency/hangTurns + time.Second
		events := int(rate * length.Seconds())
		var began [2][]time.Time
		for range hangTurns {
			for i, p := range publishers {
				began[i] = append(began[i], time.Now())
				if _, err := p.Open(ctx, events, rate); err != nil {
					return err
				}
			}
		}
		var l [2]Latency
		for i, set := range sets {
			want := hangTurns * events * owed[i] / companies
			rig.Until(20*time.Second, "all arrive", func() bool { return b.farm.Seen(set) >= want })
			s, err := b.farm.Stats(set)
			if err != nil {
				return err
			}
			seen, err := b.farm.Ledger(set)
			if err != nil {
				return err
			}
			if l[i], err = b.pooled(ctx, m, seen, rate, began[i], length); err != nil {
				return err
			}
			l[i].Missing, l[i].Duplicates = want-s.Delivered+s.Duplicates, s.Duplicates
		}
		b.report.Hanging = append(b.report.Hanging, Hanging{PerSecond: rate, AllHealthy: l[0], Beside: l[1], Ratio: l[1].P99 / l[0].P99})
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
