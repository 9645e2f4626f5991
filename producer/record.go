package producer

import (
	"errors"
	"fmt"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// complete fills in what follows from the event's type and was left out. It never changes what was set.
func complete(ev schemas.Event, now time.Time) {
	m := ev.EventMeta()
	if m.PublishedAt.IsZero() {
		m.PublishedAt = now
	}
	t, ok := schemas.EventTypeByName(m.EventType)
	if !ok {
		return // check says so
	}
	if m.Entity == "" {
		m.Entity = t.Kind
	}
	if m.Action == "" {
		m.Action = t.Action
	}
	if m.GroupID == 0 && m.TypeID == 0 {
		m.GroupID, m.TypeID = int32(t.GroupID), int32(t.TypeID)
	}
	if m.SchemaVersion == "" {
		m.SchemaVersion = schemas.EventSchemaVersion
	}
}

// check finds everything about a completed event's meta that would keep it from its receivers. What the encoder refuses (times, text, symbols) it leaves
// to the encoder.
func check(ev schemas.Event) error {
	m := ev.EventMeta()
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &schemas.FieldError{Path: "meta." + field, Problem: fmt.Sprintf(format, args...)})
	}
	if m.EventID == "" {
		bad("eventId", "is missing: receivers recognise duplicates by it")
	}
	switch m.CompanyID {
	case "":
		bad("companyId", "is missing: nobody could receive the event")
	case "*":
		bad("companyId", "%q stands for every company, it is none", "*")
	}
	if m.EntityID == "" {
		bad("entityId", "is missing: it is half of the record's key")
	}
	for _, id := range []struct{ field, text string }{{"eventId", m.EventID}, {"companyId", m.CompanyID}, {"entityId", m.EntityID}} {
		if len(id.text) > schemas.MaxID {
			bad(id.field, "is %d bytes long, and may be %d", len(id.text), schemas.MaxID)
		}
	}
	system := ""
	if m.SystemURL != nil {
		system = *m.SystemURL
	}
	for _, d := range []struct{ field, text string }{{"companyName", m.CompanyName}, {"tenantId", m.TenantID}, {"systemUrl", system}} {
		if len(d.text) > schemas.MaxDescription {
			bad(d.field, "is %d bytes long, and may be %d", len(d.text), schemas.MaxDescription)
		}
	}
	if m.EntityVersion < 0 {
		bad("entityVersion", "%d is negative", m.EntityVersion)
	}
	t, ok := schemas.EventTypeByName(m.EventType)
	switch {
	case m.EventType == "":
		bad("eventType", "is missing")
	case !ok:
		bad("eventType", "%q is not in the catalogue", m.EventType)
	case t.Entity != ev.EntityName():
		bad("eventType", "%q is not a type of this record, whose entity is %s", m.EventType, ev.EntityName())
	default:
		if m.Entity != t.Kind {
			bad("entity", "%s does not belong to %s; leave it empty or set %s", m.Entity, t.Name, t.Kind)
		}
		if m.Action != t.Action {
			bad("action", "%s does not belong to %s; leave it empty or set %s", m.Action, t.Name, t.Action)
		}
		if int(m.GroupID) != t.GroupID || int(m.TypeID) != t.TypeID {
			bad("typeId", "%d/%d does not belong to %s; leave both ids 0 or set %d/%d", m.GroupID, m.TypeID, t.Name, t.GroupID, t.TypeID)
		}
	}
	return errors.Join(errs...)
}

// Key is the record key of an event: it decides the partition, so all events of one entity stay in order.
func Key(company, entityID string) []byte {
	b := make([]byte, 0, len(company)+1+len(entityID))
	b = append(append(b, company...), '/')
	return append(b, entityID...)
}

// headers are the CloudEvents attributes in binary mode, for consumers other than Hookferry: it trusts the body alone.
func headers(m *schemas.EventMeta) []kafka.Header {
	return []kafka.Header{
		{Key: "ce_specversion", Value: specVersion},
		{Key: "ce_id", Value: []byte(m.EventID)},
		{Key: "ce_type", Value: []byte(m.EventType)},
		{Key: "ce_source", Value: source(m)},
		{Key: "ce_subject", Value: []byte(m.EntityID)},
		{Key: "ce_time", Value: m.OccurredAt.UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z07:00")},
	}
}

var specVersion = []byte("1.0")

// source is the installation's address, or the company's path where there is none: the same URI reference that webhooks of the format cloudevents carry.
func source(m *schemas.EventMeta) []byte {
	if m.SystemURL != nil && *m.SystemURL != "" {
		return appendURI(nil, *m.SystemURL, ":/?#[]@!$&'()*+,;=%")
	}
	return appendURI([]byte("/companies/"), m.CompanyID, "")
}

// appendURI percent-encodes every byte that is neither unreserved (RFC 3986) nor in also.
func appendURI(b []byte, s, also string) []byte {
	const upperHex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' || contains(also, c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func contains(set string, c byte) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}
