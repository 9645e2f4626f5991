package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/audit"
	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// verifyCommand compares what a subscription was owed with what became of it.
func verifyCommand(a *app) *cobra.Command {
	var subscription, company, from, to string
	var limit int
	c := &cobra.Command{
		Use:   "verify",
		Short: "Is anything missing? What a subscription was owed, and what became of each event",
		Long: "Reads the events of a stretch of time, and for each that the subscription was owed looks for its end: delivered, dead, dropped, or still waiting.\n" +
			"What has none of them is missing: it is listed, and the exit code is 1. docs/verify.md says what is compared, and what cannot be known.",
		Example: "  hookferry verify --subscription sub_... --from 24h\n  hookferry verify --subscription crm --company c0ffee01 --from 2026-01-30T00:00:00Z --to 2026-01-31T00:00:00Z --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			begin, end, err := parseStretch(from, to, time.Now())
			if err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit must not be negative")
			}
			t, err := a.table(c.Context())
			if err != nil {
				return err
			}
			live, err := findSubscription(t, subscription, company)
			if err != nil {
				return err
			}
			r, err := a.verify(c.Context(), live, begin, end)
			if err != nil {
				return err
			}
			return a.showVerified(r, limit)
		},
	}
	flags := c.Flags()
	flags.StringVar(&subscription, "subscription", "", "id or name of the subscription")
	addCompanyFlag(c, &company)
	flags.StringVar(&from, "from", "24h", "events appended from here on: a time (RFC 3339), a duration (so long ago), or earliest")
	flags.StringVar(&to, "to", "now", "and before this")
	flags.IntVar(&limit, "limit", 50, "how many gaps and ghosts are shown at most; --json has more of them")
	c.MarkFlagRequired("subscription")
	return c
}

// verify runs the audit, with a bar for each of its steps.
func (a *app) verify(ctx context.Context, live *subscriptions.Live, from, to time.Time) (*audit.Report, error) {
	cfg, err := a.cfg()
	if err != nil {
		return nil, err
	}
	client, err := a.kafka(ctx)
	if err != nil {
		return nil, err
	}
	var bar *progress
	done := func() {
		if bar != nil {
			bar.Done()
		}
	}
	defer done()
	step := ""
	return audit.Verify(ctx, auditSources(client, cfg.Deliverer.Group), &live.Subscription, from, to, func(name string, read, total int64) {
		if name != step {
			done()
			step, bar = name, a.progress("reading "+name, total)
		}
		bar.Set(read)
	})
}

// auditSources are where an audit of a deployment reads.
func auditSources(client *kafka.Client, deliverers string) audit.Sources {
	return audit.Sources{
		Kafka: client, Routers: router.GroupID(client.Topics()),
		Waiting: func(ctx context.Context, subscription string, watch func(read, total int64), fn func(*schemas.Task)) error {
			return deliverer.ReadWaiting(ctx, client, deliverers, subscription, watch, func(_ int32, t *schemas.Task) { fn(t) })
		},
	}
}

// showVerified prints a report; one with gaps is a failure.
func (a *app) showVerified(r *audit.Report, limit int) error {
	var failed error
	if !r.OK() {
		failed = &refusal{"events_missing", fmt.Sprintf("%d of what %s was owed is missing", r.GapCount, r.Subscription)}
	}
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
		return failed
	}
	fmt.Fprintf(a.out, "%s, events from %s to %s\n\n", r.Subscription, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	rows := [][]string{
		{"owed", count(r.Owed), fmt.Sprintf("of %d events of all companies", r.Events)},
		{"delivered", count(r.Delivered), ""},
		{"waiting", count(r.Waiting), reasonsOf(r.WaitingBy)},
		{"dead", count(r.Dead), reasonsOf(r.DeadBy)},
		{"dropped", count(r.Dropped), reasonsOf(r.DroppedBy)},
		{"undecodable", count(r.Undecodable), ""},
		{"unknown", count(r.Unknown), ""},
		{"MISSING", count(r.Missing), ""},
	}
	if r.CaughtUp > 0 {
		rows[0][2] += fmt.Sprintf("; %d of them by catch-ups", r.CaughtUp)
	}
	a.printTable([]string{"", "EVENTS", ""}, rows)
	a.showGaps(r, limit)
	if len(r.Replays) > 0 {
		fmt.Fprintln(a.out, "\nReplays of these events:")
		var rows [][]string
		for _, p := range r.Replays {
			rows = append(rows, []string{p.Replay, count(p.Tasks), count(p.Delivered), count(p.Waiting), count(p.Dead), count(p.Dropped), count(p.Unknown)})
		}
		a.printTable([]string{"REPLAY", "TASKS", "DELIVERED", "WAITING", "DEAD", "DROPPED", "UNKNOWN"}, rows)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(a.out, "note: "+safeText(n))
	}
	return failed
}

// showGaps prints what should be there and is not, and what is there and should not be.
func (a *app) showGaps(r *audit.Report, limit int) {
	when := func(ms int64) string {
		if ms == 0 {
			return ""
		}
		return milli(ms).Format(time.RFC3339)
	}
	if len(r.Gaps) > 0 {
		fmt.Fprintln(a.out, "\nMissing (docs/verify.md says what each kind means):")
		var rows [][]string
		for _, g := range r.Gaps[:min(limit, len(r.Gaps))] {
			written := ""
			if g.Written != nil {
				written = g.Written.String()
			}
			rows = append(rows, []string{g.Kind, when(g.Appended), g.Type, g.Event, g.Source.String(), written, g.Task})
		}
		a.printTable([]string{"KIND", "APPENDED", "TYPE", "EVENT", "SOURCE", "TASK WRITTEN", "TASK"}, rows)
		a.more(len(rows), r.GapCount)
	}
	if len(r.Ghosts) > 0 {
		fmt.Fprintln(a.out, "\nGhosts, which nobody owed this subscription:")
		var rows [][]string
		for _, g := range r.Ghosts[:min(limit, len(r.Ghosts))] {
			rows = append(rows, []string{g.What, g.Why, when(g.Appended), g.Type, g.Event, g.Place.String(), g.Task})
		}
		a.printTable([]string{"WHAT", "WHY", "APPENDED", "TYPE", "EVENT", "SOURCE", "TASK"}, rows)
		a.more(len(rows), r.GhostCount)
	}
}

func (a *app) more(shown int, all int64) {
	if int64(shown) < all {
		fmt.Fprintf(a.out, "(%d of %d; --limit and --json show more)\n", shown, all)
	}
}

// reasonsOf is a count by reason, the most frequent first.
func reasonsOf(by map[string]int64) string {
	var names []string
	for name := range by {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		if by[x] != by[y] {
			return int(max(-1, min(1, by[y]-by[x])))
		}
		return strings.Compare(x, y)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", by[name], name)
	}
	return strings.Join(names, ", ")
}
