package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the Avro value at the start of src as plain JSON; rest is what follows it.
//
// It is strict: every byte is checked, and what is not exactly a value of the schema is refused with a *DataError. Unions are not wrapped. Decimals
// become strings with their full scale ("12.500000"), timestamps RFC 3339 in UTC with the digits of their unit ("2006-01-02T15:04:05.000Z"; local
// ones without the Z), dates "2006-01-02", times of day "15:04:05.000", enums their symbol, bytes and fixed base64, maps objects. Null fields are kept.
// Refused beyond broken encoding: NaN and infinities, text that is not UTF-8, times outside the years 0 to 9999, decimals with more digits than their
// precision, and a map with one key twice (a JSON object with a key twice means different things to different receivers).
func (s *Schema) AppendJSON(dst, src []byte) (out, rest []byte, err error) {
	return s.root.appendJSON(dst, src)
}

// Skip walks over the value at the start of src. It accepts exactly what AppendJSON accepts, but for the bound on output and for keys that
// stand twice.
func (s *Schema) Skip(src []byte) (rest []byte, err error) { return s.root.skip(src) }

func (n *node) appendJSON(dst, src []byte) (out, rest []byte, err error) {
	w := walk{b: src, dst: dst, elements: MaxElements, values: maxValues, limit: len(dst) + MaxOutput}
	if len(src) > MaxInput {
		return dst, src, errSize
	}
	if err := w.value(n); err != nil {
		return dst, src, err
	}
	return w.dst, src[w.p:], nil
}

func (n *node) skip(src []byte) (rest []byte, err error) {
	w := walk{b: src, elements: MaxElements, values: maxValues}
	if len(src) > MaxInput {
		return src, errSize
	}
	if err := w.skip(n); err != nil {
		return src, err
	}
	return src[w.p:], nil
}

// walk goes over one value, once, from front to back. Schemas are not recursive, so its depth is bounded by the schema's; elements, values and limit
// bound the rest.
type walk struct {
	b        []byte
	p        int
	dst      []byte
	elements int // that arrays and maps may still hold
	values   int // fields that records may still hold; an element that takes no bytes may hold many
	limit    int // of len(dst)
}

func (w *walk) long() (int64, *DataError) {
	if w.p < len(w.b) && w.b[w.p] < 0x80 {
		u := int64(w.b[w.p])
		w.p++
		return u>>1 ^ -(u & 1), nil
	}
	u, n := binary.Uvarint(w.b[w.p:])
	if n <= 0 {
		if n == 0 {
			return 0, errTruncated
		}
		return 0, errVarint
	}
	w.p += n
	return int64(u>>1) ^ -int64(u&1), nil
}

func (w *walk) int() (int64, *DataError) {
	v, err := w.long()
	if err == nil && int64(int32(v)) != v {
		err = errIntRange
	}
	return v, err
}

// take gives the next n bytes.
func (w *walk) take(n int64) ([]byte, *DataError) {
	if uint64(n) > uint64(len(w.b)-w.p) {
		if n < 0 {
			return nil, errNegative
		}
		return nil, errTruncated
	}
	s := w.b[w.p : w.p+int(n)]
	w.p += int(n)
	return s, nil
}

func (w *walk) bytes() ([]byte, *DataError) {
	n, err := w.long()
	if err != nil {
		return nil, err
	}
	return w.take(n)
}

// text is a string, checked.
func (w *walk) text() ([]byte, *DataError) {
	// The way of nearly all text: a length below 64, all there. What it does not take, bytes takes or refuses.
	if w.p < len(w.b) && w.b[w.p]&0x81 == 0 && int(w.b[w.p]>>1) < len(w.b)-w.p {
		start := w.p + 1
		w.p = start + int(w.b[w.p]>>1)
		s := w.b[start:w.p:w.p]
		if !utf8.Valid(s) {
			return nil, errUTF8
		}
		return s, nil
	}
	s, err := w.bytes()
	if err == nil && !utf8.Valid(s) {
		err = errUTF8
	}
	return s, err
}

func (w *walk) index(count int, e *DataError) (int, *DataError) {
	i, err := w.long()
	if err != nil {
		return 0, err
	}
	if uint64(i) >= uint64(count) {
		return 0, e
	}
	return int(i), nil
}

func (w *walk) boolean() (bool, *DataError) {
	s, err := w.take(1)
	if err != nil {
		return false, err
	}
	if s[0] > 1 {
		return false, errBoolean
	}
	return s[0] == 1, nil
}

func (w *walk) float(k kind) (float64, *DataError) {
	size := int64(8)
	if k == kindFloat {
		size = 4
	}
	s, err := w.take(size)
	if err != nil {
		return 0, err
	}
	var f float64
	if k == kindFloat {
		f = float64(math.Float32frombits(binary.LittleEndian.Uint32(s)))
	} else {
		f = math.Float64frombits(binary.LittleEndian.Uint64(s))
	}
	if f-f != 0 {
		return 0, errNotFinite
	}
	return f, nil
}

