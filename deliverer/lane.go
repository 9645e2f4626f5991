package deliverer

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// The life of one task.
//
//	retry, replay, a tier
//	      │ fetched in a batch                                                               intake.go
//	      │   was it finished (commit metadata of the owner before)? ──────────────▶ nothing to do
//	      │   does a mark say that this try, or the task, has ended? ─────────────▶ nothing to do
//	      │   has another process the try in hand, which Kafka did not hear? ─────▶ waits for its mark, at most 5 s: inhand.go
//	      │   is the same task in the lane already? ──────────────────────────────▶ its copy: ends with it
//	      │   due later than the smallest tier? ──────────────────────────────────▶ the next smaller tier
//	      ▼
//	 ┌─ LANE of its subscription ──────────────────────────────────────────────┐             lane.go
//	 │ line: first come, first sent; two tasks of one entity never at once     │
//	 │   a replay's stand in a second line, behind what is live                │             replayline.go
//	 │   too many, too long, circuit open, over the rate, held ────────────────┼──▶ postponed: a tier
//	 │ a sender takes it, if the lease holds (lease.go, pressure.go)           │
//	 │   subscription deleted ─────────────────────────────────────────────────┼──▶ dropped
//	 │   subscription paused or disabled ──────────────────────────────────────┼──▶ dead: paused
//	 │   what a pause has ended before it is not back in its line (resumed.go) ┼──▶ postponed
//	 │   its replay cancelled, or paused ──────────────────────────────────────┼──▶ dropped, or postponed
//	 │   connecting took longer than the lease ────────────────────────────────┼──▶ postponed
//	 │   POST, one deadline over everything (post.go); Judge (verdict.go)      │
//	 └─────────────────────────────────────────────────────────────────────────┘
//	      │ outcome                                                                          flush.go, outlet.go
//	      ▼
//	 1. the next tier's record, or the dead letter      (acks=all)
//	 2. the attempt                                     (acks=all)
//	 3. the mark in Redis
//	 4. progress: the offset counts as finished         (progress.go)
//	 5. the commit, within half a second                (deliverer.go)
//
// What if the process dies
//
//	before the POST: nothing has happened. The successor reads the task again.
//	during the POST, after a commit named it: the successor waits until the send's deadline or its mark, then tries: perhaps a duplicate, which
//	    nobody can exclude, since nobody heard the answer.
//	during the POST, before a commit named it (it is younger than half a second): the successor tries at once. As above.
//	between POST and 1, between 1 and 2: the answer is lost. The successor tries the same attempt again. After 1 there are two copies then: the one
//	    in the tier and the one that the second try makes. They carry the same id and number, and the second to come up finds the mark of the first.
//	    Where we live on, but Kafka did not hear us for longer than a session, the successor waits for what we say in Redis to have in our hands (inhand.go).
//	between 2 and 3: as above, and the attempt stands twice in the log. Ends are counted per task id, so the sums stay right.
//	between 3 and 4, between 4 and 5: the successor reads the task again and finds the mark. With Redis gone as well, it sends again what ended
//	    since the last commit, and nothing older: the commit's metadata names the rest.
//
// Who owns what: a lane and its items belong to the lane's mutex; an item under way belongs to its sender until it is handed to the collector, and to
// the flusher from then on. The goroutines are the senders, at most as many as the subscription's concurrency.
type lane struct {
	d  *Deliverer
	id string // of the subscription

	mu       sync.Mutex
	line     line             // of the live path
	replays  replayLine       // those that stand back behind it (replayline.go)
	byID     map[string]*item // every item of the lane until it is finished: in line, waiting for its time, under way, being written
	entities map[string]*item // who holds an entity: under way, or first in line after the one before has ended
	senders  []*sender
	idle     []*sender // a stack: the last to become idle is the first to work, so the others age and end
	busy     int
	want     int // how many may be busy for now; follows what the receiver's answers show to be of use
	peak     int // most that were busy since the last slow tick
	press    pressure
	active   bool // the keeper looks at this lane at every tick
	closed   bool
	wakes    time.Time // when the keeper has been asked to look again; past: it has not
	backlog  int64     // handed back and not seen again, as far as this process knows
	usedAt   time.Time
	strict   bool   // the subscription asks for order: its record as of orderAt changes
	orderAt  uint64 // see orderNow
	order    *order // its lines; nil: none

	ended    int64 // answers ever
	tickEnds int64 // ended at the last tick
	tickAt   time.Time
	endedAt  time.Time
	rate     float64       // answers per second, in the last moments
	usual    float64       // the same over the last half minute: a receiver that pauses for 3 s is not slow
	answer   time.Duration // how long an answer takes, lately
	fastest  time.Duration // the shortest of this tick and the last; 0: none came
	fastNow  time.Duration // of this tick
	slow     bool          // its line has become old; until it is empty
	silentAt time.Time     // when senders were last added for want of answers

	conns    *Sender       // its connections, shared with no other subscription
	changes  atomic.Uint64 // of the subscription's record, counted
	settings atomic.Pointer[settings]
	setMu    sync.Mutex // one rebuild at a time
	known    int64      // the newest version that a task has asked for; under mu
	warned   bool       // of tasks newer than the table
}

