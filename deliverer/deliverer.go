// Package deliverer turns tasks into attempts: it reads tasks from Kafka, POSTs them to their receivers, and writes down what came of it. Start with
// lane.go, which tells the life of one task.
//
//	deliverer.go  the service: who runs, generations of the group, commits, stop
//	intake.go     a fetched batch: decode, marks, lanes             part.go      one partition that we own
//	lane.go       one subscription: line, senders                   pressure.go  pure: how much may it send now
//	settings.go   a subscription's record, made ready to send       keeper.go    the one clock: due tasks, ticks
//	post.go       the one place that knows HTTP                     answer.go    what came back
//	verdict.go    pure: what an answer means                        schedule.go  pure: when to try again
//	flush.go      outcomes: written, marked, counted                outlet.go    a partition that takes nothing, a record that is refused
//	dedup.go      marks in Redis                                    recent.go    what ended here lately
//	progress.go   pure: what is finished, in 4 KiB of metadata      tiers.go     pure: where does a task wait
//	lease.go      the right to start sends                          memory.go    the bound on what is read
//	clerk.go      changes of subscriptions' records                 replays.go   what is ordered, and how far it is
//	redrive.go    dead tasks back in line                           resumed.go   those of a pause
//	replayline.go replays beside what is live                       taken.go     which letters are taken out
//	order.go      pure: who of an entity may be tried next          gate.go      the same in a lane
//	lines.go      what of that outlives the process                 connections.go  how many there may be
//	inhand.go     what Kafka does not hear of, said in Redis
//
// Goroutines:
//
//	Run ─┬─ hot fetch loop    (retry)                  ─▶ intake ─▶ lanes
//	     ├─ cold fetch loop   (retry.5s ..., replay)   ─▶ intake ─▶ lanes
//	     ├─ keeper            due tasks and ticks ─▶ lanes
//	     ├─ senders           up to a subscription's concurrency per lane ─▶ collector
//	     ├─ flusher           collector ─▶ Kafka, Redis, progress
//	     ├─ clerk             disabled and failing subscriptions ─▶ their records
//	     ├─ replays           the topics replays and progress ─▶ redriver, lanes
//	     ├─ redriver          dead ─▶ tiers
//	     ├─ lines             members of lines ─▶ lanes, when a partition is taken over
//	     └─ Run itself        generations and commits
package deliverer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// Deps are what a deliverer works with. Its maker owns them and closes them after Run has returned.
type Deps struct {
	Kafka  *kafka.Client
	Table  *subscriptions.Table // run by its owner
	Writer *subscriptions.Writer
	Policy *egress.Policy
	// Dial opens connections to receivers; nil: Policy.DialContext.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Log     *zap.Logger
	Metrics prometheus.Registerer // nil: not registered
	Version string                // of the program, for the User-Agent
}

// Deliverer is the service. Make it with New, run it once.
type Deliverer struct {
	cfg       Config
	kafka     *kafka.Client
	table     *subscriptions.Table
	policy    *egress.Policy
	dial      dialler // to receivers
	log       *zap.Logger
	metrics   *metrics
	topics    kafka.Names
	tiers     []kafka.Tier
	userAgent string

	lease     *lease
	memory    *memory
	marks     *Marks
	recent    *recent
	appender  *kafka.Appender // tiers and dead
	attempts  *kafka.Appender
	keeper    *keeper
	clerk     *clerk
	replays   *replays
	redriver  *redriver
	lines     lines
	collector collector
	drain     chan chan struct{}
	hot, cold *kafka.Fetcher

	connections *connections // to receivers

	lanesMu sync.RWMutex
	lanes   map[string]*lane
	sending sync.WaitGroup // senders

	parts    atomic.Pointer[map[kafka.TP]*part] // replaced, never changed
	lastGen  int32
	inFlight atomic.Int64
	senders  atomic.Int64
	aborted  atomic.Bool                    // the process ends: what fails now is nobody's failure
	choked   atomic.Pointer[map[int32]bool] // partition numbers whose outcomes cannot be written; nil: none
	warned   time.Time                      // of clock skew
}

