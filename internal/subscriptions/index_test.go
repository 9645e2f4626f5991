package subscriptions

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

// take applies a record as if it had been read.
func (t *Table) take(s *schemas.Subscription) {
	rec := kafka.Record{Key: []byte(s.ID), Value: schemas.AppendSubscription(nil, s), Time: 1}
	if err := t.apply(0, &rec); err != nil {
		panic(err)
	}
}

// The index against the obvious: any sequence of changes, small and large companies, every type and one that the catalogue lacks.
func TestMatchFindsExactlyThoseThatWantTheEvent(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	patterns := []string{"*", "booking.*", "*.removal", "booking.creation", "customer.amendment", "check_in.recorded", "inventory.*", "recent_reservations.*"}
	var types []string
	for _, e := range schemas.AllEventTypes() {
		types = append(types, e.Name)
	}
	types = append(types, "voucher.creation", "voucher.removal")
	companies := []string{"small", "large", "large", "large", "large", "large", "large", schemas.AnyCompany}
	table := NewTable(nil, nil, Options{})
	state := map[string]*schemas.Subscription{}
	for step := range 3000 {
		id := fmt.Sprintf("sub_%d", rng.IntN(150))
		s := state[id]
		switch {
		case s == nil:
			s = &schemas.Subscription{ID: id, Version: 1, Company: companies[rng.IntN(len(companies))], State: schemas.StateActive}
		case rng.IntN(10) == 0: // tombstone
			delete(state, id)
			if err := table.apply(0, &kafka.Record{Key: []byte(id)}); err != nil {
				t.Fatal(err)
			}
			continue
		default:
			next := *s
			s = &next
			s.Version++
			s.State = []string{schemas.StateActive, schemas.StateActive, schemas.StateDisabled, schemas.StateDeleted}[rng.IntN(4)]
		}
		s.Events = []string{patterns[rng.IntN(len(patterns))], patterns[rng.IntN(len(patterns))]}
		s.Spans = []schemas.Cut{{At: 100, Kind: schemas.CutLive}, {At: 200, Kind: schemas.CutPaused}, {At: 300, Kind: schemas.CutLive}}[:1+rng.IntN(3)]
		state[id] = s
		table.take(s)
		if step%10 != 0 {
			continue
		}
		company, event, at := []string{"small", "large", "other"}[rng.IntN(3)], types[rng.IntN(len(types))], int64(rng.IntN(400))
		var want, got []string
		for _, s := range state {
			if (s.Company == company || s.Company == schemas.AnyCompany) && s.State != schemas.StateDeleted && s.LiveAt(at) &&
				slices.ContainsFunc(s.Events, func(p string) bool { return matchesText(p, event) }) {
				want = append(want, fmt.Sprintf("%s@%d", s.ID, s.Version))
			}
		}
		for _, l := range table.Match(company, event, at, nil) {
			got = append(got, fmt.Sprintf("%s@%d", l.ID, l.Version))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: Match(%s, %s, %d) = %v, want %v", step, company, event, at, got, want)
		}
		if table.Len() != len(state) {
			t.Fatalf("Len() = %d, want %d", table.Len(), len(state))
		}
	}
}

// Readers and the one writer at once, for the race detector, and for the promise that an entry is never half there.
func TestMatchWhileTheTableChanges(t *testing.T) {
	table := NewTable(nil, nil, Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, l := range table.Match("c", "booking.creation", 100, nil) {
					if l.Company != "c" || l.State == schemas.StateDeleted {
						t.Errorf("matched %+v", l.Subscription)
					}
				}
				for l := range table.All() {
					table.Get(l.ID)
				}
			}
		})
	}
	for v := range int64(200) {
		for i := range 60 {
			s := &schemas.Subscription{ID: fmt.Sprint("sub_", i), Version: v + 1, Company: "c", Events: []string{"*"}, State: schemas.StateActive,
				Spans: []schemas.Cut{{At: 1, Kind: schemas.CutLive}}}
			if (v+int64(i))%5 == 0 {
				s.State = schemas.StateDeleted
			}
			table.take(s)
		}
	}
	close(stop)
	wg.Wait()
}

// Records that nobody of ours wrote do not unseat what stands, and do not stop the table.
func TestARecordThatCannotBeReadIsPassedOver(t *testing.T) {
	table := NewTable(nil, nil, Options{})
	s := &schemas.Subscription{ID: "sub_1", Version: 1, Company: "c", Events: []string{"*"}, State: schemas.StateActive}
	table.take(s)
	for _, rec := range []kafka.Record{{Key: []byte("sub_1"), Value: []byte("garbage")}, {Key: []byte("sub_2"), Value: []byte{}},
		{Key: []byte("sub_1"), Value: schemas.AppendSubscription(nil, &schemas.Subscription{ID: "sub_9", Version: 2})}} {
		if err := table.apply(0, &rec); err != nil {
			t.Errorf("%q: %v", rec.Value, err)
		}
	}
	if l, ok := table.Get("sub_1"); !ok || l.Version != 1 || table.Len() != 1 {
		t.Errorf("the table holds %d", table.Len())
	}
	if _, st, _ := table.standing("sub_1"); !st.repairDue {
		t.Error("no repair is due, though the cleaner may leave nothing but the garbage")
	}
}

