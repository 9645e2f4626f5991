package house

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/hookferry/hookferry/audit"
	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// An audit of what real routers and deliverers left behind finds nothing missing; and each of twenty and more gaps that are planted into copies of it, one
// a copy, is found: that event, that kind, and nothing else.
func TestVerifyFindsEachPlantedGapAndNoneWhereThereIsNone(t *testing.T) {
	t.Parallel()
	w := lived(t)
	r := w.verify(w.d.kafka)
	want := audit.Report{Owed: 50, Delivered: 24, Dead: 6, Waiting: 20, Unreadable: 1}
	if !r.OK() || r.GhostCount != 0 || r.Owed != want.Owed || r.Delivered != want.Delivered || r.Dead != want.Dead || r.Waiting != want.Waiting ||
		r.Unreadable != want.Unreadable || r.WaitingBy["not_routed"] != 6 || r.Events != 3*want.Owed+1 {
		t.Fatalf("nothing is missing, and it says %+v", r)
	}
	whole := w.snapshot()
	if r := w.verify(w.restore(whole)); !r.OK() || r.Owed != want.Owed || r.Delivered != want.Delivered || r.Dead != want.Dead || r.Waiting != want.Waiting || r.GhostCount != 0 {
		t.Fatalf("the copy is not like what was copied: %+v", r)
	}
	topics := w.d.kafka.Topics()
	attempts, dead, retry := topics.Attempts, topics.Dead, topics.Retry
	tier := topics.Tiers[len(topics.Tiers)-1].Name
	for name, c := range map[string]struct {
		event string
		kind  string
		plant func(s *copied, event string)
	}{
		"a delivered task's attempt":            {w.delivered[7], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, attempts) }},
		"a delivered task's attempt and task":   {w.delivered[1], audit.GapNoTask, func(s *copied, e string) { s.lose(e, attempts, retry) }},
		"the first event's attempt":             {w.delivered[0], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, attempts) }},
		"the last delivered event's attempt":    {w.delivered[len(w.delivered)-1], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, attempts) }},
		"an attempt that cannot be told":        {w.delivered[2], audit.GapNoEnd, func(s *copied, e string) { s.rename(e) }},
		"a record in a tier":                    {w.retrying[0], audit.GapPutOff, func(s *copied, e string) { s.lose(e, tier) }},
		"a record in a tier and its attempts":   {w.retrying[1], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, tier, attempts) }},
		"all but a retry's attempts":            {w.retrying[2], audit.GapPutOff, func(s *copied, e string) { s.lose(e, tier, retry) }},
		"everything of a retry":                 {w.retrying[3], audit.GapNoTask, func(s *copied, e string) { s.lose(e, tier, retry, attempts) }},
		"a dead letter":                         {w.dead[0], audit.GapLetter, func(s *copied, e string) { s.lose(e, dead) }},
		"a dead letter and its attempts":        {w.dead[1], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, dead, attempts) }},
		"everything of a dead task":             {w.dead[2], audit.GapNoTask, func(s *copied, e string) { s.lose(e, dead, attempts, retry) }},
		"the attempt that says dead":            {w.dead[3], audit.GapAttempt, func(s *copied, e string) { s.lose(e, attempts) }},
		"a letter taken out, and nothing since": {w.dead[4], audit.GapRedriven, func(s *copied, e string) { s.takeOut(e) }},
		"what a redrive had delivered":          {w.redriven[0], audit.GapRedriven, func(s *copied, e string) { s.takeOut(e); s.loseDelivered(e) }},
		"a task that nobody has tried":          {w.untried[0], audit.GapNoTask, func(s *copied, e string) { s.lose(e, retry) }},
		"a record in undecodable":               {"", audit.GapUnreadable, func(s *copied, _ string) { s.topics[topics.Undecodable] = nil }},
		"a delivered retry's last attempt":      {w.second[0], audit.GapPutOff, func(s *copied, e string) { s.loseDelivered(e) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := whole.clone(w)
			c.plant(s, c.event)
			r := w.verify(w.restore(s))
			if r.OK() || r.GapCount != 1 || r.Gaps[0].Kind != c.kind || r.Gaps[0].Event != c.event || r.GhostCount != 0 {
				t.Errorf("%d gaps %+v, %d ghosts, want one %s of %s", r.GapCount, r.Gaps, r.GhostCount, c.kind, c.event)
			}
		})
	}
	for name, c := range map[string]struct {
		kind, group, topic string
		events             []string
	}{
		"a commit past a record in a tier":           {audit.GapPutOff, w.deliverers(), tier, w.retrying},
		"a commit past a task that was never tried":  {audit.GapNoEnd, w.deliverers(), retry, w.untried},
		"a commit past an event that was not routed": {audit.GapNoTask, w.routers(), topics.Events["account"], w.unrouted},
	} {
		t.Run(name, func(t *testing.T) {
			s := whole.clone(w)
			event := s.pass(c.group, c.topic, c.events)
			r := w.verify(w.restore(s))
			if r.OK() || r.GapCount != 1 || r.Gaps[0].Kind != c.kind || r.Gaps[0].Event != event || r.GhostCount != 0 {
				t.Errorf("%d gaps %+v, %d ghosts, want one %s of %s", r.GapCount, r.Gaps, r.GhostCount, c.kind, event)
			}
		})
	}
	t.Run("several at once", func(t *testing.T) {
		s := whole.clone(w)
		events := []string{w.delivered[4], w.delivered[5], w.dead[1], w.untried[0]}
		for _, e := range events {
			s.lose(e, attempts, dead, retry)
		}
		r := w.verify(w.restore(s))
		for _, g := range r.Gaps {
			events = slices.DeleteFunc(events, func(e string) bool { return e == g.Event })
		}
		if r.GapCount != 4 || len(events) != 0 {
			t.Errorf("%d gaps %+v; %v were not found", r.GapCount, r.Gaps, events)
		}
	})
	t.Run("a ghost", func(t *testing.T) {
		s := whole.clone(w)
		s.haunt(w.foreign)
		if r := w.verify(w.restore(s)); !r.OK() || r.GhostCount != 1 || r.Ghosts[0].Event != w.foreign || r.Ghosts[0].Why != "not_company" || r.Ghosts[0].What != "delivered" {
			t.Errorf("gaps %+v, ghosts %+v", r.Gaps, r.Ghosts)
		}
	})
}

