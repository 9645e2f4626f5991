package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Stretch says of what the books are kept: one subscription, and the events that the broker appended from From on and before To (ms).
type Stretch struct {
	Subscription *schemas.Subscription
	From, To     int64
	CatchUps     []*CatchUp // the subscription's
}

// Span is the part of a partition that was read: offsets from Begin on and before End. First is the first offset that the log still has.
type Span struct{ First, Begin, End int64 }

// Event is one event of the log, as far as an audit needs it.
type Event struct {
	Source                    schemas.Source
	ID, Type, Company, Entity string
}

// Books are the ledgers. Events must be complete before the rest begins: what ended or waits is written under what was owed, and all else is a stranger's.
// Report compares. Not safe for concurrent use.
//
// They take some 300 bytes for each event that is owed and each task of a replay.
type Books struct {
	Stretch
	spans *spans

	Read       map[kafka.TP]Span  // of the topics of events
	Routed     map[kafka.TP]int64 // up to where the routers have committed
	Looked     int64              // when what waits was looked at, ms; 0: not while things move
	Attempts   int64              // time of the oldest attempt that is kept, ms; 0: all are
	Letters    int64              // the same of dead letters
	Tasks      int64              // the same of the records of tasks
	events     int64              // of the stretch
	owed       []owed
	index      map[key]int32 // task id -> owed
	unreadable map[place]bool
	kept       map[place]bool // of `undecodable`
	others     map[string]map[key]*trace
	ghosts     map[key]*Ghost
}

// key is a task id: 26 characters of base32 are 16 bytes and two bits more.
type key [16]byte

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func keyOf(id string) (k key) {
	var text [schemas.IDLength]byte
	var out [idBytes]byte
	if len(id) == len(text) && copy(text[:], id) == len(text) {
		if _, err := idEncoding.Decode(out[:], text[:]); err == nil {
			return key(out[:len(k)])
		}
	}
	sum := sha256.Sum256([]byte(id)) // nobody of ours makes such an id; it is told apart all the same
	return key(sum[:])
}

const idBytes = 17 // what Decode may write for 26 characters

// place is where an event lies.
type place struct {
	kafka.TP
	offset int64
}

func placeOf(s *schemas.Source) place {
	return place{kafka.TP{Topic: s.Topic, Partition: s.Partition}, s.Offset}
}

// owed is one event that the subscription was owed, and what became of its task.
type owed struct {
	place
	at      int64
	event   string
	typ     string
	entity  string
	way     way
	catchUp *CatchUp // whose task it is; nil: the live path's, or nobody's
	trace
}

// trace is what is known of a task. The numbers are rounds, and the highest of each counts; -1: none.
type trace struct {
	delivered, seen  bool
	stands           bool  // the letter: no marker behind it takes it out
	letter           int64 // a dead letter
	taken            int64 // a letter that a redrive took out
	died             int64 // an attempt whose verdict was dead
	dropped          int64 // an attempt whose verdict was dropped
	waits            int64 // a record that no deliverer has finished
	diedAt, letterAt int64
	takenAt          int64
	reason           schemas.Reason // of the letter
	dropReason       schemas.Reason
	written          *Place // where a record of the task stands, if that was looked for
}

var noTrace = trace{letter: -1, taken: -1, died: -1, dropped: -1, waits: -1}

// NewBooks opens empty books.
func NewBooks(s Stretch) *Books {
	return &Books{
		Stretch: s, spans: newSpans(s.Subscription, s.CatchUps), Read: map[kafka.TP]Span{}, Routed: map[kafka.TP]int64{}, index: map[key]int32{},
		unreadable: map[place]bool{}, kept: map[place]bool{}, others: map[string]map[key]*trace{}, ghosts: map[key]*Ghost{},
	}
}

// covers says whether an event lies in the stretch, and where it was read.
func (b *Books) covers(s *schemas.Source) bool {
	if s.Time < b.From || s.Time >= b.To {
		return false
	}
	read, ok := b.Read[kafka.TP{Topic: s.Topic, Partition: s.Partition}]
	return ok && s.Offset >= read.First && s.Offset < read.End
}

// Event writes an event down, if it lies in the stretch and the subscription was owed it.
func (b *Books) Event(e Event) {
	if e.Source.Time < b.From || e.Source.Time >= b.To {
		return
	}
	b.events++
	s := b.Subscription
	w, c, why := b.spans.of(e.Company, e.Type, e.Entity, e.Source.Time)
	if why != "" {
		return
	}
	o := owed{place: placeOf(&e.Source), at: e.Source.Time, event: e.ID, typ: e.Type, entity: e.Entity, way: w, catchUp: c, trace: noTrace}
	if w == wayLive || w == wayCatchUp {
		replay := ""
		if c != nil {
			replay = c.ID
		}
		b.index[keyOf(schemas.TaskID(e.Source, e.ID, s.ID, replay))] = int32(len(b.owed))
	}
	b.owed = append(b.owed, o)
}

