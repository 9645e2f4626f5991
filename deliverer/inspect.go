package deliverer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// This file is for the commands: it reads what deliverers have written, and writes orders that they read. Nothing here runs in a deliverer.

// A Watch says how far a long reading has come: records read, and of how many (0: not known). It may be nil.
type Watch func(read, total int64)

// scan calls fn with the records of partitions from their given offsets up to their end as of now, in order per partition, until fn says no.
func scan(ctx context.Context, c *kafka.Client, from map[kafka.TP]int64, watch Watch, fn func(kafka.TP, *kafka.Record) bool) error {
	ends, pos, total := map[kafka.TP]int64{}, map[kafka.TP]int64{}, int64(0)
	byTopic := map[string]map[int32][2]int64{}
	for tp := range from {
		if byTopic[tp.Topic] == nil {
			b, err := bounds(ctx, c, tp.Topic)
			if err != nil {
				return err
			}
			byTopic[tp.Topic] = b
		}
		b := byTopic[tp.Topic][tp.Partition]
		if at := max(from[tp], b[0]); at < b[1] {
			pos[tp], ends[tp] = at, b[1]
			total += b[1] - at
		}
	}
	if len(pos) == 0 {
		return nil
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	f := c.NewFetcher(kafka.FetchConfig{MaxWait: 100 * time.Millisecond, Empty: true,
		OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(maps.Clone(pos))
	read := int64(0)
	err := f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			end, open := ends[b.TP]
			for j := 0; open && j < len(b.Records); j++ {
				r := &b.Records[j]
				if r.Offset >= end {
					break
				}
				read++
				if !fn(b.TP, r) {
					stop()
					return nil
				}
			}
			if at, ok := f.Position(b.TP); open && ok && at >= end {
				delete(ends, b.TP)
			}
		}
		if watch != nil {
			watch(read, total)
		}
		if len(ends) == 0 {
			stop()
		}
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if reading.Err() != nil {
		return nil
	}
	return err
}

// bounds are the first offset and the end of each partition of a topic.
func bounds(ctx context.Context, c *kafka.Client, topic string) (map[int32][2]int64, error) {
	starts, err := c.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return nil, err
	}
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return nil, err
	}
	out := map[int32][2]int64{}
	for p, end := range ends {
		out[p] = [2]int64{starts[p], end}
	}
	return out, nil
}

// placesOf are the partitions of a topic that hold a subscription's records, or all of them.
func placesOf(ctx context.Context, c *kafka.Client, topic, subscription string, at int64) (map[kafka.TP]int64, error) {
	starts, err := c.Offsets(ctx, topic, at)
	if err != nil {
		return nil, err
	}
	out := map[kafka.TP]int64{}
	for p, offset := range starts {
		if subscription == "" || p == kafka.Partition([]byte(subscription), len(starts)) {
			out[kafka.TP{Topic: topic, Partition: p}] = offset
		}
	}
	return out, nil
}

// AttemptFilter narrows what ReadAttempts shows. Empty fields do not.
type AttemptFilter struct {
	Subscription, Company, EventID, EventType, TaskID string
	Verdict                                           schemas.Verdict
	Reason                                            schemas.Reason
	Since                                             time.Time
}

func (f *AttemptFilter) wants(a *schemas.Attempt) bool {
	return (f.Subscription == "" || a.Subscription == f.Subscription) && (f.Company == "" || a.Company == f.Company) &&
		(f.EventID == "" || a.EventID == f.EventID) && (f.EventType == "" || a.EventType == f.EventType) && (f.TaskID == "" || a.TaskID == f.TaskID) &&
		(f.Verdict == "" || a.Verdict == f.Verdict) && (f.Reason == "" || a.Reason == f.Reason) &&
		(f.Since.IsZero() || a.StartedAt >= f.Since.UnixMilli())
}

// ReadAttempts calls fn with the attempts that the filter wants, as they lie in the log now. The attempt is fn's only until it returns.
func ReadAttempts(ctx context.Context, c *kafka.Client, f AttemptFilter, watch Watch, fn func(*schemas.Attempt)) error {
	at := kafka.Earliest
	if !f.Since.IsZero() {
		at = f.Since.UnixMilli() // an attempt is appended after it began
	}
	from, err := placesOf(ctx, c, c.Topics().Attempts, f.Subscription, at)
	if err != nil {
		return err
	}
	var a schemas.Attempt
	var bad error
	err = scan(ctx, c, from, watch, func(tp kafka.TP, r *kafka.Record) bool {
		if bad = schemas.DecodeAttempt(r.Value, &a); bad != nil {
			bad = fmt.Errorf("%s/%d@%d: %w", tp.Topic, tp.Partition, r.Offset, bad)
			return false
		}
		if f.wants(&a) {
			fn(&a)
		}
		return true
	})
	if bad != nil {
		return bad
	}
	return err
}

