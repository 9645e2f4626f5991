package deliverer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var noon = time.UnixMilli(1_700_000_000_000)

// model is progress as one would write it without thinking of speed.
type model struct {
	base, next int64
	done       map[int64]bool
}

func (m *model) finish(off int64) {
	m.done[off] = true
	for m.done[m.base] && m.base < m.next {
		m.base++
	}
}

func TestProgressAgreesWithASlowModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		start := rng.Int64N(1000)
		p, m := newProgress(start), &model{base: start, next: start, done: map[int64]bool{}}
		var open []int64
		for range 3000 {
			if rng.IntN(100) < 52 {
				off := m.next
				if rng.IntN(50) == 0 {
					off += rng.Int64N(200)
				}
				if err := p.take(off); err != nil {
					t.Fatal(err)
				}
				for ; m.next < off; m.next++ {
					m.done[m.next] = true
				}
				m.next = off + 1
				for m.done[m.base] {
					m.base++
				}
				open = append(open, off)
			} else if len(open) > 0 {
				i := rng.IntN(len(open))
				if rng.IntN(3) > 0 {
					i = 0
				}
				if err := p.finish(open[i]); err != nil {
					t.Fatal(err)
				}
				m.finish(open[i])
				open = append(open[:i], open[i+1:]...)
			}
			if p.base != m.base || p.next != m.next {
				t.Fatalf("seed %d: base %d next %d, want %d %d", seed, p.base, p.next, m.base, m.next)
			}
			if err := p.check(); err != nil {
				t.Fatal(err)
			}
			if p.open() != int64(len(open)) {
				t.Fatalf("open %d, want %d", p.open(), len(open))
			}
		}
	}
}

