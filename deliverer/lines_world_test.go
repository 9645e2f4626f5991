package deliverer

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

var ordered = flag.Int("ordered", 100_000, "how many deliveries TestNobodyOvertakesInTheWorst makes")

// ordered has subscriptions ask for order, as an update of their records would.
func (w *world) ordered(subs ...*subscriptions.Live) {
	w.t.Helper()
	w.orderBy(schemas.OrderEntity, subs...)
}

func (w *world) orderBy(order string, subs ...*subscriptions.Live) {
	w.t.Helper()
	var out kafka.Records
	for _, s := range subs {
		live, _ := w.table.Get(s.ID)
		next := live.Subscription
		next.Order, next.Version = order, live.Version+1
		key := []byte(s.ID)
		out.Add(kafka.TP{Topic: w.kafka.Topics().Subscriptions, Partition: kafka.Partition(key, w.config.Partitions)}, key, nil, schemas.AppendSubscription(nil, &next))
	}
	_, err := w.appender.Append(w.ctx, &out)
	w.must(err)
	w.must(w.table.CatchUp(w.ctx))
}

// taskOf is a new task about an entity, behind all that were made before.
func (w *world) taskOf(s *subscriptions.Live, entity string) *schemas.Task {
	t := w.task(s)
	t.EntityID = entity
	return t
}

// judge holds what a receiver saw against the order of events: by subscription and entity.
type orderJudge struct {
	mu    sync.Mutex
	tasks map[string]*schemas.Task // by webhook-id
	lines map[string][]*schemas.Task
	dead  func(*sandbox.Received) bool // whether this answer ends its task
	ends  map[string]time.Time         // of members that were killed, by user agent
}

func newOrderJudge(dead func(*sandbox.Received) bool) *orderJudge {
	return &orderJudge{tasks: map[string]*schemas.Task{}, lines: map[string][]*schemas.Task{}, dead: dead, ends: map[string]time.Time{}}
}

func (j *orderJudge) expect(ts ...*schemas.Task) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range ts {
		j.tasks[schemas.WebhookID(t.Subscription, t.EventID)] = t
		key := t.Subscription + "/" + t.EntityID
		j.lines[key] = append(j.lines[key], t)
	}
}

func (j *orderJudge) died(agent string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ends[agent] = time.Now()
}

func delayOf(how string) time.Duration {
	d, _ := time.ParseDuration(strings.TrimPrefix(how, "/delay/"))
	return d
}

// verdictOf says what a ledger breaks: a task whose first try came before the one before it had an end, or two sends of an entity at once.
func (j *orderJudge) broken(ledger []*sandbox.Received) (inversions, overlaps, unfinished []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	type state struct {
		ended   map[string]bool
		next    int
		busy    time.Time
		busyBy  *sandbox.Received
		started map[string]bool
	}
	all := map[string]*state{}
	for key := range j.lines {
		all[key] = &state{ended: map[string]bool{}, started: map[string]bool{}}
	}
	for _, r := range ledger {
		t := j.tasks[r.WebhookID]
		if t == nil {
			continue // none of those that are looked at
		}
		key := t.Subscription + "/" + t.EntityID
		s, line := all[key], j.lines[key]
		if r.At.Before(s.busy) {
			overlaps = append(overlaps, fmt.Sprintf("%s: offset %d (%s) at %v while offset %d (%s) was under way until %v", key, t.Source.Offset, r.Header.Get("User-Agent"), r.At.Format("15:04:05.000"),
				j.tasks[s.busyBy.WebhookID].Source.Offset, s.busyBy.Header.Get("User-Agent"), s.busy.Format("15:04:05.000")))
		}
		until := r.At.Add(delayOf(r.Header.Get("X-How")))
		if end, ok := j.ends[r.Header.Get("User-Agent")]; ok && end.Before(until) {
			until = end
		}
		s.busy, s.busyBy = until, r
		for s.next < len(line) && s.ended[line[s.next].ID] {
			s.next++
		}
		if !s.started[t.ID] && s.next < len(line) && line[s.next] != t && t.Source.Offset > line[s.next].Source.Offset {
			inversions = append(inversions, fmt.Sprintf("%s: offset %d came at %v (try %d, %s), before offset %d had an end", key, t.Source.Offset, r.At.Format("15:04:05.000"), r.Attempt,
				r.Header.Get("User-Agent"), line[s.next].Source.Offset))
		}
		s.started[t.ID] = true
		if r.Delivered() || j.dead(r) {
			s.ended[t.ID] = true
		}
	}
	for key, s := range all {
		for _, t := range j.lines[key] {
			if !s.ended[t.ID] {
				unfinished = append(unfinished, fmt.Sprintf("%s: offset %d", key, t.Source.Offset))
			}
		}
	}
	return inversions, overlaps, unfinished
}

func (j *orderJudge) check(t testing.TB, ledger []*sandbox.Received) {
	t.Helper()
	inversions, overlaps, unfinished := j.broken(ledger)
	for what, list := range map[string][]string{"inversions": inversions, "overlaps": overlaps, "tasks without an end": unfinished} {
		if len(list) > 0 {
			t.Errorf("%d %s: %s", len(list), what, strings.Join(list[:min(len(list), 8)], "\n\t"))
		}
	}
}

