package subscriptions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

const (
	// askEvery is how often the table asks where the topic ends. A router matches only while the last good read is younger than a second, so this
	// leaves room for an answer that takes long.
	askEvery = 200 * time.Millisecond
	askLimit = 5 * time.Second // for one such question, with all its tries
	// firstLimit is for the first question of all: longer than the client waits before it believes that a topic is missing.
	firstLimit = 15 * time.Second
)

// Owner says which partitions of the lane topics this process owns just now: it then repairs and sweeps them.
type Owner interface{ Owns(partition int32) bool }

// Options of a Table. The zero value serves.
type Options struct {
	Log *zap.Logger // nil: none
	// AskEvery is how often the table asks where the topic ends; 0: 200 ms. A router's must stay well below a second. Worlds in virtual time set it.
	AskEvery time.Duration
}

// Table holds all subscriptions as the log has them. One per process; Run keeps it up to date:
//
//	Run ─┬─ Fetcher.Run ── handle   the only one that changes the table; calls the notes
//	     ├─ watchEnd                asks where the topic ends, and so how old our knowledge is
//	     └─ sweep                   repairs and tombstones, where this process is the owner
//
// All methods are safe for concurrent use; those that read cost a read lock of a shard.
type Table struct {
	c       *kafka.Client
	keyring *secrets.Keyring
	log     *zap.Logger
	topic   string
	lag     time.Duration // min.compaction.lag.ms of the topic
	every   time.Duration
	append  *kafka.Appender

	ids   [shards]idShard
	seed  maphash.Seed
	index *index
	count atomic.Int64
	// keyIDs are texts that records share. Only the reader of the topic touches them.
	keyIDs map[string]string

	mu       sync.Mutex
	next     []int64       // by partition: the offset up to which the table has read. nil before Run
	moved    chan struct{} // closed and replaced when next grows
	watchers map[string]chan bool
	notes    []func(id string)

	loaded   chan struct{}
	goodRead atomic.Pointer[time.Time]

	sweeping sweeping
}

type idShard struct {
	mu sync.RWMutex
	m  map[string]*slot
}

// slot is the place of one subscription. live may be read by anyone; all else belongs to the reader of the topic, which guards what others need to see
// (stands) with the lock of the shard.
type slot struct {
	live      atomic.Pointer[Live]
	stands    stands
	partition int32
	pos       int32 // in its company's entries; -1: not among them
}

// NewTable makes a table that is empty until Run. Without a keyring (nil) it works, but no Live can open its secrets.
func NewTable(c *kafka.Client, k *secrets.Keyring, o Options) *Table {
	t := &Table{c: c, keyring: k, log: o.Log, every: cmp.Or(o.AskEvery, askEvery), seed: maphash.MakeSeed(), index: newIndex(), moved: make(chan struct{}),
		watchers: map[string]chan bool{}, keyIDs: map[string]string{}, loaded: make(chan struct{})}
	if t.log == nil {
		t.log = zap.NewNop()
	}
	for i := range t.ids {
		t.ids[i].m = map[string]*slot{}
	}
	t.sweeping.init()
	if c != nil {
		t.topic, t.lag = c.Topics().Subscriptions, c.Config().CompactionLag
		t.append = c.NewAppender(kafka.AppenderConfig{})
	}
	return t
}

// Name is the name of the service.
func (t *Table) Name() string { return "subscriptions" }

// Ready says whether the table is loaded and fresh.
func (t *Table) Ready() error {
	good := t.LastGoodRead()
	switch {
	case good.IsZero():
		return errors.New("the subscriptions are being loaded")
	case time.Since(good) > 10*time.Second:
		return fmt.Errorf("the subscriptions were last known complete %v ago (is Kafka reachable?)", time.Since(good).Round(time.Second))
	}
	return nil
}

