package router

import (
	"errors"
	"strconv"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The three formats of a body, by the names that a subscription carries. docs/formats.md shows each exactly.
const (
	FormatStandard    = "standard"
	FormatCloudEvents = "cloudevents"
	FormatClassic     = "classic"
)

const (
	contentJSON       = "application/json"
	contentCloudEvent = "application/cloudevents+json; charset=UTF-8"
)

type format uint8

const (
	standard format = iota
	cloudEvents
	classic
	formats
)

// formatOf is the format of a subscription; empty and unknown names mean standard, because the writer of subscriptions refuses every other
// name, and a body in the default format is better than a silent stop.
func formatOf(name string) format {
	switch name {
	case FormatCloudEvents:
		return cloudEvents
	case FormatClassic:
		return classic
	}
	return standard
}

func (f format) contentType() string {
	if f == cloudEvents {
		return contentCloudEvent
	}
	return contentJSON
}

// body is one rendered body. The classic one names the subscription, so it is two parts with a hole between them; the others have all of it
// in head. The parts are shared by every task of the event and good until the next event is loaded.
type body struct {
	built      bool
	hole       bool
	head, tail []byte
}

// renderer turns one event into its bodies, each on first need and once. It owns every buffer it uses and carries them over from event to event.
// One goroutine uses it.
//
//	load (validated meta)  ->  body(format) any number of times  ->  load ...
type renderer struct {
	reader *schemas.EventReader
	meta   *schemas.Meta
	typ    *schemas.EventType
	rest   []byte

	decoded  bool
	failed   error
	data     []byte // the record data as JSON
	previous []byte // empty if the event has none
	changes  []byte // empty if the event has none
	bodies   [formats]body

	classic classicRenderer
}

// load starts an event. meta must have passed inspect: its texts are valid UTF-8 and its times can be written down.
func (r *renderer) load(reader *schemas.EventReader, meta *schemas.Meta, typ *schemas.EventType, rest []byte) {
	r.reader, r.meta, r.typ, r.rest = reader, meta, typ, rest
	r.decoded, r.failed = false, nil
	for i := range r.bodies {
		r.bodies[i].built = false
	}
}

// decode walks over the rest of the event once, whatever formats are wanted: an event is decodable or not, and never so for
// one subscription and otherwise for the next.
func (r *renderer) decode() error {
	if r.decoded {
		return r.failed
	}
	r.decoded = true
	r.failed = r.decodeNow()
	return r.failed
}

func (r *renderer) decodeNow() (err error) {
	var rest []byte
	if r.data, rest, err = r.reader.DataJSON(r.data[:0], r.rest); err != nil {
		return err
	}
	if r.previous, err = r.reader.PreviousJSON(r.previous[:0], rest); err != nil {
		return err
	}
	if string(r.previous) == "null" {
		r.previous = r.previous[:0]
	}
	if r.changes, err = r.reader.ChangesJSON(r.changes[:0], r.meta); err != nil {
		return err
	}
	if string(r.changes) == "[]" {
		r.changes = r.changes[:0]
	}
	return nil
}

// body is the event in that format. An error means that the event cannot be decoded.
func (r *renderer) body(f format) (*body, error) {
	b := &r.bodies[f]
	if b.built {
		return b, nil
	}
	if err := r.decode(); err != nil {
		return nil, err
	}
	var err error
	switch f {
	case standard:
		b.head = r.appendStandard(b.head[:0])
	case cloudEvents:
		b.head = r.appendCloudEvent(b.head[:0])
	case classic:
		b.hole = true
		b.head, b.tail, err = r.classic.append(b.head[:0], b.tail[:0], r)
	default:
		panic("BUG: a format without a renderer")
	}
	b.built = err == nil
	return b, err
}

// appendStandard writes the default body: the three fields of Standard Webhooks 1.0.0, with ours between and behind them.
func (r *renderer) appendStandard(b []byte) []byte {
	m := r.meta
	b = append(b, `{"type":"`...)
	b = append(b, r.typ.Name...)
	b = append(b, `","timestamp":"`...)
	b = appendTime(b, m.OccurredAt)
	b = append(b, `","eventId":`...)
	b = appendString(b, m.EventID)
	b = append(b, `,"company":`...)
	b = appendString(b, m.CompanyID)
	b = append(b, `,"entity":"`...)
	b = append(b, r.typ.Entity...)
	b = append(b, `","entityId":`...)
	b = appendString(b, m.EntityID)
	b = append(b, `,"entityVersion":`...)
	b = strconv.AppendInt(b, m.EntityVersion, 10)
	b = append(b, `,"testMode":`...)
	b = strconv.AppendBool(b, m.TestMode)
	b = append(b, `,"data":`...)
	b = append(b, r.data...)
	if len(r.previous) > 0 {
		b = append(b, `,"previous":`...)
		b = append(b, r.previous...)
	}
	if len(r.changes) > 0 {
		b = append(b, `,"changes":`...)
		b = append(b, r.changes...)
	}
	return append(b, '}')
}

// appendCloudEvent writes a structured CloudEvents 1.0 JSON event. Extension attributes have lower-case names without separators and scalar
// values, as the specification demands; an entity version is a text because its Integer has 32 bits only. previous and changes have
// no place among them and are not carried: data is the entity, as every CloudEvents consumer expects.
func (r *renderer) appendCloudEvent(b []byte) []byte {
	m := r.meta
	b = append(b, `{"specversion":"1.0","id":`...)
	b = appendString(b, m.EventID)
	b = append(b, `,"source":"`...)
	b = appendSourceURI(b, m)
	b = append(b, `","type":"`...)
	b = append(b, r.typ.Name...)
	b = append(b, `","subject":`...)
	b = appendString(b, m.EntityID)
	b = append(b, `,"time":"`...)
	b = appendTime(b, m.OccurredAt)
	b = append(b, `","datacontenttype":"application/json","company":`...)
	b = appendString(b, m.CompanyID)
	b = append(b, `,"entityversion":"`...)
	b = strconv.AppendInt(b, m.EntityVersion, 10)
	b = append(b, `","testmode":`...)
	b = strconv.AppendBool(b, m.TestMode)
	b = append(b, `,"data":`...)
	b = append(b, r.data...)
	return append(b, '}')
}

// appendSourceURI writes a URI reference: the installation's address, or the company's path where there is none. CloudEvents demands a non-empty
// one, and what stands in meta is text that nobody checked, so every byte that no URI may hold is percent-encoded.
func appendSourceURI(b []byte, m *schemas.Meta) []byte {
	if len(m.SystemURL) > 0 {
		return appendURIBytes(b, m.SystemURL, ":/?#[]@!$&'()*+,;=%")
	}
	b = append(b, "/companies/"...)
	return appendURIBytes(b, m.CompanyID, "")
}

func appendURIBytes(b, s []byte, reserved string) []byte {
	for _, c := range s {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' || contains(reserved, c) {
			b = append(b, c)
			continue
		}
		b = append(b, '%', upperHex[c>>4], upperHex[c&15])
	}
	return b
}

const upperHex = "0123456789ABCDEF"

func contains(set string, c byte) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

// Times that RFC 3339 can write: the years 1 to 9999.
var (
	minTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	maxTime = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
)

// appendTime writes 2026-03-03T09:05:07.123Z.
func appendTime(b []byte, ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(b, byte('0'+year/1000), byte('0'+year/100%10))
	b = append2(b, year%100)
	b = append2(append(b, '-'), int(month))
	b = append2(append(b, '-'), day)
	b = append2(append(b, 'T'), hour)
	b = append2(append(b, ':'), minute)
	b = append2(append(b, ':'), second)
	milli := t.Nanosecond() / 1e6
	b = append(b, '.', byte('0'+milli/100))
	b = append2(b, milli%100)
	return append(b, 'Z')
}

func append2(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// reasonOf is the stable name of why an event could not be decoded.
func reasonOf(err error) string {
	var data *schemas.DataError
	if errors.As(err, &data) {
		return data.Reason
	}
	return reasonUndecodable
}
