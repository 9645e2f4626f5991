package subscriptions

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Codes of refusals. They are stable: people and programs match on them. A refused URL carries the code of deliverer/egress instead.
const (
	CodeCompanyInvalid   = "company_invalid"
	CodeCompanyAny       = "company_any"         // "*" by somebody who is no operator
	CodeNameInvalid      = "name_invalid"        // empty, over 100 characters, control characters
	CodeNameTaken        = "name_taken"          // by another subscription of the company
	CodeEventsMissing    = "events_missing"      //
	CodeEventsTooMany    = "events_too_many"     //
	CodeEventUnknown     = "event_unknown"       // the pattern stands for no event type there is
	CodeFormatUnknown    = "format_unknown"      //
	CodeHeaderInvalid    = "header_invalid"      // no token of RFC 9110, or a value with other than visible ASCII, spaces and tabs
	CodeHeaderForbidden  = "header_forbidden"    // it belongs to the protocol, to us, or to a platform in between
	CodeHeaderDuplicate  = "header_duplicate"    //
	CodeHeadersTooMany   = "headers_too_many"    // over 20, or over 8 KiB together
	CodeScheduleInvalid  = "schedule_invalid"    //
	CodeTimeoutInvalid   = "timeout_invalid"     //
	CodeConcurrencyRange = "concurrency_invalid" //
	CodeRateInvalid      = "rate_invalid"        //
	CodeSecretInvalid    = "secret_invalid"      //
	CodeTooMany          = "subscriptions_too_many"
	CodeNotFound         = "subscription_unknown"
	CodeDeleted          = "subscription_deleted"
	CodeConflict         = "version_conflict" // changed meanwhile by somebody else, more often than we tried
	CodeUnsettled        = "subscription_unsettled"
	CodeDisabled         = "subscription_disabled" // to be paused; it is stopped already
	CodeOrderUnknown     = "order_unknown"
	CodeCatchUpRuns      = "catch_up_runs" // order is not turned on before what the subscription catches up with is over
	CodeFromInvalid      = "from_invalid"
	CodeRetentionGap     = "retention_gap" // retention has taken a part of the span
)

// Refusal says why something was not done, under a stable code and for one field. Nothing was changed.
type Refusal struct {
	code     string
	Field    string // as in the options of the command: "url", "events[2]", "headers.X-Name"; empty if it is about no field
	Sentence string
}

func refuse(code, field, format string, args ...any) *Refusal {
	return &Refusal{code, field, fmt.Sprintf(format, args...)}
}

// Code is the stable code.
func (r *Refusal) Code() string { return r.code }

func (r *Refusal) Error() string {
	if r.Field == "" {
		return r.Sentence
	}
	return r.Field + ": " + r.Sentence
}

// MarshalJSON shows code, field and sentence.
func (r *Refusal) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Code     string `json:"code"`
		Field    string `json:"field,omitempty"`
		Sentence string `json:"sentence"`
	}{r.code, r.Field, r.Sentence})
}

// Refusals are all that was wrong, in the order of the fields. errors.As finds the first *Refusal in it.
type Refusals []*Refusal

func (rs Refusals) Error() string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = r.Error()
	}
	return strings.Join(lines, "; ")
}

// Unwrap gives each for itself.
func (rs Refusals) Unwrap() []error {
	out := make([]error, len(rs))
	for i, r := range rs {
		out[i] = r
	}
	return out
}

// err is nil if nothing was refused.
func (rs Refusals) err() error {
	if len(rs) == 0 {
		return nil
	}
	return rs
}

// ErrUnknown: whether the change was written is not known, because Kafka did not answer in time. Look before you try again.
var ErrUnknown = &unknownError{}

type unknownError struct{}

func (*unknownError) Error() string {
	return "Kafka did not say in time whether the change is written: look with `hookferry subscriptions show` before you try again"
}

// Code is the stable code.
func (*unknownError) Code() string { return "write_unknown" }
