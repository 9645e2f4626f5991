package router

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// later waits in virtual time.
func later(d time.Duration) { <-time.After(d) }

// Rule 13: without a committed offset, the earliest record only in a deployment that has never routed; else the partition is refused, with a command.
func TestWithoutACommittedOffsetAnOldDeploymentIsRefused(t *testing.T) {
	for _, old := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, true, nil)
			core, logs := observer.New(zapcore.ErrorLevel)
			w.log = zap.New(core)
			w.subscribe("sub_1", "c_a", FormatStandard, "*")
			before := 0
			if old {
				var rs kafka.Records
				rs.Add(w.place(w.client.Topics().Retry, []byte("x")), []byte("x"), nil, []byte("written by a router long ago"))
				w.write(&rs)
				before = 1
				later(2 * time.Minute)
			}
			w.publish("booking.creation", "c_a")
			w.start(nil)
			later(time.Minute)
			routed := len(w.read(w.client.Topics().Retry, before)) - before
			refused := logs.FilterMessageSnippet("no committed offset").All()
			if old && (routed != 0 || len(refused) != 44 || !strings.Contains(fmt.Sprint(refused[0].ContextMap()["run"]), "--reset-offsets --to-earliest")) {
				t.Errorf("old: %d routed, %d partitions refused", routed, len(refused))
			}
			if !old && (routed != 1 || len(refused) != 0) {
				t.Errorf("new: %d routed, %d partitions refused", routed, len(refused))
			}
		})
	}
}

// Rule 13: below the start is data loss, reported exactly; beyond the end stops.
func TestOutOfRangeIsReportedAndNeverGuessed(t *testing.T) {
	w := newWorld(t, false, nil)
	core, logs := observer.New(zapcore.ErrorLevel)
	w.log = zap.New(core)
	r := w.router(nil)
	tp := kafka.TP{Topic: "t.events.booking", Partition: 2}
	if next, ok := r.outOfRange(tp, 100, 150, 900); next != 150 || !ok {
		t.Error(next, ok)
	}
	if _, ok := r.outOfRange(tp, 901, 150, 900); ok {
		t.Error("went on beyond the end")
	}
	stopped := func() float64 {
		reg := prometheus.NewRegistry()
		reg.MustRegister(r.metrics.waiting)
		families, err := reg.Gather()
		if err != nil || len(families) != 1 || len(families[0].GetMetric()) != 1 {
			t.Fatal(families, err)
		}
		return families[0].GetMetric()[0].GetGauge().GetValue()
	}
	r.outOfRange(tp, 901, 150, 900) // once more, and it is one partition still
	if n := stopped(); n != 1 {
		t.Errorf("%v partitions are said to have stopped", n)
	}
	for i, c := range []struct {
		pos  map[kafka.TP]int64
		want float64
	}{{map[kafka.TP]int64{tp: kafka.KeepPosition}, 1}, {map[kafka.TP]int64{}, 0}} {
		if r.begun(c.pos); stopped() != c.want {
			t.Errorf("generation %d: %v partitions are said to have stopped", i, stopped())
		}
	}
	all := logs.All()[:2]
	if len(all) != 2 {
		t.Fatal(all)
	}
	if m := all[0].ContextMap(); m["lost_from"] != int64(100) || m["lost_to"] != int64(149) || m["partition"] != int32(2) {
		t.Error(m)
	}
	if !strings.Contains(fmt.Sprint(all[1].ContextMap()["run"]), "--group "+w.config.TopicPrefix+"router --topic t.events.booking:2") {
		t.Error(all[1].ContextMap())
	}
}

// Section 7: nothing is matched against a table that may be older than a second.
func TestNothingIsRoutedAgainstAnOldTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		own := *w
		own.table = subscriptions.NewTable(w.client, nil, subscriptions.Options{})
		stop := run(t, own.table.Run)
		<-own.table.Loaded()
		own.start(nil)
		w.publish("booking.creation", "c_a")
		w.read(w.client.Topics().Retry, 1)
		stop() // nobody reads the subscriptions any more
		later(maxTableAge)
		w.publish("booking.creation", "c_a")
		later(time.Minute)
		if n := len(w.read(w.client.Topics().Retry, 1)); n != 1 {
			t.Errorf("%d tasks", n)
		}
	})
}

