package subscriptions_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// realWorld is a deployment of its own on the Kafka that HOOKFERRY_TEST_KAFKA names, whose log cleaner is as fast as a cleaner can be made.
func realWorld(t *testing.T) *world {
	t.Helper()
	addrs := os.Getenv("HOOKFERRY_TEST_KAFKA")
	if addrs == "" {
		t.Skip("the log cleaner is a real broker's: HOOKFERRY_TEST_KAFKA names none")
	}
	cfg := kafka.DefaultConfig()
	cfg.Brokers, cfg.Partitions = strings.Split(addrs, ","), 1
	cfg.TopicPrefix = fmt.Sprintf("cleaner-%d.", time.Now().UnixNano())
	cfg.TopicConfigs = map[string]map[string]string{"subscriptions": {"segment.ms": "500", "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "1000",
		"min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "1000"}}
	policy, err := egress.NewPolicy(egress.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, keys: secrets.Generate(), policy: policy, cfg: cfg}
	if _, err := w.client().CreateTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// clean has the cleaner come by: it returns when the log holds one record of the subscription, which it is told is the last.
func (w *world) clean(c *kafka.Client, id string) schemas.Subscription {
	w.t.Helper()
	a, tp := c.NewAppender(kafka.AppenderConfig{}), kafka.TP{Topic: c.Topics().Subscriptions}
	deadline := time.After(2 * time.Minute)
	for {
		// The segment that is written to is never cleaned: a record that says nothing begins the next.
		var r kafka.Records
		r.AddTombstone(tp, []byte("nobody"))
		if _, err := a.Append(w.t.Context(), &r); err != nil {
			w.t.Fatal(err)
		}
		if list := w.readAll(c, id); len(list) == 1 {
			return list[0]
		}
		select {
		case <-time.After(600 * time.Millisecond): // the age at which a segment is closed, and a bit
		case <-deadline:
			w.t.Fatal("the log cleaner did not come by within two minutes")
		}
	}
}

// readAll returns what the log holds of a subscription now.
func (w *world) readAll(c *kafka.Client, id string) []schemas.Subscription {
	w.t.Helper()
	ends, err := c.Offsets(w.t.Context(), c.Topics().Subscriptions, kafka.Latest)
	if err != nil {
		w.t.Fatal(err)
	}
	f := c.NewFetcher(kafka.FetchConfig{Empty: true})
	f.Assign(map[kafka.TP]int64{{Topic: c.Topics().Subscriptions}: 0})
	var out []schemas.Subscription
	end := errors.New("read to the end")
	err = f.Run(w.t.Context(), func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			for _, rec := range b.Records {
				if string(rec.Key) != id || rec.Value == nil {
					continue
				}
				var s schemas.Subscription
				if err := schemas.DecodeSubscription(rec.Value, &s); err != nil {
					return err
				}
				out = append(out, s)
			}
			if b.Next >= ends[0] {
				return end
			}
		}
		return nil
	})
	if !errors.Is(err, end) {
		w.t.Fatal(err)
	}
	return out
}

func withHeader(name string) subscriptions.Change {
	return subscriptions.Change{SetHeaders: []subscriptions.HeaderValue{{Name: name, Value: secrets.New([]byte("v"))}}}
}

// The cleaner comes by between every two writes, and at the worst moment: when the last record of the subscription is the one that was rejected.
func TestTheLogCleanerBetweenEveryTwoWritesLosesNoUpdate(t *testing.T) {
	w := realWorld(t)
	owner, writer := w.process(), w.process()
	l, _, err := writer.Create(t.Context(), draft("c0ffee01", "crm", "*"))
	if err != nil {
		t.Fatal(err)
	}
	w.clean(owner.client, l.ID)
	for i, p := range []*process{owner, writer, w.process()} {
		if _, err := p.Update(t.Context(), l.ID, withHeader(fmt.Sprintf("X-%d", i))); err != nil {
			t.Fatal(err)
		}
		if s := w.clean(owner.client, l.ID); s.Version != int64(i+2) || len(s.Headers) != i+1 {
			t.Fatalf("after %d updates the log holds version %d with %d headers", i+1, s.Version, len(s.Headers))
		}
	}

	// A writer who has seen nothing of all this writes version 4 as well, and dies before he can repair.
	loser := l.Subscription
	loser.Version, loser.URL, loser.UpdatedBy = 4, "https://loser.example.com/", "loser"
	w.writeAt(owner.client, kafka.TP{Topic: owner.client.Topics().Subscriptions}, loser)
	if s := w.clean(owner.client, l.ID); s.URL != loser.URL {
		t.Fatalf("the cleaner left %+v", s)
	}
	// Who begins to read now is shown the loser's record alone, and must take it; but he may not build on it.
	fresh := w.process()
	if now, _ := fresh.Get(l.ID); now.URL != loser.URL {
		t.Fatalf("a fresh reader holds %s", now.URL)
	}
	built := make(chan error, 1)
	go func() {
		_, err := fresh.Update(t.Context(), l.ID, withHeader("X-fresh"))
		built <- err
	}()
	owner.SetOwner(ownsAll{})
	var r *subscriptions.Refusal
	if err := <-built; !errors.As(err, &r) || r.Code() != subscriptions.CodeUnsettled {
		t.Errorf("a fresh writer was told %v", err)
	}
	if s := w.clean(owner.client, l.ID); !s.Repair || s.URL != l.URL || s.Version != 4 {
		t.Errorf("the owner repaired with %+v", s)
	}
	if _, err := writer.Update(t.Context(), l.ID, withHeader("X-last")); err != nil {
		t.Fatal(err)
	}
	w.clean(owner.client, l.ID)
	for i, p := range []*process{owner, writer, fresh, w.process()} {
		if err := p.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, _ := p.Get(l.ID); now.Version != 5 || now.URL != l.URL || len(now.Headers) != 4 {
			t.Errorf("process %d holds version %d, %s, %d headers", i, now.Version, now.URL, len(now.Headers))
		}
	}
}