// New checks the configuration and makes a deliverer; it makes no round trip.
func New(cfg Config, deps Deps) (*Deliverer, error) {
	session := deps.Kafka.Config().SessionTimeout
	if err := errors.Join(cfg.Validate(), cfg.fits(session)); err != nil {
		return nil, err
	}
	d := &Deliverer{
		cfg: cfg, kafka: deps.Kafka, table: deps.Table, policy: deps.Policy, dial: deps.Dial, log: deps.Log,
		topics: deps.Kafka.Topics(), userAgent: cfg.UserAgent,
		lease: newLease(time.Now(), session), lanes: map[string]*lane{}, drain: make(chan chan struct{}),
	}
	d.tiers = d.topics.Tiers
	if d.log == nil {
		d.log = zap.NewNop()
	}
	d.log = d.log.Named("deliverer")
	if d.dial == nil {
		d.dial = deps.Policy.DialContext
	}
	d.connections = &connections{most: mostConnections(), room: make(chan struct{}, 1), evict: d.evictIdle, log: d.log}
	d.dial = d.connections.dial(d.dial)
	if d.userAgent == "" {
		version := deps.Version
		if version == "" {
			version = "dev"
		}
		d.userAgent = "hookferry/" + version
	}
	d.recent = newRecent()
	d.memory = &memory{mostTasks: cfg.TasksInMemory, mostBytes: cfg.BytesInMemory}
	d.collector.signal, d.collector.enough, d.collector.late = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	d.keeper = newKeeper(d)
	d.clerk = newClerk(d, deps.Writer)
	d.replays, d.redriver = newReplays(d), newRedriver(d)
	d.lines.init(d)
	d.parts.Store(&map[kafka.TP]*part{})
	var err error
	d.metrics, err = newMetrics(d, deps.Metrics)
	return d, err
}

// Name is the service's name.
func (d *Deliverer) Name() string { return "deliverer" }

// Ready says why the deliverer sends nothing, if so.
func (d *Deliverer) Ready() error {
	if parts := *d.parts.Load(); len(parts) == 0 && !d.lease.frozen.Load() {
		return nil // more replicas than partitions: this one stands by
	}
	if d.lease.held.Load() {
		return fmt.Errorf("this host's clock and the brokers' differ by more than %v: is the time synchronized?", skewHolds)
	}
	if !d.lease.holds(time.Now()) {
		return fmt.Errorf("no offset commit was accepted within the last %v: is the broker reachable?", d.lease.term)
	}
	return nil
}

// evictIdle closes a connection that some lane does not use just now.
func (d *Deliverer) evictIdle() bool {
	d.lanesMu.RLock()
	defer d.lanesMu.RUnlock()
	for _, l := range d.lanes {
		if l.conns.CloseOldest() {
			return true
		}
	}
	return false
}

// Owns says whether this process owns the partition of the lane topics just now.
func (d *Deliverer) Owns(partition int32) bool { return d.owned(partition) != nil }

// owned is the partition of `retry` of that number, if this process owns it just now. For as long as it is the same one, nobody else has had it.
func (d *Deliverer) owned(partition int32) *part {
	p := (*d.parts.Load())[kafka.TP{Topic: d.topics.Retry, Partition: partition}]
	if p == nil || p.lost.Load() || d.lease.frozen.Load() {
		return nil
	}
	return p
}

// Run delivers until ctx ends, then stops in three steps: it takes nothing more, finishes what ends within the grace, and names the rest in its last
// commit. It returns when everything it started has ended.
func (d *Deliverer) Run(ctx context.Context) error {
	cluster, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	if d.marks, err = NewMarks(d.cfg.Redis, cluster, d.log); err != nil {
		return err
	}
	defer d.marks.Close()
	group, err := d.kafka.JoinGroup(kafka.GroupConfig{ID: d.kafka.Config().TopicPrefix + d.cfg.Group, CoPartitioned: d.coPartitioned()})
	if err != nil {
		return err
	}
	d.appender = d.kafka.NewAppender(kafka.AppenderConfig{})
	d.attempts = d.kafka.NewAppender(kafka.AppenderConfig{})
	d.table.Subscribe(d.changed)
	for live := range d.table.All() {
		d.lines.note(live.ID)
	}

	// Two lives: reading ends with ctx, writing goes on until what was read has come to its end.
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var readers, writers sync.WaitGroup
	hot, cold := newIntake(d), newIntake(d)
	hot.fetcher, cold.fetcher = d.newFetchers()
	d.hot, d.cold = hot.fetcher, cold.fetcher
	d.memory.onRoom = func() { d.hot.Wake(); d.cold.Wake() }
	fetch := func(in *intake) {
		if err := in.fetcher.Run(reading, in.handle); err != nil && reading.Err() == nil {
			d.log.Error("a fetch loop ended", zap.Error(err))
			stopReading()
		}
	}
	readers.Go(func() { fetch(hot) })
	readers.Go(func() { fetch(cold) })
	readers.Go(func() { d.replays.run(reading) })
	readers.Go(func() { d.redriver.run(reading) })
	readers.Go(func() { d.clerk.run(reading) })
	readers.Go(func() { d.lines.run(reading) })
	writers.Go(func() { d.keeper.run(writing) })
	writers.Go(func() { newFlusher(d).run(writing) })

	err = d.generations(reading, writing, group, &readers, stopReading)
	d.aborted.Store(true)
	d.closeLanes()
	d.sending.Wait()
	d.writeOut()
	d.clerk.last(writing)
	stopWriting()
	writers.Wait()
	return err
}

