package audit

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// ledgers are what a deployment left behind, as values: a healthy one with something of everything. A test takes something out and sees what is said.
type ledgers struct {
	sub                     schemas.Subscription
	catchUps                []*CatchUp
	from, to                int64
	events                  []Event
	unreadable, undecodable []schemas.Source
	read                    map[kafka.TP]Span
	routed                  map[kafka.TP]int64
	waiting                 []schemas.Task
	attempts                []schemas.Attempt
	dead                    []schemas.Dead
	written                 []schemas.Task
	keptAttempts, keptTasks int64
	keptLetters, looked     int64
}

var booking = kafka.TP{Topic: "events.booking", Partition: 1}

const (
	sub    = "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa"
	other  = "sub_bbbbbbbbbbbbbbbbbbbbbbbbbb"
	order  = "rpl_cccccccccccccccccccccccccc"
	replay = "rpl_dddddddddddddddddddddddddd"
	minute = int64(60_000)
)

// The subscription was live from minute 10, paused from 50 to 80, and is live since. Event n lies at offset n and was appended at minute n.
func whole() *ledgers {
	l := &ledgers{
		sub: schemas.Subscription{ID: sub, Company: "acme", Events: []string{"booking.*"}, State: schemas.StateActive, CreatedAt: minute, Spans: []schemas.Cut{
			{At: 10 * minute, Kind: schemas.CutLive}, {At: 50 * minute, Kind: schemas.CutPaused}, {At: 80 * minute, Kind: schemas.CutLive, Reason: order}}},
		catchUps: []*CatchUp{{Replay: schemas.Replay{ID: order, Kind: schemas.ReplayCatchUp, Subscription: sub, State: schemas.ReplayDone, From: 50 * minute, To: 80 * minute},
			Progress: map[kafka.TP]schemas.Progress{booking: {Next: 100, Done: true}}}},
		from: 1, to: 200 * minute,
		read: map[kafka.TP]Span{booking: {End: 110}}, routed: map[kafka.TP]int64{booking: 105},
	}
	for n := int64(0); n < 110; n++ {
		e := Event{Source: schemas.Source{Topic: booking.Topic, Partition: booking.Partition, Offset: n, Time: n * minute}, ID: fmt.Sprintf("evt_%d", n),
			Type: "booking.creation", Company: "acme", Entity: fmt.Sprint("b", n/3)}
		switch n % 10 {
		case 8:
			e.Company = "borea"
		case 9:
			e.Type = "customer.creation"
		}
		switch n {
		case 40:
			l.unreadable = append(l.unreadable, e.Source)
			l.undecodable = append(l.undecodable, e.Source)
			continue
		case 41: // its meta can be read, and its data cannot
			l.events = append(l.events, e)
			l.undecodable = append(l.undecodable, e.Source)
			continue
		}
		l.events = append(l.events, e)
		if n < 10 || n >= 105 || n%10 >= 8 {
			continue
		}
		id := ""
		if n >= 50 && n < 80 {
			id = order
		}
		l.ends(e, id)
	}
	l.replayed(20, 30)
	return l
}

