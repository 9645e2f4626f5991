package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

const replayLive = 500.0 // events a second beside a replay

// Replayed is the live p99 beside a replay, and the same load alone.
type Replayed struct {
	Events              int
	Rate                float64 // of the replay, tasks a second; 0: none was set
	Alone, Beside       Latency
	AsLive              *Latency // beside as many live deliveries a second to the same receiver, and no replay
	Ratio               float64
	Took                time.Duration
	Cores, CoresAlone   map[string]float64 // how many each process used beside it and, where that was measured, without it
	Killed              bool               // the router was, in the middle
	Missing, Duplicates int                // of the replay
}

// replaying publishes events of one company and replays them beside live load of others: as fast as it goes, while the router is killed, and at a rate. That comes
// last, since it compares tails, and those of a broker that has not compiled its code yet are twice as long in one minute as in the next.
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
	if err := b.farm.Reset(); err != nil {
		return err
	}
	if _, err := live.Open(ctx, int(replayLive), replayLive); err != nil { // connections
		return err
	}
	if err := b.delivered("one", int(replayLive)); err != nil { // none of them is to be counted later
		return err
	}
	for _, r := range []Replayed{{}, {Killed: true}} {
		r.Events = b.replayed
		if r.Alone, err = b.open(ctx, "one", replayLive); err != nil { // each time anew: a broker is faster the longer it runs
			return err
		}
		if err := b.beside(ctx, live, &r); err != nil {
			return err
		}
		b.report.Replayed = append(b.report.Replayed, r)
	}
	rated := Replayed{Events: b.replayed, Rate: b.replayRate}
	if err := b.alternating(ctx, live, p, &rated); err != nil {
		return err
	}
	b.report.Replayed = append(b.report.Replayed, rated)
	return b.verifying(ctx)
}

// Verified is what `hookferry verify` said of the subscription that was replayed to, over the whole log.
type Verified struct {
	Events    int // of all companies
	Owed      int
	Delivered int
	Missing   int
	Took      time.Duration
}

func (b *bench) verifying(ctx context.Context) error {
	began := time.Now()
	out, err := b.d.Hookferry(ctx, "verify", "--subscription", "ok rep-0", "--company", company("rep", 0), "--from", "earliest", "--json")
	if err != nil {
		return err
	}
	v := &Verified{Took: time.Since(began)}
	b.report.Verified = v
	return json.Unmarshal([]byte(out), v)
}

const replayWindows = 10 // at most, of which every other one is beside the replay

