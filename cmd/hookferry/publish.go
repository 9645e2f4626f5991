package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/schemas"
)

// publishCommand hands events to the log: those of JSON documents, or invented ones.
func publishCommand(a *app) *cobra.Command {
	var o publishOptions
	c := &cobra.Command{
		Use:   "publish [FILE...]",
		Short: "Publish events from JSON, or sample events",
		Long: "Publish reads events as JSON from files, or from standard input (- or no file): one object, an array, or one object after the other.\n\n" +
			"An event is {\"meta\": {...}, \"data\": {...}, \"previous\": {...} or absent}; `hookferry schemas show ENTITY` lists the fields. Of meta only eventType and\n" +
			"companyId are needed (or --company): ids, times and names that are missing are derived from the type, the data and the clock. A missing entityVersion is 1 for\n" +
			"a creation and else the time in milliseconds, which grows with every change.\n\n" +
			"Each event is reported: accepted, rejected (surely not published), or unknown (perhaps published: publish it again with the eventId that was printed).\n" +
			"The exit code is 1 if any was not accepted.\n\n" +
			"With --sample N it invents N events of all 26 types instead (--types chooses), R a second with --rate R.",
		Example: "  hookferry publish booking.json\n" +
			"  hookferry publish --sample 1000 --rate 50 --company acme --types 'booking.*,customer.creation'",
		RunE: func(c *cobra.Command, files []string) error { return o.run(c.Context(), a, files) },
	}
	f := c.Flags()
	f.Int64Var(&o.sample, "sample", 0, "publish so many invented events")
	f.Float64Var(&o.rate, "rate", 0, "sample events a second; 0: as fast as they are accepted")
	f.StringSliceVar(&o.types, "types", []string{"*"}, "event types to sample: exact, entity.*, *.trigger or *")
	f.StringVar(&o.company, "company", "", "company id of sample events, and of documents that name none (sample events: default \"sample\")")
	return c
}

type publishOptions struct {
	sample  int64
	rate    float64
	types   []string
	company string
}

func (o *publishOptions) run(ctx context.Context, a *app, files []string) error {
	if err := checkRate("rate", o.rate); err != nil {
		return err
	}
	switch {
	case o.sample < 0:
		return usagef("--sample must not be negative")
	case o.sample > 0 && len(files) > 0:
		return usagef("either files or --sample, not both")
	case o.sample == 0 && o.rate > 0:
		return usagef("--rate is for --sample")
	}
	types, err := matchTypes(o.types)
	if err != nil {
		return err
	}
	client, err := a.kafka(ctx)
	if err != nil {
		return err
	}
	cfg := producer.DefaultConfig()
	if o.sample > 0 {
		cfg.Entities = entitiesOf(types)
	}
	p, err := producerOver(ctx, client, cfg)
	if err != nil {
		return err
	}
	if o.sample > 0 {
		err = o.publishSamples(ctx, a, p, types)
	} else {
		err = o.publishDocuments(ctx, a, p, files)
	}
	return errors.Join(err, p.Close(ctx))
}

// matchTypes resolves patterns; one that means nothing is a mistake, not an empty wish.
func matchTypes(patterns []string) ([]schemas.EventType, error) {
	var out []schemas.EventType
	for _, et := range schemas.EventTypes() {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, et.Name); return ok }) {
			out = append(out, et)
		}
	}
	for _, p := range patterns {
		if !slices.ContainsFunc(out, func(et schemas.EventType) bool { ok, _ := path.Match(p, et.Name); return ok }) {
			return nil, &refusal{"unknown_event_type", fmt.Sprintf("%q matches none of the 26 event types; run: hookferry schemas list", p)}
		}
	}
	return out, nil
}

func entitiesOf(types []schemas.EventType) []string {
	var out []string
	for _, et := range types {
		if !slices.Contains(out, et.Entity) {
			out = append(out, et.Entity)
		}
	}
	return out
}

// published is what became of one event: a line of the output.
type published struct {
	Document int    `json:"document"` // counted from 1, over all files
	EventID  string `json:"event_id,omitempty"`
	Type     string `json:"type,omitempty"`
	Company  string `json:"company,omitempty"`
	Entity   string `json:"entity_id,omitempty"`
	Fate     string `json:"fate"` // accepted, rejected, unknown
	Code     string `json:"code,omitempty"`
	Error    string `json:"error,omitempty"`
	Retry    bool   `json:"retry,omitempty"` // trying again may help
}

