package deliverer

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// These tests hold that a redrive takes a letter out once, whatever dies in between and however long ago it was, and that it counts right.

// letters writes dead letters straight to `dead`.
func (w *world) letters(reason schemas.Reason, ts ...*schemas.Task) {
	w.t.Helper()
	var r kafka.Records
	for _, t := range ts {
		r.Add(kafka.TP{Topic: w.kafka.Topics().Dead, Partition: kafka.Partition([]byte(t.Subscription), w.config.Partitions)}, []byte(t.Subscription), nil,
			schemas.AppendDead(nil, &schemas.Dead{Task: *t, Reason: reason, At: time.Now().UnixMilli()}))
	}
	_, err := w.appender.Append(w.ctx, &r)
	w.must(err)
}

func (w *world) tasks(s *subscriptions.Live, n int) (ts []*schemas.Task) {
	for range n {
		ts = append(ts, w.task(s))
	}
	return ts
}

// came counts the requests by task.
func (w *world) came(ts []*schemas.Task) (counts []int) {
	for _, t := range ts {
		n := 0
		for _, r := range w.receiver.Ledger() {
			if r.WebhookID == schemas.WebhookID(t.Subscription, t.EventID) {
				n++
			}
		}
		counts = append(counts, n)
	}
	return counts
}

// once: each of them came once.
func (w *world) once(what string, ts []*schemas.Task) {
	w.t.Helper()
	if got := w.came(ts); slices.Min(got) != 1 || slices.Max(got) != 1 {
		w.t.Errorf("%s: requests by task: %v", what, got)
	}
}

func (w *world) never(what string, ts []*schemas.Task) {
	w.t.Helper()
	if got := w.came(ts); slices.Max(got) != 0 {
		w.t.Errorf("%s: requests by task: %v", what, got)
	}
}

// standing are the letters that the commands show.
func (w *world) standing() (out []string) {
	w.must(ReadDead(w.ctx, w.kafka, &schemas.Replay{}, nil, func(d *DeadLetter) bool {
		out = append(out, d.Task.ID)
		return true
	}))
	return out
}

func TestADeathAtAnyStepOfARedriveDeliversOnceAndCountsRight(t *testing.T) {
	for _, c := range []struct {
		name  string
		topic func(kafka.Names) string
	}{
		{"before the tier's records", func(n kafka.Names) string { return n.Tiers[0].Name }},
		{"between the tier's records and the markers", func(n kafka.Names) string { return n.Dead }},
		{"between the markers and the progress", func(n kafka.Names) string { return n.Progress }},
		{"between the progress and the end", func(n kafka.Names) string { return n.Replays }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
				s := w.subscribe("/x")
				ts := w.tasks(s, redriveBatch+20) // two batches
				w.letters(schemas.ReasonExhausted, ts...)
				w.letters(schemas.ReasonExhausted, ts[3]) // a death between the letter and its mark left a second one
				other := w.tasks(s, 3)
				w.letters(schemas.ReasonGone, other...)
				order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID, Reason: schemas.ReasonExhausted})
				w.must(err)
				fault := w.refuse(c.topic(w.kafka.Topics()), -1, kerr.NotLeaderForPartition, "")
				first, cord := w.member()
				w.must(fault.Wait(w.within(time.Minute), 1))
				pass(time.Second)
				kill(first, cord)
				fault.Remove()
				w.member()
				w.must(w.receiver.WaitDelivered(w.within(2*time.Minute), "", len(ts)))
				pass(time.Minute)
				w.once("redriven", ts)
				w.never("not asked for", other)
				state, err := RedriveProgress(w.ctx, w.kafka, order)
				w.must(err)
				if want := (RedriveState{Scanned: int64(len(ts) + 4), Matched: int64(len(ts)), Total: int64(len(ts) + 4), Done: true}); state != want {
					t.Errorf("progress %+v, want %+v", state, want)
				}
				if left := w.standing(); len(left) != len(other) {
					t.Errorf("%d letters stand, not %d", len(left), len(other))
				}
			})
		})
	}
}

// No deliverer dies, and `dead` takes no markers for a while: what stands in the tier already is not written to it again with every try.
func TestWhatIsInTheTierIsNotWrittenAgainBecauseItsMarkerCannotBe(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		ts := w.tasks(s, 5)
		w.letters(schemas.ReasonExhausted, ts...)
		fault := w.refuse(w.kafka.Topics().Dead, -1, kerr.NotLeaderForPartition, "")
		w.member()
		order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
		w.must(err)
		pass(3 * time.Minute)
		fault.Remove()
		pass(time.Minute)
		if n := len(w.read(w.kafka.Topics().Tiers[0].Name)); n != len(ts) {
			t.Errorf("%d records in the tier for %d letters", n, len(ts))
		}
		w.once("redriven", ts)
		if state, err := RedriveProgress(w.ctx, w.kafka, order); err != nil || !state.Done || state.Matched != int64(len(ts)) {
			t.Errorf("progress %+v, %v", state, err)
		}
	})
}

