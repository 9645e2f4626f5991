package rig

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// This file reads what Hookferry itself has written about a run, for the checker: it is held against what publisher and receivers saw.

// TaskID is a task's id as an array: a million of them cost no million strings.
type TaskID [schemas.IDLength]byte

// Logged is an event in the log.
type Logged struct {
	Seq       int64
	Partition int32
	Offset    int64
}

// TaskRecord is a record of a task in `retry`: what the router has matched.
type TaskRecord struct {
	ID           TaskID
	Subscription int32 // its place in the list that was asked for
	Partition    int32 // of the event
	Seq, Offset  int64 // of the event; Seq -1: none of ours
}

// AttemptRecord is an attempt.
type AttemptRecord struct {
	ID             TaskID
	Subscription   int32
	Number         int32
	Seq            int64
	Round          int64
	StartedAt      int64 // ms
	DurationMicros int64
	Status         int32
	Verdict        schemas.Verdict
	Reason         schemas.Reason
}

// DeadRecord is a dead letter.
type DeadRecord struct {
	ID           TaskID
	Subscription int32
	Seq          int64
	Reason       schemas.Reason
}

// Waiting is a task that no deliverer has finished, by the committed offsets.
type Waiting struct {
	ID           TaskID
	Subscription int32
	Seq          int64
	Attempt      int32
	Due          int64 // ms; 0: now
}

// Topics is all that the topics say of some subscriptions.
type Topics struct {
	At       time.Time // when the reading began
	Logged   []Logged
	Tasks    []TaskRecord
	Attempts []AttemptRecord
	Dead     []DeadRecord
	Waiting  []Waiting
	// Postponed counts, by subscription, the records in tiers of tasks that were handed back without a try: there a lane did not keep up.
	Postponed []int
	// RouterLag are the records of `events` behind the routers' committed offsets.
	RouterLag int64
}

// Marks are the ends of topics at some moment: a run reads from there on.
type Marks struct {
	from map[kafka.TP]int64
	at   time.Time
}

func tiersOf(t kafka.Names) (names []string) {
	for _, tier := range t.Tiers {
		names = append(names, tier.Name)
	}
	return names
}

// Marks notes where the topics end now.
func (d *Deployment) Marks(ctx context.Context) (*Marks, error) {
	m := &Marks{from: map[kafka.TP]int64{}, at: time.Now()}
	topics := d.client.Topics()
	for _, topic := range append(tiersOf(topics), topics.Events["booking"], topics.Retry) {
		ends, err := d.client.Offsets(ctx, topic, kafka.Latest)
		if err != nil {
			return nil, err
		}
		for p, end := range ends {
			m.from[kafka.TP{Topic: topic, Partition: p}] = end
		}
	}
	return m, nil
}

// Waiting are the tasks of these subscriptions that no deliverer has finished.
func (d *Deployment) Waiting(ctx context.Context, subs []Subscription) ([]Waiting, error) {
	place := placesOf(subs)
	var all []Waiting
	err := deliverer.ReadWaiting(ctx, d.client, deliverer.DefaultConfig().Group, "", nil, func(_ int32, t *schemas.Task) {
		if i, ok := place[t.Subscription]; ok {
			all = append(all, Waiting{ID: TaskID([]byte(t.ID)), Subscription: i, Seq: seqOf(t.EventID), Attempt: t.Attempt, Due: t.Due})
		}
	})
	return all, err
}

