package deliverer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// A grace longer than others wait for a member that stops: it is cut to what they wait, so that the last commit is accepted. Without Redis it is the only
// thing that tells the successor what ended within the grace.
func TestAGenerationThatEndsWithinTheGraceHasItsLastCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 1, true })
		slow := func(d *subscriptions.Draft) { d.Timeout = 20 * time.Second }
		hung, late := w.subscribe("/hang", slow), w.subscribe("/delay/4s", slow)
		w.redis.Stop()
		w.stopTable()
		first, _ := w.member(func(cfg *Config, _ *Deps) { cfg.Grace = time.Minute })
		w.put(w.task(hung), w.task(late))
		w.must(w.receiver.Wait(w.ctx, func(l []*sandbox.Received) bool { return len(l) == 2 }))
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			first.stop()
		}()
		time.Sleep(time.Second)
		joined := time.Now()
		second, _ := w.member()
		<-stopped
		if took := time.Since(joined); took > 9*time.Second {
			t.Errorf("the stop took %v after another had joined", took)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		sent := map[string]int{}
		for _, got := range w.receiver.Ledger() {
			sent[got.Path]++
		}
		if sent["/delay/4s"] != 1 {
			t.Errorf("sent: %v; what ended within the grace was sent again", sent)
		}
		second.stop()
	})
}

// A generation that ends while it begins is given back at once: all others wait for it.
func TestAGenerationThatEndsWhileItBeginsIsGivenBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 2, true })
		w.stopTable()
		cluster := w.broker.Cluster()
		release, asked, joins := make(chan struct{}), make(chan struct{}, 100), make(chan string, 1000)
		cluster.ControlKey(int16(kmsg.ListOffsets), func(q kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if topic := q.(*kmsg.ListOffsetsRequest).Topics[0].Topic; topic == w.kafka.Topics().Retry {
				asked <- struct{}{}
				cluster.SleepControl(func() { <-release })
			}
			return nil, nil, false
		})
		first, _ := w.member()
		<-asked // its first generation wants to know where its partitions begin
		cluster.ControlKey(int16(kmsg.JoinGroup), func(q kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			joins <- q.(*kmsg.JoinGroupRequest).MemberID
			return nil, nil, false
		})
		second, _ := w.member()
		begun := time.Now()
		for id := ""; id == ""; id = <-joins { // the new one has no id yet; the first has, and joins again when it has given its generation back
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the others waited %v", took)
		}
		close(release)
		first.stop()
		second.stop()
	})
}

// Kafka is slow to take outcomes just when a deliverer stops: longer than the last drain waits. They are written all the same before the process ends, and the
// successor, which has been told of them as under way, finds their marks.
func TestOutcomesThatKafkaTakesLateAreWrittenBeforeAStopEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 1, true })
		s := w.subscribe("/ok")
		first, _ := w.member()
		w.put(w.task(s))
		w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", 1))
		time.Sleep(time.Second)
		slow := w.refuse(w.kafka.Topics().Attempts, 0, kerr.NotLeaderForPartition, "")
		w.put(w.task(s), w.task(s), w.task(s))
		w.must(w.receiver.WaitDelivered(w.within(20*time.Second), "", 4))
		heal := time.AfterFunc(3*time.Second, slow.Remove)
		defer heal.Stop()
		w.must(first.stop())
		second, _ := w.member()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(w.receiver.Ledger()); n != 4 {
			t.Errorf("%d requests for 4 tasks", n)
		}
		if n := len(w.attempts()); n != 4 {
			t.Errorf("%d attempts for 4 tasks", n)
		}
		w.must(second.stop())
	})
}

// An answer to a request of the generation before may be handled when the parts of the next one stand already and their positions are not assigned yet. It is left: what
// it holds is read again when lines are loaded.
func TestNothingIsTakenIntoAPartBeforeItsLinesAreLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *worldConfig) { c.virtual, c.partitions, c.quiet = true, 1, true })
		d, err := New(w.options())
		w.must(err)
		d.marks = new(Marks)
		tp := kafka.TP{Topic: d.topics.Retry}
		parts := map[kafka.TP]*part{}
		w.must(d.open(w.ctx, map[kafka.TP]kafka.Committed{tp: {Offset: 3}}, parts))
		d.parts.Store(&parts)
		task := w.task(w.subscribe("/x"))
		in := newIntake(d)
		handle := func() (taken int64) {
			w.must(in.handle(w.ctx, []kafka.Batch{{TP: tp, Records: []kafka.Record{{Offset: 3, Value: schemas.AppendTask(nil, task)}}, Next: 4, HighWatermark: 4}}))
			return parts[tp].next() - 3
		}
		if n := handle(); n != 0 {
			t.Errorf("%d tasks are taken", n)
		}
		parts[tp].unlined.Store(false)
		if n := handle(); n != 1 {
			t.Errorf("%d tasks are taken when lines are loaded", n)
		}
	})
}
