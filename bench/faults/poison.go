package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// Poison: records that no careful publisher writes, on the topics of events. What must become of each kind stands in the table poisons: it is
// delivered to everybody who wants it, or kept in `undecodable` with a reason, byte for byte; and whatever it is, the events behind it go on.

// What becomes of a record, if not the reason under which it is undecodable.
const (
	delivered = "delivered"
	nobody    = "nobody's"  // decodable, and no subscription is of its company
	justFits  = "just fits" // delivered in the format standard; the others may be over the limit
	justOver  = "too large" // a task without a body, which ends as dead, in the format standard; the others may be below the limit
	leftOut   = "left out:" // before a reason: undecodable, but larger than `undecodable` takes: its place is kept there, and its size
)

// poisonKind is one row: a name, what becomes of it, and how one is made. heavy ones are so large that a run has few of them.
type poisonKind struct {
	name  string
	want  string
	heavy bool
	make  func(p *draft)
}

// draft is a booking event about to be spoilt: a frame, the fields of its Avro body in order, key, headers, and how its batch is compressed.
type draft struct {
	n       int // of the kind's instances, from 0
	frame   []byte
	fields  []avroField
	value   []byte // if raw: instead of frame and fields
	raw     bool
	key     []byte
	headers []kafka.Header
	codec   kafka.Codec
	event   schemas.BookingEvent
	topic   string // of the entity
	times   int    // how often it is written; the same bytes
}

// avroField is one field's bytes.
type avroField struct {
	name string
	b    []byte
}

// bodyFields are the fields of a booking event with nothing optional in it, up to the customers, by how they are laid: s text, l a number, o a union
// at null, a an array or map without blocks, b a boolean. What follows is kept in one piece.
const bodyFields = "eventId:s eventType:s entity:l action:l groupId:l typeId:l entityId:s entityVersion:l occurredAt:l publishedAt:l tenantId:s companyId:s " +
	"companyName:s systemUrl:o actor:o correlationId:o causationId:o changes:a marketplace:a testMode:b schemaVersion:s " +
	"bookingId:s reference:o status:l soldAt:l closedAt:o holdExpiresAt:o updatedAt:o cancellation:o channelKind:l channelName:o channelReference:o " +
	"channelMarketplace:a account:o accountContactId:o soldBy:o leadCustomerId:o customers:a"

// newDraft makes a good event of a company, with an event id of its own.
func newDraft(company, id string, n int) (*draft, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	t, _ := schemas.EventTypeByName("booking.creation")
	d := &draft{n: n, topic: "booking", times: 1, event: schemas.BookingEvent{
		Meta: schemas.EventMeta{
			EventID: "evt_" + id, EventType: t.Name, Entity: t.Kind, Action: t.Action, GroupID: int32(t.GroupID), TypeID: int32(t.TypeID),
			EntityID: id, EntityVersion: 1, OccurredAt: now, PublishedAt: now, TenantID: "poison", CompanyID: company, CompanyName: "Poison & Sons",
			SchemaVersion: schemas.EventSchemaVersion,
		},
		Data: schemas.Booking{BookingID: id, Status: schemas.BookingStatusConfirmed, SoldAt: now, TimeZone: "UTC", Currency: "EUR",
			Channel: schemas.Channel{Kind: schemas.BookingChannelKindOnline},
			Totals:  schemas.Totals{}},
	}}
	return d, d.encode()
}

// encode lays the event out anew, after a change of d.event.
func (d *draft) encode() error {
	b, err := d.event.AppendAvro(nil)
	if err != nil {
		return err
	}
	d.fields = d.fields[:0]
	for _, f := range strings.Fields(bodyFields) {
		name, kind, _ := strings.Cut(f, ":")
		v, n := binary.Varint(b)
		if kind == "b" {
			n = 1
		}
		if kind == "s" {
			n += int(v)
		}
		if n <= 0 || n > len(b) || (kind == "o" || kind == "a") && v != 0 {
			return fmt.Errorf("BUG: the layout of a booking event is another one at %s", name)
		}
		d.fields = append(d.fields, avroField{name, b[:n:n]})
		b = b[n:]
	}
	d.fields = append(d.fields, avroField{"rest", b})
	d.frame = schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint())
	d.key = eventKey(&d.event.Meta)
	return nil
}

// set replaces the bytes of a field; the bytes of several values may follow each other.
func (d *draft) set(name string, parts ...[]byte) {
	i := slices.IndexFunc(d.fields, func(f avroField) bool { return f.name == name })
	if i < 0 {
		panic("BUG: no field " + name)
	}
	d.fields[i].b = slices.Concat(parts...)
}