// writeMost is how long a stopping process goes on writing down what has ended.
const writeMost = 5 * time.Second

// writeOut waits until everything that has ended is durable and marked. The drain before the last commit waits for a second only, because others may be
// waiting for us; now nobody is. A Kafka that is slow at that moment would otherwise cost a duplicate of each send whose outcome is still on its way: the last
// commit names it, the successor waits for its mark up to the send's deadline, and then sends again.
func (d *Deliverer) writeOut() {
	end := time.NewTimer(writeMost)
	defer end.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for len(d.collector.unflushed()) > 0 {
		select {
		case <-look.C:
		case <-end.C:
			d.log.Warn("stopped before everything that has ended was written; a successor waits for its marks, and then sends it again", zap.Int("tasks", len(d.collector.unflushed())))
			return
		}
	}
}

// coPartitioned are the topics whose partition p belongs to whoever owns partition p of retry.
func (d *Deliverer) coPartitioned() []string {
	return append(d.topics.LaneTopics(), d.topics.Dead)
}

// prepare waits until there is something to work with: the cluster's id, the topics, the table.
func (d *Deliverer) prepare(ctx context.Context) (cluster string, err error) {
	for {
		if err = d.kafka.CheckTopics(ctx); err == nil {
			cluster, err = d.kafka.ClusterID(ctx)
		}
		var wrong *kafka.TopicsError
		if err == nil || errors.As(err, &wrong) {
			break
		}
		d.log.Warn("Kafka does not answer; trying again", zap.Error(err))
		select {
		case <-ctx.Done():
			return "", nil
		case <-time.After(time.Second):
		}
	}
	if err != nil {
		return "", err
	}
	select {
	case <-d.table.Loaded():
	case <-ctx.Done():
	}
	return cluster, nil
}

const (
	paceMost    = 5 * time.Millisecond
	pacePerTask = 300 * time.Microsecond
	// The tiers are no hurry: what they bring is due within a second.
	tierPace = 20 * time.Millisecond
	tierWait = 250 * time.Millisecond
	// Nearly always some tier is parked until its head is ready, so the poll of the others is a round trip each tierLeftOut, for ever.
	tierLeftOut = 100 * time.Millisecond
	// fetchLong: with a longer fetch_wait few requests matter more than a connection each time that a tier is ready.
	fetchLong = time.Second
)

// newFetchers makes the two fetch loops: what is due now, and the tiers, which are many partitions that seldom have something. Replays come by the second
// one, so that what is live waits for no batch of theirs to be read and looked up.
func (d *Deliverer) newFetchers() (hot, cold *kafka.Fetcher) {
	full := func(tp kafka.TP) bool {
		p := (*d.parts.Load())[tp]
		now := time.Now()
		if p == nil || p.full(now) || d.lease.over(now) || d.chokes(tp.Partition) || d.memory.full() {
			return true
		}
		return p.replay && d.memory.fullForReplays()
	}
	fc := kafka.FetchConfig{MaxBytes: d.cfg.FetchBytes, PartitionBytes: d.cfg.PartitionBytes, MaxWait: d.cfg.FetchWait, Full: full, OutOfRange: d.outOfRange}
	fc.Pace = func(records int) time.Duration { return min(paceMost, time.Duration(records)*pacePerTask) }
	hot = d.kafka.NewFetcher(fc)
	fc.MaxWait, fc.LeftOut = min(d.cfg.FetchWait, tierWait), tierLeftOut
	if d.cfg.FetchWait > fetchLong { // then a ready tier ends the poll (intake.park)
		fc.MaxWait, fc.LeftOut = d.cfg.FetchWait, d.cfg.FetchWait
	}
	fc.Pace = func(records int) time.Duration { return min(tierPace, time.Duration(records)*time.Millisecond) }
	return hot, d.kafka.NewFetcher(fc)
}

