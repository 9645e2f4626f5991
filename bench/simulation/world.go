package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/deliverer/signature"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// world is one deployment in one bubble: the broker, Redis, receivers, the processes of Hookferry, and the ledgers of all that happens.
type world struct {
	plan   *plan
	ctx    context.Context
	began  time.Time
	net    *sandbox.Network
	broker *sandbox.Broker
	redis  *sandbox.Redis
	config kafka.Config
	keys   *secrets.Keyring
	policy *egress.Policy // of whoever creates subscriptions
	server *http.Server
	recv   *receivers
	log    *history

	control *kafka.Client // of the platform team and the checker: no fault reaches it
	table   *subscriptions.Table
	writer  *subscriptions.Writer
	publish *producer.Producer
	reader  *reader

	mu      sync.Mutex
	rng     *rand.Rand // for what is decided while it runs; under mu
	ledger  []*received
	subs    []*sub
	events  map[string]*event
	faults  []*faultSpan
	alive   []*process // those that run, in the order of their start
	counts  map[string]int
	serial  int
	running sync.WaitGroup // processes, killed ones too, and steps under way
	failed  []string       // what went wrong in the world itself
	seq     map[string]int64
}

// sub is a subscription and what was done to it.
type sub struct {
	n        int
	id       string
	secret   []byte
	asked    time.Time   // when its creation began
	created  time.Time   // when create returned; zero: it did not succeed
	deleting time.Time   // when delete began
	deleted  time.Time   // when delete returned
	paths    []string    // every path that its URL ever had
	edits    []time.Time // when an edit began, and when it ended
}

// event is a published event.
type event struct {
	id, company, typ string
	begun, ended     time.Time
	fate             string // accepted, unknown, rejected
}

// faultSpan is one thing that was done to the world.
type faultSpan struct {
	what       string
	who        string // a process
	start, end time.Time
}

// history is the log of a seed, with virtual times.
type history struct {
	mu    sync.Mutex
	began time.Time
	lines []string
	bytes int
	live  bool // printed at once, for a seed that does not end
}

const historyMost = 8 << 20

func (h *history) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := fmt.Sprintf("%-14v ", time.Since(h.began).Round(time.Microsecond)) + fmt.Sprintf(format, args...)
	if h.live {
		fmt.Fprintln(os.Stderr, line)
	}
	if h.bytes += len(line); h.bytes < historyMost {
		h.lines = append(h.lines, line)
	}
}

