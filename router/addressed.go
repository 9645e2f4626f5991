package router

import (
	"slices"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// receivers appends the subscriptions that the event at hand is owed to: those that want it and are live at its append time, or, if it is addressed, the
// one that it names.
func (p *pass) receivers(typ *schemas.EventType, at int64, dst []*subscriptions.Live) (subs []*subscriptions.Live, toOne bool) {
	company := view(p.meta.CompanyID)
	id := schemas.Addressee(typ.Name, company, view(p.meta.EntityID))
	if id == "" {
		return p.table.Match(company, typ.Name, at, dst), false
	}
	if l, ok := p.table.Get(id); ok && addressed(&l.Subscription, company) {
		dst = append(dst, l)
	}
	return dst, true
}

// addressed says whether an event of a company that names a subscription is owed to it. Neither its patterns nor its spans count: a subscription asks for
// its snapshot before it is live, so that the snapshot comes first; and if it is paused, the task ends in `dead` as paused like any other that comes up
// then. The company counts always, or who may publish for one company could send to another's receiver.
func addressed(s *schemas.Subscription, company string) bool {
	return s.State != schemas.StateDeleted && (s.Company == company || s.Company == schemas.AnyCompany)
}

// again drops those of subs that an order does not route the event at hand to because it is addressed. The live path has routed it, so a catch-up routes it to
// nobody: the one of the subscription that it names may well begin before it. A replay routes it again to that subscription alone.
func (p *pass) again(o *schemas.Replay, typ *schemas.EventType, subs []*subscriptions.Live) []*subscriptions.Live {
	id := schemas.Addressee(typ.Name, view(p.meta.CompanyID), view(p.meta.EntityID))
	if id == "" {
		return subs
	}
	return slices.DeleteFunc(subs, func(l *subscriptions.Live) bool { return o.Kind == schemas.ReplayCatchUp || l.ID != id })
}
