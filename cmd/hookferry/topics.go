package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
)

// topicsCommand makes the topics of a deployment and checks them.
func topicsCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "topics",
		Short: "The topics of this deployment: create, check",
		Long: "All topics that Hookferry reads and writes, with their partitions, retention, compaction, timestamps and sizes, as the section kafka of the\n" +
			"configuration says. Services refuse to start while topics are missing or differ.",
		Example: "  hookferry topics create",
	}
	c.AddCommand(topicsCreateCommand(a), topicsCheckCommand(a))
	return c
}

func topicsCreateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "create",
		Short:   "Make the topics that are missing and alter settings that differ; called again, it changes nothing",
		Example: "  hookferry topics create",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			bar := a.progress("creating topics", int64(len(client.Topics().All())))
			defer bar.Done()
			changes := []kafka.TopicChange{}
			err = client.CreateTopicsFunc(c.Context(), func(ch kafka.TopicChange) {
				changes = append(changes, ch)
				if ch.Change == "created" {
					bar.Add(1)
				}
			})
			bar.Done()
			if a.json { // what was changed before an error is told all the same
				if e := a.printJSON(changes); e != nil && err == nil {
					err = e
				}
				return err
			}
			if len(changes) > 0 {
				rows := make([][]string, len(changes))
				for i, ch := range changes {
					rows[i] = []string{ch.Topic, ch.Change, ch.Detail}
				}
				a.printTable([]string{"TOPIC", "CHANGE", "DETAIL"}, rows)
			} else if err == nil {
				fmt.Fprintf(a.out, "all %d topics are there and as they must be\n", len(client.Topics().All()))
			}
			return err
		},
	}
}

func topicsCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "check",
		Short:   "Say which topics are missing or differ; exit 1 if any",
		Example: "  hookferry topics check",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			report, err := client.InspectTopics(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(report)
			} else {
				printTopicReport(a, report)
			}
			if err == nil && len(report.Problems) > 0 {
				err = &kafka.TopicsError{Problems: report.Problems}
			}
			return err
		},
	}
}

func printTopicReport(a *app, r kafka.TopicReport) {
	if len(r.Problems) > 0 {
		rows := make([][]string, len(r.Problems))
		for i, p := range r.Problems {
			rows[i] = []string{p.Topic, p.Problem}
		}
		a.printTable([]string{"TOPIC", "PROBLEM"}, rows)
	} else {
		fmt.Fprintln(a.out, "all topics are there and as they must be")
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(a.out, "warning:", safeText(w))
	}
}
