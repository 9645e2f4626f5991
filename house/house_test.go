package house

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// Every event type in every format arrives with a valid signature, and its body says exactly what was published: encoded again by the
// schema, the body's data and previous give the published bytes.
func TestAllTypesInAllFormatsArriveSignedAndExact(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	formats := []string{"standard", "cloudevents", "classic"}
	subs := map[string]*subscriptions.Live{}
	for _, f := range formats {
		subs[f] = d.subscribe("acme", "/ok/"+f, func(dr *subscriptions.Draft) { dr.Format = f })
	}
	published := map[string]schemas.Event{} // by event id
	var ids []string
	for _, et := range schemas.EventTypes() {
		ev := d.event(et.Name, "acme")
		d.must(d.producer.Publish(d.ctx, ev))
		id := ev.EventMeta().EventID
		published[id], ids = ev, append(ids, id)
	}
	for _, f := range formats {
		path := "/ok/" + f
		d.arrive(path, subs[f], ids...)
		byWebhook := map[string]schemas.Event{}
		for id, ev := range published {
			byWebhook[schemas.WebhookID(subs[f].ID, id)] = ev
		}
		got := d.at(path)
		if len(got) != len(ids) {
			t.Errorf("%s: %d events published, %d deliveries", f, len(ids), len(got))
		}
		for _, r := range got {
			ev := byWebhook[r.WebhookID]
			if ev == nil {
				t.Fatalf("%s: %s belongs to no event", f, r.WebhookID)
			}
			name := f + " " + ev.EventMeta().EventType
			if r.Signature != nil {
				t.Errorf("%s: signature: %v", name, r.Signature)
			}
			if r.Attempt != 1 || r.Header.Get("User-Agent") == "" {
				t.Errorf("%s: attempt %d, headers %v", name, r.Attempt, r.Header)
			}
			checkBody(t, name, f, r, ev)
		}
	}
}

func checkBody(t *testing.T, name, format string, r *sandbox.Received, ev schemas.Event) {
	t.Helper()
	var body map[string]json.RawMessage
	if err := json.Unmarshal(r.Body, &body); err != nil {
		t.Fatalf("%s: %v: %s", name, err, r.Body)
	}
	m := ev.EventMeta()
	text := func(key string) (s string) { json.Unmarshal(body[key], &s); return s }
	data, previous := body["data"], body["previous"]
	switch format {
	case "standard":
		if text("type") != m.EventType || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: type %s, content type %s", name, body["type"], r.Header.Get("Content-Type"))
		}
	case "cloudevents":
		if text("type") == "" || text("specversion") != "1.0" || text("id") != m.EventID || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") {
			t.Errorf("%s: %.300s", name, r.Body)
		}
		previous = keep // CloudEvents carry the entity after the change only
	case "classic":
		et, _ := schemas.EventTypeByName(m.EventType)
		var inside map[string]json.RawMessage
		json.Unmarshal(body["eventData"], &inside)
		if text("eventNotificationUniqueId") != m.EventID || text("eventNotificationType") != et.V1Text || len(inside) != 1 || inside[et.DataKey] == nil {
			t.Errorf("%s: %.400s", name, r.Body)
		}
		return // lossy by nature: its exact bytes are golden files of the router
	}
	checkExact(t, name, ev, data, previous)
}

// keep stands for a part that the format does not carry: nothing is compared.
var keep = json.RawMessage("keep")

