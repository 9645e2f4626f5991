package deliverer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// What is believed of a log of `lines`: in the order of the log, by what stood before, and by compaction or not.
func TestWhatIsBelievedOfALogOfLines(t *testing.T) {
	fence := func(epoch int64) kafka.Record {
		return kafka.Record{Key: []byte(fenceKey), Value: schemas.AppendLine(nil, &schemas.Line{Epoch: epoch})}
	}
	key := func(name string, epoch int64, n uint32) []byte {
		return appendLineKey(nil, "sub_"+name, lineKey{"events.booking", 3, "e"}, 7, lineRecord{epoch, n})
	}
	member := func(name string, epoch int64, n uint32) kafka.Record {
		return kafka.Record{Key: key(name, epoch, n), Value: schemas.AppendLine(nil, &schemas.Line{Epoch: epoch, Subscription: "sub_" + name, Entity: "e", Topic: "events.booking",
			Partition: 3, Offset: 7})}
	}
	gone := func(name string, epoch int64, n uint32) kafka.Record { return kafka.Record{Key: key(name, epoch, n)} }
	for _, c := range []struct {
		name           string
		log            []kafka.Record
		stands, stale  []string
		fence          int64
		unreadableMost int
	}{
		{"nothing", nil, nil, nil, 0, 0},
		{"before any fence", []kafka.Record{member("a", 1, 1)}, []string{"a"}, nil, 0, 0},
		{"an owner's, and one that ended", []kafka.Record{fence(1), member("a", 1, 1), member("b", 1, 2), gone("a", 1, 1)}, []string{"b"}, nil, 1, 0},
		{"kept by the next owner", []kafka.Record{fence(1), member("a", 1, 1), fence(2), member("b", 2, 1)}, []string{"a", "b"}, nil, 2, 0},
		{"written late, behind the next owner's fence", []kafka.Record{fence(1), fence(2), member("a", 1, 1)}, nil, []string{"a"}, 2, 0},
		{"late, beside the true one", []kafka.Record{fence(1), fence(2), member("a", 2, 1), member("a", 1, 9)}, []string{"a"}, []string{"a"}, 2, 0},
		{"late, beside the true one of the owner before", []kafka.Record{fence(1), member("a", 1, 1), fence(2), member("a", 1, 2)}, []string{"a"}, []string{"a"}, 2, 0},
		{"late, and taken out", []kafka.Record{fence(2), member("a", 1, 1), gone("a", 1, 1)}, nil, nil, 2, 0},
		{"a fence that came late", []kafka.Record{fence(2), fence(1), member("a", 1, 1), member("b", 2, 1)}, []string{"b"}, []string{"a"}, 2, 0},
		{"a group that began anew", []kafka.Record{fence(9), fence(1<<32 | 1), member("a", 9, 1), member("b", 1<<32|1, 1)}, []string{"b"}, []string{"a"}, 1<<32 | 1, 0},
		{"several records of one", []kafka.Record{fence(1), member("a", 1, 1), member("a", 1, 2), gone("a", 1, 1)}, []string{"a"}, nil, 1, 0},
		{"strange", []kafka.Record{{Key: []byte("hop"), Value: []byte("x")}, {Key: []byte("a/b"), Value: member("a", 1, 1).Value}, member("b", 1, 1)}, []string{"b"}, nil, 0, 2},
	} {
		g := newLineLog()
		for i := range c.log {
			if err := g.take(&c.log[i]); err != nil {
				t.Fatal(c.name, err)
			}
		}
		names := func(keys []string) (out []string) {
			for _, k := range keys {
				out = append(out, strings.TrimPrefix(k[:strings.IndexByte(k, '/')], "sub_"))
			}
			slices.Sort(out)
			return slices.Compact(out)
		}
		stands, stale := names(slices.Collect(maps.Keys(g.members))), names(slices.Collect(maps.Keys(g.stale)))
		if !slices.Equal(stands, c.stands) || !slices.Equal(stale, c.stale) || g.fence != c.fence || g.unreadable != c.unreadableMost {
			t.Errorf("%s: stands %v, stale %v, fence %d, unreadable %d", c.name, stands, stale, g.fence, g.unreadable)
		}
	}
}

