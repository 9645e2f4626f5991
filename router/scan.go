package router

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// stretch is the part of an order in one source partition. One worker at a time has it, but for halted.
type stretch struct {
	tp     kafka.TP
	holder *partition // as which the partition was ours when this began: another time it may have come further elsewhere
	p      progress   // as it was last written
	at     progress   // as far as it is scanned; what lies behind the last flush is durable
	end    int64      // where to stop
	last   bool       // there is nothing behind end
	noted  time.Time  // when p was written
	until  time.Time  // nothing to do before
	halted atomic.Bool
	kept   kafka.Batch // what was fetched and could not be scanned yet: the log goes on there, at at.Next
}

// drop forgets what is not written down.
func (st *stretch) drop() {
	st.at, st.kept = st.p, kafka.Batch{}
}

// stretches gives the stretches of an order that can be scanned now, each with its end. Those that are through without a scan it notes as such.
func (y *replayer) stretches(ctx context.Context, w *work, c *choice) (map[kafka.TP]*stretch, error) {
	out := map[kafka.TP]*stretch{}
	var through []*stretch
	now := time.Now()
	for _, tp := range y.scope(c.order) {
		holder := y.r.owned.holder(tp)
		if holder == nil {
			delete(w.parts, tp)
			continue
		}
		st := w.parts[tp]
		if st == nil || st.holder != holder {
			p := y.r.orders.at(c.order.ID, tp)
			st = &stretch{tp: tp, holder: holder, p: p, at: p, noted: now}
			w.parts[tp] = st
		}
		if st.p.Done || st.until.After(now) {
			continue
		}
		if y.r.orders.wasHanded(c.order.ID, tp) {
			if next, ours := y.r.owned.next(tp); ours {
				st.at.Next = max(st.at.Next, next)
			}
			through = append(through, st)
			continue
		}
		if err := y.bounds(ctx, w, c, st); err != nil {
			return nil, err
		}
		switch {
		case st.until.After(now): // it has to wait
		case st.last && (st.p.Next >= st.end || !c.wantsEntity(y.r.entities[tp.Topic])):
			st.at.Next = max(st.at.Next, st.end)
			through = append(through, st)
		default:
			out[tp] = st
		}
	}
	return out, y.note(ctx, c.order, true, through)
}

// bounds finds where a stretch begins and ends. An ordered catch-up goes as far as live has come, and waits until live has come to where it begins: what
// lies before is live's, and is to be first.
func (y *replayer) bounds(ctx context.Context, w *work, c *choice, st *stretch) error {
	o := c.order
	if _, known := w.ends[st.tp]; !known {
		if err := y.resolve(ctx, w, c, st.tp.Topic); err != nil {
			return err
		}
	}
	if st.p.Next < w.begins[st.tp] {
		if st.p.Next > 0 { // it had begun, so it was behind its begin
			y.sayGap(o, st.tp, st.p.Next, w.begins[st.tp])
		}
		st.p.Next, st.at.Next = w.begins[st.tp], w.begins[st.tp]
	}
	st.end, st.last = w.ends[st.tp], true
	beyond := c.ordered || o.Kind == schemas.ReplayCatchUp && y.r.orders.hasLeft(o.ID, st.tp)
	if !beyond {
		return nil
	}
	next, ours := y.r.owned.next(st.tp)
	if !ours {
		return errNotOwned
	}
	if next < w.begins[st.tp] || !y.inTurn(c, st.tp) {
		st.until = time.Now().Add(replayAgain / 4)
		return nil
	}
	if !c.wantsEntity(y.r.entities[st.tp.Topic]) && !y.r.orders.hasLeft(o.ID, st.tp) { // nothing of it is wanted, so there is only the place to hand over
		st.at.Next = max(st.at.Next, next)
		st.p.Next = st.at.Next
	}
	if c.paused == 0 || time.UnixMilli(c.paused).Add(y.margin).After(y.r.kafka.BrokerNow()) {
		st.end, st.last = next, false
		return nil
	}
	end, err := y.offset(ctx, st.tp, c.paused+y.margin.Milliseconds())
	if err != nil {
		return err
	}
	if st.end, st.last = end, true; next < end {
		st.end, st.last = next, false
	}
	return nil
}

