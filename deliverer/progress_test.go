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
	meta, full := p.encode(noon, flying)
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
	meta, _ := p.encode(noon, []underWay{{7, noon.Add(time.Second)}})
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
	if _, full := p.encode(noon, flying); !full {
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
	meta, full := p.encode(noon, []underWay{{0, noon.Add(15 * time.Second)}})
	if full || len(meta) > 32 || strings.ContainsAny(meta, "\x00\n") {
		t.Fatalf("%d bytes, full %v", len(meta), full)
	}
	roundTrip(t, p, []underWay{{0, noon.Add(15 * time.Second)}})
}
