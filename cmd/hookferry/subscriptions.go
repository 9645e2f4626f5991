package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/schemas"
)

// subscriptionsCommand manages the receivers: who gets which events, where, and how.
func subscriptionsCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "subscriptions",
		Aliases: []string{"subs"},
		Short:   "Who gets which events: create, list, show, update, pause, resume, delete, export, import, reseal",
		Long: "A subscription is one receiver of one company: a URL, the events it wants, a format, signing secrets and limits.\n" +
			"docs/subscriptions.md explains every field and every refusal.",
		Example: "  hookferry subscriptions create --company c0ffee01 --name crm --url https://hooks.example.com/in --events 'booking.*'",
	}
	c.AddCommand(subscriptionsCreateCommand(a), subscriptionsListCommand(a), subscriptionsShowCommand(a), subscriptionsUpdateCommand(a),
		subscriptionsPauseCommand(a), subscriptionsResumeCommand(a), subscriptionsDeleteCommand(a),
		subscriptionsExportCommand(a), subscriptionsImportCommand(a), subscriptionsResealCommand(a))
	return c
}

// writer is the only writer of subscriptions in this process, and the table it looks at.
func (a *app) writer(ctx context.Context) (*subscriptions.Writer, *subscriptions.Table, error) {
	keys, err := a.keyring() // before the table, which opens secrets with it
	if err != nil {
		return nil, nil, err
	}
	t, err := a.table(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, err := a.kafka(ctx)
	if err != nil {
		return nil, nil, err
	}
	policy, err := a.policy()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := a.cfg()
	if err != nil {
		return nil, nil, err
	}
	return subscriptions.NewWriter(client, t, keys, policy, cfg.Subscriptions), t, nil
}

// subscriptionFlags are the fields that create and update share.
type subscriptionFlags struct {
	name, url, format string
	events, headers   []string
	schedule          scheduleFlag
	timeout           time.Duration
	concurrency       int
	rate, replayRate  float64
	order             string
}

func (f *subscriptionFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.name, "name", "", "name, unique within the company (1 to 100 characters)")
	flags.StringVar(&f.url, "url", "", "where to deliver: https://...")
	flags.StringSliceVar(&f.events, "events", nil, "event types and patterns, with commas between: booking.creation, booking.*, *.removal, *")
	flags.StringVar(&f.format, "format", "", "standard, cloudevents or classic (default standard)")
	flags.StringArrayVar(&f.headers, "header", nil, "a header to send with every try, 'Name: value'; may be repeated. Values are kept encrypted")
	flags.Var(&f.schedule, "schedule", "waits before the tries after the first, with commas between: 5s,5m,1h; 'default': 10 tries over 75h35m")
	flags.DurationVar(&f.timeout, "timeout", 0, "of one try, 1s to 30s (default 15s)")
	flags.IntVar(&f.concurrency, "max-concurrency", 0, "tries at once, 1 to 64 (0: as deliverer.max_concurrency says)")
	flags.Float64Var(&f.rate, "max-rate", 0, "tries per second (0: no limit)")
	flags.Float64Var(&f.replayRate, "replay-rate", 0, "events per second that catch-ups and replays may add (0: no limit)")
	flags.StringVar(&f.order, "order", "", "entity: no event of an entity before the one before it is delivered or dead; or none (default none)")
}

// headerFlags reads "Name: value". Its errors do not repeat what was given: it may hold a token.
func headerFlags(list []string) ([]subscriptions.HeaderValue, error) {
	var out []subscriptions.HeaderValue
	for i, h := range list {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, usagef("--header number %d is not of the form 'Name: value'", i+1)
		}
		out = append(out, subscriptions.HeaderValue{Name: strings.TrimSpace(name), Value: secrets.New([]byte(strings.TrimSpace(value)))})
	}
	return out, nil
}