// outOfRange: what retention took is lost, and said with its exact range. A position beyond the end means that the topic is another one than it was.
func (d *Deliverer) outOfRange(tp kafka.TP, asked, start, end int64) (int64, bool) {
	if asked < start {
		d.metrics.lost.WithLabelValues(tp.Topic).Add(float64(start - asked))
		d.lines.lost(tp, start)
		d.log.Error("retention removed tasks before they were read: they are lost", zap.String("topic", tp.Topic), zap.Int32("partition", tp.Partition),
			zap.Int64("from", asked), zap.Int64("to", start-1))
		return start, true
	}
	if p := (*d.parts.Load())[tp]; p != nil {
		d.stopPart(p, fmt.Errorf("the committed offset %d lies beyond the end %d: was the topic made anew or restored? "+
			"(to read it from its start, stop the deliverers and reset the group's offsets with kafka-consumer-groups.sh --reset-offsets)", asked, end))
	}
	return 0, false
}

// stopPart ends the reading of a partition for good, loudly. What was taken in of it goes on.
func (d *Deliverer) stopPart(p *part, err error) {
	if p.stopped.Swap(true) {
		return
	}
	d.metrics.stopped.WithLabelValues(p.tp.Topic).Inc()
	d.log.Error("a partition is not read any more", zap.String("topic", p.tp.Topic), zap.Int32("partition", p.tp.Partition), zap.Error(err))
}

// breach stops a partition because an invariant does not hold.
func (d *Deliverer) breach(p *part, what, taskID string) {
	d.stopPart(p, fmt.Errorf("%w: %s (task %s)", errBreach, what, taskID))
}

// changed is the table's note that a subscription has another record.
func (d *Deliverer) changed(id string) {
	d.lines.note(id)
	d.lanesMu.RLock()
	l := d.lanes[id]
	d.lanesMu.RUnlock()
	if l != nil {
		l.changes.Add(1)
	}
	d.redriver.changed()
}

// laneOf is the lane of a subscription, made if need be.
func (d *Deliverer) laneOf(id string, now time.Time) *lane {
	d.lanesMu.RLock()
	l := d.lanes[id]
	d.lanesMu.RUnlock()
	if l != nil {
		return l
	}
	d.lanesMu.Lock()
	defer d.lanesMu.Unlock()
	if l = d.lanes[id]; l == nil {
		l = newLane(d, id, now)
		d.lanes[id] = l
	}
	return l
}

// openLane is laneOf, with the lane's mutex held and the lane not closed.
func (d *Deliverer) openLane(id string, now time.Time) *lane {
	l := d.laneOf(id, now)
	l.mu.Lock()
	for l.closed {
		l.mu.Unlock()
		l = d.laneOf(id, now)
		l.mu.Lock()
	}
	return l
}

func (d *Deliverer) allLanes() []*lane {
	d.lanesMu.RLock()
	defer d.lanesMu.RUnlock()
	out := make([]*lane, 0, len(d.lanes))
	for _, l := range d.lanes {
		out = append(out, l)
	}
	return out
}

// slowTick is the keeper's: lanes without use end.
func (d *Deliverer) slowTick(now time.Time) {
	for _, l := range d.allLanes() {
		if !l.slowTick(now) {
			continue
		}
		d.lanesMu.Lock()
		if d.lanes[l.id] == l {
			delete(d.lanes, l.id)
		}
		d.lanesMu.Unlock()
	}
}

// compareClocks is the keeper's, too: over skewHolds nothing is sent (design rule 14). What shows the broker's clock is the answer to a write, and who sends
// nothing has nothing to write; so while it is held, a few tasks go through the smallest tier, or nobody would ever learn that the clock is right again.
func (d *Deliverer) compareClocks(now time.Time) {
	skew := d.kafka.Skew().Abs()
	held := skew > skewHolds
	if held {
		for i, l := range d.keeper.lanes() {
			if i == clockProbes {
				break
			}
			l.probeClock(now)
		}
	}
	if d.lease.held.Swap(held) != held || skew > skewWarns && now.Sub(d.warned) > time.Minute {
		d.warned = now
		d.log.Warn("this host's clock and the broker's differ: over 120 s nothing is sent (is NTP running?)", zap.Duration("by", skew), zap.Bool("held", held))
	}
}

func (d *Deliverer) closeLanes() {
	for _, l := range d.allLanes() {
		l.mu.Lock()
		l.close()
		l.mu.Unlock()
	}
}
