package schemas

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
)

// ownRecord ties together what a record is made of: its Go type, its codec, its .avsc.
type ownRecord struct {
	name, schema, frame string
	sample              any                                // pointer to a record that fills every field
	encode              func(any) []byte                   //
	decode              func([]byte) (record any, _ error) // a pointer
}

func ownRecordOf[T any](name, schema, frame string, sample *T, enc func([]byte, *T) []byte, dec func([]byte, *T) error) ownRecord {
	return ownRecord{name: name, schema: schema, frame: frame, sample: sample,
		encode: func(v any) []byte { return enc(nil, v.(*T)) },
		decode: func(b []byte) (any, error) {
			v := new(T)
			err := dec(b, v)
			return v, err
		},
	}
}

func ownRecords() []ownRecord {
	src := Source{Topic: "hookferry.events.booking", Partition: 7, Offset: 123456789012, Time: 1767225600123}
	sealed := Sealed{KeyID: "k1", Data: []byte{0, 1, 2, 0xff}}
	task := Task{
		ID: "abcdefghijklmnopqrstuvwxyz", EventID: "evt_0001", EventType: "booking.creation", Company: "c-9", EntityID: "B-77", EntityVersion: 3,
		Subscription: "sub_abcdefghijklmnopqrstuvwxyz", SubscriptionVersion: 12, Source: src, OccurredAt: 1767225600001, CreatedAt: 1767225600200,
		Attempt: 4, Round: 99, Due: 1767225700000, Lane: LaneReplay, Replay: "rpl_1", Postponed: 2, FirstTriedAt: 1767225600300,
		Last:        &LastAttempt{At: 1767225600400, Status: 503, Reason: ReasonHTTP5xx, Detail: "503 Service Unavailable"},
		ContentType: "application/json", Body: []byte(`{"type":"booking.creation"}`),
	}
	return []ownRecord{
		ownRecordOf("task", taskSchema, taskFrame, &task, AppendTask, DecodeTask),
		ownRecordOf("attempt", attemptSchema, attemptFrame, &Attempt{
			TaskID: task.ID, Subscription: task.Subscription, Company: "c-9", EventID: "evt_0001", EventType: "booking.creation", EntityID: "B-77",
			Number: 4, Round: 99, StartedAt: 1767225600400, DurationMicros: 1234, Address: "203.0.113.9:443", Status: 503,
			Verdict: VerdictRetry, Reason: ReasonHTTP5xx, NextDue: 1767225700000, Answer: []byte("try later"), BytesSent: 900, BytesReceived: 120,
			Source: src, Replay: "rpl_1",
		}, AppendAttempt, DecodeAttempt),
		ownRecordOf("dead", deadSchema, deadFrame, &Dead{
			Task: task, Reason: ReasonExhausted, At: 1767225800000, Status: 503, Detail: "10 of 10 tries failed",
		}, AppendDead, DecodeDead),
		ownRecordOf("subscription", subscriptionSchema, subscriptionFrame, &Subscription{
			ID: task.Subscription, Version: 12, Company: "c-9", Name: "crm", URL: "https://example.com/hooks", Events: []string{"booking.*", "*.removal"},
			Format: FormatStandard, Headers: []Header{{Name: "X-Api-Key", Value: sealed}}, Auth: &sealed,
			Secrets:  []Secret{{ID: "s1", Kind: "v1", Value: sealed, Fingerprint: "ab12", CreatedAt: 1767225600000, ExpiresAt: 1767229200000}},
			Schedule: []int64{5000, 300000}, TimeoutMs: 15000, MaxConcurrency: 8, MaxRate: 12.5, ReplayRate: 50, Order: OrderEntity, State: StateActive, StateReason: "resumed",
			FailingSince: 1767225500000, Spans: []Cut{{At: 1767225600000, Kind: CutLive, Reason: "created"}}, BackfillFrom: 1767000000000,
			CreatedAt: 1767225598000, UpdatedAt: 1767225599000, Repair: true, UpdatedBy: "n-1",
		}, AppendSubscription, DecodeSubscription),
		ownRecordOf("replay", replaySchema, replayFrame, &Replay{
			ID: "rpl_1", Kind: ReplayRedrive, Subscription: task.Subscription, Company: "c-9", State: ReplayRunning, Note: "resumed", CreatedAt: 1767225600000, Reason: ReasonPaused,
			Events: []string{"booking.*"}, Entity: "B-77", EventID: "evt_0001", TaskID: task.ID, From: 1767000000000, To: 1767225600000,
			Cut: 1767100000000, Begins: []PartitionOffset{{Topic: "hookferry.dead", Partition: 3, Offset: 8}},
			Ends: []PartitionOffset{{Topic: "hookferry.dead", Partition: 3, Offset: 88}}, Rate: 100,
		}, AppendReplay, DecodeReplay),
		ownRecordOf("progress", progressSchema, progressFrame, &Progress{
			Replay: "rpl_1", Topic: "hookferry.dead", Partition: 3, Next: 41, Scanned: 40, Matched: 7, Done: true, At: 1767225600500,
		}, AppendProgress, DecodeProgress),
		ownRecordOf("line", lineSchema, lineFrame, &Line{
			Epoch: 5, Subscription: task.Subscription, Entity: "B-77", Topic: src.Topic, Partition: 7, Offset: 123456789012, Due: 1767225700000,
		}, AppendLine, DecodeLine),
	}
}

