package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// undecodableCommand shows the records that no router could read, and sends them through again once the reason is gone.
func undecodableCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "undecodable",
		Short: "Events that could not be read: list, show, reroute",
		Long: "A record of an events topic that cannot be read as an event is kept byte by byte in the topic undecodable, and routing goes on behind it.\n" +
			"Once the reason is gone (a schema was registered, a newer release runs), reroute sends it through again under the ids that it would have had.",
		Example: "  hookferry undecodable list --reason unknown_schema",
	}
	c.AddCommand(undecodableListCommand(a), undecodableShowCommand(a), undecodableRerouteCommand(a))
	return c
}

// undecodableRow is a record without its bytes: a list may be long.
type undecodableRow struct {
	ID     string         `json:"id"`
	At     time.Time      `json:"at"`
	Reason string         `json:"reason"`
	Source undecodableSrc `json:"source"`
	Key    string         `json:"key"`
	Bytes  int            `json:"bytes"`
	// Of a record that was too large to be kept: its size. It stands at its source until retention removes it.
	LeftOut int64 `json:"left_out,omitempty"`
}

type undecodableSrc struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Appended  time.Time `json:"appended"`
}

func undecodableRowOf(u *router.Undecodable) undecodableRow {
	return undecodableRow{
		ID: u.ID(), At: time.UnixMilli(u.Time).UTC(), Reason: u.Reason, Key: string(u.Key), Bytes: len(u.Value), LeftOut: u.LeftOut,
		Source: undecodableSrc{u.Source.Topic, u.Source.Partition, u.Source.Offset, time.UnixMilli(u.Source.Time).UTC()},
	}
}

func undecodableListCommand(a *app) *cobra.Command {
	var reason string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "The newest undecodable records",
		Example: "  hookferry undecodable list --limit 20",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cmp.Or(checkUndecodableReason(reason), checkLimit(limit)); err != nil {
				return err
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			bar := a.progress("reading", 0)
			defer bar.Done()
			newest := func(x, y undecodableRow) int { return cmp.Or(y.At.Compare(x.At), cmp.Compare(x.ID, y.ID)) }
			var rows []undecodableRow
			var found int
			_, err = router.ScanUndecodable(c.Context(), client, -1, bar.Of, func(u *router.Undecodable) bool {
				if reason != "" && reason != u.Reason {
					return true
				}
				found++
				if rows = append(rows, undecodableRowOf(u)); len(rows) > 2*limit { // never more in memory than twice what is shown
					slices.SortFunc(rows, newest)
					rows = rows[:limit]
				}
				return true
			})
			bar.Done()
			if err != nil {
				return err
			}
			slices.SortFunc(rows, newest)
			rows = rows[:min(limit, len(rows))]
			return a.showUndecodable(rows, found)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "only those with this reason")
	c.Flags().IntVar(&limit, "limit", 50, "how many at most, the newest")
	return c
}

func (a *app) showUndecodable(rows []undecodableRow, found int) error {
	if a.json {
		if rows == nil {
			rows = []undecodableRow{}
		}
		return a.printJSON(rows)
	}
	if found == 0 {
		fmt.Fprintln(a.out, "nothing is undecodable")
		return nil
	}
	table := make([][]string, len(rows))
	for i, r := range rows {
		table[i] = []string{r.ID, r.At.Format(time.RFC3339), r.Reason, fmt.Sprintf("%s/%d@%d", r.Source.Topic, r.Source.Partition, r.Source.Offset), r.Key, strconv.Itoa(r.Bytes)}
	}
	a.printTable([]string{"ID", "AT", "REASON", "SOURCE", "KEY", "BYTES"}, table)
	if found > len(rows) {
		fmt.Fprintf(a.out, "(%d of %d; --limit shows more)\n", len(rows), found)
	}
	return nil
}

func undecodableShowCommand(a *app) *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "One undecodable record, with its bytes",
		Example: "  hookferry undecodable show 3-42 --raw > event.avro",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			partition, offset, err := router.ParseUndecodableID(args[0])
			if err != nil {
				return err
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			var found *router.Undecodable
			_, err = router.ScanUndecodable(c.Context(), client, partition, nil, func(u *router.Undecodable) bool {
				if u.Offset == offset {
					one := *u
					found = &one
				}
				return u.Offset < offset
			})
			if err != nil {
				return err
			}
			if found == nil {
				return &router.IDError{Text: args[0], Missing: true}
			}
			if raw {
				_, err := a.out.Write(found.Value)
				return err
			}
			return a.showUndecodableRecord(found)
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "write the record's bytes as they are, and nothing else")
	return c
}

