package router

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// ReplayDraft says what a replay is to route again, and to whom. Exactly one of Subscription, Company and All is set.
type ReplayDraft struct {
	Subscription string
	Company      string // every active subscription of the company (those of company "*" are not meant)
	All          bool   // every active subscription, each with the events of its company
	// From and To bound the append times: From is in, To is out. A zero From is the earliest event that is left; a zero To bounds no time: the range ends where
	// the logs end, so that every event is in it that was accepted before.
	From, To time.Time
	// Begins and Ends bound offsets, for the partitions that they name. If there are any, only those partitions are scanned. Both bounds hold: a
	// partition with an offset of its own is narrowed by From and To as well, where these are set.
	Begins, Ends []schemas.PartitionOffset
	Events       []string // patterns; none: all that a subscription wants
	Entity       string
	EventID      string
	Rate         float64 // tasks per second; 0: none. A subscription's own rate of replays holds beside it
}

// ReplayPlan is what a replay would do: a dry run.
type ReplayPlan struct {
	Draft         ReplayDraft // such that StartReplay takes exactly what was counted
	To            time.Time   // of the draft, or when it was counted
	Subscriptions int         // active ones that it is for
	LeftOut       int         // paused and disabled ones of the company, or of all
	Scanned       int64       // records in the range
	Matched       int64       // events that somebody wants
	Tasks         int64
	Bytes         int64 // of bodies to send
	Undecodable   int64 // records in the range that cannot be read: they stand in `undecodable`
	Topics        []ReplayPlanTopic
	// Time is the least that the sends take at the rates of the draft and of the subscriptions; 0: no rate bounds them.
	Time time.Duration
	// Gone is true if retention has removed events since From: the range begins later than was asked.
	Gone bool
}

// ReplayPlanTopic is a plan's part of one topic.
type ReplayPlanTopic struct {
	Topic                          string
	Scanned, Matched, Tasks, Bytes int64
}

// ReplayError says what is wrong with a draft, or why a replay cannot be changed.
type ReplayError struct{ code, sentence string }

func (e *ReplayError) Error() string { return e.sentence }

// Code is stable: programs may compare it. It is one of the Code constants below.
func (e *ReplayError) Code() string { return e.code }

// The codes of a ReplayError.
const (
	CodeReplayWho        = "replay_who"         // not exactly one of subscription, company and all
	CodeReplayRange      = "replay_range"       // From is not before To, or To lies ahead
	CodeReplayRate       = "replay_rate"        // below zero or not a number
	CodeReplayNobody     = "replay_nobody"      // no such subscription, or it is deleted, or the company has no active one
	CodeReplayNotActive  = "replay_not_active"  // the one subscription is paused or disabled
	CodeReplayNotFound   = "replay_not_found"   // no replay of that id
	CodeReplayOver       = "replay_over"        // it is done or cancelled, and stays so
	CodeReplayIsCatchUp  = "replay_is_catch_up" // a catch-up is owed: it may be paused, not cancelled
	CodeReplayOtherOrder = "replay_other_order" // a redrive or a reroute: its own command changes it
)

func replayErrorf(code, format string, args ...any) error {
	return &ReplayError{code, fmt.Sprintf(format, args...)}
}

// replayMargin is how far behind To a replay reads on: no two brokers' clocks may lie further apart (subscriptions.clock_spread is at most 10 s).
const replayMargin = 11 * time.Second

// planWait is how long a plan waits for the registry to say what a schema is.
const planWait = 10 * time.Second

