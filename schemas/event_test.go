package schemas_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"

	"github.com/hookferry/hookferry/schemas"
)

// namesOf collects the named types of a schema, as parsed JSON.
func namesOf(v any, into map[string]map[string]any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			namesOf(e, into)
		}
	case map[string]any:
		if n, ok := v["name"].(string); ok && v["type"] != nil && (v["type"] == "record" || v["type"] == "enum") {
			into[n] = v
		}
		for _, k := range []string{"type", "items", "values"} {
			namesOf(v[k], into)
		}
		if fs, ok := v["fields"].([]any); ok {
			for _, f := range fs {
				namesOf(f.(map[string]any)["type"], into)
			}
		}
	}
}

// native turns a Go value into what goavro decodes to, by the schema alone: fields by their order, not by the generator's idea of names.
func native(t *testing.T, names map[string]map[string]any, typ any, v reflect.Value) (value any, unionName string) {
	switch s := typ.(type) {
	case string:
		if n, ok := names[s]; ok {
			return native(t, names, n, v)
		}
		switch s {
		case "int":
			return int32(v.Int()), s
		case "long":
			return v.Int(), s
		case "boolean":
			return v.Bool(), s
		}
		return v.String(), s
	case []any:
		if v.IsNil() {
			return nil, ""
		}
		inner, name := native(t, names, s[1], v.Elem())
		return map[string]any{name: inner}, ""
	case map[string]any:
		switch logical, _ := s["logicalType"].(string); logical {
		case "decimal":
			return big.NewRat(v.Interface().(schemas.Decimal).Unscaled, 1_000_000), "bytes.decimal"
		case "timestamp-millis":
			return v.Interface().(time.Time).UTC(), "long.timestamp-millis"
		case "date":
			return v.Interface().(schemas.Date).Time(time.UTC), "int.date"
		case "time-millis":
			return time.Duration(v.Int()) * time.Millisecond, "int.time-millis"
		}
		switch s["type"] {
		case "array":
			out := []any{}
			for i := range v.Len() {
				e, _ := native(t, names, s["items"], v.Index(i))
				out = append(out, e)
			}
			return out, "array"
		case "map":
			out := map[string]any{}
			for _, k := range v.MapKeys() {
				out[k.String()] = v.MapIndex(k).String()
			}
			return out, "map"
		case "enum":
			sym := v.String()
			if sym == "" {
				sym = s["default"].(string)
			}
			return sym, "tours.events.v1." + s["name"].(string)
		case "record":
			out := map[string]any{}
			for i, f := range s["fields"].([]any) {
				m := f.(map[string]any)
				out[m["name"].(string)], _ = native(t, names, m["type"], v.Field(i))
			}
			return out, "tours.events.v1." + s["name"].(string)
		}
	}
	t.Fatalf("no native value for %v", typ)
	return nil, ""
}

// fill gives v a random value that the schemas allow, edges included.
func fill(rng *rand.Rand, names map[string]map[string]any, typ any, v reflect.Value) {
	switch s := typ.(type) {
	case string:
		if n, ok := names[s]; ok {
			fill(rng, names, n, v)
			return
		}
		switch s {
		case "int":
			v.SetInt(int64(int32(rng.Uint64() >> rng.IntN(64))))
		case "long":
			v.SetInt(int64(rng.Uint64() >> rng.IntN(64)))
		case "boolean":
			v.SetBool(rng.IntN(2) == 0)
		default:
			v.SetString([]string{"", "a", "Tromsø", "line\nbreak \"quoted\"", strings.Repeat("x", rng.IntN(300)), "😀\x00"}[rng.IntN(6)])
		}
	case []any:
		if rng.IntN(2) == 0 {
			p := reflect.New(v.Type().Elem())
			fill(rng, names, s[1], p.Elem())
			v.Set(p)
		}
	case map[string]any:
		switch logical, _ := s["logicalType"].(string); logical {
		case "decimal":
			limit := int64(1)
			for range int(s["precision"].(float64)) {
				limit *= 10
			}
			d := int64(rng.Uint64()>>rng.IntN(64)) % limit
			if rng.IntN(8) == 0 {
				d = []int64{limit - 1, 1 - limit, 127, 128, -128, -129, 32767, 32768, -32768, 0}[rng.IntN(10)]
			}
			v.Set(reflect.ValueOf(schemas.Decimal{Unscaled: d}))
			return
		case "timestamp-millis":
			v.Set(reflect.ValueOf(time.UnixMilli(rng.Int64N(253402300799999) - 30000000000000).UTC()))
			return
		case "date":
			v.SetInt(int64(rng.IntN(2932896+719528)) - 719528)
			return
		case "time-millis":
			v.SetInt(int64(rng.IntN(86_400_000)))
			return
		}
		switch s["type"] {
		case "array":
			if n := rng.IntN(4); n > 0 {
				v.Set(reflect.MakeSlice(v.Type(), n, n))
				for i := range n {
					fill(rng, names, s["items"], v.Index(i))
				}
			}
		case "map":
			if n := rng.IntN(12); n > 0 {
				m := map[string]string{}
				for i := range n {
					m[fmt.Sprint("key", i)] = fmt.Sprint(rng.IntN(100))
				}
				v.Set(reflect.ValueOf(m))
			}
		case "enum":
			symbols := s["symbols"].([]any)
			v.SetString(symbols[rng.IntN(len(symbols))].(string))
		case "record":
			for i, f := range s["fields"].([]any) {
				fill(rng, names, f.(map[string]any)["type"], v.Field(i))
			}
		}
	}
}

