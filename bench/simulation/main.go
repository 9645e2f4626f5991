// Command simulation runs the whole of Hookferry (routers, deliverers, tiers, Redis, receivers) in one process and in virtual time, on the broker in
// memory, with a workload and faults that come from a seed, and checks the promises of docs/design.md afterwards. Hours pass in seconds.
//
//	go run ./bench/simulation -seeds 500 -for 10m             as many as fit ten minutes, 500 at least
//	go run ./bench/simulation -from 4711 -seeds 1 -history    one seed, with all that happened
//
// A seed decides all that happens: the plan (plan.go), every choice that is made on the way (which request is lost, which event comes next), crypto/rand, and
// on Linux and amd64 also which goroutine runs first, which case of a select is taken, and the order of maps (exact_linux_amd64.go). So a seed that fails fails
// again, in the same way, as long as the code is the same; -repeat runs each several times and says if it ever went another way. Where a process may not be
// traced, the program says so, and a seed that fails fails again mostly.
//
//	plan.go      what a seed decides        world.go     one deployment in a bubble
//	run.go       steps, faults, jumps       receiver.go  receivers and their ledger
//	reader.go    what stands on the topics  check.go     the promises
//	child.go     a child process            exact_linux_amd64.go  and how it is made to run the same way each time
//
// Each seed runs in a child process of its own: one that hangs or crashes is one that fails, and none inherits anything from another.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// options are the flags.
type options struct {
	seeds, repeat, parallel int
	from                    uint64
	least                   time.Duration
	limit                   time.Duration
	history                 bool
	dir                     string
}

func main() {
	var o options
	flag.IntVar(&o.seeds, "seeds", 500, "how many seeds to run")
	flag.DurationVar(&o.least, "for", 0, "go on with further seeds until so much time has passed")
	flag.Uint64Var(&o.from, "from", 1, "the first seed")
	flag.IntVar(&o.repeat, "repeat", 1, "run each seed so many times")
	flag.IntVar(&o.parallel, "parallel", 2, "children at a time")
	flag.DurationVar(&o.limit, "limit", 2*time.Minute, "processor time that one seed may take; of wall-clock time it may take twenty times as much")
	flag.BoolVar(&o.history, "history", false, "print the history of each seed, not only of those that fail")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the histories of failing seeds are written")
	flag.Parse()
	failed, err := run(&o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "simulation:", err)
		os.Exit(1)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// run builds the test binary, which alone can hold bubbles, and has children run the seeds.
func run(o *options) (failed int, err error) {
	tmp, err := os.MkdirTemp("", "simulation")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	binary, err := build(tmp)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	work, results := make(chan uint64), make(chan *result)
	var children sync.WaitGroup
	for i := range o.parallel {
		children.Go(func() {
			for seed := range work {
				results <- child(o, binary, seed, i)
			}
		})
	}
	go func() {
		end := o.from + uint64(o.seeds)
		for range o.repeat {
			for seed := o.from; seed < end; seed++ {
				work <- seed
			}
		}
		for ; time.Since(began) < o.least; end++ {
			work <- end
		}
		close(work)
		children.Wait()
		close(results)
	}()
	s := &summary{counts: map[string]int{}, ran: map[uint64]string{}}
	for r := range results {
		s.add(r)
		if s.seeds%50 == 0 {
			fmt.Printf("%d seeds, %d failed, %v\n", s.seeds, s.failed, time.Since(began).Round(time.Second))
		}
		if len(r.Violations) > 0 {
			report(o, r)
		} else if o.history {
			fmt.Print(r.Plan, strings.Join(r.History, "\n"), "\n")
		}
	}
	s.print(time.Since(began))
	return s.failed, nil
}

// report says what went wrong in a seed and how to see it again.
func report(o *options, r *result) {
	fmt.Printf("FAIL seed %d (%s)\n", r.Seed, r.Kind)
	for i, v := range r.Violations {
		if i == 5 {
			fmt.Printf("      and %d more\n", len(r.Violations)-i)
			break
		}
		fmt.Println("     ", v)
	}
	name := filepath.Join(o.dir, fmt.Sprintf("simulation-%d.txt", r.Seed))
	text := r.Plan + strings.Join(r.Violations, "\n") + "\n" + strings.Join(r.History, "\n") + "\n"
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		fmt.Println("      its history could not be written:", err)
	}
	fmt.Printf("      plan and history: %s; again: go run ./bench/simulation -from %d -seeds 1\n", name, r.Seed)
}

// summary adds up the seeds.
type summary struct {
	seeds, failed, violations          int
	events, owed, deliveries, requests int
	dead, dropped, explained, unheard  int
	virtual                            time.Duration
	counts                             map[string]int
	bad                                []uint64
	ran                                map[uint64]string // how a seed ran the first time
	same                               int               // how often one ran again, and the same way
}

func (s *summary) add(r *result) {
	s.seeds++
	if before, again := s.ran[r.Seed]; !again {
		s.ran[r.Seed] = r.way
	} else if r.exact && before != r.way {
		r.Violations = append(r.Violations, "it ran another way than before")
	} else if r.exact {
		s.same++
	}
	if len(r.Violations) > 0 {
		s.failed++
		s.violations += len(r.Violations)
		s.bad = append(s.bad, r.Seed)
	}
	s.events += r.Events
	s.owed += r.Owed
	s.deliveries += r.Deliveries
	s.requests += r.Requests
	s.dead += r.Dead
	s.dropped += r.Dropped
	s.explained += r.Explained
	s.unheard += r.Unheard
	s.virtual += r.Virtual
	for k, n := range r.Counts {
		s.counts[k] += n
	}
}

func (s *summary) print(took time.Duration) {
	fmt.Printf("%d seeds in %v, %.0f virtual hours (%.1f a seed), %d events, %d tasks owed, %d delivered, %d dead, %d dropped, %d requests, %d duplicates explained, %d answers unheard, "+
		"%d violations in %d seeds\n", s.seeds, took.Round(time.Second), s.virtual.Hours(), s.virtual.Hours()/float64(max(1, s.seeds)), s.events, s.owed, s.deliveries, s.dead, s.dropped, s.requests, s.explained, s.unheard,
		s.violations, s.failed)
	var list []string
	for _, k := range slices.Sorted(maps.Keys(s.counts)) {
		list = append(list, fmt.Sprintf("%s %d", k, s.counts[k]))
	}
	fmt.Println("faults:", strings.Join(list, ", "))
	if s.same > 0 {
		fmt.Printf("%d times a seed ran again, and the same way\n", s.same)
	}
	if len(s.bad) > 0 {
		slices.Sort(s.bad)
		fmt.Println("seeds that failed:", s.bad)
	}
}
