package recent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Ask is what somebody wants to know, or to have published.
type Ask struct {
	Company string
	Limit   int // 0: DefaultLimit

	// Of a snapshot only. Subscription is who it is for; empty: every subscription of the company that wants the type. ID names the request: a second one
	// with the same id, company and subscription within an hour publishes nothing, whichever process gets it. Empty: one is made.
	Subscription, ID string
}

// AskError is what is wrong with an Ask.
type AskError struct{ code, sentence string }

func (e *AskError) Error() string { return e.sentence }

// Code is stable: programs may compare it.
func (e *AskError) Code() string { return e.code }

// Check fills in what was left out and says what is wrong.
func (a *Ask) Check() error {
	if a.Limit == 0 {
		a.Limit = DefaultLimit
	}
	switch {
	case a.Company == "":
		return &AskError{"company_missing", "name the company whose bookings you want"}
	case len(a.Company) > longestID || !utf8.ValidString(a.Company) || a.Company == schemas.AnyCompany:
		return &AskError{"company_invalid", fmt.Sprintf("a company id is text of at most %d bytes, and \"*\" is none", longestID)}
	case a.Limit < 1 || a.Limit > Most:
		return &AskError{"limit_invalid", fmt.Sprintf("1 to %d bookings can be asked for, not %d", Most, a.Limit)}
	case len(a.Subscription) > longestID || !utf8.ValidString(a.Subscription):
		return &AskError{"subscription_invalid", fmt.Sprintf("a subscription id is text of at most %d bytes", longestID)}
	case len(a.ID) > longestID:
		return &AskError{"id_invalid", fmt.Sprintf("the id of a request has at most %d bytes", longestID)}
	}
	return nil
}

// entity is the event's entity id, which says who it is for (schemas.Addressee).
func (a *Ask) entity() string {
	if a.Subscription != "" {
		return a.Subscription
	}
	return a.Company
}

// eventID follows from the request, so that receivers too know one snapshot that was published twice.
func (a *Ask) eventID() string {
	h := sha256.New()
	for _, s := range []string{"recent", a.Company, a.Subscription, a.ID} {
		fmt.Fprintf(h, "%d/%s", len(s), s)
	}
	return "evt_" + hex.EncodeToString(h.Sum(nil)[:20])
}

// NewRequestID is an id for an Ask that nobody else has.
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// The size of a snapshot's body in JSON is bounded, because one over router.body_limit would never be sent: per booking the fields' names, numbers and times,
// and its texts, each byte of which may be two there.
const (
	mostBody   = 1_000_000
	bodyOfLine = 1000
)

// event makes the snapshot. taken is the broker's time before the list was made: everything older is in it.
func (a *Ask) event(lines [][]byte, about About, taken time.Time) *schemas.RecentReservationsEvent {
	taken = taken.UTC().Truncate(time.Millisecond)
	ev := &schemas.RecentReservationsEvent{
		Meta: schemas.EventMeta{
			EventID: a.eventID(), EventType: schemas.RecentSnapshot, EntityID: a.entity(), OccurredAt: taken, PublishedAt: taken,
			// No other event changes the list in steps of one, and what receivers do with a version is to tell new from old.
			EntityVersion: taken.UnixMilli(),
			TenantID:      about.TenantID, CompanyID: a.Company, CompanyName: about.CompanyName, SchemaVersion: schemas.EventSchemaVersion,
		},
		Data: schemas.RecentReservations{CompanyID: a.Company, Limit: int32(a.Limit)},
	}
	if about.SystemURL != "" {
		ev.Meta.SystemURL = &about.SystemURL
	}
	size := 0
	for _, line := range lines {
		if size += bodyOfLine + 2*len(line); size > mostBody {
			ev.Data.Truncated = true
			break
		}
		var l schemas.RecentBooking
		if err := l.DecodeAvro(line); err != nil {
			panic("BUG: a line that was written here cannot be read: " + err.Error())
		}
		ev.Data.Bookings = append(ev.Data.Bookings, l)
	}
	return ev
}

// Place is where a record lies.
type Place struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// Taken is a snapshot that was published.
type Taken struct {
	EventID  string    `json:"eventId"`
	Company  string    `json:"companyId"`
	EntityID string    `json:"entityId"` // the company, or the subscription that it is for
	TakenAt  time.Time `json:"takenAt"`
	Bookings int       `json:"bookings"`
	Repeated bool      `json:"repeated"` // an earlier request of the same id had published it; the two fields above are not known then
	Place    Place     `json:"place"`
}

