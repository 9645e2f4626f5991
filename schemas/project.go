package schemas

import (
	"fmt"
	"slices"
)

// Meta is what the router reads of an event without decoding the rest. The slices point into the event's body; a field that the writer left out is
// nil. Times are ms since 1970 UTC. Changes and Marketplace are raw Avro, for ChangesJSON and MarketplaceJSON of the same reader.
type Meta struct {
	EventID, EventType, EntityID, CompanyID, CompanyName, TenantID, SystemURL, SchemaVersion []byte

	EntityVersion, OccurredAt, PublishedAt int64
	GroupID, TypeID                        int32
	TestMode                               bool
	Changes, Marketplace                   []byte
}

// metaTarget is a field of Meta.
type metaTarget uint8

const (
	metaSkipped metaTarget = iota
	metaEventID
	metaEventType
	metaEntityID
	metaCompanyID
	metaCompanyName
	metaTenantID
	metaSystemURL
	metaSchemaVersion
	metaEntityVersion
	metaOccurredAt
	metaPublishedAt
	metaGroupID
	metaTypeID
	metaTestMode
	metaChanges
	metaMarketplace
)

// metaFields is what is looked for in the writer's meta, by name. required: without it an event cannot be routed or told from another.
var metaFields = map[string]struct {
	target   metaTarget
	kinds    []kind
	logicals []logical
	required bool
}{
	"eventId":       {metaEventID, []kind{kindString}, textual, true},
	"eventType":     {metaEventType, []kind{kindString}, textual, true},
	"entityId":      {metaEntityID, []kind{kindString}, textual, true},
	"companyId":     {metaCompanyID, []kind{kindString}, textual, true},
	"companyName":   {metaCompanyName, []kind{kindString}, textual, false},
	"tenantId":      {metaTenantID, []kind{kindString}, textual, false},
	"systemUrl":     {metaSystemURL, []kind{kindString}, textual, false},
	"schemaVersion": {metaSchemaVersion, []kind{kindString}, textual, false},
	"entityVersion": {metaEntityVersion, []kind{kindLong, kindInt}, plainly, true},
	"occurredAt":    {metaOccurredAt, []kind{kindLong}, instants, true},
	"publishedAt":   {metaPublishedAt, []kind{kindLong}, instants, false},
	"groupId":       {metaGroupID, []kind{kindInt}, plainly, false},
	"typeId":        {metaTypeID, []kind{kindInt}, plainly, false},
	"testMode":      {metaTestMode, []kind{kindBoolean}, plainly, false},
	"changes":       {metaChanges, []kind{kindArray}, plainly, false},
	"marketplace":   {metaMarketplace, []kind{kindMap}, plainly, false},
}

var (
	plainly  = []logical{logicalNone}
	textual  = []logical{logicalNone, logicalUUID}
	instants = []logical{logicalTimestampMillis, logicalTimestampMicros}
)

// metaStep reads one field of the writer's meta, in the writer's order.
type metaStep struct {
	target metaTarget
	name   string
	node   *node // the value's own type, behind the union if there is one
	outer  *node // the field's type
	null   int64 // branch of null in the union; -1: no union
}

// EventReader reads events of one writer's schema. Make it once per schema and keep it: it is immutable and safe for use by many goroutines.
//
// Fields are found by name, so a writer may have them in another order, may have more, and may lack those that can be lacked. A field
// may also be a union of null and its type. Only this order is fixed: meta is the event's first field, and previous, if there is one, comes after data.
type EventReader struct {
	steps                []metaStep
	toData               []*node // between meta and data
	data                 *node
	toPrevious           []*node
	previous             *node // nil: the writer knows none
	toEnd                []*node
	changes, marketplace *node
}

// NewEventReader compiles the projection of events that were written by s.
func NewEventReader(s *Schema) (*EventReader, error) {
	root := s.root
	if root.kind != kindRecord || len(root.fields) == 0 || root.fields[0].name != "meta" || root.fields[0].node.kind != kindRecord {
		return nil, fmt.Errorf("%s is no event: its first field must be the record meta", s.Name())
	}
	data, previous := root.fieldNamed("data"), root.fieldNamed("previous")
	if data < 0 || previous >= 0 && previous < data {
		return nil, fmt.Errorf("%s is no event: it needs the field data, before previous", s.Name())
	}
	r := &EventReader{data: root.fields[data].node}
	for i := range root.fields {
		n := root.fields[i].node
		switch {
		case i == 0 || i == data:
		case i < data:
			r.toData = append(r.toData, n)
		case i == previous:
			r.previous = n
		case i < previous:
			r.toPrevious = append(r.toPrevious, n)
		default:
			r.toEnd = append(r.toEnd, n)
		}
	}
	if err := r.compileMeta(root.fields[0].node); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *EventReader) compileMeta(meta *node) error {
	for name, want := range metaFields {
		if want.required && meta.fieldNamed(name) < 0 {
			return fmt.Errorf("meta of the event lacks %s", name)
		}
	}
	for i := range meta.fields {
		f := &meta.fields[i]
		step := metaStep{name: f.name, node: f.node, outer: f.node, null: -1}
		want, known := metaFields[f.name]
		if !known {
			r.steps = append(r.steps, step)
			continue
		}
		if other, ok := f.node.nullable(); ok {
			if want.required {
				return fmt.Errorf("meta.%s of the event must not be null", f.name)
			}
			step.node, step.null = other, int64(f.node.branch(kindNull))
		}
		if !slices.Contains(want.kinds, step.node.kind) || !slices.Contains(want.logicals, step.node.logical) {
			return fmt.Errorf("meta.%s of the event has an unexpected type", f.name)
		}
		step.target = want.target
		switch step.target {
		case metaChanges:
			r.changes = f.node
		case metaMarketplace:
			r.marketplace = f.node
		}
		r.steps = append(r.steps, step)
	}
	return nil
}

