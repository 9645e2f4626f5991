package schemas

import (
	"fmt"
)

// The bounds of what is read. They hold against hostile bytes and hostile schemas alike: within them, every input is answered in well under 100 ms and
// 64 MiB.
const (
	// MaxInput is the largest value that is read: what the event topics accept.
	MaxInput = 1<<20 + 64<<10
	// MaxOutput is the most JSON that one value may become: a value of a few bytes may name fields of any length.
	MaxOutput = 8 << 20
	// MaxElements is the most elements that the arrays and maps of one value may hold, counted over all of them.
	MaxElements = 100_000
	// MaxID is the longest id of an event, a company or an entity, in bytes: they stand in every task, attempt and dead letter.
	MaxID = 255
	// MaxDescription is the longest name of a company or address of an installation, in bytes.
	MaxDescription = 2048
	// MaxDepth is how deep a schema may nest. Schemas are not recursive, so no value nests deeper.
	MaxDepth = 64

	maxValues     = 2 << 20 // fields of records that may be visited in one value, those that take no bytes among them
	maxPrecision  = 1000    // digits of a decimal
	maxSchemaText = 1 << 20
)

// Schema is a compiled Avro schema. It is immutable and safe for use by many goroutines.
type Schema struct {
	text      string
	canonical string
	fp        [8]byte
	root      *node
}

// Parse compiles a schema. It refuses recursive schemas and any that nest deeper than MaxDepth. A default that does not fit its field is
// passed over, as registries do: it matters only to who fills it in, and EncodeJSON then asks for the field.
func Parse(text string) (*Schema, error) {
	if len(text) > maxSchemaText {
		return nil, fmt.Errorf("schema: longer than %d bytes", maxSchemaText)
	}
	doc, err := decodeDocument([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	c := compiler{named: map[string]*node{}}
	root, err := c.compile(doc, "", 1)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	s := &Schema{text: text, root: root}
	s.canonical = canonicalForm(root)
	s.fp = fingerprint(s.canonical)
	return s, nil
}

// Fingerprint is the CRC-64-AVRO of the Parsing Canonical Form, little-endian, as it stands on the wire behind C3 01.
func (s *Schema) Fingerprint() [8]byte { return s.fp }

// Text is the schema as it was given to Parse.
func (s *Schema) Text() string { return s.text }

// Canonical is the Parsing Canonical Form.
func (s *Schema) Canonical() string { return s.canonical }

// Name is the full name of the schema's outermost type, or the type's own name if it has none.
func (s *Schema) Name() string {
	if s.root.name != "" {
		return s.root.name
	}
	return kindNames[s.root.kind]
}

type kind uint8

const (
	kindNull kind = iota
	kindBoolean
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBytes
	kindString
	kindFixed
	kindEnum
	kindArray
	kindMap
	kindUnion
	kindRecord
)

var kindNames = [...]string{"null", "boolean", "int", "long", "float", "double", "bytes", "string", "fixed", "enum", "array", "map", "union", "record"}

type logical uint8

const (
	logicalNone logical = iota
	logicalDecimal
	logicalDate
	logicalTimeMillis
	logicalTimeMicros
	logicalTimestampMillis
	logicalTimestampMicros
	logicalLocalMillis
	logicalLocalMicros
	logicalUUID
)

// node is one type. A named type that is used twice is one node with two parents.
type node struct {
	kind      kind
	logical   logical
	depth     int    // 1 for a leaf
	min       int    // the fewest bytes that a value takes
	name      string // full name, of records, enums and fixed
	size      int    // of a fixed
	precision int
	scale     int
	symbols   []string
	elem      *node   // of an array or map
	branches  []*node // of a union
	fields    []field
}

type field struct {
	name string
	key  []byte // `"name":`, with a comma before it in all fields but the first
	node *node
	def  []byte // the default, encoded; nil without one
}

// nullable gives the other branch of a union of null and one more.
func (n *node) nullable() (other *node, ok bool) {
	if n.kind != kindUnion || len(n.branches) != 2 {
		return nil, false
	}
	for i, b := range n.branches {
		if b.kind == kindNull {
			return n.branches[1-i], true
		}
	}
	return nil, false
}

func (n *node) fieldNamed(name string) int {
	for i := range n.fields {
		if n.fields[i].name == name {
			return i
		}
	}
	return -1
}