func subscriptionsCreateCommand(a *app) *cobra.Command {
	var f subscriptionFlags
	var company, secret, secretFile, from string
	var acceptGap bool
	var snapshot int
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a subscription; it is live when the command returns",
		Long: "Makes a subscription and prints its signing secret, once. The command returns when the subscription is live, about three seconds later:\n" +
			"every event published after that is delivered, and none from before. With --from it also gets what was published since then, as far as the\n" +
			"topics still hold it, without a gap and nothing twice: a catch-up routes that while the live events flow. With --snapshot its first event holds the\n" +
			"company's latest bookings (docs/recent.md); a router must run, and the receiver should know the secret already (--secret-file).",
		Example: "  hookferry subscriptions create --company c0ffee01 --name crm --url https://hooks.example.com/in --events 'booking.*,customer.creation'\n" +
			"  hookferry subscriptions create --company c0ffee01 --name bi --url https://bi.example.com/in --events '*' --from 72h --replay-rate 200",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			headers, err := headerFlags(f.headers)
			if err != nil {
				return err
			}
			given, err := secretFlag(secret, secretFile)
			if err != nil {
				return err
			}
			since, err := fromFlag(from)
			if err != nil {
				return err
			}
			w, _, err := a.writer(c.Context())
			if err != nil {
				return err
			}
			create := w.Create
			if c.Flags().Changed("snapshot") {
				first, err := a.firstSnapshot(c.Context(), company, snapshot)
				if err != nil {
					return err
				}
				create = func(ctx context.Context, d subscriptions.Draft) (*subscriptions.Live, secrets.Secret, error) {
					return w.CreateAfter(ctx, d, first)
				}
			}
			done := a.waiting("waiting until every router knows it", 3250*time.Millisecond)
			l, plain, err := create(c.Context(), subscriptions.Draft{
				Company: company, Name: f.name, URL: f.url, Events: f.events, Format: f.format, Headers: headers, Schedule: f.schedule.waits,
				Timeout: f.timeout, MaxConcurrency: f.concurrency, MaxRate: f.rate, Secret: given, Operator: true,
				ReplayRate: f.replayRate, Order: f.order, From: since, AcceptGap: acceptGap,
			})
			done()
			if l == nil {
				return err
			}
			// Whatever went wrong after it was written: the secret is told now or never.
			v := viewOf(l)
			v.Secret = string(plain.Reveal())
			shown := a.showSubscription(v)
			if err != nil {
				fmt.Fprintf(a.errOut, "note: %s was written, or may have been, but is not known to be live: hookferry subscriptions show %s\n", l.ID, l.ID)
			}
			return errors.Join(err, shown)
		},
	}
	f.add(c)
	c.Flags().StringVar(&company, "company", "", "id of the company whose events it gets, or '*' for all")
	c.Flags().StringVar(&secret, "secret", "generated", "signing secret, whsec_...; 'generated' makes one")
	c.Flags().StringVar(&secretFile, "secret-file", "", "file with the signing secret, so that it does not show in the list of processes")
	c.Flags().StringVar(&from, "from", "", "also what was published since: earliest (all that the topics hold), 2026-01-31T12:00:00Z, or 24h (ago)")
	c.Flags().IntVar(&snapshot, "snapshot", 0, "begin with a snapshot of the company's latest bookings: --snapshot (50 of them) or --snapshot=N, up to 500")
	c.Flags().Lookup("snapshot").NoOptDefVal = strconv.Itoa(recent.DefaultLimit)
	c.Flags().BoolVar(&acceptGap, "accept-gap", false, "go on where retention has taken a part of what --from asks for")
	for _, name := range []string{"company", "name", "url", "events"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// secretFlag is the secret that was given; nil: make one.
func secretFlag(secret, file string) (*secrets.Secret, error) {
	text := []byte(secret)
	switch {
	case file != "" && secret != "generated":
		return nil, usagef("--secret and --secret-file exclude each other")
	case file != "":
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, &refusal{"secret_invalid", err.Error()}
		}
	case secret == "generated":
		return nil, nil
	}
	s := secrets.New(text)
	return &s, nil
}