// A deployment does not stand still while it is audited: events come, first tries fail, tasks move from tier to tier, deliverers come and go. Whatever moves
// is met again further down, so nothing is ever missing.
func TestVerifyOfADeploymentThatMovesFindsNothingMissing(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	stop := d.deliverer()
	w := &life{d: d, from: time.Now().Add(-time.Hour)}
	w.l = d.subscribe("acme", "/flap/1/s", func(dr *subscriptions.Draft) { dr.Schedule = []time.Duration{0, time.Second, time.Second} })
	published := 0
	for round := range 12 {
		published += len(d.publish("booking.creation", "acme", 40))
		switch round {
		case 4:
			d.deliverer()
		case 8:
			stop()
		}
		w.to = time.Now().Add(time.Second)
		if r := w.verify(d.kafka); !r.OK() || r.GhostCount != 0 || r.Owed != int64(published) {
			t.Fatalf("round %d: %d of %d owed; gaps %+v; ghosts %+v", round, r.Owed, published, r.Gaps, r.Ghosts)
		}
	}
}

// What the order of reading is for, at its two worst moments: all tasks end between the reading of what routers have done and of what waits; and all events
// are routed right after what waits was read.
func TestVerifyReadsInTheOrderInWhichThingsMove(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	stop := d.router()
	w := &life{d: d, from: time.Now().Add(-time.Hour)}
	w.l = d.subscribe("acme", "/ok/s")
	ids := d.publish("booking.creation", "acme", 20)
	w.idle()
	stop()
	d.publish("booking.creation", "acme", 20)
	w.to = time.Now().Add(time.Second)
	sources := w.sources(d.kafka)
	waiting := sources.Waiting
	sources.Waiting = func(ctx context.Context, sub string, watch func(read, total int64), fn func(*schemas.Task)) error {
		stop := d.deliverer()
		d.arrive("/ok/s", w.l, ids...)
		stop() // with its last commit
		if err := waiting(ctx, sub, watch, fn); err != nil {
			return err
		}
		d.router()
		w.idle()
		return nil
	}
	r, err := audit.Verify(d.ctx, sources, &w.l.Subscription, w.from, w.to, nil)
	d.must(err)
	if !r.OK() || r.Delivered != 20 || r.WaitingBy["not_routed"] != 20 {
		t.Errorf("%+v", r)
	}
}

