package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/internal/kafka"
)

// What can happen to Kafka, and to the way there. After each of these everything that is owed must arrive, once, and soon: see kafkaHealed.
var kafkaScenarios = []scenario{
	{name: "kafka-produce", what: "answers to writes lost, writes lost, NOT_ENOUGH_REPLICAS (before and after the append), MESSAGE_TOO_LARGE for a while",
		deploy: throughProxy, act: breakProduce, flow: 15 * time.Second, events: 3000, noRepeat: true, from: formShort, check: kafkaHealed},
	{name: "kafka-commit", what: "commits lost, their answers lost, REBALANCE_IN_PROGRESS, ILLEGAL_GENERATION",
		deploy: throughProxy, act: breakCommits, flow: 16 * time.Second, events: 2400, noRepeat: true, from: formShort, check: kafkaHealed},
	{name: "kafka-cut", what: "Kafka refused or silent for 3 s, five times; connections that were open in a silence stay dead",
		deploy: throughProxy, act: cutOff, flow: 35 * time.Second, events: 3500, noRepeat: true, from: formShort, check: kafkaHealed},
	{name: "kafka-slow", what: "every request 300 ms late; writes 2 s; commits 2.5 s; reads 1 s; metadata and the group's requests 2 s",
		deploy: throughProxy, act: slowDown, flow: 60 * time.Second, events: 6000, noRepeat: true, check: kafkaHealed},
	{name: "kafka-minute", what: "Kafka silent for a minute, and refused for a minute; in the long form five times in turn",
		deploy: throughProxy, act: cutOffForAMinute, flow: 160 * time.Second, events: 12000, longer: 400 * time.Second, long: 30_000, noRepeat: true, rest: 2 * time.Minute,
		check: func(ctx context.Context, w *world) error { return kafkaHealedFrom(ctx, w, minutes(w)) }},
	{name: "kafka-restart", what: "kill -9 the only broker and start it again, five times", brokers: 1,
		act: restartBroker, flow: 110 * time.Second, events: 11000, noRepeat: true, check: kafkaHealed, rest: 2 * time.Minute},
	{name: "kafka-leaders", what: "three brokers, every leader moves, six times", brokers: 3,
		act: moveLeaders, flow: 40 * time.Second, events: 6000, noRepeat: true, check: kafkaHealed},
	{name: "kafka-one-down", what: "three brokers, kill -9 one after the other, each down for 10 s, six times", brokers: 3,
		act: oneDown, flow: 160 * time.Second, events: 16000, noRepeat: true, check: kafkaHealed, rest: 2 * time.Minute},
	{name: "kafka-storm", what: "in each group a member joins or leaves every 500 ms for a minute", brokers: 1,
		act: stormOfMembers, flow: 75 * time.Second, events: 11250, noRepeat: true,
		check: func(ctx context.Context, w *world) error { return kafkaHealedFrom(ctx, w, 1) }},
	{name: "kafka-disk", what: "the disk under the broker full, five times; emptied, and the broker started again",
		deploy: onItsOwnDisk, unable: noMount, act: fillDisk, flow: 110 * time.Second, events: 11000, noRepeat: true, check: kafkaHealed, rest: 2 * time.Minute},
	clockScenario(),
}

func throughProxy(c *rig.DeployConfig) { c.Proxy = true }

func onItsOwnDisk(c *rig.DeployConfig) { c.Disk = 512 << 20 }

func noMount(context.Context) string {
	if rig.CanMount() {
		return ""
	}
	return "this machine lets us mount no file system (run it as root)"
}

// stuckMost is how long after a fault has healed something may still wait for what the fault did.
const stuckMost = 10 * time.Second

// lateAfterHealing is the check of every scenario that takes a dependency away, with at least so many faults in it: from healing on (or from when it was due,
// if that is later) nothing takes longer than stuckMost, until the next fault begins.
func lateAfterHealing(least int) func(context.Context, *world) error {
	return func(_ context.Context, w *world) error {
		n, worst, err := w.afterHealing(KafkaFault, RedisLost, Dependency, Other)
		fmt.Printf("      %s: %d injections; the longest that anything waited after healing: %.1f s (goal <= %v)\n", w.seedName(), n, worst.Took.Seconds(), stuckMost)
		if n < least {
			err = errors.Join(err, fmt.Errorf("only %d injections", n))
		}
		return err
	}
}

// kafkaHealed is that of the scenarios here, with five faults or more; and in the end both groups have committed everything there is.
func kafkaHealed(ctx context.Context, w *world) error { return kafkaHealedFrom(ctx, w, 5) }

