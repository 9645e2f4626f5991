package house

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// deployment is Kafka, Redis, receivers and a platform team: services are started and stopped as a test needs them, each with a client
// and a table of its own, as the processes that they stand for.
type deployment struct {
	t        *testing.T
	ctx      context.Context
	log      *zap.Logger
	config   kafka.Config
	redis    deliverer.RedisConfig
	receiver *sandbox.Receiver
	keyring  *secrets.Keyring
	keys     string // its text
	policy   *egress.Policy
	kafka    *kafka.Client
	writer   *subscriptions.Writer
	producer *producer.Producer
	rng      *rand.Rand
	seq      int64
}

var deployments atomic.Int64

// deploy starts everything but router and deliverer.
func deploy(t *testing.T) *deployment {
	t.Helper()
	// Longer than any of these tests needs on a loaded machine of two cores; what it bounds is a hang.
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	d := &deployment{t: t, ctx: ctx, log: zap.NewNop(), rng: rand.New(rand.NewPCG(1, 2))}
	if testing.Verbose() && os.Getenv("HOOKFERRY_TEST_LOG") != "" {
		d.log = zaptest.NewLogger(t)
	}
	d.keys, d.keyring = newKeys(t)
	d.config = kafka.DefaultConfig()
	d.config.TopicPrefix = fmt.Sprintf("house%d-%d.", time.Now().UnixNano(), deployments.Add(1))
	d.config.Partitions = 4
	d.config.Tiers = []time.Duration{time.Second, 5 * time.Second, time.Minute}
	if addrs := os.Getenv("HOOKFERRY_TEST_KAFKA"); addrs != "" {
		d.config.Brokers = strings.Split(addrs, ",")
	} else {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
		d.must(err)
		t.Cleanup(b.Close)
		d.config.Brokers = b.Addrs()
	}
	d.redis = deliverer.DefaultRedisConfig()
	if d.redis.Addr = os.Getenv("HOOKFERRY_TEST_REDIS"); d.redis.Addr == "" {
		r, err := sandbox.StartRedis(sandbox.RedisConfig{})
		d.must(err)
		t.Cleanup(r.Close)
		d.redis.Addr = r.Addr
	}
	var err error
	d.receiver, err = sandbox.StartReceiver(sandbox.ReceiverConfig{})
	d.must(err)
	t.Cleanup(d.receiver.Close)
	d.policy, err = egress.NewPolicy(egress.Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"127.0.0.0/8"}})
	d.must(err)
	d.connect()
	return d
}

// connect makes the topic set of d's configuration, and what writes into it.
func (d *deployment) connect() {
	d.t.Helper()
	d.kafka = d.open()
	_, err := d.kafka.CreateTopics(d.ctx)
	d.must(err)
	table := d.runTable(d.kafka)
	d.writer = subscriptions.NewWriter(d.kafka, table, d.keyring, d.policy, subscriptions.DefaultConfig())
	pc := producer.DefaultConfig()
	pc.Brokers, pc.TopicPrefix = d.config.Brokers, d.config.TopicPrefix
	p, err := producer.New(d.ctx, pc)
	d.must(err)
	d.producer = p
	d.t.Cleanup(func() { p.Close(context.Background()) })
}

func (d *deployment) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployment) open() *kafka.Client {
	c, err := kafka.Open(d.config, kafka.Options{Log: d.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))})
	d.must(err)
	d.t.Cleanup(c.Close)
	return c
}

func (d *deployment) runTable(c *kafka.Client) *subscriptions.Table {
	table := subscriptions.NewTable(c, d.keyring, subscriptions.Options{Log: d.log})
	d.run("table", table.Run)
	select {
	case <-table.Loaded():
	case <-d.ctx.Done():
		d.t.Fatal("the table did not load")
	}
	return table
}

// run runs a service until the returned function is called, or the test ends, and waits for its end. An error is the test's.
func (d *deployment) run(name string, service func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(d.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := service(ctx); err != nil && ctx.Err() == nil {
			d.t.Errorf("%s ended: %v", name, err)
		}
	}()
	stop = func() { cancel(); <-ended }
	d.t.Cleanup(stop)
	return stop
}

// router starts one more router and returns how to stop it.
func (d *deployment) router() (stop func()) {
	c := d.open()
	r, err := router.New(router.DefaultConfig(), router.Deps{Kafka: c, Table: d.runTable(c), Log: d.log})
	d.must(err)
	return d.run("router", r.Run)
}

// deliverer starts one more deliverer and returns how to stop it.
func (d *deployment) deliverer() (stop func()) {
	c := d.open()
	table := d.runTable(c)
	cfg := deliverer.DefaultConfig()
	cfg.Redis = d.redis
	s, err := deliverer.New(cfg, deliverer.Deps{Kafka: c, Table: table, Policy: d.policy, Log: d.log,
		Writer: subscriptions.NewWriter(c, table, d.keyring, d.policy, subscriptions.DefaultConfig())})
	d.must(err)
	return d.run("deliverer", s.Run)
}

// subscribe creates a subscription at a path of the receiver, which then verifies what comes there.
func (d *deployment) subscribe(company, path string, edit ...func(*subscriptions.Draft)) *subscriptions.Live {
	d.t.Helper()
	draft := subscriptions.Draft{Company: company, Name: "at " + path, URL: d.receiver.URL(path), Events: []string{"*"}, Schedule: []time.Duration{0, time.Second, time.Second, time.Second}}
	for _, e := range edit {
		e(&draft)
	}
	l, secret, err := d.writer.Create(d.ctx, draft)
	d.must(err)
	d.must(d.receiver.Trust(path, string(secret.Reveal())))
	return l
}

// event makes a new event of a type.
func (d *deployment) event(eventType, company string) schemas.Event {
	d.seq++
	return sandbox.Sample(d.rng, eventType, company, d.seq)
}

// publish publishes events of a type and returns their ids.
func (d *deployment) publish(eventType, company string, n int) (ids []string) {
	d.t.Helper()
	var events []schemas.Event
	for range n {
		ev := d.event(eventType, company)
		events = append(events, ev)
		ids = append(ids, ev.EventMeta().EventID)
	}
	d.must(d.producer.Publish(d.ctx, events...))
	return ids
}

// at lists the deliveries (2xx) at a path.
func (d *deployment) at(path string) (got []*sandbox.Received) {
	for _, r := range d.receiver.Ledger() {
		if r.Path == path && r.Delivered() {
			got = append(got, r)
		}
	}
	return got
}

// arrive waits until each of these events was delivered at a path.
func (d *deployment) arrive(path string, l *subscriptions.Live, ids ...string) {
	d.t.Helper()
	want := map[string]bool{}
	for _, id := range ids {
		want[schemas.WebhookID(l.ID, id)] = true
	}
	from := 0
	err := d.receiver.Wait(d.ctx, func(ledger []*sandbox.Received) bool {
		for ; from < len(ledger); from++ {
			if r := ledger[from]; r.Path == path && r.Delivered() {
				delete(want, r.WebhookID)
			}
		}
		return len(want) == 0
	})
	if err != nil {
		d.t.Fatalf("%s: %d of %d events did not arrive: %v", path, len(want), len(ids), err)
	}
}
