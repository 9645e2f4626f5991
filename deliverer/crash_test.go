package deliverer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// cord is all that ties one process to the world: cut, it can neither send nor write nor commit, as after kill -9.
type cord struct {
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func (c *cord) wrap(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.isCut {
			if err == nil {
				conn.Close()
			}
			return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
		}
		if err == nil {
			c.conns = append(c.conns, conn)
		}
		return conn, err
	}
}

func (c *cord) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for _, conn := range c.conns {
		conn.Close()
	}
}

// member starts a deliverer with connections of its own.
func (w *world) member(edit ...func(*Config, *Deps)) (*run, *cord) {
	w.t.Helper()
	c := &cord{}
	var brokerDial func(context.Context, string, string) (net.Conn, error)
	if w.broker != nil {
		brokerDial = w.broker.Dial
	}
	client, err := kafka.Open(w.config, kafka.Options{Dial: c.wrap(brokerDial)})
	w.must(err)
	w.t.Cleanup(client.Close)
	r := w.start(append([]func(*Config, *Deps){func(cfg *Config, d *Deps) {
		d.Kafka = client
		cfg.Redis.Dial = c.wrap(w.redis.Dial)
		d.Dial = c.wrap(w.policy.DialContext)
	}}, edit...)...)
	return r, c
}

// duplicates are the webhook-ids that were sent again without a failed answer before, with the time of the first.
func duplicates(ledger []*sandbox.Received) map[string]time.Time {
	first, out := map[string]*sandbox.Received{}, map[string]time.Time{}
	for _, e := range ledger {
		key := fmt.Sprint(e.WebhookID, "/", e.Attempt)
		if f := first[key]; f != nil {
			out[key] = f.At
		} else {
			first[key] = e
		}
	}
	return out
}

func (w *world) many(n int, paths ...string) (ts []*schemas.Task) {
	subs := w.subscribeAll(paths...)
	for i := range n {
		ts = append(ts, w.task(subs[i%len(subs)]))
	}
	return ts
}

// waiting are the ids of all tasks that were ever written to a tier.
func (w *world) waiting() map[string]bool {
	out := map[string]bool{}
	for _, tier := range w.kafka.Topics().Tiers {
		for _, r := range w.read(tier.Name) {
			var task schemas.Task
			w.must(schemas.DecodeTask(r.Value, &task))
			out[task.ID] = true
		}
	}
	return out
}

func TestASuccessorOfACrashedDelivererLosesNothingAndRepeatsOnlyTheLastMoment(t *testing.T) {
	for _, redis := range []bool{true, false} {
		t.Run(fmt.Sprintf("redis=%v", redis), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ts := w.many(600, "/delay/20ms/a", "/delay/20ms/b", "/delay/20ms/c", "/delay/20ms/d", "/ok", "/status/503")
			if !redis {
				w.redis.Stop()
			}
			r, c := w.member(func(cfg *Config, _ *Deps) { cfg.TasksInMemory = 64 })
			w.put(ts...)
			w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", 150))
			c.cut()
			died := time.Now()
			r.cancel()
			w.member()
			w.must(w.receiver.WaitDelivered(w.within(40*time.Second), "", 500))
			w.eventually(20*time.Second, "a place in a tier for all that fail", func() bool { return len(w.waiting()) == 100 })
			for key, first := range duplicates(w.receiver.Ledger()) {
				if ago := died.Sub(first); ago > 700*time.Millisecond {
					t.Errorf("%s was sent again although it was first sent %v before the crash", key, ago)
				}
			}
		})
	}
}

