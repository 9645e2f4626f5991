package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// compiler turns a schema's JSON into nodes. A name that is still nil is being defined: to meet it again means that the schema is recursive.
type compiler struct {
	named map[string]*node
}

var primitives = map[string]kind{
	"null": kindNull, "boolean": kindBoolean, "int": kindInt, "long": kindLong, "float": kindFloat, "double": kindDouble, "bytes": kindBytes,
	"string": kindString,
}

// minima are the fewest bytes of a primitive; nodes that hold others add theirs up, and stop at maxMin so that nothing overflows.
var minima = [...]int{kindBoolean: 1, kindInt: 1, kindLong: 1, kindFloat: 4, kindDouble: 8, kindBytes: 1, kindString: 1}

const maxMin = 1 << 30

func (c *compiler) compile(v any, space string, depth int) (*node, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nests deeper than %d", MaxDepth)
	}
	switch t := v.(type) {
	case string:
		return c.reference(t, space)
	case []any:
		return c.union(t, space, depth)
	case *object:
		return c.object(t, space, depth)
	}
	return nil, fmt.Errorf("a type must be a name, an object or an array, not %s", jsonKind(v))
}

func (c *compiler) reference(name, space string) (*node, error) {
	if k, ok := primitives[name]; ok {
		return &node{kind: k, depth: 1, min: minima[k]}, nil
	}
	full := name
	if space != "" && !strings.Contains(name, ".") {
		full = space + "." + name
	}
	n, known := c.named[full]
	switch {
	case !known:
		return nil, fmt.Errorf("unknown type %q", name)
	case n == nil:
		return nil, fmt.Errorf("%q is recursive", full)
	}
	return n, nil
}

func (c *compiler) union(branches []any, space string, depth int) (*node, error) {
	if len(branches) == 0 {
		return nil, errors.New("a union without branches")
	}
	n := &node{kind: kindUnion, min: maxMin}
	seen := map[string]bool{}
	for _, b := range branches {
		branch, err := c.compile(b, space, depth+1)
		if err != nil {
			return nil, err
		}
		id := branch.name
		if id == "" {
			id = kindNames[branch.kind]
		}
		if branch.kind == kindUnion || seen[id] {
			return nil, fmt.Errorf("a union holds %s twice, or another union", id)
		}
		seen[id] = true
		n.branches = append(n.branches, branch)
		n.depth = max(n.depth, branch.depth+1)
		n.min = min(n.min, branch.min+1)
	}
	return n, n.check()
}

func (n *node) check() error {
	if n.depth > MaxDepth {
		return fmt.Errorf("nests deeper than %d", MaxDepth)
	}
	return nil
}

func (c *compiler) object(o *object, space string, depth int) (*node, error) {
	kindName, ok := o.get("type").(string)
	if !ok {
		// {"type": {...}} and {"type": [...]} are their inner type.
		return c.compile(o.get("type"), space, depth+1)
	}
	switch kindName {
	case "record", "enum", "fixed":
		return c.definition(o, kindName, space, depth)
	case "array", "map":
		inner, k := "items", kindArray
		if kindName == "map" {
			inner, k = "values", kindMap
		}
		if o.get(inner) == nil {
			return nil, fmt.Errorf("%s without %q", kindName, inner)
		}
		elem, err := c.compile(o.get(inner), space, depth+1)
		if err != nil {
			return nil, err
		}
		n := &node{kind: k, elem: elem, depth: elem.depth + 1, min: 1}
		return n, n.check()
	}
	n, err := c.reference(kindName, space)
	if err != nil || n.name != "" {
		return n, err
	}
	return n, n.setLogical(o)
}

func (c *compiler) definition(o *object, kindName, space string, depth int) (*node, error) {
	full, err := fullName(o, space)
	if err != nil {
		return nil, err
	}
	if _, ok := c.named[full]; ok {
		return nil, fmt.Errorf("%q is defined twice", full)
	}
	c.named[full] = nil
	n := &node{name: full, depth: 1, min: 1}
	switch kindName {
	case "record":
		space = ""
		if i := strings.LastIndexByte(full, '.'); i >= 0 {
			space = full[:i]
		}
		err = c.record(n, o, space, depth)
	case "enum":
		err = n.setSymbols(o)
	case "fixed":
		n.kind = kindFixed
		if n.size = wholeNumber(o.get("size")); n.size < 0 || n.size > MaxInput {
			err = fmt.Errorf("fixed %q: size must be a number from 0 to %d", full, MaxInput)
		}
		if err == nil {
			n.min = n.size
			err = n.setLogical(o)
		}
	}
	if err != nil {
		return nil, err
	}
	c.named[full] = n
	return n, n.check()
}