func subscriptionsListCommand(a *app) *cobra.Command {
	var company, state string
	var deleted bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "All subscriptions, or those of a company",
		Example: "  hookferry subscriptions list --company c0ffee01",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkState(state); err != nil {
				return err
			}
			t, err := a.table(c.Context())
			if err != nil {
				return err
			}
			views := []subscriptionView{}
			for l := range t.All() {
				if company != "" && l.Company != company || state != "" && l.State != state || l.State == schemas.StateDeleted && !deleted && state == "" {
					continue
				}
				views = append(views, viewOf(l))
			}
			slices.SortFunc(views, func(x, y subscriptionView) int {
				return cmp.Or(cmp.Compare(x.Company, y.Company), cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
			})
			return a.showSubscriptions(views, company != "")
		},
	}
	c.Flags().StringVar(&company, "company", "", "only those of this company")
	c.Flags().StringVar(&state, "state", "", "only those in this state: active, paused, disabled, deleted")
	c.Flags().BoolVar(&deleted, "deleted", false, "deleted ones too (they are kept for a week)")
	return c
}

func subscriptionsShowCommand(a *app) *cobra.Command {
	var company string
	c := &cobra.Command{
		Use:     "show ID|NAME",
		Short:   "One subscription, with everything but its secrets",
		Example: "  hookferry subscriptions show crm --company c0ffee01",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.table(c.Context())
			if err != nil {
				return err
			}
			l, err := findSubscription(t, args[0], company)
			if err != nil {
				return err
			}
			return a.showSubscription(viewOf(l))
		},
	}
	addCompanyFlag(c, &company)
	return c
}

func addCompanyFlag(c *cobra.Command, company *string) {
	c.Flags().StringVar(company, "company", "", "the company, if the subscription is given by name")
}

// findSubscription takes an id, or a name that only one subscription bears (in the company, if one is named).
func findSubscription(t *subscriptions.Table, arg, company string) (*subscriptions.Live, error) {
	if l, ok := t.Get(arg); ok && (company == "" || l.Company == company) {
		return l, nil
	}
	var found []*subscriptions.Live
	for l := range t.All() {
		if l.Name == arg && l.State != schemas.StateDeleted && (company == "" || l.Company == company) {
			found = append(found, l)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, &refusal{"subscription_ambiguous", fmt.Sprintf("%d subscriptions are named %q: give --company, or the id", len(found), arg)}
	}
	return nil, &refusal{subscriptions.CodeNotFound, fmt.Sprintf("there is no subscription with the id or name %q", arg)}
}

func subscriptionsUpdateCommand(a *app) *cobra.Command {
	var f subscriptionFlags
	var company string
	var remove []string
	var ifVersion int64
	c := &cobra.Command{
		Use:   "update ID|NAME",
		Short: "Change a subscription; the next try of every task goes by it",
		Long: "Changes what the options name and leaves the rest. --header sets one header and leaves the others. Tasks that are waiting are tried under the new\n" +
			"settings, too. Whoever changes the same subscription at the same time loses nothing: one change is made after the other.",
		Example: "  hookferry subscriptions update crm --company c0ffee01 --url https://hooks.example.com/v2 --timeout 10s",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ch, err := f.change(c)
			if err != nil {
				return err
			}
			ch.RemoveHeaders, ch.IfVersion = remove, ifVersion
			w, t, err := a.writer(c.Context())
			if err != nil {
				return err
			}
			l, err := findSubscription(t, args[0], company)
			if err != nil {
				return err
			}
			if l, err = w.Update(c.Context(), l.ID, ch); err != nil {
				return err
			}
			return a.showSubscription(viewOf(l))
		},
	}
	f.add(c)
	addCompanyFlag(c, &company)
	c.Flags().StringArrayVar(&remove, "remove-header", nil, "a header to send no longer, by name; may be repeated")
	c.Flags().Int64Var(&ifVersion, "if-version", 0, "refuse unless this version stands (show prints it)")
	return c
}

// change holds the options that were given.
func (f *subscriptionFlags) change(c *cobra.Command) (subscriptions.Change, error) {
	var ch subscriptions.Change
	if !slices.ContainsFunc([]string{"name", "url", "events", "format", "header", "remove-header", "schedule", "timeout", "max-concurrency", "max-rate",
		"replay-rate", "order"},
		c.Flags().Changed) {
		return ch, usagef("nothing to change was given")
	}
	given := c.Flags().Changed
	if given("name") {
		ch.Name = &f.name
	}
	if given("url") {
		ch.URL = &f.url
	}
	if given("events") {
		ch.Events = append([]string{}, f.events...)
	}
	if given("format") {
		ch.Format = &f.format
	}
	if given("schedule") {
		ch.Schedule = &f.schedule.waits
	}
	if given("timeout") {
		ch.Timeout = &f.timeout
	}
	if given("max-concurrency") {
		ch.MaxConcurrency = &f.concurrency
	}
	if given("max-rate") {
		ch.MaxRate = &f.rate
	}
	if given("replay-rate") {
		ch.ReplayRate = &f.replayRate
	}
	if given("order") {
		ch.Order = &f.order
	}
	var err error
	ch.SetHeaders, err = headerFlags(f.headers)
	return ch, err
}

