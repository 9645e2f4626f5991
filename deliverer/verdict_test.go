package deliverer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

var judgedAt = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// wantByStatus is the delivery contract's table, written down a second time.
func wantByStatus(status int) (v schemas.Verdict, r schemas.Reason, throttled, strike, disable bool) {
	switch {
	case status >= 200 && status <= 299:
		return schemas.VerdictDelivered, "", false, false, false
	case status >= 300 && status <= 399:
		return schemas.VerdictRetry, schemas.ReasonRedirect, false, true, false
	case status == 410:
		return schemas.VerdictDead, schemas.ReasonGone, false, true, true
	case status == 408:
		return schemas.VerdictRetry, schemas.ReasonTimeout, false, true, false
	case status == 425:
		return schemas.VerdictRetry, schemas.ReasonHTTP5xx, false, true, false
	case status == 429:
		return schemas.VerdictRetry, schemas.ReasonThrottled, true, false, false
	case status == 502 || status == 504:
		return schemas.VerdictRetry, schemas.ReasonThrottled, true, true, false
	case status >= 400 && status <= 499:
		return schemas.VerdictRetry, schemas.ReasonHTTP4xx, false, true, false
	case status >= 500 && status <= 599:
		return schemas.VerdictRetry, schemas.ReasonHTTP5xx, false, true, false
	}
	return schemas.VerdictRetry, schemas.ReasonProtocol, false, true, false
}

func TestEveryStatus(t *testing.T) {
	for status := -1; status <= 1000; status++ {
		task := testTask("")
		j := Judge(&task, nil, &Answer{Status: status, Written: true}, judgedAt)
		v, r, throttled, strike, disable := wantByStatus(status)
		if j.Verdict != v || j.Reason != r || j.Throttled != throttled || j.Strike != strike || j.Disable != disable || !j.HoldLane.IsZero() {
			t.Errorf("%d: %+v, want %s %s %v %v %v", status, j, v, r, throttled, strike, disable)
		}
		if (v == schemas.VerdictRetry) != j.NextDue.Equal(judgedAt.Add(5*time.Second)) {
			t.Errorf("%d: due %s", status, j.NextDue)
		}
	}
}

func TestASuccessThatWasNotFullyAskedForIsNone(t *testing.T) {
	task := testTask("")
	for _, a := range []Answer{{Status: 200}, {Status: 200, Failure: schemas.ReasonEarlyResponse}} {
		if j := Judge(&task, nil, &a, judgedAt); j.Verdict != schemas.VerdictRetry || j.Reason != schemas.ReasonEarlyResponse || !j.Strike {
			t.Errorf("%+v: %+v", a, j)
		}
	}
}