// Meta reads the first field of an event into m, all of whose fields it sets, and gives what starts at data. It makes no copy: m is good for as long as
// body is. Every byte of meta is checked, those of fields that are not asked for too.
func (r *EventReader) Meta(body []byte, m *Meta) (rest []byte, err error) {
	*m = Meta{}
	if len(body) > MaxInput {
		return nil, errSize
	}
	w := walk{b: body, elements: MaxElements, values: maxValues}
	for i := range r.steps {
		if err := r.steps[i].read(&w, m); err != nil {
			return nil, err.inField(r.steps[i].name).inField("meta")
		}
	}
	for _, n := range r.toData {
		if err := w.skip(n); err != nil {
			return nil, err
		}
	}
	return body[w.p:], nil
}

func (s *metaStep) read(w *walk, m *Meta) *DataError {
	start := w.p
	if s.target >= metaChanges || s.target == metaSkipped {
		err := w.skip(s.outer)
		switch s.target {
		case metaChanges:
			m.Changes = w.b[start:w.p]
		case metaMarketplace:
			m.Marketplace = w.b[start:w.p]
		}
		return err
	}
	if s.null >= 0 {
		branch, err := w.long()
		if err != nil {
			return err
		}
		if branch&^1 != 0 {
			return errUnionIndex
		}
		if branch == s.null {
			return nil
		}
	}
	if s.target <= metaSchemaVersion {
		text, err := w.text()
		*m.text(s.target) = text
		return err
	}
	if s.target == metaTestMode {
		v, err := w.boolean()
		m.TestMode = v
		return err
	}
	v, err := w.long()
	if err != nil {
		return err
	}
	return s.number(m, v)
}

func (m *Meta) text(t metaTarget) *[]byte {
	switch t {
	case metaEventID:
		return &m.EventID
	case metaEventType:
		return &m.EventType
	case metaEntityID:
		return &m.EntityID
	case metaCompanyID:
		return &m.CompanyID
	case metaCompanyName:
		return &m.CompanyName
	case metaTenantID:
		return &m.TenantID
	case metaSystemURL:
		return &m.SystemURL
	}
	return &m.SchemaVersion
}

func (s *metaStep) number(m *Meta, v int64) *DataError {
	if s.node.kind == kindInt && int64(int32(v)) != v {
		return errIntRange
	}
	if s.node.logical != logicalNone {
		if err := checkNumber(s.node.logical, v); err != nil {
			return err
		}
		if s.node.logical == logicalTimestampMicros {
			v, _ = floorDiv(v, 1000)
		}
	}
	switch s.target {
	case metaEntityVersion:
		m.EntityVersion = v
	case metaOccurredAt:
		m.OccurredAt = v
	case metaPublishedAt:
		m.PublishedAt = v
	case metaGroupID:
		m.GroupID = int32(v)
	case metaTypeID:
		m.TypeID = int32(v)
	}
	return nil
}

// DataJSON appends data; rest is what Meta returned, and rest2 is for PreviousJSON.
func (r *EventReader) DataJSON(dst, rest []byte) (out, rest2 []byte, err error) {
	out, rest2, err = r.data.appendJSON(dst, rest)
	if err != nil {
		return dst, nil, within(err, "data")
	}
	for _, n := range r.toPrevious {
		if rest2, err = n.skip(rest2); err != nil {
			return dst, nil, err
		}
	}
	return out, rest2, nil
}

// PreviousJSON appends previous, or null; rest2 is what DataJSON returned. The event must end there.
func (r *EventReader) PreviousJSON(dst, rest2 []byte) (out []byte, err error) {
	out = dst
	if r.previous == nil {
		out = append(out, "null"...)
	} else if out, rest2, err = r.previous.appendJSON(dst, rest2); err != nil {
		return dst, within(err, "previous")
	}
	for _, n := range r.toEnd {
		if rest2, err = n.skip(rest2); err != nil {
			return dst, err
		}
	}
	if len(rest2) > 0 {
		return dst, errTrailing
	}
	return out, nil
}

// ChangesJSON appends meta.changes as a JSON array; an empty one if the writer has none.
func (r *EventReader) ChangesJSON(dst []byte, m *Meta) ([]byte, error) {
	return partJSON(dst, r.changes, m.Changes, "[]", "meta.changes")
}

// MarketplaceJSON appends meta.marketplace as a JSON object; an empty one if the writer has none.
func (r *EventReader) MarketplaceJSON(dst []byte, m *Meta) ([]byte, error) {
	return partJSON(dst, r.marketplace, m.Marketplace, "{}", "meta.marketplace")
}

func partJSON(dst []byte, n *node, raw []byte, none, path string) ([]byte, error) {
	if n == nil {
		return append(dst, none...), nil
	}
	out, rest, err := n.appendJSON(dst, raw)
	switch {
	case err != nil:
		return dst, within(err, path)
	case len(rest) > 0:
		return dst, errTrailing
	case n.kind == kindUnion && string(out[len(dst):]) == "null":
		return append(dst, none...), nil
	}
	return out, nil
}

// within adds where the error was met.
func within(err error, path string) error {
	if e, ok := err.(*DataError); ok {
		return e.inField(path)
	}
	return err
}
