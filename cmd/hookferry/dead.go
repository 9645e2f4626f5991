package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// deadCommand shows tasks that will not be tried again by themselves, and puts them back in line.
func deadCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "dead",
		Short: "Tasks that ended without delivery: list, show, redrive",
		Long: "A task whose tries are exhausted, or whose answer was final, is kept whole in the topic dead for 30 days. Redrive puts it back in line: the same body and\n" +
			"webhook-id, its tries counted from 1 again. A letter that was redriven is taken out: it is not listed any more, and never redriven again. If its task\n" +
			"dies once more, that is another letter.",
		Example: "  hookferry dead list --subscription sub_...",
	}
	c.AddCommand(deadListCommand(a), deadShowCommand(a), deadRedriveCommand(a))
	return c
}

// deadFilter are the flags that list and redrive share.
func deadFilter(c *cobra.Command, o *schemas.Replay) (check func() error) {
	var reason string
	var since time.Duration
	var from, to string
	flags := c.Flags()
	flags.StringVar(&o.Subscription, "subscription", "", "only this subscription's")
	flags.StringVar(&reason, "reason", "", "only those with this reason (exhausted, gone, paused ...)")
	flags.StringSliceVar(&o.Events, "events", nil, "only these event types or patterns (booking.creation, booking.*, *.removal)")
	flags.StringVar(&o.Company, "company", "", "only this company's")
	flags.StringVar(&o.Entity, "entity", "", "only those of this entity's events (its id)")
	flags.StringVar(&o.EventID, "event", "", "only this event's")
	flags.StringVar(&o.TaskID, "task", "", "only this task")
	flags.DurationVar(&since, "since", 0, "only those that died within this time (24h)")
	flags.StringVar(&from, "from", "", "only those that died at this time or later (2026-11-29T10:00:00Z)")
	flags.StringVar(&to, "to", "", "only those that died before this time")
	return func() error {
		if o.Reason = schemas.Reason(reason); reason != "" && !slices.Contains(schemas.Reasons(), o.Reason) {
			return usagef("--reason: %q is none of %v", reason, schemas.Reasons()[1:])
		}
		if since > 0 && from != "" {
			return usagef("--since and --from say the same: one of them")
		}
		if err := checkPositive(c, "since", since); err != nil {
			return err
		}
		if since > 0 {
			o.From = time.Now().Add(-since).UnixMilli()
		}
		if err := errors.Join(deadTime("--from", from, &o.From), deadTime("--to", to, &o.To)); err != nil {
			return err
		}
		if o.To != 0 && o.To <= o.From {
			return usagef("nothing lies between --from and --to")
		}
		var err error
		o.Events, err = subscriptions.CheckPatterns(o.Events)
		return err
	}
}

// deadTime reads a time that a flag may have named.
func deadTime(flag, text string, into *int64) error {
	if text == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return usagef("%s: %q is no time such as 2026-11-29T10:00:00Z", flag, text)
	}
	*into = at.UnixMilli()
	return nil
}

type deadRow struct {
	ID           string    `json:"id"`
	At           time.Time `json:"at"`
	Reason       string    `json:"reason"`
	Status       int32     `json:"status,omitempty"`
	Detail       string    `json:"detail,omitempty"`
	Subscription string    `json:"subscription"`
	Company      string    `json:"company"`
	EventID      string    `json:"event_id"`
	EventType    string    `json:"event_type"`
	EntityID     string    `json:"entity_id"`
	TaskID       string    `json:"task_id"`
	Tries        int32     `json:"tries"`
	Round        int64     `json:"round,omitempty"`
	Source       string    `json:"source"`
	Bytes        int       `json:"bytes"`
	TakenOut     string    `json:"taken_out,omitempty"` // by which redrive
}

func deadRowOf(d *deliverer.DeadLetter) deadRow {
	t := &d.Task
	return deadRow{
		ID: d.ID(), At: time.UnixMilli(d.At).UTC(), Reason: string(d.Reason), Status: d.Status, Detail: d.Detail, Subscription: t.Subscription, Company: t.Company,
		EventID: t.EventID, EventType: t.EventType, EntityID: t.EntityID, TaskID: t.ID, Tries: d.Tries(), Round: t.Round,
		Source: fmt.Sprintf("%s/%d@%d", t.Source.Topic, t.Source.Partition, t.Source.Offset), Bytes: len(t.Body),
		TakenOut: d.TakenOut,
	}
}

