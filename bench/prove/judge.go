package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// command is one that a reader could type. short is its form in CI; nil: CI runs it in a step of its own, or not at all.
type command struct {
	name        string
	argv, short []string
}

// claim is one sentence of the README and what shows that it is true: tests that passed, or a figure in every line where it is printed.
type claim struct {
	promise string // word for word as in the README's table
	command string
	what    string   // what the figure counts, where the promise does not say
	tests   []string // names in the output of `go test -v`; each must have passed
	figure  string   // a regular expression with one group, a number
	goal    string   // "= 0", "<= 1.2", ">= 50": the worst of the figures must keep it
	whole   bool     // not part of the short form
	missed  string   // the goal is known to be missed, and where that is told
}

type result struct {
	out  string
	exit int
	took time.Duration
}

// row is a claim and what was found.
type row struct {
	claim
	found string
	state state
}

type state string

const (
	held     state = "held"
	broken   state = "NOT HELD"
	unproven state = "not run" // it is not part of the short form
	told     state = "missed"  // and told
)

func judge(claims []claim, results map[string]*result, short bool) []row {
	rows := make([]row, 0, len(claims))
	for _, c := range claims {
		r := row{claim: c, state: unproven}
		if res := results[c.command]; res != nil && !(short && c.whole) {
			r.found, r.state = c.look(res)
		}
		rows = append(rows, r)
	}
	return rows
}

func (c *claim) look(res *result) (found string, s state) {
	if c.tests != nil {
		var red []string
		for _, name := range c.tests {
			if !regexp.MustCompile(`(?m)^--- PASS: `+name+` `).MatchString(res.out) || strings.Contains(res.out, "--- FAIL: "+name) {
				red = append(red, name)
			}
		}
		if red != nil {
			return "not passed: " + strings.Join(red, ", "), broken
		}
		return fmt.Sprintf("%d of %d tests", len(c.tests), len(c.tests)), held
	}
	matches := regexp.MustCompile(`(?m)`+c.figure).FindAllStringSubmatch(res.out, -1)
	if len(matches) == 0 {
		return "no figure was printed", broken
	}
	worst, s := "", held
	for _, m := range matches {
		v, err := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
		if err != nil {
			return "no number: " + m[1], broken
		}
		if !keeps(v, c.goal) {
			s = broken
		}
		if worst == "" || worse(m[1], worst, c.goal) {
			worst = m[1]
		}
	}
	if len(matches) > 1 {
		worst += fmt.Sprintf(" (worst of %d)", len(matches))
	}
	if s == broken && c.missed != "" {
		s = told
	}
	return worst, s
}

// keeps: does a figure keep a goal?
func keeps(v float64, goal string) bool {
	op, limit := split(goal)
	switch op {
	case "=":
		return v == limit
	case "<=":
		return v <= limit
	case ">=":
		return v >= limit
	}
	panic("BUG: goal " + goal)
}

func worse(a, b, goal string) bool {
	x, _ := strconv.ParseFloat(a, 64)
	y, _ := strconv.ParseFloat(b, 64)
	if op, _ := split(goal); op == ">=" {
		return x < y
	}
	return x > y
}

func split(goal string) (op string, limit float64) {
	op, number, _ := strings.Cut(goal, " ")
	limit, err := strconv.ParseFloat(number, 64)
	if err != nil {
		panic("BUG: goal " + goal)
	}
	return op, limit
}

// printTable prints one row a claim: promise, figure, goal, command, held or not. Behind it stands what its commands could not run on this machine.
func printTable(w io.Writer, rows []row, results map[string]*result) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "\nPROMISE\tFIGURE\tGOAL\tCOMMAND\t")
	before := ""
	for _, r := range rows {
		for i, line := range wrapped(r.promise, promiseWidth) {
			if r.promise == before {
				line = "  as above"
			}
			switch {
			case i == 0:
				goal := r.goal
				if r.tests != nil {
					goal = "all pass"
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", line, strings.TrimSpace(r.what+" "+or(r.found, "-")), goal, r.command, r.state)
			case r.promise != before:
				fmt.Fprintf(tw, "%s\t\t\t\t\n", line)
			}
		}
		before = r.promise
	}
	tw.Flush()
	fmt.Fprintln(w)
	for _, r := range rows {
		if r.state == told {
			fmt.Fprintf(w, "missed: %s: %s\n", r.what, r.missed)
		}
	}
	for _, c := range commands {
		if res := results[c.name]; res != nil {
			for _, m := range regexp.MustCompile(`(?m)^SKIP +(.*)$`).FindAllStringSubmatch(res.out, -1) {
				fmt.Fprintf(w, "%s: %s, %s\n", unproven, c.name, m[1])
			}
		}
	}
}

// promiseWidth is that of the table's first column, in letters; a longer promise takes more lines.
const promiseWidth = 60

// wrapped breaks a text between words.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// verdict is an error if a promise was not held, a command failed, or all took longer than it may.
func verdict(rows []row, results map[string]*result, took, budget time.Duration) error {
	var errs []error
	count := map[state]int{}
	for _, r := range rows {
		count[r.state]++
	}
	if n := count[broken]; n > 0 {
		errs = append(errs, fmt.Errorf("%d of %d claims did not hold", n, len(rows)))
	}
	for _, c := range commands {
		if r := results[c.name]; r != nil && r.exit != 0 {
			errs = append(errs, fmt.Errorf("%s failed (exit %d)", c.name, r.exit))
		}
	}
	if budget > 0 && took > budget {
		errs = append(errs, fmt.Errorf("it took %v, and may take %v", took.Round(time.Second), budget))
	}
	return errors.Join(errs...)
}
