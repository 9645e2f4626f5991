package recent

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// plainLine is the line by way of the typed record, which knows nothing of JSON.
func plainLine(ev *schemas.BookingEvent, at int64) *schemas.RecentBooking {
	m, d := &ev.Meta, &ev.Data
	l := &schemas.RecentBooking{BookingID: m.EntityID, Reference: d.Reference, Status: d.Status, LastEvent: m.EventType, EntityVersion: m.EntityVersion,
		ChangedAt: time.UnixMilli(at).UTC(), OccurredAt: m.OccurredAt, SoldAt: &d.SoldAt, ChannelKind: d.Channel.Kind, ChannelName: d.Channel.Name,
		ExternalReference: d.Channel.ExternalReference, LeadCustomerID: d.LeadCustomerID, TimeZone: d.TimeZone, Total: &d.Totals.Total, Paid: d.Totals.Paid,
		BalanceDue: d.Totals.BalanceDue, TestMode: d.TestMode, Lines: int32(len(d.Packages) + len(d.Activities) + len(d.Products))}
	if d.Cancellation != nil {
		l.CancelledAt = &d.Cancellation.CancelledAt
	}
	l.CustomerName = new(strings.TrimSpace(*d.Customers[0].FirstName + " " + *d.Customers[0].LastName))
	l.Title = &d.Activities[0].Name
	zone, err := time.LoadLocation(d.TimeZone)
	if err != nil {
		panic(err)
	}
	all := true
	for _, a := range d.Activities {
		all = all && a.Status == schemas.LineStatusCancelled
	}
	for _, a := range d.Activities {
		if a.Status == schemas.LineStatusCancelled && !all {
			continue
		}
		first, last, people := a.LocalDate, a.LocalDate, int32(0)
		if a.EndAt != nil {
			last = schemas.DateOf(a.EndAt.In(zone))
		}
		if a.Rental != nil && a.Rental.EndAt != nil {
			last = schemas.DateOf(a.Rental.EndAt.In(zone))
		}
		for _, p := range a.Passengers {
			people += p.Count
		}
		if l.FirstDate == nil || first < *l.FirstDate {
			l.FirstDate = &first
		}
		if l.LastDate == nil || last > *l.LastDate {
			l.LastDate = &last
		}
		l.Passengers = max(l.Passengers, people)
	}
	return l
}

func TestALineSaysWhatItsBookingSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	d := newDecoder()
	for i := range 600 {
		typ := []string{"booking.creation", "booking.amendment", "booking.cancellation"}[i%3]
		ev := sandbox.Sample(rng, typ, []string{"acme", "harbor", "c9", "zz"}[i%4], int64(i)).(*schemas.BookingEvent)
		ch, ok, reason, err := d.change(context.Background(), kafka.TP{Partition: 3}, &kafka.Record{Value: framed(t, ev), Time: 1_800_000_000_123, Offset: 77})
		if !ok {
			t.Fatal(reason, err)
		}
		if ch.Company != ev.Meta.CompanyID || ch.Booking != ev.Data.BookingID || ch.Version != ev.Meta.EntityVersion || ch.Position != (Position{1_800_000_000_123, 3, 77}) ||
			ch.About != (About{ev.Meta.CompanyName, ev.Meta.TenantID, *ev.Meta.SystemURL}) {
			t.Errorf("%+v", ch)
		}
		var got schemas.RecentBooking
		if err := got.DecodeAvro(ch.Line); err != nil {
			t.Fatal(err)
		}
		want := plainLine(ev, 1_800_000_000_123)
		b, err := want.AppendAvro(nil)
		if err != nil {
			t.Fatal(err)
		}
		var same schemas.RecentBooking
		if err := same.DecodeAvro(b); err != nil || !reflect.DeepEqual(got, same) {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(same)
			t.Fatalf("%s:\n%s\nwant\n%s", typ, g, w)
		}
	}
}