// ReadTopics reads what was written about these subscriptions since m. At rest it is complete. While tasks are under way no two topics are read at the same
// moment, so the order is that of the writing, backwards: what waits, then how tried tasks ended, then the tasks. Then a task that ends meanwhile still has its end or
// waits, and each end has its task.
func (d *Deployment) ReadTopics(ctx context.Context, m *Marks, subs []Subscription) (t *Topics, err error) {
	t = &Topics{Postponed: make([]int, len(subs)), At: time.Now()}
	if t.RouterLag, err = d.RouterLag(ctx); err != nil {
		return nil, err
	}
	if t.Waiting, err = d.Waiting(ctx, subs); err != nil {
		return nil, err
	}
	place := placesOf(subs)
	err = deliverer.ReadAttempts(ctx, d.client, deliverer.AttemptFilter{Since: m.at.Add(-time.Minute)}, nil, func(a *schemas.Attempt) {
		if i, ok := place[a.Subscription]; ok {
			t.Attempts = append(t.Attempts, AttemptRecord{TaskID([]byte(a.TaskID)), i, a.Number, seqOf(a.EventID), a.Round, a.StartedAt, a.DurationMicros, a.Status,
				verdictWord(a.Verdict), reasonWord(a.Reason)})
		}
	})
	if err != nil {
		return nil, err
	}
	err = deliverer.ReadAllDead(ctx, d.client, &schemas.Replay{}, nil, func(l *deliverer.DeadLetter) bool {
		if i, ok := place[l.Task.Subscription]; ok && !l.TakesOut() {
			t.Dead = append(t.Dead, DeadRecord{TaskID([]byte(l.Task.ID)), i, seqOf(l.Task.EventID), l.Reason})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return t, d.readTasks(ctx, m, place, t)
}

// readTasks reads `events`, `retry` and the tiers.
func (d *Deployment) readTasks(ctx context.Context, m *Marks, place map[string]int32, t *Topics) error {
	events, retry := d.client.Topics().Events["booking"], d.client.Topics().Retry
	var task schemas.Task
	var bad error
	err := d.scan(ctx, m.from, func(tp kafka.TP, r *kafka.Record) bool {
		if tp.Topic == events {
			t.Logged = append(t.Logged, Logged{Seq: eventSeq(r.Value), Partition: tp.Partition, Offset: r.Offset})
			return true
		}
		if bad = schemas.DecodeTask(r.Value, &task); bad != nil {
			bad = fmt.Errorf("%s/%d@%d: %w", tp.Topic, tp.Partition, r.Offset, bad)
			return false
		}
		i, ok := place[task.Subscription]
		switch {
		case !ok:
		case tp.Topic != retry:
			if task.Postponed > 0 {
				t.Postponed[i]++
			}
		default:
			t.Tasks = append(t.Tasks, TaskRecord{TaskID([]byte(task.ID)), i, task.Source.Partition, seqOf(task.EventID), task.Source.Offset})
		}
		return true
	})
	if bad != nil {
		return bad
	}
	return err
}

// RouterLag is how many records of `events` lie behind what the routers have committed.
func (d *Deployment) RouterLag(ctx context.Context) (int64, error) {
	topic := d.client.Topics().Events["booking"]
	ends, err := d.client.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return 0, err
	}
	var tps []kafka.TP
	for p := range ends {
		tps = append(tps, kafka.TP{Topic: topic, Partition: p})
	}
	done, err := d.client.CommittedOffsets(ctx, router.GroupID(d.client.Topics()), tps)
	if err != nil {
		return 0, err
	}
	lag := int64(0)
	for _, tp := range tps {
		lag += ends[tp.Partition] - max(done[tp].Offset, 0)
	}
	return lag, nil
}

func placesOf(subs []Subscription) map[string]int32 {
	m := make(map[string]int32, len(subs))
	for i, s := range subs {
		m[s.ID] = int32(i)
	}
	return m
}

// seqOf is the sequence number in an event id of ours, or -1.
func seqOf(eventID string) int64 {
	digits, ok := strings.CutPrefix(eventID, "evt_")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || len(eventID) != eventIDLen {
		return -1
	}
	return n
}

// eventSeq is the sequence number of an event of ours, read as the router reads it.
func eventSeq(value []byte) int64 {
	var m schemas.Meta
	frame := len(schemas.AppendSingleObject(nil, [8]byte{}))
	if len(value) < frame {
		return -1
	}
	if _, err := bookingReader.Meta(value[frame:], &m); err != nil {
		return -1
	}
	return seqOf(string(m.EventID))
}

var bookingReader = func() *schemas.EventReader {
	r, err := schemas.NewEventReader(schemas.EventSchema("booking"))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return r
}()

// verdictWord and reasonWord give the constant for a text that was cut from a record, so that the record can go.
func verdictWord(v schemas.Verdict) schemas.Verdict {
	for _, w := range schemas.Verdicts() {
		if w == v {
			return w
		}
	}
	return schemas.Verdict(strings.Clone(string(v)))
}

func reasonWord(v schemas.Reason) schemas.Reason {
	for _, w := range schemas.Reasons() {
		if w == v {
			return w
		}
	}
	return schemas.Reason(strings.Clone(string(v)))
}

// scan calls fn with the records from these offsets up to the ends as of now, in order per partition, until fn says no.
func (d *Deployment) scan(ctx context.Context, from map[kafka.TP]int64, fn func(kafka.TP, *kafka.Record) bool) error {
	ends := map[kafka.TP]int64{}
	byTopic := map[string]map[int32]int64{}
	for tp, at := range from {
		if byTopic[tp.Topic] == nil {
			latest, err := d.client.Offsets(ctx, tp.Topic, kafka.Latest)
			if err != nil {
				return err
			}
			byTopic[tp.Topic] = latest
		}
		if end := byTopic[tp.Topic][tp.Partition]; at < end {
			ends[tp] = end
		}
	}
	if len(ends) == 0 {
		return nil
	}
	pos := maps.Clone(from)
	maps.DeleteFunc(pos, func(tp kafka.TP, _ int64) bool { _, open := ends[tp]; return !open })
	reading, stop := context.WithCancel(ctx)
	defer stop()
	f := d.client.NewFetcher(kafka.FetchConfig{MaxWait: 100 * time.Millisecond, Empty: true})
	f.Assign(pos)
	err := f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			end, open := ends[b.TP]
			for j := 0; open && j < len(b.Records) && b.Records[j].Offset < end; j++ {
				if !fn(b.TP, &b.Records[j]) {
					stop()
					return nil
				}
			}
			if at, ok := f.Position(b.TP); open && ok && at >= end {
				delete(ends, b.TP)
			}
		}
		if len(ends) == 0 {
			stop()
		}
		return nil
	})
	if reading.Err() != nil {
		return ctx.Err()
	}
	return err
}