// publishAtOnce is how many documents travel in one call of Publish.
const publishAtOnce = 500

func (o *publishOptions) publishDocuments(ctx context.Context, a *app, p *producer.Producer, files []string) error {
	if len(files) == 0 {
		files = []string{"-"}
	}
	r := &report{a: a}
	for _, name := range files {
		if err := o.publishFile(ctx, a, p, r, name); err != nil {
			return errors.Join(err, r.end())
		}
	}
	return r.end()
}

func (o *publishOptions) publishFile(ctx context.Context, a *app, p *producer.Producer, r *report, name string) error {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return &refusal{"file", err.Error()}
		}
		defer f.Close()
		in = f
	}
	docs := newDocuments(in)
	var batch []schemas.Event
	var lines []published
	flush := func() {
		r.add(lines, p.Publish(ctx, batch...))
		batch, lines = batch[:0], lines[:0]
	}
	for ctx.Err() == nil {
		doc, err := docs.next()
		if err == io.EOF {
			flush()
			return nil
		}
		if err != nil {
			flush()
			return &refusal{"json", fmt.Sprintf("%s, behind document %d: %v", name, r.documents, err)}
		}
		r.documents++
		ev, err := eventOf(doc, o.company, time.Now())
		if err != nil {
			flush()
			r.reject(r.documents, err)
			continue
		}
		m := ev.EventMeta()
		batch = append(batch, ev)
		lines = append(lines, published{Document: r.documents, EventID: m.EventID, Type: m.EventType, Company: m.CompanyID, Entity: m.EntityID})
		// Who types documents into a terminal, or pipes a slow program, sees each one's fate before the next.
		if len(batch) == publishAtOnce || !docs.buffered() {
			flush()
		}
	}
	return ctx.Err()
}

// report prints what becomes of documents and remembers whether all were accepted.
type report struct {
	a                           *app
	documents                   int
	accepted, rejected, unknown int
}

// add reports a call of Publish: lines are its events, in order.
func (r *report) add(lines []published, err error) {
	var failed *producer.Error
	errors.As(err, &failed)
	for i := range lines {
		l := &lines[i]
		l.Fate = "accepted"
		if failed != nil {
			if k := slices.IndexFunc(failed.Events, func(e *producer.EventError) bool { return e.Index == i }); k >= 0 {
				e := failed.Events[k]
				l.Code, l.Error, l.Retry = e.Code(), e.Err.Error(), e.Retry
				if l.Fate = "rejected"; errors.Is(e, producer.ErrUnknown) {
					l.Fate = "unknown"
				}
			}
		}
		r.line(l)
	}
}

// reject reports a document that makes no event; err joins what is wrong with it.
func (r *report) reject(document int, err error) {
	for i, e := range leaves(err) {
		l := &published{Document: document, Fate: "rejected", Code: "failed", Error: e.Error()}
		var c coded
		if errors.As(e, &c) {
			l.Code = c.Code()
		}
		if i > 0 {
			r.rejected-- // one document, several lines
		}
		r.line(l)
	}
}

func (r *report) line(l *published) {
	switch l.Fate {
	case "accepted":
		r.accepted++
	case "rejected":
		r.rejected++
	default:
		r.unknown++
	}
	switch {
	case r.a.json:
		r.a.printJSONLine(l)
	case l.Fate == "accepted":
		fmt.Fprintln(r.a.out, safeText(fmt.Sprintf("accepted  %s  %s  %s/%s", l.EventID, l.Type, l.Company, l.Entity)))
	case l.EventID != "":
		fmt.Fprintln(r.a.errOut, safeText(fmt.Sprintf("%s  %s  %s  document %d: %s: %s", l.Fate, l.EventID, l.Type, l.Document, l.Code, l.Error)))
	default:
		fmt.Fprintln(r.a.errOut, safeText(fmt.Sprintf("%s  document %d: %s: %s", l.Fate, l.Document, l.Code, l.Error)))
	}
}