// check says what is wrong with a draft, and fills in its times.
func (d *ReplayDraft) check(c *kafka.Client, table *subscriptions.Table) error {
	who := 0
	for _, set := range []bool{d.Subscription != "", d.Company != "", d.All} {
		if set {
			who++
		}
	}
	if who != 1 {
		return replayErrorf(CodeReplayWho, "a replay is for one subscription, for those of a company, or for all: say exactly one of them")
	}
	if d.Rate < 0 || math.IsNaN(d.Rate) || math.IsInf(d.Rate, 0) {
		return replayErrorf(CodeReplayRate, "%v is no rate: it is in tasks per second, and 0 means none", d.Rate)
	}
	events, err := subscriptions.CheckPatterns(d.Events)
	if err != nil {
		return err
	}
	d.Events = events
	now := c.BrokerNow()
	if d.To.After(now.Add(time.Second)) {
		return replayErrorf(CodeReplayRange, "the replay is to end at %s, which lies ahead: what comes from now on is delivered anyway", d.To.UTC().Format(time.RFC3339))
	}
	if to := d.end(now); !d.From.Before(to) {
		return replayErrorf(CodeReplayRange, "the replay is to begin at %s and to end at %s, which is not later", d.From.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return d.checkWho(table)
}

// end is To, or now.
func (d *ReplayDraft) end(now time.Time) time.Time {
	if d.To.IsZero() {
		return now
	}
	return d.To
}

// checkWho says whether there is somebody to replay to.
func (d *ReplayDraft) checkWho(table *subscriptions.Table) error {
	if d.Subscription != "" {
		l, ok := table.Get(d.Subscription)
		switch {
		case !ok:
			return replayErrorf(CodeReplayNobody, "there is no subscription %s", d.Subscription)
		case l.State == schemas.StateDeleted:
			return replayErrorf(CodeReplayNobody, "the subscription %s is deleted", d.Subscription)
		case l.State != schemas.StateActive:
			return replayErrorf(CodeReplayNotActive, "the subscription %s is %s, and would get nothing: resume it first", d.Subscription, l.State)
		}
		return nil
	}
	if active, _ := d.count(table); active == 0 {
		return replayErrorf(CodeReplayNobody, "no active subscription would get anything of it")
	}
	return nil
}

// count says for how many subscriptions a draft is, and how many it leaves out because they are not active.
func (d *ReplayDraft) count(table *subscriptions.Table) (active, out int) {
	for l := range table.All() {
		switch {
		case l.State == schemas.StateDeleted, d.Company != "" && l.Company != d.Company, d.Subscription != "" && l.ID != d.Subscription:
		case l.State == schemas.StateActive:
			active++
		default:
			out++
		}
	}
	return active, out
}

// order makes the order of a checked draft, with the offsets of its range. gone: retention has removed the beginning of it.
func (d *ReplayDraft) order(ctx context.Context, c *kafka.Client) (o *schemas.Replay, gone bool, err error) {
	o = &schemas.Replay{ID: newReplayID(), Kind: schemas.ReplayReplay, Subscription: d.Subscription, Company: d.Company, State: schemas.ReplayRunning,
		CreatedAt: time.Now().UnixMilli(), Events: d.Events, Entity: d.Entity, EventID: d.EventID, Rate: d.Rate}
	if !d.To.IsZero() {
		o.To = d.To.UnixMilli()
	}
	if !d.From.IsZero() {
		o.From = max(1, d.From.UnixMilli())
	}
	named := func(list []schemas.PartitionOffset, topic string, p int32, or int64) int64 {
		for _, e := range list {
			if e.Topic == topic && e.Partition == p {
				return e.Offset
			}
		}
		return or
	}
	for _, topic := range c.Topics().EventTopics() {
		starts, begins, ends, err := d.reach(ctx, c, topic, o.From)
		if err != nil {
			return nil, false, err
		}
		for p := range int32(len(ends)) {
			begin, end := named(d.Begins, topic, p, -1), named(d.Ends, topic, p, -1)
			if len(d.Begins)+len(d.Ends) > 0 && begin < 0 && end < 0 {
				continue
			}
			gone = gone || starts[p] > 0 && (begin >= 0 && begin < starts[p] || o.From > 0 && begins[p] == starts[p])
			begin = max(begin, begins[p])
			if end = min(named(d.Ends, topic, p, ends[p]), ends[p]); begin < end {
				o.Begins = append(o.Begins, schemas.PartitionOffset{Topic: topic, Partition: p, Offset: begin})
				o.Ends = append(o.Ends, schemas.PartitionOffset{Topic: topic, Partition: p, Offset: end})
			}
		}
	}
	return o, gone, nil
}

// reach asks where the partitions of a topic begin, and where the times of a draft lie in them.
func (d *ReplayDraft) reach(ctx context.Context, c *kafka.Client, topic string, from int64) (starts, begins, ends map[int32]int64, err error) {
	if starts, err = c.Offsets(ctx, topic, kafka.Earliest); err != nil {
		return nil, nil, nil, err
	}
	begins = starts
	if from > 0 {
		if begins, err = c.Offsets(ctx, topic, from); err != nil {
			return nil, nil, nil, err
		}
	}
	to := int64(kafka.Latest)
	if !d.To.IsZero() {
		to = d.To.Add(replayMargin).UnixMilli() // of a time that no record has reached: the end
	}
	ends, err = c.Offsets(ctx, topic, to)
	return starts, begins, ends, err
}

// PlanReplay scans the range of a draft and counts what it would do; nothing is written. The table must be loaded. progress, if not nil, learns how far it is.
func PlanReplay(ctx context.Context, c *kafka.Client, table *subscriptions.Table, cfg Config, d ReplayDraft, progress ScanProgress) (*ReplayPlan, error) {
	if err := d.check(c, table); err != nil {
		return nil, err
	}
	o, gone, err := d.order(ctx, c)
	if err != nil {
		return nil, err
	}
	plan := &ReplayPlan{Draft: d, To: d.end(c.BrokerNow()), Gone: gone}
	plan.Subscriptions, plan.LeftOut = d.count(table)
	if len(o.Ends) == 0 {
		plan.Draft.To = plan.To
		return plan, nil
	}
	if d.To.IsZero() {
		plan.Draft.Begins, plan.Draft.Ends = o.Begins, o.Ends
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	metrics, err := newMetrics(nil, nil)
	if err != nil {
		return nil, err
	}
	s := newShared(cfg, c, table, metrics, zap.NewNop())
	s.schemas = newResolver(c.Registry(), cfg.UnknownSchemaWait, s.log, func(*writer) {})
	s.schemas.ctx = ctx
	defer s.schemas.wg.Wait()
	defer cancel()
	return plan, (&planning{s: &scanning{pass: newPass(s), c: choiceOf(s, o, table)}, plan: plan, topics: map[string]*ReplayPlanTopic{}, tasks: map[string]int64{}}).run(ctx, c, o, progress)
}

// choiceOf is the choice of a replay.
func choiceOf(s *shared, o *schemas.Replay, table *subscriptions.Table) *choice {
	c := &choice{order: o, company: o.Company, from: o.From, to: cmp.Or(o.To, math.MaxInt64)}
	if o.Subscription != "" {
		c.sub, _ = table.Get(o.Subscription)
		c.company = c.sub.Company
	}
	if c.company == schemas.AnyCompany {
		c.company = ""
	}
	c.types = typesWanted(s.types, o, c.sub)
	return c
}

// planning is a dry run: the same choice as a real one, and nothing behind it.
type planning struct {
	s      *scanning
	plan   *ReplayPlan
	topics map[string]*ReplayPlanTopic
	tasks  map[string]int64 // by subscription
	rates  map[string]float64
}

func (g *planning) run(ctx context.Context, c *kafka.Client, o *schemas.Replay, progress ScanProgress) error {
	pos, ends := map[kafka.TP]int64{}, map[kafka.TP]int64{}
	var total, read int64
	for i, e := range o.Ends {
		tp := kafka.TP{Topic: e.Topic, Partition: e.Partition}
		pos[tp], ends[tp] = o.Begins[i].Offset, e.Offset
		total += e.Offset - pos[tp]
	}
	var failed error
	g.rates = map[string]float64{}
	err := scan(ctx, c, pos, func(tp kafka.TP) int64 { return ends[tp] }, func(tp kafka.TP, rec *kafka.Record) bool {
		failed = g.record(ctx, tp, rec)
		return failed == nil
	}, func(n int64) {
		read += n
		if progress != nil {
			progress(read, total)
		}
	})
	for _, topic := range slices.Sorted(maps.Keys(g.topics)) {
		g.plan.Topics = append(g.plan.Topics, *g.topics[topic])
	}
	seconds := 0.0
	if o.Rate > 0 {
		seconds = float64(g.plan.Tasks) / o.Rate
	}
	for id, rate := range g.rates {
		seconds = max(seconds, float64(g.tasks[id])/rate)
	}
	g.plan.Time = time.Duration(seconds * float64(time.Second))
	return errors.Join(failed, err)
}

// record counts one record.
func (g *planning) record(ctx context.Context, tp kafka.TP, rec *kafka.Record) error {
	t := g.topics[tp.Topic]
	if t == nil {
		t = &ReplayPlanTopic{Topic: tp.Topic}
		g.topics[tp.Topic] = t
	}
	src := schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: rec.Offset, Time: rec.Time}
	if _, ok := g.s.c.means(rec.Time, false); !ok {
		return nil
	}
	g.plan.Scanned++
	t.Scanned++
	typ, rest, waits := g.s.look(rec.Value, &src)
	for until := time.Now().Add(planWait); waits && time.Now().Before(until); typ, rest, waits = g.s.look(rec.Value, &src) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p := g.s.pass
	if typ == nil || len(p.subs) == 0 {
		return nil
	}
	p.render.load(p.lastReader, &p.meta, typ, rest)
	bytes := 0
	for _, l := range p.subs {
		b, err := p.render.body(formatOf(l.Format))
		if err != nil {
			g.plan.Undecodable++
			return nil
		}
		bytes += len(b.head) + len(b.tail)
		if b.hole {
			bytes += len(p.nameOf(l))
		}
	}
	for _, l := range p.subs {
		if l.ReplayRate > 0 {
			g.rates[l.ID] = l.ReplayRate
			g.tasks[l.ID]++
		}
	}
	n := int64(len(p.subs))
	g.plan.Matched, g.plan.Tasks, g.plan.Bytes = g.plan.Matched+1, g.plan.Tasks+n, g.plan.Bytes+int64(bytes)
	t.Matched, t.Tasks, t.Bytes = t.Matched+1, t.Tasks+n, t.Bytes+int64(bytes)
	return nil
}

// StartReplay checks a draft and writes the order. It has effect while routers run, or when they are started. The table must be loaded. A draft whose range
// holds nothing is an order that is done at once.
func StartReplay(ctx context.Context, c *kafka.Client, table *subscriptions.Table, d ReplayDraft) (*schemas.Replay, error) {
	if err := d.check(c, table); err != nil {
		return nil, err
	}
	o, _, err := d.order(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(o.Ends) == 0 {
		o.State, o.Note = schemas.ReplayDone, "there was nothing in its range"
	}
	return o, writeOrder(ctx, c, o)
}

// writeOrder writes an order, or its new state.
func writeOrder(ctx context.Context, c *kafka.Client, o *schemas.Replay) error {
	topic := c.Topics().Replays
	n, err := c.PartitionCount(ctx, topic)
	if err != nil {
		return err
	}
	var rs kafka.Records
	rs.Add(kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(o.ID), n)}, []byte(o.ID), nil, schemas.AppendReplay(nil, o))
	if err := fault.Before(fault.ReplayOrder); err != nil {
		return err
	}
	_, err = c.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs)
	return fault.After(fault.ReplayOrder, err)
}

