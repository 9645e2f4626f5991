package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"go.uber.org/zap"
)

// KeepPosition as a position given to Assign leaves a partition that stays where it is.
const KeepPosition = int64(-1)

// FetchConfig is how a Fetcher reads. The zero value of a field is its default.
type FetchConfig struct {
	MaxBytes       int32         // of one answer; default 16 MiB
	PartitionBytes int32         // of one partition in an answer; default 1 MiB
	MaxWait        time.Duration // how long the broker may wait for records; default 500 ms
	// Pace is the least time between two fetches that brought records, by how many the first one brought. nil: none.
	Pace func(records int) time.Duration
	// Full is asked each round: true leaves the partition out (flow control). Wake makes the loop ask again. Must not block.
	Full func(TP) bool
	// OutOfRange decides where to read on when the asked offset lies outside [start, end]. ok=false stops the partition (see Stopped).
	// nil: stop. Called by the goroutine of a broker's loop, not by the one that calls handle.
	OutOfRange func(tp TP, asked, start, end int64) (next int64, ok bool)
	// LeftOut replaces MaxWait while a partition is left out as full: a Wake does not end a long poll. Default 25 ms, or MaxWait if that is shorter.
	LeftOut time.Duration
	// Empty: also hand over answers without records, so that the caller learns that a partition was read to its end just now.
	Empty bool
}

// leftOutWait is the default of LeftOut: a partition must not wait for others when it has room again.
const leftOutWait = 25 * time.Millisecond

// OutOfRangeError is why a partition stopped: the offset it was to be read from is not there.
type OutOfRangeError struct {
	TP
	Asked, Start, End int64
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("offset %d of %s/%d is not there: the log reaches from %d to %d", e.Asked, e.Topic, e.Partition, e.Start, e.End)
}

// Fetcher reads partitions; it owns their positions.
//
//	director  gives each partition to the loop of its leader; starts loops
//	loop      one per broker with partitions: request, decode, hand over; ends when it has no partition left
//	Run       takes answers from all loops, one at a time, and calls handle
//
// A loop reads one answer ahead of handle and then waits for it. A position moves when an answer is decoded, so the next request goes on
// behind it. Each position has a version: it changes with every Seek and new Assign, and an answer to an older version is dropped.
type Fetcher struct {
	c   *Client
	cfg FetchConfig

	mu      sync.Mutex
	parts   map[TP]*position
	stopped map[TP]error
	loops   map[string]*loop // by address
	version int64
	stale   bool            // metadata was found wrong
	silent  map[string]bool // brokers that do not answer, and of which we said so

	blind bool // the director's own: there was no metadata the last time, and we said so

	kick    chan struct{} // wakes the director
	answers chan []answer
}

// position is where a partition is read. Guarded by Fetcher.mu.
type position struct {
	tp        TP
	next      int64 // to ask for
	handed    int64 // behind what was handed over
	version   int64
	loop      *loop // nil: the director must find one
	bytes     int32
	notBefore time.Time
	tries     int
}

// answer is what one fetch brought for a partition, if its version still stands.
type answer struct {
	Batch
	version int64
}

// loop reads from one broker. Guarded by Fetcher.mu, but for what only its goroutine touches.
type loop struct {
	addr  string
	parts []*position // by topic and partition
	conn  *conn
	wake  chan struct{}

	// of its goroutine
	asked   []asked
	session session
	rot     int
	out     []byte // request
	spare   []byte // an answer's buffer that no record was handed out of
	topics  map[string]string
	ready   bool // a good answer has come
}

// session is what the broker remembers of our last request (KIP-227), so that the next one names only what has changed since and the answer only what
// brought something. A router reads from more than a hundred partitions, of which one has something new: naming them all cost the broker more than the
// rest of a small event's way. It ends with its connection, since after a lost answer nobody knows whether the broker has counted the request.
type session struct {
	conn  *conn
	id    int32 // 0: none
	epoch int32
	knows map[TP]named
	names []asked // of l.asked, what the request under way names
	gone  []TP    // what it takes back
}

type named struct {
	next  int64
	bytes int32
	round int32 // epoch in which it was last asked for
}

