package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// demoLimit is when a demo that does not come to its end gives up and counts what it has.
const demoLimit = 50 * time.Second

func demoCommand(a *app) *cobra.Command {
	var perType int
	c := &cobra.Command{
		Use:   "demo",
		Short: "The whole path once, in memory, and counted: 26 event types, three formats, failing receivers; ends by itself",
		Long: `Start a broker, a Redis and receivers in this process, subscribe two companies in all three formats, publish events of all 26 types, and count at the
receivers: what arrived, how often, and whether its signature is right. Some first tries fail, so that retries are seen. Exit 1 if anything is lost,
doubled, unsigned or sent to the wrong company, or if nothing was delivered after a retry.`,
		Example: "  hookferry demo",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if perType < 1 || perType > 1000 {
				return usagef("--events %d is not within 1 and 1000", perType)
			}
			return (&demo{app: a, perType: perType}).run(c.Context())
		},
	}
	c.Flags().IntVar(&perType, "events", 3, "events to publish of each type and company")
	return c
}

// demoReceivers are the subscriptions of the demo. The waits of the last one are longer than the shortest tier, so its retries go through Kafka.
var demoReceivers = []struct {
	company, format string
	schedule        []time.Duration
}{
	{"acme", router.FormatStandard, []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second}},
	{"acme", router.FormatCloudEvents, []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second}},
	{"acme", router.FormatClassic, []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second}},
	{"globex", router.FormatStandard, []time.Duration{0, 6 * time.Second, 6 * time.Second}},
}

// owed is one event that one subscription must get: a task, seen from outside.
type owed struct {
	eventType, path string
}

type demo struct {
	app     *app
	perType int

	world    *embedded
	pipeline *pipeline
	subs     []*subscriptions.Live

	owed      map[string]owed // by webhook-id
	published map[string]int  // by event type
}

func (d *demo) run(ctx context.Context) error {
	began := time.Now()
	say := func(format string, args ...any) {
		if !d.app.json {
			fmt.Fprintf(d.app.out, format+"\n", args...)
		}
	}
	say("A broker, a Redis and %d receivers in this process; nothing leaves this machine.", len(demoReceivers))
	var err error
	if d.world, err = d.app.startEmbedded(sandbox.ReceiverConfig{Script: new(someFirstTriesFail).answer}); err != nil {
		return err
	}
	defer d.world.close()
	d.world.cfg.Host.Listen = "" // nobody looks, and another process may serve there
	if d.pipeline, err = d.world.pipeline(ctx); err != nil {
		return err
	}
	defer d.pipeline.close()

	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	services, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- d.pipeline.run(services, []string{"router", "deliverer"})
		cancel() // whoever waits for a delivery waits in vain
	}()
	err = d.drive(ctx, say)
	stop()
	// The services finish what they have at hand before anything is counted: a copy that is sent too late would be a duplicate nobody saw.
	if serr := <-ended; serr != nil {
		err = errors.Join(serr, err)
	}
	if err != nil && (len(d.owed) == 0 || !errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	return d.report(d.count(d.world.receiver.Ledger()), time.Since(began))
}

// drive subscribes, publishes, and waits until everything has arrived.
func (d *demo) drive(ctx context.Context, say func(string, ...any)) error {
	select {
	case <-d.pipeline.table.Loaded():
	case <-ctx.Done():
		return ctx.Err()
	}
	say("Creating %d subscriptions: two companies, formats standard, cloudevents and classic ...", len(demoReceivers))
	if err := d.subscribe(ctx); err != nil {
		return err
	}
	total := d.perType * len(schemas.EventTypes()) * 2
	say("Publishing %d events of %d types, acks=all ...", total, len(schemas.EventTypes()))
	if err := d.publish(ctx); err != nil {
		return err
	}
	say("Waiting for %d deliveries; some first tries are answered with 503 ...\n", len(d.owed))
	bar := d.app.progress("delivering", int64(len(d.owed)))
	defer bar.Done()
	delivered, from := map[string]bool{}, 0
	return d.world.receiver.Wait(ctx, func(ledger []*sandbox.Received) bool {
		for ; from < len(ledger); from++ {
			if e := ledger[from]; e.Delivered() && !delivered[e.WebhookID] {
				delivered[e.WebhookID] = true
				bar.Add(1)
			}
		}
		return len(delivered) >= len(d.owed)
	})
}