// sample is a subscription as most are: two patterns, one secret.
func sample(k *secrets.Keyring, i, perCompany int) *schemas.Subscription {
	id := fmt.Sprintf("sub_%026d", i)
	company := fmt.Sprintf("c0ffee%06d", i/perCompany)
	secret := secrets.NewWebhookSecret()
	sealed, err := k.Seal(id, "secret/x", secret.Reveal())
	if err != nil {
		panic(err)
	}
	return &schemas.Subscription{
		ID: id, Version: 1, Company: company, Name: fmt.Sprintf("receiver %d", i), URL: "https://hooks.example.com/in/" + company,
		Events: []string{"booking.*", "customer.creation"}, Format: schemas.FormatStandard, State: schemas.StateActive, TimeoutMs: 15000,
		Secrets:   []schemas.Secret{{ID: "sec_" + strings.Repeat("a", 26), Kind: "v1", Value: sealed, Fingerprint: "0123456789abcdef", CreatedAt: 1}},
		Spans:     []schemas.Cut{{At: 1, Kind: schemas.CutLive}},
		CreatedAt: 1, UpdatedAt: 1, UpdatedBy: strings.Repeat("b", 26),
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

// loadTable makes a table of n, and says how much processor time that took, the collector's included, and how much memory it holds.
func loadTable(n, perCompany int) (t *Table, took time.Duration, bytesEach float64) {
	k := secrets.Generate()
	t = NewTable(nil, k, Options{})
	const batch = 10_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := 0; i < n; i += batch {
		values := make([][]byte, min(batch, n-i)) // made apart: only taking them in is measured
		for j := range values {
			values[j] = schemas.AppendSubscription(nil, sample(k, i+j, perCompany))
		}
		keys := make([][]byte, len(values))
		for j := range keys {
			keys[j] = fmt.Appendf(nil, "sub_%026d", i+j)
		}
		began := cpu()
		for j := range values {
			if err := t.apply(0, &kafka.Record{Key: keys[j], Value: values[j], Time: 1}); err != nil {
				panic(err)
			}
		}
		took += cpu() - began
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	return t, took, float64(after.HeapAlloc-before.HeapAlloc) / float64(n)
}

// go test -run XXX -bench Million -benchtime 1x ./internal/subscriptions
func BenchmarkLoadMillion(b *testing.B) {
	for b.Loop() {
		t, took, each := loadTable(1_000_000, 3)
		b.ReportMetric(took.Seconds(), "cpu-s/million")
		b.ReportMetric(each, "B/subscription")
		runtime.KeepAlive(t)
	}
}

// What a subscription may cost in memory is a promise: a million fit into a GiB.
func TestASubscriptionTakesLessThanAKiB(t *testing.T) {
	_, _, each := loadTable(20_000, 3)
	t.Logf("%.0f bytes each", each)
	if each > 1024 {
		t.Errorf("%.0f bytes each", each)
	}
}

var matchTable = sync.OnceValue(func() *Table {
	t, _, _ := loadTable(1_000_000, 3)
	k := secrets.Generate()
	for i := range 1000 { // one large company: 100 want everything
		s := sample(k, 2_000_000+i, 1)
		s.Company, s.Events = "large", []string{"employee.*"}
		if i < 100 {
			s.Events = []string{"*"}
		}
		t.take(s)
	}
	return t
})

// go test -run XXX -bench MatchAmongAMillion ./internal/subscriptions
func BenchmarkMatchAmongAMillion(b *testing.B) {
	t := matchTable()
	var dst []*Live
	for name, f := range map[string]func(i int) (string, string){
		"3 hits":              func(i int) (string, string) { return fmt.Sprintf("c0ffee%06d", i*7919%333_333), "booking.creation" },
		"none of 3":           func(i int) (string, string) { return fmt.Sprintf("c0ffee%06d", i*7919%333_333), "employee.creation" },
		"100 hits of 1000":    func(i int) (string, string) { return "large", "booking.creation" },
		"company not there":   func(i int) (string, string) { return "nobody", "booking.creation" },
		"type not catalogued": func(i int) (string, string) { return fmt.Sprintf("c0ffee%06d", i*7919%333_333), "voucher.creation" },
	} {
		var company, event [1024]string
		for i := range company {
			company[i], event[i] = f(i)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				dst = t.Match(company[i%1024], event[i%1024], 100, dst[:0])
			}
		})
	}
}
