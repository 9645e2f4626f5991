package router

import (
	"context"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

const (
	// flushBytes is how many bytes of tasks a pass collects before it writes them: the most that one produce request should carry.
	flushBytes = 8 << 20
	// pastFlushBytes is the same for what is routed again: a request of megabytes would hold up those of the live path in the broker.
	pastFlushBytes = 512 << 10
)

// pass turns events into tasks. It owns every buffer of that way and one goroutine uses it: the live path has one, the reroute another. Between two
// flushes it only collects; nothing is written before flush.
type pass struct {
	*shared
	appender *kafka.Appender
	most     int // bytes of tasks before it is time to flush

	render renderer
	meta   schemas.Meta
	subs   []*subscriptions.Live
	task   schemas.Task
	head   []byte
	key    []byte
	names  map[string][]byte // subscription id -> JSON text of its name, for the classic format; emptied with each flush

	lastFrame  schemas.Frame // runs of records have one writer: the resolver's lock is taken once a run
	lastReader *schemas.EventReader

	way       // the live path's, unless a replayer says otherwise for each event
	past bool // an event is also for those that a catch-up owes it to: see owed
	owed []owing

	// gate, if not nil, drops those of subs that the live path leaves out for now. False: it cannot say yet, and the event must wait
	gate func(*schemas.Source, []*subscriptions.Live) ([]*subscriptions.Live, bool)

	tasks kafka.Records
	bad   kafka.Records

	// counted since the last flush
	events   []int64 // append times of the events that were routed
	tooLarge int
}

// way says where tasks go, and by which way they came.
type way struct {
	to     string // topic
	lane   schemas.LaneKind
	replay string
}

// shared is what all passes of a router share; nothing in it changes after the start.
type shared struct {
	cfg      Config
	table    *subscriptions.Table
	schemas  *resolver
	types    map[string]*schemas.EventType
	liveOut  *kafka.Appender // of the live path
	pastOut  *kafka.Appender // of replays and reroutes: an appender has one request at a time, and theirs must not stand before a live one
	topics   kafka.Names
	entities map[string]string // of a topic
	counts   map[string]int    // partitions of a topic
	metrics  *metrics
	log      *zap.Logger

	clockSpread time.Duration
}

func newPass(s *shared) *pass {
	return &pass{shared: s, appender: s.liveOut, most: flushBytes, names: map[string][]byte{}, way: way{to: s.topics.Retry, lane: schemas.LaneLive}}
}

// newPastPass is a pass for what is routed again.
func newPastPass(s *shared) *pass {
	p := newPass(s)
	p.appender, p.most = s.pastOut, pastFlushBytes
	return p
}

// outcome is what became of one event: its tasks are collected (the zero value, also if nobody wants it), it is undecodable for a
// reason, or it must wait: for a writer's schema, or until the orders are loaded.
type outcome struct {
	reason string
	wait   *writer
	orders bool
}

// event collects the tasks of one event. It is all or nothing: an event whose body cannot be made for one subscription has no task at all, so that
// a reroute finds it whole.
func (p *pass) event(src *schemas.Source, value []byte, now int64) outcome {
	if value == nil {
		return outcome{reason: reasonEmpty}
	}
	if len(value) > schemas.MaxInput { // before its frame is looked at: no partition waits for the schema of what cannot be read anyway
		return outcome{reason: reasonTooLarge}
	}
	frame, avro, err := schemas.Unframe(value)
	if err != nil {
		return outcome{reason: reasonOf(err)}
	}
	if p.lastReader == nil || frame != p.lastFrame {
		reader, reason, wait := p.schemas.find(frame)
		if reader == nil {
			return outcome{reason: reason, wait: wait}
		}
		p.lastFrame, p.lastReader = frame, reader
	}
	rest, err := p.lastReader.Meta(avro, &p.meta)
	if err != nil {
		return outcome{reason: reasonOf(err)}
	}
	entity := p.entities[src.Topic]
	typ, reason := inspect(&p.meta, entity, p.types)
	if reason != "" {
		return outcome{reason: reason}
	}
	var right bool
	if right, p.key = belongs(&p.meta, src.Partition, p.counts[src.Topic], p.key); !right {
		p.metrics.wrongPartition.WithLabelValues(entity).Inc()
	}
	var addressed bool
	p.subs, addressed = p.receivers(typ, src.Time, p.subs[:0])
	if p.gate != nil && !addressed { // no catch-up routes what is addressed
		var sure bool
		if p.subs, sure = p.gate(src, p.subs); !sure {
			return outcome{orders: true}
		}
	}
	p.owed = p.owed[:0]
	if p.past && !addressed {
		p.owedTo(src.Time, typ)
	}
	if len(p.subs)+len(p.owed) > 0 {
		if reason := p.collect(src, typ, rest, now); reason != "" {
			return outcome{reason: reason}
		}
	}
	p.events = append(p.events, src.Time)
	return outcome{}
}

// collect makes the tasks of an event for all of subs and owed, or of none: then it says why the event is undecodable.
func (p *pass) collect(src *schemas.Source, typ *schemas.EventType, rest []byte, now int64) (reason string) {
	p.render.load(p.lastReader, &p.meta, typ, rest)
	for _, l := range p.subs {
		if _, err := p.render.body(formatOf(l.Format)); err != nil {
			return reasonOf(err)
		}
	}
	for _, o := range p.owed {
		if _, err := p.render.body(formatOf(o.sub.Format)); err != nil {
			return reasonOf(err)
		}
	}
	p.prepare(src, typ, now)
	for _, l := range p.subs {
		p.add(l)
	}
	p.addOwed(src, typ, now)
	return ""
}

// prepare fills in what all tasks of an event have in common.
func (p *pass) prepare(src *schemas.Source, typ *schemas.EventType, now int64) {
	m := &p.meta
	p.task = schemas.Task{
		EventID: view(m.EventID), EventType: typ.Name, Company: view(m.CompanyID), EntityID: view(m.EntityID), EntityVersion: m.EntityVersion,
		Source: *src, OccurredAt: m.OccurredAt, CreatedAt: now,
		Attempt: 1, Lane: p.lane, Replay: p.replay,
	}
}

// add collects the task for one subscription. A body over the limit is left out and the task says so in Last: only the deliverer writes
// `dead`, and it ends such a task as too_large without a try.
func (p *pass) add(l *subscriptions.Live) {
	f := formatOf(l.Format)
	b, err := p.render.body(f)
	if err != nil {
		panic("BUG: a body that was there is gone: " + err.Error())
	}
	var name []byte
	if b.hole {
		name = p.nameOf(l)
	}
	t := &p.task
	t.Subscription, t.SubscriptionVersion = l.ID, l.Version
	t.ID = schemas.TaskID(t.Source, t.EventID, l.ID, p.replay)
	t.ContentType = f.contentType()
	t.Last = nil
	p.key = append(p.key[:0], l.ID...)
	to := kafka.TP{Topic: p.to, Partition: kafka.Partition(p.key, p.counts[p.to])}
	size := len(b.head) + len(name)
	if b.hole {
		size += len(b.tail)
	}
	if size > p.cfg.BodyLimit {
		t.Last = &schemas.LastAttempt{At: t.CreatedAt, Reason: schemas.ReasonTooLarge,
			Detail: "the body has " + strconv.Itoa(size) + " bytes, and at most " + strconv.Itoa(p.cfg.BodyLimit) + " are sent"}
		p.tooLarge++
		p.head = schemas.AppendTaskHead(p.head[:0], t, 0)
		p.tasks.Add(to, p.key, nil, p.head)
		return
	}
	p.head = schemas.AppendTaskHead(p.head[:0], t, size)
	if b.hole {
		p.tasks.Add(to, p.key, nil, p.head, b.head, name, b.tail)
		return
	}
	p.tasks.Add(to, p.key, nil, p.head, b.head)
}

// nameOf is the subscription's name as JSON text, as the classic format shows it. Names that are not text cannot come from our writer; they are
// shown as empty rather than spoil a body.
func (p *pass) nameOf(l *subscriptions.Live) []byte {
	if b, ok := p.names[l.ID]; ok {
		return b
	}
	name := l.Name
	if !validText([]byte(name)) {
		name = ""
	}
	b := appendString(nil, name)
	p.names[l.ID] = b
	return b
}

// undecodable collects the record for the topic `undecodable`.
func (p *pass) undecodable(tp kafka.TP, rec *kafka.Record, reason string) {
	rec, leftOut := keepable(rec)
	key, n := rec.Key, p.counts[p.topics.Undecodable]
	partition := tp.Partition % int32(n)
	if key != nil {
		partition = kafka.Partition(key, n)
	}
	p.bad.Add(kafka.TP{Topic: p.topics.Undecodable, Partition: partition}, key, undecodableHeaders(tp, rec, leftOut, reason), rec.Value)
	p.metrics.undecodable.WithLabelValues(reason).Inc()
}

// full says that it is time to flush.
func (p *pass) full() bool { return p.tasks.Size() > p.most || p.bad.Size() > p.most }

// flush writes the tasks, then the undecodable records. Of an error it says which of the two failed; then nothing that was
// collected may be counted as done, and what is routed again gets the same ids.
func (p *pass) flush(ctx context.Context) (tasksErr, badErr error) {
	defer p.reset()
	n := p.tasks.Len()
	if n > 0 {
		if tasksErr = fault.Before(fault.RouterTasks); tasksErr == nil {
			_, tasksErr = p.appender.Append(ctx, &p.tasks)
			tasksErr = fault.After(fault.RouterTasks, tasksErr)
		}
		if tasksErr != nil {
			return tasksErr, nil
		}
	}
	p.metrics.tasks.Add(float64(n))
	p.metrics.tooLarge.Add(float64(p.tooLarge))
	now := time.Now().UnixMilli()
	for _, at := range p.events {
		p.metrics.seconds.Observe(float64(now-at) / 1000)
	}
	if p.bad.Len() > 0 {
		if badErr = fault.Before(fault.RouterUndecodable); badErr == nil {
			_, badErr = p.appender.Append(ctx, &p.bad)
			badErr = fault.After(fault.RouterUndecodable, badErr)
		}
	}
	return nil, badErr
}

func (p *pass) reset() {
	p.tasks.Reset()
	p.bad.Reset()
	p.events, p.tooLarge = p.events[:0], 0
	clear(p.names)
}

// maxTableAge is how old the last good read of the subscriptions may be when an event is matched (design section 7). A cut lies two seconds in
// the future when it is written, so a table that was complete within the last second knows every cut that an event can lie behind. It is no
// setting: subscriptions' writer relies on it.
const maxTableAge = time.Second

// fresh waits until the table may be matched against. While it waits nothing is routed, and it says so once.
func (p *pass) fresh(ctx context.Context) error {
	if time.Since(p.table.LastGoodRead()) < maxTableAge {
		return nil
	}
	waiting := p.metrics.waiting.WithLabelValues("table")
	waiting.Inc()
	defer waiting.Dec()
	p.log.Error("nothing is routed: the subscriptions were not read to their end within the last second; is Kafka reachable?",
		zap.Time("last_good_read", p.table.LastGoodRead()))
	tick := time.NewTicker(5 * time.Millisecond) // the table tells nobody of a good read: there are five a second
	defer tick.Stop()
	for time.Since(p.table.LastGoodRead()) >= maxTableAge {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.log.Info("the subscriptions are fresh again: routing goes on")
	return nil
}
