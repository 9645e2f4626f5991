package deliverer

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// world is everything around a deliverer: a broker and a Redis (in memory, or those that HOOKFERRY_TEST_KAFKA and HOOKFERRY_TEST_REDIS name), a
// receiver, subscriptions. Tasks are written straight to `retry`, as a router would.
type world struct {
	t        testing.TB
	ctx      context.Context
	log      *zap.Logger
	config   kafka.Config
	broker   *sandbox.Broker
	redis    *sandbox.Redis
	receiver *sandbox.Receiver
	keyring  *secrets.Keyring
	policy   *egress.Policy
	kafka    *kafka.Client
	table    *subscriptions.Table
	writer   *subscriptions.Writer
	appender *kafka.Appender
	events   atomic.Int64
	virtual  bool
	// stopTable ends the following of the subscriptions; what was read stays.
	stopTable func()
	// realRedis is used instead of the one in memory, for figures: only benchmarks set it, since tests stop and flush theirs.
	realRedis string
}

var worlds atomic.Int64

type worldOption func(*worldConfig)

type worldConfig struct {
	virtual    bool
	memory     bool // the broker in memory, whatever HOOKFERRY_TEST_KAFKA says: it refuses what it is told to
	partitions int
	tiers      []time.Duration
	quiet      bool
	ageless    bool // Redis keeps everything: for worlds of many marks and less than an hour
	receiver   sandbox.ReceiverConfig
}

func newWorld(t testing.TB, opts ...worldOption) *world {
	t.Helper()
	wc := worldConfig{partitions: 4}
	for _, o := range opts {
		o(&wc)
	}
	w := &world{t: t, virtual: wc.virtual, log: zap.NewNop()}
	if testing.Verbose() && !wc.quiet {
		w.log = zaptest.NewLogger(t)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.ctx = ctx
	t.Cleanup(cancel)
	w.config = kafka.DefaultConfig()
	w.config.TopicPrefix = fmt.Sprintf("d%d-%d.", time.Now().UnixNano(), worlds.Add(1))
	w.config.Partitions = wc.partitions
	w.config.ReplicationFactor = 1
	if wc.tiers != nil {
		w.config.Tiers = wc.tiers
	}
	var err error
	if addrs := os.Getenv("HOOKFERRY_TEST_KAFKA"); addrs != "" && !wc.virtual && !wc.memory {
		w.config.Brokers = strings.Split(addrs, ",")
	} else {
		w.broker, err = sandbox.StartBroker(sandbox.BrokerConfig{Virtual: wc.virtual})
		w.must(err)
		t.Cleanup(w.broker.Close)
		w.config.Brokers = w.broker.Addrs()
	}
	w.redis, err = sandbox.StartRedis(sandbox.RedisConfig{Virtual: wc.virtual, Ageless: wc.ageless})
	w.must(err)
	t.Cleanup(w.redis.Close)
	wc.receiver.Virtual = wc.virtual
	w.receiver, err = sandbox.StartReceiver(wc.receiver)
	w.must(err)
	t.Cleanup(w.receiver.Close)
	w.keyring = secrets.Generate()
	w.policy, err = egress.NewPolicy(egress.Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"127.0.0.0/8"}, Dial: w.receiver.Dial})
	w.must(err)
	w.kafka = w.open()
	_, err = w.kafka.CreateTopics(ctx)
	w.must(err)
	w.table = w.runTable(w.kafka)
	w.writer = subscriptions.NewWriter(w.kafka, w.table, w.keyring, w.policy, subscriptions.DefaultConfig())
	w.appender = w.kafka.NewAppender(kafka.AppenderConfig{})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() *kafka.Client {
	o := kafka.Options{Log: w.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))}
	if w.broker != nil {
		o.Dial = w.broker.Dial
	}
	c, err := kafka.Open(w.config, o)
	w.must(err)
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) runTable(c *kafka.Client) *subscriptions.Table {
	table := subscriptions.NewTable(c, w.keyring, subscriptions.Options{Log: w.log})
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	w.stopTable = sync.OnceFunc(func() { cancel(); <-ended })
	w.t.Cleanup(w.stopTable)
	select {
	case <-table.Loaded():
	case err := <-ended:
		ended <- err
		w.t.Fatal("the table ended: ", err)
	}
	return table
}

// subscribe creates a subscription at a path of the receiver. What it gives is the test's own: the table has another.
func (w *world) subscribe(path string, edit ...func(*subscriptions.Draft)) *subscriptions.Live {
	w.t.Helper()
	d := subscriptions.Draft{Company: "acme", Name: "s" + strconv.FormatInt(w.events.Add(1), 10), URL: w.receiver.URL(path), Events: []string{"*"}, Timeout: 5 * time.Second}
	for _, e := range edit {
		e(&d)
	}
	live, secret, err := w.writer.Create(w.ctx, d)
	w.must(err)
	w.must(w.receiver.Trust(path, string(secret.Reveal())))
	return &subscriptions.Live{Subscription: live.Subscription}
}

