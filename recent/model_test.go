package recent

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// history is a topic of bookings: records with versions that mostly rise, some in the wrong order, some twice, some in a partition of another
// partitioner, and many with one append time.
type history struct {
	records []Change
	ends    [12]int64
	starts  [12]int64
	now     int64
	version map[string]int64
}

func (h *history) add(rng *rand.Rand, company, id string) {
	partition := kafka.Partition([]byte(company+"/"+id), len(h.ends))
	if rng.IntN(50) == 0 {
		partition = int32(rng.IntN(len(h.ends)))
	}
	h.now += int64(rng.IntN(2))
	h.version[company+"/"+id]++
	version := h.version[company+"/"+id]
	switch rng.IntN(20) {
	case 0:
		version -= int64(rng.IntN(3))
	case 1:
		version += int64(rng.IntN(3)) // and the ones between come later
	}
	line := schemas.RecentBooking{BookingID: id, EntityVersion: version, ChangedAt: time.UnixMilli(h.now).UTC(), OccurredAt: time.UnixMilli(h.now).UTC(),
		Status: []schemas.BookingStatus{schemas.BookingStatusConfirmed, schemas.BookingStatusCancelled}[rng.IntN(2)], LastEvent: "booking.amendment",
		Lines: int32(h.ends[partition])}
	b, err := line.AppendAvro(nil)
	if err != nil {
		panic(err)
	}
	h.records = append(h.records, Change{Position: Position{h.now, partition, h.ends[partition]}, Company: company, Booking: id, Version: version, Line: b})
	h.ends[partition]++
}

// trim lets retention take some of every partition.
func (h *history) trim(rng *rand.Rand) {
	for p := range h.starts {
		h.starts[p] += int64(float64(h.ends[p]-h.starts[p]) * rng.Float64() * 0.4)
	}
}

// plain is the list by the obvious way.
func (h *history) plain(company string, records []Change, limit int) [][]byte {
	best := map[string]*Change{}
	for i := range records {
		r := &records[i]
		if r.Company != company || r.Offset < h.starts[r.Partition] {
			continue
		}
		b := best[r.Booking]
		if b == nil || r.Version > b.Version || r.Version == b.Version && r.compare(b.Position) > 0 {
			best[r.Booking] = r
		}
	}
	var list []*Change
	for _, r := range best {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *Change) int {
		return -cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	var out [][]byte
	for _, r := range list[:min(limit, len(list))] {
		out = append(out, r.Line)
	}
	return out
}

// rebuild reads the topic as a process does that starts: partition by partition, from where each begins.
func (h *history) rebuild(order []int) *Model {
	m := NewModel()
	for _, p := range order {
		m.Trim(int32(p), h.starts[p])
		for i := range h.records {
			if r := &h.records[i]; r.Partition == int32(p) && r.Offset >= h.starts[p] {
				m.Apply(r)
			}
		}
	}
	return m
}

func (h *history) check(t *testing.T, what string, m *Model, companies int, byCompany map[string][]Change) {
	t.Helper()
	for c := range companies {
		company := fmt.Sprint("c", c)
		for _, limit := range []int{DefaultLimit, Most} {
			got, want := m.Latest(company, limit), h.plain(company, byCompany[company], limit)
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("%s: company %s: the latest %d differ from the plain recomputation:\n%v\n%v", what, company, limit, brief(got), brief(want))
			}
		}
	}
}

func brief(lines [][]byte) (out []string) {
	for _, line := range lines {
		var l schemas.RecentBooking
		if err := l.DecodeAvro(line); err != nil {
			panic(err)
		}
		out = append(out, fmt.Sprintf("%s v%d at %d (%d)", l.BookingID, l.EntityVersion, l.ChangedAt.UnixMilli(), l.Lines))
	}
	return out
}

