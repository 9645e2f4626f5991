package main

import (
	"strings"
	"time"
)

// scheduleFlag is the value of --schedule: waits with commas between, or "default" for the schedule that a subscription has if it sets none. Given several
// times, each adds to the ones before.
type scheduleFlag struct{ waits []time.Duration }

const defaultSchedule = "default"

func (f *scheduleFlag) String() string {
	words := make([]string, len(f.waits))
	for i, w := range f.waits {
		words[i] = formatDuration(w)
	}
	return strings.Join(words, ",")
}

// Type is what the help shows for the value.
func (f *scheduleFlag) Type() string { return "durations" }

func (f *scheduleFlag) Set(text string) error {
	if text == defaultSchedule {
		f.waits = nil
		return nil
	}
	for word := range strings.SplitSeq(text, ",") {
		d, err := parseDuration(strings.TrimSpace(word))
		if err != nil {
			return err
		}
		f.waits = append(f.waits, d)
	}
	return nil
}