// inTurn says whether the catch-ups of the same subscription from before are through in a partition.
func (y *replayer) inTurn(c *choice, tp kafka.TP) bool {
	for i := range c.sub.Spans {
		cut := &c.sub.Spans[i]
		if cut.Kind != schemas.CutLive || cut.Reason == "" {
			continue
		}
		if cut.Reason == c.order.ID {
			return true
		}
		if !y.r.orders.through(cut.Reason, tp) {
			return false
		}
	}
	return true
}

// resolve asks where the range of an order begins and ends in the partitions of a topic. An order that names offsets has them.
func (y *replayer) resolve(ctx context.Context, w *work, c *choice, topic string) error {
	begins, err := y.r.offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return err
	}
	if c.order.Kind == schemas.ReplayReplay {
		for _, b := range c.order.Begins {
			if b.Topic == topic {
				begins[b.Partition] = max(begins[b.Partition], b.Offset)
			}
		}
		for _, e := range c.order.Ends {
			if tp := (kafka.TP{Topic: e.Topic, Partition: e.Partition}); e.Topic == topic {
				w.begins[tp], w.ends[tp] = begins[e.Partition], e.Offset
			}
		}
		return nil
	}
	if begins, err = y.r.offsets(ctx, topic, c.from); err != nil {
		return err
	}
	ends, err := y.r.offsets(ctx, topic, c.to+y.margin.Milliseconds())
	if err != nil {
		return err
	}
	for p, end := range ends {
		tp := kafka.TP{Topic: topic, Partition: p}
		w.begins[tp], w.ends[tp] = begins[p], end
	}
	return nil
}

// offset is the first offset of a partition that was appended at a time or later, or the end of its log.
func (y *replayer) offset(ctx context.Context, tp kafka.TP, at int64) (int64, error) {
	found, err := y.r.offsets(ctx, tp.Topic, at)
	return found[tp.Partition], err
}

// scanning is one turn of an order.
type scanning struct {
	y     *replayer
	pass  *pass
	w     *work
	c     *choice
	parts map[kafka.TP]*stretch
	share float64 // this router's part of the order's rate

	until time.Time
	wrote bool // tasks were written since the progress was
	to    []kafka.TP
	key   []byte
}

var errTurnOver = errors.New("the turn is over")

// run scans until the turn is over, and then hands over what can be.
func (s *scanning) run(ctx context.Context) error {
	if err := s.scan(ctx); err != nil {
		return err
	}
	for _, st := range s.parts {
		if st.last || st.p.Done || st.until.After(time.Now()) {
			continue
		}
		err := s.handOver(ctx, st)
		if err != nil && !errors.Is(err, errHandOver) {
			return err
		}
		if err != nil && st.p.Next >= st.end {
			st.until = time.Now().Add(replayAgain / 4)
		}
	}
	return nil
}

// scan reads the stretches until all are at their ends or have to wait, or until the turn is over.
func (s *scanning) scan(ctx context.Context) error {
	if err := s.y.limits.refresh(ctx); err != nil {
		return err
	}
	s.until = time.Now().Add(replayTurn)
	var kept []kafka.Batch
	for _, st := range s.parts {
		st.halted.Store(st.at.Next >= st.end)
		if len(st.kept.Records) > 0 {
			kept = append(kept, st.kept)
			st.kept = kafka.Batch{}
		}
	}
	var err error
	if len(kept) > 0 {
		err = s.handle(ctx, kept)
	}
	if err == nil {
		err = s.fetch(ctx)
	}
	if errors.Is(err, errTurnOver) {
		err = nil
	}
	if err != nil || ctx.Err() != nil {
		s.drop()
		return errors.Join(err, ctx.Err())
	}
	return s.save(ctx, true)
}

// fetch reads on where the log was not read yet.
func (s *scanning) fetch(ctx context.Context) error {
	pos := map[kafka.TP]int64{}
	for tp, st := range s.parts {
		if !st.halted.Load() {
			pos[tp] = st.at.Next
		}
	}
	if len(pos) == 0 {
		return nil
	}
	most, each := s.fetchBytes()
	f := s.y.r.kafka.NewFetcher(kafka.FetchConfig{
		MaxBytes: int32(most), PartitionBytes: int32(each), Empty: true, MaxWait: 100 * time.Millisecond,
		OutOfRange: s.outOfRange,
		Full:       func(tp kafka.TP) bool { return s.parts[tp].halted.Load() },
	})
	f.Assign(pos)
	return f.Run(ctx, s.handle)
}

func (s *scanning) outOfRange(tp kafka.TP, asked, start, _ int64) (int64, bool) {
	if asked < start {
		s.y.sayGap(s.c.order, tp, asked, start)
	}
	return start, true
}

