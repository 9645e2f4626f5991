package sandbox

import (
	"strconv"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

func (s *sampler) booking() *schemas.BookingEvent {
	b := s.newBooking(s.entity)
	ev := &schemas.BookingEvent{Data: b}
	switch {
	case s.ends():
		prev := b
		ev.Previous = &prev
		s.cancel(&ev.Data)
		ev.Meta = s.meta(change("/status", string(prev.Status), string(ev.Data.Status)))
	case s.changed():
		prev := s.before(&ev.Data)
		ev.Previous = prev
		ev.Data.UpdatedAt = new(s.now)
		was, is := prev.Activities[0].Passengers[0].Count, b.Activities[0].Passengers[0].Count
		ev.Meta = s.meta(
			change("/activities/0/passengers/0/count", was, is),
			change("/totals/total/amount", prev.Totals.Total.Amount.String(), b.Totals.Total.Amount.String()),
		)
	default:
		ev.Meta = s.meta()
	}
	return ev
}

// newBooking is one or two activities, sometimes merchandise, paid or not.
func (s *sampler) newBooking(id string) schemas.Booking {
	lead := s.customer(strconv.Itoa(60_000 + s.rng.IntN(20_000)))
	b := schemas.Booking{
		BookingID: id, Reference: new("HF-" + s.hex(3)), Status: schemas.BookingStatusConfirmed, SoldAt: s.now,
		Channel: s.channel(), SoldBy: new(s.actor()), LeadCustomerID: new(lead.CustomerID), Customers: []schemas.Customer{lead},
		TimeZone: s.co.zone.String(), Currency: s.co.currency, Language: new(s.co.language),
	}
	if s.t.Trigger != "creation" {
		b.SoldAt = s.ago(60)
	}
	for i := range 1 + s.rng.IntN(2) {
		b.Activities = append(b.Activities, s.bookedActivity(id+"-"+strconv.Itoa(i+1), &lead))
	}
	if s.chance(25) {
		b.Products = []schemas.BookedProduct{s.bookedProduct(id + "-9")}
	}
	if s.chance(30) {
		b.Notes = new("Vegetarian lunch, please. Arrives by taxi.")
		b.CustomFields = map[string]string{"hotel": "Seaview " + strconv.Itoa(100+s.rng.IntN(400)), "heardOfUs": "friend"}
	}
	s.sumUp(&b)
	return b
}

func (s *sampler) channel() schemas.Channel {
	switch s.rng.IntN(4) {
	case 0:
		return schemas.Channel{Kind: schemas.BookingChannelKindOTA, Name: new("Wanderlist"), ExternalReference: new("WL-" + s.hex(4)), Marketplace: map[string]string{"campaign": "spring"}}
	case 1:
		return schemas.Channel{Kind: schemas.BookingChannelKindCallCenter}
	case 2:
		return schemas.Channel{Kind: schemas.BookingChannelKindWalkUp}
	}
	return schemas.Channel{Kind: schemas.BookingChannelKindOnline}
}

func (s *sampler) bookedActivity(line string, lead *schemas.Customer) schemas.BookedActivity {
	n := s.rng.IntN(len(tours))
	t := &tours[n]
	day := s.now.In(s.co.zone).AddDate(0, 0, 1+s.rng.IntN(90))
	hour := t.hours[s.rng.IntN(len(t.hours))]
	start := time.Date(day.Year(), day.Month(), day.Day(), hour, 0, 0, 0, s.co.zone)
	end := start.Add(time.Duration(t.minutes) * time.Minute)
	a := schemas.BookedActivity{
		LineID: line, ActivityID: strconv.Itoa(300 + n), Name: t.name, Kind: t.kind, Status: schemas.LineStatusActive,
		LocalDate: schemas.DateOf(start), StartTime: new(schemas.ClockTime(hour, 0)), StartAt: new(start.UTC()), EndAt: new(end.UTC()),
		PriceCodeID: new(strconv.Itoa(40 + n)), BaseRate: new(s.money(schemas.Cents(t.adult))), AccountingCode: new("4" + strconv.Itoa(100+n)),
		CheckInStatus: schemas.CheckInStatusNotCheckedIn,
	}
	a.Passengers = []schemas.PassengerCount{{Category: schemas.PassengerCategoryAdult, Count: int32(2 + s.rng.IntN(4)), UnitPrice: new(s.money(schemas.Cents(t.adult)))}}
	if t.child > 0 && s.chance(40) {
		a.Passengers = append(a.Passengers, schemas.PassengerCount{Category: schemas.PassengerCategoryChild, Count: int32(1 + s.rng.IntN(2)), UnitPrice: new(s.money(schemas.Cents(t.child)))})
	}
	a.Guests = []schemas.Guest{{GuestID: line + "-g1", FirstName: lead.FirstName, LastName: lead.LastName, Category: schemas.PassengerCategoryAdult, TicketCode: new("TK" + s.hex(5))}}
	if t.kind == schemas.ActivityKindRental {
		a.Rental = &schemas.Rental{StartAt: start.UTC(), EndAt: new(end.UTC()), DurationMinutes: t.minutes, EquipmentAssignmentIDs: []string{strconv.Itoa(700 + s.rng.IntN(80))}}
	} else if s.chance(30) {
		a.Pickup = &schemas.Stop{LocationID: new(strconv.Itoa(50 + s.rng.IntN(20))), Name: new("Hotel lobby"), At: new(start.Add(-40 * time.Minute).UTC())}
	}
	s.price(&a)
	return a
}

// price derives an activity line's sums from its passengers.
func (s *sampler) price(a *schemas.BookedActivity) {
	var sub schemas.Decimal
	for i := range a.Passengers {
		sub = plus(sub, times(a.Passengers[i].UnitPrice.Amount, int64(a.Passengers[i].Count)))
	}
	tax := s.taxOf(sub)
	a.SubTotal, a.Tax, a.Total = s.money(sub), s.money(tax), s.money(plus(sub, tax))
	a.Taxes = []schemas.TaxLine{s.taxLine(tax)}
}

func (s *sampler) taxLine(amount schemas.Decimal) schemas.TaxLine {
	return schemas.TaxLine{TaxID: new("1"), Name: "Sales tax", Rate: new(schemas.Cents(s.co.taxPercent)), Amount: s.money(amount)}
}

func (s *sampler) bookedProduct(line string) schemas.BookedProduct {
	w := s.rng.IntN(len(wares))
	n := int64(1 + s.rng.IntN(3))
	sub := times(schemas.Cents(wares[w].cents), n)
	tax := s.taxOf(sub)
	return schemas.BookedProduct{
		LineID: line, ProductID: strconv.Itoa(800 + w), Name: wares[w].name, Quantity: int32(n), UnitPrice: s.money(schemas.Cents(wares[w].cents)),
		SubTotal: s.money(sub), Tax: s.money(tax), Taxes: []schemas.TaxLine{s.taxLine(tax)}, Total: s.money(plus(sub, tax)),
	}
}

// sumUp derives a booking's totals from its lines, and pays all or half of it by card.
func (s *sampler) sumUp(b *schemas.Booking) {
	var sub, tax schemas.Decimal
	for i := range b.Activities {
		sub, tax = plus(sub, b.Activities[i].SubTotal.Amount), plus(tax, b.Activities[i].Tax.Amount)
	}
	for i := range b.Products {
		sub, tax = plus(sub, b.Products[i].SubTotal.Amount), plus(tax, b.Products[i].Tax.Amount)
	}
	total := plus(sub, tax)
	paid := total
	if s.chance(20) {
		paid.Unscaled /= 2
	}
	due := schemas.Decimal{Unscaled: total.Unscaled - paid.Unscaled}
	b.Totals = schemas.Totals{SubTotal: s.money(sub), Tax: s.money(tax), Total: s.money(total), Paid: new(s.money(paid)), BalanceDue: new(s.money(due))}
	b.Taxes = []schemas.TaxLine{s.taxLine(tax)}
	b.Payments = []schemas.Payment{{
		PaymentID: "p" + b.BookingID, Kind: schemas.PaymentKindCharge, Method: schemas.PaymentMethodCreditCard, Amount: s.money(paid), ProcessedAt: b.SoldAt,
		CardBrand: new("Visa"), CardLast4: new(strconv.Itoa(1000 + s.rng.IntN(9000))), GatewayReference: new("ch_" + s.hex(8)),
	}}
}

// before is the booking with one adult fewer on its first line. It shares with b only what neither changes.
func (s *sampler) before(b *schemas.Booking) *schemas.Booking {
	prev := *b
	prev.Activities = append([]schemas.BookedActivity(nil), b.Activities...)
	first := &prev.Activities[0]
	first.Passengers = append([]schemas.PassengerCount(nil), first.Passengers...)
	first.Passengers[0].Count--
	s.price(first)
	s.sumUp(&prev)
	prev.Payments = b.Payments
	prev.Totals.Paid = b.Totals.Paid
	due := schemas.Decimal{Unscaled: prev.Totals.Total.Amount.Unscaled - b.Totals.Paid.Amount.Unscaled}
	prev.Totals.BalanceDue = new(s.money(due))
	return &prev
}

func (s *sampler) cancel(b *schemas.Booking) {
	b.Status = schemas.BookingStatusCancelled
	b.ClosedAt, b.UpdatedAt = new(s.now), new(s.now)
	b.Cancellation = &schemas.Cancellation{CancelledAt: s.now, By: s.actor(), Reason: new("Weather"), Refund: new(*b.Totals.Paid)}
	b.Activities = append([]schemas.BookedActivity(nil), b.Activities...)
	for i := range b.Activities {
		b.Activities[i].Status = schemas.LineStatusCancelled
	}
}

// checkIn is every third time the undoing of one.
func (s *sampler) checkIn() *schemas.CheckInEvent {
	lead := s.customer(strconv.Itoa(60_000 + s.rng.IntN(20_000)))
	line := s.entity + "-1"
	a := s.bookedActivity(line, &lead)
	today := s.now.In(s.co.zone)
	a.LocalDate = schemas.DateOf(today)
	start := time.Date(today.Year(), today.Month(), today.Day(), int(*a.StartTime)/3_600_000, 0, 0, 0, s.co.zone)
	a.StartAt, a.EndAt, a.Rental = new(start.UTC()), nil, nil
	status, was := schemas.CheckInStatusCheckedIn, schemas.CheckInStatusNotCheckedIn
	if s.version%3 == 0 {
		status, was = was, status
	}
	a.CheckInStatus = status
	c := schemas.CheckIn{
		CheckInID: "ci_" + s.hex(8), BookingID: s.entity, BookingReference: new("HF-" + s.hex(3)), LineID: new(line), ActivityID: a.ActivityID, ActivityName: a.Name,
		LocalDate: a.LocalDate, StartTime: a.StartTime, StartAt: a.StartAt, GuestID: new(a.Guests[0].GuestID),
		Status: status, PreviousStatus: &was, Method: schemas.CheckInMethodManual, ChangedAt: s.now, PerformedBy: new(s.actor()),
		Message: new(a.Name + ", " + s.now.In(s.co.zone).Format("2 January 2006 15:04")), BalanceDue: new(s.money(schemas.Decimal{})),
		Activity: &a, Customers: []schemas.Customer{lead}, TimeZone: s.co.zone.String(),
	}
	if status == schemas.CheckInStatusCheckedIn {
		c.PassengersCheckedIn = []schemas.PassengerCount{{Category: schemas.PassengerCategoryAdult, Count: 1}}
		if s.chance(70) {
			c.Method = schemas.CheckInMethodTicketScan
			c.Scan = &schemas.Scan{TicketCode: *a.Guests[0].TicketCode, Result: schemas.ScanResultAccepted, ScannedAt: s.now, DeviceID: new("gate-2"), Location: new("Pier")}
		}
	}
	return &schemas.CheckInEvent{Meta: s.meta(), Data: c}
}