// SetReplayState pauses, resumes (state running) or cancels a replay, and returns the order as it stands then. A catch-up may be paused and resumed. To set
// a state that stands already is no change. Routers obey before their next batch.
func SetReplayState(ctx context.Context, c *kafka.Client, id, state, note string) (*schemas.Replay, error) {
	o, err := readOrder(ctx, c, id)
	switch {
	case err != nil:
		return nil, err
	case o == nil:
		return nil, replayErrorf(CodeReplayNotFound, "there is no replay %s", id)
	case o.Kind != schemas.ReplayReplay && o.Kind != schemas.ReplayCatchUp:
		return nil, replayErrorf(CodeReplayOtherOrder, "%s is a %s: its own command changes it", id, o.Kind)
	case o.State == state:
		return o, nil
	case o.State == schemas.ReplayDone || o.State == schemas.ReplayCancelled:
		return nil, replayErrorf(CodeReplayOver, "the replay %s is %s, and stays so", id, o.State)
	case state == schemas.ReplayCancelled && o.Kind == schemas.ReplayCatchUp:
		return nil, replayErrorf(CodeReplayIsCatchUp, "%s is the catch-up of a subscription, which is owed to it: pause it, or pause or delete the subscription", id)
	}
	changed := *o
	changed.State, changed.Note = state, note
	return &changed, writeOrder(ctx, c, &changed)
}

