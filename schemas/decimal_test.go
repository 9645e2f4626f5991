package schemas_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

func TestParseDecimal(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "-0": 0, "75.000000": 75_000_000, "75.0000000000": 75_000_000, "312.5": 312_500_000, "-0.000001": -1, "0001": 1_000_000,
		"999999999999.999999": 999_999_999_999_999_999, "-999999999999.999999": -999_999_999_999_999_999, "000000000000000000001.5": 1_500_000,
	} {
		got, err := schemas.ParseDecimal(text)
		if err != nil || got.Unscaled != want {
			t.Errorf("%q: got %d, %v, want %d", text, got.Unscaled, err, want)
		}
		back, err := schemas.ParseDecimal(got.String())
		if err != nil || back != got {
			t.Errorf("%q: String gave %q", text, got.String())
		}
	}
	for _, text := range []string{"", "-", ".5", "5.", "+1", "1e3", "1,250", "$1", " 1", "1.2.3", "--1", "0x1", "NaN", "１"} {
		if d, err := schemas.ParseDecimal(text); !errors.Is(err, schemas.ErrNotADecimal) {
			t.Errorf("%q: got %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"1000000000000", "0.0000001", "99999999999999999999999999"} {
		if d, err := schemas.ParseDecimal(text); !errors.Is(err, schemas.ErrDecimalRange) {
			t.Errorf("%q: got %v, %v", text, d, err)
		}
	}
	if s := (schemas.Decimal{Unscaled: -500_000}).String(); s != "-0.500000" {
		t.Errorf("got %q", s)
	}
}

func TestDatesAndTimesOfDay(t *testing.T) {
	for text, want := range map[string]schemas.Date{"1970-01-01": 0, "1969-12-31": -1, "0000-01-01": -719528, "9999-12-31": 2932896, "2026-03-03": 20515} {
		d, err := schemas.ParseDate(text)
		if err != nil || d != want || d.String() != text {
			t.Errorf("%s: got %d (%s), %v, want %d", text, d, d, err, want)
		}
	}
	if d, err := schemas.ParseDate("2026-02-30"); err == nil {
		t.Errorf("30 February is %v", d)
	}
	auckland := time.FixedZone("", 13*3600)
	if d := schemas.DateOf(time.Date(2026, 3, 4, 0, 30, 0, 0, auckland)); d.String() != "2026-03-04" {
		t.Errorf("the date must be the one that the clock there shows, got %s", d)
	}
	if s := schemas.ClockTime(9, 5).String(); s != "09:05:00" {
		t.Errorf("got %s", s)
	}
	if s := (schemas.ClockTime(23, 59) + 59_250).String(); s != "23:59:59.250" {
		t.Errorf("got %s", s)
	}
}
