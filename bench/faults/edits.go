package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

var editsScenario = scenario{
	name: "edits", what: "10 edits, deletes and creates of subscriptions a second under load", act: editsAct, flow: 45 * time.Second, rest: patience, noRepeat: true,
	deploy: func(c *rig.DeployConfig) { c.Settings = map[string]string{openEgress: "0"} },
}

// editsShort is what the short form runs of it.
var editsShort = scenario{
	name: "edits-short", what: editsScenario.what, act: editsAct, events: 5000, flow: 15 * time.Second, rest: patience, noRepeat: true, from: formShort, standsFor: "edits", deploy: editsScenario.deploy,
}

// lateEdit is how long after the answer to an edit or a delete its old state may still be seen: docs/design.md gives a deliverer's table a second, and a send
// under way is not called back.
const lateEdit = 2 * time.Second

// edited is one subscription that is edited, and its history as the editor knows it. Times are those of the edit's answer.
type edited struct {
	id      string
	path    string // below which it is reached: /a/NAME or /b/NAME
	at      byte   // 'a' or 'b'
	created time.Time
	narrow  bool // wants no event of the stream for now
	deleted time.Time
	moves   []move
	narrows []span // from before the edit that narrowed it to after the one that widened it again
}

type move struct {
	to       byte
	from, by time.Time
}

type span struct{ from, to time.Time }

// editsRun is a company whose subscriptions are edited while its events flow.
type editsRun struct {
	*post
	desk  *desk
	subs  []*edited // that live
	gone  []*edited
	count map[string]int
	next  int
	owed  int // deliveries that were surely owed

	mu   sync.Mutex
	sent []streamed
}

// streamed is one event of the stream: accepted between two moments.
type streamed struct {
	id       string
	from, by time.Time
}

func editsAct(ctx context.Context, w *world) error {
	p, err := openPost(ctx, w, "edits")
	if err != nil {
		return err
	}
	defer p.close()
	desk, err := openDesk(ctx, w)
	if err != nil {
		return err
	}
	defer desk.stop()
	r := &editsRun{post: p, desk: desk, count: map[string]int{}}
	for range 12 {
		if err := r.create(ctx); err != nil {
			return err
		}
	}
	streaming, stop := context.WithCancel(ctx)
	streamEnded := make(chan error, 1)
	go func() { streamEnded <- r.stream(streaming) }()
	total := time.Duration(float64(w.events) / w.rate * 1e9)
	err = r.editAll(ctx, total-4*time.Second)
	stop()
	if serr := <-streamEnded; err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	return r.verify(ctx)
}

// stream publishes 40 events a second until ctx ends.
func (r *editsRun) stream(ctx context.Context) error {
	for ctx.Err() == nil {
		from := time.Now()
		id, err := r.publish(context.WithoutCancel(ctx), schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint()))
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.sent = append(r.sent, streamed{id, from, time.Now()})
		r.mu.Unlock()
		pause(ctx, 25*time.Millisecond-time.Since(from))
	}
	return nil
}

// editAll makes ten edits a second, in turns by five hands, because a create waits for its cut. Each hand owns a part of the subscriptions.
func (r *editsRun) editAll(ctx context.Context, d time.Duration) error {
	begin, n := time.Now(), 0
	creating := make(chan error, 1)
	creating <- nil
	for ; time.Since(begin) < d; n++ {
		if err := pause(ctx, time.Until(begin.Add(time.Duration(n)*100*time.Millisecond))); err != nil {
			return err
		}
		at := time.Now()
		if n%20 == 19 { // one is deleted, and a new one takes its place
			select {
			case err := <-creating:
				if err != nil {
					return err
				}
				if err := r.delete(ctx, r.subs[0]); err != nil {
					return err
				}
				go func() { creating <- r.create(ctx) }()
			default: // the one before is still on its way
			}
			continue
		}
		s := r.pick(n)
		if err := r.edit(ctx, s, n, at); err != nil {
			return err
		}
	}
	r.count["seconds"] = int(time.Since(begin).Seconds())
	return <-creating
}

// pick takes a subscription in turn.
func (r *editsRun) pick(n int) *edited {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.subs[1+n%(len(r.subs)-1)] // the oldest is the next to go
}

func (r *editsRun) url(at byte, name string) string {
	return "http://" + r.Addr + "/" + string(at) + "/" + name
}

