package deliverer

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// refuse has the broker in memory refuse what is written to a partition (all of them: -1) of a topic, if the request contains text.
func (w *world) refuse(topic string, partition int32, err *kerr.Error, text string) *kfake.FaultHandle {
	f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1}
	if partition >= 0 {
		f.Partitions = []int32{partition}
	}
	if text != "" {
		f.When = func(q kmsg.Request) bool {
			for _, rt := range q.(*kmsg.ProduceRequest).Topics {
				for _, rp := range rt.Partitions {
					if rt.Topic == topic && bytes.Contains(rp.Records, []byte(text)) {
						return true
					}
				}
			}
			return false
		}
	}
	return w.broker.Cluster().Fault(f)
}

func (w *world) partition(s *subscriptions.Live) int32 {
	return kafka.Partition([]byte(s.ID), w.config.Partitions)
}

// apart are two subscriptions whose lanes have different partitions.
func (w *world) apart(path, other string, edit ...func(*subscriptions.Draft)) (a, b *subscriptions.Live) {
	a = w.subscribe(path, edit...)
	for i := 0; b == nil || w.partition(b) == w.partition(a); i++ {
		b = w.subscribe(fmt.Sprint(other, "/", i))
	}
	return a, b
}

// open is how many tasks a deliverer has read and not finished.
func (r *run) open() int64 {
	n, _ := r.memory.counts()
	return n
}

// One partition of attempts, of a tier, of dead takes nothing: what goes elsewhere is written, finished and committed; when it takes records again, what
// waited is there within seconds, once.
func TestAPartitionThatTakesNothingHoldsUpNoOther(t *testing.T) {
	for _, c := range []struct{ name, path string }{{"attempts", "/ok/a"}, {"tier", "/status/503"}, {"dead", "/status/410"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *worldConfig) { c.memory, c.tiers = true, []time.Duration{5 * time.Second, time.Minute} })
			a, b := w.apart(c.path, "/ok/b")
			topic := map[string]string{"attempts": w.kafka.Topics().Attempts, "tier": w.kafka.Topics().Tiers[0].Name, "dead": w.kafka.Topics().Dead}[c.name]
			fault := w.refuse(topic, w.partition(a), kerr.NotLeaderForPartition, "")
			r := w.start()
			const n = 5
			for range n {
				w.put(w.task(a))
			}
			w.must(w.receiver.Wait(w.within(10*time.Second), func(l []*sandbox.Received) bool { return len(l) >= 1 }))
			w.must(fault.Wait(w.within(10*time.Second), 2))
			for range 20 {
				w.put(w.task(b))
			}
			w.eventually(10*time.Second, "the attempts of the others", func() bool { return count(w.attempts(), b.ID) == 20 })
			w.eventually(5*time.Second, "commits of the others", func() bool {
				p := (*r.parts.Load())[kafka.TP{Topic: r.topics.Retry, Partition: w.partition(b)}]
				return p.lastCommitted().Offset == 20
			})
			if r.open() != n {
				t.Errorf("%d tasks are open, not %d", r.open(), n)
			}
			before := len(w.receiver.Ledger())
			fault.Remove()
			w.eventually(10*time.Second, "everything written", func() bool { return r.open() == 0 })
			if got := count(w.attempts(), a.ID); got != n {
				t.Errorf("%d attempts of %d tasks", got, n)
			}
			if after := len(w.receiver.Ledger()); after != before {
				t.Errorf("%d requests, %d of them after the healing", after, after-before)
			}
		})
	}
}

func count(as []schemas.Attempt, subscription string) (n int) {
	for _, a := range as {
		if a.Subscription == subscription {
			n++
		}
	}
	return n
}

