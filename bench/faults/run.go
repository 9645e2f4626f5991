package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	alone   func(ctx context.Context, r *runner, s *scenario) error // runs by itself, with flow and checks of its own; nil: as run does

	publish func(ctx context.Context, w *world, p *rig.Publisher) ([]rig.Sent, error) // lets events flow in its own way; nil: events at a rate

	deploy func(c *rig.DeployConfig)                 // asks for other settings than the usual ones
	paths  func(company, i int) string               // how receiver i of a company behaves: the script of a path of rig.Farm without the name ("/flap/2"); nil: "/ok"
	check  func(ctx context.Context, w *world) error // promises of this scenario alone, asked after the checker

	events int           // instead of -events
	rate   float64       // instead of -rate
	flow   time.Duration // spread the events over this time instead of a rate
	long   int           // events in the long form; 0: as in the usual one
	longer time.Duration // in place of flow in the long form; 0: as in the usual one
	rest   time.Duration // allowed for all that is owed to arrive after the last event; 0: one minute

	from       form                             // the smallest form that it is part of; 0: the usual one
	standsFor  string                           // it is the small form of that scenario, and left out where that one runs
	enumerated bool                             // its kills are at places that a list has named
	unable     func(ctx context.Context) string // why it cannot run on this machine; "": it can

	noRepeat      bool    // not one duplicate is allowed
	maxDuplicates float64 // share of the deliveries that may come twice, explained; 0: no bound but that of noRepeat
	compareP99    bool    // of no receiver may the p99 of the 40 s with the fault in it be over 1.2 times that of the 30 s before
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
	form      form
	companies []string
	subs      []rig.Subscription
	events    int
	rate      float64

	dir string // of this run: ledgers, log of faults, verdict

	mu     sync.Mutex
	faults []Fault
	from   time.Time // what compareP99 compares
	to     time.Time
	moves  []time.Time // when members came and went meanwhile
	ran    *Run        // the ledgers, for scenario.check
}

// fault does something to the system and logs when it began and ended. It may be called from several goroutines.
func (w *world) fault(kind FaultKind, do func() error) error { return w.faultOn(kind, "", do) }

// faultOn is fault with the process, or whatever else it is done to.
func (w *world) faultOn(kind FaultKind, who string, do func() error) error {
	start := time.Now()
	w.tell("begins", Fault{kind, who, start, start})
	err := do()
	w.log(Fault{kind, who, start, time.Now()})
	return err
}

