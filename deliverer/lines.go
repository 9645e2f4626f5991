package deliverer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// What of a line outlives this process. `lines` holds one record for each member: a task of a subscription with `order: entity` whose record goes to a
// tier, or lies there. What comes later of its entity must not overtake it, whoever owns the partition by then.
//
//	a task goes to a tier:  1 member in lines ▶ 2 tier ▶ 3 attempt ▶ 4 mark ▶ 5 progress ▶ 6 commit
//	a member ends:          1 dead letter ▶ 2 attempt ▶ 3 tombstones in lines ▶ 4 mark ▶ 5 progress ▶ 6 commit
//
// What if the process dies
//
//	going, before 1: nothing is written. The task's offset is open, the successor reads it again, and before what comes after it: a task that is no
//	    member lies in `retry` alone, where it stands in source order.
//	going, between 1 and 2: the successor loads a member, and reads the task again where it lay before. It comes up as the member, and is tried.
//	going, between 2 and 4: as above, and a second record of the task lies in a tier. The first to come up is tried, the other finds its mark, or is its copy.
//	    If it comes up when the line has gone on, it is a task that is no member: tried without others of its entity beside it, as after any loss of a mark.
//	going, between 4 and 6: the successor reads the task again and finds the mark of its try. A mark of a try is not one of an end: the task stays a member,
//	    and if the successor does not know it as one it makes it one, before the offset counts as finished (lane.marked).
//	ending, before 2: the successor loads the member, reads the task again and tries it again: a second letter, or a delivery after a death that nobody
//	    was told of. Until the letter, its attempt and the tombstones are written no other of the entity goes (lane.tried).
//	    After a delivery the next goes at once: the receiver has the event, and a crash sends it again as a copy.
//	ending, between 2 and 3: the successor has the member, whose record comes up again; there is no mark yet, so it is tried again: a copy.
//	ending, between two of 3: a task whose due had changed has several records. The rest are found when the task's record is read again: by its mark, or its end.
//	ending, between 3 and 4: no member any more. The task is read again, and is one outside lines: a copy, and nobody of its entity beside it.
//	ending, between 4 and 6: the mark ends it.
//	while a member's followers are handed back, each becomes a member before its own tier record; those that did not come so far are read again from `retry`.
//	    So one may come up from its tier while one that stands before it is still unread in `retry`: what comes from a tier waits at the gate until `retry`
//	    has been read to where it ended when the partition was taken over (lineBook.gated).
//
// A hop from tier to tier writes no record: the member stands. A copy (the same task read twice) ends with the one in memory. A redrive is another round,
// which has no place in lines, but for what a pause ended (resumed.go): that becomes a member before its tier record, as any task that goes to a tier.
//
// Fences. An owner that was stopped (SIGSTOP) may write a member long after its partition went to another, and die before the tier's record: nothing would ever
// come up for that member, and its entity would wait for ever. So whoever takes a partition over writes a fence with its epoch, reads up to it, and takes
// no task before; and members behind a fence with a smaller epoch are not believed. An epoch is the generation's number, in the lower half, since a group's
// generations only grow; the upper half grows if they began anew, because the group was removed. Steps and deaths there:
//
//	read to the end ▶ a commit is accepted ▶ fence ▶ read up to it ▶ tombstones for what is not believed ▶ tasks
//
//	before the fence: nothing has happened. An owner that was stopped here wakes up and finds its commit refused; one that is stopped between the commit and
//	    the fence writes a fence lower than its successor's, which nobody heeds.
//	between fence and tombstones: the next owner finds the same records, before its own fence and behind this one.
//
// A key names the writer's epoch and a number besides place and task, so nobody writes over anybody's record: compaction keeps the last record of a key,
// and if that were the late one, the true one would be gone with it. Only who knows that the task has ended takes its records out, all of them.
//
// Orphans. If all this fails, a member may stand for which nothing will come up, as when retention took its record from a tier. What was only read, and has not
// come up, is unproven; when `retry`, `replay` and all tiers have been worked off to where they ended after that became so, it is an orphan: it is said
// loudly, taken out, and its entity goes on.
type lines struct {
	d      *Deliverer
	signal chan struct{} // capacity 1: there are partitions to load
	ask    chan struct{} // capacity 1: a commit is wanted now
	number atomic.Uint32 // of the records that this process has written
	used   atomic.Bool   // some subscription has asked for order since this process began, or some member was loaded
	gates  atomic.Int32  // books that are gated

	// taking is held while a generation's partitions change, and while what was loaded goes into lanes: the one never meets half of the other.
	taking sync.Mutex

	mu      sync.Mutex
	gen     *kafka.Generation
	todo    map[int32]bool // partitions that are not loaded yet
	books   map[int32]*lineBook
	ordered map[string]int32 // subscriptions that ask for order, and their partitions
}