// The cut "live": an event appended before it is not routed, one appended from it on is; time is the broker's.
func TestOnlyEventsFromTheCutOnAreRouted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		cut := time.Now().Add(2 * time.Second)
		w.put(&schemas.Subscription{ID: "sub_1", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"*"}, State: "active",
			Spans: []schemas.Cut{{At: cut.UnixMilli(), Kind: "live"}}})
		for range 3 {
			w.publish("booking.creation", "c_a")
		}
		later(time.Until(cut) + time.Millisecond)
		m, _ := w.publish("booking.creation", "c_a")
		w.start(nil) // late: what decides is the append time
		w.committed()
		got := w.tasks(1, false)
		for _, task := range got {
			if len(got) != 1 || task.EventID != m.EventID {
				t.Errorf("%d tasks, one of event %s", len(got), task.EventID)
			}
		}
	})
}

// registry is a schema registry that can be taught and switched off.
type registry struct {
	mu    sync.Mutex
	texts map[string]string // by id
	down  bool
	asked chan string
}

func startRegistry(t *testing.T) (*registry, string) {
	g := &registry{texts: map[string]string{}, asked: make(chan string, 1000)}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		id := strings.TrimPrefix(q.URL.Path, "/schemas/ids/")
		g.asked <- id
		text, ok := g.texts[id]
		switch {
		case g.down:
			w.WriteHeader(http.StatusServiceUnavailable)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error_code":40403,"message":"Schema not found"}`)
		default:
			json.NewEncoder(w).Encode(map[string]string{"schema": text})
		}
	}))
	t.Cleanup(s.Close)
	return g, s.URL
}

func (g *registry) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// confluent publishes an event framed with a registry's id.
func (w *world) confluent(eventType string, id byte) (*schemas.EventMeta, schemas.Source, []byte) {
	w.t.Helper()
	tp, key, value, m := w.sample(eventType, "c_a")
	value = append([]byte{0, 0, 0, 0, id}, value[10:]...)
	var rs kafka.Records
	rs.Add(tp, key, nil, value)
	ack := w.write(&rs)[0]
	return m, schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: ack.Base}, value
}

// A registry that is down, and an id that it does not know yet, hold the partition that needs it and no other.
func TestAPartitionWaitsForItsSchemaAndNoOtherWaits(t *testing.T) {
	g, url := startRegistry(t)
	g.down = true
	w := newWorld(t, false, func(c *kafka.Config) { c.Registry.URL = url })
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	w.start(nil)
	needs, src, _ := w.confluent("booking.creation", 7)
	id := schemas.TaskID(src, needs.EventID, "sub_1", "")
	<-g.asked
	for range 20 {
		w.publish("product.creation", "c_a")
	}
	if _, early := w.tasks(20, false)[id]; early {
		t.Fatal("was routed without its schema")
	}
	g.set(func() { g.down = false }) // now it answers, and does not know the id
	for range cap(g.asked) {
		if len(g.asked) == 0 {
			break
		}
		<-g.asked
	}
	<-g.asked
	<-g.asked
	g.set(func() { g.texts["7"] = schemas.EventSchemaText("booking") })
	if _, ok := w.tasks(21, false)[id]; !ok {
		t.Error("was not routed when its schema came")
	}
	if ends, err := w.client.Offsets(w.ctx, w.client.Topics().Undecodable, kafka.Latest); err != nil || ends[0]+ends[1]+ends[2]+ends[3] != 0 {
		t.Error("became undecodable while it was waited for", ends, err)
	}
	w.committed()
}

