package house

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// A subscription that asks for a snapshot gets it before any other event, while events flow, and everything that is published from then on, each once; and every
// booking that was published before is in it. Nobody else gets it.
func TestTheSnapshotIsTheFirstEventOfASubscriptionThatAsks(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	other := d.subscribe("acme", "/ok/other", func(dr *subscriptions.Draft) { dr.Events = []string{"*", "recent_reservations.*"} })
	cfg := producer.DefaultConfig()
	cfg.Entities = []string{"recent_reservations"}
	publisher, err := producer.Over(d.ctx, d.kafka, cfg)
	d.must(err)
	t.Cleanup(func() { publisher.Close(context.Background()) })
	publish := func(ctx context.Context, ev schemas.Event) error { return publisher.Publish(ctx, ev) }
	r, err := recent.Read(d.ctx, d.kafka, d.log, "acme", nil)
	d.must(err)
	t.Cleanup(r.Close)
	d.publish("booking.creation", "acme", 5)
	d.publish("booking.creation", "rival", 5)

	secret := secrets.NewWebhookSecret()
	d.must(d.receiver.Trust("/ok/new", string(secret.Reveal())))
	draft := subscriptions.Draft{Company: "acme", Name: "new", URL: d.receiver.URL("/ok/new"), Events: []string{"customer.*", "recent_reservations.*"}, Secret: &secret}
	var first *recent.Taken
	var want []string
	l, _, err := d.writer.CreateAfter(d.ctx, draft, func(ctx context.Context, l *subscriptions.Live) (err error) {
		want = d.publish("customer.creation", "acme", 20)
		if first, err = r.Snapshot(ctx, recent.Ask{Company: "acme", Subscription: l.ID}, publish); err != nil {
			return err
		}
		want = append(want, d.publish("customer.amendment", "acme", 20)...) // behind the snapshot, and before it is live
		return recent.AwaitRouted(ctx, d.kafka, router.GroupID(d.kafka.Topics()), first.Place)
	})
	d.must(err)
	want = append(want, d.publish("customer.creation", "acme", 20)...)
	d.arrive("/ok/new", l, append(want, first.EventID)...)
	got := d.at("/ok/new")
	var doc struct {
		Type, Company string
		Data          struct{ Bookings []struct{ BookingID string } }
	}
	if d.must(json.Unmarshal(got[0].Body, &doc)); doc.Type != schemas.RecentSnapshot || doc.Company != "acme" || len(doc.Data.Bookings) != 5 || got[0].Signature != nil {
		t.Errorf("the first event: %s (signature: %v)", got[0].Body, got[0].Signature)
	}
	seen := map[string]bool{}
	for _, r := range got {
		if seen[r.WebhookID] {
			t.Errorf("%s came twice", r.Body)
		}
		seen[r.WebhookID] = true
	}
	// One to the company reaches who names it, and neither who asked alone nor "*".
	all, err := r.Snapshot(d.ctx, recent.Ask{Company: "acme"}, publish)
	d.must(err)
	d.arrive("/ok/other", other, all.EventID)
	for _, r := range d.at("/ok/other") {
		if r.WebhookID == schemas.WebhookID(other.ID, first.EventID) {
			t.Error("a snapshot for one subscription reached another")
		}
	}
}