// Run reads the topic until ctx ends, and returns when all that it started has ended. It returns an error if a partition cannot be read on: it was made
// anew behind our back, or a newer release wrote to it. To be called once.
func (t *Table) Run(ctx context.Context) error {
	start, err := t.beginning(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	pos := make(map[kafka.TP]int64, len(start))
	next := make([]int64, len(start))
	for p, o := range start {
		if p < 0 || int(p) >= len(start) {
			return fmt.Errorf("topic %s has %d partitions, and one has the number %d", t.topic, len(start), p)
		}
		pos[kafka.TP{Topic: t.topic, Partition: p}], next[p] = o, o
	}
	t.mu.Lock()
	t.next = next
	t.wake()
	t.mu.Unlock()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := t.c.NewFetcher(kafka.FetchConfig{
		MaxWait: 250 * time.Millisecond,
		Empty:   true, // the end of a log may hold nothing but what the cleaner emptied: then only an answer without records says where to read on
		OutOfRange: func(tp kafka.TP, asked, start, end int64) (int64, bool) {
			return t.outOfRange(cancel, tp, asked, start, end)
		},
	})
	f.Assign(pos)
	var wg sync.WaitGroup
	wg.Go(func() { t.watchEnd(ctx) })
	wg.Go(func() { t.sweep(ctx) })
	err = f.Run(ctx, t.handle)
	cancel(err)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return ended(ctx, err)
}

// ended turns the end of a context into no error: Run was asked to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// outOfRange: below the start, the cleaner was faster than we, and what it left says all. Beyond the end, this is not the topic that we read before: what
// the table holds may be about things that no longer exist, so the process must begin again.
func (t *Table) outOfRange(cancel context.CancelCauseFunc, tp kafka.TP, asked, start, end int64) (int64, bool) {
	if asked < start {
		return start, true
	}
	cancel(fmt.Errorf("%s/%d ends at %d, but was read up to %d: was the topic deleted and made anew, or restored? Start again to read it from its beginning",
		tp.Topic, tp.Partition, end, asked))
	return 0, false
}

// beginning asks where the topic begins until there is an answer: Kafka may come up after us. Only a missing topic is the end of it.
func (t *Table) beginning(ctx context.Context) (map[int32]int64, error) {
	for said := false; ; said = true {
		start, err := t.offsets(ctx, kafka.Earliest, firstLimit)
		var missing *kafka.MissingTopicError
		if err == nil || ctx.Err() != nil || errors.As(err, &missing) {
			return start, err
		}
		if !said {
			t.log.Warn("the subscriptions cannot be read yet", zap.Error(err))
		}
		wait(ctx, t.every)
	}
}

// offsets asks for an offset of every partition, with a limit.
func (t *Table) offsets(ctx context.Context, at int64, limit time.Duration) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := t.c.Offsets(ctx, t.topic, at)
	if err != nil {
		return nil, fmt.Errorf("where does %s begin and end? %w", t.topic, err)
	}
	return m, nil
}