// An id that stays unknown makes its events undecodable; once it is registered, a reroute makes the tasks that they would have had.
func TestRerouteSendsUndecodableThroughAgainUnderTheSameIDs(t *testing.T) {
	g, url := startRegistry(t)
	w := newWorld(t, false, func(c *kafka.Config) { c.Registry.URL = url })
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	w.subscribe("sub_2", "c_a", FormatClassic, "*")
	r := w.router(func(c *Config) { c.UnknownSchemaWait = 0 })
	stop := run(t, r.Run)
	want := map[string]bool{}
	const n = 30
	for i := range n {
		m, src, value := w.confluent("customer.amendment", 9)
		if i == 0 {
			var rs kafka.Records // and one that will never be readable
			rs.Add(kafka.TP{Topic: src.Topic, Partition: src.Partition}, []byte("k"), nil, value[:20])
			w.write(&rs)
		}
		want[schemas.TaskID(src, m.EventID, "sub_1", "")] = true
		want[schemas.TaskID(src, m.EventID, "sub_2", "")] = true
	}
	w.read(w.client.Topics().Undecodable, n+1)
	// What decides is when the event was appended: one who came later gets nothing of it.
	w.put(&schemas.Subscription{ID: "sub_late", Version: 1, Company: "c_a", Name: "n", URL: "https://r.example/", Events: []string{"*"}, State: "active",
		Spans: []schemas.Cut{{At: w.client.BrokerNow().UnixMilli() + 1, Kind: "live"}}})
	g.set(func() { g.texts["9"] = schemas.EventSchemaText("customer") })
	// The router that lost the id asks again, now: the live path would ask at most every ten seconds.
	o, err := StartReroute(w.ctx, w.client, RerouteFilter{Reason: reasonUnknownSchema})
	if err != nil {
		t.Fatal(err)
	}
	done := func(o *schemas.Replay) (s RerouteState) {
		w.until("the reroute is done", func() bool {
			var err error
			if s, err = RerouteProgress(w.ctx, w.client, o); err != nil {
				t.Fatal(err)
			}
			return s.Done()
		})
		return s
	}
	if s := done(o); s.Scanned != n+1 || s.Matched != n {
		t.Errorf("%+v", s)
	}
	got := w.tasks(2*n, false)
	for id := range want {
		if _, ok := got[id]; !ok {
			t.Errorf("lacks a task")
		}
	}
	// Once more, and by id: the same ids, which the marks drop.
	var one string
	if _, err := ScanUndecodable(w.ctx, w.client, -1, nil, func(u *Undecodable) bool { one = u.ID(); return len(u.Value) <= 20 }); err != nil {
		t.Fatal(err)
	}
	if o, err = StartReroute(w.ctx, w.client, RerouteFilter{ID: one}); err != nil {
		t.Fatal(err)
	}
	if s := done(o); s.Scanned != 1 || s.Matched != 1 {
		t.Errorf("by id: %+v", s)
	}
	if again := w.tasks(2*n+2, true); len(again) != 2*n {
		t.Errorf("%d different tasks, and there are %d", len(again), 2*n)
	}
	// A router that comes later finds everything done and writes nothing.
	stop()
	late := w.router(nil)
	run(t, late.Run)
	w.until("the late router has read the reroutes", func() bool { return late.Ready() == nil })
	if _, err := StartReroute(w.ctx, w.client, RerouteFilter{ID: "0-99999"}); err == nil {
		t.Error("an id that is not there was taken")
	}
	if found, err := FindReroute(w.ctx, w.client, o.ID); err != nil || found == nil || found.TaskID != one {
		t.Error(found, err)
	}
}

// undecodable is the batch of partition 0 that a fetch of `undecodable` brings for n events, with a router that owns it and a reroute of all of it.
func (w *world) undecodable(r *Router, values [][]byte, from kafka.TP) (*schemas.Replay, *kafka.Batch) {
	o := &schemas.Replay{ID: "rpl_test", Kind: schemas.ReplayReroute, State: schemas.ReplayRunning}
	r.orders.standing[o.ID] = o
	r.owned.take(nil, map[int32]bool{0: true}, nil)
	b := &kafka.Batch{TP: kafka.TP{Topic: w.client.Topics().Undecodable}, Next: int64(len(values))}
	for i, value := range values {
		rec := kafka.Record{Offset: int64(i), Time: time.Now().UnixMilli(), Value: value}
		rec.Headers = undecodableHeaders(from, &rec, 0, reasonUnknownSchema)
		b.Records = append(b.Records, rec)
	}
	return o, b
}

