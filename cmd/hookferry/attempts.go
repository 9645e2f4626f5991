package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/schemas"
)

// attemptsCommand shows what deliverers have tried, newest last.
func attemptsCommand(a *app) *cobra.Command {
	var f deliverer.AttemptFilter
	var verdict, reason string
	var since time.Duration
	var limit int
	var follow bool
	c := &cobra.Command{
		Use:   "attempts",
		Short: "What was tried and how it went: the newest, filtered, or as they come",
		Long: "Each try at a task makes one attempt, and so does a task that ended without one. With --subscription only that subscription's partition is read.\n" +
			"They are kept for 7 days.",
		Example: "  hookferry attempts --subscription sub_... --verdict retry --since 1h\n  hookferry attempts --follow",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.Verdict, f.Reason = schemas.Verdict(verdict), schemas.Reason(reason)
			if err := cmp.Or(checkVerdict(f.Verdict), checkReason(f.Reason), checkEventType("type", f.EventType), checkPositive(c, "since", since),
				checkLimit(limit)); err != nil {
				return err
			}
			if since > 0 {
				f.Since = time.Now().Add(-since)
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			if follow {
				if f.Subscription != "" {
					if err := a.subscriptionThere(c.Context(), f.Subscription); err != nil {
						return err
					}
				}
				return deliverer.FollowAttempts(c.Context(), client, f, a.printAttempt)
			}
			bar := a.progress("reading", 0)
			defer bar.Done()
			var rows []attemptRow
			newestLast := func(x, y attemptRow) int { return x.StartedAt.Compare(y.StartedAt) }
			err = deliverer.ReadAttempts(c.Context(), client, f, bar.Of, func(at *schemas.Attempt) {
				if rows = append(rows, attemptRowOf(at)); len(rows) > 2*limit { // never more in memory than twice what is shown
					slices.SortStableFunc(rows, newestLast)
					rows = append(rows[:0], rows[len(rows)-limit:]...)
				}
			})
			bar.Done()
			if err != nil {
				return err
			}
			if len(rows) == 0 && f.Subscription != "" {
				if err := a.subscriptionThere(c.Context(), f.Subscription); err != nil {
					return err
				}
			}
			slices.SortStableFunc(rows, newestLast)
			return a.showAttempts(rows[max(0, len(rows)-limit):])
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.Subscription, "subscription", "", "only this subscription's")
	flags.StringVar(&f.Company, "company", "", "only this company's")
	flags.StringVar(&f.EventID, "event", "", "only this event's")
	flags.StringVar(&f.EventType, "type", "", "only this event type's (booking.creation)")
	flags.StringVar(&f.TaskID, "task", "", "only this task's")
	flags.StringVar(&verdict, "verdict", "", "delivered, retry, dead, postponed or dropped")
	flags.StringVar(&reason, "reason", "", "only those with this reason (timeout, http_5xx ...)")
	flags.DurationVar(&since, "since", 0, "only those begun within this time (1h)")
	flags.IntVar(&limit, "limit", 50, "how many at most, the newest")
	flags.BoolVarP(&follow, "follow", "f", false, "print attempts as they come, until interrupted")
	return c
}

// attemptRow is an attempt as programs see it.
type attemptRow struct {
	StartedAt    time.Time  `json:"started_at"`
	TaskID       string     `json:"task_id"`
	Subscription string     `json:"subscription"`
	Company      string     `json:"company"`
	EventID      string     `json:"event_id"`
	EventType    string     `json:"event_type"`
	EntityID     string     `json:"entity_id"`
	Number       int32      `json:"number,omitempty"` // of the try; 0, left out: none was made
	Round        int64      `json:"round,omitempty"`
	DurationMs   float64    `json:"duration_ms"`
	Address      string     `json:"address,omitempty"`
	Status       int32      `json:"status,omitempty"`
	Verdict      string     `json:"verdict"`
	Reason       string     `json:"reason,omitempty"`
	NextDue      *time.Time `json:"next_due,omitempty"`
	Answer       string     `json:"answer,omitempty"`
	Sent         int64      `json:"bytes_sent"`
	Received     int64      `json:"bytes_received"`
	Source       string     `json:"source"`
	Replay       string     `json:"replay,omitempty"`
}

func attemptRowOf(at *schemas.Attempt) attemptRow {
	r := attemptRow{
		StartedAt: time.UnixMilli(at.StartedAt).UTC(), TaskID: at.TaskID, Subscription: at.Subscription, Company: at.Company, EventID: at.EventID,
		EventType: at.EventType, EntityID: at.EntityID, Round: at.Round, DurationMs: float64(at.DurationMicros) / 1000,
		Address: at.Address, Status: at.Status, Verdict: string(at.Verdict), Reason: string(at.Reason), Answer: string(at.Answer),
		Sent: at.BytesSent, Received: at.BytesReceived, Replay: at.Replay,
		Source: fmt.Sprintf("%s/%d@%d", at.Source.Topic, at.Source.Partition, at.Source.Offset),
	}
	if at.Tried() {
		r.Number = at.Number
	}
	if at.NextDue != 0 {
		due := time.UnixMilli(at.NextDue).UTC()
		r.NextDue = &due
	}
	return r
}

func (r *attemptRow) cells() []string {
	try, status := "-", "-"
	if r.Number != 0 {
		try = strconv.Itoa(int(r.Number))
	}
	if r.Status != 0 {
		status = strconv.Itoa(int(r.Status))
	}
	verdict := r.Verdict
	if r.Reason != "" {
		verdict += " " + r.Reason
	}
	next := ""
	if r.NextDue != nil {
		next = r.NextDue.Format(time.RFC3339)
	}
	return []string{r.StartedAt.Format("2006-01-02T15:04:05.000Z"), r.Subscription, r.EventType, r.EventID, try, status, verdict,
		strconv.FormatFloat(r.DurationMs, 'f', 1, 64), next, r.TaskID}
}

var attemptHeader = []string{"STARTED", "SUBSCRIPTION", "TYPE", "EVENT", "TRY", "STATUS", "VERDICT", "MS", "NEXT", "TASK"}

func (a *app) showAttempts(rows []attemptRow) error {
	if a.json {
		if rows == nil {
			rows = []attemptRow{}
		}
		return a.printJSON(rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.out, "no attempts")
		return nil
	}
	table := make([][]string, len(rows))
	for i := range rows {
		table[i] = rows[i].cells()
	}
	a.printTable(attemptHeader, table)
	return nil
}

// printAttempt prints one attempt of a stream.
func (a *app) printAttempt(at *schemas.Attempt) {
	r := attemptRowOf(at)
	if a.json {
		a.printJSONLine(r)
		return
	}
	for i, cell := range r.cells() {
		if i > 0 {
			fmt.Fprint(a.out, "  ")
		}
		fmt.Fprint(a.out, safeText(cell))
	}
	fmt.Fprintln(a.out)
}
