package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

// This file says what was found: one line, and below it, where a promise broke, the history of each task that it broke for.

var errBroken = errors.New("see above")

// Shown on the screen of each class of breaches; the kept directory has more, up to mostTold of each.
const (
	mostShown = 3
	mostTold  = 50
)

// verdict prints one line, and what was found wrong below it.
func (s *scenario) verdict(f *Finding, w *world, took time.Duration) error {
	told, wrong := s.judge(f, w)
	ok := f.OK() && len(wrong) == 0
	var text bytes.Buffer
	word := "ok  "
	if !ok {
		word = "FAIL"
	}
	fmt.Fprintf(&text, "%s  %-16s %s: %s (%.0f s, seed %d)\n", word, s.name, s.what, f, took.Seconds(), w.seed)
	for _, line := range told {
		fmt.Fprintf(&text, "      %s\n", line)
	}
	for _, why := range slices.Sorted(maps.Keys(f.Explained)) {
		fmt.Fprintf(&text, "      %d duplicates: %s\n", f.Explained[why], why)
	}
	for _, line := range wrong {
		fmt.Fprintf(&text, "      broken: %s\n", line)
	}
	os.Stdout.Write(text.Bytes())
	if !ok {
		w.ran.tell(os.Stdout, f, mostShown)
		w.ran.tell(&text, f, mostTold)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "verdict.txt"), text.Bytes(), 0o600); err != nil {
		return err
	}
	if !ok {
		return errBroken
	}
	return nil
}

// judge holds a run against what its scenario allows beside the promises that the checker knows: what there is to tell, and what was broken.
func (s *scenario) judge(f *Finding, w *world) (told, wrong []string) {
	if s.noRepeat && f.Duplicates > 0 {
		wrong = append(wrong, "not one duplicate is allowed here")
	}
	if share := float64(f.Duplicates) / float64(max(f.Delivered, 1)); s.maxDuplicates > 0 {
		told = append(told, fmt.Sprintf("%.3f %% duplicates (goal <= %.1f %%)", 100*share, 100*s.maxDuplicates))
		if share > s.maxDuplicates {
			wrong = append(wrong, "too many duplicates")
		}
	}
	if s.compareP99 {
		m := movedBy(entries(w.ran.Receivers), w.from, w.to, w.moves)
		told = append(told, m.String())
		if m.worst.ratio() > movesMost {
			wrong = append(wrong, fmt.Sprintf("the p99 of receiver %s moved", m.name))
		}
	}
	return told, wrong
}

// movesMost is how much longer than before the p99 of any healthy receiver may be while a member joins or leaves.
const movesMost = 1.2

// p99s are a p99 before something began and while it lasted.
type p99s struct{ before, during time.Duration }

func (p p99s) ratio() float64 { return float64(p.during) / float64(max(p.before, 1)) }

// moved is what a join and a leave did to those who had nothing to do with it.
type moved struct {
	window time.Duration
	all    p99s
	worst  p99s // of the receiver that it did most to
	name   string
	around []time.Duration // the p99 of all, over the ten seconds around each join and leave
}

// aroundMove is on either side of a join or a leave.
const aroundMove = 5 * time.Second

// movedBy compares the time from due to arrival between from and to with that of the 30 s before.
func movedBy(seen map[string][]rig.Entry, from, to time.Time, moves []time.Time) moved {
	both := func(seen map[string][]rig.Entry) p99s {
		return p99s{p99(seen, from.Add(-30*time.Second), from), p99(seen, from, to)}
	}
	m := moved{window: to.Sub(from), all: both(seen)}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if p := both(map[string][]rig.Entry{name: seen[name]}); m.name == "" || p.ratio() > m.worst.ratio() {
			m.worst, m.name = p, name
		}
	}
	for _, at := range moves {
		m.around = append(m.around, p99(seen, at.Add(-aroundMove), at.Add(aroundMove)))
	}
	return m
}

