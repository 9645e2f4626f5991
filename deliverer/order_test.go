package deliverer

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// These tests hold the order of every move: sent, durable, marked, committed. Each lets a process die, or Kafka refuse, between two of the steps, in
// virtual time, and is named in bench/mutants by the bugs that swap them.

// inBubble runs f in virtual time, in a world whose receiver answers as script says; "" is 200.
func inBubble(t *testing.T, script func(*sandbox.Received) string, f func(t *testing.T, w *world), opts ...worldOption) {
	synctest.Test(t, func(t *testing.T) {
		f(t, newWorld(t, append([]worldOption{func(c *worldConfig) {
			c.virtual, c.partitions, c.quiet = true, 1, true
			c.receiver = sandbox.ReceiverConfig{Script: func(r *sandbox.Received) string {
				if s := script(r); s != "" {
					return s
				}
				return "/ok"
			}}
		}}, opts...)...))
	})
}

// kill cuts a member off from everything and lets its goroutines end. It returns when all is quiet, so that what the member had asked for at that very
// moment is answered as things stood, and not as the test arranges them next.
func kill(r *run, c *cord) {
	c.cut()
	r.cancel()
	synctest.Wait()
}

// requests waits until the receiver has got n, and returns them.
func (w *world) requests(n int) []*sandbox.Received {
	w.t.Helper()
	w.must(w.receiver.Wait(w.within(5*time.Minute), func(l []*sandbox.Received) bool { return len(l) >= n }))
	return w.receiver.Ledger()
}

func TestWhatWasUnderWayOrInLineWhenAProcessDiedIsSent(t *testing.T) {
	var dead atomic.Bool
	hang := func(*sandbox.Received) string {
		if dead.Load() {
			return ""
		}
		return "/hang"
	}
	inBubble(t, hang, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxConcurrency = 2 })
		var ts []*schemas.Task
		for range 20 {
			ts = append(ts, w.task(s))
		}
		w.put(ts...)
		first, c := w.member()
		w.requests(2)
		pass(1200 * time.Millisecond) // two commits
		kill(first, c)
		dead.Store(true)
		w.member()
		if err := w.receiver.WaitDelivered(w.within(2*time.Minute), "", len(ts)); err != nil {
			t.Fatal("tasks are lost: ", err)
		}
	})
}

func TestASuccessorWithoutRedisRepeatsOnlyWhatTheLastCommitLeftOpen(t *testing.T) {
	var hung string
	script := func(r *sandbox.Received) string {
		if r.WebhookID == hung {
			return "/hang"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		w.redis.Stop()
		const timeout = 20 * time.Second // longer than it takes the group to miss the first process
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Timeout = timeout })
		ts := []*schemas.Task{w.task(s)}
		hung = schemas.WebhookID(s.ID, ts[0].EventID)
		for range 100 {
			ts = append(ts, w.task(s))
		}
		first, c := w.member()
		w.put(ts...)
		w.must(w.receiver.WaitDelivered(w.within(time.Minute), "", len(ts)-1))
		pass(1200 * time.Millisecond)
		kill(first, c)
		w.member()
		ledger := w.requests(len(ts) + 1)
		pass(time.Second)
		if n := len(w.receiver.Ledger()); n != len(ts)+1 {
			t.Errorf("%d requests for %d tasks, one of which was under way", n, len(ts))
		}
		var tries []time.Time
		for _, r := range ledger {
			if r.WebhookID == hung {
				tries = append(tries, r.At)
			}
		}
		if len(tries) != 2 || tries[1].Sub(tries[0]) < timeout-100*time.Millisecond || tries[1].Sub(tries[0]) > timeout+2*time.Second {
			t.Errorf("the send that the commit named was made at %v: the second time is due at the first one's deadline, %v later", tries, timeout)
		}
	})
}

// refuseCommits makes the broker refuse offset commits while it is true.
func (w *world) refuseCommits() *atomic.Bool {
	refuse := new(atomic.Bool)
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetCommit), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		if !refuse.Load() {
			return nil, nil, false
		}
		req := q.(*kmsg.OffsetCommitRequest)
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, topic := range req.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, 14 // the coordinator is loading
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	return refuse
}

