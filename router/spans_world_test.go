package router

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

var (
	schedules = flag.Int("schedules", 8, "random schedules of TestEveryEventIsRoutedByItsSpanOnly")
	firstSeed = flag.Uint64("schedule", 1, "the first of them")
)

// Lives of subscriptions by chance: made with and without a past, paused and resumed, ordered and not, while events flow and routers come, go and die. In the
// end each event has exactly the tasks that its append time and the spans say, under exactly the ids that they say, and nothing else was made; and of an
// ordered subscription no task of an entity stands before an older one of the same entity.
func TestEveryEventIsRoutedByItsSpanOnly(t *testing.T) {
	for i := range *schedules {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newSchedule(t, seed, true).run(time.Minute) })
		})
	}
}

// The same on a real broker, with its own rebalances and its own clock, in real time: some minutes, however many run side by side.
func TestEveryEventIsRoutedByItsSpanOnARealKafka(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("HOOKFERRY_TEST_SCHEDULES"))
	if n == 0 || os.Getenv("HOOKFERRY_TEST_KAFKA") == "" {
		t.Skip("takes minutes: make schedules")
	}
	for i := range n {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newSchedule(t, seed, false).run(30 * time.Second)
		})
	}
}

// schedule is one of those worlds.
type schedule struct {
	*world
	rng     *rand.Rand
	routers []*livingRouter
	lives   []*life
	events  []published
	mu      sync.Mutex
	busy    sync.WaitGroup
}

type published struct {
	id, company, typ, value string
	src                     schemas.Source
}

// life is a subscription and what its writer knows.
type life struct {
	s    schemas.Subscription
	busy bool
}

type livingRouter struct {
	stop func()
	kill func()
}

func newSchedule(t *testing.T, seed uint64, virtual bool) *schedule {
	w := newWorld(t, virtual, func(c *kafka.Config) { c.Partitions = 2; c.SessionTimeout = 6 * time.Second })
	if !virtual {
		w.ctx = t.Context()
	}
	w.rng = rand.New(rand.NewPCG(seed, 7))
	return &schedule{world: w, rng: rand.New(rand.NewPCG(seed, 8))}
}

// slow makes the broker take its time with what is produced, in half of the worlds: then there is nearly always something at hand.
func (x *schedule) slow() {
	if x.broker == nil || x.rng.IntN(2) == 0 {
		return
	}
	most := 1 + x.rng.IntN(400)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(uint64(most), 9))
	cluster := x.broker.Cluster()
	cluster.ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if topics := q.(*kmsg.ProduceRequest).Topics; len(topics) == 0 || topics[0].Topic != x.client.Topics().Retry {
			return nil, nil, false
		}
		mu.Lock()
		wait := time.Duration(rng.IntN(most)) * time.Millisecond
		mu.Unlock()
		cluster.SleepControl(func() { later(wait) })
		return nil, nil, false
	})
}

// run lets a schedule live for once to two and a half times that long, then come to rest, and checks it.
func (x *schedule) run(d time.Duration) {
	x.slow()
	x.join()
	until := time.Now().Add(d + time.Duration(x.rng.Int64N(int64(d)*3/2)))
	for time.Now().Before(until) {
		later(time.Duration(x.rng.IntN(900)) * time.Millisecond)
		switch n := x.rng.IntN(100); {
		case n < 55:
			x.burst(1 + x.rng.IntN(6))
		case n < 65 && len(x.lives) < 5:
			x.create()
		case n < 90 && len(x.lives) > 0:
			x.change(x.lives[x.rng.IntN(len(x.lives))])
		case n < 95:
			x.join()
		default:
			x.leave()
		}
	}
	x.busy.Wait()
	x.burst(5)
	for _, l := range x.lives { // a catch-up waits while its subscription is paused
		if l.s.State != schemas.StateActive {
			x.change(l)
		}
	}
	x.busy.Wait()
	x.burst(5)
	if len(x.routers) == 0 {
		x.join()
	}
	later(100 * time.Second) // a catch-up whose writer died waits for a minute
	x.check()
}

