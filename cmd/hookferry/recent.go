package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// recentCommand shows the latest bookings of a company, and has them published.
func recentCommand(a *app) *cobra.Command {
	var ask recent.Ask
	var url string
	c := &cobra.Command{
		Use:   "recent",
		Short: "The latest bookings of a company by last change: show, serve, publish as an event",
		Long: "Shows the latest bookings of a company, the latest change first, cancelled ones too, as far back as the topic of bookings reaches. A service that runs\n" +
			"(recent.url, or --url) answers at once; without one the bookings are read from Kafka, which takes as long as the topic is.\n" +
			"docs/recent.md says what the fields mean.",
		Example: "  hookferry recent --company acme --limit 10",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			doc, err := a.recentDocument(c, url, ask)
			if err != nil {
				return err
			}
			return a.showRecent(doc)
		},
	}
	recentFlags(c, &ask, &url)
	c.AddCommand(recentServeCommand(a), recentSnapshotCommand(a))
	return c
}

func recentFlags(c *cobra.Command, ask *recent.Ask, url *string) {
	c.Flags().StringVar(&ask.Company, "company", "", "whose bookings")
	c.Flags().IntVar(&ask.Limit, "limit", recent.DefaultLimit, fmt.Sprintf("how many at most, 1 to %d", recent.Most))
	c.Flags().StringVar(url, "url", "", "where to ask (default: recent.url of the configuration; neither: read Kafka)")
}

// checkAsk refuses what makes no sense before anything is tried.
func checkAsk(c *cobra.Command, ask recent.Ask) error {
	if c.Flags().Changed("limit") && ask.Limit == 0 {
		ask.Limit = -1
	}
	if err := ask.Check(); err != nil {
		return usagef("%v", err)
	}
	return nil
}

// recentClient asks the service that --url or the configuration names; nil: none.
func (a *app) recentClient(url string) (*recent.Client, error) {
	cfg, err := a.cfg()
	if err != nil {
		return nil, err
	}
	if url == "" {
		url = cfg.Recent.URL
	}
	if url == "" {
		return nil, nil
	}
	check := cfg.Recent
	check.URL = url
	if err := check.Validate(); err != nil {
		return nil, usagef("--url: %v", err)
	}
	client := recent.NewClient(url, cfg.Recent.Token)
	a.onClose(client.Close)
	return client, nil
}

func (a *app) recentDocument(c *cobra.Command, url string, ask recent.Ask) ([]byte, error) {
	if err := checkAsk(c, ask); err != nil {
		return nil, err
	}
	client, err := a.recentClient(url)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.Recent(c.Context(), ask)
	}
	r, err := a.readBookings(c.Context(), ask.Company)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Recent(c.Context(), ask)
}

// readBookings reads a company's bookings from Kafka.
func (a *app) readBookings(ctx context.Context, company string) (*recent.Reader, error) {
	client, err := a.kafka(ctx)
	if err != nil {
		return nil, err
	}
	log, err := a.quiet()
	if err != nil {
		return nil, err
	}
	bar := a.progress("reading bookings", 0)
	defer bar.Done()
	r, err := recent.Read(ctx, client, log, company, bar.of)
	if err == nil && r.Skipped() > 0 {
		bar.Note(fmt.Sprintf("note: %d records of the topic of bookings cannot be read, and are passed over", r.Skipped()))
	}
	return r, err
}

// of says how many of so many steps are done, for work that grows while it is done.
func (p *progress) of(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.draw(time.Now())
}

// recentList is the document as far as the table shows it.
type recentList struct {
	Bookings []struct {
		BookingID, Status, FirstDate, LastDate, ChannelKind string
		Reference, ChannelName, CustomerName, Title         string
		EntityVersion                                       int64
		Passengers                                          int32
		ChangedAt                                           time.Time
		Total                                               struct{ Amount, Currency string }
	}
}