func TestTheSameRedriveAWeekLaterWithoutMarksDeliversNothingAgain(t *testing.T) {
	fail := true
	script := func(*sandbox.Received) string {
		if fail {
			return "/abort"
		}
		return ""
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		ts := w.tasks(s, 20)
		w.put(ts...)
		r, _ := w.member()
		w.requests(len(ts))
		pass(time.Second)
		fail = false
		for week := range 2 {
			order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
			w.must(err)
			pass(time.Minute)
			if n := len(w.receiver.Ledger()); n != 2*len(ts) {
				t.Fatalf("week %d: %d requests, not one more for each of %d", week, n, len(ts))
			}
			state, err := RedriveProgress(w.ctx, w.kafka, order)
			w.must(err)
			if want := int64(len(ts) * (1 - week)); !state.Done || state.Matched != want {
				t.Errorf("week %d: %+v, want %d put back", week, state, want)
			}
			r.stop()
			w.stopTable()
			pass(7 * 24 * time.Hour)
			w.redis.Flush()
			r, _ = w.member()
		}
		// One that dies again is another letter.
		fail = true
		again := w.task(s)
		w.put(again)
		pass(10 * time.Second)
		for range 2 {
			_, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
			w.must(err)
			pass(time.Minute)
		}
		if n := w.came([]*schemas.Task{again})[0]; n != 3 {
			t.Errorf("%d requests for a task that died three times", n)
		}
		if left := w.standing(); len(left) != 1 || left[0] != again.ID {
			t.Errorf("standing: %v", left)
		}
	})
}

// gate is a way to Kafka that can be shut for a while.
type gate struct {
	cord
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isCut, g.conns = false, nil
}

// behindAGate is a member whose table of subscriptions can be kept from learning.
func (w *world) behindAGate() (*run, *gate, *cord) {
	w.t.Helper()
	g := &gate{}
	client, err := kafka.Open(w.config, kafka.Options{Dial: g.wrap(w.broker.Dial)})
	w.must(err)
	w.t.Cleanup(client.Close)
	table := subscriptions.NewTable(client, w.keyring, subscriptions.Options{Log: w.log})
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); table.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended })
	<-table.Loaded()
	r, c := w.member(func(_ *Config, d *Deps) { d.Table = table })
	return r, g, c
}

// become writes the next version of a subscription, in a state and with one more cut, as a pause or a resume does.
func (w *world) become(s *subscriptions.Live, state, cut string) schemas.Cut {
	w.t.Helper()
	return w.becomeBy(s, state, schemas.Cut{Kind: cut})
}

func (w *world) becomeBy(s *subscriptions.Live, state string, c schemas.Cut) schemas.Cut {
	w.t.Helper()
	next := s.Subscription
	next.Version++
	next.State, next.UpdatedBy, next.UpdatedAt = state, "test", time.Now().UnixMilli()
	c.At = time.Now().Add(2 * time.Second).UnixMilli()
	next.Spans = append(slices.Clip(next.Spans), c)
	s.Subscription = next
	var r kafka.Records
	r.Add(kafka.TP{Topic: w.kafka.Topics().Subscriptions, Partition: w.partition(s)}, []byte(s.ID), nil, schemas.AppendSubscription(nil, &next))
	_, err := w.appender.Append(w.ctx, &r)
	w.must(err)
	return c
}

// resume orders the redrive of a pause, and makes the subscription live again.
func (w *world) resume(s *subscriptions.Live, paused schemas.Cut) *schemas.Replay {
	w.t.Helper()
	order := schemas.PausedRedrive(&s.Subscription, paused.At, time.Now().UnixMilli())
	o, err := OrderRedrive(w.ctx, w.kafka, order)
	w.must(err)
	if o.ID != order.ID {
		w.t.Fatalf("the order got another id: %s, not %s", o.ID, order.ID)
	}
	w.become(s, schemas.StateActive, schemas.CutLive)
	return o
}

// stateOf is the state of an order, and its note.
func (w *world) stateOf(o *schemas.Replay) (state, note string) {
	w.t.Helper()
	for _, rec := range w.read(w.kafka.Topics().Replays) {
		var r schemas.Replay
		w.must(schemas.DecodeReplay(rec.Value, &r))
		if r.ID == o.ID {
			state, note = r.State, r.Note
		}
	}
	return state, note
}