func deadListCommand(a *app) *cobra.Command {
	var o schemas.Replay
	var limit int
	var all bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "The newest dead letters",
		Long:    "Lists the letters that stand. With --all also those that a redrive has taken out, and the markers that say so (reason redriven).",
		Example: "  hookferry dead list --reason exhausted --since 24h",
		Args:    cobra.NoArgs,
	}
	check := deadFilter(c, &o)
	c.Flags().IntVar(&limit, "limit", 50, "how many at most, the newest")
	c.Flags().BoolVar(&all, "all", false, "what redrives have taken out, too, and their markers")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := check(); err != nil {
			return err
		}
		if limit < 1 {
			return usagef("--limit must be at least 1")
		}
		client, err := a.kafka(c.Context())
		if err != nil {
			return err
		}
		bar := a.progress("reading", 0)
		defer bar.Done()
		var rows []deadRow
		found := 0
		newest := func(x, y deadRow) int { return y.At.Compare(x.At) }
		read := deliverer.ReadDead
		if all {
			read = deliverer.ReadAllDead
		}
		err = read(c.Context(), client, &o, bar.Of, func(d *deliverer.DeadLetter) bool {
			found++
			if rows = append(rows, deadRowOf(d)); len(rows) > 2*limit { // never more in memory than twice what is shown
				slices.SortStableFunc(rows, newest)
				rows = rows[:limit]
			}
			return true
		})
		bar.Done()
		if err != nil {
			return err
		}
		slices.SortStableFunc(rows, newest)
		return a.showDead(rows[:min(limit, len(rows))], found, all)
	}
	return c
}

func (a *app) showDead(rows []deadRow, found int, all bool) error {
	if a.json {
		if rows == nil {
			rows = []deadRow{}
		}
		return a.printJSON(rows)
	}
	if found == 0 {
		fmt.Fprintln(a.out, "nothing is dead")
		return nil
	}
	table, head := make([][]string, len(rows)), []string{"ID", "AT", "REASON", "SUBSCRIPTION", "TYPE", "EVENT", "TRIES", "DETAIL"}
	if all {
		head = append(head, "TAKEN OUT")
	}
	for i, r := range rows {
		table[i] = []string{r.ID, r.At.Format(time.RFC3339), r.Reason, r.Subscription, r.EventType, r.EventID, strconv.Itoa(int(r.Tries)), r.Detail}
		if all {
			table[i] = append(table[i], r.TakenOut)
		}
	}
	a.printTable(head, table)
	if found > len(rows) {
		fmt.Fprintf(a.out, "(%d of %d; --limit shows more)\n", len(rows), found)
	}
	return nil
}

func deadShowCommand(a *app) *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "One dead letter, with its body",
		Example: "  hookferry dead show 3-42 --raw > body.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			d, err := a.findDead(c.Context(), client, args[0])
			if err != nil {
				return err
			}
			row := deadRowOf(d)
			switch {
			case raw:
				_, err := a.out.Write(d.Task.Body)
				return err
			case a.json:
				return a.printJSON(struct {
					deadRow
					ContentType string `json:"content_type"`
					Body        string `json:"body"`
				}{row, d.Task.ContentType, string(d.Task.Body)})
			}
			rows := [][]string{
				{"id", row.ID}, {"at", row.At.Format(time.RFC3339)}, {"reason", row.Reason}, {"detail", row.Detail}, {"status", strconv.Itoa(int(row.Status))},
				{"subscription", row.Subscription}, {"company", row.Company}, {"event", row.EventID}, {"type", row.EventType}, {"entity", row.EntityID},
				{"task", row.TaskID}, {"webhook-id", schemas.WebhookID(row.Subscription, row.EventID)}, {"tries", strconv.Itoa(int(row.Tries))},
				{"source", row.Source}, {"content type", d.Task.ContentType}, {"body", strconv.Itoa(row.Bytes) + " bytes"},
			}
			if row.TakenOut != "" {
				rows = append(rows, []string{"taken out", "by " + row.TakenOut})
			}
			a.printTable([]string{"FIELD", "VALUE"}, rows)
			const shown = 2048
			fmt.Fprintln(a.out, safeText(string(d.Task.Body[:min(shown, row.Bytes)])))
			if row.Bytes > shown {
				fmt.Fprintf(a.out, "(%d bytes more; --raw writes all of it)\n", row.Bytes-shown)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "write the body's bytes as they are, and nothing else")
	return c
}

// findDead reads one dead letter, with what lies behind it.
func (a *app) findDead(ctx context.Context, client *kafka.Client, id string) (*deliverer.DeadLetter, error) {
	bar := a.progress("reading", 0)
	defer bar.Done()
	return deliverer.FindDead(ctx, client, id, bar.Of)
}