func (a *app) showRecent(doc []byte) error {
	if a.json {
		return a.printJSON(json.RawMessage(doc))
	}
	var list recentList
	if err := json.Unmarshal(doc, &list); err != nil {
		return &refusal{"answer_invalid", "the answer is not that of Hookferry's service recent; is recent.url right?"}
	}
	if len(list.Bookings) == 0 {
		fmt.Fprintln(a.out, "no bookings")
		return nil
	}
	var rows [][]string
	for _, b := range list.Bookings {
		travel, channel := b.FirstDate, strings.ToLower(b.ChannelKind)
		if b.LastDate != b.FirstDate && b.LastDate != "" {
			travel += " to " + b.LastDate
		}
		if b.ChannelName != "" {
			channel += " " + b.ChannelName
		}
		total := b.Total.Currency
		if whole, cents, ok := strings.Cut(b.Total.Amount, "."); ok {
			total = whole + "." + cents[:min(2, len(cents))] + " " + total
		}
		rows = append(rows, []string{b.ChangedAt.Format(time.RFC3339), b.BookingID, b.Reference, strings.ToLower(b.Status), travel, shorten(b.CustomerName, 24),
			shorten(b.Title, 32), strconv.Itoa(int(b.Passengers)), total, channel, strconv.FormatInt(b.EntityVersion, 10)})
	}
	a.printTable([]string{"CHANGED", "BOOKING", "REFERENCE", "STATUS", "TRAVEL", "CUSTOMER", "TITLE", "PEOPLE", "TOTAL", "CHANNEL", "VERSION"}, rows)
	return nil
}

func recentServeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Answer for recent reservations; run as many as you like",
		Long: "Reads all bookings and answers GET /v1/recent on recent.listen. Every process holds the whole, so two of them behind one address are two of the same.\n" +
			"hookferry all has it too. It needs neither Redis nor the keys of the secrets." + serviceHelp,
		Example: "  hookferry recent serve --config hookferry.yml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.cfg()
			if err != nil {
				return err
			}
			log, err := a.logger()
			if err != nil {
				return err
			}
			log.Info("hookferry recent", zap.String("version", version()), zap.Strings("brokers", cfg.Kafka.Brokers), zap.String("topic_prefix", cfg.Kafka.TopicPrefix))
			p, err := newPipeline(cfg, nil, log)
			if err != nil {
				return err
			}
			defer p.close()
			return p.runBehindGate(c.Context(), []string{"recent"})
		},
	}
}

func recentSnapshotCommand(a *app) *cobra.Command {
	var ask recent.Ask
	var url string
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Publish a company's latest bookings as an event: to all who want it, or to one subscription",
		Long: "Publishes an event recent_reservations.snapshot with the latest bookings of a company. With --company it goes to the company's subscriptions that name\n" +
			"that type or recent_reservations.*; with --subscription to that one alone, whatever it wants.",
		Example: "  hookferry recent snapshot --company acme\n  hookferry recent snapshot --subscription sub_... --limit 200",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ask.Subscription == "" && ask.Company == "" {
				return usagef("name a --company or a --subscription")
			}
			if err := a.addressee(c.Context(), &ask); err != nil {
				return err
			}
			if err := checkAsk(c, ask); err != nil {
				return err
			}
			take, err := a.snapshots(c.Context(), url, ask.Company)
			if err != nil {
				return err
			}
			taken, err := take(c.Context(), ask)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(taken)
			}
			to := "all subscriptions that want it"
			if ask.Subscription != "" {
				to = ask.Subscription
			}
			fmt.Fprintf(a.out, "%s with %d bookings of %s was published, to %s\n", taken.EventID, taken.Bookings, taken.Company, to)
			return nil
		},
	}
	recentFlags(c, &ask, &url)
	c.Flags().StringVar(&ask.Subscription, "subscription", "", "id of the one subscription that is to get it")
	return c
}

