package deliverer

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

// part is one partition of a task topic while this process owns it. A partition that comes back after it was owned by another process is another part:
// what was read under the old one finishes into nothing.
type part struct {
	tp     kafka.TP
	tier   time.Duration // wait of its tier; 0 for retry and replay
	replay bool

	lost    atomic.Bool  // another process may own it by now
	stopped atomic.Bool  // nothing is read any more; the log says why
	crowded atomic.Bool  // the last commit could not name everything: wait until it can
	unlined atomic.Bool  // what stands in `lines` is not loaded yet: nothing is read, or taken
	parked  atomic.Int64 // a tier's head is not ready before this time, ms; 0: read on

	epoch  int64 // of this owner, for members of lines. Set, like fenced, before unlined ends
	fenced bool  // a fence of this owner stands in `lines`

	mu        sync.Mutex
	progress  *progress
	inherited inherited
	committed kafka.Committed // the last that was accepted
	high      int64           // the end of the partition at the last fetch

	begun  time.Time // when we were given it
	handed int64     // its end at the first fetch; intake's
}

func newPart(tp kafka.TP, tier time.Duration, replay bool, c kafka.Committed) *part {
	return &part{tp: tp, tier: tier, replay: replay, progress: newProgress(c.Offset), committed: c, high: c.Offset, begun: time.Now()}
}

// finish counts an offset as finished. After the partition was lost it does nothing: the successor counts.
func (p *part) finish(off int64) error {
	if p.lost.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress.finish(off)
}

// next is the offset to read next.
func (p *part) next() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress.next
}

// base is the first offset that is not finished.
func (p *part) base() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress.base
}

// commit is what to commit now.
func (p *part) commit(now time.Time, flying []underWay) (kafka.Committed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	meta, crowded := p.progress.encode(now, flying, &p.inherited)
	p.crowded.Store(crowded)
	return kafka.Committed{Offset: p.progress.base, Metadata: meta}, p.progress.check()
}

// accepted notes that a commit was accepted.
func (p *part) accepted(c kafka.Committed) {
	p.mu.Lock()
	p.committed = c
	p.mu.Unlock()
}

func (p *part) lastCommitted() kafka.Committed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed
}

// open is how many tasks were read and not finished, lag how many are not finished or not read.
func (p *part) counts() (open, lag int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress.open(), max(p.high-p.progress.next, 0) + p.progress.open()
}

// full says whether the fetch loop should leave the partition out.
func (p *part) full(now time.Time) bool {
	if p.lost.Load() || p.stopped.Load() || p.crowded.Load() || p.unlined.Load() {
		return true
	}
	parked := p.parked.Load()
	return parked != 0 && now.UnixMilli() < parked
}
