package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// result is what a seed came to.
type result struct {
	Seed                               uint64
	Kind                               string
	Virtual                            time.Duration
	Events, Owed, Deliveries, Requests int
	Dead, Dropped                      int
	Explained, Unheard                 int // second copies
	Counts                             map[string]int
	Violations                         []string
	Plan                               string
	History                            []string

	way   string // a sum over all that the child said
	exact bool   // it must run the same way each time
}

// simulate runs a seed in the present bubble.
func simulate(p *plan) (res *result) {
	res = &result{Seed: p.Seed, Kind: p.Kind, Plan: p.String(), Counts: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	w, err := newWorld(ctx, p)
	if err != nil {
		cancel()
		res.Violations = []string{"the world did not start: " + err.Error()}
		return res
	}
	w.play()
	w.rest()
	w.stopAll()
	w.reader.read()
	check(w, res)
	res.Virtual, res.Counts, res.History = w.elapsed(), w.counts, w.log.lines
	w.publish.Close(ctx)
	cancel()
	close(w.recv.closed)
	w.server.Close()
	w.running.Wait()
	w.control.Close()
	w.redis.Close()
	w.broker.Close()
	return res
}

// play goes through the plan.
func (w *world) play() {
	p := w.plan
	var initial []int
	for i := range p.Subs {
		if p.Subs[i].CreateAt == 0 {
			initial = append(initial, i)
		}
	}
	done := make(chan struct{})
	for _, i := range initial {
		go func() { w.create(i); done <- struct{}{} }()
	}
	for range initial {
		<-done
	}
	w.startAll(p.Routers, p.Deliverers)
	base := w.elapsed()
	for _, s := range p.Steps {
		w.advance(base + s.At)
		w.step(s)
	}
	w.advance(base + p.Length)
	w.mu.Lock()
	latest := time.Duration(0)
	for _, f := range w.faults {
		latest = max(latest, f.end.Sub(w.began)+strikeMost)
	}
	w.mu.Unlock()
	w.sleepUntil(latest + time.Second) // faults end; then there are none
	w.log.add("no more faults")
	if w.number("router") < 1 {
		w.start("router")
	}
	if w.number("deliverer") < 1 {
		w.start("deliverer")
	}
}

func (w *world) startAll(routers, deliverers int) {
	for range routers {
		w.start("router")
	}
	for range deliverers {
		w.start("deliverer")
	}
}

func (w *world) stopAll() {
	for _, kind := range []string{"router", "deliverer"} {
		for p := w.nth(kind, 0); p != nil; p = w.nth(kind, 0) {
			w.stop(p)
		}
	}
}

func (w *world) sleepUntil(at time.Duration) {
	if d := at - w.elapsed(); d > 0 {
		time.Sleep(d)
	}
}

const (
	idleLook = 15 * time.Second // how often idling looks whether there is anything to wait for
	idleLead = 6 * time.Second  // so long before something is due all processes run again
	idleLess = 3 * time.Minute  // what is shorter is not jumped over
)

// advance lets time pass. Where nothing is due for long, the processes are stopped in good order and started again shortly before: an idle process asks
// its broker some times a second, and that is what a simulation would spend its time on.
func (w *world) advance(to time.Duration) {
	for {
		left := to - w.elapsed()
		if left <= 0 {
			return
		}
		if left < idleLess || w.plan.Kind == "steady" || w.busy() {
			w.sleepUntil(w.elapsed() + min(left, idleLook))
			continue
		}
		if !w.jump(to) {
			w.sleepUntil(w.elapsed() + min(left, idleLook))
		}
	}
}

// busy says that a fault is under way or a step has not ended.
func (w *world) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		if time.Now().Before(f.end.Add(strikeMost + 10*time.Second)) {
			return true
		}
	}
	for _, e := range w.events {
		if e.ended.IsZero() {
			return true
		}
	}
	return false
}

// jump skips the time until something is due, or until a time. It is false if that is too soon.
func (w *world) jump(to time.Duration) bool {
	w.reader.read()
	until := to
	if next, ok := w.reader.nextDue(); ok {
		until = min(until, next.Sub(w.began))
	}
	until -= idleLead
	if until-w.elapsed() < idleLess {
		return false
	}
	routers, deliverers := w.number("router"), w.number("deliverer")
	w.count("jump")
	w.log.add("jump to %v", until)
	w.stopAll()
	w.clean()
	w.sleepUntil(until)
	w.startAll(routers, deliverers)
	return true
}