// sayGap says what retention has taken of a stretch that had begun: it was faster than the scan, which has a rate or waits for a receiver.
func (y *replayer) sayGap(o *schemas.Replay, tp kafka.TP, from, to int64) {
	y.r.metrics.lost.WithLabelValues(tp.Topic).Add(float64(to - from))
	y.r.log.Error("DATA LOSS: retention removed events before a replay or a catch-up had read them; it goes on at the first that is left",
		zap.String("replay", o.ID), zap.String("kind", o.Kind), zap.String("subscription", o.Subscription), zap.String("topic", tp.Topic),
		zap.Int32("partition", tp.Partition), zap.Int64("lost_from", from), zap.Int64("lost_to", to-1))
}

// fetchBytes says how much to ask for. Who has a rate keeps what he cannot take yet: as much as the orders may keep together, so that he seldom asks.
func (s *scanning) fetchBytes() (most, ofPartition int) {
	cfg := s.y.r.cfg
	if s.c.order.Rate > 0 || s.c.sub != nil && s.c.sub.ReplayRate > 0 {
		each := min(max(replayKept/2/(s.y.standing()*len(s.parts)), 128<<10), cfg.PartitionBytes)
		return min(4*each, cfg.FetchBytes), each
	}
	return max(cfg.FetchBytes/2, cfg.PartitionBytes), cfg.PartitionBytes
}

