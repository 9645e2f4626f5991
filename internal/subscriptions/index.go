package subscriptions

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/hookferry/hookferry/schemas"
)

const (
	shards = 64 // of the index and of the ids: the reader of the topic locks one of them at a time, for the length of one change
	// scanUpTo is the number of subscriptions of a company up to which a match looks at all of them: 32 masks are four cache lines.
	scanUpTo = 32
)

// index finds who wants an event. Reading takes a read lock of one shard and allocates nothing; the only writer is the reader of the topic.
type index struct {
	seed   maphash.Seed
	shards [shards]companies
}

type companies struct {
	mu sync.RWMutex
	m  map[string]*company
}

// company holds the subscriptions of one company, in no order. Guarded by its shard's lock.
type company struct {
	name    string
	entries []entry
	// lists are the entries by event type, made by the first match of a large company after a change. Readers make them, under the read lock: two may
	// make the same, and either may stay.
	lists atomic.Pointer[[][]*slot]
}

type entry struct {
	wants wanted
	slot  *slot
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	for i := range x.shards {
		x.shards[i].m = map[string]*company{}
	}
	return x
}

func (x *index) shard(company string) *companies {
	return &x.shards[maphash.String(x.seed, company)%shards]
}

// nameOf is the text of a company's name that the index has already, or empty.
func (x *index) nameOf(name string) string {
	sh := x.shard(name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if c := sh.m[name]; c != nil {
		return c.name
	}
	return ""
}

// put adds a subscription, or changes what it wants.
func (x *index) put(name string, s *slot, w wanted) {
	sh := x.shard(name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.m[name]
	if c == nil {
		c = &company{name: name}
		sh.m[name] = c
	}
	if s.pos >= 0 {
		c.entries[s.pos].wants = w
	} else {
		s.pos = int32(len(c.entries))
		c.entries = append(c.entries, entry{w, s})
	}
	c.lists.Store(nil)
}

// remove takes a subscription out; it may not be in.
func (x *index) remove(name string, s *slot) {
	if s.pos < 0 {
		return
	}
	sh := x.shard(name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.m[name]
	last := len(c.entries) - 1
	c.entries[s.pos] = c.entries[last]
	c.entries[s.pos].slot.pos = s.pos
	c.entries[last] = entry{}
	c.entries = c.entries[:last]
	s.pos = -1
	c.lists.Store(nil)
	if last == 0 {
		delete(sh.m, name)
	}
}

// match appends the subscriptions of one company that want the type and are live at the time.
func (x *index) match(name, eventType string, at int64, dst []*Live) []*Live {
	bit, known := typeBit[eventType]
	sh := x.shard(name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	c := sh.m[name]
	if c == nil {
		return dst
	}
	switch {
	case !known:
		for _, e := range c.entries {
			if l := e.slot.live.Load(); l.wantsText(eventType) {
				dst = l.appendIfLive(at, dst)
			}
		}
	case len(c.entries) <= scanUpTo:
		for _, e := range c.entries {
			if e.wants&bit != 0 {
				dst = e.slot.live.Load().appendIfLive(at, dst)
			}
		}
	default:
		for _, s := range c.listOf(typeNumber[eventType]) {
			dst = s.live.Load().appendIfLive(at, dst)
		}
	}
	return dst
}

func (c *company) listOf(number int) []*slot {
	lists := c.lists.Load()
	if lists == nil {
		made := make([][]*slot, len(typeNumber))
		for _, e := range c.entries {
			for n := range made {
				if e.wants&(1<<n) != 0 {
					made[n] = append(made[n], e.slot)
				}
			}
		}
		lists = &made
		c.lists.Store(lists)
	}
	return (*lists)[number]
}

func (l *Live) appendIfLive(at int64, dst []*Live) []*Live {
	if l.State == schemas.StateDeleted || !l.LiveAt(at) {
		return dst
	}
	return append(dst, l)
}

func (l *Live) wantsText(eventType string) bool {
	for _, p := range l.Events {
		if matchesText(p, eventType) {
			return true
		}
	}
	return false
}

// all returns the subscriptions of a company.
func (x *index) all(name string) []*Live {
	sh := x.shard(name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	c := sh.m[name]
	if c == nil {
		return nil
	}
	out := make([]*Live, len(c.entries))
	for i, e := range c.entries {
		out[i] = e.slot.live.Load()
	}
	return out
}