// alternating runs a replay at a rate and pauses it in every other window, so that what is beside it and what is alone are of the same minutes: the tail of a
// broker and of a machine moves by more than a tenth within a quarter of an hour. The first second of a window counts for neither. With b.asLive there are windows
// of a third kind, in which the replay's receiver gets as many live events by the publisher same.
func (b *bench) alternating(ctx context.Context, live, same *rig.Publisher, r *Replayed) error {
	if err := b.farm.Reset(); err != nil {
		return err
	}
	m, err := b.d.Marks(ctx)
	if err != nil {
		return err
	}
	began, id := time.Now(), ""
	const alone, beside, asLive = 0, 1, 2
	var windows [3][]time.Time // when they began
	cores := [3]map[string]float64{{}, {}, {}}
	r.CoresAlone, r.Cores = cores[alone], cores[beside]
	kinds := []int{beside, alone}
	if b.asLive {
		kinds = append(kinds, asLive)
	}
	n, more, length := 0, 0, b.latency+time.Second
	rounds := min(replayWindows/2, int(0.9*float64(r.Events)/(r.Rate*length.Seconds()))) // it must not end before they do
	if rounds == 0 {
		return fmt.Errorf("a replay of %d events at %v/s is over within %v: it cannot be measured", r.Events, r.Rate, length)
	}
	for i := range rounds * len(kinds) {
		which := kinds[i%len(kinds)]
		switch {
		case i == 0:
			id, err = b.startReplay(ctx, r.Rate)
		case which == beside:
			_, err = b.d.Hookferry(ctx, "replay", "resume", id)
		case which == alone:
			_, err = b.d.Hookferry(ctx, "replay", "pause", id)
		}
		if err != nil {
			return err
		}
		at, cpu := time.Now(), b.d.CPU()
		windows[which] = append(windows[which], at)
		var others sync.WaitGroup
		var failed error
		if which == asLive {
			events := int(r.Rate * length.Seconds())
			more += events
			others.Go(func() { _, failed = same.Open(ctx, events, r.Rate) })
		}
		events := int(replayLive * length.Seconds())
		_, err := live.Open(ctx, events, replayLive)
		if others.Wait(); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		n += events
		for name, used := range b.d.CPU() {
			cores[which][name] += (used - cpu[name]).Seconds() / time.Since(at).Seconds() / float64(rounds)
		}
	}
	if _, err := b.d.Hookferry(ctx, "replay", "resume", id); err != nil {
		return err
	}
	if err := b.delivered("rep", r.Events+more); err != nil {
		return err
	}
	r.Took = time.Since(began)
	if err := b.delivered("one", n); err != nil {
		return err
	}
	s, err := b.farm.Stats("one")
	if err != nil {
		return err
	}
	missing, duplicates := n-s.Delivered+s.Duplicates, s.Duplicates
	if s, err = b.farm.Stats("rep"); err != nil {
		return err
	}
	r.Missing, r.Duplicates = r.Events+more-s.Delivered+s.Duplicates, s.Duplicates
	all, err := b.farm.Ledger("one")
	if err != nil {
		return err
	}
	into := []*Latency{&r.Alone, &r.Beside}
	if b.asLive {
		r.AsLive = &Latency{}
		into = append(into, r.AsLive)
	}
	for which, l := range into {
		if *l, err = b.pooled(ctx, m, all, replayLive, windows[which], length); err != nil {
			return err
		}
	}
	r.Beside.Missing, r.Beside.Duplicates = missing, duplicates // of both
	r.Ratio = r.Beside.P99 / r.Alone.P99
	b.replayed += more // the log has them now, and the next replay brings them as well
	return nil
}

// pooled is the latency of what was delivered of the events that were due in one of several windows, but for their first second.
func (b *bench) pooled(ctx context.Context, m *rig.Marks, all map[string][]rig.Entry, perSecond float64, begins []time.Time, length time.Duration) (l Latency, err error) {
	seen := map[string][]rig.Entry{}
	var late []time.Duration
	for name, entries := range all {
		for _, e := range entries {
			due := time.Unix(0, e.Due)
			counts := func(begin time.Time) bool {
				return !due.Before(begin.Add(time.Second)) && due.Before(begin.Add(length))
			}
			if e.Status/100 == 2 && slices.ContainsFunc(begins, counts) {
				seen[name] = append(seen[name], e)
				late = append(late, time.Duration(e.At-e.Due))
			}
		}
	}
	l = Latency{PerSecond: perSecond, P50: ms(rig.Quantile(late, 0.50)), P99: ms(rig.Quantile(late, 0.99)), Max: ms(rig.Quantile(late, 1))}
	l.Mean, l.Slowest, err = b.d.Stages(ctx, m, seen)
	return l, err
}

// startReplay replays all events of the one company to its one subscription. rate 0: as fast as it goes.
func (b *bench) startReplay(ctx context.Context, rate float64) (id string, err error) {
	out, err := b.d.Hookferry(ctx, "replay", "create", "--subscription", "ok rep-0", "--company", company("rep", 0), "--from", "earliest", "--rate", fmt.Sprint(rate), "--yes", "--detach", "--json")
	if err != nil {
		return "", err
	}
	var o struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil || o.ID == "" {
		return "", fmt.Errorf("replay create says %q: %w", out, err)
	}
	return o.ID, nil
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
	if _, err := b.startReplay(ctx, r.Rate); err != nil {
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
