package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// What the log makes possible, while processes die: subscriptions that are paused and resumed all the time, with and without order, subscriptions that begin in
// the past, replays that are paused, resumed and cancelled, and the redrive of a receiver that was sick. Beside them the usual subscriptions get their events.
var spanScenarios = []scenario{{
	name: "spans", what: "pauses, resumes, backfills, replays, redrives and lines, with a kill every four seconds", act: spansAct,
	events: 9000, flow: 60 * time.Second, long: 60_000, longer: 6 * time.Minute, rest: patience, from: formMiddle,
	deploy: func(c *rig.DeployConfig) { c.Settings = map[string]string{openEgress: "0"} },
}}

const (
	spanEntities  = 24                    // of the company: several events of each are under way
	spanEvery     = 25 * time.Millisecond // between two events
	spanKillEvery = 4 * time.Second
	spanRest      = 3 * time.Minute // for all that is owed
)

// spansRun is a company of its own and what is done to its subscriptions.
type spansRun struct {
	w       *world
	desk    *desk
	company string
	append  *kafka.Appender
	catcher *catcher

	mu      sync.Mutex
	sent    []spanEvent
	subs    map[string]*spanned // by path
	replays []spanReplay
	count   map[string]int
}

type spanEvent struct {
	id       string
	entity   int
	from, by time.Time
}

// spanned is one subscription and what it is owed: all events, or those from a moment on.
type spanned struct {
	id, path string
	live     time.Time // events accepted after that are owed; zero: all
	ordered  bool
}

// spanReplay is a replay of all that lay in the log when it was made.
type spanReplay struct {
	id, path   string
	began, end time.Time // of the command
	cancelled  bool
}

func spansAct(ctx context.Context, w *world) error {
	r := &spansRun{w: w, company: fmt.Sprintf("spans%d", time.Now().UnixNano()), append: w.d.Client().NewAppender(kafka.AppenderConfig{}), subs: map[string]*spanned{},
		count: map[string]int{}}
	var err error
	if r.catcher, err = startCatcher(); err != nil {
		return err
	}
	defer r.catcher.close()
	r.catcher.refuse("/sick", true)
	if r.desk, err = openDesk(ctx, w); err != nil {
		return err
	}
	defer r.desk.stop()
	for i := range 6 {
		if err := r.create(ctx, fmt.Sprintf("/paused/%d", i), i%2 == 0, 0, nil); err != nil {
			return err
		}
	}
	if err := errors.Join(r.create(ctx, "/replayed", false, 0, nil), r.create(ctx, "/sick", false, 0, []time.Duration{0})); err != nil {
		return err
	}
	acting, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i, do := range []func(context.Context) error{r.stream, r.kills, r.pauses, r.others} {
		wg.Go(func() { errs[i] = do(acting) })
	}
	total := time.Duration(float64(w.events) / w.rate * 1e9)
	perr := pause(ctx, total)
	stop()
	wg.Wait()
	if err := errors.Join(append(errs, perr)...); err != nil {
		return err
	}
	return r.verify(ctx)
}

// stream publishes until ctx ends.
func (r *spansRun) stream(ctx context.Context) error {
	c := r.w.d.Client()
	frame := schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint())
	for seq := int64(1); ctx.Err() == nil; seq++ {
		ev, _, err := eventOf(r.w, r.company, seq)
		if err != nil {
			return err
		}
		entity := int(seq) * 7 % spanEntities
		ev.Meta.EntityID = fmt.Sprintf("en-%d", entity)
		ev.Meta.EntityVersion = seq
		avro, err := ev.AppendAvro(slices.Clone(frame))
		if err != nil {
			return err
		}
		var rs kafka.Records
		key := eventKey(&ev.Meta)
		rs.Add(place(c, c.Topics().Events["booking"], key), key, nil, avro)
		from := time.Now()
		if _, err := r.append.Append(context.WithoutCancel(ctx), &rs); err != nil {
			return err
		}
		r.mu.Lock()
		r.sent = append(r.sent, spanEvent{ev.Meta.EventID, entity, from, time.Now()})
		r.mu.Unlock()
		pause(ctx, spanEvery-time.Since(from))
	}
	return nil
}

