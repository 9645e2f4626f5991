package main

import (
	"time"
)

// earliest is the time of whatever is oldest. It is 1 and not 0, because 0 stands for no time in our records.
var earliest = time.UnixMilli(1)

// parseWhen reads a moment as a person gives it: "now", "earliest", a time of RFC 3339 (or a day), or a duration, which means so long ago.
func parseWhen(flag, text string, now time.Time) (time.Time, error) {
	switch text {
	case "now":
		return now, nil
	case "earliest":
		return earliest, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("--%s: %q is no time: 2026-01-31T12:00:00Z, 2026-01-31, 24h (ago), earliest, or now", flag, text)
}

// parseStretch reads both ends of a stretch of time, which must not be empty.
func parseStretch(from, to string, now time.Time) (time.Time, time.Time, error) {
	begin, err := parseWhen("from", from, now)
	if err != nil {
		return begin, begin, err
	}
	end, err := parseWhen("to", to, now)
	if err == nil && !end.After(begin) {
		err = usagef("nothing lies between --from %s and --to %s", begin.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	}
	return begin, end, err
}
