package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// Report is what the books say. Owed = Delivered + Dead + Dropped + Waiting + Undecodable + Unknown + Missing; a task that ended in several ways is
// counted once: delivered beats dead beats dropped.
type Report struct {
	Subscription string    `json:"subscription"`
	From         time.Time `json:"from"`
	To           time.Time `json:"to"`
	Events       int64     `json:"events"` // of all companies
	Owed         int64     `json:"owed"`
	Delivered    int64     `json:"delivered"`
	Dead         int64     `json:"dead"`
	Dropped      int64     `json:"dropped"`
	Waiting      int64     `json:"waiting"`
	Undecodable  int64     `json:"undecodable"`
	Unknown      int64     `json:"unknown"` // older than what is kept of attempts, and without a trace
	Missing      int64     `json:"missing"`

	DeadBy    map[string]int64 `json:"dead_by"`
	DroppedBy map[string]int64 `json:"dropped_by"`
	WaitingBy map[string]int64 `json:"waiting_by"`

	// Unreadable are events that stand in `undecodable` and whose owner nobody can tell. They are not among Owed.
	Unreadable int64 `json:"unreadable"`
	// CaughtUp are those of Owed that are a catch-up's.
	CaughtUp int64 `json:"caught_up"`

	Gaps       []Gap          `json:"gaps"` // at most mostListed of them
	GapCount   int64          `json:"gap_count"`
	Ghosts     []Ghost        `json:"ghosts"` // at most mostListed of them
	GhostCount int64          `json:"ghost_count"`
	Replays    []ReplayReport `json:"replays"`
	Notes      []string       `json:"notes"`
}

// OK says that nothing is missing.
func (r *Report) OK() bool { return r.GapCount == 0 }

// mostListed bounds what is listed of gaps and of ghosts; the counts are whole.
const mostListed = 1000

// Place is a place in the log.
type Place struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (p Place) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// The kinds of a gap. All but the last two are among Missing.
const (
	GapNoTask     = "no_task"    // the routers are past the event, and no task was written
	GapNoEnd      = "no_end"     // the task was written; it neither ended nor waits
	GapPutOff     = "put_off"    // attempts put it off to a tier, and no record of it waits or has ended
	GapRedriven   = "redriven"   // a redrive took the dead letter out, and what came of it neither ended nor waits
	GapLetter     = "letter"     // an attempt says that the task is dead, and its letter is not in `dead`
	GapCatchUp    = "catch_up"   // its span is over, and no catch-up was ordered for it
	GapTrace      = "no_trace"   // no end, and retention has removed the records that would say whether a task was written
	GapUnreadable = "unreadable" // the event cannot be read, and does not stand in `undecodable`: nobody knows whose it was
	GapAttempt    = "attempt"    // the task is dead, and no attempt says so
)

// Gap is one thing that should be there and is not.
type Gap struct {
	Kind     string `json:"kind"`
	Event    string `json:"event_id,omitempty"`
	Type     string `json:"event_type,omitempty"`
	Entity   string `json:"entity_id,omitempty"`
	Task     string `json:"task_id,omitempty"`
	Source   Place  `json:"source"`
	Appended int64  `json:"appended_ms"`
	Replay   string `json:"replay,omitempty"` // the catch-up that owed it
	Written  *Place `json:"written,omitempty"`
}

// Ghost is a task that waits or has ended and that was never owed.
type Ghost struct {
	What     string `json:"what"` // waiting, or the verdict of an attempt
	Why      string `json:"why"`
	Event    string `json:"event_id"`
	Type     string `json:"event_type"`
	Task     string `json:"task_id"`
	Place    Place  `json:"source"`
	Appended int64  `json:"appended_ms"`
	Replay   string `json:"replay,omitempty"`

	company, entity string
}

// ReplayReport is what came of the tasks that a replay made of events of the stretch. What it should have made is for `replay show` to say.
type ReplayReport struct {
	Replay    string `json:"replay"`
	Tasks     int64  `json:"tasks"`
	Delivered int64  `json:"delivered"`
	Dead      int64  `json:"dead"`
	Dropped   int64  `json:"dropped"`
	Waiting   int64  `json:"waiting"`
	Unknown   int64  `json:"unknown"` // tried, and neither ended nor waiting
}

