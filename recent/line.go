package recent

import (
	"math"
	"strings"
	"time"
	_ "time/tzdata" // the last day of a rental is local, and a static image has no time zones of its own

	"github.com/hookferry/hookferry/schemas"
)

// bookingData is what a line of the list is made of. It is read by name from the JSON of an event's data, whatever the publisher's schema holds beside it: a
// field that is missing there, or has another type than ours, is empty here.
type bookingData struct {
	reference, leadCustomer        *string
	status                         schemas.BookingStatus
	soldAt, cancelledAt            *time.Time
	channelKind                    schemas.BookingChannelKind
	channelName, externalReference *string
	customers                      []customer
	packages, activities           []bookedLine
	products                       []string
	total, paid, balanceDue        *schemas.Money
	timeZone                       string
	testMode                       bool
}

type customer struct{ id, first, last string }

// bookedLine is a package or an activity.
type bookedLine struct {
	name                          string
	status                        schemas.LineStatus
	startDate, endDate, localDate string
	endAt, rentalEndAt            *time.Time
	people                        int64
}

func (d *bookingData) read(data []byte) {
	s := &scan{b: data}
	s.object(func(key []byte) {
		switch string(key) {
		case "reference":
			d.reference = s.text()
		case "status":
			d.status = schemas.BookingStatus(s.plain())
		case "soldAt":
			d.soldAt = moment(s.plain())
		case "cancellation":
			s.object(func(key []byte) {
				if string(key) == "cancelledAt" {
					d.cancelledAt = moment(s.plain())
				} else {
					s.skip()
				}
			})
		case "channel":
			d.readChannel(s)
		case "leadCustomerId":
			d.leadCustomer = s.text()
		case "customers":
			s.array(func() { d.customers = append(d.customers, readCustomer(s)) })
		case "packages":
			s.array(func() { d.packages = append(d.packages, readLine(s)) })
		case "activities":
			s.array(func() { d.activities = append(d.activities, readLine(s)) })
		case "products":
			s.array(func() { d.products = append(d.products, readLine(s).name) })
		case "totals":
			d.readTotals(s)
		case "timeZone":
			d.timeZone = s.plain()
		case "testMode":
			d.testMode = s.isTrue()
		default:
			s.skip()
		}
	})
}

func (d *bookingData) readChannel(s *scan) {
	s.object(func(key []byte) {
		switch string(key) {
		case "kind":
			d.channelKind = schemas.BookingChannelKind(s.plain())
		case "name":
			d.channelName = s.text()
		case "externalReference":
			d.externalReference = s.text()
		default:
			s.skip()
		}
	})
}

func readCustomer(s *scan) (c customer) {
	s.object(func(key []byte) {
		switch string(key) {
		case "customerId":
			c.id = s.plain()
		case "firstName":
			c.first = strings.TrimSpace(s.plain())
		case "lastName":
			c.last = strings.TrimSpace(s.plain())
		default:
			s.skip()
		}
	})
	return c
}

func readLine(s *scan) (l bookedLine) {
	s.object(func(key []byte) {
		switch string(key) {
		case "name":
			l.name = s.plain()
		case "status":
			l.status = schemas.LineStatus(s.plain())
		case "startDate":
			l.startDate = s.plain()
		case "endDate":
			l.endDate = s.plain()
		case "localDate":
			l.localDate = s.plain()
		case "endAt":
			l.endAt = moment(s.plain())
		case "rental":
			s.object(func(key []byte) {
				if string(key) == "endAt" {
					l.rentalEndAt = moment(s.plain())
				} else {
					s.skip()
				}
			})
		case "passengers":
			s.array(func() {
				s.object(func(key []byte) {
					if string(key) == "count" {
						l.people += max(math.MinInt32, min(s.number(), math.MaxInt32))
					} else {
						s.skip()
					}
				})
			})
		default:
			s.skip()
		}
	})
	return l
}

func (d *bookingData) readTotals(s *scan) {
	s.object(func(key []byte) {
		switch string(key) {
		case "total":
			d.total = readMoney(s)
		case "paid":
			d.paid = readMoney(s)
		case "balanceDue":
			d.balanceDue = readMoney(s)
		default:
			s.skip()
		}
	})
}

