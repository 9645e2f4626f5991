package main

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// This file moves texts into structs and back, by their yaml tags. It exists beside the YAML package's own decoder because that one stops at the first
// mistake; here every unknown key and every wrong value is found in one go, with its line, and the environment sets values by the same rules.

// field is one key of the configuration.
type field struct {
	path  string // kafka.sasl.user
	value reflect.Value
}

// fieldsOf lists every key that holds a value, in the order of the structs. c is a pointer to a struct.
func fieldsOf(c any) []field { return appendFields(nil, "", reflect.ValueOf(c).Elem()) }

func appendFields(dst []field, path string, v reflect.Value) []field {
	for i := range v.NumField() {
		key := yamlKey(path, v.Type().Field(i))
		if key == "" {
			continue
		}
		f := field{join(path, key), v.Field(i)}
		if isSection(f.value) {
			dst = appendFields(dst, f.path, f.value)
		} else {
			dst = append(dst, f)
		}
	}
	return dst
}

// yamlKey is the key of a struct's field; empty: it has none in the file.
func yamlKey(path string, f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if key == "-" || !f.IsExported() || join(path, key) == standsElsewhere {
		return ""
	}
	return key
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func isSection(v reflect.Value) bool {
	_, text := v.Addr().Interface().(encoding.TextUnmarshaler)
	return v.Kind() == reflect.Struct && !text
}

func (f field) env() string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(f.path))
}

// setText sets the value from the environment: a list has commas between its parts, a map cannot be given.
func (f field) setText(text string) error {
	switch f.value.Kind() {
	case reflect.Slice:
		list := reflect.MakeSlice(f.value.Type(), 0, 4)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			item := reflect.New(f.value.Type().Elem()).Elem()
			if err := setScalar(item, part); err != nil {
				return err
			}
			list = reflect.Append(list, item)
		}
		f.value.Set(list)
		return nil
	case reflect.Map:
		return fmt.Errorf("%s can be set in the file only", f.path)
	}
	return setScalar(f.value, text)
}

var durationType = reflect.TypeFor[time.Duration]()

// setScalar never quotes the text of a value that hides itself.
func setScalar(v reflect.Value, text string) error {
	if v.Type() == durationType {
		d, err := parseDuration(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(d))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no whole number of %d bits", text, v.Type().Bits())
		}
		v.SetInt(n)
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetFloat(x)
	default:
		panic("BUG: the configuration has a field of type " + v.Type().String())
	}
	return nil
}

const day = 24 * time.Hour

// parseDuration reads what time.ParseDuration reads, and days: 14d.
func parseDuration(text string) (time.Duration, error) {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(number, 64); err == nil && n >= 0 && n < 10000 {
			return time.Duration(n * float64(day)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration such as 500ms, 90s, 5m, 2h or 14d", text)
	}
	return d, nil
}

// formatDuration is the shortest text that parseDuration reads as d.
func formatDuration(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// readYAML sets what the text names and leaves the rest as it is. The error joins every mistake, each with its line.
func readYAML(text []byte, into any) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return &configError{syntax.GetToken().Position.Line, syntax.GetMessage()}
		}
		return &configError{0, err.Error()}
	}
	r := reader{}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			r.bad(doc.Body, "a second document: there must be one, because nobody could say which of them counts")
			break
		}
		r.section("", doc.Body, reflect.ValueOf(into).Elem())
	}
	return errors.Join(r.errs...)
}

// reader collects the mistakes of one file.
type reader struct{ errs []error }

func (r *reader) bad(n ast.Node, format string, args ...any) {
	r.errs = append(r.errs, &configError{n.GetToken().Position.Line, fmt.Sprintf(format, args...)})
}

// entries are the pairs of a mapping. A key without anything behind it keeps what is there.
func (r *reader) entries(path string, n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil
	}
	if path == "" {
		r.bad(n, "the file must be a mapping: `kafka:` and, indented below it, its keys")
	} else {
		r.bad(n, "%s must be a mapping: its keys stand indented below it", path)
	}
	return nil
}

func (r *reader) section(path string, n ast.Node, v reflect.Value) {
	keys := map[string]reflect.Value{}
	var known []string
	for i := range v.NumField() {
		if key := yamlKey(path, v.Type().Field(i)); key != "" {
			keys[key] = v.Field(i)
			known = append(known, key)
		}
	}
	for _, e := range r.entries(path, n) {
		key := e.Key.GetToken().Value
		at := join(path, key)
		value, ok := keys[key]
		switch {
		case !ok && path == "":
			r.bad(e.Key, "unknown section %q; there are %s", key, strings.Join(known, ", "))
		case !ok:
			r.bad(e.Key, "unknown key %q in %s; there are %s", key, path, strings.Join(known, ", "))
		case isSection(value):
			r.section(at, e.Value, value)
		default:
			r.value(at, e.Value, value)
		}
	}
}

// value sets one value from its node.
func (r *reader) value(path string, n ast.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			r.bad(n, "%s must be a list: [a, b]", path)
			return
		}
		out, before := reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)), len(r.errs)
		for i, item := range list.Values {
			r.value(fmt.Sprintf("%s[%d]", path, i), item, out.Index(i))
		}
		if len(r.errs) == before { // half a list would be judged as if it were meant
			v.Set(out)
		}
	case reflect.Map:
		out := reflect.MakeMap(v.Type())
		for _, e := range r.entries(path, n) {
			key := e.Key.GetToken().Value
			item := reflect.New(v.Type().Elem()).Elem()
			r.value(join(path, key), e.Value, item)
			out.SetMapIndex(reflect.ValueOf(key), item)
		}
		v.Set(out)
	default:
		text, ok := scalarText(n)
		if !ok {
			r.bad(n, "%s must be a single value (anchors, aliases and tags are not understood here)", path)
			return
		}
		if err := setScalar(v, text); err != nil {
			r.bad(n, "%s: %v", path, err)
		}
	}
}

// scalarText is the text of a single value as it was written, quotes and escapes undone.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode: // `key:` with nothing behind it
		return "", true
	}
	return "", false
}

// tree is the configuration as plain maps, lists and texts, in order, with secrets hidden.
func tree(v reflect.Value, path string) any {
	if v.Type() == durationType {
		return formatDuration(time.Duration(v.Int()))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if v.IsZero() {
			return ""
		}
		text, err := m.MarshalText()
		if err != nil {
			panic("BUG: a setting cannot be shown: " + err.Error())
		}
		return string(text)
	}
	switch v.Kind() {
	case reflect.Struct:
		out := yaml.MapSlice{}
		for i := range v.NumField() {
			if key := yamlKey(path, v.Type().Field(i)); key != "" {
				out = append(out, yaml.MapItem{Key: key, Value: tree(v.Field(i), join(path, key))})
			}
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = tree(v.Index(i), path)
		}
		return out
	}
	return v.Interface()
}

// plain turns a tree into maps, which JSON can show.
func plain(v any) any {
	switch v := v.(type) {
	case yaml.MapSlice:
		out := map[string]any{}
		for _, item := range v {
			out[item.Key.(string)] = plain(item.Value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	}
	return v
}