// cut ends the body within a field, keep bytes behind its start; keep < 0 counts from the end of it.
func (d *draft) cut(name string, keep int) {
	i := slices.IndexFunc(d.fields, func(f avroField) bool { return f.name == name })
	f := &d.fields[i]
	if keep < 0 {
		keep += len(f.b)
	}
	f.b = f.b[:keep]
	d.fields = d.fields[:i+1]
}

// bytes is the record's value; nil: a tombstone.
func (d *draft) bytes() []byte {
	if d.raw {
		return d.value
	}
	return append(slices.Clone(d.frame), d.body()...)
}

func (d *draft) body() []byte {
	var b []byte
	for _, f := range d.fields {
		b = append(b, f.b...)
	}
	return b
}

func (d *draft) rawValue(b []byte) { d.raw, d.value = true, b }

// Avro by hand.
func long(v int64) []byte             { return binary.AppendVarint(nil, v) }
func text(s string) []byte            { return append(long(int64(len(s))), s...) }
func some(b []byte) []byte            { return append([]byte{2}, b...) }
func junk(n int) []byte               { return noise(n, 1) }
func block(n int64, b []byte) []byte  { return append(append(long(n), b...), 0) }
func repeat(b []byte, n int) []byte   { return bytes.Repeat(b, n) }
func overlong() []byte                { return append(repeat([]byte{0x80}, 10), 1) }
func field(name string, b []byte) mut { return func(d *draft) { d.set(name, b) } }
func cutIn(name string, n int) mut    { return func(d *draft) { d.cut(name, n) } }
func value(b []byte) mut              { return func(d *draft) { d.rawValue(b) } }

// mut spoils a draft.
type mut = func(*draft)

// meta changes the event before it is laid out.
func meta(change func(m *schemas.EventMeta)) mut {
	return func(d *draft) {
		change(&d.event.Meta)
		if err := d.encode(); err != nil {
			panic("BUG: " + err.Error())
		}
	}
}

// noise is bytes that no codec makes smaller, the same ones each time.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := range b {
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		b[i] = byte(seed >> 24)
	}
	return b
}

const (
	largestRecord = (1024+64)<<10 - 200 // of a value, so that its batch is as large as the topics of events take
	bodyLimit     = 1 << 20             // router.body_limit
)

// padded makes the event's reference so long that its body, in the format standard, has so many bytes.
func padded(size int) mut {
	return func(d *draft) {
		d.event.Data.Reference = nil
		d.set("reference", some(text(strings.Repeat("x", size-standardSize(d)+len("null")-len(`""`)))))
	}
}

// standardSize is the size of the body of a draft without a reference, in the format standard: the same fields as docs/formats.md shows.
func standardSize(d *draft) int {
	m := &d.event.Meta
	data, _, err := schemas.EventSchema("booking").AppendJSON(nil, d.body())
	if err != nil {
		panic("BUG: " + err.Error())
	}
	// {"meta":{...},"data":{...},"previous":null}
	_, rest, _ := bytes.Cut(data, []byte(`},"data":`))
	rest = rest[:len(rest)-len(`,"previous":null}`)]
	return len(`{"type":"`+m.EventType+`","timestamp":"2006-01-02T15:04:05.000Z","eventId":"`+m.EventID+`","company":"`+m.CompanyID+`","entity":"booking","entityId":"`+
		m.EntityID+`","entityVersion":1,"testMode":false,"data":`) + len(rest) + len("}")
}

