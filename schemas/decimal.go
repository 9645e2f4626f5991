package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DecimalScale is the number of digits behind the point of every decimal in the event schemas. The generator refuses any other.
const DecimalScale = 6

const decimalUnit = 1_000_000

// Decimal is an exact number with six digits behind the point: its value is Unscaled / 1,000,000. Never a float: money does not round.
// At most 18 digits in all, which is what the schemas allow and an int64 holds.
type Decimal struct{ Unscaled int64 }

// Errors of ParseDecimal.
var (
	ErrNotADecimal  = errors.New("not a decimal number such as 1250.5")
	ErrDecimalRange = errors.New("more than 12 digits before or 6 behind the point")
)

// ParseDecimal reads "1250", "-0.5" or "75.000000": digits with at most one point, no exponent, no separators. Digits beyond the sixth behind the point
// must be zeros; it never rounds.
func ParseDecimal(s string) (Decimal, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(digits, ".")
	if whole == "" || point && fraction == "" {
		return Decimal{}, fmt.Errorf("%q: %w", s, ErrNotADecimal)
	}
	var v int64
	for _, part := range [2]string{whole, fraction} {
		for i := 0; i < len(part); i++ {
			if part[i] < '0' || part[i] > '9' {
				return Decimal{}, fmt.Errorf("%q: %w", s, ErrNotADecimal)
			}
		}
	}
	if kept := strings.TrimRight(fraction, "0"); len(kept) > DecimalScale || len(strings.TrimLeft(whole, "0")) > 12 {
		return Decimal{}, fmt.Errorf("%q: %w", s, ErrDecimalRange)
	} else {
		fraction = kept
	}
	for i := 0; i < len(whole); i++ {
		v = v*10 + int64(whole[i]-'0')
	}
	for i := 0; i < DecimalScale; i++ {
		v *= 10
		if i < len(fraction) {
			v += int64(fraction[i] - '0')
		}
	}
	if negative {
		v = -v
	}
	return Decimal{v}, nil
}

// Cents is a decimal of so many hundredths.
func Cents(n int64) Decimal { return Decimal{n * (decimalUnit / 100)} }

// String has all six digits behind the point: "75.000000".
func (d Decimal) String() string { return string(d.append(nil)) }

func (d Decimal) append(b []byte) []byte {
	u := uint64(d.Unscaled)
	if d.Unscaled < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/decimalUnit, 10)
	b = append(b, '.')
	f := u % decimalUnit
	for unit := uint64(decimalUnit / 10); unit > 0; unit /= 10 {
		b = append(b, byte('0'+f/unit%10))
	}
	return b
}

// MarshalText is String.
func (d Decimal) MarshalText() ([]byte, error) { return d.append(nil), nil }

// UnmarshalText is ParseDecimal.
func (d *Decimal) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDecimal(string(b))
	return err
}

// Date is a day of the calendar without a time zone: days since 1970-01-01.
type Date int32

// The years 0 to 9999, which is what text (RFC 3339) can say. In days, and in milliseconds.
const (
	minDate = -719528
	maxDate = 2932896
	minTime = minDate * 86_400_000
	maxTime = (maxDate+1)*86_400_000 - 1
)

// DateOf is the date that t's own time zone shows.
func DateOf(t time.Time) Date {
	y, m, d := t.Date()
	return Date(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86_400)
}

// ParseDate reads "2026-03-03".
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a date such as 2026-03-03", s)
	}
	return DateOf(t), nil
}

// Time is midnight of the date in a time zone.
func (d Date) Time(in *time.Location) time.Time {
	return time.Date(1970, 1, 1+int(d), 0, 0, 0, 0, in)
}

// String is "2026-03-03".
func (d Date) String() string { return d.Time(time.UTC).Format(time.DateOnly) }

// MarshalText is String.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// TimeOfDay is a clock time without a date: milliseconds since midnight.
type TimeOfDay int32

const dayMillis = 86_400_000

// ClockTime is a time of day.
func ClockTime(hour, minute int) TimeOfDay { return TimeOfDay((hour*60 + minute) * 60_000) }

// String is "09:05:00", with ".250" behind it if there are milliseconds.
func (t TimeOfDay) String() string {
	ms := int(t)
	s := fmt.Sprintf("%02d:%02d:%02d", ms/3_600_000, ms/60_000%60, ms/1000%60)
	if ms%1000 != 0 {
		s += fmt.Sprintf(".%03d", ms%1000)
	}
	return s
}

// MarshalText is String.
func (t TimeOfDay) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
