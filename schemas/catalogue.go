package schemas

import (
	"embed"
	"slices"
	"sync"
)

//go:generate go run ./internal/gen

// EventType is one kind of event: what happened (Trigger) to what (Entity).
type EventType struct {
	Name            string // "booking.creation": entity.trigger
	Entity, Trigger string
	GroupID, TypeID int    // as the older envelope knows them
	V1Text          string // "Booking Creation": the readable type of that envelope
	Record          string // "BookingEvent": the Avro record on the topic, and the Go type
	DataRecord      string // "Booking": the record of its data
	DataKey         string // "booking": the one key within the older envelope's eventData
	Action          EventAction
	Kind            EntityKind
	Internal        bool // made by Hookferry itself, not by an upstream service
}

// entityFacts is what all event types of an entity share, in the order of the catalogue.
type entityFacts struct {
	name       string
	group      int
	v1Text     string // of the entity
	record     string
	dataRecord string
	dataKey    string
	idField    string // of data, that meta.entityId repeats
	kind       EntityKind
	triggers   []trigger
}

type trigger struct {
	name   string
	action EventAction
	v1Text string
}

// The texts of four types are documented only in the past tense ("Package Created"), the rest as nouns; where no source has one we say the noun.
var (
	lifeOfBooking = []trigger{{"creation", EventActionCreation, "Creation"}, {"amendment", EventActionAmendment, "Amendment"}, {"cancellation", EventActionCancellation, "Cancellation"}}
	lifeOfPerson  = []trigger{{"creation", EventActionCreation, "Creation"}, {"amendment", EventActionAmendment, "Amendment"}, {"removal", EventActionRemoval, "Removal"}}
	lifeOfGoods   = []trigger{{"creation", EventActionCreation, "Created"}, {"amendment", EventActionAmendment, "Amendment"}, {"removal", EventActionRemoval, "Removal"}}
)

var entityTable = []entityFacts{
	{"booking", 100, "Booking", "BookingEvent", "Booking", "booking", "bookingId", EntityKindBooking, lifeOfBooking},
	{"customer", 200, "Customer", "CustomerEvent", "Customer", "customer", "customerId", EntityKindCustomer, lifeOfPerson},
	// A check-in is keyed by its booking: check-in ids are new with each change, so only the booking keeps a check-in before its undoing.
	{"check_in", 700, "Activity", "CheckInEvent", "CheckIn", "checkinData", "bookingId", EntityKindCheckIn, []trigger{{"recorded", EventActionCheckIn, "Check-in"}}},
	{"account", 300, "Account", "AccountEvent", "Account", "account", "accountId", EntityKindAccount, lifeOfPerson},
	{"contact", 400, "Contact", "ContactEvent", "Contact", "contact", "contactId", EntityKindContact, lifeOfPerson},
	{"employee", 500, "Employee", "EmployeeEvent", "Employee", "employee", "employeeId", EntityKindEmployee, lifeOfPerson},
	{"package", 800, "Package", "PackageEvent", "Package", "packageData", "packageId", EntityKindPackage, lifeOfGoods},
	{"activity", 900, "Activity", "ActivityEvent", "Activity", "activityData", "activityId", EntityKindActivity, lifeOfGoods},
	{"product", 1000, "Product", "ProductEvent", "Product", "productData", "productId", EntityKindProduct, lifeOfGoods},
	{"inventory", 600, "Inventory", "InventoryChangeEvent", "InventoryChange", "inventoryData", "activityId", EntityKindInventory, []trigger{{"change", EventActionUpdate, "Updated"}}},
}

// internalTable holds what Hookferry publishes itself, as any publisher would: in a topic of its own, through the same router. The platform's page lists
// "Recent Reservations" in an empty row, without a trigger, an id or a payload; what it is here is our reading (docs/recent.md). It has no ids, so it has
// 0; and its kind and action are UNKNOWN, because a new symbol would be a new version of the other ten schemas, to say what the type says.
var internalTable = []entityFacts{
	{"recent_reservations", 0, "Recent Reservations", "RecentReservationsEvent", "RecentReservations", "recentReservations", "companyId", EntityKindUnknown,
		[]trigger{{"snapshot", EventActionUnknown, "Snapshot"}}},
}

// EventSchemaVersion is what the library writes into meta.schemaVersion: the version of the payload's meaning, for people. Readers go by the
// schema that stands in the frame.
const EventSchemaVersion = "1"

