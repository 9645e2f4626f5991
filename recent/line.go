package recent

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
	_ "time/tzdata" // the last day of a rental is local, and a static image has no time zones of its own

	"github.com/hookferry/hookferry/schemas"
)

// bookingData is what a line of the list is made of, as the JSON of an event's data has it. It is read by name from whatever the publisher's schema holds, so a
// field that is missing there is empty here.
type bookingData struct {
	Reference    *string
	Status       schemas.BookingStatus
	SoldAt       *time.Time
	Cancellation *struct{ CancelledAt *time.Time }
	Channel      struct {
		Kind                    schemas.BookingChannelKind
		Name, ExternalReference *string
	}
	LeadCustomerID *string
	Customers      []struct {
		CustomerID          string
		FirstName, LastName *string
	}
	Packages   []bookedLine
	Activities []bookedLine
	Products   []struct{ Name string }
	Totals     struct{ Total, Paid, BalanceDue *money }
	TimeZone   string
	TestMode   bool
}

// bookedLine is a package or an activity.
type bookedLine struct {
	Name                          string
	Status                        schemas.LineStatus
	StartDate, EndDate, LocalDate string
	EndAt                         *time.Time
	Rental                        *struct{ EndAt *time.Time }
	Passengers                    []struct{ Count int32 }
}

type money struct {
	Amount   json.RawMessage
	Currency string
}

// The longest texts of a line, in bytes. What is longer is cut, but for ids, which are left out: half an id is another one.
const (
	longestID   = 255
	longestName = 120
	longestCode = 64
)

// lines makes lines. It remembers time zones, so one goroutine uses it.
type lines struct{ zones map[string]*time.Location }

// lineOf makes the line of an event: meta, the JSON of its data, and when it came into the log.
func (ls *lines) lineOf(m *schemas.Meta, eventType string, data []byte, at int64) (*schemas.RecentBooking, error) {
	var d bookingData
	if err := json.Unmarshal(data, &d); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
		return nil, err // a field of another type than ours is left out, and the others are read
	}
	l := &schemas.RecentBooking{
		BookingID: string(m.EntityID), Reference: code(d.Reference), Status: known(d.Status, statuses), LastEvent: eventType, EntityVersion: m.EntityVersion,
		ChangedAt: time.UnixMilli(at).UTC(), OccurredAt: time.UnixMilli(m.OccurredAt).UTC(), SoldAt: moment(d.SoldAt),
		ChannelKind: known(d.Channel.Kind, channels), ChannelName: code(d.Channel.Name), ExternalReference: code(d.Channel.ExternalReference),
		Lines:    int32(min(len(d.Packages)+len(d.Activities)+len(d.Products), math.MaxInt32)),
		TimeZone: clip(d.TimeZone, longestCode), Total: d.Totals.Total.value(), Paid: d.Totals.Paid.value(), BalanceDue: d.Totals.BalanceDue.value(),
		TestMode: d.TestMode || m.TestMode,
	}
	if d.Cancellation != nil {
		l.CancelledAt = moment(d.Cancellation.CancelledAt)
	}
	if id := d.LeadCustomerID; id != nil && len(*id) <= longestID {
		l.LeadCustomerID = id
	}
	l.CustomerName = d.customerName()
	l.Title = d.title()
	ls.travel(&d, l)
	return l, nil
}

// customerName is that of the lead customer; of the first one, if nobody leads.
func (d *bookingData) customerName() *string {
	for i := range d.Customers {
		c := &d.Customers[i]
		if d.LeadCustomerID != nil && c.CustomerID != *d.LeadCustomerID {
			continue
		}
		var parts []string
		for _, p := range []*string{c.FirstName, c.LastName} {
			if p != nil && strings.TrimSpace(*p) != "" {
				parts = append(parts, strings.TrimSpace(*p))
			}
		}
		return text(strings.Join(parts, " "), longestName)
	}
	return nil
}

func (d *bookingData) title() *string {
	switch {
	case len(d.Packages) > 0:
		return text(d.Packages[0].Name, longestName)
	case len(d.Activities) > 0:
		return text(d.Activities[0].Name, longestName)
	case len(d.Products) > 0:
		return text(d.Products[0].Name, longestName)
	}
	return nil
}

