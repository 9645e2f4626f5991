package subscriptions_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// Every writer adds headers of its own: each is there in the end if, and only if, its writer was told so.
func TestConcurrentWritersLoseNoUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const writers, updates = 4, 4 // 16 headers; 20 are allowed
		w := newWorld(t)
		var ps []*process
		for range writers {
			ps = append(ps, w.process())
		}
		l, _, err := ps[0].Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		told, conflicts := map[string]bool{}, 0
		var wg sync.WaitGroup
		for i, p := range ps {
			for j := range updates {
				name := fmt.Sprintf("X-%d-%d", i, j)
				wg.Go(func() {
					_, err := p.Update(t.Context(), l.ID, subscriptions.Change{SetHeaders: []subscriptions.HeaderValue{{Name: name, Value: secrets.New([]byte("v"))}}})
					mu.Lock()
					defer mu.Unlock()
					var r *subscriptions.Refusal
					switch {
					case err == nil:
						told[name] = true
					case errors.As(err, &r) && r.Code() == subscriptions.CodeConflict:
						conflicts++
					default:
						t.Errorf("Update: %v", err)
					}
				})
			}
		}
		wg.Wait()
		for i, p := range append(ps, w.process()) { // the last one begins to read now
			if err := p.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			now, _ := p.Get(l.ID)
			if len(now.Headers) != len(told) || now.Version != int64(1+len(told)) {
				t.Errorf("process %d: %d headers in version %d, %d updates were accepted", i, len(now.Headers), now.Version, len(told))
			}
			for _, h := range now.Headers {
				if !told[h.Name] {
					t.Errorf("process %d: %s is there, but its writer was told that it is not", i, h.Name)
				}
			}
		}
		if len(told)+conflicts != writers*updates || len(told) < writers {
			t.Errorf("%d accepted, %d conflicts", len(told), conflicts)
		}
	})
}

func TestTwoCreatesWithOneNameLeaveOneSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ps := []*process{w.process(), w.process(), w.process()}
		errs := make([]error, len(ps))
		var wg sync.WaitGroup
		for i, p := range ps {
			wg.Go(func() { _, _, errs[i] = p.Create(t.Context(), draft("c0ffee01", "crm", "*")) })
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			var r *subscriptions.Refusal
			if err == nil {
				made++
			} else if !errors.As(err, &r) || r.Code() != subscriptions.CodeNameTaken {
				t.Errorf("Create: %v", err)
			}
		}
		if err := ps[0].CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if made != 1 || len(ps[0].Company("c0ffee01")) != 1 {
			t.Errorf("%d were made, %d stand", made, len(ps[0].Company("c0ffee01")))
		}
		if _, _, err := ps[1].Create(t.Context(), draft("c0ffee02", "crm", "*")); err != nil {
			t.Errorf("another company may use the name: %v", err)
		}
	})
}

type ownsAll struct{}

func (ownsAll) Owns(int32) bool { return true }

// A loser who died before he could repair leaves his record at the end of the log; the owner of the partition restates what stands.
func TestTheOwnerRepairsWhatALoserLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		owner, other := w.process(), w.process()
		owner.SetOwner(ownsAll{})
		l, _, err := other.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		loser := l.Subscription
		loser.URL, loser.UpdatedBy = "https://loser.example.com/", "loser"
		w.write(other.client, loser)
		w.awaitRecords(other.client, l.ID, 3)
		<-time.After(10 * time.Second) // nothing more may come
		records := w.awaitRecords(other.client, l.ID, 3)
		if len(records) != 3 || !records[2].Repair || records[2].URL != l.URL || records[2].Version != l.Version {
			t.Errorf("the log holds %d records, the last is %+v", len(records), records[len(records)-1])
		}
		if now, _ := w.process().Get(l.ID); now.URL != l.URL {
			t.Errorf("a fresh reader holds %s", now.URL)
		}
	})
}

func TestTheTombstoneComesAWeekAfterTheDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		owner, other := w.process(), w.process()
		owner.SetOwner(ownsAll{})
		l, _, err := other.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan string, 8)
		other.Subscribe(func(id string) { gone <- id })
		// Deleted but for a minute a week ago: a week of polling takes its time even when it is virtual.
		deleted := l.Subscription
		deleted.Version, deleted.State, deleted.UpdatedAt = 2, schemas.StateDeleted, time.Now().Add(time.Minute-7*24*time.Hour).UnixMilli()
		w.write(other.client, deleted)
		<-gone
		began := time.Now()
		var r *subscriptions.Refusal
		if _, err := other.Update(t.Context(), l.ID, subscriptions.Change{}); !errors.As(err, &r) || r.Code() != subscriptions.CodeDeleted {
			t.Errorf("Update of a deleted one: %v", err)
		}
		<-gone
		if d := time.Since(began); d < 59*time.Second || d > 70*time.Second {
			t.Errorf("the tombstone came after %v", d)
		}
		if _, ok := other.Get(l.ID); ok || other.Len() != 0 {
			t.Error("the subscription is still there")
		}
	})
}

func TestDisableCutsTheSpanOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := p.Disable(t.Context(), l.ID, "gone"); err != nil {
				t.Fatal(err)
			}
		}
		now, _ := p.Get(l.ID)
		if now.State != schemas.StateDisabled || now.StateReason != "gone" || len(now.Spans) != 2 || now.Spans[1].Kind != schemas.CutPaused || now.Version != 2 {
			t.Fatalf("%+v", now.Subscription)
		}
		cut := now.Spans[1].At
		if len(p.Match("c0ffee01", "booking.creation", cut-1, nil)) != 1 || len(p.Match("c0ffee01", "booking.creation", cut, nil)) != 0 {
			t.Error("the span does not end at the cut")
		}
	})
}

// A router must be able to tell that its knowledge is old: from the moment on at which Kafka is gone.
func TestKnowledgeAgesWhileKafkaIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.process()
		for range 50 {
			<-time.After(100 * time.Millisecond)
			if age := time.Since(p.LastGoodRead()); age > 500*time.Millisecond {
				t.Fatalf("in quiet times the knowledge is %v old", age)
			}
		}
		w.broker.Close()
		before := p.LastGoodRead()
		<-time.After(time.Minute)
		if d := p.LastGoodRead().Sub(before); d > 500*time.Millisecond {
			t.Errorf("Kafka is gone, and a read is called good %v later", d)
		}
		if p.Ready() == nil {
			t.Error("the table says that it is ready")
		}
	})
}

// write puts a record into the log past the writer, as a process of another age might.
func (w *world) write(c *kafka.Client, s schemas.Subscription) {
	w.t.Helper()
	w.writeAt(c, kafka.TP{Topic: c.Topics().Subscriptions, Partition: kafka.Partition([]byte(s.ID), partitions)}, s)
}

func (w *world) writeAt(c *kafka.Client, tp kafka.TP, s schemas.Subscription) {
	w.t.Helper()
	var r kafka.Records
	r.Add(tp, []byte(s.ID), nil, schemas.AppendSubscription(nil, &s))
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(w.t.Context(), &r); err != nil {
		w.t.Fatal(err)
	}
}

// awaitRecords returns the records of one subscription that are in the log, once there are as many.
func (w *world) awaitRecords(c *kafka.Client, id string, n int) []schemas.Subscription {
	w.t.Helper()
	tp := kafka.TP{Topic: c.Topics().Subscriptions, Partition: kafka.Partition([]byte(id), partitions)}
	f := c.NewFetcher(kafka.FetchConfig{})
	f.Assign(map[kafka.TP]int64{tp: 0})
	var out []schemas.Subscription
	enough := errors.New("enough")
	err := f.Run(w.t.Context(), func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			for _, rec := range b.Records {
				var s schemas.Subscription
				if string(rec.Key) != id {
					continue
				}
				if err := schemas.DecodeSubscription(rec.Value, &s); err != nil {
					return err
				}
				out = append(out, s)
			}
		}
		if len(out) >= n {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		w.t.Fatal(err)
	}
	return out
}
