package schemas

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

const orderSchema = `{"type":"record","name":"Order","fields":[
 {"name":"id","type":"string"},
 {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["UNKNOWN","A"]},"default":"UNKNOWN"},
 {"name":"total","type":["null",{"type":"record","name":"Money","fields":[
   {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},{"name":"currency","type":"string"}]}],"default":null},
 {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"count","type":"int"},{"name":"price","type":["null","Money"],"default":null}]}},"default":[]},
 {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"},"default":0},
 {"name":"day","type":{"type":"int","logicalType":"date"},"default":1},
 {"name":"tod","type":{"type":"int","logicalType":"time-millis"},"default":2},
 {"name":"raw","type":"bytes","default":"\u00ff"},
 {"name":"flag","type":"boolean","default":false},
 {"name":"ratio","type":"double","default":0.5},
 {"name":"small","type":"float","default":1},
 {"name":"tags","type":{"type":"map","values":"string"},"default":{}},
 {"name":"either","type":["null","long",{"type":"array","items":"string"}],"default":null},
 {"name":"uuid","type":["null",{"type":"string","logicalType":"uuid"}],"default":null},
 {"name":"note","type":["string","null"]}
]}`

func TestMissingFieldsTakeTheirDefaults(t *testing.T) {
	s := parseOf(t, orderSchema)
	wire, err := s.EncodeJSON([]byte("head"), []byte(` {"id":"x"} `))
	if err != nil || !bytes.HasPrefix(wire, []byte("head")) {
		t.Fatal(err)
	}
	out, rest, err := s.AppendJSON(nil, wire[4:])
	const want = `{"id":"x","kind":"UNKNOWN","total":null,"lines":[],"at":"1970-01-01T00:00:00.000Z","day":"1970-01-02","tod":"00:00:00.002","raw":"/w==",` +
		`"flag":false,"ratio":0.5,"small":1,"tags":{},"either":null,"uuid":null,"note":null}`
	if err != nil || len(rest) != 0 || string(out) != want {
		t.Errorf("%s %v", out, err)
	}
}