// The table. The names are an enumeration for people: what is not here was not tried.
var poisons = []poisonKind{
	// what stands before the body
	{name: "tombstone", want: "empty", make: value(nil)},
	{name: "empty value", want: "unframed", make: value([]byte{})},
	{name: "one byte 00", want: "unframed", make: value([]byte{0})},
	{name: "one byte C3", want: "unframed", make: value([]byte{0xC3})},
	{name: "no magic", want: "unframed", make: func(d *draft) { d.rawValue(d.body()) }},
	{name: "wrong second magic byte", want: "unframed", make: func(d *draft) { d.frame[1] = 2 }},
	{name: "JSON", want: "unframed", make: value([]byte(`{"meta":{"eventId":"evt_1"}}`))},
	{name: "noise", want: "unframed", make: value(append([]byte{0x7f}, junk(900)...))},
	{name: "fingerprint cut", want: "unframed", make: func(d *draft) { d.rawValue(d.frame[:9]) }},
	{name: "registry id cut", want: "unframed", make: value([]byte{0, 0, 0, 7})},
	{name: "unknown fingerprint", want: "unknown_schema", make: func(d *draft) { d.frame[5] ^= 0xff }},
	{name: "unknown registry id", want: "unknown_schema", make: func(d *draft) { d.frame = schemas.AppendConfluent(nil, unknownSchema) }},
	{name: "registry id 4294967295", want: "unknown_schema", make: func(d *draft) { d.frame = schemas.AppendConfluent(nil, math.MaxUint32) }},
	{name: "registry id of a customer's schema", want: "union_index", make: wrongly("another entity's")},
	{name: "registry id of no event's schema", want: "schema_unusable", make: wrongly("no event's")},
	{name: "registry id of a recursive schema", want: "schema_unusable", make: wrongly("recursive")},
	{name: "registry id of what is no schema", want: "schema_unusable", make: wrongly("no schema")},
	{name: "registry id of a schema of 5 MiB", want: "unknown_schema", make: wrongly("huge")},
	{name: "registry id of a Protobuf schema", want: "unknown_schema", make: wrongly("Protobuf")},
	{name: "frame alone", want: "truncated", make: func(d *draft) { d.rawValue(d.frame) }},

	// truncated at each structural point
	{name: "cut in a text's length", want: "truncated", make: func(d *draft) { d.set("eventId", []byte{0x80}); d.cut("eventId", 1) }},
	{name: "cut in a text", want: "truncated", make: cutIn("eventId", 3)},
	{name: "cut before an enum", want: "truncated", make: cutIn("eventType", 17)},
	{name: "cut in a number", want: "truncated", make: cutIn("occurredAt", 2)},
	{name: "cut before a union", want: "truncated", make: cutIn("companyName", -1)},
	{name: "cut before an array", want: "truncated", make: cutIn("causationId", 1)},
	{name: "cut before a boolean", want: "truncated", make: cutIn("marketplace", 1)},
	{name: "cut behind meta", want: "truncated", make: cutIn("schemaVersion", 2)},
	{name: "cut in data", want: "truncated", make: cutIn("soldAt", 1)},
	{name: "cut before the last byte", want: "truncated", make: cutIn("rest", -1)},
	{name: "cut anywhere", want: "truncated", make: func(d *draft) { b := d.bytes(); d.rawValue(b[:10+(d.n*7919)%(len(b)-11)]) }},

	// too much
	{name: "a byte behind the end", want: "trailing_bytes", make: func(d *draft) { d.rawValue(append(d.bytes(), 0)) }},
	{name: "two events in one value", want: "trailing_bytes", make: func(d *draft) { d.rawValue(append(d.bytes(), d.bytes()...)) }},

	// numbers that name what is not there
	{name: "union index 2 in meta", want: "union_index", make: field("systemUrl", []byte{4})},
	{name: "union index -1 in meta", want: "union_index", make: field("actor", []byte{1})},
	{name: "union index 2 in data", want: "union_index", make: field("reference", []byte{4})},
	{name: "union index of 63 bits", want: "union_index", make: field("reference", long(math.MaxInt64))},
	{name: "enum index in meta", want: "enum_index", make: field("entity", long(99))},
	{name: "enum index in data", want: "enum_index", make: field("status", long(99))},
	{name: "negative enum index", want: "enum_index", make: field("status", long(-1))},
	{name: "boolean 2", want: "bad_boolean", make: field("testMode", []byte{2})},
	{name: "int of 33 bits", want: "int_range", make: field("groupId", long(1<<32))},

	// lengths and counts
	{name: "negative length in meta", want: "negative_length", make: field("eventId", long(-1))},
	{name: "negative length in data", want: "negative_length", make: field("bookingId", long(math.MinInt64))},
	{name: "length of 2 GiB in meta", want: "truncated", make: field("eventId", long(1<<31))},
	{name: "length of 2^62 in data", want: "truncated", make: field("bookingId", long(1<<62))},
	{name: "varint without an end in meta", want: "varint_too_long", make: field("eventId", overlong())},
	{name: "varint without an end in data", want: "varint_too_long", make: field("soldAt", overlong())},
	{name: "block of 2^40 customers", want: "too_many_elements", make: field("customers", long(1<<40))},
	{name: "block of 2^62 changes", want: "too_many_elements", make: field("changes", long(1<<62))},
	{name: "block count of -2^63", want: "negative_length", make: field("changes", long(math.MinInt64))},
	{name: "block of a wrong size", want: "block_size", make: field("changes", slices.Concat(long(-1), long(2), text("/a"), []byte{0, 0, 0}))},
	{name: "block of a negative size", want: "negative_length", make: field("changes", slices.Concat(long(-1), long(-9), text("/a"), []byte{0, 0, 0}))},
	{name: "100,001 changes", want: "too_many_elements", heavy: true, make: field("changes", block(100_001, repeat([]byte{0, 0, 0}, 100_001)))},
	{name: "100,001 entries of a map", want: "too_many_elements", heavy: true, make: field("marketplace", block(100_001, repeat([]byte{0, 0}, 100_001)))},
	{name: "a key of a map twice", want: "duplicate_key", make: field("channelMarketplace", block(2, repeat(append(text("k"), text("v")...), 2)))},
	{name: "1,000 blocks of one element", want: delivered, make: field("changes", append(repeat(slices.Concat(long(1), text("/a"), []byte{0, 0}), 1000), 0))},

	// values that no receiver could read
	{name: "bad UTF-8 in an id", want: "invalid_utf8", make: field("bookingId", text("a\xffb"))},
	{name: "bad UTF-8 in the event id", want: "invalid_utf8", make: field("eventId", text("a\xffb"))},
	{name: "half of a surrogate", want: "invalid_utf8", make: field("companyName", text("\xed\xa0\x80"))},
	{name: "overlong UTF-8", want: "invalid_utf8", make: field("reference", some(text("\xc0\x80")))},
	{name: "bad UTF-8 in a map's key", want: "invalid_utf8", make: field("channelMarketplace", block(1, append(text("\xff"), text("v")...)))},
	{name: "NaN", want: "not_finite", make: doubleEvent(math.NaN())},
	{name: "infinity", want: "not_finite", make: doubleEvent(math.Inf(-1))},
	{name: "a finite double", want: delivered, make: doubleEvent(1e300)},
	{name: "time beyond the year 9999 in meta", want: "time_range", make: field("occurredAt", long(math.MaxInt64))},
	{name: "time before the year 0 in data", want: "time_range", make: field("soldAt", long(math.MinInt64))},
	{name: "occurred in the year 0", want: "meta_invalid", make: field("occurredAt", long(time.Date(0, 6, 1, 0, 0, 0, 0, time.UTC).UnixMilli()))},
	{name: "occurred in the year 1", want: delivered, make: field("occurredAt", long(time.Date(1, 6, 1, 0, 0, 0, 0, time.UTC).UnixMilli()))},
	{name: "occurred in the year 9999", want: delivered, make: field("occurredAt", long(time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()))},
	{name: "published before it occurred", want: delivered, make: field("publishedAt", long(0))},
	{name: "negative version", want: delivered, make: field("entityVersion", long(math.MinInt64))},

	// meta that names what is not there
	{name: "no event type", want: "event_type_unknown", make: field("eventType", text(""))},
	{name: "unknown event type", want: "event_type_unknown", make: field("eventType", text("booking.explosion"))},
	{name: "event type with a wildcard", want: "event_type_unknown", make: field("eventType", text("booking.*"))},
	{name: "another entity's type", want: "wrong_topic", make: field("eventType", text("customer.creation"))},
	{name: "another entity's topic", want: "wrong_topic", make: func(d *draft) { d.topic = "customer" }},
	{name: "another entity's schema", want: "wrong_topic", make: otherSchema},
	{name: "no event id", want: "meta_invalid", make: field("eventId", text(""))},
	{name: "no company", want: "meta_invalid", make: field("companyId", text(""))},
	{name: "no entity id", want: "meta_invalid", make: field("entityId", text(""))},
	{name: "event id of 256 bytes", want: "meta_invalid", make: field("eventId", text(strings.Repeat("e", 256)))},
	{name: "entity id of 256 bytes", want: "meta_invalid", make: field("entityId", text(strings.Repeat("e", 256)))},
	{name: "company of 256 bytes", want: "meta_invalid", make: field("companyId", text(strings.Repeat("c", 256)))},
	{name: "company name of 2,049 bytes", want: "meta_invalid", make: field("companyName", text(strings.Repeat("n", 2049)))},
	{name: "company name of 2,048 bytes", want: delivered, make: field("companyName", text(strings.Repeat("n", 2048)))},
	{name: "the company *", want: nobody, make: field("companyId", text("*"))},
	{name: "another company", want: nobody, make: field("companyId", text("somebody else"))},

	// hostile text
	{name: "event id of 255 bytes", want: delivered, make: meta(func(m *schemas.EventMeta) { m.EventID = (m.EventID + strings.Repeat("e", 255))[:255] })},
	{name: "control characters in the event id", want: delivered, make: meta(func(m *schemas.EventMeta) { m.EventID += "\x00\x01\x1b[31m\x7f" })},
	{name: "line ends in the event id", want: delivered, make: meta(func(m *schemas.EventMeta) { m.EventID += "\r\nX-Injected: yes\r\n\r\n" })},
	{name: "line ends in the entity id", want: delivered, make: field("entityId", text("1\r\nwebhook-id: msg_x\r\n"))},
	{name: "markup and SQL in ids", want: delivered, make: field("entityId", text(`"><script>alert(1)</script>'; DROP TABLE tasks;--\u0000`))},
	{name: "paths and templates in ids", want: delivered, make: field("entityId", text("../../etc/passwd ${jndi:ldap://x/} {{7*7}} %s%n"))},
	{name: "text that runs backwards", want: delivered, make: field("entityId", text("\u202egnp.exe\u2066\ufeff\u2028\u2029😀"))},
	{name: "JSON in texts", want: delivered, make: field("reference", some(text(`","type":"booking.removal","x":"`)))},
	{name: "broken JSON in a change", want: delivered, make: field("changes", block(1, slices.Concat(text("/a"), some(text(`{"a":`)), some(text("]")))))},
	{name: "deep JSON in a change", want: delivered, make: field("changes", block(1, slices.Concat(text("/a"), some(text(strings.Repeat("[", 5000))), []byte{0})))},

	// key, headers, copies
	{name: "no key", want: delivered, make: func(d *draft) { d.key = nil }},
	{name: "empty key", want: delivered, make: func(d *draft) { d.key = []byte{} }},
	{name: "another company's key", want: delivered, make: func(d *draft) { d.key = []byte("somebody else/1") }},
	{name: "key of 100 KB", want: delivered, heavy: true, make: func(d *draft) { d.key = junk(100_000) }},
	{name: "key of bad bytes", want: "unframed", make: func(d *draft) { d.key = junk(40); d.rawValue([]byte("x")) }},
	{name: "event id twice", want: delivered, make: func(d *draft) { d.times = 2 }},
	{name: "our headers, forged", want: "unframed", make: func(d *draft) { d.rawValue([]byte("forged")); d.headers = append(d.headers, forged...) }},
	{name: "our headers on a tombstone", want: "empty", make: func(d *draft) { d.rawValue(nil); d.headers = append(d.headers, forged...) }},
	{name: "1,000 headers", want: "unframed", heavy: true, make: manyHeaders},
	{name: "headers without a name", want: "unframed", make: func(d *draft) {
		d.rawValue([]byte("x"))
		d.headers = append(d.headers, kafka.Header{}, kafka.Header{Value: []byte{0xff, 0}})
	}},
	{name: "CloudEvents headers that lie", want: delivered, make: func(d *draft) {
		d.headers = append(d.headers, kafka.Header{Key: "ce_type", Value: []byte("customer.removal")}, kafka.Header{Key: "ce_id", Value: []byte("x")})
	}},

	// size
	{name: "noise of the largest size", want: "unframed", heavy: true, make: func(d *draft) { d.rawValue(append([]byte{1}, noise(largestRecord-1-headerRoom(d), 3)...)) }},
	{name: "noise of the largest size, half of it in headers", want: "unframed", heavy: true, make: func(d *draft) {
		d.rawValue(append([]byte{1}, noise(largestRecord/2, 5)...))
		d.headers = append(d.headers, kafka.Header{Key: "half", Value: noise(largestRecord/2-2*headerRoom(d), 7)})
	}},
	{name: "body at the limit", want: justFits, heavy: true, make: padded(bodyLimit)},
	{name: "body one byte below the limit", want: justFits, heavy: true, make: padded(bodyLimit - 1)},
	{name: "body one byte over the limit", want: justOver, heavy: true, make: padded(bodyLimit + 1)},
	{name: "body of quotes, twice as long as JSON", want: justOver, heavy: true, make: func(d *draft) { d.set("reference", some(text(strings.Repeat(`"`, bodyLimit*6/10)))) }},
	{name: "body of control characters, six times as long as JSON", want: justOver, heavy: true, make: func(d *draft) { d.set("reference", some(text(strings.Repeat("\x01", 1_000_000)))) }},

	// compressed batches
	{name: "gzip", want: delivered, make: func(d *draft) { d.codec = kafka.Gzip }},
	{name: "snappy", want: delivered, make: func(d *draft) { d.codec = kafka.Snappy }},
	{name: "lz4", want: delivered, make: func(d *draft) { d.codec = kafka.Lz4 }},
	{name: "zstd", want: delivered, make: func(d *draft) { d.codec = kafka.Zstd }},
	{name: "1.8 MB of text in gzip", want: leftOut + "too_large", heavy: true, make: func(d *draft) { d.set("reference", some(text(hexText(1_800_000)))); d.codec = kafka.Gzip }},
	{name: "10 MiB of zeros in gzip", want: leftOut + "too_large", heavy: true, make: func(d *draft) { d.rawValue(make([]byte, 10<<20)); d.codec = kafka.Gzip }},
	{name: "70 MiB of zeros in zstd", want: leftOut + "too_large", heavy: true, make: func(d *draft) { d.rawValue(make([]byte, 70<<20)); d.codec = kafka.Zstd }},
}