// end says how it went over all.
func (r *report) end() error {
	switch {
	case r.rejected+r.unknown > 0:
		return &refusal{"not_all_accepted", fmt.Sprintf("%d accepted, %d rejected, %d unknown", r.accepted, r.rejected, r.unknown)}
	case r.documents == 0:
		return &refusal{"nothing_to_publish", "there was no document; see: hookferry publish --help"}
	}
	return nil
}

// sampled is the output of --sample.
type sampled struct {
	Accepted int64            `json:"accepted"`
	Rejected int64            `json:"rejected"`
	Unknown  int64            `json:"unknown"`
	Seconds  float64          `json:"seconds"`
	Types    map[string]int64 `json:"accepted_by_type"`
}

// samplesSince is where sample sequences begin: their versions grow from run to run, as long as a type has fewer than 1,000 events a second.
var samplesSince = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (o *publishOptions) publishSamples(ctx context.Context, a *app, p *producer.Producer, types []schemas.EventType) error {
	company := o.company
	if company == "" {
		company = "sample"
	}
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	first := time.Since(samplesSince).Milliseconds()
	bar := a.progress("events published", o.sample)
	defer bar.Done()
	total := sampled{Types: map[string]int64{}}
	began := time.Now()

	// Handing over and waiting are two loops, so that the rate holds while acknowledgements are slow.
	type handed struct {
		pending *producer.Pending
		types   []string
	}
	under := make(chan handed, 256)
	counted := make(chan error, 1)
	go func() {
		var last error
		for h := range under {
			err := h.pending.Wait(ctx)
			if err != nil {
				last = err
			}
			total.count(h.types, err)
			bar.Add(int64(len(h.types)))
		}
		counted <- last
	}()
	for sent := int64(0); sent < o.sample && ctx.Err() == nil; {
		n, wait := o.due(time.Since(began), sent)
		if n == 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		evs := make([]schemas.Event, n)
		h := handed{types: make([]string, n)}
		for i := range evs {
			et := types[sent%int64(len(types))]
			evs[i], h.types[i] = sandbox.Sample(rng, et.Name, company, first+sent/int64(len(types))), et.Name
			sent++
		}
		h.pending = p.Start(ctx, evs...)
		under <- h
	}
	close(under)
	err := <-counted
	bar.Done()
	total.Seconds = time.Since(began).Seconds()
	return errors.Join(o.printSampled(a, &total), ctx.Err(), sampleTrouble(&total, err))
}

// due is how many events should be handed over now, or how long there is nothing to do.
func (o *publishOptions) due(elapsed time.Duration, sent int64) (n int64, wait time.Duration) {
	n = min(o.sample-sent, 200)
	if o.rate == 0 {
		return n, 0
	}
	n = min(n, 1+int64(elapsed.Seconds()*o.rate)-sent)
	if n <= 0 {
		return 0, max(time.Duration(min(float64(sent)/o.rate, 1e9)*float64(time.Second))-elapsed, time.Millisecond)
	}
	return n, 0
}

func (s *sampled) count(types []string, err error) {
	var failed *producer.Error
	errors.As(err, &failed)
	bad := map[int]bool{}
	if failed != nil {
		for _, e := range failed.Events {
			bad[e.Index] = true
			if errors.Is(e, producer.ErrUnknown) {
				s.Unknown++
			} else {
				s.Rejected++
			}
		}
	}
	for i, name := range types {
		if !bad[i] {
			s.Accepted++
			s.Types[name]++
		}
	}
}

func (o *publishOptions) printSampled(a *app, s *sampled) error {
	if a.json {
		return a.printJSON(s)
	}
	var rows [][]string
	for _, et := range schemas.EventTypes() {
		if n := s.Types[et.Name]; n > 0 {
			rows = append(rows, []string{et.Name, fmt.Sprint(n)})
		}
	}
	a.printTable([]string{"TYPE", "ACCEPTED"}, rows)
	fmt.Fprintf(a.out, "%d accepted, %d rejected, %d unknown, in %.1f s\n", s.Accepted, s.Rejected, s.Unknown, s.Seconds)
	return nil
}

func sampleTrouble(s *sampled, last error) error {
	if s.Rejected+s.Unknown == 0 {
		return nil
	}
	var e *producer.EventError
	if errors.As(last, &e) {
		last = e
	}
	return &refusal{"not_all_accepted", fmt.Sprintf("%d rejected, %d unknown; the last: %v", s.Rejected, s.Unknown, last)}
}
