package schemas

// A subscription's life is cut into spans by the cuts in its record, and the append time of an event says in which it falls. From a cut "live" on events take
// the live path. Every other span that is owed is routed after the fact, by a catch-up: an order in `replays`, written before the record that closes the span.
// The cut "live" that closes it names the order, in Reason; so the record alone says which order counts. One whose writer died, or lost a race, is named
// by no cut and does nothing.
//
//	order (To 0) -> record with the cut "live" that names it -> the order again, with To
//
// To is not always the cut. The cut lies so far ahead that every router knows it before it meets an event behind it, if its record was acknowledged in time.
// Only its writer knows whether it was. If it was late, a router may have passed over events right behind the cut, so To lies later, where all routers
// knew. What lies between the cut and To belongs to the live path and to the catch-up, and has one task id, the live one; so a second copy of its task falls to
// the marks. Whoever dies before he wrote To leaves a catch-up that goes on for CatchUpUnconfirmed behind the cut, in the same way.
//
//	died after                                  what stands
//	the order                                   an order that no cut names; the span is open, and the next resume makes another order
//	the record                                  live from its cut on; the catch-up begins CatchUpUnconfirmed later
//	the order with To                           all of it

// CatchUpUnconfirmed is how far (ms) a catch-up goes on behind its cut if its writer did not say where it ends. A record that is not acknowledged for longer
// than that has failed, whatever its writer was told.
const CatchUpUnconfirmed = 60_000

// CatchUp is the order for the span of s that begins at from. Its id is not a function of the span: of two writers that resume at once one loses, and what
// the loser writes, however late, must not set back what the winner's order has come to.
func CatchUp(id string, s *Subscription, from, now int64) Replay {
	return Replay{ID: id, Kind: ReplayCatchUp, Subscription: s.ID, Company: companyOf(s), State: ReplayRunning, CreatedAt: now, From: from}
}

// companyOf is the company that an order for s is narrowed to: none, if s gets the events of all.
func companyOf(s *Subscription) string {
	if s.Company == AnyCompany {
		return ""
	}
	return s.Company
}

// PausedRedrive is the order that puts back what came up in the pause of s that began at cut. It waits until s is live behind the cut. Written twice, and it
// is written when the pause begins and when it ends, it is one order, and it takes each dead letter out once. It has no Ends; its Begins name topics of events: where
// these ended when the pause began, so that resume can tell whether retention has taken any of it.
func PausedRedrive(s *Subscription, cut, now int64) Replay {
	return Replay{ID: PausedRedriveID(s.ID, cut), Kind: ReplayRedrive, Subscription: s.ID, Company: companyOf(s), State: ReplayRunning, CreatedAt: now,
		Reason: ReasonPaused, Cut: cut}
}

// PausedRedriveID names the redrive of one pause.
func PausedRedriveID(subscription string, cut int64) string {
	b := appendIDField(nil, subscription)
	b = appendLong(b, cut)
	var id [IDLength]byte
	idOf(&id, b)
	return "rpl_" + string(id[:])
}

// RoutedAs says by whom an event that the broker appended at t (ms) is owed to s, wanted or not: by the live path (order is empty) or by the catch-up with that
// id. The order is the `replay` of its task id. Not ok: it is owed to nobody, or not yet, because its span is open.
func (s *Subscription) RoutedAs(t int64) (order string, ok bool) {
	next := len(s.Spans) // the first cut behind t
	for next > 0 && s.Spans[next-1].At > t {
		next--
	}
	switch {
	case next > 0 && s.Spans[next-1].Kind == CutLive:
		return "", true
	case next == 0 && (s.BackfillFrom == 0 || t < s.BackfillFrom):
		return "", false
	}
	for _, c := range s.Spans[next:] {
		if c.Kind == CutLive {
			return c.Reason, c.Reason != ""
		}
	}
	return "", false
}

// SpanEnd says where the span that begins at from ends: at the first cut "live" behind it. Not closed: there is none yet.
func (s *Subscription) SpanEnd(from int64) (to int64, closed bool) {
	for _, c := range s.Spans {
		if c.At > from && c.Kind == CutLive {
			return c.At, true
		}
	}
	return 0, false
}

// CatchUpEnd says where a catch-up of s ends: it has to look at the events appended in [o.From, to). It is certain once the brokers' clocks have passed to;
// before, a later record of the order may move it. Not ok: no cut names the order, so there is nothing to do, or not yet.
func (s *Subscription) CatchUpEnd(o *Replay) (to int64, ok bool) {
	for _, c := range s.Spans {
		switch {
		case c.Kind != CutLive || c.Reason != o.ID:
		case o.To != 0:
			return o.To, true
		default:
			return c.At + CatchUpUnconfirmed, true
		}
	}
	return 0, false
}

// CatchesUp says whether the catch-up o of s routes an event that was appended at t (ms), and under which replay its task goes: o's, or none where the live path
// owes it as well. It does not ask whether s wants the event.
func (s *Subscription) CatchesUp(o *Replay, t int64) (replay string, ok bool) {
	to, ok := s.CatchUpEnd(o)
	if !ok || t < o.From || t >= to {
		return "", false
	}
	replay, ok = s.RoutedAs(t)
	return replay, ok && (replay == "" || replay == o.ID)
}

// CatchUpOver says that no cut will ever name the catch-up o: s is deleted, or its span is closed under another order's name.
func (s *Subscription) CatchUpOver(o *Replay) bool {
	if s.State == StateDeleted {
		return true
	}
	_, named := s.CatchUpEnd(o)
	_, closed := s.SpanEnd(o.From)
	return closed && !named
}

// ResumedRedrives are the redrives of those pauses of s that were resumed, each by a cut that names the pause's catch-up: both orders were written before
// the record with that cut.
func (s *Subscription) ResumedRedrives() (ids []string) {
	from := int64(0)
	for _, c := range s.Spans {
		switch {
		case c.Kind == CutPaused && from == 0:
			from = c.At
		case c.Kind == CutLive && from != 0:
			if c.Reason != "" {
				ids = append(ids, PausedRedriveID(s.ID, from))
			}
			from = 0
		}
	}
	return ids
}

// PausedAt is the cut from which s has not been live since, 0: it is live, or never was.
func (s *Subscription) PausedAt() int64 {
	at := int64(0)
	for i := len(s.Spans) - 1; i >= 0 && s.Spans[i].Kind == CutPaused; i-- {
		at = s.Spans[i].At
	}
	return at
}

// CaughtUp says that a dead letter's event is routed by a catch-up as well, so that a redrive which put its task back would send the event twice. Such a task
// was routed by a router that did not know yet of a pause: the write of a paused cut may be late, and the cut stands all the same. An event
// that was made for s alone is in no catch-up.
func (s *Subscription) CaughtUp(t *Task) bool {
	if t.Replay != "" || t.EntityID == s.ID {
		return false
	}
	order, ok := s.RoutedAs(t.Source.Time)
	return ok && order != ""
}