// Write takes a line of a process's log.
func (h *history) Write(b []byte) (int, error) {
	h.add("    %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (h *history) Sync() error { return nil }

// newWorld starts everything but the processes under test.
func newWorld(ctx context.Context, p *plan) (*world, error) {
	w := &world{plan: p, ctx: ctx, began: time.Now(), net: sandbox.NewNetwork(), keys: secrets.Generate(), rng: rand.New(rand.NewPCG(p.Seed, 0xd1ce)),
		events: map[string]*event{}, counts: map[string]int{}, seq: map[string]int64{}}
	w.log = &history{began: w.began, live: os.Getenv("SIMULATION_TRACE") == "1"}
	w.config = kafka.DefaultConfig()
	w.config.TopicPrefix = "s."
	w.config.Partitions, w.config.Tiers, w.config.ReplicationFactor = p.Partitions, p.Tiers, 1
	w.config.Retention.Attempts = 30 * 24 * time.Hour
	w.config.Retention.Events = 30 * 24 * time.Hour
	var err error
	// Its own cleaner would take what min.compaction.lag.ms keeps; see clean.
	never := kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": strconv.FormatInt((365 * 24 * time.Hour).Milliseconds(), 10)})
	if w.broker, err = sandbox.StartBroker(sandbox.BrokerConfig{Network: w.net, Brokers: p.Brokers, Options: []kfake.Opt{never}}); err != nil {
		return nil, err
	}
	w.config.Brokers = w.broker.Addrs()
	if os.Getenv("SIMULATION_REQUESTS") != "" { // where the time goes
		c := w.broker.Cluster()
		c.ControlKey(-1, func(q kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			w.count("request " + kmsg.Key(q.Key()).Name())
			return nil, nil, false
		})
	}
	w.endRebalances()
	w.endSessions()
	if w.redis, err = sandbox.StartRedis(sandbox.RedisConfig{Network: w.net}); err != nil {
		return nil, err
	}
	w.recv = &receivers{w: w, tries: map[string]int{}, closed: make(chan struct{})}
	w.server = &http.Server{Handler: w.recv, ConnContext: counted}
	l, err := w.net.Listen("tcp", receiverAddr)
	if err != nil {
		return nil, err
	}
	w.running.Go(func() { w.server.Serve(l) })
	if w.policy, err = w.policyOf(w.net.Host("control")); err != nil {
		return nil, err
	}
	host := w.net.Host("control")
	if w.control, err = kafka.Open(w.config, kafka.Options{Dial: host.Dial, LeastWait: 10 * time.Second}); err != nil {
		return nil, err
	}
	if _, err := w.control.CreateTopics(ctx); err != nil {
		return nil, err
	}
	w.table = subscriptions.NewTable(w.control, w.keys, subscriptions.Options{AskEvery: 5 * time.Second})
	tctx, stopTable := context.WithCancel(ctx)
	w.running.Go(func() {
		if err := w.table.Run(tctx); err != nil {
			w.fail("the control table ended: %v", err)
		}
	})
	context.AfterFunc(ctx, stopTable)
	<-w.table.Loaded()
	w.writer = subscriptions.NewWriter(w.control, w.table, w.keys, w.policy, subscriptions.DefaultConfig())
	pc := producer.DefaultConfig()
	pc.Brokers, pc.TopicPrefix, pc.Dial, pc.SendTimeout, pc.Compression = w.config.Brokers, w.config.TopicPrefix, w.net.Host("publisher").Dial, 10*time.Minute, "none"
	if w.publish, err = producer.New(ctx, pc); err != nil {
		return nil, err
	}
	w.reader = newReader(w)
	return w, nil
}

// receiverAddr is where the receivers are.
const receiverAddr = "127.0.0.1:8000"

const redisAddr = "127.0.0.1:6379"

func (w *world) elapsed() time.Duration { return time.Since(w.began) }

func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.log.add("BROKEN: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, text)
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// policyOf is the guard of a process: all receivers are behind one address, and those that are down refuse.
func (w *world) policyOf(h *sandbox.Host) (*egress.Policy, error) {
	return egress.NewPolicy(egress.Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"127.0.0.0/8"},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var n int
			_, port, _ := net.SplitHostPort(addr)
			fmt.Sscanf(port, "%d", &n)
			if n -= receiverPort; n >= 0 && n < len(w.plan.Subs) && w.plan.Subs[n].mode(w.elapsed()) == "refuse" {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return h.Dial(ctx, network, receiverAddr)
		}})
}

// receiverPort + n is the port in the URL of subscription n.
const receiverPort = 8100

func (w *world) url(n, generation int) string {
	return fmt.Sprintf("http://127.0.0.1:%d/r%d/g%d", receiverPort+n, n, generation)
}

// process is a router or a deliverer.
type process struct {
	name   string
	kind   string
	host   *sandbox.Host
	cancel context.CancelFunc
	ended  chan struct{}
	since  time.Time
}

// start starts a process.
func (w *world) start(kind string) *process {
	w.mu.Lock()
	w.serial++
	p := &process{name: fmt.Sprintf("%s-%d", kind, w.serial), kind: kind, ended: make(chan struct{}), since: time.Now()}
	w.mu.Unlock()
	p.host = w.net.Host(p.name + "!")
	for _, a := range append([]string{redisAddr, receiverAddr}, w.config.Brokers...) {
		p.host.Delay(a, w.plan.Latency)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	p.cancel = cancel
	encoder := zap.NewDevelopmentEncoderConfig()
	encoder.TimeKey = ""
	log := zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoder), w.log, zap.InfoLevel)).Named(p.name)
	w.running.Go(func() {
		defer close(p.ended)
		if err := w.runProcess(ctx, p, log); err != nil && ctx.Err() == nil {
			w.fail("%s ended by itself: %v", p.name, err)
		}
	})
	w.mu.Lock()
	w.alive = append(w.alive, p)
	w.mu.Unlock()
	w.log.add("start %s", p.name)
	return p
}