func TestTheRedriveOfAPauseTakesItsLettersThoughTheDelivererLearnsLateOfTheResume(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s, other := w.subscribe("/x"), w.subscribe("/y")
		_, g, _ := w.behindAGate()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(3 * time.Second)
		early := w.tasks(s, 5)
		w.put(early...)
		strange := w.tasks(s, 2)
		w.letters(schemas.ReasonExhausted, strange...)
		others := w.tasks(other, 2)
		w.letters(schemas.ReasonPaused, others...)
		pass(3 * time.Second)
		g.cut()
		order := w.resume(s, paused)
		pass(5 * time.Second)
		late := w.tasks(s, 5) // they come up behind the resume, and the deliverer takes them for paused
		w.put(late...)
		pass(20 * time.Second)
		w.never("before the deliverer knows", append(early, late...))
		g.open()
		if err := w.receiver.WaitDelivered(w.within(2*time.Minute), "", len(early)+len(late)); err != nil {
			t.Fatal("letters of the pause are not redriven: ", err)
		}
		pass(30 * time.Second)
		w.once("of the pause", append(early, late...))
		if state, _ := w.stateOf(order); state != schemas.ReplayDone {
			t.Errorf("the order is %s", state)
		}
		w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(3 * time.Second)
		next := w.tasks(s, 4)
		w.put(next...)
		pass(time.Minute)
		w.never("of the next pause, with another reason, of another subscription", append(append(next, strange...), others...))
		if n := len(w.standing()); n != len(next)+len(strange)+len(others) {
			t.Errorf("%d letters stand", n)
		}
	})
}

// The owner dies when it has found the end; then comes another pause, and its letters lie behind that end.
func TestTheEndOfAPausesRedriveSurvivesItsOwner(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		first, c := w.member()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(3 * time.Second)
		of := w.tasks(s, 5)
		w.put(of...)
		pass(3 * time.Second)
		fault := w.refuse(w.kafka.Topics().Tiers[0].Name, -1, kerr.NotLeaderForPartition, "")
		w.resume(s, paused)
		w.must(fault.Wait(w.within(time.Minute), 1)) // the end is written
		w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(3 * time.Second)
		next := w.tasks(s, 4)
		w.put(next...)
		pass(3 * time.Second)
		kill(first, c)
		fault.Remove()
		w.become(s, schemas.StateActive, schemas.CutLive) // its own order comes later
		w.member()
		if err := w.receiver.WaitDelivered(w.within(2*time.Minute), "", len(of)); err != nil {
			t.Fatal("letters of the pause are not redriven: ", err)
		}
		pass(time.Minute)
		w.once("of the pause", of)
		w.never("of the next pause", next)
	})
}

// A letter of the pause that Kafka refuses for now is in the flusher's hands when the subscription is resumed.
func TestTheRedriveOfAPauseWaitsForLettersThatAreNotWrittenYet(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.member()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(3 * time.Second)
		ts := w.tasks(s, 5)
		fault := w.refuse(w.kafka.Topics().Dead, -1, kerr.PolicyViolation, ts[2].ID)
		w.put(ts...)
		pass(10 * time.Second)
		if n := len(w.standing()); n != len(ts)-1 {
			t.Fatalf("%d letters stand, want all but one of %d", n, len(ts))
		}
		order := w.resume(s, paused)
		pass(2 * time.Minute)
		fault.Remove()
		w.must(w.receiver.WaitDelivered(w.within(5*time.Minute), "", len(ts)))
		pass(time.Minute)
		w.once("of the pause", ts)
		if state, _ := w.stateOf(order); state != schemas.ReplayDone {
			t.Errorf("the order is %s", state)
		}
	})
}

func TestTheRedriveOfAPauseIsTakenBackWhenItsSubscriptionIsDeleted(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.member()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		order, err := OrderRedrive(w.ctx, w.kafka, schemas.PausedRedrive(&s.Subscription, paused.At, time.Now().UnixMilli()))
		w.must(err)
		pass(2 * time.Minute)
		if state, _ := w.stateOf(order); state != schemas.ReplayRunning {
			t.Errorf("while the pause lasts the order is %s", state)
		}
		w.must(w.writer.Delete(w.ctx, s.ID))
		pass(10 * time.Second)
		if state, note := w.stateOf(order); state != schemas.ReplayCancelled || note == "" {
			t.Errorf("the order is %s (%q)", state, note)
		}
	})
}