// handle takes one answer: all its tasks are durable, and then its progress, before the next one is looked at.
func (s *scanning) handle(ctx context.Context, bs []kafka.Batch) error {
	if err := s.pass.fresh(ctx); err != nil {
		return err
	}
	if err := s.y.limits.refresh(ctx); err != nil {
		return err
	}
	if !s.again() {
		return errTurnOver
	}
	for i := range bs {
		if st := s.parts[bs[i].TP]; !st.halted.Load() {
			if err := s.batch(ctx, st, &bs[i]); err != nil {
				return err
			}
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.save(ctx, false); err != nil {
		return err
	}
	open := false
	for _, st := range s.parts {
		open = open || !st.halted.Load()
	}
	if !open || time.Now().After(s.until) && s.y.wanted() {
		return errTurnOver
	}
	return nil
}

// again looks whether the order still stands, and at its subscription as it is now: it may have been paused or edited since the last answer.
func (s *scanning) again() bool {
	o := s.y.r.orders.get(s.c.order.ID)
	if o == nil || o.State != schemas.ReplayRunning {
		return false
	}
	if s.c.sub == nil {
		return true
	}
	l, ok := s.y.r.table.Get(s.c.sub.ID)
	if ok && l == s.c.sub {
		return true
	}
	if !ok || l.State != schemas.StateActive || l.Order != s.c.sub.Order {
		return false
	}
	c, _, _ := s.y.choose(o)
	if c == nil {
		return false
	}
	s.c = c
	return true
}

// batch scans the records of one batch.
func (s *scanning) batch(ctx context.Context, st *stretch, b *kafka.Batch) error {
	if s.y.r.owned.holder(st.tp) != st.holder {
		return errNotOwned
	}
	src := schemas.Source{Topic: b.Topic, Partition: b.Partition}
	now := time.Now()
	scanned := 0
	defer func() { s.y.r.metrics.replayScanned.Add(float64(scanned)) }()
	for i := range b.Records {
		rec := &b.Records[i]
		if rec.Offset < st.at.Next {
			continue
		}
		if rec.Offset >= st.end {
			break
		}
		src.Offset, src.Time = rec.Offset, rec.Time
		n, wait := s.record(&src, rec, now)
		if wait > 0 {
			st.until = now.Add(wait)
			st.halted.Store(true)
			st.kept = *b
			st.kept.Records = b.Records[i:]
			return nil
		}
		scanned++
		st.at.Next, st.at.Scanned, st.at.Matched = rec.Offset+1, st.at.Scanned+1, st.at.Matched+int64(n)
		if s.pass.full() { // one event may be many tasks: what a fetch brought could be a thousand times as much
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
	// A log may end before the end that was asked for: behind its last record only what the broker itself wrote.
	if b.Next < st.end && s.y.r.kafka.LogEnds(ctx, b) {
		b.Next = st.end
	}
	st.at.Next = max(st.at.Next, min(b.Next, st.end))
	st.halted.Store(st.at.Next >= st.end)
	return nil
}

// record collects the tasks of one record and says how many; wait: it has to be looked at again later.
func (s *scanning) record(src *schemas.Source, rec *kafka.Record, now time.Time) (n int, wait time.Duration) {
	replay, ok := s.c.means(src.Time, s.beyond(src))
	if !ok || rec.LeftOut > 0 {
		return 0, 0
	}
	typ, rest, waits := s.look(rec.Value, src)
	if waits {
		return 0, replayAgain
	}
	if typ == nil || len(s.pass.subs) == 0 {
		return 0, 0
	}
	s.pass.way = way{to: s.pass.topics.Replay, lane: schemas.LaneKind(s.c.order.Kind), replay: replay}
	if replay == "" {
		s.pass.lane = schemas.LaneLive
	}
	if s.c.ordered {
		s.pass.to = s.pass.topics.Retry
	}
	if wait := s.afford(replay, now); wait > 0 {
		return 0, wait
	}
	n = len(s.pass.subs)
	if reason := s.pass.collect(src, typ, rest, now.UnixMilli()); reason != "" {
		// Live reads no more than meta of what nobody wants, so it may not have seen that.
		s.pass.undecodable(kafka.TP{Topic: src.Topic, Partition: src.Partition}, rec, reason)
		return 0, 0
	}
	return n, 0
}

// beyond: the catch-up makes what live leaves out behind its span as well.
func (s *scanning) beyond(src *schemas.Source) bool {
	return s.c.ordered || s.c.order.Kind == schemas.ReplayCatchUp && s.y.r.orders.hasLeft(s.c.order.ID, kafka.TP{Topic: src.Topic, Partition: src.Partition})
}

// look reads of a record as much as tells whether the order means it, and fills subs with those it is for. typ is nil if the record is not meant, or undecodable:
// then it stands in `undecodable`, from where a reroute takes it. waits: its schema is not known yet.
func (s *scanning) look(value []byte, src *schemas.Source) (typ *schemas.EventType, rest []byte, waits bool) {
	p, c := s.pass, s.c
	p.subs = p.subs[:0]
	if value == nil || len(value) > schemas.MaxInput {
		return nil, nil, false
	}
	frame, avro, err := schemas.Unframe(value)
	if err != nil {
		return nil, nil, false
	}
	if p.lastReader == nil || frame != p.lastFrame {
		reader, _, wait := p.schemas.find(frame)
		if reader == nil {
			return nil, nil, wait != nil
		}
		p.lastFrame, p.lastReader = frame, reader
	}
	if rest, err = p.lastReader.Meta(avro, &p.meta); err != nil {
		return nil, nil, false
	}
	m := &p.meta
	if c.company != "" && string(m.CompanyID) != c.company || c.types[string(m.EventType)] == nil ||
		c.order.Entity != "" && string(m.EntityID) != c.order.Entity || c.order.EventID != "" && string(m.EventID) != c.order.EventID {
		return nil, nil, false
	}
	typ, reason := inspect(m, p.entities[src.Topic], p.types)
	if reason != "" {
		return nil, nil, false
	}
	p.subs = p.again(c.order, typ, c.who(p.table, view(m.CompanyID), typ.Name, p.subs))
	return typ, rest, false
}

// afford takes what the tasks of an event cost, for all of subs or for none. What live owes as well (an empty replay) has no rate.
func (s *scanning) afford(replay string, now time.Time) (wait time.Duration) {
	if replay != "" {
		if rate := s.c.order.Rate; rate > 0 {
			wait = s.w.bucket.look(rate*s.share, now)
		}
		for _, l := range s.pass.subs {
			if l.ReplayRate > 0 {
				wait = max(wait, s.y.limits.rate(l.ID, l.ReplayRate*s.share, now))
			}
		}
		if wait > 0 {
			return wait
		}
	}
	s.to = s.to[:0]
	for _, l := range s.pass.subs {
		s.key = append(s.key[:0], l.ID...)
		s.to = append(s.to, kafka.TP{Topic: s.pass.to, Partition: kafka.Partition(s.key, s.pass.counts[s.pass.to])})
	}
	if !s.y.limits.take(s.to) {
		return roomAgain
	}
	if replay != "" {
		s.w.bucket.spend(float64(len(s.pass.subs)))
		for _, l := range s.pass.subs {
			if l.ReplayRate > 0 {
				s.y.limits.spend(l.ID, 1)
			}
		}
	}
	return 0
}

// flush writes the tasks that are collected.
func (s *scanning) flush(ctx context.Context) error {
	n := s.pass.tasks.Len()
	if n+s.pass.bad.Len() == 0 {
		return nil
	}
	err := fault.Before(fault.ReplayTasks)
	if err == nil {
		tasksErr, badErr := s.pass.flush(ctx)
		err = fault.After(fault.ReplayTasks, errors.Join(tasksErr, badErr))
	}
	if err != nil {
		s.pass.reset()
		return err
	}
	s.wrote = true
	s.y.r.metrics.replayTasks.WithLabelValues(s.c.order.Kind).Add(float64(n))
	return nil
}

// drop forgets what is not written down.
func (s *scanning) drop() {
	s.pass.reset()
	for _, st := range s.parts {
		st.drop()
	}
}

// save writes how far the stretches have come: at once if tasks were written or one is through, else once a second, for nothing but time is lost with it.
func (s *scanning) save(ctx context.Context, now bool) error {
	var moved []*stretch
	for _, st := range s.parts {
		if st.at.Next == st.p.Next && !(st.last && st.at.Next >= st.end) || st.p.Done {
			continue
		}
		moved = append(moved, st)
		now = now || s.wrote || st.last && st.at.Next >= st.end || time.Since(st.noted) > time.Second
	}
	if !now {
		return nil
	}
	if err := s.y.note(ctx, s.c.order, false, moved); err != nil {
		return err
	}
	s.wrote = false
	return nil
}

// note writes the progress of stretches. through: they have nothing left, wherever they stand.
func (y *replayer) note(ctx context.Context, o *schemas.Replay, through bool, list []*stretch) error {
	if len(list) == 0 {
		return nil
	}
	var out kafka.Records
	notes := make([]progress, len(list))
	now := time.Now()
	for i, st := range list {
		p := st.at
		p.At = now.UnixMilli()
		p.Done = through || st.last && p.Next >= st.end
		notes[i] = p
		key := stretchKey(o.ID, st.tp)
		out.Add(kafka.TP{Topic: y.r.topics.Progress, Partition: kafka.Partition(key, y.r.counts[y.r.topics.Progress])}, key, nil, schemas.AppendProgress(nil, &p))
	}
	err := fault.Before(fault.ReplayProgress)
	if err == nil {
		_, err = y.r.pastOut.Append(ctx, &out)
		err = fault.After(fault.ReplayProgress, err)
	}
	if err != nil {
		return err
	}
	y.r.orders.saved(notes...)
	for i, st := range list {
		st.p, st.at, st.noted = notes[i], notes[i], now
		if notes[i].Done {
			y.r.owned.unhand(o.ID, st.holder)
		}
	}
	return nil
}

func stretchKey(replay string, tp kafka.TP) []byte {
	b := append([]byte(replay), '/')
	b = append(b, tp.Topic...)
	return append(b, string(progressKey("", tp.Partition))...)
}

// handOver lets live take over a stretch that has come to where live was: see handover.go for the steps.
func (s *scanning) handOver(ctx context.Context, st *stretch) error {
	r := s.y.r
	if next, ours := r.owned.next(st.tp); !ours {
		return errNotOwned
	} else if s.c.paused != 0 || next-st.p.Next > handOverNear {
		return errHandOver // there is more to scan first
	}
	next, err := s.frozen(ctx, st)
	if err != nil {
		return err
	}
	r.metrics.handOvers.Inc()
	r.log.Debug("live takes over from a catch-up", zap.String("replay", s.c.order.ID), zap.String("topic", st.tp.Topic), zap.Int32("partition", st.tp.Partition), zap.Int64("at", next))
	return s.y.note(ctx, s.c.order, true, []*stretch{st})
}

// frozen is the part of a hand-over for which live stands still: at next.
func (s *scanning) frozen(ctx context.Context, st *stretch) (next int64, err error) {
	r := s.y.r
	if next, err = r.freeze(ctx, st.holder); err != nil {
		return next, err
	}
	defer r.thaw(st.holder)
	st.end = next
	all := s.parts
	s.parts = map[kafka.TP]*stretch{st.tp: st}
	err = s.scan(ctx)
	s.parts = all
	if err != nil {
		return next, err
	}
	if st.p.Next < next {
		return next, errHandOver // it is over its room, or the order was paused
	}
	return next, r.hand(ctx, s.c.order.ID, st.holder, next)
}