// item is a task in memory, from the batch that brought it to the flush that finishes it.
type item struct {
	schemas.Task
	part   *part
	offset int64
	lane   *lane
	size   int
	replay bool

	next      *item // in a line, or among an entity's followers
	followers line  // tasks of the same entity behind this one, which holds it
	copies    *item // the same task read again; linked by next
	arrived   time.Time
	until     time.Time // the send's deadline; zero: not sent by us
	awaits    time.Time // the owner before may be sending it until then
	attempted bool      // a sender has had it
	back      bool      // it stands back: in the lane's line of replays
	taken     uint64    // the flush that took it; the flusher's
	refused   time.Time // when Kafka first refused its record; the flusher's
	claimed   bool      // it has a mark that it is in our hands; the flusher's
	stand     *standing // its place in the line of its entity; nil: outside lines
	mark      mark      // what intake has found of it in Redis

	out outcome
}

// outcome is what is to be written about an item.
type outcome struct {
	verdict  schemas.Verdict // verdictHop: only on to the next tier
	reason   schemas.Reason
	detail   string
	due      time.Time
	started  time.Time
	duration time.Duration
	status   int32
	address  string
	answer   []byte
	sent     int64
	received int64
}

// verdictHop moves a task on to a smaller tier. It is no verdict of an attempt and is written nowhere but in the tier.
const verdictHop schemas.Verdict = "hop"

// line is a list of items in order.
type line struct {
	head, tail *item
	n          int
}

func (l *line) push(it *item) {
	it.next = nil
	if l.tail == nil {
		l.head = it
	} else {
		l.tail.next = it
	}
	l.tail = it
	l.n++
}

func (l *line) pushFront(it *item) {
	it.next = l.head
	l.head = it
	if l.tail == nil {
		l.tail = it
	}
	l.n++
}

func (l *line) pop() *item {
	it := l.head
	if it == nil {
		return nil
	}
	l.head = it.next
	if l.head == nil {
		l.tail = nil
	}
	it.next = nil
	l.n--
	return it
}

// sender is one goroutine that sends, with its buffers.
type sender struct {
	wake    chan struct{} // capacity 1
	scratch *Scratch
	answer  Answer
	idleAt  time.Time
	quit    bool

	it *item // what it has in hand; under the lane's mutex
	j  Judgement
}

const (
	// fastAnswer: a receiver that answers sooner gains nothing from more connections; the machine loses. See keeper.fastAnswer.
	fastAnswer = 5 * time.Millisecond
	// slowAnswer: from here on a body in line is copied out of its fetch buffer, which one waiting task would otherwise keep whole (16 MiB).
	slowAnswer = 50 * time.Millisecond
	// wantFirst is up to how many senders a lane with fast answers may have: with few lanes. Connections at work cost by themselves, and a machine that
	// is at its limit makes every receiver look slow; so it is the fastest answer of late that counts.
	wantFirst = 4
	// silentShort and silentLong: after so long without an answer a lane tries more senders; the longer one holds when the machine is busy.
	silentShort = 40 * time.Millisecond
	silentLong  = 500 * time.Millisecond
	// wantBlind is up to how many senders a lane may have that hears no answers.
	wantBlind = 16
	// busyFast is how many sends may be under way in all before lanes with fast answers stop adding senders.
	busyFast = 32
	// lineAge is how long a task waits in line before the lane hands back what it will not come to soon (see keep).
	lineAge  = 2 * time.Second
	lineKeep = 4 * time.Second
	lineMost = 30 * time.Second
	// lineSilent and lineShort: a lane that has been silent for so long, with a longer line, is taken for hung when memory is scarce.
	lineSilent = 500 * time.Millisecond
	lineShort  = 256
	// usualFades: what is usual falls to a third in this time when no answers come, and to nothing in some minutes. A task is handed back for as long as the
	// backlog needs at the usual rate.
	usualFades = 20 * time.Second
	// idleSender is how long a sender without work stays.
	idleSender = 30 * time.Second
	// idleLane is how long a lane without tasks stays: it remembers rate, circuit and connections.
	idleLane = 10 * time.Minute
)

