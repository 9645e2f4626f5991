package router

import (
	"slices"
	"strings"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

func TestInspectTakesOnlyWhatMayBeRouted(t *testing.T) {
	good := func() *schemas.Meta {
		return &schemas.Meta{EventID: []byte("e"), EventType: []byte("booking.creation"), EntityID: []byte("1"), CompanyID: []byte("c"), OccurredAt: 1}
	}
	long := []byte(strings.Repeat("x", schemas.MaxID+1))
	for name, c := range map[string]struct {
		change func(*schemas.Meta)
		entity string
		want   string
	}{
		"as it should be":         {func(*schemas.Meta) {}, "booking", ""},
		"longest id":              {func(m *schemas.Meta) { m.EventID = long[1:] }, "booking", ""},
		"unknown type":            {func(m *schemas.Meta) { m.EventType = []byte("booking.created") }, "booking", reasonUnknownType},
		"no type":                 {func(m *schemas.Meta) { m.EventType = nil }, "booking", reasonUnknownType},
		"another topic":           {func(*schemas.Meta) {}, "customer", reasonWrongTopic},
		"no event id":             {func(m *schemas.Meta) { m.EventID = nil }, "booking", reasonBadMeta},
		"no company":              {func(m *schemas.Meta) { m.CompanyID = []byte{} }, "booking", reasonBadMeta},
		"no entity id":            {func(m *schemas.Meta) { m.EntityID = nil }, "booking", reasonBadMeta},
		"long event id":           {func(m *schemas.Meta) { m.EventID = long }, "booking", reasonBadMeta},
		"company is not text":     {func(m *schemas.Meta) { m.CompanyID = []byte{0xff} }, "booking", reasonBadMeta},
		"name is not text":        {func(m *schemas.Meta) { m.CompanyName = []byte{0xff} }, "booking", reasonBadMeta},
		"endless name":            {func(m *schemas.Meta) { m.CompanyName = make([]byte, schemas.MaxDescription+1) }, "booking", reasonBadMeta},
		"before all calendars":    {func(m *schemas.Meta) { m.OccurredAt = minTime - 1 }, "booking", reasonBadMeta},
		"behind all calendars":    {func(m *schemas.Meta) { m.OccurredAt = maxTime + 1 }, "booking", reasonBadMeta},
		"wrong ids do not matter": {func(m *schemas.Meta) { m.GroupID, m.TypeID = 1, 2 }, "booking", ""},
	} {
		m := good()
		c.change(m)
		typ, got := inspect(m, c.entity, eventTypes())
		if got != c.want || (got == "") != (typ != nil) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAnEventBelongsWhereItsKeyBelongs(t *testing.T) {
	m := &schemas.Meta{CompanyID: []byte("c0ffee01"), EntityID: []byte("9001")}
	right := kafka.Partition([]byte("c0ffee01/9001"), 12)
	for p := range int32(12) {
		if ok, _ := belongs(m, p, 12, nil); ok != (p == right) {
			t.Errorf("partition %d: %v", p, ok)
		}
	}
}

func TestUndecodableHeadersKeepWhatWasThereAndComeBack(t *testing.T) {
	tp := kafka.TP{Topic: "x.events.booking", Partition: 3}
	// A publisher may use our names: the last ones count.
	own := []kafka.Header{{Key: "ce_id", Value: []byte("1")}, {Key: headerOffset, Value: []byte("999")}, {Key: headerReason, Value: []byte("forged")}}
	for _, value := range [][]byte{nil, {}, {1, 2, 3}} {
		rec := &kafka.Record{Offset: 42, Time: 1700000000000, Key: []byte("k"), Value: value, Headers: own}
		put := &kafka.Record{Offset: 7, Time: 1700000000500, Key: rec.Key, Value: value, Headers: undecodableHeaders(tp, rec, 0, "truncated")}
		if put.Value == nil {
			put.Value = []byte{} // what the topic gives back
		}
		u, ok := parseUndecodable(5, put)
		if !ok {
			t.Fatal("cannot be read back")
		}
		want := schemas.Source{Topic: tp.Topic, Partition: 3, Offset: 42, Time: 1700000000000}
		if u.Source != want || u.Reason != "truncated" || u.ID() != "5-7" || (u.Value == nil) != (value == nil) || string(u.Value) != string(value) {
			t.Errorf("%+v", u)
		}
		if !slices.EqualFunc(u.Headers, own, func(a, b kafka.Header) bool { return a.Key == b.Key && string(a.Value) == string(b.Value) }) {
			t.Errorf("its own headers became %v", u.Headers)
		}
	}
}

func TestARecordThatNoRouterWroteIsNotUndecodable(t *testing.T) {
	full := undecodableHeaders(kafka.TP{Topic: "t"}, &kafka.Record{Value: []byte{1}}, 0, "r")
	for name, hs := range map[string][]kafka.Header{
		"no headers":       nil,
		"one is missing":   full[1:],
		"not a number":     append(slices.Clone(full[:4]), kafka.Header{Key: headerReason, Value: []byte("r")}, kafka.Header{Key: headerOffset, Value: []byte("x")}),
		"something behind": append(slices.Clone(full), kafka.Header{Key: "other"}),
	} {
		if u, ok := parseUndecodable(0, &kafka.Record{Headers: hs}); ok {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

func TestUndecodableIDsAreReadStrictly(t *testing.T) {
	if p, o, err := ParseUndecodableID("11-9000000000"); p != 11 || o != 9000000000 || err != nil {
		t.Error(p, o, err)
	}
	for _, s := range []string{"", "1", "-1-2", "1--2", "01-2", "1-2 ", "1-+2", "1/2", "a-b", "99999999999-1", "1-99999999999999999999"} {
		if _, _, err := ParseUndecodableID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestConfigNamesEveryMistakeAtOnce(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{BodyLimit: 1, CommitInterval: 1, UnknownSchemaWait: -1, FetchBytes: 1, PartitionBytes: 2, Grace: 0}
	err := bad.Validate()
	for _, field := range []string{"body_limit", "commit_interval", "unknown_schema_wait", "fetch_bytes", "partition_bytes", "grace", "deliverer_group", "replay_outstanding", "replay_orders"} {
		if err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s is not named in: %v", field, err)
		}
	}
}
