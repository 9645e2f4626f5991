package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// replayView is an order as it is shown.
type replayView struct {
	ID           string     `json:"id"`
	Kind         string     `json:"kind"` // replay, or catch_up
	State        string     `json:"state"`
	Note         string     `json:"note,omitempty"`
	Subscription string     `json:"subscription,omitempty"`
	Company      string     `json:"company,omitempty"`
	From         *time.Time `json:"from"` // null: the earliest
	To           *time.Time `json:"to"`   // null: a catch-up ends where the subscription is live again
	Events       []string   `json:"events,omitempty"`
	Entity       string     `json:"entity,omitempty"`
	EventID      string     `json:"event_id,omitempty"`
	Rate         float64    `json:"rate"` // tasks per second; 0: none
	CreatedAt    time.Time  `json:"created_at"`
}

func replayViewOf(o *schemas.Replay) replayView {
	v := replayView{ID: o.ID, Kind: o.Kind, State: o.State, Note: o.Note, Subscription: o.Subscription, Company: o.Company, Events: o.Events, Entity: o.Entity,
		EventID: o.EventID, Rate: o.Rate, CreatedAt: milli(o.CreatedAt)}
	if o.From > earliest.UnixMilli() {
		from := milli(o.From)
		v.From = &from
	}
	switch {
	case o.To != 0:
		to := milli(o.To)
		v.To = &to
	case o.Kind == schemas.ReplayReplay: // it ends where the logs ended
		v.To = &v.CreatedAt
	}
	return v
}

// who is whom it is for, in words.
func (v *replayView) who() string {
	switch {
	case v.Subscription != "":
		return v.Subscription
	case v.Company != "":
		return companyPrefix + v.Company
	}
	return "all"
}

// stretch is its range, in words.
func (v *replayView) stretch() string {
	from, to := "earliest", "live"
	if v.From != nil {
		from = v.From.Format(time.RFC3339)
	}
	if v.To != nil {
		to = v.To.Format(time.RFC3339)
	}
	return from + " to " + to
}

// replayRow is a replay in a list.
type replayRow struct {
	replayView
	Scanned        int64 `json:"scanned"`
	Matched        int64 `json:"tasks"`
	Partitions     int   `json:"partitions"`
	PartitionsDone int   `json:"partitions_done"`
}

func replayListCommand(a *app) *cobra.Command {
	var state string
	var catchUps bool
	var limit int
	states := []string{schemas.ReplayRunning, schemas.ReplayPaused, schemas.ReplayCancelled, schemas.ReplayDone}
	c := &cobra.Command{
		Use:     "list",
		Short:   "The newest replays, and catch-ups with them if asked for",
		Example: "  hookferry replay list --state running --catch-ups",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if state != "" && !slices.Contains(states, state) {
				return usagef("--state: %q is none of %v", state, states)
			}
			if limit < 1 {
				return usagef("--limit must be at least 1")
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			list, err := router.ListReplays(c.Context(), client)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(i router.ReplayInfo) bool {
				return state != "" && i.State != state || i.Kind == schemas.ReplayCatchUp && !catchUps
			})
			rows := make([]replayRow, 0, len(list))
			for _, i := range list[:min(limit, len(list))] {
				rows = append(rows, replayRow{replayViewOf(&i.Replay), i.Scanned, i.Matched, i.Parts, i.PartsDone})
			}
			return a.showReplays(rows, len(list))
		},
	}
	flags := c.Flags()
	flags.StringVar(&state, "state", "", "only those in this state: running, paused, cancelled, done")
	flags.BoolVar(&catchUps, "catch-ups", false, "catch-ups too: what subscriptions missed before they began, and while they were paused")
	flags.IntVar(&limit, "limit", 50, "how many at most, the newest")
	return c
}

func (a *app) showReplays(rows []replayRow, found int) error {
	if a.json {
		return a.printJSON(rows)
	}
	if found == 0 {
		fmt.Fprintln(a.out, "no replays")
		return nil
	}
	table := make([][]string, len(rows))
	for i, r := range rows {
		table[i] = []string{r.ID, r.Kind, r.State, r.who(), r.stretch(), strconv.FormatInt(r.Scanned, 10), strconv.FormatInt(r.Matched, 10),
			r.CreatedAt.Format(time.RFC3339), r.Note}
	}
	a.printTable([]string{"ID", "KIND", "STATE", "FOR", "EVENTS FROM AND TO", "SCANNED", "TASKS", "CREATED", "NOTE"}, table)
	if found > len(rows) {
		fmt.Fprintf(a.out, "(%d of %d; --limit shows more)\n", len(rows), found)
	}
	return nil
}