// subscribe creates all subscriptions at once: each creation waits for its cut, two seconds ahead.
func (d *demo) subscribe(ctx context.Context) error {
	d.subs = make([]*subscriptions.Live, len(demoReceivers))
	errs := make([]error, len(demoReceivers))
	var all sync.WaitGroup
	for i, r := range demoReceivers {
		all.Go(func() {
			path := "/ok/" + r.company + "/" + r.format
			live, secret, err := d.pipeline.writer.Create(ctx, subscriptions.Draft{
				Company: r.company, Name: "demo " + r.format, URL: d.world.receiver.URL(path), Events: []string{"*"}, Format: r.format, Schedule: r.schedule,
			})
			if err == nil {
				err = d.world.receiver.Trust(path, string(secret.Reveal()))
			}
			d.subs[i], errs[i] = live, err
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// publish publishes the events of both companies and notes what is owed for them. Publish returns when every event is acknowledged.
func (d *demo) publish(ctx context.Context) error {
	cfg := producer.DefaultConfig()
	cfg.Brokers, cfg.TopicPrefix = d.pipeline.cfg.Kafka.Brokers, d.pipeline.cfg.Kafka.TopicPrefix
	p, err := producer.Over(ctx, d.pipeline.kafka, cfg)
	if err != nil {
		return err
	}
	d.owed, d.published = map[string]owed{}, map[string]int{}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var events []schemas.Event
	for n := range d.perType {
		for _, t := range schemas.EventTypes() {
			for _, company := range []string{"acme", "globex"} {
				e := sandbox.Sample(rng, t.Name, company, int64(n))
				events = append(events, e)
				d.published[t.Name]++
				for i, r := range demoReceivers {
					if r.company == company {
						d.owed[schemas.WebhookID(d.subs[i].ID, e.EventMeta().EventID)] = owed{t.Name, "/ok/" + r.company + "/" + r.format}
					}
				}
			}
		}
	}
	return errors.Join(p.Publish(ctx, events...), p.Close(ctx))
}

// demoRow is what came of one event type, counted at the receivers.
type demoRow struct {
	EventType string `json:"event_type"`
	Published int    `json:"published"`
	Owed      int    `json:"owed"` // events times subscriptions that want them
	Delivered int    `json:"delivered"`
	Attempts  int    `json:"attempts"`
	Retried   int    `json:"retried"` // delivered after the first try
}

// demoCount is what a demo ends with.
type demoCount struct {
	Rows       []demoRow `json:"event_types"`
	Requests   int       `json:"requests"`
	Verified   int       `json:"signatures_verified"`
	Lost       int       `json:"lost"`
	Duplicates int       `json:"duplicates"` // answered with 2xx before, or the same try twice
	Strangers  int       `json:"strangers"`  // nobody was owed it, or not there
	Retried    int       `json:"retried"`    // delivered after the first try: the receivers refuse some, so none means that nothing was shown of retries
	Complete   int       `json:"complete"`   // event types
	Seconds    float64   `json:"seconds"`
}

func (c *demoCount) ok() bool {
	return c.Complete == len(c.Rows) && c.Verified == c.Requests && c.Lost == 0 && c.Duplicates == 0 && c.Strangers == 0 && c.Retried > 0
}

// count compares what came with what was owed. It is pure, and believes the receivers' ledger only.
func (d *demo) count(ledger []*sandbox.Received) demoCount {
	c := demoCount{Requests: len(ledger)}
	rows := map[string]*demoRow{}
	for _, t := range schemas.EventTypes() {
		rows[t.Name] = &demoRow{EventType: t.Name, Published: d.published[t.Name]}
	}
	for _, o := range d.owed {
		rows[o.eventType].Owed++
	}
	delivered, tried := map[string]bool{}, map[string]bool{}
	for _, e := range ledger {
		if e.Signature == nil {
			c.Verified++
		}
		o, ok := d.owed[e.WebhookID]
		if !ok || o.path != e.Path {
			c.Strangers++
			continue
		}
		row := rows[o.eventType]
		row.Attempts++
		try := e.WebhookID + " " + strconv.Itoa(e.Attempt)
		if delivered[e.WebhookID] || tried[try] {
			c.Duplicates++
		}
		tried[try] = true
		if e.Delivered() && !delivered[e.WebhookID] {
			delivered[e.WebhookID] = true
			row.Delivered++
			if e.Attempt > 1 {
				row.Retried++
			}
		}
	}
	c.Lost = len(d.owed) - len(delivered)
	for _, t := range schemas.EventTypes() {
		row := *rows[t.Name]
		if row.Delivered == row.Owed && row.Owed > 0 {
			c.Complete++
		}
		c.Retried += row.Retried
		c.Rows = append(c.Rows, row)
	}
	return c
}

// report prints the count; it is an error if anything is not as it must be.
func (d *demo) report(c demoCount, took time.Duration) error {
	c.Seconds = took.Seconds()
	failed := error(nil)
	if !c.ok() {
		failed = &refusal{"demo_failed", "not everything arrived once, in time, signed and where it belongs, some of it after a retry"}
	}
	if d.app.json {
		return errors.Join(d.app.printJSON(c), failed)
	}
	var rows [][]string
	for _, r := range c.Rows {
		rows = append(rows, []string{r.EventType, strconv.Itoa(r.Published), fmt.Sprintf("%d of %d", r.Delivered, r.Owed), strconv.Itoa(r.Attempts), strconv.Itoa(r.Retried)})
	}
	d.app.printTable([]string{"EVENT TYPE", "PUBLISHED", "DELIVERED", "ATTEMPTS", "AFTER A RETRY"}, rows)
	fmt.Fprintf(d.app.out, `
%d of %d event types delivered
signatures verified %d of %d
sent to the wrong company %d
lost %d
duplicates %d
delivered after a retry %d
(%.1f s)
`, c.Complete, len(c.Rows), c.Verified, c.Requests, c.Strangers, c.Lost, c.Duplicates, c.Retried, c.Seconds)
	return failed
}

// someFirstTriesFail is a receiver that answers 503 to the first try of every fourth webhook-id of a path, and to the second of every twelfth. Never
// several in a row, so that no circuit opens: that would be another demo.
type someFirstTriesFail struct {
	mu    sync.Mutex
	seen  map[string]int // by path: webhook-ids so far
	fails map[string]int // by webhook-id: how many tries are still to fail
}

func (s *someFirstTriesFail) answer(got *sandbox.Received) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen, s.fails = map[string]int{}, map[string]int{}
	}
	left, known := s.fails[got.WebhookID]
	if !known {
		s.seen[got.Path]++
		switch n := s.seen[got.Path]; {
		case n%12 == 0:
			left = 2
		case n%4 == 0:
			left = 1
		}
	}
	s.fails[got.WebhookID] = left - 1
	if left > 0 {
		return "/status/503"
	}
	return "/ok"
}
