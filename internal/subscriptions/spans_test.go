package subscriptions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// orders reads `replays` as it lies there: all records, oldest first, by id.
func orders(t *testing.T, c *kafka.Client) map[string][]schemas.Replay {
	t.Helper()
	out := map[string][]schemas.Replay{}
	starts, err := c.Offsets(t.Context(), c.Topics().Replays, kafka.Earliest)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := c.Offsets(t.Context(), c.Topics().Replays, kafka.Latest)
	if err != nil {
		t.Fatal(err)
	}
	pos, left := map[kafka.TP]int64{}, 0
	for p, at := range starts {
		if ends[p] > at {
			pos[kafka.TP{Topic: c.Topics().Replays, Partition: p}] = at
			left += int(ends[p] - at)
		}
	}
	if left == 0 {
		return out
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	f := c.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	err = f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			for _, rec := range b.Records {
				var o schemas.Replay
				if err := schemas.DecodeReplay(rec.Value, &o); err != nil {
					return err
				}
				out[o.ID] = append(out[o.ID], o)
				if left--; left == 0 {
					stop()
				}
			}
		}
		return nil
	})
	if left > 0 {
		t.Fatal(err)
	}
	return out
}

func last(list []schemas.Replay) schemas.Replay {
	if len(list) == 0 {
		return schemas.Replay{}
	}
	return list[len(list)-1]
}

// checkSpans is what must hold of every record, whatever happened: cuts ascend, the spans that are owed are closed by a cut that names an order, and that order
// lies in `replays` and is for that span.
func checkSpans(t *testing.T, c *kafka.Client, s *schemas.Subscription) {
	t.Helper()
	all := orders(t, c)
	for i, cut := range s.Spans {
		switch {
		case i > 0 && cut.At <= s.Spans[i-1].At:
			t.Errorf("cut %d does not lie behind the one before: %v", i, s.Spans)
		case cut.Kind != schemas.CutLive || i == 0 && s.BackfillFrom == 0:
			continue
		}
		from := s.BackfillFrom
		if i > 0 {
			from = s.Spans[i-1].At
		}
		o := last(all[cut.Reason])
		to, ok := s.CatchUpEnd(&o)
		if o.From != from || o.Subscription != s.ID || o.Kind != schemas.ReplayCatchUp || o.State != schemas.ReplayRunning || !ok || to < cut.At {
			t.Errorf("the order %q of the span from %d to %d: %+v", cut.Reason, from, cut.At, o)
		}
	}
	if active := s.State == schemas.StateActive; active != (s.PausedAt() == 0) {
		t.Errorf("it is %s, with the cuts %v", s.State, s.Spans)
	}
}

func code(err error) string {
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return fmt.Sprint(err)
}

func TestPauseAndResumeLeaveOneSideForEveryEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p, there := w.process(), w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if l, err = p.Pause(t.Context(), l.ID, "moving house"); err != nil {
			t.Fatal(err)
		}
		cut := l.PausedAt()
		if known, _ := there.Get(l.ID); known.State != schemas.StatePaused || known.StateReason != "moving house" || cut == 0 || time.Now().UnixMilli() < cut+1000 {
			t.Errorf("Pause returned %d ms after its cut; others have %+v", time.Now().UnixMilli()-cut, known.Subscription)
		}
		redrive := last(orders(t, p.client)[schemas.PausedRedriveID(l.ID, cut)])
		if redrive.Cut != cut || len(redrive.Begins) != partitions*len(schemas.AllEntities()) {
			t.Errorf("the note of the pause: %+v", redrive)
		}
		<-time.After(time.Minute)

		// When another process learns of the cut, the order that it names must lie in the log already.
		var early atomic.Int64
		there.Subscribe(func(string) { early.Store(time.Now().UnixMilli()) })
		got, err := there.Resume(t.Context(), l.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, _ := p.Get(l.ID)
		live := now.Spans[len(now.Spans)-1]
		if now.State != schemas.StateActive || now.StateReason != "" || live.Kind != schemas.CutLive || live.Reason != got.CatchUp || live.At-early.Load() < 2000 {
			t.Errorf("%+v; the cut was known %d ms before it", now.Subscription, live.At-early.Load())
		}
		if time.Now().UnixMilli() < live.At+1000 {
			t.Error("Resume returned before its cut had passed everywhere")
		}
		all := orders(t, p.client)
		written := all[got.CatchUp]
		if len(written) != 2 || written[0].To != 0 || written[1].To != live.At || written[0].From != cut {
			t.Errorf("the catch-up was written as %+v", written)
		}
		again := last(all[got.Redrive])
		if again.Cut != cut || again.Reason != schemas.ReasonPaused || len(again.Begins) != len(redrive.Begins) || len(all) != 2 {
			t.Errorf("the redrive is %+v, of %d orders", again, len(all))
		}
		checkSpans(t, p.client, &now.Subscription)
	})
}

