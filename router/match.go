package router

import (
	"slices"
	"unsafe"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Why an event is undecodable, beside the reasons of schemas.DataError. They are stable: they stand in the header hookferry-reason and are a
// label of the metric.
const (
	reasonEmpty         = "empty"           // a record without a value
	reasonNoRegistry    = "no_registry"     // framed with a registry's schema id, and no registry is configured
	reasonUnknownSchema = "unknown_schema"  // neither compiled in nor known to the registry
	reasonBadSchema     = "schema_unusable" // the writer's schema is not that of an event
	reasonUnknownType   = "event_type_unknown"
	reasonWrongTopic    = "wrong_topic"  // an event of one entity in the topic of another
	reasonTooLarge      = "too_large"    // over schemas.MaxInput: the reason of schemas.DataError, too
	reasonBadMeta       = "meta_invalid" // an id that is empty, too long or not text, or a time that no calendar has
	reasonUndecodable   = "undecodable"  // anything that names no reason of its own
)

// UndecodableReasons lists why an event may be undecodable, in the order of the alphabet: the words of the header hookferry-reason and of the metric's label.
func UndecodableReasons() []string {
	out := append(schemas.DataReasons(), reasonEmpty, reasonNoRegistry, reasonUnknownSchema, reasonBadSchema, reasonUnknownType, reasonWrongTopic, reasonTooLarge,
		reasonBadMeta, reasonUndecodable)
	slices.Sort(out)
	return slices.Compact(out)
}

// inspect says whether meta may be routed from the topic of an entity, and as which type of event. An empty reason means yes. The type's
// group and type ids are the catalogue's: what a publisher put into meta is not trusted with a receiver's switch statement.
func inspect(m *schemas.Meta, entity string, types map[string]*schemas.EventType) (*schemas.EventType, string) {
	typ := types[string(m.EventType)]
	if typ == nil {
		return nil, reasonUnknownType
	}
	if typ.Entity != entity {
		return nil, reasonWrongTopic
	}
	for _, id := range [...][]byte{m.EventID, m.CompanyID, m.EntityID} {
		if len(id) == 0 || len(id) > schemas.MaxID || !validText(id) {
			return nil, reasonBadMeta
		}
	}
	for _, s := range [...][]byte{m.CompanyName, m.TenantID, m.SystemURL} {
		if len(s) > schemas.MaxDescription || !validText(s) {
			return nil, reasonBadMeta
		}
	}
	if m.OccurredAt < minTime || m.OccurredAt > maxTime {
		return nil, reasonBadMeta
	}
	return typ, ""
}

// eventTypes is the catalogue by name, with our own type: it takes the same way as all others.
func eventTypes() map[string]*schemas.EventType {
	all := schemas.AllEventTypes()
	out := make(map[string]*schemas.EventType, len(all))
	for i := range all {
		out[all[i].Name] = &all[i]
	}
	return out
}

// belongs says whether an event lies in the partition that its key belongs to. scratch is for the key.
func belongs(m *schemas.Meta, partition int32, partitions int, scratch []byte) (bool, []byte) {
	scratch = append(scratch[:0], m.CompanyID...)
	scratch = append(scratch, '/')
	scratch = append(scratch, m.EntityID...)
	return kafka.Partition(scratch, partitions) == partition, scratch
}

// view shows bytes as a string without a copy. It is for values that live no longer than the fetched record they lie in, which nobody writes
// to: what keeps one must clone it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