// life is a deployment that has lived, and been stopped: what became of the events of one subscription, by their ids.
type life struct {
	d        *deployment
	l        *subscriptions.Live
	from, to time.Time

	delivered, second, dead, redriven, retrying, untried, unrouted []string
	foreign                                                        string // of another company
}

// lived has a subscription go through everything: deliveries, a second try, dead letters, one redriven, tasks in tiers, tasks that no deliverer took, and
// events that no router took. Beside it are two that want the same, and events that they alone want.
func lived(t *testing.T) *life {
	d := deploy(t)
	stopRouter, stopDeliverer := d.router(), d.deliverer()
	w := &life{d: d}
	w.l = d.subscribe("acme", "/ok/s", func(dr *subscriptions.Draft) { dr.Name = "s" })
	w.from = time.Now().Add(-time.Hour)
	other := d.subscribe("acme", "/ok/other")
	borea := d.subscribe("borea", "/ok/borea")
	publish := func(n int, eventType string) []string {
		foreign := d.publish(eventType, "borea", n)
		w.foreign = cmp.Or(w.foreign, foreign[0])
		d.publish("customer.creation", "cyan", n)
		return d.publish(eventType, "acme", n)
	}
	answer := func(path string, schedule ...time.Duration) {
		url := d.receiver.URL(path)
		_, err := d.writer.Update(d.ctx, w.l.ID, subscriptions.Change{URL: &url, Schedule: &schedule})
		d.must(err)
	}
	w.delivered = publish(20, "booking.creation")
	d.arrive("/ok/s", w.l, w.delivered...)
	answer("/flap/1/s", 0, time.Second)
	w.second = publish(3, "package.creation")
	d.arrive("/flap/1/s", w.l, w.second...)
	answer("/abort/s")
	w.dead = publish(7, "customer.creation")
	letters := d.read(d.kafka.Topics().Dead, len(w.dead))
	w.awaitAttempts(schemas.VerdictDead, len(w.dead))
	answer("/ok/s")
	var letter schemas.Dead
	d.must(schemas.DecodeDead(letters[0].Value, &letter))
	_, err := deliverer.OrderRedrive(d.ctx, d.kafka, schemas.Replay{Subscription: w.l.ID, EventID: letter.Task.EventID})
	d.must(err)
	w.redriven = []string{letter.Task.EventID}
	d.arrive("/ok/s", w.l, w.redriven...)
	w.dead = slices.DeleteFunc(w.dead, func(e string) bool { return e == w.redriven[0] })
	answer("/status/503/s", 0, time.Hour)
	w.retrying = publish(4, "product.creation") // five in a row would open the circuit
	w.awaitAttempts(schemas.VerdictRetry, len(w.second)+len(w.retrying))
	w.poison()
	w.idle()
	stopDeliverer()
	w.untried = publish(10, "contact.creation")
	w.idle()
	stopRouter()
	w.unrouted = publish(6, "account.creation")
	w.to = time.Now().Add(time.Second)
	_, _ = other, borea
	return w
}

// poison publishes a record that no router can read.
func (w *life) poison() {
	var r kafka.Records
	r.Add(kafka.TP{Topic: w.d.kafka.Topics().Events["booking"]}, []byte("acme/x"), nil, []byte("not Avro"))
	_, err := w.d.kafka.NewAppender(kafka.AppenderConfig{}).Append(w.d.ctx, &r)
	w.d.must(err)
	w.d.read(w.d.kafka.Topics().Undecodable, 1)
}