// unknownSchema is an id that the stand-in registry does not know.
const unknownSchema = 404

var forged = []kafka.Header{{Key: "hookferry-source-topic", Value: []byte("elsewhere")}, {Key: "hookferry-source-offset", Value: []byte("-1")},
	{Key: "hookferry-reason", Value: []byte("none")}, {Key: "hookferry-null-value", Value: []byte("true")}}

func manyHeaders(d *draft) {
	d.rawValue([]byte("x"))
	for i := range 1000 {
		d.headers = append(d.headers, kafka.Header{Key: "h" + strconv.Itoa(i), Value: junk(i % 50)})
	}
}

// hexText is text that packs about two to one, and not better.
func hexText(n int) string {
	const digits = "0123456789abcdef"
	b := noise(n, 9)
	for i, c := range b {
		b[i] = digits[c&15]
	}
	return string(b)
}

// headerRoom is what the rig's own header takes of a record.
func headerRoom(*draft) int { return 60 }

// doubleEvent is an event of a schema that only the registry knows: the booking event with a double behind everything else.
func doubleEvent(v float64) mut {
	return func(d *draft) {
		d.frame = schemas.AppendConfluent(nil, schemaWithDouble)
		d.rawValue(binary.LittleEndian.AppendUint64(d.bytes(), math.Float64bits(v)))
	}
}

