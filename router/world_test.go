package router

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// world is a broker in memory with our topics, and everything beneath a router. The tests write subscriptions as records, because what is tested here is
// the router and not their writer.
type world struct {
	t         testing.TB
	ctx       context.Context
	log       *zap.Logger
	broker    *sandbox.Broker
	config    kafka.Config
	client    *kafka.Client
	table     *subscriptions.Table
	stopTable func()
	append    *kafka.Appender
	rng       *rand.Rand
	seq       int64
}

func newWorld(t testing.TB, virtual bool, change func(*kafka.Config)) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	t.Cleanup(cancel)
	if !virtual { // in virtual time an hour passes at once when nobody has anything to do
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		t.Cleanup(cancel)
	}
	w := &world{t: t, ctx: ctx, log: zap.NewNop(), rng: rand.New(rand.NewPCG(1, 2))}
	if testing.Verbose() {
		w.log = zaptest.NewLogger(t)
	}
	w.config = kafka.DefaultConfig()
	w.config.Partitions = 4
	w.config.TopicPrefix = "t."
	if change != nil {
		change(&w.config)
	}
	if addr := os.Getenv("HOOKFERRY_TEST_KAFKA"); addr != "" && !virtual {
		w.onRealKafka(addr)
		return w
	}
	probe, err := kafka.Open(w.config, kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, spec := range probe.Topics().All() {
		names = append(names, spec.Name)
	}
	probe.Close()
	w.broker, err = sandbox.StartBroker(sandbox.BrokerConfig{Virtual: virtual, Options: []kfake.Opt{kfake.SeedTopics(int32(w.config.Partitions), names...)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.broker.Close)
	w.config.Brokers = w.broker.Addrs()
	w.begin()
	return w
}

// onRealKafka runs the test on a broker that somebody started, under a prefix of its own.
func (w *world) onRealKafka(addr string) {
	w.t.Helper()
	w.config.Brokers = []string{addr}
	w.config.TopicPrefix = fmt.Sprintf("t%d.", time.Now().UnixNano())
	c := w.open()
	if _, err := c.CreateTopics(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	w.begin()
}

func (w *world) begin() {
	w.client = w.open()
	w.append = w.client.NewAppender(kafka.AppenderConfig{})
	w.table = w.runTable(w.client)
}

func (w *world) open() *kafka.Client {
	w.t.Helper()
	o := kafka.Options{Log: w.log}
	if w.broker != nil {
		o.Dial = w.broker.Dial
	}
	c, err := kafka.Open(w.config, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) runTable(c *kafka.Client) *subscriptions.Table {
	w.t.Helper()
	table := subscriptions.NewTable(c, nil, subscriptions.Options{Log: w.log})
	w.stopTable = run(w.t, table.Run)
	select {
	case <-table.Loaded():
	case <-w.ctx.Done():
		w.t.Fatal("the subscriptions are not loaded")
	}
	return table
}

// run starts a service; the returned function stops it and waits, and so does the end of the test.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a service ended with: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// router makes one; run it with start.
func (w *world) router(change func(*Config)) *Router {
	w.t.Helper()
	cfg := DefaultConfig()
	cfg.CommitInterval = 50 * time.Millisecond
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg, Deps{Kafka: w.client, Table: w.table, Log: w.log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) start(change func(*Config)) (stop func()) {
	w.t.Helper()
	return run(w.t, w.router(change).Run)
}

// subscribe writes a subscription that is live since an hour ago, and returns when the table has it.
func (w *world) subscribe(id, company, format string, events ...string) {
	w.t.Helper()
	w.put(&schemas.Subscription{ID: id, Version: 1, Company: company, Name: "name of " + id, URL: "https://receiver.example/", Events: events, Format: format,
		State: "active", Spans: []schemas.Cut{{At: time.Now().Add(-time.Hour).UnixMilli(), Kind: "live"}}})
}

func (w *world) put(s *schemas.Subscription) {
	w.t.Helper()
	var rs kafka.Records
	rs.Add(w.place(w.client.Topics().Subscriptions, []byte(s.ID)), []byte(s.ID), nil, schemas.AppendSubscription(nil, s))
	w.write(&rs)
	if err := w.table.CatchUp(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) place(topic string, key []byte) kafka.TP {
	return kafka.TP{Topic: topic, Partition: kafka.Partition(key, w.config.Partitions)}
}

func (w *world) write(rs *kafka.Records) []kafka.Ack {
	w.t.Helper()
	acks, err := w.append.Append(w.ctx, rs)
	if err != nil {
		w.t.Fatal(err)
	}
	return acks
}

// sample is an event of a company, framed with its fingerprint, and where it belongs.
func (w *world) sample(eventType, company string) (kafka.TP, []byte, []byte, *schemas.EventMeta) {
	w.t.Helper()
	w.seq++
	ev := sandbox.Sample(w.rng, eventType, company, w.seq)
	body, err := ev.AppendAvro(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	m := ev.EventMeta()
	key := []byte(m.CompanyID + "/" + m.EntityID)
	value := append(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()), body...)
	return w.place(w.client.Topics().Events[ev.EntityName()], key), key, value, m
}

// publish writes one sample and returns its meta and where it lies.
func (w *world) publish(eventType, company string) (*schemas.EventMeta, schemas.Source) {
	w.t.Helper()
	tp, key, value, m := w.sample(eventType, company)
	var rs kafka.Records
	rs.Add(tp, key, nil, value)
	ack := w.write(&rs)[0]
	return m, schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: ack.Base}
}

// read waits until a topic has at least n records, and returns all that it has then.
func (w *world) read(topic string, n int) []kafka.Record {
	w.t.Helper()
	var out []kafka.Record
	pos := map[kafka.TP]int64{}
	for p := range w.config.Partitions {
		pos[kafka.TP{Topic: topic, Partition: int32(p)}] = 0
	}
	for {
		err := scanTopicFrom(w.ctx, w.client, topic, pos, &out)
		if err != nil || w.ctx.Err() != nil {
			w.t.Fatalf("%s has %d records and not %d: %v", topic, len(out), n, err)
		}
		if len(out) >= n {
			return out
		}
		w.moved(topic, len(out))
	}
}

// moved waits until the ends of a topic add up to more than n.
func (w *world) moved(topic string, n int) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ends, err := w.client.Offsets(w.ctx, topic, kafka.Latest)
		if err != nil {
			w.t.Fatalf("%s has %d records, and no more came: %v", topic, n, err)
		}
		total := int64(0)
		for _, end := range ends {
			total += end
		}
		if total > int64(n) {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%s has %d records, and no more came", topic, n)
		}
	}
}

func scanTopicFrom(ctx context.Context, c *kafka.Client, topic string, pos map[kafka.TP]int64, out *[]kafka.Record) error {
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return err
	}
	open := maps.Clone(pos)
	for tp, at := range pos {
		if at >= ends[tp.Partition] {
			delete(open, tp)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return scan(ctx, c, open, func(tp kafka.TP) int64 { return ends[tp.Partition] }, func(tp kafka.TP, rec *kafka.Record) bool {
		*out = append(*out, *rec)
		pos[tp] = rec.Offset + 1
		return true
	}, nil)
}

// tasks waits for n tasks and returns all there are, by id; two with one id are an error unless copies are allowed.
func (w *world) tasks(n int, copies bool) map[string]schemas.Task {
	w.t.Helper()
	out := map[string]schemas.Task{}
	for _, rec := range w.read(w.client.Topics().Retry, n) {
		var task schemas.Task
		if err := schemas.DecodeTask(rec.Value, &task); err != nil {
			w.t.Fatal(err)
		}
		if string(rec.Key) != task.Subscription {
			w.t.Errorf("task %s has the key %q and the subscription %q", task.ID, rec.Key, task.Subscription)
		}
		if _, double := out[task.ID]; double && !copies {
			w.t.Errorf("task %s was written twice", task.ID)
		}
		out[task.ID] = task
	}
	return out
}

// committed waits until the group has committed everything that the events topics hold.
func (w *world) committed() {
	w.t.Helper()
	ends := map[kafka.TP]int64{}
	for _, topic := range w.client.Topics().EventTopics() {
		last, err := w.client.Offsets(w.ctx, topic, kafka.Latest)
		if err != nil {
			w.t.Fatal(err)
		}
		for p, end := range last {
			ends[kafka.TP{Topic: topic, Partition: p}] = end
		}
	}
	var tps []kafka.TP
	for tp := range ends {
		tps = append(tps, tp)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := w.client.CommittedOffsets(w.ctx, GroupID(w.client.Topics()), tps)
		if err != nil {
			w.t.Fatal(err)
		}
		var behind []string
		for tp, end := range ends {
			if got[tp].Offset < end {
				behind = append(behind, fmt.Sprintf("%s/%d at %d of %d", tp.Topic, tp.Partition, got[tp].Offset, end))
			}
		}
		if len(behind) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("not committed: %s", strings.Join(behind, ", "))
		}
	}
}

// until waits for something in memory that nobody tells.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatal("never: " + what)
		}
	}
}