func (m moved) String() string {
	var around []string
	for _, d := range m.around {
		around = append(around, fmt.Sprintf("%.1f ms", ms(d)))
	}
	return fmt.Sprintf("p99 %.1f ms over 30 s before, %.1f ms over %.0f s with a join and a leave: %.2f x; of the receiver that it moved most %.1f and %.1f ms: %.2f x (goal <= %.1f); "+
		"over the 10 s around each: %s", ms(m.all.before), ms(m.all.during), m.window.Seconds(), m.all.ratio(), ms(m.worst.before), ms(m.worst.during), m.worst.ratio(), movesMost,
		strings.Join(around, ", "))
}

func (f *Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "accepted %d", f.Accepted)
	for _, n := range []struct {
		name string
		n    int
	}{{"rejected", f.Rejected}, {"unknown", f.Unknown}, {"of these in the log", f.InLog}, {"republished", f.Republished}} {
		if n.n > 0 {
			fmt.Fprintf(&b, ", %s %d", n.name, n.n)
		}
	}
	fmt.Fprintf(&b, "; owed %d, delivered %d, lost %d", f.Owed, f.Delivered, len(f.Lost))
	if f.Dead+f.Dropped+f.InFlight > 0 {
		fmt.Fprintf(&b, "; tasks %d: dead %d, dropped %d, in flight %d", f.Matched, f.Dead, f.Dropped, f.InFlight)
	}
	fmt.Fprintf(&b, "; duplicates %d, unexplained %d", f.Duplicates, len(f.Unexplained))
	if f.Repeats > 0 {
		fmt.Fprintf(&b, ", copies of republished events %d", f.Repeats)
	}
	fmt.Fprintf(&b, "; order held for %d pairs", f.Ordered-len(f.Order))
	if f.NearDeath > 0 {
		fmt.Fprintf(&b, ", not asked of %d near a death", f.NearDeath)
	}
	if f.NoOrder != "" {
		fmt.Fprintf(&b, " (%s)", f.NoOrder)
	}
	for _, c := range f.Classes() {
		if c.Name != "lost" && c.Name != "unexplained duplicate" && len(c.List) > 0 {
			fmt.Fprintf(&b, "; %s %d", c.Name, len(c.List))
		}
	}
	return b.String()
}

// tell prints the breaches, at most so many of each class, each with its history, and then all faults.
func (r *Run) tell(out io.Writer, f *Finding, most int) {
	for _, c := range f.Classes() {
		for i, b := range c.List {
			if i == most {
				fmt.Fprintf(out, "      %s: and %d more\n", c.Name, len(c.List)-i)
				break
			}
			fmt.Fprintf(out, "      %s: %s\n", c.Name, b.Text)
			r.history(out, b)
		}
	}
	for _, fault := range r.Faults {
		fmt.Fprintf(out, "      fault  %s\n", fault)
	}
}

// line is one thing that happened to a task, and when, if that is known.
type line struct {
	at   int64
	text string
}

// inTheEnd is for what has no moment of its own.
const inTheEnd = int64(1) << 62

// history prints all that is known of the event of a breach for its receiver, in the order in which it happened, with the faults that were near.
func (r *Run) history(out io.Writer, b Breach) {
	if b.Seq < 0 || b.Seq >= int64(len(r.Events)) {
		return
	}
	e := &r.Events[b.Seq]
	all := []line{{e.Due, fmt.Sprintf("publisher: event %d of company %d, entity %d, version %d: %s", r.First+b.Seq, e.Company, e.Entity, e.Version,
		map[rig.Fate]string{rig.Accepted: "accepted", rig.Rejected: "rejected"}[e.Fate])}}
	if e.Fate == rig.Unknown {
		all[0].text += "unknown"
	}
	all = append(all, r.booked(b)...)
	for i := range r.Receivers[b.Receiver] {
		q := &r.Receivers[b.Receiver][i]
		if q.Seq != r.First+b.Seq {
			continue
		}
		all = append(all, line{q.At, fmt.Sprintf("receiver: request %d, %s, try %d, %d of %d bytes, own %s, reference %s, sum %.12s: %s %d at %s", q.N, q.ID, q.Attempt, q.Received,
			q.Expected, q.Own, q.Ref, q.Sum, [...]string{"open", "answered", "cut"}[q.Outcome], q.Status, rig.Clock(q.Done))})
	}
	slices.SortStableFunc(all, func(x, y line) int { return int(max(-1, min(1, x.at-y.at))) })
	const near = 10 * time.Second
	first, last := all[0].at, all[0].at
	for _, l := range all {
		if l.at != inTheEnd {
			last = max(last, l.at)
		}
	}
	for _, f := range r.Faults {
		if f.End.UnixNano() >= first-int64(near) && f.Start.UnixNano() <= last+int64(near) {
			all = append(all, line{f.Start.UnixNano(), fmt.Sprintf("fault: %s until %s", strings.TrimSpace(string(f.Kind)+" "+f.Who), rig.Clock(f.End.UnixNano()))})
		}
	}
	slices.SortStableFunc(all, func(x, y line) int { return int(max(-1, min(1, x.at-y.at))) })
	for _, l := range all {
		at := "in the end  "
		if l.at != inTheEnd {
			at = rig.Clock(l.at)
		}
		fmt.Fprintf(out, "         %s  %s\n", at, l.text)
	}
}