func subscriptionsDeleteCommand(a *app) *cobra.Command {
	var company string
	var yes bool
	c := &cobra.Command{
		Use:   "delete ID|NAME",
		Short: "End a subscription: its sends stop within two seconds",
		Long: "Ends a subscription for good: sends stop within two seconds, and its waiting tasks end as dropped. Its record stays readable for a week, without\n" +
			"its secrets.",
		Example: "  hookferry subscriptions delete sub_mfrggzdfmztwq2lknnwg23tpoa --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			w, t, err := a.writer(c.Context())
			if err != nil {
				return err
			}
			l, err := findSubscription(t, args[0], company)
			if err != nil {
				return err
			}
			if !yes && !(a.interactive() && a.confirm(safeText(fmt.Sprintf("Delete %s (%s of %s)? There is no way back. [y/N] ", l.ID, l.Name, l.Company)))) {
				return &refusal{"not_confirmed", "nothing was deleted; --yes deletes without asking"}
			}
			if err := w.Delete(c.Context(), l.ID); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"deleted": l.ID})
			}
			fmt.Fprintf(a.out, "deleted %s\n", l.ID)
			return nil
		},
	}
	addCompanyFlag(c, &company)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// confirm asks a question on the terminal.
func (a *app) confirm(question string) bool {
	fmt.Fprint(a.errOut, question)
	var answer string
	fmt.Fscanln(a.in, &answer)
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes")
}

// subscriptionView is a subscription as it is shown: everything but what is secret.
type subscriptionView struct {
	ID             string       `json:"id"`
	Version        int64        `json:"version"`
	Company        string       `json:"company"`
	Name           string       `json:"name"`
	URL            string       `json:"url"`
	Events         []string     `json:"events"`
	Format         string       `json:"format"`
	Headers        []string     `json:"headers"`
	Secret         string       `json:"secret,omitempty"` // at creation, and never again
	Secrets        []secretView `json:"secrets"`
	Schedule       []string     `json:"schedule"` // waits before each try; empty: the default
	Timeout        string       `json:"timeout"`
	MaxConcurrency int32        `json:"max_concurrency"` // 0: as deliverer.max_concurrency says
	MaxRate        float64      `json:"max_rate"`        // 0: none
	ReplayRate     float64      `json:"replay_rate"`     // 0: none
	Order          string       `json:"order"`           // entity, or none
	State          string       `json:"state"`
	StateReason    string       `json:"state_reason,omitempty"`
	FailingSince   *time.Time   `json:"failing_since,omitempty"`
	BackfilledFrom *time.Time   `json:"backfilled_from,omitempty"`
	Cuts           []cutView    `json:"cuts"`
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
}

type secretView struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"`
	Fingerprint string    `json:"fingerprint"`
	CreatedAt   time.Time `json:"created_at"`
}

type cutView struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Reason string    `json:"reason,omitempty"`
	// CatchUp is, of a cut "live", the replay that routes what was published in the span that it ends.
	CatchUp string `json:"catch_up,omitempty"`
}