func TestEpochsGrowWithTheGenerationsAndWhenTheyBeginAnew(t *testing.T) {
	for _, c := range []struct {
		last int64
		gen  int32
		want int64
	}{{0, 1, 1}, {0, 0, 1 << 32}, {1, 2, 2}, {7, 9, 9}, {9, 9, 1<<32 | 9}, {9, 1, 1<<32 | 1}, {1<<32 | 1, 2, 1<<32 | 2}, {1<<32 | 5, 3, 2<<32 | 3}} {
		if got := nextEpoch(c.last, c.gen); got != c.want || got <= c.last {
			t.Errorf("after %x, generation %d: %x, want %x", c.last, c.gen, got, c.want)
		}
	}
}

// lineOf is a member's record in the world's own way.
func (w *world) putLine(t *schemas.Task, epoch int64) (key string) {
	w.t.Helper()
	k := appendLineKey(nil, t.Subscription, lineKey{t.Source.Topic, t.Source.Partition, t.EntityID}, t.Source.Offset, lineRecord{epoch, 77})
	var out kafka.Records
	out.Add(kafka.TP{Topic: w.kafka.Topics().Lines, Partition: kafka.Partition([]byte(t.Subscription), w.config.Partitions)}, k, nil, schemas.AppendLine(nil, &schemas.Line{
		Epoch: epoch, Subscription: t.Subscription, Entity: t.EntityID, Topic: t.Source.Topic, Partition: t.Source.Partition, Offset: t.Source.Offset}))
	_, err := w.appender.Append(w.ctx, &out)
	w.must(err)
	return string(k)
}

// lines reads what stands in `lines`: members by key, the highest fence.
func (w *world) lines() *lineLog {
	w.t.Helper()
	g := newLineLog()
	for _, r := range w.read(w.kafka.Topics().Lines) {
		w.must(g.take(&r))
	}
	return g
}

// inOrder says whether nobody overtook, and all have come to an end.
func (w *world) inOrder(ts ...*schemas.Task) {
	w.t.Helper()
	judge := newOrderJudge(func(*sandbox.Received) bool { return false })
	judge.expect(ts...)
	judge.check(w.t, w.receiver.Ledger())
}

// The sequence: a process is stopped with a task in hand; its partition goes to another, which delivers the task; the first wakes up, writes the task as
// a member and dies before its tier's record. Nothing will ever come up for that member.
func TestAMemberOfAnOwnerThatHadLostThePartitionIsNotBelieved(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.ordered(s)
		first, c := w.member()
		w.put(w.taskOf(s, "e"))
		w.requests(1)
		pass(time.Second)
		kill(first, c)
		second, c := w.member()
		pass(10 * time.Second)
		fence := w.lines().fence
		if fence == 0 {
			t.Fatal("no fence")
		}
		late, next := w.taskOf(s, "e"), w.taskOf(s, "e")
		key := w.putLine(late, fence-1)
		kill(second, c)
		w.member()
		pass(10 * time.Second)
		w.put(next)
		w.requests(2)
		if g := w.lines(); len(g.members)+len(g.stale) > 0 {
			t.Errorf("%s still stands: %v %v", key, g.members, g.stale)
		}
	})
}

// A member for which nothing comes up is an orphan when everything is worked off that was there, and not before.
func TestAnOrphanIsTakenOutWhenNothingCanComeUpForItAnyMore(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.ordered(s)
		first, c := w.member()
		pass(3 * time.Second)
		kill(first, c)
		other := w.taskOf(s, "other")
		other.Due = time.Now().Add(90 * time.Second).UnixMilli()
		w.putTo(w.kafka.Topics().Tiers[1].Name, other) // a minute: until then some record may be the orphan's
		orphan, next := w.taskOf(s, "e"), w.taskOf(s, "e")
		w.putLine(orphan, w.lines().fence)
		metrics := prometheus.NewRegistry()
		w.member(func(_ *Config, d *Deps) { d.Metrics = metrics })
		w.put(next)
		pass(55 * time.Second)
		if n := len(w.receiver.Ledger()); n != 0 {
			t.Fatalf("%d requests: the record of the member may yet come up", n)
		}
		w.must(w.receiver.WaitDelivered(w.within(5*time.Minute), "", 2))
		if n := counter(t, metrics, "hookferry_deliverer_line_orphans_total"); n != 1 {
			t.Errorf("%v orphans", n)
		}
		pass(30 * time.Second)
		if g := w.lines(); len(g.members) > 0 {
			t.Errorf("it still stands: %v", g.members)
		}
	})
}

