package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// Sample makes an event of any of the 26 types as a booking platform would publish it: complete, coherent (sums add up, times lie in the company's zone,
// an amendment's previous differs from its data in what its changes list) and with a new event id. Everything comes from rng and seq, but the time, which is now.
//
// For one company and type, seq must grow by one from call to call. Then entity versions grow as they must: amendments, check-ins and
// inventory come back to a fixed set of entities, version by version; creations and removals take a new entity each time.
// Safe for concurrent use if each caller has its own rng. An unknown type is a bug of the caller.
func Sample(rng *rand.Rand, eventType, company string, seq int64) schemas.Event {
	t, ok := schemas.EventTypeByName(eventType)
	if !ok {
		panic("BUG: no event type " + eventType)
	}
	s := sampler{rng: rng, t: t, co: companyOf(company), now: time.Now().UTC().Truncate(time.Millisecond)}
	s.entity, s.version = entityAt(t, seq)
	switch t.Entity {
	case "booking":
		return s.booking()
	case "customer":
		return s.customerEvent()
	case "check_in":
		return s.checkIn()
	case "account":
		return s.account()
	case "contact":
		return s.contact()
	case "employee":
		return s.employee()
	case "package":
		return s.packageEvent()
	case "activity":
		return s.activity()
	case "product":
		return s.product()
	case "inventory":
		return s.inventory(seq)
	}
	panic("BUG: no sample for entity " + t.Entity)
}

// sampler is one call of Sample.
type sampler struct {
	rng     *rand.Rand
	t       schemas.EventType
	co      *companyFacts
	now     time.Time
	entity  string
	version int64
}

// Entities that come back: few enough that each grows old, many enough that a partition sees a mixture.
const (
	recurringEntities = 500
	recurringBase     = 400_000
	createdBase       = 1_000_000
	removedBase       = 5_000_000
)

// entityAt is which entity the seq-th event of a type is about, and its version after the event.
func entityAt(t schemas.EventType, seq int64) (id string, version int64) {
	switch {
	case t.Entity == "inventory":
		n := int64(len(tours))
		return strconv.FormatInt(300+seq%n, 10), 1 + seq/n
	case t.Trigger == "creation":
		return strconv.FormatInt(createdBase+seq, 10), 1
	case t.Trigger == "amendment", t.Trigger == "recorded":
		return strconv.FormatInt(recurringBase+seq%recurringEntities, 10), 2 + seq/recurringEntities
	default:
		return strconv.FormatInt(removedBase+seq, 10), 2 + seq%4
	}
}

func (s *sampler) meta(changes ...schemas.FieldChange) schemas.EventMeta {
	return schemas.EventMeta{
		EventID: s.eventID(), EventType: s.t.Name, Entity: s.t.Kind, Action: s.t.Action,
		GroupID: int32(s.t.GroupID), TypeID: int32(s.t.TypeID),
		EntityID: s.entity, EntityVersion: s.version,
		OccurredAt: s.now, PublishedAt: s.now,
		TenantID: s.co.tenant, CompanyID: s.co.id, CompanyName: s.co.name, SystemURL: new(s.co.url),
		Actor: new(s.actor()), CorrelationID: new("act_" + s.hex(8)),
		Changes: changes, SchemaVersion: schemas.EventSchemaVersion,
	}
}

// ends says whether the event is the entity's last; changed whether it has a state before.
func (s *sampler) ends() bool    { return s.t.Trigger == "removal" || s.t.Trigger == "cancellation" }
func (s *sampler) changed() bool { return s.t.Trigger == "amendment" }

// eventID is "evt_" and 40 hex digits.
func (s *sampler) eventID() string {
	var raw [20]byte
	binary.BigEndian.PutUint64(raw[:], s.rng.Uint64())
	binary.BigEndian.PutUint64(raw[8:], s.rng.Uint64())
	binary.BigEndian.PutUint32(raw[16:], s.rng.Uint32())
	return "evt_" + hex.EncodeToString(raw[:])
}