// subscribeAll creates several at once, because each waits for its cut.
func (w *world) subscribeAll(paths ...string) []*subscriptions.Live {
	w.t.Helper()
	out := make([]*subscriptions.Live, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() { out[i] = w.subscribe(p) })
	}
	wg.Wait()
	return out
}

// task is a new task for a subscription.
func (w *world) task(s *subscriptions.Live) *schemas.Task {
	n := w.events.Add(1)
	src := schemas.Source{Topic: w.kafka.Topics().Events["booking"], Partition: 1, Offset: n, Time: time.Now().UnixMilli()}
	event := fmt.Sprintf("evt_%08d", n)
	return &schemas.Task{
		ID: schemas.TaskID(src, event, s.ID, ""), EventID: event, EventType: "booking.creation", Company: "acme", EntityID: "b" + strconv.FormatInt(n, 10),
		Subscription: s.ID, SubscriptionVersion: s.Version, Source: src, OccurredAt: src.Time, CreatedAt: src.Time, Attempt: 1, Lane: schemas.LaneLive,
		ContentType: "application/json", Body: []byte(fmt.Sprintf(`{"type":"booking.creation","data":{"number":%d}}`, n)),
	}
}

// put writes tasks to `retry`.
func (w *world) put(ts ...*schemas.Task) {
	w.t.Helper()
	w.putTo(w.kafka.Topics().Retry, ts...)
}

func (w *world) putTo(topic string, ts ...*schemas.Task) {
	w.t.Helper()
	var r kafka.Records
	for _, t := range ts {
		r.Add(kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(t.Subscription), w.config.Partitions)}, []byte(t.Subscription), nil, schemas.AppendTask(nil, t))
	}
	_, err := w.appender.Append(w.ctx, &r)
	w.must(err)
}

// run is one deliverer at work.
type run struct {
	*Deliverer
	cancel context.CancelFunc
	ended  chan error
	once   sync.Once
	err    error
}

func (w *world) options() (Config, Deps) {
	cfg := DefaultConfig()
	cfg.Redis.Addr = w.redis.Addr
	cfg.Redis.Dial = w.redis.Dial
	if w.realRedis != "" {
		cfg.Redis.Addr, cfg.Redis.Dial = w.realRedis, nil
	}
	return cfg, Deps{Kafka: w.kafka, Table: w.table, Writer: w.writer, Policy: w.policy, Log: w.log, Metrics: prometheus.NewRegistry()}
}

// start starts a deliverer.
func (w *world) start(edit ...func(*Config, *Deps)) *run {
	w.t.Helper()
	cfg, deps := w.options()
	for _, e := range edit {
		e(&cfg, &deps)
	}
	d, err := New(cfg, deps)
	w.must(err)
	ctx, cancel := context.WithCancel(w.ctx)
	r := &run{Deliverer: d, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- d.Run(ctx) }()
	w.t.Cleanup(func() { r.stop() })
	return r
}

func (r *run) stop() error {
	r.once.Do(func() {
		r.cancel()
		r.err = <-r.ended
	})
	return r.err
}

func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.ctx, d)
	w.t.Cleanup(cancel)
	return ctx
}

// read returns all records of a topic as they are now.
func (w *world) read(topic string) (out []kafka.Record) {
	w.t.Helper()
	ends, err := w.kafka.Offsets(w.ctx, topic, kafka.Latest)
	w.must(err)
	starts, err := w.kafka.Offsets(w.ctx, topic, kafka.Earliest)
	w.must(err)
	left, pos := 0, map[kafka.TP]int64{}
	for p, end := range ends {
		if end > starts[p] {
			pos[kafka.TP{Topic: topic, Partition: p}] = starts[p]
			left++
		}
	}
	if left == 0 {
		return nil
	}
	f := w.kafka.NewFetcher(kafka.FetchConfig{MaxWait: 50 * time.Millisecond})
	f.Assign(pos)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			out = append(out, bs[i].Records...)
			for _, r := range bs[i].Records {
				if r.Offset == ends[bs[i].Partition]-1 {
					left--
				}
			}
		}
		if left == 0 {
			stop()
		}
		return nil
	})
	return out
}

func (w *world) attempts() (out []schemas.Attempt) {
	w.t.Helper()
	for _, r := range w.read(w.kafka.Topics().Attempts) {
		var a schemas.Attempt
		w.must(schemas.DecodeAttempt(r.Value, &a))
		out = append(out, a)
	}
	return out
}

func (w *world) dead() (out []schemas.Dead) {
	w.t.Helper()
	for _, r := range w.read(w.kafka.Topics().Dead) {
		var d schemas.Dead
		w.must(schemas.DecodeDead(r.Value, &d))
		out = append(out, d)
	}
	return out
}

// eventually waits until ok, asking every few milliseconds: for what happens in a process and leaves no record to wait for.
func (w *world) eventually(d time.Duration, what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(d)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			w.t.Fatalf("within %v it did not come to pass: %s", d, what)
		}
	}
}
