package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// What comes from outside and is wrong: records, registries, owners who edit all the time, a machine without descriptors, another release beside this one.
var hostileScenarios = []scenario{
	poisonScenario,
	registryScenario,
	editsScenario,
	editsShort,
	descriptorsScenario,
	lowLimitScenario,
	versionsScenario,
}

// openEgress lets subscriptions reach receivers that a scenario serves itself, beside the farm's port.
const openEgress = "HOOKFERRY_EGRESS_PORTS"

// brokenBy prints the first of the lines that say what was broken; nil if there is none.
func brokenBy(scenario string, lines []string) error {
	for _, line := range lines[:min(10, len(lines))] {
		fmt.Println("      " + line)
	}
	if len(lines) > 0 {
		return errors.New(scenario + ": see above")
	}
	return nil
}

// catcher is a receiver in this process that answers 204 and remembers every request that it answered so. A scenario has one where the farm's ledger says too little.
type catcher struct {
	Addr   string
	server *http.Server
	done   chan struct{}

	mu      sync.Mutex
	got     []caught
	refuses map[string]bool // paths that are answered 503
}

// caught is one request.
type caught struct {
	At      time.Time
	Path    string
	ID      string // webhook-id
	Headers http.Header
	Size    int    // of the body
	Sum     uint64 // FNV-1a of the body
}

func startCatcher() (*catcher, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &catcher{Addr: ln.Addr().String(), done: make(chan struct{})}
	c.server = &http.Server{Handler: c}
	go func() {
		defer close(c.done)
		c.server.Serve(ln)
	}()
	return c, nil
}

func (c *catcher) close() {
	c.server.Close()
	<-c.done
}

