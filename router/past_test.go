package router

import (
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// A catch-up passes over what nobody can read. When it can be read, a reroute sends it to those whose catch-up owed it as well, under the catch-up's ids.
func TestARerouteReachesWhatACatchUpOwed(t *testing.T) {
	g, url := startRegistry(t)
	w := newWorld(t, false, func(c *kafka.Config) { c.Registry.URL = url })
	began := w.client.BrokerNow().UnixMilli() - 3_600_000
	bare := schemas.Subscription{Version: 1, Company: "c_a", URL: "https://receiver.example/", Events: []string{"*"}, State: schemas.StatePaused,
		Spans: []schemas.Cut{{At: began - 1000, Kind: schemas.CutLive}, {At: began, Kind: schemas.CutPaused}}}
	paused := func(id, company, order string, events ...string) schemas.Subscription {
		s := bare
		s.ID, s.Name, s.Company, s.Order, s.Events = id, id, company, order, events
		w.put(&s)
		return s
	}
	again := []schemas.Subscription{paused("sub_again", "c_a", "", "*"), paused("sub_ordered", "c_a", schemas.OrderEntity, "customer.*"), paused("sub_all", "*", "", "*")}
	paused("sub_open", "c_a", "", "*")
	unmoved := []schemas.Subscription{paused("sub_other", "c_b", "", "*"), paused("sub_bookings", "c_a", "", "booking.*")}
	w.subscribe("sub_live", "c_a", FormatStandard, "*")
	run(t, w.router(func(c *Config) { c.UnknownSchemaWait = 0 }).Run)
	want := map[string]string{}
	const n = 5
	for range n {
		m, src, _ := w.confluent("customer.amendment", 9)
		want[schemas.TaskID(src, m.EventID, "sub_live", "")] = "live"
		for _, s := range again {
			want[schemas.TaskID(src, m.EventID, s.ID, "rpl_"+s.ID)] = "catch_up"
		}
	}
	w.read(w.client.Topics().Undecodable, n)
	cut := w.client.BrokerNow().UnixMilli() + 1
	for _, s := range append(again, unmoved...) {
		o := schemas.CatchUp("rpl_"+s.ID, &s, began, cut)
		o.To = cut
		w.writeOrder(&o)
		s.Version, s.State = 2, schemas.StateActive
		s.Spans = append(append([]schemas.Cut{}, s.Spans...), schemas.Cut{At: cut, Kind: schemas.CutLive, Reason: o.ID})
		w.put(&s)
	}
	w.deliver()
	for _, s := range append(again, unmoved...) {
		if p := w.over("rpl_" + s.ID); p.Matched != 0 {
			t.Fatalf("%s: the catch-up could read %d", s.ID, p.Matched)
		}
	}
	g.set(func() { g.texts["9"] = schemas.EventSchemaText("customer") })
	o, err := StartReroute(w.ctx, w.client, RerouteFilter{})
	if err != nil {
		t.Fatal(err)
	}
	w.until("the reroute is done", func() bool {
		s, err := RerouteProgress(w.ctx, w.client, o)
		return err == nil && s.Done()
	})
	got := w.replayed(2*n, false)
	for id, task := range w.tasks(2*n, false) {
		got[id] = task
	}
	for id, lane := range want {
		if task, ok := got[id]; !ok || string(task.Lane) != lane || len(task.Body) == 0 {
			t.Errorf("a task of the way %q is missing, or came another way: %v %q %d bytes", lane, ok, task.Lane, len(task.Body))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tasks, want %d", len(got), len(want))
	}
}
