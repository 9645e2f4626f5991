package recent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// world is a broker in memory with our topics, and whoever publishes bookings to it.
type world struct {
	t      testing.TB
	ctx    context.Context
	log    *zap.Logger
	broker *sandbox.Broker
	config kafka.Config
	client *kafka.Client
	append *kafka.Appender
	rng    *rand.Rand

	metrics *prometheus.Registry // of the service that was started last
	last    int64                // when a booking was published last, ms
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, log: zap.NewNop(), rng: rand.New(rand.NewPCG(1, 2))}
	if testing.Verbose() {
		w.log = zaptest.NewLogger(t)
	}
	w.config = kafka.DefaultConfig()
	w.config.Partitions, w.config.TopicPrefix = 4, "t."
	probe, err := kafka.Open(w.config, kafka.Options{})
	w.must(err)
	var names []string
	for _, spec := range probe.Topics().All() {
		names = append(names, spec.Name)
	}
	probe.Close()
	w.broker, err = sandbox.StartBroker(sandbox.BrokerConfig{Options: []kfake.Opt{kfake.SeedTopics(int32(w.config.Partitions), names...)}})
	w.must(err)
	t.Cleanup(w.broker.Close)
	w.config.Brokers = w.broker.Addrs()
	w.client, err = kafka.Open(w.config, kafka.Options{Log: w.log})
	w.must(err)
	t.Cleanup(w.client.Close)
	w.append = w.client.NewAppender(kafka.AppenderConfig{})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write appends a value to the topic of an entity, where the key belongs.
func (w *world) write(entity, key string, headers []kafka.Header, value []byte) {
	w.t.Helper()
	var rs kafka.Records
	tp := kafka.TP{Topic: w.client.Topics().Events[entity], Partition: kafka.Partition([]byte(key), w.config.Partitions)}
	rs.Add(tp, []byte(key), headers, value)
	_, err := w.append.Append(w.ctx, &rs)
	w.must(err)
}

// booking publishes an event of a booking, made of a sample.
func (w *world) booking(eventType, company, id string, version int64, edit ...func(*schemas.BookingEvent)) *schemas.BookingEvent {
	w.t.Helper()
	ev := sandbox.Sample(w.rng, eventType, company, int64(w.rng.IntN(1000))).(*schemas.BookingEvent)
	ev.Meta.EntityID, ev.Data.BookingID, ev.Meta.EntityVersion = id, id, version
	for _, e := range edit {
		e(ev)
	}
	for w.last == time.Now().UnixMilli() { // two events of one millisecond are told apart by their partitions, and the tests tell them apart by their order
		runtime.Gosched()
	}
	w.write("booking", company+"/"+id, nil, framed(w.t, ev))
	w.last = time.Now().UnixMilli()
	return ev
}

// publish is what a producer does, as far as it matters here.
func (w *world) publish(ctx context.Context, ev schemas.Event) error {
	m := ev.EventMeta()
	value, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()))
	if err != nil {
		return err
	}
	w.write(ev.EntityName(), m.CompanyID+"/"+m.EntityID, []kafka.Header{{Key: "ce_id", Value: []byte(m.EventID)}}, value)
	return nil
}

// snapshots reads all that were published.
func (w *world) snapshots() (out []*schemas.RecentReservationsEvent) {
	w.t.Helper()
	for _, r := range w.records(w.client.Topics().Events["recent_reservations"]) {
		_, body, err := schemas.Unframe(r.Value)
		w.must(err)
		ev := new(schemas.RecentReservationsEvent)
		w.must(ev.DecodeAvro(body))
		out = append(out, ev)
	}
	return out
}

// records reads a topic to its end.
func (w *world) records(topic string) (out []kafka.Record) {
	w.t.Helper()
	starts, err := w.client.Offsets(w.ctx, topic, kafka.Earliest)
	w.must(err)
	ends, err := w.client.Offsets(w.ctx, topic, kafka.Latest)
	w.must(err)
	pos := map[kafka.TP]int64{}
	for p, end := range ends {
		if starts[p] < end {
			pos[kafka.TP{Topic: topic, Partition: p}] = starts[p]
		}
	}
	if len(pos) == 0 {
		return nil
	}
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	f := w.client.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	w.must(f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			out = append(out, bs[i].Records...)
			if bs[i].Next >= ends[bs[i].Partition] {
				delete(pos, bs[i].TP)
			}
		}
		if len(pos) == 0 {
			stop()
		}
		return nil
	}))
	return out
}

const token = "a-token-of-the-test"

// start runs a service on a free port, and returns when it answers; stop ends it and waits.
func (w *world) start(edit ...func(*Config)) (s *Service, stop func()) {
	w.t.Helper()
	cfg := Config{Listen: "127.0.0.1:0"}
	for _, e := range edit {
		e(&cfg)
	}
	listening := make(chan struct{})
	w.metrics = prometheus.NewRegistry()
	s, err := New(cfg, Deps{Kafka: w.client, Publish: w.publish, Log: w.log, Metrics: w.metrics,
		Listen: func(network, address string) (net.Listener, error) {
			defer close(listening)
			return net.Listen(network, address)
		}})
	w.must(err)
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				w.t.Errorf("the service ended with: %v", err)
			}
		}
	}
	w.t.Cleanup(stop)
	<-listening
	w.until("the bookings are loaded", func() bool { return s.Addr() != "" && s.Ready() == nil })
	return s, stop
}

// counted gives a counter of the service that was started last, by its one label.
func (w *world) counted(name string) map[string]float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	w.must(err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return out
}

// ask sends the broker what only administrators send.
func (w *world) ask(req kmsg.Request) {
	w.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(w.config.Brokers...))
	w.must(err)
	defer c.Close()
	_, err = c.Request(w.ctx, req)
	w.must(err)
}

// until waits for something that nobody tells.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatal("never: " + what)
		}
	}
}

// list is an answer as far as the tests look at it.
type list struct {
	AsOf      time.Time
	CompanyID string
	Limit     int
	Truncated bool
	Bookings  []struct {
		BookingID, Status, LastEvent, CustomerName, Title, FirstDate, LastDate string
		EntityVersion, Lines, Passengers                                       int64
		ChangedAt                                                              time.Time
		CancelledAt                                                            *time.Time
		Total                                                                  struct{ Amount, Currency string }
	}
}

func (l *list) ids() (out []string) {
	for _, b := range l.Bookings {
		out = append(out, fmt.Sprintf("%s v%d %s", b.BookingID, b.EntityVersion, b.Status))
	}
	return out
}

// fresh waits until the service has read everything, and asks it.
func (w *world) fresh(s *Service, company string, limit int) *list {
	w.t.Helper()
	w.must(s.bookings.catchUp(w.ctx))
	c := NewClient("http://"+s.Addr(), s.cfg.Token)
	defer c.Close()
	doc, err := c.Recent(w.ctx, Ask{Company: company, Limit: limit})
	w.must(err)
	out := new(list)
	w.must(json.Unmarshal(doc, out))
	return out
}

// call makes a plain request.
func (w *world) call(s *Service, method, path string, q url.Values, edit func(*http.Request)) (status int, body string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, method, "http://"+s.Addr()+path+"?"+q.Encode(), nil)
	w.must(err)
	if edit != nil {
		edit(req)
	}
	resp, err := http.DefaultClient.Do(req)
	w.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp.StatusCode, string(b)
}
