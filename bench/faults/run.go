package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// Four companies with five subscriptions each: 20 subscriptions, every event is owed to five of them.
const (
	companies  = 4
	perCompany = 5
)

// scenario is one way of breaking things. act runs while events flow and returns what it did; it may take as long as the flow.
type scenario struct {
	name    string
	what    string
	brokers int // 0: one
	act     func(ctx context.Context, w *world) error

	publish func(ctx context.Context, w *world, p *rig.Publisher) ([]rig.Sent, error) // lets events flow in its own way; nil: events at a rate

	deploy func(c *rig.DeployConfig)                 // asks for other settings than the usual ones
	paths  func(company, i int) string               // how receiver i of a company behaves: the script of a path of rig.Farm without the name ("/flap/2"); nil: "/ok"
	check  func(ctx context.Context, w *world) error // promises of this scenario alone, asked after the checker

	events int           // instead of -events
	rate   float64       // instead of -rate
	flow   time.Duration // spread the events over this time instead of a rate
	long   int           // events in the long form (-long); 0: as in the usual one
	rest   time.Duration // allowed for all that is owed to arrive after the last event; 0: one minute
	short  bool          // part of the short form (-short), which CI runs

	noRepeat      bool    // not one duplicate is allowed
	maxDuplicates float64 // share of the deliveries that may come twice, explained; 0: no bound but that of noRepeat
	compareP99    bool    // the p99 of the 40 s with the fault in it must stay within 1.2 times that of the 30 s before
}

// config is the deployment that a scenario asks for.
func (s *scenario) config(dir string) rig.DeployConfig {
	c := rig.DeployConfig{Dir: dir, Brokers: max(1, s.brokers), Heap: "384m"}
	if s.deploy != nil {
		s.deploy(&c)
	}
	return c
}

// world is a running deployment, what flows through it, and the log of what was done to it.
type world struct {
	d         *rig.Deployment
	seed      uint64
	rng       *rand.Rand // of the scenario's own goroutine
	short     bool
	long      bool
	companies []string
	events    int
	rate      float64

	mu     sync.Mutex
	faults []Fault
	from   time.Time // what compareP99 compares
	to     time.Time
	ran    *Run // the ledgers, for scenario.check
}

// fault does something to the system and logs when it began and ended. It may be called from several goroutines.
func (w *world) fault(kind FaultKind, do func() error) error { return w.faultOn(kind, "", do) }

// faultOn is fault with the process, or whatever else it is done to.
func (w *world) faultOn(kind FaultKind, who string, do func() error) error {
	start := time.Now()
	err := do()
	w.log(Fault{kind, who, start, time.Now()})
	return err
}

// log notes what was done to the system by others.
func (w *world) log(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// options is what the command line asked for.
type options struct {
	dir         string
	events      int
	rate        float64
	seed        uint64
	short, long bool
}

// runner runs scenarios one after the other and keeps the brokers from one to the next while they ask for the same.
type runner struct {
	options
	d    *rig.Deployment
	have rig.DeployConfig
	runs int
}

func (r *runner) close() {
	if r.d != nil {
		r.d.Close()
		r.d = nil
	}
}

// deployment gives the one that stands if it is what is asked for, or starts another.
func (r *runner) deployment(ctx context.Context, c rig.DeployConfig) (*rig.Deployment, error) {
	if r.d != nil && r.have.SameBrokers(c) {
		r.d.StopServices()
		return r.d, r.d.Configure(c)
	}
	r.close()
	d, err := rig.Deploy(ctx, c)
	if err != nil {
		return nil, err
	}
	r.d, r.have = d, c
	return d, nil
}

// receiverName of subscription i of a company, unlike that of every other run on the same brokers.
func receiverName(run, company, i int) string { return fmt.Sprintf("r%d-%d-%d", run, company, i) }

// subscriptions makes the companies and receivers of a run.
func (r *runner) subscriptions(s *scenario, w *world) (subs []rig.Subscription, owed map[string]func(int) bool) {
	owed = map[string]func(int) bool{}
	for c := range companies {
		w.companies = append(w.companies, fmt.Sprintf("run%d-company%d", r.runs, c))
		for i := range perCompany {
			name, script := receiverName(r.runs, c, i), "/ok"
			if s.paths != nil {
				script = s.paths(c, i)
			}
			subs = append(subs, rig.Subscription{Company: w.companies[c], Path: strings.TrimSuffix(script, "/NAME") + "/" + name})
			owed[name] = func(company int) bool { return company == c }
		}
	}
	return subs, owed
}

// run lets events flow while the scenario acts, waits until all is quiet, and checks.
func (r *runner) run(ctx context.Context, s *scenario) (err error) {
	began := time.Now()
	r.runs++
	w := &world{seed: r.seed, rng: rand.New(rand.NewPCG(r.seed, 1)), short: r.short, long: r.long, events: r.options.events, rate: r.options.rate}
	w.size(s)
	if w.d, err = r.deployment(ctx, s.config(r.dir)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.close() // what broke once is not trusted with another scenario
		}
	}()
	subs, owed := r.subscriptions(s, w)
	d := w.d
	if err := errors.Join(d.Farm.Reset(), d.Subscribe(ctx, subs), d.StartRouter(ctx, "router"), d.StartDeliverer(ctx, "deliverer-1"), d.StartDeliverer(ctx, "deliverer-2")); err != nil {
		return err
	}
	p, err := d.Publisher(w.companies)
	if err != nil {
		return err
	}
	acted := make(chan error, 1)
	go func() { acted <- s.act(ctx, w) }()
	ledger, err := s.flows(ctx, w, p)
	if aerr := <-acted; err == nil {
		err = aerr
	}
	if err != nil {
		return err
	}
	want := int64(len(ledger) * perCompany)
	rest := s.rest
	if rest == 0 {
		rest = time.Minute
	}
	rig.Until(rest, "all owed arrive", func() bool { return d.Farm.Count() >= want })
	if err := pause(ctx, 8*time.Second); err != nil { // longer than a session time-out: a late second copy would show up now
		return err
	}
	seen, err := d.Farm.Ledger(fmt.Sprintf("r%d-", r.runs))
	if err != nil {
		return err
	}
	w.ran = &Run{Events: ledger, First: p.First(), Owed: owed, Receivers: seen, Faults: w.faults}
	f := Check(w.ran)
	if err := s.verdict(f, seen, w, time.Since(began)); err != nil {
		return err
	}
	if s.check != nil {
		return s.check(ctx, w)
	}
	return nil
}

