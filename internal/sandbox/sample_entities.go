package sandbox

import (
	"strconv"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

func (s *sampler) phone(kind schemas.PhoneKind) schemas.Phone {
	n := s.co.dial + strconv.Itoa(1_000_000 + s.rng.IntN(9_000_000))[:6]
	return schemas.Phone{Kind: kind, Raw: n[:3] + " " + n[3:], E164: new(n)}
}

var streets = []string{"Harbour Road", "Beach Street", "Mill Lane", "Kirkegata", "Rua do Mar", "Ocean View Drive"}

func (s *sampler) address() *schemas.Address {
	return &schemas.Address{
		Line1: new(strconv.Itoa(1+s.rng.IntN(180)) + " " + streets[s.rng.IntN(len(streets))]), City: new(s.co.city),
		PostalCode: new(strconv.Itoa(10_000 + s.rng.IntN(89_999))), Country: new(s.co.country), CountryCode: new(s.co.cc),
	}
}

func (s *sampler) birthDate() *schemas.Date {
	return new(schemas.Date(-5_000 + s.rng.IntN(18_000))) // 1956 to 2005
}

func (s *sampler) customer(id string) schemas.Customer {
	p := &people[s.rng.IntN(len(people))]
	return schemas.Customer{
		CustomerID: id, FirstName: new(p.first), LastName: new(p.last), BirthDate: s.birthDate(), Email: new(p.mail),
		Phones: []schemas.Phone{s.phone(schemas.PhoneKindMobile)}, Address: s.address(), Username: new(p.mail),
		NewsletterOptIn: s.chance(50), LoyaltyProgramOptIn: s.chance(20), DataSharingConsent: s.chance(60), Language: new(s.co.language),
		CreatedAt: new(s.ago(900)),
	}
}

const oldMail = "old.address@mail.example"

func (s *sampler) customerEvent() *schemas.CustomerEvent {
	ev := &schemas.CustomerEvent{Data: s.customer(s.entity)}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Customer) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt = nil, nil
		if s.ends() {
			return nil
		}
		p.Email = new(oldMail)
		return []schemas.FieldChange{change("/email", oldMail, *d.Email)}
	})
	return ev
}

// before makes an amendment's or removal's previous: a copy of the data that undo changes back. What undo touches must not be shared.
func before[T any](s *sampler, data *T, undo func(*T) []schemas.FieldChange) (*T, schemas.EventMeta) {
	if !s.changed() && !s.ends() {
		return nil, s.meta()
	}
	prev := *data
	return &prev, s.meta(undo(&prev)...)
}

var partners = []string{"Seaview Hotel", "Island Concierge", "Wanderlist", "Grand Fjord Resort", "Backpackers' Rest", "Cruise Desk"}

func (s *sampler) account() *schemas.AccountEvent {
	i := s.rng.IntN(len(partners))
	ev := &schemas.AccountEvent{Data: schemas.Account{
		AccountID: s.entity, Name: partners[i], Group: &schemas.EntityRef{ID: "3", Name: new("Hotels")}, TypeLabel: new("Reseller"),
		RateKind: schemas.RateKindWholesale, RateLabel: new("Wholesale 20 %"), BusinessNumber: new("BN" + strconv.Itoa(100_000+s.rng.IntN(900_000))),
		Industry: new("Hospitality"), AnnualRevenue: new(s.money(schemas.Cents(int64(1_000_000 * (1 + s.rng.IntN(90)))))), EmployeeCount: new(int32(5 + s.rng.IntN(200))),
		ManagerName: new(people[i].first + " " + people[i].last), Email: new("desk@partner.example"), Website: new("https://partner" + strconv.Itoa(i) + ".example"),
		Phones: []schemas.Phone{s.phone(schemas.PhoneKindOffice), s.phone(schemas.PhoneKindFax)}, Address: s.address(),
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Account) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt = nil, nil
		if s.ends() {
			return nil
		}
		p.RateLabel = new("Wholesale 15 %")
		return []schemas.FieldChange{change("/rateLabel", *p.RateLabel, *d.RateLabel)}
	})
	return ev
}

func (s *sampler) contact() *schemas.ContactEvent {
	i := s.rng.IntN(len(partners))
	p := &people[s.rng.IntN(len(people))]
	ev := &schemas.ContactEvent{Data: schemas.Contact{
		ContactID: s.entity, Account: schemas.EntityRef{ID: strconv.Itoa(30 + i), Name: new(partners[i])}, FirstName: new(p.first), LastName: new(p.last),
		Title: new("Concierge"), Department: new("Front desk"), Email: new(p.mail), Phones: []schemas.Phone{s.phone(schemas.PhoneKindOffice), s.phone(schemas.PhoneKindMobile)},
		Address: s.address(), Username: new(p.mail),
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Contact) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt = nil, nil
		if s.ends() {
			return nil
		}
		p.Title = nil
		return []schemas.FieldChange{change("/title", nil, *d.Title)}
	})
	return ev
}

