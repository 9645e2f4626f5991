package producer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/schemas"
)

// world is a deployment of its own, on a broker in memory or the real one that HOOKFERRY_TEST_KAFKA names.
type world struct {
	t      testing.TB
	ctx    context.Context
	broker *sandbox.Broker // nil: a real one
	cfg    producer.Config
	client *kafka.Client // reads what was published
}

var worlds atomic.Int64

const partitions = 4

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, cfg: producer.DefaultConfig()}
	if addrs := os.Getenv("HOOKFERRY_TEST_KAFKA"); addrs != "" {
		w.cfg.Brokers = strings.Split(addrs, ",")
	} else {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		w.broker, w.cfg.Brokers = b, b.Addrs()
	}
	w.cfg.TopicPrefix = fmt.Sprintf("p%d-%d.", time.Now().UnixNano(), worlds.Add(1))
	k := kafka.DefaultConfig()
	k.Brokers, k.TopicPrefix, k.Partitions = w.cfg.Brokers, w.cfg.TopicPrefix, partitions
	var err error
	if w.client, err = kafka.Open(k, kafka.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if _, err := w.client.CreateTopics(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// needsSandbox skips where only the broker in memory can be told to misbehave.
func (w *world) needsSandbox() {
	w.t.Helper()
	if w.broker == nil {
		w.t.Skip("needs a broker that can be told to misbehave")
	}
}

func (w *world) producer() *producer.Producer {
	w.t.Helper()
	p, err := producer.New(w.ctx, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		p.Close(ctx)
	})
	return p
}

// published reads n events of an entity, by partition.
func (w *world) published(entity string, n int) map[int32][]kafka.Record {
	w.t.Helper()
	topic := w.client.Topics().Events[entity]
	pos := map[kafka.TP]int64{}
	for p := range int32(partitions) {
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	f := w.client.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	got, count := map[int32][]kafka.Record{}, 0
	if err := f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			got[b.Partition] = append(got[b.Partition], b.Records...)
			count += len(b.Records)
		}
		if count >= n {
			cancel()
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	if count != n {
		w.t.Fatalf("%d events of %s, want %d", count, entity, n)
	}
	return got
}

func samples(n int, eventType string) []schemas.Event {
	rng := rand.New(rand.NewPCG(1, 1))
	out := make([]schemas.Event, n)
	for i := range out {
		out[i] = sandbox.Sample(rng, eventType, "co_7", int64(i))
	}
	return out
}

func header(r *kafka.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