// join starts a router with a client and a table of its own.
func (x *schedule) join() {
	if len(x.routers) == 3 {
		return
	}
	c := x.open()
	table := subscriptions.NewTable(c, nil, subscriptions.Options{AskEvery: 600 * time.Millisecond})
	cfg := DefaultConfig()
	cfg.ReplayOutstanding = 1_000_000 // nobody delivers
	r, err := New(cfg, Deps{Kafka: c, Table: table, Log: x.log, Metrics: prometheus.NewRegistry(), ClockSpread: time.Second})
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var both sync.WaitGroup
		both.Go(func() { table.Run(ctx) })
		both.Go(func() { r.Run(ctx) })
		both.Wait()
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	x.t.Cleanup(stop)
	// Killed: what it says from now on reaches nobody, and the group has to miss it.
	kill := func() { c.Close(); stop() }
	x.log.Info("joins")
	x.routers = append(x.routers, &livingRouter{stop, kill})
}

// leave takes a router away, in good order or not.
func (x *schedule) leave() {
	if len(x.routers) == 0 {
		return
	}
	i := x.rng.IntN(len(x.routers))
	r := x.routers[i]
	x.routers = slices.Delete(x.routers, i, i+1)
	if x.rng.IntN(2) == 0 {
		x.log.Info("is killed")
		r.kill()
	} else {
		x.log.Info("stops")
		r.stop()
	}
	x.log.Info("has left")
}

var scheduleTypes = []string{"booking.creation", "booking.amendment", "customer.creation", "inventory.change"}

// burst publishes n events of two companies. Few entities, so that order within one means something.
func (x *schedule) burst(n int) {
	for range n {
		typ, company := scheduleTypes[x.rng.IntN(len(scheduleTypes))], []string{"c_a", "c_b"}[x.rng.IntN(2)]
		tp, key, value, m := x.sample(typ, company)
		var rs kafka.Records
		rs.Add(tp, key, nil, value)
		src := schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: x.write(&rs)[0].Base}
		x.events = append(x.events, published{m.EventID, company, typ, string(value), src})
	}
}

// The writer's side, as internal/subscriptions does it: the order, then the record with the cut that names it, then the order with its end. Some writers die on
// the way, and some orders are named by no cut.

func (x *schedule) create() {
	x.seq++
	s := schemas.Subscription{ID: fmt.Sprintf("sub_%d", x.seq), Company: []string{"c_a", "c_b", "*"}[x.rng.IntN(3)], Name: "n", URL: "https://r.example/",
		Events: [][]string{{"*"}, {"booking.*"}, {"*.creation", "inventory.change"}}[x.rng.IntN(3)], State: schemas.StateActive, CreatedAt: time.Now().UnixMilli()}
	if x.rng.IntN(2) == 0 {
		s.Order = schemas.OrderEntity
	}
	from := int64(0)
	switch x.rng.IntN(3) {
	case 0:
		from = 1
	case 1:
		from = time.Now().Add(-time.Duration(x.rng.IntN(60)) * time.Second).UnixMilli()
	}
	l := &life{s: s, busy: true}
	l.s.BackfillFrom = from
	x.lives = append(x.lives, l)
	x.begin(l, from)
}

// change pauses what is live and resumes what is paused.
func (x *schedule) change(l *life) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l.busy {
		return
	}
	l.busy = true
	if l.s.State == schemas.StateActive {
		l.s.State = schemas.StatePaused
		x.cut(l, schemas.CutPaused, "")
		x.after(l, l.s.Spans[len(l.s.Spans)-1].At+1000)
		return
	}
	x.mu.Unlock()
	x.begin(l, l.s.PausedAt())
	x.mu.Lock()
}

// begin makes a subscription live, with a catch-up from a time on; 0: without.
func (x *schedule) begin(l *life, from int64) {
	l.s.State = schemas.StateActive
	var o schemas.Replay
	if from != 0 {
		if x.rng.IntN(6) == 0 { // a writer that died, or lost the race
			orphan := schemas.CatchUp(newReplayID(), &l.s, from, time.Now().UnixMilli())
			x.writeOrder(&orphan)
		}
		o = schemas.CatchUp(newReplayID(), &l.s, from, time.Now().UnixMilli())
		x.writeOrder(&o)
	}
	x.cut(l, schemas.CutLive, o.ID)
	at := l.s.Spans[len(l.s.Spans)-1].At
	if from != 0 && x.rng.IntN(5) > 0 {
		o.To = at
		x.writeOrder(&o)
	}
	x.after(l, at+1000)
}