func (s *sampler) employee() *schemas.EmployeeEvent {
	p := &people[s.rng.IntN(len(people))]
	ev := &schemas.EmployeeEvent{Data: schemas.Employee{
		EmployeeID: s.entity, Role: schemas.EmployeeRoleDriverGuide, RoleLabel: new("Skipper"), Account: &schemas.EntityRef{ID: "1", Name: new(s.co.name)},
		FirstName: new(p.first), LastName: new(p.last), Title: new("Guide"), Department: new("Operations"), BirthDate: s.birthDate(), Email: new(p.mail),
		Phones: []schemas.Phone{s.phone(schemas.PhoneKindMobile)}, Address: s.address(), Username: new(p.first),
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Employee) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt = nil, nil
		if s.ends() {
			return nil
		}
		p.Role, p.RoleLabel = schemas.EmployeeRoleReservationist, new("Booking desk")
		return []schemas.FieldChange{change("/role", string(p.Role), string(d.Role)), change("/roleLabel", *p.RoleLabel, *d.RoleLabel)}
	})
	return ev
}

// status of a catalogue entry after the event.
func (s *sampler) status() schemas.CatalogStatus {
	if s.ends() {
		return schemas.CatalogStatusRemoved
	}
	return schemas.CatalogStatusActive
}

// gone are the changes that a removal makes.
func gone() []schemas.FieldChange {
	return []schemas.FieldChange{change("/status", string(schemas.CatalogStatusActive), string(schemas.CatalogStatusRemoved))}
}

func (s *sampler) prices(t *tour) []schemas.CategoryPrice {
	out := []schemas.CategoryPrice{{Category: schemas.PassengerCategoryAdult, Price: s.money(schemas.Cents(t.adult))}}
	if t.child > 0 {
		out = append(out, schemas.CategoryPrice{Category: schemas.PassengerCategoryChild, Label: new("4 to 12 years"), Price: s.money(schemas.Cents(t.child))})
	}
	return out
}

func (s *sampler) packageEvent() *schemas.PackageEvent {
	a, b := s.rng.IntN(len(tours)), s.rng.IntN(len(tours))
	first, last := schemas.DateOf(s.now), schemas.DateOf(s.now.AddDate(1, 0, 0))
	ev := &schemas.PackageEvent{Data: schemas.Package{
		PackageID: s.entity, Name: tours[a].name + " & " + tours[b].name, Status: s.status(), Category: &schemas.EntityRef{ID: "2", Name: new("Combinations")},
		ShortDescription: new("Two of our favourites over two days"), Images: []schemas.Image{{URL: "https://img.example/packages/" + s.entity + ".jpg"}},
		ValidFrom: &first, ValidTo: &last, EnforcesComponentOrder: s.chance(50), PriceCodeID: new(strconv.Itoa(90 + a)), Prices: s.prices(&tours[a]),
		Components: []schemas.PackageComponent{
			{Kind: schemas.ComponentKindActivity, ID: strconv.Itoa(300 + a), Name: new(tours[a].name), StartTime: new(schemas.ClockTime(tours[a].hours[0], 0))},
			{Kind: schemas.ComponentKindActivity, ID: strconv.Itoa(300 + b), Name: new(tours[b].name), DayOffset: 1, Optional: s.chance(30)},
		},
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Package) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt, p.Status = nil, nil, schemas.CatalogStatusActive
		if s.ends() {
			return gone()
		}
		p.ShortDescription = new("Two of our favourites")
		return []schemas.FieldChange{change("/shortDescription", *p.ShortDescription, *d.ShortDescription)}
	})
	return ev
}

var everyDay = []schemas.Weekday{schemas.WeekdayMonday, schemas.WeekdayTuesday, schemas.WeekdayWednesday, schemas.WeekdayThursday, schemas.WeekdayFriday, schemas.WeekdaySaturday, schemas.WeekdaySunday}