func newLane(d *Deliverer, id string, now time.Time) *lane {
	l := &lane{d: d, id: id, byID: map[string]*item{}, entities: map[string]*item{}, want: 1, usedAt: now, tickAt: now, endedAt: now}
	l.conns = NewSender(d.dial)
	l.conns.may = func() bool { return !d.lease.over(time.Now()) }
	l.conns.rest = d.connections.freed
	l.press = newPressure(d.cfg.MaxConcurrency, 0)
	l.press.circuit = d.cfg.CircuitFailures
	l.changes.Add(1)
	return l
}

// admit enters an item into the lane's books. False if the lane is closed: take another one. It is not the first if one with its id is there, and then
// it becomes its copy, unless it is of a later try or round: that one goes through the smallest tier once more and is tried when the older one is gone.
// As a copy it could be lost: the owner before still writes down the first try of a task that we hold and wait for; its retry's tier record comes up
// here before its mark is set; then the mark appears, our first try is over, and with it would be the only record of the second. The same with a redrive.
func (l *lane) admit(it *item, now time.Time) (open, first bool) {
	if l.closed {
		return false, false
	}
	l.usedAt = now
	it.lane, it.back = l, l.standsBack(it)
	if backlog, _ := l.pace(it); it.Postponed > 0 && *backlog > 0 {
		*backlog--
	}
	if held := l.byID[it.ID]; held != nil {
		if it.Round > held.Round || it.Round == held.Round && it.Attempt > held.Attempt {
			it.out = outcome{verdict: verdictHop, due: later(time.UnixMilli(it.Due), now.Add(l.d.tiers[0].Wait))}
			it.stand = held.stand
			l.d.collect(it)
			return true, false
		}
		it.next, held.copies = held.copies, it
		return true, false
	}
	l.byID[it.ID] = it
	if l.strict || l.order != nil {
		l.takePlace(it)
	}
	return true, true
}

// whenDue sends the first of its id to where it waits for its time, if it must: for the send of the owner before, in memory for moments, in a smaller
// tier. True: it may be tried now. The lane's mutex is held.
func (l *lane) whenDue(it *item, now time.Time) bool {
	remaining := time.UnixMilli(it.Due).Sub(now)
	switch {
	case it.awaits.After(now):
		it.Body = bytes.Clone(it.Body) // it would keep its whole fetch buffer
		if it.stand != nil {           // nobody of its entity is sent meanwhile
			it.stand.line.of.put(it.stand, settling)
		}
		l.d.keeper.settleAt(earlier(it.awaits, now.Add(settle)), it)
	case it.Due == 0 || remaining <= 0:
		return true
	case waitsInMemory(l.d.tiers, remaining) && l.d.keeper.mayWait():
		it.Body = bytes.Clone(it.Body)
		l.d.keeper.dueAt(now.Add(remaining), it)
	default:
		it.out = outcome{verdict: verdictHop, due: time.UnixMilli(it.Due)}
		if it.stand != nil {
			l.leaves(it, it.out.due, now)
		}
		l.d.collect(it)
		if it.stand != nil {
			l.advance(it.stand.line, now)
		}
	}
	return false
}

// enqueue puts admitted items in line, as far as there is room, and wakes senders. The lane's mutex is held.
func (l *lane) enqueue(items []*item, now time.Time) {
	room := l.room(now)
	slow := l.answer > slowAnswer || l.stuck(now)
	for _, it := range items {
		if it.part.lost.Load() {
			l.drop(it)
			continue
		}
		if it.stand != nil { // only the first of its entity goes into the line
			l.arrive(it, now)
			continue
		}
		if it.back {
			l.enqueueReplay(it, now)
			continue
		}
		l.replays.liveAt = now
		if l.line.n >= room {
			l.handBack(it, schemas.ReasonFull, 0, now)
			continue
		}
		if slow {
			it.Body = bytes.Clone(it.Body)
		}
		it.arrived = now
		l.line.push(it)
	}
	l.work(now)
}

// room is how long the line may be. What must not happen is that one lane's tasks fill the memory and others wait outside; what should not happen is
// that a backlog of healthy lanes travels through the tiers, when it is the machine that cannot go faster: then intake waits. So a lane is bounded
// once there is evidence against it, and not before: it hears no answers, or its line has become old.
func (l *lane) room(now time.Time) int {
	if l.stuck(now) {
		return 0
	}
	room := 1 << 30
	if l.slow {
		room = l.keep()
	}
	if rate := l.press.rateNow(); rate > 0 {
		room = min(room, max(1, int(rate*lineAge.Seconds())))
	}
	return room
}