// More than its share does not wait for a partition that takes nothing: its lanes send nothing more, and those of others do not notice.
func TestWhatWaitsForAPartitionIsBoundedAndBoundsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.memory, c.partitions = true, 2 })
	// 400 a second: a partition counts as sick when a write to it takes over a second, and what ends before that is no breach.
	a, b := w.apart("/delay/20ms", "/ok/b", func(d *subscriptions.Draft) { d.MaxConcurrency = 8 })
	fault := w.refuse(w.kafka.Topics().Attempts, w.partition(a), kerr.NotEnoughReplicas, "")
	r := w.start(func(cfg *Config, _ *Deps) { cfg.TasksInMemory = 2000 })
	var ts []*schemas.Task
	for range 1000 {
		ts = append(ts, w.task(a))
	}
	w.put(ts...)
	w.eventually(20*time.Second, "a full share", func() bool { return r.chokes(w.partition(a)) })
	// What was under way at that moment still comes, and what the collector held.
	w.eventually(20*time.Second, "an end of what is under way", func() bool {
		return r.inFlight.Load() == 0 && len(r.collector.unflushed()) == int(r.unwritten(w.partition(a)))
	})
	sent := r.unwritten(w.partition(a))
	var others []*schemas.Task
	for range 3000 {
		others = append(others, w.task(b))
	}
	w.put(others...)
	w.eventually(40*time.Second, "the attempts of the others", func() bool { return count(w.attempts(), b.ID) == len(others) })
	if got := r.unwritten(w.partition(a)); got != sent || sent >= len(ts) {
		t.Errorf("%d outcomes wait, and %d did when the share of 250 was full", got, sent)
	}
	fault.Remove()
	w.eventually(20*time.Second, "everything written", func() bool { return count(w.attempts(), a.ID) == len(ts) })
	if d := duplicates(w.receiver.Ledger()); len(d) > 0 {
		t.Errorf("%d duplicates", len(d))
	}
	if n := len(w.waiting()); n > 0 {
		t.Errorf("%d tasks were handed back to tiers", n)
	}
}

func (r *run) unwritten(partition int32) int { return r.collector.heldCounts()[partition] }

// The refused record stands alone in the end; its neighbours are written, and once.
func TestAnAttemptThatKafkaRefusesDoublesNoNeighbour(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.memory, c.partitions = true, 1 })
	s := w.subscribe("/ok")
	var ts []*schemas.Task
	for range 300 {
		ts = append(ts, w.task(s))
	}
	poison := ts[123]
	w.refuse(w.kafka.Topics().Attempts, 0, kerr.PolicyViolation, poison.ID)
	metrics := prometheus.NewRegistry()
	r := w.start(func(cfg *Config, d *Deps) { cfg.Linger, d.Metrics = 500*time.Millisecond, metrics })
	w.put(ts...)
	w.eventually(20*time.Second, "an end of everything", func() bool {
		p := (*r.parts.Load())[kafka.TP{Topic: r.topics.Retry}]
		return r.open() == 0 && p != nil && p.lastCommitted().Offset == int64(len(ts))
	})
	seen := map[string]int{}
	for _, a := range w.attempts() {
		seen[a.TaskID]++
	}
	for _, task := range ts {
		if want := 1; task != poison && seen[task.ID] != want {
			t.Errorf("%d attempts of one task", seen[task.ID])
		}
	}
	families, err := metrics.Gather()
	w.must(err)
	for _, f := range families {
		if f.GetName() != "hookferry_deliverer_refused_total" {
			continue
		}
		if n := f.GetMetric()[0].GetCounter().GetValue(); n < 4 || n > 6 { // as it is, without its details, and once a second for three more
			t.Errorf("refused %v times", n)
		}
	}
	if n := len(w.receiver.Ledger()); n != len(ts) {
		t.Errorf("%d requests", n)
	}
}