// ends gives the task of an event an end, by its number.
func (l *ledgers) ends(e Event, replay string) {
	t := taskOf(e, replay)
	l.written = append(l.written, t)
	try := func(number int32, v schemas.Verdict, r schemas.Reason, round int64) {
		l.attempts = append(l.attempts, attemptOf(&t, number, v, r, round))
	}
	letter := func(r schemas.Reason, round int64) {
		d := schemas.Dead{Task: t, Reason: r, At: e.Source.Time + minute}
		if d.Task.Round = round; r == schemas.ReasonRedriven { // its source is the letter's place
			d.Task.Source, d.Task.Replay = schemas.Source{Topic: "dead", Offset: int64(len(l.dead) - 1)}, "rpl_redrive"
		}
		l.dead = append(l.dead, d)
	}
	switch e.Source.Offset % 10 {
	default:
		try(1, schemas.VerdictDelivered, "", 0)
	case 2: // delivered by the second try
		try(1, schemas.VerdictRetry, schemas.ReasonHTTP5xx, 0)
		try(2, schemas.VerdictDelivered, "", 0)
	case 3: // dead
		try(1, schemas.VerdictDead, schemas.ReasonGone, 0)
		letter(schemas.ReasonGone, 0)
	case 4: // waits for its next try
		try(1, schemas.VerdictRetry, schemas.ReasonTimeout, 0)
		l.waiting = append(l.waiting, t)
	case 5: // dead, put back in line, delivered
		try(1, schemas.VerdictDead, schemas.ReasonExhausted, 0)
		letter(schemas.ReasonExhausted, 0)
		letter(schemas.ReasonRedriven, 0)
		try(1, schemas.VerdictDelivered, "", 1)
	case 6: // dead, put back in line, waiting
		try(1, schemas.VerdictDead, schemas.ReasonExhausted, 0)
		letter(schemas.ReasonExhausted, 0)
		letter(schemas.ReasonRedriven, 0)
		t.Round = 1
		l.waiting = append(l.waiting, t)
	case 7:
		try(1, schemas.VerdictDropped, schemas.ReasonDeleted, 0)
	}
}

// replayed gives the events of some minutes a replay, delivered.
func (l *ledgers) replayed(from, to int64) {
	for _, e := range l.events {
		if n := e.Source.Offset; n >= from && n < to && n%10 < 8 {
			t := taskOf(e, replay)
			l.attempts = append(l.attempts, attemptOf(&t, 1, schemas.VerdictDelivered, "", 0))
		}
	}
}

func taskOf(e Event, replay string) schemas.Task {
	return schemas.Task{ID: schemas.TaskID(e.Source, e.ID, sub, replay), EventID: e.ID, EventType: e.Type, Company: e.Company, Subscription: sub, Source: e.Source, Replay: replay}
}

func attemptOf(t *schemas.Task, number int32, v schemas.Verdict, r schemas.Reason, round int64) schemas.Attempt {
	return schemas.Attempt{TaskID: t.ID, Subscription: t.Subscription, Company: t.Company, EventID: t.EventID, EventType: t.EventType, Number: number, Round: round,
		StartedAt: t.Source.Time + minute, Verdict: v, Reason: r, Source: t.Source, Replay: t.Replay}
}

func (l *ledgers) report() *Report {
	b := NewBooks(Stretch{Subscription: &l.sub, From: l.from, To: l.to, CatchUps: l.catchUps})
	b.Read, b.Routed = l.read, l.routed
	for _, e := range l.events {
		b.Event(e)
	}
	for _, s := range l.unreadable {
		b.Unreadable(s)
	}
	for i := range l.waiting {
		b.Waiting(&l.waiting[i])
	}
	for i := range l.attempts {
		b.Attempt(&l.attempts[i])
	}
	for i := range l.dead {
		b.Dead(&l.dead[i])
	}
	for _, s := range l.undecodable {
		b.Undecodable(s)
	}
	b.Attempts, b.Letters, b.Looked = l.keptAttempts, l.keptLetters, l.looked
	if b.Missing() > 0 {
		b.Tasks = l.keptTasks
		for i := range l.written {
			b.Written(&l.written[i], Place{"retry", 0, int64(i)})
		}
	}
	return b.Report()
}

// sums holds a report to its own account.
func sums(t *testing.T, r *Report) {
	t.Helper()
	if all := r.Delivered + r.Dead + r.Dropped + r.Waiting + r.Undecodable + r.Unknown + r.Missing; all != r.Owed {
		t.Errorf("the ends add up to %d, and %d were owed: %+v", all, r.Owed, r)
	}
}

