package deliverer

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"time"
)

// This file is pure: what of one partition is finished, and how that is told to a successor. No clock, no lock, no Kafka.
//
// A partition is read in order but finished in any order, because sends take as long as they take. Kafka remembers one number per partition, so the
// committed offset is the first unfinished one, and the commit's metadata names the rest: which offsets behind it are finished already, and which
// were being sent, until when. What a crash costs is then what happened since the last commit (half a second), and nothing for a hand-over.

// progress is the window of a partition between its first unfinished offset (base) and the first offset not read yet (next).
type progress struct {
	base, next int64
	ring       []uint64 // bit off&(len*64-1) is set when off is finished; a power of two long
	taken      int64    // records taken in
	finished   int64    // of these
	skipped    int64    // offsets that hold no record (retention, compaction, transaction markers)
}

// errBreach is the start of what is said when progress is no longer what it must be. It can only come from a bug; the partition stops.
var errBreach = errors.New("progress: broken invariant")

const ringMin = 16 // words: 1,024 offsets, 128 bytes a partition

func newProgress(at int64) *progress {
	return &progress{base: at, next: at, ring: make([]uint64, ringMin)}
}

func (p *progress) bit(off int64) (word *uint64, mask uint64) {
	return &p.ring[off>>6&int64(len(p.ring)-1)], 1 << (off & 63)
}

// take notes that the record at off was read. Offsets between the last one and this hold no record and are finished at once.
func (p *progress) take(off int64) error {
	if off < p.next {
		return fmt.Errorf("%w: offset %d taken twice (next is %d)", errBreach, off, p.next)
	}
	if off > p.next {
		p.skipTo(off)
	}
	p.grow(off + 1)
	p.next = off + 1
	p.taken++
	return nil
}

// skipTo says that there is no record below off any more.
func (p *progress) skipTo(off int64) {
	p.skipped += off - p.next
	if p.base == p.next {
		p.base, p.next = off, off
		return
	}
	p.grow(off)
	for ; p.next < off; p.next++ {
		w, m := p.bit(p.next)
		*w |= m
	}
}

// grow makes room for offsets below end.
func (p *progress) grow(end int64) {
	if end-p.base <= int64(len(p.ring))*64-64 { // a word may be shared by both ends of the window: leave one free
		return
	}
	n := len(p.ring)
	for int64(n)*64-64 < end-p.base {
		n *= 2
	}
	old := *p
	p.ring = make([]uint64, n)
	for w := old.base >> 6; w <= old.next>>6; w++ {
		p.ring[w&int64(n-1)] = old.ring[w&int64(len(old.ring)-1)]
	}
}

// finish notes that the task at off has reached an end or a tier, durably.
func (p *progress) finish(off int64) error {
	if off < p.base || off >= p.next {
		return fmt.Errorf("%w: offset %d finished outside [%d, %d)", errBreach, off, p.base, p.next)
	}
	w, m := p.bit(off)
	if *w&m != 0 {
		return fmt.Errorf("%w: offset %d finished twice", errBreach, off)
	}
	*w |= m
	p.finished++
	p.advance()
	return nil
}

// isFinished says whether off needs nothing more.
func (p *progress) isFinished(off int64) bool {
	if off < p.base {
		return true
	}
	if off >= p.next {
		return false
	}
	w, m := p.bit(off)
	return *w&m != 0
}

// advance moves base over what is finished.
func (p *progress) advance() {
	for p.base < p.next {
		w := &p.ring[p.base>>6&int64(len(p.ring)-1)]
		at := uint(p.base & 63)
		run := bits.TrailingZeros64(^(*w >> at))
		run = min(run, 64-int(at), int(min(p.next-p.base, 64)))
		if run == 0 {
			return
		}
		*w &^= (^uint64(0) >> (64 - uint(run))) << at
		p.base += int64(run)
	}
}

// open is the number of tasks taken and not finished.
func (p *progress) open() int64 { return p.taken - p.finished }

// check holds the accounting: everything in the window is finished or open, and everything finished was taken.
func (p *progress) check() error {
	if p.base > p.next || p.finished > p.taken {
		return fmt.Errorf("%w: base %d, next %d, taken %d, finished %d", errBreach, p.base, p.next, p.taken, p.finished)
	}
	if p.base < p.next {
		if w, m := p.bit(p.base); *w&m != 0 {
			return fmt.Errorf("%w: base %d is finished and was not passed", errBreach, p.base)
		}
	}
	return nil
}