// watchEnd keeps LastGoodRead. Asked at t0, the brokers said where the partitions end; once we have read up to there, everything that was acknowledged
// before t0 is known. (The high watermark in a fetch answer would say the same, but right after a change of leader it may lie below what was acknowledged
// already; ListOffsets is refused then.)
func (t *Table) watchEnd(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		asked := time.Now()
		err := t.CatchUp(ctx)
		if err == nil {
			t.goodRead.Store(&asked)
			select {
			case <-t.loaded:
			default:
				t.log.Info("subscriptions loaded", zap.Int("count", t.Len()))
				close(t.loaded)
			}
		}
		if bad := err != nil && ctx.Err() == nil; bad != failing {
			failing = bad
			if bad {
				t.log.Warn("the subscriptions are getting old", zap.Error(err))
			} else {
				t.log.Info("the subscriptions are fresh again")
			}
		}
		wait(ctx, t.every)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Loaded is closed once the table has read everything that was there when Run began.
func (t *Table) Loaded() <-chan struct{} { return t.loaded }

// LastGoodRead is when the table was last known to hold everything that was acknowledged by then; zero before it is loaded. It has a monotonic reading.
func (t *Table) LastGoodRead() time.Time {
	if p := t.goodRead.Load(); p != nil {
		return *p
	}
	return time.Time{}
}

// CatchUp returns when the table has read all that was acknowledged when it was called.
func (t *Table) CatchUp(ctx context.Context) error {
	ends, err := t.offsets(ctx, kafka.Latest, askLimit)
	if err != nil {
		return err
	}
	for p, end := range ends {
		if err := t.readTo(ctx, p, end); err != nil {
			return err
		}
	}
	return nil
}

// readTo waits until a partition is read up to an offset.
func (t *Table) readTo(ctx context.Context, partition int32, end int64) error {
	for {
		t.mu.Lock()
		moved := t.moved
		done := int(partition) < len(t.next) && t.next[partition] >= end
		t.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// handle takes what a fetch brought. It is the only writer of the table.
func (t *Table) handle(_ context.Context, bs []kafka.Batch) error {
	for i := range bs {
		b := &bs[i]
		if len(b.Records) == 0 {
			continue
		}
		fault.Before(fault.TableApply)
		for j := range b.Records {
			if err := t.apply(b.Partition, &b.Records[j]); err != nil {
				return fmt.Errorf("%s/%d at %d: %w", b.Topic, b.Partition, b.Records[j].Offset, err)
			}
		}
		fault.After(fault.TableApply, nil)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	grew := false
	for i := range bs {
		if n := &t.next[bs[i].Partition]; bs[i].Next > *n {
			*n, grew = bs[i].Next, true
		}
	}
	if grew {
		t.wake()
	}
	return nil
}

// wake has everybody look again who waits for the table to read on. mu is held.
func (t *Table) wake() {
	close(t.moved)
	t.moved = make(chan struct{})
}

// apply takes one record. The only error is that a newer release wrote it: skipping that could lose a subscription.
func (t *Table) apply(partition int32, rec *kafka.Record) error {
	id := string(rec.Key)
	if rec.Value == nil {
		t.forget(id)
		return nil
	}
	l := &Live{AppendedAt: rec.Time, keyring: t.keyring}
	if err := schemas.DecodeSubscription(rec.Value, &l.Subscription); err != nil {
		var newer *schemas.NewerSchemaError
		if errors.As(err, &newer) {
			return err
		}
		// Nobody of ours wrote that. What stood before stands; as the cleaner may keep nothing but this record, it is restated like after any rejection.
		t.log.Error("a record of the subscriptions cannot be read, and is passed over", zap.String("id", id), zap.Int64("offset", rec.Offset), zap.Error(err))
		l.Version = 0
	} else if l.ID != id {
		t.log.Error("a record of the subscriptions is filed under another id, and is passed over", zap.String("key", id), zap.String("id", l.ID))
		l.Version = 0
	}
	s, sh := t.slot(id)
	var before stands
	if s != nil {
		before = s.stands
		before.settled = t.settled(s.live.Load(), before)
	}
	pack(&l.Subscription, t.index.nameOf(l.Company), t.keyIDs)
	d := decide(before, l.Version, l.Repair, t.young(rec.Time))
	if d.accept {
		t.put(sh, s, l, partition, d.next)
	} else if s != nil {
		sh.mu.Lock()
		s.stands = d.next
		sh.mu.Unlock()
		t.sweeping.due(id)
	}
	t.tell(id, l.UpdatedBy, d.accept)
	return nil
}

// young: appended so lately that the log cleaner has left everything right before it in place.
func (t *Table) young(appended int64) bool {
	return t.c != nil && t.c.BrokerNow().Sub(time.UnixMilli(appended)) < t.lag
}

func (t *Table) slot(id string) (*slot, *idShard) {
	sh := &t.ids[maphash.String(t.seed, id)%shards]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.m[id], sh
}

// put makes a Live what stands.
func (t *Table) put(sh *idShard, s *slot, l *Live, partition int32, now stands) {
	var before *Live
	if s == nil {
		s = &slot{partition: partition, pos: -1}
	} else {
		before = s.live.Load()
	}
	if before != nil && before.Company != l.Company { // no writer of ours does that; the index must hold all the same
		t.index.remove(before.Company, s)
	}
	sh.mu.Lock()
	s.live.Store(l)
	s.stands = now
	if before == nil {
		sh.m[l.ID] = s
		t.count.Add(1)
	}
	sh.mu.Unlock()
	if l.State == schemas.StateDeleted {
		t.index.remove(l.Company, s)
	} else {
		t.index.put(l.Company, s, wants(l.Events))
	}
	t.sweeping.accepted(l)
}

// forget drops a subscription: its tombstone came.
func (t *Table) forget(id string) {
	s, sh := t.slot(id)
	if s == nil {
		return
	}
	t.index.remove(s.live.Load().Company, s)
	sh.mu.Lock()
	delete(sh.m, id)
	sh.mu.Unlock()
	t.count.Add(-1)
	t.sweeping.forget(id)
	t.tell(id, "", true)
}

// tell passes on what became of a record: to its writer, if he waits for it here, and, if it changed something, to those that follow changes.
func (t *Table) tell(id, nonce string, accepted bool) {
	t.mu.Lock()
	if w := t.watchers[nonce]; w != nil {
		select {
		case w <- accepted:
		default: // a repair that carries the same nonce: the writer knows already
		}
	}
	notes := t.notes
	t.mu.Unlock()
	if accepted {
		for _, fn := range notes {
			fn(id)
		}
	}
}

// watch says what becomes of the record with this nonce. The channel takes one answer.
func (t *Table) watch(nonce string) (answer <-chan bool, stop func()) {
	w := make(chan bool, 1)
	t.mu.Lock()
	t.watchers[nonce] = w
	t.mu.Unlock()
	return w, func() {
		t.mu.Lock()
		delete(t.watchers, nonce)
		t.mu.Unlock()
	}
}

// Subscribe has fn called with the id of every subscription that changed from now on, by the goroutine that reads the topic: it must not block, nor call
// CatchUp. During the load it is called for each.
func (t *Table) Subscribe(fn func(id string)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes[:len(t.notes):len(t.notes)], fn)
}

// Get returns a subscription by id. Deleted ones stay, with that state, until their tombstone comes.
func (t *Table) Get(id string) (*Live, bool) {
	s, _ := t.slot(id)
	if s == nil {
		return nil, false
	}
	return s.live.Load(), true
}

// standing is Get with what the reader knows of the key.
func (t *Table) standing(id string) (*Live, stands, bool) {
	s, sh := t.slot(id)
	if s == nil {
		return nil, stands{}, false
	}
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return s.live.Load(), s.stands, true
}

// settled: nobody can know better than this table what stands. See decide.
func (t *Table) settled(l *Live, s stands) bool { return s.settled || !t.young(l.AppendedAt) }

// Match appends to dst the subscriptions that an event of the company is owed to: those that want its type and whose spans say "live" at the broker time
// at which it was appended (at, ms). Those of company "*" are among them.
func (t *Table) Match(company, eventType string, at int64, dst []*Live) []*Live {
	dst = t.index.match(company, eventType, at, dst)
	if company != schemas.AnyCompany {
		dst = t.index.match(schemas.AnyCompany, eventType, at, dst)
	}
	return dst
}

// All goes through the subscriptions, deleted ones among them, in no order. Those that come or go meanwhile may be among them or not.
func (t *Table) All() iter.Seq[*Live] {
	return func(yield func(*Live) bool) {
		var list []*slot
		for i := range t.ids {
			sh := &t.ids[i]
			list = list[:0]
			sh.mu.RLock()
			for _, s := range sh.m {
				list = append(list, s)
			}
			sh.mu.RUnlock()
			for _, s := range list {
				if !yield(s.live.Load()) {
					return
				}
			}
		}
	}
}

// Company goes through the subscriptions of one company that are not deleted.
func (t *Table) Company(name string) []*Live { return t.index.all(name) }

// Len is the number of subscriptions, deleted ones among them.
func (t *Table) Len() int { return int(t.count.Load()) }