// clean has the log cleaner take what it may: it leaves everything in place within min.compaction.lag.ms, on which the writers of subscriptions rely.
func (w *world) clean() {
	young := w.control.BrokerNow().Add(-w.config.CompactionLag).UnixMilli()
	for _, versions := range w.reader.subs {
		if versions[len(versions)-1].UpdatedAt > young {
			return
		}
	}
	w.count("clean")
	w.broker.Cluster().Compact()
}

// rest waits until everything that lies on the topics is done with. A task that has no end then is lost.
func (w *world) rest() {
	began := w.elapsed()
	for said := began; w.elapsed() < began+w.patience(); {
		w.sleepUntil(w.elapsed() + idleLook)
		w.reader.read()
		if w.unrouted() == 0 && w.unfinished() == 0 {
			return
		}
		if w.elapsed() > said+10*time.Minute {
			said = w.elapsed()
			w.log.add("not at rest: %s", w.reader.stillOpen())
		}
		if w.plan.Kind != "steady" || w.elapsed() > w.plan.Length+time.Hour {
			w.jump(w.elapsed() + time.Hour)
		}
	}
	w.fail("no rest within %v: %s", w.patience(), w.reader.stillOpen())
}

// patience is how long the world may take to come to rest after the last fault: the longest schedule, with its jitter, and some hours for a circuit that was
// open and for what was postponed.
func (w *world) patience() time.Duration {
	longest := time.Duration(0)
	for _, s := range w.plan.Subs {
		sum := time.Duration(0)
		for _, d := range s.Schedule {
			sum += d
		}
		if s.Schedule == nil {
			sum = 76 * time.Hour
		}
		longest = max(longest, sum)
	}
	return longest*6/5 + 12*time.Hour
}

// step does one thing of the plan. What takes time goes on beside what follows.
func (w *world) step(s step) {
	w.log.add("step %v", s)
	switch s.What {
	case "publish":
		w.running.Go(func() { w.burst(s.N, s.For, s.Text == surely) })
	case "create":
		w.running.Go(func() { w.create(s.Sub) })
	case "edit":
		w.running.Go(func() { w.edit(s.Sub, s.Text) })
	case "delete":
		w.running.Go(func() { w.delete(s.Sub) })
	default:
		w.fault(s)
	}
}

