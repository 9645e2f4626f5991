package schemas

import (
	"encoding/binary"
	"math"
	"strings"
	"unicode/utf8"
)

// The primitives of Avro's binary encoding, for the hand-laid codecs of our own records.
//
// Our own text is checked where it comes in (the projection and the admission of a subscription refuse invalid UTF-8), not again in each record,
// and the readers here take it as it stands: a record that was accepted must stay readable, or its partition would stop.
// Only details and reasons that quote the outside are cleaned when written (appendText).

func appendLong(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}

func appendString(b []byte, s string) []byte {
	b = appendLong(b, int64(len(s)))
	return append(b, s...)
}

func appendBytes(b, s []byte) []byte {
	b = appendLong(b, int64(len(s)))
	return append(b, s...)
}

// appendText appends text that may quote what a stranger sent.
func appendText(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return appendString(b, s)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendDouble(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

// appendCount opens an array of n elements in one block, as every writer of ours does; endBlocks closes it.
func appendCount(b []byte, n int) []byte {
	if n == 0 {
		return b
	}
	return appendLong(b, int64(n))
}

const endBlocks = 0

func appendSource(b []byte, s *Source) []byte {
	b = appendString(b, s.Topic)
	b = appendLong(b, int64(s.Partition))
	b = appendLong(b, s.Offset)
	return appendLong(b, s.Time)
}

// reader walks over one record. The first error sticks, and from then on every read gives zero, so a codec reads its fields in order and asks once.
type reader struct {
	b    []byte
	p    int
	text string // copy of b that strings are cut from; only str needs it
	err  *DataError
}

// span is a string's place within b. See DecodeTask.
type span struct{ lo, hi int }

func (r *reader) fail(e *DataError) {
	if r.err == nil {
		r.err = e
	}
	r.p = len(r.b)
}

func (r *reader) long() int64 {
	if r.p < len(r.b) && r.b[r.p] < 0x80 {
		u := uint64(r.b[r.p])
		r.p++
		return int64(u>>1) ^ -int64(u&1)
	}
	return r.longer()
}

func (r *reader) longer() int64 {
	u, n := binary.Uvarint(r.b[r.p:])
	switch {
	case n == 0:
		r.fail(errTruncated)
		return 0
	case n < 0:
		r.fail(errVarint)
		return 0
	}
	r.p += n
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) int() int32 {
	v := r.long()
	if int64(int32(v)) != v {
		r.fail(errIntRange)
		return 0
	}
	return int32(v)
}

func (r *reader) span() span {
	n := r.long()
	if uint64(n) > uint64(len(r.b)-r.p) {
		if n < 0 {
			r.fail(errNegative)
		} else {
			r.fail(errTruncated)
		}
		return span{}
	}
	lo := r.p
	r.p += int(n)
	return span{lo, r.p}
}

// str cuts a string from text, which must be a copy of b.
func (r *reader) str() string {
	s := r.span()
	if r.err != nil {
		return ""
	}
	return r.text[s.lo:s.hi]
}

// bytes is a slice of b that cannot grow into what follows.
func (r *reader) bytes() []byte {
	s := r.span()
	if s.lo == s.hi {
		return nil
	}
	return r.b[s.lo:s.hi:s.hi]
}

func (r *reader) bool() bool {
	if r.p >= len(r.b) {
		r.fail(errTruncated)
		return false
	}
	v := r.b[r.p]
	r.p++
	if v > 1 {
		r.fail(errBoolean)
	}
	return v == 1
}

func (r *reader) double() float64 {
	if len(r.b)-r.p < 8 {
		r.fail(errTruncated)
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(r.b[r.p:]))
	r.p += 8
	return v
}

// optional reads the branch of a union of null and one other type.
func (r *reader) optional() bool {
	v := r.long()
	if v != 0 && v != 1 {
		r.fail(errUnionIndex)
	}
	return v == 1
}

// blocks calls read once per element of an array. Each element takes at least one byte, so the input bounds the count.
func (r *reader) blocks(read func()) {
	for {
		n := r.long()
		if n == 0 || r.err != nil {
			return
		}
		end := -1
		if n < 0 {
			size := r.long()
			if n = -n; n < 0 || size < 0 {
				r.fail(errNegative)
				return
			}
			if size > int64(len(r.b)-r.p) {
				r.fail(errTruncated)
				return
			}
			end = r.p + int(size)
		}
		if n > int64(len(r.b)-r.p) {
			r.fail(errTruncated)
			return
		}
		for ; n > 0 && r.err == nil; n-- {
			read()
		}
		if end >= 0 && r.p != end {
			r.fail(errBlockSize)
			return
		}
	}
}

func (r *reader) source() Source {
	return Source{Topic: r.str(), Partition: r.int(), Offset: r.long(), Time: r.long()}
}

// end refuses what stands behind the record, and gives the first error.
func (r *reader) end() error {
	if r.err == nil && r.p != len(r.b) {
		r.err = errTrailing
	}
	if r.err == nil {
		return nil // not a nil *DataError in an interface
	}
	return r.err
}

// frameLength is the length of the single-object frame: C3 01 and the fingerprint.
const frameLength = 10

// openRecord checks the frame of one of our own records and puts the reader behind it. want is the frame of the version that this build writes.
func openRecord(b []byte, record, want string) (reader, error) {
	if len(b) < frameLength || b[0] != 0xC3 || b[1] != 0x01 {
		return reader{}, errUnframed
	}
	if string(b[:frameLength]) != want {
		return reader{}, &NewerSchemaError{Record: record, Fingerprint: [8]byte(b[2:frameLength])}
	}
	return reader{b: b, p: frameLength}, nil
}
