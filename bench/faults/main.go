// Command faults breaks things while events flow, on a real Kafka and a real Redis, and counts: lost, duplicates, and whether each
// duplicate has an explanation that docs/design.md allows. Exit 1 if any promise was broken.
//
//	go run ./bench/faults                  every scenario
//	go run ./bench/faults -only redis-stop one of them
//	go run ./bench/faults -short           the part that make prove-short takes
//	go run ./bench/faults -middle          the part that `make prove` runs
//	go run ./bench/faults -long            the sizes that the published figures stand on
//
// Each scenario ends as ok, FAIL, or SKIP where this machine does not allow it; the last line adds up all of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

func main() {
	var names []string
	for _, s := range allScenarios() {
		names = append(names, s.name)
	}
	r := &runner{}
	only := flag.String("only", "", "comma-separated scenarios out of: "+strings.Join(names, ", "))
	flag.IntVar(&r.events, "events", 20000, "events a scenario")
	flag.Float64Var(&r.rate, "rate", 1000, "events a second")
	flag.Uint64Var(&r.seed, "seed", uint64(time.Now().Unix()), "of all that is random; printed with each verdict")
	flag.StringVar(&r.dir, "dir", "", "work in this directory and keep everything (default: a temporary one)")
	short := flag.Bool("short", false, "only the scenarios of the short form")
	middle := flag.Bool("middle", false, "only the scenarios of the middle form: the short one, and one of each kind")
	long := flag.Bool("long", false, "the sizes of the long form")
	flag.StringVar(&r.cells, "cells", "", "of the scenario points, only the cells whose text holds this (\"flush.marks:after:kill\")")
	farm := flag.Bool("farm", false, "be the farm of receivers (started by the rig itself)")
	flag.Parse()
	switch {
	case *short:
		r.form = formShort
	case *middle:
		r.form = formMiddle
	case *long:
		r.form = formLong
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *farm {
		if err := rig.RunFarm(os.Stdout, ctx.Done()); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
		return
	}
	for name := range strings.SplitSeq(*only, ",") {
		if name != "" && !slices.Contains(names, name) {
			fmt.Fprintf(os.Stderr, "faults: there is no scenario %q\n", name)
			os.Exit(2)
		}
	}
	if !r.all(ctx, *only) {
		os.Exit(1)
	}
}

// all runs what is wanted, those of the same brokers after each other, and says whether every promise held.
func (r *runner) all(ctx context.Context, only string) bool {
	defer r.close()
	for wanted := choose(only, r.form); len(wanted) > 0 && ctx.Err() == nil; {
		first := wanted[0].config(r.dir)
		var later []scenario
		for _, s := range wanted {
			if !first.SameBrokers(s.config(r.dir)) {
				later = append(later, s)
				continue
			}
			r.one(ctx, &s)
		}
		wanted = later
	}
	return r.conclude(only == "") && ctx.Err() == nil
}

// one runs a scenario, if this machine lets it.
func (r *runner) one(ctx context.Context, s *scenario) {
	if s.unable != nil {
		if why := s.unable(ctx); why != "" {
			fmt.Printf("SKIP  %-16s %s\n", s.name, why)
			r.sum.skipped = append(r.sum.skipped, s.name)
			return
		}
	}
	r.sum.ran++
	if err := r.run(ctx, s); err != nil {
		if r.sum.failed++; !errors.Is(err, errBroken) { // that one has printed its verdict
			fmt.Printf("FAIL  %-16s %v (seed %d)\n", s.name, err, r.seed)
		}
	}
}

// conclude adds up all that ran. Only a whole form is held against what a form must show.
func (r *runner) conclude(whole bool) bool {
	ok := r.sum.failed == 0
	fmt.Printf("\n%d scenarios: %d broke a promise, %d skipped", r.sum.ran+len(r.sum.skipped), r.sum.failed, len(r.sum.skipped))
	if len(r.sum.skipped) > 0 {
		fmt.Printf(" (%s)", strings.Join(r.sum.skipped, ", "))
	}
	fmt.Println()
	if whole {
		for _, text := range r.sum.missed(r.form) {
			ok = false
			fmt.Println("FAIL  together:", text)
		}
	}
	fmt.Printf("total %s (seed %d)\n", &r.sum, r.seed)
	return ok
}