// block reads the head of a block of an array or map: how many elements it holds (0: the end), and where it ends if it says so (else -1).
// A count that the input cannot hold, or the budget, is refused before anything is done for it.
func (w *walk) block(n *node) (count int64, end int, err *DataError) {
	if count, err = w.long(); err != nil || count == 0 {
		return 0, -1, err
	}
	end = -1
	if count < 0 {
		size, err := w.long()
		if err != nil {
			return 0, 0, err
		}
		if count = -count; count < 0 || size < 0 {
			return 0, 0, errNegative
		}
		if size > int64(len(w.b)-w.p) {
			return 0, 0, errTruncated
		}
		end = w.p + int(size)
	}
	if count > int64(w.elements) {
		return 0, 0, errElements
	}
	w.elements -= int(count)
	least := int64(n.elem.min)
	if n.kind == kindMap {
		least++
	}
	if least > 0 && count > int64(len(w.b)-w.p)/least {
		return 0, 0, errTruncated
	}
	return count, end, nil
}

// open charges the fields of a record before they are visited.
func (w *walk) open(n *node) *DataError {
	if w.values -= len(n.fields); w.values < 0 {
		return errElements
	}
	return nil
}

func (w *walk) value(n *node) *DataError {
	switch n.kind {
	case kindNull:
		w.dst = append(w.dst, "null"...)
	case kindBoolean:
		v, err := w.boolean()
		if err != nil {
			return err
		}
		w.dst = strconv.AppendBool(w.dst, v)
	case kindInt:
		v, err := w.int()
		if err != nil {
			return err
		}
		return w.number(n, v)
	case kindLong:
		v, err := w.long()
		if err != nil {
			return err
		}
		return w.number(n, v)
	case kindFloat, kindDouble:
		f, err := w.float(n.kind)
		if err != nil {
			return err
		}
		bits := 64
		if n.kind == kindFloat {
			bits = 32
		}
		w.dst = appendFloat(w.dst, f, bits)
	case kindString:
		s, err := w.bytes()
		if err != nil {
			return err
		}
		return w.quoted(s)
	case kindBytes, kindFixed:
		return w.binary(n)
	case kindEnum:
		i, err := w.index(len(n.symbols), errEnumIndex)
		if err != nil {
			return err
		}
		w.dst = append(w.dst, '"')
		w.dst = append(w.dst, n.symbols[i]...)
		w.dst = append(w.dst, '"')
	case kindUnion:
		i, err := w.index(len(n.branches), errUnionIndex)
		if err != nil {
			return err
		}
		return w.value(n.branches[i])
	case kindRecord:
		return w.record(n)
	default:
		return w.collection(n)
	}
	return nil
}

func (w *walk) quoted(s []byte) *DataError {
	var ok bool
	if w.dst, ok = appendQuoted(w.dst, s); !ok {
		return errUTF8
	}
	return nil
}

func (w *walk) binary(n *node) *DataError {
	var s []byte
	var err *DataError
	if n.kind == kindFixed {
		s, err = w.take(int64(n.size))
	} else {
		s, err = w.bytes()
	}
	if err != nil {
		return err
	}
	switch n.logical {
	case logicalDecimal:
		var ok bool
		if w.dst, ok = appendDecimal(w.dst, s, n.precision, n.scale); !ok {
			return errDecimal
		}
		return nil
	case logicalUUID:
		w.dst = appendUUID(w.dst, s)
		return nil
	}
	w.dst = append(w.dst, '"')
	w.dst = base64.StdEncoding.AppendEncode(w.dst, s)
	w.dst = append(w.dst, '"')
	return nil
}

// appendUUID writes 16 bytes as a quoted UUID.
func appendUUID(dst, s []byte) []byte {
	dst = append(dst, '"')
	for i, c := range s {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
	}
	return append(dst, '"')
}

// checkNumber refuses a time that has no text: outside the years 0 to 9999, or outside the day.
func checkNumber(l logical, v int64) *DataError {
	ok := true
	switch l {
	case logicalDate:
		ok = validDay(v)
	case logicalTimeMillis:
		ok = v >= 0 && v < millisPerDay
	case logicalTimeMicros:
		ok = v >= 0 && v < microsPerDay
	case logicalTimestampMillis, logicalLocalMillis:
		ok = v >= minDay*millisPerDay && v < (maxDay+1)*millisPerDay
	case logicalTimestampMicros, logicalLocalMicros:
		ok = v >= minDay*microsPerDay && v < (maxDay+1)*microsPerDay
	}
	if !ok {
		return errTimeRange
	}
	return nil
}

func (w *walk) number(n *node, v int64) *DataError {
	if n.logical == logicalNone {
		w.dst = strconv.AppendInt(w.dst, v, 10)
		return nil
	}
	if err := checkNumber(n.logical, v); err != nil {
		return err
	}
	d := append(w.dst, '"')
	switch n.logical {
	case logicalDate:
		d = appendDate(d, v)
	case logicalTimeMillis:
		d = appendTime(d, uint64(v), 3)
	case logicalTimeMicros:
		d = appendTime(d, uint64(v), 6)
	default:
		perDay, digits := int64(millisPerDay), 3
		if n.logical == logicalTimestampMicros || n.logical == logicalLocalMicros {
			perDay, digits = microsPerDay, 6
		}
		day, rest := floorDiv(v, perDay)
		d = appendDate(d, day)
		d = append(d, 'T')
		d = appendTime(d, uint64(rest), digits)
		if n.logical == logicalTimestampMillis || n.logical == logicalTimestampMicros {
			d = append(d, 'Z')
		}
	}
	w.dst = append(d, '"')
	return nil
}