// span notes a fault.
func (w *world) span(s step, who string, d time.Duration) *faultSpan {
	f := &faultSpan{what: s.What, who: who, start: time.Now(), end: time.Now().Add(d)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
	w.counts[s.What]++
	return f
}

// fault does something to the world and, where it ends, sees to its end.
func (w *world) fault(s step) {
	verb, kind, _ := strings.Cut(s.What, " ")
	switch verb {
	case "crash", "restart", "leave", "stall", "cut", "dark", "join":
		w.onProcess(s, verb, kind)
	case "redis":
		w.onRedis(s, kind)
	default:
		w.onBroker(s)
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.running.Go(func() { time.Sleep(d); do() })
}

func (w *world) onProcess(s step, verb, kind string) {
	if verb == "join" {
		if w.number(kind) < 4 {
			w.span(s, "", 3*time.Second)
			w.start(kind)
		}
		return
	}
	p := w.nth(kind, s.N)
	if p == nil || verb == "leave" && w.number(kind) < 2 {
		return
	}
	f := w.span(s, p.name, s.For)
	switch verb {
	case "crash", "stall":
		w.strike(s, f, p, verb == "crash")
	case "restart":
		w.running.Go(func() {
			w.stop(p)
			w.mu.Lock()
			f.end = time.Now().Add(5 * time.Second)
			w.mu.Unlock()
			w.start(kind)
		})
	case "leave":
		w.running.Go(func() { w.stop(p) })
	case "cut", "dark":
		do := p.host.Refuse
		if verb == "dark" {
			do = p.host.Darken
		}
		for _, a := range w.config.Brokers {
			do(a)
		}
		w.after(s.For, func() {
			for _, a := range w.config.Brokers {
				p.host.Heal(a)
			}
		})
	}
}

// strike kills or stalls a process at one of its next writes, or after a while if it makes none.
func (w *world) strike(s step, f *faultSpan, p *process, kill bool) {
	struck := make(chan struct{})
	once := sync.OnceFunc(func() {
		w.mu.Lock()
		f.end = f.end.Add(time.Since(f.start))
		f.start = time.Now()
		w.mu.Unlock()
		if kill {
			w.kill(p)
		} else {
			p.host.Freeze()
			w.log.add("freeze %s", p.name)
		}
		close(struck)
	})
	p.host.Fuse(1+s.Sub, once)
	w.running.Go(func() {
		select {
		case <-struck:
		case <-time.After(strikeMost):
			once()
		}
		time.Sleep(s.For)
		if kill {
			w.start(p.kind)
			return
		}
		p.host.Thaw()
		w.log.add("thaw %s", p.name)
	})
}

// strikeMost is how long a strike waits for its write.
const strikeMost = 20 * time.Second

// hosts are those of all running processes.
func (w *world) hosts(do func(*sandbox.Host)) {
	w.mu.Lock()
	list := append([]*process(nil), w.alive...)
	w.mu.Unlock()
	for _, p := range list {
		do(p.host)
	}
}

func (w *world) onRedis(s step, how string) {
	w.span(s, "", s.For)
	switch how {
	case "flush":
		w.redis.Flush()
	case "down":
		w.hosts(func(h *sandbox.Host) { h.Refuse(redisAddr) })
	case "dark":
		w.hosts(func(h *sandbox.Host) { h.Darken(redisAddr) })
	case "slow":
		w.hosts(func(h *sandbox.Host) { h.Delay(redisAddr, 40*time.Millisecond) })
	}
	w.after(s.For, func() {
		w.hosts(func(h *sandbox.Host) { h.Heal(redisAddr); h.Delay(redisAddr, w.plan.Latency) })
		if how == "down" && s.P < 0.5 {
			w.redis.Flush()
		}
	})
}

func (w *world) onBroker(s step) {
	w.span(s, "", s.For)
	c := w.broker.Cluster()
	requests := func(api kmsg.Key, fate sandbox.Fate) {
		w.hosts(func(h *sandbox.Host) {
			h.Requests(func(_ string, asked int16) sandbox.Fate {
				if asked == int16(api) && w.roll(s.P) {
					return fate
				}
				return sandbox.Pass
			})
		})
		w.after(s.For, func() { w.hosts(func(h *sandbox.Host) { h.Requests(nil) }) })
	}
	refuse := func(e *kerr.Error, keys ...kmsg.Key) {
		h := c.Fault(kfake.Fault{Keys: keys, Err: e, Count: -1, When: func(kmsg.Request) bool { return w.roll(s.P) }})
		w.after(s.For, h.Remove)
	}
	switch s.What {
	case "produce refused":
		refuse(kerr.NotEnoughReplicas, kmsg.Produce)
	case "produce lost":
		requests(kmsg.Produce, sandbox.LoseAnswer)
	case "produce swallowed":
		requests(kmsg.Produce, sandbox.Swallow)
	case "commit lost":
		requests(kmsg.OffsetCommit, sandbox.LoseAnswer)
	case "commit refused":
		refuse(kerr.CoordinatorLoadInProgress, kmsg.OffsetCommit)
	case "not leader":
		refuse(kerr.NotLeaderForPartition, kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets)
	case "fetch errors":
		refuse(kerr.UnknownServerError, kmsg.Fetch)
	case "broker slow":
		slow := time.Duration(float64(time.Second) * (0.05 + s.P))
		w.hosts(func(h *sandbox.Host) {
			for _, a := range w.config.Brokers {
				h.Delay(a, slow)
			}
		})
		w.after(s.For, func() {
			w.hosts(func(h *sandbox.Host) {
				for _, a := range w.config.Brokers {
					h.Delay(a, w.plan.Latency)
				}
			})
		})
	case "leaders move":
		c.ShufflePartitionLeaders()
	case "coordinator moves":
		c.RehashCoordinators()
	default:
		panic("BUG: no fault " + s.What)
	}
}

// roll says yes with a probability.
func (w *world) roll(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.Float64() < p
}

func tpName(tp kafka.TP) string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }
