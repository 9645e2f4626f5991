package deliverer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// What came up between a pause and its cut lies in `dead`, and what was published after the cut comes up at once when the subscription is resumed. An owner may die
// at any step of the redrive; its successor keeps the order too.
func TestWhatAPauseHasEndedComesBeforeWhatWasPublishedInIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		topic func(kafka.Names) string // what cannot be written when the owner dies; nil: it does not die
	}{
		{"nobody dies", nil},
		{"death before the members", func(n kafka.Names) string { return n.Lines }},
		{"death between the members and the tasks", func(n kafka.Names) string { return n.Tiers[0].Name }},
		{"death between the tasks and the markers", func(n kafka.Names) string { return n.Dead }},
		{"death between the markers and the progress", func(n kafka.Names) string { return n.Progress }},
		{"death between the progress and the end", func(n kafka.Names) string { return n.Replays }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
				s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Order = schemas.OrderEntity })
				first, cord := w.member()
				paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
				pass(time.Second)
				var all []*schemas.Task
				come := func(entities string) {
					var now []*schemas.Task
					for _, entity := range entities {
						now = append(now, w.taskOf(s, string(entity)))
					}
					w.put(now...)
					all = append(all, now...)
				}
				come("abcdefgabcdefg") // before the cut
				pass(3 * time.Second)
				order := schemas.PausedRedrive(&s.Subscription, paused.At, time.Now().UnixMilli())
				_, err := OrderRedrive(w.ctx, w.kafka, order)
				w.must(err)
				if c.topic != nil {
					refused := w.refuse(c.topic(w.kafka.Topics()), -1, kerr.NotLeaderForPartition, "")
					w.becomeBy(s, schemas.StateActive, schemas.Cut{Kind: schemas.CutLive, Reason: "rpl_catchup"})
					w.must(refused.Wait(w.within(time.Minute), 1))
					come("ab")
					pass(2 * time.Second)
					kill(first, cord)
					refused.Remove()
					w.member()
				} else {
					// What is put back is read late, so that only its members stand before what comes.
					unread := w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: w.kafka.Topics().Tiers[0].Name, Err: kerr.NotLeaderForPartition, Count: -1})
					time.AfterFunc(8*time.Second, unread.Remove)
					w.becomeBy(s, schemas.StateActive, schemas.Cut{Kind: schemas.CutLive, Reason: "rpl_catchup"})
				}
				for _, entity := range "cdefg" { // one after the other: before, during and after the redrive
					come(string(entity))
					pass(time.Second)
				}
				w.redrivenInOrder(&order, all)
			})
		})
	}
}

// An owner that has not loaded the partition's lines has no epoch yet, and what it wrote as a member nobody would believe after it. So it puts nothing back before.
func TestARedriveOfAPauseWaitsUntilLinesAreLoaded(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Order = schemas.OrderEntity })
		first, cord := w.member()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(time.Second)
		all := []*schemas.Task{w.taskOf(s, "a"), w.taskOf(s, "b"), w.taskOf(s, "a")}
		w.put(all...)
		pass(3 * time.Second)
		order := schemas.PausedRedrive(&s.Subscription, paused.At, time.Now().UnixMilli())
		_, err := OrderRedrive(w.ctx, w.kafka, order)
		w.must(err)
		kill(first, cord)
		w.becomeBy(s, schemas.StateActive, schemas.Cut{Kind: schemas.CutLive, Reason: "rpl_catchup"})
		tier := w.kafka.Topics().Tiers[0].Name
		unread := w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: tier, Err: kerr.NotLeaderForPartition, Count: -1})
		w.slowFetches(w.kafka.Topics().Lines, 12*time.Second) // the first owner's session ends after six
		second, cord := w.member()
		w.eventually(time.Minute, "the letters are put back", func() bool {
			ends, err := w.kafka.Offsets(w.ctx, tier, kafka.Latest)
			return err == nil && ends[0] == int64(len(all))
		})
		pass(5 * time.Second)
		if g := w.lines(); len(g.members) != len(all) || len(g.stale) > 0 {
			t.Errorf("%d of %d letters stand as members, %d are not believed", len(g.members), len(all), len(g.stale))
		}
		kill(second, cord)
		w.member()
		later := []*schemas.Task{w.taskOf(s, "a"), w.taskOf(s, "b")}
		w.put(later...)
		pass(20 * time.Second)
		unread.Remove()
		w.redrivenInOrder(&order, append(all, later...))
	})
}

// A task that came up while its subscription was paused holds its place in the line until its end is written. Where the letter stands and the attempt does not, the
// redrive waits: put back before, the task would have no place, and what was published later would be sent before it.
func TestARedriveOfAPauseWaitsForTheEndsOfItsLetters(t *testing.T) {
	inBubble(t, func(*sandbox.Received) string { return "" }, func(t *testing.T, w *world) {
		s := w.subscribe("/x", func(d *subscriptions.Draft) { d.Order = schemas.OrderEntity })
		w.member()
		paused := w.become(s, schemas.StatePaused, schemas.CutPaused)
		pass(time.Second)
		attempts := w.refuse(w.kafka.Topics().Attempts, -1, kerr.NotLeaderForPartition, "")
		var all []*schemas.Task
		for _, entity := range "abcabcabc" {
			all = append(all, w.taskOf(s, string(entity)))
		}
		w.put(all...)
		w.must(attempts.Wait(w.within(time.Minute), 1)) // so the letters stand
		order := schemas.PausedRedrive(&s.Subscription, paused.At, time.Now().UnixMilli())
		_, err := OrderRedrive(w.ctx, w.kafka, order)
		w.must(err)
		// What is put back is read late, so that only its members stand before what waits.
		unread := w.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: w.kafka.Topics().Tiers[0].Name, Err: kerr.NotLeaderForPartition, Count: -1})
		w.becomeBy(s, schemas.StateActive, schemas.Cut{Kind: schemas.CutLive, Reason: "rpl_catchup"})
		pass(time.Second) // less than what makes a lane hand back who waits
		attempts.Remove()
		pass(8 * time.Second)
		unread.Remove()
		w.redrivenInOrder(&order, all)
	})
}

// redrivenInOrder waits until all is delivered, and looks whether that was in order, and leaves nothing behind.
func (w *world) redrivenInOrder(order *schemas.Replay, all []*schemas.Task) {
	w.t.Helper()
	w.must(w.receiver.WaitDelivered(w.within(10*time.Minute), "", len(all)))
	w.inOrder(all...)
	if state, _ := w.stateOf(order); state != schemas.ReplayDone {
		w.t.Errorf("the redrive is %s", state)
	}
	pass(time.Minute)
	if n := len(w.lines().members); n != 0 {
		w.t.Errorf("%d members still stand", n)
	}
}