// keep is how long the line of a lane may be that has been slow: what it gets done in lineKeep, or twice its share of the memory if it gets that
// done in lineMost. So lanes that are all slow, because the machine is, are not bounded against one another.
func (l *lane) keep() int { return l.keepAt(l.rate) }

func (l *lane) keepAt(rate float64) int {
	share := 2 * float64(l.d.cfg.TasksInMemory) / float64(max(4, l.d.keeper.count()))
	return int(max(rate*lineKeep.Seconds(), min(share, rate*lineMost.Seconds()), 1))
}

// stuck says that nobody in this lane has heard an answer for a while; for less than that while, if its line takes memory that is scarce.
func (l *lane) stuck(now time.Time) bool {
	silent := now.Sub(l.endedAt)
	return l.busy > 0 && (silent > lineAge || silent > lineSilent && l.d.memory.tight() && l.line.n+l.replays.line.n+l.behind() > lineShort)
}

// behind is how many tasks wait for one of their entity before them. They take memory as those in line do.
func (l *lane) behind() (n int) {
	for _, holder := range l.entities {
		n += holder.followers.n
	}
	if l.order != nil {
		n += l.order.waiting
	}
	return n
}

// work sees to it that somebody sends what is in line. The lane's mutex is held.
func (l *lane) work(now time.Time) {
	if l.line.n+l.replays.line.n == 0 {
		return
	}
	l.activate(now)
	if !l.d.lease.holds(now) || l.choked() {
		return // the keeper looks again, and at once when the lease comes back
	}
	for len(l.senders)-len(l.idle) < l.useful(now) {
		if n := len(l.idle); n > 0 {
			s := l.idle[n-1]
			l.idle = l.idle[:n-1]
			s.wake <- struct{}{}
			continue
		}
		if len(l.senders) > 0 && l.d.senders.Load() >= l.d.cfg.MaxSends {
			return
		}
		l.start()
	}
}

// activate has the keeper look at this lane at every tick.
func (l *lane) activate(now time.Time) {
	if l.active {
		return
	}
	l.active = true
	if l.busy == 0 {
		l.endedAt, l.tickAt, l.tickEnds = now, now, l.ended
	}
	l.d.keeper.watch(l)
}

func (l *lane) start() {
	s := &sender{wake: make(chan struct{}, 1), scratch: new(Scratch)}
	l.senders = append(l.senders, s)
	l.d.senders.Add(1)
	l.d.sending.Go(func() { l.run(s) })
}

// run is a sender's goroutine.
func (l *lane) run(s *sender) {
	for {
		it := l.nextFor(s)
		if it == nil {
			l.d.senders.Add(-1)
			return
		}
		l.try(s, it)
	}
}

// nextFor books what the sender has just done and gives it the next task; nil: its time is over.
//
// The settings are read first, because pick sets the deadline by them: on a young lane the first send had the default time-out, and after a change the
// next one the old.
func (l *lane) nextFor(s *sender) *item {
	l.settingsNow()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if s.it != nil {
		l.book(s, now)
	}
	for {
		if it := l.pick(now); it != nil {
			s.it = it
			l.busy++
			if it.back {
				l.replays.busy++
			}
			l.peak = max(l.peak, l.busy)
			return it
		}
		if s.quit || l.closed {
			for i, other := range l.senders {
				if other == s {
					l.senders = append(l.senders[:i], l.senders[i+1:]...)
					break
				}
			}
			return nil
		}
		s.idleAt = now
		l.idle = append(l.idle, s)
		l.mu.Unlock()
		<-s.wake
		l.settingsNow()
		l.mu.Lock()
		now = time.Now()
	}
}

// pick takes the next task that may be sent now out of the line, or out of the line of replays.
func (l *lane) pick(now time.Time) *item {
	for from := l.nextLine(now); from != nil && !l.closed && l.d.lease.holds(now) && !l.choked(); from = l.nextLine(now) {
		it := from.head
		if it.part.lost.Load() {
			l.drop(from.pop())
			continue
		}
		if it.stand != nil && !it.stand.mayStay() {
			l.stepBack(from.pop(), now)
			continue
		}
		if it.EntityID != "" {
			if holder := l.entities[it.EntityID]; holder != nil && holder != it && !l.overtakes(it, holder) {
				holder.followers.push(from.pop())
				continue
			}
		}
		ok, why, wait := l.press.allow(now, l.busy)
		if !ok {
			l.refused(why, wait, now)
			return nil
		}
		from.pop()
		if it.attempted {
			l.d.breach(it.part, "a task was about to be sent twice by one process", it.ID)
			l.press.release()
			continue
		}
		if it.EntityID != "" {
			l.entities[it.EntityID] = it
		}
		it.attempted = true
		it.until = now.Add(l.timeout())
		return it
	}
	return nil
}