// travel finds the days of travel and the passengers: of the lines that are not cancelled, or of all if all are.
func (ls *lines) travel(d *bookingData, l *schemas.RecentBooking) {
	for _, cancelled := range []bool{false, true} {
		for _, list := range [][]bookedLine{d.Packages, d.Activities} {
			for i := range list {
				b := &list[i]
				if !cancelled && b.Status == schemas.LineStatusCancelled {
					continue
				}
				first, last := day(b.StartDate), day(b.EndDate)
				if first == nil {
					first = day(b.LocalDate)
				}
				if last == nil {
					last = ls.lastDay(b, d.TimeZone)
				}
				if last == nil {
					last = first
				}
				l.FirstDate, l.LastDate = earlier(l.FirstDate, first), later(l.LastDate, last)
				people := int64(0)
				for _, p := range b.Passengers {
					people += int64(p.Count)
				}
				l.Passengers = max(l.Passengers, int32(max(0, min(people, math.MaxInt32))))
			}
		}
		if l.FirstDate != nil {
			return
		}
	}
}

// lastDay is the local day on which an activity or a rental ends; nil if it does not say.
func (ls *lines) lastDay(b *bookedLine, zone string) *schemas.Date {
	end := b.EndAt
	if b.Rental != nil && b.Rental.EndAt != nil {
		end = b.Rental.EndAt
	}
	if end == nil {
		return nil
	}
	return day(end.In(ls.zone(zone)).Format(time.DateOnly))
}

// day reads a date; nil if it is none.
func day(text string) *schemas.Date {
	d, err := schemas.ParseDate(text)
	if err != nil {
		return nil
	}
	return &d
}

// moment is a time as it can be written; nil for Go's zero time, which cannot.
func moment(t *time.Time) *time.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	return new(t.UTC().Truncate(time.Millisecond))
}

// maxZones bounds what publishers can make us remember: there are some 600 names.
const maxZones = 2000

func (ls *lines) zone(name string) *time.Location {
	if z := ls.zones[name]; z != nil {
		return z
	}
	if ls.zones == nil || len(ls.zones) >= maxZones {
		ls.zones = map[string]*time.Location{}
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		z = time.UTC
	}
	ls.zones[strings.Clone(name)] = z
	return z
}

func earlier(a, b *schemas.Date) *schemas.Date {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}

func later(a, b *schemas.Date) *schemas.Date {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}

func (m *money) value() *schemas.Money {
	if m == nil {
		return nil
	}
	var text string
	if json.Unmarshal(m.Amount, &text) != nil {
		text = string(m.Amount) // another writer's number that is no decimal
	}
	amount, err := schemas.ParseDecimal(text)
	if err != nil {
		return nil
	}
	return &schemas.Money{Amount: amount, Currency: clip(m.Currency, 8)}
}

var (
	statuses = []schemas.BookingStatus{schemas.BookingStatusOnHold, schemas.BookingStatusPending, schemas.BookingStatusConfirmed, schemas.BookingStatusCancelled,
		schemas.BookingStatusExpired, schemas.BookingStatusCompleted}
	channels = []schemas.BookingChannelKind{schemas.BookingChannelKindOnline, schemas.BookingChannelKindOTA, schemas.BookingChannelKindReseller,
		schemas.BookingChannelKindWalkUp, schemas.BookingChannelKindCallCenter, schemas.BookingChannelKindBackOffice, schemas.BookingChannelKindAPI}
)

// known is v if this release has the symbol, else empty, which is written as UNKNOWN.
func known[T comparable](v T, symbols []T) T {
	for _, s := range symbols {
		if s == v {
			return v
		}
	}
	var none T
	return none
}

func code(s *string) *string {
	if s == nil {
		return nil
	}
	return text(*s, longestCode)
}

// text is a clipped text, nil if nothing is in it.
func text(s string, most int) *string {
	if s = clip(strings.TrimSpace(s), most); s == "" {
		return nil
	}
	return &s
}

// clip cuts a text between two characters, and puts a space where a control character stands: each would be six bytes in the JSON that is sent.
func clip(s string, most int) string {
	if len(s) > most {
		for most > 0 && s[most]&0xc0 == 0x80 {
			most--
		}
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
