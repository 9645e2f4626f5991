package schemas

// Meta is what the router reads of an event. The slices point into the event's body. Changes and Marketplace are raw Avro.
type Meta struct {
	EventID, EventType, EntityID, CompanyID, CompanyName, TenantID, SystemURL, SchemaVersion []byte

	EntityVersion, OccurredAt, PublishedAt int64
	GroupID, TypeID                        int32
	TestMode                               bool
	Changes, Marketplace                   []byte
}

// EventReader reads events of one writer's schema. Make it once per schema and keep it: it is immutable and safe for use by many goroutines.
type EventReader struct{}

// NewEventReader compiles the projection.
func NewEventReader(s *Schema) (*EventReader, error) { panic("BUG: not there yet") }

// Meta reads the first field of an event; rest starts at data.
func (r *EventReader) Meta(body []byte, m *Meta) (rest []byte, err error) {
	panic("BUG: not there yet")
}

// DataJSON appends data; rest is what Meta returned.
func (r *EventReader) DataJSON(dst, rest []byte) (out, rest2 []byte, err error) {
	panic("BUG: not there yet")
}

// PreviousJSON appends previous, or null; rest2 is what DataJSON returned. Bytes behind it are an error.
func (r *EventReader) PreviousJSON(dst, rest2 []byte) (out []byte, err error) {
	panic("BUG: not there yet")
}

// ChangesJSON appends meta.changes as a JSON array.
func (r *EventReader) ChangesJSON(dst []byte, m *Meta) ([]byte, error) { panic("BUG: not there yet") }

// MarketplaceJSON appends meta.marketplace as a JSON object.
func (r *EventReader) MarketplaceJSON(dst []byte, m *Meta) ([]byte, error) {
	panic("BUG: not there yet")
}
