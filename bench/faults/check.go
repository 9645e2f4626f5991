package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

// The checker is a pure function over what a run left behind: the publisher's ledger, the farm's, the log of faults, what the topics say, and what the
// services held before and after. It knows of Hookferry what docs/design.md promises:
//
//   - every accepted event reaches every subscription that wants it, or an end that can be looked up (lost, not yet seen; accounting)
//   - nobody gets what is not his (ghost, misrouted)
//   - a duplicate comes only from a send that was under way, or had ended within the last commit interval, when its process died, or if Redis lost
//     its marks at the same time; or because the event was published twice (unexplained)
//   - one webhook-id and one body for all tries of an event to a subscription (identity, integrity)
//   - first tries start in source order as long as a lane keeps up, and two tries of one entity never overlap (order)
//   - what the topic attempts says is what the receivers saw (agreement)
//   - what was taken is given back (resources)
//   - no process ends but those that somebody ended (crash)

// Fault is one thing that was done to the system.
type Fault struct {
	Kind       FaultKind
	Who        string // the process it was done to, where there is one
	Start, End time.Time
}

func (f Fault) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s to %s  %s %s", rig.Clock(f.Start.UnixNano()), rig.Clock(f.End.UnixNano()), f.Kind, f.Who))
}

// FaultKind says which promise a fault may touch.
type FaultKind string

const (
	KillDeliverer FaultKind = "kill -9 deliverer" // may repeat what it had under way
	KillRouter    FaultKind = "kill -9 router"    // may repeat nothing, unless Redis lost its marks at the same time
	StopCont      FaultKind = "SIGSTOP, SIGCONT"  // of a deliverer: as a kill, if it lasted longer than the lease
	StopDeliverer FaultKind = "SIGTERM deliverer" // may repeat what it cut because it took longer than the grace
	RedisLost     FaultKind = "Redis lost marks"  // may repeat nothing by itself; beside a kill, what the marks would have held back
	KafkaFault    FaultKind = "Kafka"             // may repeat nothing; beside a kill, it keeps commits from being made
	Dependency    FaultKind = "dependency"        // Redis or the registry slow, silent or wrong, with nothing lost: may repeat nothing, and ends nothing
	Other         FaultKind = "other"             // may repeat nothing
)

// Times that the promises name, and what a loaded machine of two cores adds to them.
const (
	commitInterval = 500 * time.Millisecond // how often a deliverer commits
	slack          = 500 * time.Millisecond
	graceTerm      = 1500 * time.Millisecond // what a stopping deliverer allows a send
	leaseTerm      = 4 * time.Second         // a deliverer that is stopped for less sends on by right, with the default session
	marksTerm      = 10 * time.Second        // Redis lost its marks "at the same time": within that of a death
	stampTolerance = time.Minute             // of webhook-timestamp against the receiver's clock
	answerTerm     = 15 * time.Second        // the default time-out of a try
)

// Run is all that one scenario left behind.
type Run struct {
	Events    []rig.Sent // by sequence number, from First on
	First     int64
	Owed      map[string]func(company int) bool // receiver's name -> does it want events of that company?
	Receivers map[string][]rig.Request          // receiver's name -> what it saw, by time
	Never     []rig.Request                     // what came where a redirect pointed
	Faults    []Fault

	Names   []string          // the receivers by the subscriptions' places in Topics
	Paths   map[string]string // receiver's name -> its path, which says how it behaves
	Topics  *rig.Topics       // nil: only the ledgers are compared
	Lease   time.Duration     // 0: leaseTerm
	Timeout time.Duration     // of a try; 0: answerTerm

	Before, After map[string]rig.Resources // of each service; nil: not compared
	Crashes       []rig.Crash              // processes that ended by themselves
}

// Breach is one promise that did not hold. Receiver and Seq say whose history to print; Seq counts from Run.First, -1: none.
type Breach struct {
	Text     string
	Receiver string
	Seq      int64
}

