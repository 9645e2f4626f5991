package schemas

import "testing"

// A list that says "try 1" of a task that was never sent misleads whoever looks for a request at the receiver's side.
func TestATryIsShownOnlyWhereOneWasMade(t *testing.T) {
	for _, c := range []struct {
		verdict Verdict
		reason  Reason
		event   string
		tried   bool
	}{
		{VerdictDelivered, ReasonNone, "e", true},
		{VerdictRetry, ReasonHTTP5xx, "e", true},
		{VerdictRetry, ReasonDNS, "e", true},
		{VerdictRetry, ReasonBlocked, "e", true},
		{VerdictPostponed, ReasonCircuit, "e", false},
		{VerdictPostponed, ReasonLocal, "e", false},
		{VerdictDropped, ReasonDeleted, "e", false},
		{VerdictDropped, ReasonCancelled, "e", false},
		{VerdictDead, ReasonExhausted, "e", true},
		{VerdictDead, ReasonGone, "e", true},
		{VerdictDead, ReasonAbort, "e", true},
		{VerdictDead, ReasonDisabled, "e", true},
		{VerdictDead, ReasonPaused, "e", false},
		{VerdictDead, ReasonTooLarge, "e", false},
		{VerdictDead, ReasonProtocol, "e", true},
		{VerdictDead, ReasonProtocol, "", false}, // a record that was no task
	} {
		a := Attempt{Verdict: c.verdict, Reason: c.reason, EventID: c.event, Number: 3}
		if a.Tried() != c.tried {
			t.Errorf("%s %s (event %q): tried %v", c.verdict, c.reason, c.event, a.Tried())
		}
		if c.verdict != VerdictDead {
			continue
		}
		d := Dead{Reason: c.reason, Task: Task{Attempt: 3, EventID: c.event}}
		if want := map[bool]int32{true: 3, false: 2}[c.tried]; d.Tries() != want {
			t.Errorf("dead %s (event %q): %d tries, want %d", c.reason, c.event, d.Tries(), want)
		}
	}
	if n := (&Dead{Reason: ReasonRedriven, Task: Task{Attempt: 3, EventID: "e"}}).Tries(); n != 0 {
		t.Errorf("a marker shows %d tries", n)
	}
}