// fate is what came of a task.
type fate struct {
	end    string // delivered, dead, dropped, waiting, undecodable, unknown or missing
	reason string
	gap    string // its kind; a task that is dead may have one, too
}

// ended is the fate as far as the task's own records tell it; no end: they do not.
func (b *Books) ended(t *trace) fate {
	standing := int64(-1)
	if t.stands {
		standing = t.letter
	}
	switch {
	case t.delivered:
		return fate{end: "delivered"}
	case t.waits >= 0 && t.waits > max(standing, t.died, t.dropped): // of an earlier round it is a copy, or what it ended as is not committed yet
		return fate{end: "waiting", reason: "in_line"}
	case standing >= 0:
		f := fate{end: "dead", reason: string(t.reason)}
		if t.died < standing && t.waits < standing && t.letterAt >= b.Attempts+margin && !b.since(t.letterAt) {
			f.gap = GapAttempt
		}
		return f
	case t.died > max(t.taken, t.letter) && t.waits < 0:
		if t.diedAt < b.Letters {
			return fate{end: "unknown"}
		}
		return fate{end: "missing", gap: GapLetter}
	case t.waits >= 0 && t.dropped < 0: // its letter or attempt is written, and its offset is not committed: the next look will tell
		return fate{end: "waiting", reason: "in_line"}
	case t.dropped >= 0:
		return fate{end: "dropped", reason: string(t.dropReason)}
	case t.taken >= 0 && t.takenAt < b.Attempts: // what came of it is older than what is kept
		return fate{end: "unknown"}
	case t.taken >= 0 && b.since(t.takenAt): // what waits was looked at before
		return fate{end: "waiting", reason: "in_line"}
	case t.taken >= 0:
		return fate{end: "missing", gap: GapRedriven}
	}
	return fate{}
}

// since says whether something came to be while the topics were read, one after the other: what was read before does not know it.
func (b *Books) since(at int64) bool { return b.Looked > 0 && at >= b.Looked }

// margin is how far the clocks of brokers and services may lie apart, ms (design rule 14).
const margin = int64(2 * time.Minute / time.Millisecond)

// fate of what was owed.
func (b *Books) fate(o *owed) fate {
	f := b.ended(&o.trace)
	if f.end != "" && f.end != "missing" {
		return f
	}
	_, kept := b.kept[o.place]
	reason, routed := b.routed(o)
	switch {
	case f.end == "missing":
		return f
	case o.seen: // an attempt is kept, and so is every later one
		return fate{end: "missing", gap: GapPutOff}
	case o.way == wayHeld:
		return fate{end: "waiting", reason: "paused"}
	case o.way == wayCatchUp && o.catchUp.State == schemas.ReplayCancelled:
		return fate{end: "dropped", reason: string(schemas.ReasonCancelled)}
	case kept:
		return fate{end: "undecodable"}
	case !routed:
		return fate{end: "waiting", reason: reason}
	case b.Subscription.State == schemas.StateDeleted: // what was not routed when it was deleted has no task
		return fate{end: "dropped", reason: string(schemas.ReasonDeleted)}
	case o.way == wayOrphaned:
		return fate{end: "missing", gap: GapCatchUp}
	case o.at < b.Attempts:
		return fate{end: "unknown"}
	case o.written != nil:
		return fate{end: "missing", gap: GapNoEnd}
	case o.at < b.Tasks:
		return fate{end: "missing", gap: GapTrace}
	}
	return fate{end: "missing", gap: GapNoTask}
}

// routed says whether the task of an event has been written, by who was to do it; else what it waits for.
func (b *Books) routed(o *owed) (waitsFor string, yes bool) {
	var c *CatchUp
	switch o.way {
	case wayCatchUp:
		if c = o.catchUp; c.done(o.TP, o.offset) {
			return "", true
		}
	case wayLive:
		if c = b.spans.waitsFor(o.at, o.TP, o.offset); c == nil {
			return "not_routed", o.offset < b.Routed[o.TP]
		}
	default:
		return "", true
	}
	if c.State == schemas.ReplayPaused {
		return "catch_up_paused", false
	}
	return "catch_up", false
}