func (s *sampler) activity() *schemas.ActivityEvent {
	t := &tours[s.rng.IntN(len(tours))]
	var departures []schemas.TimeOfDay
	for _, h := range t.hours {
		departures = append(departures, schemas.ClockTime(h, 0))
	}
	ev := &schemas.ActivityEvent{Data: schemas.Activity{
		ActivityID: s.entity, Name: t.name, Status: s.status(), Kind: t.kind, Category: &schemas.EntityRef{ID: "5", Name: new("Outdoors")},
		ShortDescription: new(t.short), Description: new(t.short + ". Meet at " + t.place + " fifteen minutes before departure; we go in light rain."),
		Images: []schemas.Image{{URL: "https://img.example/activities/" + s.entity + ".jpg", Caption: new(t.place)}}, PricePerPassenger: new(s.money(schemas.Cents(t.adult))),
		Prices: s.prices(t), PriceCodeID: new("41"), DurationMinutes: new(t.minutes), Location: new(t.place), OperatingDays: everyDay[:5+s.rng.IntN(3)],
		DepartureTimes: departures, OperatedBy: &schemas.EntityRef{ID: "1", Name: new(s.co.name)}, TimeZone: s.co.zone.String(),
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Activity) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt, p.Status = nil, nil, schemas.CatalogStatusActive
		if s.ends() {
			return gone()
		}
		p.PricePerPassenger = new(s.money(schemas.Cents(t.adult - 500)))
		return []schemas.FieldChange{change("/pricePerPassenger/amount", p.PricePerPassenger.Amount.String(), d.PricePerPassenger.Amount.String())}
	})
	return ev
}

var wares = []struct {
	name  string
	cents int64
}{{"Dry Bag, 10 Litres", 2_490}, {"Photo Package", 3_900}, {"Reef-Safe Sunscreen", 1_450}, {"Fleece Hat", 2_200}, {"Gift Card Sleeve", 250}}

func (s *sampler) product() *schemas.ProductEvent {
	w := s.rng.IntN(len(wares))
	price := schemas.Cents(wares[w].cents)
	ev := &schemas.ProductEvent{Data: schemas.Product{
		ProductID: s.entity, Name: wares[w].name, SKU: new("SKU-" + strconv.Itoa(1000+w)), Status: s.status(), TypeLabel: new("Flat"),
		Category: &schemas.EntityRef{ID: "8", Name: new("Shop")}, Images: []schemas.Image{{URL: "https://img.example/products/" + s.entity + ".jpg"}},
		ListPrice: new(s.money(price)), Taxes: []schemas.TaxLine{s.taxLine(s.taxOf(price))}, StockTracked: true, StockOnHand: new(int32(s.rng.IntN(200))),
	}}
	d := &ev.Data
	d.CreatedAt, d.UpdatedAt, d.RemovedAt = s.lifetime()
	ev.Previous, ev.Meta = before(s, d, func(p *schemas.Product) []schemas.FieldChange {
		p.UpdatedAt, p.RemovedAt, p.Status = nil, nil, schemas.CatalogStatusActive
		if s.ends() {
			return gone()
		}
		p.StockOnHand = new(*d.StockOnHand + 4)
		return []schemas.FieldChange{change("/stockOnHand", *p.StockOnHand, *d.StockOnHand)}
	})
	return ev
}

// inventory is the new state of an activity's slots on one day.
func (s *sampler) inventory(seq int64) *schemas.InventoryChangeEvent {
	t := &tours[seq%int64(len(tours))]
	day := schemas.DateOf(s.now.In(s.co.zone)) + schemas.Date(1+s.rng.IntN(60))
	ev := &schemas.InventoryChangeEvent{Data: schemas.InventoryChange{
		ActivityID: s.entity, ActivityName: t.name, RangeStart: day, RangeEnd: day, Complete: true, Reason: schemas.InventoryReasonBooking,
		CausedByBookingID: new(strconv.Itoa(recurringBase + s.rng.IntN(recurringEntities))), TimeZone: s.co.zone.String(),
	}}
	for _, h := range t.hours {
		const capacity = 24
		booked := int32(s.rng.IntN(capacity + 1))
		status := schemas.SlotStatusAvailable
		switch {
		case booked == capacity:
			status = schemas.SlotStatusSoldOut
		case capacity-booked < 6:
			status = schemas.SlotStatusLimited
		}
		start := day.Time(s.co.zone)
		ev.Data.Slots = append(ev.Data.Slots, schemas.InventorySlot{
			LocalDate: day, DepartureTime: new(schemas.ClockTime(h, 0)), StartAt: new(atHour(start, h)), Status: status,
			Available: capacity - booked, Booked: booked, Capacity: new(int32(capacity)), PreviousAvailable: new(min(capacity, capacity-booked+2)),
		})
	}
	ev.Meta = s.meta()
	return ev
}

// atHour is a clock hour of a day, right also on the days when the clocks change.
func atHour(day time.Time, hour int) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), hour, 0, 0, 0, day.Location()).UTC()
}