// A redrive has made its letters members and could not write their tasks. If it is cancelled, nothing comes up for those members any more, and no other owner has to
// come to see it; if it goes on, they are no orphans.
func TestMembersThatACancelledRedriveLeavesAreOrphans(t *testing.T) {
	for _, cancelled := range []bool{true, false} {
		inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
			s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Order = schemas.OrderEntity })
			metrics := prometheus.NewRegistry()
			w.member(func(_ *Config, d *Deps) { d.Metrics = metrics })
			paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
			pass(time.Second)
			all := []*schemas.Task{w.taskOf(s, "a"), w.taskOf(s, "b")}
			w.put(all...)
			pass(3 * time.Second)
			refused := w.refuse(w.kafka.Topics().Tiers[0].Name, -1, kerr.NotLeaderForPartition, "")
			order := w.resume(s, paused)
			w.must(refused.Wait(w.within(time.Minute), 1))
			pass(time.Minute) // it is tried several times, and orphans are looked for
			if n := len(w.lines().members); n < len(all) {
				t.Fatalf("%d members", n)
			}
			orphans := 0
			if cancelled {
				w.must(CancelRedrive(w.ctx, w.kafka, order.ID))
				pass(20 * time.Second)
				all, orphans = nil, len(all)
			}
			refused.Remove()
			next := w.taskOf(s, "a")
			w.put(next)
			all = append(all, next)
			w.must(w.receiver.WaitDelivered(w.within(time.Minute), "", len(all)))
			pass(30 * time.Second)
			w.inOrder(all...)
			if n := counter(t, metrics, "hookferry_deliverer_line_orphans_total"); n != float64(orphans) {
				t.Errorf("%v orphans", n)
			}
			if g := w.lines(); len(g.members) > 0 {
				t.Errorf("%d members still stand", len(g.members))
			}
		})
	}
}

func counter(t *testing.T, r *prometheus.Registry, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			fits := true
			for i := 0; i < len(labels); i += 2 {
				for _, l := range m.GetLabel() {
					fits = fits && (l.GetName() != labels[i] || l.GetValue() == labels[i+1])
				}
			}
			if fits {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// The sequence: the first of an entity hangs; who stood behind it has waited for long and went to a tier, so it is a member; the first, which was read from
// `retry`, is none. The process dies, and its successor reads the tier before it reads `retry`.
func TestWhatComesFromATierWaitsUntilRetryIsRead(t *testing.T) {
	var works atomic.Bool
	script := func(*sandbox.Received) string {
		if works.Load() {
			return ""
		}
		return "/hang"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Timeout = 25 * time.Second })
		w.ordered(s)
		ts := []*schemas.Task{w.taskOf(s, "e"), w.taskOf(s, "e"), w.taskOf(s, "e")}
		first, c := w.member()
		w.put(ts...)
		w.requests(1)
		pass(6 * time.Second)
		if n := len(w.waiting()); n != 2 {
			t.Fatalf("%d followers went to a tier", n)
		}
		kill(first, c)
		works.Store(true)
		slow := w.slowFetches(w.kafka.Topics().Retry, 40*time.Second)
		w.member()
		w.must(w.receiver.WaitDelivered(w.within(5*time.Minute), "/x", 3))
		slow.Store(false)
		w.inOrder(ts...)
	})
}

// slowFetches has the broker answer requests that name a topic only so much later, while it is true.
func (w *world) slowFetches(topic string, by time.Duration) *atomic.Bool {
	slow := new(atomic.Bool)
	slow.Store(true)
	cluster := w.broker.Cluster()
	until := time.Now().Add(by)
	cluster.ControlKey(int16(kmsg.Fetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := q.(*kmsg.FetchRequest)
		if !slow.Load() || !time.Now().Before(until) {
			return nil, nil, false
		}
		for i := range req.Topics {
			if req.Topics[i].Topic == topic {
				cluster.SleepControl(func() { time.Sleep(time.Until(until)) })
			}
		}
		return nil, nil, false
	})
	return slow
}

// A death is written down before the next may go: else a crash would bring the dead task back behind its successor.
func TestTheNextGoesWhenADeathIsWrittenDown(t *testing.T) {
	var tries atomic.Int32
	script := func(*sandbox.Received) string {
		if tries.Add(1) == 1 {
			return "/abort"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.ordered(s)
		refuse := w.refuseProduce(func(topic string) bool { return topic == w.kafka.Topics().Dead })
		refuse.Store(notEnoughReplicas)
		w.member()
		w.put(w.taskOf(s, "e"), w.taskOf(s, "e"), w.taskOf(s, "other"))
		w.requests(2)
		pass(3 * time.Second)
		if n := len(w.receiver.Ledger()); n != 2 {
			t.Fatalf("%d requests while a death is written nowhere", n)
		}
		refuse.Store(0)
		w.requests(3)
	})
}