func (w *walk) record(n *node) *DataError {
	if err := w.open(n); err != nil {
		return err
	}
	w.dst = append(w.dst, '{')
	for i := range n.fields {
		f := &n.fields[i]
		w.dst = append(w.dst, f.key...)
		if err := w.value(f.node); err != nil {
			return err.inField(f.name)
		}
		if len(w.dst) > w.limit {
			return errSize
		}
	}
	w.dst = append(w.dst, '}')
	return nil
}

func (w *walk) collection(n *node) *DataError {
	var keys keySet
	opening, closing := byte('['), byte(']')
	if n.kind == kindMap {
		opening, closing = '{', '}'
	}
	w.dst = append(w.dst, opening)
	for at := 0; ; {
		count, end, err := w.block(n)
		if err != nil {
			return err
		}
		if count == 0 {
			break
		}
		for ; count > 0; count-- {
			if at > 0 {
				w.dst = append(w.dst, ',')
			}
			if n.kind == kindMap {
				if err := w.key(&keys); err != nil {
					return err
				}
			}
			if err := w.value(n.elem); err != nil {
				return err.inElement(at)
			}
			if len(w.dst) > w.limit {
				return errSize
			}
			at++
		}
		if end >= 0 && w.p != end {
			return errBlockSize
		}
	}
	w.dst = append(w.dst, closing)
	return nil
}

func (w *walk) key(keys *keySet) *DataError {
	k, err := w.bytes()
	if err != nil {
		return err
	}
	if !keys.add(k) {
		return errDuplicate
	}
	if err := w.quoted(k); err != nil {
		return err
	}
	w.dst = append(w.dst, ':')
	return nil
}

// keySet finds a key that stands twice. Most maps are small, and those cost no allocation.
type keySet struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

func (k *keySet) add(key []byte) bool {
	if k.n < len(k.few) {
		for _, other := range k.few[:k.n] {
			if string(other) == string(key) {
				return false
			}
		}
		k.few[k.n] = key
		k.n++
		return true
	}
	if k.many == nil {
		k.many = make(map[string]struct{}, 4*len(k.few))
		for _, other := range k.few {
			k.many[string(other)] = struct{}{}
		}
	}
	if _, twice := k.many[string(key)]; twice {
		return false
	}
	k.many[string(key)] = struct{}{}
	return true
}

// skip checks a value and leaves it. Block sizes are never believed: a block is walked, and its size must then be true, or an event could hide
// one body from a reader that jumps and show another to one that does not.
func (w *walk) skip(n *node) *DataError {
	var err *DataError
	switch n.kind {
	case kindNull:
		return nil
	case kindBoolean:
		_, err = w.boolean()
	case kindInt, kindLong:
		var v int64
		if v, err = w.long(); err != nil {
			return err
		}
		if n.kind == kindInt && int64(int32(v)) != v {
			return errIntRange
		}
		if n.logical != logicalNone {
			return checkNumber(n.logical, v)
		}
	case kindFloat, kindDouble:
		_, err = w.float(n.kind)
	case kindString:
		_, err = w.text()
	case kindBytes, kindFixed:
		return w.skipBinary(n)
	case kindEnum:
		_, err = w.index(len(n.symbols), errEnumIndex)
	case kindUnion:
		var i int
		if i, err = w.index(len(n.branches), errUnionIndex); err != nil {
			return err
		}
		return w.skip(n.branches[i])
	case kindRecord:
		if err = w.open(n); err != nil {
			return err
		}
		for i := range n.fields {
			if err := w.skip(n.fields[i].node); err != nil {
				return err.inField(n.fields[i].name)
			}
		}
	default:
		return w.skipCollection(n)
	}
	return err
}

func (w *walk) skipBinary(n *node) *DataError {
	size := int64(n.size)
	if n.kind == kindBytes {
		var err *DataError
		if size, err = w.long(); err != nil {
			return err
		}
	}
	s, err := w.take(size)
	if err != nil || n.logical != logicalDecimal {
		return err
	}
	var room [64]byte // a decimal of an event; longer ones allocate
	if _, ok := appendDecimal(room[:0], s, n.precision, n.scale); !ok {
		return errDecimal
	}
	return nil
}

func (w *walk) skipCollection(n *node) *DataError {
	for at := 0; ; {
		count, end, err := w.block(n)
		if err != nil || count == 0 {
			return err
		}
		for ; count > 0; count-- {
			if n.kind == kindMap {
				if _, err := w.text(); err != nil {
					return err
				}
			}
			if err := w.skip(n.elem); err != nil {
				return err.inElement(at)
			}
			at++
		}
		if end >= 0 && w.p != end {
			return errBlockSize
		}
	}
}