func TestNothingIsMissingWhereNothingIs(t *testing.T) {
	r := whole().report()
	sums(t, r)
	// Owed: 8 of 10 of the minutes 10 to 109 but 40. 105, 106 and 107 wait for the routers.
	if !r.OK() || r.Owed != 79 || r.GhostCount != 0 || r.Unreadable != 1 || r.Undecodable != 1 || r.CaughtUp != 24 {
		t.Errorf("%+v", r)
	}
	if r.Waiting != 22 || r.WaitingBy["not_routed"] != 3 || r.WaitingBy["in_line"] != 19 || r.Dead != 10 || r.DeadBy["gone"] != 10 || r.Dropped != 9 {
		t.Errorf("waiting %v, dead %v, dropped %v", r.WaitingBy, r.DeadBy, r.DroppedBy)
	}
	if len(r.Replays) != 1 || r.Replays[0] != (ReplayReport{Replay: replay, Tasks: 8, Delivered: 8}) {
		t.Errorf("replays %+v", r.Replays)
	}
}

// drop takes out what is of an event.
func drop[T any](list []T, n int64, of func(*T) *schemas.Task, also ...func(*T) bool) []T {
	return slices.DeleteFunc(list, func(x T) bool {
		for _, f := range also {
			if !f(&x) {
				return false
			}
		}
		t := of(&x)
		return t.Source.Offset == n && t.Replay != replay
	})
}

func ofAttempt(a *schemas.Attempt) *schemas.Task {
	return &schemas.Task{Source: a.Source, Replay: a.Replay}
}
func ofTask(t *schemas.Task) *schemas.Task { return t }

func (l *ledgers) noAttempts(n int64, also ...func(*schemas.Attempt) bool) {
	l.attempts = drop(l.attempts, n, ofAttempt, also...)
}

// noLetter takes out letters and markers.
func (l *ledgers) noLetter(n int64) {
	ids := map[string]bool{}
	for _, t := range l.written {
		ids[t.ID] = ids[t.ID] || t.Source.Offset == n
	}
	l.dead = slices.DeleteFunc(l.dead, func(d schemas.Dead) bool { return ids[d.Task.ID] })
}

func (l *ledgers) notWaiting(n int64) { l.waiting = drop(l.waiting, n, ofTask) }
func (l *ledgers) noTask(n int64)     { l.written = drop(l.written, n, ofTask) }

func verdict(v schemas.Verdict) func(*schemas.Attempt) bool {
	return func(a *schemas.Attempt) bool { return a.Verdict == v }
}