func TestARebalanceMakesNoDuplicate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// A Redis that a busy machine keeps from answering in time costs duplicates by rule; that is not what is asked here.
	patient := func(cfg *Config, _ *Deps) { cfg.Redis.Budget = time.Second }
	var paths []string
	for i := range 12 {
		paths = append(paths, fmt.Sprintf("/delay/%dms/%d", 5*(i%4+1), i))
	}
	ts := w.many(6000, paths...)
	first, _ := w.member(patient)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; i < len(ts); i += 10 {
			<-tick.C
			w.put(ts[i : i+10]...)
		}
	}()
	w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", 500))
	second, _ := w.member(patient)
	w.eventually(10*time.Second, "both own partitions", func() bool { return owns(first) > 0 && owns(second) > 0 })
	w.must(w.receiver.WaitDelivered(w.within(30*time.Second), "", 2500))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	w.member(patient)
	w.must(w.receiver.WaitDelivered(w.within(40*time.Second), "", len(ts)))
	<-fed
	w.eventually(10*time.Second, "an attempt for each", func() bool { return len(w.attempts()) >= len(ts) })
	if d := duplicates(w.receiver.Ledger()); len(d) > 0 {
		t.Errorf("%d duplicates: %v", len(d), d)
	}
	if n := len(w.attempts()); n != len(ts) {
		t.Errorf("%d attempts for %d tasks", n, len(ts))
	}
}

func owns(r *run) (n int) {
	for p := range int32(r.kafka.Config().Partitions) {
		if r.Owns(p) {
			n++
		}
	}
	return n
}

func TestAStopFinishesWhatEndsWithinGraceAndNamesTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subs := w.subscribeAll("/delay/500ms", "/hang")
	first := w.start(func(cfg *Config, _ *Deps) { cfg.Grace = time.Second })
	short, hung := w.task(subs[0]), w.task(subs[1])
	w.put(short, hung)
	w.must(w.receiver.Wait(w.within(10*time.Second), func(l []*sandbox.Received) bool { return len(l) == 2 }))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	as := w.attempts()
	if len(as) != 1 || as[0].TaskID != short.ID || as[0].Verdict != schemas.VerdictDelivered {
		t.Fatalf("attempts after the stop: %+v", as)
	}
	stopped := time.Now()
	w.start()
	w.must(w.receiver.Wait(w.within(30*time.Second), func(l []*sandbox.Received) bool { return len(l) == 3 }))
	if again := w.receiver.Ledger()[2]; again.Attempt != 1 || again.At.Sub(stopped) < 2*time.Second {
		t.Errorf("the hung task was tried again after %v as attempt %d: its first send could have run 5 s", again.At.Sub(stopped), again.Attempt)
	}
}

// What others wait for while a deliverer is restarted: it must not be the receiver that hangs.
func TestAStopTakesLessThanTwoSecondsThoughAReceiverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.quiet = true, true })
		hung := w.subscribe("/hang")
		w.put(w.task(hung))
		first := w.start()
		w.must(w.receiver.Wait(w.ctx, func(l []*sandbox.Received) bool { return len(l) == 1 }))
		began := time.Now()
		w.must(first.stop())
		if took := time.Since(began); took > 1800*time.Millisecond {
			t.Errorf("the stop took %v", took)
		}
	})
}

// Redis does not answer for the moment in which tasks end, so they get no mark then. Later everything else of the sequence in Marks.Set happens: the
// deliverer is restarted, and a router makes the tasks again.
func TestWhatGotNoMarkWhileRedisWasAwayIsNotSentAgainByASuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ts := w.many(40, "/ok")
	r, _ := w.member()
	w.redis.Stop()
	w.put(ts...)
	w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", len(ts)))
	w.eventually(10*time.Second, "a mark that Redis did not take", r.marks.Owes)
	w.must(w.redis.Start())
	w.eventually(10*time.Second, "all marks in Redis", func() bool { return !r.marks.Owes() })
	w.must(r.stop())
	w.member()
	w.put(ts...)
	last := w.many(1, "/ok")
	w.put(last...)
	w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", len(ts)+1))
	if n := len(duplicates(w.receiver.Ledger())); n > 0 {
		t.Errorf("%d tasks were sent again", n)
	}
}