// A sender has found its task to be paused and has not handed it over; until it has, nobody may say where the pause's letters end. If the subscription is
// active by then, it looks again.
func TestASenderThatHoldsOldSettingsLooksAgain(t *testing.T) {
	d := &Deliverer{}
	d.collector.signal, d.collector.enough = make(chan struct{}, 1), make(chan struct{}, 1)
	l := &lane{d: d, id: "s"}
	set := &settings{live: &subscriptions.Live{Subscription: schemas.Subscription{State: schemas.StatePaused}}, change: l.changes.Load()}
	it := &item{Task: schemas.Task{Subscription: "s"}, until: noon}
	if !l.endsUnsent(it, set) || it.out.reason != schemas.ReasonPaused {
		t.Fatalf("%+v", it.out)
	}
	l.letGo()
	if l.end(it, set) || len(d.collector.ended) != 0 || it.until.IsZero() || it.out.verdict != "" {
		t.Errorf("it ends by settings that are out of date: %+v", it.out)
	}
	set.change = l.changes.Load()
	if !l.endsUnsent(it, set) || !l.end(it, set) || !it.until.IsZero() || !d.collector.unwritten("s") || d.collector.unwritten("other") {
		t.Errorf("it does not end, or nobody sees it on its way: %+v", it.out)
	}
}

// A sender has its task in hand, and before it looks whether a redrive is over, that redrive puts back what stands before the task, and ends.
func TestWhatARedriveHasPutBackGoesBeforeATaskThatASenderHasInHand(t *testing.T) {
	l, _ := replayLane(1)
	l.strict, l.order = true, newOrder(&lineBook{}, true)
	set := &settings{live: &subscriptions.Live{Subscription: schemas.Subscription{State: schemas.StateActive}}, redrives: []string{"rpl_a"}}
	it := &item{Task: schemas.Task{ID: "later", EntityID: "e", Lane: schemas.LaneLive, Source: schemas.Source{Topic: "events.booking", Offset: 20}}, part: &part{}}
	l.admit(it, noon)
	l.senders = []*sender{{it: it}}
	l.arrive(it, noon)
	if l.pick(noon) != it || !l.endsUnsent(it, set) || it.out.reason != schemas.ReasonOrder {
		t.Fatalf("before the redrive is over: %+v", it.out)
	}
	it.out = outcome{}
	l.d.replays.ended["rpl_a"] = struct{}{}
	if l.endsUnsent(it, set) {
		t.Fatalf("the redrive is over and nothing stands before it: %+v", it.out)
	}
	l.order.leave(l.order.enter(it.stand.line.key, 10), noon.UnixMilli())
	if !l.endsUnsent(it, set) || it.out.reason != schemas.ReasonOrder {
		t.Errorf("it is sent before what was put back: %+v", it.out)
	}
}

// What came up as paused and lies in `dead` although a catch-up routes its event as well (the router did not know yet of the pause) is not sent twice: the
// letter is taken out, and its task stays where it is, but for somebody who asks for this very task.
func TestALetterWhoseEventACatchUpRoutesIsNotPutBackAsWell(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		before := w.task(s)
		w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(10 * time.Second)
		behind, asked := w.task(s), w.task(s)
		pass(10 * time.Second)
		w.become(s, schemas.StateActive, schemas.CutLive)
		s.Spans[len(s.Spans)-1].Reason = "rpl_catchup"
		w.become(s, schemas.StateActive, schemas.CutLive)
		pass(3 * time.Second)
		w.letters(schemas.ReasonPaused, before, behind, asked)
		w.member()
		_, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID, TaskID: asked.ID})
		w.must(err)
		pass(time.Minute)
		order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{Subscription: s.ID})
		w.must(err)
		pass(time.Minute)
		w.once("routed before the pause, asked for by name", []*schemas.Task{before, asked})
		w.never("routed by a catch-up", []*schemas.Task{behind})
		if state, err := RedriveProgress(w.ctx, w.kafka, order); err != nil || state.Matched != 1 || !state.Done {
			t.Errorf("%+v %v", state, err)
		}
		if left := w.standing(); len(left) != 0 {
			t.Errorf("standing: %v", left)
		}
	})
}