// otherSchema is a customer's event, whole and right, on the topic of bookings.
func otherSchema(d *draft) {
	now := d.event.Meta.OccurredAt
	t, _ := schemas.EventTypeByName("customer.creation")
	ev := schemas.CustomerEvent{Meta: d.event.Meta, Data: schemas.Customer{CustomerID: d.event.Meta.EntityID, CreatedAt: &now}}
	ev.Meta.EventType, ev.Meta.Entity, ev.Meta.Action = t.Name, t.Kind, t.Action
	b, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema("customer").Fingerprint()))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	d.rawValue(b)
}

var poisonScenario = scenario{
	name: "poison", what: fmt.Sprintf("3 records of poison in 100 events, of %d kinds", len(poisons)), act: poisonAct,
	deploy: withRegistry, rate: 700, long: 1_000_000, rest: patience, noRepeat: true, from: formShort,
}

// poisoned is one record that was written, and what must become of it.
type poisoned struct {
	kind    *poisonKind
	id      string // in the rig's header
	eventID string
	key     []byte
	value   []byte
	headers []kafka.Header
	times   int
}

// poisonSettles is for how long after that the good events that were held up may still come.
const poisonSettles = 5 * time.Second

// idHeader is the header by which the rig finds its records again.
const idHeader = "rig-poison"

