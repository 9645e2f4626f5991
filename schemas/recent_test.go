package schemas_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The 27th type must not slip into what upstream services publish, what the demo counts and what "*" stands for.
func TestTheSnapshotIsOfTheCatalogueAndNotOfThe26(t *testing.T) {
	all, theirs := schemas.AllEventTypes(), schemas.EventTypes()
	if len(theirs) != 26 || len(all) != 27 || !slices.Equal(all[:26], theirs) {
		t.Fatalf("%d types of upstream services, %d in all", len(theirs), len(all))
	}
	for _, et := range all {
		if et.Internal != (et.Name == schemas.RecentSnapshot) {
			t.Errorf("%s: internal %v", et.Name, et.Internal)
		}
	}
	if et, ok := schemas.EventTypeByName(schemas.RecentSnapshot); !ok || et != all[26] || et.Kind != schemas.EntityKindUnknown || et.GroupID != 0 {
		t.Errorf("%+v %v", et, ok)
	}
	if e := schemas.AllEntities(); !slices.Equal(e[:10], schemas.Entities()) || !slices.Equal(e[10:], []string{"recent_reservations"}) {
		t.Error(e)
	}
}

func TestWhoASnapshotIsAddressedTo(t *testing.T) {
	for _, c := range []struct{ typ, company, entity, want string }{
		{schemas.RecentSnapshot, "acme", "acme", ""},
		{schemas.RecentSnapshot, "acme", "sub_1", "sub_1"},
		{schemas.RecentSnapshot, "sub_1", "sub_1", ""},
		{"booking.creation", "acme", "sub_1", ""},
	} {
		if got := schemas.Addressee(c.typ, c.company, c.entity); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestASnapshotOfEncodedBookingsIsTheSameAsOneOfBookings(t *testing.T) {
	ev := &schemas.RecentReservationsEvent{Meta: schemas.EventMeta{EventID: "e", OccurredAt: time.UnixMilli(1), PublishedAt: time.UnixMilli(1)}, Data: schemas.RecentReservations{CompanyID: "c"}}
	for n := range 3 {
		var encoded [][]byte
		for i := range ev.Data.Bookings {
			b, err := ev.Data.Bookings[i].AppendAvro(nil)
			if err != nil {
				t.Fatal(err)
			}
			encoded = append(encoded, b)
		}
		want, err := ev.AppendAvro([]byte("kept"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := schemas.AppendSnapshot([]byte("kept"), ev, encoded); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d bookings: %x, %v\nwant %x", n, got, err, want)
		}
		ev.Data.Bookings = append(ev.Data.Bookings, schemas.RecentBooking{BookingID: "B", ChangedAt: time.UnixMilli(1), OccurredAt: time.UnixMilli(1)})
	}
	if b, err := schemas.AppendSnapshot([]byte("kept"), &schemas.RecentReservationsEvent{}, nil); err == nil || string(b) != "kept" {
		t.Errorf("%q %v", b, err)
	}
}

func TestALineOfASnapshotReadsBackAsItWasWritten(t *testing.T) {
	want := schemas.RecentBooking{BookingID: "B-1", Reference: new("HF-1"), Status: schemas.BookingStatusCancelled, LastEvent: "booking.cancellation",
		ChangedAt: time.UnixMilli(5).UTC(), OccurredAt: time.UnixMilli(4).UTC(), ChannelKind: schemas.BookingChannelKindOTA, FirstDate: new(schemas.Date(20_000)),
		Total: &schemas.Money{Amount: schemas.Decimal{Unscaled: -7}, Currency: "EUR"}, TimeZone: "UTC"}
	b, err := want.AppendAvro([]byte("kept"))
	var got schemas.RecentBooking
	if err != nil || string(b[:4]) != "kept" || got.DecodeAvro(b[4:]) != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range b[4:] {
		if new(schemas.RecentBooking).DecodeAvro(b[4:4+n]) == nil {
			t.Fatalf("%d of %d bytes decoded", n, len(b)-4)
		}
	}
	want.BookingID = "\xff"
	if b, err := want.AppendAvro([]byte("kept")); err == nil || string(b) != "kept" || !strings.Contains(err.Error(), "bookingId") {
		t.Errorf("%q %v", b, err)
	}
}
