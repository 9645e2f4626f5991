package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// book publishes n new bookings of a company.
func book(t *testing.T, c *kafka.Client, company string, n int) {
	t.Helper()
	p, err := producer.Over(t.Context(), c, producer.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range n {
		if err := p.Publish(t.Context(), sandbox.Sample(rng, "booking.creation", company, int64(i))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecentReadsKafkaWhereNoServiceIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t)
		book(t, a.client, "acme", 3)
		book(t, a.client, "other", 2)
		if err := execute(t, recentCommand(a), "--company", "acme"); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "CHANGED") || !strings.Contains(lines[1], "1000002") {
			t.Errorf("%s", out)
		}
		out.Reset()
		a.json = true
		if err := execute(t, recentCommand(a), "--company", "acme", "--limit", "2"); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			CompanyID string
			AsOf      time.Time
			Bookings  []struct{ BookingID string }
		}
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil || doc.CompanyID != "acme" || len(doc.Bookings) != 2 || doc.AsOf.IsZero() {
			t.Errorf("%s", out)
		}
		a.json = false
		out.Reset()
		if err := execute(t, recentCommand(a), "--company", "nobody"); err != nil || out.String() != "no bookings\n" {
			t.Errorf("%s %v", out, err)
		}
		for _, args := range []string{"", "--company acme --limit 0", "--company acme --limit 501", "--company *", "--company acme --url ftp://x"} {
			if err := execute(t, recentCommand(a), strings.Fields(args)...); codeOf(err) != "usage" {
				t.Errorf("%q: %v", args, err)
			}
		}
	})
}

func TestASnapshotIsPublishedToACompanyOrToASubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t)
		book(t, a.client, "acme", 3)
		put := func(s *schemas.Subscription) {
			var r kafka.Records
			r.Add(kafka.TP{Topic: a.client.Topics().Subscriptions}, []byte(s.ID), nil, schemas.AppendSubscription(nil, s))
			if _, err := a.client.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
				t.Fatal(err)
			}
		}
		put(&schemas.Subscription{ID: "sub_1", Version: 1, Company: "acme", Name: "crm", Events: []string{"*"}, State: schemas.StateActive})
		put(&schemas.Subscription{ID: "sub_2", Version: 1, Company: "*", Name: "all", Events: []string{"*"}, State: schemas.StateActive})
		put(&schemas.Subscription{ID: "sub_3", Version: 1, Company: "acme", Name: "gone", Events: []string{"*"}, State: schemas.StateDeleted})
		for _, c := range []struct{ args, code, entity string }{
			{"--company acme", "", "acme"},
			{"--subscription sub_1", "", "sub_1"},
			{"--subscription crm --company acme --limit 2", "", "sub_1"},
			{"--subscription sub_2 --company acme", "", "sub_2"},
			{"", "usage", ""},
			{"--subscription sub_2", "usage", ""},
			{"--subscription sub_1 --company other", "company_differs", ""},
			{"--subscription sub_3", "subscription_deleted", ""},
			{"--subscription nobody", "subscription_unknown", ""},
		} {
			before := len(events(t, a.client, "recent_reservations"))
			out.Reset()
			if err := execute(t, recentSnapshotCommand(a), strings.Fields(c.args)...); codeOf(err) != c.code {
				t.Errorf("%q: %v", c.args, err)
			}
			all := events(t, a.client, "recent_reservations")
			if c.code != "" {
				if len(all) != before {
					t.Errorf("%q published something", c.args)
				}
				continue
			}
			ids := []string{}
			for _, ev := range all {
				ids = append(ids, ev.EventMeta().EntityID)
			}
			if len(all) != before+1 || !slices.Contains(ids, c.entity) || !strings.Contains(out.String(), "bookings of acme was published") {
				t.Errorf("%q: %v\n%s", c.args, ids, out)
			}
		}
	})
}