// An entity's head that waits for hours costs its followers one record for each of its tries, and the hops of the tiers; then all come in order.
func TestTenThousandFollowersOfAHeadThatWaitsForHours(t *testing.T) {
	const followers = 10_000
	var head string
	var works atomic.Bool
	script := func(r *sandbox.Received) string {
		if r.WebhookID == head && !works.Load() {
			return "/status/500"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Schedule = []time.Duration{0, 5 * time.Hour, 5 * time.Hour, time.Hour} })
		w.ordered(s)
		w.stopTable()
		metrics := prometheus.NewRegistry()
		r := w.start(func(cfg *Config, d *Deps) {
			cfg.CommitInterval, cfg.FetchWait, d.Metrics = 2*time.Second, 5*time.Second, metrics
		})
		ts := []*schemas.Task{w.taskOf(s, "e")}
		head = schemas.WebhookID(s.ID, ts[0].EventID)
		w.put(ts...)
		w.requests(1)
		for range followers / 500 {
			var some []*schemas.Task
			for range 500 {
				some = append(some, w.taskOf(s, "e"))
			}
			ts = append(ts, some...)
			w.put(some...)
			pass(2 * time.Second)
		}
		pass(5*time.Hour + 30*time.Minute)
		if n := len(w.receiver.Ledger()); n != 1 && n != 2 {
			t.Fatalf("%d requests", n)
		}
		pass(2 * time.Hour)
		if n := len(w.receiver.Ledger()); n != 2 {
			t.Fatalf("%d requests", n)
		}
		back := counter(t, metrics, "hookferry_deliverer_attempts_total", "verdict", "postponed")
		if back > 3*followers { // two, and what comes up a moment before the head has been tried goes back once more
			t.Errorf("%v were handed back for two tries of the head", back)
		}
		works.Store(true)
		if err := w.receiver.WaitDelivered(w.within(24*time.Hour), "", len(ts)); err != nil {
			t.Fatal(err)
		}
		w.inOrder(ts...)
		t.Logf("handed back: %v", back)
		pass(time.Minute)
		if g := w.lines(); len(g.members) != 0 {
			t.Errorf("%d members still stand", len(g.members))
		}
		r.stop()
	}, func(c *worldConfig) { c.ageless = true })
}

// Whatever becomes of the subscription, its members come to their ends, and nothing of them is left.
func TestWhatBecomesOfMembersWhenTheirSubscriptionChanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world, s *subscriptions.Live)
		want   map[schemas.Verdict]int
	}{
		{"deleted", func(w *world, s *subscriptions.Live) { w.must(w.writer.Delete(w.ctx, s.ID)) }, map[schemas.Verdict]int{schemas.VerdictDropped: 5}},
		{"disabled", func(w *world, s *subscriptions.Live) { w.must(w.writer.Disable(w.ctx, s.ID, "test")) }, map[schemas.Verdict]int{schemas.VerdictDead: 5}},
		{"order is off", func(w *world, s *subscriptions.Live) { w.orderBy("", s) }, map[schemas.Verdict]int{schemas.VerdictDelivered: 5}},
		{"nothing", func(*world, *subscriptions.Live) {}, map[schemas.Verdict]int{schemas.VerdictDelivered: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var works atomic.Bool
			script := func(*sandbox.Received) string {
				if works.Load() {
					return ""
				}
				return "/status/500"
			}
			inBubble(t, script, func(t *testing.T, w *world) {
				s := w.subscribe("/x", func(d *subscriptions.Draft) {
					d.Schedule = []time.Duration{0, time.Minute, time.Minute, time.Minute, time.Minute, time.Minute}
				})
				w.ordered(s)
				w.member()
				var ts []*schemas.Task
				for range 5 {
					ts = append(ts, w.taskOf(s, "e"))
				}
				w.put(ts...)
				w.requests(1)
				pass(10 * time.Second)
				if n := len(w.lines().members); n != 5 {
					t.Fatalf("%d members", n)
				}
				c.change(w, s)
				works.Store(true)
				pass(15 * time.Minute)
				got := map[schemas.Verdict]int{}
				for _, v := range ends(w.attempts()) {
					got[v]++
				}
				if !maps.Equal(got, c.want) {
					t.Errorf("%v, want %v", got, c.want)
				}
				if n := len(w.lines().members); n != 0 {
					t.Errorf("%d members still stand", n)
				}
			})
		})
	}
}

