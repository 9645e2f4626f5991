package kafka_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// world is a broker to test against: in memory, or the real one that HOOKFERRY_TEST_KAFKA names.
type world struct {
	t     testing.TB
	addrs []string
	real  bool
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

var worlds atomic.Int64

func newWorld(t testing.TB) *world {
	t.Helper()
	if addrs := os.Getenv("HOOKFERRY_TEST_KAFKA"); addrs != "" {
		return &world{t: t, addrs: strings.Split(addrs, ","), real: true, dial: (&net.Dialer{}).DialContext}
	}
	return memoryWorld(t, sandbox.BrokerConfig{})
}

func memoryWorld(t testing.TB, c sandbox.BrokerConfig) *world {
	t.Helper()
	b, err := sandbox.StartBroker(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	dial := b.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return &world{t: t, addrs: b.Addrs(), dial: dial}
}

// config is a deployment of its own on the world's broker.
func (w *world) config() kafka.Config {
	c := kafka.DefaultConfig()
	c.Brokers = w.addrs
	c.TopicPrefix = fmt.Sprintf("t%d-%d.", time.Now().UnixNano(), worlds.Add(1))
	c.Partitions = 4
	c.Tiers = c.Tiers[:1]
	return c
}

func (w *world) open(c kafka.Config, o kafka.Options) *kafka.Client {
	w.t.Helper()
	if o.Dial == nil {
		o.Dial = w.dial
	}
	if o.Log == nil {
		o.Log = zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel))
	}
	cl, err := kafka.Open(c, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// topic makes a topic of so many partitions and returns a client of a deployment of its own and the topic's name.
func (w *world) topic(cl *kafka.Client, partitions int, configs ...string) string {
	w.t.Helper()
	name := fmt.Sprintf("t%d-%d", time.Now().UnixNano(), worlds.Add(1))
	req := &kgo.CreateTopicsRequest{Topics: []kgo.TopicConfig{{Topic: name, NumPartitions: partitions, ReplicationFactor: -1}}}
	for i := 0; i < len(configs); i += 2 {
		req.Topics[0].ConfigEntries = append(req.Topics[0].ConfigEntries, kgo.ConfigEntry{ConfigName: configs[i], ConfigValue: configs[i+1]})
	}
	tr := &kgo.Transport{Dial: w.dial}
	defer tr.CloseIdleConnections()
	r, err := (&kgo.Client{Addr: kgo.TCP(w.addrs...), Transport: tr}).CreateTopics(w.ctx(), req)
	if err == nil {
		err = r.Errors[name]
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return name
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

// append writes one record per value to a partition and returns the answers.
func (w *world) append(a *kafka.Appender, tp kafka.TP, values ...string) []kafka.Ack {
	w.t.Helper()
	var r kafka.Records
	for _, v := range values {
		r.Add(tp, []byte("k"), nil, []byte(v))
	}
	acks, err := a.Append(w.ctx(), &r)
	if err != nil {
		w.t.Fatal(err)
	}
	return acks
}

// read reads from the positions until enough says so, and returns the records by partition.
func (w *world) read(cl *kafka.Client, fc kafka.FetchConfig, pos map[kafka.TP]int64, enough func(map[kafka.TP][]kafka.Record) bool) map[kafka.TP][]kafka.Record {
	w.t.Helper()
	f := cl.NewFetcher(fc)
	f.Assign(pos)
	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	got := map[kafka.TP][]kafka.Record{}
	err := f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			got[b.TP] = append(got[b.TP], b.Records...)
		}
		if enough(got) {
			cancel()
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if !enough(got) {
		w.t.Fatalf("not enough records came; got %d partitions", len(got))
	}
	return got
}

// count is an enough for read: so many records in all.
func count(n int) func(map[kafka.TP][]kafka.Record) bool {
	return func(got map[kafka.TP][]kafka.Record) bool {
		have := 0
		for _, rs := range got {
			have += len(rs)
		}
		return have >= n
	}
}
