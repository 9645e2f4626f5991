package deliverer

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// Judgement is what an attempt decided, for its task and for its lane. Judge makes it; whoever sent the attempt acts on it.
type Judgement struct {
	Verdict  schemas.Verdict
	Reason   schemas.Reason
	NextDue  time.Time // when to try again (retry) or to come back (postponed); zero otherwise
	HoldLane time.Time // the receiver asked that nothing be sent before: zero = it did not

	Throttled bool // the lane's rate and concurrency fall
	Strike    bool // counts towards the circuit and towards "failing since"; a success resets both
	Disable   bool // the receiver wants nothing any more: the subscription becomes disabled

	Detail string // one sentence that the owner of the subscription may see
}

// retryAfterMost is the longest wait that a receiver may ask for; what asks for more is taken for a mistake and ignored.
const retryAfterMost = 24 * time.Hour

// Judge decides what an answer means. It is pure: the same task, schedule, answer and time give the same judgement.
//
// A strike says that the receiver does not work. 429 is none, though it is a failure: a receiver that says how much it can take is alive, and a burst
// of them must slow the lane, not stop it. Neither is abort-message, which is about one event only.
func Judge(task *schemas.Task, schedule []time.Duration, a *Answer, now time.Time) Judgement {
	if a.Failure == schemas.ReasonLocal {
		return Judgement{
			Verdict: schemas.VerdictPostponed, Reason: schemas.ReasonLocal,
			NextDue: now.Add(PostponeWait(task.Postponed)), Detail: "not tried, for a reason on our side",
		}
	}
	if a.Failure == "" && a.Status >= 200 && a.Status <= 299 && a.Written {
		return Judgement{Verdict: schemas.VerdictDelivered, Detail: "answered " + strconv.Itoa(a.Status)}
	}
	j := Judgement{Verdict: schemas.VerdictRetry, Reason: reasonOf(a), Strike: true, Detail: detailOf(a)}
	hold, asked := retryAfter(a.RetryAfter, now)
	if a.Failure == "" {
		j.Throttled = a.Status == 429 || a.Status == 502 || a.Status == 504 || a.Status == 503 && asked
		j.Strike = a.Status != 429
		if hold.After(now) {
			j.HoldLane = hold
		}
	}
	if j.Throttled {
		j.Reason = schemas.ReasonThrottled
	}
	switch {
	case j.Reason == schemas.ReasonGone:
		j.Verdict, j.Disable = schemas.VerdictDead, true
		return j
	case a.Failure == "" && a.Disable:
		j.Verdict, j.Reason, j.Disable = schemas.VerdictDead, schemas.ReasonDisabled, true
		return j
	case a.Failure == "" && a.Abort:
		j.Verdict, j.Reason, j.Strike = schemas.VerdictDead, schemas.ReasonAbort, false
		return j
	}
	due, ok := NextDue(schedule, task.ID, task.Attempt, now)
	if !ok {
		j.Verdict, j.Reason = schemas.VerdictDead, schemas.ReasonExhausted
		return j
	}
	if j.NextDue = due; j.HoldLane.After(due) {
		j.NextDue = j.HoldLane
	}
	return j
}

// reasonOf names a failure by the table of the delivery contract; what depends on Retry-After is Judge's.
func reasonOf(a *Answer) schemas.Reason {
	switch status := a.Status; {
	case a.Failure != "":
		return a.Failure
	case status >= 200 && status <= 299:
		return schemas.ReasonEarlyResponse // not written: Judge has sorted out the others
	case status >= 300 && status <= 399:
		return schemas.ReasonRedirect
	case status == 408:
		return schemas.ReasonTimeout
	case status == 410:
		return schemas.ReasonGone
	case status == 425:
		return schemas.ReasonHTTP5xx
	case status >= 400 && status <= 499:
		return schemas.ReasonHTTP4xx
	case status >= 500 && status <= 599:
		return schemas.ReasonHTTP5xx
	}
	return schemas.ReasonProtocol
}

func detailOf(a *Answer) string {
	if a.Failure != "" || a.Status < 200 || a.Status > 599 {
		return a.Detail
	}
	if a.Status <= 299 {
		return "answered " + strconv.Itoa(a.Status) + " before the whole request was sent"
	}
	text := "answered " + strconv.Itoa(a.Status)
	if a.Location != "" {
		text += " with Location " + a.Location + ", which is never followed"
	}
	return text
}

// retryAfter reads the field of that name: seconds, or an HTTP date, at most a day ahead and not behind. Anything else was not asked.
func retryAfter(text string, now time.Time) (until time.Time, asked bool) {
	if text == "" {
		return time.Time{}, false
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil || time.Duration(seconds)*time.Second > retryAfterMost {
			return time.Time{}, false
		}
		return now.Add(time.Duration(seconds) * time.Second), true
	}
	date, err := http.ParseTime(text)
	if err != nil || date.Before(now) || date.Sub(now) > retryAfterMost {
		return time.Time{}, false
	}
	return date, true
}
