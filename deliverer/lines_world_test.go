package deliverer

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
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

var (
	ordered   = flag.Int("ordered", 100_000, "how many deliveries TestNobodyOvertakesInTheWorst makes")
	orderSeed = flag.Uint64("orderseed", 1, "of its troubles")
)

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

// dam holds back what one member writes to the broker, and lets it go later, whoever has given up on it by then: what a process that was stopped, or its
// network, has sent off arrives long after its partitions went to others.
type dam struct {
	mu   sync.Mutex
	thaw chan struct{} // nil: open
}

func (d *dam) hold(for_ time.Duration) {
	d.mu.Lock()
	if d.thaw != nil {
		d.mu.Unlock()
		return
	}
	thaw := make(chan struct{})
	d.thaw = thaw
	d.mu.Unlock()
	time.Sleep(for_)
	d.mu.Lock()
	d.thaw = nil
	d.mu.Unlock()
	close(thaw)
}

func (d *dam) holds() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.thaw != nil
}

func (d *dam) wrap(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &dammed{Conn: c, dam: d}, nil
	}
}

type dammed struct {
	net.Conn
	dam *dam

	mu       sync.Mutex
	pending  [][]byte
	flushing bool
	closed   bool
}

func (c *dammed) Write(b []byte) (int, error) {
	c.dam.mu.Lock()
	thaw := c.dam.thaw
	c.dam.mu.Unlock()
	c.mu.Lock()
	if thaw == nil && !c.flushing {
		c.mu.Unlock()
		return c.Conn.Write(b)
	}
	defer c.mu.Unlock()
	c.pending = append(c.pending, bytes.Clone(b))
	if !c.flushing {
		c.flushing = true
		go c.flush(thaw)
	}
	return len(b), nil
}

func (c *dammed) flush(thaw chan struct{}) {
	<-thaw
	for {
		c.mu.Lock()
		pending := c.pending
		c.pending = nil
		if len(pending) == 0 {
			c.flushing = false
			closed := c.closed
			c.mu.Unlock()
			if closed {
				c.Conn.Close()
			}
			return
		}
		c.mu.Unlock()
		for _, b := range pending {
			c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
			c.Conn.Write(b)
		}
	}
}

// Close leaves what is held back on its way, as a socket would.
func (c *dammed) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed = true; c.flushing {
		return c.Conn.SetReadDeadline(time.Now())
	}
	return c.Conn.Close()
}

// worst is one kind of trouble.
type worst struct {
	name    string
	timeout func(i int) time.Duration // of subscription i
	holds   bool
}

// TestNobodyOvertakesInTheWorst: many entities of several subscriptions, a receiver that fails, dies, hangs and is slow, and deliverers that are killed,
// stopped and joined, with Redis emptied or away, and topics that take nothing for a while. Nobody overtakes, and no two of an entity are under way at once.
//
// In the second world what a deliverer has written may arrive long after it lost its partitions. A deliverer that is cut off from Kafka alone starts sends
// for 4 s and its partitions are given away after 6 s: only with time-outs up to 2 s is nothing of it under way then.
func TestNobodyOvertakesInTheWorst(t *testing.T) {
	for _, c := range []worst{
		{"killed and stopped", func(i int) time.Duration { return time.Duration(2+i%3) * time.Second }, false},
		{"held back and late", func(int) time.Duration { return 2 * time.Second }, true},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, *ordered/2) })
	}
}

