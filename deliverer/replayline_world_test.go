package deliverer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// These tests hold that replays stand back behind what is live, and that a replay that is cancelled or paused is not sent.

// replayed makes new tasks of a replay.
func (w *world) replayed(s *subscriptions.Live, replay string, n int) []*schemas.Task {
	ts := w.tasks(s, n)
	for _, t := range ts {
		t.Lane, t.Replay = schemas.LaneReplay, replay
		t.ID = schemas.TaskID(t.Source, t.EventID, s.ID, replay)
	}
	return ts
}

// order writes an order in a state.
func (w *world) order(id, kind, state string) {
	w.t.Helper()
	w.must(writeOrder(w.ctx, w.kafka, &schemas.Replay{ID: id, Kind: kind, State: state, CreatedAt: time.Now().UnixMilli()}))
}

// lags is how long tasks took from when they were written to when their first request came, sorted.
func (w *world) lags(ts []*schemas.Task) (out []time.Duration) {
	w.t.Helper()
	came := map[string]time.Time{}
	for _, r := range w.receiver.Ledger() {
		if _, ok := came[r.WebhookID]; !ok {
			came[r.WebhookID] = r.At
		}
	}
	for _, t := range ts {
		at, ok := came[schemas.WebhookID(t.Subscription, t.EventID)]
		if !ok {
			w.t.Fatal("a live task did not come")
		}
		out = append(out, at.Sub(time.UnixMilli(t.CreatedAt)))
	}
	slices.Sort(out)
	return out
}

// Ten thousand replayed tasks wait in a lane whose receiver takes 50 ms and eight sends at a time. Live tasks come as if they did not.
func TestLiveIsAsFastAsEverBesideTenThousandReplays(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "/delay/50ms" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxConcurrency = 8 })
		w.member()
		flow := func(n int) (ts []*schemas.Task) {
			for range n {
				one := w.task(s)
				w.put(one)
				ts = append(ts, one)
				pass(20 * time.Millisecond)
			}
			pass(time.Second)
			return ts
		}
		flow(300) // it learns what the receiver is like
		alone := w.lags(flow(500))
		replays := w.replayed(s, "rpl_a", 10_000)
		w.putTo(w.kafka.Topics().Replay, replays...)
		out := w.task(s) // comes into the middle of replays that have all to themselves
		pass(20 * time.Second)
		out.CreatedAt = time.Now().UnixMilli()
		w.put(out)
		pass(time.Second)
		if lag := w.lags([]*schemas.Task{out})[0]; lag > alone[len(alone)-1]+5*time.Millisecond {
			t.Errorf("the first live task after a while took %v, and %v at most when nothing is replayed", lag, alone[len(alone)-1])
		}
		began := time.Now()
		live := flow(1500)
		beside := w.lags(live)
		p99 := func(l []time.Duration) time.Duration { return l[len(l)*99/100] }
		if p99(beside) > p99(alone)*11/10 {
			t.Errorf("live p99 %v beside replays, %v without", p99(beside), p99(alone))
		}
		byReplay, most := 0, 0
		var open []time.Time
		for _, r := range w.receiver.Ledger() {
			if r.Header.Get("Webhook-Replay") == "" || r.At.Before(began.Add(time.Second)) || r.At.After(began.Add(30*time.Second)) {
				continue
			}
			byReplay++
			open = slices.DeleteFunc(append(open, r.At), func(at time.Time) bool { return !at.Add(50 * time.Millisecond).After(r.At) })
			most = max(most, len(open))
		}
		if most > 2 || byReplay < 29*30 {
			t.Errorf("while live tasks flow, %d replays are under way at once (a quarter of 8 is right), %d in 29 s", most, byReplay)
		}
		w.must(w.receiver.WaitDelivered(w.within(time.Hour), "", len(replays)+len(live)+800+1))
		pass(time.Minute)
		w.once("replayed", replays[:100])
		if n := len(w.receiver.Ledger()); n != len(replays)+len(live)+800+1 {
			t.Errorf("%d requests", n)
		}
		written := 0
		for _, tier := range w.kafka.Topics().Tiers {
			written += len(w.read(tier.Name))
		}
		t.Logf("live p99 %v alone, %v beside replays; %d records in tiers for %d replays", p99(alone), p99(beside), written, len(replays))
		if written > 4*len(replays) {
			t.Errorf("%d tier records for %d tasks: they are written to and fro", written, len(replays))
		}
	})
}

