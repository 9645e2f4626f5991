package sandbox_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

func TestSamplesOfAllTypesAreCompleteAndGoThroughTheSchema(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	ids := map[string]bool{}
	for _, et := range schemas.EventTypes() {
		for seq := range int64(40) {
			ev := sandbox.Sample(rng, et.Name, "co_7", seq)
			m := ev.EventMeta()
			if ev.EntityName() != et.Entity || m.EventType != et.Name || int(m.TypeID) != et.TypeID || int(m.GroupID) != et.GroupID || m.Action != et.Action || m.Entity != et.Kind {
				t.Fatalf("%s: meta is %+v", et.Name, m)
			}
			if m.CompanyID != "co_7" || m.EntityVersion < 1 || m.OccurredAt.IsZero() || m.PublishedAt.IsZero() || len(m.EventID) != 44 || ids[m.EventID] {
				t.Fatalf("%s: meta is %+v", et.Name, m)
			}
			ids[m.EventID] = true
			b, err := ev.AppendAvro(nil)
			if err != nil {
				t.Fatalf("%s: %v", et.Name, err)
			}
			s := schemas.EventSchema(et.Entity)
			doc, rest, err := s.AppendJSON(nil, b)
			if err != nil || len(rest) != 0 {
				t.Fatalf("%s: AppendJSON: %v", et.Name, err)
			}
			again, err := s.EncodeJSON(nil, doc)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%s: its JSON does not encode to the same bytes: %v\n%s", et.Name, err, doc)
			}
			checkSample(t, et, m, doc)
		}
	}
}

// checkSample looks at a sample as its receiver would.
func checkSample(t *testing.T, et schemas.EventType, m *schemas.EventMeta, doc []byte) {
	t.Helper()
	var v struct {
		Meta struct {
			Changes []struct{ Path, Before, After *string }
		}
		Data, Previous map[string]any
	}
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	if id := v.Data[schemas.EntityIDField(et.Entity)]; id != m.EntityID {
		t.Fatalf("%s: entity id %q, but data says %v", et.Name, m.EntityID, id)
	}
	had := et.Trigger == "amendment" || et.Trigger == "removal" || et.Trigger == "cancellation"
	if (v.Previous != nil) != had {
		t.Fatalf("%s: previous is %v", et.Name, v.Previous)
	}
	if et.Trigger == "amendment" && len(v.Meta.Changes) == 0 {
		t.Fatalf("%s: an amendment without changes", et.Name)
	}
	for _, c := range v.Meta.Changes {
		if before, after := pointer(t, v.Previous, *c.Path), pointer(t, v.Data, *c.Path); before != text(c.Before) || after != text(c.After) || before == after {
			t.Fatalf("%s: change %s says %s -> %s, the event %s -> %s", et.Name, *c.Path, text(c.Before), text(c.After), before, after)
		}
	}
	if et.Trigger == "removal" && (v.Data["removedAt"] == nil || v.Previous["removedAt"] != nil) {
		t.Fatalf("%s: removedAt is %v, and was %v", et.Name, v.Data["removedAt"], v.Previous["removedAt"])
	}
}

func text(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

// pointer follows a JSON Pointer and gives JSON text.
func pointer(t *testing.T, v any, path string) string {
	t.Helper()
	for _, step := range strings.Split(path, "/")[1:] {
		switch in := v.(type) {
		case map[string]any:
			v = in[step]
		case []any:
			v = in[step[0]-'0']
		default:
			t.Fatalf("%s leads nowhere", path)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), `\u0026`, "&")
}

func TestASampledBookingAddsUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for seq := range int64(200) {
		ev := sandbox.Sample(rng, "booking.amendment", "co_1", seq).(*schemas.BookingEvent)
		for _, b := range []*schemas.Booking{&ev.Data, ev.Previous} {
			var lines int64
			for _, a := range b.Activities {
				lines += a.Total.Amount.Unscaled
			}
			for _, p := range b.Products {
				lines += p.Total.Amount.Unscaled
			}
			total := b.Totals.Total.Amount.Unscaled
			if lines != total || b.Totals.Paid.Amount.Unscaled+b.Totals.BalanceDue.Amount.Unscaled != total {
				t.Fatalf("booking %s: lines %d, totals %+v", b.BookingID, lines, b.Totals)
			}
		}
	}
}

func TestSampledVersionsOfAnEntityGrowByOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, name := range []string{"booking.amendment", "check_in.recorded", "inventory.change"} {
		last := map[string]int64{}
		for seq := range int64(1600) {
			m := sandbox.Sample(rng, name, "co_1", seq).EventMeta()
			if was, ok := last[m.EntityID]; ok && m.EntityVersion != was+1 {
				t.Fatalf("%s: entity %s went from version %d to %d", name, m.EntityID, was, m.EntityVersion)
			}
			last[m.EntityID] = m.EntityVersion
		}
		if len(last) == 1600 {
			t.Errorf("%s: no entity came back", name)
		}
	}
}

func BenchmarkSampleAndEncode(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	types := schemas.EventTypes()
	var buf []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ev := sandbox.Sample(rng, types[i%len(types)].Name, "co_7", int64(i))
		var err error
		if buf, err = ev.AppendAvro(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeBooking(b *testing.B) {
	ev := sandbox.Sample(rand.New(rand.NewPCG(1, 2)), "booking.amendment", "co_7", 1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = ev.AppendAvro(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}