// poisonRun is the state of one run of the scenario.
type poisonRun struct {
	w       *world
	catch   *catcher
	subs    []string // ids of the subscriptions, one a format
	company string
	append  map[kafka.Codec]*kafka.Appender
	sent    []*poisoned
	alone   time.Time // from then on the good events are, until w.from
}

var formatNames = []string{"standard", "cloudevents", "classic"}

// poisonAct writes poison while the good events flow: every kind once and then, after a third of the time that is left, in which the good ones are alone, all of it.
func poisonAct(ctx context.Context, w *world) error {
	catch, err := startCatcher()
	if err != nil {
		return err
	}
	defer catch.close()
	p := &poisonRun{w: w, catch: catch, company: fmt.Sprintf("poison%d", time.Now().UnixNano()), append: map[kafka.Codec]*kafka.Appender{}}
	if err := p.subscribe(ctx); err != nil {
		return err
	}
	over := time.Now().Add(time.Duration(float64(w.events) / w.rate * 1e9))
	amount := 600
	if w.form == formLong {
		amount = 10_000
	}
	list, err := p.makeAll(amount)
	if err != nil {
		return err
	}
	// What the first records of unknown schemas hold up, by rule, must be counted neither as what poison does nor as how it is without.
	if err := p.publish(ctx, list[:len(poisons)], time.Second); err != nil {
		return err
	}
	if _, err := p.await(ctx, p.sent[:len(poisons)]); err != nil {
		return err
	}
	if err := pause(ctx, poisonSettles); err != nil {
		return err
	}
	p.alone = time.Now()
	left := time.Until(over)
	if err := pause(ctx, left/3); err != nil {
		return err
	}
	w.from = time.Now()
	if err := p.publish(ctx, list[len(poisons):], left/2); err != nil {
		return err
	}
	w.to = time.Now()
	return p.verify(ctx)
}