// A publisher with a schema of his own: fields are missing, are of other types, or are more than ours.
func TestALineIsMadeOfWhatAStrangerWrites(t *testing.T) {
	m := &schemas.Meta{EntityID: []byte("B-1"), EntityVersion: 2}
	ls := new(lines)
	for data, want := range map[string]schemas.RecentBooking{
		`{}`:           {},
		`{"status":7}`: {},
		`{"status":"REFUNDED","channel":"web","customers":{"a":1},"activities":[[1],"x",null,{"name":3,"passengers":[{"count":1.5},{"count":-3},9]}]}`:          {Lines: 4},
		`{"new":{"deep":[{"a":"]}\"\\"}]},"reference":"R\"\u00e4","testMode":true,"timeZone":"\u0000x"}`:                                                        {Reference: new(`R"ä`), TestMode: true, TimeZone: " x"},
		`{"packages":[{"name":"P","startDate":"2026-02-30"},{"startDate":"2026-03-01","endDate":"2026-03-04"}],"products":[{"name":"mug"}]}`:                    {Title: new("P"), Lines: 3, FirstDate: new(schemas.Date(20513)), LastDate: new(schemas.Date(20516))},
		`{"activities":[{"status":"CANCELLED","localDate":"2026-03-01","passengers":[{"count":3}]}],"totals":{"total":{"amount":"x"},"paid":{"amount":"1.5"}}}`: {Lines: 1, Passengers: 3, FirstDate: new(schemas.Date(20513)), LastDate: new(schemas.Date(20513)), Paid: &schemas.Money{Amount: schemas.Decimal{Unscaled: 1_500_000}}},
		`{"activities":[{"passengers":[{"count":2147483647},{"count":2147483647}],"localDate":"2026-03-01","endAt":"2026-03-02T01:00:00.000Z"}],"timeZone":"America/Vancouver"}`: {
			Lines: 1, Passengers: 2147483647, FirstDate: new(schemas.Date(20513)), LastDate: new(schemas.Date(20513)), TimeZone: "America/Vancouver"},
		`{"activities":[{"status":"CANCELLED","localDate":"2026-02-01","passengers":[{"count":9}]},{"status":"ACTIVE","localDate":"2026-03-01","passengers":[{"count":2}]}]}`: {
			Lines: 2, Passengers: 2, FirstDate: new(schemas.Date(20513)), LastDate: new(schemas.Date(20513))},
		`{"soldAt":"0001-01-01T00:00:00.000Z","cancellation":{"cancelledAt":"yesterday"},"leadCustomerId":"` + strings.Repeat("x", 256) + `"}`: {},
	} {
		got := ls.lineOf(m, "booking.creation", []byte(data), 5)
		want.BookingID, want.EntityVersion, want.LastEvent = "B-1", 2, "booking.creation"
		want.ChangedAt, want.OccurredAt = time.UnixMilli(5).UTC(), time.UnixMilli(0).UTC()
		if !reflect.DeepEqual(*got, want) {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			t.Errorf("%s:\n%s\nwant\n%s", data, g, w)
		}
		if _, err := got.AppendAvro(nil); err != nil {
			t.Error(err)
		}
	}
}

func TestATextIsCutBetweenTwoCharacters(t *testing.T) {
	for _, c := range []struct {
		in, want string
		most     int
	}{{"abc", "abc", 3}, {"abcd", "abc", 3}, {"aüb", "a", 2}, {"aüb", "aü", 3}, {"日本語", "日", 5}, {"a\x00\x1fb\x7f", "a  b ", 9}, {"", "", 0}, {"ü", "", 1}} {
		if got := clip(c.in, c.most); got != c.want {
			t.Errorf("%q to %d: %q", c.in, c.most, got)
		}
	}
}

// Whatever the bytes: no panic, an end, and a line that can be written.
func FuzzLine(f *testing.F) {
	for _, s := range []string{`{`, `{"a`, `{"a"`, `{"a":`, `{"activities":[`, `{"activities":[}`, `{"activities":[,]`, `[]`, `"`, `{"reference":"\`, `{"customers":[{"firstName":"\ud800"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := new(lines).lineOf(&schemas.Meta{EntityID: []byte("B")}, "booking.creation", bytes.ToValidUTF8(data, []byte("?")), 1)
		if _, err := l.AppendAvro(nil); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}