// Each of these takes out of a healthy deployment what a bug, an operator or a broken disk could, and must be found: this event, this kind, nothing else.
func TestEachPlantedGapIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		at    int64
		kind  string
		plant func(*ledgers)
	}{
		"a task that was never written":                       {20, GapNoTask, func(l *ledgers) { l.noTask(20); l.noAttempts(20) }},
		"a task of a catch-up that was never written":         {60, GapNoTask, func(l *ledgers) { l.noTask(60); l.noAttempts(60) }},
		"a written task that was never tried":                 {21, GapNoEnd, func(l *ledgers) { l.noAttempts(21) }},
		"a catch-up's written task that was never tried":      {61, GapNoEnd, func(l *ledgers) { l.noAttempts(61) }},
		"the attempt that delivered":                          {22, GapPutOff, func(l *ledgers) { l.noAttempts(22, verdict(schemas.VerdictDelivered)) }},
		"all attempts":                                        {32, GapNoEnd, func(l *ledgers) { l.noAttempts(32) }},
		"the record in a tier":                                {24, GapPutOff, func(l *ledgers) { l.notWaiting(24) }},
		"a catch-up's record in a tier":                       {64, GapPutOff, func(l *ledgers) { l.notWaiting(64) }},
		"the record in a tier, and its attempt":               {34, GapNoEnd, func(l *ledgers) { l.notWaiting(34); l.noAttempts(34) }},
		"a dead letter":                                       {23, GapLetter, func(l *ledgers) { l.noLetter(23) }},
		"a catch-up's dead letter":                            {63, GapLetter, func(l *ledgers) { l.noLetter(63) }},
		"a dead letter and its attempt":                       {33, GapNoEnd, func(l *ledgers) { l.noLetter(33); l.noAttempts(33) }},
		"the attempt that says dead":                          {43, GapAttempt, func(l *ledgers) { l.noAttempts(43) }},
		"what was redriven":                                   {26, GapRedriven, func(l *ledgers) { l.notWaiting(26) }},
		"what was redriven, all attempts of it":               {36, GapRedriven, func(l *ledgers) { l.notWaiting(36); l.noAttempts(36) }},
		"a redriven task's delivery":                          {25, GapRedriven, func(l *ledgers) { l.noAttempts(25, verdict(schemas.VerdictDelivered)) }},
		"letter and marker of a redrive, and what came of it": {35, GapLetter, func(l *ledgers) { l.noLetter(35); l.noAttempts(35, verdict(schemas.VerdictDelivered)) }},
		"the attempt that dropped":                            {27, GapNoEnd, func(l *ledgers) { l.noAttempts(27) }},
		"the record in undecodable of an event with an owner": {41, GapNoTask, func(l *ledgers) { l.undecodable = l.undecodable[:1] }},
		"the record in undecodable":                           {40, GapUnreadable, func(l *ledgers) { l.undecodable = l.undecodable[1:] }},
		"an event that the routers passed over":               {105, GapNoTask, func(l *ledgers) { l.routed[booking] = 106 }},
		"all traces, where retention took the tasks":          {30, GapTrace, func(l *ledgers) { l.keptTasks = 31 * minute; l.noTask(30); l.noAttempts(30) }},
		"an attempt under another subscription's name": {31, GapNoEnd, func(l *ledgers) {
			for i := range l.attempts {
				if a := &l.attempts[i]; a.Source.Offset == 31 {
					a.Subscription = other
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := whole()
			c.plant(l)
			r := l.report()
			sums(t, r)
			if r.OK() || r.GapCount != 1 || len(r.Gaps) != 1 || r.Gaps[0].Kind != c.kind || r.Gaps[0].Source.Offset != c.at || r.GhostCount != 0 {
				t.Fatalf("%d gaps %+v, %d ghosts", r.GapCount, r.Gaps, r.GhostCount)
			}
			if g := r.Gaps[0]; (g.Written != nil) != (g.Kind != GapNoTask && g.Kind != GapTrace && g.Kind != GapUnreadable && g.Kind != GapAttempt) {
				t.Errorf("written at %v", g.Written)
			}
		})
	}
}

func TestACatchUpThatWasNeverOrderedIsOneGapForEachEventOfItsSpan(t *testing.T) {
	l := whole()
	l.catchUps = nil
	for n := int64(50); n < 80; n++ {
		l.noAttempts(n)
		l.noLetter(n)
		l.notWaiting(n)
	}
	r := l.report()
	sums(t, r)
	if r.GapCount != 24 || slices.ContainsFunc(r.Gaps, func(g Gap) bool { return g.Kind != GapCatchUp || g.Appended < 50*minute || g.Appended >= 80*minute }) {
		t.Errorf("%d gaps %+v", r.GapCount, r.Gaps)
	}
}

// A snapshot that names a subscription is owed to it alone, also before it is live; one that names nobody goes to those who want it.
func TestASnapshotIsOwedToTheSubscriptionThatItNames(t *testing.T) {
	for name, c := range map[string]struct {
		company, entity string
		patterns        []string
		owed            bool
	}{
		"this one":                          {"acme", sub, nil, true},
		"another one":                       {"acme", other, []string{"recent_reservations.*"}, false},
		"another company's, naming it":      {"borea", sub, nil, false},
		"all of the company, not wanted":    {"acme", "acme", []string{"booking.*"}, false},
		"all of the company, before it was": {"acme", "acme", []string{"recent_reservations.*"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := whole()
			before := l.report().Owed
			if c.patterns != nil {
				l.sub.Events = append(l.sub.Events, c.patterns...)
			}
			e := Event{Source: schemas.Source{Topic: booking.Topic, Partition: booking.Partition, Offset: 5, Time: 5 * minute}, ID: "evt_snapshot",
				Type: schemas.RecentSnapshot, Company: c.company, Entity: c.entity}
			l.events = append(l.events, e)
			if r := l.report(); r.Owed-before != map[bool]int64{true: 1}[c.owed] || r.OK() == c.owed {
				t.Errorf("%d owed more, gaps %+v", r.Owed-before, r.Gaps)
			}
			task := taskOf(e, "")
			a := attemptOf(&task, 1, schemas.VerdictDelivered, "", 0)
			a.EntityID = e.Entity
			l.attempts = append(l.attempts, a)
			if r := l.report(); !r.OK() || (r.GhostCount == 0) != c.owed {
				t.Errorf("gaps %+v, ghosts %+v", r.Gaps, r.Ghosts)
			}
		})
	}
}

func TestASubscriptionToAllCompaniesIsOwedWhatEachOfThemPublishes(t *testing.T) {
	l := whole()
	l.sub.Company = schemas.AnyCompany
	r := l.report()
	sums(t, r)
	if r.Owed != 79+10 || r.GapCount != 9 || r.WaitingBy["not_routed"] != 3+1 || slices.ContainsFunc(r.Gaps, func(g Gap) bool { return g.Source.Offset%10 != 8 || g.Kind != GapNoTask }) {
		t.Errorf("%d owed, gaps %+v", r.Owed, r.Gaps)
	}
}

// What is no gap: each of these is taken or put in, and nothing is missing.
func TestWhatIsNoGap(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ledgers)
		see    func(*Report) bool
	}{
		"a copy of an ended task waits: its offset is not committed yet": {
			func(l *ledgers) {
				for n, e := range l.events {
					if n == 20 || n == 23 || n == 27 {
						l.waiting = append(l.waiting, taskOf(e, ""))
					}
				}
			}, func(r *Report) bool { return r.Dead == 10 && r.Dropped == 9 }},
		"a letter whose attempt is being written": {
			func(l *ledgers) { l.noAttempts(23); l.waiting = append(l.waiting, taskOf(l.events[23], "")) }, func(r *Report) bool { return r.Dead == 10 }},
		"attempts older than what is kept": {
			func(l *ledgers) {
				l.keptAttempts = 40 * minute
				l.attempts = slices.DeleteFunc(l.attempts, func(a schemas.Attempt) bool { return a.StartedAt < l.keptAttempts })
			}, func(r *Report) bool { return r.Unknown > 10 && r.Dead == 10 }},
		"dead letters older than what is kept": {
			func(l *ledgers) {
				l.keptLetters = 40 * minute
				l.dead = slices.DeleteFunc(l.dead, func(d schemas.Dead) bool { return d.At < l.keptLetters })
			}, func(r *Report) bool { return r.Unknown > 0 }},
		"a letter behind the marker of its round: the task came up once more": {
			func(l *ledgers) {
				l.notWaiting(26)
				for _, d := range l.dead {
					if d.Task.Source.Offset == 26 && d.Reason == schemas.ReasonExhausted {
						l.dead = append(l.dead, d)
					}
				}
			}, func(r *Report) bool { return r.Dead == 11 }},
		"a second marker of one round, behind the letter of the next": {
			func(l *ledgers) {
				l.notWaiting(26)
				for _, d := range l.dead {
					if d.Task.ID == taskOf(l.events[26], "").ID && d.Reason == schemas.ReasonExhausted {
						again := d
						again.Task.Round = 1
						d.Reason = schemas.ReasonRedriven
						l.dead = append(l.dead, again, d)
						t := taskOf(l.events[26], "")
						l.attempts = append(l.attempts, attemptOf(&t, 1, schemas.VerdictDead, schemas.ReasonGone, 1))
					}
				}
			}, func(r *Report) bool { return r.Dead == 11 }},
		"an event that nobody can read, which the routers have yet to come to": {
			func(l *ledgers) {
				l.unreadable = append(l.unreadable, schemas.Source{Topic: booking.Topic, Partition: 1, Offset: 109, Time: 109 * minute})
				l.events = l.events[:len(l.events)-1]
			}, func(r *Report) bool { return r.Unreadable == 1 }},
		"a marker that names no task, and one of another subscription's": {
			func(l *ledgers) {
				l.dead = append(l.dead, schemas.Dead{Reason: schemas.ReasonRedriven, Task: schemas.Task{Replay: "rpl_x"}},
					schemas.Dead{Reason: schemas.ReasonRedriven, Task: schemas.Task{ID: "x", Replay: "rpl_x", Subscription: sub, Source: schemas.Source{Topic: "dead", Time: minute}}})
			}, func(r *Report) bool { return r.GhostCount == 0 }},
		"a letter that is redriven while the topics are read": {
			func(l *ledgers) {
				l.looked = 200 * minute
				for _, d := range l.dead {
					if d.Task.Source.Offset == 23 {
						d.Reason, d.At, d.Task.Replay, d.Task.Last = schemas.ReasonRedriven, 201*minute, "rpl_now", nil
						l.dead = append(l.dead, d)
					}
				}
			}, func(r *Report) bool { return r.Dead == 9 && r.WaitingBy["in_line"] > 0 }},
		"a task that is routed and dies while the topics are read": {
			func(l *ledgers) {
				l.noAttempts(23)
				l.looked = 20 * minute
			}, func(r *Report) bool { return r.Dead == 10 }},
		"delivered beats dead": {
			func(l *ledgers) {
				t := taskOf(l.events[23], "")
				l.attempts = append(l.attempts, attemptOf(&t, 1, schemas.VerdictDelivered, "", 1))
			}, func(r *Report) bool { return r.Dead == 9 }},
		"an event before the stretch": {
			func(l *ledgers) { l.from = 24 * minute; l.noAttempts(20); l.noTask(20) }, func(r *Report) bool { return r.Owed == 79-8-4 }},
		"an event behind the stretch": {
			func(l *ledgers) { l.to = 90 * minute; l.noAttempts(101); l.noTask(101) }, func(r *Report) bool { return r.GhostCount == 0 }},
		"a catch-up that has not come there": {
			func(l *ledgers) {
				l.catchUps[0].State, l.catchUps[0].Progress = schemas.ReplayRunning, map[kafka.TP]schemas.Progress{booking: {Next: 70}}
				l.noAttempts(71)
				l.noTask(71)
			}, func(r *Report) bool { return r.WaitingBy["catch_up"] == 1 }},
		"a live event behind a late cut, which the catch-up has yet to look at": {
			func(l *ledgers) {
				l.catchUps[0].State, l.catchUps[0].To = schemas.ReplayRunning, 85*minute
				l.catchUps[0].Progress = map[kafka.TP]schemas.Progress{booking: {Next: 80}}
				l.noAttempts(81)
				l.noTask(81)
			}, func(r *Report) bool { return r.WaitingBy["catch_up"] == 1 }},
		"a catch-up that is paused": {
			func(l *ledgers) {
				l.catchUps[0].State, l.catchUps[0].Progress = schemas.ReplayPaused, map[kafka.TP]schemas.Progress{}
				l.noAttempts(71)
				l.noTask(71)
			}, func(r *Report) bool { return r.WaitingBy["catch_up_paused"] == 1 }},
		"a catch-up that was cancelled": {
			func(l *ledgers) { l.catchUps[0].State = schemas.ReplayCancelled; l.noAttempts(71) },
			func(r *Report) bool { return r.DroppedBy["cancelled"] == 1 }},
		"a pause that goes on": {
			func(l *ledgers) {
				l.sub.Spans, l.sub.State, l.catchUps = l.sub.Spans[:2], schemas.StatePaused, nil
				for n := int64(50); n < 110; n++ {
					l.noAttempts(n)
					l.noLetter(n)
					l.notWaiting(n)
				}
			}, func(r *Report) bool { return r.WaitingBy["paused"] == 48 }},
		"what was not routed when the subscription was deleted": {
			func(l *ledgers) { l.sub.State = schemas.StateDeleted; l.noAttempts(101); l.noTask(101) },
			func(r *Report) bool { return r.DroppedBy["deleted"] == 9+1 }},
		"an event that retention has taken, and whose attempt is kept": {
			func(l *ledgers) { l.read[booking] = Span{First: 30, Begin: 30, End: 110}; l.events = l.events[30:] },
			func(r *Report) bool { return r.GhostCount == 0 && r.Owed == 79-16 }},
		"an event that was appended while the audit ran": {
			func(l *ledgers) { l.read[booking] = Span{End: 104}; l.events = l.events[:103] },
			func(r *Report) bool { return r.GhostCount == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			l := whole()
			c.change(l)
			r := l.report()
			sums(t, r)
			if !r.OK() || !c.see(r) {
				t.Errorf("gaps %+v, ghosts %+v\n%+v", r.Gaps, r.Ghosts, r)
			}
		})
	}
}

