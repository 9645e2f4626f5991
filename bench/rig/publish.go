package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// Fate is what the publisher was told of an event.
type Fate int8

const (
	Unsent   Fate = iota
	Accepted      // acknowledged with acks=all: a promise begins here
	Rejected      // surely not written
	Unknown       // may be written or not
)

// Sent is one line of the publisher's ledger; its place in the ledger is the event's sequence number, less the publisher's first.
type Sent struct {
	Company int
	Entity  int64 // of that company; -1: the event has one of its own
	Version int   // of the entity, from 1
	Due     int64 // UnixNano
	Fate    Fate
}

// Publisher appends booking events whose booking id carries the sequence number and the due time, so that a receiver can tell which
// event it sees and how long it took. The Avro bytes of one real sample are patched in place: the publisher must cost little, since
// it runs beside what is measured.
//
// The entity id is the booking id, so that each event has an entity of its own, unless the publisher is made with versions: then an entity has that
// many events, and the order in which they arrive can be checked.
type Publisher struct {
	appender  *kafka.Appender
	topic     string
	parts     int
	companies []string
	templates [][]byte
	marks     [][]int // where each template carries the mark
	rec       kafka.Records
	key       []byte
	next      int64
	first     int64

	versions int     // events of one entity; 0: the entity id is the mark
	entities int64   // number of the first entity
	version  []int   // where each template carries the version
	entity   [][]int // where each template carries the entity id
	tps      []int32 // partition of each event of the batch under construction
	sent     []Sent
	ledger   *SentFile
}

// interleaved is how many entities of a company change in turn: two versions of one are so many events of the company apart.
const interleaved = 8

// place of the m-th event of a company: entities change in turn, in blocks.
func (p *Publisher) place(m int64) (entity int64, version int) {
	if p.versions == 0 {
		return -1, 1
	}
	block := int64(interleaved * p.versions)
	return m/block*interleaved + m%interleaved, int(m%block/interleaved) + 1
}

// eventIDLen is the length of an event id here: "evt_" and twenty digits.
const eventIDLen = 24

// entityText is the form of an entity id where an entity has several versions.
const entityText = "en-%010d"