// Finding is the checker's verdict.
type Finding struct {
	Accepted, Rejected, Unknown int // events, by what the publisher was told
	InLog, Republished          int // of the unknown ones: found in the log; and of all: found there twice
	Owed, Delivered             int // pairs of event and subscription
	Matched                     int // tasks that the router wrote
	Dead, Dropped, InFlight     int // tasks, by their ends; those delivered are Matched less all of them
	Waiting                     int // of Owed: not delivered, and their receiver never answers 2xx
	Duplicates                  int
	Repeats                     int            // copies of a republished event: no duplicates
	Explained                   map[string]int // duplicates by their explanation
	Ordered                     int            // pairs of successive events of an entity whose order was checked
	NearDeath                   int            // pairs whose order was not checked, because a deliverer died or was stalled shortly before
	NoOrder                     string         // why else order was not checked for all

	Lost, NotSeen, Ghost, Misrouted, Unexplained, Identity, Order, Integrity, Agreement, Accounting, Resources, Crash []Breach
}

// Class is a list of breaches with its name.
type Class struct {
	Name string
	List []Breach
}

// Classes of breaches, all of them.
func (f *Finding) Classes() []Class {
	return []Class{{"lost", f.Lost}, {"not yet seen", f.NotSeen}, {"ghost", f.Ghost}, {"misrouted", f.Misrouted}, {"unexplained duplicate", f.Unexplained},
		{"identity", f.Identity}, {"order", f.Order}, {"integrity", f.Integrity}, {"agreement", f.Agreement}, {"accounting", f.Accounting}, {"resources", f.Resources}, {"crash", f.Crash}}
}

// OK is true if every promise held.
func (f *Finding) OK() bool {
	return !slices.ContainsFunc(f.Classes(), func(c Class) bool { return len(c.List) > 0 })
}

// mostKept bounds what is kept of one class: a run that loses everything says so with a number and these.
const mostKept = 1000

func note(list *[]Breach, receiver string, seq int64, format string, args ...any) {
	if len(*list) < mostKept {
		*list = append(*list, Breach{fmt.Sprintf(format, args...), receiver, seq})
		return
	}
	*list = append(*list, Breach{Text: "as above", Receiver: receiver, Seq: seq})
}

// Check compares the ledgers.
func Check(r *Run) *Finding {
	c := newChecker(r)
	c.events()
	place := map[string]int32{}
	for i, name := range r.Names {
		place[name] = int32(i)
	}
	for _, name := range c.names() {
		sub, ok := place[name]
		if !ok {
			sub = -1
		}
		c.receiver(name, sub)
	}
	for i := range r.Never {
		note(&c.f.Ghost, "", r.Never[i].Seq-r.First, "a redirect was followed: %s", r.Never[i].Path)
	}
	c.rest()
	return c.f
}

// checker holds what is built once for all receivers.
type checker struct {
	r      *Run
	f      *Finding
	copies []uint8 // by event: how often it lies in the log; without topics 1 if it was accepted
	before []int32 // by event: the one before it of the same entity in the log, or -1
	deaths []span  // of deliverers, and their stalls, with the time after each in which first tries may start in another order

	tasks    [][]rig.TaskRecord // by subscription
	attempts [][]rig.AttemptRecord
	dead     [][]rig.DeadRecord
	waiting  [][]rig.Waiting

	// of one receiver, reused for the next; by event
	first, good []int32 // index of the first request, and of the last that was answered with 2xx; -1: none
	goods       []uint8
}