// lineBook is what a deliverer knows of one partition of `lines`, for as long as it owns it.
type lineBook struct {
	partition int32
	topics    []string // of events: one text for all lines
	// gated: `retry` has not been read up to retryEnd, so some task may be unread that stands before members.
	gated    atomic.Bool
	retryEnd int64
	unproven atomic.Int64  // standings of its lanes
	round    atomic.Uint32 // counted up before ends are asked for: who became unproven earlier must have come up below them

	// The runner's:
	ends  map[kafka.TP]int64 // nil: not asked for
	clear [][]byte           // keys of orphans that are to be taken out
	// floors are where retention made us go on; lines.mu guards them.
	floors map[kafka.TP]int64
}

// topic is the one text for a topic's name.
func (b *lineBook) topic(name string) string {
	if i := slices.Index(b.topics, name); i >= 0 {
		return b.topics[i]
	}
	return strings.Clone(name)
}

// lineRecord is what tells one record of a member from another. The zero value is none.
type lineRecord struct {
	epoch  int64
	number uint32
}

const (
	fenceKey = "fence"
	// tellAgain is how much later than its record tells a first of a line may come up before it writes another: who stands behind it would come up in
	// vain for so long, after a change of owner.
	tellAgain = time.Minute
	linesWait = 250 * time.Millisecond
	// linesMost bounds each step of loading, so that one partition without a leader does not keep the others.
	linesMost  = 5 * time.Second
	orphanTick = 10 * time.Second
)

func (ls *lines) init(d *Deliverer) {
	ls.d, ls.signal, ls.ask = d, make(chan struct{}, 1), make(chan struct{}, 1)
	ls.todo, ls.books, ls.ordered = map[int32]bool{}, map[int32]*lineBook{}, map[string]int32{}
}

// appendLineKey appends the key of a member's record: subscription/topic/partition/offset/epoch.number.
func appendLineKey(b []byte, subscription string, key lineKey, offset int64, rec lineRecord) []byte {
	b = append(append(append(append(b, subscription...), '/'), key.topic...), '/')
	b = append(strconv.AppendInt(b, int64(key.partition), 10), '/')
	b = append(strconv.AppendInt(b, offset, 10), '/')
	b = append(strconv.AppendInt(b, rec.epoch, 36), '.')
	return strconv.AppendUint(b, uint64(rec.number), 36)
}

// lineRecordOf reads the last part of a key.
func lineRecordOf(key string) (rec lineRecord, ok bool) {
	epoch, number, found := strings.Cut(key[strings.LastIndexByte(key, '/')+1:], ".")
	e, err1 := strconv.ParseInt(epoch, 36, 64)
	n, err2 := strconv.ParseUint(number, 36, 32)
	return lineRecord{e, uint32(n)}, found && err1 == nil && err2 == nil
}

// nextEpoch is the epoch of an owner that finds a fence with the epoch last (0: none).
func nextEpoch(last int64, generation int32) int64 {
	term := last >> 32
	if int64(generation) <= last&(1<<32-1) {
		term++
	}
	return term<<32 | int64(generation)
}

// lineLog reads a partition of `lines`, record by record in the order of the log. It is pure.
type lineLog struct {
	fence      int64 // the highest so far
	members    map[string]schemas.Line
	stale      map[string]struct{} // keys that are not believed
	unreadable int
}