// One fetch of undecodable records may become many times as much in tasks: they are written as soon as a request is full, not when all are made.
func TestARerouteWritesItsTasksAsTheyAreMade(t *testing.T) {
	w := newWorld(t, false, nil)
	if w.broker == nil {
		t.Skip("only the broker in memory can be asked when it was written to first")
	}
	const events, subs, size = 24, 16, 100 << 10
	for i := range subs {
		w.subscribe(fmt.Sprintf("sub_%d", i), "c_a", FormatStandard, "*")
	}
	ev := sandbox.Sample(w.rng, "product.creation", "c_a", 1).(*schemas.ProductEvent)
	long := strings.Repeat("x", size)
	ev.Data.Description = &long
	body, err := ev.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	value := append(schemas.AppendSingleObject(nil, schemas.EventSchema("product").Fingerprint()), body...)
	r := w.router(nil)
	o, b := w.undecodable(r, slices.Repeat([][]byte{value}, events), w.place(w.client.Topics().Events["product"], nil))
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.metrics.rerouted)
	routed := func() int {
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Error(families, err)
			return 0
		}
		return int(families[0].GetMetric()[0].GetCounter().GetValue())
	}
	var most, written int // records taken up between two writes; one goroutine at a time is answered
	retry := w.client.Topics().Retry
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		if req := q.(*kmsg.ProduceRequest); req.Topics[0].Topic == retry {
			n := routed()
			most, written = max(most, n-written), n
		}
		return nil, nil, false
	})
	p := &progress{Replay: o.ID, Topic: b.Topic}
	if err := r.reroute.batch(w.ctx, o, p, b, events); err != nil {
		t.Fatal(err)
	}
	if want := flushBytes/(subs*size) + 1; most == 0 || most > want {
		t.Errorf("the tasks of %d records were held at once, and %d fill a request", most, want)
	}
	if p.Matched != events || !p.Done || len(w.tasks(events*subs, false)) != events*subs {
		t.Errorf("%+v", p)
	}
}

// Section 7 holds for a reroute too: a record that waited for its schema is matched against a table that is fresh then, not one that was when the waiting began.
func TestARerouteThatWaitedMatchesAgainstAFreshTable(t *testing.T) {
	for _, stale := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, true, nil)
			w.subscribe("sub_1", "c_a", FormatStandard, "*")
			r := w.router(nil) // does not run: nobody asks for the schema, so the record waits until the test has it
			tp, _, value, _ := w.sample("booking.creation", "c_a")
			frame := schemas.Frame{Fingerprint: [8]byte{1, 2, 3}}
			o, b := w.undecodable(r, [][]byte{append(schemas.AppendSingleObject(nil, frame.Fingerprint), value[10:]...)}, tp)
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- r.reroute.batch(ctx, o, &progress{Replay: o.ID, Topic: b.Topic}, b, 1) }()
			later(time.Minute)
			if stale {
				w.stopTable()
				later(maxTableAge)
			}
			r.schemas.settle(r.schemas.writers[frame], schemas.EventSchema("booking"), nil)
			later(time.Minute)
			if n := len(w.read(w.client.Topics().Retry, 0)); n == 0 != stale {
				t.Errorf("stale %v: %d tasks", stale, n)
			}
			cancel()
			if err := <-done; (err != nil) != stale {
				t.Errorf("stale %v: %v", stale, err)
			}
		})
	}
}

// Rule 12: if undecodable cannot be written, the partition stops, loudly, and goes on when it can; others do not wait.
func TestAPartitionStopsWhileUndecodableCannotBeWritten(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	if w.broker == nil {
		t.Skip("only the broker in memory can be told to refuse")
	}
	core, logs := observer.New(zapcore.ErrorLevel)
	w.log = zap.New(core)
	topic := w.client.Topics().Undecodable
	refused, refuse := make(chan struct{}, 1000), true
	var mu sync.Mutex
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		mu.Lock()
		defer mu.Unlock()
		req := q.(*kmsg.ProduceRequest)
		if !refuse || len(req.Topics) != 1 || req.Topics[0].Topic != topic {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = topic
		for _, p := range req.Topics[0].Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, 10 // message too large
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
		refused <- struct{}{}
		return resp, nil, true
	})
	tp, key, good, _ := w.sample("booking.creation", "c_a")
	var rs kafka.Records
	rs.Add(tp, key, nil, []byte("garbage"))
	w.write(&rs)
	rs.Add(tp, key, nil, good)
	w.start(nil)
	<-refused
	w.write(&rs) // behind the garbage
	for range 10 {
		w.publish("product.creation", "c_a")
	}
	for _, task := range w.tasks(10, false) {
		if task.Source.Topic == tp.Topic {
			t.Error("went on behind a record that is nowhere")
		}
	}
	<-refused
	mu.Lock()
	refuse = false
	mu.Unlock()
	if n := len(w.tasks(11, false)); n != 11 {
		t.Errorf("%d tasks", n)
	}
	if recs := w.read(topic, 1); len(recs) != 1 || !bytes.Equal(recs[0].Value, []byte("garbage")) {
		t.Error(recs)
	}
	if logs.FilterMessageSnippet("a partition stops").Len() < 2 {
		t.Error("it was not loud")
	}
	w.committed()
}