// addressee finds the company of the subscription that a snapshot is for.
func (a *app) addressee(ctx context.Context, ask *recent.Ask) error {
	if ask.Subscription == "" {
		return nil
	}
	t, err := a.table(ctx)
	if err != nil {
		return err
	}
	l, ok := t.Get(ask.Subscription)
	if !ok {
		if l, err = findSubscription(t, ask.Subscription, ask.Company); err != nil {
			return err
		}
	}
	ask.Subscription = l.ID
	switch {
	case l.State == schemas.StateDeleted:
		return &refusal{"subscription_deleted", l.ID + " was deleted"}
	case l.Company == schemas.AnyCompany && ask.Company == "":
		return usagef("%s gets the events of all companies: name one with --company", l.ID)
	case ask.Company == "":
		ask.Company = l.Company
	case l.Company != ask.Company && l.Company != schemas.AnyCompany:
		return &refusal{"company_differs", fmt.Sprintf("%s is of the company %s and gets nothing of %s", l.ID, l.Company, ask.Company)}
	}
	return nil
}

// snapshots is how snapshots of a company are published: by the service, if there is one, else by this process, which has read the bookings when it returns.
func (a *app) snapshots(ctx context.Context, url, company string) (func(context.Context, recent.Ask) (*recent.Taken, error), error) {
	client, err := a.recentClient(url)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.Snapshot, nil
	}
	r, err := a.readBookings(ctx, company)
	if err != nil {
		return nil, err
	}
	a.onClose(r.Close)
	p := newSnapshotPublisher(a.client)
	a.onClose(p.close)
	return func(ctx context.Context, ask recent.Ask) (*recent.Taken, error) {
		return r.Snapshot(ctx, ask, p.publish)
	}, nil
}

// firstSnapshot makes what `subscriptions create --snapshot` does before the subscription is live: it publishes the snapshot for it alone, and returns when the
// routers have put it in line.
func (a *app) firstSnapshot(ctx context.Context, company string, limit int) (func(context.Context, *subscriptions.Live) error, error) {
	ask := recent.Ask{Company: company, Limit: limit}
	if company == schemas.AnyCompany {
		return nil, usagef("--snapshot holds the bookings of one company; for a subscription to all, publish one for each: hookferry recent snapshot --help")
	}
	if limit == 0 {
		ask.Limit = -1 // given, and not the default
	}
	if err := ask.Check(); err != nil {
		return nil, usagef("--snapshot: %v", err)
	}
	take, err := a.snapshots(ctx, "", company)
	if err != nil {
		return nil, err
	}
	client, err := a.kafka(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, l *subscriptions.Live) error {
		ask.Subscription = l.ID
		taken, err := take(ctx, ask)
		if err != nil {
			return err
		}
		bar := a.progress("waiting until a router has put the snapshot in line", 0)
		defer bar.Done()
		idle := time.AfterFunc(idleAfter, func() {
			bar.Note(fmt.Sprintf("note: the snapshot %s is published and not in line after %v; no router seems to run. It goes on once one does.", taken.EventID, idleAfter))
		})
		defer idle.Stop()
		return recent.AwaitRouted(ctx, client, router.GroupID(client.Topics()), taken.Place)
	}, nil
}

// snapshotPublisher publishes snapshots by a producer that is made when it is first needed: with a registry that registers the schema, and a service must
// start without one that answers.
type snapshotPublisher struct {
	client *kafka.Client
	made   chan *producer.Producer // holds the producer, or nil: a lock that heeds a context
}

func newSnapshotPublisher(c *kafka.Client) snapshotPublisher {
	p := snapshotPublisher{c, make(chan *producer.Producer, 1)}
	p.made <- nil
	return p
}

func (s *snapshotPublisher) publish(ctx context.Context, ev schemas.Event) error {
	var p *producer.Producer
	select {
	case p = <-s.made:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var err error
	if p == nil {
		cfg := producer.DefaultConfig()
		cfg.Entities = []string{ev.EntityName()}
		p, err = producerOver(ctx, s.client, cfg)
	}
	s.made <- p
	if err != nil {
		return err
	}
	return p.Publish(ctx, ev)
}

func (s *snapshotPublisher) close() {
	if p := <-s.made; p != nil {
		limit, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.Close(limit); errors.Is(err, context.DeadlineExceeded) {
			return // what was under way is looked for by who asks again
		}
	}
}