func newChecker(r *Run) *checker {
	n := len(r.Events)
	c := &checker{r: r, f: &Finding{Explained: map[string]int{}}, copies: make([]uint8, n), before: make([]int32, n),
		first: make([]int32, n), good: make([]int32, n), goods: make([]uint8, n)}
	for _, f := range r.Faults {
		if f.Kind == KillDeliverer || f.Kind == StopCont {
			c.deaths = append(c.deaths, span{f.Start.Add(-commitInterval - slack), f.End.Add(r.disorder())})
		}
	}
	if t := r.Topics; t != nil {
		c.tasks = bySubscription(t.Tasks, len(r.Names), func(x *rig.TaskRecord) int32 { return x.Subscription })
		c.attempts = bySubscription(t.Attempts, len(r.Names), func(x *rig.AttemptRecord) int32 { return x.Subscription })
		c.dead = bySubscription(t.Dead, len(r.Names), func(x *rig.DeadRecord) int32 { return x.Subscription })
		c.waiting = bySubscription(t.Waiting, len(r.Names), func(x *rig.Waiting) int32 { return x.Subscription })
	}
	return c
}

// bySubscription deals records out, in their order. The lists lie in one array, as long as the first.
func bySubscription[T any](all []T, n int, of func(*T) int32) [][]T {
	from := make([]int, n+1)
	for i := range all {
		if sub := of(&all[i]); sub >= 0 && int(sub) < n {
			from[sub+1]++
		}
	}
	for i := range n {
		from[i+1] += from[i]
	}
	dealt, out := make([]T, from[n]), make([][]T, n)
	for i := range n {
		out[i] = dealt[from[i]:from[i]:from[i+1]]
	}
	for i := range all {
		if sub := of(&all[i]); sub >= 0 && int(sub) < n {
			out[sub] = append(out[sub], all[i])
		}
	}
	return out
}