// underWay is a send that had begun: until Deadline nobody knows how it ends.
type underWay struct {
	offset   int64
	deadline time.Time
}

// The metadata of a commit is base64 (the broker keeps a string) of:
//
//	version 1 | uvarint time of the commit, ms | runs that follow one another from the committed offset on
//	run: uvarint length<<2 | kind; a run under way is followed by uvarint of its deadline, tenths of a second after the time of the commit
//
// What follows the last run is unread. If not all fits, the last run is of kind unnamed: its offsets may be anything, and what was being sent among
// them ends by its deadline.
const (
	metaVersion = 1
	metaMost    = 4096 // bytes that Kafka takes by default (offset.metadata.max.bytes)
	metaBinary  = metaMost/4*3 - 32

	runOpen     = 0 // read, neither finished nor being sent
	runFinished = 1
	runUnderWay = 2
	runUnnamed  = 3

	deadlineUnit = 100 * time.Millisecond
	deadlineMost = 5 * time.Minute // a deadline further off comes from a broken clock
)

// encode tells the window beyond base, and behind it what the owner before has told and nobody has read since (left; nil: nothing). flying must be
// sorted by offset; what lies outside the window or is finished is ignored. full says that the window did not fit, and the partition should not be read
// on until it does.
//
// Without left this sequence sends twice: A hands over while it sends offset 17 and has finished 18 to 500; B takes over, commits the same offset at once,
// as it must for its lease, and hands over to C before it has read 17, or while it waits for A's send to end. C would know nothing of either.
func (p *progress) encode(now time.Time, flying []underWay, left *inherited) (meta string, full bool) {
	end := left.end(p.next)
	if p.base == end {
		return "", false
	}
	b := make([]byte, 0, 256)
	b = append(b, metaVersion)
	b = binary.AppendUvarint(b, uint64(max(now.UnixMilli(), 0)))
	var run struct {
		length   int64
		kind     int
		deadline uint64
	}
	emit := func() {
		if run.length == 0 {
			return
		}
		b = binary.AppendUvarint(b, uint64(run.length)<<2|uint64(run.kind))
		if run.kind == runUnderWay || run.kind == runUnnamed {
			b = binary.AppendUvarint(b, run.deadline)
		}
		run.length = 0
	}
	for off := p.base; off < end; {
		kind, length, deadline := runOpen, int64(1), uint64(0)
		for len(flying) > 0 && flying[0].offset < off {
			flying = flying[1:]
		}
		if off >= p.next {
			kind, length, deadline = left.from(now, off)
		} else if w, m := p.bit(off); *w&m != 0 {
			kind, length = runFinished, p.finishedFrom(off)
		} else if len(flying) > 0 && flying[0].offset == off {
			kind, deadline = runUnderWay, deadlineUnits(now, flying[0].deadline)
		} else if _, until := left.at(off); until.After(now) { // read, and waiting for the send of the owner before
			kind, deadline = runUnderWay, deadlineUnits(now, until)
		}
		if kind != run.kind || deadline != run.deadline {
			emit()
		}
		if len(b) > metaBinary-24 || kind == runUnnamed {
			run.length, run.kind, run.deadline = end-off, runUnnamed, deadlineUnits(now, left.last())
			for _, f := range flying {
				run.deadline = max(run.deadline, deadlineUnits(now, f.deadline))
			}
			emit()
			return base64.RawStdEncoding.EncodeToString(b), off < p.next
		}
		run.kind, run.deadline = kind, deadline
		run.length += length
		off += length
	}
	if run.kind != runOpen { // a last run of open ones says nothing that its absence does not
		emit()
	}
	return base64.RawStdEncoding.EncodeToString(b), false
}

// finishedFrom is the length of the finished run that begins at off, up to the end of its word: encode joins the parts.
func (p *progress) finishedFrom(off int64) int64 {
	w := p.ring[off>>6&int64(len(p.ring)-1)]
	at := uint(off & 63)
	run := min(bits.TrailingZeros64(^(w >> at)), 64-int(at))
	return min(int64(run), p.next-off)
}

