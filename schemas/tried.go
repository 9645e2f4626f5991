package schemas

// Tried says whether the try that the attempt is numbered by was made. What was handed back, dropped, or ended by rule before anything was sent carries
// the number of the try that would have been next. A try that failed before a byte was sent (dns, refused, blocked) was made: it is counted.
func (a *Attempt) Tried() bool {
	switch a.Verdict {
	case VerdictPostponed, VerdictDropped:
		return false
	case VerdictDead:
		return !a.Reason.unsent() && a.EventID != "" // without an event: a record that could not be read as a task
	}
	return true
}

// Tries is how many tries at the task were made before it ended.
func (d *Dead) Tries() int32 {
	switch {
	case d.Reason == ReasonRedriven: // a marker: it is about the letter before it
		return 0
	case d.Reason.unsent(), d.Task.EventID == "":
		return d.Task.Attempt - 1
	}
	return d.Task.Attempt
}

// unsent: a task that ends for this reason ends without a try.
func (r Reason) unsent() bool {
	switch r {
	case ReasonTooLarge, ReasonPaused, ReasonDeleted, ReasonCancelled, ReasonRedriven:
		return true
	}
	return false
}
