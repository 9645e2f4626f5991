package schemas

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestFingerprintsOfTheSpecification: values that Avro's own implementations give (Java's and fastavro's; checked by hand).
func TestFingerprintsOfTheSpecification(t *testing.T) {
	for text, want := range map[string]uint64{
		`"null"`: 0x63dd24e7cc258f8a, `"int"`: 0x7275d51a3f395c8f, `{"type":"int"}`: 0x7275d51a3f395c8f, `"string"`: 0x8f014872634503c7,
		`{"type":"long","logicalType":"timestamp-millis"}`: 0xd054e14493f41db7, `"long"`: 0xd054e14493f41db7,
	} {
		fp := parseOf(t, text).Fingerprint()
		if got := binary.LittleEndian.Uint64(fp[:]); got != want {
			t.Errorf("%s: %016x, want %016x", text, got, want)
		}
	}
}

// TestCanonicalFormAgreesWithGoavro where goavro is right. It is not with logical types (it leaves {"type":"long"} where the specification, Java and
// fastavro say "long", and names a decimal), so those are taken out first, and not with a namespace in a nested name, which the wide schema has.
func TestCanonicalFormAgreesWithGoavro(t *testing.T) {
	logicalPart := regexp.MustCompile(`,\s*"logicalType":\s*"[^"]*"(,\s*"(precision|scale)":\s*\d+)*`)
	wrapped := regexp.MustCompile(`\{"type":("(?:null|boolean|int|long|float|double|bytes|string)")\}`)
	for name, text := range everySchema(t) {
		if name == "wide" {
			continue
		}
		want := wrapped.ReplaceAllString(codecOf(t, logicalPart.ReplaceAllString(text, "")).CanonicalSchema(), "$1")
		if got := parseOf(t, text).Canonical(); got != want {
			t.Errorf("%s:\nours   %.1000s\ngoavro %.1000s", name, got, want)
		}
	}
}

// TestCanonicalFormIsItsOwn: parsed again it is the same schema, with the same fingerprint.
func TestCanonicalFormIsItsOwn(t *testing.T) {
	for name, text := range everySchema(t) {
		s := parseOf(t, text)
		if again := parseOf(t, s.Canonical()); again.Canonical() != s.Canonical() || again.Fingerprint() != s.Fingerprint() {
			t.Errorf("%s: %s", name, again.Canonical())
		}
		if s.Text() != text {
			t.Errorf("%s: the text changed", name)
		}
	}
}

func nested(n int) string {
	return strings.Repeat(`{"type":"array","items":`, n-1) + `"int"` + strings.Repeat("}", n-1)
}