// TestFramesNameTheirSchemas holds each frame constant to the .avsc beside it.
func TestFramesNameTheirSchemas(t *testing.T) {
	for _, rec := range ownRecords() {
		s, err := Parse(rec.schema)
		if err != nil {
			t.Fatalf("%s: %v", rec.name, err)
		}
		if got := string(AppendSingleObject(nil, s.Fingerprint())); got != rec.frame {
			t.Errorf("%s.avsc: its frame is %x, the constant says %x", rec.name, got, rec.frame)
		}
	}
}

// TestRecordsAreWhatTheirSchemasSay: what goavro writes for the same values by the .avsc is byte for byte what the hand-laid encoder writes, and the
// decoder gives the values back.
func TestRecordsAreWhatTheirSchemasSay(t *testing.T) {
	for _, rec := range ownRecords() {
		t.Run(rec.name, func(t *testing.T) {
			codec, err := goavro.NewCodec(rec.schema)
			if err != nil {
				t.Fatal(err)
			}
			var parsed any
			if err := json.Unmarshal([]byte(rec.schema), &parsed); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 500 {
				v := reflect.New(reflect.TypeOf(rec.sample).Elem())
				fillRandom(rng, v.Elem())
				if i == 0 {
					v = reflect.ValueOf(rec.sample)
				}
				native := nativeOf(t, parsed, v.Elem(), map[string]any{})
				want, err := codec.BinaryFromNative([]byte(rec.frame), native)
				if err != nil {
					t.Fatal(err)
				}
				got := rec.encode(v.Interface())
				if !bytes.Equal(got, want) {
					t.Fatalf("value %d: ours and goavro's bytes differ\nours   %x\ngoavro %x\nvalue %+v", i, got, want, v.Elem())
				}
				back, err := rec.decode(got)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(back, v.Interface()) {
					t.Fatalf("value %d came back as\n%+v, was\n%+v", i, back, v.Interface())
				}
			}
		})
	}
}

// TestDeadHoldsTheTaskSchema: dead.avsc repeats the definition of a task, because each .avsc stands alone.
func TestDeadHoldsTheTaskSchema(t *testing.T) {
	var task, dead map[string]any
	for text, into := range map[string]*map[string]any{taskSchema: &task, deadSchema: &dead} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	delete(task, "namespace") // inherited from Dead
	fields := dead["fields"].([]any)
	if nested := fields[len(fields)-1].(map[string]any)["type"]; !reflect.DeepEqual(nested, any(task)) {
		t.Error("the task within dead.avsc is not the one of task.avsc")
	}
}