// readOrder reads an order of any kind; nil: there is none of that id.
func readOrder(ctx context.Context, c *kafka.Client, id string) (found *schemas.Replay, err error) {
	err = scanTopic(ctx, c, c.Topics().Replays, func(_ kafka.TP, rec *kafka.Record) bool {
		var o schemas.Replay
		if string(rec.Key) == id && rec.Value != nil && schemas.DecodeReplay(rec.Value, &o) == nil && !(found != nil && over(found)) {
			found = &o
		}
		return true
	})
	return found, err
}

// over: what comes later under the id of such an order changes nothing.
func over(o *schemas.Replay) bool {
	return o.State == schemas.ReplayDone || o.State == schemas.ReplayCancelled
}

// FindReplay reads the order of a replay or catch-up back; nil if there is none of that id.
func FindReplay(ctx context.Context, c *kafka.Client, id string) (*schemas.Replay, error) {
	o, err := readOrder(ctx, c, id)
	if o != nil && o.Kind != schemas.ReplayReplay && o.Kind != schemas.ReplayCatchUp {
		o = nil
	}
	return o, err
}

// ReplayInfo is a row of a list: an order, and what its partitions have noted so far.
type ReplayInfo struct {
	schemas.Replay
	Scanned, Matched int64 // records looked at, and tasks made
	Parts, PartsDone int   // partitions that noted something, and those of them that are through
	NotedAt          int64
}