// choked says that what comes of the lane's tasks cannot be written for now (outlet.go): none is sent. All of a lane's tasks have one partition number.
func (l *lane) choked() bool {
	first := l.line.head
	if first == nil {
		first = l.replays.line.head
	}
	return first != nil && l.d.chokes(first.part.tp.Partition)
}

// refused deals with a line that may not move for now: what would wait longer than a moment goes to a tier, so that the partition's offset moves on.
func (l *lane) refused(why schemas.Reason, wait time.Duration, now time.Time) {
	switch why {
	case schemas.ReasonCircuit:
		if wait == 0 {
			wait = l.press.probeWait // one probe is under way: its answer decides
		}
		if wait > lastSecond {
			l.shed(0, why, wait, now)
			return
		}
	case schemas.ReasonHold:
		if wait > lastSecond {
			l.shed(0, why, wait, now)
			return
		}
	case schemas.ReasonRate:
		l.shed(max(1, int(l.press.rateNow()*lineAge.Seconds())), why, 0, now)
	case schemas.ReasonFull:
		return // the next answer goes on
	}
	// Every sender that looks in vain comes by here, at every tick. A clock entry each would be thousands on a few throttled lanes, and the keeper would
	// let no lane's tasks wait in memory any more (mayWait).
	if at := now.Add(wait); !l.wakes.After(now) || l.wakes.Sub(at) > time.Millisecond { // less is rounding
		l.wakes = at
		l.d.keeper.wakeAt(at, l)
	}
}

// shed hands back all of both lines but the first keep of each.
func (l *lane) shed(keep int, why schemas.Reason, least time.Duration, now time.Time) {
	for l.line.n > keep || l.replays.line.n > keep { // again, when tasks of the same entities have moved up
		l.shedFrom(&l.line, keep, why, least, now)
		l.shedFrom(&l.replays.line, keep, why, least, now)
	}
}

func (l *lane) shedFrom(from *line, keep int, why schemas.Reason, least time.Duration, now time.Time) {
	all := *from
	*from = line{}
	for it := all.pop(); it != nil; it = all.pop() {
		if from.n < keep {
			from.push(it)
			continue
		}
		l.handBack(it, why, least, now)
	}
}

// probeClock hands the first task of the line back, so that the answer shows the broker's clock.
func (l *lane) probeClock(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it := l.line.pop()
	if it == nil {
		it = l.replays.line.pop()
	}
	if it != nil {
		l.handBack(it, schemas.ReasonHold, 0, now)
	}
}

// handBack postpones an item that is in nobody's hands: a tier record, no try counted.
func (l *lane) handBack(it *item, why schemas.Reason, least time.Duration, now time.Time) {
	l.leaveEntity(it)
	if it.part.lost.Load() {
		l.drop(it)
		return
	}
	backlog, rate := l.pace(it)
	*backlog++
	if why == schemas.ReasonCircuit || why == schemas.ReasonHold {
		rate = 0
	}
	it.out = outcome{verdict: schemas.VerdictPostponed, reason: why, due: now.Add(postponeFor(least, it.Postponed, *backlog, rate, l.d.tiers))}
	if it.stand != nil {
		l.leaves(it, it.out.due, now)
	}
	fault.Before(fault.LaneHandBack)
	l.d.collect(it)
	fault.After(fault.LaneHandBack, nil)
	if it.stand != nil { // who stands behind it may not overtake it
		l.advance(it.stand.line, time.Now())
	}
}

// drop forgets an item whose partition belongs to another process now: that one has it. A copy that is still ours takes its place, and waits for its
// time as any task that was read: it may be due later, and the owner before may be sending it.
func (l *lane) drop(it *item) {
	l.leaveEntity(it)
	if it.stand != nil {
		l.vanishes(it)
	}
	if l.byID[it.ID] == it {
		delete(l.byID, it.ID)
	}
	l.d.memory.release(it)
	for c := it.copies; c != nil; {
		following := c.next
		c.next = nil
		if c.part.lost.Load() {
			l.d.memory.release(c)
		} else if held := l.byID[c.ID]; held != nil {
			c.next, held.copies = held.copies, c
		} else {
			l.byID[c.ID] = c
			if l.strict || l.order != nil {
				l.takePlace(c)
			}
			if now := time.Now(); l.whenDue(c, now) {
				if c.arrived = now; c.stand != nil {
					l.arrive(c, now)
				} else {
					l.lineOf(c).push(c)
				}
			}
		}
		c = following
	}
	it.copies = nil
}