func TestACancelledReplayIsDroppedWithinSeconds(t *testing.T) {
	script := func(r *sandbox.Received) string {
		if strings.HasPrefix(r.Path, "/flaky") {
			return "/status/503"
		}
		return "/delay/200ms"
	}
	inBubble(t, script, func(t *testing.T, w *world) {
		s, flaky := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxConcurrency = 2 }), w.subscribe("/flaky")
		r, _ := w.member()
		w.order("rpl_a", schemas.ReplayReplay, schemas.ReplayRunning)
		a, b := w.replayed(s, "rpl_a", 600), w.replayed(s, "rpl_b", 5)
		inTier := w.replayed(flaky, "rpl_a", 3) // wait for their second try when it is cancelled
		w.putTo(w.kafka.Topics().Replay, append(a, inTier...)...)
		pass(5 * time.Second)
		w.order("rpl_a", schemas.ReplayReplay, schemas.ReplayCancelled)
		pass(5 * time.Second)
		sent := len(w.receiver.Ledger())
		w.putTo(w.kafka.Topics().Replay, w.replayed(s, "rpl_a", 20)...)
		w.putTo(w.kafka.Topics().Replay, b...)
		pass(30 * time.Second)
		if n := len(w.receiver.Ledger()) - sent; n != len(b) {
			t.Errorf("%d requests 5 s after it was cancelled, and %d of another replay were due", n, len(b))
		}
		r.stop()
		w.redis.Flush()
		w.member() // who has to read first that it is cancelled
		w.putTo(w.kafka.Topics().Replay, w.replayed(s, "rpl_a", 20)...)
		pass(10 * time.Minute)
		if n := len(w.receiver.Ledger()) - sent; n != len(b) {
			t.Errorf("%d requests more after a restart", n-len(b))
		}
		ends := map[schemas.Verdict]int{}
		for _, at := range w.attempts() {
			if at.Replay == "rpl_a" && at.Verdict != schemas.VerdictRetry {
				ends[at.Verdict]++
				if at.Verdict == schemas.VerdictDropped && at.Reason != schemas.ReasonCancelled {
					t.Errorf("dropped for %s", at.Reason)
				}
			}
		}
		if all := len(a) + len(inTier) + 40; ends[schemas.VerdictDelivered]+ends[schemas.VerdictDropped] != all || ends[schemas.VerdictDropped] < 500 {
			t.Errorf("ends of %d tasks: %v", all, ends)
		}
	})
}

func TestAPausedReplayHoldsAndGoesOn(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "/delay/100ms" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.MaxConcurrency = 4 })
		w.member()
		ts := w.replayed(s, "rpl_a", 400)
		w.order("rpl_a", schemas.ReplayCatchUp, schemas.ReplayRunning)
		w.putTo(w.kafka.Topics().Replay, ts...)
		pass(2 * time.Second)
		w.order("rpl_a", schemas.ReplayCatchUp, schemas.ReplayPaused)
		pass(5 * time.Second)
		before := len(w.receiver.Ledger())
		pass(10 * time.Minute)
		if n := len(w.receiver.Ledger()); n != before || n == 0 || n == len(ts) {
			t.Errorf("%d requests, %d of them while it is paused", n, n-before)
		}
		live := w.task(s)
		w.put(live)
		pass(time.Second)
		w.once("live beside a paused replay", []*schemas.Task{live})
		w.order("rpl_a", schemas.ReplayCatchUp, schemas.ReplayRunning)
		w.must(w.receiver.WaitDelivered(w.within(3*time.Minute), "", len(ts)+1))
		pass(time.Minute)
		w.once("replayed", ts)
		written := 0
		for _, tier := range w.kafka.Topics().Tiers {
			written += len(w.read(tier.Name))
		}
		if most := 15 * len(ts); written > most {
			t.Errorf("%d tier records for %d tasks in ten minutes: they are written more than once a minute", written, len(ts))
		}
	})
}