// ListReplays lists replays and catch-ups, the newest first.
func ListReplays(ctx context.Context, c *kafka.Client) ([]ReplayInfo, error) {
	found := map[string]*ReplayInfo{}
	err := scanTopic(ctx, c, c.Topics().Replays, func(_ kafka.TP, rec *kafka.Record) bool {
		var o schemas.Replay
		if rec.Value == nil {
			delete(found, string(rec.Key))
		} else if schemas.DecodeReplay(rec.Value, &o) == nil && (o.Kind == schemas.ReplayReplay || o.Kind == schemas.ReplayCatchUp) {
			if have := found[o.ID]; have == nil || !over(&have.Replay) {
				found[o.ID] = &ReplayInfo{Replay: o}
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	last := map[string]map[kafka.TP]progress{}
	err = scanTopic(ctx, c, c.Topics().Progress, func(_ kafka.TP, rec *kafka.Record) bool {
		var p progress
		if rec.Value == nil || schemas.DecodeProgress(rec.Value, &p) != nil || found[p.Replay] == nil {
			return true
		}
		if last[p.Replay] == nil {
			last[p.Replay] = map[kafka.TP]progress{}
		}
		tp := kafka.TP{Topic: p.Topic, Partition: p.Partition}
		if old := last[p.Replay][tp]; !old.Done && (p.Done || p.Next >= old.Next) {
			last[p.Replay][tp] = p
		}
		return true
	})
	out := make([]ReplayInfo, 0, len(found))
	for id, info := range found {
		for _, p := range last[id] {
			info.Scanned, info.Matched, info.Parts, info.NotedAt = info.Scanned+p.Scanned, info.Matched+p.Matched, info.Parts+1, max(info.NotedAt, p.At)
			if p.Done {
				info.PartsDone++
			}
		}
		out = append(out, *info)
	}
	slices.SortFunc(out, func(a, b ReplayInfo) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out, err
}

// ReplayPart is how far a replay has come in one partition of a topic of events.
type ReplayPart struct {
	Topic     string
	Partition int32
	Begin     int64
	Next      int64
	End       int64 // -1: not known yet, because the span of the catch-up has no end yet
	Scanned   int64 // records looked at
	Matched   int64 // tasks made
	Done      bool
}

// ReplayProgress is how far a replay has come.
type ReplayProgress struct {
	Replay   schemas.Replay
	Parts    []ReplayPart // by topic and partition; only those with something to do
	Scanned  int64        // offsets that are behind it, over all parts
	Total    int64        // offsets in all; 0: not known yet
	Matched  int64        // tasks made
	Rate     float64      // offsets a second, over the last minute
	TaskRate float64      // tasks a second, over the last minute
	// Left is how long the rest takes at Rate; 0: done, or nobody knows.
	Left time.Duration
}

// rateOver is the time over which rates are taken.
const rateOver = time.Minute

// ReplayState reads how far a replay or catch-up has come. The table serves to find where a catch-up ends; nil: its end counts as not known.
func ReplayState(ctx context.Context, c *kafka.Client, table *subscriptions.Table, id string) (*ReplayProgress, error) {
	o, err := FindReplay(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return nil, replayErrorf(CodeReplayNotFound, "there is no replay %s", id)
	}
	out := &ReplayProgress{Replay: *o}
	if out.Parts, err = reaches(ctx, c, table, o); err != nil {
		return nil, err
	}
	// The topic holds more than the last record of each key: what is younger than its compaction lag. The last one from before a minute ago tells the rate.
	last, before := map[kafka.TP]progress{}, map[kafka.TP]progress{}
	since := time.Now().Add(-rateOver).UnixMilli()
	err = scanTopic(ctx, c, c.Topics().Progress, func(_ kafka.TP, rec *kafka.Record) bool {
		var p progress
		if rec.Value == nil || !bytes.HasPrefix(rec.Key, []byte(id)) || schemas.DecodeProgress(rec.Value, &p) != nil || p.Replay != id {
			return true
		}
		tp := kafka.TP{Topic: p.Topic, Partition: p.Partition}
		if old := last[tp]; !old.Done && (p.Done || p.Next >= old.Next) {
			if last[tp] = p; p.At <= since {
				before[tp] = p
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	out.sum(last, before)
	return out, nil
}

// sum fills in what has been noted.
func (s *ReplayProgress) sum(last, before map[kafka.TP]progress) {
	known := true
	var moved, made int64
	for i := range s.Parts {
		part := &s.Parts[i]
		tp := kafka.TP{Topic: part.Topic, Partition: part.Partition}
		p, noted := last[tp]
		part.Next = part.Begin
		if noted {
			part.Next, part.Scanned, part.Matched, part.Done = max(p.Next, part.Begin), p.Scanned, p.Matched, p.Done
			moved += part.Next - max(before[tp].Next, part.Begin)
			made += p.Matched - before[tp].Matched
		}
		if part.Done {
			part.End = max(part.Next, part.Begin)
		}
		known = known && part.End >= 0
		s.Scanned += part.Next - part.Begin
		s.Total += max(part.End, part.Next) - part.Begin
		s.Matched += part.Matched
	}
	if !known {
		s.Total = 0
	}
	over := min(rateOver, max(time.Second, time.Since(time.UnixMilli(s.Replay.CreatedAt))))
	s.Rate, s.TaskRate = float64(moved)/over.Seconds(), float64(made)/over.Seconds()
	if s.Rate > 0 && s.Total > s.Scanned {
		s.Left = time.Duration(float64(s.Total-s.Scanned) / s.Rate * float64(time.Second))
	}
}

// reaches lists the partitions that an order has something to do in, with where it begins and ends in them.
func reaches(ctx context.Context, c *kafka.Client, table *subscriptions.Table, o *schemas.Replay) (out []ReplayPart, err error) {
	if o.Kind == schemas.ReplayReplay {
		for i, e := range o.Ends {
			out = append(out, ReplayPart{Topic: e.Topic, Partition: e.Partition, Begin: o.Begins[i].Offset, End: e.Offset})
		}
		return out, nil
	}
	to := int64(0)
	if table != nil {
		if l, ok := table.Get(o.Subscription); ok {
			to, _ = l.CatchUpEnd(o)
		}
	}
	for _, topic := range c.Topics().EventTopics() {
		begins, err := c.Offsets(ctx, topic, o.From)
		if err != nil {
			return nil, err
		}
		var ends map[int32]int64
		if to > 0 {
			if ends, err = c.Offsets(ctx, topic, to); err != nil {
				return nil, err
			}
		}
		for p := range int32(len(begins)) {
			part := ReplayPart{Topic: topic, Partition: p, Begin: begins[p], End: -1}
			if to > 0 {
				part.End = max(ends[p], begins[p])
			}
			if part.End != part.Begin {
				out = append(out, part)
			}
		}
	}
	return out, nil
}