// Missing lists what has no end, to be looked for (Written).
func (b *Books) Missing() (n int64) {
	for i := range b.owed {
		if f := b.fate(&b.owed[i]); f.end == "missing" {
			n++
		}
	}
	return n
}

// Report compares the books.
func (b *Books) Report() *Report {
	r := &Report{
		Subscription: b.Subscription.ID, From: time.UnixMilli(b.From).UTC(), To: time.UnixMilli(b.To).UTC(), Events: b.events, Owed: int64(len(b.owed)),
		DeadBy: map[string]int64{}, DroppedBy: map[string]int64{}, WaitingBy: map[string]int64{}, Gaps: []Gap{}, Ghosts: []Ghost{}, Replays: []ReplayReport{},
		Notes: []string{},
	}
	for i := range b.owed {
		o := &b.owed[i]
		if o.way == wayCatchUp || o.way == wayOrphaned {
			r.CaughtUp++
		}
		f := b.fate(o)
		r.count(f)
		if f.gap != "" {
			r.gap(b.gap(o, f.gap))
		}
	}
	b.strangers(r)
	b.replays(r)
	return r
}

func (r *Report) count(f fate) {
	switch f.end {
	case "delivered":
		r.Delivered++
	case "dead":
		r.Dead++
		r.DeadBy[f.reason]++
	case "dropped":
		r.Dropped++
		r.DroppedBy[f.reason]++
	case "waiting":
		r.Waiting++
		r.WaitingBy[f.reason]++
	case "undecodable":
		r.Undecodable++
	case "unknown":
		r.Unknown++
	case "missing":
		r.Missing++
	default:
		panic("BUG: no such end: " + f.end)
	}
}

func (r *Report) gap(g Gap) {
	if r.GapCount++; len(r.Gaps) < mostListed {
		r.Gaps = append(r.Gaps, g)
	}
}

func (b *Books) gap(o *owed, kind string) Gap {
	g := Gap{Kind: kind, Event: o.event, Type: o.typ, Entity: o.entity, Source: Place{o.Topic, o.Partition, o.offset}, Appended: o.at, Written: o.written}
	if o.way == wayCatchUp {
		g.Replay = o.catchUp.ID
	}
	if o.way != wayOrphaned {
		g.Task = schemas.TaskID(schemas.Source{Topic: o.Topic, Partition: o.Partition, Offset: o.offset}, o.event, b.Subscription.ID, g.Replay)
	}
	return g
}

// strangers are events that nobody can read, and tasks that nobody is owed.
func (b *Books) strangers(r *Report) {
	places := slices.SortedFunc(maps.Keys(b.unreadable), func(x, y place) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.offset, y.offset))
	})
	for _, p := range places {
		switch {
		case b.kept[p]:
			r.Unreadable++
		case p.offset < b.Routed[p.TP]:
			r.gap(Gap{Kind: GapUnreadable, Source: Place{p.Topic, p.Partition, p.offset}})
		}
	}
	for _, g := range b.ghosts {
		r.Ghosts = append(r.Ghosts, *g)
	}
	slices.SortFunc(r.Ghosts, func(x, y Ghost) int {
		return cmp.Or(cmp.Compare(x.Appended, y.Appended), strings.Compare(x.Task, y.Task))
	})
	r.GhostCount = int64(len(r.Ghosts))
	r.Ghosts = r.Ghosts[:min(len(r.Ghosts), mostListed)]
}

func (b *Books) replays(r *Report) {
	for _, id := range slices.Sorted(maps.Keys(b.others)) {
		one := ReplayReport{Replay: id}
		for _, t := range b.others[id] {
			one.Tasks++
			switch b.ended(t).end {
			case "delivered":
				one.Delivered++
			case "dead":
				one.Dead++
			case "dropped":
				one.Dropped++
			case "waiting":
				one.Waiting++
			default:
				one.Unknown++
			}
		}
		r.Replays = append(r.Replays, one)
	}
}