// Publish publishes an event and returns when it is accepted.
type Publish func(context.Context, schemas.Event) error

// publisher publishes snapshots.
type publisher struct {
	bookings *bookings
	publish  Publish
	// one at a time: two requests of one id that meet in one process are one. A channel, because it is held while Kafka answers.
	one  chan struct{}
	done *metrics
}

func newPublisher(b *bookings, publish Publish, m *metrics) *publisher {
	return &publisher{bookings: b, publish: publish, one: make(chan struct{}, 1), done: m}
}

// take publishes a snapshot of the bookings as they are now:
//
//  1. read to the end of the bookings as asked now, then look whether the request has been served. Death: nothing was published; the caller asks again,
//     here or elsewhere, under the same id.
//  2. publish, acks=all. Death: the event is there; who asks again under the same id finds it.
//  3. look where it lies, and answer.
//
// Two processes that are asked under one id at the same moment may both publish. Then the two events have one id, and so their webhooks have one.
func (p *publisher) take(ctx context.Context, a Ask) (*Taken, error) {
	if a.ID == "" {
		a.ID = NewRequestID()
	}
	if err := a.Check(); err != nil {
		return nil, err
	}
	select {
	case p.one <- struct{}{}:
		defer func() { <-p.one }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	b := p.bookings
	taken := b.c.BrokerNow()
	if err := b.catchUp(ctx); err != nil {
		return nil, err
	}
	out := &Taken{EventID: a.eventID(), Company: a.Company, EntityID: a.entity()}
	place, err := find(ctx, b.c, &a, taken.Add(-sameRequest))
	if err != nil {
		return nil, err
	}
	if place != nil {
		out.Repeated, out.Place = true, *place
		return out, nil
	}
	list, about := b.latest(a.Company, a.Limit)
	ev := a.event(list, about, taken)
	if err := fault.Before(fault.RecentPublish); err != nil {
		return nil, err
	}
	if err := fault.After(fault.RecentPublish, p.publish(ctx, ev)); err != nil {
		return nil, err
	}
	p.done.snapshot()
	if place, err = find(ctx, b.c, &a, taken.Add(-sameRequest)); err != nil {
		return nil, err
	}
	if place == nil {
		return nil, fmt.Errorf("the snapshot %s was accepted and is not there", out.EventID)
	}
	out.TakenAt, out.Bookings, out.Place = ev.Meta.OccurredAt, len(ev.Data.Bookings), *place
	return out, nil
}

func (b *bookings) latest(company string, limit int) ([][]byte, About) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.model.Latest(company, limit), b.model.About(company)
}

// sameRequest is how long the id of a request is remembered, that is, how far back the topic of snapshots is looked through.
const sameRequest = time.Hour

// find looks for the snapshot of a request in the topic, from a time on.
func find(ctx context.Context, c *kafka.Client, a *Ask, since time.Time) (*Place, error) {
	topic := c.Topics().Events["recent_reservations"]
	starts, err := c.Offsets(ctx, topic, since.UnixMilli())
	if err != nil {
		return nil, err
	}
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return nil, err
	}
	tp := kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(a.Company+"/"+a.entity()), len(ends))}
	end := ends[tp.Partition]
	if starts[tp.Partition] >= end {
		return nil, nil
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	f := c.NewFetcher(kafka.FetchConfig{Empty: true, OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(map[kafka.TP]int64{tp: starts[tp.Partition]})
	want := []byte(a.eventID())
	var place *Place
	err = f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			for j := range bs[i].Records {
				if r := &bs[i].Records[j]; place == nil && hasID(r, want) {
					place = &Place{tp.Topic, tp.Partition, r.Offset}
				}
			}
			if bs[i].Next >= end || place != nil {
				stop()
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return place, err
}

// hasID says whether a record of the topic of snapshots is the event with this id: by its CloudEvents header, which our publisher sets.
func hasID(r *kafka.Record, id []byte) bool {
	for _, h := range r.Headers {
		if h.Key == "ce_id" {
			return string(h.Value) == string(id)
		}
	}
	return false
}

// AwaitRouted returns when the routers' group has committed beyond a place, so that the tasks of what lies there are in line.
func AwaitRouted(ctx context.Context, c *kafka.Client, group string, at Place) error {
	tp := kafka.TP{Topic: at.Topic, Partition: at.Partition}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := c.CommittedOffsets(ctx, group, []kafka.TP{tp})
		if err != nil {
			return err
		}
		if got[tp].Offset > at.Offset {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