func TestNamesAndNamespaces(t *testing.T) {
	for text, want := range map[string]string{
		`{"type":"enum","name":"a.E","symbols":["X"]}`:                                                                                  "a.E",
		`{"type":"enum","name":"E","namespace":"a.b","symbols":["X"]}`:                                                                  "a.b.E",
		`{"type":"enum","name":"c.E","namespace":"a.b","symbols":["X"]}`:                                                                "c.E",
		`{"type":"record","name":"a.R","fields":[{"name":"e","type":{"type":"fixed","name":"E","size":1}}, {"name":"f","type":"a.E"}]}`: "a.R",
		`{"type":"record","name":"a.R","fields":[{"name":"e","type":{"type":"fixed","name":"E","namespace":"","size":1}}]}`:             "a.R",
		`{"type":{"type":{"type":"string"}}}`:                                                                                           "string",
	} {
		if got := parseOf(t, text).Name(); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if got := parseOf(t, nested(MaxDepth)).Name(); got != "array" {
		t.Error(got)
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	field := func(typ string) string {
		return `{"type":"record","name":"R","fields":[{"name":"f","type":` + typ + `}]}`
	}
	for what, text := range map[string]string{
		"recursive":                    field(`["null","R"]`),
		"recursive by an array":        field(`{"type":"array","items":"R"}`),
		"recursive by way of another":  field(`{"type":"record","name":"S","fields":[{"name":"r","type":"R"}]}`),
		"too deep":                     nested(MaxDepth + 1),
		"too deep by names":            deepByNames(),
		"no JSON":                      `{`,
		"two documents":                `"int" "int"`,
		"nothing":                      ``,
		"a number":                     `5`,
		"null":                         `null`,
		"unknown type":                 field(`"Other"`),
		"a name of another space":      `{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"fixed","name":"b.F","size":1}},{"name":"y","type":"F"}]}`,
		"defined twice":                field(`{"type":"fixed","name":"R","size":1}`),
		"record without a name":        `{"type":"record","fields":[]}`,
		"record without fields":        `{"type":"record","name":"R"}`,
		"name with a dash":             `{"type":"record","name":"a-b","fields":[]}`,
		"name with an empty part":      `{"type":"record","name":"a..b","fields":[]}`,
		"name of a primitive":          `{"type":"record","name":"int","fields":[]}`,
		"field named twice":            `{"type":"record","name":"R","fields":[{"name":"f","type":"int"},{"name":"f","type":"int"}]}`,
		"field with a quote":           `{"type":"record","name":"R","fields":[{"name":"a\"","type":"int"}]}`,
		"field without a type":         `{"type":"record","name":"R","fields":[{"name":"a"}]}`,
		"field that is no object":      `{"type":"record","name":"R","fields":["a"]}`,
		"enum without symbols":         `{"type":"enum","name":"E","symbols":[]}`,
		"enum with a symbol twice":     `{"type":"enum","name":"E","symbols":["A","A"]}`,
		"enum with a bad symbol":       `{"type":"enum","name":"E","symbols":["A b"]}`,
		"fixed without a size":         `{"type":"fixed","name":"F"}`,
		"fixed of negative size":       `{"type":"fixed","name":"F","size":-1}`,
		"fixed of a fraction":          `{"type":"fixed","name":"F","size":1.5}`,
		"fixed that is never read":     `{"type":"fixed","name":"F","size":1000000000}`,
		"array without items":          `{"type":"array"}`,
		"map without values":           `{"type":"map"}`,
		"empty union":                  field(`[]`),
		"union in a union":             field(`["null",["int"]]`),
		"union with a type twice":      field(`["int","int"]`),
		"union with two arrays":        field(`[{"type":"array","items":"int"},{"type":"array","items":"long"}]`),
		"decimal of a million digits":  `{"type":"bytes","logicalType":"decimal","precision":1000000}`,
		"a name that stands twice":     `{"type":"int","type":"long"}`,
		"longer than is read":          `"` + strings.Repeat(" ", maxSchemaText) + `"`,
		"JSON deeper than a schema is": strings.Repeat("[", 100_000),
	} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%s: accepted as %.100s", what, s.Canonical())
		} else if len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
		}
	}
}

// deepByNames nests one level a definition, each within a field of its own, so that only the sum is too deep.
func deepByNames() string {
	var fields []string
	for i := range MaxDepth {
		inner := `"int"`
		if i > 0 {
			inner = fmt.Sprintf(`"S%d"`, i-1)
		}
		fields = append(fields, fmt.Sprintf(`{"name":"f%d","type":{"type":"record","name":"S%d","fields":[{"name":"x","type":%s}]}}`, i, i, inner))
	}
	return `{"type":"record","name":"R","fields":[` + strings.Join(fields, ",") + `]}`
}

// TestDefaultThatDoesNotFitIsPassedOver: it is the writer's mistake, and no reason to refuse what was written.
func TestDefaultThatDoesNotFitIsPassedOver(t *testing.T) {
	s := parseOf(t, `{"type":"record","name":"R","fields":[{"name":"f","type":"int","default":"x"}]}`)
	if _, err := s.EncodeJSON(nil, []byte(`{}`)); err == nil || err.Error() != "f: missing" {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range everySchema(f) {
		f.Add(text)
	}
	f.Add(deepByNames())
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.Canonical())
		if err != nil || again.Canonical() != s.Canonical() {
			t.Fatalf("%s: %v", s.Canonical(), err)
		}
		_, _ = s.Skip(make([]byte, 64))
	})
}