// FollowAttempts calls fn with the attempts that the filter wants from now on, until ctx ends.
func FollowAttempts(ctx context.Context, c *kafka.Client, f AttemptFilter, fn func(*schemas.Attempt)) error {
	from, err := placesOf(ctx, c, c.Topics().Attempts, f.Subscription, kafka.Latest)
	if err != nil {
		return err
	}
	fetcher := c.NewFetcher(kafka.FetchConfig{OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	fetcher.Assign(from)
	var a schemas.Attempt
	err = fetcher.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			for j := range bs[i].Records {
				if err := schemas.DecodeAttempt(bs[i].Records[j].Value, &a); err != nil {
					return err
				}
				if f.wants(&a) {
					fn(&a)
				}
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// DeadLetter is a dead task and where it lies.
type DeadLetter struct {
	schemas.Dead
	Partition int32
	Offset    int64
	TakenOut  string // by which redrive; empty: it stands
}

// ID names the letter to a person.
func (d *DeadLetter) ID() string {
	return strconv.Itoa(int(d.Partition)) + "-" + strconv.FormatInt(d.Offset, 10)
}

// DeadIDError says that a text names no dead letter.
type DeadIDError struct{ Text string }

func (e *DeadIDError) Error() string {
	return fmt.Sprintf("%q names no dead letter (hookferry dead list shows the ids, such as 3-42)", e.Text)
}

// Code is stable: programs may compare it.
func (e *DeadIDError) Code() string { return "no_such_dead_letter" }

// ParseDeadID takes an id apart.
func ParseDeadID(text string) (partition int32, offset int64, err error) {
	p, o, ok := strings.Cut(text, "-")
	n, err1 := strconv.ParseInt(p, 10, 32)
	offset, err2 := strconv.ParseInt(o, 10, 64)
	if !ok || err1 != nil || err2 != nil || n < 0 || offset < 0 {
		return 0, 0, &DeadIDError{text}
	}
	return int32(n), offset, nil
}

// ReadDead calls fn with the dead letters that an order would take, as they lie in the log now, until it says no: of those that stand, the ones that
// the order's filters want. What redrives have taken out is left out, and so are their markers; a letter whose body was too large to keep is not.
//
// It reads the log twice, because a marker lies behind its letter.
func ReadDead(ctx context.Context, c *kafka.Client, o *schemas.Replay, watch Watch, fn func(*DeadLetter) bool) error {
	return ReadAllDead(ctx, c, o, watch, func(d *DeadLetter) bool { return d.TakenOut != "" || d.TakesOut() || fn(d) })
}

// ReadAllDead is ReadDead with everything that lies there: also the letters that are taken out, and the markers.
func ReadAllDead(ctx context.Context, c *kafka.Client, o *schemas.Replay, watch Watch, fn func(*DeadLetter) bool) error {
	from, err := placesOf(ctx, c, c.Topics().Dead, o.Subscription, kafka.Earliest)
	if err != nil {
		return err
	}
	before := int64(0)
	out, err := readTaken(ctx, c, from, func(read, total int64) {
		if before = read; watch != nil {
			watch(read, 2*total)
		}
	})
	if err != nil {
		return err
	}
	var d DeadLetter
	var bad error
	err = scan(ctx, c, from, func(read, total int64) {
		if watch != nil {
			watch(before+read, before+total)
		}
	}, func(tp kafka.TP, r *kafka.Record) bool {
		if bad = schemas.DecodeDead(r.Value, &d.Dead); bad != nil {
			bad = fmt.Errorf("%s/%d@%d: %w", tp.Topic, tp.Partition, r.Offset, bad)
			return false
		}
		d.Partition, d.Offset, d.TakenOut = tp.Partition, r.Offset, ""
		if !d.TakesOut() {
			d.TakenOut = out[tp.Partition].by(&d.Task)
		}
		return !matches(o, &d.Dead) || fn(&d)
	})
	return cmp.Or(bad, err)
}

// FindDead reads one dead letter, and what lies behind it in its partition: it may be taken out.
func FindDead(ctx context.Context, c *kafka.Client, id string, watch Watch) (*DeadLetter, error) {
	p, offset, err := ParseDeadID(id)
	if err != nil {
		return nil, err
	}
	var found *DeadLetter
	out := newTaken()
	err = scan(ctx, c, map[kafka.TP]int64{{Topic: c.Topics().Dead, Partition: p}: offset}, watch, func(_ kafka.TP, r *kafka.Record) bool {
		if found == nil {
			if r.Offset == offset {
				found = &DeadLetter{Partition: p, Offset: offset}
			}
			return r.Offset == offset && schemas.DecodeDead(bytes.Clone(r.Value), &found.Dead) == nil
		}
		out.note(r)
		return true
	})
	if err == nil && (found == nil || found.Task.Subscription == "") {
		return nil, &DeadIDError{id}
	}
	if found != nil && !found.TakesOut() {
		found.TakenOut = out.by(&found.Task)
	}
	return found, err
}

// OrderRedrive writes an order to put dead tasks back in line, and returns it: those that lie in `dead` now and that the filters of o want. It has
// effect while deliverers run, or when they are started. An order with a cut keeps the id that it has, and its end is found by a deliverer (resumed.go).
func OrderRedrive(ctx context.Context, c *kafka.Client, o schemas.Replay) (*schemas.Replay, error) {
	o.Kind, o.State, o.CreatedAt, o.Begins, o.Ends = schemas.ReplayRedrive, schemas.ReplayRunning, time.Now().UnixMilli(), nil, nil
	if o.Cut != 0 && o.ID != "" {
		return &o, writeOrder(ctx, c, &o)
	}
	var id [17]byte
	rand.Read(id[:])
	o.ID = "rpl_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))[:26]
	if o.Cut != 0 {
		return &o, writeOrder(ctx, c, &o)
	}
	places, err := placesOf(ctx, c, c.Topics().Dead, o.Subscription, kafka.Latest)
	if err != nil {
		return nil, err
	}
	starts, err := c.Offsets(ctx, c.Topics().Dead, kafka.Earliest)
	if err != nil {
		return nil, err
	}
	for tp, end := range places {
		if end > 0 {
			o.Begins = append(o.Begins, schemas.PartitionOffset{Topic: tp.Topic, Partition: tp.Partition, Offset: starts[tp.Partition]})
			o.Ends = append(o.Ends, schemas.PartitionOffset{Topic: tp.Topic, Partition: tp.Partition, Offset: end})
		}
	}
	inOrder := func(a, b schemas.PartitionOffset) int { return int(a.Partition - b.Partition) }
	slices.SortFunc(o.Begins, inOrder)
	slices.SortFunc(o.Ends, inOrder)
	return &o, writeOrder(ctx, c, &o)
}

// CancelRedrive takes an order back; deliverers stop within a batch.
func CancelRedrive(ctx context.Context, c *kafka.Client, id string) error {
	var found *schemas.Replay
	from, err := placesOf(ctx, c, c.Topics().Replays, "", kafka.Earliest)
	if err != nil {
		return err
	}
	err = scan(ctx, c, from, nil, func(_ kafka.TP, r *kafka.Record) bool {
		var o schemas.Replay
		if string(r.Key) == id && r.Value != nil && schemas.DecodeReplay(r.Value, &o) == nil && o.Kind == schemas.ReplayRedrive {
			found = &o
		}
		return true
	})
	if err != nil {
		return err
	}
	if found == nil {
		return &NoSuchRedriveError{id}
	}
	found.State = schemas.ReplayCancelled
	return writeOrder(ctx, c, found)
}

// NoSuchRedriveError says that a text names no redrive.
type NoSuchRedriveError struct{ ID string }

func (e *NoSuchRedriveError) Error() string { return fmt.Sprintf("there is no redrive %q", e.ID) }

// Code is stable: programs may compare it.
func (e *NoSuchRedriveError) Code() string { return "no_such_replay" }

func writeOrder(ctx context.Context, c *kafka.Client, o *schemas.Replay) error {
	key := []byte(o.ID)
	var r kafka.Records
	r.Add(kafka.TP{Topic: c.Topics().Replays, Partition: kafka.Partition(key, c.Config().Partitions)}, key, nil, schemas.AppendReplay(nil, o))
	if err := fault.Before(fault.RedriveOrder); err != nil {
		return err
	}
	_, err := c.NewAppender(kafka.AppenderConfig{}).Append(ctx, &r)
	return fault.After(fault.RedriveOrder, err)
}

// RedriveState is how far an order has come: records of `dead` that were looked at, of how many (0: not known yet), and tasks that were put back in line.
type RedriveState struct {
	Scanned, Matched, Total int64
	Done                    bool
}

// clocksApart is by how much the clock of who orders may be ahead of that of who works the order off.
const clocksApart = 2 * time.Minute

// RedriveProgress reads how far an order has come.
func RedriveProgress(ctx context.Context, c *kafka.Client, o *schemas.Replay) (s RedriveState, err error) {
	from, err := placesOf(ctx, c, c.Topics().Progress, "", o.CreatedAt-clocksApart.Milliseconds())
	if err != nil {
		return s, err
	}
	last := map[int32]schemas.Progress{}
	err = scan(ctx, c, from, nil, func(_ kafka.TP, r *kafka.Record) bool {
		var p schemas.Progress
		if r.Value != nil && strings.HasPrefix(string(r.Key), o.ID+"/") && schemas.DecodeProgress(r.Value, &p) == nil {
			last[p.Partition] = p
		}
		return true
	})
	s.Done = o.Cut == 0 || len(last) > 0
	for _, p := range last {
		s.Scanned += p.Scanned
		s.Matched += p.Matched
		s.Done = s.Done && p.Done
	}
	for _, end := range o.Ends {
		s.Total += end.Offset
		s.Done = s.Done && last[end.Partition].Done
	}
	for _, begin := range o.Begins {
		s.Total -= begin.Offset
	}
	if s.Done { // retention may have taken some of it before it was read
		s.Total = s.Scanned
	}
	return s, err
}

// Lag is what waits for a subscription in one partition.
type Lag struct {
	Subscription string
	Partition    int32
	Waiting      int64 // tasks that are not finished
	Retrying     int64 // of these, tried before
	OldestDue    time.Time
}

// ReadWaiting calls fn with the tasks that no deliverer has finished, as they lie in the log now: what lies behind the group's committed offsets and is not
// named as finished in their metadata. A task of which two records are about comes twice. It is fn's only until fn returns.
func ReadWaiting(ctx context.Context, c *kafka.Client, group, subscription string, watch Watch, fn func(partition int32, t *schemas.Task)) error {
	var tps []kafka.TP
	for _, topic := range c.Topics().LaneTopics() {
		places, err := placesOf(ctx, c, topic, subscription, kafka.Earliest)
		if err != nil {
			return err
		}
		tps = slices.AppendSeq(tps, maps.Keys(places))
	}
	committed, err := c.CommittedOffsets(ctx, c.Config().TopicPrefix+group, tps)
	if err != nil {
		return err
	}
	from, finished := map[kafka.TP]int64{}, map[kafka.TP]inherited{}
	for _, tp := range tps {
		at := committed[tp]
		from[tp] = max(at.Offset, 0)
		if in, err := decodeMeta(at.Offset, at.Metadata); err == nil {
			finished[tp] = in
		}
	}
	var task schemas.Task
	return scan(ctx, c, from, watch, func(tp kafka.TP, r *kafka.Record) bool {
		in := finished[tp]
		if done, _ := in.at(r.Offset); done || schemas.DecodeTask(r.Value, &task) != nil || subscription != "" && task.Subscription != subscription {
			return true
		}
		fn(tp.Partition, &task)
		return true
	})
}

// ReadLag counts the tasks that no deliverer has finished, by subscription and partition, from the group's committed offsets and their metadata.
func ReadLag(ctx context.Context, c *kafka.Client, group, subscription string, watch Watch) ([]Lag, error) {
	type place struct {
		subscription string
		partition    int32
	}
	found := map[place]*Lag{}
	err := ReadWaiting(ctx, c, group, subscription, watch, func(partition int32, task *schemas.Task) {
		l := found[place{task.Subscription, partition}]
		if l == nil {
			l = &Lag{Subscription: strings.Clone(task.Subscription), Partition: partition}
			found[place{l.Subscription, partition}] = l
		}
		l.Waiting++
		if task.FirstTriedAt != 0 {
			l.Retrying++
		}
		due := time.UnixMilli(task.Due)
		if task.Due == 0 {
			due = time.UnixMilli(task.CreatedAt)
		}
		if l.OldestDue.IsZero() || due.Before(l.OldestDue) {
			l.OldestDue = due
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]Lag, 0, len(found))
	for _, l := range found {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Lag) int {
		if a.Waiting != b.Waiting {
			return int(b.Waiting - a.Waiting)
		}
		return strings.Compare(a.Subscription, b.Subscription)
	})
	return out, nil
}
