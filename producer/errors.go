package producer

import (
	"errors"
	"fmt"
	"strings"
)

// What may have become of an event that was not accepted, for errors.Is on what Publish returns, or on one EventError.
var (
	ErrRejected = errors.New("surely not in the log")
	ErrUnknown  = errors.New("may be in the log")
)

// ErrClosed: the Producer is closed.
var ErrClosed = errors.New("producer: closed")

// Error is what Publish returns if any event was not accepted. The events that it does not name were.
type Error struct {
	Events []*EventError // in the order of the call
	Count  int           // events of the call
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d events not accepted", len(e.Events), e.Count)
	for i, ev := range e.Events {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Events)-i)
			break
		}
		b.WriteString("; " + ev.Error())
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As all of them.
func (e *Error) Unwrap() []error {
	out := make([]error, len(e.Events))
	for i, ev := range e.Events {
		out[i] = ev
	}
	return out
}

// EventError is why one event was not accepted, as far as is known.
type EventError struct {
	Index   int    // in the call
	EventID string // as the event has it
	Fate    error  // ErrRejected or ErrUnknown
	Retry   bool   // trying again may help: the event is not at fault. Always so if the fate is unknown; keep the event id then
	Err     error  // the cause

	code string
}

func (e *EventError) Error() string {
	id := e.EventID
	if id == "" {
		id = fmt.Sprintf("number %d", e.Index)
	}
	return fmt.Sprintf("event %s: %s: %v", id, e.Fate, e.Err)
}

// Unwrap gives the fate and the cause.
func (e *EventError) Unwrap() []error { return []error{e.Fate, e.Err} }

// Code is the stable name of the error: event_invalid, event_too_large, event_not_accepted (try again), event_fate_unknown.
func (e *EventError) Code() string { return e.code }
