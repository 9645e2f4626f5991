package router

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hookferry/hookferry/schemas"
)

// rendered is the body of an event in a format, as a subscription of that name gets it.
func rendered(t testing.TB, r *renderer, ev schemas.Event, f format, name string) string {
	t.Helper()
	load(t, r, ev)
	b, err := r.body(f)
	if err != nil {
		t.Fatal(err)
	}
	out := string(b.head)
	if b.hole {
		out += string(appendString(nil, name)) + string(b.tail)
	}
	if !utf8.ValidString(out) || !json.Valid([]byte(out)) {
		t.Fatalf("not valid UTF-8 JSON: %s", out)
	}
	return out
}

func load(t testing.TB, r *renderer, ev schemas.Event) {
	t.Helper()
	body, err := ev.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := schemas.NewEventReader(schemas.EventSchema(ev.EntityName()))
	if err != nil {
		t.Fatal(err)
	}
	m := new(schemas.Meta)
	rest, err := reader.Meta(body, m)
	if err != nil {
		t.Fatal(err)
	}
	typ, reason := inspect(m, ev.EntityName(), eventTypes())
	if reason != "" {
		t.Fatal("meta is refused: ", reason)
	}
	r.load(reader, m, typ, rest)
}

func p[T any](v T) *T { return &v }

func money(s string) schemas.Money {
	d, err := schemas.ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return schemas.Money{Amount: d, Currency: "USD"}
}

var moment = time.Date(2026, 3, 3, 9, 5, 7, 123e6, time.UTC)

func meta(eventType, entityID string) schemas.EventMeta {
	typ, ok := schemas.EventTypeByName(eventType)
	if !ok {
		panic(eventType)
	}
	return schemas.EventMeta{
		EventID: "evt_0190f1", EventType: eventType, Entity: typ.Kind, Action: typ.Action, GroupID: int32(typ.GroupID), TypeID: int32(typ.TypeID),
		EntityID: entityID, EntityVersion: 7, OccurredAt: moment, PublishedAt: moment.Add(time.Second), TenantID: "harbor", CompanyID: "c0ffee01",
		CompanyName: `Harbor "Kayak" Tours`, SystemURL: p("https://harbor.example.com/"), SchemaVersion: "1",
	}
}

func product(eventType string) *schemas.ProductEvent {
	return &schemas.ProductEvent{Meta: meta(eventType, "41"), Data: schemas.Product{ProductID: "41", Name: "Dry bag", Status: schemas.CatalogStatusActive}}
}

const productJSON = `{"productId":"41","name":"Dry bag","sku":null,"status":"ACTIVE","typeLabel":null,"category":null,"description":null,"images":[],"listPrice":null,` +
	`"taxes":[],"stockTracked":false,"stockOnHand":null,"createdAt":null,"updatedAt":null,"removedAt":null}`