// The second line of a lane, without the rest of it.
func replayLane(most int) (*lane, func(id, entity string, back bool) *item) {
	d := &Deliverer{tiers: testTiers(), memory: &memory{mostTasks: 1 << 20, mostBytes: 1 << 40}, cfg: DefaultConfig(), lease: newLease(noon, 6*time.Second)}
	d.keeper, d.replays = newKeeper(d), newReplays(d)
	d.replays.known.Store(true)
	d.collector.signal, d.collector.enough = make(chan struct{}, 1), make(chan struct{}, 1)
	d.lease.frozen.Store(false)
	d.lease.renew(noon)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}, press: newPressure(most, 0), want: most, endedAt: noon, tickAt: noon}
	return l, func(id, entity string, back bool) *item {
		it := &item{Task: schemas.Task{ID: id, EntityID: entity, Lane: schemas.LaneLive}, part: &part{}}
		if back {
			it.Lane, it.Replay = schemas.LaneReplay, "rpl_a"
		}
		l.admit(it, noon)
		l.lineOf(it).push(it)
		return it
	}
}

// picked takes what may be sent now out of a lane, as its senders do.
func (l *lane) picked(now time.Time) (ids []string) {
	for it := l.pick(now); it != nil; it = l.pick(now) {
		if l.busy++; it.back {
			l.replays.busy++
		}
		ids = append(ids, it.ID)
	}
	return ids
}

func TestHowManyReplaysAreSentAtOnce(t *testing.T) {
	for _, c := range []struct {
		most, live int
		flows      bool
		want       string
	}{
		{8, 0, false, "r0 r1 r2 r3 r4 r5"}, {8, 0, true, "r0 r1"}, {8, 3, true, "l0 l1 l2 r0 r1"}, {8, 8, true, "l0 l1 l2 l3 l4 l5 l6 l7"},
		{1, 0, true, "r0"}, {1, 1, true, "l0"}, {2, 0, false, "r0"}, {3, 0, true, "r0"},
	} {
		l, add := replayLane(c.most)
		l.replays.liveAt = noon.Add(-time.Minute)
		if c.flows {
			l.replays.liveAt = noon
		}
		for i := range c.live {
			add("l"+string(rune('0'+i)), "", false)
		}
		for i := range 9 {
			add("r"+string(rune('0'+i)), "", true)
		}
		if got := strings.Join(l.picked(noon), " "); got != c.want {
			t.Errorf("at most %d, %d live, flows %v: %s, want %s", c.most, c.live, c.flows, got, c.want)
		}
	}
	// A receiver that needs one connection: a replay that has it keeps no live task waiting.
	l, add := replayLane(8)
	l.want = 1
	add("r", "", true)
	l.picked(noon)
	add("l", "", false)
	if n := l.useful(noon); n != 2 {
		t.Errorf("%d senders are of use", n)
	}
	if got := l.picked(noon); !slices.Equal(got, []string{"l"}) {
		t.Errorf("%v beside a replay", got)
	}
	l, add = replayLane(8)
	l.d.replays.known.Store(false)
	add("r", "", true)
	if got := l.picked(noon); got != nil {
		t.Errorf("%v before it is known which replays are cancelled", got)
	}
}

// A live task finds a replay's of its entity: one that is sent it waits for, one that is in line it goes before. What waits for an entity goes live first.
func TestALiveTaskGoesBeforeAReplaysOfItsEntity(t *testing.T) {
	l, add := replayLane(8)
	first := add("r1", "b", true)
	if got := l.picked(noon); !slices.Equal(got, []string{"r1"}) {
		t.Fatal(got)
	}
	add("r2", "b", true)
	add("r3", "b", true)
	add("l1", "b", false)
	add("l2", "b", false)
	if got := l.picked(noon); got != nil {
		t.Fatalf("%v beside r1, which is of the same entity", got)
	}
	done := func(it *item) {
		l.busy--
		if it.back {
			l.replays.busy--
		}
		l.leaveEntity(it)
	}
	for _, want := range []string{"l1", "l2", "r2", "r3"} {
		done(first)
		got := l.picked(noon)
		if !slices.Equal(got, []string{want}) {
			t.Fatalf("%v, want %s", got, want)
		}
		first = l.byID[want]
	}
	// One that has moved up and waits in line for its turn.
	add("r4", "b", true)
	add("r5", "b", true)
	l.picked(noon)
	l.replays.busy = 6 // no room for more replays
	l.busy += 6
	l.leaveEntity(first)
	if l.entities["b"].ID != "r4" || l.entities["b"].attempted {
		t.Fatal("r4 has not moved up")
	}
	add("l3", "b", false)
	l.busy, l.replays.busy = 0, 0
	if got := l.picked(noon); !slices.Equal(got, []string{"l3"}) {
		t.Fatalf("%v: the live task waits for a replay's in line", got)
	}
	l.leaveEntity(l.byID["l3"])
	l.busy = 0
	if got := l.picked(noon); len(got) != 1 || got[0] == "l3" {
		t.Fatalf("%v", got)
	}
}

