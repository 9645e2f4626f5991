package producer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/schemas"
)

func TestEveryTypeArrivesWithKeyPartitionFrameAndHeaders(t *testing.T) {
	w := newWorld(t)
	p := w.producer()
	rng := rand.New(rand.NewPCG(1, 1))
	byID := map[string]schemas.Event{}
	perEntity := map[string]int{}
	for _, et := range schemas.EventTypes() {
		ev := sandbox.Sample(rng, et.Name, "co_7", 3)
		m := ev.EventMeta()
		m.PublishedAt, m.Entity, m.Action, m.GroupID, m.TypeID, m.SchemaVersion = time.Time{}, "", "", 0, 0, ""
		if err := p.Publish(w.ctx, ev); err != nil {
			t.Fatalf("%s: %v", et.Name, err)
		}
		byID[m.EventID] = ev
		perEntity[et.Entity]++
	}
	for entity, n := range perEntity {
		fp := schemas.EventSchema(entity).Fingerprint()
		for partition, records := range w.published(entity, n) {
			for _, r := range records {
				frame, body, err := schemas.Unframe(r.Value)
				if err != nil || frame.Confluent || frame.Fingerprint != fp {
					t.Fatalf("%s: frame %+v, %v", entity, frame, err)
				}
				got := schemas.NewEvent(entity)
				if err := got.DecodeAvro(body); err != nil {
					t.Fatal(err)
				}
				m := got.EventMeta()
				want, err := byID[m.EventID].AppendAvro(nil)
				if err != nil || !bytes.Equal(body, want) {
					t.Errorf("%s: the body is not the event's, %v", m.EventType, err)
				}
				et, _ := schemas.EventTypeByName(m.EventType)
				if m.PublishedAt.IsZero() || int(m.TypeID) != et.TypeID || int(m.GroupID) != et.GroupID || m.Entity != et.Kind || m.Action != et.Action || m.SchemaVersion == "" {
					t.Errorf("%s: what follows from the type was not filled in: %+v", m.EventType, m)
				}
				if key := "co_7/" + m.EntityID; string(r.Key) != key || kafka.Partition(r.Key, partitions) != partition {
					t.Errorf("%s: key %q in partition %d", m.EventType, r.Key, partition)
				}
				for k, v := range map[string]string{
					"ce_specversion": "1.0", "ce_id": m.EventID, "ce_type": m.EventType, "ce_subject": m.EntityID, "ce_source": *m.SystemURL,
					"ce_time": m.OccurredAt.Format("2006-01-02T15:04:05.000Z07:00"),
				} {
					if header(&r, k) != v {
						t.Errorf("%s: header %s is %q, want %q", m.EventType, k, header(&r, k), v)
					}
				}
			}
		}
	}
}

func TestTheErrorTellsOfEachEventThatWasNotAcceptedAndTheOthersWere(t *testing.T) {
	w := newWorld(t)
	p := w.producer()
	evs := samples(7, "product.amendment")
	evs[1].EventMeta().CompanyID = ""
	evs[1].EventMeta().EventType = "booking.creation"
	evs[2].EventMeta().OccurredAt = time.Time{}
	evs[4].(*schemas.ProductEvent).Data.Description = new(strings.Repeat("x", producer.LargestEvent))
	evs[5].EventMeta().TypeID = 999
	evs[6].EventMeta().EntityID = strings.Repeat("p", schemas.MaxID+1)
	evs[6].EventMeta().CompanyName = strings.Repeat("n", schemas.MaxDescription+1)
	err := p.Publish(w.ctx, evs...)
	var all *producer.Error
	if !errors.As(err, &all) || all.Count != 7 || len(all.Events) != 5 {
		t.Fatalf("got %v", err)
	}
	for i, want := range []struct {
		index int
		code  string
		says  []string
	}{
		{1, "event_invalid", []string{"meta.companyId: is missing", "meta.eventType: \"booking.creation\" is not a type of this record"}},
		{2, "event_invalid", []string{"meta.occurredAt: is not set"}},
		{4, "event_too_large", []string{"more than the 1048576"}},
		{5, "event_invalid", []string{"meta.typeId: 1000/999 does not belong to product.amendment"}},
		{6, "event_invalid", []string{"meta.entityId: is 256 bytes long, and may be 255", "meta.companyName: is 2049 bytes long"}},
	} {
		e := all.Events[i]
		if e.Index != want.index || e.Code() != want.code || e.EventID != evs[want.index].EventMeta().EventID || !errors.Is(e, producer.ErrRejected) || e.Retry {
			t.Errorf("event %d: got %+v (%s)", want.index, e, e.Code())
		}
		for _, s := range want.says {
			if !strings.Contains(e.Error(), s) {
				t.Errorf("event %d: the error does not say %q: %v", want.index, s, e)
			}
		}
	}
	w.published("product", 2)
}