// subscribe makes one subscription a format, for all events of the company.
func (p *poisonRun) subscribe(ctx context.Context) error {
	desk, err := openDesk(ctx, p.w)
	if err != nil {
		return err
	}
	defer desk.stop()
	for _, f := range formatNames {
		l, _, err := desk.Create(ctx, subscriptions.Draft{Company: p.company, Name: f, URL: "http://" + p.catch.Addr + "/" + f, Events: []string{"*"}, Format: f})
		if err != nil {
			return err
		}
		p.subs = append(p.subs, l.ID)
	}
	return nil
}

// makeAll makes so many records: every kind once, then again and again; heavy ones twice at most, five times in the long form.
func (p *poisonRun) makeAll(amount int) ([]*draft, error) {
	var list []*draft
	heavy := 2
	if p.w.form == formLong {
		heavy = 5
	}
	for n := 0; len(list) < amount; n++ {
		for i := range poisons {
			k := &poisons[i]
			if k.heavy && n >= heavy || len(list) == amount {
				continue
			}
			id := fmt.Sprintf("%s-%d-%d", p.company, i, n)
			d, err := newDraft(p.company, id, n)
			if err != nil {
				return nil, err
			}
			d.headers = []kafka.Header{{Key: idHeader, Value: []byte(id)}}
			k.make(d)
			p.sent = append(p.sent, &poisoned{kind: k, id: id, eventID: d.event.Meta.EventID, key: d.key, value: d.bytes(), headers: d.headers, times: d.times})
			list = append(list, d)
		}
	}
	return list, nil
}

// publish writes the records spread over a time, each in a batch of its own.
func (p *poisonRun) publish(ctx context.Context, list []*draft, over time.Duration) error {
	begin := time.Now()
	c := p.w.d.Client()
	for i, d := range list {
		if err := pause(ctx, time.Until(begin.Add(over*time.Duration(i)/time.Duration(len(list))))); err != nil {
			return err
		}
		a := p.append[d.codec]
		if a == nil {
			a = c.NewAppender(kafka.AppenderConfig{Compression: d.codec})
			p.append[d.codec] = a
		}
		for range d.times {
			tp := place(c, c.Topics().Events[d.topic], d.key)
			var rs kafka.Records
			if v := d.bytes(); v == nil {
				rs.AddTombstone(tp, d.key, d.headers...)
			} else {
				rs.Add(tp, d.key, d.headers, v)
			}
			err := p.w.fault(Other, func() error { _, err := a.Append(ctx, &rs); return err })
			if err != nil {
				return fmt.Errorf("poison is refused: %s: %w", headerOf(d.headers, idHeader), err)
			}
		}
	}
	return nil
}