func readMoney(s *scan) *schemas.Money {
	var amount, currency string
	s.object(func(key []byte) {
		switch string(key) {
		case "amount":
			amount = s.plain()
		case "currency":
			currency = s.plain()
		default:
			s.skip()
		}
	})
	value, err := schemas.ParseDecimal(amount)
	if err != nil {
		return nil
	}
	return &schemas.Money{Amount: value, Currency: clip(currency, 8)}
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
func (ls *lines) lineOf(m *schemas.Meta, eventType string, data []byte, at int64) *schemas.RecentBooking {
	var d bookingData
	d.read(data)
	l := &schemas.RecentBooking{
		BookingID: string(m.EntityID), Reference: code(d.reference), Status: known(d.status, statuses), LastEvent: eventType, EntityVersion: m.EntityVersion,
		ChangedAt: time.UnixMilli(at).UTC(), OccurredAt: time.UnixMilli(m.OccurredAt).UTC(), SoldAt: d.soldAt, CancelledAt: d.cancelledAt,
		ChannelKind: known(d.channelKind, channels), ChannelName: code(d.channelName), ExternalReference: code(d.externalReference),
		CustomerName: d.customerName(), Title: d.title(), Lines: int32(min(len(d.packages)+len(d.activities)+len(d.products), math.MaxInt32)),
		TimeZone: clip(d.timeZone, longestCode), Total: d.total, Paid: d.paid, BalanceDue: d.balanceDue, TestMode: d.testMode || m.TestMode,
	}
	if id := d.leadCustomer; id != nil && len(*id) <= longestID {
		l.LeadCustomerID = id
	}
	ls.travel(&d, l)
	return l
}

// customerName is that of the lead customer; of the first one, if nobody leads.
func (d *bookingData) customerName() *string {
	for _, c := range d.customers {
		if d.leadCustomer == nil || c.id == *d.leadCustomer {
			return text(c.first+" "+c.last, longestName)
		}
	}
	return nil
}

func (d *bookingData) title() *string {
	switch {
	case len(d.packages) > 0:
		return text(d.packages[0].name, longestName)
	case len(d.activities) > 0:
		return text(d.activities[0].name, longestName)
	case len(d.products) > 0:
		return text(d.products[0], longestName)
	}
	return nil
}

// travel finds the days of travel and the passengers: of the lines that are not cancelled, or of all if all are.
func (ls *lines) travel(d *bookingData, l *schemas.RecentBooking) {
	for _, cancelled := range []bool{false, true} {
		for _, list := range [][]bookedLine{d.packages, d.activities} {
			for i := range list {
				b := &list[i]
				if !cancelled && b.status == schemas.LineStatusCancelled {
					continue
				}
				first, last := day(b.startDate), day(b.endDate)
				if first == nil {
					first = day(b.localDate)
				}
				if last == nil {
					last = ls.lastDay(b, d.timeZone)
				}
				if last == nil {
					last = first
				}
				l.FirstDate, l.LastDate = earlier(l.FirstDate, first), later(l.LastDate, last)
				l.Passengers = max(l.Passengers, int32(max(0, min(b.people, math.MaxInt32))))
			}
		}
		if l.FirstDate != nil {
			return
		}
	}
}

// lastDay is the local day on which an activity or a rental ends; nil if it does not say.
func (ls *lines) lastDay(b *bookedLine, zone string) *schemas.Date {
	end := b.endAt
	if b.rentalEndAt != nil {
		end = b.rentalEndAt
	}
	if end == nil {
		return nil
	}
	return day(end.In(ls.zone(zone)).Format(time.DateOnly))
}

// day reads a date; nil if it is none.
func day(text string) *schemas.Date {
	if text == "" {
		return nil
	}
	d, err := schemas.ParseDate(text)
	if err != nil {
		return nil
	}
	return &d
}

// moment reads a time; nil if it is none, or Go's zero time, which cannot be written.
func moment(text string) *time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.IsZero() {
		return nil
	}
	return new(t.UTC().Truncate(time.Millisecond))
}

// What publishers can make us remember is bounded: there are some 600 names, and the longest has 32 letters.
const (
	maxZones    = 2000
	maxZoneName = 64
)

func (ls *lines) zone(name string) *time.Location {
	if len(name) > maxZoneName {
		return time.UTC
	}
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