func TestOneEntitysEventsStayInOrder(t *testing.T) {
	w := newWorld(t)
	p := w.producer()
	var wg sync.WaitGroup
	const each = 400
	for g := range 5 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for seq := int64(0); seq < each; {
				var some []schemas.Event
				for range 1 + rng.IntN(20) {
					if seq == each {
						break
					}
					ev := sandbox.Sample(rng, "product.amendment", "co_7", 0)
					m := ev.EventMeta()
					m.EntityID, m.EntityVersion = fmt.Sprint(g), seq
					some = append(some, ev)
					seq++
				}
				if err := p.Publish(w.ctx, some...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	next := map[string]int64{}
	for _, records := range w.published("product", 5*each) {
		for _, r := range records {
			var ev schemas.ProductEvent
			if err := ev.DecodeAvro(r.Value[10:]); err != nil {
				t.Fatal(err)
			}
			if m := ev.EventMeta(); m.EntityVersion != next[m.EntityID] {
				t.Fatalf("entity %s: version %d, want %d", m.EntityID, m.EntityVersion, next[m.EntityID])
			} else {
				next[m.EntityID]++
			}
		}
	}
}

// held is a broker that has taken a produce request, and answers nothing until release is closed.
func (w *world) held() (arrived <-chan struct{}, release chan struct{}) {
	a, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		once.Do(func() { close(a) })
		w.broker.Cluster().SleepControl(func() { <-release })
		return nil, nil, false
	})
	w.t.Cleanup(sync.OnceFunc(func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}))
	return a, release
}

func TestWhoLeavesWhileARequestIsUnderWayLearnsThatTheFateIsUnknown(t *testing.T) {
	w := newWorld(t)
	w.needsSandbox()
	p := w.producer()
	evs := samples(1, "product.creation")
	arrived, release := w.held()
	ctx, leave := context.WithCancel(w.ctx)
	first := p.Start(w.ctx, evs...)
	<-arrived
	// The second event of the same entity waits behind the first, so it is surely not sent.
	behind := sandbox.Sample(rand.New(rand.NewPCG(9, 9)), "product.creation", "co_7", 0)
	second := p.Start(w.ctx, behind)
	leave()
	var e *producer.EventError
	err := first.Wait(ctx)
	if !errors.As(err, &e) || !errors.Is(err, producer.ErrUnknown) || errors.Is(err, producer.ErrRejected) || e.Code() != "event_fate_unknown" || !e.Retry || !errors.Is(err, context.Canceled) {
		t.Errorf("under way: got %v", err)
	}
	err = second.Wait(ctx)
	if !errors.As(err, &e) || !errors.Is(err, producer.ErrRejected) || errors.Is(err, producer.ErrUnknown) || e.Code() != "event_not_accepted" || !e.Retry {
		t.Errorf("not sent: got %v", err)
	}
	close(release)
	if err := p.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	// A marker behind both: what is before it is all there will be.
	marker := sandbox.Sample(rand.New(rand.NewPCG(9, 8)), "product.creation", "co_7", 0)
	if err := p.Publish(w.ctx, marker); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, records := range w.published("product", 2) {
		for _, r := range records {
			ids = append(ids, header(&r, "ce_id"))
		}
	}
	if want := evs[0].EventMeta().EventID; ids[0] != want || ids[1] != marker.EventMeta().EventID {
		t.Errorf("in the log: %v", ids)
	}
}

func TestABrokerThatRefusesTheRecordRejectsTheEventForGood(t *testing.T) {
	w := newWorld(t)
	w.needsSandbox()
	w.broker.Cluster().ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			t := kmsg.NewProduceResponseTopic()
			t.Topic, t.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, 10 // MESSAGE_TOO_LARGE
				t.Partitions = append(t.Partitions, p)
			}
			resp.Topics = append(resp.Topics, t)
		}
		return resp, nil, true
	})
	err := w.producer().Publish(w.ctx, samples(1, "product.creation")...)
	var e *producer.EventError
	if !errors.As(err, &e) || !errors.Is(err, producer.ErrRejected) || e.Retry {
		t.Errorf("got %v", err)
	}
}

func TestPublishBlocksWhileTheBufferIsFull(t *testing.T) {
	w := newWorld(t)
	w.needsSandbox()
	w.cfg.MaxBuffered = producer.LargestEvent
	p := w.producer()
	arrived, release := w.held()
	big := func(seed uint64) schemas.Event {
		ev := sandbox.Sample(rand.New(rand.NewPCG(seed, 0)), "product.creation", "co_7", int64(seed)).(*schemas.ProductEvent)
		ev.Data.Description = new(strings.Repeat("x", 600_000))
		return ev
	}
	first := p.Start(w.ctx, big(1))
	<-arrived
	ctx, leave := context.WithCancel(w.ctx)
	blocked := make(chan error)
	go func() { blocked <- p.Publish(ctx, big(2)) }()
	third := make(chan error)
	go func() { third <- p.Publish(w.ctx, big(3)) }()
	for p.Blocked() < 2 {
		if w.ctx.Err() != nil {
			t.Fatal("a full buffer blocks nobody")
		}
		runtime.Gosched()
	}
	leave()
	if err := <-blocked; !errors.Is(err, producer.ErrRejected) || !errors.Is(err, context.Canceled) {
		t.Errorf("who leaves before there was room: got %v", err)
	}
	close(release)
	if err := first.Wait(w.ctx); err != nil {
		t.Error(err)
	}
	if err := <-third; err != nil {
		t.Errorf("who waited for room: %v", err)
	}
	w.published("product", 2)
}