func replayShowCommand(a *app) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "How far a replay or catch-up has come, by partition, and what became of its tasks",
		Long: "Scanned are the offsets that routers have looked at, tasks what they have made of them. Delivered, dead and dropped are counted from attempts, each task once;\n" +
			"attempts are kept for 7 days.",
		Example: "  hookferry replay show rpl_... --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			table, err := a.table(c.Context())
			if err != nil {
				return err
			}
			client, err := a.kafka(c.Context())
			if err != nil {
				return err
			}
			if watch {
				s, err := router.ReplayState(c.Context(), client, table, args[0])
				if err != nil {
					return err
				}
				return a.followReplay(c.Context(), client, table, args[0], newTally(&s.Replay))
			}
			return a.showReplay(c.Context(), client, table, args[0], true)
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "a live bar until the replay is done or cancelled")
	return c
}

// tally counts what became of a replay's tasks, each once: delivered beats dead beats dropped. It takes some 100 bytes a task.
type tally struct {
	order                    *schemas.Replay
	ends                     map[string]schemas.Verdict
	Delivered, Dead, Dropped int64
	read                     time.Time // when it was last read up to the end
}

func newTally(o *schemas.Replay) *tally {
	return &tally{order: o, ends: map[string]schemas.Verdict{}}
}

// tallyAgain is how far back a tally reads again: longer than a try and the writing of its attempt take. Counting one twice changes nothing.
const tallyAgain = 2 * time.Minute

// catchUp reads the attempts that have come since.
func (t *tally) catchUp(ctx context.Context, client *kafka.Client, watch deliverer.Watch) error {
	since := milli(t.order.CreatedAt).Add(-tallyAgain)
	if again := t.read.Add(-tallyAgain); again.After(since) {
		since = again
	}
	now := time.Now()
	err := deliverer.ReadAttempts(ctx, client, deliverer.AttemptFilter{Subscription: t.order.Subscription, Since: since}, watch, t.take)
	if err == nil {
		t.read = now
	}
	return err
}

// take counts an attempt.
func (t *tally) take(at *schemas.Attempt) {
	if at.Replay != t.order.ID {
		return
	}
	rank := func(v schemas.Verdict) int {
		return slices.Index([]schemas.Verdict{schemas.VerdictDropped, schemas.VerdictDead, schemas.VerdictDelivered}, v)
	}
	had, ended := t.ends[at.TaskID]
	if rank(at.Verdict) < 0 || ended && rank(had) >= rank(at.Verdict) {
		return
	}
	count := func(v schemas.Verdict, n int64) {
		switch v {
		case schemas.VerdictDelivered:
			t.Delivered += n
		case schemas.VerdictDead:
			t.Dead += n
		case schemas.VerdictDropped:
			t.Dropped += n
		}
	}
	if ended {
		count(had, -1)
	}
	count(at.Verdict, 1)
	t.ends[strings.Clone(at.TaskID)] = at.Verdict
}

// replayPartRow is a partition's part of a replay.
type replayPartRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Begin     int64  `json:"begin"`
	Next      int64  `json:"next"`
	End       int64  `json:"end"` // -1: not known yet
	Matched   int64  `json:"tasks"`
	Done      bool   `json:"done"`
}

// replayStatus is all of a replay.
type replayStatus struct {
	replayView
	Scanned     int64           `json:"scanned"` // offsets
	Total       int64           `json:"total"`   // 0: not known yet
	Matched     int64           `json:"tasks"`
	Delivered   int64           `json:"delivered"`
	Dead        int64           `json:"dead"`
	Dropped     int64           `json:"dropped"`
	Waiting     int64           `json:"waiting"` // tasks that have not ended
	PerSecond   float64         `json:"scanned_per_second"`
	TasksPerSec float64         `json:"tasks_per_second"`
	SecondsLeft float64         `json:"seconds_left"` // of routing, at that pace; 0: done, or nobody knows
	Partitions  []replayPartRow `json:"partitions"`
}

func statusOf(s *router.ReplayProgress, t *tally) replayStatus {
	v := replayStatus{replayView: replayViewOf(&s.Replay), Scanned: s.Scanned, Total: s.Total, Matched: s.Matched, Delivered: t.Delivered, Dead: t.Dead, Dropped: t.Dropped,
		Waiting: max(0, s.Matched-t.Delivered-t.Dead-t.Dropped), PerSecond: s.Rate, TasksPerSec: s.TaskRate, SecondsLeft: s.Left.Seconds(), Partitions: []replayPartRow{}}
	for _, p := range s.Parts {
		v.Partitions = append(v.Partitions, replayPartRow{p.Topic, p.Partition, p.Begin, p.Next, p.End, p.Matched, p.Done})
	}
	return v
}

// showReplay prints a replay, for people with or without its partitions, which may be many.
func (a *app) showReplay(ctx context.Context, client *kafka.Client, table *subscriptions.Table, id string, partitions bool) error {
	s, err := router.ReplayState(ctx, client, table, id)
	if err != nil {
		return err
	}
	bar := a.progress("reading attempts", 0)
	defer bar.Done()
	t := newTally(&s.Replay)
	err = t.catchUp(ctx, client, func(read, total int64) {
		bar.outOf(total)
		bar.Set(read)
	})
	bar.Done()
	if err != nil {
		return err
	}
	return a.printReplay(statusOf(s, t), partitions)
}

