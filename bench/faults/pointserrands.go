package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// errand says how a carrier is brought to a point. Every cell publishes events for a receiver that takes them and one that refuses a third of them once.
type errand struct {
	who     string   // carries: "router", "deliverer" or "command"
	subs    []string // more receivers: see pointRun.script
	spread  int      // the nth time counts, n drawn from 1 to this; 0: the first
	also    string   // one more order for the carrier
	fresh   bool     // on topics that nobody has used
	prelude func(context.Context, *pointRun) error
	do      func(context.Context, *pointRun) error // beside the flow
	after   func(context.Context, *pointRun) error // when what was hurt is mended
}

var (
	routes   = errand{who: "router"}
	delivers = errand{who: "deliverer"}
)

// errands of every point. A point without one fails the build (TestEveryPointHasItsErrand).
var errands = map[fault.Point][]errand{
	fault.RouterTake:        {routes},
	fault.RouterFirstCommit: {{who: "router", fresh: true}},
	fault.RouterCommit:      {routes},
	fault.RouterLastCommit:  {{who: "router", do: peer}},
	fault.RouterTasks:       {{who: "router", spread: 4, do: onAndOn}},
	fault.RouterUndecodable: {{who: "router", do: undecodable}},
	fault.RouterDone:        {{who: "router", spread: 4, do: onAndOn}},
	fault.RouterPark:        {{who: "router", do: undecodable}},
	fault.RerouteOrder:      {{who: "command", do: rerouteByCommand}},
	fault.RerouteTasks:      {{who: "router", do: undecodable}},
	fault.RerouteProgress:   {{who: "router", do: undecodable}},
	fault.ReplayOrder:       {{who: "command", do: replayByCommand}},
	fault.ReplayTasks:       {{who: "router", do: replayed}},
	fault.ReplayProgress:    {{who: "router", do: replayed}},
	fault.ReplayHand:        {{who: "router", spread: 3, subs: []string{"ordered"}, do: onAndOn}},
	fault.ReplayClose:       {{who: "router", do: replayed}},

	fault.DelivererTake:        {delivers},
	fault.DelivererFirstCommit: {delivers},
	fault.DelivererCommit:      {{who: "deliverer", spread: 4, do: onAndOn}},
	fault.DelivererLastCommit:  {{who: "deliverer", do: peer}},
	fault.IntakeTake:           {{who: "deliverer", spread: 6, do: onAndOn}},
	fault.IntakeSeen:           {{who: "deliverer", do: reroutedTwice}},
	fault.IntakePlace:          {{who: "deliverer", spread: 6, do: onAndOn}},
	fault.IntakePark:           {delivers},
	fault.LaneHandBack:         {{who: "deliverer", subs: []string{"limited"}, do: burst}},
	fault.LineHandBack:         {{who: "deliverer", subs: []string{"ordered"}, do: oneEntity}},
	fault.LaneEnds:             {{who: "deliverer", subs: []string{"gone"}, do: deleted}},
	fault.LaneSend:             {{who: "deliverer", spread: 12, do: onAndOn}},
	fault.LaneCollect:          {{who: "deliverer", spread: 12, do: onAndOn}},
	fault.FlushLines:           {{who: "deliverer", subs: []string{"ordered"}, spread: 3, do: oneEntity}},
	fault.FlushTiers:           {delivers},
	fault.FlushDead:            {{who: "deliverer", subs: []string{"dead"}, do: redriven}},
	fault.FlushAttempts:        {{who: "deliverer", spread: 4, do: onAndOn}},
	fault.FlushMarks:           {{who: "deliverer", spread: 4, do: onAndOn}},
	fault.MarksSettle:          {{who: "deliverer", also: "flush.marks:before:error"}},
	fault.MarksClaim:           {{who: "deliverer", subs: []string{"slow"}, also: unheard(), do: onAndOn}},
	fault.FlushFinish:          {{who: "deliverer", spread: 4, do: onAndOn}},
	fault.KeeperDue:            {{who: "deliverer", do: onAndOn}},
	fault.KeeperSettled:        {{who: "deliverer", subs: []string{"slow"}, prelude: diesWhileSending}},
	fault.RedriveOrder:         {{who: "command", subs: []string{"dead"}, do: redriveByCommand}},
	fault.RedriveLines:         {{who: "deliverer", subs: []string{"ordered"}, do: pausedInOrder}},
	fault.RedriveTasks:         {{who: "deliverer", subs: []string{"dead"}, do: redriven}},
	fault.RedriveMarkers:       {{who: "deliverer", subs: []string{"dead"}, do: redriven}},
	fault.RedriveProgress:      {{who: "deliverer", subs: []string{"dead"}, do: redriven}},
	fault.RedriveEnd:           {{who: "deliverer", subs: []string{"dead"}, do: redrivenAsAfterAPause}},
	fault.ClerkWrite:           {{who: "deliverer", subs: []string{"disabled"}, after: disabled}},
	fault.LinesLoad:            {{who: "deliverer", subs: []string{"ordered"}, prelude: inLines, do: oneEntity}},
	fault.LinesFence:           {{who: "deliverer", subs: []string{"ordered"}, prelude: inLines, do: oneEntity}},
	fault.LinesClear:           {{who: "deliverer", subs: []string{"ordered"}, prelude: lateMember, do: oneEntity}},

	fault.SubscriptionWrite:   {{who: "command", do: createByCommand, after: created}, {who: "deliverer", subs: []string{"disabled"}, after: disabled}},
	fault.SubscriptionTwin:    {{who: "command", do: createByCommand, after: created}},
	fault.SubscriptionOrders:  {{who: "command", do: resumeByCommand}, {who: "command", do: backfillByCommand, after: created}},
	fault.SubscriptionConfirm: {{who: "command", do: resumeByCommand}, {who: "command", do: backfillByCommand, after: created}},
	fault.SubscriptionPaused:  {{who: "command", do: pauseByCommand}},
	fault.SubscriptionRepair:  {{who: "command", also: "subscription.write:before:slow", do: raceByCommand, after: editable}},
	fault.SubscriptionSweep:   {{who: "deliverer", do: swept, after: tombstoned}},
	fault.TableApply:          {routes, delivers},

	fault.RecentPublish: {{who: "command", do: snapshotByCommand}},

	fault.KafkaProducer:  {routes, delivers, {who: "command", do: createByCommand, after: created}},
	fault.KafkaProduce:   {{who: "router", spread: 4, do: onAndOn}, {who: "deliverer", spread: 6, do: onAndOn}, {who: "command", do: createByCommand, after: created}},
	fault.KafkaCommitted: {routes, delivers},
	fault.KafkaCommit:    {{who: "router", spread: 3, do: onAndOn}, {who: "deliverer", spread: 4, do: onAndOn}},
	fault.KafkaRelease:   {{who: "router", do: peer}, {who: "deliverer", do: peer}},
}