// hex is 2n hex digits, n <= 8.
func (s *sampler) hex(n int) string {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], s.rng.Uint64())
	return hex.EncodeToString(raw[:n])
}

func (s *sampler) actor() schemas.Actor {
	p := &people[s.rng.IntN(len(people))]
	return schemas.Actor{Kind: schemas.ActorKindEmployee, ID: new(strconv.Itoa(20 + s.rng.IntN(30))), DisplayName: new(p.first + " " + p.last)}
}

func (s *sampler) chance(percent int) bool { return s.rng.IntN(100) < percent }

func (s *sampler) money(d schemas.Decimal) schemas.Money {
	return schemas.Money{Amount: d, Currency: s.co.currency}
}

// times plus a number of whole units keep their six digits.
func times(d schemas.Decimal, n int64) schemas.Decimal {
	return schemas.Decimal{Unscaled: d.Unscaled * n}
}

func plus(ds ...schemas.Decimal) schemas.Decimal {
	var sum schemas.Decimal
	for _, d := range ds {
		sum.Unscaled += d.Unscaled
	}
	return sum
}

// taxOf rounds down to a cent.
func (s *sampler) taxOf(d schemas.Decimal) schemas.Decimal {
	const cent = 10_000
	return schemas.Decimal{Unscaled: d.Unscaled * s.co.taxPercent / 100 / cent * cent}
}

// ago is a moment within so many days before now, to the second.
func (s *sampler) ago(days int) time.Time {
	return s.now.Add(-time.Duration(1+s.rng.IntN(days*86_400)) * time.Second).Truncate(time.Second)
}

// lifetimes of an entity that exists outside bookings.
func (s *sampler) lifetime() (created, updated, removed *time.Time) {
	switch {
	case s.ends():
		return new(s.ago(700)), new(s.now), new(s.now)
	case s.changed():
		return new(s.ago(700)), new(s.now), nil
	}
	return new(s.now), nil, nil
}

func change(path string, before, after any) schemas.FieldChange {
	return schemas.FieldChange{Path: path, Before: jsonText(before), After: jsonText(after)}
}

func jsonText(v any) *string {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		return new(strconv.Quote(v)) // our own sample text: no character that JSON quotes in another way
	default:
		return new(fmt.Sprint(v))
	}
}

// companyFacts is what a company keeps from event to event.
type companyFacts struct {
	id, name, tenant, url string
	zone                  *time.Location
	currency              string
	taxPercent            int64
	language, country, cc string
	city                  string
	dial                  string
}

type market struct {
	zone                  string
	offset                int // in seconds, where a host has no zone data
	currency              string
	taxPercent            int64
	language, country, cc string
	city, dial            string
}

var markets = []market{
	{"Pacific/Honolulu", -36_000, "USD", 4, "en-US", "United States", "US", "Honolulu", "+1808"},
	{"America/Los_Angeles", -28_800, "USD", 9, "en-US", "United States", "US", "San Diego", "+1619"},
	{"America/Vancouver", -28_800, "CAD", 12, "en-CA", "Canada", "CA", "Victoria", "+1250"},
	{"Europe/Lisbon", 0, "EUR", 13, "pt-PT", "Portugal", "PT", "Lagos", "+351282"},
	{"Europe/Oslo", 3_600, "NOK", 12, "nb-NO", "Norway", "NO", "Tromsø", "+4777"},
	{"Pacific/Auckland", 43_200, "NZD", 15, "en-NZ", "New Zealand", "NZ", "Queenstown", "+643"},
}

var companyNames = []string{"Harbour Light Tours", "Blue Reef Adventures", "Cedar Trail Outfitters", "Northern Sky Journeys", "Saltwater Charters", "Old Town Walks", "Lava Coast Rentals", "Two Rivers Rafting"}

// zones are loaded once: reading zone data for each event would be most of its cost.
var zones = func() []*time.Location {
	out := make([]*time.Location, len(markets))
	for i, m := range markets {
		z, err := time.LoadLocation(m.zone)
		if err != nil {
			z = time.FixedZone(m.zone, m.offset)
		}
		out[i] = z
	}
	return out
}()

