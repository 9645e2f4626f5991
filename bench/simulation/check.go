package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The checker is a second opinion, written without a look at that of bench/faults: it holds what receivers saw, what publishers and companies were told
// and what was done to the world against the topics, and against the promises of docs/design.md.

type checker struct {
	w   *world
	r   *reader
	res *result
	// requests by subscription and webhook-id
	came map[string][]*received
}

func check(w *world, res *result) {
	c := &checker{w: w, r: w.reader, res: res, came: map[string][]*received{}}
	for _, f := range w.failed {
		c.bad("world: %s", f)
	}
	for _, b := range w.reader.broken {
		c.bad("%s", b)
	}
	for _, e := range w.ledger {
		c.came[fmt.Sprintf("%d %s", e.sub, e.id)] = append(c.came[fmt.Sprintf("%d %s", e.sub, e.id)], e)
	}
	if res.Events, res.Requests = len(w.events), len(w.ledger); res.Requests == 0 {
		c.bad("nothing was sent: this seed proves nothing")
	}
	c.owed()
	c.accounting()
	c.requests()
	c.copies()
	c.schedule()
	c.attemptsAgree()
	c.deletes()
	c.disables()
	c.holds()
	c.rates()
}

func (c *checker) bad(format string, args ...any) {
	if len(c.res.Violations) < 50 {
		c.res.Violations = append(c.res.Violations, fmt.Sprintf(format, args...))
	}
}

// at is a time as the history shows it.
func (c *checker) at(t time.Time) string { return t.Sub(c.w.began).Round(time.Microsecond).String() }

// wants says whether a subscription of the plan matches an event's company and type. The patterns never change.
func wants(s *subPlan, e *event) bool {
	return s.Company == e.company && wanted(s, e.typ)
}

func wanted(s *subPlan, typ string) bool {
	entity, trigger, _ := strings.Cut(typ, ".")
	return slices.Contains(s.Events, "*") || slices.Contains(s.Events, typ) || slices.Contains(s.Events, entity+".*") || slices.Contains(s.Events, "*."+trigger)
}

// pausedFrom is when a subscription was disabled, as far as its record says; zero: never.
func (c *checker) pausedFrom(s *sub) (at time.Time) {
	for _, v := range c.r.subs[s.id] {
		if v.State == schemas.StateDisabled && at.IsZero() {
			at = time.UnixMilli(v.UpdatedAt)
		}
	}
	return at
}

// owed holds publishers' and companies' ledgers against the tasks: an event that was published after create had returned, and accepted before a delete or
// a disabling began, has exactly one task; one that was accepted before create was called has none.
func (c *checker) owed() {
	for _, s := range c.w.subs {
		paused := c.pausedFrom(s)
		for _, e := range c.w.events {
			var mine []*taskSeen
			for _, src := range c.r.events[e.id] {
				if t := c.r.tasks[schemas.TaskID(src, e.id, s.id, "")]; t != nil && t.copies > 0 {
					mine = append(mine, t)
				}
			}
			switch places := len(c.r.events[e.id]); {
			case e.fate == "accepted" && places == 0:
				c.bad("lost: event %s was accepted and is not in the log", e.id)
			case e.fate == "accepted" && places > 1:
				c.bad("event %s was accepted once and is %d times in the log", e.id, places)
			case len(mine) > places:
				c.bad("event %s has %d tasks for sub %d", e.id, len(mine), s.n)
			}
			matches := wants(&c.w.plan.Subs[s.n], e)
			if !matches && len(mine) > 0 {
				c.bad("misrouted: event %s (%s %s) has a task for sub %d", e.id, e.company, e.typ, s.n)
			}
			if !matches || e.fate != "accepted" {
				continue
			}
			after := !e.begun.Before(s.created)
			before := (s.deleting.IsZero() || e.ended.Before(s.deleting)) && (paused.IsZero() || e.ended.Before(paused))
			if after && before {
				c.res.Owed++
				if len(mine) == 0 && s.deleting.IsZero() { // what was not routed yet when its subscription was deleted is dropped without a task
					c.bad("lost: event %s (published %s) has no task for sub %d, created %s", e.id, c.at(e.begun), s.n, c.at(s.created))
				}
			}
			if e.ended.Before(s.asked) && len(mine) > 0 {
				c.bad("ghost: event %s (published %s) has a task for sub %d, whose creation began at %s", e.id, c.at(e.begun), s.n, c.at(s.asked))
			}
		}
	}
}

