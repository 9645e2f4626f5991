package house

import (
	"slices"
	"testing"
	"time"

	"github.com/hookferry/hookferry/audit"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// A subscription that was begun in the past, paused while tasks were on their way, resumed, replayed, and paused again: the audit knows which way each event
// belongs to, says of what is left what it waits for, and finds what is taken away from a catch-up and from the redrive of a pause.
func TestVerifyKnowsBackfillsPausesAndReplays(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.router()
	stop := d.deliverer()
	before := d.publish("booking.creation", "acme", 10)
	d.publish("booking.creation", "borea", 10)
	w := &life{d: d, from: time.Now().Add(-time.Hour)}
	w.l = d.subscribe("acme", "/ok/s", func(dr *subscriptions.Draft) { dr.From = subscriptions.Earliest })
	live := d.publish("booking.amendment", "acme", 10)
	d.arrive("/ok/s", w.l, append(before, live...)...)
	stop()
	inLine := d.publish("customer.creation", "acme", 10) // their tasks come up in the pause
	w.idle()
	paused, err := d.writer.Pause(d.ctx, w.l.ID, "lunch")
	d.must(err)
	w.l = paused
	held := d.publish("package.creation", "acme", 10)
	w.idle()
	d.deliverer()
	w.awaitAttempts(schemas.VerdictDead, len(inLine))
	w.to = time.Now().Add(time.Second)
	r := w.verify(d.kafka)
	if !r.OK() || r.GhostCount != 0 || r.Owed != 40 || r.Delivered != 20 || r.DeadBy["paused"] != 10 || r.WaitingBy["paused"] != 10 || r.CaughtUp != 10 {
		t.Fatalf("paused: %+v", r)
	}
	resumed, err := d.writer.Resume(d.ctx, w.l.ID, false)
	d.must(err)
	w.l = resumed.Live
	after := d.publish("product.creation", "acme", 10)
	d.arrive("/ok/s", w.l, slices.Concat(inLine, held, after)...)
	w.idle()
	w.to = time.Now().Add(time.Second)
	if r = w.verify(d.kafka); !r.OK() || r.GhostCount != 0 || r.Owed != 50 || r.Delivered != 50 || r.CaughtUp != 20 || len(r.Replays) != 0 {
		t.Fatalf("resumed: %+v", r)
	}
	order, err := router.StartReplay(d.ctx, d.kafka, w.table(), router.ReplayDraft{Subscription: w.l.ID, Events: []string{"booking.*"}})
	d.must(err)
	w.awaitAttempts(schemas.VerdictDelivered, 50+20)
	if r = w.verify(d.kafka); !r.OK() || r.GhostCount != 0 || r.Owed != 50 || len(r.Replays) != 1 || r.Replays[0] != (audit.ReplayReport{Replay: order.ID, Tasks: 20, Delivered: 20}) {
		t.Fatalf("replayed: %+v", r)
	}
	w.rest()
	whole := w.snapshot()
	topics := d.kafka.Topics()
	for name, c := range map[string]struct {
		event, kind string
		plant       func(s *copied, event string)
	}{
		"a catch-up's attempt":                     {held[0], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, topics.Attempts) }},
		"a catch-up's attempt and task":            {held[1], audit.GapNoTask, func(s *copied, e string) { s.lose(e, topics.Attempts, topics.Replay) }},
		"a backfill's attempt and task":            {before[9], audit.GapNoTask, func(s *copied, e string) { s.lose(e, topics.Attempts, topics.Replay) }},
		"what the redrive of a pause delivered":    {inLine[3], audit.GapRedriven, func(s *copied, e string) { s.loseDelivered(e) }},
		"all attempts of what was redriven":        {inLine[4], audit.GapRedriven, func(s *copied, e string) { s.lose(e, topics.Attempts) }},
		"the attempt of an event behind the pause": {after[5], audit.GapNoEnd, func(s *copied, e string) { s.lose(e, topics.Attempts) }},
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
	t.Run("the order of the pause's catch-up", func(t *testing.T) {
		s := whole.clone(w)
		s.lose(resumed.CatchUp, topics.Replays)
		r := w.verify(w.restore(s))
		if r.GapCount != 10 || slices.ContainsFunc(r.Gaps, func(g audit.Gap) bool { return g.Kind != audit.GapCatchUp || !slices.Contains(held, g.Event) }) {
			t.Errorf("%d gaps %+v", r.GapCount, r.Gaps)
		}
	})
}

// table is a table of subscriptions that knows all that stands now.
func (w *life) table() *subscriptions.Table { return w.d.runTable(w.d.kafka) }