func TestEachGhostIsSaidWithItsReason(t *testing.T) {
	strange := func(n int64, company, eventType, replay string, at int64) schemas.Task {
		e := Event{Source: schemas.Source{Topic: booking.Topic, Partition: 1, Offset: n, Time: at}, ID: fmt.Sprint("evt_", n), Type: eventType, Company: company}
		return taskOf(e, replay)
	}
	for name, c := range map[string]struct {
		task schemas.Task
		why  string
	}{
		"another company's":         {strange(18, "borea", "booking.creation", "", 18*minute), notCompany},
		"a type it does not want":   {strange(19, "acme", "customer.creation", "", 19*minute), notWanted},
		"from before its beginning": {strange(5, "acme", "booking.creation", "", 5*minute), notLive},
		"live while it was paused":  {strange(55, "acme", "booking.creation", "", 55*minute), notLive},
		"a catch-up's of live time": {strange(20, "acme", "booking.creation", order, 20*minute), notLive},
		"of no event at that place": {schemas.Task{ID: schemas.TaskID(schemas.Source{Topic: "x"}, "evt", sub, ""), EventID: "evt", EventType: "booking.creation",
			Company: "acme", Subscription: sub, Source: schemas.Source{Topic: booking.Topic, Partition: 1, Offset: 20, Time: 20 * minute}}, notThere},
	} {
		t.Run(name, func(t *testing.T) {
			l := whole()
			l.waiting = append(l.waiting, c.task)
			l.attempts = append(l.attempts, attemptOf(&c.task, 1, schemas.VerdictDelivered, "", 0), attemptOf(&c.task, 2, schemas.VerdictDelivered, "", 0))
			r := l.report()
			sums(t, r)
			if !r.OK() || r.GhostCount != 1 || r.Ghosts[0].Why != c.why || r.Ghosts[0].What != "delivered" || r.Ghosts[0].Task != c.task.ID {
				t.Errorf("gaps %+v, ghosts %+v", r.Gaps, r.Ghosts)
			}
		})
	}
}