// accounting: every task has one end.
func (c *checker) accounting() {
	subs := map[string]*sub{}
	for _, s := range c.w.subs {
		subs[s.id] = s
	}
	for id, t := range c.r.tasks {
		delivered, dead, dropped := t.ends[schemas.VerdictDelivered], t.ends[schemas.VerdictDead], t.ends[schemas.VerdictDropped]
		s := subs[t.Subscription]
		name := fmt.Sprintf("task %s (sub %d, event %s)", id, numberOf(s), t.EventID)
		switch {
		case t.copies == 0:
			c.bad("ghost: %s is in a tier or dead, but no router wrote it", name)
		case len(t.ends) == 0:
			c.bad("lost: %s has no end; created %s, %d attempts, %d tier records, due %s", name, c.at(time.UnixMilli(t.CreatedAt)), len(t.tries), len(t.tiers), c.at(t.dueAt))
		case delivered > 0:
			c.res.Deliveries++
		case dead > 0:
			c.res.Dead++
			if len(t.dead) == 0 {
				c.bad("lost: %s is said to be dead, but has no dead letter", name)
			}
		case dropped > 0:
			c.res.Dropped++
			if s == nil || s.deleting.IsZero() {
				c.bad("lost: %s was dropped, but its subscription was not deleted", name)
			}
		}
		if delivered > 0 && !slices.ContainsFunc(c.came[fmt.Sprintf("%d %s", numberOf(s), schemas.WebhookID(t.Subscription, t.EventID))], (*received).ok) {
			c.bad("lost: %s is said to be delivered, and its receiver has not seen it whole", name)
		}
	}
}

func numberOf(s *sub) int {
	if s == nil {
		return -1
	}
	return s.n
}

// requests looks at each request for itself.
func (c *checker) requests() {
	sums := map[string][32]byte{}
	for _, e := range c.w.ledger {
		s := c.w.subOf(e.sub)
		if s == nil {
			if e.sub < 0 || e.sub >= len(c.w.plan.Subs) {
				c.bad("ghost: a request to %s", e.path)
			}
			continue // its creation failed or it came before create returned; the task check has it
		}
		if !slices.Contains(s.paths, e.path) {
			c.bad("misrouted: a request to %s, which sub %d never had", e.path, s.n)
		}
		if e.wrong != "" {
			c.bad("integrity: %s at sub %d: %s", e.id, s.n, e.wrong)
		}
		if e.event == "" {
			continue // not read (early)
		}
		ev := c.w.events[e.event]
		switch {
		case ev == nil:
			c.bad("ghost: %s at sub %d carries event %q, which nobody published", e.id, s.n, e.event)
			continue
		case !wants(&c.w.plan.Subs[s.n], ev):
			c.bad("misrouted: sub %d received event %s of %s, %s", s.n, ev.id, ev.company, ev.typ)
		}
		if want := schemas.WebhookID(s.id, ev.id); e.id != want {
			c.bad("identity: event %s came to sub %d as %s, not %s", ev.id, s.n, e.id, want)
		}
		key := fmt.Sprintf("%d %s", e.sub, e.id)
		if sum, ok := sums[key]; ok && sum != e.sum {
			c.bad("integrity: %s at sub %d came with two bodies", e.id, s.n)
		}
		sums[key] = e.sum
	}
}

// mayRepeat are the faults that end a deliverer, or take its partitions from it, without its being able to say what it was doing. Stopping it in good
// order is one only while something keeps it from writing that down.
func (c *checker) mayRepeat(f *faultSpan) bool {
	switch f.what {
	case "crash deliverer", "stall deliverer", "cut deliverer", "dark deliverer":
		return true
	case "restart deliverer", "leave deliverer":
		return slices.ContainsFunc(c.w.faults, func(b *faultSpan) bool {
			return blinds(b) && b.start.Before(f.end.Add(copySlack)) && b.end.After(f.start.Add(-copySlack))
		})
	}
	return false
}

// blinds are the faults during which nothing that a deliverer finishes can be written down.
func blinds(f *faultSpan) bool {
	switch f.what {
	case "produce refused", "produce lost", "produce swallowed", "commit lost", "commit refused", "not leader", "broker slow", "fetch errors", "cut deliverer", "dark deliverer",
		"leaders move", "coordinator moves", "stall deliverer":
		return true
	}
	return false
}

// copySlack is how long after a commit interval a commit may take to be there in this world, the slowest link included.
const copySlack = time.Second