// Order that is switched on holds for what comes from then on; what is in tiers by then is tried without others of its entity beside it.
func TestOrderThatIsSwitchedOnHoldsFromThenOn(t *testing.T) {
	var works atomic.Bool
	script := func(*sandbox.Received) string {
		if works.Load() {
			return ""
		}
		return "/status/500"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Schedule = []time.Duration{0, time.Minute, time.Minute, time.Minute} })
		w.member()
		before := []*schemas.Task{w.taskOf(s, "e"), w.taskOf(s, "e")}
		w.put(before...)
		w.requests(2)
		pass(time.Second)
		w.ordered(s)
		after := []*schemas.Task{w.taskOf(s, "e"), w.taskOf(s, "e"), w.taskOf(s, "e")}
		w.put(after...)
		w.requests(3)
		pass(2 * time.Second)
		if n := len(w.receiver.Ledger()); n != 3 {
			t.Fatalf("%d requests: the first that came under order failed", n)
		}
		works.Store(true)
		w.must(w.receiver.WaitDelivered(w.within(10*time.Minute), "", 5))
		w.inOrder(after...)
	})
}

// A partition that comes back to the same process in the next generation keeps its lines; nothing is loaded again.
func TestAPartitionThatIsKeptKeepsItsLines(t *testing.T) {
	var works atomic.Bool
	script := func(*sandbox.Received) string {
		if works.Load() {
			return ""
		}
		return "/status/500"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Schedule = []time.Duration{0, time.Minute, time.Minute, time.Minute} })
		w.ordered(s)
		first, _ := w.member()
		ts := []*schemas.Task{w.taskOf(s, "e"), w.taskOf(s, "e"), w.taskOf(s, "e")}
		w.put(ts[:2]...)
		w.requests(1)
		pass(2 * time.Second)
		fence := w.lines().fence
		second, _ := w.member() // there is one partition: it stays where it is
		pass(10 * time.Second)
		if !first.Owns(0) || second.Owns(0) || w.lines().fence != fence {
			t.Fatalf("owned by %v %v, fence %d after %d", first.Owns(0), second.Owns(0), w.lines().fence, fence)
		}
		w.put(ts[2])
		pass(2 * time.Second)
		if n := len(w.receiver.Ledger()); n != 1 {
			t.Fatalf("%d requests", n)
		}
		works.Store(true)
		w.must(w.receiver.WaitDelivered(w.within(5*time.Minute), "", 3))
		w.inOrder(ts...)
	})
}

// One entity that fails does not slow the others.
func TestOtherEntitiesDoNotNoticeOneThatFails(t *testing.T) {
	const entities, each = 50, 40
	p99 := func(fail bool) time.Duration {
		var late []time.Duration
		script := func(r *sandbox.Received) string {
			if fail && r.Header.Get("Webhook-Fails") != "" {
				return "/status/500"
			}
			return "/delay/5ms"
		}
		var bad atomic.Pointer[map[string]bool]
		inBubble(t, func(r *sandbox.Received) string {
			if m := bad.Load(); m != nil && fail && (*m)[r.WebhookID] {
				return "/status/500"
			}
			return script(r)
		}, func(t *testing.T, w *world) {
			s := w.subscribe("/x")
			w.ordered(s)
			w.member()
			pass(3 * time.Second)
			fails, put := map[string]bool{}, map[string]time.Time{}
			var all [][]*schemas.Task
			for range each {
				var ts []*schemas.Task
				for e := range entities {
					task := w.taskOf(s, fmt.Sprint("e", e))
					if e == 0 {
						fails[schemas.WebhookID(s.ID, task.EventID)] = true
					}
					ts = append(ts, task)
				}
				all = append(all, ts)
			}
			bad.Store(&fails)
			for _, ts := range all {
				for _, task := range ts {
					put[schemas.WebhookID(s.ID, task.EventID)] = time.Now()
				}
				w.put(ts...)
				pass(250 * time.Millisecond)
			}
			w.must(w.receiver.WaitDelivered(w.within(time.Minute), "", (entities-1)*each))
			for _, r := range w.receiver.Ledger() {
				if r.Delivered() && !fails[r.WebhookID] {
					late = append(late, r.At.Sub(put[r.WebhookID]))
				}
			}
		})
		slices.Sort(late)
		return late[len(late)*99/100]
	}
	calm, failing := p99(false), p99(true)
	t.Logf("p99 %v, while one fails %v", calm, failing)
	if failing > calm*12/10 {
		t.Errorf("p99 of the others: %v, without the failing one %v", failing, calm)
	}
}