func newLineLog() *lineLog {
	return &lineLog{members: map[string]schemas.Line{}, stale: map[string]struct{}{}}
}

// take takes one record. The only error is that a newer release wrote it.
func (g *lineLog) take(r *kafka.Record) error {
	key := string(r.Key)
	if r.Value == nil {
		delete(g.members, key)
		delete(g.stale, key)
		return nil
	}
	var line schemas.Line
	if err := schemas.DecodeLine(r.Value, &line); err != nil {
		var newer *schemas.NewerSchemaError
		if errors.As(err, &newer) {
			return err
		}
		g.unreadable++
		return nil
	}
	switch _, ok := lineRecordOf(key); {
	case line.Subscription == "":
		g.fence = max(g.fence, line.Epoch)
	case !ok:
		g.unreadable++
	case line.Epoch < g.fence:
		if _, stands := g.members[key]; !stands {
			g.stale[key] = struct{}{}
		}
	default:
		g.members[key] = line
	}
	return nil
}

// bookOf finds or makes the book of a partition.
func (ls *lines) bookOf(partition int32) *lineBook {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	b := ls.books[partition]
	if b == nil {
		b = ls.newBook(partition)
	}
	return b
}

// newBook begins a partition's book. mu is held.
func (ls *lines) newBook(partition int32) *lineBook {
	if old := ls.books[partition]; old != nil && old.gated.Swap(false) {
		ls.gates.Add(-1)
	}
	b := &lineBook{partition: partition, topics: ls.d.topics.EventTopics()}
	ls.books[partition] = b
	return b
}

// note takes over whether a subscription asks for order, from the table's note of a change.
func (ls *lines) note(id string) {
	live, ok := ls.d.table.Get(id)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if !ok || live.Order != schemas.OrderEntity || live.State == schemas.StateDeleted {
		delete(ls.ordered, id)
		return
	}
	ls.ordered[id] = kafka.Partition([]byte(id), ls.d.kafka.Config().Partitions)
	ls.used.Store(true)
}

// concern says whether a mark of a task must be looked at more closely, because its subscription asks for order or has members.
func (ls *lines) concern(subscription string) bool {
	if !ls.used.Load() {
		return false
	}
	ls.d.lanesMu.RLock()
	l := ls.d.lanes[subscription]
	ls.d.lanesMu.RUnlock()
	if l != nil {
		l.mu.Lock()
		has := l.order != nil || l.strict
		l.mu.Unlock()
		if has {
			return true
		}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	_, asks := ls.ordered[subscription]
	return asks
}

// begin is told of the partitions that a generation has brought or taken: nothing of those that are fresh is read before they are loaded.
func (ls *lines) begin(gen *kafka.Generation, fresh map[kafka.TP]kafka.Committed, lost map[int32]bool) {
	ls.taking.Lock()
	defer ls.taking.Unlock()
	ls.mu.Lock()
	ls.gen = gen
	clear(ls.todo)
	for tp := range fresh {
		ls.todo[tp.Partition], lost[tp.Partition] = true, true
	}
	for p := range lost {
		ls.newBook(p)
	}
	ls.mu.Unlock()
	if len(lost) == 0 {
		return
	}
	for _, l := range ls.d.allLanes() {
		if lost[kafka.Partition([]byte(l.id), ls.d.kafka.Config().Partitions)] {
			l.forgetLines()
		}
	}
	poke(ls.signal)
}

// run is the goroutine that loads what was taken over, and looks for orphans.
func (ls *lines) run(ctx context.Context) {
	tick := time.NewTicker(orphanTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ls.signal:
		case <-tick.C:
			ls.orphans(ctx)
		}
		if err := ls.load(ctx); err != nil && ctx.Err() == nil {
			ls.d.log.Warn("what stands in lines cannot be read; the tasks of its partitions wait until it can", zap.Error(err))
			pause(ctx, time.Second)
			poke(ls.signal)
		}
	}
}