// plan finds what a request must name to ask for l.asked over k.
func (s *session) plan(k *conn, all []asked) {
	s.names, s.gone = s.names[:0], s.gone[:0]
	if s.conn != k || s.id == 0 {
		s.conn, s.id, s.epoch = k, 0, 0
		s.names = append(s.names, all...)
		return
	}
	for _, a := range all {
		n, ok := s.knows[a.tp]
		if !ok || n.next != a.next || n.bytes != a.bytes {
			s.names = append(s.names, a)
		}
		s.knows[a.tp] = named{a.next, a.bytes, s.epoch}
	}
	if len(s.knows) == len(all) {
		return
	}
	for tp, n := range s.knows {
		if n.round != s.epoch {
			s.gone = append(s.gone, tp)
			delete(s.knows, tp)
		}
	}
}

// answered takes over what a good answer says.
func (s *session) answered(id int32, all []asked) {
	if s.epoch > 0 {
		s.epoch = max(1, s.epoch+1) // it wraps to 1: 0 would ask for a new session
		return
	}
	if s.id = id; id != 0 {
		s.epoch = 1
		s.knows = make(map[TP]named, len(all))
		for _, a := range all {
			s.knows[a.tp] = named{a.next, a.bytes, 0}
		}
	}
}

// end makes the next request begin a new session.
func (s *session) end() { s.id = 0 }

// asked is a partition as it was put into a request.
type asked struct {
	tp      TP
	next    int64
	version int64
	bytes   int32
}

// NewFetcher makes a Fetcher that does nothing until Run.
func (c *Client) NewFetcher(fc FetchConfig) *Fetcher {
	if fc.MaxBytes <= 0 {
		fc.MaxBytes = 16 << 20
	}
	if fc.PartitionBytes <= 0 {
		fc.PartitionBytes = 1 << 20
	}
	if fc.MaxWait <= 0 {
		fc.MaxWait = 500 * time.Millisecond
	}
	fc.MaxWait = max(fc.MaxWait, c.calm.leastWait)
	if fc.LeftOut == 0 {
		fc.LeftOut = leftOutWait
	}
	return &Fetcher{
		c: c, cfg: fc, parts: map[TP]*position{}, stopped: map[TP]error{}, loops: map[string]*loop{}, silent: map[string]bool{},
		kick: make(chan struct{}, 1), answers: make(chan []answer),
	}
}

// Assign sets all partitions to read, with the offset to start at. A partition that stays keeps its position if the given one is
// KeepPosition. What was fetched for partitions that left, or whose position changed, and not yet handled, is dropped.
func (f *Fetcher) Assign(pos map[TP]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for tp, p := range f.parts {
		if _, ok := pos[tp]; !ok {
			f.leaveLoop(p)
			delete(f.parts, tp)
		}
	}
	for tp := range f.stopped {
		if at, ok := pos[tp]; !ok || at != KeepPosition {
			delete(f.stopped, tp)
		}
	}
	for tp, at := range pos {
		p := f.parts[tp]
		switch {
		case p != nil && at == KeepPosition, f.stopped[tp] != nil:
		case p != nil:
			f.move(p, at)
		default:
			f.version++
			f.parts[tp] = &position{tp: tp, next: at, handed: at, version: f.version, bytes: f.cfg.PartitionBytes}
		}
	}
	f.poke()
}

// Seek moves one assigned partition; one that stopped goes on.
func (f *Fetcher) Seek(tp TP, offset int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parts[tp]
	if f.stopped[tp] != nil {
		delete(f.stopped, tp)
		p = &position{tp: tp, bytes: f.cfg.PartitionBytes}
		f.parts[tp] = p
	}
	if p != nil {
		f.move(p, offset)
		f.poke()
	}
}

// move changes a position. Holds mu.
func (f *Fetcher) move(p *position, offset int64) {
	f.version++
	p.next, p.handed, p.version, p.notBefore, p.tries = offset, offset, f.version, time.Time{}, 0
	if p.loop != nil {
		p.loop.interrupt()
	}
}

// interrupt ends a long poll that does not ask for what is wanted now. Holds mu.
// Only closing is sure: a deadline in the past would be overwritten if the request was just about to be sent.
func (l *loop) interrupt() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	l.poke()
}

func (l *loop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (f *Fetcher) poke() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// leaveLoop takes a partition from its loop. Holds mu.
func (f *Fetcher) leaveLoop(p *position) {
	if p.loop != nil {
		p.loop.parts = slices.DeleteFunc(p.loop.parts, func(q *position) bool { return q == p })
		p.loop.poke()
		p.loop = nil
	}
}

// Wake makes the loops ask Full again.
func (f *Fetcher) Wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.loops {
		l.poke()
	}
}