// TestGoldenBytes: bytes that release 1 wrote are read for ever, and are still what is written as long as the version is 1.
func TestGoldenBytes(t *testing.T) {
	for _, rec := range ownRecords() {
		path := "testdata/" + rec.name + ".v1.hex"
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && os.Getenv("HOOKFERRY_WRITE_GOLDEN") != "" {
			text = []byte(hex.EncodeToString(rec.encode(rec.sample)) + "\n")
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		back, err := rec.decode(golden)
		if err != nil {
			t.Fatalf("%s: %v", rec.name, err)
		}
		if !reflect.DeepEqual(back, rec.sample) {
			t.Errorf("%s: golden bytes came back as %+v", rec.name, back)
		}
		if got := rec.encode(rec.sample); !bytes.Equal(got, golden) {
			t.Errorf("%s: now written as %x, golden %x", rec.name, got, golden)
		}
	}
}

// TestRecordsRefuseEveryTruncationAndTail: no prefix of a record is a record, and nothing may follow it.
func TestRecordsRefuseEveryTruncationAndTail(t *testing.T) {
	for _, rec := range ownRecords() {
		full := rec.encode(rec.sample)
		for n := range full {
			if _, err := rec.decode(full[:n:n]); err == nil {
				t.Fatalf("%s: %d of %d bytes were accepted", rec.name, n, len(full))
			}
		}
		_, err := rec.decode(append(full, 0))
		if !errors.Is(err, errTrailing) {
			t.Errorf("%s: a trailing byte gave %v", rec.name, err)
		}
	}
}

// TestRecordsRefuseBrokenValues that the generic tests do not meet.
func TestRecordsRefuseBrokenValues(t *testing.T) {
	b := AppendProgress(nil, &Progress{Partition: 1})
	for at, c := range map[int]struct {
		b    []byte
		want error
	}{
		frameLength + 6: {[]byte{2}, errBoolean},                                                      // done
		frameLength + 2: {[]byte{0xfe, 0xff, 0xff, 0xff, 0x7f}, errIntRange},                          // partition
		frameLength:     {[]byte{1}, errNegative},                                                     // length of replay
		frameLength + 1: {bytes.Repeat([]byte{0xff}, 11), errVarint},                                  // length of topic
		frameLength + 7: {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}, errVarint}, // at
	} {
		bad := append(append(append([]byte(nil), b[:at]...), c.b...), b[at+1:]...)
		if err := DecodeProgress(bad, new(Progress)); !errors.Is(err, c.want) {
			t.Errorf("at %d: %v, want %v", at, err, c.want)
		}
	}
	task := AppendTask(nil, &Task{})
	task[len(task)-3] = 4 // the union of last
	if err := DecodeTask(task, new(Task)); !errors.Is(err, errUnionIndex) {
		t.Errorf("branch 2 of last: %v", err)
	}
}

func TestNewerSchemaSaysUpgrade(t *testing.T) {
	for _, rec := range ownRecords() {
		b := rec.encode(rec.sample)
		b[5] ^= 1
		_, err := rec.decode(b)
		var newer *NewerSchemaError
		if !errors.As(err, &newer) || newer.Code() != "upgrade" || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%s: an unknown fingerprint gave %v", rec.name, err)
		}
	}
}

// TestArrayInBlocksWithSizes: other writers may cut an array into blocks and say their byte size; a size that is not true is refused.
func TestArrayInBlocksWithSizes(t *testing.T) {
	r := Replay{ID: "r"}
	b := AppendReplay(nil, &r)
	head, rest := b[:len(b)-9], b[len(b)-8:] // the empty array's one byte, then the double
	item := appendLong(appendLong(appendString(nil, "t"), 1), 2)
	for _, c := range []struct {
		size int64
		want error
	}{{int64(len(item)), nil}, {int64(len(item)) - 1, errBlockSize}, {1 << 40, errTruncated}, {-1, errNegative}} {
		in := append(append([]byte(nil), head...), 1) // count -1
		in = appendLong(in, c.size)
		in = append(append(append(in, item...), 2), item...) // and a second block of one, without a size
		in = append(append(in, 0), rest...)
		var got Replay
		err := DecodeReplay(in, &got)
		if !errors.Is(err, c.want) {
			t.Errorf("block size %d: %v, want %v", c.size, err, c.want)
		}
		if err == nil && len(got.Ends) != 2 {
			t.Errorf("%d elements, want 2", len(got.Ends))
		}
	}
}