func TestPauseAndResumeOfWhatNeedsThemNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Resume(t.Context(), l.ID, false); err != nil || got.Version != l.Version || got.CatchUp != "" {
			t.Errorf("resume of what is active: %+v %v", got, err)
		}
		first, err := p.Pause(t.Context(), l.ID, "")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := p.Pause(t.Context(), l.ID, "twice"); err != nil || again.Version != first.Version || again.StateReason != "" {
			t.Errorf("pause of what is paused: %+v %v", again, err)
		}
		if err := p.Disable(t.Context(), l.ID, "gone"); err != nil {
			t.Error(err)
		}
		if now, _ := p.Get(l.ID); now.State != schemas.StatePaused {
			t.Errorf("what is paused was disabled: %+v", now.Subscription)
		}
		if err := p.Delete(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Resume(t.Context(), l.ID, false); code(err) != subscriptions.CodeDeleted {
			t.Errorf("resume of what is deleted: %v", err)
		}
		if _, err := p.Pause(t.Context(), l.ID, ""); code(err) != subscriptions.CodeDeleted {
			t.Errorf("pause of what is deleted: %v", err)
		}
		if _, err := p.Resume(t.Context(), "sub_nobody", false); code(err) != subscriptions.CodeNotFound {
			t.Errorf("resume of what is not there: %v", err)
		}
	})
}

// Resume comes at the very moment at which Disable has written its cut, which lies two seconds ahead: the cut "live" must lie behind it.
func TestResumeRightBehindADisable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.SetFailing(t.Context(), l.ID, 77); err != nil {
			t.Fatal(err)
		}
		if err := p.Disable(t.Context(), l.ID, "gone"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Pause(t.Context(), l.ID, ""); code(err) != subscriptions.CodeDisabled {
			t.Errorf("pause of what is disabled: %v", err)
		}
		got, err := p.Resume(t.Context(), l.ID, false)
		if err != nil || got.State != schemas.StateActive || got.FailingSince != 0 || len(got.Spans) != 3 {
			t.Fatalf("%+v %v", got, err)
		}
		checkSpans(t, p.client, &got.Subscription)
	})
}

// toTopic lets fn decide about produce requests to one topic: a wait, or refused; false passes them on.
func toTopic(cluster *kfake.Cluster, topic string, fn func() (time.Duration, bool)) {
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			name := rt.Topic
			if name == "" {
				name = cluster.TopicIDInfo(rt.TopicID).Topic
			}
			if name != topic {
				continue
			}
			switch d, ok := fn(); {
			case !ok:
			case d == refused:
				return refusal(req.(*kmsg.ProduceRequest)), nil, true
			default:
				cluster.SleepControl(func() { <-time.After(d) })
			}
		}
		return nil, nil, false
	})
}

