package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// replayCommand routes a stretch of the log again.
func replayCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "replay",
		Short: "A stretch of the log, routed again: create, list, show, cancel, pause, resume",
		Long: "A replay makes new tasks of old events, for one subscription, for those of a company, or for all. Routers work it off beside the live path, deliverers send\n" +
			"its tasks behind live ones, under the same webhook-id as before and with the header webhook-replay. It survives every process. docs/replays.md has the rest.",
		Example: "  hookferry replay create --subscription sub_... --from 24h",
	}
	c.AddCommand(replayCreateCommand(a), replayListCommand(a), replayShowCommand(a),
		replayStateCommand(a, "cancel", schemas.ReplayCancelled, "End a replay for good; what has not been sent is dropped, within seconds"),
		replayStateCommand(a, "pause", schemas.ReplayPaused, "Let a replay rest: nothing more is routed, and its tasks wait"),
		replayStateCommand(a, "resume", schemas.ReplayRunning, "Let a paused replay go on where it stood"))
	return c
}

const (
	// askAbove is the number of sends above which a replay must be confirmed; one for several subscriptions always is.
	askAbove      = 10_000
	companyPrefix = "company="
)

// replayFlags are what a replay is made of, as it is given.
type replayFlags struct {
	subscription, company, subscriptions string
	all                                  bool
	from, to                             string
	offsets                              []string
	draft                                router.ReplayDraft
}

func (f *replayFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.subscription, "subscription", "", "for this subscription (id or name)")
	addCompanyFlag(c, &f.company)
	flags.StringVar(&f.subscriptions, "subscriptions", "", "for several: 'company=C' means every active one of that company")
	flags.BoolVar(&f.all, "all", false, "for every active subscription of every company")
	flags.StringVar(&f.from, "from", "", "events appended from here on: a time (RFC 3339), a duration (so long ago), or earliest")
	flags.StringVar(&f.to, "to", "now", "and before this")
	flags.StringArrayVar(&f.offsets, "offsets", nil, "a range of offsets instead, TOPIC/PARTITION:BEGIN-END (END is not in it); may be repeated")
	flags.StringSliceVar(&f.draft.Events, "events", nil, "only these event types or patterns (booking.creation, booking.*, *.removal)")
	flags.StringVar(&f.draft.Entity, "entity", "", "only this entity's events")
	flags.StringVar(&f.draft.EventID, "event", "", "only this event")
	flags.Float64Var(&f.draft.Rate, "rate", 0, "tasks per second at most (0: as fast as deliverers take them)")
}

// take reads the flags. Whom it is for is looked up in the table.
func (f *replayFlags) take(t *subscriptions.Table, names kafka.Names, now time.Time) (router.ReplayDraft, error) {
	d := f.draft
	var err error
	if f.subscription != "" {
		l, err := findSubscription(t, f.subscription, f.company)
		if err != nil {
			return d, err
		}
		d.Subscription = l.ID
	}
	d.All = f.all
	if f.subscriptions != "" {
		company, ok := strings.CutPrefix(f.subscriptions, companyPrefix)
		if !ok || company == "" {
			return d, usagef("--subscriptions: %q is not of the form 'company=C'", f.subscriptions)
		}
		d.Company = company
	}
	if f.from == "" && len(f.offsets) == 0 {
		return d, usagef("say from when on (--from 24h, --from earliest), or which --offsets")
	}
	if f.from != "" {
		if d.From, err = parseWhen("from", f.from, now); err != nil {
			return d, err
		}
		if d.From.Equal(earliest) {
			d.From = time.Time{}
		}
	}
	if f.to != "now" { // which is where the logs end
		if d.To, err = parseWhen("to", f.to, now); err != nil {
			return d, err
		}
	}
	for _, text := range f.offsets {
		begin, end, err := parseOffsets(text, names)
		if err != nil {
			return d, err
		}
		if slices.ContainsFunc(d.Begins, func(o schemas.PartitionOffset) bool { return o.Topic == begin.Topic && o.Partition == begin.Partition }) {
			return d, usagef("--offsets: %s/%d is named twice, and a replay takes one range of a partition", begin.Topic, begin.Partition)
		}
		d.Begins, d.Ends = append(d.Begins, begin), append(d.Ends, end)
	}
	return d, nil
}