// The service of `hookferry recent serve`, asked by the command over a real connection, says what the command reads by itself.
func TestRecentServeAnswersTheCommand(t *testing.T) {
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cfg := defaultConfig()
	cfg.Kafka.Brokers, cfg.Kafka.Partitions, cfg.Kafka.ReplicationFactor, cfg.Host.Listen = b.Addrs(), 2, 1, ""
	cfg.Recent.Token = "a-token-of-the-test"
	if cfg.Recent.Listen, err = freeAddress("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p, err := newPipeline(cfg, nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, err := p.kafka.CreateTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	book(t, p.kafka, "acme", 3)
	service, err := p.service("recent")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ready := service.(*recent.Service).Ready
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ready() != nil {
		<-tick.C
	}
	run := func(url string, args ...string) string {
		var out bytes.Buffer
		c := cfg
		c.Recent.URL = url
		a := &app{out: &out, errOut: &out, config: &c}
		defer a.close()
		if err := execute(t, recentCommand(a), args...); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out.String()
	}
	url := "http://" + cfg.Recent.Listen
	asked, read := run(url, "--company", "acme"), run("", "--company", "acme")
	if asked != read || strings.Count(asked, "\n") != 4 || run("", "--company", "acme", "--url", url) != read {
		t.Errorf("the service says\n%s\nKafka says\n%s", asked, read)
	}
	if said := run(url, "snapshot", "--company", "acme"); !strings.Contains(said, "with 3 bookings of acme was published") {
		t.Error(said)
	}
}

// The publisher's library and its command leave our own type to us.
func TestNobodyPublishesASnapshotByAccident(t *testing.T) {
	_, err := eventOf([]byte(`{"meta":{"eventType":"recent_reservations.snapshot","companyId":"acme"},"data":{}}`), "", time.Now())
	if err == nil || !strings.Contains(err.Error(), "hookferry recent snapshot") {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := virtualKafka(t)
		p, err := producer.Over(t.Context(), a.client, producer.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close(t.Context())
		ev := &schemas.RecentReservationsEvent{Meta: schemas.EventMeta{EventID: "e", EventType: schemas.RecentSnapshot, CompanyID: "acme", EntityID: "acme", OccurredAt: time.Now()}}
		if err := p.Publish(t.Context(), ev); err == nil || !strings.Contains(err.Error(), "Config.Entities") {
			t.Error(err)
		}
	})
}

// The command does all of it in its order: a router must have put the snapshot in line before the subscription is live.
func TestCreateWithASnapshotWaitsForTheRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, errOut := virtualKafka(t)
		book(t, a.client, "acme", 3)
		for args, code := range map[string]string{"--company * --snapshot": "usage", "--company acme --snapshot=0": "usage", "--company acme --snapshot=501": "usage"} {
			if err := execute(t, subscriptionsCommand(a), append([]string{"create", "--name", "n", "--url", "https://hooks.example.com/", "--events", "*"},
				strings.Fields(args)...)...); codeOf(err) != code {
				t.Errorf("%s: %v", args, err)
			}
		}
		log := zap.NewNop()
		table := subscriptions.NewTable(a.client, nil, subscriptions.Options{Log: log})
		r, err := router.New(router.DefaultConfig(), router.Deps{Kafka: a.client, Table: table, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- table.Run(ctx) }()
		late := time.AfterFunc(15*time.Second, func() { ended <- r.Run(ctx) })
		defer func() {
			cancel()
			late.Stop()
			<-ended
			<-ended
		}()
		began := time.Now()
		if err := execute(t, subscriptionsCommand(a), "create", "--company", "acme", "--name", "crm", "--url", "https://hooks.example.com/", "--events", "customer.*", "--snapshot=2"); err != nil {
			t.Fatal(err, errOut)
		}
		if took := time.Since(began); took < 15*time.Second || !strings.Contains(errOut.String(), "no router seems to run") {
			t.Errorf("it took %v, and said %s", took, errOut)
		}
		got := events(t, a.client, "recent_reservations")
		if len(got) != 1 || !strings.Contains(out.String(), got[0].EventMeta().EntityID) || len(got[0].(*schemas.RecentReservationsEvent).Data.Bookings) != 2 {
			t.Fatalf("%d snapshots\n%s", len(got), out)
		}
		tasks, err := a.client.Offsets(t.Context(), a.client.Topics().Retry, kafka.Latest)
		if err != nil || tasks[0] != 1 {
			t.Errorf("%v tasks are in line: %v", tasks, err)
		}
		if !strings.Contains(out.String(), "live from") {
			t.Errorf("%s", out)
		}
	})
}
