package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// cutWait is how long a command waits, as a rule, until a cut has passed.
const cutWait = 3250 * time.Millisecond

// fromFlag is the time that --from of create says, in ms; 0: it was not given.
func fromFlag(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	t, err := parseWhen("from", text, time.Now())
	if err != nil {
		return 0, err
	}
	return max(t.UnixMilli(), subscriptions.Earliest), nil
}

func subscriptionsPauseCommand(a *app) *cobra.Command {
	var company, reason string
	c := &cobra.Command{
		Use:   "pause ID|NAME",
		Short: "Stop the sends to a subscription and keep what is owed to it",
		Long: "Stops the sends at once and returns when no router routes to the subscription any more, about three seconds later. What is published from then on stays in\n" +
			"the log, as long as its topic keeps it (`retention.events`, 14 days by default); tasks that come up meanwhile lie in dead as paused. Resume sends both.",
		Example: "  hookferry subscriptions pause crm --company c0ffee01 --reason 'moving to a new server'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			w, l, err := a.subscriptionToChange(c.Context(), args[0], company)
			if err != nil {
				return err
			}
			done := a.waiting("waiting until every router knows it (ms)", cutWait)
			l, err = w.Pause(c.Context(), l.ID, reason)
			done()
			if l == nil {
				return err
			}
			return errors.Join(err, a.showSubscription(viewOf(l)))
		},
	}
	addCompanyFlag(c, &company)
	c.Flags().StringVar(&reason, "reason", "", "why, for those who come by later")
	return c
}

func subscriptionsResumeCommand(a *app) *cobra.Command {
	var company string
	var acceptGap bool
	c := &cobra.Command{
		Use:   "resume ID|NAME",
		Short: "Make a paused or disabled subscription active again, without loss",
		Long: "Makes a paused or disabled subscription active again and returns when it is live, about three seconds later. What was published meanwhile is routed by a\n" +
			"catch-up, and what came up meanwhile is put back in line by a redrive; both run beside the live events, and the command prints their ids.\n" +
			"If the topics' retention has passed the start of the pause, it says which ranges are gone and refuses; --accept-gap goes on without them.",
		Example: "  hookferry subscriptions resume crm --company c0ffee01",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			w, l, err := a.subscriptionToChange(c.Context(), args[0], company)
			if err != nil {
				return err
			}
			done := a.waiting("waiting until every router knows it (ms)", cutWait)
			r, err := w.Resume(c.Context(), l.ID, acceptGap)
			done()
			if r == nil {
				return err
			}
			return errors.Join(err, a.showResumed(r))
		},
	}
	addCompanyFlag(c, &company)
	c.Flags().BoolVar(&acceptGap, "accept-gap", false, "go on where retention has taken a part of what was published meanwhile")
	return c
}

// subscriptionToChange finds a subscription, and who may change it.
func (a *app) subscriptionToChange(ctx context.Context, arg, company string) (*subscriptions.Writer, *subscriptions.Live, error) {
	w, t, err := a.writer(ctx)
	if err != nil {
		return nil, nil, err
	}
	l, err := findSubscription(t, arg, company)
	return w, l, err
}

func (a *app) showResumed(r *subscriptions.Resumed) error {
	if a.json {
		return a.printJSON(struct {
			subscriptionView
			CatchUp string              `json:"catch_up,omitempty"`
			Redrive string              `json:"redrive,omitempty"`
			Gaps    []subscriptions.Gap `json:"gaps,omitempty"`
		}{viewOf(r.Live), r.CatchUp, r.Redrive, r.Gaps})
	}
	if err := a.showSubscription(viewOf(r.Live)); err != nil {
		return err
	}
	for _, g := range r.Gaps {
		fmt.Fprintf(a.out, "gone: %s\n", safeText(g.String()))
	}
	if r.CatchUp != "" {
		fmt.Fprintf(a.out, "\nwhat was published meanwhile: catch-up %s\nwhat came up meanwhile:       redrive  %s\n", r.CatchUp, r.Redrive)
	}
	return nil
}

// spanRows tells the life of a subscription: from when on it was live, and from when on not.
func spanRows(v *subscriptionView) (rows [][]string) {
	const form = "2006-01-02 15:04:05.000Z07:00"
	if v.BackfilledFrom != nil {
		from := v.BackfilledFrom.Format(form)
		if v.BackfilledFrom.UnixMilli() == subscriptions.Earliest {
			from = "earliest"
		}
		rows = append(rows, []string{"backfilled from", from})
	}
	for _, cut := range v.Cuts {
		what := strings.TrimSpace(cut.At.Format(form) + " " + cut.Reason)
		if cut.CatchUp != "" {
			what += " (before: catch-up " + cut.CatchUp + ")"
		}
		rows = append(rows, []string{cut.Kind + " from", what})
	}
	if n := len(v.Cuts); n > 0 && v.Cuts[n-1].Kind == schemas.CutPaused {
		rows = append(rows, []string{"kept since then", "what is published and what comes up, until resume"})
	}
	return rows
}