// log notes what was done to the system by others.
func (w *world) log(f Fault) {
	w.tell("ended", f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
}

// tell writes a line to the log of faults, which is there to be read even if the rig dies over a fault.
func (w *world) tell(what string, f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	file, err := os.OpenFile(filepath.Join(w.dir, "faults.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // a scenario without a directory, as in tests
	}
	defer file.Close()
	fmt.Fprintf(file, "%s\t%s\n", what, f)
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
	dir    string
	events int
	rate   float64
	seed   uint64
	form   form
	cells  string // of the scenario points: only those whose text holds this
}

// runner runs scenarios one after the other and keeps the brokers from one to the next while they ask for the same.
type runner struct {
	options
	d    *rig.Deployment
	have rig.DeployConfig
	runs int
	sum  tally
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

// stage is one run between its beginning and its verdict.
type stage struct {
	s     *scenario
	w     *world
	p     *rig.Publisher
	sent  *rig.SentFile
	subs  []rig.Subscription
	owed  map[string]func(int) bool
	marks *rig.Marks
	warm  int // events that were sent before anything was done
	had   map[string]rig.Resources
}

// schedule of receivers that do not always answer 2xx: as many tries as the default, soon after each other, since a run lasts minutes.
func schedule() []time.Duration {
	waits := make([]time.Duration, 10)
	for i := 1; i < len(waits); i++ {
		waits[i] = 5 * time.Second
	}
	return waits
}

// versions is how many events an entity has.
const versions = 4

// subscriptions makes the companies and receivers of a run.
func (g *stage) subscriptions(run int) {
	g.owed = map[string]func(int) bool{}
	for c := range companies {
		g.w.companies = append(g.w.companies, fmt.Sprintf("run%d-company%d", run, c))
		for i := range perCompany {
			name, script := receiverName(run, c, i), "/ok"
			if g.s.paths != nil {
				script = strings.TrimSuffix(g.s.paths(c, i), "/NAME")
			}
			sub := rig.Subscription{Company: g.w.companies[c], Path: script + "/" + name}
			if script != "/ok" {
				sub.Schedule = schedule()
			}
			g.subs = append(g.subs, sub)
			g.owed[name] = func(company int) bool { return company == c }
		}
	}
}

// run lets events flow while the scenario acts, waits until all is quiet, and checks.
func (r *runner) run(ctx context.Context, s *scenario) (err error) {
	if s.alone != nil {
		return s.alone(ctx, r, s)
	}
	began := time.Now()
	r.runs++
	w := &world{seed: r.seed, rng: rand.New(rand.NewPCG(r.seed, 1)), form: r.form, events: r.options.events, rate: r.options.rate}
	w.size(s)
	if w.d, err = r.deployment(ctx, s.config(r.dir)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.close() // what broke once is not trusted with another scenario
		}
	}()
	g := &stage{s: s, w: w}
	defer func() {
		if err != nil && w.dir != "" {
			r.keep(w, err)
		}
	}()
	if err := r.begin(ctx, g); err != nil {
		return err
	}
	acted := make(chan error, 1)
	go func() { acted <- s.act(ctx, w) }()
	_, err = s.flows(ctx, w, g.p)
	if aerr := <-acted; err == nil {
		err = aerr
	}
	if err != nil {
		return err
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if w.ran, err = g.evidence(ctx); err != nil {
		return err
	}
	f := Check(w.ran)
	r.sum.add(s, f, w.ran.Faults)
	if err := s.verdict(f, w, time.Since(began)); err != nil {
		return err
	}
	if s.check != nil {
		return s.check(ctx, w)
	}
	return nil
}

// begin opens the ledgers, makes the subscriptions, starts the services, and lets a few events through so that what the services hold can be compared with
// what they hold at the end.
func (r *runner) begin(ctx context.Context, g *stage) (err error) {
	w, d := g.w, g.w.d
	w.dir = filepath.Join(d.Dir, fmt.Sprintf("run-%d-%s", r.runs, g.s.name))
	if err := errors.Join(os.RemoveAll(w.dir), os.MkdirAll(w.dir, 0o700)); err != nil {
		return err
	}
	g.subscriptions(r.runs)
	// Where a p99 is compared, the pauses of the disk would be measured: there the farm's lines survive the death of every process, not of the machine.
	sync := !g.s.compareP99
	if err := errors.Join(d.Farm.Reset(), d.Farm.Open(filepath.Join(w.dir, "farm.ledger"), sync), d.Subscribe(ctx, g.subs),
		d.StartRouter(ctx, "router"), d.StartDeliverer(ctx, "deliverer-1"), d.StartDeliverer(ctx, "deliverer-2")); err != nil {
		return err
	}
	w.subs = g.subs
	if g.marks, err = d.Marks(ctx); err != nil {
		return err
	}
	if g.p, err = d.VersionPublisher(w.companies, versions); err != nil {
		return err
	}
	if g.sent, err = rig.CreateSentFile(filepath.Join(w.dir, "publisher.ledger")); err != nil {
		return err
	}
	g.p.Keep(g.sent)
	return g.warmUp(ctx)
}

// warmEvents are sent before a run: each company's first 40.
const warmEvents = 40 * companies

func (g *stage) warmUp(ctx context.Context) error {
	if _, err := g.p.Open(ctx, warmEvents, 400); err != nil {
		return err
	}
	g.warm = warmEvents
	prompt := 0
	for _, sub := range g.subs {
		if rig.Delivers(sub.Path) && !strings.Contains(sub.Path, "/flap/") {
			prompt++
		}
	}
	farm := g.w.d.Farm
	if err := rig.Until(time.Minute, "the first events arrive", func() bool {
		return farm.Distinct(g.prefix()) >= int64(prompt*warmEvents/companies) || ctx.Err() != nil
	}); err != nil {
		return err
	}
	g.had = g.w.d.Resources()
	return farm.Reset()
}

// prefix of the names of this run's receivers, and of no other's.
func (g *stage) prefix() string {
	name := rig.ReceiverName(g.subs[0].Path)
	return name[:strings.Index(name, "-")+1]
}

// settle waits until all that is owed has arrived, all that can end has ended, and the services hold what they held before; not longer than allowed. What is
// missing then is for the checker to say.
func (g *stage) settle(ctx context.Context) error {
	rest := g.s.rest
	if rest == 0 {
		rest = time.Minute
	}
	until := time.Now().Add(rest)
	want := int64(0)
	delivers := map[int32]bool{}
	for i, sub := range g.subs {
		if delivers[int32(i)] = rig.Delivers(sub.Path); delivers[int32(i)] {
			for _, e := range g.p.Sent()[g.warm:] {
				if e.Fate == rig.Accepted && g.owed[rig.ReceiverName(sub.Path)](e.Company) {
					want++
				}
			}
		}
	}
	d := g.w.d
	rig.Until(rest, "all owed arrive", func() bool { return ctx.Err() != nil || d.Farm.Distinct(g.prefix()) >= want })
	until = later(until, time.Now().Add(20*time.Second)) // what has arrived has yet to be written down
	for ctx.Err() == nil && time.Now().Before(until) {
		lag, err := d.RouterLag(ctx)
		waiting, werr := d.Waiting(ctx, g.subs)
		if err == nil && werr == nil && lag == 0 && !slices.ContainsFunc(waiting, func(t rig.Waiting) bool { return delivers[t.Subscription] }) {
			break
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	if err := pause(ctx, 8*time.Second); err != nil { // longer than a session time-out: a late second copy would show up now
		return err
	}
	until = later(until, time.Now().Add(time.Minute))
	for ctx.Err() == nil && time.Now().Before(until) {
		now := d.Resources()
		grown := false
		for name := range now {
			grown = grown || Grown(g.had, name, now[name]) != ""
		}
		if !grown {
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// evidence gathers the ledgers and what the topics say.
func (g *stage) evidence(ctx context.Context) (*Run, error) {
	w := g.w
	topics, err := w.d.ReadTopics(ctx, g.marks, g.subs) // before the farm's ledger: each attempt must have its request there
	if err != nil {
		return nil, err
	}
	if err := errors.Join(g.sent.Close(), w.d.Farm.Open("", false)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	run := &Run{Owed: g.owed, Receivers: map[string][]rig.Request{}, Faults: slices.Clone(w.faults), Paths: map[string]string{}, Lease: leaseOf(w.d.Settings()),
		Before: g.had, After: w.d.Resources(), Topics: topics, Crashes: w.d.Crashes()}
	w.mu.Unlock()
	if run.First, run.Events, err = rig.ReadSent(filepath.Join(w.dir, "publisher.ledger")); err != nil {
		return nil, err
	}
	all, err := rig.ReadRequests(filepath.Join(w.dir, "farm.ledger"))
	if err != nil {
		return nil, err
	}
	run.requests(all, g.prefix())
	for _, sub := range g.subs {
		name := rig.ReceiverName(sub.Path)
		run.Names = append(run.Names, name)
		run.Paths[name] = sub.Path
	}
	return run, nil
}

// requests sorts the farm's ledger by receivers. Those of other runs and of a scenario's own subscriptions are nobody's here.
func (r *Run) requests(all []rig.Request, prefix string) {
	count := map[string]int{}
	for i := range all {
		count[all[i].Name]++
	}
	for i := range all {
		q := &all[i]
		switch {
		case strings.HasPrefix(q.Path, "/never/"):
			r.Never = append(r.Never, *q)
		case strings.HasPrefix(q.Name, prefix):
			if r.Receivers[q.Name] == nil {
				r.Receivers[q.Name] = make([]rig.Request, 0, count[q.Name])
			}
			r.Receivers[q.Name] = append(r.Receivers[q.Name], *q)
		}
	}
}

// leaseOf is how long a deliverer may be stalled without losing anything, with these settings.
func leaseOf(settings map[string]string) time.Duration {
	session, err := time.ParseDuration(settings["HOOKFERRY_KAFKA_SESSION_TIMEOUT"])
	if err != nil {
		return leaseTerm
	}
	return session * 2 / 3
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
	if w.form == formLong && s.long > 0 {
		w.events = s.long
	}
	if s.rate > 0 {
		w.rate = s.rate
	}
	flow := s.flow
	if w.form == formLong && s.longer > 0 {
		flow = s.longer
	}
	if flow > 0 {
		w.rate = float64(w.events) / flow.Seconds()
	}
}

// p99 of the time from due to arrival, of what arrived between two moments.
func p99(seen map[string][]rig.Entry, from, to time.Time) time.Duration {
	var d []time.Duration
	for _, l := range seen {
		for i := range l {
			if at := time.Unix(0, l[i].At); at.After(from) && at.Before(to) {
				d = append(d, time.Duration(l[i].At-l[i].Due))
			}
		}
	}
	return rig.Quantile(d, 0.99)
}

// entries of the ledgers, as p99 takes them.
func entries(seen map[string][]rig.Request) map[string][]rig.Entry {
	out := map[string][]rig.Entry{}
	for name, l := range seen {
		for i := range l {
			out[name] = append(out[name], rig.Entry{At: l[i].At, Due: l[i].Due})
		}
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