// NewPublisher prepares events of the given companies; versions: see Publisher.
func NewPublisher(c *kafka.Client, companies []string, versions int) (*Publisher, error) {
	topic := c.Topics().Events["booking"]
	n, err := c.PartitionCount(context.Background(), topic)
	if err != nil {
		return nil, err
	}
	if versions < 0 || versions > 60 {
		return nil, fmt.Errorf("%d versions of an entity: a version is patched in as one byte, so it is at most 60", versions)
	}
	p := &Publisher{appender: c.NewAppender(kafka.AppenderConfig{}), topic: topic, parts: n, companies: companies, versions: versions}
	for _, company := range companies {
		if err := p.template(company); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// template encodes one sample and finds the bytes that change from event to event.
func (p *Publisher) template(company string) error {
	mark := make([]byte, markLen)
	putMark(mark, 0, 0)
	id, entity := "evt_"+fmt.Sprintf("%020d", 0), fmt.Sprintf(entityText, 0)
	if p.versions == 0 {
		entity = string(mark)
	}
	ev, ok := sandbox.Sample(rand.New(rand.NewPCG(1, 1)), "booking.creation", company, 1).(*schemas.BookingEvent)
	if !ok {
		return errors.New("BUG: the sample of booking.creation is no BookingEvent")
	}
	ev.Meta.EventID, ev.Meta.EntityID, ev.Data.BookingID = id, entity, string(mark)
	frame := schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint())
	ev.Meta.EntityVersion = 2
	second, err := ev.AppendAvro(bytes.Clone(frame))
	if err != nil {
		return err
	}
	ev.Meta.EntityVersion = 1
	b, err := ev.AppendAvro(frame)
	if err != nil {
		return err
	}
	at := 0
	for at < len(b) && b[at] == second[at] {
		at++
	}
	p.templates = append(p.templates, b)
	p.marks = append(p.marks, indexAll(b, mark, []byte(id)))
	p.version = append(p.version, at)
	places := indexAll(b, []byte(entity), []byte(id))
	p.entity = append(p.entity, places[:len(places)-1])
	return nil
}

// indexAll gives the places of the marks, then, last, of the event id.
func indexAll(b, mark, id []byte) []int {
	var at []int
	for i := 0; ; {
		j := bytes.Index(b[i:], mark)
		if j < 0 {
			return append(at, bytes.Index(b, id))
		}
		at = append(at, i+j)
		i += j + len(mark)
	}
}

// Keep makes the publisher write its ledger: before a batch is sent, and when its fate is known.
func (p *Publisher) Keep(f *SentFile) { p.ledger = f }

// Sent is what Open has sent so far, by sequence number from First on.
func (p *Publisher) Sent() []Sent { return p.sent }

// EntitiesFrom makes the entities of this publisher begin at a number, so that it has none in common with another one of the same company.
func (p *Publisher) EntitiesFrom(n int64) { p.entities = n }

// First is the sequence number of the first event of this publisher.
func (p *Publisher) First() int64 { return p.first }

// EventBytes is the size of one event on the topic.
func (p *Publisher) EventBytes() int { return len(p.templates[0]) }

// add puts the next event of company c into the batch.
func (p *Publisher) add(c int, due int64) Sent {
	b, at := p.templates[c], p.marks[c]
	for _, i := range at[:len(at)-1] {
		putMark(b[i:i+markLen], p.next, due)
	}
	i := at[len(at)-1]
	copy(b[i:i+eventIDLen], fmt.Appendf(p.key[:0], "evt_%020d", p.next))
	entity, version := p.place((p.next - p.first) / int64(len(p.companies)))
	p.key = append(append(p.key[:0], p.companies[c]...), '/')
	if entity >= 0 {
		from := len(p.key)
		p.key = fmt.Appendf(p.key, entityText, p.entities+entity)
		for _, i := range p.entity[c] {
			copy(b[i:], p.key[from:])
		}
		b[p.version[c]] = byte(version << 1) // zigzag
	} else {
		p.key = append(p.key, b[at[0]:at[0]+markLen]...)
	}
	tp := kafka.TP{Topic: p.topic, Partition: kafka.Partition(p.key, p.parts)}
	p.tps = append(p.tps, tp.Partition)
	p.rec.Add(tp, p.key, nil, b)
	p.next++
	return Sent{Company: c, Entity: entity, Version: version, Due: due}
}

// Open publishes n events at the given rate, each at the moment when it is due, however slow the system answers: an open loop. An
// event that could not be sent in time is sent late and keeps its due time, so that lateness is measured and not left out. It may be called again, and
// gives what this call sent.
func (p *Publisher) Open(ctx context.Context, n int, rate float64) ([]Sent, error) {
	begin, had := time.Now(), len(p.sent)
	due := func(j int) time.Time { return begin.Add(time.Duration(float64(j) / rate * 1e9)) }
	for i := 0; i < n; i = len(p.sent) - had {
		if err := sleepUntil(ctx, due(i)); err != nil {
			return p.sent[had:], err
		}
		m := i
		for now := time.Now(); m < n && m < i+2000 && !due(m).After(now); m++ {
			c := int((p.next - p.first) % int64(len(p.companies)))
			p.sent = append(p.sent, p.add(c, due(m).UnixNano()))
		}
		if err := p.flush(ctx, p.sent[had+i:]); err != nil {
			return p.sent[had:], err
		}
	}
	return p.sent[had:], nil
}

// sleepUntil waits for a moment to within some 50 us. A timer of Go's alone may come a millisecond late, since an idle process waits in epoll_wait, which
// counts in milliseconds: the publisher's lateness would be measured as ours.
func sleepUntil(ctx context.Context, at time.Time) error {
	const coarse = 2 * time.Millisecond
	if wait := time.Until(at) - coarse; wait > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	if wait := time.Until(at); wait > 0 {
		ts := syscall.NsecToTimespec(int64(wait))
		syscall.Nanosleep(&ts, nil) // a signal may end it early: then the event is not due yet, and the caller comes again
	}
	return ctx.Err()
}

// flush appends the batch and notes the fate of each event: accepted, surely not written, or unknown, which only the topic can tell.
func (p *Publisher) flush(ctx context.Context, batch []Sent) error {
	if len(batch) == 0 {
		return nil
	}
	first := p.next - int64(len(batch))
	if p.ledger != nil {
		if err := p.ledger.Before(first, batch); err != nil {
			return err
		}
	}
	acks, err := p.appender.Append(ctx, &p.rec)
	p.rec.Reset()
	if len(acks) == 0 { // not even begun, or nobody knows
		for i := range batch {
			batch[i].Fate = Unknown
		}
	}
	left := map[int32][]kafka.Ack{}
	for _, a := range acks {
		left[a.Partition] = append(left[a.Partition], a)
	}
	for i := range batch {
		if len(acks) == 0 {
			break
		}
		part := left[p.tps[i]]
		batch[i].Fate = fate(part[0].Err)
		if part[0].Count--; part[0].Count == 0 {
			left[p.tps[i]] = part[1:]
		}
	}
	p.tps = p.tps[:0]
	if p.ledger != nil {
		p.ledger.After(first, batch)
	}
	if err != nil {
		return ctx.Err()
	}
	return nil
}

// fate of the events of a batch that ended with err.
func fate(err error) Fate {
	var pe *kafka.PartitionError
	switch {
	case err == nil:
		return Accepted
	case errors.As(err, &pe) && !pe.Unknown:
		return Rejected
	}
	return Unknown
}

// Closed publishes for d with at most window deliveries outstanding, each event being owed to fan receivers; delivered says how many
// have arrived since the farm was reset. It is how the sustained rate is found: as fast as the whole pipeline takes them.
func (p *Publisher) Closed(ctx context.Context, d time.Duration, window, fan int, delivered func() int64) (events int, took time.Duration, err error) {
	begin := time.Now()
	ledger := make([]Sent, 4096)
	for time.Since(begin) < d {
		m := min(len(ledger), (window-(events*fan-int(delivered())))/fan)
		if m <= 0 {
			time.Sleep(500 * time.Microsecond)
			continue
		}
		now := time.Now().UnixNano()
		for i := range m {
			ledger[i] = p.add((events+i)%len(p.companies), now)
		}
		if err := p.flush(ctx, ledger[:m]); err != nil {
			return events, time.Since(begin), err
		}
		events += m
	}
	return events, time.Since(begin), nil
}