// load loads the partitions that are to be loaded, all together; and if that does not go, each by itself.
func (ls *lines) load(ctx context.Context) error {
	ls.mu.Lock()
	gen, todo := ls.gen, slices.Sorted(maps.Keys(ls.todo))
	ls.mu.Unlock()
	if len(todo) == 0 || over(gen) {
		return nil // the next generation says it again
	}
	err := whileOn(ctx, gen, func(ctx context.Context) error {
		err := ls.loadThese(ctx, gen, todo)
		if err == nil || len(todo) == 1 || ctx.Err() != nil {
			return err
		}
		var errs []error
		for _, p := range todo {
			errs = append(errs, ls.loadThese(ctx, gen, []int32{p}))
		}
		return errors.Join(errs...)
	})
	if over(gen) {
		return nil
	}
	return err
}

// loading is one partition that is being loaded.
type loading struct {
	log      *lineLog
	fenced   bool
	epoch    int64
	retryEnd int64
	newer    error // of what a newer release wrote
}

// loadThese loads some partitions, and lets their tasks be read.
func (ls *lines) loadThese(ctx context.Context, gen *kafka.Generation, todo []int32) error {
	var tps []kafka.TP
	these := map[int32]*loading{}
	for _, p := range todo {
		tps = append(tps, kafka.TP{Topic: ls.d.topics.Lines, Partition: p})
		these[p] = &loading{log: newLineLog(), epoch: nextEpoch(0, gen.ID)}
	}
	starts, err := ls.offsets(ctx, tps, kafka.Earliest)
	if err != nil {
		return err
	}
	ends, err := ls.offsets(ctx, tps, kafka.Latest)
	if err != nil {
		return err
	}
	some := false
	for tp, end := range ends {
		g := these[tp.Partition]
		g.fenced = end > 0 || ls.asks(tp.Partition)
		some = some || g.fenced
	}
	if some {
		fault.Before(fault.LinesLoad)
		err := ls.read(ctx, starts, ends, these)
		if err = fault.After(fault.LinesLoad, err); err != nil {
			return err
		}
		if err := ls.fence(ctx, gen, ends, these); err != nil {
			return err
		}
	}
	return ls.install(gen, these)
}

func (ls *lines) offsets(ctx context.Context, tps []kafka.TP, at int64) (map[kafka.TP]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, linesMost)
	defer cancel()
	return ls.d.kafka.OffsetsOf(ctx, tps, at)
}

// asks says whether a subscription of a partition asks for order.
func (ls *lines) asks(partition int32) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, p := range ls.ordered {
		if p == partition {
			return true
		}
	}
	return false
}

// read takes what lies between two offsets of each partition.
func (ls *lines) read(ctx context.Context, from, to map[kafka.TP]int64, these map[int32]*loading) error {
	pos := map[kafka.TP]int64{}
	for tp, at := range from {
		if these[tp.Partition].fenced && at < to[tp] {
			pos[tp] = at
		}
	}
	left := len(pos)
	if left == 0 {
		return nil
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	moves := time.AfterFunc(linesMost, func() { stop(errLinesStuck) })
	defer moves.Stop()
	f := ls.d.kafka.NewFetcher(kafka.FetchConfig{MaxWait: linesWait, Empty: true, // the end may hold nothing but what the cleaner emptied
		OutOfRange: func(_ kafka.TP, asked, start, _ int64) (int64, bool) { return start, asked < start }})
	f.Assign(pos)
	passed := map[kafka.TP]bool{}
	err := f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			g := these[b.Partition]
			for j := range b.Records {
				if r := &b.Records[j]; r.Offset < to[b.TP] && g.newer == nil {
					g.newer = g.log.take(r)
				}
			}
			if len(b.Records) > 0 {
				moves.Reset(linesMost)
			}
			if b.Next >= to[b.TP] && !passed[b.TP] {
				passed[b.TP] = true
				left--
			}
		}
		if left == 0 {
			stop(nil)
		}
		return nil
	})
	switch {
	case err != nil || left == 0:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return context.Cause(reading)
	}
}

var errLinesStuck = errors.New("a partition of lines has given nothing for 5 s (has it a leader?)")

