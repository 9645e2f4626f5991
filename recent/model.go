package recent

import (
	"cmp"
	"maps"
	"slices"
)

const (
	// Most is how many bookings of a company are kept and may be asked for; DefaultLimit how many are given if nobody says otherwise.
	Most         = 500
	DefaultLimit = 50
	// remembered is how many more bookings of a company are known by their version alone: a change that comes late, with an older version, must not make
	// an old booking look new.
	remembered = 2000
	// slack is how far both may be exceeded before the oldest go, so that they go in one piece.
	slack = 100
	// maxStates is how many records of one booking may stand behind each other. More than one does only where versions came into the log in the wrong order.
	maxStates = 8
)

// Position orders changes: by append time, and where brokers stamped two with the same millisecond, by where they lie.
type Position struct {
	At        int64 // append time, ms
	Partition int32
	Offset    int64
}

func (p Position) compare(o Position) int {
	return cmp.Or(cmp.Compare(p.At, o.At), cmp.Compare(p.Partition, o.Partition), cmp.Compare(p.Offset, o.Offset))
}

// Change is what one record of the topic of bookings says.
type Change struct {
	Position
	Company, Booking string
	Version          int64
	Line             []byte // a schemas.RecentBooking, encoded; the model keeps it
	About            About
}

// About is what events say of their company, for the snapshots that are made of them.
type About struct{ CompanyName, TenantID, SystemURL string }

// Model holds the latest bookings of each company. It is pure: what it answers depends on the records that were put in and the starts of the partitions,
// not on the order in which the partitions were read; so a rebuild gives the same. Records of one partition must come in its order.
//
// Of a booking the record with the highest version stands; of two with the same version, the later one in the log, for publishers that do not count.
// A booking's place is the position of the record that stands. A cancelled booking stays, as cancelled. A record whose offset has fallen below the start
// of its partition is gone, as if it had never been.
//
// It is exact within bounds. Beyond the latest 500 bookings the next 2,000 are known by version, and a change of one older than these that comes with an old
// version is taken for the newest; if retention takes one of the 500 before those beyond, none moves up; and of one booking at most eight records in
// descending order of version are kept.
//
// Not safe for concurrent use.
type Model struct {
	companies map[string]*company
	starts    []int64 // by partition: the first offset that is still there; those beyond begin at 0
	stale     bool    // starts have moved since the last sweep
}

type company struct {
	bookings map[string]*booking
	lines    int // bookings whose line is kept, at most
	about    About
	aboutAt  Position
}

// booking holds the records that may stand, best first. A record that is older than a better one in the same partition can never stand again: retention
// takes it first.
type booking struct{ states []state }

type state struct {
	Position
	version int64
	line    []byte // nil: beyond the latest 500 when it was looked at last
}

// better says that s counts and o does not, or that they are one record.
func (s *state) better(o *state) bool {
	return cmp.Or(cmp.Compare(s.version, o.version), s.compare(o.Position)) >= 0
}

// outlives says that s stands for as long as o is there at all.
func (s *state) outlives(o *state) bool {
	return s.better(o) && s.Partition == o.Partition && s.Offset >= o.Offset
}

// NewModel makes an empty model.
func NewModel() *Model { return &Model{companies: map[string]*company{}} }

// Apply takes one change.
func (m *Model) Apply(ch *Change) {
	n := state{ch.Position, ch.Version, ch.Line}
	if m.gone(&n) {
		return
	}
	c := m.companies[ch.Company]
	if c == nil {
		c = &company{bookings: map[string]*booking{}}
		m.companies[ch.Company] = c
	}
	if c.aboutAt.compare(ch.Position) <= 0 {
		c.about, c.aboutAt = ch.About, ch.Position
	}
	b := c.bookings[ch.Booking]
	if b == nil {
		b = &booking{}
		c.bookings[ch.Booking] = b
	}
	if !b.put(n, m.gone) {
		return
	}
	if c.lines++; c.lines > Most+slack || len(c.bookings) > Most+remembered+slack {
		m.cut(c)
	}
}

