package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

const (
	// pointReach is how long a carrier may take to come to its point.
	pointReach = 2 * time.Minute
	// pointArrive is how long what is owed may take after that.
	pointArrive = 3 * time.Minute
	// pointStall is how long a carrier stands still: the group has given its partitions away by then.
	pointStall = pointSession + 1500*time.Millisecond
	// pointQuiet is waited before the books are closed: a late second copy would show up.
	pointQuiet = 1500 * time.Millisecond
	// slowAnswers is what the slow receiver takes.
	slowAnswers = 2500 * time.Millisecond
)

// pointRun is one cell: its errand brings a carrier to its point, where it is hurt while a small workload flows, and in the end all that was accepted must
// have arrived.
type pointRun struct {
	*pointWorld
	fault.Cell
	errand errand
	nth    int
	name   string // of the company, unlike every other
	text   string // of the order

	receiver *sandbox.Receiver
	flipped  atomic.Bool // the receivers that refused accept from now on
	rng      *rand.Rand
	seq      int64

	mu     sync.Mutex
	subs   map[string]*subscriptions.Live // by what their receiver does
	events []string                       // ids of accepted events
	one    []string                       // of these, those about one entity, in their order
	owed   map[string]map[string]bool     // receiver -> event ids
	faults []Fault
	closed map[string]time.Time // receivers at which nothing may arrive any more
	extra  []string             // roles that are stopped at the end

	log    string
	dealt  chan error // closed when what was done to the carrier is over and mended
	helper *rig.Proc  // the carrier, if it is a command
}

// cell runs one cell of the matrix in this world.
func (w *pointWorld) cell(ctx context.Context, c fault.Cell, e errand, nth int, seed uint64) (err error) {
	w.cells++
	if e.fresh {
		if err := w.renew(ctx); err != nil {
			return err
		}
		w.stop(e.who)
	}
	r := &pointRun{pointWorld: w, Cell: c, errand: e, nth: nth, name: fmt.Sprintf("p%d-%d-%d", w.n, w.made, w.cells), rng: rand.New(rand.NewPCG(seed, uint64(w.n)<<32|uint64(w.cells))),
		subs: map[string]*subscriptions.Live{}, owed: map[string]map[string]bool{}, closed: map[string]time.Time{}, dealt: make(chan error, 1)}
	r.text = fmt.Sprintf("%s:%d", c, nth)
	if e.also != "" {
		r.text = e.also + "," + r.text
	}
	r.receiver, err = sandbox.StartReceiver(sandbox.ReceiverConfig{Script: r.script})
	if err != nil {
		return err
	}
	defer r.receiver.Close()
	ctx, cancel := context.WithTimeout(ctx, 12*time.Minute)
	defer cancel()
	defer func() {
		for _, role := range r.extra {
			err = errors.Join(err, r.stop(role))
		}
	}()
	return r.run(ctx)
}

