package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// Every kind of the table once, through a router on the broker in memory: the scenario does the same on real ones, ten thousand times, with deliveries.
func TestEveryKindOfPoisonMeetsItsFate(t *testing.T) {
	if len(poisons) < 60 {
		t.Errorf("%d kinds of poison, and 60 are promised", len(poisons))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, table := poisonWorld(t, ctx)
	sent := map[string]*poisonKind{}
	times := map[string]int{}
	const company = "poisoned"
	expected := 0
	for i := range poisons {
		k := &poisons[i]
		d, err := newDraft(company, fmt.Sprintf("%s-%d", company, i), 0)
		if err != nil {
			t.Fatal(err)
		}
		d.headers = []kafka.Header{{Key: idHeader, Value: []byte(d.event.Meta.EntityID)}}
		if k.make(d); sent[k.name] != nil {
			t.Errorf("two kinds are called %q", k.name)
		}
		sent[k.name], times[k.name] = k, d.times
		expected += d.times
		for range d.times {
			writePoison(t, ctx, c, d)
		}
	}
	cfg := router.DefaultConfig()
	cfg.UnknownSchemaWait = 100 * time.Millisecond
	r, err := router.New(cfg, router.Deps{Kafka: c, Table: table})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, r.Run)
	fates := settle(t, ctx, c, company, expected)
	for i := range poisons {
		k := &poisons[i]
		want := k.want
		if want == delivered || want == justFits {
			want = delivered
		}
		want = strings.TrimSuffix(strings.Repeat(want+" ", times[k.name]), " ")
		if got := strings.Join(fates[fmt.Sprintf("%s-%d", company, i)], " "); got != want && !(k.want == nobody && got == "") {
			t.Errorf("%s: %q, and it should be %q", k.name, got, want)
		}
	}
}

// poisonWorld is a broker in memory with our topics and the stand-in registry, and a table that knows one subscription, for everything of one company.
func poisonWorld(t *testing.T, ctx context.Context) (*kafka.Client, *subscriptions.Table) {
	t.Helper()
	reg, err := theStandIn()
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafka.DefaultConfig()
	cfg.Registry.URL = reg.URL
	broker, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	cfg.Brokers = broker.Addrs()
	c, err := kafka.Open(cfg, kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.CreateTopics(ctx); err != nil { // as large as they are in production
		t.Fatal(err)
	}
	var rs kafka.Records
	key := []byte("sub_1")
	rs.Add(place(c, c.Topics().Subscriptions, key), key, nil, schemas.AppendSubscription(nil, &schemas.Subscription{
		ID: "sub_1", Version: 1, Company: "poisoned", Name: "all", URL: "https://receiver.example/", Events: []string{"*"}, Format: "standard",
		State: schemas.StateActive, Spans: []schemas.Cut{{At: time.Now().Add(-time.Hour).UnixMilli(), Kind: "live"}}}))
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs); err != nil {
		t.Fatal(err)
	}
	table := subscriptions.NewTable(c, nil, subscriptions.Options{})
	runs(t, table.Run)
	<-table.Loaded()
	return c, table
}

// runs starts a service, which ends with the test.
func runs(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func writePoison(t *testing.T, ctx context.Context, c *kafka.Client, d *draft) {
	t.Helper()
	var rs kafka.Records
	tp := place(c, c.Topics().Events[d.topic], d.key)
	if v := d.bytes(); v == nil {
		rs.AddTombstone(tp, d.key, d.headers...)
	} else {
		rs.Add(tp, d.key, d.headers, v)
	}
	if _, err := c.NewAppender(kafka.AppenderConfig{Compression: d.codec}).Append(ctx, &rs); err != nil {
		t.Fatal(err)
	}
}

// settle waits until the router has committed so many records, and gives what became of each, by the rig's id.
func settle(t *testing.T, ctx context.Context, c *kafka.Client, company string, expected int) map[string][]string {
	t.Helper()
	topics := c.Topics()
	var tps []kafka.TP
	for _, entity := range []string{"booking", "customer"} {
		for p := range kafka.DefaultConfig().Partitions {
			tps = append(tps, kafka.TP{Topic: topics.Events[entity], Partition: int32(p)})
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := c.CommittedOffsets(ctx, router.GroupID(topics), tps)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range got {
			n += int(max(o.Offset, 0))
		}
		if n == expected {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d of %d records are routed: a partition is stuck", n, expected)
		}
	}
	fates := map[string][]string{}
	_, err := router.ScanUndecodable(ctx, c, -1, nil, func(u *router.Undecodable) bool {
		id, fate := headerOf(u.Headers, idHeader), u.Reason
		if u.LeftOut > 0 {
			id, fate = strings.TrimPrefix(string(u.Key), company+"/"), leftOut+fate
		}
		fates[id] = append(fates[id], fate)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	err = scanAll(ctx, c, topics.Retry, func(rec *kafka.Record) bool {
		var task schemas.Task
		if err := schemas.DecodeTask(rec.Value, &task); err != nil {
			t.Error(err)
			return false
		}
		fate := delivered
		if task.Last != nil && task.Last.Reason == schemas.ReasonTooLarge && len(task.Body) == 0 {
			fate = justOver
		}
		id := poisonID(task.EventID)
		fates[id] = append(fates[id], fate)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return fates
}

// poisonID finds the rig's id in an event id, behind which a kind may have put more.
func poisonID(event string) string {
	id := strings.TrimPrefix(event, "evt_")
	i := strings.IndexByte(id, '-') + 1
	for i < len(id) && id[i] >= '0' && id[i] <= '9' {
		i++
	}
	return id[:i]
}