// The sequence: tries have ended, their outcomes are durable and their marks stand, and the process dies before it commits.
func TestWhatHasItsMarkIsNotSentAgainThoughItWasNotCommitted(t *testing.T) {
	script := func(r *sandbox.Received) string {
		if r.Path == "/bad" {
			return "/abort"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		good, bad := w.subscribe("/good"), w.subscribe("/bad")
		refuse := w.refuseCommits()
		first, c := w.member()
		pass(2 * time.Second)
		refuse.Store(true)
		var ts []*schemas.Task
		for range 10 {
			ts = append(ts, w.task(good), w.task(bad))
		}
		w.put(ts...)
		w.requests(len(ts))
		pass(time.Second)
		kill(first, c)
		refuse.Store(false)
		second, _ := w.member()
		pass(30 * time.Second)
		if n := len(w.receiver.Ledger()); n != len(ts) {
			t.Errorf("%d requests for %d tasks", n, len(ts))
		}
		if at := (*second.parts.Load())[kafka.TP{Topic: w.kafka.Topics().Retry}]; at == nil || at.next() != int64(len(ts)) {
			t.Error("the successor has not read them: nothing was shown")
		}
	})
}

// The sequence: a member's outcomes cannot be written for a while, nor its commits; another joins and takes some of its partitions, and may not send before a commit
// of its own is accepted; by then the first has written and marked what it had sent. What the other had looked up in between, it would send again.
func TestWhatTheOwnerBeforeMarksUntilTheFirstCommitIsNotSentAgain(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		var subs []*subscriptions.Live
		for i := range 16 { // in all partitions
			subs = append(subs, w.subscribe(fmt.Sprint("/", i)))
		}
		refuse := w.refuseCommits()
		w.member()
		pass(2 * time.Second)
		unwritten := w.refuse(w.kafka.Topics().Attempts, -1, kerr.NotLeaderForPartition, "")
		refuse.Store(true)
		var ts []*schemas.Task
		for _, s := range subs {
			ts = append(ts, w.task(s))
		}
		w.put(ts...)
		w.requests(len(ts))
		second, _ := w.member()
		for until := time.Now().Add(time.Minute); len(*second.parts.Load()) == 0; pass(time.Second) {
			if time.Now().After(until) {
				t.Fatal("the second has got nothing: nothing would be shown")
			}
		}
		unwritten.Remove()
		pass(5 * time.Second)
		refuse.Store(false)
		pass(30 * time.Second)
		if n := len(w.receiver.Ledger()); n != len(ts) {
			t.Errorf("%d requests for %d tasks", n, len(ts))
		}
	}, func(c *worldConfig) { c.partitions = 4 })
}

// A receiver that takes long to connect to: by then the lease may be over, and another process may have sent the task.
func TestNothingIsSentOverAConnectionThatTookLongerThanTheLease(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		refuse := w.refuseCommits()
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Timeout = 30 * time.Second })
		var dials atomic.Int32
		w.member(func(_ *Config, d *Deps) {
			dial := d.Dial
			d.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) == 1 {
					pass(6 * time.Second)
				}
				return dial(ctx, network, addr)
			}
		})
		pass(2 * time.Second)
		w.put(w.task(s))
		for dials.Load() == 0 {
			pass(10 * time.Millisecond)
		}
		refuse.Store(true)
		pass(15 * time.Second)
		if n := len(w.receiver.Ledger()); n != 0 {
			t.Errorf("%d requests: their partition may be another's", n)
		}
		refuse.Store(false)
		w.must(w.receiver.WaitDelivered(w.within(time.Minute), "", 1))
		if got := w.receiver.Ledger()[0]; got.Attempt != 1 {
			t.Errorf("it came as try %d: what was not sent is none", got.Attempt)
		}
	})
}

func TestNothingIsSentWithoutAnAcceptedCommit(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		refuse := w.refuseCommits()
		s := w.subscribe("/x")
		w.member()
		w.put(w.task(s))
		w.requests(1)
		refuse.Store(true)
		pass(5 * time.Second) // the last accepted commit is good for 4 s
		for range 5 {
			w.put(w.task(s))
		}
		pass(10 * time.Second)
		if n := len(w.receiver.Ledger()); n != 1 {
			t.Errorf("%d sends began without a commit: another process may own their partition", n-1)
		}
		refuse.Store(false)
		w.must(w.receiver.WaitDelivered(w.within(time.Minute), "", 6))
	})
}

func TestARedriveIsNotStoppedByTheMarkOfTheDeath(t *testing.T) {
	var works atomic.Bool
	script := func(*sandbox.Received) string {
		if works.Load() {
			return ""
		}
		return "/abort"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.member()
		w.put(w.task(s))
		w.requests(1)
		pass(time.Second)
		if n := len(w.dead()); n != 1 {
			t.Fatalf("%d dead letters", n)
		}
		works.Store(true)
		_, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
		w.must(err)
		if err := w.receiver.WaitDelivered(w.within(time.Minute), "", 1); err != nil {
			t.Fatal("the redriven task was not sent: ", err)
		}
		pass(time.Second)
		tier := w.kafka.Topics().Tiers[0].Name
		var copied schemas.Task
		w.must(schemas.DecodeTask(w.read(tier)[0].Value, &copied))
		w.putTo(tier, &copied) // the redriver died before it noted how far it had come, and its successor writes the same again
		pass(time.Minute)
		if n := len(w.receiver.Ledger()); n != 2 || copied.Round == 0 {
			t.Errorf("%d requests: the copy of a redriven task (round %d) is ended by the mark of its round", n, copied.Round)
		}
	})
}