// parseOffsets reads TOPIC/PARTITION:BEGIN-END. The topic may be given without the prefix of the deployment, and by its entity alone.
func parseOffsets(text string, names kafka.Names) (begin, end schemas.PartitionOffset, err error) {
	place, offsets, ok := strings.Cut(text, ":")
	topic, partition, ok2 := strings.Cut(place, "/")
	from, to, ok3 := strings.Cut(offsets, "-")
	p, err1 := strconv.ParseInt(partition, 10, 32)
	b, err2 := strconv.ParseInt(from, 10, 64)
	e, err3 := strconv.ParseInt(to, 10, 64)
	if !ok || !ok2 || !ok3 || err1 != nil || err2 != nil || err3 != nil || p < 0 || b < 0 || e <= b {
		return begin, end, usagef("--offsets: %q is not of the form TOPIC/PARTITION:BEGIN-END, such as booking/3:100-200 for the offsets 100 to 199", text)
	}
	full := names.Events[strings.TrimPrefix(topic, "events.")]
	if slices.Contains(names.EventTopics(), topic) {
		full = topic
	}
	if full == "" {
		return begin, end, usagef("--offsets: %q is no topic of events (hookferry topics check lists them)", topic)
	}
	return schemas.PartitionOffset{Topic: full, Partition: int32(p), Offset: b}, schemas.PartitionOffset{Topic: full, Partition: int32(p), Offset: e}, nil
}

// partitionsExist refuses partitions that are not there: a replay of nothing would be done at once, and look like a success.
func partitionsExist(ctx context.Context, client *kafka.Client, list []schemas.PartitionOffset) error {
	for _, o := range list {
		n, err := client.PartitionCount(ctx, o.Topic)
		if err != nil {
			return err
		}
		if int(o.Partition) >= n {
			return usagef("--offsets: %s has %d partitions, and %d is none of them", o.Topic, n, o.Partition)
		}
	}
	return nil
}

func replayCreateCommand(a *app) *cobra.Command {
	var f replayFlags
	var dryRun, detach, yes bool
	c := &cobra.Command{
		Use:   "create",
		Short: "Route a stretch of the log again",
		Long: "Writes the order, which routers work off, and waits until all its tasks are made; --detach does not wait, and Ctrl-C ends only the wait. Where it is for\n" +
			"several subscriptions, or makes more than 10,000 sends, it first counts them and asks. --dry-run counts and does nothing.",
		Example: "  hookferry replay create --subscription sub_... --from 2026-01-30T00:00:00Z --to 2026-01-31T00:00:00Z --events 'booking.*' --dry-run\n" +
			"  hookferry replay create --subscriptions company=c0ffee01 --from 6h --rate 50 --yes",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			table, err := a.table(ctx)
			if err != nil {
				return err
			}
			client, err := a.kafka(ctx)
			if err != nil {
				return err
			}
			d, err := f.take(table, client.Topics(), time.Now())
			if err != nil {
				return err
			}
			if err := partitionsExist(ctx, client, d.Begins); err != nil {
				return err
			}
			if dryRun || !yes {
				plan, err := a.planReplay(ctx, client, table, d)
				if err != nil {
					return err
				}
				if dryRun {
					return a.showPlan(plan)
				}
				if err := a.confirmReplay(plan); err != nil {
					return err
				}
				d = plan.Draft // what was counted is what is replayed
			}
			o, err := router.StartReplay(ctx, client, table, d)
			if err != nil {
				return err
			}
			if detach {
				return a.showReplay(ctx, client, table, o.ID, false)
			}
			return a.followReplay(ctx, client, table, o.ID, nil)
		},
	}
	f.add(c)
	flags := c.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "count what it would do: events, tasks, bytes, time. Nothing is written")
	flags.BoolVar(&detach, "detach", false, "do not wait")
	flags.BoolVar(&yes, "yes", false, "do not ask, and do not count before")
	return c
}

// planReplay counts what a replay would do.
func (a *app) planReplay(ctx context.Context, client *kafka.Client, table *subscriptions.Table, d router.ReplayDraft) (*router.ReplayPlan, error) {
	cfg, err := a.cfg()
	if err != nil {
		return nil, err
	}
	bar := a.progress("counting", 0)
	defer bar.Done()
	return router.PlanReplay(ctx, client, table, cfg.Router, d, func(read, total int64) {
		bar.outOf(total)
		bar.Set(read)
	})
}