// awaitAttempts waits until the subscription has so many attempts of a verdict, durably.
func (w *life) awaitAttempts(v schemas.Verdict, n int) {
	w.d.t.Helper()
	f := deliverer.AttemptFilter{Subscription: w.l.ID, Verdict: v}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		have := 0
		w.d.must(deliverer.ReadAttempts(w.d.ctx, w.d.kafka, f, nil, func(*schemas.Attempt) { have++ }))
		if have >= n {
			return
		}
		select {
		case <-tick.C:
		case <-w.d.ctx.Done():
			w.d.t.Fatalf("%d attempts of the verdict %s, want %d", have, v, n)
		}
	}
}

// idle waits until the routers have committed all events.
func (w *life) idle() { w.committed(w.routers(), w.d.kafka.Topics().EventTopics()) }

// rest waits until the deliverers have committed all tasks: what is copied before may have an attempt and still be waiting for its commit.
func (w *life) rest() { w.committed(w.deliverers(), w.d.kafka.Topics().LaneTopics()) }

// committed waits until a group has committed all that stands in some topics.
func (w *life) committed(group string, topics []string) {
	c := w.d.kafka
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		behind := 0
		for _, topic := range topics {
			ends, err := c.Offsets(w.d.ctx, topic, kafka.Latest)
			w.d.must(err)
			var tps []kafka.TP
			for p := range ends {
				tps = append(tps, kafka.TP{Topic: topic, Partition: p})
			}
			at, err := c.CommittedOffsets(w.d.ctx, group, tps)
			w.d.must(err)
			for tp, o := range at {
				if o.Offset < ends[tp.Partition] {
					behind++
				}
			}
		}
		if behind == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-w.d.ctx.Done():
			w.d.t.Fatal("the routers do not commit everything")
		}
	}
}

func (w *life) routers() string { return router.GroupID(w.d.kafka.Topics()) }
func (w *life) deliverers() string {
	return w.d.config.TopicPrefix + deliverer.DefaultConfig().Group
}

// verify audits a deployment as the command does.
func (w *life) verify(c *kafka.Client) *audit.Report {
	w.d.t.Helper()
	r, err := audit.Verify(w.d.ctx, w.sources(c), &w.l.Subscription, w.from, w.to, nil)
	w.d.must(err)
	return r
}

func (w *life) sources(c *kafka.Client) audit.Sources {
	return audit.Sources{Kafka: c, Routers: w.routers(), Waiting: func(ctx context.Context, sub string, watch func(read, total int64), fn func(*schemas.Task)) error {
		return deliverer.ReadWaiting(ctx, c, deliverer.DefaultConfig().Group, sub, watch, func(_ int32, t *schemas.Task) { fn(t) })
	}}
}

// copied is all that topics and groups hold.
type copied struct {
	w      *life
	topics map[string]map[int32][]kafka.Record
	groups map[string]map[kafka.TP]kafka.Committed
}

func (w *life) snapshot() *copied {
	w.d.t.Helper()
	c := w.d.kafka
	s := &copied{w: w, topics: map[string]map[int32][]kafka.Record{}, groups: map[string]map[kafka.TP]kafka.Committed{}}
	var tps []kafka.TP
	for _, spec := range c.Topics().All() {
		s.topics[spec.Name] = map[int32][]kafka.Record{}
		ends, err := c.Offsets(w.d.ctx, spec.Name, kafka.Latest)
		w.d.must(err)
		pos, left := map[kafka.TP]int64{}, 0
		for p, end := range ends {
			tp := kafka.TP{Topic: spec.Name, Partition: p}
			tps = append(tps, tp)
			if end > 0 {
				pos[tp], left = 0, left+int(end)
			}
		}
		if left == 0 {
			continue
		}
		ctx, cancel := context.WithCancel(w.d.ctx)
		f := c.NewFetcher(kafka.FetchConfig{})
		f.Assign(pos)
		w.d.must(f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
			for _, b := range bs {
				s.topics[b.Topic][b.Partition] = append(s.topics[b.Topic][b.Partition], b.Records...)
				left -= len(b.Records)
			}
			if left <= 0 {
				cancel()
			}
			return nil
		}))
		cancel()
	}
	for _, group := range []string{w.routers(), w.deliverers()} {
		at, err := c.CommittedOffsets(w.d.ctx, group, tps)
		w.d.must(err)
		s.groups[group] = at
	}
	return s
}

