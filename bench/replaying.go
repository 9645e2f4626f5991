package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

const replayLive = 500.0 // events a second beside a replay

// Replayed is the live p99 beside a replay, and the same load alone.
type Replayed struct {
	Events              int
	Rate                float64 // of the replay, tasks a second; 0: none was set
	Alone, Beside       Latency
	Ratio               float64
	Took                time.Duration
	Cores               map[string]float64 // how many each process used meanwhile
	Killed              bool               // the router was, in the middle
	Missing, Duplicates int                // of the replay
}

// replaying publishes events of one company and replays them beside live load of others: at a rate, as fast as it goes, and while the router is killed.
func (b *bench) replaying(ctx context.Context) error {
	p, err := b.d.Publisher(companiesOf("rep")[:1])
	if err != nil {
		return err
	}
	if err := b.farm.Reset(); err != nil {
		return err
	}
	if _, err := p.Open(ctx, b.replayed, 15_000); err != nil {
		return err
	}
	if err := b.delivered("rep", b.replayed); err != nil {
		return err
	}
	live, err := b.d.Publisher(companiesOf("one"))
	if err != nil {
		return err
	}
	if _, err := live.Open(ctx, int(replayLive), replayLive); err != nil { // connections
		return err
	}
	for _, r := range []Replayed{{Rate: b.replayRate}, {}, {Killed: true}} {
		r.Events = b.replayed
		if r.Alone, err = b.open(ctx, "one", "one", replayLive); err != nil { // each time anew: a broker is faster the longer it runs
			return err
		}
		if err := b.beside(ctx, live, &r); err != nil {
			return err
		}
		b.report.Replayed = append(b.report.Replayed, r)
	}
	return nil
}

// beside runs one replay.
func (b *bench) beside(ctx context.Context, live *rig.Publisher, r *Replayed) error {
	if err := b.farm.Reset(); err != nil {
		return err
	}
	m, err := b.d.Marks(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.d.Hookferry(ctx, "replay", "create", "--subscription", "ok rep-0", "--company", company("rep", 0), "--from", "earliest", "--rate", fmt.Sprint(r.Rate), "--yes", "--detach"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		if r.Killed {
			if err := b.delivered("rep", r.Events/3); err != nil {
				ended <- err
				return
			}
			b.d.Proc("router").Kill()
			if err := b.d.StartRouter(ctx, "router"); err != nil {
				ended <- err
				return
			}
		}
		err := b.delivered("rep", r.Events)
		r.Took = time.Since(began)
		ended <- err
	}()
	n, at, cpu := int(replayLive*b.latency.Seconds()), time.Now(), b.d.CPU()
	if _, err := live.Open(ctx, n, replayLive); err != nil {
		return err
	}
	r.Cores = map[string]float64{}
	for name, used := range b.d.CPU() {
		if used >= cpu[name] { // else it was started anew
			r.Cores[name] = (used - cpu[name]).Seconds() / time.Since(at).Seconds()
		}
	}
	lost := <-ended
	if err := b.delivered("one", n); err != nil {
		return err
	}
	s, err := b.farm.Stats("one")
	if err != nil {
		return err
	}
	r.Beside = Latency{PerSecond: replayLive, P50: ms(s.P50), P99: ms(s.P99), Max: ms(s.Max), Missing: n - s.Delivered + s.Duplicates, Duplicates: s.Duplicates}
	r.Ratio = r.Beside.P99 / r.Alone.P99
	if s, err = b.farm.Stats("rep"); err != nil {
		return err
	}
	if r.Missing, r.Duplicates = r.Events-s.Delivered+s.Duplicates, s.Duplicates; r.Missing == 0 && lost != nil {
		return lost
	}
	seen, err := b.farm.Ledger("one")
	if err != nil {
		return err
	}
	r.Beside.Mean, r.Beside.Slowest, err = b.d.Stages(ctx, m, seen)
	return err
}

// delivered waits until the receivers whose name begins with prefix have got so many.
func (b *bench) delivered(prefix string, n int) error {
	return rig.Until(15*time.Minute, fmt.Sprintf("%d arrive at %s", n, prefix), func() bool {
		time.Sleep(100 * time.Millisecond) // counting costs the farm something
		return b.farm.Seen(prefix) >= n
	})
}
