package router

import (
	"errors"
	"strconv"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. The caller has made sure that s is valid UTF-8: a body must be, and a lone byte is not repaired
// here in silence. Only what JSON demands is escaped, so text stays as it was written.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// kind is what a JSON value is, by its first byte.
type kind byte

const (
	absent  kind = iota // not there; also what a look-up in anything but an object gives
	null                //
	boolean             //
	number              //
	text                //
	array               //
	object              //
)

// node is one value of a parsed document. raw is its text as it stands in the document: a string keeps its quotes and escapes, so that a
// renderer which only moves it never unescapes and escapes it again. Children are a chain through next, as indices into tree.nodes;
// 0 ends the chain, which works because node 0 is the root and nobody's child.
type node struct {
	kind  kind
	key   []byte // the member's name in the document, without quotes
	raw   []byte
	first int32
	next  int32
}

// tree is a parsed JSON document, for the classic format, whose fields stand in another order and shape than ours. It is reused from event to
// event and holds slices of the document, so it is good only as long as the document's buffer is left alone. A generic decode into maps of
// any costs some eight times as much.
//
// It reads what our own transcoder wrote, and so takes its grammar on trust where a mistake would only copy bytes; it never reads
// outside the document, whatever stands in it.
type tree struct {
	nodes []node
	doc   []byte
	pos   int
}

var errTree = errors.New("BUG: the transcoder wrote something that is not JSON")

// maxTreeDepth is above the transcoder's own limit of 64 levels.
const maxTreeDepth = 128

func (t *tree) parse(doc []byte) error {
	t.nodes, t.doc, t.pos = t.nodes[:0], doc, 0
	if _, err := t.value(0); err != nil {
		return err
	}
	if t.pos != len(doc) {
		return errTree
	}
	return nil
}

func (t *tree) peek() byte {
	if t.pos < len(t.doc) {
		return t.doc[t.pos]
	}
	return 0
}

func (t *tree) value(depth int) (int32, error) {
	if depth > maxTreeDepth {
		return 0, errTree
	}
	at := int32(len(t.nodes))
	start := t.pos
	t.nodes = append(t.nodes, node{})
	var k kind
	var err error
	switch t.peek() {
	case '{':
		k, err = object, t.members(at, '}', depth)
	case '[':
		k, err = array, t.members(at, ']', depth)
	case '"':
		k, err = text, t.skipString()
	case 'n':
		k, err = null, t.skipWord("null")
	case 't':
		k, err = boolean, t.skipWord("true")
	case 'f':
		k, err = boolean, t.skipWord("false")
	default:
		k, err = number, t.skipNumber()
	}
	t.nodes[at].kind, t.nodes[at].raw = k, t.doc[start:t.pos]
	return at, err
}

// members reads an object or an array, which differ only in the names before the values.
func (t *tree) members(parent int32, end byte, depth int) error {
	t.pos++
	if t.peek() == end {
		t.pos++
		return nil
	}
	last := int32(0)
	for {
		var key []byte
		if end == '}' {
			from := t.pos
			if t.peek() != '"' {
				return errTree
			}
			if err := t.skipString(); err != nil {
				return err
			}
			key = t.doc[from+1 : t.pos-1]
			if t.peek() != ':' {
				return errTree
			}
			t.pos++
		}
		child, err := t.value(depth + 1)
		if err != nil {
			return err
		}
		t.nodes[child].key = key
		if last == 0 {
			t.nodes[parent].first = child
		} else {
			t.nodes[last].next = child
		}
		last = child
		switch t.peek() {
		case ',':
			t.pos++
		case end:
			t.pos++
			return nil
		default:
			return errTree
		}
	}
}

func (t *tree) skipString() error {
	for i := t.pos + 1; i < len(t.doc); i++ {
		switch t.doc[i] {
		case '\\':
			i++
		case '"':
			t.pos = i + 1
			return nil
		}
	}
	return errTree
}

func (t *tree) skipWord(w string) error {
	if len(t.doc)-t.pos < len(w) || string(t.doc[t.pos:t.pos+len(w)]) != w {
		return errTree
	}
	t.pos += len(w)
	return nil
}

func (t *tree) skipNumber() error {
	from := t.pos
	for t.pos < len(t.doc) {
		c := t.doc[t.pos]
		if (c < '0' || c > '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			break
		}
		t.pos++
	}
	if t.pos == from {
		return errTree
	}
	return nil
}

// value of a document, with its tree: what a renderer works on. The zero value is absent, and so is every look-up in it.
type value struct {
	t  *tree
	at int32 // index + 1, so that the zero value is absent
}

func (t *tree) root() value { return value{t, 1} }

func (v value) node() *node {
	if v.at == 0 {
		return &node{}
	}
	return &v.t.nodes[v.at-1]
}

func (v value) kind() kind { return v.node().kind }

// get is the member of that name; absent if v is no object or has none.
func (v value) get(name string) value {
	n := v.node()
	if n.kind != object {
		return value{}
	}
	for i := n.first; i != 0; i = v.t.nodes[i].next {
		if string(v.t.nodes[i].key) == name {
			return value{v.t, i + 1}
		}
	}
	return value{}
}

// each calls f for the elements of an array, in order.
func (v value) each(f func(value)) {
	n := v.node()
	if n.kind != array {
		return
	}
	for i := n.first; i != 0; i = v.t.nodes[i].next {
		f(value{v.t, i + 1})
	}
}

func (v value) len() int {
	n := 0
	v.each(func(value) { n++ })
	return n
}

// empty says whether the platform's raw form would have nothing to show: absent, null, or an empty text.
func (v value) empty() bool {
	n := v.node()
	return n.kind == absent || n.kind == null || n.kind == text && len(n.raw) == 2
}

func (v value) isTrue() bool { return string(v.node().raw) == "true" }

// plain is the text of a string without quotes, for values that never need escapes (enum symbols, decimals, times): one that has an
// escape is answered as empty.
func (v value) plain() string {
	n := v.node()
	if n.kind != text {
		return ""
	}
	s := n.raw[1 : len(n.raw)-1]
	for _, c := range s {
		if c == '\\' {
			return ""
		}
	}
	return string(s)
}

func (v value) int() int64 {
	i, _ := strconv.ParseInt(string(v.node().raw), 10, 64)
	return i
}

// validText says whether b may go into a body.
func validText(b []byte) bool { return utf8.Valid(b) }
