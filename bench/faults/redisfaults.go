package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// What can happen to Redis, each at least five times while events flow. Redis only remembers what was sent: whatever becomes of it, nothing may be lost,
// nothing may come twice as long as no deliverer dies, and within healed of the end of a fault every batch must have its marks again.
const healed = 10 * time.Second

// patience is how long what is owed may take after the last event on a machine that does many other things; where nothing is wrong nobody waits so long.
const patience = 3 * time.Minute

var redisScenarios = []scenario{
	{name: "redis-flush-5s", what: "FLUSHALL every 5 s, six times", act: each(6, 5*time.Second, RedisLost, flushAll), flow: 34 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(6)},
	{name: "redis-kill", what: "Redis killed and started empty 1 s later, five times", act: each(5, 4*time.Second, RedisLost, killRedis), flow: 34 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(5)},
	{name: "redis-freeze", what: "Redis stopped (SIGSTOP) for 2 s and continued, five times", act: each(5, 4*time.Second, Dependency, freezeRedis), flow: 36 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(5)},
	{name: "redis-slow", what: "Redis slow to answer: 20, 40, 60, 200 and 1,500 ms, 3 s each", act: slowRedis, flow: 36 * time.Second, longer: 160 * time.Second, long: 40_000,
		rest: patience, noRepeat: true, check: lateAfterHealing(5)},
	{name: "redis-full", what: "Redis out of memory without eviction, five times for 2 s", act: each(5, 4*time.Second, Dependency, fillRedis), flow: 36 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(5)},
	{name: "redis-types", what: "all our keys in Redis overwritten with strings and lists, six times; nobody mends them", act: each(6, 5*time.Second, RedisLost, retypeRedis),
		flow: 36 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(6)},
	{name: "redis-mix", what: "one after the other, without a pause: flushed, wrong types, stopped, full, slow, killed", act: mixRedis, events: 6000, flow: 12 * time.Second,
		rest: patience, noRepeat: true, from: formShort, standsFor: "redis-kill", check: lateAfterHealing(7)},
	{name: "redis-gone", what: "Redis flushed every 5 s, then gone: throughput against that before", act: redisGone, events: 100, rate: 100, rest: patience, noRepeat: true, from: formMiddle},
}

// each does a fault n times with a rest after each, in which the marks must come back.
func each(n int, rest time.Duration, kind FaultKind, do func(context.Context, *world) error) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		for range n {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			if err := w.fault(kind, func() error { return do(ctx, w) }); err != nil {
				return err
			}
			if err := marksAreBack(ctx, w); err != nil {
				return err
			}
			if err := pause(ctx, rest-time.Second); err != nil {
				return err
			}
		}
		return nil
	}
}