func (a *app) printReplay(v replayStatus, partitions bool) error {
	if a.json {
		return a.printJSON(v)
	}
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	state := v.State
	if v.Note != "" {
		state += " (" + v.Note + ")"
	}
	scanned := count(v.Scanned)
	if v.Total > 0 {
		scanned += fmt.Sprintf(" of %d (%d%%)", v.Total, v.Scanned*100/v.Total)
	}
	rows := [][]string{
		{"id:", v.ID}, {"kind:", v.Kind}, {"state:", state}, {"for:", v.who()}, {"events:", v.stretch()},
	}
	for _, narrow := range [][2]string{{"only types:", strings.Join(v.Events, ", ")}, {"only entity:", v.Entity}, {"only event:", v.EventID}, {"rate:", nonZero(v.Rate)}} {
		if narrow[1] != "" {
			rows = append(rows, narrow[:])
		}
	}
	rows = append(rows, []string{"created:", v.CreatedAt.Format(time.RFC3339)}, []string{"scanned:", scanned}, []string{"tasks:", count(v.Matched)},
		[]string{"delivered:", count(v.Delivered)}, []string{"dead:", count(v.Dead)}, []string{"dropped:", count(v.Dropped)}, []string{"waiting:", count(v.Waiting)})
	if v.State == schemas.ReplayRunning {
		rows = append(rows, []string{"pace:", fmt.Sprintf("%.0f scanned/s, %.0f tasks/s", v.PerSecond, v.TasksPerSec)})
		if v.SecondsLeft > 0 {
			rows = append(rows, []string{"time left:", (time.Duration(v.SecondsLeft) * time.Second).String()})
		}
	}
	a.printTable(rows[0], rows[1:])
	if len(v.Partitions) == 0 || !partitions {
		return nil
	}
	fmt.Fprintln(a.out)
	parts := make([][]string, len(v.Partitions))
	for i, p := range v.Partitions {
		end, done := "?", ""
		if p.End >= 0 {
			end = count(p.End)
		}
		if p.Done {
			done = "done"
		}
		parts[i] = []string{p.Topic, strconv.Itoa(int(p.Partition)), count(p.Begin), count(p.Next), end, count(p.Matched), done}
	}
	a.printTable([]string{"TOPIC", "PARTITION", "BEGIN", "NEXT", "END", "TASKS", ""}, parts)
	return nil
}

const (
	replayEvery = time.Second     // between two looks at a replay
	tallyEvery  = 5 * time.Second // between two looks at attempts
)

// followReplay waits until a replay is over, with a bar, and prints what came of it; a *cancelledError says that it was cancelled. With a tally the bar shows
// what became of its tasks, too. Whoever interrupts it leaves the replay standing.
func (a *app) followReplay(ctx context.Context, client *kafka.Client, table *subscriptions.Table, id string, t *tally) error {
	bar := a.progress("replaying", 0)
	defer bar.Done()
	tick := time.NewTicker(replayEvery)
	defer tick.Stop()
	moved, last, said := time.Now(), int64(-1), false
	for {
		s, err := router.ReplayState(ctx, client, table, id)
		if err != nil {
			return err
		}
		over := s.Replay.State == schemas.ReplayDone || s.Replay.State == schemas.ReplayCancelled
		if t != nil && (over || time.Since(t.read) >= tallyEvery) {
			if err := t.catchUp(ctx, client, nil); err != nil {
				return err
			}
		}
		if last < 0 {
			bar.joins(s.Scanned)
		}
		bar.name(replayTitle(s, t))
		bar.outOf(s.Total)
		bar.Set(s.Scanned)
		if over {
			break
		}
		if s.Scanned != last || s.Replay.State == schemas.ReplayPaused {
			moved, last = time.Now(), s.Scanned
		} else if !said && time.Since(moved) >= idleAfter {
			said = true
			bar.Note(fmt.Sprintf("note: nothing has moved for %v; perhaps no router runs, or its deliverers are behind. The order stands; Ctrl-C ends only the wait.", idleAfter))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	bar.Done()
	err := a.showReplay(ctx, client, table, id, false)
	if o, again := router.FindReplay(ctx, client, id); again == nil && o != nil && o.State == schemas.ReplayCancelled {
		return cmp.Or(err, error(&cancelledError{[]string{id}}))
	}
	return err
}

// replayTitle is what stands before the bar.
func replayTitle(s *router.ReplayProgress, t *tally) string {
	title := "replaying"
	if s.Replay.State != schemas.ReplayRunning {
		title = "replay " + s.Replay.State
	}
	title += fmt.Sprintf(", %d tasks", s.Matched)
	if t != nil {
		title += fmt.Sprintf(", %d delivered, %d dead", t.Delivered, t.Dead)
	}
	return title
}

// outOf says of how many steps a piece of work is, for which it was not known when it began.
func (p *progress) outOf(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = total
}

// joins begins to show work that others had brought so far before.
func (p *progress) joins(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.from = done, done
}

// name changes the title.
func (p *progress) name(title string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.title = title
}