// runProcess is what cmd/hookferry does: a client, a table, a service.
func (w *world) runProcess(ctx context.Context, p *process, log *zap.Logger) error {
	c, err := kafka.Open(w.config, kafka.Options{Dial: p.host.Dial, Log: log, ClientID: p.name, Heartbeat: w.plan.Heartbeat, LeastWait: w.plan.FetchWait})
	if err != nil {
		return err
	}
	defer c.Close()
	every := 800 * time.Millisecond // a router's knowledge must be younger than a second
	if p.kind == "deliverer" {
		every = 5 * time.Second
	}
	table := subscriptions.NewTable(c, w.keys, subscriptions.Options{Log: log, AskEvery: every})
	tctx, stopTable := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := table.Run(tctx); err != nil {
			w.fail("%s: the table ended: %v", p.name, err)
		}
	})
	defer wg.Wait()
	defer stopTable()
	if p.kind == "router" {
		r, err := router.New(router.DefaultConfig(), router.Deps{Kafka: c, Table: table, Log: log, ClockSpread: subscriptions.DefaultConfig().ClockSpread})
		if err != nil {
			return err
		}
		return r.Run(ctx)
	}
	policy, err := w.policyOf(p.host)
	if err != nil {
		return err
	}
	cfg := deliverer.DefaultConfig()
	cfg.CommitInterval, cfg.FetchWait = w.plan.Commit, w.plan.FetchWait
	// A tier whose head is not ready is read again from there when it is: in small pieces.
	cfg.PartitionBytes, cfg.FetchBytes = 64<<10, 1<<20
	cfg.Redis.Addr, cfg.Redis.Dial = redisAddr, p.host.Dial
	d, err := deliverer.New(cfg, deliverer.Deps{Kafka: c, Table: table, Policy: policy, Log: log,
		Writer: subscriptions.NewWriter(c, table, w.keys, policy, subscriptions.DefaultConfig())})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// endRebalances makes the broker end a rebalance as a real one does. Kafka waits for the members it knows, and for no longer than the longest of their rebalance
// time-outs from the beginning. This one begins to wait anew with each join, and whoever has given up waiting joins as somebody new: so it may never end. While one
// takes too long, it hears of no further joins for as long as it waits.
func (w *world) endRebalances() {
	type waiting struct{ began, last, deaf time.Time }
	var mu sync.Mutex
	groups := map[string]*waiting{}
	c := w.broker.Cluster()
	w.observe(kmsg.SyncGroup, &mu, func(q kmsg.Request) { delete(groups, q.(*kmsg.SyncGroupRequest).Group) })
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.CoordinatorLoadInProgress, Count: -1, When: func(q kmsg.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		group, now := q.(*kmsg.JoinGroupRequest).Group, time.Now()
		g := groups[group]
		if g == nil || now.Sub(g.last) > 2*kafka.RebalanceTimeout { // the one before is over
			g = &waiting{began: now}
			groups[group] = g
		}
		if g.last = now; now.Sub(g.began) > 6*kafka.RebalanceTimeout {
			g.began, g.deaf = now, now.Add(kafka.RebalanceTimeout+time.Second)
		}
		return now.Before(g.deaf)
	}})
}