func TestWhatALaneHandsBackIsSentWhenItsTimeComes(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxRate = 1 })
		w.member()
		var ts []*schemas.Task
		for range 60 {
			ts = append(ts, w.task(s))
		}
		w.put(ts...)
		if err := w.receiver.WaitDelivered(w.within(10*time.Minute), "", len(ts)); err != nil {
			t.Fatal("tasks that were handed back are lost: ", err)
		}
		if n := len(w.waiting()); n == 0 {
			t.Error("none was handed back: nothing was shown")
		}
		if n := len(w.receiver.Ledger()); n != len(ts) {
			t.Errorf("%d requests for %d tasks", n, len(ts))
		}
	})
}

// refuseProduce makes the broker refuse records for topics that which names, with an error code, while it is not 0.
func (w *world) refuseProduce(which func(topic string) bool) (code *atomic.Int32) {
	code = new(atomic.Int32)
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		req := q.(*kmsg.ProduceRequest)
		n, now := 0, int16(code.Load())
		for _, topic := range req.Topics {
			if which(topic.Topic) {
				n++
			}
		}
		if now == 0 || n == 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range req.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, now
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	return code
}

// isTier says whether a topic is one of the tiers.
func (w *world) isTier(topic string) bool {
	for _, tier := range w.kafka.Topics().Tiers {
		if tier.Name == topic {
			return true
		}
	}
	return false
}

const (
	// Kafka's codes: a partition that takes nothing for now, one that we may not write to, a record that is never taken.
	notEnoughReplicas = 19
	notAuthorized     = 29
	tooLarge          = 10
)

// The sequence: a try failed, its tier record cannot be written yet, and the process dies. A mark that stands already would end the task.
func TestNoMarkStandsBeforeItsOutcomeIsDurable(t *testing.T) {
	var tries atomic.Int32
	script := func(*sandbox.Received) string {
		if tries.Add(1) == 1 {
			return "/status/500"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		refuse := w.refuseProduce(w.isTier)
		refuse.Store(notEnoughReplicas)
		first, c := w.member()
		w.put(w.task(s))
		w.requests(1)
		pass(1200 * time.Millisecond)
		kill(first, c)
		refuse.Store(0)
		w.member()
		if err := w.receiver.WaitDelivered(w.within(2*time.Minute), "", 1); err != nil {
			t.Fatal("a task whose outcome was written nowhere is lost: ", err)
		}
	})
}

// Whatever Kafka answers to a tier record, the task goes on when Kafka takes it, or is a dead letter that somebody can see.
func TestATaskWhoseTierRecordWasRefusedGoesOn(t *testing.T) {
	for _, code := range []int32{notEnoughReplicas, notAuthorized, tooLarge} {
		var tries atomic.Int32
		script := func(*sandbox.Received) string {
			if tries.Add(1) == 1 {
				return "/status/500"
			}
			return ""
		}
		inBubble(t, script, func(t *testing.T, w *world) {
			s := w.subscribe("/x")
			refuse := w.refuseProduce(w.isTier)
			refuse.Store(code)
			w.member()
			w.put(w.task(s))
			w.requests(1)
			pass(5 * time.Second)
			refuse.Store(0)
			pass(time.Minute)
			if dead := w.dead(); code == tooLarge && len(dead) == 1 && len(dead[0].Task.Body) > 0 {
				return
			}
			if err := w.receiver.WaitDelivered(w.within(time.Minute), "", 1); err != nil {
				t.Fatalf("a task whose tier record was refused with code %d is lost: %v", code, err)
			}
		})
	}
}

// Design rule 13: below the start is data loss, reported, then on at the next record; beyond the end stops the partition.
func TestAPositionThatIsNotInTheLogIsNeverGuessed(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.put(w.task(s), w.task(s))
		cfg, _ := w.options()
		group, err := w.kafka.JoinGroup(kafka.GroupConfig{ID: w.config.TopicPrefix + cfg.Group, CoPartitioned: append(w.kafka.Topics().LaneTopics(), w.kafka.Topics().Dead)})
		w.must(err)
		gen, err := group.Next(w.ctx)
		w.must(err)
		w.must(gen.Commit(w.ctx, map[kafka.TP]kafka.Committed{{Topic: w.kafka.Topics().Retry}: {Offset: 100}}))
		gen.Release()
		w.must(group.Close())
		r, _ := w.member()
		pass(time.Minute)
		if n := len(w.receiver.Ledger()); n != 0 {
			t.Errorf("%d sends from a log that is another one than it was", n)
		}
		tp := kafka.TP{Topic: w.kafka.Topics().Retry}
		if p := (*r.parts.Load())[tp]; p == nil || !p.stopped.Load() {
			t.Error("the partition was not stopped")
		}
		if at, ok := r.outOfRange(tp, 10, 20, 30); at != 20 || !ok {
			t.Errorf("what retention took: on at %d (%v), want 20", at, ok)
		}
	})
}