// TestNobodyOvertakesInTheWorst: many entities of several subscriptions, a receiver that fails, dies, hangs and is slow, and deliverers that are killed,
// stopped and joined, with Redis emptied or away, and topics that take nothing for a while. Nobody overtakes, and no two of an entity are under way at once.
func TestNobodyOvertakesInTheWorst(t *testing.T) {
	const subs, entities = 8, 300
	synctest.Test(t, func(t *testing.T) {
		seed := uint64(time.Now().UnixNano())
		rng := rand.New(rand.NewPCG(1, 2))
		_ = seed
		var mu sync.Mutex
		var calm atomic.Bool
		script := func(r *sandbox.Received) string {
			mu.Lock()
			defer mu.Unlock()
			n := rng.IntN(1000)
			switch {
			case calm.Load():
				return "/ok"
			case n < 120:
				return "/status/500"
			case n < 130:
				r.Header.Set("X-How", "/abort")
				return "/abort"
			case n < 140:
				return "/hang"
			case n < 260:
				r.Header.Set("X-How", fmt.Sprintf("/delay/%dms", 1+rng.IntN(1200)))
				return r.Header.Get("X-How")
			}
			return "/ok"
		}
		w := newWorld(t, func(c *worldConfig) {
			c.virtual, c.partitions, c.quiet, c.ageless = true, 4, true, true
			c.tiers = []time.Duration{5 * time.Second, time.Minute}
			c.receiver = sandbox.ReceiverConfig{Script: script}
		})
		var lives []*subscriptions.Live
		for i := range subs {
			lives = append(lives, w.subscribe(fmt.Sprintf("/s%d", i), func(d *subscriptions.Draft) {
				d.Timeout = time.Duration(2+i%3) * time.Second
				d.MaxConcurrency = 32
				d.Schedule = []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, 30 * time.Second}
			}))
		}
		w.ordered(lives...)
		judge := newOrderJudge(func(r *sandbox.Received) bool { return r.Status == 500 && r.Attempt >= 6 || isAbort(r) })
		stop := make(chan struct{})
		var troubles sync.WaitGroup
		troubles.Go(func() { w.troubles(rand.New(rand.NewPCG(3, 4)), judge, stop) })
		began := time.Now()
		for sent := 0; sent < *ordered; {
			var ts []*schemas.Task
			for range 50 {
				ts = append(ts, w.taskOf(lives[sent%subs], fmt.Sprintf("e%d", int(rng2(entities, sent)))))
				sent++
			}
			judge.expect(ts...)
			w.put(ts...)
			time.Sleep(200 * time.Millisecond)
		}
		t.Logf("fed in %v of virtual time", time.Since(began))
		close(stop)
		troubles.Wait()
		calm.Store(true)
		for range 60 {
			if _, _, left := judge.broken(w.receiver.Ledger()); len(left) == 0 {
				break
			}
			time.Sleep(30 * time.Second)
		}
		synctest.Wait()
		judge.check(t, w.receiver.Ledger())
		t.Logf("%d requests in %v of virtual time", len(w.receiver.Ledger()), time.Since(began))
	})
}

func rng2(n, i int) uint64 { return mix64(uint64(i)) % uint64(n) }

func isAbort(r *sandbox.Received) bool { return r.Header.Get("X-How") == "/abort" }

// troubles keeps two deliverers at work and does to them, and to the world, what can be done, until stop.
func (w *world) troubles(rng *rand.Rand, judge *orderJudge, stop chan struct{}) {
	type one struct {
		r     *run
		c     *cord
		agent string
	}
	var members []one
	made := 0
	join := func() {
		made++
		agent := fmt.Sprintf("member%d", made)
		r, c := w.member(func(cfg *Config, _ *Deps) { cfg.UserAgent = agent })
		members = append(members, one{r, c, agent})
	}
	leave := func(i int) one {
		m := members[i]
		members = slices.Delete(members, i, i+1)
		return m
	}
	join()
	join()
	counts := map[string]int{}
	topics := w.kafka.Topics()
	refused := []*atomic.Int32{w.refuseProduce(w.isTier), w.refuseProduce(func(t string) bool { return t == topics.Lines }),
		w.refuseProduce(func(t string) bool { return t == topics.Dead || t == topics.Attempts })}
	for {
		select {
		case <-stop:
			w.t.Logf("troubles: %v", slices.Sorted(maps.Keys(counts)))
			w.t.Log(counts)
			return
		case <-time.After(time.Duration(2000+rng.IntN(15000)) * time.Millisecond):
		}
		switch n := rng.IntN(12); {
		case n < 4:
			m := leave(rng.IntN(len(members)))
			m.c.cut()
			judge.died(m.agent)
			m.r.cancel()
			counts["kill"]++
			if len(members) < 2 {
				join()
			}
		case n < 6:
			m := leave(rng.IntN(len(members)))
			m.r.stop()
			judge.died(m.agent)
			counts["stop"]++
			if len(members) < 2 {
				join()
			}
		case n < 8:
			if len(members) < 4 {
				join()
				counts["join"]++
			}
		case n < 10:
			code := refused[rng.IntN(len(refused))]
			code.Store(notEnoughReplicas)
			time.Sleep(time.Duration(500+rng.IntN(4000)) * time.Millisecond)
			code.Store(0)
			counts["refuse"]++
		case n < 11:
			w.redis.Flush()
			counts["flush"]++
		default:
			w.redis.Stop()
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			w.must(w.redis.Start())
			counts["redis away"]++
		}
	}
}