func kafkaHealedFrom(ctx context.Context, w *world, least int) error {
	n, worst, err := w.afterHealing(KafkaFault)
	began := time.Now()
	rest := atRest(ctx, w)
	fmt.Printf("      %s: %d injections; the longest that anything waited after healing: %.1f s (goal <= %v); lag 0 after %.1f s more\n",
		w.seedName(), n, worst.Took.Seconds(), stuckMost, time.Since(began).Seconds())
	if n < least {
		err = errors.Join(err, fmt.Errorf("only %d injections", n))
	}
	return errors.Join(err, rest)
}

// afterHealing finds what waited longest after any fault of these kinds.
func (w *world) afterHealing(kinds ...FaultKind) (n int, worst Late, err error) {
	var faults []Fault
	for _, f := range w.ran.Faults {
		if slices.Contains(kinds, f.Kind) {
			faults = append(faults, f)
		}
	}
	slices.SortFunc(faults, func(a, b Fault) int { return a.Start.Compare(b.Start) })
	for i, f := range faults {
		until := time.Now()
		if i+1 < len(faults) {
			until = faults[i+1].Start
		}
		l := LateAfter(w.ran, f.End, until)
		if l.Took > worst.Took {
			worst = l
		}
		if l.Took > stuckMost {
			fmt.Printf("      after %q (%s to %s): %s\n", f.Who, f.Start.Format("15:04:05.000"), f.End.Format("15:04:05.000"), l)
		}
	}
	if worst.Took > stuckMost {
		err = fmt.Errorf("something waited %.1f s after healing: %s", worst.Took.Seconds(), worst)
	}
	return len(faults), worst, err
}

func (w *world) seedName() string { return "seed " + strconv.FormatUint(w.seed, 10) }

// Late is the event that waited longest.
type Late struct {
	Receiver string
	Seq      int64
	Due      time.Time
	Took     time.Duration // from healing, or from when it was due
}

func (l Late) String() string {
	return fmt.Sprintf("%s got event %d, due %s, %.1f s after that and the healing", l.Receiver, l.Seq, l.Due.Format("15:04:05.000"), l.Took.Seconds())
}

// LateAfter finds what waited longest of all that was due before until and had not arrived when a fault healed. What arrives behind until counts up to
// there: after that another fault may be the cause. A pure function, as the checker.
func LateAfter(r *Run, heal, until time.Time) Late {
	worst := Late{}
	for name, wants := range r.Owed {
		first := map[int64]int64{}
		for _, e := range r.Receivers[name] {
			if at, ok := first[e.Seq-r.First]; e.Status/100 == 2 && e.Done > 0 && (!ok || e.At < at) {
				first[e.Seq-r.First] = e.At
			}
		}
		for seq, e := range r.Events {
			due := time.Unix(0, e.Due)
			if e.Fate != rig.Accepted || !wants(e.Company) || !due.Before(until) {
				continue
			}
			came := until
			if at, ok := first[int64(seq)]; ok && time.Unix(0, at).Before(until) {
				came = time.Unix(0, at)
			}
			from := heal
			if due.After(heal) {
				from = due
			}
			if took := came.Sub(from); took > worst.Took {
				worst = Late{name, int64(seq) + r.First, due, took}
			}
		}
	}
	return worst
}

// groups of the services: who commits what.
func groups(w *world) map[string][]string {
	t := w.d.Client().Topics()
	prefix := w.d.Client().Config().TopicPrefix
	return map[string][]string{prefix + "router": t.EventTopics(), prefix + "deliverer": t.LaneTopics()}
}