func (x *schedule) cut(l *life, kind, reason string) {
	l.s.Version++
	l.s.Spans = append(slices.Clone(l.s.Spans), schemas.Cut{At: time.Now().Add(2250 * time.Millisecond).UnixMilli(), Kind: kind, Reason: reason})
	s := l.s
	x.put(&s)
}

// after lets a subscription be changed again when a time has passed.
func (x *schedule) after(l *life, at int64) {
	x.busy.Go(func() {
		later(time.Until(time.UnixMilli(at)))
		x.mu.Lock()
		defer x.mu.Unlock()
		l.busy = false
	})
}

func (w *world) writeOrder(o *schemas.Replay) {
	w.t.Helper()
	var rs kafka.Records
	rs.Add(w.place(w.client.Topics().Replays, []byte(o.ID)), []byte(o.ID), nil, schemas.AppendReplay(nil, o))
	w.write(&rs)
}

// stamp finds out when the broker appended the events.
func (x *schedule) stamp() {
	times := map[string]int64{}
	for _, topic := range x.client.Topics().EventTopics() {
		for _, rec := range x.read(topic, 0) {
			times[string(rec.Value)] = rec.Time
		}
	}
	for i := range x.events {
		x.events[i].src.Time = times[x.events[i].value]
	}
}

// check compares what there is with what the spans say.
func (x *schedule) check() {
	x.stamp()
	owed := map[string]string{} // task id -> what it is
	for _, l := range x.lives {
		for _, e := range x.events {
			if l.s.Company != "*" && l.s.Company != e.company || !subscriptions.Matches(l.s.Events, e.typ) {
				continue
			}
			if order, ok := l.s.RoutedAs(e.src.Time); ok {
				owed[schemas.TaskID(e.src, e.id, l.s.ID, order)] = fmt.Sprintf("%s of %s (%s) to %s, order %q", e.typ, e.company, e.id, l.s.ID, order)
			}
		}
	}
	got := map[string]schemas.Task{}
	var inOrder []schemas.Task
	for _, topic := range []string{x.client.Topics().Retry, x.client.Topics().Replay} {
		for _, rec := range x.read(topic, 0) {
			var task schemas.Task
			if err := schemas.DecodeTask(rec.Value, &task); err != nil {
				x.t.Fatal(err)
			}
			if _, copied := got[task.ID]; !copied && topic == x.client.Topics().Retry {
				inOrder = append(inOrder, task)
			}
			got[task.ID] = task
		}
	}
	for id, what := range owed {
		if _, ok := got[id]; !ok {
			x.t.Errorf("missed: %s", what)
		}
	}
	for id, task := range got {
		if owed[id] == "" {
			x.t.Errorf("nobody owes %s of %s to %s (lane %s, order %q)", task.EventID, task.EventType, task.Subscription, task.Lane, task.Replay)
		}
	}
	x.checkOrder(inOrder)
	if testing.Verbose() {
		x.t.Logf("%d events, %d subscriptions, %d tasks", len(x.events), len(x.lives), len(owed))
	}
}

// checkOrder: first copies, in the order in which they stand.
func (x *schedule) checkOrder(tasks []schemas.Task) {
	ordered := map[string]bool{}
	for _, l := range x.lives {
		ordered[l.s.ID] = l.s.Order == schemas.OrderEntity
	}
	last := map[string]int64{}
	for _, task := range tasks {
		if !ordered[task.Subscription] {
			continue
		}
		key := fmt.Sprintf("%s %s/%d", task.Subscription, task.Source.Topic, task.Source.Partition)
		if at, ok := last[key]; ok && task.Source.Offset < at {
			x.t.Errorf("%s: %d stands behind %d", key, task.Source.Offset, at)
		}
		last[key] = max(last[key], task.Source.Offset)
	}
}