// leaveEntity lets the next task of the item's entity go first, if the item held it.
func (l *lane) leaveEntity(it *item) {
	if it.EntityID == "" || l.entities[it.EntityID] != it {
		return
	}
	first := it.nextFollower()
	for first != nil && first.part.lost.Load() {
		l.drop(first)
		first = it.nextFollower()
	}
	if first == nil {
		delete(l.entities, it.EntityID)
		return
	}
	first.followers, it.followers = it.followers, line{}
	l.entities[it.EntityID] = first
	l.lineOf(first).pushFront(first)
}

// strike takes an item out of the books, so that no copy joins those that it has, which end with it. From here on the same id is another item: so this must happen
// before the tier's record of the item is written. Else this sequence loses a task: the flusher has written the record and waits for the broker's answer
// to the attempt; the tier's wait passes; intake reads the record, finds its id in the books, takes it for a copy, and lets it end with
// the item whose continuation it is.
func (l *lane) strike(it *item) {
	if l == nil { // it never came as far as a lane
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID[it.ID] == it {
		delete(l.byID, it.ID)
	}
}

// try makes one attempt. Nothing of it needs the lane's mutex: the item belongs to this sender.
func (l *lane) try(s *sender, it *item) {
	s.j = Judgement{}
	set := l.settingsNow()
	for l.endsUnsent(it, set) {
		if l.end(it, set) {
			return
		}
		set = l.settingsNow()
	}
	now := time.Now()
	it.out.started = now
	if set.err != nil {
		s.answer = Answer{Failure: set.failure, Detail: set.detail, LogDetail: set.err.Error(), Body: s.answer.Body[:0]}
	} else {
		l.d.inFlight.Add(1)
		fault.Before(fault.LaneSend)
		l.conns.Post(set.target, s.scratch, &it.Task, now, it.until, &s.answer)
		fault.After(fault.LaneSend, nil)
		l.d.inFlight.Add(-1)
	}
	if l.d.aborted.Load() { // we cut the connection ourselves: that is nobody's failure
		l.d.collect(it)
		return
	}
	done := time.Now()
	a := &s.answer
	if a.Late {
		l.comesLate(it, done)
		return
	}
	if it.FirstTriedAt == 0 {
		it.FirstTriedAt = now.UnixMilli()
	}
	s.j = Judge(&it.Task, set.schedule, a, done)
	it.out.verdict, it.out.reason, it.out.detail, it.out.due = s.j.Verdict, s.j.Reason, s.j.Detail, s.j.NextDue
	it.out.duration = done.Sub(now)
	it.out.status, it.out.address = int32(a.Status), a.Address
	it.out.sent, it.out.received = a.Sent, a.Received
	it.out.answer = bytes.Clone(a.Body)
	if s.j.Disable {
		l.d.clerk.disable(l.id, string(s.j.Reason))
	}
	if it.stand != nil {
		l.tried(it)
	}
	fault.Before(fault.LaneCollect)
	l.d.collect(it)
	fault.After(fault.LaneCollect, nil)
}

// comesLate postpones a task for which a connection was made so slowly that the lease has run out meanwhile: another may have sent it by now.
func (l *lane) comesLate(it *item, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it.until = time.Time{}
	it.out = outcome{verdict: schemas.VerdictPostponed, reason: schemas.ReasonHold, due: now.Add(l.d.tiers[0].Wait)}
	l.endNow(it)
}

// endsUnsent decides what ends without a send, whatever the lane's state.
func (l *lane) endsUnsent(it *item, set *settings) bool {
	now := time.Now()
	switch {
	case l.d.aborted.Load():
		it.out.verdict = "" // the process ends: nothing happened, and the successor has it
		return true
	case set.live == nil || set.live.State == schemas.StateDeleted:
		it.out = outcome{verdict: schemas.VerdictDropped, reason: schemas.ReasonDeleted, started: now}
	case l.stopped(it, now):
	case it.Last != nil && it.Last.Reason == schemas.ReasonTooLarge && len(it.Body) == 0:
		it.out = outcome{verdict: schemas.VerdictDead, reason: schemas.ReasonTooLarge, started: now, detail: it.Last.Detail}
	case set.live.State != schemas.StateActive:
		it.out = outcome{verdict: schemas.VerdictDead, reason: schemas.ReasonPaused, started: now, detail: "the subscription is " + set.live.State}
	case it.stand != nil && l.awaitsLetters(it, set):
		it.out = outcome{verdict: schemas.VerdictPostponed, reason: schemas.ReasonOrder, due: now.Add(l.d.tiers[0].Wait)}
	default:
		return false
	}
	return true
}

// end hands over what ends without a send, if the settings that say so are still the lane's (resumed.go says why). False: look again.
func (l *lane) end(it *item, set *settings) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if set.change != l.changes.Load() {
		it.out = outcome{}
		return false
	}
	if it.out.verdict != "" { // a commit may just be asking what is under way
		it.until = time.Time{}
	}
	l.endNow(it)
	return true
}