// Position is the offset behind what was handed over last (or where reading starts). ok is false if the partition is not assigned.
func (f *Fetcher) Position(tp TP) (offset int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.parts[tp]; p != nil {
		return p.handed, true
	}
	return 0, false
}

// Stopped lists the partitions that are not read any more, and why. Seek or a new Assign with a position makes them go on.
func (f *Fetcher) Stopped() map[TP]error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.stopped)
}

// Run reads until ctx ends (then it returns nil) or handle returns an error, and returns when everything it started has ended.
// handle is called by one goroutine, this one; the batches are its own to keep.
func (f *Fetcher) Run(ctx context.Context, handle func(ctx context.Context, bs []Batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { f.direct(ctx, &wg) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case as := <-f.answers:
			if bs := f.standing(as); len(bs) > 0 {
				if err := handle(ctx, bs); err != nil {
					return err
				}
			}
		}
	}
}

// standing drops the answers whose position has changed since.
func (f *Fetcher) standing(as []answer) []Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	bs := make([]Batch, 0, len(as))
	for i := range as {
		if p := f.parts[as[i].TP]; p != nil && p.version == as[i].version {
			p.handed = as[i].Next
			bs = append(bs, as[i].Batch)
		}
	}
	return bs
}

// direct gives partitions to the loops of their leaders, until ctx ends.
func (f *Fetcher) direct(ctx context.Context, wg *sync.WaitGroup) {
	defer func() { // nothing is left behind that a second Run would meet
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, p := range f.parts {
			p.loop = nil
		}
		for addr, l := range f.loops {
			l.parts = nil
			l.interrupt()
			delete(f.loops, addr)
		}
	}()
	f.poke() // what was assigned before Run
	for try := 0; ; {
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		homeless, wait := f.place(ctx, wg)
		if !homeless {
			try = 0
		} else if d := backoff(try); wait == 0 || d < wait {
			wait = d
			try++
		}
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		case <-again:
		}
	}
}

