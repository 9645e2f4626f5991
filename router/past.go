package router

import (
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// An event that nobody could read was passed over by the live path and by every catch-up. When a reroute sends it through, it is owed to those that the live path
// served at that time, and to those whose span of that time a catch-up closed: each under the id that it would have had. A catch-up that has not come that far yet makes
// the same task, and the marks drop one of the two. A span that is still open is not a reroute's business: the catch-up that will close it reads the event itself.

// owing is a subscription that an event is owed to by a catch-up.
type owing struct {
	sub   *subscriptions.Live
	order string
}

// owedTo fills owed for an event that was appended at t (ms).
func (p *pass) owedTo(t int64, typ *schemas.EventType) {
	subs := p.table.Company(string(p.meta.CompanyID))
	if string(p.meta.CompanyID) != schemas.AnyCompany {
		subs = append(subs, p.table.Company(schemas.AnyCompany)...)
	}
	for _, l := range subs {
		if order, ok := l.RoutedAs(t); ok && order != "" && subscriptions.Matches(l.Events, typ.Name) {
			p.owed = append(p.owed, owing{l, order})
		}
	}
}

// addOwed collects the tasks for owed.
func (p *pass) addOwed(src *schemas.Source, typ *schemas.EventType, now int64) {
	live := p.way
	for _, o := range p.owed {
		p.way = way{to: p.topics.Replay, lane: schemas.LaneCatchUp, replay: o.order}
		if o.sub.Order == schemas.OrderEntity {
			p.to = p.topics.Retry
		}
		p.prepare(src, typ, now)
		p.add(o.sub)
	}
	p.way = live
}
