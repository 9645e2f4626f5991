package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// encodeScalar appends a value that holds no others. problem is empty, or says to the person who wrote the value what is wrong with it.
func encodeScalar(b []byte, n *node, v any) (out []byte, problem string) {
	switch n.kind {
	case kindNull:
		if v != nil {
			return b, "must be null"
		}
		return b, ""
	case kindBoolean:
		x, ok := v.(bool)
		if !ok {
			return b, "must be true or false, not " + jsonKind(v)
		}
		return appendBool(b, x), ""
	case kindInt, kindLong:
		x, problem := scalarNumber(n, v)
		return appendLong(b, x), problem
	case kindFloat, kindDouble:
		return encodeFloat(b, n.kind, v)
	}
	if num, ok := v.(json.Number); ok && n.logical == logicalDecimal {
		v = string(num)
	}
	s, ok := v.(string)
	if !ok {
		return b, "must be a string, not " + jsonKind(v)
	}
	switch n.kind {
	case kindEnum:
		i := slices.Index(n.symbols, s)
		if i < 0 {
			return b, "must be one of " + strings.Join(n.symbols, ", ")
		}
		return appendLong(b, int64(i)), ""
	case kindString:
		if _, ok := parseUUID(s); n.logical == logicalUUID && !ok {
			return b, "not a UUID"
		}
		return appendString(b, s), ""
	}
	return encodeBinary(b, n, s)
}

func encodeFloat(b []byte, k kind, v any) (out []byte, problem string) {
	num, ok := v.(json.Number)
	if !ok {
		return b, "must be a number, not " + jsonKind(v)
	}
	bits := 64
	if k == kindFloat {
		bits = 32
	}
	f, err := strconv.ParseFloat(string(num), bits)
	if err != nil {
		return b, "too large a number"
	}
	if k == kindFloat {
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(f))), ""
	}
	return appendDouble(b, f), ""
}

// encodeBinary appends a bytes or fixed.
func encodeBinary(b []byte, n *node, s string) (out []byte, problem string) {
	var raw []byte
	switch n.logical {
	case logicalDecimal:
		if raw, problem = parseDecimal(s, n.precision, n.scale); problem != "" {
			return b, problem
		}
		if n.kind == kindFixed {
			if raw = signExtend(raw, n.size); len(raw) != n.size {
				return b, fmt.Sprintf("does not fit into %d bytes", n.size)
			}
		}
	case logicalUUID:
		id, ok := parseUUID(s)
		if !ok {
			return b, "not a UUID"
		}
		raw = id[:]
	default:
		var err error
		if raw, err = base64.StdEncoding.Strict().DecodeString(s); err != nil {
			return b, "not base64"
		}
	}
	if n.kind == kindBytes {
		return appendBytes(b, raw), ""
	}
	if len(raw) != n.size {
		return b, fmt.Sprintf("must be %d bytes, not %d", n.size, len(raw))
	}
	return append(b, raw...), ""
}

func scalarNumber(n *node, v any) (int64, string) {
	if n.logical != logicalNone {
		s, ok := v.(string)
		if !ok {
			return 0, "must be a string, not " + jsonKind(v)
		}
		return parseTime(n.logical, s)
	}
	num, ok := v.(json.Number)
	if !ok {
		return 0, "must be a number, not " + jsonKind(v)
	}
	bits := 64
	if n.kind == kindInt {
		bits = 32
	}
	x, err := strconv.ParseInt(string(num), 10, bits)
	if err != nil {
		return 0, fmt.Sprintf("must be a whole number of %d bits", bits)
	}
	return x, ""
}

// timeTexts are the layouts of the logical types, with what a person is told. Go accepts a fraction behind seconds where the layout has none.
var timeTexts = map[logical]struct {
	layout, problem string
	unit            time.Duration
}{
	logicalDate:            {time.DateOnly, "not a date (2026-01-31)", 24 * time.Hour},
	logicalTimeMillis:      {time.TimeOnly, "not a time of day (15:04:05)", time.Millisecond},
	logicalTimeMicros:      {time.TimeOnly, "not a time of day (15:04:05)", time.Microsecond},
	logicalTimestampMillis: {time.RFC3339, "not a time (2026-01-31T15:04:05Z)", time.Millisecond},
	logicalTimestampMicros: {time.RFC3339, "not a time (2026-01-31T15:04:05Z)", time.Microsecond},
	logicalLocalMillis:     {"2006-01-02T15:04:05", "not a local time (2026-01-31T15:04:05)", time.Millisecond},
	logicalLocalMicros:     {"2006-01-02T15:04:05", "not a local time (2026-01-31T15:04:05)", time.Microsecond},
}

func parseTime(l logical, s string) (int64, string) {
	text := timeTexts[l]
	t, err := time.Parse(text.layout, s)
	if err != nil {
		return 0, text.problem
	}
	t = t.UTC()
	if t.Nanosecond()%int(min(text.unit, time.Second)) != 0 {
		return 0, "finer than a " + map[time.Duration]string{time.Millisecond: "millisecond", time.Microsecond: "microsecond"}[text.unit]
	}
	var v int64
	switch l {
	case logicalDate:
		v = t.Unix() / 86_400 // it is midnight: nothing is cut off
	case logicalTimeMillis, logicalTimeMicros:
		v = int64(time.Duration(t.Hour())*time.Hour+time.Duration(t.Minute())*time.Minute+time.Duration(t.Second())*time.Second+
			time.Duration(t.Nanosecond())) / int64(text.unit)
	case logicalTimestampMillis, logicalLocalMillis:
		v = t.UnixMilli()
	default:
		v = t.UnixMicro()
	}
	if checkNumber(l, v) != nil { // an offset can lead out of the years that have four digits
		return 0, text.problem
	}
	return v, ""
}

// parseDecimal gives the two's complement of decimal text, as short as it can be. No digit is ever lost.
func parseDecimal(s string, precision, scale int) (raw []byte, problem string) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(digits, ".")
	if whole == "" || point && fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return nil, "not a decimal"
	}
	if len(digits) > maxPrecision+2 {
		return nil, fmt.Sprintf("more than %d digits", precision)
	}
	if len(strings.TrimRight(fraction, "0")) > scale {
		return nil, fmt.Sprintf("more than %d decimals", scale)
	}
	fraction = strings.TrimRight(fraction, "0")
	fraction += strings.Repeat("0", scale-len(fraction))
	text := strings.TrimLeft(whole+fraction, "0")
	if len(text) > precision {
		return nil, fmt.Sprintf("more than %d digits, of which %d are decimals", precision, scale)
	}
	i, ok := new(big.Int).SetString("0"+text, 10)
	if !ok {
		return nil, "not a decimal"
	}
	if negative {
		i.Neg(i)
	}
	return twosComplement(i), ""
}

func twosComplement(i *big.Int) []byte {
	if i.Sign() >= 0 {
		return i.FillBytes(make([]byte, i.BitLen()/8+1))
	}
	size := uint(new(big.Int).Not(i).BitLen()/8 + 1)
	return new(big.Int).Add(i, new(big.Int).Lsh(big.NewInt(1), 8*size)).FillBytes(make([]byte, size))
}

func signExtend(raw []byte, size int) []byte {
	fill := byte(0)
	if raw[0] >= 0x80 {
		fill = 0xff
	}
	for len(raw) < size {
		raw = append([]byte{fill}, raw...)
	}
	return raw
}

func parseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	return id, err == nil
}