// With ordered entities a catch-up goes on behind its span until it meets the live path, which leaves the subscription out until then. The tasks are those of
// the live path.
func TestACatchUpOfAnOrderedSubscriptionMayHaveRoutedWhatIsLive(t *testing.T) {
	l := whole()
	l.sub.Order = schemas.OrderEntity
	l.catchUps[0].Progress = map[kafka.TP]schemas.Progress{booking: {Next: 90, Done: true}}
	for n := int64(80); n < 90; n++ { // routed by the catch-up
		l.noAttempts(n)
		l.noLetter(n)
		l.notWaiting(n)
		l.noTask(n)
		if n%10 < 8 {
			l.ends(l.events[n-1], "") // the place in the list is one less: 40 cannot be read
		}
	}
	if r := l.report(); !r.OK() || r.GhostCount != 0 {
		t.Errorf("gaps %+v, ghosts %+v", r.Gaps, r.Ghosts)
	}
	l.noAttempts(81)
	l.noAttempts(91)
	if r := l.report(); r.GapCount != 2 {
		t.Errorf("gaps %+v", r.Gaps)
	}
	// An order that no cut names keeps nobody waiting.
	l.catchUps = append(l.catchUps, &CatchUp{Replay: schemas.Replay{ID: "rpl_loser", Subscription: sub, State: schemas.ReplayRunning, From: 50 * minute, To: 80 * minute}})
	if r := l.report(); r.GapCount != 2 {
		t.Errorf("gaps %+v", r.Gaps)
	}
	// It has not arrived: live leaves the subscription out, however far the routers have committed.
	l.catchUps[0].State, l.catchUps[0].Progress = schemas.ReplayRunning, map[kafka.TP]schemas.Progress{booking: {Next: 80}}
	if r := l.report(); !r.OK() || r.WaitingBy["catch_up"] != 5 {
		t.Errorf("gaps %+v, waiting %v", r.Gaps, r.WaitingBy)
	}
}