// checkExact encodes what was received by the schema again and compares with the bytes that were published.
func checkExact(t *testing.T, name string, ev schemas.Event, data, previous json.RawMessage) {
	t.Helper()
	s := schemas.EventSchema(ev.EntityName())
	want, err := ev.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	whole, _, err := s.AppendJSON(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(whole, &doc); err != nil {
		t.Fatal(err)
	}
	doc["data"] = data
	if !bytes.Equal(previous, keep) {
		doc["previous"] = previous
		if previous == nil {
			doc["previous"] = json.RawMessage("null")
		}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.EncodeJSON(nil, text)
	if err != nil {
		t.Fatalf("%s: the body does not fit the schema: %v", name, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the body does not say what was published: %.600s", name, text)
	}
}

func TestTwoCompaniesNeverSeeEachOthersEvents(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	a, b := d.subscribe("acme", "/ok/acme"), d.subscribe("borea", "/ok/borea")
	everyone := d.subscribe("*", "/ok/everyone", func(dr *subscriptions.Draft) { dr.Operator = true })
	ofA, ofB := d.publish("booking.creation", "acme", 30), d.publish("booking.creation", "borea", 30)
	d.arrive("/ok/acme", a, ofA...)
	d.arrive("/ok/borea", b, ofB...)
	d.arrive("/ok/everyone", everyone, append(ofA, ofB...)...)
	for path, n := range map[string]int{"/ok/acme": 30, "/ok/borea": 30, "/ok/everyone": 60} {
		if got := len(d.at(path)); got != n {
			t.Errorf("%s: %d deliveries, want %d", path, got, n)
		}
	}
	for _, r := range d.at("/ok/acme") {
		if bytes.Contains(r.Body, []byte("borea")) {
			t.Errorf("acme received %s", r.Body)
		}
	}
}

// Every event that was published after create returned arrives, and none from before: while a stream of events flows, with a router that
// starts late, restarts and changes hands.
func TestSubscriptionIsLiveExactlyFromItsCut(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.deliverer()
	stop := d.router()
	before := d.publish("customer.creation", "acme", 50)
	stop() // events pile up without a router, and the subscription is made meanwhile
	before = append(before, d.publish("customer.creation", "acme", 50)...)
	l := d.subscribe("acme", "/ok/late")
	after := d.publish("customer.creation", "acme", 50)
	stop = d.router()
	after = append(after, d.publish("customer.creation", "acme", 50)...)
	second := d.router() // changes hands: two members, then the first leaves
	after = append(after, d.publish("customer.creation", "acme", 50)...)
	stop()
	after = append(after, d.publish("customer.creation", "acme", 50)...)
	d.arrive("/ok/late", l, after...)
	second()
	early := map[string]bool{}
	for _, id := range before {
		early[schemas.WebhookID(l.ID, id)] = true
	}
	seen := map[string]int{}
	for _, r := range d.at("/ok/late") {
		if seen[r.WebhookID]++; early[r.WebhookID] {
			t.Errorf("%s was published before the subscription was created", r.WebhookID)
		}
	}
	if len(seen) != len(after) {
		t.Errorf("%d events arrived, want %d", len(seen), len(after))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

func TestUndecodableRecordIsKeptByteIdenticalAndTheNextGoodOneGoesOut(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	l := d.subscribe("acme", "/ok/acme")
	good := d.event("booking.creation", "acme")
	key := []byte("acme/" + good.EventMeta().EntityID)
	tp := kafka.TP{Topic: d.kafka.Topics().Events["booking"], Partition: kafka.Partition(key, d.config.Partitions)}
	bytesOfGood, err := good.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint()))
	d.must(err)
	poison := [][]byte{[]byte("not Avro"), {}, bytesOfGood[:len(bytesOfGood)/2], append(bytes.Clone(bytesOfGood), 0), {0, 0, 0, 0, 99, 1, 2, 3}}
	var rec kafka.Records
	for i, p := range poison {
		rec.Add(tp, key, []kafka.Header{{Key: "x-seq", Value: fmt.Append(nil, i)}}, p)
	}
	_, err = d.kafka.NewAppender(kafka.AppenderConfig{}).Append(d.ctx, &rec)
	d.must(err)
	d.must(d.producer.Publish(d.ctx, good))
	d.arrive("/ok/acme", l, good.EventMeta().EventID)
	kept := d.read(d.kafka.Topics().Undecodable, len(poison))
	for i, p := range poison {
		found := false
		for _, r := range kept {
			found = found || bytes.Equal(r.Value, p) && bytes.Equal(r.Key, key) && header(r, "x-seq") == fmt.Sprint(i) && header(r, "hookferry-reason") != ""
		}
		if !found {
			t.Errorf("poison %d (%q) is not in undecodable as it was", i, p)
		}
	}
}

func header(r kafka.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func TestURLEditReachesTheNextTry(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	l := d.subscribe("acme", "/status/500/old")
	ids := d.publish("account.creation", "acme", 1)
	d.must(d.receiver.Wait(d.ctx, func(ledger []*sandbox.Received) bool { return len(ledger) > 0 }))
	url := d.receiver.URL("/ok/new")
	_, err := d.writer.Update(d.ctx, l.ID, subscriptions.Change{URL: &url})
	d.must(err)
	d.arrive("/ok/new", l, ids...)
	if r := d.at("/ok/new")[0]; r.Attempt < 2 {
		t.Errorf("attempt %d at the new URL, want the second or a later one", r.Attempt)
	}
}

func TestDeleteStopsSendsWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	l := d.subscribe("acme", "/delay/100ms/slow", func(dr *subscriptions.Draft) { dr.MaxConcurrency = 1 })
	other := d.subscribe("acme", "/ok/other")
	d.publish("product.creation", "acme", 100) // ten seconds of work for the slow one
	d.must(d.receiver.Wait(d.ctx, func(ledger []*sandbox.Received) bool { return count(ledger, "/delay/100ms/slow") >= 3 }))
	d.must(d.writer.Delete(d.ctx, l.ID))
	deleted := time.Now()
	// The witness that time passes: events of another subscription, until four seconds after the delete.
	for time.Since(deleted) < 4*time.Second {
		d.arrive("/ok/other", other, d.publish("product.creation", "acme", 1)...)
	}
	for _, r := range d.receiver.Ledger() {
		if late := r.At.Sub(deleted); r.Path == "/delay/100ms/slow" && late > 2*time.Second {
			t.Fatalf("a send %v after the delete", late)
		}
	}
}

func count(ledger []*sandbox.Received, path string) (n int) {
	for _, r := range ledger {
		if r.Path == path {
			n++
		}
	}
	return n
}

func TestOneHangingReceiverDelaysNoOther(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	d.subscribe("acme", "/hang/stuck", func(dr *subscriptions.Draft) { dr.Timeout = 5 * time.Second })
	l := d.subscribe("acme", "/ok/healthy")
	d.arrive("/ok/healthy", l, d.publish("booking.creation", "acme", 1)...) // all is running
	published := map[string]time.Time{}
	for range 40 {
		id := d.publish("booking.creation", "acme", 5)
		for _, id := range id {
			published[schemas.WebhookID(l.ID, id)] = time.Now()
		}
		d.arrive("/ok/healthy", l, id...)
	}
	for _, r := range d.at("/ok/healthy") {
		if at, ok := published[r.WebhookID]; ok && r.At.Sub(at) > 2*time.Second {
			t.Errorf("%s took %v beside a hanging receiver", r.WebhookID, r.At.Sub(at))
		}
	}
	if count(d.receiver.Ledger(), "/hang/stuck") == 0 {
		t.Error("the hanging receiver was never tried: nothing was shown")
	}
}

// Tries differ in webhook-attempt, timestamp and signature, and in nothing else.
func TestEveryTryOfATaskHasTheSameIDAndTheSameBytes(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	d.deliverer()
	l := d.subscribe("acme", "/flap/2/f")
	ids := d.publish("booking.amendment", "acme", 1)
	d.arrive("/flap/2/f", l, ids...)
	tries := d.receiver.Ledger()
	if len(tries) != 3 {
		t.Fatalf("%d requests, want two that fail and one that is delivered", len(tries))
	}
	for i, r := range tries {
		if r.Attempt != i+1 || r.WebhookID != tries[0].WebhookID || r.Sum != tries[0].Sum || r.Signature != nil {
			t.Errorf("try %d: attempt %d, id %s, signature %v, same body %v", i+1, r.Attempt, r.WebhookID, r.Signature, r.Sum == tries[0].Sum)
		}
	}
}
