package schemas

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Event is one change of an entity, as its publisher holds it. The ten implementations (BookingEvent, CustomerEvent, ...) are generated.
type Event interface {
	// AppendAvro appends the Avro body of the current schema, without a frame. On an error, which joins one *FieldError per bad field, dst comes
	// back as it was.
	AppendAvro(dst []byte) ([]byte, error)
	// DecodeAvro is the inverse, for a body of the current schema.
	DecodeAvro(body []byte) error
	EventMeta() *EventMeta
	EntityName() string
}

// eventEncoder writes one event. It goes on behind a bad field, so that the publisher learns of all of them at once. What it refuses is what a router
// would have to call undecodable: text that is not UTF-8, times that no JSON can say, decimals over their precision, unknown symbols.
type eventEncoder struct {
	b     []byte
	errs  []error
	depth int
	path  [16]step // the generated types nest 6 deep
}

// step is a field, and within a list which element.
type step struct {
	field string
	index int // -1: not within a list
}

func (e *eventEncoder) enter(field string) {
	e.path[e.depth] = step{field, -1}
	e.depth++
}

func (e *eventEncoder) at(i int) { e.path[e.depth-1].index = i }
func (e *eventEncoder) leave()   { e.depth-- }

// fail notes a bad field. field is empty for an element of a list, whose path stands already.
func (e *eventEncoder) fail(field, problem string) {
	var p strings.Builder
	for _, s := range e.path[:e.depth] {
		if p.Len() > 0 {
			p.WriteByte('.')
		}
		p.WriteString(s.field)
		if s.index >= 0 {
			p.WriteString("[" + strconv.Itoa(s.index) + "]")
		}
	}
	if field != "" {
		if p.Len() > 0 {
			p.WriteByte('.')
		}
		p.WriteString(field)
	}
	e.errs = append(e.errs, &FieldError{Path: p.String(), Problem: problem})
}

func (e *eventEncoder) finish(dst []byte) ([]byte, error) {
	if e.errs != nil {
		return dst, errors.Join(e.errs...)
	}
	return e.b, nil
}

func (e *eventEncoder) string(field, v string) {
	if !utf8.ValidString(v) {
		e.fail(field, "is not valid UTF-8")
	}
	e.b = appendString(e.b, v)
}

func (e *eventEncoder) int(v int32)    { e.b = appendLong(e.b, int64(v)) }
func (e *eventEncoder) long(v int64)   { e.b = appendLong(e.b, v) }
func (e *eventEncoder) boolean(v bool) { e.b = appendBool(e.b, v) }
func (e *eventEncoder) count(n int)    { e.b = appendCount(e.b, n) }

func (e *eventEncoder) timestamp(field string, v time.Time) {
	if v.IsZero() {
		e.fail(field, "is not set")
		return
	}
	ms := v.UnixMilli()
	if ms < minTime || ms > maxTime {
		e.fail(field, "lies outside the years 0 to 9999")
	}
	e.b = appendLong(e.b, ms)
}

func (e *eventEncoder) date(field string, v Date) {
	if v < minDate || v > maxDate {
		e.fail(field, "lies outside the years 0 to 9999")
	}
	e.b = appendLong(e.b, int64(v))
}

func (e *eventEncoder) timeOfDay(field string, v TimeOfDay) {
	if v < 0 || v >= dayMillis {
		e.fail(field, "lies outside the day")
	}
	e.b = appendLong(e.b, int64(v))
}

var powersOf10 = [19]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// decimal writes the fewest bytes that hold the two's complement, big-endian, as the Avro specification asks.
func (e *eventEncoder) decimal(field string, v Decimal, precision int) {
	limit := powersOf10[precision]
	if v.Unscaled >= limit || v.Unscaled <= -limit {
		e.fail(field, fmt.Sprintf("has more than %d digits before the point", precision-DecimalScale))
	}
	n := 1
	for n < 8 && v.Unscaled>>(8*n-1) != v.Unscaled>>63 {
		n++
	}
	e.b = append(e.b, byte(2*n))
	for i := n - 1; i >= 0; i-- {
		e.b = append(e.b, byte(v.Unscaled>>(8*i)))
	}
}

// stringMap writes the keys in order, so that one event has one encoding.
func (e *eventEncoder) stringMap(field string, m map[string]string) {
	if len(m) > 0 {
		var some [8]string
		keys := some[:0]
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		e.count(len(keys))
		for _, k := range keys {
			if !utf8.ValidString(k) || !utf8.ValidString(m[k]) {
				e.fail(field, "has a key or value that is not valid UTF-8")
			}
			e.b = appendString(e.b, k)
			e.b = appendString(e.b, m[k])
		}
	}
	e.b = append(e.b, endBlocks)
}

func (e *eventEncoder) notASymbol(field, v, enum string) {
	e.fail(field, fmt.Sprintf("%q is not a symbol of %s", v, enum))
}

// eventDecoder reads one event into its struct. All strings are cut from one copy of the body.
type eventDecoder struct {
	r        reader
	elements int
}

// maxElements bounds what lists and maps of one event may hold: a struct is many times larger than the one byte that an element may take on the wire.
const maxEventElements = 100_000

func newEventDecoder(body []byte) eventDecoder {
	return eventDecoder{r: reader{b: body, text: string(body)}}
}

func (d *eventDecoder) end() error { return d.r.end() }

func (d *eventDecoder) string() string {
	s := d.r.str()
	if !utf8.ValidString(s) {
		d.r.fail(errUTF8)
		return ""
	}
	return s
}

func (d *eventDecoder) boolean() bool { return d.r.bool() }

func (d *eventDecoder) timestamp() time.Time {
	ms := d.r.long()
	if ms < minTime || ms > maxTime {
		d.r.fail(errTimeRange)
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func (d *eventDecoder) date() Date {
	v := d.r.int()
	if v < minDate || v > maxDate {
		d.r.fail(errTimeRange)
	}
	return Date(v)
}

func (d *eventDecoder) timeOfDay() TimeOfDay {
	v := d.r.int()
	if v < 0 || v >= dayMillis {
		d.r.fail(errTimeRange)
	}
	return TimeOfDay(v)
}

// decimal takes any length: other writers may pad the two's complement with sign bytes.
func (d *eventDecoder) decimal(precision int) Decimal {
	b := d.r.bytes()
	if len(b) == 0 {
		return Decimal{}
	}
	v := int64(int8(b[0]))
	for _, c := range b[1:] {
		if v >= 1<<55 || v < -1<<55 {
			d.r.fail(errDecimal)
			return Decimal{}
		}
		v = v<<8 | int64(c)
	}
	limit := powersOf10[precision]
	if v >= limit || v <= -limit {
		d.r.fail(errDecimal)
	}
	return Decimal{v}
}

// symbol reads an index below n; -1 after an error.
func (d *eventDecoder) symbol(n int) int {
	i := d.r.long()
	if d.r.err != nil {
		return -1
	}
	if i < 0 || i >= int64(n) {
		d.r.fail(errEnumIndex)
		return -1
	}
	return int(i)
}

func (d *eventDecoder) array(one func()) {
	d.r.blocks(func() {
		if d.elements++; d.elements > maxEventElements {
			d.r.fail(errElements)
			return
		}
		one()
	})
}

func (d *eventDecoder) stringMap() map[string]string {
	var m map[string]string
	d.array(func() {
		k := d.string()
		v := d.string()
		if _, ok := m[k]; ok {
			d.r.fail(errDuplicate)
			return
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	})
	return m
}