func TestSpansGiveEachMomentOneWay(t *testing.T) {
	backfilled := schemas.Subscription{BackfillFrom: 5, Spans: []schemas.Cut{{At: 10, Kind: schemas.CutLive, Reason: "first"}, {At: 20, Kind: schemas.CutPaused},
		{At: 25, Kind: schemas.CutPaused, Reason: "disabled"}, {At: 30, Kind: schemas.CutLive, Reason: "second"}, {At: 40, Kind: schemas.CutPaused}}}
	named := func(id string, from, to int64) *CatchUp {
		return &CatchUp{Replay: schemas.Replay{ID: id, From: from, To: to}}
	}
	orders := []*CatchUp{named("second", 20, 33), named("first", 5, 10), named("loser", 20, 30), named("early", 40, 0)}
	for _, c := range []struct {
		at     int64
		orders []*CatchUp
		way    way
		id     string
	}{
		{4, orders, wayNone, ""}, {5, orders, wayCatchUp, "first"}, {9, orders, wayCatchUp, "first"}, {10, orders, wayLive, ""}, {19, orders, wayLive, ""},
		{20, orders, wayCatchUp, "second"}, {29, orders, wayCatchUp, "second"}, {30, orders, wayLive, ""}, {32, orders, wayLive, ""},
		{33, orders, wayLive, ""}, {40, orders, wayHeld, ""}, {1000, orders, wayHeld, ""},
		{5, nil, wayOrphaned, ""}, {27, nil, wayOrphaned, ""}, {45, nil, wayHeld, ""}, {4, nil, wayNone, ""}, {27, orders[2:3], wayOrphaned, ""},
	} {
		w, got := newSpans(&backfilled, c.orders).at(c.at)
		if w != c.way || got != nil && got.ID != c.id || got == nil && c.id != "" {
			t.Errorf("%d: way %d of %v, want %d of %q", c.at, w, got, c.way, c.id)
		}
	}
}

