package schemas

import _ "embed"

//go:embed attempt.avsc
var attemptSchema string

// attemptFrame is the single-object frame of attempt.avsc. A test holds it to the file.
const attemptFrame = "\xc3\x01\x95\xe9\x6f\x73\xe0\x76\xf7\xfc"

// Verdict is what an attempt decided about its task.
type Verdict string

const (
	VerdictDelivered Verdict = "delivered" // 2xx to a fully written request
	VerdictRetry     Verdict = "retry"     // tried again at NextDue
	VerdictDead      Verdict = "dead"      // the schedule is exhausted or the answer final
	VerdictPostponed Verdict = "postponed" // handed back until NextDue; not a try
	VerdictDropped   Verdict = "dropped"   // by rule: the subscription is deleted
)

// Verdicts lists all of them.
func Verdicts() []Verdict {
	return []Verdict{VerdictDelivered, VerdictRetry, VerdictDead, VerdictPostponed, VerdictDropped}
}

// Reason says why a verdict is what it is. The list is closed and short because it is also a metric's label.
type Reason string

const (
	ReasonNone          Reason = ""               // delivered
	ReasonEarlyResponse Reason = "early_response" // an answer before the request was fully written
	ReasonProtocol      Reason = "protocol"       // not HTTP, or a broken answer
	ReasonRedirect      Reason = "redirect"
	ReasonHTTP4xx       Reason = "http_4xx"
	ReasonGone          Reason = "gone" // 410: the receiver wants no more
	ReasonHTTP5xx       Reason = "http_5xx"
	ReasonTimeout       Reason = "timeout"
	ReasonThrottled     Reason = "throttled" // 429, or 503 with Retry-After
	ReasonReset         Reason = "reset"
	ReasonRefused       Reason = "refused" // the connection was refused
	ReasonTLS           Reason = "tls"
	ReasonDNS           Reason = "dns"
	ReasonBlocked       Reason = "blocked" // the egress policy forbids the address
	ReasonLocal         Reason = "local"   // our own trouble
	ReasonExhausted     Reason = "exhausted"
	ReasonTooLarge      Reason = "too_large"
	ReasonPaused        Reason = "paused"
	ReasonDeleted       Reason = "deleted"
	ReasonAbort         Reason = "abort"     // the receiver asked to stop trying this task
	ReasonDisabled      Reason = "disabled"  // the subscription is disabled
	ReasonFull          Reason = "full"      // the lane is full
	ReasonCircuit       Reason = "circuit"   // the lane's circuit is open
	ReasonRate          Reason = "rate"      // over the subscription's rate
	ReasonHold          Reason = "hold"      // sending is held (clock skew, a receiver's Retry-After, or a paused replay)
	ReasonOrder         Reason = "order"     // an earlier event of the same entity has not ended yet
	ReasonCancelled     Reason = "cancelled" // the replay was cancelled
	ReasonRedriven      Reason = "redriven"  // of a dead letter: the one before it was taken out by a redrive
)

// Reasons lists all of them, in the order of the docs.
func Reasons() []Reason {
	return []Reason{
		ReasonNone, ReasonEarlyResponse, ReasonProtocol, ReasonRedirect, ReasonHTTP4xx, ReasonGone, ReasonHTTP5xx, ReasonTimeout, ReasonThrottled,
		ReasonReset, ReasonRefused, ReasonTLS, ReasonDNS, ReasonBlocked, ReasonLocal, ReasonExhausted, ReasonTooLarge, ReasonPaused,
		ReasonDeleted, ReasonAbort, ReasonDisabled, ReasonFull, ReasonCircuit, ReasonRate, ReasonHold, ReasonOrder, ReasonCancelled, ReasonRedriven,
	}
}

// Attempt is one try at a task and how it went; also a task that ended or was handed back without one. Times are ms since 1970 UTC, 0 = none.
type Attempt struct {
	TaskID         string
	Subscription   string
	Company        string
	EventID        string
	EventType      string
	EntityID       string
	Number         int32
	Round          int64
	StartedAt      int64
	DurationMicros int64
	Address        string // the address that was dialled, host:port
	Status         int32  // 0: no status was read
	Verdict        Verdict
	Reason         Reason
	NextDue        int64
	Answer         []byte // the first bytes of the answer, at most 1 KiB, text-safe
	BytesSent      int64
	BytesReceived  int64
	Source         Source
	Replay         string
}

// AppendAttempt appends the record, framed.
func AppendAttempt(dst []byte, a *Attempt) []byte {
	b := append(dst, attemptFrame...)
	b = appendString(b, a.TaskID)
	b = appendString(b, a.Subscription)
	b = appendString(b, a.Company)
	b = appendString(b, a.EventID)
	b = appendString(b, a.EventType)
	b = appendString(b, a.EntityID)
	b = appendLong(b, int64(a.Number))
	b = appendLong(b, a.Round)
	b = appendLong(b, a.StartedAt)
	b = appendLong(b, a.DurationMicros)
	b = appendString(b, a.Address)
	b = appendLong(b, int64(a.Status))
	b = appendString(b, string(a.Verdict))
	b = appendString(b, string(a.Reason))
	b = appendLong(b, a.NextDue)
	b = appendBytes(b, a.Answer)
	b = appendLong(b, a.BytesSent)
	b = appendLong(b, a.BytesReceived)
	b = appendSource(b, &a.Source)
	return appendString(b, a.Replay)
}

// DecodeAttempt reads an attempt into a, all of whose fields it sets. Answer is a slice of b.
func DecodeAttempt(b []byte, a *Attempt) error {
	r, err := openRecord(b, "attempt", attemptFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	a.TaskID, a.Subscription, a.Company = r.str(), r.str(), r.str()
	a.EventID, a.EventType, a.EntityID = r.str(), r.str(), r.str()
	a.Number, a.Round, a.StartedAt, a.DurationMicros = r.int(), r.long(), r.long(), r.long()
	a.Address, a.Status = r.str(), r.int()
	a.Verdict, a.Reason = Verdict(r.str()), Reason(r.str())
	a.NextDue, a.Answer = r.long(), r.bytes()
	a.BytesSent, a.BytesReceived = r.long(), r.long()
	a.Source, a.Replay = r.source(), r.str()
	return r.end()
}
