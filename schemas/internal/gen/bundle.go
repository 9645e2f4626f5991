package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// bundle is all named types of all event schemas, in the order of their first definition.
type bundle struct {
	types  []*named
	byName map[string]*named
	events []event
}

type event struct{ entity, record string }

// named is an enum or a record.
type named struct {
	name    string
	doc     string
	symbols []string // of an enum
	def     string   // an enum's default; empty: none
	fields  []field  // of a record
	isEnum  bool
}

type field struct {
	name, doc string
	t         typ
}

// typ is the type of a field. Exactly one of the kinds that write.go knows.
type typ struct {
	kind      string // string int long boolean decimal timestamp date timeOfDay named array map optional
	precision int    // of a decimal
	name      string // of a named type
	of        *typ   // items, values, or what is optional
}

// decimalScale is the one scale that the Go type Decimal has.
const decimalScale = 6

func (b *bundle) add(entity string, text []byte) error {
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	// Each file is self-contained, so a type that several events share is defined in each: all definitions must be equal.
	in := &file{bundle: b, defined: map[string]bool{}}
	if b.byName == nil {
		b.byName = map[string]*named{}
	}
	t, err := in.typeOf(doc)
	if err != nil {
		return err
	}
	if t.kind != "named" || b.byName[t.name].isEnum {
		return fmt.Errorf("an event must be a record")
	}
	fs := b.byName[t.name].fields
	if len(fs) != 3 || fs[0].name != "meta" || fs[1].name != "data" || fs[2].name != "previous" || fs[2].t.kind != "optional" {
		return fmt.Errorf("%s: an event is {meta, data, previous}, in this order", t.name)
	}
	b.events = append(b.events, event{entity, t.name})
	return nil
}

// file is one schema while it is read.
type file struct {
	bundle  *bundle
	defined map[string]bool
}

func (in *file) typeOf(v any) (typ, error) {
	switch v := v.(type) {
	case string:
		switch v {
		case "string", "int", "long", "boolean":
			return typ{kind: v}, nil
		}
		if !in.defined[v] {
			return typ{}, fmt.Errorf("type %q is used before it is defined, or not supported", v)
		}
		return typ{kind: "named", name: v}, nil
	case []any:
		if len(v) != 2 || v[0] != "null" {
			return typ{}, fmt.Errorf("the only union is null and one other type")
		}
		of, err := in.typeOf(v[1])
		return typ{kind: "optional", of: &of}, err
	case map[string]any:
		return in.complexType(v)
	}
	return typ{}, fmt.Errorf("not a type: %v", v)
}

func (in *file) complexType(m map[string]any) (typ, error) {
	kind, _ := m["type"].(string)
	switch logical, _ := m["logicalType"].(string); logical {
	case "":
	case "decimal":
		precision, _ := m["precision"].(float64)
		if m["scale"] != float64(decimalScale) || precision < 1 || precision > 18 {
			return typ{}, fmt.Errorf("a decimal has scale %d and at most 18 digits", decimalScale)
		}
		return typ{kind: "decimal", precision: int(precision)}, nil
	default:
		k, ok := map[string]string{"long timestamp-millis": "timestamp", "int date": "date", "int time-millis": "timeOfDay"}[kind+" "+logical]
		if !ok {
			return typ{}, fmt.Errorf("logical type %s on %s is not supported", logical, kind)
		}
		return typ{kind: k}, nil
	}
	switch kind {
	case "array":
		of, err := in.typeOf(m["items"])
		return typ{kind: kind, of: &of}, err
	case "map":
		of, err := in.typeOf(m["values"])
		if err == nil && of.kind != "string" {
			err = fmt.Errorf("only maps of strings are supported")
		}
		return typ{kind: kind, of: &of}, err
	case "enum", "record":
		return in.named(m, kind)
	}
	return typ{}, fmt.Errorf("type %q is not supported", kind)
}

func (in *file) named(m map[string]any, kind string) (typ, error) {
	n := &named{isEnum: kind == "enum"}
	n.name, _ = m["name"].(string)
	n.doc, _ = m["doc"].(string)
	n.def, _ = m["default"].(string)
	if in.defined[n.name] {
		return typ{}, fmt.Errorf("%s is defined twice", n.name)
	}
	place := len(in.bundle.types)
	if n.isEnum {
		symbols, _ := m["symbols"].([]any)
		for _, s := range symbols {
			n.symbols = append(n.symbols, s.(string))
		}
	} else {
		fields, _ := m["fields"].([]any)
		for _, f := range fields {
			if err := in.field(n, f.(map[string]any)); err != nil {
				return typ{}, err
			}
		}
	}
	in.defined[n.name] = true
	if was := in.bundle.byName[n.name]; was == nil {
		in.bundle.byName[n.name] = n
		// A record stands before the types that it uses: the file reads from the whole to its parts.
		in.bundle.types = append(in.bundle.types[:place], append([]*named{n}, in.bundle.types[place:]...)...)
	} else if !reflect.DeepEqual(was, n) {
		return typ{}, fmt.Errorf("%s differs from its definition in another file", n.name)
	}
	return typ{kind: "named", name: n.name}, nil
}

func (in *file) field(n *named, m map[string]any) error {
	f := field{}
	f.name, _ = m["name"].(string)
	f.doc, _ = m["doc"].(string)
	t, err := in.typeOf(m["type"])
	if err != nil {
		return fmt.Errorf("%s.%s: %w", n.name, strings.TrimSpace(f.name), err)
	}
	f.t = t
	n.fields = append(n.fields, f)
	return nil
}