// endNow gives what ends without a send, or waits with its replay, to the collector. The lane's mutex is held.
func (l *lane) endNow(it *item) {
	if it.out.verdict == schemas.VerdictPostponed {
		if it.part.lost.Load() { // nothing was sent, and the new owner has it: a record of ours would come up beside its own
			l.drop(it)
			return
		}
		backlog, _ := l.pace(it)
		*backlog++
	}
	if it.stand != nil {
		l.comesTo(it)
	}
	fault.Before(fault.LaneEnds)
	l.d.collect(it)
	fault.After(fault.LaneEnds, nil)
}

// book learns from what the sender has just done. The lane's mutex is held.
func (l *lane) book(s *sender, now time.Time) {
	it, j := s.it, &s.j
	s.it = nil
	l.busy--
	if it.back {
		l.replays.busy--
	}
	l.leaveEntity(it)
	if it.stand != nil {
		l.advance(it.stand.line, now)
	}
	if j.Verdict == "" { // not sent
		l.press.release()
		l.endedAt = now
		return
	}
	l.ended++
	if it.back {
		l.replays.ended++
	}
	l.endedAt = now
	took := it.out.duration
	if l.answer == 0 {
		l.answer = took
	}
	l.answer += (took - l.answer) / 8
	if l.fastNow == 0 || took < l.fastNow {
		l.fastNow = took
	}
	if l.fastest == 0 || took < l.fastest {
		l.fastest = took
	}
	change := l.press.ended(now, j, l.busy+1, max(l.rate, 1))
	l.report(change, it.out.status, j, now)
	if l.line.n+l.replays.line.n > 0 && l.want < l.press.most && (l.fastest > l.d.keeper.fastAnswer() || l.want < wantFirst && l.d.inFlight.Load() < busyFast) {
		l.want++
	}
	l.work(now)
}

// report tells the log and the subscription's record about a change of state: once per change, never per attempt.
func (l *lane) report(c pressureChange, status int32, j *Judgement, now time.Time) {
	if c.opened {
		l.d.log.Warn("a receiver keeps failing; its lane now probes with one task at a time",
			zap.String("subscription", l.id), zap.String("reason", string(j.Reason)), zap.Int32("status", status))
		l.d.clerk.failing(l.id, now)
	}
	if c.closed {
		l.d.log.Info("a failing receiver works again", zap.String("subscription", l.id))
	}
	set := l.settings.Load()
	if set == nil || set.live == nil || set.live.FailingSince == 0 {
		return
	}
	if j.Verdict == schemas.VerdictDelivered {
		l.d.clerk.works(l.id)
	} else if j.Strike && now.Sub(time.UnixMilli(set.live.FailingSince)) > failingMost {
		l.d.clerk.disable(l.id, "failing for 5 days")
	}
}

// tick is the keeper's look at an active lane. False: nothing to look at any more.
func (l *lane) tick(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow, l.replays.slow = l.slow && l.line.n > 0, l.replays.slow && l.replays.line.n > 0
	if l.line.n+l.replays.line.n == 0 && l.busy == 0 && (l.order == nil || l.order.waiting == 0) {
		l.active = false
		return false
	}
	if d := now.Sub(l.tickAt); d >= 250*time.Millisecond {
		if !l.choked() && l.d.lease.holds(now) { // a pause that is ours says nothing about the receiver
			l.rate += (float64(l.ended-l.tickEnds)/d.Seconds() - l.rate) / 2
			l.usual = max(l.rate, l.usual*(1-min(d.Seconds()/usualFades.Seconds(), 1)))
			l.replays.tick(d)
		}
		l.tickEnds, l.tickAt = l.ended, now
		l.fastest, l.fastNow = l.fastNow, 0
		if l.fastest > 0 && l.fastest < l.d.keeper.fastAnswer() && l.want > wantFirst {
			l.want = max(wantFirst, l.want/2)
		}
		l.press.tick(now, l.rate)
		l.sweep(now)
	}
	if l.line.n+l.replays.line.n == 0 {
		return true
	}
	// Tasks wait for senders and senders for answers that do not come: try a few more, in case only these few hang.
	silent := now.Sub(l.endedAt)
	if l.busy >= l.want && l.want < min(wantBlind, l.press.most) && now.Sub(l.silentAt) > silent/2 &&
		(silent > silentLong || silent > silentShort && l.d.inFlight.Load() < busyFast) {
		l.silentAt = now
		l.want = min(2*l.want, wantBlind, l.press.most)
	}
	l.work(now)
	return true
}

