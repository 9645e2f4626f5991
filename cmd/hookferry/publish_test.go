package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// published world: an app whose Kafka is a broker in memory with all topics.
func publishApp(t *testing.T, in string) (a *app, out, errOut *bytes.Buffer) {
	t.Helper()
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	cfg := defaultConfig()
	cfg.Kafka.Brokers = b.Addrs()
	cfg.Kafka.Partitions = 3
	client, err := kafka.Open(cfg.Kafka, kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if _, err := client.CreateTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	return &app{in: strings.NewReader(in), out: out, errOut: errOut, config: &cfg, client: client}, out, errOut
}

func execute(t *testing.T, c *cobra.Command, args ...string) error {
	t.Helper()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return c.ExecuteContext(ctx)
}

// events reads what an entity's topic holds.
func events(t *testing.T, c *kafka.Client, entity string) []schemas.Event {
	t.Helper()
	topic := c.Topics().Events[entity]
	ends, err := c.Offsets(t.Context(), topic, -1)
	if err != nil {
		t.Fatal(err)
	}
	left, pos := int64(0), map[kafka.TP]int64{}
	for p, end := range ends {
		left += end
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	if left == 0 {
		return nil
	}
	f := c.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []schemas.Event
	if err := f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			for _, r := range b.Records {
				_, body, err := schemas.Unframe(r.Value)
				ev := schemas.NewEvent(entity)
				if err == nil {
					err = ev.DecodeAvro(body)
				}
				if err != nil {
					return err
				}
				out = append(out, ev)
				if left--; left == 0 {
					cancel()
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

const productJSON = `{"meta":{"eventType":"product.creation","companyId":"co_1"},"data":{"productId":"41","name":"Dry Bag"}}`

func TestPublishDerivesWhatMetaLeavesOut(t *testing.T) {
	a, out, errOut := publishApp(t, productJSON)
	if err := execute(t, publishCommand(a)); err != nil {
		t.Fatalf("%v\n%s", err, errOut)
	}
	got := events(t, a.client, "product")
	if len(got) != 1 {
		t.Fatalf("%d events", len(got))
	}
	m := got[0].EventMeta()
	if m.EntityID != "41" || m.CompanyID != "co_1" || m.CompanyName != "co_1" || m.GroupID != 1000 || m.TypeID != 1000 || m.Entity != "PRODUCT" || m.Action != "CREATION" ||
		m.EntityVersion != 1 || len(m.EventID) != 44 || m.OccurredAt.IsZero() || m.PublishedAt.IsZero() || m.SchemaVersion == "" {
		t.Errorf("meta is %+v", m)
	}
	if want := fmt.Sprintf("accepted  %s  product.creation  co_1/41\n", m.EventID); out.String() != want {
		t.Errorf("printed %q, want %q", out, want)
	}
}

// TestPublishTakesEveryTypeAsItIsPrinted: what the transcoder prints is what publish reads.
func TestPublishTakesEveryTypeAsItIsPrinted(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ndjson bytes.Buffer
	var array []json.RawMessage
	want := map[string]schemas.Event{}
	for i, et := range schemas.EventTypes() {
		ev := sandbox.Sample(rng, et.Name, "co_9", 5)
		want[ev.EventMeta().EventID] = ev
		b, err := ev.AppendAvro(nil)
		if err != nil {
			t.Fatal(err)
		}
		doc, _, err := schemas.EventSchema(et.Entity).AppendJSON(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			ndjson.Write(append(doc, '\n'))
		} else {
			array = append(array, doc)
		}
	}
	file := filepath.Join(t.TempDir(), "events.json")
	text, err := json.MarshalIndent(array, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	a, out, errOut := publishApp(t, ndjson.String())
	if err := execute(t, publishCommand(a), file, "-"); err != nil {
		t.Fatalf("%v\n%s", err, errOut)
	}
	if n := strings.Count(out.String(), "accepted"); n != 26 {
		t.Errorf("%d accepted:\n%s", n, out)
	}
	seen := 0
	for _, entity := range schemas.Entities() {
		for _, ev := range events(t, a.client, entity) {
			seen++
			w := want[ev.EventMeta().EventID]
			gotBytes, err1 := ev.AppendAvro(nil)
			wantBytes, err2 := w.AppendAvro(nil)
			if err := errors.Join(err1, err2); err != nil || !bytes.Equal(gotBytes, wantBytes) {
				t.Errorf("%s is not what was printed: %v", w.EventMeta().EventType, err)
			}
		}
	}
	if seen != 26 {
		t.Errorf("%d events in the topics", seen)
	}
}

func TestPublishNamesEveryBadFieldAndPublishesTheRest(t *testing.T) {
	bad := `{"meta":{"eventType":"product.creation","companyId":"co_1","entityVersion":"x"},"data":{"productId":"42","listPrice":{"amount":"1.2.3","currency":"EUR"}}}`
	a, out, errOut := publishApp(t, productJSON+bad+"\n"+`{"meta":{"eventType":"product.explosion"}} 7 `+`{"data":{}}`+strings.ReplaceAll(productJSON, `"co_1"`, `""`)+productJSON)
	a.json = true
	err := execute(t, publishCommand(a))
	var r *refusal
	if !errors.As(err, &r) || r.code != "not_all_accepted" || r.sentence != "2 accepted, 5 rejected, 0 unknown" {
		t.Fatalf("got %v", err)
	}
	var lines []published
	for d := json.NewDecoder(out); d.More(); {
		var l published
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprint(l.Document, " ", l.Fate, " ", l.Code, " ", strings.SplitN(l.Error, ":", 2)[0]))
	}
	want := []string{
		"1 accepted  ", "2 rejected field_invalid meta.entityVersion", "2 rejected field_invalid data.name", "2 rejected field_invalid data.listPrice.amount",
		"3 rejected field_invalid meta.eventType", "4 rejected field_invalid document", "5 rejected field_invalid meta", "6 rejected event_invalid meta.companyId", "7 accepted  ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), errOut)
	}
	if n := len(events(t, a.client, "product")); n != 2 {
		t.Errorf("%d events in the topic", n)
	}
}

func TestPublishOfBrokenJSONSaysWhereAndReportsWhatWentBefore(t *testing.T) {
	for name, in := range map[string]string{"cut object": productJSON + `{"meta":`, "cut array": "[" + productJSON + ",", "not JSON": productJSON + "nonsense"} {
		a, out, _ := publishApp(t, in)
		err := execute(t, publishCommand(a), "-")
		if err == nil || !strings.Contains(err.Error(), "behind document 1") || strings.Count(out.String(), "accepted") != 1 {
			t.Errorf("%s: got %v, printed %q", name, err, out)
		}
	}
	a, _, _ := publishApp(t, " \n")
	if err := execute(t, publishCommand(a)); err == nil || !strings.Contains(err.Error(), "no document") {
		t.Errorf("nothing: got %v", err)
	}
}

func TestPublishSamples(t *testing.T) {
	a, out, errOut := publishApp(t, "")
	a.json = true
	if err := execute(t, publishCommand(a), "--sample", "60", "--rate", "2000", "--types", "product.*,*.removal", "--company", "acme"); err != nil {
		t.Fatalf("%v\n%s", err, errOut)
	}
	var s sampled
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Accepted != 60 || len(s.Types) != 9 || s.Types["product.creation"] == 0 || s.Types["booking.creation"] != 0 {
		t.Errorf("got %+v", s)
	}
	versions := map[string]int64{}
	for _, ev := range events(t, a.client, "product") {
		m := ev.EventMeta()
		if m.CompanyID != "acme" || m.EntityVersion <= versions[m.EntityID] {
			t.Errorf("%+v", m)
		}
		versions[m.EntityID] = m.EntityVersion
	}
	if err := execute(t, publishCommand(a), "--sample", "1", "--types", "bookings.*"); err == nil || !strings.Contains(err.Error(), "bookings.*") {
		t.Errorf("a pattern that means nothing: got %v", err)
	}
}

func TestSampleRateIsOpenLoop(t *testing.T) {
	o := publishOptions{sample: 1000, rate: 100}
	for _, c := range []struct {
		elapsed time.Duration
		sent, n int64
	}{{0, 0, 1}, {time.Second, 1, 100}, {time.Second, 101, 0}, {9 * time.Second, 101, 200}, {time.Hour, 990, 10}} {
		n, wait := o.due(c.elapsed, c.sent)
		if n != c.n || (n == 0) != (wait > 0) {
			t.Errorf("after %v with %d sent: %d due (wait %v), want %d", c.elapsed, c.sent, n, wait, c.n)
		}
	}
}

func TestSchemasListAndShow(t *testing.T) {
	cfg := defaultConfig()
	out := new(bytes.Buffer)
	a := &app{out: out, errOut: new(bytes.Buffer), config: &cfg, json: true}
	if err := execute(t, schemasCommand(a), "list"); err != nil {
		t.Fatal(err)
	}
	var rows []schemaRow
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil || len(rows) != 27 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, name := range []string{"check_in", "check_in.recorded", "CheckInEvent", rows[6].Fingerprint} {
		out.Reset()
		if err := execute(t, schemasCommand(a), "show", name); err != nil {
			t.Fatal(err)
		}
		if s, err := schemas.Parse(out.String()); err != nil || s.Fingerprint() != schemas.EventSchema("check_in").Fingerprint() {
			t.Errorf("%s: %v", name, err)
		}
	}
	var r *refusal
	if err := execute(t, schemasCommand(a), "show", "nothing"); !errors.As(err, &r) || r.code != "unknown_schema" {
		t.Errorf("got %v", err)
	}
	if err := execute(t, schemasCommand(a), "register"); !errors.As(err, &r) || r.code != "no_registry" {
		t.Errorf("register without a registry: got %v", err)
	}
}