// explained: the first copy was under way, or had ended within the last commit interval, when its deliverer died; or since a trouble began that kept it
// from writing anything down and that lasted until it died.
func (c *checker) explained(first *received) bool {
	for _, f := range c.w.faults {
		if !c.mayRepeat(f) || f.who != first.from {
			continue
		}
		from := f.start.Add(-c.w.plan.Commit - copySlack)
		for again := true; again; {
			again = false
			for _, b := range c.w.faults {
				start := b.start.Add(-c.w.plan.Commit - copySlack)
				if blinds(b) && !b.end.Add(copySlack).Before(from) && start.Before(from) {
					from, again = start, true
				}
			}
		}
		end := first.done
		if end.IsZero() {
			end = first.at
		}
		if end.After(from) && first.at.Before(f.end.Add(copySlack)) {
			return true
		}
	}
	return false
}

// routedAgain: a router died between the tasks of a batch and its commit, so its successor wrote them again, and Redis had lost the mark when the second record came up.
func (c *checker) routedAgain(first, again *received) bool {
	s := c.w.subOf(first.sub)
	twice := s != nil && slices.ContainsFunc(c.r.events[first.event], func(src schemas.Source) bool {
		t := c.r.tasks[schemas.TaskID(src, first.event, s.id, "")]
		return t != nil && t.copies > 1
	})
	return twice && c.redisLost(first, again) && slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
		return strings.HasSuffix(f.what, " router") && f.start.Before(again.at)
	})
}

// redisLost: Redis may have lost between the two what it was told of the first.
func (c *checker) redisLost(first, again *received) bool {
	return slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
		return strings.HasPrefix(f.what, "redis ") && f.start.Before(again.at) && f.end.After(first.at)
	})
}

// handedBackTwice: a deliverer put the task off unsent, and died, or was fenced, before a commit said so. Its successor sent the record from before, and Redis had lost
// the mark of that when the tier's record came up.
func (c *checker) handedBackTwice(first, again *received) bool {
	s := c.w.subOf(first.sub)
	return s != nil && c.redisLost(first, again) && slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
		return c.mayRepeat(f) && f.who != first.from && f.start.Before(first.at) && slices.ContainsFunc(c.r.events[first.event], func(src schemas.Source) bool {
			t := c.r.tasks[schemas.TaskID(src, first.event, s.id, "")]
			return t != nil && slices.ContainsFunc(t.tiers, func(r tierSeen) bool {
				return int(r.attempt) == first.attempt && r.at.After(f.start.Add(-c.w.plan.Commit-copySlack)) && r.at.Before(f.end.Add(copySlack)) && r.at.Before(first.at)
			})
		})
	})
}

// stoppedInIt: the send was begun under the lease, its process was stopped in the middle of it, and it went on when that was let go. In this world a stopped process
// runs on until it wants something of the network, so it may begin such a send after the stop, for as long as the lease lasts.
func (c *checker) stoppedInIt(e *received) bool {
	a := c.attemptFor(e)
	return a != nil && slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
		return f.what == "stall deliverer" && f.who == e.from && time.UnixMilli(a.StartedAt).Before(f.start.Add(leaseLasts)) &&
			!e.at.Before(f.end.Add(-time.Millisecond)) && e.at.Before(f.end.Add(2*c.w.plan.Latency+2*time.Millisecond))
	})
}

// leaseLasts is the lease of the deliverers, by the session of the configuration.
const leaseLasts = 4 * time.Second

// takenBlind: the partition went from a living process to another while no commit could say what the first had sent, because somebody else's end began a rebalance in
// the middle of a trouble with Kafka. And what else would have told the successor was not there: the attempt was written when it had begun already, or
// Redis had lost the mark.
func (c *checker) takenBlind(first, again *received) bool {
	if first.from == again.from {
		return false
	}
	i := c.attemptOf(first)
	// What stands without an answer is as good as unwritten for who wrote it: it sets no mark.
	unheard := slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
		return f.what == "produce lost" && f.start.Before(first.at.Add(copySlack)) && f.end.After(again.at.Add(-copySlack))
	})
	unmarked := i < 0 || c.r.written[i].After(again.at.Add(-copySlack)) || unheard || c.redisLost(first, again)
	return unmarked && slices.ContainsFunc(c.w.faults, func(b *faultSpan) bool {
		return blinds(b) && b.start.Before(first.at.Add(c.w.plan.Commit+copySlack)) && b.end.After(first.at) && slices.ContainsFunc(c.w.faults, func(f *faultSpan) bool {
			return moves(f) && f.start.Before(b.end) && f.start.Before(again.at) && f.end.After(first.at.Add(-copySlack))
		})
	})
}

// moves are the faults that give partitions of deliverers to others.
func moves(f *faultSpan) bool {
	verb, whom, _ := strings.Cut(f.what, " ")
	return whom == "deliverer" || verb == "coordinator"
}