func (s *copied) clone(w *life) *copied {
	out := &copied{w: w, topics: map[string]map[int32][]kafka.Record{}, groups: map[string]map[kafka.TP]kafka.Committed{}}
	for topic, parts := range s.topics {
		out.topics[topic] = map[int32][]kafka.Record{}
		for p, rs := range parts {
			out.topics[topic][p] = slices.Clone(rs)
		}
	}
	for group, at := range s.groups {
		out.groups[group] = maps.Clone(at)
	}
	return out
}

// restore makes a broker that holds the copy, every record at its offset and with its time.
func (w *life) restore(s *copied) *kafka.Client {
	w.d.t.Helper()
	var names []string
	for topic := range s.topics {
		names = append(names, topic)
	}
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{Options: []kfake.Opt{kfake.SeedTopics(int32(w.d.config.Partitions), names...)}})
	w.d.must(err)
	w.d.t.Cleanup(b.Close)
	config := w.d.config
	config.Brokers = b.Addrs()
	c, err := kafka.Open(config, kafka.Options{})
	w.d.must(err)
	w.d.t.Cleanup(c.Close)
	raw := &kgo.Client{Addr: kgo.TCP(b.Addrs()[0])}
	for topic, parts := range s.topics {
		for p, rs := range parts {
			if len(rs) == 0 {
				continue
			}
			out := make([]kgo.Record, len(rs))
			for i, r := range rs {
				out[i] = kgo.Record{Time: time.UnixMilli(r.Time), Key: kgo.NewBytes(r.Key), Value: kgo.NewBytes(r.Value)}
				for _, h := range r.Headers {
					out[i].Headers = append(out[i].Headers, kgo.Header{Key: h.Key, Value: h.Value})
				}
			}
			answer, err := raw.Produce(w.d.ctx, &kgo.ProduceRequest{Topic: topic, Partition: int(p), RequiredAcks: kgo.RequireAll, Records: kgo.NewRecordReader(out...)})
			w.d.must(err)
			w.d.must(answer.Error)
		}
	}
	for group, at := range s.groups {
		req := &kgo.OffsetCommitRequest{GroupID: group, GenerationID: -1, Topics: map[string][]kgo.OffsetCommit{}}
		for tp, o := range at {
			if o.Offset >= 0 {
				req.Topics[tp.Topic] = append(req.Topics[tp.Topic], kgo.OffsetCommit{Partition: int(tp.Partition), Offset: o.Offset, Metadata: o.Metadata})
			}
		}
		_, err := raw.OffsetCommit(w.d.ctx, req)
		w.d.must(err)
	}
	return c
}

// each goes through the subscription's records of a topic that are about an event.
func (s *copied) each(topic, event string, fn func(p int32, i int, r *kafka.Record)) {
	s.w.d.t.Helper()
	found := false
	for p, rs := range s.topics[topic] {
		for i := range rs {
			if bytes.Contains(rs[i].Value, []byte(event)) && (strings.Contains(topic, "events.") || bytes.Contains(rs[i].Value, []byte(s.w.l.ID))) {
				found = true
				fn(p, i, &rs[i])
			}
		}
	}
	if !found {
		s.w.d.t.Fatalf("%s has no record of %s: nothing was planted", topic, event)
	}
}

// lose makes the records of an event in these topics somebody else's, so that every other stays at its offset.
func (s *copied) lose(event string, topics ...string) {
	s.w.d.t.Helper()
	for _, topic := range topics {
		if topic == s.w.d.kafka.Topics().Dead && len(topics) > 1 && !slices.Contains(s.w.dead, event) {
			continue
		}
		if topic == s.w.d.kafka.Topics().Attempts && slices.Contains(s.w.untried, event) {
			continue
		}
		s.each(topic, event, func(_ int32, _ int, r *kafka.Record) { s.alienate(r) })
	}
}