// unheard refuses every other three seconds of a deliverer's commits: however late the flow begins, something is in hand in one of them.
func unheard() string {
	var orders []string
	for nth := 3; nth < 200; nth += 12 {
		orders = append(orders, fmt.Sprintf("deliverer.commit:before:error:%d:6", nth))
	}
	return strings.Join(orders, ",")
}

// peer lets another member join while events flow: the generation ends.
func peer(ctx context.Context, r *pointRun) error {
	if err := r.start(r.errand.who+"-peer", nil); err != nil {
		return err
	}
	r.mu.Lock()
	r.extra = append(r.extra, r.errand.who+"-peer")
	r.mu.Unlock()
	for until := time.Now().Add(pointReach); time.Now().Before(until); {
		if _, reached := reachedAt(r.log, r.Cell); reached {
			return nil
		}
		if err := errors.Join(r.flow(ctx, 3), pause(ctx, 20*time.Millisecond)); err != nil {
			return err
		}
		if r.rng.IntN(40) == 0 { // if nothing was open when it came, something may be when it goes
			if err := errors.Join(r.stop(r.errand.who+"-peer"), r.start(r.errand.who+"-peer", nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// onAndOn publishes until the point is reached: on a busy machine a task may be read so late that it does not wait for its time any more.
func onAndOn(ctx context.Context, r *pointRun) error {
	for until := time.Now().Add(pointReach); time.Now().Before(until); {
		if _, reached := reachedAt(r.log, r.Cell); reached {
			return nil
		}
		if err := errors.Join(r.flow(ctx, 6), pause(ctx, 2*time.Second)); err != nil {
			return err
		}
	}
	return nil
}

// oneEntity publishes about one entity until the point is reached: a receiver that asks for order gets the events one after the other, and refuses some once.
func oneEntity(ctx context.Context, r *pointRun) error {
	for until := time.Now().Add(pointReach); time.Now().Before(until); {
		if err := r.aboutOne(ctx, 4); err != nil {
			return err
		}
		if _, reached := reachedAt(r.log, r.Cell); reached {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// aboutOne publishes n events about one entity.
func (r *pointRun) aboutOne(ctx context.Context, n int) error {
	for range n {
		r.seq++
		ev := sandbox.Sample(r.rng, "booking.amendment", r.name, r.seq)
		ev.EventMeta().EntityID = "one"
		if err := r.publish.Publish(ctx, ev); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("publish: %w", err)
			}
			r.owe(ev.EventMeta().EventID)
			continue
		}
		r.owe(ev.EventMeta().EventID, "ok", "flaky", "ordered")
		r.mu.Lock()
		r.one = append(r.one, ev.EventMeta().EventID)
		r.mu.Unlock()
	}
	return nil
}

// inLines waits until a member stands in the partition of the subscription that asks for order: whoever owns it next has something to load.
func inLines(ctx context.Context, r *pointRun) error {
	lines := r.kafka.Topics().Lines
	p := kafka.Partition([]byte(r.subs["ordered"].ID), r.kafka.Config().Partitions)
	for until := time.Now().Add(pointReach); ; {
		ends, err := r.kafka.Offsets(ctx, lines, kafka.Latest)
		if err != nil || ends[p] > 0 {
			return err
		}
		if time.Now().After(until) {
			return errors.New("no member of a line was written")
		}
		if err := errors.Join(r.aboutOne(ctx, 4), pause(ctx, 500*time.Millisecond)); err != nil {
			return err
		}
	}
}

// lateMember leaves a member behind the fence of a later owner, as a process does that was stopped in the middle of writing it.
func lateMember(ctx context.Context, r *pointRun) error {
	s := r.subs["ordered"]
	tp := kafka.TP{Topic: r.kafka.Topics().Lines, Partition: kafka.Partition([]byte(s.ID), r.kafka.Config().Partitions)}
	var rs kafka.Records
	rs.Add(tp, []byte("fence"), nil, schemas.AppendLine(nil, &schemas.Line{Epoch: 1 << 20}))
	late := schemas.Line{Epoch: 1, Subscription: s.ID, Entity: "one", Topic: r.kafka.Topics().Events["booking"], Due: time.Now().UnixMilli()}
	rs.Add(tp, []byte(s.ID+"/"+late.Topic+"/0/0/1.1"), nil, schemas.AppendLine(nil, &late))
	if _, err := r.kafka.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs); err != nil {
		return err
	}
	return inLines(ctx, r)
}

// burst publishes more than the limited receiver may get at once.
func burst(ctx context.Context, r *pointRun) error { return r.flow(ctx, 20) }

// deleted takes a subscription away while its tasks wait in a tier.
func deleted(ctx context.Context, r *pointRun) error {
	if err := r.writer.Delete(ctx, r.subs["gone"].ID); err != nil {
		return err
	}
	r.mu.Lock()
	r.closed["gone"] = time.Now().Add(2 * time.Second)
	r.mu.Unlock()
	return nil
}

// undecodable publishes an event whose schema nobody has registered, waits until it lies in `undecodable`, registers the schema, and has it rerouted.
func undecodable(ctx context.Context, r *pointRun) error {
	id, err := r.putUndecodable(ctx)
	if err != nil {
		return err
	}
	_, err = router.StartReroute(ctx, r.kafka, router.RerouteFilter{ID: id})
	return err
}

// putUndecodable brings one event to `undecodable`, makes it decodable, and gives its id there. It is owed from then on.
func (r *pointRun) putUndecodable(ctx context.Context) (id string, err error) {
	r.seq++
	ev := sandbox.Sample(r.rng, "customer.creation", r.name, r.seq)
	schema := r.registry.next()
	value, err := ev.AppendAvro(schemas.AppendConfluent(nil, uint32(schema)))
	if err != nil {
		return "", err
	}
	m := ev.EventMeta()
	topic := r.kafka.Topics().Events["customer"]
	key := []byte(r.name + "/" + m.EntityID)
	var rs kafka.Records
	rs.Add(kafka.TP{Topic: topic, Partition: kafka.Partition(key, r.kafka.Config().Partitions)}, key, nil, value)
	if _, err := r.kafka.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs); err != nil {
		return "", err
	}
	err = rig.Until(pointReach, "the record is undecodable", func() bool {
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		router.ScanUndecodable(bounded, r.kafka, -1, nil, func(u *router.Undecodable) bool {
			if bytes.Equal(u.Value, value) {
				id = u.ID()
			}
			return id == ""
		})
		if id == "" {
			pause(ctx, 200*time.Millisecond)
		}
		return id != "" || ctx.Err() != nil
	})
	r.registry.register(schema, schemas.EventSchemaText("customer"))
	if err == nil {
		r.owe(m.EventID, "ok", "flaky")
	}
	return id, err
}

// reroutedTwice sends one record through again and again: from the second time on its tasks are copies of what has ended.
func reroutedTwice(ctx context.Context, r *pointRun) error {
	id, err := r.putUndecodable(ctx)
	if err != nil {
		return err
	}
	for _, reached := reachedAt(r.log, r.Cell); !reached && ctx.Err() == nil; _, reached = reachedAt(r.log, r.Cell) {
		if _, err := router.StartReroute(ctx, r.kafka, router.RerouteFilter{ID: id}); err != nil {
			return err
		}
		if err := rig.Until(pointArrive, "the rerouted event arrives", func() bool { return len(r.missing()) == 0 || ctx.Err() != nil }); err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// replayed has what was published so far sent again to a receiver, which is owed it once more.
func replayed(ctx context.Context, r *pointRun) error {
	r.mu.Lock()
	again := maps.Clone(r.owed["ok"])
	r.mu.Unlock()
	o, err := router.StartReplay(ctx, r.kafka, r.table, router.ReplayDraft{Subscription: r.subs["ok"].ID})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owed[inReplay("ok", o.ID)] = again
	return nil
}

// replayByCommand gives the order by a command, and again by another one if it was hurt.
func replayByCommand(ctx context.Context, r *pointRun) error {
	return r.twice(ctx, "replay", "create", "--subscription", r.subs["ok"].ID, "--from", "earliest", "--yes", "--detach")
}

// rerouteByCommand gives the order by a command, and again by another one if it was hurt.
func rerouteByCommand(ctx context.Context, r *pointRun) error {
	id, err := r.putUndecodable(ctx)
	if err != nil {
		return err
	}
	return r.twice(ctx, "undecodable", "reroute", id, "--detach")
}

// snapshotByCommand publishes the latest bookings by a command, and once more if it was hurt. Nobody has subscribed to them by name, so nobody gets them.
func snapshotByCommand(ctx context.Context, r *pointRun) error {
	return r.twice(ctx, "recent", "snapshot", "--company", r.name)
}

// twice runs a command that is hurt, and once more as whoever gave it would.
func (r *pointRun) twice(ctx context.Context, args ...string) error {
	if err := r.runCommand(ctx, args...); err != nil {
		return err
	}
	if err := r.ends(ctx); err != nil {
		return err
	}
	p, err := r.command("again", nil, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
		return p.Err()
	case <-time.After(pointReach):
		return fmt.Errorf("%s does not end when it is given again", strings.Join(args, " "))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ends waits for the end of the command that carries.
func (r *pointRun) ends(ctx context.Context) error {
	select {
	case <-r.helper.Done():
		return nil
	case <-time.After(pointReach):
		return errors.New("the command does not end")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dies waits until what the receiver refused lies in `dead`, and lets the receiver accept from then on.
func (r *pointRun) dies(ctx context.Context) error {
	r.mu.Lock()
	want := len(r.owed["dead"])
	r.mu.Unlock()
	err := rig.Until(pointArrive, "the dead letters are written", func() bool {
		letters := map[string]bool{}
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		deliverer.ReadDead(bounded, r.kafka, &schemas.Replay{Subscription: r.subs["dead"].ID}, nil, func(d *deliverer.DeadLetter) bool {
			letters[d.Task.EventID] = true
			return true
		})
		if len(letters) < want {
			pause(ctx, 200*time.Millisecond)
		}
		return len(letters) >= want || ctx.Err() != nil
	})
	r.flipped.Store(true)
	return err
}

// redriven puts what died back in line.
func redriven(ctx context.Context, r *pointRun) error {
	if err := r.dies(ctx); err != nil {
		return err
	}
	_, err := deliverer.OrderRedrive(ctx, r.kafka, schemas.Replay{Subscription: r.subs["dead"].ID})
	return err
}

// redrivenAsAfterAPause does so by an order like a resume's, whose end a deliverer finds. The cut that it names lies before the subscription's first one.
func redrivenAsAfterAPause(ctx context.Context, r *pointRun) error {
	if err := r.dies(ctx); err != nil {
		return err
	}
	s := r.subs["dead"]
	_, err := deliverer.OrderRedrive(ctx, r.kafka, schemas.Replay{Subscription: s.ID, Cut: s.Spans[0].At - 1})
	return err
}

// pausedInOrder pauses the subscription that keeps order while events flow, and resumes it: what came up in between stands before what comes then. It does so
// until the point is reached, since nothing comes up before the subscription's catch-up has handed over to live.
func pausedInOrder(ctx context.Context, r *pointRun) error {
	id := r.subs["ordered"].ID
	for until := time.Now().Add(pointReach); time.Now().Before(until); {
		if _, reached := reachedAt(r.log, r.Cell); reached {
			return nil
		}
		paused := make(chan error, 1)
		go func() {
			_, err := r.writer.Pause(ctx, id, "errand")
			paused <- err
		}()
		if err := errors.Join(r.aboutOne(ctx, 3), <-paused); err != nil { // until the cut passes, events go the live way
			return err
		}
		if _, err := r.writer.Resume(ctx, id, false); err != nil {
			return err
		}
	}
	return nil
}

func redriveByCommand(ctx context.Context, r *pointRun) error {
	if err := r.dies(ctx); err != nil {
		return err
	}
	return r.twice(ctx, "dead", "redrive", "--subscription", r.subs["dead"].ID, "--detach")
}

// diesWhileSending has the deliverer before the carrier die in the middle of sends that its last commit names.
func diesWhileSending(ctx context.Context, r *pointRun) error {
	if err := r.flow(ctx, 3); err != nil {
		return err
	}
	err := rig.Until(pointReach, "the slow receiver is asked", func() bool {
		for _, q := range r.receiver.Ledger() {
			if q.Path == "/slow" {
				return true
			}
		}
		return ctx.Err() != nil
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, 1200*time.Millisecond); err != nil { // a commit or two
		return err
	}
	r.flipped.Store(true)
	p := r.procs["deliverer"]
	at := time.Now()
	p.Kill()
	delete(r.procs, "deliverer")
	r.note(Fault{KillDeliverer, "the one before", at, time.Now()})
	return nil
}

// disabled: the receiver answered 410, so its subscription is disabled in the end.
func disabled(ctx context.Context, r *pointRun) error {
	id := r.subs["disabled"].ID
	if l, ok := r.table.Get(id); ok && l.State == schemas.StateActive {
		if err := r.flow(ctx, 1); err != nil { // a note that dies with the process is made again by the next try
			return err
		}
	}
	return rig.Until(pointReach, "the subscription is disabled", func() bool {
		l, ok := r.table.Get(id)
		return ok && l.State == schemas.StateDisabled || ctx.Err() != nil
	})
}

// createByCommand makes a subscription by a command that is hurt.
func createByCommand(ctx context.Context, r *pointRun) error {
	if err := r.runCommand(ctx, r.createArgs()...); err != nil {
		return err
	}
	return r.ends(ctx)
}

func (r *pointRun) createArgs() []string {
	return []string{"subscriptions", "create", "--company", r.name, "--name", "made", "--url", r.receiver.URL("/made"), "--events", "*"}
}

// created makes the subscription again, as a person would after an error or a crash: it is made now, or it is refused because it stands. From then on it
// is owed what is published.
func created(ctx context.Context, r *pointRun) error {
	p, err := r.command("again", nil, r.createArgs()...)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.table.CatchUp(ctx); err != nil {
		return err
	}
	var found []*subscriptions.Live
	for _, l := range r.table.Company(r.name) {
		if l.Name == "made" {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d subscriptions of one name stand (the second command: %v)", len(found), p.Err())
	}
	if err := pause(ctx, 3500*time.Millisecond); err != nil { // as long as create would have waited
		return err
	}
	secrets, err := found[0].SigningSecrets()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.subs["made"] = found[0]
	r.mu.Unlock()
	return r.receiver.Trust("/made", string(secrets[0].Reveal()))
}

// resumeByCommand publishes while a subscription is paused, and resumes it by a command that is hurt.
func resumeByCommand(ctx context.Context, r *pointRun) error {
	id := r.subs["ok"].ID
	if _, err := r.writer.Pause(ctx, id, "errand"); err != nil {
		return err
	}
	if err := r.flow(ctx, 6); err != nil {
		return err
	}
	return r.twice(ctx, "subscriptions", "resume", id)
}

// pauseByCommand pauses a subscription by a command that is hurt, publishes, and resumes it.
func pauseByCommand(ctx context.Context, r *pointRun) error {
	id := r.subs["ok"].ID
	if err := r.twice(ctx, "subscriptions", "pause", id); err != nil {
		return err
	}
	if err := r.flow(ctx, 6); err != nil {
		return err
	}
	_, err := r.writer.Resume(ctx, id, false)
	return err
}

// backfillByCommand makes a subscription with a backfill by a command that is hurt. The backfill holds nothing: what it made may stand, so that `created` finds
// it, or not, and then it is made without one.
func backfillByCommand(ctx context.Context, r *pointRun) error {
	if err := pause(ctx, 20*time.Millisecond); err != nil { // what this cell has published lies before it, by whole milliseconds
		return err
	}
	if err := r.runCommand(ctx, append(r.createArgs(), "--from", time.Now().UTC().Format(time.RFC3339Nano))...); err != nil {
		return err
	}
	return r.ends(ctx)
}

// raceByCommand changes a subscription while the command that carries does: the command has looked before, and writes after.
func raceByCommand(ctx context.Context, r *pointRun) error {
	if err := r.runCommand(ctx, "subscriptions", "update", r.subs["ok"].ID, "--timeout", "9s"); err != nil {
		return err
	}
	slow := fault.Cell{Point: fault.SubscriptionWrite, Side: fault.SideBefore, Kind: fault.Slow}
	err := rig.Until(pointReach, "the command is about to write", func() bool {
		_, reached := reachedAt(r.log, slow)
		return reached || ctx.Err() != nil
	})
	if err != nil {
		return err
	}
	timeout := 7 * time.Second
	if _, err := r.writer.Update(ctx, r.subs["ok"].ID, subscriptions.Change{Timeout: &timeout}); err != nil {
		return err
	}
	return r.ends(ctx)
}

// editable: the subscription can be changed as before.
func editable(ctx context.Context, r *pointRun) error {
	timeout := 8 * time.Second
	l, err := r.writer.Update(ctx, r.subs["ok"].ID, subscriptions.Change{Timeout: &timeout})
	if err == nil && l.TimeoutMs != 8000 {
		err = fmt.Errorf("the timeout is %d ms", l.TimeoutMs)
	}
	return err
}

// swept leaves a record that lost a race, and one of a subscription that was deleted long ago.
func swept(ctx context.Context, r *pointRun) error {
	loser := r.subs["ok"].Subscription
	loser.UpdatedBy = "nobody"
	old := r.subs["flaky"].Subscription
	old.ID = r.tombstone()
	old.State, old.Version, old.UpdatedAt = schemas.StateDeleted, 1, time.Now().Add(-8*24*time.Hour).UnixMilli()
	var rs kafka.Records
	for _, s := range []*schemas.Subscription{&loser, &old} {
		key := []byte(s.ID)
		rs.Add(kafka.TP{Topic: r.kafka.Topics().Subscriptions, Partition: kafka.Partition(key, r.kafka.Config().Partitions)}, key, nil, schemas.AppendSubscription(nil, s))
	}
	_, err := r.kafka.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs)
	return err
}

func (r *pointRun) tombstone() string {
	return "sub_" + (strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return 'a' + c - '0'
		}
		return c
	}, strings.ReplaceAll(r.name, "-", "x")) + strings.Repeat("a", 26))[:26]
}

// tombstoned: what was deleted long ago is gone, and the loser is forgotten.
func tombstoned(ctx context.Context, r *pointRun) error {
	err := rig.Until(pointReach, "the tombstone is written", func() bool {
		_, there := r.table.Get(r.tombstone())
		return !there || ctx.Err() != nil
	})
	return errors.Join(err, editable(ctx, r))
}