func TestEveryFailure(t *testing.T) {
	for _, reason := range schemas.Reasons() {
		if reason == "" {
			continue
		}
		task := testTask("")
		a := Answer{Failure: reason, Detail: "d", RetryAfter: "60", Disable: true, Abort: true} // what no status vouches for decides nothing
		j := Judge(&task, nil, &a, judgedAt)
		switch reason {
		case schemas.ReasonLocal:
			if j.Verdict != schemas.VerdictPostponed || j.Strike || !j.NextDue.Equal(judgedAt.Add(postponeFirst)) {
				t.Errorf("local: %+v", j)
			}
		case schemas.ReasonGone, schemas.ReasonExhausted: // Post never says these
		default:
			if j.Verdict != schemas.VerdictRetry || j.Reason != reason || !j.Strike || j.Throttled || j.Disable || !j.HoldLane.IsZero() ||
				!j.NextDue.Equal(judgedAt.Add(5*time.Second)) || j.Detail != "d" {
				t.Errorf("%s: %+v", reason, j)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	date := func(d time.Duration) string { return judgedAt.Add(d).Format(http.TimeFormat) }
	for text, want := range map[string]time.Duration{ // -1: was not asked
		"": -1, "0": 0, "1": time.Second, "120": 2 * time.Minute, "86400": 24 * time.Hour, "86401": -1, "99999999999999999999": -1, "-1": -1, "+5": -1,
		"1.5": -1, "5s": -1, " 5": -1, "soon": -1, "0x10": -1, "٣": -1,
		date(0): 0, date(time.Hour): time.Hour, date(24 * time.Hour): 24 * time.Hour, date(25 * time.Hour): -1, date(-time.Hour): -1,
		judgedAt.Add(time.Hour).Format(time.RFC3339):        -1,
		judgedAt.Add(time.Hour).Format(time.ANSIC):          time.Hour,
		judgedAt.Add(time.Hour).Format(time.RFC850):         time.Hour,
		strings.Replace(date(time.Hour), "2026", "9999", 1): -1,
	} {
		until, asked := retryAfter(text, judgedAt)
		if asked != (want >= 0) || asked && !until.Equal(judgedAt.Add(want)) {
			t.Errorf("%q: %v %v, want %v", text, until.Sub(judgedAt), asked, want)
		}
	}
}

func TestRetryAfterHoldsTheLaneOnEveryFailure(t *testing.T) {
	for status := 300; status <= 599; status++ {
		task := testTask("")
		j := Judge(&task, nil, &Answer{Status: status, Written: true, RetryAfter: "3600"}, judgedAt)
		hold := judgedAt.Add(time.Hour)
		if !j.HoldLane.Equal(hold) || j.Verdict == schemas.VerdictRetry && !j.NextDue.Equal(hold) {
			t.Errorf("%d: %+v", status, j)
		}
		if want := status == 429 || status >= 502 && status <= 504; j.Throttled != want {
			t.Errorf("%d: throttled %v", status, j.Throttled)
		}
	}
	// The later of the two stands, and the last try's answer still holds the lane.
	task := testTask("")
	task.Attempt = 4
	if j := Judge(&task, nil, &Answer{Status: 503, Written: true, RetryAfter: "60"}, judgedAt); j.NextDue.Before(judgedAt.Add(2*time.Hour)) || j.HoldLane.IsZero() {
		t.Errorf("%+v", j)
	}
	task.Attempt = 10
	if j := Judge(&task, nil, &Answer{Status: 503, Written: true, RetryAfter: "60"}, judgedAt); j.Verdict != schemas.VerdictDead || j.HoldLane.IsZero() {
		t.Errorf("%+v", j)
	}
}

func TestWebhookDelivery(t *testing.T) {
	for status := 200; status <= 599; status++ {
		task := testTask("")
		off := Judge(&task, nil, &Answer{Status: status, Written: true, Disable: true}, judgedAt)
		abort := Judge(&task, nil, &Answer{Status: status, Written: true, Abort: true}, judgedAt)
		switch {
		case status <= 299:
			if off.Verdict != schemas.VerdictDelivered || off.Disable || abort.Verdict != schemas.VerdictDelivered {
				t.Errorf("%d: a success decides otherwise: %+v %+v", status, off, abort)
			}
		case status == 410:
			if off.Reason != schemas.ReasonGone || !off.Disable || abort.Reason != schemas.ReasonGone {
				t.Errorf("%d: %+v %+v", status, off, abort)
			}
		default:
			if off.Verdict != schemas.VerdictDead || off.Reason != schemas.ReasonDisabled || !off.Disable || !off.NextDue.IsZero() {
				t.Errorf("%d disable: %+v", status, off)
			}
			if abort.Verdict != schemas.VerdictDead || abort.Reason != schemas.ReasonAbort || abort.Disable || abort.Strike || !abort.NextDue.IsZero() {
				t.Errorf("%d abort-message: %+v", status, abort)
			}
		}
	}
}

func TestTheDefaultScheduleIsTenTriesOver75Hours35Minutes(t *testing.T) {
	task, at, sum := testTask(""), judgedAt, time.Duration(0)
	want := DefaultSchedule()
	for task.Attempt = 1; ; task.Attempt++ {
		j := Judge(&task, nil, &Answer{Status: 500, Written: true}, at)
		if j.Verdict == schemas.VerdictDead {
			if j.Reason != schemas.ReasonExhausted || !j.NextDue.IsZero() || j.Detail != "answered 500" {
				t.Errorf("%+v", j)
			}
			break
		}
		wait, most := j.NextDue.Sub(at), want[task.Attempt]
		if most > time.Minute {
			most += most / 5
		}
		if wait < want[task.Attempt] || wait > most {
			t.Errorf("after try %d: %s, want %s", task.Attempt, wait, want[task.Attempt])
		}
		sum += want[task.Attempt]
		at = j.NextDue
	}
	if task.Attempt != 10 || sum != 75*time.Hour+35*time.Minute+5*time.Second {
		t.Errorf("%d tries over %s", task.Attempt, sum)
	}
}

func TestOwnScheduleAndOddAttempts(t *testing.T) {
	own := []time.Duration{0, time.Second}
	for attempt, ok := range map[int32]bool{-3: true, 0: true, 1: true, 2: false, 3: false, 1 << 30: false} {
		due, got := NextDue(own, "a", attempt, judgedAt)
		if got != ok || ok && !due.Equal(judgedAt.Add(time.Second)) {
			t.Errorf("attempt %d: %v %v", attempt, due, got)
		}
	}
	if _, ok := NextDue([]time.Duration{0}, "a", 1, judgedAt); ok {
		t.Error("a schedule of one try has a second")
	}
}

func TestJitterIsAFifthAtMostAndNoDie(t *testing.T) {
	const wait = 7 * 24 * time.Hour
	var least, most, sum time.Duration = wait, 0, 0
	const n = 20000
	for i := range n {
		id := fmt.Sprintf("%026d", i)
		j := Jitter(id, int32(i%20), wait)
		if j != Jitter(id, int32(i%20), wait) {
			t.Fatal("a die")
		}
		least, most, sum = min(least, j), max(most, j), sum+j
	}
	if least < 0 || most >= wait/5 || least > wait/500 || most < wait/5-wait/500 {
		t.Errorf("from %s to %s", least, most)
	}
	if mean := sum / n; mean < wait/10-wait/200 || mean > wait/10+wait/200 {
		t.Errorf("mean %s", mean)
	}
	if Jitter("a", 1, time.Minute) != 0 || Jitter("a", 1, time.Minute+1) > time.Minute/5 || Jitter("a", 1, 0) != 0 {
		t.Error("short waits have jitter")
	}
	if Jitter("a", 2, wait) == Jitter("a", 3, wait) || Jitter("a", 2, wait) == Jitter("b", 2, wait) {
		t.Error("tasks or attempts stay together")
	}
}

func TestPostponeWaitGrowsToItsMost(t *testing.T) {
	last := time.Duration(0)
	for n := int32(-1); n < 100; n++ {
		w := PostponeWait(n)
		if w < last || w < postponeFirst || w > postponeMost {
			t.Fatalf("%d: %s after %s", n, w, last)
		}
		last = w
	}
	if last != postponeMost {
		t.Error(last)
	}
}

// Nothing that a receiver writes makes a judgement out of bounds.
func FuzzJudge(f *testing.F) {
	f.Add(503, "120", "https://x", int32(1), true, false, false)
	f.Fuzz(func(t *testing.T, status int, after, location string, attempt int32, written, disable, abort bool) {
		task := testTask("")
		task.Attempt = attempt
		j := Judge(&task, nil, &Answer{Status: status, Written: written, RetryAfter: after, Location: location, Disable: disable, Abort: abort}, judgedAt)
		if j.HoldLane.Sub(judgedAt) > retryAfterMost && !j.HoldLane.IsZero() {
			t.Fatalf("held for %s", j.HoldLane.Sub(judgedAt))
		}
		switch j.Verdict {
		case schemas.VerdictDelivered:
			if status < 200 || status > 299 || !written || j.Reason != "" {
				t.Fatalf("%+v", j)
			}
		case schemas.VerdictRetry:
			if wait := j.NextDue.Sub(judgedAt); wait < 0 || wait > 24*time.Hour*6/5 || attempt >= 10 {
				t.Fatalf("%+v", j)
			}
		case schemas.VerdictDead:
			if j.Reason == "" || !j.NextDue.IsZero() {
				t.Fatalf("%+v", j)
			}
		default:
			t.Fatalf("%+v", j)
		}
	})
}