func parsed(t *testing.T, entity string) (root any, names map[string]map[string]any) {
	if err := json.Unmarshal([]byte(schemas.EventSchemaText(entity)), &root); err != nil {
		t.Fatal(err)
	}
	names = map[string]map[string]any{}
	namesOf(root, names)
	return root, names
}

func TestEveryEventEncodesToWhatGoavroReads(t *testing.T) {
	goavro.MaxBlockCount, goavro.MaxBlockSize = 1<<20, 1<<20
	for _, entity := range schemas.AllEntities() {
		t.Run(entity, func(t *testing.T) {
			codec, err := goavro.NewCodec(schemas.EventSchemaText(entity))
			if err != nil {
				t.Fatal(err)
			}
			root, names := parsed(t, entity)
			rng := rand.New(rand.NewPCG(7, uint64(len(entity))))
			for i := range 60 {
				ev := schemas.NewEvent(entity)
				fill(rng, names, root, reflect.ValueOf(ev).Elem())
				prefix := []byte("kept")
				b, err := ev.AppendAvro(prefix)
				if err != nil {
					t.Fatalf("value %d: %v", i, err)
				}
				body, found := bytes.CutPrefix(b, prefix)
				if !found {
					t.Fatal("AppendAvro did not append")
				}
				got, rest, err := codec.NativeFromBinary(body)
				if err != nil || len(rest) != 0 {
					t.Fatalf("value %d: goavro: %v, %d bytes left", i, err, len(rest))
				}
				want, _ := native(t, names, root, reflect.ValueOf(ev).Elem())
				sameNative(t, "", want, got)
				back := schemas.NewEvent(entity)
				if err := back.DecodeAvro(body); err != nil {
					t.Fatalf("value %d: DecodeAvro: %v", i, err)
				}
				if !reflect.DeepEqual(back, ev) {
					t.Fatalf("value %d: DecodeAvro read something else", i)
				}
				checkAgainstGoavro(t, codec, want, ev)
			}
		})
	}
}

// checkAgainstGoavro reads what goavro writes.
func checkAgainstGoavro(t *testing.T, codec *goavro.Codec, value any, want schemas.Event) {
	theirs, err := codec.BinaryFromNative(nil, value)
	if err != nil {
		t.Fatal(err)
	}
	got := schemas.NewEvent(want.EntityName())
	if err := got.DecodeAvro(theirs); err != nil {
		t.Fatalf("DecodeAvro of goavro's bytes: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatal("DecodeAvro of goavro's bytes gave another value")
	}
}

// sameNative is DeepEqual that compares numbers and times by value, and says where two values part.
func sameNative(t *testing.T, path string, want, got any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		if len(g) != len(w) {
			t.Fatalf("%s: got %v, want %v", path, got, want)
		}
		for k := range w {
			sameNative(t, path+"."+k, w[k], g[k])
		}
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			t.Fatalf("%s: got %v, want %v", path, got, want)
		}
		for i := range w {
			sameNative(t, fmt.Sprintf("%s[%d]", path, i), w[i], g[i])
		}
	case *big.Rat:
		if g, ok := got.(*big.Rat); !ok || g.Cmp(w) != 0 {
			t.Fatalf("%s: got %v, want %v", path, got, want)
		}
	case time.Time:
		if g, ok := got.(time.Time); !ok || !g.Equal(w) {
			t.Fatalf("%s: got %v, want %v", path, got, want)
		}
	default:
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("%s: got %#v, want %#v", path, got, want)
		}
	}
}

// TestGoldenEvents holds today's bytes of a fixed event of every record, for as long as v1 is read anywhere. HOOKFERRY_WRITE_GOLDEN=1 writes new files
// (a new version is a new file; an old one never changes).
func TestGoldenEvents(t *testing.T) {
	for _, entity := range schemas.AllEntities() {
		root, names := parsed(t, entity)
		want := schemas.NewEvent(entity)
		fill(rand.New(rand.NewPCG(1, 1)), names, root, reflect.ValueOf(want).Elem())
		b, err := want.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(entity).Fingerprint()))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("testdata", "events", entity+".v1.hex")
		text := []byte(hex.EncodeToString(b) + "\n")
		if os.Getenv("HOOKFERRY_WRITE_GOLDEN") != "" {
			if err := os.WriteFile(name, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, text) {
			t.Errorf("%s: the bytes differ from %s", entity, name)
		}
		raw, err := hex.DecodeString(strings.TrimSpace(string(golden)))
		if err != nil {
			t.Fatal(err)
		}
		frame, body, err := schemas.Unframe(raw)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := schemas.CompiledIn(frame.Fingerprint); !ok || s.Fingerprint() != schemas.EventSchema(entity).Fingerprint() {
			t.Errorf("%s: the golden frame's fingerprint is not compiled in", entity)
		}
		got := schemas.NewEvent(entity)
		if err := got.DecodeAvro(body); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the golden bytes read as something else: %v", entity, err)
		}
	}
}