func (c *worst) run(t *testing.T, deliveries int) {
	const subs, entities, worstTries = 8, 300, 6
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(*orderSeed, 2))
		var mu sync.Mutex
		var calm atomic.Bool
		script := func(r *sandbox.Received) string {
			mu.Lock()
			defer mu.Unlock()
			n := rng.IntN(1000)
			how := "/ok"
			switch {
			case calm.Load():
			case n < 120:
				how = "/status/500"
			case n < 130:
				how = "/abort"
			case n < 140 && r.Attempt < worstTries: // the last must say that it has failed: the judge does not guess time-outs
				how = "/hang"
			case n < 260:
				how = fmt.Sprintf("/delay/%dms", 1+rng.IntN(1200))
			}
			r.Header.Set("X-How", how)
			return how
		}
		w := newWorld(t, func(wc *worldConfig) {
			wc.virtual, wc.partitions, wc.quiet, wc.ageless = true, 4, true, true
			wc.tiers = []time.Duration{5 * time.Second, time.Minute}
			wc.receiver = sandbox.ReceiverConfig{Script: script}
		})
		var lives []*subscriptions.Live
		for i := range subs {
			lives = append(lives, w.subscribe(fmt.Sprintf("/s%d", i), func(d *subscriptions.Draft) {
				d.Timeout, d.MaxConcurrency, d.Order = c.timeout(i), 32, schemas.OrderEntity
				d.Schedule = []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, 30 * time.Second}[:worstTries]
			}))
		}
		judge := newOrderJudge(func(r *sandbox.Received) bool {
			return r.Status == 500 && r.Attempt >= worstTries || r.Header.Get("X-How") == "/abort"
		})
		stop := make(chan struct{})
		var troubles sync.WaitGroup
		troubles.Go(func() { w.troubles(rand.New(rand.NewPCG(*orderSeed, 4)), c.holds, judge, stop) })
		began := time.Now()
		for sent := 0; sent < deliveries; {
			var ts []*schemas.Task
			for range 50 {
				ts = append(ts, w.taskOf(lives[sent%subs], fmt.Sprintf("e%d", mix64(uint64(sent))%entities)))
				sent++
			}
			judge.expect(ts...)
			w.put(ts...)
			time.Sleep(200 * time.Millisecond)
		}
		close(stop)
		troubles.Wait()
		calm.Store(true)
		for range 60 {
			time.Sleep(30 * time.Second)
			if _, _, left := judge.broken(w.receiver.Ledger()); len(left) == 0 {
				break
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		judge.check(t, w.receiver.Ledger())
		if g := w.lines(); len(g.members) > 0 {
			t.Errorf("%d members stand although all have ended", len(g.members))
		}
		t.Logf("%d requests in %v of virtual time", len(w.receiver.Ledger()), time.Since(began))
	})
}

// troubled is a member that troubles come upon.
type troubled struct {
	*run
	cord  *cord
	dam   *dam
	agent string
}

func (w *world) troubled(agent string) *troubled {
	m := &troubled{cord: &cord{}, dam: &dam{}, agent: agent}
	client, err := kafka.Open(w.config, kafka.Options{Dial: m.cord.wrap(m.dam.wrap(w.broker.Dial))})
	w.must(err)
	w.t.Cleanup(client.Close)
	m.run = w.start(func(cfg *Config, d *Deps) {
		d.Kafka, cfg.UserAgent = client, agent
		cfg.Redis.Dial = m.cord.wrap(w.redis.Dial)
		d.Dial = m.cord.wrap(w.policy.DialContext)
	})
	return m
}

// troubles keeps two to four deliverers at work and does to them, and to the world, what can be done, until stop.
func (w *world) troubles(rng *rand.Rand, holds bool, judge *orderJudge, stop chan struct{}) {
	var members []*troubled
	made := 0
	join := func() {
		made++
		members = append(members, w.troubled(fmt.Sprintf("member%d", made)))
	}
	leave := func(i int) *troubled {
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
	var held sync.WaitGroup
	defer held.Wait()
	for {
		select {
		case <-stop:
			w.t.Logf("troubles: %v", counts)
			return
		case <-time.After(time.Duration(1000+rng.IntN(6000)) * time.Millisecond):
		}
		what := []string{"kill", "kill", "kill", "stop", "stop", "join", "join", "refuse", "flush", "redis away", "hold", "hold", "hold"}[rng.IntN(13)]
		switch what {
		case "kill":
			// Of a member that dies while it joins, the group in memory waits for ever.
			i := slices.IndexFunc(members, func(m *troubled) bool { return m.lease.holds(time.Now()) && !m.dam.holds() })
			if i < 0 {
				continue
			}
			m := leave(i)
			m.cord.cut()
			judge.died(m.agent)
			m.cancel()
		case "stop":
			m := leave(rng.IntN(len(members)))
			m.stop()
			judge.died(m.agent)
		case "join":
			if len(members) < 4 {
				join()
			}
		case "refuse":
			code := refused[rng.IntN(len(refused))]
			code.Store(notEnoughReplicas)
			time.Sleep(time.Duration(500+rng.IntN(4000)) * time.Millisecond)
			code.Store(0)
		case "flush":
			w.redis.Flush()
		case "redis away":
			w.redis.Stop()
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			w.must(w.redis.Start())
		case "hold":
			if !holds {
				continue
			}
			m := members[rng.IntN(len(members))]
			d := time.Duration(500+rng.IntN(20000)) * time.Millisecond
			held.Go(func() { m.dam.hold(d) })
		}
		counts[what]++
		for len(members) < 2 {
			join()
		}
	}
}