// A task of a line was let in behind a replay's of its entity, has moved up since, and finds that somebody stands before it by now. It goes back to its line, and
// what stands before it goes, at once or when it comes up from its tier. It held its entity for ever, and who was let in waited behind it.
func TestATaskThatGoesBackToItsLineHoldsItsEntityNoMore(t *testing.T) {
	for _, inMemory := range []bool{true, false} {
		l, add := replayLane(8)
		l.strict, l.order, l.d.cfg.MaxSends = true, newOrder(&lineBook{}, true), 0
		key := lineKey{"events.booking", 1, "b"}
		come := func(id string, offset int64) *item {
			it := &item{Task: schemas.Task{ID: id, EntityID: "b", Lane: schemas.LaneLive, Source: schemas.Source{Topic: key.topic, Partition: key.partition, Offset: offset}}, part: &part{}}
			l.admit(it, noon)
			l.arrive(it, noon)
			return it
		}
		done := func(it *item) {
			l.busy--
			l.leaveEntity(it)
			if it.stand != nil {
				l.order.remove(it.stand)
				l.advance(it.stand.line, noon)
			}
		}
		r1 := add("r1", "b", true)
		l.senders = []*sender{{it: r1}}
		if got := l.picked(noon); !slices.Equal(got, []string{"r1"}) {
			t.Fatal(got)
		}
		come("later", 20)
		if got := l.picked(noon); got != nil {
			t.Fatalf("%v beside r1, which is of the same entity", got)
		}
		if inMemory {
			come("earlier", 10)
		} else {
			l.order.leave(l.order.enter(key, 10), noon.Add(time.Hour).UnixMilli())
		}
		l.replays.busy--
		done(r1)
		got := l.picked(noon)
		if !inMemory {
			if got != nil || l.order.find(key, 20).where != inTier {
				t.Fatalf("%v, while who stands first is in a tier for an hour", got)
			}
			come("earlier", 10)
			got = l.picked(noon)
		}
		if !slices.Equal(got, []string{"earlier"}) {
			t.Fatalf("who stands first in memory: %v; %v is sent, not the earlier one", inMemory, got)
		}
		done(l.byID["earlier"])
		if !inMemory {
			l.strike(l.byID["later"])
			come("later", 20)
		}
		if got := l.picked(noon); !slices.Equal(got, []string{"later"}) {
			t.Fatalf("who stands first in memory: %v; then %v is sent, not the later one", inMemory, got)
		}
	}
}

// A hand-back of a replay is counted apart, so that its backlog does not put off live tasks.
func TestABacklogOfReplaysPutsOffNoLiveTask(t *testing.T) {
	l, add := replayLane(1)
	l.usual, l.replays.usual = 100, 1
	for range 3000 {
		l.handBack(&item{Task: schemas.Task{Lane: schemas.LaneReplay}, part: &part{}, back: true}, schemas.ReasonFull, 0, noon)
	}
	it := add("l", "", false)
	l.handBack(it, schemas.ReasonFull, 0, noon)
	if wait := it.out.due.Sub(noon); wait > 10*time.Second {
		t.Errorf("a live task is put off for %v because replays wait", wait)
	}
	last := l.d.collector.ended[2999]
	if wait := last.out.due.Sub(noon); wait < 10*time.Minute {
		t.Errorf("the last of 3000 replays that take 50 minutes comes up after %v", wait)
	}
}