func viewOf(l *subscriptions.Live) subscriptionView {
	v := subscriptionView{
		ID: l.ID, Version: l.Version, Company: l.Company, Name: l.Name, URL: l.URL, Events: l.Events, Format: l.Format, Headers: []string{},
		Secrets: []secretView{}, Schedule: []string{}, Timeout: (time.Duration(l.TimeoutMs) * time.Millisecond).String(), MaxConcurrency: l.MaxConcurrency,
		MaxRate: l.MaxRate, ReplayRate: l.ReplayRate, Order: orElse(l.Order, "none"), State: l.State, StateReason: l.StateReason, Cuts: []cutView{}, CreatedAt: milli(l.CreatedAt), UpdatedAt: milli(l.UpdatedAt),
	}
	for _, h := range l.Headers {
		v.Headers = append(v.Headers, h.Name)
	}
	if l.Auth != nil {
		v.Headers = append(v.Headers, "Authorization")
	}
	for _, s := range l.Secrets {
		v.Secrets = append(v.Secrets, secretView{s.ID, s.Kind, s.Fingerprint, milli(s.CreatedAt)})
	}
	for _, ms := range l.Schedule {
		v.Schedule = append(v.Schedule, (time.Duration(ms) * time.Millisecond).String())
	}
	if l.FailingSince != 0 {
		t := milli(l.FailingSince)
		v.FailingSince = &t
	}
	if l.BackfillFrom != 0 {
		t := milli(l.BackfillFrom)
		v.BackfilledFrom = &t
	}
	for _, cut := range l.Spans {
		c := cutView{At: milli(cut.At), Kind: cut.Kind}
		if cut.Kind == schemas.CutLive {
			c.CatchUp = cut.Reason
		} else {
			c.Reason = cut.Reason
		}
		v.Cuts = append(v.Cuts, c)
	}
	return v
}

func milli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// showSubscriptions prints a list that fits 100 columns. Whoever asked for one company knows it, and sees the events instead.
func (a *app) showSubscriptions(views []subscriptionView, oneCompany bool) error {
	if a.json {
		return a.printJSON(views)
	}
	if len(views) == 0 {
		fmt.Fprintln(a.out, "no subscriptions")
		return nil
	}
	header := []string{"ID", "COMPANY", "NAME", "STATE", "URL"}
	if oneCompany {
		header = []string{"ID", "NAME", "STATE", "EVENTS", "URL"}
	}
	rows := make([][]string, len(views))
	for i, v := range views {
		url, _, _ := strings.Cut(strings.TrimPrefix(v.URL, "https://"), "?") // a query may hold a token
		if oneCompany {
			rows[i] = []string{v.ID, shorten(v.Name, 16), v.State, shorten(strings.Join(v.Events, ","), 18), shorten(url, 20)}
		} else {
			rows[i] = []string{v.ID, shorten(v.Company, 12), shorten(v.Name, 16), v.State, shorten(url, 26)}
		}
	}
	a.printTable(header, rows)
	return nil
}

// shorten cuts a text to so many characters and marks where.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// showSubscription prints one subscription, a field a line.
func (a *app) showSubscription(v subscriptionView) error {
	if a.json {
		return a.printJSON(v)
	}
	state := v.State
	if v.StateReason != "" {
		state += " (" + v.StateReason + ")"
	}
	rows := [][]string{
		{"id", v.ID}, {"version", strconv.FormatInt(v.Version, 10)}, {"company", v.Company}, {"name", v.Name}, {"url", v.URL},
		{"events", strings.Join(v.Events, ", ")}, {"format", v.Format}, {"state", state},
		{"headers", orElse(strings.Join(v.Headers, ", "), "none")},
		{"schedule", orElse(strings.Join(v.Schedule, ", "), "default (10 tries over 75h35m)")},
		{"timeout", v.Timeout},
		{"max concurrency", orElse(nonZero(float64(v.MaxConcurrency)), "default")},
		{"max rate", orElse(nonZero(v.MaxRate), "none")},
		{"replay rate", orElse(nonZero(v.ReplayRate), "none")},
		{"order", v.Order},
	}
	rows = append(rows, spanRows(&v)...)
	rows = append(rows, []string{"created", v.CreatedAt.Format(time.RFC3339)}, []string{"updated", v.UpdatedAt.Format(time.RFC3339)})
	for _, s := range v.Secrets {
		rows = append(rows, []string{"secret", s.Kind + " with fingerprint " + s.Fingerprint})
	}
	if v.Secret != "" {
		rows = append(rows, []string{"SECRET", v.Secret})
	}
	for i := range rows {
		rows[i][0] += ":"
	}
	a.printTable(rows[0], rows[1:])
	if v.Secret != "" {
		fmt.Fprintln(a.out, "\nThe secret verifies the signatures. It is shown this once: give it to the receiver now.")
	}
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func nonZero(f float64) string {
	if f == 0 {
		return ""
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
