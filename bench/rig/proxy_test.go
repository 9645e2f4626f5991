package rig

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// behind is a broker in memory behind a proxy, a client that goes through it, and one that does not.
type behind struct {
	t      *testing.T
	p      *Proxy
	cl     *kafka.Client
	direct *kafka.Client
	topic  string
	a      *kafka.Appender
}

func newBehind(t *testing.T) *behind {
	t.Helper()
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	p, err := NewProxy(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.fronts[0].broker = b.Addrs()[0]
	c := kafka.DefaultConfig()
	c.Brokers, c.Partitions = b.Addrs(), 2
	open := func(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *kafka.Client {
		cl, err := kafka.Open(c, kafka.Options{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	w := &behind{t: t, p: p}
	// The broker in memory advertises its own address: what goes to it is led to the proxy.
	w.cl = open(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, p.Addrs()[0])
	})
	w.direct = open(nil)
	if _, err := w.direct.CreateTopics(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.topic, w.a = w.cl.Topics().Retry, w.cl.NewAppender(kafka.AppenderConfig{})
	return w
}

func (w *behind) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

// append writes a record to each of both partitions.
func (w *behind) append() ([]kafka.Ack, error) {
	var r kafka.Records
	for p := range int32(2) {
		r.Add(kafka.TP{Topic: w.topic, Partition: p}, nil, nil, []byte("v"))
	}
	return w.a.Append(w.ctx(), &r)
}

// holds asks past the proxy how many records the partitions have.
func (w *behind) holds(want ...int64) {
	w.t.Helper()
	at, err := w.direct.Offsets(w.ctx(), w.topic, kafka.Latest)
	if err != nil {
		w.t.Fatal(err)
	}
	for p, n := range want {
		if at[int32(p)] != n {
			w.t.Errorf("partition %d holds %d records instead of %d", p, at[int32(p)], n)
		}
	}
}

func TestWhatARuleDoesToAWrite(t *testing.T) {
	onlySecond := func(_ string, p int32) bool { return p == 1 }
	for _, c := range []struct {
		name   string
		rule   *Rule
		failed bool     // the second partition's write, for good
		holds  [2]int64 // after one write
	}{
		{"late", &Rule{Delay: 20 * time.Millisecond, Most: 1}, false, [2]int64{1, 1}},
		{"lost", &Rule{API: []int16{APIProduce}, DropRequest: true, Most: 2}, false, [2]int64{1, 1}},
		{"its answer lost", &Rule{API: []int16{APIProduce}, DropAnswer: true, Most: 2}, false, [2]int64{1, 1}},
		{"refused for a while", &Rule{API: []int16{APIProduce}, Code: int16(kgo.NotEnoughReplicas), Most: 2}, false, [2]int64{1, 1}},
		{"one partition refused for good", &Rule{API: []int16{APIProduce}, About: onlySecond, Code: int16(kgo.MessageSizeTooLarge), Most: 1}, true, [2]int64{1, 0}},
		{"done, and said not to be", &Rule{API: []int16{APIProduce}, Code: int16(kgo.NotEnoughReplicasAfterAppend), After: true, Most: 2}, false, [2]int64{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newBehind(t)
			defer w.p.Add(c.rule)()
			_, err := w.append()
			if (err != nil) != c.failed {
				t.Fatal(err)
			}
			if ae := new(kafka.AppendError); c.failed && (!errors.As(err, &ae) || len(ae.Partitions) != 1 || !ae.Partitions[0].Rejected || ae.Partitions[0].Partition != 1) {
				t.Fatal(err)
			}
			if c.rule.Hits() != c.rule.Most {
				t.Errorf("it was done to %d requests instead of %d", c.rule.Hits(), c.rule.Most)
			}
			w.holds(c.holds[:]...)
		})
	}
}

func TestACommitIsRefusedOrLost(t *testing.T) {
	w := newBehind(t)
	g, err := w.cl.JoinGroup(kafka.GroupConfig{ID: "g", CoPartitioned: []string{w.topic}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	gen, err := g.Next(w.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer gen.Release()
	tp := kafka.TP{Topic: w.topic}
	commit := func(r *Rule, offset int64) error {
		defer w.p.Add(r)()
		err := gen.Commit(w.ctx(), map[kafka.TP]kafka.Committed{tp: {Offset: offset}})
		if r.Hits() != 1 {
			t.Errorf("%d hits", r.Hits())
		}
		return err
	}
	standing := func() int64 {
		at, err := w.direct.CommittedOffsets(w.ctx(), "g", []kafka.TP{tp})
		if err != nil {
			t.Fatal(err)
		}
		return at[tp].Offset
	}
	api := []int16{APIOffsetCommit}
	if err := commit(&Rule{API: api, Code: int16(kgo.IllegalGeneration)}, 1); !errors.Is(err, kafka.ErrFenced) || standing() != -1 {
		t.Error("refused:", err, standing())
	}
	if err := commit(&Rule{API: api, DropRequest: true}, 2); err == nil || standing() != -1 {
		t.Error("lost:", err, standing())
	}
	if err := commit(&Rule{API: api, DropAnswer: true}, 3); err == nil || standing() != 3 {
		t.Error("its answer lost:", err, standing())
	}
}

func TestWhatWasOpenInASilenceStaysDead(t *testing.T) {
	w := newBehind(t)
	old, err := net.Dial("tcp", w.p.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	ask := func(c net.Conn, patience time.Duration) error { // which versions there are, v0
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255}); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 4096))
		return err
	}
	if err := ask(old, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	heal := w.p.Silence()
	if err := ask(old, 50*time.Millisecond); err == nil {
		t.Error("an answer in the silence")
	}
	heal()
	if err := ask(old, 50*time.Millisecond); err == nil {
		t.Error("a connection from before the silence works")
	}
	fresh, err := net.Dial("tcp", w.p.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if err := ask(fresh, 5*time.Second); err != nil {
		t.Error("a new connection:", err)
	}
	healRefused := w.p.Refuse()
	if _, err := net.Dial("tcp", w.p.Addrs()[0]); err == nil {
		t.Error("a connection while refused")
	}
	if err := healRefused(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.append(); err != nil {
		t.Error(err)
	}
}