// marksAreBack waits until no deliverer has let a batch go without marks for a second, at most healed.
func marksAreBack(ctx context.Context, w *world) error {
	began, quiet, last := time.Now(), time.Now(), -1.0
	for time.Since(quiet) < time.Second {
		if time.Since(quiet) < time.Since(began)-healed {
			return fmt.Errorf("marks are not kept again %s after Redis was whole: batches still go without them", healed)
		}
		n, err := openBatches(w)
		if err != nil {
			return err
		}
		if n != last {
			last, quiet = n, time.Now()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// openBatches is how many batches both deliverers have let go without marks since their start.
func openBatches(w *world) (sum float64, err error) {
	for _, name := range []string{"deliverer-1", "deliverer-2"} {
		n, err := w.d.Metric(name, "hookferry_deliverer_redis_fail_open_total")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// redisDo sends commands, and takes an error answer for an error.
func redisDo(w *world, commands ...string) error {
	for _, c := range commands {
		answer, err := w.d.Redis.Do(c)
		if err == nil && strings.HasPrefix(answer, "-") {
			err = errors.New(answer)
		}
		if err != nil {
			return fmt.Errorf("redis: %.40s: %w", c, err)
		}
	}
	return nil
}

func flushAll(_ context.Context, w *world) error { return redisDo(w, "FLUSHALL") }

func killRedis(ctx context.Context, w *world) error {
	w.d.Redis.Kill()
	err := pause(ctx, time.Second)
	return errors.Join(err, w.d.Redis.Start())
}

func freezeRedis(ctx context.Context, w *world) error {
	w.d.Redis.Signal(syscall.SIGSTOP)
	defer w.d.Redis.Signal(syscall.SIGCONT)
	return pause(ctx, 2*time.Second)
}

// slowRedis makes every answer late, around the 50 ms that a batch waits for its marks: pauses of all clients, one after the other.
func slowRedis(ctx context.Context, w *world) error {
	rounds := 1
	if w.form == formLong {
		rounds = 5
	}
	for range rounds {
		for _, late := range []int{20, 40, 60, 200, 1500} {
			if err := w.fault(Dependency, func() error { return slowFor(ctx, w, late, 3*time.Second) }); err != nil {
				return err
			}
			if err := marksAreBack(ctx, w); err != nil {
				return fmt.Errorf("late by %d ms: %w", late, err)
			}
		}
	}
	return nil
}

func slowFor(ctx context.Context, w *world, late int, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := redisDo(w, fmt.Sprintf("CLIENT PAUSE %d ALL", late)); err != nil {
			return err
		}
		if err := pause(ctx, time.Duration(late+2)*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// fillRedis leaves 60 KB above what Redis uses: some marks still fit, and then none.
func fillRedis(ctx context.Context, w *world) error {
	info, err := w.d.Redis.Do("INFO memory")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	var used int
	if _, err := fmt.Sscan(rest, &used); err != nil {
		return fmt.Errorf("redis: how much memory is used? %w", err)
	}
	err = redisDo(w, "CONFIG SET maxmemory-policy noeviction", fmt.Sprintf("CONFIG SET maxmemory %d", used+60_000))
	err = errors.Join(err, pause(ctx, 2*time.Second))
	return errors.Join(err, redisDo(w, "CONFIG SET maxmemory 0"))
}

// retypeRedis overwrites every key with a string or a list, the sentinel too.
func retypeRedis(_ context.Context, w *world) error {
	return redisDo(w, `EVAL "for i, k in ipairs(redis.call('KEYS', '*')) do if i % 2 == 0 then redis.call('SET', k, 'x') else redis.call('DEL', k) redis.call('RPUSH', k, 'x') end end return 1" 0`)
}

// mixRedis is the short form: everything once, without a rest in between, and the marks must be back at the end.
func mixRedis(ctx context.Context, w *world) error {
	faults := []struct {
		kind FaultKind
		do   func(context.Context, *world) error
	}{
		{RedisLost, flushAll}, {RedisLost, retypeRedis}, {Dependency, freezeRedis}, {Dependency, fillRedis},
		{Dependency, func(ctx context.Context, w *world) error { return slowFor(ctx, w, 60, time.Second) }}, {RedisLost, killRedis}, {RedisLost, retypeRedis},
	}
	for _, f := range faults {
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		if err := w.fault(f.kind, func() error { return f.do(ctx, w) }); err != nil {
			return err
		}
	}
	return marksAreBack(ctx, w)
}

// redisGone measures the throughput of the whole pipeline, as fast as it goes: whole, with a Redis that forgets, without one, and whole again. It
// has companies and receivers of its own, whose ledger it checks itself.
func redisGone(ctx context.Context, w *world) error {
	d, window, fan := 8*time.Second, 2000, 5
	if w.form == formLong {
		d = time.Minute
	}
	var names []string
	var subs []rig.Subscription
	prefix := fmt.Sprintf("t%d-", time.Now().UnixNano())
	for c := range companies {
		names = append(names, fmt.Sprintf("%scompany%d", prefix, c))
		for i := range fan {
			subs = append(subs, rig.Subscription{Company: names[c], Path: fmt.Sprintf("/ok/%s%d-%d", prefix, c, i)})
		}
	}
	if err := w.d.Subscribe(ctx, subs); err != nil {
		return err
	}
	p, err := w.d.Publisher(names)
	if err != nil {
		return err
	}
	owed := 0
	measure := func(d time.Duration) (float64, error) {
		before := w.d.Farm.Count()
		n, took, err := p.Closed(ctx, d, window, fan, func() int64 { return w.d.Farm.Count() - before })
		owed += n * fan
		done := w.d.Farm.Count() - before
		if werr := rig.Until(time.Minute, "what was published arrives", func() bool { return w.d.Farm.Count()-before >= int64(n*fan) }); err == nil {
			err = werr
		}
		return float64(done) / took.Seconds(), err
	}
	if _, err := measure(d / 2); err != nil { // connections, lanes and the broker's code grow warm
		return err
	}
	whole, err := measure(d)
	if err != nil {
		return err
	}
	forgetful, err := redisForgets(ctx, w, func() (float64, error) { return measure(d) })
	if err != nil {
		return err
	}
	var without float64
	err = w.fault(RedisLost, func() (err error) {
		w.d.Redis.Kill()
		gone := d
		if w.form == formLong {
			gone = 5 * time.Minute
		}
		without, err = measure(gone)
		return errors.Join(err, w.d.Redis.Start())
	})
	if err != nil {
		return err
	}
	again, err := measure(d)
	if err != nil {
		return err
	}
	s, err := w.d.Farm.Stats(prefix)
	if err != nil {
		return err
	}
	fmt.Printf("      redis-gone: %.0f deliveries/s whole, %.0f flushed every 5 s (%.0f %%), %.0f without Redis (%.0f %%), %.0f whole again; owed %d, delivered %d, duplicates %d\n",
		whole, forgetful, 100*forgetful/whole, without, 100*without/whole, again, owed, s.Delivered-s.Duplicates, s.Duplicates)
	switch {
	case s.Delivered-s.Duplicates != owed || s.Duplicates > 0:
		return errors.New("redis-gone: lost or doubled, see above")
	case forgetful < 0.7*whole || without < 0.7*whole:
		return errors.New("redis-gone: the throughput fell below 70 %")
	}
	return marksAreBack(ctx, w)
}

// redisForgets flushes every 5 s for as long as f runs.
func redisForgets(ctx context.Context, w *world, f func() (float64, error)) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for {
			if err := w.fault(RedisLost, func() error { return flushAll(ctx, w) }); err != nil {
				done <- err
				return
			}
			if pause(ctx, 5*time.Second) != nil {
				done <- nil
				return
			}
		}
	}()
	v, err := f()
	cancel()
	return v, errors.Join(err, <-done)
}