// alienate gives a record to a subscription that does not exist, of the same length.
func (s *copied) alienate(r *kafka.Record) {
	id := s.w.l.ID
	r.Value = bytes.ReplaceAll(r.Value, []byte(id), []byte("sub_"+strings.Repeat("z", len(id)-4)))
}

// rename gives an event's attempts a task id that no task has.
func (s *copied) rename(event string) {
	s.each(s.w.d.kafka.Topics().Attempts, event, func(_ int32, _ int, r *kafka.Record) {
		var a schemas.Attempt
		s.w.d.must(schemas.DecodeAttempt(r.Value, &a))
		a.TaskID, a.Source.Time = strings.Repeat("z", schemas.IDLength), 1 // outside the stretch, or it would be a ghost
		r.Value = schemas.AppendAttempt(nil, &a)
	})
}

func (s *copied) loseDelivered(event string) {
	s.each(s.w.d.kafka.Topics().Attempts, event, func(_ int32, _ int, r *kafka.Record) {
		var a schemas.Attempt
		s.w.d.must(schemas.DecodeAttempt(r.Value, &a))
		if a.Verdict == schemas.VerdictDelivered {
			s.alienate(r)
		}
	})
}

// pass has a group commit past the first of these events that it has not finished in its partition, and gives its id: what lies before it is not the
// subscription's.
func (s *copied) pass(group, topic string, events []string) string {
	s.w.d.t.Helper()
	for p, rs := range s.topics[topic] {
		tp := kafka.TP{Topic: topic, Partition: p}
		for i := int(max(0, s.groups[group][tp].Offset)); i < len(rs); i++ {
			for _, e := range events {
				if bytes.Contains(rs[i].Value, []byte(e)) && (topic != s.w.d.kafka.Topics().Retry || bytes.Contains(rs[i].Value, []byte(s.w.l.ID))) {
					s.groups[group][tp] = kafka.Committed{Offset: int64(i) + 1}
					return e
				}
			}
		}
	}
	s.w.d.t.Fatalf("%s has finished all of %s: nothing was planted", group, topic)
	return ""
}

// takeOut writes the marker of a redrive behind an event's dead letter.
func (s *copied) takeOut(event string) {
	topic := s.w.d.kafka.Topics().Dead
	s.each(topic, event, func(p int32, _ int, r *kafka.Record) {
		var d schemas.Dead
		s.w.d.must(schemas.DecodeDead(r.Value, &d))
		d.Reason, d.At, d.Task.Body = schemas.ReasonRedriven, time.Now().UnixMilli(), nil
		d.Task.Replay, d.Task.Source = "rpl_"+strings.Repeat("r", schemas.IDLength), schemas.Source{Topic: topic, Partition: p, Offset: r.Offset}
		marker := *r
		marker.Value = schemas.AppendDead(nil, &d)
		s.topics[topic][p] = append(s.topics[topic][p], marker)
	})
}

// haunt makes an attempt of another company's subscription the subscription's own.
func (s *copied) haunt(event string) {
	topic := s.w.d.kafka.Topics().Attempts
	for _, rs := range s.topics[topic] {
		for i := range rs {
			var a schemas.Attempt
			s.w.d.must(schemas.DecodeAttempt(rs[i].Value, &a))
			if a.EventID != event {
				continue
			}
			a.Subscription, a.TaskID = s.w.l.ID, schemas.TaskID(a.Source, a.EventID, s.w.l.ID, "")
			p := kafka.Partition([]byte(s.w.l.ID), s.w.d.config.Partitions)
			ghost := rs[i]
			ghost.Value = schemas.AppendAttempt(nil, &a)
			s.topics[topic][p] = append(s.topics[topic][p], ghost)
			return
		}
	}
	s.w.d.t.Fatal("nobody was found to be a ghost of: " + fmt.Sprint(event))
}
