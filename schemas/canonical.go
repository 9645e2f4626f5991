package schemas

import (
	"encoding/binary"
	"strconv"
)

// canonicalForm is Avro's Parsing Canonical Form: only what matters for reading, full names, a fixed order, no white space. Names and symbols
// are plain ASCII here (Parse saw to it), so that nothing needs escaping.
func canonicalForm(n *node) string {
	return string(appendCanonical(nil, n, map[*node]bool{}))
}

func appendCanonical(b []byte, n *node, defined map[*node]bool) []byte {
	if defined[n] {
		return strconv.AppendQuote(b, n.name)
	}
	if n.name != "" {
		defined[n] = true
		b = append(b, `{"name":`...)
		b = strconv.AppendQuote(b, n.name)
		b = append(b, `,"type":"`...)
		b = append(b, kindNames[n.kind]...)
		b = append(b, '"')
	}
	switch n.kind {
	case kindRecord:
		b = append(b, `,"fields":[`...)
		for i := range n.fields {
			b = appendComma(b, i)
			b = append(b, `{"name":`...)
			b = strconv.AppendQuote(b, n.fields[i].name)
			b = append(b, `,"type":`...)
			b = appendCanonical(b, n.fields[i].node, defined)
			b = append(b, '}')
		}
		return append(b, "]}"...)
	case kindEnum:
		b = append(b, `,"symbols":[`...)
		for i, s := range n.symbols {
			b = appendComma(b, i)
			b = strconv.AppendQuote(b, s)
		}
		return append(b, "]}"...)
	case kindFixed:
		b = append(b, `,"size":`...)
		b = strconv.AppendInt(b, int64(n.size), 10)
		return append(b, '}')
	case kindArray, kindMap:
		inner := `,"items":`
		if n.kind == kindMap {
			inner = `,"values":`
		}
		b = append(b, `{"type":"`+kindNames[n.kind]+`"`+inner...)
		b = appendCanonical(b, n.elem, defined)
		return append(b, '}')
	case kindUnion:
		b = append(b, '[')
		for i, branch := range n.branches {
			b = appendComma(b, i)
			b = appendCanonical(b, branch, defined)
		}
		return append(b, ']')
	}
	return strconv.AppendQuote(b, kindNames[n.kind])
}

func appendComma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// emptyCRC is the CRC-64-AVRO of nothing, and its polynomial.
const emptyCRC uint64 = 0xc15d213aa4d7a795

var crcTable = func() (t [256]uint64) {
	for i := range t {
		v := uint64(i)
		for range 8 {
			v = v>>1 ^ emptyCRC&-(v&1)
		}
		t[i] = v
	}
	return t
}()

func fingerprint(canonical string) (out [8]byte) {
	crc := emptyCRC
	for i := range len(canonical) {
		crc = crc>>8 ^ crcTable[byte(crc)^canonical[i]]
	}
	binary.LittleEndian.PutUint64(out[:], crc)
	return out
}
