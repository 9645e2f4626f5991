package house

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hookferry/hookferry/audit"
	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// A deployment that has outgrown its partitions moves to a larger topic set as docs/operations.md says, while events flow and a receiver is down, so that
// retries wait in the old set: every event is delivered once, and neither set misses one. One subscription has order, and a pause behind it.
func TestAMoveToALargerTopicSetLosesNothingAndSendsNothingTwice(t *testing.T) {
	t.Parallel()
	old := deploy(t)
	old.router()
	old.deliverer()
	const healthy, failing, ordered = "/ok/moved", "/flap/1/moved", "/ok/ordered"
	began := time.Now().Add(-time.Minute)
	subs := map[string]*subscriptions.Live{
		healthy: old.subscribe("acme", healthy, func(dr *subscriptions.Draft) { dr.Events = []string{"booking.*"} }),
		failing: old.subscribe("acme", failing, func(dr *subscriptions.Draft) {
			dr.Events, dr.Schedule = []string{"account.*"}, []time.Duration{0, 2 * time.Second, time.Second}
		}),
		ordered: old.subscribe("acme", ordered, func(dr *subscriptions.Draft) { dr.Events, dr.Order = []string{"customer.*"}, schemas.OrderEntity }),
	}
	_, err := old.writer.Pause(old.ctx, subs[ordered].ID, "")
	old.must(err)
	kept := old.publish("customer.creation", "acme", 3)
	resumed, err := old.writer.Resume(old.ctx, subs[ordered].ID, false)
	old.must(err)
	subs[ordered] = resumed.Live

	moving := newPublishing(old)
	stop := old.run("a publisher", moving.run)
	moving.more(50)
	retried := old.publish("account.creation", "acme", 3)
	next := old.grow(12)
	for _, l := range subs {
		added, err := next.writer.Import(next.ctx, l.Subscription)
		if err != nil || !added {
			t.Fatalf("import of %s: %v, %v", l.ID, added, err)
		}
	}
	next.router()
	next.deliverer()
	moving.more(50) // both sets run, and the old one gets all
	moving.point(next.producer)
	moving.more(50)
	stop()

	retried = append(retried, next.publish("account.creation", "acme", 3)...)
	kept = append(kept, next.publish("customer.creation", "acme", 3)...)
	for path, ids := range map[string][]string{healthy: moving.published(), failing: retried, ordered: kept} {
		l := subs[path]
		old.arrive(path, l, ids...)
		if got := len(old.at(path)); got != len(ids) {
			t.Errorf("%s: %d events, %d deliveries", path, len(ids), got)
		}
		var owed, delivered int64
		for _, d := range []*deployment{old, next} {
			r := d.settled(l, began)
			if !r.OK() || r.GhostCount > 0 || r.Owed == 0 {
				t.Errorf("%s, in the set %s: %+v", path, d.config.TopicPrefix, r)
			}
			owed, delivered = owed+r.Owed, delivered+r.Delivered
		}
		if owed != int64(len(ids)) || delivered != owed {
			t.Errorf("%s: %d events published, %d owed, %d delivered", path, len(ids), owed, delivered)
		}
	}
}

// grow makes a second topic set on the same Kafka, Redis and receivers, under the same keys.
func (d *deployment) grow(partitions int) *deployment {
	d.t.Helper()
	next := *d
	next.config.TopicPrefix, next.config.Partitions = "grown-"+d.config.TopicPrefix, partitions
	next.connect()
	return &next
}

// settled audits a subscription until none of its events waits.
func (d *deployment) settled(l *subscriptions.Live, from time.Time) *audit.Report {
	d.t.Helper()
	sources := audit.Sources{Kafka: d.kafka, Routers: router.GroupID(d.kafka.Topics()),
		Waiting: func(ctx context.Context, sub string, watch func(read, total int64), fn func(*schemas.Task)) error {
			return deliverer.ReadWaiting(ctx, d.kafka, deliverer.DefaultConfig().Group, sub, watch, func(_ int32, t *schemas.Task) { fn(t) })
		}}
	for {
		r, err := audit.Verify(d.ctx, sources, &l.Subscription, from, time.Now(), nil)
		d.must(err)
		if r.Waiting == 0 {
			return r
		}
	}
}

// publishing is an upstream service that can be pointed at another topic set.
type publishing struct {
	d *deployment

	mu   sync.Mutex
	came *sync.Cond // an id has come, or the test is over
	to   *producer.Producer
	ids  []string
}

func newPublishing(d *deployment) *publishing {
	p := &publishing{d: d, to: d.producer}
	p.came = sync.NewCond(&p.mu)
	context.AfterFunc(d.ctx, p.came.Broadcast)
	return p
}

// run publishes one event after the other.
func (p *publishing) run(ctx context.Context) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		ev := p.d.event("booking.creation", "acme")
		err := p.to.Publish(p.d.ctx, ev)
		p.ids = append(p.ids, ev.EventMeta().EventID)
		p.mu.Unlock()
		p.came.Broadcast()
		if err != nil {
			return fmt.Errorf("event %d: %w", len(p.ids), err)
		}
	}
	return nil
}

func (p *publishing) point(to *producer.Producer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

func (p *publishing) published() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ids
}

// more waits until n events more are published.
func (p *publishing) more(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for want := len(p.ids) + n; p.d.ctx.Err() == nil && len(p.ids) < want; {
		p.came.Wait()
	}
}
