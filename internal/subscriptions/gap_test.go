package subscriptions_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// keep sets how long two of the topics of events keep what they hold. A retention of the deployment that is as short is refused.
func (w *world) keep(d time.Duration) {
	ms := map[string]string{"retention.ms": strconv.FormatInt(d.Milliseconds(), 10)}
	w.cfg.TopicConfigs = map[string]map[string]string{"events.booking": ms, "events.customer": ms}
}

// event appends something to a partition of a topic of events, stamped now.
func event(t *testing.T, c *kafka.Client, entity string, partition int32) {
	t.Helper()
	var r kafka.Records
	r.Add(kafka.TP{Topic: c.Topics().Events[entity], Partition: partition}, []byte("k"), nil, []byte("an event"))
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
}

// What retention took from before a pause is no gap, whether or not a partition holds anything still.
func TestResumeIsNotHeldUpByWhatWasDeletedFromBeforeThePause(t *testing.T) {
	for name, lost := range map[string]bool{"the pause noted where the topics ended": false, "the note of the pause is lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldOf(t)
				w.keep(100 * time.Second)
				if _, err := w.client().CreateTopics(t.Context()); err != nil {
					t.Fatal(err)
				}
				p := w.process()
				l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
				if err != nil {
					t.Fatal(err)
				}
				event(t, p.client, "booking", 0)
				event(t, p.client, "booking", 1)
				<-time.After(50 * time.Second)
				toTopic(w.broker.Cluster(), "hookferry.replays", func() (time.Duration, bool) { return refused, lost })
				if l, err = p.Pause(t.Context(), l.ID, ""); err != nil {
					t.Fatal(err)
				}
				lost = false
				event(t, p.client, "booking", 0)
				<-time.After(60 * time.Second)
				w.broker.Cluster().ApplyRetention()
				if starts, err := p.client.Offsets(t.Context(), "hookferry.events.booking", kafka.Earliest); err != nil || starts[0] != 1 || starts[1] != 1 {
					t.Fatalf("retention has left %v %v", starts, err)
				}
				got, err := p.Resume(t.Context(), l.ID, false)
				if err != nil {
					t.Fatal(err)
				}
				checkSpans(t, p.client, &got.Subscription)
			})
		})
	}
}

// Retention passes the start of a pause in some partitions. One that was emptied by it long before has lost nothing of the span, if the pause noted that.
func TestResumeNeedsAcceptGapWhereEventsAreGone(t *testing.T) {
	for name, noted := range map[string]bool{"the pause noted where the topics ended": true, "the note of the pause is lost": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldOf(t)
				w.keep(100 * time.Second)
				if _, err := w.client().CreateTopics(t.Context()); err != nil {
					t.Fatal(err)
				}
				p := w.process()
				lost := !noted
				toTopic(w.broker.Cluster(), "hookferry.replays", func() (time.Duration, bool) { return refused, lost })
				l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
				if err != nil {
					t.Fatal(err)
				}
				event(t, p.client, "customer", 1)
				<-time.After(150 * time.Second)
				w.broker.Cluster().ApplyRetention() // silent for so long that it holds nothing
				if l, err = p.Pause(t.Context(), l.ID, ""); err != nil {
					t.Fatal(err)
				}
				lost = false
				from := l.PausedAt()
				event(t, p.client, "booking", 0)
				event(t, p.client, "booking", 3)
				<-time.After(101 * time.Second)
				w.broker.Cluster().ApplyRetention()
				first := time.Now().UnixMilli()
				event(t, p.client, "booking", 0)
				<-time.After(time.Second)
				event(t, p.client, "booking", 0)

				_, err = p.Resume(t.Context(), l.ID, false)
				if code(err) != subscriptions.CodeRetentionGap {
					t.Fatalf("resumed over a gap: %v", err)
				}
				for _, want := range []string{"hookferry.events.booking/0: the events below offset 1, from", "hookferry.events.booking/3: the events below offset 1, from", "nothing is left"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v does not name %q", err, want)
					}
				}
				if noted && strings.Contains(err.Error(), "customer") {
					t.Errorf("it names a partition that was empty before the pause: %v", err)
				}
				if now, _ := p.Get(l.ID); now.Version != l.Version || now.PausedAt() != from {
					t.Errorf("the refused resume has changed %+v", now.Subscription)
				}
				got, err := p.Resume(t.Context(), l.ID, true)
				if err != nil {
					t.Fatal(err)
				}
				if g := got.Gaps[0]; g.Topic != "hookferry.events.booking" || g.Partition != 0 || g.Below != 1 || g.From != from || g.Until != first {
					t.Errorf("the gap is %+v", g)
				}
				if o := last(orders(t, p.client)[got.CatchUp]); !strings.Contains(o.Note, "events.booking/3") {
					t.Errorf("the order says %q", o.Note)
				}
				checkSpans(t, p.client, &got.Subscription)
			})
		})
	}
}

// Where a topic is bounded by its size, its age says nothing; that a partition holds a record from before the span does.
func TestAPartitionThatHoldsARecordFromBeforeASpanHasLostNothingOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t)
		w.keep(100 * time.Second)
		w.cfg.TopicConfigs["events.booking"]["retention.bytes"] = "1000000"
		if _, err := w.client().CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := w.process()
		for range 2 {
			event(t, p.client, "booking", 0)
			event(t, p.client, "booking", 1)
			<-time.After(40 * time.Second)
		}
		from := time.Now().UnixMilli()
		<-time.After(30 * time.Second)
		w.broker.Cluster().ApplyRetention()
		d := draft("c0ffee01", "crm", "*")
		d.From = from
		if _, _, err := p.Create(t.Context(), d); err != nil {
			t.Errorf("the second record is from before the span: %v", err)
		}
		d.Name, d.From = "older", from-70_000
		if _, _, err := p.Create(t.Context(), d); code(err) != subscriptions.CodeRetentionGap || !strings.Contains(err.Error(), "booking/1") {
			t.Errorf("%v", err)
		}
	})
}

// Records are deleted by other means than the topic's retention says: only the note of the pause shows it.
func TestTheNoteOfAPauseShowsWhatWasDeletedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t)
		w.keep(time.Minute)
		if _, err := w.client().CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if l, err = p.Pause(t.Context(), l.ID, ""); err != nil {
			t.Fatal(err)
		}
		event(t, p.client, "booking", 0)
		<-time.After(2 * time.Minute)
		w.broker.Cluster().ApplyRetention()
		w.keep(24 * time.Minute)
		if _, err := w.client().CreateTopics(t.Context()); err != nil { // the topics are told to keep more, too late
			t.Fatal(err)
		}
		if _, err := p.Resume(t.Context(), l.ID, false); code(err) != subscriptions.CodeRetentionGap {
			t.Errorf("%v", err)
		}
		// A backfill has no such note. It goes by the setting, and from the earliest record on nothing can be missing.
		d := draft("c0ffee01", "later", "*")
		d.From = subscriptions.Earliest
		if _, _, err := p.Create(t.Context(), d); err != nil {
			t.Error(err)
		}
		d.Name, d.From = "older", time.Now().Add(-30*time.Minute).UnixMilli()
		if _, _, err := p.Create(t.Context(), d); code(err) != subscriptions.CodeRetentionGap {
			t.Errorf("%v", err)
		}
		d.AcceptGap = true
		if _, _, err := p.Create(t.Context(), d); err != nil {
			t.Error(err)
		}
	})
}