// Foreign counts an event of another company, of which nothing else is of interest: most are.
func (b *Books) Foreign(at int64) {
	if at >= b.From && at < b.To {
		b.events++
	}
}

// Unreadable writes down an event of the stretch that cannot be read: nobody knows whose it is.
func (b *Books) Unreadable(s schemas.Source) {
	if s.Time >= b.From && s.Time < b.To {
		b.events++
		b.unreadable[placeOf(&s)] = true
	}
}

// Undecodable writes down that an event stands in `undecodable`.
func (b *Books) Undecodable(s schemas.Source) {
	if b.covers(&s) {
		b.kept[placeOf(&s)] = true
	}
}

// traceOf is the trace of a task; nil: it is not of this subscription or stretch, or it is a ghost, which is noted.
func (b *Books) traceOf(id, subscription, replay string, s *schemas.Source, g Ghost) *trace {
	if subscription != b.Subscription.ID {
		return nil
	}
	k := keyOf(id)
	if n, ok := b.index[k]; ok {
		return &b.owed[n].trace
	}
	if !b.covers(s) {
		return nil
	}
	if replay != "" && !b.isCatchUp(replay) {
		tasks := b.others[replay]
		if tasks == nil {
			tasks = map[key]*trace{}
			b.others[replay] = tasks
		}
		if tasks[k] == nil {
			t := noTrace
			tasks[k] = &t
		}
		return tasks[k]
	}
	if old := b.ghosts[k]; old == nil || old.What == waitingGhost {
		g.Task, g.Place, g.Appended, g.Replay = id, Place{s.Topic, s.Partition, s.Offset}, s.Time, replay
		if g.Why = b.spans.why(g.company, g.Type, g.entity, s.Time, replay); g.Why == "" {
			g.Why = notThere
		}
		b.ghosts[k] = &g
	}
	return nil
}

func (b *Books) isCatchUp(replay string) bool {
	for _, c := range b.CatchUps {
		if c.ID == replay {
			return true
		}
	}
	return false
}

const waitingGhost = "waiting"

// Waiting writes down a task that no deliverer has finished.
func (b *Books) Waiting(t *schemas.Task) {
	g := Ghost{What: waitingGhost, Event: t.EventID, Type: t.EventType, company: t.Company, entity: t.EntityID}
	if r := b.traceOf(t.ID, t.Subscription, t.Replay, &t.Source, g); r != nil {
		r.waits = max(r.waits, t.Round)
	}
}

// Attempt writes an attempt down.
func (b *Books) Attempt(a *schemas.Attempt) {
	g := Ghost{What: string(a.Verdict), Event: a.EventID, Type: a.EventType, company: a.Company, entity: a.EntityID}
	r := b.traceOf(a.TaskID, a.Subscription, a.Replay, &a.Source, g)
	if r == nil {
		return
	}
	r.seen = true
	switch round := a.Round; a.Verdict {
	case schemas.VerdictDelivered:
		r.delivered = true
	case schemas.VerdictDead:
		r.died, r.diedAt = max(r.died, round), max(r.diedAt, a.StartedAt)
	case schemas.VerdictDropped:
		r.dropped, r.dropReason = max(r.dropped, round), a.Reason
	}
}

// Dead writes a dead letter down, or the marker of a redrive that took one out. They are given in the order of the log: a letter of the same round behind
// its marker is of a task that came up once more, and stands.
func (b *Books) Dead(d *schemas.Dead) {
	t := &d.Task
	if d.Reason == schemas.ReasonRedriven {
		b.takenOut(t, d.At)
		return
	}
	g := Ghost{What: string(schemas.VerdictDead), Event: t.EventID, Type: t.EventType, company: t.Company, entity: t.EntityID}
	if r := b.traceOf(t.ID, t.Subscription, t.Replay, &t.Source, g); r != nil && t.Round >= r.letter {
		r.letter, r.letterAt, r.reason, r.stands = t.Round, max(r.letterAt, d.At), d.Reason, true
	}
}

// takenOut notes a marker. It names the task and its round; its source and its replay are the letter's place and the redrive.
func (b *Books) takenOut(t *schemas.Task, at int64) {
	var r *trace
	k := keyOf(t.ID)
	if n, ok := b.index[k]; ok {
		r = &b.owed[n].trace
	}
	for _, tasks := range b.others {
		r = cmp.Or(r, tasks[k])
	}
	if r == nil {
		return // another subscription's, or not of this stretch
	}
	r.taken, r.takenAt = max(r.taken, t.Round), max(r.takenAt, at)
	r.stands = r.stands && t.Round < r.letter
}

// Written writes down where a record of a task stands. It is asked for what is missing only.
func (b *Books) Written(t *schemas.Task, at Place) {
	if n, ok := b.index[keyOf(t.ID)]; ok && t.Subscription == b.Subscription.ID {
		b.owed[n].written = &at
	}
}