// place does one round of the director. homeless: some partition's leader is not known. wait, if not 0: one must be placed after it.
func (f *Fetcher) place(ctx context.Context, wg *sync.WaitGroup) (homeless bool, wait time.Duration) {
	f.mu.Lock()
	lost := f.stale
	f.stale = false
	for tp, p := range f.parts {
		if p.loop == nil {
			f.c.meta.want(tp.Topic)
			_, ok := f.c.meta.leader(tp)
			lost = lost || !ok
		}
	}
	f.mu.Unlock()
	if lost {
		err := f.c.refresh(ctx)
		if err != nil && !f.blind && ctx.Err() == nil { // once until there is some again, not once per try
			f.c.log.Warn("fetch: no metadata; trying on", zap.Error(err))
		}
		f.blind = err != nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for tp, p := range f.parts {
		if p.loop != nil {
			continue
		}
		if d := time.Until(p.notBefore); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		addr, ok := f.c.meta.leader(tp)
		if !ok {
			homeless = true
			continue
		}
		l := f.loops[addr]
		if l == nil {
			l = &loop{addr: addr, wake: make(chan struct{}, 1), topics: map[string]string{}}
			f.loops[addr] = l
			wg.Go(func() { f.read(ctx, l) })
		}
		p.loop = l
		l.topics[tp.Topic] = tp.Topic
		i, _ := slices.BinarySearchFunc(l.parts, p, comparePositions)
		l.parts = slices.Insert(l.parts, i, p)
		if p.tries <= 4 { // one that fails for long must not disturb the others each time
			l.interrupt()
		}
	}
	return homeless, wait
}

func comparePositions(a, b *position) int {
	if c := strings.Compare(a.tp.Topic, b.tp.Topic); c != 0 {
		return c
	}
	return int(a.tp.Partition) - int(b.tp.Partition)
}

// read is the life of a loop.
func (f *Fetcher) read(ctx context.Context, l *loop) {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		l.interrupt()
	})
	defer stop()
	for ctx.Err() == nil {
		wait, full, more := f.choose(l)
		if !more {
			return
		}
		if len(l.asked) == 0 {
			timer := time.NewTimer(wait)
			select {
			case <-l.wake:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		maxWait := f.cfg.MaxWait
		if full {
			maxWait = min(maxWait, f.cfg.LeftOut)
		}
		b, err := f.exchange(ctx, l, maxWait)
		if err != nil {
			f.lost(ctx, l, err)
			continue
		}
		arrived := time.Now()
		if b == nil { // interrupted
			continue
		}
		n := f.deliver(ctx, l, b)
		if n > 0 && f.cfg.Pace != nil {
			if d := f.cfg.Pace(n) - time.Since(arrived); d > 0 && sleep(ctx, d) != nil {
				return
			}
		}
	}
}

// choose fills l.asked with the partitions to ask for, in the order to ask for them. wait is how long to wait if there is none;
// full says that some are left out; more is false if the loop has none at all, and is forgotten.
func (f *Fetcher) choose(l *loop) (wait time.Duration, full, more bool) {
	l.asked = l.asked[:0]
	wait = 250 * time.Millisecond // a Wake that was forgotten costs no more than this
	f.mu.Lock()
	if len(l.parts) == 0 {
		if l.conn != nil {
			f.c.conns.put(l.conn)
			l.conn = nil
		}
		if f.loops[l.addr] == l {
			delete(f.loops, l.addr)
		}
		f.mu.Unlock()
		return 0, false, false
	}
	now := time.Now()
	// Rotate, topics and the partitions of each, so that what stands first in a request (and fills its answer) changes.
	l.rot++
	n := len(l.parts)
	first := l.rot % n
	for first > 0 && l.parts[first-1].tp.Topic == l.parts[first].tp.Topic {
		first--
	}
	for start, done := first, 0; done < n; {
		end := start
		for end < n && l.parts[end].tp.Topic == l.parts[start].tp.Topic {
			end++
		}
		for i := range end - start {
			p := l.parts[start+(i+l.rot)%(end-start)]
			if d := p.notBefore.Sub(now); d > 0 {
				wait = min(wait, d)
				continue
			}
			l.asked = append(l.asked, asked{p.tp, p.next, p.version, p.bytes})
		}
		done += end - start
		start = end % n
	}
	f.mu.Unlock()
	if f.cfg.Full != nil { // not under the lock: it may ask us things
		kept := l.asked[:0]
		for _, a := range l.asked {
			if f.cfg.Full(a.tp) {
				full = true
				continue
			}
			kept = append(kept, a)
		}
		l.asked = kept
	}
	return wait, full, true
}

// exchange makes one request. nil and no error: it was interrupted.
func (f *Fetcher) exchange(ctx context.Context, l *loop, maxWait time.Duration) ([]byte, error) {
	f.mu.Lock()
	k := l.conn
	f.mu.Unlock()
	if k == nil {
		var err error
		if k, err = f.c.grab(ctx, l.addr); err != nil {
			return nil, err
		}
		f.c.conns.hold(k)
		f.mu.Lock()
		l.conn = k
		f.mu.Unlock()
		if ctx.Err() != nil { // its end may have come before there was a connection to close
			f.mu.Lock()
			l.interrupt()
			f.mu.Unlock()
			return nil, nil
		}
		if f.changed(l) {
			return nil, nil
		}
	}
	k.cid++
	l.session.plan(k, l.asked)
	if f.cfg.Empty { // whoever wants to hear of partitions without records must name them: no session
		l.session.epoch = -1
	}
	l.request(k.cid, f.c.clientID, maxWait, f.cfg.MaxBytes)
	b, err := k.exchange(l.out, maxWait+requestTimeout, func(n int) []byte {
		if n <= cap(l.spare) {
			return l.spare[:n]
		}
		return make([]byte, n, max(n, 4<<10)) // the small ones are worth keeping if they turn out to be empty
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.conn != k { // it was closed under us
		return nil, nil
	}
	if err != nil {
		k.Close()
		l.conn = nil
		f.c.conns.failed(l.addr, err)
	}
	return b, err
}

// changed says whether what was chosen is outdated: dialling took a while.
func (f *Fetcher) changed(l *loop) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range l.asked {
		if p := f.parts[a.tp]; p == nil || p.version != a.version || p.loop != l {
			return true
		}
	}
	return false
}

// request encodes a Fetch v11 request for l.asked into l.out, behind 4 bytes for its length.
func (l *loop) request(cid uint32, clientID string, maxWait time.Duration, maxBytes int32) {
	be := binary.BigEndian
	w := append(l.out[:0], 0, 0, 0, 0)
	text := func(s string) {
		w = be.AppendUint16(w, uint16(len(s)))
		w = append(w, s...)
	}
	w = be.AppendUint16(w, 1) // Fetch
	w = be.AppendUint16(w, fetchVersion)
	w = be.AppendUint32(w, cid)
	text(clientID)
	w = be.AppendUint32(w, ^uint32(0)) // replica: none, a consumer
	w = be.AppendUint32(w, uint32(maxWait.Milliseconds()))
	w = be.AppendUint32(w, 1) // least bytes
	w = be.AppendUint32(w, uint32(maxBytes))
	w = append(w, 0) // isolation: transactions are not used
	w = be.AppendUint32(w, uint32(l.session.id))
	w = be.AppendUint32(w, uint32(l.session.epoch))
	topicsAt, topics := len(w), uint32(0)
	w = be.AppendUint32(w, 0)
	names := l.session.names
	for i := 0; i < len(names); {
		topic := names[i].tp.Topic
		topics++
		text(topic)
		countAt, count := len(w), uint32(0)
		w = be.AppendUint32(w, 0)
		for ; i < len(names) && names[i].tp.Topic == topic; i++ {
			a := &names[i]
			count++
			w = be.AppendUint32(w, uint32(a.tp.Partition))
			w = be.AppendUint32(w, ^uint32(0)) // leader epoch: any
			w = be.AppendUint64(w, uint64(a.next))
			w = be.AppendUint64(w, ^uint64(0)) // log start: for followers
			w = be.AppendUint32(w, uint32(a.bytes))
		}
		be.PutUint32(w[countAt:], count)
	}
	be.PutUint32(w[topicsAt:], topics)
	w = be.AppendUint32(w, uint32(len(l.session.gone))) // forgotten: one entry each, seldom more than a few
	for _, tp := range l.session.gone {
		text(tp.Topic)
		w = be.AppendUint32(w, 1)
		w = be.AppendUint32(w, uint32(tp.Partition))
	}
	text("") // rack
	l.out = w
}

// lost deals with a broker that does not answer: its partitions look for their leaders again.
func (f *Fetcher) lost(ctx context.Context, l *loop, err error) {
	if ctx.Err() != nil {
		return
	}
	l.session.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.silent[l.addr] { // once until it answers again, not once per try
		f.silent[l.addr] = true
		f.c.log.Warn("fetch: a broker does not answer; trying on", zap.String("broker", l.addr), zap.Error(err))
	}
	for _, p := range slices.Clone(l.parts) {
		f.later(p)
		p.loop = nil
	}
	l.parts = nil
	f.stale = true
	f.poke()
}

// later makes a partition wait before it is asked for again, longer each time. Holds mu.
func (f *Fetcher) later(p *position) {
	p.notBefore = time.Now().Add(min(time.Second, 2*backoff(p.tries)))
	p.tries++
}

// deliver decodes an answer, moves positions, and hands the batches over. It returns how many records there were.
func (f *Fetcher) deliver(ctx context.Context, l *loop, b []byte) int {
	as, outside, n, err := f.decode(l, b)
	if err != nil {
		f.lost(ctx, l, err)
		return 0
	}
	if !l.ready {
		l.ready = true
		f.mu.Lock()
		delete(f.silent, l.addr)
		f.mu.Unlock()
	}
	l.spare = nil
	if n == 0 && cap(b) <= 64<<10 {
		l.spare = b[:0]
	}
	if len(as) > 0 {
		select {
		case f.answers <- as:
		case <-ctx.Done():
		}
	}
	for _, a := range outside {
		f.outOfRange(ctx, a)
	}
	return n
}

// decode decodes an answer and moves the positions it belongs to. outside are the partitions whose offset is out of range.
func (f *Fetcher) decode(l *loop, b []byte) (as []answer, outside []asked, n int, err error) {
	guess, room := 0, maxUnpacked
	session, code, err := decodeFetch(b, func(name []byte) string {
		if s, ok := l.topics[string(name)]; ok {
			return s
		}
		return string(name)
	}, func(r fetched) {
		a := l.find(TP{r.topic, r.partition}, &guess)
		if a == nil {
			return
		}
		if kgo.Error(r.code) == kgo.OffsetOutOfRange {
			outside = append(outside, *a)
			return
		}
		if r.code != 0 {
			f.refused(a, kgo.Error(r.code))
			return
		}
		if len(r.records) == 0 && !f.cfg.Empty {
			f.moved(a, a.next, a.bytes)
			return
		}
		before := room
		records, next, cut, err := decodeWithin(r.records, a.next, nil, &room)
		if err != nil {
			f.brokenAt(a, err)
			return
		}
		size := a.bytes
		if cut && next == a.next { // not one whole batch: it is larger than we asked for
			size = min(2*size, maxAnswer/2)
		}
		if !f.moved(a, next, size) || (len(records) == 0 && next == a.next && !f.cfg.Empty) {
			return
		}
		n += len(records)
		as = append(as, answer{Batch{TP: a.tp, Records: records, Next: next, HighWatermark: r.highWatermark, LogStart: r.logStart, Bytes: int64(len(r.records) + before - room)}, a.version})
	})
	switch {
	case err != nil:
	case kgo.Error(code) == kgo.FetchSessionIDNotFound || kgo.Error(code) == kgo.InvalidFetchSessionEpoch:
		l.session.end() // the broker has let go of it, to make room: the next request, which names everything, begins another
	case code != 0:
		err = kgo.Error(code)
	case !f.cfg.Empty:
		l.session.answered(session, l.asked)
	}
	return as, outside, n, err
}

// find returns what was asked of a partition. Answers come in the order of the request, so the guess is nearly always right.
func (l *loop) find(tp TP, guess *int) *asked {
	if *guess < len(l.asked) && l.asked[*guess].tp == tp {
		*guess++
		return &l.asked[*guess-1]
	}
	for i := range l.asked {
		if l.asked[i].tp == tp {
			*guess = i + 1
			return &l.asked[i]
		}
	}
	return nil
}

// moved sets a position after a good answer. false: it was changed meanwhile.
func (f *Fetcher) moved(a *asked, next int64, bytes int32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parts[a.tp]
	if p == nil || p.version != a.version {
		return false
	}
	p.next, p.bytes, p.tries = next, bytes, 0
	if next != a.next {
		p.bytes = f.cfg.PartitionBytes
	}
	return true
}

// refused deals with an error code of one partition.
func (f *Fetcher) refused(a *asked, code kgo.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parts[a.tp]
	if p == nil || p.version != a.version {
		return
	}
	f.later(p)
	if p.tries == 10 {
		f.c.log.Warn("fetch: a partition cannot be read; trying on", zap.String("topic", p.tp.Topic), zap.Int32("partition", p.tp.Partition), zap.Error(code))
	}
	if fateOf(code) == moved {
		f.leaveLoop(p)
		f.stale = true
		f.poke()
	}
}

// brokenAt deals with bytes that cannot be decoded: perhaps the next answer is better, so try on, ever slower, and say so.
func (f *Fetcher) brokenAt(a *asked, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parts[a.tp]
	if p == nil || p.version != a.version {
		return
	}
	if p.tries&(p.tries-1) == 0 { // the first, second, fourth, eighth ... time
		f.c.log.Error("fetch: a partition holds bytes that cannot be read; trying on", zap.String("topic", p.tp.Topic),
			zap.Int32("partition", p.tp.Partition), zap.Int64("offset", a.next), zap.Error(err))
	}
	f.later(p)
}

// outOfRange asks where the log begins and ends, and the policy what to do.
func (f *Fetcher) outOfRange(ctx context.Context, a asked) {
	qctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	starts, err := f.c.listOffsets(qctx, []TP{a.tp}, Earliest)
	var ends map[TP]int64
	if err == nil {
		ends, err = f.c.listOffsets(qctx, []TP{a.tp}, Latest)
	}
	start, end := starts[a.tp], ends[a.tp]
	if err != nil || (start <= a.next && a.next <= end) {
		// A new leader may not know yet how far its log is acknowledged: ask it again.
		f.refused(&a, kgo.OffsetNotAvailable)
		return
	}
	var next int64
	ok := false
	if f.cfg.OutOfRange != nil {
		next, ok = f.cfg.OutOfRange(a.tp, a.next, start, end)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parts[a.tp]
	if p == nil || p.version != a.version {
		return
	}
	if ok {
		p.next, p.tries = next, 0
		return
	}
	f.leaveLoop(p)
	delete(f.parts, a.tp)
	e := &OutOfRangeError{a.tp, a.next, start, end}
	f.stopped[a.tp] = e
	f.c.log.Error("fetch: a partition stopped", zap.Error(e))
}