// put takes a record in; false: nothing has changed.
func (b *booking) put(n state, gone func(*state) bool) bool {
	for i := range b.states {
		if s := &b.states[i]; s.outlives(&n) {
			return false
		}
	}
	b.states = slices.DeleteFunc(b.states, func(s state) bool { return n.outlives(&s) || gone(&s) })
	at, _ := slices.BinarySearchFunc(b.states, n, func(s, n state) int {
		if s.better(&n) {
			return -1
		}
		return 1
	})
	if b.states = slices.Insert(b.states, at, n); len(b.states) > maxStates {
		b.states = b.states[:maxStates]
	}
	return true
}

// stands is the record that counts, nil if none is left.
func (m *Model) stands(b *booking) *state {
	for i := range b.states {
		if !m.gone(&b.states[i]) {
			return &b.states[i]
		}
	}
	return nil
}

func (m *Model) gone(s *state) bool {
	return int(s.Partition) < len(m.starts) && s.Offset < m.starts[s.Partition]
}

// ranked is a booking with its place.
type ranked struct {
	id string
	*booking
	best *state
}

// ranking lists a company's bookings, the latest change first.
func (m *Model) ranking(c *company, withLine bool) []ranked {
	list := make([]ranked, 0, len(c.bookings))
	for id, b := range c.bookings {
		if best := m.stands(b); best != nil && (best.line != nil || !withLine) {
			list = append(list, ranked{id, b, best})
		}
	}
	slices.SortFunc(list, func(x, y ranked) int { return y.best.compare(x.best.Position) })
	return list
}

// cut keeps the lines of the latest 500 bookings, the versions of the next 2,000, and nothing of the others.
func (m *Model) cut(c *company) {
	list := m.ranking(c, false)
	keep := min(len(list), Most+remembered)
	if keep < len(c.bookings) {
		clear(c.bookings)
		for _, r := range list[:keep] {
			c.bookings[r.id] = r.booking
		}
	}
	c.lines = min(keep, Most)
	for _, r := range list[c.lines:keep] {
		for i := range r.states {
			r.states[i].line = nil
		}
	}
}

// Trim says that a partition begins at an offset now.
func (m *Model) Trim(partition int32, start int64) {
	for int(partition) >= len(m.starts) {
		m.starts = append(m.starts, 0)
	}
	if start > m.starts[partition] {
		m.starts[partition], m.stale = start, true
	}
}

// Stale lists the companies that may hold what Trim has made invisible, for Sweep.
func (m *Model) Stale() []string {
	if !m.stale {
		return nil
	}
	m.stale = false
	return slices.Collect(maps.Keys(m.companies))
}

// Sweep gives back the memory of what a company holds no longer. One company at a time, so that who asks meanwhile need not wait for all of them.
func (m *Model) Sweep(name string) {
	c := m.companies[name]
	if c == nil {
		return
	}
	if m.cut(c); len(c.bookings) == 0 {
		delete(m.companies, name)
	}
}

// Latest gives the lines of a company's latest bookings, the latest change first. limit counts up to Most. Nobody may write into them.
func (m *Model) Latest(name string, limit int) [][]byte {
	c := m.companies[name]
	if c == nil {
		return nil
	}
	list := m.ranking(c, true)
	out := make([][]byte, max(0, min(len(list), limit, Most)))
	for i := range out {
		out[i] = list[i].best.line
	}
	return out
}

// About says what the latest event of a company said of it.
func (m *Model) About(name string) About {
	if c := m.companies[name]; c != nil {
		return c.about
	}
	return About{}
}

// Size counts companies, and bookings whose line is kept.
func (m *Model) Size() (companies, bookings int) {
	for _, c := range m.companies {
		bookings += min(c.lines, len(c.bookings))
	}
	return len(m.companies), bookings
}
