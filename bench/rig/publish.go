package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
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

// Sent is one line of the publisher's ledger; its place in the ledger is the event's sequence number.
type Sent struct {
	Company int
	Due     int64 // UnixNano
	Fate    Fate
}

// Publisher appends booking events whose entity id carries the sequence number and the due time, so that a receiver can tell which
// event it sees and how long it took. The Avro bytes of one real sample are patched in place: the publisher must cost little, since
// it runs beside what is measured.
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
}

// eventIDLen is the length of an event id here: "evt_" and twenty digits.
const eventIDLen = 24

// NewPublisher prepares events of the given companies.
func NewPublisher(c *kafka.Client, companies []string) (*Publisher, error) {
	topic := c.Topics().Events["booking"]
	n, err := c.PartitionCount(context.Background(), topic)
	if err != nil {
		return nil, err
	}
	p := &Publisher{appender: c.NewAppender(kafka.AppenderConfig{}), topic: topic, parts: n, companies: companies}
	mark := make([]byte, markLen)
	putMark(mark, 0, 0)
	id := "evt_" + fmt.Sprintf("%020d", 0)
	for _, company := range companies {
		ev, ok := sandbox.Sample(rand.New(rand.NewPCG(1, 1)), "booking.creation", company, 1).(*schemas.BookingEvent)
		if !ok {
			return nil, errors.New("BUG: the sample of booking.creation is no BookingEvent")
		}
		ev.Meta.EventID, ev.Meta.EntityID, ev.Data.BookingID = id, string(mark), string(mark)
		b, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint()))
		if err != nil {
			return nil, err
		}
		p.templates = append(p.templates, b)
		p.marks = append(p.marks, indexAll(b, mark, []byte(id)))
	}
	return p, nil
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

// First is the sequence number of the first event that the next call of Open sends or that the last one sent.
func (p *Publisher) First() int64 { return p.first }

// EventBytes is the size of one event on the topic.
func (p *Publisher) EventBytes() int { return len(p.templates[0]) }

// add puts the next event of company c into the batch.
func (p *Publisher) add(c int, due int64) {
	b, at := p.templates[c], p.marks[c]
	for _, i := range at[:len(at)-1] {
		putMark(b[i:i+markLen], p.next, due)
	}
	i := at[len(at)-1]
	copy(b[i:i+eventIDLen], fmt.Appendf(p.key[:0], "evt_%020d", p.next))
	p.key = append(append(append(p.key[:0], p.companies[c]...), '/'), b[at[0]:at[0]+markLen]...)
	p.rec.Add(kafka.TP{Topic: p.topic, Partition: kafka.Partition(p.key, p.parts)}, p.key, nil, b)
	p.next++
}

// Open publishes n events at the given rate, each at the moment when it is due, however slow the system answers: an open loop. An
// event that could not be sent in time is sent late and keeps its due time, so that lateness is measured and not left out.
func (p *Publisher) Open(ctx context.Context, n int, rate float64) ([]Sent, error) {
	begin := time.Now()
	p.first = p.next
	ledger := make([]Sent, n)
	for i := 0; i < n; {
		due := func(j int) time.Time { return begin.Add(time.Duration(float64(j) / rate * 1e9)) }
		if wait := time.Until(due(i)); wait > 0 {
			select {
			case <-ctx.Done():
				return ledger, ctx.Err()
			case <-time.After(wait):
			}
		}
		m := i
		for now := time.Now(); m < n && m < i+2000 && !due(m).After(now); m++ {
			c := m % len(p.companies)
			ledger[m] = Sent{Company: c, Due: due(m).UnixNano(), Fate: Accepted}
			p.add(c, ledger[m].Due)
		}
		if err := p.flush(ctx, ledger[i:m]); err != nil {
			return ledger, err
		}
		i = m
	}
	if p.next-p.first != int64(n) {
		panic("BUG: " + strconv.FormatInt(p.next-p.first, 10) + " events counted")
	}
	return ledger, nil
}

// flush appends the batch. A failure leaves the whole batch unknown: for a loss test that is the safe side.
func (p *Publisher) flush(ctx context.Context, ledger []Sent) error {
	if len(ledger) == 0 {
		return nil
	}
	if _, err := p.appender.Append(ctx, &p.rec); err != nil {
		for i := range ledger {
			ledger[i].Fate = Unknown
		}
		p.rec.Reset()
		return ctx.Err()
	}
	return nil
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
			p.add((events+i)%len(p.companies), now)
		}
		if err := p.flush(ctx, ledger[:m]); err != nil {
			return events, time.Since(begin), err
		}
		events += m
	}
	return events, time.Since(begin), nil
}
