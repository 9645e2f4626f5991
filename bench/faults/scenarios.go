package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// Those with which it began.
var scenarios = []scenario{
	{name: "kill-deliverer", what: "kill -9 one of two deliverers, start it again 4 s later, twice", brokers: 1, act: killDeliverers, maxDuplicates: mostRepeated},
	{name: "kill-router", what: "kill -9 the router, start it again, three times", brokers: 1, act: killRouters, noRepeat: true},
	{name: "add-remove", what: "add a third deliverer, later take it away", brokers: 1, act: addRemove, noRepeat: true, flow: 78 * time.Second, compareP99: true,
		from: formMiddle},
	{name: "redis-flush", what: "FLUSHALL every second", brokers: 1, act: flushRedis, noRepeat: true, check: lateAfterHealing(15)},
	{name: "redis-stop", what: "Redis gone for 20 s", brokers: 1, act: stopRedis, noRepeat: true, check: lateAfterHealing(1)},
	{name: "receivers", what: "no fault of ours: receivers that fail, stall, reset, drip, answer early, redirect, are gone", act: nothing, paths: everyKind, noRepeat: true,
		events: 400, rate: 40, rest: circuits, from: formMiddle},
	{name: "kill-leader", what: "three brokers, kill -9 one that leads, start it again", brokers: 3, act: killBroker, noRepeat: true,
		check: lateAfterHealing(1), from: formMiddle},
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
		w.fault(KillRouter, func() error { w.d.Proc("router").Kill(); return nil })
		if err := w.d.StartRouter(ctx, "router"); err != nil {
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
	w.moves = append(w.moves, w.from)
	if err := w.d.StartDeliverer(ctx, "deliverer-3"); err != nil {
		return err
	}
	if err := pause(ctx, 20*time.Second); err != nil {
		return err
	}
	w.moves = append(w.moves, time.Now())
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
		if err := w.fault(RedisLost, func() error { _, err := w.d.Redis.Do("FLUSHALL"); return err }); err != nil {
			return err
		}
	}
	return nil
}

func stopRedis(ctx context.Context, w *world) error {
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	return w.fault(RedisLost, func() error {
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
	return w.fault(KafkaFault, func() error {
		if err := syscall.Kill(w.d.Kafka.PID(1), syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill broker 1: %w", err)
		}
		if err := pause(ctx, 8*time.Second); err != nil {
			return err
		}
		return w.d.Kafka.Start(ctx, 3)
	})
}

// circuits is how long what is owed may take to arrive where receivers flap: when no more events come, the second tries of those that flap come up alone, five of them
// open the circuit, and it probes after 5, 10, 20, 40 and 80 s with a task that was postponed by the tier of a minute.
const circuits = 5 * time.Minute

func nothing(context.Context, *world) error { return nil }

// everyKind gives one receiver of each kind; the first of each company is well. None says 410: that disables its subscription.
func everyKind(company, i int) string {
	return [companies][perCompany]string{
		{"/ok", "/some/8/flap/2", "/some/8/flap/1/reset", "/delay/200ms", "/status/503"},
		{"/ok", "/some/8/flap/3s", "/some/8/flap/1/redirect/307", "/drip", "/redirect/302"},
		{"/ok", "/some/8/flap/2/delay/100ms/status/500", "/early", "/reset", "/status/400"},
		{"/ok", "/hang", "/some/16/flap/1/hang", "/some/8/delay/1s/flap/1", "/status/204"},
	}[company][i]
}
