package router

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Every event of every type becomes exactly one task for each subscription that matches it, none for another, and the companies never mix.
func TestEachEventBecomesOneTaskPerMatchingSubscription(t *testing.T) {
	w := newWorld(t, false, nil)
	subs := []struct {
		id, company, format string
		wants               func(m *schemas.EventMeta) bool
		events              []string
	}{
		{"sub_a_standard", "c_a", FormatStandard, func(m *schemas.EventMeta) bool { return true }, []string{"*"}},
		{"sub_a_bookings", "c_a", FormatClassic, func(m *schemas.EventMeta) bool { return strings.HasPrefix(m.EventType, "booking.") }, []string{"booking.*"}},
		{"sub_a_removals", "c_a", FormatCloudEvents, func(m *schemas.EventMeta) bool { return strings.HasSuffix(m.EventType, ".removal") }, []string{"*.removal"}},
		{"sub_b_all", "c_b", FormatClassic, func(m *schemas.EventMeta) bool { return true }, []string{"*"}},
		{"sub_all", "*", FormatCloudEvents, func(m *schemas.EventMeta) bool { return m.EventType == "booking.creation" }, []string{"booking.creation"}},
	}
	for _, s := range subs {
		w.subscribe(s.id, s.company, s.format, s.events...)
	}
	stop := w.start(nil)
	want := map[string]string{} // task id -> subscription and event
	for _, typ := range schemas.EventTypes() {
		for _, company := range []string{"c_a", "c_b", "c_nobody"} {
			m, src := w.publish(typ.Name, company)
			for _, s := range subs {
				if (s.company == company || s.company == "*") && s.wants(m) {
					want[schemas.TaskID(src, m.EventID, s.id, "")] = s.id + " " + m.EventID + " " + company
				}
			}
		}
	}
	w.committed()
	stop()
	got := w.tasks(len(want), false)
	for id, what := range want {
		task, ok := got[id]
		if !ok {
			t.Errorf("lacks %s", what)
			continue
		}
		if is := task.Subscription + " " + task.EventID + " " + task.Company; is != what {
			t.Errorf("task %s is %s and not %s", id, is, what)
		}
		if task.Attempt != 1 || task.Lane != schemas.LaneLive || task.SubscriptionVersion != 1 || task.Due != 0 || task.Last != nil || len(task.Body) == 0 {
			t.Errorf("%s: %+v", what, task)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tasks, and %d are owed", len(got), len(want))
	}
	for _, task := range got {
		if !validText(task.Body) || !bytes.Contains(task.Body, []byte(task.EventID)) || !bytes.Contains(task.Body, []byte(task.Company)) {
			t.Errorf("body of %s: %s", task.ID, task.Body)
		}
	}
}

// A record that is no event goes to `undecodable` as it was, and the next good one goes out.
func TestUndecodableIsKeptAndTheNextGoodOneGoesOut(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	tp, key, good, _ := w.sample("booking.creation", "c_a")
	_, _, product, _ := w.sample("product.creation", "c_a")
	bad := map[string][]byte{
		"unframed":       []byte("not avro at all"),
		"empty":          nil,
		"truncated":      good[:len(good)-3],
		"trailing_bytes": append(bytes.Clone(good), 0),
		reasonNoRegistry: append([]byte{0, 0, 0, 0, 7}, good[10:]...),
		reasonWrongTopic: product,
	}
	own := []kafka.Header{{Key: "ce_id", Value: []byte("x")}, {Key: "hookferry-reason", Value: []byte("forged")}}
	var rs kafka.Records
	rs.Add(tp, key, own, good)
	for _, value := range bad {
		if value == nil {
			rs.AddTombstone(tp, key)
			continue
		}
		rs.Add(tp, key, own, value)
	}
	rs.Add(tp, key, own, good)
	w.write(&rs)
	w.start(nil)
	if n := len(w.tasks(2, false)); n != 2 {
		t.Errorf("%d tasks", n)
	}
	w.committed() // not before all of them are kept
	seen := map[string]bool{}
	_, err := ScanUndecodable(w.ctx, w.client, -1, nil, func(u *Undecodable) bool {
		seen[u.Reason] = true
		value, ok := bad[u.Reason]
		if !ok || !bytes.Equal(u.Value, value) || (u.Value == nil) != (value == nil) || string(u.Key) != string(key) || u.Source.Topic != tp.Topic || u.Source.Partition != tp.Partition {
			t.Errorf("%s: %+v", u.Reason, u)
		}
		if value != nil && (len(u.Headers) != 2 || string(u.Headers[1].Value) != "forged") {
			t.Errorf("%s: its own headers became %v", u.Reason, u.Headers)
		}
		return true
	})
	if err != nil || len(seen) != len(bad) {
		t.Errorf("%v: %v", seen, err)
	}
}

// The sequence: a router appended the tasks of a batch and died before it committed. Its successor writes the same ids.
func TestABatchThatIsRoutedTwiceMakesTheSameTasks(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	w.subscribe("sub_2", "c_a", FormatClassic, "booking.*")
	tp, key, value, _ := w.sample("booking.amendment", "c_a")
	batch := kafka.Batch{TP: tp, Next: 101, HighWatermark: 101, Records: []kafka.Record{{Offset: 100, Time: 1, Key: key, Value: value}}}
	batch.Records[0].Time = w.client.BrokerNow().UnixMilli()
	bodies := map[string][]byte{}
	for range 2 {
		r := w.router(nil)
		r.owned.take(map[kafka.TP]start{tp: {offset: 100, committed: true}}, nil, nil)
		if err := r.handle(w.ctx, []kafka.Batch{batch}); err != nil {
			t.Fatal(err)
		}
		if c := r.owned.due(); c[tp].Offset != 101 {
			t.Errorf("done up to %v", c)
		}
	}
	recs := w.read(w.client.Topics().Retry, 4)
	for _, rec := range recs {
		var task schemas.Task
		if err := schemas.DecodeTask(rec.Value, &task); err != nil {
			t.Fatal(err)
		}
		if before, ok := bodies[task.ID]; ok && !bytes.Equal(before, task.Body) {
			t.Errorf("task %s has two bodies", task.ID)
		}
		bodies[task.ID] = bytes.Clone(task.Body)
	}
	if len(recs) != 4 || len(bodies) != 2 {
		t.Errorf("%d records of %d tasks", len(recs), len(bodies))
	}
}

// A batch comes whole: what of it is done already is not routed again.
func TestRecordsBelowThePositionAreSkipped(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	tp, key, value, _ := w.sample("booking.creation", "c_a")
	b := kafka.Batch{TP: tp, Next: 101}
	for offset := range int64(101) {
		b.Records = append(b.Records, kafka.Record{Offset: offset, Time: w.client.BrokerNow().UnixMilli(), Key: key, Value: value})
	}
	r := w.router(nil)
	r.owned.take(map[kafka.TP]start{tp: {offset: 99, committed: true}}, nil, nil)
	if err := r.handle(w.ctx, []kafka.Batch{b}); err != nil {
		t.Fatal(err)
	}
	for _, task := range w.tasks(2, false) {
		if task.Source.Offset < 99 {
			t.Errorf("offset %d was routed", task.Source.Offset)
		}
	}
}

// A body over the limit is left out, and the task says so: the deliverer ends it as too_large.
func TestABodyOverTheLimitIsLeftOut(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	w.start(func(c *Config) { c.BodyLimit = 1 << 10 })
	w.publish("booking.amendment", "c_a")
	for _, task := range w.tasks(1, false) {
		if len(task.Body) != 0 || task.Last == nil || task.Last.Reason != schemas.ReasonTooLarge {
			t.Errorf("%d bytes of body, last %+v", len(task.Body), task.Last)
		}
	}
}

// Routers come and go while events flow: no event is lost, and tasks that were written twice have one id.
func TestEveryEventIsRoutedWhileRoutersComeAndGo(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	want := map[string]bool{}
	publish := func(n int) {
		for i := range n {
			m, src := w.publish(schemas.EventTypes()[i%26].Name, "c_a")
			want[schemas.TaskID(src, m.EventID, "sub_1", "")] = true
		}
	}
	stop := w.start(nil)
	publish(100)
	for range 2 {
		joining := w.router(nil)
		next := run(t, joining.Run)
		publish(60)
		w.until("the second router has joined", func() bool { return joining.Ready() == nil })
		publish(60)
		stop()
		publish(60)
		stop = next
	}
	w.committed()
	stop()
	got := w.tasks(len(want), true)
	for id := range want {
		if _, ok := got[id]; !ok {
			t.Fatalf("%d of %d events were routed", len(got), len(want))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tasks for %d events", len(got), len(want))
	}
}

// A router that is stopped commits what it did: a restart writes nothing twice, and loses nothing.
func TestARestartWritesNothingTwice(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	n := 0
	for range 3 {
		stop := w.start(func(c *Config) { c.CommitInterval = 10 * time.Second }) // only the stop commits
		for range 50 {
			w.publish("customer.creation", "c_a")
			n++
		}
		w.tasks(n-25, false) // stopped in the middle
		stop()
	}
	w.start(nil)
	w.committed()
	if got := w.tasks(n, false); len(got) != n {
		t.Errorf("%d tasks for %d events", len(got), n)
	}
}

// Tasks of one source partition stand in the order of their source within each partition of `retry`.
func TestTasksKeepTheOrderOfTheirSource(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	w.subscribe("sub_2", "c_a", FormatStandard, "*")
	var rs kafka.Records
	const n = 500
	for i := range n {
		tp, key, value, _ := w.sample("customer.creation", "c_a")
		rs.Add(tp, key, nil, value)
		if i%100 == 99 {
			w.write(&rs)
		}
	}
	w.start(nil)
	last := map[string]int64{}
	for _, rec := range w.read(w.client.Topics().Retry, 2*n) {
		var task schemas.Task
		if err := schemas.DecodeTask(rec.Value, &task); err != nil {
			t.Fatal(err)
		}
		lane := fmt.Sprintf("%s of %s/%d", task.Subscription, task.Source.Topic, task.Source.Partition)
		if at, ok := last[lane]; ok && task.Source.Offset <= at {
			t.Fatalf("%s: %d stands behind %d", lane, task.Source.Offset, at)
		}
		last[lane] = task.Source.Offset
	}
}