// copies: a second whole 2xx for one webhook-id at one subscription must be explained.
func (c *checker) copies() {
	for key, list := range c.came {
		var first *received
		for _, e := range list {
			if !e.ok() {
				continue
			}
			if first == nil {
				first = e
				continue
			}
			switch {
			case c.unheard(first):
				c.res.Unheard++
			case len(c.r.events[e.event]) > 1: // its publisher sent it twice
			case c.explained(first), c.takenBlind(first, e), c.routedAgain(first, e), c.handedBackTwice(first, e), c.stoppedInIt(e):
				c.res.Explained++
			default:
				c.bad("duplicate: %s at %s by %s (try %d) and again at %s by %s (try %d)", key, c.at(first.at), first.from, first.attempt, c.at(e.at), e.from, e.attempt)
			}
		}
	}
}

// unheard: the deliverer wrote down that this try got no answer that counts, as when the answer came as its time was over.
func (c *checker) unheard(e *received) bool {
	a := c.attemptFor(e)
	return a != nil && a.Verdict != schemas.VerdictDelivered
}

// attemptFor is the attempt that stands for a request; nil: none is written.
func (c *checker) attemptFor(e *received) *schemas.Attempt {
	if i := c.attemptOf(e); i >= 0 {
		return &c.r.attempts[i]
	}
	return nil
}

// attemptOf is the place of that attempt; -1: none.
func (c *checker) attemptOf(e *received) int {
	s := c.w.subOf(e.sub)
	if s == nil {
		return -1
	}
	for _, src := range c.r.events[e.event] {
		t := c.r.tasks[schemas.TaskID(src, e.event, s.id, "")]
		if t == nil {
			continue
		}
		for _, i := range t.tries {
			a := &c.r.attempts[i]
			started := time.UnixMilli(a.StartedAt)
			if int(a.Number) == e.attempt && !e.at.Before(started.Add(-time.Millisecond)) &&
				!e.at.After(started.Add(time.Duration(a.DurationMicros)*time.Microsecond+2*time.Millisecond)) {
				return i
			}
		}
	}
	return -1
}

// quiet says that no fault was near a stretch of time.
func (c *checker) quiet(from, to time.Time) bool {
	for _, f := range c.w.faults {
		if f.start.Before(to.Add(20*time.Second)) && f.end.After(from.Add(-20*time.Second)) {
			return false
		}
	}
	return true
}

// schedule: no try comes before the one before it said, and none much later while nothing is broken.
func (c *checker) schedule() {
	smallest := c.w.plan.Tiers[0]
	for id, t := range c.r.tasks {
		for k, i := range t.tries {
			a := &c.r.attempts[i]
			if a.Verdict != schemas.VerdictRetry {
				continue
			}
			due := time.UnixMilli(a.NextDue)
			for _, j := range t.tries[k+1:] {
				b := &c.r.attempts[j]
				if b.Number != a.Number+1 || b.BytesSent == 0 {
					continue
				}
				began := time.UnixMilli(b.StartedAt)
				if began.Before(due.Add(-2*time.Millisecond)) && !c.madeBefore(t, a, began) {
					c.bad("schedule: task %s (sub %s): try %d at %s, due at %s", id, t.Subscription, b.Number, c.at(began), c.at(due))
				}
				late := began.Sub(due)
				if !t.postponed && late > smallest+3*time.Second && c.w.plan.Kind == "steady" && c.quiet(due, began) {
					c.bad("schedule: task %s (sub %s): try %d %v late, due at %s", id, t.Subscription, b.Number, late, c.at(due))
				}
				break
			}
		}
	}
}

// madeBefore: the try was made twice, and the next one is due by the other of the two. That one is written down as well (a process was stopped in the middle of
// its try, and wrote it down when another had made the next), or its process wrote the tier's record and ended before the attempt: that it stands nowhere
// must then be explained where attempts and requests are compared.
func (c *checker) madeBefore(t *taskSeen, a *schemas.Attempt, next time.Time) bool {
	for _, i := range t.tries {
		if o := &c.r.attempts[i]; o != a && o.Number == a.Number && o.Verdict == schemas.VerdictRetry && !time.UnixMilli(o.NextDue-2).After(next) {
			return true
		}
	}
	wait := time.UnixMilli(a.NextDue).Sub(time.UnixMilli(a.StartedAt))
	for _, e := range c.w.ledger {
		s := c.w.subOf(e.sub)
		if s == nil || s.id != t.Subscription || e.attempt != int(a.Number) || e.id != schemas.WebhookID(t.Subscription, t.EventID) {
			continue
		}
		if began := e.at.Add(-2 * c.w.plan.Latency); !began.Add(wait - 2*time.Millisecond).After(next) { // a connection, a way
			return true
		}
	}
	return false
}