func deadlineUnits(now, deadline time.Time) uint64 {
	d := min(max(deadline.Sub(now), 0), deadlineMost)
	return uint64((d + deadlineUnit - 1) / deadlineUnit)
}

// inherited is what the owner before named in its last commit.
type inherited struct {
	runs []inheritedRun
}

type inheritedRun struct {
	from, to int64 // [from, to)
	kind     int
	until    time.Time // under way, unnamed: by the predecessor's clock
}

var errMeta = errors.New("commit metadata cannot be read")

// decodeMeta reads what encode wrote for a commit of offset base. Anything else is an error, and worth no more than a log line: without it a
// successor repeats what the marks do not know.
func decodeMeta(base int64, meta string) (inherited, error) {
	var in inherited
	if meta == "" {
		return in, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(meta)
	if err != nil || len(b) < 2 || b[0] != metaVersion {
		return in, errMeta
	}
	at, n := binary.Uvarint(b[1:])
	if n <= 0 || at > 1<<50 {
		return in, errMeta
	}
	b = b[1+n:]
	off := base
	for len(b) > 0 {
		v, n := binary.Uvarint(b)
		length := int64(v >> 2)
		if n <= 0 || length <= 0 || length > 1<<40 || off > 1<<62 {
			return inherited{}, errMeta
		}
		b = b[n:]
		r := inheritedRun{from: off, to: off + length, kind: int(v & 3)}
		if r.kind == runUnderWay || r.kind == runUnnamed {
			units, n := binary.Uvarint(b)
			if n <= 0 || units > uint64(deadlineMost/deadlineUnit) {
				return inherited{}, errMeta
			}
			b = b[n:]
			r.until = time.UnixMilli(int64(at)).Add(time.Duration(units) * deadlineUnit)
		}
		if r.kind == runUnnamed && len(b) > 0 {
			return inherited{}, errMeta
		}
		if r.kind != runOpen {
			in.runs = append(in.runs, r)
		}
		off = r.to
	}
	return in, nil
}

// at says whether the predecessor had finished off, and if not, until when it may still have been sending it (zero: it was not).
func (in *inherited) at(off int64) (finished bool, until time.Time) {
	if in == nil {
		return false, time.Time{}
	}
	i := sort.Search(len(in.runs), func(i int) bool { return in.runs[i].to > off })
	if i == len(in.runs) || off < in.runs[i].from {
		return false, time.Time{}
	}
	return in.runs[i].kind == runFinished, in.runs[i].until
}

// end is the offset behind the last one that is named, and next if that is behind it.
func (in *inherited) end(next int64) int64 {
	if in == nil || len(in.runs) == 0 {
		return next
	}
	return max(next, in.runs[len(in.runs)-1].to)
}

// last is the latest deadline of all.
func (in *inherited) last() (until time.Time) {
	if in == nil {
		return until
	}
	for _, r := range in.runs {
		if r.until.After(until) {
			until = r.until
		}
	}
	return until
}

// from is the run that begins at off, as encode says it: what was under way until a time that has passed is open. off must lie before end.
func (in *inherited) from(now time.Time, off int64) (kind int, length int64, deadline uint64) {
	i := sort.Search(len(in.runs), func(i int) bool { return in.runs[i].to > off })
	r := in.runs[i]
	switch {
	case off < r.from:
		return runOpen, r.from - off, 0
	case r.kind == runFinished:
		return runFinished, r.to - off, 0
	case r.until.After(now):
		return r.kind, r.to - off, deadlineUnits(now, r.until)
	}
	return runOpen, r.to - off, 0
}

// forget drops what lies below off: it is finished.
func (in *inherited) forget(off int64) {
	i := 0
	for i < len(in.runs) && in.runs[i].to <= off {
		i++
	}
	in.runs = slices.Delete(in.runs, 0, i)
}

// sortUnderWay sorts by offset; of two for one offset the later deadline comes first, and counts.
func sortUnderWay(list []underWay) {
	slices.SortFunc(list, func(a, b underWay) int {
		if c := cmp.Compare(a.offset, b.offset); c != 0 {
			return c
		}
		return b.deadline.Compare(a.deadline)
	})
}