func TestKeysTellTaskIDsApart(t *testing.T) {
	seen := map[key]string{}
	for n := range int64(10_000) {
		id := schemas.TaskID(schemas.Source{Topic: "t", Offset: n}, "e", sub, "")
		if was, ok := seen[keyOf(id)]; ok {
			t.Fatalf("%s and %s have one key", was, id)
		}
		seen[keyOf(id)] = id
	}
	for _, id := range []string{"", "x", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "aaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		if was, ok := seen[keyOf(id)]; ok {
			t.Errorf("%q and %q have one key", was, id)
		}
		seen[keyOf(id)] = id
	}
}

// A publisher may have headers of our names on its own record: they stand before ours, whatever is in them.
func TestAPublishersHeadersDoNotHideOurs(t *testing.T) {
	h := func(name, value string) kafka.Header {
		return kafka.Header{Key: "hookferry-source-" + name, Value: []byte(value)}
	}
	rec := &kafka.Record{Headers: []kafka.Header{h("offset", "abc"), h("time", "1"), h("topic", "events.booking"), h("partition", "3"), h("offset", "17"), h("time", "99")}}
	if s, ok := sourceOf(rec); !ok || s != (schemas.Source{Topic: "events.booking", Partition: 3, Offset: 17, Time: 99}) {
		t.Errorf("%+v, %v", s, ok)
	}
	rec.Headers = rec.Headers[:4]
	if s, ok := sourceOf(rec); ok {
		t.Errorf("without an offset: %+v", s)
	}
}