// companyOf derives everything about a company from its id, so that all its events agree.
func companyOf(id string) *companyFacts {
	h := uint32(2166136261)
	for i := 0; i < len(id); i++ {
		h = (h ^ uint32(id[i])) * 16777619
	}
	i := int(h>>8) % len(markets)
	m := &markets[i]
	tenant := "t" + strconv.Itoa(int(h%90)+10)
	return &companyFacts{
		id: id, name: companyNames[int(h>>16)%len(companyNames)], tenant: tenant, url: "https://" + tenant + ".bookings.example",
		zone: zones[i], currency: m.currency, taxPercent: m.taxPercent, language: m.language, country: m.country, cc: m.cc, city: m.city, dial: m.dial,
	}
}

type tour struct {
	name, short, place string
	kind               schemas.ActivityKind
	adult, child       int64 // cents
	minutes            int32
	hours              []int
}

var tours = []tour{
	{"Sunset Catamaran Sail", "Two hours along the coast, with drinks", "Pier 3", schemas.ActivityKindRegular, 11_900, 8_900, 120, []int{16, 18}},
	{"Morning Snorkel at Turtle Bay", "Small boat, gear included", "North dock", schemas.ActivityKindRegular, 9_450, 7_200, 180, []int{7, 9}},
	{"Half-Day Kayak Rental", "Single or double, with dry bag", "Boat shed", schemas.ActivityKindRental, 5_500, 4_000, 240, []int{8, 13}},
	{"Old Town Food Walk", "Seven tastings in three hours", "Fountain square", schemas.ActivityKindRegular, 7_900, 3_900, 180, []int{11, 17}},
	{"Summit Zip Line", "Eight lines above the forest", "Valley lodge", schemas.ActivityKindInterval, 14_500, 12_500, 150, []int{9, 11, 13, 15}},
	{"Airport Shuttle", "Door to door", "Arrivals", schemas.ActivityKindPointToPoint, 3_200, 1_600, 45, []int{6, 10, 14, 19}},
	{"Private Fishing Charter", "Up to six anglers", "Pier 1", schemas.ActivityKindCharter, 89_000, 0, 480, []int{6}},
	{"Glacier Hike with Guide", "Crampons included, moderate", "Ice camp", schemas.ActivityKindRegular, 16_800, 13_400, 300, []int{8, 12}},
	{"Night Stargazing", "Telescopes and hot chocolate", "Ridge car park", schemas.ActivityKindRegular, 6_400, 3_200, 120, []int{20, 21}},
	{"Whitewater Rafting, Grade III", "Wetsuit included, from 12 years", "River base", schemas.ActivityKindRegular, 12_900, 10_900, 210, []int{9, 14}},
	{"E-Bike Day Rental", "Helmet and lock included", "Shop", schemas.ActivityKindRental, 6_900, 4_900, 480, []int{9}},
	{"Whale Watching", "Sightings guaranteed, or come again", "Pier 2", schemas.ActivityKindRegular, 10_500, 7_500, 150, []int{8, 11, 14}},
}

type person struct{ first, last, mail string }

var people = []person{
	{"Leilani", "Kealoha", "leilani.k@mail.example"}, {"Tomás", "Ferreira", "tomas.f@mail.example"}, {"Ingrid", "Solberg", "ingrid@post.example"},
	{"Daniel", "Okafor", "d.okafor@mail.example"}, {"Mei", "Tanaka", "mei.tanaka@mail.example"}, {"Aroha", "Ngata", "aroha@inbox.example"},
	{"Lucía", "Marín", "lucia.marin@correo.example"}, {"Pierre", "Lacroix", "p.lacroix@poste.example"}, {"Grace", "O'Neill", "grace.oneill@mail.example"},
	{"Jonas", "Weber", "jonas.weber@post.example"}, {"Amira", "Haddad", "amira@inbox.example"}, {"Sam", "Whitfield", "sam.w@mail.example"},
}
