// Command faults breaks things while events flow, on a real Kafka and a real Redis, and counts: lost, duplicates, and whether each
// duplicate has an explanation that docs/design.md allows. Exit 1 if any promise was broken.
//
//	go run ./bench/faults                  every scenario, about eight minutes
//	go run ./bench/faults -only redis-stop one of them
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/hookferry/hookferry/bench/rig"
)

func main() {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	only := flag.String("only", "", "comma-separated scenarios out of: "+strings.Join(names, ", "))
	events := flag.Int("events", 20000, "events a scenario")
	rate := flag.Float64("rate", 1000, "events a second")
	dir := flag.String("dir", "", "work in this directory and keep it (default: a temporary one)")
	farm := flag.Bool("farm", false, "be the farm of receivers (started by the rig itself)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *farm {
		if err := rig.RunFarm(os.Stdout, ctx.Done()); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
		return
	}
	failed := 0
	for _, s := range scenarios {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		if err := runScenario(ctx, s, *dir, *events, *rate); err != nil {
			fmt.Printf("FAIL  %-16s %v\n", s.name, err)
			failed++
		}
	}
	if failed > 0 {
		fmt.Printf("%d of the scenarios broke a promise\n", failed)
		os.Exit(1)
	}
}