// endSessions makes the broker forget members whose connection ended while they waited for their join to be answered. Kafka begins their session then, and it runs
// out. This one does not, and if the leader gives them partitions before it misses them, nobody else ever has those. So a heartbeat of another member is taken
// for theirs, once, and begins it.
func (w *world) endSessions() {
	type generation struct {
		synced  map[string]bool
		silent  []string // members that the leader gave partitions to, and that had not asked for them by then
		settled time.Time
	}
	var mu sync.Mutex
	groups := map[string]*generation{}
	w.observe(kmsg.JoinGroup, &mu, func(q kmsg.Request) { delete(groups, q.(*kmsg.JoinGroupRequest).Group) }) // what was is over soon
	w.observe(kmsg.SyncGroup, &mu, func(q kmsg.Request) {
		r := q.(*kmsg.SyncGroupRequest)
		g := groups[r.Group]
		if g == nil {
			g = &generation{synced: map[string]bool{}}
			groups[r.Group] = g
		}
		g.synced[r.MemberID] = true
		for _, a := range r.GroupAssignment { // of the leader alone
			g.silent, g.settled = append(g.silent, a.MemberID), time.Now()
		}
	})
	w.observe(kmsg.Heartbeat, &mu, func(q kmsg.Request) {
		r := q.(*kmsg.HeartbeatRequest)
		g := groups[r.Group]
		if g == nil || len(g.silent) == 0 || time.Since(g.settled) < kafka.RebalanceTimeout {
			return
		}
		last := len(g.silent) - 1
		if id := g.silent[last]; !g.synced[id] {
			r.MemberID = id
		}
		g.silent = g.silent[:last]
	})
}

// observe has all requests of a kind looked at, under a lock, before the broker answers them.
func (w *world) observe(key kmsg.Key, mu *sync.Mutex, see func(kmsg.Request)) {
	c := w.broker.Cluster()
	c.ControlKey(int16(key), func(q kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		see(q)
		return nil, nil, false
	})
}

// remove takes a process off the list of those that run.
func (w *world) remove(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, q := range w.alive {
		if q == p {
			w.alive = append(w.alive[:i:i], w.alive[i+1:]...)
			return
		}
	}
}

// kill is kill -9, as near as one process can come to it: the network goes first, so nothing that the dead does afterwards reaches anybody, and then it
// is told to end. What it wrote before still arrives.
func (w *world) kill(p *process) {
	w.remove(p)
	p.host.Cut()
	p.cancel()
	w.log.add("kill %s", p.name)
}

// stop ends a process in good order and waits for it.
func (w *world) stop(p *process) {
	w.remove(p)
	w.log.add("stop %s", p.name)
	p.cancel()
	<-p.ended
	w.log.add("stopped %s", p.name)
}