// fence writes the fences of partitions that have been read to ends, and reads on up to them.
func (ls *lines) fence(ctx context.Context, gen *kafka.Generation, ends map[kafka.TP]int64, these map[int32]*loading) error {
	if err := ls.confirm(ctx, gen); err != nil {
		return err
	}
	var out kafka.Records
	var tps, retries []kafka.TP
	for p, g := range these {
		if !g.fenced || g.newer != nil {
			continue
		}
		g.epoch = nextEpoch(g.log.fence, gen.ID)
		tp := kafka.TP{Topic: ls.d.topics.Lines, Partition: p}
		tps, retries = append(tps, tp), append(retries, kafka.TP{Topic: ls.d.topics.Retry, Partition: p})
		out.Add(tp, []byte(fenceKey), nil, schemas.AppendLine(nil, &schemas.Line{Epoch: g.epoch}))
	}
	bounded, cancel := context.WithTimeout(ctx, linesMost)
	defer cancel()
	err := fault.Before(fault.LinesFence)
	if err == nil {
		_, err = ls.d.appender.Append(bounded, &out)
		err = fault.After(fault.LinesFence, err)
	}
	if err != nil {
		return err
	}
	to, err := ls.offsets(ctx, tps, kafka.Latest)
	if err != nil {
		return err
	}
	if err := ls.read(ctx, ends, to, these); err != nil {
		return err
	}
	at, err := ls.offsets(ctx, retries, kafka.Latest)
	if err != nil {
		return err
	}
	for tp, end := range at {
		these[tp.Partition].retryEnd = end
	}
	ls.clearStale(ctx, these)
	return nil
}

