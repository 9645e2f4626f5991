package audit

import (
	"cmp"
	"slices"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// CatchUp is the order for the past part of one of the subscription's spans, and how far its work has come.
type CatchUp struct {
	schemas.Replay
	Progress map[kafka.TP]schemas.Progress // by partition of the topics of events
}

// done says whether the catch-up has routed an event.
func (c *CatchUp) done(tp kafka.TP, offset int64) bool {
	p, ok := c.Progress[tp]
	return c.State == schemas.ReplayDone || ok && (p.Done || offset < p.Next)
}

// over: what comes later under its id changes nothing.
func (c *CatchUp) over() bool {
	return c.State == schemas.ReplayDone || c.State == schemas.ReplayCancelled
}

// works says that the catch-up has not arrived at its end in a partition.
func (c *CatchUp) works(tp kafka.TP) bool {
	return !c.over() && !c.Progress[tp].Done
}

// way is how an event that lies at a time comes to the subscription.
type way uint8

const (
	wayNone     way = iota // not at all: it lies before the subscription's beginning
	wayLive                // it was live
	wayCatchUp             // it is the catch-up's
	wayHeld                // it was paused and has not been resumed: the catch-up that resume writes will route it
	wayOrphaned            // its span is over, and the order that should catch up is not there
)

// spans tell the ways apart. Pure.
type spans struct {
	sub      *schemas.Subscription
	catchUps []*CatchUp // those that a cut names, ascending by From
}

func newSpans(s *schemas.Subscription, catchUps []*CatchUp) *spans {
	out := &spans{sub: s}
	for _, c := range catchUps {
		if _, named := s.CatchUpEnd(&c.Replay); named {
			out.catchUps = append(out.catchUps, c)
		}
	}
	slices.SortFunc(out.catchUps, func(a, b *CatchUp) int { return cmp.Compare(a.From, b.From) })
	return out
}

// at says which way an event belongs to that the broker appended at t, and of wayCatchUp by which order.
func (s *spans) at(t int64) (way, *CatchUp) {
	order, ok := s.sub.RoutedAs(t)
	if ok && order == "" {
		return wayLive, nil
	}
	for _, c := range s.catchUps {
		if ok && c.ID == order {
			return wayCatchUp, c
		}
	}
	begun := s.sub.BackfillFrom != 0 && t >= s.sub.BackfillFrom || slices.ContainsFunc(s.sub.Spans, func(c schemas.Cut) bool { return c.At <= t })
	_, closed := s.sub.SpanEnd(t)
	switch {
	case !begun:
		return wayNone, nil
	case !closed:
		return wayHeld, nil
	}
	return wayOrphaned, nil
}

// waitsFor is a catch-up that a live event may be waiting for; nil: none. There are two kinds. The cut of one was late, so it goes on behind it, for what
// routers may have passed over. And where the events of an entity are kept in order, the live path leaves the subscription out of a partition until its
// catch-ups have arrived there; they route what it leaves out.
func (s *spans) waitsFor(t int64, tp kafka.TP, offset int64) *CatchUp {
	for _, c := range s.catchUps {
		_, late := s.sub.CatchesUp(&c.Replay, t)
		if (late || c.From <= t && s.sub.Order == schemas.OrderEntity) && c.works(tp) && !c.done(tp, offset) {
			return c
		}
	}
	return nil
}

// Why an event is not owed. It is said of ghosts.
const (
	notWanted  = "not_wanted"  // its type, by the patterns as they stand now
	notCompany = "not_company" // it is another company's
	notLive    = "not_live"    // the subscription was not live when it was appended, and no catch-up is the reason
	notThere   = "no_event"    // no such event lies at its place
)

// of says which way an event comes to the subscription, and which catch-up owes it; or why it is not owed. A snapshot that names a subscription is owed to it
// alone, and on the live path, whatever its patterns and spans say.
func (s *spans) of(company, eventType, entity string, t int64) (w way, c *CatchUp, why string) {
	if s.sub.Company != schemas.AnyCompany && s.sub.Company != company {
		return wayNone, nil, notCompany
	}
	switch schemas.Addressee(eventType, company, entity) {
	case s.sub.ID:
		return wayLive, nil, ""
	case "":
	default:
		return wayNone, nil, notWanted
	}
	if !subscriptions.Matches(s.sub.Events, eventType) {
		return wayNone, nil, notWanted
	}
	if w, c = s.at(t); w == wayNone {
		why = notLive
	}
	return w, c, why
}

// why is the reason for which an event is not owed under a replay's id (live: none); empty: it is.
func (s *spans) why(company, eventType, entity string, t int64, replay string) string {
	w, c, why := s.of(company, eventType, entity, t)
	if why != "" || w == wayLive && replay == "" || w == wayCatchUp && replay == c.ID {
		return why
	}
	return notLive
}