func (r *editsRun) create(ctx context.Context) error {
	r.mu.Lock()
	r.next++
	name := fmt.Sprintf("s%d", r.next)
	r.mu.Unlock()
	l, _, err := r.desk.Create(ctx, subscriptions.Draft{Company: r.company, Name: name, URL: r.url('a', name), Events: []string{"booking.*"}})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = append(r.subs, &edited{id: l.ID, path: name, at: 'a', created: time.Now()})
	r.count["create"]++
	return nil
}

func (r *editsRun) delete(ctx context.Context, s *edited) error {
	if err := r.desk.Delete(ctx, s.id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.deleted = time.Now()
	r.subs = r.subs[1:]
	r.gone = append(r.gone, s)
	r.count["delete"]++
	return nil
}

// edit makes one edit of a kind that goes round.
func (r *editsRun) edit(ctx context.Context, s *edited, n int, at time.Time) error {
	var ch subscriptions.Change
	kind := []string{"url", "header", "rate", "schedule", "events", "url", "format", "concurrency"}[n/3%8]
	switch kind {
	case "url":
		to := 'a' + 'b' - s.at
		ch.URL = new(r.url(to, s.path))
	case "header":
		ch.SetHeaders = []subscriptions.HeaderValue{{Name: "X-Edit", Value: secrets.New([]byte(fmt.Sprint(n)))}}
	case "rate":
		ch.MaxRate = new(float64(n % 2 * 500))
	case "schedule":
		ch.Schedule = &[]time.Duration{0, time.Duration(5+n%5) * time.Second, time.Minute}
	case "events":
		ch.Events = []string{"booking.*"}
		if !s.narrow {
			ch.Events = []string{"customer.*"}
		}
	case "format":
		ch.Format = new([]string{"standard", "cloudevents"}[n%2])
	case "concurrency":
		ch.MaxConcurrency = new(1 + n%8)
	}
	if _, err := r.desk.Update(ctx, s.id, ch); err != nil {
		return fmt.Errorf("edit %s: %w", kind, err)
	}
	by := time.Now()
	r.count[kind]++
	switch kind {
	case "url":
		s.at = 'a' + 'b' - s.at
		s.moves = append(s.moves, move{s.at, at, by})
	case "events":
		if s.narrow = !s.narrow; s.narrow {
			s.narrows = append(s.narrows, span{at, time.Time{}})
		} else {
			s.narrows[len(s.narrows)-1].to = by
		}
	}
	return nil
}

// verify waits until what is owed has come and compares: what every subscription was surely owed, what it surely was not to get, and where.
func (r *editsRun) verify(ctx context.Context) error {
	var missing, wrong []string
	rig.Until(40*time.Second, "what is owed arrives", func() bool {
		missing = r.missing()
		return len(missing) == 0
	})
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	subs := slices.Concat(r.gone, r.subs)
	byPath := map[string]*edited{}
	for _, s := range subs {
		byPath["/a/"+s.path], byPath["/b/"+s.path] = s, s
	}
	n := map[string]int{}
	for _, g := range r.all() {
		s := byPath[g.Path]
		if s == nil {
			continue
		}
		n[s.path+" "+g.ID]++
		if n[s.path+" "+g.ID] > 1 {
			wrong = append(wrong, fmt.Sprintf("%s came twice to %s", g.ID, s.path))
		}
		if !s.deleted.IsZero() && g.At.After(s.deleted.Add(lateEdit)) {
			wrong = append(wrong, fmt.Sprintf("%s came to %s %s after it was deleted", g.ID, s.path, g.At.Sub(s.deleted)))
		}
		if late := s.stray(g); late > 0 {
			wrong = append(wrong, fmt.Sprintf("%s came to the old URL %s, %s after the edit", g.ID, g.Path, late))
		}
	}
	dropped, err := r.accounts(ctx, subs, &wrong)
	if err != nil {
		return err
	}
	fmt.Printf("      edits: %v; %d events to %d subscriptions, %d of them deleted; %d deliveries surely owed, %d tasks dropped; missing %d, wrong %d\n",
		r.count, len(r.sent), len(subs), len(r.gone), r.owed, dropped, len(missing), len(wrong))
	return brokenBy("edits", append(missing, wrong...))
}

// stray is how long after the edit that moved it a request came to the URL before; 0: it came where it belonged.
func (s *edited) stray(g caught) time.Duration {
	at, since := byte('a'), time.Time{}
	for _, m := range s.moves {
		if m.by.Before(g.At) {
			at, since = m.to, m.by
		} else if m.from.Before(g.At) {
			return 0 // in the middle of an edit: either is right
		}
	}
	if late := g.At.Sub(since); g.Path[1] != at && late > lateEdit {
		return late
	}
	return 0
}

// missing lists what was surely owed and has not come: events that were accepted while the subscription was live, wanted them, and was not about to be
// deleted.
func (r *editsRun) missing() (out []string) {
	r.owed = 0
	came := map[string]bool{}
	for _, g := range r.all() {
		if _, name, ok := strings.Cut(g.Path[1:], "/"); ok {
			came[name+" "+g.ID] = true
		}
	}
	for _, s := range slices.Concat(r.gone, r.subs) {
		for _, e := range r.sent {
			if e.from.Before(s.created) || !s.deleted.IsZero() && e.by.After(s.deleted.Add(-routedBy)) || s.unsure(e) {
				continue
			}
			r.owed++
			if !came[s.path+" "+schemas.WebhookID(s.id, e.id)] {
				out = append(out, fmt.Sprintf("%s of %s has not come to %s, created %s, deleted %s, moved %v, narrowed %v", e.id, e.by.Format("15:04:05.000"), s.path,
					s.created.Format("15:04:05.000"), s.deleted.Format("15:04:05.000"), s.moves, s.narrows))
			}
		}
	}
	return out
}

// routedBy is how long after its acceptance an event may be routed: against the subscriptions as they are then, so that an edit of the events wanted, or a
// delete, concerns what was accepted that long before it.
const routedBy = 5 * time.Second

// unsure: at about that time the subscription did not want the event, or was about to change its mind. An edit of the events wanted holds from some time
// within the staleness of a router's table on.
func (s *edited) unsure(e streamed) bool {
	for _, n := range s.narrows {
		if e.by.After(n.from.Add(-routedBy)) && (n.to.IsZero() || e.from.Before(n.to.Add(lateEdit))) {
			return true
		}
	}
	return false
}

// accounts holds the tasks of each subscription against the ends that its attempts tell: each task was delivered, is dead, or was dropped with its
// subscription.
func (r *editsRun) accounts(ctx context.Context, subs []*edited, wrong *[]string) (dropped int, err error) {
	routed, err := r.routed(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range subs {
		ends := map[string]schemas.Verdict{}
		err := deliverer.ReadAttempts(ctx, r.w.d.Client(), deliverer.AttemptFilter{Subscription: s.id}, nil, func(a *schemas.Attempt) {
			switch a.Verdict {
			case schemas.VerdictDelivered, schemas.VerdictDead, schemas.VerdictDropped:
				if before, double := ends[a.TaskID]; double {
					*wrong = append(*wrong, fmt.Sprintf("task %s of %s ended twice: %s and %s", a.TaskID, s.path, before, a.Verdict))
				}
				ends[a.TaskID] = a.Verdict
				if a.Verdict == schemas.VerdictDropped {
					dropped++
				}
			}
		})
		if err != nil {
			return 0, err
		}
		for id := range routed[s.id] {
			verdict, ended := ends[id]
			if !ended || verdict == schemas.VerdictDropped && s.deleted.IsZero() {
				*wrong = append(*wrong, fmt.Sprintf("task %s of %s: ended %v as %q", id, s.path, ended, verdict))
			}
		}
	}
	return dropped, nil
}

// routed gives the ids of all tasks that the routers made of this company's events, by subscription.
func (r *editsRun) routed(ctx context.Context) (map[string]map[string]bool, error) {
	tasks := map[string]map[string]bool{}
	var bad error
	c := r.w.d.Client()
	err := scanAll(ctx, c, c.Topics().Retry, func(rec *kafka.Record) bool {
		var t schemas.Task
		if bad = schemas.DecodeTask(rec.Value, &t); bad != nil {
			return false
		}
		if t.Company == r.company {
			if tasks[t.Subscription] == nil {
				tasks[t.Subscription] = map[string]bool{}
			}
			tasks[t.Subscription][t.ID] = true
		}
		return true
	})
	return tasks, errors.Join(bad, err)
}