// confirm returns when a commit has been accepted that was asked for after it was called: until then the generation stood, and what has been read of
// `lines` by now holds the fence of every owner before.
func (ls *lines) confirm(ctx context.Context, gen *kafka.Generation) error {
	l := ls.d.lease
	want := int64(time.Since(l.born) + l.term)
	end := time.NewTimer(linesMost)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.until.Load() < want {
		poke(ls.ask)
		select {
		case <-tick.C:
		case <-end.C:
			return errors.New("no commit was accepted within 5 s")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if over(gen) {
		return kafka.ErrFenced // that commit may have been another generation's
	}
	return nil
}

// clearStale takes out what nobody believes. What is left is found by the next owner.
func (ls *lines) clearStale(ctx context.Context, these map[int32]*loading) {
	var keys []string
	var out kafka.Records
	for p, g := range these {
		for key := range g.log.stale {
			out.AddTombstone(kafka.TP{Topic: ls.d.topics.Lines, Partition: p}, []byte(key))
			keys = append(keys, key)
		}
		if g.log.unreadable > 0 {
			ls.d.log.Error("records of lines cannot be read, and are passed over", zap.Int32("partition", p), zap.Int("records", g.log.unreadable))
		}
	}
	if len(keys) == 0 {
		return
	}
	ls.d.log.Warn("members of lines were written by an owner that had lost their partition; they are taken out", zap.Strings("members", keys[:min(len(keys), 10)]),
		zap.Int("in_all", len(keys)))
	if err := ls.takeOut(ctx, &out); err != nil && ctx.Err() == nil {
		ls.d.log.Warn("they could not be taken out; the next owner will", zap.Error(err))
	}
}

// takeOut writes tombstones.
func (ls *lines) takeOut(ctx context.Context, out *kafka.Records) error {
	ctx, cancel := context.WithTimeout(ctx, linesMost)
	defer cancel()
	if err := fault.Before(fault.LinesClear); err != nil {
		return err
	}
	_, err := ls.d.appender.Append(ctx, out)
	return fault.After(fault.LinesClear, err)
}

// install puts loaded members into their lanes and lets the partitions' tasks be read, if the generation is still the one that they were loaded for.
func (ls *lines) install(gen *kafka.Generation, these map[int32]*loading) error {
	ls.taking.Lock()
	defer ls.taking.Unlock()
	ls.mu.Lock()
	if ls.gen != gen {
		ls.mu.Unlock()
		return kafka.ErrFenced
	}
	parts := *ls.d.parts.Load()
	for p, g := range these {
		delete(ls.todo, p)
		b := ls.books[p]
		b.retryEnd = g.retryEnd
		if r := parts[kafka.TP{Topic: ls.d.topics.Retry, Partition: p}]; len(g.log.members) > 0 && r != nil && r.next() < g.retryEnd {
			b.gated.Store(true)
			ls.gates.Add(1)
		}
	}
	ls.mu.Unlock()
	members, now := 0, time.Now()
	for _, g := range these {
		for key, line := range g.log.members {
			rec, _ := lineRecordOf(key)
			ls.member(&line, rec, now)
			members++
		}
	}
	for tp, part := range parts {
		g := these[tp.Partition]
		if g == nil {
			continue
		}
		part.epoch, part.fenced = g.epoch, g.fenced
		if g.newer != nil {
			ls.d.stopPart(part, g.newer)
		}
		part.unlined.Store(false)
	}
	if members > 0 {
		ls.d.log.Info("lines are loaded", zap.Int("members", members), zap.Int("partitions", len(these)))
	}
	ls.d.hot.Wake()
	ls.d.cold.Wake()
	ls.d.redriver.wake()
	return nil
}

// member puts a loaded member into its line.
func (ls *lines) member(line *schemas.Line, rec lineRecord, now time.Time) {
	ls.used.Store(true)
	l := ls.d.openLane(line.Subscription, now)
	defer l.mu.Unlock()
	l.orderNow(now)
	if l.order == nil {
		l.order = newOrder(ls.bookOf(kafka.Partition([]byte(l.id), ls.d.kafka.Config().Partitions)), l.strict)
	}
	st := l.order.enter(lineKey{line.Topic, line.Partition, line.Entity}, line.Offset)
	st.records = append(st.records, rec)
	st.due, st.told = max(st.due, line.Due), max(st.told, line.Due)
}

// placed is called by the loop that reads `retry` when everything that it took stands in its lane.
func (ls *lines) placed() {
	if ls.gates.Load() == 0 {
		return
	}
	parts := *ls.d.parts.Load()
	ls.open(func(b *lineBook) bool {
		r := parts[kafka.TP{Topic: ls.d.topics.Retry, Partition: b.partition}]
		return r != nil && r.next() >= b.retryEnd
	})
}

// open opens the gates of the books that are ready, and lets in who waited there.
func (ls *lines) open(ready func(*lineBook) bool) {
	opened := map[*lineBook]bool{}
	ls.mu.Lock()
	for _, b := range ls.books {
		if b.gated.Load() && ready(b) {
			b.gated.Store(false)
			ls.gates.Add(-1)
			opened[b] = true
		}
	}
	ls.mu.Unlock()
	if len(opened) == 0 {
		return
	}
	now := time.Now()
	for _, l := range ls.d.allLanes() {
		l.mu.Lock()
		if o := l.order; o != nil && opened[o.book] {
			for e := range o.crowds {
				l.advance(e, now)
			}
		}
		l.mu.Unlock()
	}
}

// lost is told that retention took what was to be read next: it may have been what members wait for.
func (ls *lines) lost(tp kafka.TP, start int64) {
	if !ls.used.Load() {
		return
	}
	ls.mu.Lock()
	b := ls.books[tp.Partition]
	if b != nil {
		if b.floors == nil {
			b.floors = map[kafka.TP]int64{}
		}
		b.floors[tp] = start
	}
	ls.mu.Unlock()
	for _, l := range ls.d.allLanes() {
		l.mu.Lock()
		if o := l.order; o != nil && o.book == b {
			for _, e := range o.lines {
				for _, st := range e.all {
					if st.where == inTier {
						o.suspect(st)
					}
				}
			}
		}
		l.mu.Unlock()
	}
	if tp.Topic == ls.d.topics.Retry {
		ls.open(func(c *lineBook) bool { return c == b && start >= c.retryEnd })
	}
}

// orphans looks for members for which nothing will come up.
func (ls *lines) orphans(ctx context.Context) {
	ls.mu.Lock()
	books := slices.Collect(maps.Values(ls.books))
	ls.mu.Unlock()
	for _, b := range books {
		if b.unproven.Load() > 0 && b.ends == nil {
			b.round.Add(1)
			var tps []kafka.TP
			for _, topic := range ls.d.topics.LaneTopics() {
				tps = append(tps, kafka.TP{Topic: topic, Partition: b.partition})
			}
			ends, err := ls.offsets(ctx, tps, kafka.Latest)
			if err != nil {
				continue // asked again at the next tick
			}
			b.ends = ends
		}
		if b.ends != nil && ls.workedOff(b) {
			b.ends = nil
			ls.takeOrphans(b)
		}
		if len(b.clear) == 0 {
			continue
		}
		var out kafka.Records
		for _, key := range b.clear {
			out.AddTombstone(kafka.TP{Topic: ls.d.topics.Lines, Partition: b.partition}, key)
		}
		if ls.takeOut(ctx, &out) == nil {
			b.clear = nil
		}
	}
}

// workedOff says that everything below the ends of a book is finished, not only read: what was read a moment ago may not stand in its lane yet.
func (ls *lines) workedOff(b *lineBook) bool {
	parts := *ls.d.parts.Load()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for tp, end := range b.ends {
		p := parts[tp]
		if p == nil || p.lost.Load() || p.unlined.Load() {
			return false
		}
		if p.base() < end && b.floors[tp] < end {
			return false
		}
	}
	return true
}

// takeOrphans takes the orphans of a book out of their lines.
func (ls *lines) takeOrphans(b *lineBook) {
	now := time.Now()
	for _, l := range ls.d.allLanes() {
		l.mu.Lock()
		if o := l.order; o != nil && o.book == b {
			for _, e := range o.lines {
				for _, st := range slices.Clone(e.all) {
					if !st.unproven || st.where != inTier || st.round >= b.round.Load() {
						continue
					}
					ls.d.metrics.orphans.Inc()
					ls.d.log.Error("nothing comes up for a member of a line: its record is lost, or was never written; the entity goes on without it",
						zap.String("subscription", l.id), zap.String("topic", e.key.topic), zap.Int32("partition", e.key.partition), zap.Int64("offset", st.offset),
						zap.String("entity", e.key.entity))
					for _, rec := range st.records {
						b.clear = append(b.clear, appendLineKey(nil, l.id, e.key, st.offset, rec))
					}
					o.remove(st)
				}
				l.advance(e, now)
			}
		}
		l.mu.Unlock()
	}
}

// putBack makes a task a member that the redrive of a pause puts into the smallest tier, if its subscription asks for order, and adds the record. It
// returns the place, if that is its own.
func (ls *lines) putBack(own *part, t *schemas.Task, into *kafka.Records) (at givenPlace) {
	if !inLine(t) || !opensPlace(t) || !ls.concern(t.Subscription) {
		return at
	}
	now := time.Now()
	l := ls.d.openLane(t.Subscription, now)
	defer l.mu.Unlock()
	l.orderNow(now)
	if !l.strict || own.lost.Load() {
		return at
	}
	if l.order == nil {
		l.order = newOrder(ls.bookOf(own.tp.Partition), true)
	}
	st := l.order.enter(lineKey{t.Source.Topic, t.Source.Partition, t.EntityID}, t.Source.Offset)
	if st.it != nil { // a copy of an earlier round: it waits for the redrive, and keeps the place (lane.ending)
		return at
	}
	l.order.leave(st, t.Due)
	l.order.prove(st) // its tier record is written next, or it is given up; should we die before, the successor reads the member unproven
	rec := lineRecord{own.epoch, ls.number.Add(1)}
	st.records = append(st.records, rec)
	st.told = st.due
	into.Add(kafka.TP{Topic: ls.d.topics.Lines, Partition: own.tp.Partition}, appendLineKey(nil, t.Subscription, st.line.key, st.offset, rec), nil, appendMember(nil, t.Subscription, st, rec))
	return givenPlace{l, st, st.due}
}

// givenPlace is what putBack has given a task: another due says that its record has come up since.
type givenPlace struct {
	lane *lane
	st   *standing
	due  int64
}

// giveUp forgets places for whose tasks no tier record could be written, and nobody will any more: if nothing comes up for them after all, they are orphans.
func (ls *lines) giveUp(places map[*standing]givenPlace) {
	for st, at := range places {
		at.lane.mu.Lock()
		if o := at.lane.order; o == st.line.of && !st.gone && st.where == inTier && st.due == at.due {
			o.suspect(st)
		}
		at.lane.mu.Unlock()
	}
	clear(places)
}

// What follows is the flusher's part: the records of members in the order of every move. The books are held.

// joins says whether an item's member record must be written before its tier record.
func (f *flusher) joins(it *item) bool {
	if it.part.lost.Load() { // nobody would believe it, and the new owner has the task
		return false
	}
	l, st := it.lane, it.stand
	l.mu.Lock()
	defer l.mu.Unlock()
	if st.gone {
		return false
	}
	return len(st.records) == 0 || st == st.line.first() && st.due > st.told+tellAgain.Milliseconds()
}

// quits says whether records of an item's member must be taken out before it counts as finished. A copy that came up meanwhile keeps them until its own end.
func (f *flusher) quits(it *item) bool {
	l, st := it.lane, it.stand
	l.mu.Lock()
	defer l.mu.Unlock()
	return (st.gone || st.it == nil || st.it == it) && len(st.records) > 0
}

// addLine encodes what goes to `lines` about an item: one record, a member's or a tombstone.
func (f *flusher) addLine(o *outlet, it *item, into *kafka.Records) {
	l, st := it.lane, it.stand
	l.mu.Lock()
	defer l.mu.Unlock()
	if !goesOn(it) {
		if st.clearing == (lineRecord{}) {
			st.clearing = st.records[len(st.records)-1]
			st.records = st.records[:len(st.records)-1]
		}
		f.key = appendLineKey(f.key[:0], it.Subscription, st.line.key, st.offset, st.clearing)
		into.AddTombstone(o.tp, f.key)
		return
	}
	rec := lineRecord{it.part.epoch, f.d.lines.number.Add(1)}
	f.key = appendLineKey(f.key[:0], it.Subscription, st.line.key, st.offset, rec)
	if st.gone { // it came to its end by another record of the task while this one waited: nothing may be left of it here
		into.AddTombstone(o.tp, f.key)
		return
	}
	st.records = append(st.records, rec)
	st.told = st.due
	f.buf = appendMember(f.buf[:0], it.Subscription, st, rec)
	into.Add(o.tp, f.key, nil, f.buf)
}

// appendMember encodes a member's record.
func appendMember(b []byte, subscription string, st *standing, rec lineRecord) []byte {
	key := &st.line.key
	return schemas.AppendLine(b, &schemas.Line{Epoch: rec.epoch, Subscription: subscription, Entity: key.entity, Topic: key.topic, Partition: key.partition,
		Offset: st.offset, Due: st.due})
}

// goesOn says that an item's task has not ended with it.
func goesOn(it *item) bool {
	switch it.out.verdict {
	case schemas.VerdictRetry, schemas.VerdictPostponed, verdictHop, verdictGoesOn:
		return true
	}
	return false
}

// lined goes on with an item whose record stands in `lines`.
func (f *flusher) lined(s *shelf, it *item, now time.Time) {
	switch {
	case it.out.verdict == verdictGoesOn:
		f.d.collector.written = append(f.d.collector.written, it)
	case goesOn(it):
		s.put(&s.tiers[tierFor(f.d.tiers, it.out.due.Sub(now))], it)
	default:
		it.lane.mu.Lock()
		it.stand.clearing = lineRecord{}
		it.lane.mu.Unlock()
		f.over(s, it)
	}
}

// over goes on with an item that is through but for its marks: a member's records are taken out first.
func (f *flusher) over(s *shelf, it *item) {
	if it.stand != nil && !goesOn(it) && f.quits(it) {
		s.put(&s.line, it)
		return
	}
	f.d.collector.written = append(f.d.collector.written, it)
}