func deadRedriveCommand(a *app) *cobra.Command {
	var o schemas.Replay
	var all, detach bool
	var cancel string
	c := &cobra.Command{
		Use:   "redrive [ID]",
		Short: "Put dead tasks back in line",
		Long: "Writes an order that the deliverers work off, each for its own partitions, and waits until they have. What was dead when the order was written is taken, as far\n" +
			"as the filters say; a letter whose body was too large to keep is left. A letter is redriven once, however often and by whatever order it is asked for.\n" +
			"Interrupting the command ends only the wait.",
		Example: "  hookferry dead redrive --subscription sub_... --reason exhausted",
		Args:    cobra.MaximumNArgs(1),
	}
	check := deadFilter(c, &o)
	c.Flags().BoolVar(&all, "all", false, "everything that is dead")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait")
	c.Flags().StringVar(&cancel, "cancel", "", "take the order with this replay id back")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		narrowed := o.Subscription != "" || o.Company != "" || o.Entity != "" || o.To != 0 || o.Reason != "" || len(o.Events) > 0 || o.EventID != "" || o.TaskID != "" || o.From != 0 ||
			len(args) > 0
		if cancel != "" && (narrowed || all) {
			return usagef("--cancel takes a whole order back: it goes with no ID, filter or --all")
		}
		if cancel == "" && all == narrowed {
			return usagef("say which: an ID, a filter, or --all")
		}
		client, err := a.kafka(c.Context())
		if err != nil {
			return err
		}
		if cancel != "" {
			return deliverer.CancelRedrive(c.Context(), client, cancel)
		}
		if len(args) == 1 {
			d, err := a.findDead(c.Context(), client, args[0])
			switch {
			case err != nil:
				return err
			case d.TakesOut():
				return &deliverer.DeadIDError{Text: args[0]}
			case d.TakenOut != "":
				return &refusal{"already_redriven", fmt.Sprintf("the redrive %s has taken %s out already", d.TakenOut, args[0])}
			}
			o.TaskID, o.Subscription, o.From, o.To = d.Task.ID, d.Task.Subscription, d.At, d.At+1
		}
		if o.Subscription != "" && len(args) == 0 {
			if err := a.subscriptionKnown(c.Context(), client, o.Subscription); err != nil {
				return err
			}
		}
		order, err := deliverer.OrderRedrive(c.Context(), client, o)
		if err != nil {
			return err
		}
		return a.followRedrive(c.Context(), client, order, detach)
	}
	return c
}

// subscriptionKnown refuses an id that no dead letter and no subscription bears: an order for it would be done at once, and look like a success.
func (a *app) subscriptionKnown(ctx context.Context, client *kafka.Client, id string) error {
	t, err := a.table(ctx)
	if err != nil {
		return err
	}
	if _, ok := t.Get(id); ok {
		return nil
	}
	bar := a.progress("reading", 0)
	defer bar.Done()
	found := false
	err = deliverer.ReadAllDead(ctx, client, &schemas.Replay{Subscription: id}, bar.Of, func(*deliverer.DeadLetter) bool {
		found = true
		return false
	})
	if err == nil && !found {
		err = &refusal{subscriptions.CodeNotFound, fmt.Sprintf("neither a subscription nor a dead letter has the id %q", id)}
	}
	return err
}

// followRedrive waits until the order is worked off, or taken back, and says what came of it. Whoever interrupts it leaves the order standing.
func (a *app) followRedrive(ctx context.Context, client *kafka.Client, o *schemas.Replay, detach bool) error {
	var s deliverer.RedriveState
	if detach {
		var err error
		if s, err = deliverer.RedriveProgress(ctx, client, o); err != nil {
			return err
		}
		return a.showRedrive(o, s)
	}
	err := a.followReplays(ctx, client, "redriving", "deliverer", []*schemas.Replay{o}, func(o *schemas.Replay) (int64, bool, error) {
		var err error
		s, err = deliverer.RedriveProgress(ctx, client, o)
		return s.Scanned, s.Done, err
	})
	if err != nil && !errors.As(err, new(*cancelledError)) {
		return err
	}
	return errors.Join(err, a.showRedrive(o, s))
}

func (a *app) showRedrive(o *schemas.Replay, s deliverer.RedriveState) error {
	state := o.State
	if s.Done {
		state = schemas.ReplayDone
	}
	if a.json {
		return a.printJSON(struct {
			Replay   string `json:"replay"`
			State    string `json:"state"`
			Scanned  int64  `json:"scanned"`
			Total    int64  `json:"total"`
			Redriven int64  `json:"redriven"`
		}{o.ID, state, s.Scanned, s.Total, s.Matched})
	}
	a.printTable([]string{"REPLAY", "STATE", "SCANNED", "REDRIVEN"},
		[][]string{{o.ID, state, fmt.Sprintf("%d of %d", s.Scanned, s.Total), strconv.FormatInt(s.Matched, 10)}})
	return nil
}
