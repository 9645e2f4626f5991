package router

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

var update = flag.Bool("update", false, "write the golden bodies anew; with it, events that are missing are made, too")

// golden is an event as it lies in testdata: Avro bytes behind their frame, so that neither the clock nor a better sampler changes a golden body.
func golden(t *testing.T, typ string) []byte {
	t.Helper()
	path := filepath.Join("testdata", typ+".avro")
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		ev := schemas.Event(snapshot("c_harbor", "c_harbor"))
		if typ != schemas.RecentSnapshot {
			ev = sandbox.Sample(rand.New(rand.NewPCG(26, 3)), typ, "c_harbor", 1)
		}
		var body []byte
		if body, err = ev.AppendAvro(nil); err == nil {
			b = append(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()), body...)
			err = os.WriteFile(path, b, 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bodies of all types in all formats, byte for byte: receivers parse them, so a change here is a change of the interface.
func TestBodiesOfAllTypesAndFormatsAreExact(t *testing.T) {
	r, types, m := new(renderer), eventTypes(), new(schemas.Meta)
	for _, typ := range schemas.AllEventTypes() {
		frame, avro, err := schemas.Unframe(golden(t, typ.Name))
		if err != nil {
			t.Fatal(err)
		}
		schema, ok := schemas.CompiledIn(frame.Fingerprint)
		if !ok {
			t.Fatalf("%s: the schema that it was written with is not compiled in any more", typ.Name)
		}
		reader, err := schemas.NewEventReader(schema)
		if err != nil {
			t.Fatal(err)
		}
		rest, err := reader.Meta(avro, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, reason := inspect(m, typ.Entity, types); reason != "" {
			t.Fatalf("%s: %s", typ.Name, reason)
		}
		r.load(reader, m, types[typ.Name], rest)
		for f, name := range []string{FormatStandard, FormatCloudEvents, FormatClassic} {
			b, err := r.body(formatOf(name))
			if err != nil || format(f) != formatOf(name) {
				t.Fatalf("%s %s: %v", typ.Name, name, err)
			}
			got := bytes.Clone(b.head)
			if b.hole {
				got = append(append(got, `"golden"`...), b.tail...)
			}
			if !json.Valid(got) || !validText(got) {
				t.Errorf("%s %s is not valid UTF-8 JSON", typ.Name, name)
			}
			path := filepath.Join("testdata", typ.Name+"."+name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s %s: got\n%s\nwant\n%s", typ.Name, name, got, want)
			}
		}
	}
}
