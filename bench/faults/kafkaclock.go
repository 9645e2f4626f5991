package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// clockScenario: the brokers' clock is wrong and jumps, and subscriptions are made around the jumps. It begins 30 s behind, so that what was subscribed before
// stays live through the jumps back: a cut is a time of the brokers' clock, and a clock that is set back behind a cut puts what follows before it.
func clockScenario() scenario {
	c := &clocks{}
	return scenario{name: "kafka-clock", what: "the brokers' clock 30 s behind, 30 s ahead, 5 min ahead (sending is held), 30 s ahead, 55 s back, right, 30 s ahead; subscriptions made around each jump",
		deploy: func(c *rig.DeployConfig) { c.Proxy, c.Skew = true, -30*time.Second },
		act:    c.act, check: c.check, flow: 80 * time.Second, events: 8000, noRepeat: true}
}

// clocks remembers the subscriptions that were made while the clock was wrong.
type clocks struct {
	made []made
}

type made struct {
	sub         rig.Subscription
	when        string
	called, got time.Time
	until       time.Time // from here on the clock lies behind the cut again; zero: never
}

func (c *clocks) act(ctx context.Context, w *world) error {
	c.made = nil
	subscribe := func(when string) error {
		subs := []rig.Subscription{{Company: w.companies[0], Path: fmt.Sprintf("/ok/clock-%d-%d", w.seed, len(c.made))}}
		m := made{when: when, called: time.Now()}
		err := w.d.Subscribe(ctx, subs)
		m.sub, m.got = subs[0], time.Now()
		c.made = append(c.made, m)
		return err
	}
	// A jump is over at once, so healing is its own moment; being held lasts.
	jump := func(to time.Duration) error {
		return w.faultOn(KafkaFault, "clock "+to.String(), func() error { w.d.Proxy.Skew(to); return nil })
	}
	return errors.Join(pause(ctx, 3*time.Second), subscribe("30 s behind"),
		pause(ctx, 3*time.Second), jump(30*time.Second), subscribe("right after the jump ahead"),
		pause(ctx, 3*time.Second), subscribe("30 s ahead"), pause(ctx, 3*time.Second),
		w.faultOn(KafkaFault, "clock 5 min ahead", func() error {
			w.d.Proxy.Skew(5 * time.Minute)
			err := errors.Join(pause(ctx, 6*time.Second), subscribe("5 min ahead"))
			back := time.Now()
			w.d.Proxy.Skew(30 * time.Second)
			c.made[len(c.made)-1].until = back
			return err
		}),
		subscribe("right after the jump back"), pause(ctx, 12*time.Second),
		func() error {
			for i := range c.made[1:] { // all but the first were made 30 s ahead
				if m := &c.made[1+i]; m.until.IsZero() {
					m.until = time.Now()
				}
			}
			return jump(-25 * time.Second)
		}(),
		subscribe("right after a jump of 55 s back"), pause(ctx, 3*time.Second), jump(0), subscribe("right again"), jump(30*time.Second), pause(ctx, 3*time.Second))
}

// check: nothing that was appended before create was called; everything from the cut on, by the clock that the services saw, that was appended after; and,
// by the clock on the wall, everything that was appended after create had returned, as long as the clock did not go back behind the cut. What comes from
// before the cut and after the call is no breach: a cut whose write was slow is moved later, and a router that knew the first one was early.
func (c *clocks) check(ctx context.Context, w *world) error {
	stamps, err := w.d.Stamps(ctx)
	if err != nil {
		return err
	}
	all, err := rig.ReadRequests(filepath.Join(w.dir, "farm.ledger"))
	if err != nil {
		return err
	}
	got := map[string]map[int64]bool{}
	for i := range all {
		if q := &all[i]; q.Good() {
			if got[q.Name] == nil {
				got[q.Name] = map[int64]bool{}
			}
			got[q.Name][q.Seq] = true
		}
	}
	var errs []error
	for _, m := range c.made {
		name := rig.ReceiverName(m.sub.Path)
		early, between, missed, late, n := 0, 0, 0, 0, 0
		called, returned, until := m.called.UnixMilli(), m.got.UnixMilli(), m.until.UnixMilli()-1000
		for i, e := range w.ran.Events {
			seq := w.ran.First + int64(i)
			at, ok := stamps[seq]
			if e.Company != 0 || e.Fate != rig.Accepted || !ok {
				continue
			}
			switch had := got[name][seq]; {
			case had:
				n++
				if at.Real < called {
					early++
				} else if at.Shown < m.sub.Cut {
					between++
				}
			case at.Shown >= m.sub.Cut && at.Real >= called:
				missed++
			case at.Real > returned && (m.until.IsZero() || at.Real < until):
				late++
			}
		}
		fmt.Printf("      made %s: %d delivered, %d from before the call, %d between call and cut, %d missed behind the cut, %d missed after create had returned (which took %.1f s)\n",
			m.when, n, early, between, missed, late, m.got.Sub(m.called).Seconds())
		if early+missed+late > 0 || n == 0 && m.until.IsZero() {
			errs = append(errs, fmt.Errorf("the start of the subscription made %s was not exact", m.when))
		}
	}
	return errors.Join(errors.Join(errs...), kafkaHealed(ctx, w))
}