// A task that its tier does not take becomes a dead letter with its body: seen, and there to be redriven.
func TestATaskThatItsTierRefusesBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *worldConfig) { c.memory, c.partitions = true, 1 })
	s := w.subscribe("/status/503", func(d *subscriptions.Draft) { d.Schedule = []time.Duration{0, time.Hour, time.Hour} })
	ts := []*schemas.Task{w.task(s), w.task(s), w.task(s)}
	for _, tier := range w.kafka.Topics().Tiers {
		w.refuse(tier.Name, 0, kerr.MessageTooLarge, ts[1].ID)
	}
	r := w.start()
	w.put(ts...)
	w.eventually(20*time.Second, "an end of everything", func() bool { return r.open() == 0 && len(w.dead()) == 1 && len(w.attempts()) == 3 })
	dead := w.dead()[0]
	if dead.Task.ID != ts[1].ID || !bytes.Equal(dead.Task.Body, ts[1].Body) || dead.Reason != schemas.ReasonHTTP5xx {
		t.Errorf("%+v", dead)
	}
	if waiting := w.waiting(); len(waiting) != 2 || waiting[ts[1].ID] {
		t.Errorf("in tiers: %v", waiting)
	}
	if as := ends(w.attempts()); len(as) != 1 || as[ts[1].ID] != schemas.VerdictDead {
		t.Errorf("ends: %v", as)
	}
}

// A dead letter that dead does not take keeps its offset open, is tried again each minute and not more often, and is there when somebody has changed that.
func TestADeadLetterThatIsRefusedStaysOpenAndIsTriedEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 1, true })
		s := w.subscribe("/ok")
		letter, other := w.task(s), w.task(s)
		letter.Body, letter.Last = nil, &schemas.LastAttempt{Reason: schemas.ReasonTooLarge, Detail: "2,000,000 bytes"}
		fault := w.refuse(w.kafka.Topics().Dead, 0, kerr.MessageTooLarge, letter.ID)
		w.stopTable()
		r := w.start()
		w.put(letter, other)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		if n := fault.Hits(); n != 3 {
			t.Errorf("tried %d times in two and a half minutes", n)
		}
		p := (*r.parts.Load())[kafka.TP{Topic: r.topics.Retry}]
		if c := p.lastCommitted(); c.Offset != 0 || r.open() != 1 {
			t.Errorf("committed %d, %d open", c.Offset, r.open())
		}
		if in, err := decodeMeta(0, p.lastCommitted().Metadata); err != nil {
			t.Error(err)
		} else if done, _ := in.at(1); !done {
			t.Error("the commit does not say that the other has ended")
		}
		fault.Remove()
		time.Sleep(time.Minute)
		synctest.Wait()
		if d := w.dead(); len(d) != 1 || d[0].Task.ID != letter.ID || r.open() != 0 {
			t.Errorf("dead %+v, %d open", d, r.open())
		}
		r.stop()
	})
}

// Whoever changes a setting of the broker may have it refuse records for a moment that it takes a moment later: no attempt and no task is given up for that.
func TestWhatIsRefusedForAMomentIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 1, true })
		good := w.subscribe("/ok")
		bad := w.subscribe("/status/503", func(d *subscriptions.Draft) { d.Schedule = []time.Duration{0, time.Hour, time.Hour} })
		var refusing []*kfake.FaultHandle
		for _, topic := range append([]string{w.kafka.Topics().Attempts}, tierNames(w)...) {
			refusing = append(refusing, w.refuse(topic, 0, kerr.MessageTooLarge, ""))
		}
		w.start()
		ts := []*schemas.Task{w.task(good), w.task(bad)}
		w.put(ts...)
		w.must(w.receiver.Wait(w.within(time.Minute), func(l []*sandbox.Received) bool { return len(l) == len(ts) }))
		time.Sleep(1500 * time.Millisecond)
		hits := 0
		for _, f := range refusing {
			hits += int(f.Hits())
			f.Remove()
		}
		if hits < 2*len(ts) {
			t.Fatalf("%d refusals: nothing would be shown", hits)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if as := w.attempts(); len(as) != len(ts) {
			t.Errorf("%d attempts are written, not %d", len(as), len(ts))
		}
		if dead, waiting := w.dead(), w.waiting(); len(dead) != 0 || !waiting[ts[1].ID] {
			t.Errorf("%d dead letters, in tiers: %v", len(dead), waiting)
		}
	})
}

func tierNames(w *world) (names []string) {
	for _, tier := range w.kafka.Topics().Tiers {
		names = append(names, tier.Name)
	}
	return names
}