var (
	eventTypes    = makeEventTypes(entityTable)
	internalTypes = makeEventTypes(internalTable)
)

func makeEventTypes(table []entityFacts) []EventType {
	var out []EventType
	for _, e := range table {
		for i, t := range e.triggers {
			out = append(out, EventType{
				Name: e.name + "." + t.name, Entity: e.name, Trigger: t.name, GroupID: e.group, TypeID: e.group + i,
				V1Text: e.v1Text + " " + t.v1Text, Record: e.record, DataRecord: e.dataRecord, DataKey: e.dataKey, Action: t.action, Kind: e.kind,
				Internal: e.group == 0,
			})
		}
	}
	return out
}

// EventTypes lists the 26 types that upstream services publish, in the order of the catalogue. The caller owns the list.
func EventTypes() []EventType { return slices.Clone(eventTypes) }

// AllEventTypes lists the 26 and, behind them, the internal ones: all that may lie in a topic of events and be subscribed.
func AllEventTypes() []EventType { return slices.Concat(eventTypes, internalTypes) }

var eventTypeIndex = func() map[string]*EventType {
	m := make(map[string]*EventType, len(eventTypes)+len(internalTypes))
	for _, list := range [][]EventType{eventTypes, internalTypes} {
		for i := range list {
			m[list[i].Name] = &list[i]
		}
	}
	return m
}()

// EventTypeByName looks a type up by its name, an internal one too.
func EventTypeByName(name string) (EventType, bool) {
	t, ok := eventTypeIndex[name]
	if !ok {
		return EventType{}, false
	}
	return *t, true
}

// Entities lists the ten entities that upstream services publish; each has a topic of its own.
func Entities() []string { return namesOf(entityTable) }

// AllEntities lists the ten and, behind them, the internal ones, which have topics too.
func AllEntities() []string { return slices.Concat(namesOf(entityTable), namesOf(internalTable)) }

func namesOf(table []entityFacts) []string {
	out := make([]string, len(table))
	for i, e := range table {
		out[i] = e.name
	}
	return out
}

// EntityIDField is the field of an entity's data whose value is the entity id: "bookingId" for a booking, and for a check-in too, whose own id is new
// with every change. Empty for an unknown entity.
func EntityIDField(entity string) string {
	for _, table := range [][]entityFacts{entityTable, internalTable} {
		for i := range table {
			if table[i].name == entity {
				return table[i].idField
			}
		}
	}
	return ""
}

//go:embed *_event.avsc
var eventFiles embed.FS

// EventSchemaText is the current schema of an entity's events: self-contained JSON, as it stands in the repository. An unknown entity is a bug.
func EventSchemaText(entity string) string {
	b, err := eventFiles.ReadFile(entity + "_event.avsc")
	if err != nil {
		panic("BUG: no event schema for entity " + entity)
	}
	return string(b)
}

// eventSchemas are parsed when first asked for: a tool that only prints help pays nothing.
var eventSchemas = sync.OnceValue(func() map[string]*Schema {
	m := map[string]*Schema{}
	for _, e := range AllEntities() {
		m[e] = mustParse(EventSchemaText(e))
	}
	return m
})

// EventSchema is the current schema of an entity's events. An unknown entity is a bug.
func EventSchema(entity string) *Schema {
	s := eventSchemas()[entity]
	if s == nil {
		panic("BUG: no event schema for entity " + entity)
	}
	return s
}

// compiledIn holds every version of every schema that a topic of ours may carry. When a schema gains a version, the text of the one before it stays
// here for as long as a topic may hold its records.
var compiledIn = sync.OnceValue(func() map[[8]byte]*Schema {
	m := map[[8]byte]*Schema{}
	for _, s := range eventSchemas() {
		m[s.Fingerprint()] = s
	}
	for _, text := range []string{taskSchema, attemptSchema, deadSchema, subscriptionSchema, replaySchema, progressSchema} {
		s := mustParse(text)
		m[s.Fingerprint()] = s
	}
	return m
})

// CompiledIn finds a schema by the CRC-64-AVRO fingerprint of the single-object framing.
func CompiledIn(fp [8]byte) (*Schema, bool) {
	s, ok := compiledIn()[fp]
	return s, ok
}

func mustParse(text string) *Schema {
	s, err := Parse(text)
	if err != nil {
		panic("BUG: a schema that is compiled in does not parse: " + err.Error())
	}
	return s
}