// The process dies between the orders and the record. What it leaves does nothing, and the next resume does all of it.
func TestADeathBetweenTheOrdersAndTheRecordLeavesAnOrderThatDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if l, err = p.Pause(t.Context(), l.ID, ""); err != nil {
			t.Fatal(err)
		}
		var dead atomic.Bool
		dead.Store(true)
		toTopic(w.broker.Cluster(), "hookferry.subscriptions", func() (time.Duration, bool) { return refused, dead.Load() })
		if _, err := p.Resume(t.Context(), l.ID, false); err == nil {
			t.Fatal("resumed without a record")
		}
		var orphan schemas.Replay
		for _, o := range orders(t, p.client) {
			if o[0].Kind == schemas.ReplayCatchUp {
				orphan = last(o)
			}
		}
		now, _ := p.Get(l.ID)
		if _, ok := now.CatchUpEnd(&orphan); ok || orphan.From != l.PausedAt() || now.CatchUpOver(&orphan) || now.State != schemas.StatePaused {
			t.Errorf("%+v is to be worked off, or over; %+v", orphan, now.Subscription)
		}
		dead.Store(false)
		got, err := p.Resume(t.Context(), l.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.CatchUpEnd(&orphan); ok || !got.Live.CatchUpOver(&orphan) || got.CatchUp == orphan.ID {
			t.Error("the order of the dead is worked off")
		}
		checkSpans(t, p.client, &got.Subscription)
	})
}

// The process dies, or loses Kafka, between the record and the confirmation: the subscription is live, and the catch-up goes on a minute behind the cut.
func TestADeathBeforeTheConfirmationLeavesACatchUpThatReachesFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = p.Pause(t.Context(), l.ID, ""); err != nil {
			t.Fatal(err)
		}
		writes := 0
		toTopic(w.broker.Cluster(), "hookferry.replays", func() (time.Duration, bool) {
			writes++
			return refused, writes > 1 // the two orders go in one request
		})
		got, err := p.Resume(t.Context(), l.ID, false)
		if err != nil || got.State != schemas.StateActive {
			t.Fatalf("%+v %v", got, err)
		}
		o := last(orders(t, p.client)[got.CatchUp])
		if writes < 2 || o.To != 0 {
			t.Fatalf("%d writes: the confirmation was not refused", writes)
		}
		cut := got.Spans[len(got.Spans)-1].At
		if to, ok := got.CatchUpEnd(&o); !ok || to != cut+schemas.CatchUpUnconfirmed {
			t.Errorf("it ends %d ms behind the cut", to-cut)
		}
	})
}

// The write of the cut "live" takes so long that routers may have passed over events right behind it. The cut stays, so that no event is owed under two task
// ids, and the catch-up reaches to where all routers knew it.
func TestALateCutOfAResumeStaysAndTheCatchUpReachesFurther(t *testing.T) {
	for _, slow := range []time.Duration{time.Second, 5 * time.Second} {
		t.Run(slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWholeWorld(t)
				p, router := w.process(), w.process()
				l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
				if err != nil {
					t.Fatal(err)
				}
				if l, err = p.Pause(t.Context(), l.ID, ""); err != nil {
					t.Fatal(err)
				}
				n := 0
				toTopic(w.broker.Cluster(), "hookferry.subscriptions", func() (time.Duration, bool) {
					n++
					return slow, n == 1
				})
				var cuts []int64
				var knew int64
				router.Subscribe(func(string) {
					now, _ := router.Get(l.ID)
					cuts, knew = append(cuts, now.Spans[len(now.Spans)-1].At), time.Now().UnixMilli()
				})
				got, err := p.Resume(t.Context(), l.ID, false)
				if err != nil {
					t.Fatal(err)
				}
				router.end()
				o := last(orders(t, p.client)[got.CatchUp])
				// A router matches with what it knew a second ago, and the brokers' clocks are a second apart.
				if len(cuts) != 1 || o.To < knew+2000 || o.To <= cuts[0] {
					t.Errorf("cuts %v, known at %d, the catch-up ends at %d", cuts, knew, o.To)
				}
				if id, ok := got.CatchesUp(&o, cuts[0]); !ok || id != "" {
					t.Errorf("behind the cut the task belongs to %q: its id is not the one of the live path", id)
				}
				if time.Now().UnixMilli() < o.To+1000 {
					t.Error("Resume returned before every router knew")
				}
			})
		})
	}
}

func TestCreateFromATimeWritesItsOrderFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		for i, from := range []int64{subscriptions.Earliest, time.Now().Add(-time.Hour).UnixMilli()} {
			d := draft("c0ffee01", fmt.Sprint("crm", i), "*")
			d.From, d.ReplayRate, d.Order = from, 50, schemas.OrderEntity
			l, _, err := p.Create(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if l.BackfillFrom != from || l.Version != 1 || len(l.Spans) != 1 || l.ReplayRate != 50 || l.Order != schemas.OrderEntity {
				t.Errorf("%+v", l.Subscription)
			}
			written := orders(t, p.client)[l.Spans[0].Reason]
			if len(written) != 2 || written[0].To != 0 || written[1].To != l.Spans[0].At {
				t.Errorf("%+v", written)
			}
			checkSpans(t, p.client, &l.Subscription)
		}
		d := draft("c0ffee01", "later", "*")
		d.From, d.Order = time.Now().Add(time.Hour).UnixMilli(), "random"
		_, _, err := p.Create(t.Context(), d)
		if err == nil || !strings.Contains(err.Error(), "from: ") || !strings.Contains(err.Error(), "order: ") {
			t.Errorf("%v", err)
		}
	})
}

// A catch-up that has begun without order would make again, with it, what live has routed since. So order waits for its end.
func TestOrderIsNotTurnedOnBeforeACatchUpIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		d := draft("c0ffee01", "crm", "*")
		d.From = subscriptions.Earliest
		l, _, err := p.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		order := schemas.OrderEntity
		_, err = p.Update(t.Context(), l.ID, subscriptions.Change{Order: &order})
		if code(err) != subscriptions.CodeCatchUpRuns {
			t.Errorf("%v", err)
		}
		o := orders(t, p.client)[l.Spans[0].Reason][1]
		o.State = schemas.ReplayDone
		var r kafka.Records
		key := []byte(o.ID)
		r.Add(kafka.TP{Topic: p.client.Topics().Replays, Partition: kafka.Partition(key, p.client.Config().Partitions)}, key, nil, schemas.AppendReplay(nil, &o))
		if _, err := p.client.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if l, err = p.Update(t.Context(), l.ID, subscriptions.Change{Order: &order}); err != nil || l.Order != order {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

func TestTheFirstWriteOfABackfillIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		p := w.process()
		n := 0
		toTopic(w.broker.Cluster(), "hookferry.subscriptions", func() (time.Duration, bool) {
			n++
			return 4 * time.Second, n == 1
		})
		d := draft("c0ffee01", "crm", "*")
		d.From = subscriptions.Earliest
		l, _, err := p.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		o := last(orders(t, p.client)[l.Spans[0].Reason])
		if l.Version != 1 || o.To <= l.Spans[0].At {
			t.Errorf("version %d, a cut at %d, and a catch-up to %d", l.Version, l.Spans[0].At, o.To)
		}
		checkSpans(t, p.client, &l.Subscription)
	})
}

// Pause, resume, disable and updates by several processes at once: nobody's change is lost, and whatever order they come in, every span that was closed names an
// order of its own.
func TestWritersOfSpansBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWholeWorld(t)
		ps := []*process{w.process(), w.process(), w.process()}
		l, _, err := ps[0].Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		const rounds = 6
		var wg sync.WaitGroup
		for i, p := range ps {
			wg.Go(func() {
				for n := range rounds {
					var err error
					switch (i + n) % 4 {
					case 0:
						_, err = p.Pause(t.Context(), l.ID, "")
					case 1, 2:
						_, err = p.Resume(t.Context(), l.ID, false)
					case 3:
						err = p.Disable(t.Context(), l.ID, "gone")
					}
					if err != nil && code(err) != subscriptions.CodeDisabled {
						t.Errorf("process %d, round %d: %v", i, n, err)
					}
				}
			})
		}
		wg.Go(func() {
			for n := range 3 * rounds {
				timeout := time.Duration(1+n%20) * time.Second
				if now, err := ps[0].Update(t.Context(), l.ID, subscriptions.Change{Timeout: &timeout}); err != nil || now.TimeoutMs != int32(timeout.Milliseconds()) {
					t.Errorf("update %d: %v", n, err)
				}
				<-time.After(time.Second)
			}
		})
		wg.Wait()
		if err := ps[0].CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, _ := ps[0].Get(l.ID)
		if len(now.Spans) < 5 {
			t.Errorf("only %d cuts came of it", len(now.Spans))
		}
		checkSpans(t, ps[0].client, &now.Subscription)
	})
}
