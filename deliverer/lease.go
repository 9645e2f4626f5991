package deliverer

import (
	"sync/atomic"
	"time"
)

// lease is the right to start sends (design rule 6). It rests on Kafka's session: the coordinator gives our partitions to others only after a
// session time-out (6 s) without a sign of life from us, or after we released them ourselves. So whoever has had a commit accepted within the last two
// thirds of that (4 s) still owns what it owned, and a process that was stopped (SIGSTOP, a long pause of its machine) and wakes up finds its lease over before it sends anything.
//
// Between two generations the lease is frozen: from the last commit on, which names every send under way, nothing new may start, because the next
// owner goes by that commit. Sends under way run on. The sequence that this prevents: we commit and release; the coordinator hands partition 3 to
// another member; it reads our commit and starts on offset 17, which nobody is named to be sending; we, who have not yet heard, take offset 17 from
// our own line. Redis would not notice: neither of the two has ended.
type lease struct {
	born   time.Time
	term   time.Duration
	until  atomic.Int64 // ns after born, monotonic
	frozen atomic.Bool
	held   atomic.Bool // clocks differ by too much (design rule 14)
}

// leaseTerm is how long a commit is good for, by the session time-out.
func leaseTerm(session time.Duration) time.Duration { return session - session/3 }

const (
	// skewWarns and skewHolds: due times and signatures are by our clock, and receivers refuse a timestamp that is minutes off.
	skewWarns = 30 * time.Second
	skewHolds = 120 * time.Second
	// clockProbes is how many lanes hand a task back each second while sending is held: as many answers as Skew needs to believe them.
	clockProbes = 3
)

func newLease(now time.Time, session time.Duration) *lease {
	l := &lease{born: now, term: leaseTerm(session)}
	l.frozen.Store(true)
	return l
}

// renew notes a commit that was accepted. It counts from when the commit was asked for: only then did we surely own what we owned. It says whether the
// lease had run out.
func (l *lease) renew(asked time.Time) (anew bool) {
	until := int64(asked.Sub(l.born) + l.term)
	for {
		old := l.until.Load()
		if old >= until || l.until.CompareAndSwap(old, until) {
			return old <= int64(time.Since(l.born))
		}
	}
}

// over says that the lease has run out, frozen or not. Then nothing is read either: a task that was looked up now would be sent when the lease comes back, and by then
// the owner before may have written and marked what it was sending.
func (l *lease) over(now time.Time) bool {
	return int64(now.Sub(l.born)) >= l.until.Load()
}

// age is how long ago the last commit that was accepted was asked for.
func (l *lease) age(now time.Time) time.Duration {
	return now.Sub(l.born) - (time.Duration(l.until.Load()) - l.term)
}

// end gives the lease up: the generation was fenced.
func (l *lease) end() { l.until.Store(0) }

// holds says whether a send may start.
func (l *lease) holds(now time.Time) bool {
	return !l.frozen.Load() && !l.held.Load() && !l.over(now)
}
