package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// FieldError names one field of a JSON document that does not fit its schema.
type FieldError struct {
	Path    string // "data.activities[2].total.amount"; "document" for the whole
	Problem string // "not a decimal"
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Problem }

// Code is the stable name of the error.
func (e *FieldError) Code() string { return "field_invalid" }

// maxProblems is where EncodeJSON stops collecting: who has a hundred mistakes has made one of another kind.
const maxProblems = 100

// EncodeJSON appends the Avro binary of a plain JSON document: what AppendJSON writes, and what people write. A missing field takes its default, or
// null if it may be null. All fields that do not fit are named at once: the error joins one *FieldError for each (errors.As finds the
// first, Unwrap() []error all). On an error dst comes back as it was.
//
// Decimals are strings or numbers with at most the digits of their scale, never rounded. Times are RFC 3339 with any offset, and must not be
// finer than their unit. bytes and fixed are base64.
func (s *Schema) EncodeJSON(dst, doc []byte) ([]byte, error) {
	if len(doc) > MaxOutput {
		return dst, &FieldError{"document", fmt.Sprintf("longer than %d bytes", MaxOutput)}
	}
	v, err := decodeDocument(doc)
	if err != nil {
		return dst, &FieldError{"document", err.Error()}
	}
	var e encoder
	out := e.value(slices.Clip(dst), s.root, v, "")
	if e.problems != nil {
		return dst, errors.Join(e.problems...)
	}
	if len(out)-len(dst) > MaxInput {
		return dst, &FieldError{"document", fmt.Sprintf("longer than %d bytes as Avro", MaxInput)}
	}
	return out, nil
}

// object is a JSON object as it was written: in order, and with no name twice.
type object struct {
	names  []string
	values map[string]any
}

func (o *object) get(name string) any { return o.values[name] }

func (o *object) lookup(name string) (v any, there bool) {
	v, there = o.values[name]
	return v, there
}

// decodeDocument reads one JSON document into nil, bool, json.Number, string, []any and *object. A name that stands twice in one object is refused,
// since which of the two was meant cannot be told.
func decodeDocument(doc []byte) (any, error) {
	if !utf8.Valid(doc) {
		return nil, errors.New("not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the JSON ends too early")
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON document")
	}
	return v, nil
}

// maxJSONDepth is deeper than any document of a schema that Parse accepts, and than any schema text of it.
const maxJSONDepth = 4 * MaxDepth

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("the JSON nests deeper than %d", maxJSONDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		o := &object{values: map[string]any{}}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			text, _ := name.(string)
			if _, twice := o.values[text]; twice {
				return nil, fmt.Errorf("the name %q stands twice in one object", text)
			}
			if o.values[text], err = decodeValue(d, depth+1); err != nil {
				return nil, err
			}
			o.names = append(o.names, text)
		}
		_, err := d.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	return t, nil
}

func jsonKind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array"
	case *object:
		return "an object"
	}
	panic(fmt.Sprintf("BUG: JSON value of type %T", v))
}

// encoder collects the problems and goes on: what it appends once there is one is thrown away.
type encoder struct {
	problems []error
	elements int
}

func (e *encoder) refuse(path, format string, args ...any) {
	if path == "" {
		path = "document"
	}
	if len(e.problems) < maxProblems {
		e.problems = append(e.problems, &FieldError{path, fmt.Sprintf(format, args...)})
	}
}

func (e *encoder) value(b []byte, n *node, v any, path string) []byte {
	switch n.kind {
	case kindRecord:
		return e.record(b, n, v, path)
	case kindArray:
		return e.array(b, n, v, path)
	case kindMap:
		return e.mapping(b, n, v, path)
	case kindUnion:
		return e.union(b, n, v, path)
	}
	out, problem := encodeScalar(b, n, v)
	if problem != "" {
		e.refuse(path, "%s", problem)
		return b
	}
	return out
}

func (e *encoder) record(b []byte, n *node, v any, path string) []byte {
	o, ok := v.(*object)
	if !ok {
		e.refuse(path, "must be an object, not %s", jsonKind(v))
		return b
	}
	for _, name := range o.names {
		if n.fieldNamed(name) < 0 {
			e.refuse(joinPath2(path, name), "unknown field%s", suggestion(n, name))
		}
	}
	for i := range n.fields {
		f := &n.fields[i]
		fv, there := o.lookup(f.name)
		switch {
		case there:
			b = e.value(b, f.node, fv, joinPath2(path, f.name))
		case f.def != nil:
			b = append(b, f.def...)
		case f.node.kind == kindUnion && f.node.branch(kindNull) >= 0:
			b = appendLong(b, int64(f.node.branch(kindNull)))
		default:
			e.refuse(joinPath2(path, f.name), "missing")
		}
	}
	return b
}