func headerOf(hs []kafka.Header, key string) string {
	for _, h := range hs {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// verify waits until every record has come to its end, and compares.
func (p *poisonRun) verify(ctx context.Context) error {
	kept, err := p.await(ctx, p.sent)
	if err != nil {
		return err
	}
	return p.compare(ctx, kept)
}

// await waits until records have come to their end, and returns those of all that are undecodable. If one does not come to it, the comparison says so.
func (p *poisonRun) await(ctx context.Context, sent []*poisoned) (kept map[string][]router.Undecodable, err error) {
	kept = map[string][]router.Undecodable{}
	expectKept, expectCaught := 0, 0
	for _, s := range sent {
		switch s.kind.want {
		case delivered:
			expectCaught += s.times * len(p.subs)
		case justFits:
			expectCaught += s.times
		case nobody, justOver:
		default:
			expectKept += s.times
		}
	}
	deadline := time.Now().Add(90 * time.Second)
	for {
		clear(kept)
		n := 0
		_, err := router.ScanUndecodable(ctx, p.w.d.Client(), -1, nil, func(u *router.Undecodable) bool {
			id := headerOf(u.Headers, idHeader)
			if u.LeftOut > 0 { // its headers are, too, and its key is not
				id = strings.TrimPrefix(string(u.Key), p.company+"/")
			}
			if strings.HasPrefix(id, p.company) {
				kept[id] = append(kept[id], *u)
				n++
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		if n >= expectKept && len(p.catch.all()) >= expectCaught || time.Now().After(deadline) {
			return kept, nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// compare holds every record against its row of the table.
func (p *poisonRun) compare(ctx context.Context, kept map[string][]router.Undecodable) error {
	caught := p.catch.byID()
	dead, err := p.tooLarge(ctx)
	if err != nil {
		return err
	}
	var wrong []string
	for _, s := range p.sent {
		if problem := p.judge(s, kept[s.id], caught, dead); problem != "" {
			wrong = append(wrong, s.kind.name+" ("+s.id+"): "+problem)
		}
	}
	for i, line := range wrong {
		if i == 20 {
			fmt.Printf("      and %d more\n", len(wrong)-i)
			break
		}
		fmt.Println("      poison: " + line)
	}
	before, during := p.goodP99()
	fmt.Printf("      poison: %d records of %d kinds, %d not as the table says; good p99 %.1f ms before, %.1f ms among poison: %.2f x (goal <= 1.2)\n",
		len(p.sent), len(poisons), len(wrong), ms(before), ms(during), float64(during)/float64(max(before, 1)))
	if len(wrong) > 0 {
		return errors.New("poison: see above")
	}
	if p.w.form == formLong && float64(during) > 1.2*float64(before) { // over a minute the figure says more about the machine
		return errors.New("poison: the good events are late")
	}
	return nil
}

// judge says what is wrong with the fate of one record; empty: nothing.
func (p *poisonRun) judge(s *poisoned, kept []router.Undecodable, caught map[string]int, dead map[string]int) string {
	got, ends := 0, 0
	for i, sub := range p.subs {
		if i > 0 && (s.kind.want == justFits || s.kind.want == justOver) {
			break
		}
		id := schemas.WebhookID(sub, s.eventID)
		got += caught["/"+formatNames[i]+" "+id]
		ends += dead[sub+" "+s.eventID]
	}
	all := s.times * len(p.subs)
	want := map[string][3]int{delivered: {all}, nobody: {}, justFits: {s.times}, justOver: {0, s.times}}
	counts, ok := want[s.kind.want]
	if !ok {
		counts = [3]int{0, 0, s.times}
	}
	if got != counts[0] || ends != counts[1] || len(kept) != counts[2] {
		reasons := ""
		for _, u := range kept {
			reasons += " " + u.Reason
		}
		return fmt.Sprintf("delivered %d, dead %d, undecodable %d%s; it should be %v (%s)", got, ends, len(kept), reasons, counts, s.kind.want)
	}
	for _, u := range kept {
		reason, out := strings.CutPrefix(s.kind.want, leftOut)
		switch {
		case u.Reason != reason:
			return fmt.Sprintf("undecodable as %q, not as %q", u.Reason, s.kind.want)
		case out:
			if u.Value != nil || u.LeftOut < int64(len(s.value)) {
				return fmt.Sprintf("%d bytes are kept and %d left out of %d", len(u.Value), u.LeftOut, len(s.value))
			}
		case !bytes.Equal(u.Value, s.value) || (u.Value == nil) != (s.value == nil) || !bytes.Equal(u.Key, s.key):
			return fmt.Sprintf("not kept byte for byte: %d bytes of %d, key of %d bytes of %d", len(u.Value), len(s.value), len(u.Key), len(s.key))
		case !slices.EqualFunc(u.Headers, s.headers, func(a, b kafka.Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }):
			return fmt.Sprintf("%d headers are kept of %d, or changed", len(u.Headers), len(s.headers))
		}
	}
	return ""
}

// tooLarge counts the dead letters of this run that say so, by subscription and event.
func (p *poisonRun) tooLarge(ctx context.Context) (map[string]int, error) {
	n := map[string]int{}
	err := deliverer.ReadDead(ctx, p.w.d.Client(), &schemas.Replay{}, nil, func(d *deliverer.DeadLetter) bool {
		if d.Task.Company == p.company && d.Reason == schemas.ReasonTooLarge {
			n[d.Task.Subscription+" "+d.Task.EventID]++
		}
		return true
	})
	return n, err
}

// goodP99 compares the good events before and among poison.
func (p *poisonRun) goodP99() (before, during time.Duration) {
	seen, err := p.w.d.Farm.Ledger("r")
	if err != nil {
		return 0, 0
	}
	return p99(seen, p.alone, p.w.from), p99(seen, p.w.from, p.w.to)
}