// attemptsAgree: what a receiver answered whole is written down, unless its deliverer died before it could.
func (c *checker) attemptsAgree() {
	for _, e := range c.w.ledger {
		if !e.whole || e.event == "" || c.w.subOf(e.sub) == nil {
			continue
		}
		a := c.attemptFor(e)
		if a == nil && !c.explained(e) {
			c.bad("attempts: %s (try %d) at sub %d at %s by %s, answered %d, is not written down", e.id, e.attempt, e.sub, c.at(e.at), e.from, e.status)
		}
		if a != nil && int(a.Status) != e.status && a.Reason != schemas.ReasonTimeout && a.Reason != schemas.ReasonReset && !c.explained(e) {
			c.bad("attempts: %s (try %d) at sub %d was answered %d, and %d (%s %s) is written down", e.id, e.attempt, e.sub, e.status, a.Status, a.Verdict, a.Reason)
		}
	}
}

// deletes: two seconds after delete returned nothing is sent any more; a deliverer that cannot read the log may go on until its lease ends.
func (c *checker) deletes() {
	for _, s := range c.w.subs {
		if s.deleted.IsZero() {
			continue
		}
		for _, e := range c.w.ledger {
			late := e.at.Sub(s.deleted)
			if e.sub != s.n || late <= 2*time.Second+4*c.w.plan.Latency {
				continue
			}
			if late <= 10*time.Second && !c.quiet(s.deleted, e.at) {
				continue
			}
			c.bad("delete: sub %d was deleted at %s, and %s came at %s by %s", s.n, c.at(s.deleted), e.id, c.at(e.at), e.from)
		}
	}
}

// disables: a 410 that was answered whole, and written down, disables the subscription.
func (c *checker) disables() {
	for _, s := range c.w.subs {
		paused := c.pausedFrom(s)
		for _, e := range c.w.ledger {
			if e.sub != s.n {
				continue
			}
			if e.status == 410 && e.whole && paused.IsZero() && s.deleting.IsZero() && c.attemptFor(e) != nil && !c.explained(e) {
				c.bad("disable: sub %d answered 410 at %s and was never disabled", s.n, c.at(e.at))
				break
			}
			if !paused.IsZero() && e.at.Sub(paused) > 10*time.Second && c.quiet(paused, e.at) {
				c.bad("disable: sub %d was disabled at %s, and %s came at %s", s.n, c.at(paused), e.id, c.at(e.at))
				break
			}
		}
	}
}

// holds: after an answer with Retry-After the same process sends nothing to that receiver before it said. The answer takes a latency to be heard, and what was begun
// until then takes another; and one more where it had to connect first.
func (c *checker) holds() {
	for _, s := range c.w.subs {
		var until time.Time
		var from string
		var told time.Time
		for _, e := range c.w.ledger { // in the order of their coming
			if e.sub != s.n {
				continue
			}
			under := 2 * c.w.plan.Latency
			if e.first {
				under += c.w.plan.Latency
			}
			if !until.IsZero() && e.from == from && e.at.After(told.Add(under+time.Millisecond)) && e.at.Before(until.Add(-time.Second)) && c.quiet(told, e.at) {
				c.bad("hold: sub %d asked for quiet until %s at %s, and %s came at %s", s.n, c.at(until), c.at(told), e.id, c.at(e.at))
			}
			if e.retry > 0 && e.whole {
				if u := e.done.Add(e.retry); u.After(until) || e.from != from {
					until, from, told = u, e.from, e.done
				}
			}
		}
	}
}

// rates: a lane's rate holds over every stretch of ten seconds in which one process served it and its settings stood.
func (c *checker) rates() {
	for _, s := range c.w.subs {
		rate := c.w.plan.Subs[s.n].Rate
		if rate == 0 || len(s.edits) > 0 {
			continue
		}
		var list []*received
		for _, e := range c.w.ledger {
			if e.sub == s.n {
				list = append(list, e)
			}
		}
		for i := range list {
			n := 0
			for _, e := range list[i:] {
				if e.at.Sub(list[i].at) > 10*time.Second || e.from != list[i].from {
					break
				}
				n++
			}
			if most := rate*10 + max(1, rate/10) + 1; float64(n) > most && c.quiet(list[i].at, list[i].at.Add(10*time.Second)) {
				c.bad("rate: sub %d takes %v a second, and %d requests came within 10 s from %s on", s.n, rate, n, c.at(list[i].at))
				break
			}
		}
	}
}
