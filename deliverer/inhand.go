package deliverer

import (
	"context"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// This file is what a deliverer does that Kafka does not hear. A commit names the sends under way, so that a successor waits for them (progress.go). While no
// commit is accepted nothing is named; and what has been answered meanwhile cannot be written down either. If the partitions go to somebody else in the end,
// who is faster with them than we are with the writing when Kafka is back, that one sends all of it again.
//
// So when no commit has been accepted for a moment, all tries in our hands are marked in Redis as that: being made, or answered and not written. Such a mark
// ends nothing. Whoever has just been given a partition looks for them too, and waits for a try that has one as for a send that a commit names, by looking
// whether it has ended.
//
// What if the process dies
//
//	before these marks, or between two of them: as without them. A try without one is made again at once.
//	after them: the successor waits for handMost, and makes the try again. Nothing is lost by a mark that says of nothing that it has ended.
const (
	// handMost is how long a successor waits for a try that another process has in its hands: a failover takes no longer than a session and this.
	handMost = 5 * time.Second
	// handAsked is for how long after it was given a partition a process asks for these marks, of what lay there then. By then it has long read what the one
	// before had read.
	handAsked = time.Minute
)

// lateAfter is how old the last accepted commit must be for a mark of what is in hand. Sends go on for a while then, until the lease ends.
func (d *Deliverer) lateAfter() time.Duration { return max(d.lease.term/4, 2*d.cfg.CommitInterval) }

// late says that Kafka has not heard of us for a moment.
func (d *Deliverer) late(now time.Time) bool { return d.lease.age(now) >= d.lateAfter() }

// watchCommit has what is in hand marked as soon as a commit that begins now is late. stop is called when it has ended.
func (d *Deliverer) watchCommit(now time.Time) (stop func()) {
	in := d.lateAfter() - d.lease.age(now)
	if in <= 0 {
		poke(d.collector.late)
		return func() {}
	}
	timer := time.AfterFunc(in, func() { poke(d.collector.late) })
	return func() { timer.Stop() }
}

// unheard gives the lease up when others may have our partitions, and no commit has named what is in our hands.
func (d *Deliverer) unheard() {
	d.lease.end()
	poke(d.collector.late)
}

// claim marks what is in our hands, if Kafka does not hear us. open says that there is something, and to look again in a moment.
func (f *flusher) claim(ctx context.Context, now time.Time) (open bool) {
	d := f.d
	if !d.late(now) {
		return false
	}
	f.marks, f.claims = f.marks[:0], f.claims[:0]
	note := func(it *item) {
		open = true
		if !it.claimed {
			f.claims = append(f.claims, it)
			f.marks = append(f.marks, Mark{TaskID: it.ID, Round: it.Round, Attempt: -it.Attempt})
		}
	}
	for _, l := range d.keeper.lanes() {
		l.mu.Lock()
		for _, s := range l.senders {
			if s.it != nil {
				note(s.it)
			}
		}
		l.mu.Unlock()
	}
	for _, it := range d.collector.unflushed() {
		switch it.out.verdict {
		case schemas.VerdictDelivered, schemas.VerdictRetry, schemas.VerdictDead:
			note(it)
		}
	}
	for at := 0; at < len(f.claims); at += owedBatch {
		end := min(at+owedBatch, len(f.claims))
		if d.marks.Claim(ctx, f.marks[at:end]) {
			d.metrics.failOpen.Inc()
			break
		}
		for _, it := range f.claims[at:end] {
			it.claimed = true
		}
	}
	clear(f.claims)
	return open
}

// inOtherHands says whether somebody else may have a task in hand that was read at off: one that lay there when we were given the partition.
func (p *part) inOtherHands(off int64, now time.Time) bool {
	return off < p.handed && now.Sub(p.begun) < handAsked
}