func (c *catcher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sum := fnv.New64a()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		return // half a request is none
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses[r.URL.Path] {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	c.got = append(c.got, caught{time.Now(), r.URL.Path, r.Header.Get("webhook-id"), r.Header, int(n), sum.Sum64()})
	w.WriteHeader(http.StatusNoContent)
}

// refuse makes a path be answered 503 from now on, or not.
func (c *catcher) refuse(path string, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses == nil {
		c.refuses = map[string]bool{}
	}
	c.refuses[path] = yes
}

// replay is the replay that a request belongs to; empty: none.
func (g *caught) replay() string { return g.Headers.Get("webhook-replay") }

// all that was caught so far.
func (c *catcher) all() []caught {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[:len(c.got):len(c.got)]
}

// byID counts requests by path and webhook-id.
func (c *catcher) byID() map[string]int {
	n := map[string]int{}
	for _, g := range c.all() {
		n[g.Path+" "+g.ID]++
	}
	return n
}

// desk is where a scenario makes and changes subscriptions: a live table and its writer. close ends it.
type desk struct {
	*subscriptions.Writer
	stop func()
}

func openDesk(ctx context.Context, w *world) (*desk, error) {
	keys, err := os.ReadFile(filepath.Join(w.d.Dir, "keys"))
	if err != nil {
		return nil, err
	}
	keyring, err := secrets.NewKeyring(strings.TrimSpace(string(keys)))
	if err != nil {
		return nil, err
	}
	policy, err := egress.NewPolicy(egress.Config{AllowHTTP: true, AllowRanges: []string{"127.0.0.0/8"}, Ports: []int{0}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	table := subscriptions.NewTable(w.d.Client(), keyring, subscriptions.Options{})
	ran := make(chan error, 1)
	go func() { ran <- table.Run(ctx) }()
	select {
	case <-table.Loaded():
	case err := <-ran:
		cancel()
		return nil, fmt.Errorf("read the subscriptions: %w", err)
	}
	return &desk{subscriptions.NewWriter(w.d.Client(), table, keyring, policy, subscriptions.DefaultConfig()), func() { cancel(); <-ran }}, nil
}

// eventOf makes a booking event of a company with an id of its own, without its frame.
func eventOf(w *world, company string, seq int64) (ev *schemas.BookingEvent, avro []byte, err error) {
	ev, ok := sandbox.Sample(w.rng, "booking.creation", company, seq).(*schemas.BookingEvent)
	if !ok {
		return nil, nil, errors.New("BUG: the sample of booking.creation is no BookingEvent")
	}
	avro, err = ev.AppendAvro(nil)
	return ev, avro, err
}

// eventKey is the key of an event's record.
func eventKey(m *schemas.EventMeta) []byte { return []byte(m.CompanyID + "/" + m.EntityID) }

// place is where a record with a key belongs.
func place(c *kafka.Client, topic string, key []byte) kafka.TP {
	n := kafka.DefaultConfig().Partitions
	return kafka.TP{Topic: topic, Partition: kafka.Partition(key, n)}
}

// standIn is a schema registry in this process that does what it is told, by schema id. It lives as long as the rig, so that deployments with it can be
// used again.
type standIn struct {
	URL string

	mu    sync.Mutex
	moods map[uint32]string // how it answers for an id; empty: well
	texts map[uint32]string // what it knows beside the ids from firstAlias on, which are all the booking event
}

// Schema ids of the stand-in.
const (
	schemaWithDouble = 7
	firstWrong       = 100 // those of wrongSchemas
	firstAlias       = 1000
)

// wrongSchemas are answers that will never be the schema of a booking event.
var wrongSchemas = []string{"another entity's", "no event's", "recursive", "no schema", "huge", "Protobuf"}

// wrongly frames an event with the id of a wrong schema.
func wrongly(mood string) mut {
	return func(d *draft) {
		d.frame = schemas.AppendConfluent(nil, firstWrong+uint32(slices.Index(wrongSchemas, mood)))
	}
}

var theStandIn = sync.OnceValues(func() (*standIn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	booking := schemas.EventSchema("booking").Text()
	end := strings.LastIndex(booking, "]")
	moods := map[uint32]string{}
	for i, mood := range wrongSchemas {
		moods[firstWrong+uint32(i)] = mood
	}
	s := &standIn{URL: "http://" + ln.Addr().String(), moods: moods, texts: map[uint32]string{
		schemaWithDouble: booking[:end] + `, {"name": "score", "type": "double"}` + booking[end:],
	}}
	go http.Serve(ln, s) // ends with the process
	return s, nil
})

// withRegistry gives a deployment the stand-in, and waits that fit into a scenario.
func withRegistry(c *rig.DeployConfig) {
	s, err := theStandIn()
	if err != nil {
		panic("no port of the loopback can be listened on: " + err.Error())
	}
	c.Settings = map[string]string{"HOOKFERRY_KAFKA_REGISTRY_URL": s.URL, "HOOKFERRY_KAFKA_REGISTRY_TIMEOUT": "1s",
		"HOOKFERRY_ROUTER_UNKNOWN_SCHEMA_WAIT": "2s", openEgress: "0"}
}

// tell sets how it answers for an id.
func (s *standIn) tell(id uint32, mood string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moods[id] = mood
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var id uint32
	if _, err := fmt.Sscanf(r.URL.Path, "/schemas/ids/%d", &id); err != nil {
		http.Error(w, `{"error_code":404,"message":"no such path"}`, http.StatusNotFound)
		return
	}
	s.mu.Lock()
	mood, text := s.moods[id], s.texts[id]
	s.mu.Unlock()
	if text == "" && id >= firstAlias && id < 1<<31 {
		text = schemas.EventSchema("booking").Text()
	}
	answer := func(text string) { json.NewEncoder(w).Encode(map[string]string{"schema": text}) }
	switch mood {
	case "down":
		panic(http.ErrAbortHandler)
	case "slow":
		select {
		case <-time.After(3 * time.Second):
		case <-r.Context().Done():
			return
		}
	case "500":
		http.Error(w, `{"error_code":50001,"message":"store"}`, http.StatusInternalServerError)
		return
	case "garbage":
		io.WriteString(w, "<html>please log in</html>")
		return
	case "empty":
		io.WriteString(w, "{}")
		return
	case "unknown":
		text = ""
	case "another entity's":
		text = schemas.EventSchema("customer").Text()
	case "no event's":
		text = `{"type":"record","name":"X","fields":[{"name":"a","type":"string"}]}`
	case "recursive":
		text = `{"type":"record","name":"X","fields":[{"name":"meta","type":{"type":"record","name":"M","fields":[{"name":"next","type":["null","M"]}]}},{"name":"data","type":"X"}]}`
	case "no schema":
		text = `{"type":`
	case "huge":
		text = `{"type":"string","doc":"` + strings.Repeat("x", 5<<20) + `"}`
	case "Protobuf":
		json.NewEncoder(w).Encode(map[string]string{"schema": `syntax = "proto3";`, "schemaType": "PROTOBUF"})
		return
	}
	if text == "" {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"error_code":40403,"message":"Schema not found"}`)
		return
	}
	answer(text)
}

var registryScenario = scenario{
	name: "registry", what: "registry down, slow and wrong in twelve ways, five times each", act: registryAct, deploy: withRegistry,
	flow: 60 * time.Second, rest: patience, noRepeat: true, check: lateAfterHealing(5),
}

// What a registry may answer: nothing about the schema, so that the event waits; or something that ends it.
var (
	waiting = []string{"down", "slow", "500", "garbage", "empty"}
	ending  = map[string][]string{ // the reasons under which the event may become undecodable
		"unknown": {"unknown_schema"}, "Protobuf": {"unknown_schema"}, "huge": {"unknown_schema"}, "no event's": {"schema_unusable"}, "recursive": {"schema_unusable"},
		"no schema": {"schema_unusable"}, "another entity's": {"wrong_topic", "truncated", "union_index", "enum_index", "negative_length", "invalid_utf8", "bad_boolean",
			"trailing_bytes", "int_range", "time_range", "varint_too_long", "decimal_range"},
	}
)

// registryAct publishes events with ids that are new each time, while the registry is in a mood about them.
func registryAct(ctx context.Context, w *world) error {
	reg, err := theStandIn()
	if err != nil {
		return err
	}
	p, err := openPost(ctx, w, "registry")
	if err != nil {
		return err
	}
	defer p.close()
	next := uint32(firstAlias + time.Now().UnixNano()%1_000_000*1000)
	slowest := time.Duration(0)
	for round := range 5 {
		late, err := registryRound(ctx, w, p, reg, round, &next)
		if err != nil {
			return err
		}
		slowest = max(slowest, late)
	}
	// What was unknown and is known now goes out with a reroute.
	o, err := router.StartReroute(ctx, w.d.Client(), router.RerouteFilter{Reason: "unknown_schema"})
	if err != nil {
		return err
	}
	late := 5 * 3 // "unknown", "Protobuf" and "huge" ones: nobody keeps such an answer
	before := len(p.all())
	err = rig.Until(30*time.Second, "what was unknown is rerouted", func() bool {
		s, err := router.RerouteProgress(ctx, w.d.Client(), o)
		return err == nil && s.Done() && len(p.all())-before >= late
	})
	fmt.Printf("      registry: the slowest event that waited arrived %.1f s after the registry was well again; %d of what was unknown went out with a reroute\n",
		slowest.Seconds(), len(p.all())-before)
	return err
}

// registryRound publishes one event for each mood, waits until those have ended that can, mends the registry, and tells how long the others took from then on.
func registryRound(ctx context.Context, w *world, p *post, reg *standIn, round int, next *uint32) (slowest time.Duration, err error) {
	ids := map[uint32]string{} // id -> mood
	events := map[uint32]string{}
	// The fault lasts until the registry is mended: what waits holds up, by rule, what lies behind it in its partition.
	err = w.fault(Dependency, func() error {
		for i, mood := range append(slices.Clone(waiting), slices.Sorted(maps.Keys(ending))...) {
			*next++
			ids[*next] = mood
			reg.tell(*next, mood)
			id, err := p.publishTo(ctx, schemas.AppendConfluent(nil, *next), int32(i)) // a partition each
			if err != nil {
				return err
			}
			events[*next] = id
		}
		if err := pause(ctx, 5*time.Second); err != nil {
			return err
		}
		// What ends, ends within unknown_schema_wait, on a loaded machine a little later.
		var kept map[string]router.Undecodable
		var err error
		if uerr := rig.Until(20*time.Second, "what nobody can read is undecodable", func() bool {
			kept, err = p.kept(ctx)
			n := 0
			for id, mood := range ids {
				if _, ok := kept[events[id]]; ok && ending[mood] != nil {
					n++
				}
			}
			return err != nil || n == len(ending)
		}); uerr != nil && kept == nil {
			return errors.Join(uerr, err)
		}
		for id, mood := range ids {
			event := events[id]
			u, isKept := kept[event]
			reasons, ends := ending[mood]
			switch {
			case p.caught(event) > 0:
				return fmt.Errorf("registry, round %d, %s: an event was sent whose schema nobody knew", round, mood)
			case !ends && isKept:
				return fmt.Errorf("registry, round %d, %s: an event that should wait is undecodable as %s", round, mood, u.Reason)
			case ends && (!isKept || !slices.Contains(reasons, u.Reason)):
				return fmt.Errorf("registry, round %d, %s: undecodable %v as %q, which should be one of %v", round, mood, isKept, u.Reason, reasons)
			}
			reg.tell(id, "")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	mended := time.Now()
	for id, mood := range ids {
		if _, ends := ending[mood]; ends {
			continue
		}
		if err := rig.Until(healed, "the event arrives that waited for a registry that was "+mood, func() bool { return p.caught(events[id]) == 1 }); err != nil {
			return 0, err
		}
		slowest = max(slowest, time.Since(mended))
	}
	return slowest, nil
}

// post is a company with one subscription at a catcher of its own, for events that a scenario publishes beside the flow.
type post struct {
	*catcher
	w       *world
	company string
	sub     string // id of the subscription
	seq     int64
	append  *kafka.Appender
}

func openPost(ctx context.Context, w *world, name string) (*post, error) {
	c, err := startCatcher()
	if err != nil {
		return nil, err
	}
	p := &post{catcher: c, w: w, company: fmt.Sprintf("%s%d", name, time.Now().UnixNano()), append: w.d.Client().NewAppender(kafka.AppenderConfig{})}
	desk, err := openDesk(ctx, w)
	if err != nil {
		c.close()
		return nil, err
	}
	defer desk.stop()
	l, _, err := desk.Create(ctx, subscriptions.Draft{Company: p.company, Name: name, URL: "http://" + c.Addr + "/" + name, Events: []string{"booking.*"}})
	if err != nil {
		c.close()
		return nil, err
	}
	p.sub = l.ID
	return p, nil
}

// publish appends one event in a frame, where its key belongs, and returns its id when it is accepted.
func (p *post) publish(ctx context.Context, frame []byte) (string, error) {
	return p.publishTo(ctx, frame, -1)
}

// publishTo is publish to a partition; -1: where its key belongs.
func (p *post) publishTo(ctx context.Context, frame []byte, partition int32) (string, error) {
	p.seq++
	ev, avro, err := eventOf(p.w, p.company, p.seq)
	if err != nil {
		return "", err
	}
	c, key := p.w.d.Client(), eventKey(&ev.Meta)
	var rs kafka.Records
	tp := place(c, c.Topics().Events["booking"], key)
	if partition >= 0 {
		tp.Partition = partition
	}
	rs.Add(tp, key, []kafka.Header{{Key: idHeader, Value: []byte(ev.Meta.EventID)}}, frame, avro)
	_, err = p.append.Append(ctx, &rs)
	return ev.Meta.EventID, err
}

// caught is how often an event came.
func (p *post) caught(event string) (n int) {
	id := schemas.WebhookID(p.sub, event)
	for _, g := range p.all() {
		if g.ID == id {
			n++
		}
	}
	return n
}

// kept is what of this post is undecodable, by event id.
func (p *post) kept(ctx context.Context) (map[string]router.Undecodable, error) {
	out := map[string]router.Undecodable{}
	_, err := router.ScanUndecodable(ctx, p.w.d.Client(), -1, nil, func(u *router.Undecodable) bool {
		if strings.HasPrefix(string(u.Key), p.company+"/") {
			out[headerOf(u.Headers, idHeader)] = *u
		}
		return true
	})
	return out, err
}

// scanAll reads a topic from its start to its end as it is now, until fn says no.
func scanAll(ctx context.Context, c *kafka.Client, topic string, fn func(*kafka.Record) bool) error {
	starts, err := c.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return err
	}
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return err
	}
	from := map[kafka.TP]int64{}
	for p, end := range ends {
		if starts[p] < end {
			from[kafka.TP{Topic: topic, Partition: p}] = starts[p]
		}
	}
	if len(from) == 0 {
		return nil
	}
	f := c.NewFetcher(kafka.FetchConfig{MaxWait: 100 * time.Millisecond, Empty: true})
	f.Assign(from)
	over := errors.New("the scan is over")
	err = f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			for i := range b.Records {
				if b.Records[i].Offset < ends[b.Partition] && !fn(&b.Records[i]) {
					return over
				}
			}
			if b.Next >= ends[b.Partition] {
				delete(from, b.TP)
			}
		}
		if len(from) == 0 {
			return over
		}
		return nil
	})
	if errors.Is(err, over) {
		return nil
	}
	return err
}