// atRest waits until both groups have committed the end of every partition, at most stuckMost.
func atRest(ctx context.Context, w *world) error {
	end := time.Now().Add(stuckMost)
	for {
		lag, where, err := lagOf(ctx, w)
		if err == nil && lag == 0 {
			return nil
		}
		if time.Now().After(end) {
			if err == nil {
				err = fmt.Errorf("%d records are not committed %s after everything has arrived, the first in %s", lag, stuckMost, where)
			}
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func lagOf(ctx context.Context, w *world) (lag int64, where string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stuckMost)
	defer cancel()
	for group, topics := range groups(w) {
		ends := map[kafka.TP]int64{}
		for _, topic := range topics {
			at, err := w.d.Client().Offsets(ctx, topic, kafka.Latest)
			if err != nil {
				return 0, "", err
			}
			for p, o := range at {
				if o > 0 {
					ends[kafka.TP{Topic: topic, Partition: p}] = o
				}
			}
		}
		if len(ends) == 0 {
			continue
		}
		var tps []kafka.TP
		for tp := range ends {
			tps = append(tps, tp)
		}
		done, err := w.d.Client().CommittedOffsets(ctx, group, tps)
		if err != nil {
			return 0, "", err
		}
		for tp, end := range ends {
			if n := end - max(0, done[tp].Offset); n > 0 {
				lag += n
				where = fmt.Sprintf("%s/%d of %s", tp.Topic, tp.Partition, group)
			}
		}
	}
	return lag, where, nil
}

// hitting makes a rule stand until it was done to so many requests, and logs that as one fault. Requests that never come are an error: then nothing
// was proved.
func hitting(ctx context.Context, w *world, what string, r *rig.Rule, times int64) error {
	r.Most = times
	err := w.faultOn(KafkaFault, what, func() error {
		remove := w.d.Proxy.Add(r)
		defer remove()
		end := time.Now().Add(10 * time.Second)
		for r.Hits() < times {
			if time.Now().After(end) {
				return fmt.Errorf("%s: only %d of %d requests came that it could be done to", what, r.Hits(), times)
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, pause(ctx, 200*time.Millisecond))
}

// standing makes a rule stand for a while, and logs that as one fault.
func standing(ctx context.Context, w *world, what string, r *rig.Rule, d time.Duration) error {
	return w.faultOn(KafkaFault, what, func() error {
		remove := w.d.Proxy.Add(r)
		defer remove()
		return pause(ctx, d)
	})
}

// The codes of Kafka that brokers are made to answer with.
const (
	codeTooLarge    = 10
	codeFewReplicas = 19 // not written
	codeFewAfter    = 20 // written, but too few have it
	codeGeneration  = 22
	codeRebalance   = 27
)

func breakProduce(ctx context.Context, w *world) error {
	topics := w.d.Client().Topics()
	writes := []int16{rig.APIProduce}
	onlyRetry := func(topic string, _ int32) bool { return topic == topics.Retry }
	onlyAttempts := func(topic string, _ int32) bool { return topic == topics.Attempts }
	// One partition of each: that of a subscription, since their ids are random, and a partition may have none.
	partition := func(i int) int32 {
		return kafka.Partition([]byte(w.subs[i].ID), w.d.Client().Config().Partitions)
	}
	retried, attempted := partition(0), partition(len(w.subs)-1)
	one := func(topic string, p int32) bool {
		return topic == topics.Attempts && p == attempted || topic == topics.Retry && p == retried
	}
	errs := []error{pause(ctx, time.Second)}
	for range 3 {
		errs = append(errs,
			hitting(ctx, w, "answers to the router's writes lost", &rig.Rule{API: writes, About: onlyRetry, Every: 2, DropAnswer: true}, 4),
			hitting(ctx, w, "answers to the deliverers' writes lost", &rig.Rule{API: writes, About: onlyAttempts, Every: 2, DropAnswer: true}, 4),
			hitting(ctx, w, "writes lost", &rig.Rule{API: writes, Every: 2, DropRequest: true}, 4),
			hitting(ctx, w, "NOT_ENOUGH_REPLICAS", &rig.Rule{API: writes, About: one, Code: codeFewReplicas}, 5),
			hitting(ctx, w, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", &rig.Rule{API: writes, Every: 2, Code: codeFewAfter, After: true}, 5),
			hitting(ctx, w, "MESSAGE_TOO_LARGE", &rig.Rule{API: writes, About: one, Code: codeTooLarge}, 2),
		)
	}
	return errors.Join(errs...)
}

func breakCommits(ctx context.Context, w *world) error {
	commits := []int16{rig.APIOffsetCommit}
	errs := []error{pause(ctx, time.Second)}
	for range 2 {
		errs = append(errs,
			hitting(ctx, w, "commits lost", &rig.Rule{API: commits, Every: 2, DropRequest: true}, 3),
			hitting(ctx, w, "answers to commits lost", &rig.Rule{API: commits, Every: 2, DropAnswer: true}, 3),
			hitting(ctx, w, "REBALANCE_IN_PROGRESS", &rig.Rule{API: commits, Every: 2, Code: codeRebalance}, 3),
			pause(ctx, time.Second),
			hitting(ctx, w, "ILLEGAL_GENERATION", &rig.Rule{API: commits, Every: 2, Code: codeGeneration}, 3),
			pause(ctx, time.Second),
		)
	}
	return errors.Join(errs...)
}

// refused and silent are the two ways in which Kafka cannot be reached.
func refused(ctx context.Context, w *world, d time.Duration) error {
	return w.faultOn(KafkaFault, "refused", func() error {
		heal := w.d.Proxy.Refuse()
		return errors.Join(pause(ctx, d), heal())
	})
}

func silent(ctx context.Context, w *world, d time.Duration) error {
	return w.faultOn(KafkaFault, "silent", func() error {
		heal := w.d.Proxy.Silence()
		defer heal()
		return pause(ctx, d)
	})
}

func cutOff(ctx context.Context, w *world) error {
	err := pause(ctx, time.Second)
	for i := range 5 {
		cut := silent
		if i%2 == 1 {
			cut = refused
		}
		err = errors.Join(err, cut(ctx, w, 3*time.Second), pause(ctx, 3500*time.Millisecond))
	}
	return err
}

// minutes is how often a whole minute is without Kafka.
func minutes(w *world) int {
	if w.form == formLong {
		return 5
	}
	return 2
}

func cutOffForAMinute(ctx context.Context, w *world) error {
	err := pause(ctx, 3*time.Second)
	for i := range minutes(w) {
		cut := silent
		if i%2 == 1 {
			cut = refused
		}
		if i > 0 {
			err = errors.Join(err, pause(ctx, 20*time.Second))
		}
		err = errors.Join(err, cut(ctx, w, time.Minute))
	}
	return err
}

func slowDown(ctx context.Context, w *world) error {
	const each = 6 * time.Second
	rest := func() error { return pause(ctx, 2*time.Second) }
	group := []int16{rig.APICoordinator, rig.APIJoinGroup, rig.APISyncGroup, rig.APIHeartbeat, rig.APIMetadata, rig.APIOffsetFetch}
	return errors.Join(rest(),
		standing(ctx, w, "all 300 ms late", &rig.Rule{Delay: 300 * time.Millisecond}, each), rest(),
		standing(ctx, w, "writes 2 s late", &rig.Rule{API: []int16{rig.APIProduce}, Delay: 2 * time.Second}, each), rest(),
		standing(ctx, w, "commits 2.5 s late", &rig.Rule{API: []int16{rig.APIOffsetCommit}, Delay: 2500 * time.Millisecond}, each), rest(),
		standing(ctx, w, "reads 1 s late", &rig.Rule{API: []int16{rig.APIFetch}, Delay: time.Second}, each), rest(),
		standing(ctx, w, "the group's requests 2 s late", &rig.Rule{API: group, Delay: 2 * time.Second}, each), rest(),
		standing(ctx, w, "every fifth 3 s late", &rig.Rule{Every: 5, Delay: 3 * time.Second}, each))
}

func killNode(w *world, n int) error {
	pid := w.d.Kafka.PID(n)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // it may have ended by itself just now
		return fmt.Errorf("kill broker %d: %w", n, err)
	}
	return rig.Until(5*time.Second, "the broker is gone", func() bool { return syscall.Kill(pid, 0) != nil })
}

func restartBroker(ctx context.Context, w *world) error {
	err := pause(ctx, 2*time.Second)
	for range 5 {
		err = errors.Join(err, w.faultOn(KafkaFault, "broker killed and started", func() error {
			return errors.Join(killNode(w, 1), w.d.Kafka.Start(ctx, 1))
		}), pause(ctx, 11*time.Second))
	}
	return err
}

func oneDown(ctx context.Context, w *world) error {
	err := pause(ctx, 2*time.Second)
	for i := range 6 {
		n := 1 + i%3
		err = errors.Join(err, w.faultOn(KafkaFault, "broker "+strconv.Itoa(n)+" down", func() error {
			return errors.Join(killNode(w, n), pause(ctx, 10*time.Second), w.d.Kafka.Start(ctx, 3))
		}), pause(ctx, 5*time.Second))
	}
	return err
}

// moveLeaders has every partition led by another of its replicas, also those of the groups' offsets: the coordinators move with them.
func moveLeaders(ctx context.Context, w *world) error {
	tr := &kgo.Transport{}
	defer tr.CloseIdleConnections()
	admin := &kgo.Client{Addr: kgo.TCP(w.d.Kafka.Bootstrap...), Transport: tr, Timeout: 20 * time.Second}
	err := pause(ctx, 2*time.Second)
	for round := range 6 {
		err = errors.Join(err, w.faultOn(KafkaFault, "leaders move", func() error { return moveAll(ctx, admin, round) }), pause(ctx, 4*time.Second))
	}
	return err
}

func moveAll(ctx context.Context, admin *kgo.Client, round int) error {
	m, err := admin.Metadata(ctx, &kgo.MetadataRequest{})
	if err != nil {
		return err
	}
	for _, t := range m.Topics {
		if !strings.HasPrefix(t.Name, "hookferry.") && t.Name != "__consumer_offsets" {
			continue
		}
		assign := &kgo.AlterPartitionReassignmentsRequest{Topic: t.Name}
		var parts []int
		for _, p := range t.Partitions {
			var ids []int
			for _, r := range p.Replicas {
				ids = append(ids, r.ID)
			}
			slices.Sort(ids)
			k := (round + p.ID) % len(ids)
			ids = append(ids[k:], ids[:k]...) // the first replica is the one preferred as leader
			assign.Assignments = append(assign.Assignments, kgo.AlterPartitionReassignmentsRequestAssignment{PartitionID: p.ID, BrokerIDs: ids})
			parts = append(parts, p.ID)
		}
		if _, err := admin.AlterPartitionReassignments(ctx, assign); err != nil {
			return fmt.Errorf("reassign %s: %w", t.Name, err)
		}
		if _, err := admin.ElectLeaders(ctx, &kgo.ElectLeadersRequest{Topic: t.Name, Partitions: parts}); err != nil {
			return fmt.Errorf("elect leaders of %s: %w", t.Name, err)
		}
	}
	return nil
}

// stormLeast is how many times a member has come or gone in each group when the storm is over.
const stormLeast = 60

// stormOfMembers: in each of the two groups, side by side, a member that takes its share of the partitions, does nothing with them, and leaves after half
// a second, again and again. It is a real member, with our balancer; what it is given is worked on by nobody until it has left.
func stormOfMembers(ctx context.Context, w *world) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	c, t := w.d.Client(), w.d.Client().Topics()
	prefix := c.Config().TopicPrefix
	kinds := []kafka.GroupConfig{
		{ID: prefix + "deliverer", CoPartitioned: append(t.LaneTopics(), t.Dead)},
		{ID: prefix + "router", Spread: append(t.EventTopics(), t.Undecodable)},
	}
	changes, errs := make([]int, len(kinds)), make([]error, len(kinds))
	w.faultOn(KafkaFault, "storm", func() error {
		var both sync.WaitGroup
		end := time.Now().Add(time.Minute)
		for i, gc := range kinds {
			both.Go(func() {
				for errs[i] == nil && time.Now().Before(end) {
					errs[i] = comeAndGo(ctx, c, gc)
					changes[i] += 2
				}
			})
		}
		both.Wait()
		return nil
	})
	fmt.Printf("      %s: in a minute members came or went %d times in the group of the deliverers, %d times in that of the routers (goal >= %d each)\n",
		w.seedName(), changes[0], changes[1], stormLeast)
	err := errors.Join(errs...)
	if err == nil && min(changes[0], changes[1]) < stormLeast {
		err = errors.New("that was no storm")
	}
	return err
}

func comeAndGo(ctx context.Context, c *kafka.Client, gc kafka.GroupConfig) error {
	g, err := c.JoinGroup(gc)
	if err != nil {
		return err
	}
	stay, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for stay.Err() == nil {
		gen, err := g.Next(stay)
		if err != nil {
			break // its time was over before it was let in
		}
		select {
		case <-gen.Done():
		case <-stay.Done():
		}
		gen.Release()
	}
	if err := g.Close(); err != nil {
		return err
	}
	return pause(ctx, 500*time.Millisecond)
}

func fillDisk(ctx context.Context, w *world) error {
	err := pause(ctx, 3*time.Second)
	for range 5 {
		err = errors.Join(err, w.faultOn(KafkaFault, "disk full", func() error {
			empty, err := w.d.Disk.Fill()
			if err != nil {
				return err
			}
			down := false
			rig.Until(6*time.Second, "the broker gives up", func() bool {
				down = syscall.Kill(w.d.Kafka.PID(1), 0) != nil
				return down || ctx.Err() != nil
			})
			if err := empty(); err != nil {
				return err
			}
			if !down { // its log directory may have failed without an end of the process
				if err := killNode(w, 1); err != nil {
					return err
				}
			}
			return w.d.Kafka.Start(ctx, 1)
		}), pause(ctx, 11*time.Second))
	}
	return err
}
