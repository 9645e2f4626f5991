// Command bench measures Hookferry from outside, on a real Kafka and a real Redis, and holds every figure against a bare loop of
// signed POSTs that runs before and after on the same machine: only the shares and multiples are comparable between machines.
//
//	go run ./bench            all of it, about seven minutes
//	go run ./bench -quick     a short form, for a first look
//
// Exit 1 if anything was missing or came twice: then the figures are of something else than Hookferry's work. A goal that is missed stands in the report.
//
// Processes: this one publishes (open loop where latency is measured, at most 3,000 deliveries outstanding where the sustained rate
// is), one router, one deliverer, one farm of receivers, Kafka, Redis. All share the machine's cores.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
)

func main() {
	quick := flag.Bool("quick", false, "short phases: a first look, no figures to quote")
	out := flag.String("json", "", "also write the figures to this file")
	keep := flag.String("dir", "", "work in this directory and keep it (default: a temporary one)")
	only := flag.String("only", "", "comma-separated phases: fan1,fan10,latency,hang,replay,order (default all)")
	rate := flag.Float64("replay-rate", 2000, "tasks a second of the replay that has a rate")
	asLive := flag.Bool("replay-as-live", false, "also measure beside as many live deliveries a second as the replay makes: what they cost without being a replay")
	profiles := flag.String("profiles", "", "take processor profiles of router and deliverer at the sustained rates into this directory; costs some of the rate")
	farm := flag.Bool("farm", false, "be the farm of receivers (started by the bench itself)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *farm {
		if err := rig.RunFarm(os.Stdout, ctx.Done()); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{profiles: *profiles, report: report{Machine: machine(), At: time.Now().UTC().Format(time.RFC3339)}, measure: 10 * time.Second, latency: 15 * time.Second, bare: 4 * time.Second, replayed: 100_000, replayRate: *rate, asLive: *asLive}
	if *quick {
		b.measure, b.latency, b.bare, b.replayed = 4*time.Second, 4*time.Second, 2*time.Second, 10_000
	}
	err := b.run(ctx, *keep, strings.Split(*only, ","))
	b.report.print(os.Stdout)
	err = errors.Join(err, b.report.wrong())
	if *out != "" {
		j, _ := json.MarshalIndent(b.report, "", "  ")
		if werr := os.WriteFile(*out, append(j, '\n'), 0o644); werr != nil {
			fmt.Fprintln(os.Stderr, "bench:", werr)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s %s/%s", model, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