// booked is what the topics say of it.
func (r *Run) booked(b Breach) (all []line) {
	t, sub := r.Topics, int32(slices.Index(r.Names, b.Receiver))
	if t == nil {
		return nil
	}
	due := r.Events[b.Seq].Due
	for _, l := range t.Logged {
		if l.Seq == r.First+b.Seq {
			all = append(all, line{due, fmt.Sprintf("log: partition %d, offset %d", l.Partition, l.Offset)})
		}
	}
	for i := range t.Tasks {
		if x := &t.Tasks[i]; x.Subscription == sub && x.Seq == r.First+b.Seq {
			all = append(all, line{due, fmt.Sprintf("router: task %s, from partition %d, offset %d", x.ID[:], x.Partition, x.Offset)})
		}
	}
	for i := range t.Attempts {
		if x := &t.Attempts[i]; x.Subscription == sub && x.Seq == r.First+b.Seq {
			all = append(all, line{x.StartedAt * 1e6, fmt.Sprintf("deliverer: task %s, try %d, round %d: %s %s, status %d, after %v", x.ID[:], x.Number, x.Round, x.Verdict, x.Reason, x.Status,
				time.Duration(x.DurationMicros)*time.Microsecond)})
		}
	}
	for i := range t.Dead {
		if x := &t.Dead[i]; x.Subscription == sub && x.Seq == r.First+b.Seq {
			all = append(all, line{inTheEnd, fmt.Sprintf("dead letter: task %s, %s", x.ID[:], x.Reason)})
		}
	}
	for i := range t.Waiting {
		if x := &t.Waiting[i]; x.Subscription == sub && x.Seq == r.First+b.Seq {
			all = append(all, line{inTheEnd, fmt.Sprintf("waits: task %s, try %d, due %s", x.ID[:], x.Attempt, rig.Clock(x.Due*1e6))})
		}
	}
	return all
}

// keep puts what a run left behind where it stays after the rig has cleaned up: ledgers, faults, verdict, and the services' logs.
func (r *runner) keep(w *world, broken error) {
	to := w.dir
	if r.dir == "" {
		var err error
		if to, err = os.MkdirTemp("", fmt.Sprintf("hookferry-faults-%d-", w.seed)); err != nil {
			fmt.Println("      nothing could be kept:", err)
			return
		}
	}
	if !errors.Is(broken, errBroken) {
		os.WriteFile(filepath.Join(w.dir, "error.txt"), []byte(broken.Error()+"\n"), 0o600)
	}
	logs, _ := filepath.Glob(filepath.Join(w.d.Dir, "*.log"))
	ours, _ := filepath.Glob(filepath.Join(w.dir, "*"))
	for _, name := range append(logs, ours...) {
		if filepath.Dir(name) == to {
			continue
		}
		if b, err := os.ReadFile(name); err == nil {
			os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o600)
		}
	}
	fmt.Printf("      kept in %s\n", to)
}