func (a *app) showUndecodableRecord(u *router.Undecodable) error {
	type header struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	headers := make([]header, len(u.Headers))
	for i, h := range u.Headers {
		headers[i] = header{h.Key, string(h.Value)}
	}
	row := undecodableRowOf(u)
	if a.json {
		return a.printJSON(struct {
			undecodableRow
			Headers []header `json:"headers"`
			Value   []byte   `json:"value"` // base64; null if it had none
		}{row, headers, u.Value})
	}
	rows := [][]string{
		{"id", row.ID}, {"at", row.At.Format(time.RFC3339)}, {"reason", row.Reason},
		{"source", fmt.Sprintf("%s/%d@%d", row.Source.Topic, row.Source.Partition, row.Source.Offset)},
		{"appended", row.Source.Appended.Format(time.RFC3339Nano)}, {"key", row.Key},
	}
	for _, h := range headers {
		rows = append(rows, []string{"header " + h.Key, h.Value})
	}
	if u.LeftOut > 0 {
		rows = append(rows, []string{"value", fmt.Sprintf("left out, for the record has %d bytes; it stands at its source until retention removes it", u.LeftOut)})
	} else if u.Value == nil {
		rows = append(rows, []string{"value", "none"})
	} else {
		rows = append(rows, []string{"value", strconv.Itoa(len(u.Value)) + " bytes"})
	}
	a.printTable([]string{"FIELD", "VALUE"}, rows)
	const shown = 1024
	fmt.Fprint(a.out, hex.Dump(u.Value[:min(shown, len(u.Value))]))
	if len(u.Value) > shown {
		fmt.Fprintf(a.out, "(%d bytes more; --raw writes all of it)\n", len(u.Value)-shown)
	}
	return nil
}

func undecodableRerouteCommand(a *app) *cobra.Command {
	var f router.RerouteFilter
	var all, detach bool
	var cancel string
	c := &cobra.Command{
		Use:   "reroute [ID...]",
		Short: "Send undecodable records through again",
		Long: "Writes a record that the routers work off, each for its own partitions, and waits until it is done. What was there when it was written is taken;\n" +
			"what still cannot be read stays where it is. Sending a record through twice makes no second task.",
		Example: "  hookferry undecodable reroute --all --reason unknown_schema",
		RunE: func(c *cobra.Command, ids []string) error {
			if err := cmp.Or(checkUndecodableReason(f.Reason), checkRate("rate", f.Rate)); err != nil {
				return err
			}
			if cancel != "" {
				return a.cancelReroute(c.Context(), cancel)
			}
			if all == (len(ids) > 0) {
				return usagef("name records by ID, or say --all")
			}
			for _, id := range ids {
				if _, _, err := router.ParseUndecodableID(id); err != nil {
					return err
				}
			}
			if all {
				ids = []string{""}
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			var reroutes []*schemas.Replay
			for _, id := range ids {
				f.ID = id
				o, err := router.StartReroute(c.Context(), client, f)
				if err != nil {
					return err
				}
				reroutes = append(reroutes, o)
			}
			if detach {
				return a.showReroutes(c.Context(), client, reroutes)
			}
			err = a.followReroutes(c.Context(), client, reroutes)
			if err != nil && !errors.As(err, new(*cancelledError)) {
				return err
			}
			return errors.Join(err, a.showReroutes(c.Context(), client, reroutes))
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all records that are there now")
	c.Flags().StringVar(&f.Reason, "reason", "", "only those with this reason")
	c.Flags().Float64Var(&f.Rate, "rate", 0, "records a second at most in each partition (0: as fast as it goes)")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait")
	c.Flags().StringVar(&cancel, "cancel", "", "take the reroute with this replay id back")
	return c
}

// followReroutes waits until all reroutes are done or taken back. Whoever interrupts it leaves them standing.
func (a *app) followReroutes(ctx context.Context, client *kafka.Client, reroutes []*schemas.Replay) error {
	return a.followReplays(ctx, client, "rerouting", "router", reroutes, func(o *schemas.Replay) (int64, bool, error) {
		s, err := router.RerouteProgress(ctx, client, o)
		return s.Scanned, s.Done(), err
	})
}

// rerouteRow is what people and programs see of a reroute.
type rerouteRow struct {
	Replay  string `json:"replay"`
	State   string `json:"state"`
	Scanned int64  `json:"scanned"`
	Routed  int64  `json:"routed"`
}

func (a *app) showReroutes(ctx context.Context, client *kafka.Client, reroutes []*schemas.Replay) error {
	var rows []rerouteRow
	var table [][]string
	for _, o := range reroutes {
		s, err := router.RerouteProgress(ctx, client, o)
		if err != nil {
			return err
		}
		state := o.State
		if s.Done() {
			state = schemas.ReplayDone
		}
		rows = append(rows, rerouteRow{o.ID, state, s.Scanned, s.Matched})
		table = append(table, []string{o.ID, state, strconv.FormatInt(s.Scanned, 10), strconv.FormatInt(s.Matched, 10)})
	}
	if a.json {
		return a.printJSON(rows)
	}
	a.printTable([]string{"REPLAY", "STATE", "SCANNED", "ROUTED"}, table)
	return nil
}

func (a *app) cancelReroute(ctx context.Context, id string) error {
	client, err := a.kafka(ctx)
	if err != nil {
		return err
	}
	o, err := router.FindReroute(ctx, client, id)
	if err != nil {
		return err
	}
	if o == nil {
		return &refusal{"no_such_replay", "there is no reroute with the id " + strconv.Quote(id)}
	}
	if err := router.CancelReroute(ctx, client, o); err != nil {
		return err
	}
	o.State = schemas.ReplayCancelled
	return a.showReroutes(ctx, client, []*schemas.Replay{o})
}