// TestDetailsAreCleanedWhenWritten: text from strangers may hold any bytes, and the record stays valid Avro.
func TestDetailsAreCleanedWhenWritten(t *testing.T) {
	var back Task
	if err := DecodeTask(AppendTask(nil, &Task{Last: &LastAttempt{Detail: "a\xffb"}}), &back); err != nil || back.Last.Detail != "a\uFFFDb" {
		t.Errorf("%q, %v", back.Last.Detail, err)
	}
}

func TestTaskHeadAndBody(t *testing.T) {
	rec := ownRecords()[0]
	task := rec.sample.(*Task)
	whole := AppendTask(nil, task)
	parts := append(AppendTaskHead(nil, task, len(task.Body)), task.Body...)
	if !bytes.Equal(whole, parts) {
		t.Error("head + body is not the task")
	}
	var back Task
	if err := DecodeTask(whole, &back); err != nil {
		t.Fatal(err)
	}
	if &back.Body[0] != &whole[len(whole)-len(task.Body)] {
		t.Error("the body was copied")
	}
	for i := range whole[:len(whole)-len(task.Body)] {
		whole[i] = 'x'
	}
	if back.EventID != task.EventID || back.Last.Detail != task.Last.Detail {
		t.Error("strings alias the input")
	}
	live := *task
	live.Last = nil
	whole = AppendTask(nil, &live)
	if n := testing.AllocsPerRun(100, func() { _ = DecodeTask(whole, &back) }); n > 1 {
		t.Errorf("%v allocations a decoded task, want 1", n)
	}
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = AppendTaskHead(buf[:0], task, 10) }); n > 0 {
		t.Errorf("%v allocations a head, want 0", n)
	}
}

func TestLiveAtGoesBySpansAlone(t *testing.T) {
	s := Subscription{State: StateDeleted, Spans: []Cut{{At: 100, Kind: CutLive}, {At: 200, Kind: CutPaused}, {At: 300, Kind: CutLive}}}
	for at, want := range map[int64]bool{0: false, 99: false, 100: true, 199: true, 200: false, 299: false, 300: true, 1 << 40: true} {
		if s.LiveAt(at) != want {
			t.Errorf("LiveAt(%d) = %v", at, !want)
		}
	}
	if new(Subscription).LiveAt(5) {
		t.Error("live without a cut")
	}
}

func TestReasonsAreAllDifferent(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] || strings.ToLower(string(r)) != string(r) {
			t.Errorf("reason %q", r)
		}
		seen[r] = true
	}
}

func FuzzRecords(f *testing.F) {
	for _, rec := range ownRecords() {
		f.Add(rec.encode(rec.sample))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, rec := range ownRecords() {
			if len(b) > frameLength {
				copy(b, rec.frame)
			}
			v, err := rec.decode(b)
			if err != nil {
				continue
			}
			// Compared as bytes: a NaN is not equal to itself, and details are cleaned by the first writing.
			first := rec.encode(v)
			again, err := rec.decode(first)
			if err != nil || !bytes.Equal(rec.encode(again), first) {
				t.Fatalf("%s: %x came back as %+v, %v", rec.name, first, again, err)
			}
		}
	})
}

func BenchmarkAppendTaskHead(b *testing.B) {
	task := *ownRecords()[0].sample.(*Task)
	task.Last, task.Replay = nil, ""
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendTaskHead(buf[:0], &task, 2000)
	}
}

func BenchmarkDecodeTask(b *testing.B) {
	task := *ownRecords()[0].sample.(*Task)
	task.Last, task.Replay, task.Body = nil, "", make([]byte, 2000)
	wire := AppendTask(nil, &task)
	var back Task
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeTask(wire, &back); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAttempt(b *testing.B) {
	a := ownRecords()[1].sample.(*Attempt)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendAttempt(buf[:0], a)
	}
}

