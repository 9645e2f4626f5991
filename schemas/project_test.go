package schemas

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func eventTexts(t testing.TB) map[string]string {
	t.Helper()
	events := map[string]string{}
	for _, entity := range AllEntities() {
		events[entity] = EventSchemaText(entity)
	}
	if len(events) != 11 {
		t.Fatalf("%d entities", len(events))
	}
	return events
}

func readerOf(t testing.TB, text string) *EventReader {
	t.Helper()
	r, err := NewEventReader(parseOf(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readAll goes through an event as the router does.
func readAll(r *EventReader, wire []byte) (m Meta, data, previous, changes, marketplace []byte, err error) {
	rest, err := r.Meta(wire, &m)
	if err != nil {
		return
	}
	if data, rest, err = r.DataJSON(nil, rest); err != nil {
		return
	}
	if previous, err = r.PreviousJSON(nil, rest); err != nil {
		return
	}
	if changes, err = r.ChangesJSON(nil, &m); err != nil {
		return
	}
	marketplace, err = r.MarketplaceJSON(nil, &m)
	return
}

// TestProjectionAgreesWithGoavro on generated events of all ten entities: each field of meta, and the four parts as JSON.
func TestProjectionAgreesWithGoavro(t *testing.T) {
	for entity, text := range eventTexts(t) {
		s, codec, r := parseOf(t, text), codecOf(t, text), readerOf(t, text)
		g := generator{rand.New(rand.NewPCG(11, 12))}
		for range 60 {
			v := g.value(s.root, 0)
			wire, err := codec.BinaryFromNative(nil, v.native)
			if err != nil {
				t.Fatal(err)
			}
			m, data, previous, changes, marketplace, err := readAll(r, wire)
			if err != nil {
				t.Fatalf("%s: %v", entity, err)
			}
			event := v.plain.(map[string]any)
			meta := v.native.(map[string]any)["meta"].(map[string]any)
			plainMeta := event["meta"].(map[string]any)
			for _, c := range []struct{ what, got, want any }{
				{"eventId", string(m.EventID), meta["eventId"]}, {"eventType", string(m.EventType), meta["eventType"]},
				{"entityId", string(m.EntityID), meta["entityId"]}, {"companyId", string(m.CompanyID), meta["companyId"]},
				{"companyName", string(m.CompanyName), meta["companyName"]}, {"tenantId", string(m.TenantID), meta["tenantId"]},
				{"schemaVersion", string(m.SchemaVersion), meta["schemaVersion"]}, {"entityVersion", m.EntityVersion, meta["entityVersion"]},
				{"occurredAt", m.OccurredAt, meta["occurredAt"].(time.Time).UnixMilli()}, {"publishedAt", m.PublishedAt, meta["publishedAt"].(time.Time).UnixMilli()},
				{"groupId", m.GroupID, meta["groupId"]}, {"typeId", m.TypeID, meta["typeId"]}, {"testMode", m.TestMode, meta["testMode"]},
				{"systemUrl is null", m.SystemURL == nil, plainMeta["systemUrl"] == nil},
				{"systemUrl", plainMeta["systemUrl"] == nil || string(m.SystemURL) == plainMeta["systemUrl"], true},
				{"changes", plainOf(t, changes), plainMeta["changes"]}, {"marketplace", plainOf(t, marketplace), plainMeta["marketplace"]},
				{"data", plainOf(t, data), event["data"]}, {"previous", plainOf(t, previous), event["previous"]},
			} {
				if !reflect.DeepEqual(c.got, c.want) {
					t.Fatalf("%s: %s is %v, want %v", entity, c.what, c.got, c.want)
				}
			}
		}
	}
}

// TestEventsRefuseEveryTruncationAndTail, whichever part the cut falls into.
func TestEventsRefuseEveryTruncationAndTail(t *testing.T) {
	for entity, text := range eventTexts(t) {
		s, codec, r := parseOf(t, text), codecOf(t, text), readerOf(t, text)
		wire, err := codec.BinaryFromNative(nil, generator{rand.New(rand.NewPCG(13, 14))}.value(s.root, 0).native)
		if err != nil {
			t.Fatal(err)
		}
		for n := range wire {
			if _, _, _, _, _, err := readAll(r, wire[:n:n]); !errors.Is(err, errTruncated) {
				t.Fatalf("%s: %d of %d bytes gave %v", entity, n, len(wire), err)
			}
		}
		if _, _, _, _, _, err := readAll(r, append(wire, 0)); !errors.Is(err, errTrailing) {
			t.Errorf("%s: a trailing byte gave %v", entity, err)
		}
	}
}

const otherWriter = `{"type":"record","name":"E","fields":[
 {"name":"meta","type":{"type":"record","name":"M","fields":[
  {"name":"extra","type":{"type":"map","values":"double"}},
  {"name":"occurredAt","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"companyId","type":"string"},
  {"name":"groupId","type":["int","null"]},
  {"name":"changes","type":["null",{"type":"array","items":"string"}]},
  {"name":"entityVersion","type":"int"},
  {"name":"tenantId","type":["string","null"]},
  {"name":"entityId","type":"string"},
  {"name":"eventType","type":"string"},
  {"name":"eventId","type":{"type":"string","logicalType":"uuid"}}]}},
 {"name":"between","type":"string"},
 {"name":"data","type":"boolean"},
 {"name":"after","type":"long"},
 {"name":"previous","type":["null","boolean"]},
 {"name":"last","type":["null","string"]}]}`

// TestAnotherWritersOrder: fields are found by name, in any order, with more of them and fewer.
func TestAnotherWritersOrder(t *testing.T) {
	s, r := parseOf(t, otherWriter), readerOf(t, otherWriter)
	for doc, want := range map[string][3]string{
		`{"meta":{"extra":{"a":1},"occurredAt":"1969-12-31T23:59:59.999999Z","companyId":"c","groupId":5,"changes":["x"],"entityVersion":7,"tenantId":"t",
			"entityId":"e","eventType":"y","eventId":"30313233-3435-3637-3839-616263646566"},"between":"b","data":true,"after":9,"previous":false,"last":"z"}`: {"true", "false", `["x"]`},
		`{"meta":{"extra":{},"occurredAt":"1969-12-31T23:59:59.999Z","companyId":"c","groupId":null,"changes":null,"entityVersion":7,"tenantId":null,
			"entityId":"e","eventType":"y","eventId":"30313233-3435-3637-3839-616263646566"},"between":"","data":false,"after":9,"previous":null,"last":null}`: {"false", "null", `[]`},
	} {
		wire, err := s.EncodeJSON(nil, []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		m, data, previous, changes, marketplace, err := readAll(r, wire)
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]string{string(data), string(previous), string(changes)}; got != want || string(marketplace) != "{}" {
			t.Errorf("%v, %s; want %v", got, marketplace, want)
		}
		full := want[0] == "true"
		if m.OccurredAt != -1 || m.EntityVersion != 7 || string(m.CompanyID) != "c" || (m.GroupID == 5) != full || (string(m.TenantID) == "t") != full || m.CompanyName != nil {
			t.Errorf("%+v", m)
		}
		for n := range wire {
			if _, _, _, _, _, err := readAll(r, wire[:n:n]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", n, len(wire))
			}
		}
		if _, _, _, _, _, err := readAll(r, append(wire, 0)); !errors.Is(err, errTrailing) {
			t.Errorf("a trailing byte gave %v", err)
		}
	}
}

func TestSchemasThatAreNoEvents(t *testing.T) {
	for what, text := range map[string]string{
		"no record":             `"int"`,
		"no meta":               `{"type":"record","name":"E","fields":[{"name":"data","type":"int"}]}`,
		"meta is no record":     `{"type":"record","name":"E","fields":[{"name":"meta","type":"int"},{"name":"data","type":"int"}]}`,
		"meta not first":        strings.Replace(otherWriter, `"fields":[`, `"fields":[{"name":"zero","type":"int"},`, 1),
		"no data":               strings.Replace(otherWriter, `"data"`, `"dota"`, 1),
		"previous before data":  strings.NewReplacer(`"between"`, `"previous"`, `"previous"`, `"prev"`).Replace(otherWriter),
		"no event id":           strings.Replace(otherWriter, `"eventId"`, `"id"`, 1),
		"event type nullable":   strings.Replace(otherWriter, `"eventType","type":"string"`, `"eventType","type":["null","string"]`, 1),
		"company is a number":   strings.Replace(otherWriter, `"companyId","type":"string"`, `"companyId","type":"long"`, 1),
		"occurred at no time":   strings.Replace(otherWriter, `,"logicalType":"timestamp-micros"`, "", 1),
		"group a three-way one": strings.Replace(otherWriter, `["int","null"]`, `["int","null","string"]`, 1),
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if r, err := NewEventReader(s); err == nil || r != nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// TestMetaIsStrict in what it does not return too: an event must not be routed that cannot be read.
func TestMetaIsStrict(t *testing.T) {
	s, r := parseOf(t, otherWriter), readerOf(t, otherWriter)
	wire, err := s.EncodeJSON(nil, []byte(`{"meta":{"extra":{"key":1},"occurredAt":"2026-01-01T00:00:00Z","companyId":"comp","groupId":5,"changes":["chg"],"entityVersion":7,
		"tenantId":"t","entityId":"enti","eventType":"y","eventId":"30313233-3435-3637-3839-616263646566"},"between":"btw","data":true,"after":9,"previous":false,"last":"zlast"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"key", "comp", "chg", "enti", "btw", "zlast"} {
		bad := bytes.Clone(wire)
		bad[bytes.Index(bad, []byte(part))] = 0xff
		if _, _, _, _, _, err := readAll(r, bad); !errors.Is(err, errUTF8) {
			t.Errorf("invalid UTF-8 in %q gave %v", part, err)
		}
	}
	var m Meta
	_, err = r.Meta(bytes.Replace(wire, []byte("comp"), []byte("com\xff"), 1), &m)
	var e *DataError
	if !errors.As(err, &e) || e.Path != "meta.companyId" {
		t.Errorf("%v", err)
	}
	if _, err := r.Meta(make([]byte, MaxInput+1), &m); !errors.Is(err, errSize) {
		t.Errorf("too much: %v", err)
	}
}

func TestMetaAllocatesNothing(t *testing.T) {
	_, _, wire := eventFixture(t)
	r := readerOf(t, EventSchemaText("booking"))
	var m Meta
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Meta(wire, &m); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// commonEvent is a booking as one sees them: no odd text, one change.
func commonEvent(t testing.TB) []byte {
	t.Helper()
	doc, err := os.ReadFile("testdata/booking.json")
	if err != nil {
		t.Fatal(err)
	}
	wire, err := EventSchema("booking").EncodeJSON(nil, doc)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func BenchmarkMeta(b *testing.B) {
	wire := commonEvent(b)
	r := readerOf(b, EventSchemaText("booking"))
	var m Meta
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Meta(wire, &m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDataJSON(b *testing.B) {
	wire := commonEvent(b)
	r := readerOf(b, EventSchemaText("booking"))
	var m Meta
	rest, err := r.Meta(wire, &m)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 1<<16)
	out, _, _ := r.DataJSON(buf, rest)
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.DataJSON(buf, rest); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzEventReader: reading an event in parts accepts what reading it whole accepts, and gives the same.
func FuzzEventReader(f *testing.F) {
	entities := []string{"booking", "inventory", "contact"}
	g := generator{rand.New(rand.NewPCG(15, 16))}
	var schemas []*Schema
	var readers []*EventReader
	for i, entity := range entities {
		text := EventSchemaText(entity)
		schemas, readers = append(schemas, parseOf(f, text)), append(readers, readerOf(f, text))
		wire, err := codecOf(f, text).BinaryFromNative(nil, g.value(schemas[i].root, 0).native)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), wire)
	}
	f.Fuzz(func(t *testing.T, which byte, wire []byte) {
		i := int(which) % len(readers)
		_, data, previous, changes, _, err := readAll(readers[i], wire)
		whole, rest, wholeErr := schemas[i].AppendJSON(nil, wire)
		if wholeErr == nil && len(rest) > 0 {
			wholeErr = errTrailing
		}
		if (err == nil) != (wholeErr == nil) {
			// Whole, a key of meta may stand twice without anyone asking for it, and all parts share one budget.
			if errors.Is(wholeErr, errSize) || errors.Is(wholeErr, errElements) {
				return
			}
			t.Fatalf("in parts %v, whole %v", err, wholeErr)
		}
		if err != nil {
			return
		}
		event := plainOf(t, whole).(map[string]any)
		meta := event["meta"].(map[string]any)
		for _, c := range []struct {
			got  []byte
			want any
		}{{data, event["data"]}, {previous, event["previous"]}, {changes, meta["changes"]}} {
			if !reflect.DeepEqual(plainOf(t, c.got), c.want) {
				t.Fatalf("%s, whole %v", c.got, c.want)
			}
		}
	})
}
