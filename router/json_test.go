package router

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever text is valid UTF-8 comes back from a JSON reader as it was.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `"quoted\`, "tab\tline\nreturn\r", "\x00\x1f\x7f", "\u2028\u00e9\U0001f6f6", "</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		var back string
		if err := json.Unmarshal(appendString(nil, s), &back); err != nil || back != s {
			t.Fatalf("%q became %q (%v)", s, back, err)
		}
		if again := appendString(nil, []byte(s)); string(again) != string(appendString(nil, s)) {
			t.Fatal("bytes and text differ")
		}
	})
}

// back turns a tree into what encoding/json would have made of the same document.
func back(v value) any {
	switch v.kind() {
	case object:
		m := map[string]any{}
		for i := v.node().first; i != 0; i = v.t.nodes[i].next {
			var k string
			if json.Unmarshal(append(append([]byte{'"'}, v.t.nodes[i].key...), '"'), &k) != nil {
				return nil
			}
			m[k] = back(value{v.t, i + 1})
		}
		return m
	case array:
		out := []any{}
		v.each(func(e value) { out = append(out, back(e)) })
		return out
	}
	var out any
	if json.Unmarshal(v.node().raw, &out) != nil {
		return nil
	}
	return out
}

// A document that encoding/json takes, without spaces, is read as the same values; any bytes at all end in values or an error.
func FuzzTree(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `{"a":[1,2,{"b":null}],"c":"x\"y","d":-1.5e3,"e":true,"f":{}}`, `[[[[]]]]`, `"`, `{"a"}`, `[1,]`, `{"a":1`, `"\`, ``, `nul`, `1 2`} {
		f.Add([]byte(s))
	}
	var tr tree
	f.Fuzz(func(t *testing.T, doc []byte) {
		tr.parse(doc) // whatever it says: it returns
		var want any
		if json.Unmarshal(doc, &want) != nil {
			return
		}
		var buf strings.Builder
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if enc.Encode(want) != nil {
			return
		}
		compact := strings.TrimSuffix(buf.String(), "\n")
		if strings.Count(compact, "[")+strings.Count(compact, "{") > maxTreeDepth {
			return
		}
		if err := tr.parse([]byte(compact)); err != nil {
			t.Fatalf("%s: %v", compact, err)
		}
		if got := back(tr.root()); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s was read as %v", compact, got)
		}
	})
}

func TestTreeLooksUpWhatIsThereAndNothingElse(t *testing.T) {
	var tr tree
	if err := tr.parse([]byte(`{"a":{"b":"text"},"n":null,"e":"","l":[1,2,3],"i":-42,"esc":"a\"b"}`)); err != nil {
		t.Fatal(err)
	}
	d := tr.root()
	if got := d.get("a").get("b").plain(); got != "text" {
		t.Errorf("a.b = %q", got)
	}
	if d.get("a").get("x").get("y").kind() != absent || (value{}).get("a").kind() != absent || !d.get("n").empty() || !d.get("e").empty() {
		t.Error("what is not there must be absent at every depth, and null and an empty text are empty")
	}
	if d.get("l").len() != 3 || d.get("i").int() != -42 || d.get("esc").plain() != "" {
		t.Error("list, number or escaped text is misread")
	}
}

func TestTreeRefusesDepthsThatOurTranscoderNeverWrites(t *testing.T) {
	var tr tree
	if tr.parse([]byte(strings.Repeat("[", 1000)+strings.Repeat("]", 1000))) == nil {
		t.Error("1000 levels were taken")
	}
}

func TestTimesAreWrittenAsRFC3339(t *testing.T) {
	for _, ms := range []int64{0, 1, -1, 1772528707123, minTime, maxTime, -62135596799999} {
		want := time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
		if got := string(appendTime(nil, ms)); got != want {
			t.Errorf("%d: %s, want %s", ms, got, want)
		}
	}
}