// fillRandom fills every field; slices and pointers are nil now and then, and an empty slice is never made (it would come back nil).
func fillRandom(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("é", rng.IntN(3)) + hex.EncodeToString([]byte{byte(rng.Uint32())})[:rng.IntN(3)])
	case reflect.Int32:
		v.SetInt(int64(int32(rng.Uint32()) >> rng.IntN(32)))
	case reflect.Int64:
		// A range that goavro's time.Time carries exactly: it goes through nanoseconds for timestamps.
		v.SetInt(int64(rng.Uint64()) >> (22 + rng.IntN(42)))
	case reflect.Float64:
		v.SetFloat(rng.NormFloat64())
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fillRandom(rng, v.Elem())
		}
	case reflect.Slice:
		n := rng.IntN(4)
		if n == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillRandom(rng, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fillRandom(rng, v.Field(i))
		}
	case reflect.Uint8:
		v.SetUint(uint64(rng.Uint32() & 0xff))
	default:
		panic("BUG: no random " + v.Kind().String())
	}
}

// nativeOf gives goavro's form of a Go record, walking the .avsc: each of its fields is looked up by name in the struct, and each field of the
// struct must have been asked for.
func nativeOf(t *testing.T, schema any, v reflect.Value, names map[string]any) any {
	t.Helper()
	if s, ok := schema.(string); ok {
		if def := names[s]; def != nil {
			return nativeOf(t, def, v, names)
		}
		return map[reflect.Kind]func() any{
			reflect.String: func() any { return v.String() }, reflect.Int32: func() any { return int32(v.Int()) },
			reflect.Int64: func() any { return v.Int() }, reflect.Float64: func() any { return v.Float() },
			reflect.Bool: func() any { return v.Bool() }, reflect.Slice: func() any { return v.Bytes() },
		}[v.Kind()]()
	}
	if union, ok := schema.([]any); ok {
		name := ""
		switch def := union[1].(type) {
		case string:
			name = def
		case map[string]any:
			name = def["name"].(string)
		}
		if v.IsNil() {
			if def, ok := union[1].(map[string]any); ok {
				names[name] = def
			}
			return nil
		}
		return map[string]any{"hookferry.v1." + name: nativeOf(t, union[1], v.Elem(), names)}
	}
	def := schema.(map[string]any)
	switch def["type"] {
	case "record":
		names[def["name"].(string)] = def
		fields := def["fields"].([]any)
		if len(fields) != v.NumField() {
			t.Fatalf("%s has %d fields in the schema and %d in Go", def["name"], len(fields), v.NumField())
		}
		out := map[string]any{}
		for _, f := range fields {
			name := f.(map[string]any)["name"].(string)
			fv := v.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, name) })
			if !fv.IsValid() {
				t.Fatalf("%s.%s is not in Go", def["name"], name)
			}
			out[name] = nativeOf(t, f.(map[string]any)["type"], fv, names)
		}
		return out
	case "array":
		out := []any{}
		for i := range v.Len() {
			out = append(out, nativeOf(t, def["items"], v.Index(i), names))
		}
		if d, ok := def["items"].(map[string]any); ok && v.Len() == 0 && d["type"] == "record" {
			nativeOf(t, d, reflect.New(v.Type().Elem()).Elem(), names) // only for the names that it defines
		}
		return out
	}
	if def["logicalType"] == "timestamp-millis" {
		return time.UnixMilli(v.Int()).UTC()
	}
	return nativeOf(t, def["type"], v, names)
}

// A marker is told from a letter by its first field alone.
func TestAMarkerIsNoLetter(t *testing.T) {
	for _, reason := range Reasons() {
		d := Dead{Reason: reason, Task: Task{ID: "a", Body: []byte("redriven")}, Detail: "redriven"}
		b := AppendDead(nil, &d)
		if want := reason == ReasonRedriven; d.TakesOut() != want || DeadTakesOut(b) != want {
			t.Errorf("%q: %v and %v", reason, d.TakesOut(), DeadTakesOut(b))
		}
		for n := range b[:min(len(b), 20)] {
			if DeadTakesOut(b[:n]) && n < len(deadFrame)+1+len(ReasonRedriven) {
				t.Errorf("%q, %d bytes of it", reason, n)
			}
		}
	}
}