// confirmReplay asks before many sends. Where nobody can be asked they are refused.
func (a *app) confirmReplay(p *router.ReplayPlan) error {
	if p.Subscriptions <= 1 && p.Tasks <= askAbove {
		return nil
	}
	what := fmt.Sprintf("%d sends to %d subscriptions, of %d events", p.Tasks, p.Subscriptions, p.Matched)
	if p.Time > 0 {
		what += fmt.Sprintf(", over at least %v", p.Time.Round(time.Second))
	}
	if a.interactive() && a.confirm("This replay makes "+what+". Go on? [y/N] ") {
		return nil
	}
	return &refusal{"not_confirmed", "nothing was replayed: this makes " + what + "; --yes goes on without asking"}
}

// planView is a dry run as it is shown.
type planView struct {
	From          *time.Time      `json:"from"` // null: the earliest
	To            time.Time       `json:"to"`
	Subscriptions int             `json:"subscriptions"`
	LeftOut       int             `json:"left_out"` // paused and disabled ones
	Scanned       int64           `json:"scanned"`
	Matched       int64           `json:"matched"`
	Tasks         int64           `json:"tasks"`
	Bytes         int64           `json:"bytes"`
	Undecodable   int64           `json:"undecodable"`
	Seconds       float64         `json:"seconds"` // at least, at the rates; 0: no rate bounds it
	Gone          bool            `json:"gone"`    // retention has removed the beginning
	Topics        []planTopicView `json:"topics"`
}

type planTopicView struct {
	Topic   string `json:"topic"`
	Scanned int64  `json:"scanned"`
	Matched int64  `json:"matched"`
	Tasks   int64  `json:"tasks"`
	Bytes   int64  `json:"bytes"`
}

func (a *app) showPlan(p *router.ReplayPlan) error {
	v := planView{To: p.To.UTC(), Subscriptions: p.Subscriptions, LeftOut: p.LeftOut, Scanned: p.Scanned, Matched: p.Matched, Tasks: p.Tasks, Bytes: p.Bytes,
		Undecodable: p.Undecodable, Seconds: p.Time.Seconds(), Gone: p.Gone, Topics: []planTopicView{}}
	if !p.Draft.From.IsZero() {
		from := p.Draft.From.UTC()
		v.From = &from
	}
	for _, t := range p.Topics {
		v.Topics = append(v.Topics, planTopicView{t.Topic, t.Scanned, t.Matched, t.Tasks, t.Bytes})
	}
	if a.json {
		return a.printJSON(v)
	}
	rows := make([][]string, 0, len(v.Topics)+1)
	row := func(name string, numbers ...int64) {
		cells := []string{name}
		for _, n := range numbers[:3] {
			cells = append(cells, strconv.FormatInt(n, 10))
		}
		rows = append(rows, append(cells, sizeText(numbers[3])))
	}
	for _, t := range v.Topics {
		row(t.Topic, t.Scanned, t.Matched, t.Tasks, t.Bytes)
	}
	row("ALL", v.Scanned, v.Matched, v.Tasks, v.Bytes)
	a.printTable([]string{"TOPIC", "EVENTS", "MATCHING", "SENDS", "BODIES"}, rows)
	took := "as fast as deliverers and receivers take them"
	if p.Time > 0 {
		took = "over at least " + p.Time.Round(time.Second).String() + ", by the rates"
	}
	fmt.Fprintf(a.out, "\n%d sends to %d subscriptions, %s. Nothing was written (dry run).\n", v.Tasks, v.Subscriptions, took)
	if v.LeftOut > 0 {
		fmt.Fprintf(a.out, "note: %d subscriptions are paused or disabled and would get nothing\n", v.LeftOut)
	}
	if v.Undecodable > 0 {
		fmt.Fprintf(a.out, "note: %d events cannot be read; they stand in undecodable\n", v.Undecodable)
	}
	if v.Gone {
		fmt.Fprintln(a.out, "note: retention has removed the beginning of this range")
	}
	return nil
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string {
	const kib = 1024.0
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if f < kib {
			return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + " " + unit
		}
		f /= kib
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " TiB"
}

// replayStateCommand is cancel, pause or resume.
func replayStateCommand(a *app, name, state, short string) *cobra.Command {
	var note string
	c := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Example: "  hookferry replay " + name + " rpl_... --note 'the receiver is being mended'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			o, err := router.SetReplayState(c.Context(), client, args[0], state, note)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(replayViewOf(o))
			}
			fmt.Fprintf(a.out, "%s is %s\n", o.ID, o.State)
			return nil
		},
	}
	c.Flags().StringVar(&note, "note", "", "why; it is shown by list and show")
	return c
}
