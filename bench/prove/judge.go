package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
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
	tests   []string // names in the output of `go test -v`; each must have passed
	figure  string   // a regular expression with one group, a number
	goal    string   // "= 0", "<= 1.2", ">= 50": the worst of the figures must keep it
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
	unproven state = "not run" // its command is not part of the short form
	told     state = "missed"  // and told
)

func judge(claims []claim, results map[string]*result) []row {
	rows := make([]row, 0, len(claims))
	for _, c := range claims {
		r := row{claim: c, state: unproven}
		if res := results[c.command]; res != nil {
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

func printTable(w io.Writer, rows []row) {
	fmt.Fprintln(w)
	for _, r := range rows {
		goal := r.goal
		if r.tests != nil {
			goal = "all pass"
		}
		fmt.Fprintf(w, "%-8s  %s\n          %s (goal %s), by %s\n", r.state, r.promise, or(r.found, "-"), goal, r.command)
		if r.state == told {
			fmt.Fprintf(w, "          %s\n", r.missed)
		}
	}
	fmt.Fprintln(w)
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// verdict is an error if a promise was not held, or a command failed.
func verdict(rows []row, results map[string]*result) error {
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
	return errors.Join(errs...)
}