func (c *compiler) record(n *node, o *object, space string, depth int) error {
	n.kind = kindRecord
	n.min = 0
	list, ok := o.get("fields").([]any)
	if !ok {
		return fmt.Errorf("record %q without fields", n.name)
	}
	seen := map[string]bool{}
	for i, v := range list {
		def, ok := v.(*object)
		if !ok {
			return fmt.Errorf("record %q: field %d is not an object", n.name, i)
		}
		name, _ := def.get("name").(string)
		if !validName(name) || seen[name] {
			return fmt.Errorf("record %q: field %d: the name %q is invalid or there twice", n.name, i, name)
		}
		seen[name] = true
		if def.get("type") == nil {
			return fmt.Errorf("record %q: field %q without a type", n.name, name)
		}
		fn, err := c.compile(def.get("type"), space, depth+1)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		key := strconv.Quote(name) + ":"
		if i > 0 {
			key = "," + key
		}
		f := field{name: name, key: []byte(key), node: fn}
		if d, there := def.lookup("default"); there {
			f.def = encodeDefault(fn, d)
		}
		n.fields = append(n.fields, f)
		n.depth = max(n.depth, fn.depth+1)
		n.min = min(n.min+fn.min, maxMin)
	}
	return nil
}

func (n *node) setSymbols(o *object) error {
	n.kind = kindEnum
	list, ok := o.get("symbols").([]any)
	if !ok || len(list) == 0 {
		return fmt.Errorf("enum %q without symbols", n.name)
	}
	seen := map[string]bool{}
	for _, v := range list {
		s, _ := v.(string)
		if !validName(s) || seen[s] {
			return fmt.Errorf("enum %q: the symbol %q is invalid or there twice", n.name, s)
		}
		seen[s] = true
		n.symbols = append(n.symbols, s)
	}
	return nil
}

// setLogical takes a logical type over where it is valid; one that is unknown or does not fit its type counts for nothing, as Avro demands.
func (n *node) setLogical(o *object) error {
	name, _ := o.get("logicalType").(string)
	type fit struct {
		kind kind
		name string
	}
	n.logical = map[fit]logical{
		{kindBytes, "decimal"}: logicalDecimal, {kindFixed, "decimal"}: logicalDecimal, {kindInt, "date"}: logicalDate,
		{kindInt, "time-millis"}: logicalTimeMillis, {kindLong, "time-micros"}: logicalTimeMicros,
		{kindLong, "timestamp-millis"}: logicalTimestampMillis, {kindLong, "timestamp-micros"}: logicalTimestampMicros,
		{kindLong, "local-timestamp-millis"}: logicalLocalMillis, {kindLong, "local-timestamp-micros"}: logicalLocalMicros,
		{kindString, "uuid"}: logicalUUID,
	}[fit{n.kind, name}]
	if n.kind == kindFixed && n.size == 16 && name == "uuid" {
		n.logical = logicalUUID
	}
	if n.logical != logicalDecimal {
		return nil
	}
	n.precision = wholeNumber(o.get("precision"))
	if v, there := o.lookup("scale"); there {
		n.scale = wholeNumber(v)
	}
	if n.precision > maxPrecision {
		return fmt.Errorf("a decimal of more than %d digits", maxPrecision)
	}
	if n.precision < 1 || n.scale < 0 || n.scale > n.precision {
		n.logical, n.precision, n.scale = logicalNone, 0, 0
	}
	return nil
}

// wholeNumber is -1 for what is none.
func wholeNumber(v any) int {
	num, ok := v.(json.Number)
	if !ok {
		return -1
	}
	i, err := strconv.ParseInt(string(num), 10, 32)
	if err != nil || i < 0 {
		return -1
	}
	return int(i)
}

func fullName(o *object, space string) (string, error) {
	name, _ := o.get("name").(string)
	if ns, ok := o.get("namespace").(string); ok {
		space = ns
	}
	if !strings.Contains(name, ".") && space != "" {
		name = space + "." + name
	}
	for part := range strings.SplitSeq(name, ".") {
		if !validName(part) {
			return "", fmt.Errorf("%q is no valid name", name)
		}
	}
	if _, ok := primitives[name]; ok {
		return "", fmt.Errorf("%q is the name of a primitive type", name)
	}
	return name, nil
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
