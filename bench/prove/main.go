// Command prove runs what stands behind every sentence of the README's promises, reads the figures from what is printed, and says of each promise whether
// it was held. Exit 1 if one was not, or if a command failed.
//
//	go run ./bench/prove          every claim, within 45 minutes on two cores
//	go run ./bench/prove -short   what CI takes: faults, mutants and simulation in their short forms
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
	short := flag.Bool("short", false, "only what CI takes")
	dir := flag.String("dir", "", "keep what each command printed in this directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := prove(ctx, *short, *dir, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		os.Exit(1)
	}
}

func prove(ctx context.Context, short bool, dir string, w io.Writer) error {
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
	table := judge(claims, results)
	printTable(w, table)
	return verdict(table, results)
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
