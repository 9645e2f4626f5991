package schemas

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string; ok is false if s is not valid UTF-8. Eight bytes are looked at in one step: most text holds
// nothing to escape.
func appendQuoted(dst, s []byte) (out []byte, ok bool) {
	dst = append(dst, '"')
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if !plain8(binary.LittleEndian.Uint64(s[i:])) {
			break
		}
	}
	if i+8 > len(s) {
		for i < len(s) && plainByte(s[i]) {
			i++
		}
	}
	dst = append(dst, s[:i]...)
	if i < len(s) {
		if !utf8.Valid(s[i:]) {
			return dst, false
		}
		dst = appendEscaped(dst, s[i:])
	}
	return append(dst, '"'), true
}

func plainByte(c byte) bool { return c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' }

// plain8 says whether none of eight bytes is below 0x20, above 0x7f, a quote or a backslash. The subtractions set the high bit of a byte that is
// below what is subtracted, and may set it for a neighbour above such a byte: never a false yes.
func plain8(x uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	control := x - ones*0x20
	quote := (x ^ ones*'"') - ones
	backslash := (x ^ ones*'\\') - ones
	return (control|quote|backslash|x)&high == 0
}

// appendEscaped appends valid UTF-8 with what JSON wants escaped.
func appendEscaped(dst, s []byte) []byte {
	start := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
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
	return append(dst, s[start:]...)
}

// appendFloat writes a number as encoding/json does: shortest form, an exponent only where the number is very large or small. bits is 32 or 64.
func appendFloat(dst []byte, f float64, bits int) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 {
		if bits == 64 && (abs < 1e-6 || abs >= 1e21) || bits == 32 && (float32(abs) < 1e-6 || float32(abs) >= 1e21) {
			format = 'e'
		}
	}
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	if n := len(dst); format == 'e' && n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-09 is e-9
		dst = dst[:n-1]
	}
	return dst
}

var powers = func() (p [19]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// appendDecimal writes a two's complement, big-endian integer as quoted decimal text with its full scale; ok is false if it has no bytes
// or more digits than the precision.
func appendDecimal(dst, s []byte, precision, scale int) (out []byte, ok bool) {
	if len(s) == 0 {
		return dst, false
	}
	for len(s) > 1 && (s[0] == 0 && s[1] < 0x80 || s[0] == 0xff && s[1] >= 0x80) {
		s = s[1:] // the sign, repeated
	}
	if len(s) > 8 || precision >= len(powers) {
		return appendLargeDecimal(dst, s, precision, scale)
	}
	v := int64(int8(s[0]))
	for _, c := range s[1:] {
		v = v<<8 | int64(c)
	}
	dst = append(dst, '"')
	u := uint64(v)
	if v < 0 {
		u = -u
		dst = append(dst, '-')
	}
	if u >= powers[precision] {
		return dst, false
	}
	dst = strconv.AppendUint(dst, u/powers[scale], 10)
	if scale > 0 {
		dst = append(dst, '.')
		dst = appendDigits(dst, u%powers[scale], scale)
	}
	return append(dst, '"'), true
}

func appendLargeDecimal(dst, s []byte, precision, scale int) (out []byte, ok bool) {
	if len(s) > precision/2+2 { // a byte is 2.4 digits: refused before anything is computed
		return dst, false
	}
	i := new(big.Int).SetBytes(s)
	if s[0] >= 0x80 {
		i.Sub(i, new(big.Int).Lsh(big.NewInt(1), uint(len(s)*8)))
	}
	dst = append(dst, '"')
	if i.Sign() < 0 {
		dst = append(dst, '-')
		i.Neg(i)
	}
	digits := i.String()
	if len(digits) > precision {
		return dst, false
	}
	for len(digits) <= scale {
		digits = "0" + digits
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	if scale > 0 {
		dst = append(dst, '.')
		dst = append(dst, digits[len(digits)-scale:]...)
	}
	return append(dst, '"'), true
}

// appendDigits writes v with at least width digits.
func appendDigits(dst []byte, v uint64, width int) []byte {
	n := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := n + width - 1; i >= n; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
	return dst
}

const (
	millisPerDay = 86_400_000
	microsPerDay = 86_400_000_000

	// The days of the years 0 to 9999, counted from 1970: what four digits of a year can say.
	minDay = -719_528
	maxDay = 2_932_896
)

func validDay(day int64) bool { return day >= minDay && day <= maxDay }

// floorDiv splits a count since 1970 into days and what is left of the day, which is never negative.
func floorDiv(v, perDay int64) (day, rest int64) {
	day, rest = v/perDay, v%perDay
	if rest < 0 {
		day, rest = day-1, rest+perDay
	}
	return day, rest
}

// appendDate writes a day since 1970 as 2006-01-02, by counting in eras of 400 years that begin in March, so that the leap day is a year's last.
func appendDate(dst []byte, day int64) []byte {
	z := uint64(day + 719_468 + 400*365 + 97) // from 1 March of the year -400: never negative within the bounds
	era, doe := z/146_097, z%146_097
	yoe := (doe - doe/1460 + doe/36_524 - doe/146_096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d, m := doy-(153*mp+2)/5+1, mp+3
	year := yoe + era*400 - 400
	if m > 12 {
		m -= 12
		year++
	}
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-', byte('0'+m/10), byte('0'+m%10), '-', byte('0'+d/10), byte('0'+d%10))
	return dst
}

// appendTime writes a time of day as 15:04:05 and a fraction of digits digits.
func appendTime(dst []byte, v uint64, digits int) []byte {
	unit := powers[digits]
	seconds := v / unit
	h, m, s := seconds/3600, seconds/60%60, seconds%60
	dst = append(dst, byte('0'+h/10), byte('0'+h%10), ':', byte('0'+m/10), byte('0'+m%10), ':', byte('0'+s/10), byte('0'+s%10), '.')
	return appendDigits(dst, v%unit, digits)
}
