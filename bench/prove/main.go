// Command prove runs what stands behind every sentence of the README's promises, reads the figures from what is printed, and says of each promise whether
// it was held. Exit 1 if one was not, if a command failed, or if it took longer than its budget.
//
//	go run ./bench/prove                every claim; exit 1 after 45 minutes
//	go run ./bench/prove -short         faults, mutants and simulation in their short forms
//	go run ./bench/prove -budget 2h     on a slower machine; -1s is no bound
//
// It decides nothing itself: a figure comes from a command that anybody can run alone, and claims.go says which.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	short := flag.Bool("short", false, "only faults, mutants and simulation, in their short forms")
	dir := flag.String("dir", "", "keep what each command printed in this directory")
	budget := flag.Duration("budget", 0, "exit 1 if all of it takes longer (default 45m, and 25m with -short; negative: no bound)")
	flag.Parse()
	if *budget == 0 {
		if *budget = usualBudget; *short {
			*budget = shortBudget
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := prove(ctx, *short, *dir, *budget, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		os.Exit(1)
	}
}

// What all of it may take on two cores that have nothing else to do.
const (
	usualBudget = 45 * time.Minute
	shortBudget = 25 * time.Minute
)

func prove(ctx context.Context, short bool, dir string, budget time.Duration, w io.Writer) error {
	began := time.Now()
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	results := map[string]*result{}
	for _, c := range commands {
		if short && c.short == nil {
			continue
		}
		argv := c.argv
		if short {
			argv = c.short
		}
		fmt.Fprintf(w, "== %s\n", strings.Join(argv, " "))
		r, err := run(ctx, argv, w)
		if err != nil {
			return err
		}
		results[c.name] = r
		fmt.Fprintf(w, "== %s: %.0f s, exit %d\n", c.name, r.took.Seconds(), r.exit)
		if dir != "" {
			if err := os.WriteFile(filepath.Join(dir, c.name+".txt"), []byte(r.out), 0o644); err != nil {
				return err
			}
		}
	}
	table := judge(claims, results, short)
	printTable(w, table, results)
	took := time.Since(began)
	fmt.Fprintf(w, "total: %v of %v\n", took.Round(time.Second), max(0, budget))
	return verdict(table, results, took, budget)
}

// run runs a command to its end and keeps what it printed, while showing it. The error is only that it could not be run.
func run(ctx context.Context, argv []string, w io.Writer) (*result, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, w)
	cmd.Stderr = cmd.Stdout
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	return &result{out: out.String(), exit: cmd.ProcessState.ExitCode(), took: time.Since(began)}, nil
}