// names of all receivers that are owed something or saw something, sorted.
func (c *checker) names() []string {
	all := map[string]bool{}
	for n := range c.r.Owed {
		all[n] = true
	}
	for n := range c.r.Receivers {
		all[n] = true
	}
	out := make([]string, 0, len(all))
	for n := range all {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// events resolves what the publisher did not know, and finds which event follows which of the same entity.
func (c *checker) events() {
	r, f := c.r, c.f
	for i := range c.before {
		c.before[i] = -1
	}
	type entity struct{ company, id int64 }
	last := map[entity]int32{}
	follow := func(i int32) {
		if e := &r.Events[i]; e.Entity >= 0 {
			k := entity{int64(e.Company), e.Entity}
			if before, ok := last[k]; ok {
				c.before[i] = before
			}
			last[k] = i
		}
	}
	if r.Topics != nil {
		slices.SortFunc(r.Topics.Logged, func(a, b rig.Logged) int {
			if a.Partition != b.Partition {
				return int(a.Partition - b.Partition)
			}
			return int(a.Offset - b.Offset)
		})
		for _, l := range r.Topics.Logged {
			i := l.Seq - r.First
			if i < 0 || i >= int64(len(r.Events)) {
				continue // another publisher's
			}
			if c.copies[i]++; c.copies[i] == 1 {
				follow(int32(i))
			} else if c.copies[i] == 2 {
				f.Republished++
			}
		}
	}
	for i := range r.Events {
		switch r.Events[i].Fate {
		case rig.Accepted:
			f.Accepted++
			if r.Topics == nil {
				c.copies[i] = 1
				follow(int32(i))
			} else if c.copies[i] == 0 {
				note(&f.Lost, "", int64(i), "event %d was acknowledged and does not lie in the log", i)
			}
		case rig.Unknown:
			if f.Unknown++; c.copies[i] > 0 {
				f.InLog++
			}
		default:
			if f.Rejected++; c.copies[i] > 0 {
				note(&f.Ghost, "", int64(i), "event %d was surely not written, and lies in the log", i)
			}
		}
	}
}

// receiver holds one receiver's ledger, and what the topics say of its subscription, against what it was owed. sub is -1 without a subscription.
func (c *checker) receiver(name string, sub int32) {
	for i := range c.first {
		c.first[i], c.good[i], c.goods[i] = -1, -1, 0
	}
	l := c.r.Receivers[name]
	slices.SortFunc(l, func(a, b rig.Request) int {
		if a.At != b.At {
			return int(max(-1, min(1, a.At-b.At)))
		}
		return int(a.N - b.N)
	})
	retried := map[try]bool{}
	if sub >= 0 && c.r.Topics != nil {
		for i := range c.attempts[sub] {
			if a := &c.attempts[sub][i]; a.Verdict == schemas.VerdictRetry {
				retried[try{a.Seq - c.r.First, a.Number}] = true
			}
		}
	}
	c.requests(name, l, retried)
	c.order(name, sub, l)
	ends := c.books(name, sub, l, retried)
	c.owed(name, ends)
}

// try is one try at an event, of one receiver.
type try struct {
	seq    int64
	number int32
}

// requests looks at each request of one receiver.
func (c *checker) requests(name string, l []rig.Request, retried map[try]bool) {
	f, wants := c.f, c.r.Owed[name]
	ids := make(map[string]int64, len(l))
	for i := range l {
		q := &l[i]
		seq := q.Seq - c.r.First
		if c.whole(name, q) {
			continue
		}
		if q.Seq < 0 || seq < 0 || seq >= int64(len(c.r.Events)) {
			note(&f.Ghost, name, -1, "%s: %s carries event %d, which nobody published", name, q.ID, q.Seq)
			continue
		}
		if wants == nil || !wants(c.r.Events[seq].Company) {
			note(&f.Misrouted, name, seq, "%s: event %d of company %d", name, seq, c.r.Events[seq].Company)
			continue
		}
		if other, ok := ids[q.ID]; ok && other != seq {
			note(&f.Identity, name, seq, "%s: %s is event %d and event %d", name, q.ID, other, seq)
		}
		ids[q.ID] = seq
		if c.first[seq] < 0 {
			c.first[seq] = int32(i)
		} else if was := &l[c.first[seq]]; was.ID != q.ID {
			note(&f.Identity, name, seq, "%s: event %d came as %s and as %s", name, seq, was.ID, q.ID)
		} else if was.Sum != q.Sum {
			note(&f.Integrity, name, seq, "%s: %s came with two bodies", name, q.ID)
		}
		if !q.Good() {
			continue
		}
		if c.goods[seq] > 0 {
			c.copy(name, seq, &l[c.good[seq]], q, retried)
		}
		c.good[seq] = int32(i)
		c.goods[seq] = min(c.goods[seq]+1, 250)
	}
}

// whole checks a request in itself. True: there is no more to it, since its body was not read.
func (c *checker) whole(name string, q *rig.Request) (skip bool) {
	f, seq := c.f, q.Seq-c.r.First
	if q.Received < q.Expected || q.Sum == "-" {
		if strings.Contains(q.Path, "/early/") || c.process(q.At-int64(commitInterval), q.At+int64(answerTerm)) {
			return true // the receiver answered before the body came, or the sender died over it
		}
		note(&f.Integrity, name, -1, "%s: %s ended after %d of %d bytes at %s, and no process died", name, q.ID, q.Received, q.Expected, rig.Clock(q.At))
		return true
	}
	if q.Received != q.Expected {
		note(&f.Integrity, name, seq, "%s: %s has %d bytes of %d", name, q.ID, q.Received, q.Expected)
	}
	if q.Own != rig.Valid || q.Ref != rig.Valid {
		note(&f.Integrity, name, seq, "%s: the signature of %s, try %d: %s by our own code, %s by the reference", name, q.ID, q.Attempt, q.Own, q.Ref)
	}
	if off := time.Duration(q.At) - time.Duration(q.Stamp)*time.Second; off > stampTolerance+time.Second || off < -stampTolerance {
		note(&f.Integrity, name, seq, "%s: %s, try %d, is stamped %v before it came", name, q.ID, q.Attempt, off.Round(time.Second))
	}
	return false
}

// process says whether anything was done to a process between two moments.
func (c *checker) process(from, to int64) bool {
	for _, f := range c.r.Faults {
		if f.Kind != RedisLost && f.Kind != KafkaFault && f.Kind != Dependency && f.Start.UnixNano() <= to && f.End.UnixNano() >= from {
			return true
		}
	}
	return false
}

// copy takes the next request that was answered with 2xx of an event that had one.
func (c *checker) copy(name string, seq int64, before, q *rig.Request, retried map[try]bool) {
	if c.goods[seq] < c.copies[seq] {
		c.f.Repeats++
		return
	}
	c.f.Duplicates++
	why := c.unheard(before, retried[try{seq, before.Attempt}])
	if why == "" {
		why = explain(c.r, before, q)
	}
	if why == "" {
		note(&c.f.Unexplained, name, seq, "%s: event %d (%s) at %s, answered %s, and again at %s", name, seq, q.ID, rig.Clock(before.At), rig.Clock(before.Done), rig.Clock(q.At))
		return
	}
	c.f.Explained[why]++
}

// unheard: the receiver meant 2xx, but the deliverer says that it did not hear it, and the receiver's own ledger allows that.
func (c *checker) unheard(q *rig.Request, retried bool) string {
	late := time.Duration(q.Done-q.At) >= c.r.timeout()-slack
	if retried && (q.Outcome != rig.Answered || late || strings.Contains(q.Path, "/early/")) {
		return "the answer was cut or late"
	}
	return ""
}

// order: first tries of an entity's events start in source order, and do not overlap.
func (c *checker) order(name string, sub int32, l []rig.Request) {
	if sub >= 0 && c.r.Topics != nil && c.r.Topics.Postponed[sub] > 0 {
		c.f.NoOrder = "not where a lane handed tasks back"
		return
	}
	for i, before := range c.before {
		if before < 0 || c.first[i] < 0 || c.first[before] < 0 {
			continue
		}
		was, is := &l[c.first[before]], &l[c.first[i]]
		if c.nearDeath(was.At) || c.nearDeath(is.At) {
			c.f.NearDeath++
			continue
		}
		c.f.Ordered++
		switch {
		case was.At > is.At:
			note(&c.f.Order, name, int64(i), "%s: event %d of entity %s came at %s, event %d before it in the log at %s", name, i, is.Entity, rig.Clock(is.At), before, rig.Clock(was.At))
		case was.Good() && was.Outcome == rig.Answered && was.Done > is.At:
			note(&c.f.Order, name, int64(i), "%s: event %d of entity %s came at %s, while event %d was under way until %s", name, i, is.Entity, rig.Clock(is.At), before, rig.Clock(was.Done))
		}
	}
}

// disorder is how long after the death of a deliverer first tries may come in another order: its partitions are given away when its session is over, and
// what its last commit names as under way is waited for until its time is over, while what lies behind it goes on.
func (r *Run) disorder() time.Duration {
	return r.lease()*3/2 + r.timeout() + graceTerm
}

func (r *Run) lease() time.Duration {
	if r.Lease == 0 {
		return leaseTerm
	}
	return r.Lease
}

func (r *Run) timeout() time.Duration {
	if r.Timeout == 0 {
		return answerTerm
	}
	return r.Timeout
}

func (c *checker) nearDeath(at int64) bool {
	t := time.Unix(0, at)
	return slices.ContainsFunc(c.deaths, func(d span) bool { return !t.Before(d.from) && !t.After(d.to) })
}

// owed settles each event that the receiver wants.
func (c *checker) owed(name string, ends map[int64]end) {
	f, wants := c.f, c.r.Owed[name]
	delivers := true
	if path := c.r.Paths[name]; path != "" {
		delivers = rig.Delivers(path)
	}
	for i := range c.r.Events {
		seq := int64(i)
		if c.copies[i] == 0 || wants == nil || !wants(c.r.Events[i].Company) {
			if c.goods[i] > 0 && c.copies[i] == 0 && c.r.Topics != nil {
				note(&f.Ghost, name, seq, "%s: event %d, which does not lie in the log", name, seq)
			}
			continue
		}
		f.Owed++
		how, known := ends[seq]
		switch {
		case c.goods[i] > 0:
			f.Delivered++
		case known && (how == endDead || how == endDropped):
		case known && how == endWaiting && !delivers:
			f.Waiting++
		case known && how == endWaiting:
			note(&f.NotSeen, name, seq, "%s: event %d, due %s, still waits", name, seq, rig.Clock(c.r.Events[i].Due))
		case c.r.Topics == nil:
			note(&f.Lost, name, seq, "%s: event %d, due %s", name, seq, rig.Clock(c.r.Events[i].Due))
		case !known:
			note(&f.Lost, name, seq, "%s: event %d, due %s, was never routed", name, seq, rig.Clock(c.r.Events[i].Due))
		default:
			note(&f.Lost, name, seq, "%s: event %d, due %s: its task ended as %q and no receiver saw it", name, seq, rig.Clock(c.r.Events[i].Due), how)
		}
	}
}

// explain says why an event was sent again although before was answered with 2xx; "" is no reason.
//
// before must have been under way, or have ended within the last commit interval, when a deliverer died or lost its partitions; a death beside a Kafka that
// takes no commits, or a Redis that has just lost its marks, reaches further back.
func explain(r *Run, before, q *rig.Request) string {
	start, end := time.Unix(0, before.At), time.Unix(0, before.Done)
	if before.Done == 0 {
		end = time.Unix(1<<40, 0)
	}
	for _, f := range r.Faults {
		if !time.Unix(0, q.At).After(f.Start) || start.After(f.End.Add(slack)) {
			continue // it began after the fault, or came again before it
		}
		since := f.Start.Add(-commitInterval - slack)
		switch {
		case f.Kind == KillDeliverer:
		case f.Kind == StopCont && !strings.HasPrefix(f.Who, "router") && f.End.Sub(f.Start) >= r.lease()-slack:
		case f.Kind == StopDeliverer:
			if start.Before(f.Start.Add(slack)) && end.After(f.Start.Add(graceTerm-slack)) {
				return "cut by the grace of a stop"
			}
			continue
		case f.Kind == KillRouter && beside(r, f, RedisLost, marksTerm):
			if end.After(f.Start.Add(-marksTerm)) {
				return "a router died while Redis lost its marks"
			}
			continue
		default:
			continue
		}
		switch {
		case !end.Before(f.Start):
			return "under way at a " + string(f.Kind)
		case end.After(since):
			return "ended within the commit interval before a " + string(f.Kind)
		case end.After(f.Start.Add(-marksTerm)) && beside(r, f, RedisLost, marksTerm):
			return "Redis lost its marks beside a " + string(f.Kind)
		case kafkaHeld(r, f, end):
			return "Kafka took no commit before a " + string(f.Kind)
		}
	}
	return ""
}

// beside says whether a fault of another kind lay within d of f.
func beside(r *Run, f Fault, kind FaultKind, d time.Duration) bool {
	return slices.ContainsFunc(r.Faults, func(o Fault) bool {
		return o.Kind == kind && o.Start.Before(f.End.Add(d)) && o.End.After(f.Start.Add(-d))
	})
}

// kafkaHeld says whether Kafka was in trouble from the end of the first copy, or a commit interval after it, until the death.
func kafkaHeld(r *Run, f Fault, end time.Time) bool {
	return slices.ContainsFunc(r.Faults, func(o Fault) bool {
		return o.Kind == KafkaFault && o.Start.Before(end.Add(commitInterval+slack)) && o.End.After(f.Start.Add(-commitInterval-slack))
	})
}