func TestStandardBodyIsExact(t *testing.T) {
	want := `{"type":"product.creation","timestamp":"2026-03-03T09:05:07.123Z","eventId":"evt_0190f1","company":"c0ffee01","entity":"product","entityId":"41",` +
		`"entityVersion":7,"testMode":false,"data":` + productJSON + `}`
	if got := rendered(t, new(renderer), product("product.creation"), standard, ""); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestStandardBodyHasPreviousAndChangesWhereTheEventHas(t *testing.T) {
	ev := product("product.amendment")
	before := ev.Data
	before.Name = "Bag"
	ev.Previous = &before
	ev.Meta.Changes = []schemas.FieldChange{{Path: "/name", Before: p(`"Bag"`), After: p(`"Dry bag"`)}}
	got := rendered(t, new(renderer), ev, standard, "")
	want := `,"data":` + productJSON + `,"previous":` + strings.Replace(productJSON, "Dry bag", "Bag", 1) +
		`,"changes":[{"path":"/name","before":"\"Bag\"","after":"\"Dry bag\""}]}`
	if !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
}

func TestCloudEventBodyIsExact(t *testing.T) {
	want := `{"specversion":"1.0","id":"evt_0190f1","source":"https://harbor.example.com/","type":"product.creation","subject":"41","time":"2026-03-03T09:05:07.123Z",` +
		`"datacontenttype":"application/json","company":"c0ffee01","entityversion":"7","testmode":false,"data":` + productJSON + `}`
	if got := rendered(t, new(renderer), product("product.creation"), cloudEvents, ""); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What stands in meta is text that nobody checked: the source must be a URI reference all the same, and never empty.
func TestCloudEventSourceIsAlwaysAURIReference(t *testing.T) {
	for _, c := range []struct {
		url  *string
		want string
	}{
		{nil, "/companies/c0ffee01"},
		{p(""), "/companies/c0ffee01"},
		{p("https://a.example/x?y=1#z"), "https://a.example/x?y=1#z"},
		{p("https://a.example/with space\"<é>"), "https://a.example/with%20space%22%3C%C3%A9%3E"},
	} {
		ev := product("product.creation")
		ev.Meta.SystemURL = c.url
		var got struct{ Source string }
		if err := json.Unmarshal([]byte(rendered(t, new(renderer), ev, cloudEvents, "")), &got); err != nil || got.Source != c.want {
			t.Errorf("source %q, want %q", got.Source, c.want)
		}
	}
}

func TestClassicEnvelopeIsExact(t *testing.T) {
	want := `{"eventNotificationUniqueId":"evt_0190f1","eventNotificationCompanyName":"Harbor \"Kayak\" Tours","eventNotificationUniqueIdentifier":"c0ffee01",` +
		`"eventNotificationGroupId":1000,"eventNotificationTypeId":1000,"eventNotificationType":"Product Created","eventNotificationTypeV2":"product.creation",` +
		`"eventNotificationDateTime":"2026-03-03T09:05:07+00:00","eventNotificationName":"stock \"A\"","eventNotificationSystem":"harbor",` +
		`"eventNotificationSystemUrl":"https://harbor.example.com/","eventMarketplaceData":{},"eventData":{"productData":{"productId":"41","productName":"Dry bag"}}}`
	if got := rendered(t, new(renderer), product("product.creation"), classic, `stock "A"`); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func booking(lines ...schemas.BookedActivity) *schemas.BookingEvent {
	return &schemas.BookingEvent{Meta: meta("booking.creation", "9001"), Data: schemas.Booking{
		BookingID: "9001", Status: schemas.BookingStatusConfirmed, SoldAt: moment, TimeZone: "America/New_York", Currency: "USD", Activities: lines,
		Totals: schemas.Totals{SubTotal: money("1250"), Tax: money("62.5"), Total: money("1312.5")},
	}}
}

func line(id string) schemas.BookedActivity {
	return schemas.BookedActivity{LineID: "1", ActivityID: id, Name: "Sunset \\ paddle", Kind: schemas.ActivityKindRegular, Status: schemas.LineStatusActive,
		LocalDate: schemas.DateOf(moment), SubTotal: money("1250"), Tax: money("62.5"), Total: money("1312.5"),
		Passengers: []schemas.PassengerCount{{Category: schemas.PassengerCategoryAdult, Count: 2, UnitPrice: p(money("75"))}}}
}

func eventData(t *testing.T, body string) map[string]any {
	t.Helper()
	var env struct{ EventData map[string]map[string]any }
	if err := json.Unmarshal([]byte(body), &env); err != nil {
		t.Fatal(err)
	}
	for _, v := range env.EventData {
		return v
	}
	t.Fatal("eventData is empty")
	return nil
}

// The raw form has an object where there is one element, an array where there are more, and {} where there is none.
func TestClassicListsAreOneOrMany(t *testing.T) {
	r := new(renderer)
	none := eventData(t, rendered(t, r, booking(), classic, ""))["activities"].(map[string]any)
	if len(none) != 0 {
		t.Errorf("no activity: %v", none)
	}
	one := eventData(t, rendered(t, r, booking(line("5")), classic, ""))["activities"].(map[string]any)
	if a, ok := one["activity"].(map[string]any); !ok || a["activityId"] != "5" {
		t.Errorf("one activity: %v", one)
	}
	two := eventData(t, rendered(t, r, booking(line("5"), line("6")), classic, ""))["activities"].(map[string]any)
	if a, ok := two["activity"].([]any); !ok || len(a) != 2 || a[1].(map[string]any)["activityId"] != "6" {
		t.Errorf("two activities: %v", two)
	}
}

func TestClassicBookingHasTheRawHabits(t *testing.T) {
	rental := line("7")
	rental.Kind = schemas.ActivityKindRental
	rental.Rental = &schemas.Rental{StartAt: moment, DurationMinutes: 40, MultiDay: true, EquipmentAssignmentIDs: []string{"E1"}}
	got := rendered(t, new(renderer), booking(rental), classic, "")
	for _, want := range []string{
		`"activityName":"Sunset \\ paddle"`, `"activityType":"Rental"`, `"activityStatus":"Active"`, `"activityDate":"Tuesday March 03 2026"`, `"activityTime":"00:00:00"`,
		`"activityIsRental":true`, `"activityRentalDuration_Hours":"0.66666666666667"`, `"activityRentalStartDateTime":"2026-03-03 04:05:07"`,
		`"activityRentalEndDateTime":{}`, `"activitySubTotal":"$1,250.00"`, `"activityTax":"$62.50"`, `"activityBaseRate":{}`, `"equipmentAssignmentId":"E1"`, `"packageId":"0"`,
		`"passengers":{"adults":"2","children":"0","infants":"0","seniors":"0","students":"0"}`, `"adultsPrice":"75.000000"`, `"childrenPrice":"0.000000"`,
		`"isBookingCancelled":false`, `"bookingSaleDateTime":"2026-03-03 04:05:07"`, `"bookingCloseDateTime":"0000-00-00 00:00:00"`,
		`"bookingRevenue":{"bookingSubTotal":"1250","bookingTax":"62.5","bookingTotal":"1312.5","bookingSubTotal_formated":"$1,250.00","bookingTax_formated":"$62.50","bookingTotal_formated":"$1,312.50"}`,
		`"customers":{}`, `"products":{}`, `"eventNotificationDateTime":"2026-03-03T04:05:07-05:00"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %s\n%s", want, got)
		}
	}
}

func TestMoneyIsFormattedWithoutFloats(t *testing.T) {
	for amount, want := range map[string]string{
		"0": "$0.00", "0.004999": "$0.00", "0.005": "$0.01", "-0.004": "$0.00", "-0.005": "-$0.01", "1250": "$1,250.00", "999.995": "$1,000.00",
		"1234567.894999": "$1,234,567.89", "-1000": "-$1,000.00", "999999999999.999999": "$1,000,000,000,000.00",
	} {
		d, err := schemas.ParseDecimal(amount)
		if err != nil {
			t.Fatal(err)
		}
		var tr tree
		if err := tr.parse([]byte(`{"amount":"` + d.String() + `"}`)); err != nil {
			t.Fatal(err)
		}
		if got := formatted(tr.root()); got != want {
			t.Errorf("%s: %s, want %s", amount, got, want)
		}
	}
	if got := formatted(value{}); got != "" {
		t.Errorf("no money: %q", got)
	}
}

// A renderer carries its buffers over from event to event: nothing of one event may show in the next.
func TestNothingOfOneEventShowsInTheNext(t *testing.T) {
	r := new(renderer)
	big := product("product.amendment")
	big.Data.Description = p(strings.Repeat("secret of another company ", 100))
	big.Previous = p(big.Data)
	big.Meta.Changes = []schemas.FieldChange{{Path: "/description", After: p("secret")}}
	for f := range formats {
		rendered(t, r, big, f, "theirs")
	}
	for f := range formats {
		got := rendered(t, r, product("product.creation"), f, "ours")
		if strings.Contains(got, "secret") || strings.Contains(got, "theirs") || got != rendered(t, new(renderer), product("product.creation"), f, "ours") {
			t.Errorf("format %d: %s", f, got)
		}
	}
}

// Whichever format is asked for first, an event that cannot be decoded to its end has no body at all.
func TestAnEventIsUndecodableInEveryFormatOrInNone(t *testing.T) {
	body, err := product("product.amendment").AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := schemas.NewEventReader(schemas.EventSchema("product"))
	if err != nil {
		t.Fatal(err)
	}
	types := eventTypes()
	for name, b := range map[string][]byte{"cut short": body[:len(body)-1], "trailing": append(body[:len(body):len(body)], 0)} {
		for f := range formats {
			r, m := new(renderer), new(schemas.Meta)
			rest, err := reader.Meta(b, m)
			if err != nil {
				t.Fatal(err)
			}
			r.load(reader, m, types["product.amendment"], rest)
			if _, err := r.body(f); err == nil {
				t.Errorf("%s: format %d has a body", name, f)
			}
		}
	}
}