// nth is a running process of a kind; nil if there is none.
func (w *world) nth(kind string, n int) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*process
	for _, p := range w.alive {
		if p.kind == kind {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[n%len(list)]
}

func (w *world) number(kind string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.alive {
		if p.kind == kind {
			n++
		}
	}
	return n
}

// subOf is the subscription of a number; nil before it is being created. mu is held.
func (w *world) subOf(n int) *sub {
	for _, s := range w.subs {
		if s.n == n {
			return s
		}
	}
	return nil
}

// create makes a subscription of the plan.
func (w *world) create(n int) {
	sp := &w.plan.Subs[n]
	s := &sub{n: n, asked: time.Now(), paths: []string{fmt.Sprintf("/r%d/g0", n)}}
	live, secret, err := w.writer.Create(w.ctx, subscriptions.Draft{Company: sp.Company, Name: fmt.Sprintf("sub %d", n), URL: w.url(n, 0), Events: sp.Events,
		Format: sp.Format, Schedule: sp.Schedule, Timeout: sp.Timeout, MaxConcurrency: sp.Concurrency, MaxRate: sp.Rate})
	if err != nil {
		w.fail("create %d: %v", n, err)
		return
	}
	s.id, s.created = live.ID, time.Now()
	s.secret, _ = signature.ParseSecret(string(secret.Reveal()))
	w.log.add("created sub %d = %s at partition %d", n, s.id, kafka.Partition([]byte(s.id), w.plan.Partitions))
	w.mu.Lock()
	w.subs = append(w.subs, s)
	w.mu.Unlock()
}

// edit changes something that a company may change at any time.
func (w *world) edit(n int, what string) {
	w.mu.Lock()
	s := w.subOf(n)
	if s == nil || !s.deleting.IsZero() {
		w.mu.Unlock()
		return
	}
	generation := len(s.paths)
	s.edits = append(s.edits, time.Now())
	var ch subscriptions.Change
	switch what {
	case "path":
		s.paths = append(s.paths, fmt.Sprintf("/r%d/g%d", n, generation))
		url := w.url(n, generation)
		ch.URL = &url
	case "timeout":
		d := 10 * time.Second
		ch.Timeout = &d
	case "concurrency":
		k := 2
		ch.MaxConcurrency = &k
	case "schedule":
		list := []time.Duration{0, 5 * time.Second, 30 * time.Second, 5 * time.Minute}
		ch.Schedule = &list
	case "rate":
		r := 5.0
		ch.MaxRate = &r
	}
	w.mu.Unlock()
	_, err := w.writer.Update(w.ctx, s.id, ch)
	for until := time.Now().Add(2 * time.Minute); err != nil && time.Now().Before(until); { // as a person would
		time.Sleep(5 * time.Second)
		_, err = w.writer.Update(w.ctx, s.id, ch)
	}
	if err != nil {
		w.fail("edit %d %s: %v", n, what, err)
	}
	w.mu.Lock()
	s.edits = append(s.edits, time.Now())
	w.mu.Unlock()
	w.log.add("edited sub %d: %s", n, what)
}

// remove deletes a subscription.
func (w *world) delete(n int) {
	w.mu.Lock()
	s := w.subOf(n)
	if s == nil || !s.deleting.IsZero() {
		w.mu.Unlock()
		return
	}
	s.deleting = time.Now()
	w.mu.Unlock()
	err := w.writer.Delete(w.ctx, s.id)
	if err != nil {
		w.fail("delete %d: %v", n, err)
		return
	}
	w.mu.Lock()
	s.deleted = time.Now()
	w.mu.Unlock()
	w.log.add("deleted sub %d", n)
}

// burst publishes events, spread over a time.
func (w *world) burst(n int, over time.Duration, sure bool) {
	types := schemas.EventTypes()
	for i := range n {
		w.mu.Lock()
		company := w.plan.Companies[w.rng.IntN(len(w.plan.Companies))]
		typ := types[w.rng.IntN(len(types))].Name
		if w.rng.Float64() < 0.5 {
			typ = "booking.creation"
		}
		if first := &w.plan.Subs[0]; sure {
			company = first.Company
			for !wanted(first, typ) {
				typ = types[w.rng.IntN(len(types))].Name
			}
		}
		w.seq[company+typ]++
		ev := sandbox.Sample(w.rng, typ, company, w.seq[company+typ])
		e := &event{id: ev.EventMeta().EventID, company: ev.EventMeta().CompanyID, typ: typ, begun: time.Now(), fate: "unknown"}
		w.events[e.id] = e
		w.mu.Unlock()
		pending := w.publish.Start(w.ctx, ev)
		w.running.Go(func() {
			err := pending.Wait(w.ctx)
			w.mu.Lock()
			defer w.mu.Unlock()
			e.ended = time.Now()
			var ee *producer.EventError
			switch {
			case err == nil:
				e.fate = "accepted"
			case errors.As(err, &ee) && errors.Is(ee.Fate, producer.ErrRejected):
				e.fate = "rejected"
			}
		})
		if over > 0 && i < n-1 {
			time.Sleep(over / time.Duration(n))
		}
	}
}
