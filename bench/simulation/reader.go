package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// reader reads what stands on the topics, by a client that no fault reaches. read goes on where it stopped.
type reader struct {
	w     *world
	next  map[kafka.TP]int64
	waits map[string]time.Duration // of tiers, by topic

	tasks    map[string]*taskSeen
	attempts []schemas.Attempt
	written  []time.Time                        // when each of attempts was
	subs     map[string][]*schemas.Subscription // every version, in the order of the log
	events   map[string][]schemas.Source        // where an event lies
	broken   []string
}

// taskSeen is all that is known of a task.
type taskSeen struct {
	schemas.Task     // as the router wrote it first
	copies       int // in retry
	dueAt        time.Time
	ends         map[schemas.Verdict]int
	dead         []schemas.Dead
	postponed    bool
	tries        []int // in attempts
	tiers        []tierSeen
}

// tierSeen is a record in a tier.
type tierSeen struct {
	at      time.Time // appended
	attempt int32     // the try that it waits for
}

func newReader(w *world) *reader {
	r := &reader{w: w, next: map[kafka.TP]int64{}, waits: map[string]time.Duration{}, tasks: map[string]*taskSeen{},
		subs: map[string][]*schemas.Subscription{}, events: map[string][]schemas.Source{}}
	for _, t := range w.control.Topics().Tiers {
		r.waits[t.Name] = t.Wait
	}
	return r
}

func (r *reader) topics() []string {
	n := r.w.control.Topics()
	list := append(n.EventTopics(), n.Retry, n.Attempts, n.Dead, n.Subscriptions, n.Undecodable)
	for _, t := range n.Tiers {
		list = append(list, t.Name)
	}
	return list
}

// read reads all topics to their present ends.
func (r *reader) read() {
	ctx := r.w.ctx
	for _, topic := range r.topics() {
		pos, ends := map[kafka.TP]int64{}, map[int32]int64{}
		for _, p := range r.w.broker.Cluster().PartitionInfos(topic) {
			ends[p.Partition] = p.HighWatermark
			if tp := (kafka.TP{Topic: topic, Partition: p.Partition}); r.next[tp] < p.HighWatermark {
				pos[tp] = r.next[tp]
			}
		}
		if len(pos) > 0 {
			r.readTopic(ctx, pos, ends)
		}
	}
}

func (r *reader) readTopic(ctx context.Context, pos map[kafka.TP]int64, ends map[int32]int64) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := r.w.control.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	left := len(pos)
	f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			for j := range b.Records {
				if rec := &b.Records[j]; rec.Offset >= r.next[b.TP] {
					r.next[b.TP] = rec.Offset + 1
					r.take(b.TP, rec)
					if rec.Offset == ends[b.Partition]-1 {
						left--
					}
				}
			}
		}
		if left <= 0 {
			stop()
		}
		return nil
	})
}

