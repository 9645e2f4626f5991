package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// The checker is a pure function over three ledgers: what the publisher was told of each event, what each receiver saw, and which
// fault began and ended when. It knows nothing of how Hookferry works but two promises of docs/design.md: every accepted event
// reaches every matching subscription, and a duplicate comes only from a send that was under way, or had ended within the last
// commit interval, when its process died.

// Fault is one thing that was done to the system.
type Fault struct {
	Kind       FaultKind
	Who        string // the process it was done to, where there is one
	Start, End time.Time
}

// FaultKind says which promise a fault may touch.
type FaultKind string

const (
	KillDeliverer FaultKind = "kill -9 deliverer" // may repeat what it had under way
	KillRouter    FaultKind = "kill -9 router"    // may repeat nothing, unless Redis lost its marks at the same time
	StopCont      FaultKind = "SIGSTOP, SIGCONT"  // of a deliverer: as a kill, if it lasted longer than the lease
	StopDeliverer FaultKind = "SIGTERM deliverer" // may repeat what it cut because it took longer than the grace
	RedisLost     FaultKind = "Redis lost marks"  // may repeat nothing by itself; beside a kill, what the marks would have held back
	KafkaFault    FaultKind = "Kafka"             // may repeat nothing
	Other         FaultKind = "other"             // may repeat nothing
)

// commitInterval is how often a deliverer commits, and slack what a loaded machine of two cores adds to it.
const (
	commitInterval = 500 * time.Millisecond
	slack          = 500 * time.Millisecond
)

// Run is all that one scenario left behind.
type Run struct {
	Events    []rig.Sent // by sequence number, from First on
	First     int64
	Owed      map[string]func(company int) bool // receiver's name -> does it want events of that company?
	Receivers map[string][]rig.Entry            // receiver's name -> what it saw
	Faults    []Fault
}

// Finding is the checker's verdict.
type Finding struct {
	Accepted, Unknown, Owed, Delivered int
	Lost, Ghost, Misrouted             []string // a sentence each
	Duplicates                         int
	Unexplained                        []string
	Changed                            []string // one webhook-id with two bodies, or one event with two webhook-ids
}

// OK is true if every promise held.
func (f *Finding) OK() bool {
	return len(f.Lost) == 0 && len(f.Ghost) == 0 && len(f.Misrouted) == 0 && len(f.Unexplained) == 0 && len(f.Changed) == 0
}

// Check compares the ledgers.
func Check(r *Run) *Finding {
	f := &Finding{}
	for _, e := range r.Events {
		switch e.Fate {
		case rig.Accepted:
			f.Accepted++
		case rig.Unknown:
			f.Unknown++
		}
	}
	for _, name := range slices.Sorted(mapKeys(r.Receivers, r.Owed)) {
		f.receiver(r, name)
	}
	return f
}

func mapKeys(a map[string][]rig.Entry, b map[string]func(int) bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range b {
			if !yield(k) {
				return
			}
		}
		for k := range a {
			if _, both := b[k]; !both && !yield(k) {
				return
			}
		}
	}
}

// receiver holds one receiver's ledger against what it was owed.
func (f *Finding) receiver(r *Run, name string) {
	wants := r.Owed[name]
	type seen struct {
		first rig.Entry
		n     int
	}
	got := make(map[int64]*seen, len(r.Events))
	ids := map[string]uint64{}
	for _, e := range r.Receivers[name] {
		e.Seq -= r.First
		if sum, ok := ids[e.ID]; ok && sum != e.Sum {
			f.Changed = append(f.Changed, fmt.Sprintf("%s: %s came with two bodies", name, e.ID))
		}
		ids[e.ID] = e.Sum
		switch {
		case e.Seq < 0 || e.Seq >= int64(len(r.Events)):
			f.Ghost = append(f.Ghost, fmt.Sprintf("%s: %s carries event %d, which nobody published", name, e.ID, e.Seq))
			continue
		case wants == nil || !wants(r.Events[e.Seq].Company):
			f.Misrouted = append(f.Misrouted, fmt.Sprintf("%s: event %d of company %d", name, e.Seq, r.Events[e.Seq].Company))
			continue
		case e.Status/100 != 2 || e.Done == 0:
			continue
		}
		s := got[e.Seq]
		if s == nil {
			got[e.Seq] = &seen{e, 1}
			continue
		}
		s.n++
		f.Duplicates++
		if e.ID != s.first.ID {
			f.Changed = append(f.Changed, fmt.Sprintf("%s: event %d came as %s and as %s", name, e.Seq, s.first.ID, e.ID))
		}
		if !explained(s.first, r.Faults) {
			f.Unexplained = append(f.Unexplained, fmt.Sprintf("%s: event %d (%s) at %s and again at %s", name, e.Seq, e.ID, clock(s.first.At), clock(e.At)))
		}
	}
	for seq, e := range r.Events {
		if wants == nil || !wants(e.Company) {
			continue
		}
		_, ok := got[int64(seq)]
		switch {
		case ok:
			f.Delivered++
		case e.Fate == rig.Accepted:
			f.Lost = append(f.Lost, fmt.Sprintf("%s: event %d, due %s", name, seq, clock(e.Due)))
		}
		if e.Fate == rig.Accepted {
			f.Owed++
		}
	}
}

// explained: the first delivery was under way, or had ended within the last commit interval, when its deliverer died.
func explained(first rig.Entry, faults []Fault) bool {
	for _, f := range faults {
		if f.Kind != KillDeliverer {
			continue
		}
		if end := time.Unix(0, first.Done); end.After(f.Start.Add(-commitInterval-slack)) && time.Unix(0, first.At).Before(f.End.Add(slack)) {
			return true
		}
	}
	return false
}

func clock(ns int64) string { return time.Unix(0, ns).Format("15:04:05.000") }