// sweep hands back what has been in line for long and will not be sent soon, and who stands behind an entity whose send takes long.
func (l *lane) sweep(now time.Time) {
	hung := l.stuck(now)
	switch {
	case l.line.n == 0:
	// Nobody's fault, and choked a hand-back could not be written either: when it is over, nothing has become old. Without this the first look after an
	// outage of Kafka found lanes that had done nothing for as long as it had lasted, and handed healthy receivers' tasks back for half an hour.
	case l.choked(), !l.d.lease.holds(now):
		for it := l.line.head; it != nil; it = it.next {
			it.arrived = now
		}
		l.endedAt = now
	case hung:
		l.shed(0, schemas.ReasonFull, 0, now)
	case now.Sub(l.line.head.arrived) > lineAge:
		if keep := l.keep(); l.line.n > keep {
			l.slow = true
			l.shedFrom(&l.line, keep, schemas.ReasonFull, 0, now)
		}
	}
	l.sweepReplays(hung, now)
	for _, s := range l.senders {
		if s.it == nil || s.it.followers.n == 0 || now.Sub(s.it.followers.head.arrived) <= lineAge && !hung {
			continue
		}
		for it := s.it.followers.pop(); it != nil; it = s.it.followers.pop() {
			l.handBack(it, schemas.ReasonFull, 0, now)
		}
	}
	if l.order != nil {
		l.orderNow(now)
		l.sweepLines(now, hung)
	}
}

// slowTick ends what is of no use any more: senders without work, connections, in the end the lane. True: the lane is closed, forget it.
func (l *lane) slowTick(now time.Time) (gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = min(max(1, l.peak), l.press.most)
	l.peak = l.busy
	n := 0
	for ; n < len(l.idle) && now.Sub(l.idle[n].idleAt) > idleSender; n++ { // the bottom of the stack is the oldest
		l.idle[n].quit = true
		l.idle[n].wake <- struct{}{}
	}
	l.idle = append(l.idle[:0], l.idle[n:]...)
	l.conns.CloseIdle(now.Add(-idleSender))
	if l.order != nil && !l.strict && l.order.members == 0 {
		l.order = nil
	}
	if len(l.byID) > 0 || l.busy > 0 || l.order != nil && l.order.members > 0 || l.press.open && l.mayHear() || now.Sub(l.usedAt) < idleLane {
		return false
	}
	l.close()
	return true
}

// mayHear says whether an answer may come that closes the circuit: the subscription is active and its partition ours, be it in the middle of a rebalance.
func (l *lane) mayHear() bool {
	live, ok := l.d.table.Get(l.id)
	_, ours := (*l.d.parts.Load())[kafka.TP{Topic: l.d.topics.Retry, Partition: kafka.Partition([]byte(l.id), l.d.kafka.Config().Partitions)}]
	return ok && live.State == schemas.StateActive && ours
}

// close ends the lane's senders; what they have in hand they finish. The lane's mutex is held.
func (l *lane) close() {
	l.closed = true
	for _, s := range l.idle {
		s.wake <- struct{}{}
	}
	l.idle = nil
	l.conns.Close()
}

// dropLost forgets what stands in line of partitions that were lost.
func (l *lane) dropLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, from := range []*line{&l.line, &l.replays.line} {
		all := *from
		*from = line{}
		for it := all.pop(); it != nil; it = all.pop() {
			if it.part.lost.Load() {
				l.drop(it)
			} else {
				from.push(it)
			}
		}
	}
	for _, s := range l.senders {
		if s.it == nil {
			continue
		}
		behind := s.it.followers
		s.it.followers = line{}
		for it := behind.pop(); it != nil; it = behind.pop() {
			if it.part.lost.Load() {
				l.drop(it)
			} else {
				s.it.followers.push(it)
			}
		}
	}
}

// flying appends the sends that are under way.
func (l *lane) flying(into map[*part][]underWay) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.senders {
		if s.it != nil {
			nameFlying(into, s.it)
		}
	}
}

// nameFlying names an item and its copies: the successor may meet any of them.
func nameFlying(into map[*part][]underWay, it *item) {
	if it.until.IsZero() {
		return
	}
	into[it.part] = append(into[it.part], underWay{it.offset, it.until})
	for c := it.copies; c != nil; c = c.next {
		into[c.part] = append(into[c.part], underWay{c.offset, it.until})
	}
}