// A partition that comes back in the next generation with the offset that was last committed keeps its position and its state; one that left,
// or whose offset somebody else moved, begins anew.
// What no time zone is called is not remembered: publishers can send as many names of a megabyte as they like.
func TestALongTimeZoneIsNotRemembered(t *testing.T) {
	c := &classicRenderer{}
	for i := range 100 {
		if l := c.location(fmt.Sprint(strings.Repeat("z", 1<<20), i)); l != time.UTC {
			t.Fatal(l)
		}
	}
	if l := c.location("Atlantic/Reykjavik"); l == time.UTC || len(c.zones) != 1 {
		t.Errorf("%v, %d names are remembered", l, len(c.zones))
	}
}

// The first commit of a new partition never arrived, and the partition is kept over the next generation: it is committed then, or its next owner would find no
// offset in a deployment that has routed, and refuse it.
func TestAKeptPartitionThatWasNeverCommittedIsCommitted(t *testing.T) {
	m, err := newMetrics(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, tp := newOwned(m), kafka.TP{Topic: "t", Partition: 1}
	for range 2 {
		o.take(map[kafka.TP]start{tp: {offset: 0}}, nil, nil)
		if due := o.due(); len(due) != 1 {
			t.Errorf("due: %v", due)
		}
		o.shut()
	}
}

func TestAPartitionKeepsItsPositionOverARebalance(t *testing.T) {
	m, err := newMetrics(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tp := kafka.TP{Topic: "t", Partition: 1}
	for name, c := range map[string]struct {
		committed, between int64
		away               bool
		keeps              bool
	}{
		"as committed":                       {100, 100, false, true},
		"a commit whose answer was lost":     {100, 120, false, true},
		"all that is done":                   {100, 150, false, true},
		"somebody came further":              {100, 151, false, false},
		"set back by people":                 {100, 99, false, false},
		"away for a generation, same offset": {100, 100, true, false},
	} {
		o := newOwned(m)
		if pos := o.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil, nil); pos[tp] != 100 {
			t.Fatal(pos)
		}
		p := o.parts[tp]
		o.done(p, 150)
		o.park(p, -1, "test", nil, time.Time{})
		o.shut()
		if c.away {
			o.take(map[kafka.TP]start{}, nil, nil)
			o.shut()
		}
		pos := o.take(map[kafka.TP]start{tp: {offset: c.between, committed: true}}, nil, nil)
		if kept := pos[tp] == kafka.KeepPosition; kept != c.keeps || !kept && pos[tp] != c.between || (o.parts[tp] == p) != c.keeps {
			t.Errorf("%s: %v", name, pos)
		}
		if o.full(tp) != c.keeps {
			t.Errorf("%s: a partition that began anew is not parked, one that was kept is", name)
		}
	}
}

// The sequence: a fetch loop asked whether a partition is full just before it was parked, and took its position just after it was set back. The
// batch must not be skipped.
func TestABatchOfAParkedPartitionIsSetBack(t *testing.T) {
	m, _ := newMetrics(nil, nil)
	o, tp := newOwned(m), kafka.TP{Topic: "t"}
	o.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil, nil)
	b := kafka.Batch{TP: tp, Next: 200}
	h := o.holders([]kafka.Batch{b})
	o.park(h[0], -1, "test", nil, time.Time{})
	if p, from, back := o.begin(&b, h[0]); p != nil || !back || from != 100 {
		t.Error(p, from, back)
	}
	o.unpark(func(*partition) bool { return true })
	if p, from, back := o.begin(&b, h[0]); p == nil || back || from != 100 {
		t.Error(p, from, back)
	}
	o.done(h[0], 200)
	if p, _, back := o.begin(&b, h[0]); p != nil || back {
		t.Error("a batch that is done was begun again")
	}
}

func TestFetchesArePacedOnlyUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pacer)
		for range 100 {
			later(10 * time.Millisecond)
			if d := p.pace(1); d != 0 {
				t.Fatalf("100 a second: %v", d)
			}
		}
		var d time.Duration
		for range 100 {
			later(time.Millisecond)
			d = p.pace(10)
		}
		if d != 3*time.Millisecond {
			t.Errorf("10,000 a second in tens: %v", d)
		}
		if d = p.pace(1000); d != paceMost {
			t.Errorf("a thousand: %v", d)
		}
	})
}