func TestFlushAndCloseWaitForWhatIsUnderWay(t *testing.T) {
	w := newWorld(t)
	p := w.producer()
	evs := samples(300, "customer.amendment")
	pending := p.Start(w.ctx, evs...)
	if err := p.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pending.Done():
	default:
		t.Error("Flush returned before the fates were known")
	}
	more := p.Start(w.ctx, samples(50, "customer.creation")...)
	if err := p.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := more.Wait(w.ctx); err != nil {
		t.Errorf("Close gave up what it should have waited for: %v", err)
	}
	w.published("customer", 350)
	err := p.Publish(w.ctx, samples(1, "customer.creation")...)
	if !errors.Is(err, producer.ErrClosed) || !errors.Is(err, producer.ErrRejected) {
		t.Errorf("after Close: got %v", err)
	}
}

func TestCloseGivesUpWhatItCannotWaitFor(t *testing.T) {
	w := newWorld(t)
	w.needsSandbox()
	p := w.producer()
	arrived, _ := w.held()
	pending := p.Start(w.ctx, samples(1, "customer.creation")...)
	<-arrived
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := p.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: got %v", err)
	}
	if err := pending.Wait(w.ctx); !errors.Is(err, producer.ErrUnknown) || !errors.Is(err, producer.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestATopicThatIsMissingRejectsAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.cfg.TopicPrefix += "elsewhere."
	w.cfg.SendTimeout = 200 * time.Millisecond
	err := w.producer().Publish(w.ctx, samples(1, "customer.creation")...)
	var e *producer.EventError
	if !errors.As(err, &e) || !errors.Is(err, producer.ErrRejected) || !e.Retry || !strings.Contains(err.Error(), w.cfg.TopicPrefix+"events.customer") {
		t.Errorf("got %v", err)
	}
}

// registry answers as a schema registry does: 503 to the first calls, then ids.
func registry(t *testing.T, refusals int32) (url string, subjects *sync.Map) {
	subjects = new(sync.Map)
	var n, id atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if n.Add(1) <= refusals {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var in struct{ Schema string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		_, subject, _ := strings.Cut(r.URL.Path, "/subjects/")
		subject, _, _ = strings.Cut(subject, "/")
		mine := id.Add(1) + 6
		subjects.Store(subject, in.Schema)
		fmt.Fprintf(rw, `{"id":%d}`, mine)
	}))
	t.Cleanup(s.Close)
	return s.URL, subjects
}

func TestWithARegistrySchemasAreRegisteredFirstAndEventsCarryTheirIDs(t *testing.T) {
	w := newWorld(t)
	url, subjects := registry(t, 1)
	w.cfg.Registry.URL = url
	w.cfg.Entities = []string{"product"}
	p := w.producer()
	text, ok := subjects.Load(w.cfg.TopicPrefix + "events.product-value")
	if !ok || text != schemas.EventSchemaText("product") {
		t.Fatalf("registered: %v", text)
	}
	if err := p.Publish(w.ctx, samples(1, "product.creation")...); err != nil {
		t.Fatal(err)
	}
	for _, records := range w.published("product", 1) {
		for _, r := range records {
			if frame, _, err := schemas.Unframe(r.Value); err != nil || !frame.Confluent || frame.ID != 7 {
				t.Errorf("frame %+v, %v", frame, err)
			}
		}
	}
	if err := p.Publish(w.ctx, samples(1, "customer.creation")...); !errors.Is(err, producer.ErrRejected) || !strings.Contains(err.Error(), "Entities") {
		t.Errorf("an entity that was not registered: got %v", err)
	}
}

func TestARegistryThatStaysDownEndsNewWithItsContext(t *testing.T) {
	w := newWorld(t)
	w.cfg.Registry.URL, _ = registry(t, 1<<30)
	ctx, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := producer.New(ctx, w.cfg); err == nil || !strings.Contains(err.Error(), "-value") {
		t.Errorf("got %v", err)
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	c := producer.DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c.Brokers, c.Compression, c.SendTimeout, c.MaxEventBytes, c.MaxBuffered, c.Entities = nil, "rar", 0, 1<<21, 1, []string{"booking", "tour"}
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"brokers", "compression", "send_timeout", "max_event_bytes", "max_buffered", "entities[1]"} {
		if !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s is not named:\n%v", field, err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	w := newWorld(b)
	p := w.producer()
	evs := samples(500, "booking.amendment")
	b.ReportAllocs()
	b.SetParallelism(200)
	b.ResetTimer()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ev := *evs[next.Add(1)%int64(len(evs))].(*schemas.BookingEvent)
			if err := p.Publish(w.ctx, &ev); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
