package main

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAScheduleIsReadAsPeopleWriteIt(t *testing.T) {
	for text, want := range map[string][]time.Duration{
		"default": nil, "5s": {5 * time.Second}, "5s,5m, 1h30m,2d": {5 * time.Second, 5 * time.Minute, 90 * time.Minute, 2 * day}, "0s,1s": {0, time.Second},
	} {
		var f scheduleFlag
		if err := f.Set(text); err != nil || !slices.Equal(f.waits, want) {
			t.Errorf("%s: %v, %v", text, f.waits, err)
		}
	}
	for _, text := range []string{"", "5", "default,5s", "Default", "5s,", "soon"} {
		if err := new(scheduleFlag).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// Whoever tried a schedule of his own must be able to go back.
func TestUpdatePutsTheDefaultScheduleBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, errOut := virtualKafka(t)
		run := func(args string) string {
			out.Reset()
			if err := execute(t, subscriptionsCommand(a), strings.Fields(args)...); err != nil {
				t.Fatalf("%s: %v\n%s", args, err, errOut)
			}
			return out.String()
		}
		if s := run("create --company c --name n --url https://hooks.example.com/ --events * --schedule 1s,2m"); !strings.Contains(s, "0s, 1s, 2m0s") {
			t.Errorf("created with\n%s", s)
		}
		if s := run("update n --timeout 9s"); !strings.Contains(s, "0s, 1s, 2m0s") {
			t.Errorf("another change took the schedule away:\n%s", s)
		}
		if s := run("update n --schedule default"); !strings.Contains(s, "default (10 tries over 75h35m)") || !strings.Contains(s, "9s") {
			t.Errorf("after --schedule default:\n%s", s)
		}
	})
}