func TestALetterIsFoundByItsIDAndSaysWhoTookItOut(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x")
		w.letters(schemas.ReasonExhausted, w.tasks(s, 2)...)
		w.member()
		first := &DeadLetter{Partition: 0, Offset: 0}
		found, err := FindDead(w.ctx, w.kafka, first.ID(), nil)
		w.must(err)
		if found.TakenOut != "" {
			t.Errorf("taken out by %s", found.TakenOut)
		}
		order, err := OrderRedrive(w.ctx, w.kafka, schemas.Replay{TaskID: found.Task.ID})
		w.must(err)
		pass(time.Minute)
		found, err = FindDead(w.ctx, w.kafka, first.ID(), nil)
		w.must(err)
		if found.TakenOut != order.ID {
			t.Errorf("taken out by %q, not %s", found.TakenOut, order.ID)
		}
		var all, markers, out int
		w.must(ReadAllDead(w.ctx, w.kafka, &schemas.Replay{Subscription: s.ID}, nil, func(d *DeadLetter) bool {
			all++
			if d.TakesOut() {
				markers++
				if d.Task.Source.Offset != 0 || d.Task.Replay != order.ID || len(d.Task.Body) != 0 {
					t.Errorf("the marker: %+v", d.Dead)
				}
			} else if d.TakenOut != "" {
				out++
			}
			return true
		}))
		if all != 3 || markers != 1 || out != 1 || len(w.standing()) != 1 {
			t.Errorf("%d records, %d markers, %d taken out, %d standing", all, markers, out, len(w.standing()))
		}
	})
}

// The filters of an order, one by one.
func TestTheFiltersOfARedrive(t *testing.T) {
	dead := &schemas.Dead{Reason: schemas.ReasonExhausted, At: 1000, Task: schemas.Task{ID: "t", Subscription: "s", Company: "c", EventID: "e", EventType: "booking.creation",
		EntityID: "b", Body: []byte("{}")}}
	for name, c := range map[string]struct {
		o    schemas.Replay
		want bool
	}{
		"nothing":             {schemas.Replay{}, true},
		"subscription":        {schemas.Replay{Subscription: "s"}, true},
		"another":             {schemas.Replay{Subscription: "x"}, false},
		"company":             {schemas.Replay{Company: "c"}, true},
		"another company":     {schemas.Replay{Company: "x"}, false},
		"any company":         {schemas.Replay{Company: schemas.AnyCompany}, true},
		"reason":              {schemas.Replay{Reason: schemas.ReasonExhausted}, true},
		"another reason":      {schemas.Replay{Reason: schemas.ReasonPaused}, false},
		"a pattern":           {schemas.Replay{Events: []string{"*.creation"}}, true},
		"another pattern":     {schemas.Replay{Events: []string{"*.removal", "customer.*"}}, false},
		"entity":              {schemas.Replay{Entity: "b"}, true},
		"another entity":      {schemas.Replay{Entity: "x"}, false},
		"event":               {schemas.Replay{EventID: "e"}, true},
		"another event":       {schemas.Replay{EventID: "x"}, false},
		"task":                {schemas.Replay{TaskID: "t"}, true},
		"another task":        {schemas.Replay{TaskID: "x"}, false},
		"at its time":         {schemas.Replay{From: 1000, To: 1001}, true},
		"before its time":     {schemas.Replay{To: 1000}, false},
		"behind its time":     {schemas.Replay{From: 1001}, false},
		"all of it, one fits": {schemas.Replay{Subscription: "s", Reason: schemas.ReasonExhausted, Entity: "x"}, false},
	} {
		if got := wanted(&c.o, dead); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	marker := *dead
	marker.Reason = schemas.ReasonRedriven
	if wanted(&schemas.Replay{}, &marker) {
		t.Error("a marker is put back in line")
	}
	marker.Reason, marker.Task.Body = schemas.ReasonTooLarge, nil
	if wanted(&schemas.Replay{}, &marker) {
		t.Error("a letter without a body is put back in line")
	}
}

// Without the lease somebody else may own the partition, and may have noted where a pause's letters end: a mark would keep it from trying the task.
func TestATaskThatEndedAsPausedGetsItsMarkOnlyUnderTheLease(t *testing.T) {
	for _, holds := range []bool{true, false} {
		d := &Deliverer{recent: newRecent(), marks: new(Marks), metrics: new(metrics), lease: newLease(time.Now(), 6*time.Second)}
		d.metrics.failOpen = prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
		if holds {
			d.lease.frozen.Store(false)
			d.lease.renew(time.Now())
		}
		paused := &item{Task: schemas.Task{ID: "a"}, out: outcome{verdict: schemas.VerdictDead, reason: schemas.ReasonPaused}}
		gone := &item{Task: schemas.Task{ID: "b"}, out: outcome{verdict: schemas.VerdictDead, reason: schemas.ReasonGone}}
		newFlusher(d).mark(t.Context(), []*item{paused, gone})
		seen := make([]bool, 2)
		d.recent.seen([]Mark{{TaskID: "a"}, {TaskID: "b"}}, seen)
		if seen[0] != holds || !seen[1] {
			t.Errorf("the lease holds: %v; marks: %v", holds, seen)
		}
	}
}