// suggestion helps with a name that differs only in case or in its dashes.
func suggestion(n *node, name string) string {
	plain := strings.NewReplacer("_", "", "-", "")
	for i := range n.fields {
		if strings.EqualFold(plain.Replace(n.fields[i].name), plain.Replace(name)) {
			return fmt.Sprintf("; did you mean %q?", n.fields[i].name)
		}
	}
	return ""
}

// count charges elements, by the bound that a reader has.
func (e *encoder) count(n int, path string) bool {
	if e.elements += n; e.elements > MaxElements {
		e.refuse(path, "more than %d elements", MaxElements)
		return false
	}
	return true
}

func (e *encoder) array(b []byte, n *node, v any, path string) []byte {
	list, ok := v.([]any)
	if !ok {
		e.refuse(path, "must be an array, not %s", jsonKind(v))
		return b
	}
	if !e.count(len(list), path) {
		return b
	}
	b = appendCount(b, len(list))
	for i, item := range list {
		b = e.value(b, n.elem, item, fmt.Sprintf("%s[%d]", path, i))
	}
	return append(b, endBlocks)
}

func (e *encoder) mapping(b []byte, n *node, v any, path string) []byte {
	o, ok := v.(*object)
	if !ok {
		e.refuse(path, "must be an object, not %s", jsonKind(v))
		return b
	}
	if !e.count(len(o.names), path) {
		return b
	}
	b = appendCount(b, len(o.names))
	for _, name := range o.names {
		b = appendString(b, name)
		b = e.value(b, n.elem, o.get(name), joinPath2(path, name))
	}
	return append(b, endBlocks)
}

// union takes null for null, and else the first branch that the value fits. If only one branch may hold it, the problems named are that branch's.
func (e *encoder) union(b []byte, n *node, v any, path string) []byte {
	if v == nil {
		i := n.branch(kindNull)
		if i < 0 {
			e.refuse(path, "must not be null")
			return b
		}
		return appendLong(b, int64(i))
	}
	var names []string
	last := -1
	for i, branch := range n.branches {
		if branch.kind == kindNull {
			continue
		}
		trial := encoder{elements: e.elements}
		out := trial.value(appendLong(b, int64(i)), branch, v, path)
		if trial.problems == nil {
			e.elements = trial.elements
			return out
		}
		last = i
		names = append(names, branch.title())
	}
	switch len(names) {
	case 0:
		e.refuse(path, "must be null")
	case 1:
		return e.value(b, n.branches[last], v, path) // again, for its problems
	default:
		e.refuse(path, "fits none of %s", strings.Join(names, ", "))
	}
	return b
}

// branch is the index of the first branch of a kind, or -1.
func (n *node) branch(k kind) int {
	return slices.IndexFunc(n.branches, func(b *node) bool { return b.kind == k })
}

// title is how a person calls the type.
func (n *node) title() string {
	if n.name != "" {
		return n.name
	}
	return kindNames[n.kind]
}

// encodeDefault encodes the default of a field, or gives nil if it does not fit. Avro writes defaults in its own JSON, which is ours but for bytes:
// there each character stands for a byte. The default of a union is a value of any of its branches.
func encodeDefault(n *node, v any) []byte {
	var e encoder
	if s, ok := v.(string); ok && (n.kind == kindBytes || n.kind == kindFixed) {
		raw := make([]byte, 0, len(s))
		for _, r := range s {
			if r > 0xff {
				return nil
			}
			raw = append(raw, byte(r))
		}
		if n.kind == kindFixed {
			if len(raw) != n.size {
				return nil
			}
			return raw
		}
		return appendBytes(nil, raw)
	}
	switch n.logical {
	case logicalNone, logicalUUID:
	default: // of an int or long with a logical type: a number
		plain := *n
		plain.logical = logicalNone
		n = &plain
	}
	out := e.value([]byte{}, n, v, "")
	if e.problems != nil {
		return nil
	}
	return out
}

// joinPath2 is joinPath for a path that grows from the outside in.
func joinPath2(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