// flows lets events flow, beside act.
func (s *scenario) flows(ctx context.Context, w *world, p *rig.Publisher) ([]rig.Sent, error) {
	if s.publish != nil {
		return s.publish(ctx, w, p)
	}
	return p.Open(ctx, w.events, w.rate)
}

// size settles how many events flow how fast: what the scenario asks for wins over the command line.
func (w *world) size(s *scenario) {
	if s.events > 0 {
		w.events = s.events
	}
	if w.long && s.long > 0 {
		w.events = s.long
	}
	if s.rate > 0 {
		w.rate = s.rate
	}
	if s.flow > 0 {
		w.rate = float64(w.events) / s.flow.Seconds()
	}
}

// verdict prints one line, and what was found wrong below it.
func (s *scenario) verdict(f *Finding, seen map[string][]rig.Entry, w *world, took time.Duration) error {
	share := float64(f.Duplicates) / float64(max(f.Delivered, 1))
	ok := f.OK() && !(s.noRepeat && f.Duplicates > 0) && (s.maxDuplicates == 0 || share <= s.maxDuplicates)
	note := ""
	if s.compareP99 {
		before, during := p99(seen, w.from.Add(-30*time.Second), w.from), p99(seen, w.from, w.to)
		ratio := float64(during) / float64(before)
		note = fmt.Sprintf(", p99 %.1f ms over 30 s before, %.1f ms over 40 s with a join and a leave: %.2f x (goal <= 1.2)", ms(before), ms(during), ratio)
	}
	word := "ok  "
	if !ok {
		word = "FAIL"
	}
	fmt.Printf("%s  %-16s %s: accepted %d, unknown %d, owed %d, delivered %d, lost %d, duplicates %d, unexplained %d%s (%.0f s, seed %d)\n",
		word, s.name, s.what, f.Accepted, f.Unknown, f.Owed, f.Delivered, len(f.Lost), f.Duplicates, len(f.Unexplained), note, took.Seconds(), w.seed)
	for _, list := range [][]string{f.Lost, f.Ghost, f.Misrouted, f.Unexplained, f.Changed} {
		for i, line := range list {
			if i == 5 {
				fmt.Printf("      and %d more\n", len(list)-i)
				break
			}
			fmt.Println("      " + line)
		}
	}
	if !ok {
		return errors.New("see above")
	}
	return nil
}

// p99 of the time from due to arrival, of what arrived between two moments.
func p99(seen map[string][]rig.Entry, from, to time.Time) time.Duration {
	var d []time.Duration
	for _, l := range seen {
		for _, e := range l {
			if at := time.Unix(0, e.At); at.After(from) && at.Before(to) {
				d = append(d, time.Duration(e.At-e.Due))
			}
		}
	}
	return rig.Quantile(d, 0.99)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