// overheard is a connection that notes which paths were asked for on it.
type overheard struct {
	*net.TCPConn
	note func(request []byte)
}

func (o *overheard) Write(b []byte) (int, error) {
	o.note(b)
	return o.TCPConn.Write(b)
}

func TestNoConnectionCarriesRequestsOfTwoSubscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	both := w.subscribeAll("/ok/a", "/ok/b") // one receiver, so one host and port
	var mu sync.Mutex
	var conns []map[string]int
	w.start(func(_ *Config, d *Deps) {
		d.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := w.policy.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			paths := map[string]int{}
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, paths)
			return &overheard{c.(*net.TCPConn), func(request []byte) {
				if line, _, ok := bytes.Cut(request, []byte(" HTTP/1.1\r\n")); ok {
					mu.Lock()
					defer mu.Unlock()
					paths[string(line)]++
				}
			}}, nil
		}
	})
	const rounds = 10
	for i := range rounds {
		w.put(w.task(both[0]))
		w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "/ok/a", i+1))
		w.put(w.task(both[1]))
		w.must(w.receiver.WaitDelivered(w.within(10*time.Second), "/ok/b", i+1))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(conns) >= 2*rounds {
		t.Errorf("%d connections for %d sends: none was used again, so nothing was shown", len(conns), 2*rounds)
	}
	for _, paths := range conns {
		if len(paths) > 1 {
			t.Errorf("one connection carried %v", paths)
		}
	}
}

func TestNoLogLineHoldsASecret(t *testing.T) {
	const token, header = "Bearer tok_c4nary-authorization", "c4nary-header-value"
	inBubble(t, func(*sandbox.Received) string { return "/status/500" }, func(t *testing.T, w *world) {
		var text bytes.Buffer
		w.log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(&text)), zap.DebugLevel))
		var key string
		s := w.subscribe("/x", func(d *subscriptions.Draft) {
			secret := secrets.NewWebhookSecret()
			d.Secret, key = &secret, string(secret.Reveal())
			d.Headers = []subscriptions.HeaderValue{{Name: "Authorization", Value: secrets.New([]byte(token))}, {Name: "X-Api-Key", Value: secrets.New([]byte(header))}}
		})
		r := w.start()
		for range 10 {
			w.put(w.task(s))
		}
		w.requests(circuitStrikes)
		pass(10 * time.Second)
		url := "http://127.0.0.2/refused"
		_, err := w.writer.Update(w.ctx, s.ID, subscriptions.Change{URL: &url})
		w.must(err)
		w.redis.Stop()
		pass(time.Minute)
		r.stop()
		if !strings.Contains(text.String(), "keeps failing") {
			t.Error("no line about a failing receiver: nothing was shown")
		}
		for line := range strings.Lines(text.String()) {
			for _, secret := range []string{"c4nary", strings.TrimPrefix(key, "whsec_")} {
				if strings.Contains(line, secret) {
					t.Errorf("a log line holds a secret: %s", line)
				}
			}
		}
	})
}

// stepped is a time as it would have been read if somebody had set the wall clock: its monotonic reading stays. The package time gives no way to
// make one, so this goes by its layout, and the test says so if that has changed.
func stepped(t time.Time, by time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(int64(by/time.Second)) << 30 // wall: 1 bit, 33 bits of seconds, 30 bits of ns
	return t
}

func TestTheLeaseDoesNotNoticeThatTheWallClockWasSet(t *testing.T) {
	now := time.Now()
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		if s := stepped(now, by); s.Sub(now) != 0 || s.Unix()-now.Unix() != int64(by/time.Second) {
			t.Fatalf("time.Time is not laid out as this test takes it to be: %v became %v", now, s)
		}
		l := newLease(now, 6*time.Second)
		l.frozen.Store(false)
		l.renew(now)
		if !l.holds(stepped(now.Add(3*time.Second), by)) {
			t.Errorf("the clock was set by %v: the lease ended early", by)
		}
		if l.holds(stepped(now.Add(5*time.Second), by)) {
			t.Errorf("the clock was set by %v: the lease went on", by)
		}
	}
}