// kills ends router and deliverers in turn, and starts each again.
func (r *spansRun) kills(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(r.w.seed, 21))
	for n := 0; pause(ctx, spanKillEvery) == nil; n++ {
		name, kind, start := "router", KillRouter, r.w.d.StartRouter
		if n%2 == 1 {
			name, kind, start = fmt.Sprintf("deliverer-%d", 1+n/2%2), KillDeliverer, r.w.d.StartDeliverer
		}
		r.w.fault(kind, func() error { r.w.d.Proc(name).Kill(); return nil })
		pause(ctx, time.Duration(rng.IntN(1500))*time.Millisecond)
		if err := start(context.WithoutCancel(ctx), name); err != nil {
			return err
		}
	}
	return nil
}

func (r *spansRun) create(ctx context.Context, path string, ordered bool, from int64, schedule []time.Duration) error {
	d := subscriptions.Draft{Company: r.company, Name: strings.ReplaceAll(path[1:], "/", "-"), URL: "http://" + r.catcher.Addr + path, Events: []string{"booking.*"}, From: from, Schedule: schedule}
	if ordered {
		d.Order = schemas.OrderEntity
	}
	l, _, err := r.desk.Create(ctx, d)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	s := &spanned{id: l.ID, path: path, ordered: ordered}
	if from == 0 {
		s.live = time.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[path] = s
	r.count["create"]++
	return nil
}

// pauses pauses and resumes each of six in turn, by two hands.
func (r *spansRun) pauses(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for hand := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(r.w.seed, uint64(30+hand)))
			steady := context.WithoutCancel(ctx) // a pause that has begun is ended
			for n := hand; ctx.Err() == nil; n += 2 {
				s := r.sub(fmt.Sprintf("/paused/%d", n%6))
				if _, err := r.desk.Pause(steady, s.id, ""); err != nil {
					errs[hand] = fmt.Errorf("pause %s: %w", s.path, err)
					return
				}
				pause(ctx, time.Duration(rng.IntN(4000))*time.Millisecond)
				if _, err := r.desk.Resume(steady, s.id, false); err != nil {
					errs[hand] = fmt.Errorf("resume %s: %w", s.path, err)
					return
				}
				r.mu.Lock()
				r.count["pause"]++
				r.mu.Unlock()
				pause(ctx, time.Duration(rng.IntN(2000))*time.Millisecond)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *spansRun) sub(path string) *spanned {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.subs[path]
}

// others begins subscriptions in the past, replays, and heals the sick receiver in the middle.
func (r *spansRun) others(ctx context.Context) error {
	steady := context.WithoutCancel(ctx)
	for n := 0; pause(ctx, 5*time.Second) == nil; n++ {
		switch n % 4 {
		case 0:
			if err := r.create(steady, fmt.Sprintf("/back/%d", n), n%8 == 0, subscriptions.Earliest, nil); err != nil {
				return err
			}
		case 1, 3:
			if err := r.replay(steady, n); err != nil {
				return err
			}
		case 2:
			r.catcher.refuse("/sick", false)
			if err := r.redrive(steady); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *spansRun) redrive(ctx context.Context) error {
	_, err := r.w.d.Hookferry(ctx, "dead", "redrive", "--subscription", r.sub("/sick").id)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count["redrive"]++
	return err
}

func (r *spansRun) replay(ctx context.Context, n int) error {
	s := r.sub("/replayed")
	p := spanReplay{path: s.path, began: time.Now()}
	out, err := r.w.d.Hookferry(ctx, "replay", "create", "--subscription", s.id, "--from", "earliest", "--rate", "400", "--yes", "--detach", "--json")
	if err != nil {
		return err
	}
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return fmt.Errorf("replay create --json: %w: %s", err, out)
	}
	p.id, p.end = made.ID, time.Now()
	switch n % 3 {
	case 0:
		pause(ctx, 500*time.Millisecond)
		if _, err := r.w.d.Hookferry(ctx, "replay", "pause", p.id); err != nil {
			return err
		}
		pause(ctx, 2*time.Second)
		if _, err := r.w.d.Hookferry(ctx, "replay", "resume", p.id); err != nil {
			return err
		}
	case 1:
		if n > 1 {
			_, err = r.w.d.Hookferry(ctx, "replay", "cancel", p.id)
			p.cancelled = true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replays = append(r.replays, p)
	r.count["replay"]++
	return err
}

// verify waits until what is owed has come, and compares.
func (r *spansRun) verify(ctx context.Context) error {
	r.catcher.refuse("/sick", false)
	if err := r.redrive(ctx); err != nil {
		return err
	}
	var missing []string
	owed := 0
	rig.Until(spanRest, "what is owed arrives", func() bool {
		missing, owed = r.missing()
		return len(missing) == 0 || pause(ctx, 300*time.Millisecond) != nil
	})
	if err := pause(ctx, 8*time.Second); err != nil { // a late second copy would show up now
		return err
	}
	wrong, copies := r.wrong()
	fmt.Printf("      spans: %v, %d events to %d subscriptions, %d deliveries surely owed; missing %d, duplicates %d, wrong %d\n", r.count, len(r.sent), len(r.subs), owed, len(missing), copies, len(wrong))
	return brokenBy("spans", append(missing, wrong...))
}

// missing lists what was surely owed and has not come.
func (r *spansRun) missing() (out []string, owed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := map[string]bool{}
	for _, g := range r.catcher.all() {
		came[g.Path+" "+g.replay()+" "+g.ID] = true
	}
	look := func(path, replay, subscription string, e *spanEvent) {
		owed++
		if !came[path+" "+replay+" "+schemas.WebhookID(subscription, e.id)] && len(out) < 1000 {
			out = append(out, fmt.Sprintf("%s of %s has not come to %s %s", e.id, e.by.Format("15:04:05.000"), path, replay))
		}
	}
	for i := range r.sent {
		e := &r.sent[i]
		for _, s := range r.subs {
			if e.from.After(s.live) {
				look(s.path, "", s.id, e)
			}
		}
		for _, p := range r.replays {
			if !p.cancelled && e.by.Before(p.began) {
				look(p.path, p.id, r.subs[p.path].id, e)
			}
		}
	}
	return out, owed
}

// wrong lists copies that nothing explains, what nobody is owed, and inversions.
func (r *spansRun) wrong() (out []string, copies int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.w.mu.Lock()
	run := &Run{Faults: slices.Clone(r.w.faults), Lease: leaseOf(r.w.d.Settings())}
	r.w.mu.Unlock()
	events := map[string]int{} // by subscription's path and webhook-id
	for _, s := range r.subs {
		for i := range r.sent {
			events[s.path+" "+schemas.WebhookID(s.id, r.sent[i].id)] = i
		}
	}
	ended := map[string]time.Time{}
	for _, p := range r.replays {
		ended[p.id] = p.end
	}
	before := map[string]caught{}
	last := map[string]int{} // by ordered subscription and entity
	for _, g := range r.catcher.all() {
		i, known := events[g.Path+" "+g.ID]
		if !known {
			out = append(out, fmt.Sprintf("%s came to %s and nobody published it for it", g.ID, g.Path))
			continue
		}
		e := &r.sent[i]
		if end, known := ended[g.replay()]; g.replay() != "" && (!known || e.from.After(end)) {
			out = append(out, fmt.Sprintf("%s came to %s by the replay %q, which does not mean it", e.id, g.Path, g.replay()))
		}
		key := g.Path + " " + g.replay() + " " + g.ID
		if was, twice := before[key]; twice {
			if copies++; explain(run, &rig.Request{At: was.At.UnixNano(), Done: was.At.UnixNano()}, &rig.Request{At: g.At.UnixNano()}) == "" {
				out = append(out, fmt.Sprintf("%s came to %s at %s and again at %s (replay %q)", e.id, g.Path, rig.Clock(was.At.UnixNano()), rig.Clock(g.At.UnixNano()), g.replay()))
			}
			before[key] = g
			continue
		}
		before[key] = g
		if s := r.subs[g.Path]; s.ordered {
			key := fmt.Sprint(g.Path, " ", e.entity)
			if at, ok := last[key]; ok && at > i {
				out = append(out, fmt.Sprintf("%s: event %d of entity %d came at %s, behind event %d", g.Path, i, e.entity, rig.Clock(g.At.UnixNano()), at))
			}
			last[key] = max(last[key], i)
		}
	}
	return out, copies
}