func TestEveryTruncationOfAnEventIsAnError(t *testing.T) {
	for _, entity := range schemas.AllEntities() {
		root, names := parsed(t, entity)
		ev := schemas.NewEvent(entity)
		fill(rand.New(rand.NewPCG(3, 3)), names, root, reflect.ValueOf(ev).Elem())
		b, err := ev.AppendAvro(nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if err := schemas.NewEvent(entity).DecodeAvro(b[:n]); err == nil {
				t.Fatalf("%s: %d of %d bytes decoded", entity, n, len(b))
			}
		}
		if err := schemas.NewEvent(entity).DecodeAvro(append(b, 0)); err == nil {
			t.Fatalf("%s: a trailing byte was accepted", entity)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, entity := range schemas.AllEntities() {
		if b, err := os.ReadFile(filepath.Join("testdata", "events", entity+".v1.hex")); err == nil {
			raw, _ := hex.DecodeString(strings.TrimSpace(string(b)))
			f.Add(entity, raw[10:])
		}
	}
	f.Fuzz(func(t *testing.T, entity string, body []byte) {
		ev := schemas.NewEvent(entity)
		if ev == nil || ev.DecodeAvro(body) != nil {
			return
		}
		// What decodes encodes again, and is then in normal form; only a time that is Go's zero time has no way back.
		again, err := ev.AppendAvro(nil)
		if err != nil {
			if strings.Contains(err.Error(), "is not set") {
				return
			}
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		second := schemas.NewEvent(entity)
		if err := second.DecodeAvro(again); err != nil || !reflect.DeepEqual(ev, second) {
			t.Fatalf("decoded, encoded and decoded is not the same: %v", err)
		}
	})
}

func TestAnEventThatCannotBeWrittenNamesEveryBadField(t *testing.T) {
	ev := &schemas.BookingEvent{
		Meta: schemas.EventMeta{EventID: "evt_\xff", PublishedAt: time.Unix(0, 0), OccurredAt: time.UnixMilli(253402300800000)},
		Data: schemas.Booking{
			SoldAt: time.Unix(0, 0), Status: "SOLD",
			Activities: []schemas.BookedActivity{{}, {
				LocalDate: -800_000, StartTime: new(schemas.TimeOfDay(86_400_000)),
				SubTotal: schemas.Money{Amount: schemas.Decimal{Unscaled: 1_000_000_000_000_000_000}},
				Rental:   &schemas.Rental{EquipmentAssignmentIDs: []string{"ok", "\xff"}},
			}},
			CustomFields: map[string]string{"k": "\xff"},
		},
	}
	dst, err := ev.AppendAvro([]byte("before"))
	if string(dst) != "before" {
		t.Errorf("dst came back as %q", dst)
	}
	var fe *schemas.FieldError
	if !errors.As(err, &fe) || fe.Code() != "field_invalid" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"meta.eventId: is not valid UTF-8", "meta.occurredAt: lies outside", `data.status: "SOLD" is not a symbol of BookingStatus`,
		"data.activities[1].localDate: lies outside", "data.activities[1].startTime: lies outside the day", "data.activities[1].subTotal.amount: has more than 12 digits",
		"data.activities[1].rental.startAt: is not set", "data.activities[1].rental.equipmentAssignmentIds[1]: is not valid UTF-8", "data.customFields: has a key or value",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 9 {
		t.Errorf("%d problems, want 9:\n%v", n, err)
	}
}

func TestTheZeroValueOfAnEnumIsUnknown(t *testing.T) {
	ev := &schemas.ProductEvent{Meta: schemas.EventMeta{OccurredAt: time.UnixMilli(1), PublishedAt: time.UnixMilli(2)}}
	b, err := ev.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got schemas.ProductEvent
	if err := got.DecodeAvro(b); err != nil || got.Data.Status != schemas.CatalogStatusUnknown {
		t.Errorf("got %q, %v", got.Data.Status, err)
	}
	act := &schemas.ActivityEvent{Meta: ev.Meta, Data: schemas.Activity{OperatingDays: []schemas.Weekday{""}}}
	if _, err := act.AppendAvro(nil); err == nil || !strings.Contains(err.Error(), "data.operatingDays[0]") {
		t.Errorf("a weekday has no unknown; got %v", err)
	}
}
