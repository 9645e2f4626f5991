package main

import (
	"fmt"
	"slices"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

// This file is the part of the checker that reads the system's own books: tasks, attempts, dead letters, what waits.

// end is what became of a task. Of two the larger counts: delivered beats dead beats dropped.
type end int8

const (
	endNone    end = iota // in the books as matched and nothing else: vanished
	endWaiting            // not finished, by the committed offsets
	endDropped
	endDead
	endDelivered
)

func (e end) String() string {
	return [...]string{"nothing", "waiting", "dropped", "dead", "delivered"}[e]
}

// account is what the books say of one task.
type account struct {
	seq     int64
	end     end
	waiting bool
	letters int // dead letters
	deaths  int // attempts with the verdict dead
}

// books holds the books of one subscription against each other and against its receiver's ledger, and gives the best end of each event's tasks.
func (c *checker) books(name string, sub int32, l []rig.Request, retried map[try]bool) map[int64]end {
	ends := map[int64]end{}
	if sub < 0 || c.r.Topics == nil {
		return ends
	}
	f := c.f
	accounts := make(map[rig.TaskID]*account, len(c.tasks[sub]))
	for i := range c.tasks[sub] {
		t := &c.tasks[sub][i]
		if accounts[t.ID] != nil {
			continue // a router that died wrote it, and its successor again: the same task
		}
		seq := t.Seq - c.r.First
		accounts[t.ID] = &account{seq: seq}
		if seq < 0 || seq >= int64(len(c.r.Events)) || !c.r.Owed[name](c.r.Events[seq].Company) {
			note(&f.Ghost, name, -1, "%s: task %s is of event %d, which it is not owed", name, t.ID[:], t.Seq)
		}
	}
	c.routed(name, accounts)
	c.agree(name, l, c.attempts[sub], retried)
	c.close(name, sub, accounts)
	for _, a := range accounts {
		ends[a.seq] = max(ends[a.seq], a.end)
	}
	return ends
}

// routed: an event that lies in the log twice has two tasks, any other one.
func (c *checker) routed(name string, accounts map[rig.TaskID]*account) {
	n := make(map[int64]uint8, len(accounts))
	for _, a := range accounts {
		n[a.seq]++
	}
	for i, copies := range c.copies {
		if have := n[int64(i)]; c.r.Owed[name](c.r.Events[i].Company) && have != copies && have != 0 {
			note(&c.f.Accounting, name, int64(i), "%s: event %d lies in the log %d times and has %d tasks", name, i, copies, have)
		}
	}
}

// agree: each delivered attempt has its 2xx in the receiver's ledger, and each 2xx its delivered attempt, or nobody lived to write it.
func (c *checker) agree(name string, l []rig.Request, attempts []rig.AttemptRecord, retried map[try]bool) {
	type count struct{ good, delivered int }
	seen := make(map[try]count, len(attempts))
	for i := range attempts {
		if a := &attempts[i]; a.Verdict == schemas.VerdictDelivered {
			k := try{a.Seq - c.r.First, a.Number}
			n := seen[k]
			n.delivered++
			seen[k] = n
		}
	}
	for i := range l {
		if q := &l[i]; q.Good() {
			k := try{q.Seq - c.r.First, q.Attempt}
			n := seen[k]
			n.good++
			seen[k] = n
		}
	}
	bad := map[try]int{}
	for k, n := range seen {
		if n.delivered > n.good {
			note(&c.f.Agreement, name, k.seq, "%s: event %d, try %d: %d times delivered by the topic attempts, %d times answered with 2xx", name, k.seq, k.number, n.delivered, n.good)
		} else if n.delivered < n.good {
			bad[k] = n.good - n.delivered
		}
	}
	if len(bad) == 0 {
		return
	}
	for i := range l { // each 2xx that nobody wrote down needs a reason of its own
		q := &l[i]
		k := try{q.Seq - c.r.First, q.Attempt}
		if bad[k] == 0 || !q.Good() {
			continue
		}
		fresh := q.Done > c.r.Topics.At.Add(-slack).UnixNano() // nobody had to have written it down when the topic was read
		if fresh || c.unheard(q, retried[k]) != "" || explain(c.r, q, lastMoment) != "" {
			bad[k]--
		}
	}
	for k, n := range bad {
		if n > 0 {
			note(&c.f.Agreement, name, k.seq, "%s: event %d, try %d was answered with 2xx, and no attempt says so", name, k.seq, k.number)
		}
	}
}

// lastMoment is later than any fault: explain asks whether something could have happened to whoever should have written an answer down.
var lastMoment = &rig.Request{At: 1 << 62}

// close sums up one subscription: matched = delivered + dead + dropped + in flight, task by task.
func (c *checker) close(name string, sub int32, accounts map[rig.TaskID]*account) {
	f := c.f
	stranger := func(id rig.TaskID, where string) {
		note(&f.Accounting, name, -1, "%s: %s names task %s, which no router wrote", name, where, id[:])
	}
	for i := range c.attempts[sub] {
		at := &c.attempts[sub][i]
		a := accounts[at.ID]
		if a == nil {
			stranger(at.ID, "an attempt")
			continue
		}
		switch at.Verdict {
		case schemas.VerdictDelivered:
			a.end = endDelivered
		case schemas.VerdictDead:
			a.end = max(a.end, endDead)
			a.deaths++
		case schemas.VerdictDropped:
			a.end = max(a.end, endDropped)
		}
	}
	for _, d := range c.dead[sub] {
		if a := accounts[d.ID]; a != nil {
			a.letters++
		} else {
			stranger(d.ID, "a dead letter")
		}
	}
	for _, w := range c.waiting[sub] {
		if a := accounts[w.ID]; a != nil {
			a.waiting = true
		} else {
			stranger(w.ID, "what waits")
		}
	}
	for id, a := range accounts {
		f.Matched++
		if a.end == endNone && a.waiting {
			a.end = endWaiting
		}
		switch a.end {
		case endNone:
			note(&f.Accounting, name, a.seq, "%s: task %s of event %d has no end and waits nowhere", name, id[:], a.seq)
		case endWaiting:
			f.InFlight++
		case endDropped:
			f.Dropped++
		case endDead:
			f.Dead++
		}
		if (a.deaths > 0) != (a.letters > 0) && len(c.deaths) == 0 {
			note(&f.Accounting, name, a.seq, "%s: task %s of event %d has %d attempts that call it dead and %d dead letters", name, id[:], a.seq, a.deaths, a.letters)
		}
	}
}

// What a service may hold more after a run than before it. Senders that are idle leave after 30 s, a lane and its connections stay for ten minutes. Memory: after a
// backlog a deliverer has held 64 MiB of tasks and some fetch answers of 16 MiB, twice that for the collector, and Go gives it back when it likes.
const (
	moreGoroutines  = 64
	moreDescriptors = 128
	moreMemory      = 384 << 20
)

// rest is what is checked once for a run: what waits for the routers, what the services hold, and whether they lived.
func (c *checker) rest() {
	f, r := c.f, c.r
	if r.Topics != nil && r.Topics.RouterLag > 0 {
		note(&f.Accounting, "", -1, "%d events are not counted as routed", r.Topics.RouterLag)
	}
	for _, x := range r.Crashes {
		note(&f.Crash, "", -1, "%s", x)
	}
	names := make([]string, 0, len(r.After))
	for name := range r.After {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if grown := Grown(r.Before, name, r.After[name]); grown != "" {
			note(&f.Resources, "", -1, "%s", grown)
		}
	}
}

// Grown says what a service holds more than it may, compared with what it held before; "" is nothing. One that was not there before is not compared: there
// is nothing to hold it against.
func Grown(before map[string]rig.Resources, name string, after rig.Resources) string {
	was, ok := before[name]
	if !ok {
		return ""
	}
	if after.Goroutines > was.Goroutines+moreGoroutines || after.Descriptors > was.Descriptors+moreDescriptors || after.RSS > was.RSS+moreMemory {
		return fmt.Sprintf("%s holds %v, before it was %v", name, after, was)
	}
	return ""
}