func TestProgressRefusesWhatOnlyABugCanAsk(t *testing.T) {
	p := newProgress(10)
	for off := int64(10); off < 14; off++ {
		if err := p.take(off); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.take(12); err == nil {
		t.Error("an offset was taken twice")
	}
	if err := p.finish(12); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{9, 12, 14} {
		if err := p.finish(off); err == nil {
			t.Errorf("finish(%d) was accepted", off)
		}
	}
}

// roundTrip checks that a successor who reads what encode wrote knows each offset as it was, or "unnamed" where it did not fit.
func roundTrip(t *testing.T, p *progress, flying []underWay) {
	t.Helper()
	meta, full := p.encode(noon, flying, nil)
	if len(meta) > metaMost {
		t.Fatalf("%d bytes of metadata", len(meta))
	}
	in, err := decodeMeta(p.base, meta)
	if err != nil {
		t.Fatal(err)
	}
	deadlines := map[int64]time.Time{}
	for _, f := range flying {
		if f.deadline.After(deadlines[f.offset]) {
			deadlines[f.offset] = f.deadline
		}
	}
	cut := false
	for off := p.base; off < p.next; off++ {
		finished, until := in.at(off)
		deadline := deadlines[off]
		switch {
		case !cut && finished == p.isFinished(off) && (finished || until.IsZero() == deadline.IsZero() && !until.Before(deadline)):
		case !finished && !until.Before(deadline) && full:
			cut = true // from here on unnamed: nothing counts as finished, and all deadlines are waited out
		default:
			t.Fatalf("offset %d: finished %v until %v; want %v %v (full %v)", off, finished, until, p.isFinished(off), deadline, full)
		}
	}
	if finished, until := in.at(p.next); finished || !until.IsZero() && !full {
		t.Fatal("an unread offset counts as finished or under way")
	}
}

func FuzzProgressMetadata(f *testing.F) {
	f.Add(uint64(1), 100, 10, 3)
	f.Add(uint64(2), 60000, 50, 2)
	f.Add(uint64(3), 0, 0, 0)
	f.Add(uint64(4), 5000, 3, 1)
	f.Fuzz(func(t *testing.T, seed uint64, n, finishPercent, flyOneIn int) {
		if n < 0 || n > 20000 || finishPercent < 0 || finishPercent > 100 || flyOneIn < 0 {
			t.Skip()
		}
		rng := rand.New(rand.NewPCG(seed, 2))
		p := newProgress(rng.Int64N(1 << 40))
		var flying []underWay
		for range n {
			off := p.next
			if err := p.take(off); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(100) < finishPercent {
				p.finish(off)
			} else if flyOneIn > 0 && rng.IntN(flyOneIn) == 0 {
				flying = append(flying, underWay{off, noon.Add(time.Duration(rng.IntN(30000)) * time.Millisecond)})
			}
		}
		roundTrip(t, p, flying)
	})
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(int64(0), "")
	p := newProgress(5)
	for off := int64(5); off < 500; off++ {
		p.take(off)
		if off%3 == 0 {
			p.finish(off)
		}
	}
	meta, _ := p.encode(noon, []underWay{{7, noon.Add(time.Second)}}, nil)
	f.Add(int64(5), meta)
	f.Fuzz(func(t *testing.T, base int64, meta string) {
		in, err := decodeMeta(base, meta)
		if err != nil {
			return
		}
		for _, r := range in.runs {
			if r.to <= r.from {
				t.Fatalf("a run of %d offsets", r.to-r.from)
			}
		}
		in.at(base)
		in.forget(base + 10)
	})
}

func TestAWindowWithHolesEverywhereIsCutAndSaysSo(t *testing.T) {
	p := newProgress(0)
	var flying []underWay
	for off := int64(0); off < 20000; off++ {
		p.take(off)
		switch off % 3 {
		case 1:
			p.finish(off)
		case 2:
			flying = append(flying, underWay{off, noon.Add(time.Duration(off%300) * 100 * time.Millisecond)})
		}
	}
	if _, full := p.encode(noon, flying, nil); !full {
		t.Fatal("13,000 runs fitted into 4 KiB")
	}
	roundTrip(t, p, flying)
}

func TestMetadataOfOneHungSendIsShort(t *testing.T) {
	p := newProgress(0)
	for off := int64(0); off < 100_000; off++ {
		p.take(off)
		if off > 0 {
			p.finish(off)
		}
	}
	meta, full := p.encode(noon, []underWay{{0, noon.Add(15 * time.Second)}}, nil)
	if full || len(meta) > 32 || strings.ContainsAny(meta, "\x00\n") {
		t.Fatalf("%d bytes, full %v", len(meta), full)
	}
	roundTrip(t, p, []underWay{{0, noon.Add(15 * time.Second)}})
}

// A hands over to B, and B to C before B has come to what A named: C must know it all the same.
func TestWhatTheOwnerBeforeNamedOutlivesASecondHandOver(t *testing.T) {
	a := newProgress(100)
	for off := int64(100); off < 600; off++ {
		a.take(off)
		if off > 110 && off != 300 {
			a.finish(off)
		}
	}
	meta, _ := a.encode(noon, []underWay{{100, noon.Add(15 * time.Second)}, {300, noon.Add(9 * time.Second)}}, nil)
	for _, read := range []int64{100, 101, 105, 250, 301, 599, 600, 700} {
		in, err := decodeMeta(100, meta)
		if err != nil {
			t.Fatal(err)
		}
		b := newProgress(100)
		for off := int64(100); off < read; off++ {
			b.take(off)
			if finished, _ := in.at(off); finished {
				b.finish(off)
			}
		}
		in.forget(b.base)
		later := noon.Add(3 * time.Second)
		again, full := b.encode(later, nil, &in)
		if full {
			t.Errorf("read to %d: it did not fit", read)
		}
		c, err := decodeMeta(b.base, again)
		if err != nil {
			t.Fatal(err)
		}
		for off := b.base; off < 600; off++ {
			finished, until := c.at(off)
			var want time.Time
			switch off {
			case 100:
				want = noon.Add(15 * time.Second)
			case 300:
				want = noon.Add(9 * time.Second)
			}
			if finished != a.isFinished(off) || until.Before(want) || until.After(want.Add(deadlineUnit)) {
				t.Fatalf("read to %d, offset %d: finished %v until %v, want %v %v", read, off, finished, until, a.isFinished(off), want)
			}
		}
		// What has run out is not waited for any more, by nobody.
		again, _ = b.encode(noon.Add(time.Minute), nil, &in)
		if c, err = decodeMeta(b.base, again); err != nil || !c.last().IsZero() {
			t.Errorf("read to %d: a deadline outlived itself: %v %v", read, c.last(), err)
		}
	}
}

// What did not fit is waited out by the third owner as by the second, and does not keep the second from reading on.
func TestWhatWasUnnamedStaysUnnamedAndDoesNotCrowd(t *testing.T) {
	a := newProgress(0)
	var flying []underWay
	for off := int64(0); off < 20000; off++ {
		a.take(off)
		if off%2 == 1 {
			a.finish(off)
		} else {
			flying = append(flying, underWay{off, noon.Add(time.Duration(off%300) * 100 * time.Millisecond)})
		}
	}
	meta, full := a.encode(noon, flying, nil)
	if !full {
		t.Fatal("it fitted")
	}
	in, err := decodeMeta(0, meta)
	if err != nil {
		t.Fatal(err)
	}
	again, full := newProgress(0).encode(noon.Add(time.Second), nil, &in)
	if full || len(again) > metaMost {
		t.Fatalf("full %v, %d bytes: nothing was read, so nothing can make it shorter but reading on", full, len(again))
	}
	c, err := decodeMeta(0, again)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flying {
		if finished, until := c.at(f.offset); finished || f.deadline.After(noon.Add(time.Second)) && until.Before(f.deadline) {
			t.Fatalf("offset %d: finished %v until %v, want %v", f.offset, finished, until, f.deadline)
		}
	}
}
