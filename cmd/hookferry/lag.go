package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/deliverer"
)

// lagCommand shows what waits: by subscription, from the offsets that the deliverers have committed.
func lagCommand(a *app) *cobra.Command {
	var subscription string
	c := &cobra.Command{
		Use:   "lag",
		Short: "Tasks that wait, by subscription and partition",
		Long: "Reads all task topics from the deliverers' committed offsets on and counts what is not finished: tasks that are new, and tasks that wait for their next try.\n" +
			"A subscription's tasks lie in one partition.",
		Example: "  hookferry lag --subscription sub_...",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.cfg()
			if err != nil {
				return err
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			bar := a.progress("reading", 0)
			defer bar.Done()
			lags, err := deliverer.ReadLag(c.Context(), client, cfg.Deliverer.Group, subscription, bar.Of)
			bar.Done()
			if err != nil {
				return err
			}
			if len(lags) == 0 && subscription != "" {
				if err := a.subscriptionThere(c.Context(), subscription); err != nil {
					return err
				}
			}
			return a.showLag(lags, time.Now())
		},
	}
	c.Flags().StringVar(&subscription, "subscription", "", "only this subscription's")
	return c
}

type lagRow struct {
	Subscription string    `json:"subscription"`
	Partition    int32     `json:"partition"`
	Waiting      int64     `json:"waiting"`
	Retrying     int64     `json:"retrying"`
	OldestDue    time.Time `json:"oldest_due"`
}

func (a *app) showLag(lags []deliverer.Lag, now time.Time) error {
	rows := make([]lagRow, len(lags))
	for i, l := range lags {
		rows[i] = lagRow{l.Subscription, l.Partition, l.Waiting, l.Retrying, l.OldestDue.UTC()}
	}
	if a.json {
		return a.printJSON(rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.out, "nothing waits")
		return nil
	}
	table := make([][]string, len(rows))
	for i, r := range rows {
		late := ""
		if d := now.Sub(r.OldestDue); d > 0 {
			late = d.Round(time.Second).String()
		}
		table[i] = []string{r.Subscription, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Waiting, 10), strconv.FormatInt(r.Retrying, 10),
			r.OldestDue.Format(time.RFC3339), late}
	}
	a.printTable([]string{"SUBSCRIPTION", "PARTITION", "WAITING", "RETRYING", "OLDEST DUE", "LATE BY"}, table)
	return nil
}