func (r *reader) take(tp kafka.TP, rec *kafka.Record) {
	n := r.w.control.Topics()
	value := append([]byte(nil), rec.Value...)
	var err error
	switch wait := r.waits[tp.Topic]; {
	case wait > 0:
		var t schemas.Task
		if err = schemas.DecodeTask(value, &t); err == nil {
			s := r.task(&t)
			s.dueAt = time.UnixMilli(rec.Time).Add(wait)
			s.tiers = append(s.tiers, tierSeen{time.UnixMilli(rec.Time), t.Attempt})
			s.postponed = s.postponed || t.Postponed > 0
		}
	case tp.Topic == n.Retry:
		var t schemas.Task
		if err = schemas.DecodeTask(value, &t); err == nil {
			r.task(&t).copies++
		}
	case tp.Topic == n.Attempts:
		var a schemas.Attempt
		if err = schemas.DecodeAttempt(value, &a); err == nil {
			r.attempts, r.written = append(r.attempts, a), append(r.written, time.UnixMilli(rec.Time))
			s := r.tasks[a.TaskID]
			if s == nil {
				r.broken = append(r.broken, "ghost: an attempt at task "+a.TaskID+" which no router wrote")
				break
			}
			s.tries = append(s.tries, len(r.attempts)-1)
			switch a.Verdict {
			case schemas.VerdictDelivered, schemas.VerdictDead, schemas.VerdictDropped:
				s.ends[a.Verdict]++
			}
		}
	case tp.Topic == n.Dead:
		var d schemas.Dead
		if err = schemas.DecodeDead(value, &d); err == nil && !d.TakesOut() {
			s := r.task(&d.Task)
			s.dead = append(s.dead, d)
		}
	case tp.Topic == n.Subscriptions:
		if rec.Value == nil {
			return
		}
		s := &schemas.Subscription{}
		if err = schemas.DecodeSubscription(value, s); err == nil {
			r.subs[s.ID] = append(r.subs[s.ID], s)
		}
	case tp.Topic == n.Undecodable:
		r.broken = append(r.broken, "an event became undecodable")
	default:
		r.event(tp, rec, value)
	}
	if err != nil {
		r.broken = append(r.broken, "a record of "+tpName(tp)+" cannot be read: "+err.Error())
	}
}

func (r *reader) task(t *schemas.Task) *taskSeen {
	s := r.tasks[t.ID]
	if s == nil {
		s = &taskSeen{Task: *t, ends: map[schemas.Verdict]int{}}
		s.Body = nil
		r.tasks[t.ID] = s
	}
	return s
}

// event notes where an event lies; its id stands in a header.
func (r *reader) event(tp kafka.TP, rec *kafka.Record, _ []byte) {
	for _, h := range rec.Headers {
		if h.Key == "ce_id" {
			id := string(h.Value)
			r.events[id] = append(r.events[id], schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: rec.Offset, Time: rec.Time})
			return
		}
	}
	r.broken = append(r.broken, "an event without an id at "+tpName(tp))
}

// ended says whether a task has come to an end.
func (s *taskSeen) ended() bool { return len(s.ends) > 0 }

// stillOpen says what has not ended.
func (r *reader) stillOpen() string {
	n, text := 0, ""
	for _, id := range slices.Sorted(maps.Keys(r.tasks)) {
		s := r.tasks[id]
		if s.ended() {
			continue
		}
		if n++; n <= 3 {
			text += fmt.Sprintf("; task %s of %s, %d attempts, %d in tiers, due %v", id, s.Subscription, len(s.tries), len(s.tiers), s.dueAt.Sub(r.w.began))
		}
	}
	return fmt.Sprintf("%d tasks without an end, %d offsets not committed, %d events not routed%s", n, r.w.unfinished(), r.w.unrouted(), text)
}

// nextDue is when the first of the open tasks may be tried; not ok if there is none. A task that lies in no tier is due now.
func (r *reader) nextDue() (at time.Time, ok bool) {
	for _, s := range r.tasks {
		if s.ended() {
			continue
		}
		due := s.dueAt
		if due.IsZero() {
			due = time.Now()
		}
		if !ok || due.Before(at) {
			at, ok = due, true
		}
	}
	if r.w.unrouted() > 0 {
		return time.Now(), true
	}
	return at, ok
}

// unrouted is how many events lie behind the routers' committed offsets, and unfinished how many tasks behind the deliverers'. When both are none, nobody
// will ever do anything more about what has no end by then.
func (w *world) unrouted() int   { return w.behind("router", w.control.Topics().EventTopics()) }
func (w *world) unfinished() int { return w.behind("deliverer", w.control.Topics().LaneTopics()) }

func (w *world) behind(group string, topics []string) (n int) {
	g := w.broker.Cluster().GroupInfo(w.config.TopicPrefix + group)
	for _, topic := range topics {
		for _, p := range w.broker.Cluster().PartitionInfos(topic) {
			at := int64(0)
			if g != nil {
				at = g.Commits[topic][p.Partition].Offset
			}
			n += int(p.HighWatermark - at)
		}
	}
	return n
}