func (r *pointRun) run(ctx context.Context) error {
	var carrier, subscribed error
	var both sync.WaitGroup
	both.Go(func() { subscribed = r.subscribe(ctx) })
	if r.errand.prelude == nil {
		both.Go(func() { carrier = r.carry(ctx) })
	}
	both.Wait()
	if err := errors.Join(carrier, subscribed); err != nil {
		return err
	}
	if r.errand.prelude != nil {
		if err := r.errand.prelude(ctx, r); err != nil {
			return fmt.Errorf("prelude: %w", err)
		}
		if err := r.carry(ctx); err != nil {
			return err
		}
	}
	if err := r.flow(ctx, 12); err != nil {
		return err
	}
	if r.errand.do != nil {
		if err := r.errand.do(ctx, r); err != nil {
			return fmt.Errorf("errand: %w", err)
		}
	}
	select {
	case err := <-r.dealt:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.errand.after != nil {
		if err := r.errand.after(ctx, r); err != nil {
			return fmt.Errorf("after it: %w", err)
		}
	}
	if err := r.flow(ctx, 6); err != nil { // it goes on as if nothing had been
		return err
	}
	arrived := rig.Until(pointArrive, "all owed arrive", func() bool { return len(r.missing()) == 0 || ctx.Err() != nil })
	if err := pause(ctx, pointQuiet); err != nil {
		return err
	}
	return errors.Join(arrived, r.judge())
}

// carry puts the carrier in the place of its role and begins to watch it. Commands carry when their errand runs them.
func (r *pointRun) carry(ctx context.Context) error {
	env, log := r.order(r.text)
	r.log = log
	if r.errand.who == "command" {
		return nil
	}
	if r.procs[r.errand.who] != nil {
		if err := r.stop(r.errand.who); err != nil {
			return err
		}
	}
	if err := r.start(r.errand.who, env); err != nil {
		return err
	}
	p := r.procs[r.errand.who]
	go func() { r.dealt <- r.watch(ctx, p) }()
	return nil
}

// runCommand runs a command as the carrier, until it has ended or died.
func (r *pointRun) runCommand(ctx context.Context, args ...string) error {
	env, _ := r.order(r.text)
	p, err := r.command("command", env, args...)
	if err != nil {
		return err
	}
	r.helper = p
	go func() { r.dealt <- r.watch(ctx, p) }()
	return nil
}

// watch waits until the carrier was hurt, and mends: a dead service is started again, one that stands still gets a successor and wakes up later.
func (r *pointRun) watch(ctx context.Context, p *rig.Proc) error {
	at, reached := time.Time{}, false
	err := rig.Until(pointReach, r.Cell.String()+" is reached", func() bool {
		at, reached = reachedAt(r.log, r.Cell)
		return reached || ctx.Err() != nil
	})
	if !reached {
		b, _ := os.ReadFile(p.Log)
		return errors.Join(err, fmt.Errorf("the %s was never there; its log ends: %s", r.errand.who, b[max(0, len(b)-1500):]), ctx.Err())
	}
	service := r.errand.who != "command"
	switch r.Kind {
	case fault.Kill:
		select {
		case <-p.Done():
		case <-time.After(5 * time.Second):
			return errors.New("it was to die, and lives")
		}
		if text := fmt.Sprint(p.Err()); !strings.Contains(text, "killed") {
			return fmt.Errorf("it was to be killed, and ended so: %s", text)
		}
		r.note(Fault{r.killKind(), r.text, at, at})
		if service {
			return r.start(r.errand.who, nil)
		}
	case fault.Stall:
		if err := rig.Until(5*time.Second, "it stands still", func() bool { return stopped(p.PID()) }); err != nil {
			return err
		}
		if service {
			if err := r.start(r.errand.who+"-2", nil); err != nil {
				return err
			}
			r.mu.Lock()
			r.extra = append(r.extra, r.errand.who+"-2")
			r.mu.Unlock()
		}
		err := pause(ctx, pointStall)
		p.Signal(syscall.SIGCONT)
		kind := Other
		if r.errand.who == "deliverer" {
			kind = KillDeliverer // to what it was doing, it is the same
		}
		r.note(Fault{kind, r.text, at, time.Now()})
		return err
	default:
		r.note(Fault{Other, r.text, at, at})
	}
	return nil
}

func (r *pointRun) killKind() FaultKind {
	if r.errand.who == "deliverer" {
		return KillDeliverer
	}
	return Other
}

func (r *pointRun) note(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
}

// script is what the receivers do, by the first word of their path.
func (r *pointRun) script(got *sandbox.Received) string {
	h := fnv.New32a()
	h.Write([]byte(got.WebhookID))
	switch kind := strings.Trim(got.Path, "/"); {
	case (kind == "flaky" || kind == "ordered") && got.Attempt == 1 && h.Sum32()%3 == 0:
		return "/status/503"
	case kind == "dead" && !r.flipped.Load():
		return "/abort"
	case kind == "gone":
		return "/status/503"
	case kind == "disabled":
		return "/status/410"
	case kind == "slow" && !r.flipped.Load():
		return "/delay/" + slowAnswers.String()
	}
	return "/ok"
}

// subscribe makes the subscriptions that the cell needs, side by side.
func (r *pointRun) subscribe(ctx context.Context) error {
	kinds := append([]string{"ok", "flaky"}, r.errand.subs...)
	errs := make([]error, len(kinds))
	var all sync.WaitGroup
	for i, kind := range kinds {
		all.Go(func() {
			draft := subscriptions.Draft{Company: r.name, Name: kind, URL: r.receiver.URL("/" + kind), Events: []string{"*"},
				Schedule: []time.Duration{1900 * time.Millisecond, time.Second, 1700 * time.Millisecond, 2 * time.Second, 2 * time.Second}, Timeout: 5 * time.Second}
			if kind == "limited" {
				draft.MaxRate = 4
			}
			if kind == "ordered" {
				draft.Order, draft.From = schemas.OrderEntity, subscriptions.Earliest
			}
			l, secret, err := r.writer.Create(ctx, draft)
			if err == nil {
				err = r.receiver.Trust("/"+kind, string(secret.Reveal()))
			}
			if errs[i] = err; err == nil {
				r.mu.Lock()
				r.subs[kind] = l
				r.mu.Unlock()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// eventKinds are published in turn, so that several source topics have something.
var eventKinds = []string{"booking.creation", "customer.creation", "account.amendment", "booking.amendment", "inventory.change"}

// flow publishes n events. They are owed to every receiver of the cell that takes them in the end, if Kafka said that it has them.
func (r *pointRun) flow(ctx context.Context, n int) error {
	for range n {
		r.seq++
		ev := sandbox.Sample(r.rng, eventKinds[int(r.seq)%len(eventKinds)], r.name, r.seq)
		if err := r.publish.Publish(ctx, ev); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("publish: %w", err)
			}
			r.owe(ev.EventMeta().EventID) // to nobody: it may be in the log or not
			continue
		}
		r.owe(ev.EventMeta().EventID, "ok", "flaky", "limited", "dead", "slow", "made", "ordered")
	}
	return nil
}

// owe notes that an accepted event is owed to those of the receivers that exist.
func (r *pointRun) owe(event string, kinds ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
	for _, kind := range kinds {
		if r.subs[kind] == nil {
			continue
		}
		if r.owed[kind] == nil {
			r.owed[kind] = map[string]bool{}
		}
		r.owed[kind][event] = true
	}
}

// delivery is where an event was delivered, and when.
type delivery struct{ at, done time.Time }

// deliveries are what was answered with 2xx, by receiver and event, and what nobody can explain.
func (r *pointRun) deliveries() (got map[string]map[string][]delivery, strange []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[string]string{} // webhook-id -> event
	for kind, l := range r.subs {
		for _, e := range r.events {
			ids[kind+" "+schemas.WebhookID(l.ID, e)] = e
		}
	}
	got = map[string]map[string][]delivery{}
	sums := map[string][32]byte{}
	for _, q := range r.receiver.Ledger() {
		kind := strings.Trim(q.Path, "/")
		event, known := ids[kind+" "+q.WebhookID]
		if !known {
			strange = append(strange, fmt.Sprintf("%s got %s, which nobody published", kind, q.WebhookID))
			continue
		}
		if q.Signature != nil {
			strange = append(strange, fmt.Sprintf("%s got %s with a bad signature: %v", kind, q.WebhookID, q.Signature))
		}
		if sum, again := sums[q.WebhookID]; again && sum != q.Sum {
			strange = append(strange, fmt.Sprintf("%s got %s with two bodies", kind, q.WebhookID))
		}
		sums[q.WebhookID] = q.Sum
		if end, over := r.closed[kind]; over && q.At.After(end) {
			strange = append(strange, fmt.Sprintf("%s got %s at %s, and wanted nothing from %s on", kind, q.WebhookID, rig.Clock(q.At.UnixNano()), rig.Clock(end.UnixNano())))
		}
		if !q.Delivered() {
			continue
		}
		if id := q.Header.Get("webhook-replay"); id != "" { // a replay has books of its own; what a catch-up brings is owed like any event
			kind = inReplay(kind, id)
		}
		if got[kind] == nil {
			got[kind] = map[string][]delivery{}
		}
		d := delivery{q.At, q.At}
		if kind == "slow" {
			d.done = d.done.Add(slowAnswers)
		}
		got[kind][event] = append(got[kind][event], d)
	}
	return got, strange
}

// inReplay is a receiver's name in the books of a replay.
func inReplay(kind, id string) string { return kind + " in " + id }

// missing is what is owed and has not arrived.
func (r *pointRun) missing() (out []string) {
	got, _ := r.deliveries()
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, events := range r.owed {
		for e := range events {
			if len(got[kind][e]) == 0 {
				out = append(out, kind+" did not get "+e)
			}
		}
	}
	return out
}

// judge closes the books.
func (r *pointRun) judge() error {
	var errs []error
	for _, m := range r.missing() {
		pointLost.Add(1)
		errs = append(errs, errors.New("lost: "+m))
	}
	got, strange := r.deliveries()
	for _, s := range strange {
		errs = append(errs, errors.New(s))
	}
	for _, role := range slices.Sorted(maps.Keys(r.procs)) { // a carrier that was killed has a successor in its place
		if c, yes := r.procs[role].Crashed(); yes {
			errs = append(errs, fmt.Errorf("crash: %s", c))
		}
	}
	errs = append(errs, r.overtaken(got["ordered"])...)
	for kind, events := range got {
		for e, list := range events {
			for _, again := range list[1:] {
				pointDuplicates.Add(1)
				if !r.explained(list[0]) {
					errs = append(errs, fmt.Errorf("unexplained duplicate: %s got %s at %s and again at %s (%v)", kind, e, rig.Clock(list[0].at.UnixNano()),
						rig.Clock(again.at.UnixNano()), r.faults))
				}
			}
			pointDeliveries.Add(int64(len(list)))
		}
	}
	return errors.Join(errs...)
}

// overtaken are events about the one entity that came before one that was published earlier had come.
func (r *pointRun) overtaken(got map[string][]delivery) (errs []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var before delivery
	for _, e := range r.one {
		if len(got[e]) == 0 {
			continue
		}
		if got[e][0].at.Before(before.at) {
			errs = append(errs, fmt.Errorf("overtaken: ordered got %s at %s, and the one before it at %s", e, rig.Clock(got[e][0].at.UnixNano()), rig.Clock(before.at.UnixNano())))
		}
		before = got[e][0]
	}
	return errs
}

// explained: the first delivery was under way, or had ended within the last commit interval, when its deliverer died or stood still.
func (r *pointRun) explained(first delivery) bool {
	for _, f := range r.faults {
		if f.Kind == KillDeliverer && first.done.After(f.Start.Add(-commitInterval-slack)) && first.at.Before(f.End.Add(slack)) {
			return true
		}
	}
	return false
}

// counted over all cells
var pointDeliveries, pointDuplicates, pointLost atomic.Int64