// TestEveryBadFieldIsNamedAtOnce, with its path and in the words of who wrote it.
func TestEveryBadFieldIsNamedAtOnce(t *testing.T) {
	s := parseOf(t, orderSchema)
	dst := []byte("kept")
	out, err := s.EncodeJSON(dst, []byte(`{
		"id": 5, "kind": "B", "total": {"amount": "1,250.00", "currency": "EUR"},
		"lines": [{"count": 1}, {"count": 3000000000}, {"count": 1.5, "price": {"amount": "1.005", "currency": null}}, {}, 7],
		"at": "yesterday", "day": "2026-02-30", "tod": "25:00:00", "raw": "!", "flag": "true", "ratio": "x", "small": 1e300, "tags": {"a": 1}, "either": true,
		"uuid": "no", "Note": "x"}`))
	if string(out) != "kept" {
		t.Errorf("dst came back as %q", out)
	}
	want := []string{
		`Note: unknown field; did you mean "note"?`,
		"id: must be a string, not a number",
		"kind: must be one of UNKNOWN, A",
		"total.amount: not a decimal",
		"lines[1].count: must be a whole number of 32 bits",
		"lines[2].count: must be a whole number of 32 bits",
		"lines[2].price.amount: more than 2 decimals",
		"lines[2].price.currency: must be a string, not null",
		"lines[3].count: missing",
		"lines[4]: must be an object, not a number",
		"at: not a time (2026-01-31T15:04:05Z)",
		"day: not a date (2026-01-31)",
		"tod: not a time of day (15:04:05)",
		"raw: not base64",
		"flag: must be true or false, not a string",
		"ratio: must be a number, not a string",
		"small: too large a number",
		"tags.a: must be a string, not a number",
		"either: fits none of long, array",
		"uuid: not a UUID",
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v", err)
	}
	var got []string
	for _, e := range joined.Unwrap() {
		var f *FieldError
		if !errors.As(e, &f) || f.Code() != "field_invalid" {
			t.Errorf("%T %v", e, e)
		}
		got = append(got, e.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDocumentsThatAreRefused(t *testing.T) {
	s := parseOf(t, orderSchema)
	for doc, want := range map[string]string{
		``:                       "document: the JSON ends too early",
		`{"id":`:                 "document: the JSON ends too early",
		`{"id":"x"}{}`:           "document: something follows the JSON document",
		`{"id":"x"} x`:           "document: something follows the JSON document",
		`{"id":"x","id":"y"}`:    `document: the name "id" stands twice in one object`,
		`[]`:                     "document: must be an object, not an array",
		"{\"id\":\"\xff\"}":      "document: not valid UTF-8",
		strings.Repeat("[", 999): "document: the JSON nests deeper than 256",
	} {
		if _, err := s.EncodeJSON(nil, []byte(doc)); err == nil || err.Error() != want {
			t.Errorf("%.40s: %v, want %s", doc, err, want)
		}
	}
}

// TestScalars: what a person may write for each kind, and what it comes back as.
func TestScalars(t *testing.T) {
	const decimal = `{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}`
	const fixed = `{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":4,"scale":2}`
	ts, tu := `{"type":"long","logicalType":"timestamp-millis"}`, `{"type":"long","logicalType":"timestamp-micros"}`
	for _, c := range []struct{ schema, in, want string }{ // a want that is no JSON is the problem
		{decimal, `"12.5"`, `"12.50"`}, {decimal, `12.5`, `"12.50"`}, {decimal, `"-0.01"`, `"-0.01"`}, {decimal, `"0"`, `"0.00"`}, {decimal, `"-0"`, `"0.00"`},
		{decimal, `"9999.99"`, `"9999.99"`}, {decimal, `"1.5000"`, `"1.50"`}, {decimal, `"007"`, `"7.00"`}, {decimal, `1.28`, `"1.28"`}, {decimal, `-2.56`, `"-2.56"`},
		{decimal, `"10000"`, "more than 6 digits, of which 2 are decimals"}, {decimal, `"1e2"`, "not a decimal"}, {decimal, `1e2`, "not a decimal"},
		{decimal, `"."`, "not a decimal"}, {decimal, `"1."`, "not a decimal"}, {decimal, `".5"`, "not a decimal"}, {decimal, `"+1"`, "not a decimal"},
		{decimal, `"--1"`, "not a decimal"}, {decimal, `""`, "not a decimal"}, {decimal, `"1.2.3"`, "not a decimal"}, {decimal, `"٣"`, "not a decimal"},
		{decimal, `"` + strings.Repeat("1", 5000) + `"`, "more than 6 digits"}, {decimal, `"1.001"`, "more than 2 decimals"},
		{fixed, `"-1.28"`, `"-1.28"`}, {fixed, `"99.99"`, `"99.99"`},
		{ts, `"2026-01-31T23:59:59+02:00"`, `"2026-01-31T21:59:59.000Z"`}, {ts, `"2026-01-31T23:59:59.5Z"`, `"2026-01-31T23:59:59.500Z"`},
		{ts, `"2026-01-31T23:59:59.0005Z"`, "finer than a millisecond"}, {ts, `"2026-01-31T23:59:59"`, "not a time (2026-01-31T15:04:05Z)"},
		{ts, `1767225600000`, "must be a string, not a number"}, {ts, `"0000-01-01T00:00:00+01:00"`, "not a time (2026-01-31T15:04:05Z)"},
		{tu, `"2026-01-31T23:59:59.123456Z"`, `"2026-01-31T23:59:59.123456Z"`}, {tu, `"2026-01-31T23:59:59.1234567Z"`, "finer than a microsecond"},
		{`{"type":"long","logicalType":"local-timestamp-micros"}`, `"2026-01-31T23:59:59.123456"`, `"2026-01-31T23:59:59.123456"`},
		{`{"type":"int","logicalType":"date"}`, `"1969-12-31"`, `"1969-12-31"`}, {`{"type":"int","logicalType":"time-millis"}`, `"23:59:59.999"`, `"23:59:59.999"`},
		{`{"type":"long","logicalType":"time-micros"}`, `"23:59:59.999999"`, `"23:59:59.999999"`},
		{`{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}`, `"30313233-3435-3637-3839-616263646566"`, `"30313233-3435-3637-3839-616263646566"`},
		{`{"type":"fixed","name":"U","size":3}`, `"AAA="`, "must be 3 bytes, not 2"}, {`"bytes"`, `"AAB="`, "not base64"},
		{`"int"`, `2147483647`, `2147483647`}, {`"int"`, `2147483648`, "must be a whole number of 32 bits"}, {`"int"`, `1.0`, "must be a whole number of 32 bits"},
		{`"long"`, `-9223372036854775808`, `-9223372036854775808`}, {`"long"`, `"1"`, "must be a number, not a string"},
		{`"double"`, `1e999`, "too large a number"}, {`"null"`, `0`, "must be null"}, {`["string","long"]`, `null`, "must not be null"}, {`["null"]`, `1`, "must be null"},
	} {
		s := parseOf(t, c.schema)
		wire, err := s.EncodeJSON(nil, []byte(c.in))
		var got string
		if err != nil {
			var f *FieldError
			if !errors.As(err, &f) {
				t.Fatal(err)
			}
			got = f.Problem
		} else if out, rest, err := s.AppendJSON(nil, wire); err == nil && len(rest) == 0 {
			got = string(out)
		} else {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%.60s of %s: %s, want %s", c.in, c.schema, got, c.want)
		}
	}
}

// FuzzEncodeJSON: what is accepted can be read again, and comes back as itself.
func FuzzEncodeJSON(f *testing.F) {
	s := parseOf(f, orderSchema)
	f.Add([]byte(`{"id":"x","kind":"A","total":{"amount":"1.25","currency":"EUR"},"lines":[{"count":1}],"either":["a"],"tags":{"a":"b"}}`))
	f.Add([]byte(`{"id":"","at":"2026-01-31T23:59:59Z","day":"2026-01-31","tod":"01:02:03","raw":"AA==","flag":true,"ratio":1e5,"small":2.5,"either":4,"note":"n"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		wire, err := s.EncodeJSON(nil, doc)
		if err != nil {
			return
		}
		out, rest, err := s.AppendJSON(nil, wire)
		if err != nil || len(rest) != 0 {
			t.Fatalf("%q became %x: %v", doc, wire, err)
		}
		again, err := s.EncodeJSON(nil, out)
		if err != nil || !bytes.Equal(again, wire) {
			t.Fatalf("%s became %x, was %x: %v", out, again, wire, err)
		}
	})
}