// 1,000 companies with 200 changes each, while retention takes the oldest, and after rebuilds in three orders of the partitions.
func TestTheModelIsAPlainRecomputation(t *testing.T) {
	const companies, changes = 1000, 200
	rng := rand.New(rand.NewPCG(5, 5))
	h := &history{version: map[string]int64{}, now: 1_700_000_000_000}
	m := NewModel()
	byCompany := map[string][]Change{}
	for step := range companies * changes {
		company := fmt.Sprint("c", rng.IntN(companies))
		if step < companies*100 && rng.IntN(4) == 0 {
			company = "c0" // one that is larger than others
		}
		h.add(rng, company, fmt.Sprint("B-", rng.IntN(60)))
		m.Apply(&h.records[len(h.records)-1])
		if step%(companies*changes/5) == companies*changes/5-1 {
			if step > companies*changes/5 { // the first time nothing is old yet
				h.trim(rng)
				for p, start := range h.starts {
					m.Trim(int32(p), start)
				}
				if step%2 == 1 {
					for _, name := range m.Stale() {
						m.Sweep(name)
					}
				}
			}
			clear(byCompany)
			for _, r := range h.records {
				byCompany[r.Company] = append(byCompany[r.Company], r)
			}
			h.check(t, fmt.Sprint("after ", step+1, " changes"), m, companies, byCompany)
		}
	}
	forward := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	for _, order := range [][]int{forward, backward, rng.Perm(12)} {
		h.check(t, fmt.Sprint("rebuilt in the order ", order), h.rebuild(order), companies, byCompany)
	}
}

// A company with more bookings than are kept: the latest 500 are exact, while older ones change again, late versions of forgotten ones come, and
// what is kept stays bounded.
func TestTheLatest500OfManyAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	h := &history{version: map[string]int64{}, now: 1}
	m := NewModel()
	for step := range 12_000 {
		h.add(rng, "c0", fmt.Sprint("B-", rng.IntN(1+step/4)))
		m.Apply(&h.records[step])
		if step%1500 == 1499 {
			h.check(t, fmt.Sprint(step), m, 1, map[string][]Change{"c0": h.records})
			lines, known := 0, 0
			for _, b := range m.companies["c0"].bookings {
				known++
				if b.states[0].line != nil {
					lines++
				}
			}
			if lines > Most+slack+1 || known > Most+remembered+slack+1 {
				t.Errorf("%d lines and %d bookings are kept", lines, known)
			}
		}
	}
	h.check(t, "rebuilt", h.rebuild(rng.Perm(12)), 1, map[string][]Change{"c0": h.records})
}

func TestACompanyWhoseBookingsAreAllGoneIsGone(t *testing.T) {
	h := &history{version: map[string]int64{}, now: 1}
	m := NewModel()
	for range 20 {
		h.add(rand.New(rand.NewPCG(1, 1)), "c0", "B-1")
	}
	for i := range h.records {
		m.Apply(&h.records[i])
	}
	for p, end := range h.ends {
		m.Trim(int32(p), end)
	}
	if got := m.Latest("c0", 10); len(got) != 0 {
		t.Errorf("%v", brief(got))
	}
	for _, name := range m.Stale() {
		m.Sweep(name)
	}
	if companies, _ := m.Size(); companies != 0 {
		t.Errorf("%d companies", companies)
	}
	if m.Latest("nobody", 10) != nil || m.Latest("\xff\x00", 10) != nil {
		t.Error("somebody has bookings who never had any")
	}
}

// cpu is the processor time that this process has taken: other load on the machine does not count.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// What one asks for is answered within 5 ms: the largest list of a company that has had more bookings than are kept.
func TestTheLargestQueryTakesLessThan5ms(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	h := &history{version: map[string]int64{}, now: 1}
	m := NewModel()
	for i := range 60_000 {
		h.add(rng, fmt.Sprint("c", i%20), fmt.Sprint("B-", rng.IntN(3000)))
		m.Apply(&h.records[i])
	}
	b := &bookings{model: m, asOf: time.Now()}
	var took []time.Duration
	used := cpu()
	for i := range 200 {
		began := time.Now()
		doc, err := b.document(&Ask{Company: fmt.Sprint("c", i%20), Limit: Most})
		took = append(took, time.Since(began))
		if err != nil || len(doc) < 100_000 {
			t.Fatal(len(doc), err)
		}
	}
	each := (cpu() - used) / 200
	slices.Sort(took)
	t.Logf("500 bookings of a company with 3,000: %v of processor time; fastest %v, median %v, p99 %v", each, took[0], took[100], took[197])
	if each > 5*time.Millisecond {
		t.Errorf("a query takes %v of processor time", each)
	}
}
