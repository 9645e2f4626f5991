// Command simulation runs the whole of Hookferry (routers, deliverers, tiers, Redis, receivers) in one process and in virtual time, on the broker in
// memory, with a workload and faults that come from a seed, and checks the promises of docs/design.md afterwards. Hours pass in seconds.
//
//	go run ./bench/simulation -seeds 500 -for 10m             as many as fit ten minutes, 500 at least
//	go run ./bench/simulation -from 4711 -seeds 1 -history    one seed, with all that happened
//
// A seed decides all that can be decided from outside: the plan (plan.go) and every choice that is made on the way (which request is lost, which event comes
// next), and crypto/rand. What it does not decide is the order in which Go runs goroutines that are ready at the same virtual moment, which case of a
// select is taken, and the order of maps. So a seed that fails fails again mostly, not surely; -repeat runs each several times.
//
//	plan.go      what a seed decides        world.go     one deployment in a bubble
//	run.go       steps, faults, jumps       receiver.go  receivers and their ledger
//	reader.go    what stands on the topics  check.go     the promises
//
// Each seed runs in a child process, so that one that hangs or crashes is one that fails.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// perChild is how many seeds a child runs before the next takes over: starting one costs as much as a short seed.
const perChild = 8

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
	binary := filepath.Join(tmp, "simulation.test")
	build := exec.Command("go", "test", "-c", "-o", binary, "github.com/hookferry/hookferry/bench/simulation")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the simulation: %w\n%s", err, out)
	}
	began := time.Now()
	work := make(chan [2]uint64) // from the first seed to behind the last
	results := make(chan *result)
	var children sync.WaitGroup
	for range o.parallel {
		children.Go(func() {
			for seeds := range work {
				child(o, binary, seeds[0], seeds[1], results)
			}
		})
	}
	go func() {
		end := o.from + uint64(o.seeds)
		for range o.repeat {
			for at := o.from; at < end; at += perChild {
				work <- [2]uint64{at, min(at+perChild, end)}
			}
		}
		for ; time.Since(began) < o.least; end += perChild {
			work <- [2]uint64{end, end + perChild}
		}
		close(work)
		children.Wait()
		close(results)
	}()
	s := &summary{counts: map[string]int{}}
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

// child runs the seeds of one share, and goes on behind one that hung or crashed.
func child(o *options, binary string, from, end uint64, results chan<- *result) {
	for from < end {
		from = share(o, binary, from, end, results)
	}
}

// share starts one child for the seeds from..end and returns the first that it did not run.
func share(o *options, binary string, from, end uint64, results chan<- *result) (next uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := exec.CommandContext(ctx, binary, "-test.run", "^TestSimulation$", "-test.timeout", "0")
	// One processor a child: fewer ways to run the same seed, and as many children as there are processors.
	c.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400", fmt.Sprintf("SIMULATION_FROM=%d", from), fmt.Sprintf("SIMULATION_SEEDS=%d", end-from))
	// Who does not end says where it is: the stacks go into the history.
	c.Env = append(c.Env, "GOTRACEBACK=all")
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGQUIT) }
	c.WaitDelay = 10 * time.Second
	var text bytes.Buffer
	c.Stderr = &text
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		results <- &result{Seed: from, Violations: []string{"the child did not start: " + err.Error()}}
		return from + 1
	}
	w := &watchdog{limit: o.limit, pid: c.Process.Pid, kill: cancel, from: time.Now()}
	go w.run(ctx)
	next = from
	lines := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if encoded, ok := strings.CutPrefix(line, "RESULT "); ok {
			r := &result{}
			if json.Unmarshal([]byte(encoded), r) == nil {
				if len(r.Violations) == 0 && !o.history {
					r.Plan, r.History = "", nil
				}
				results <- r
				next = r.Seed + 1
				w.progress()
			}
		} else if !strings.HasPrefix(line, "SEED ") {
			text.WriteString(line)
		}
		if err == io.EOF || err != nil {
			break
		}
	}
	err = c.Wait()
	if next < end {
		why := "the child ended"
		if ctx.Err() != nil {
			why = "no end: " + w.said()
		}
		results <- &result{Seed: next, Violations: []string{fmt.Sprintf("%s: %v", why, err)}, History: strings.Split(text.String(), "\n")}
		next++
	}
	return next
}

// watchdog kills a child whose seed takes too long: by processor time, because a loaded machine is no fault of the seed's, and by wall-clock time, because
// what hangs takes no processor time.
type watchdog struct {
	limit time.Duration
	pid   int
	kill  func()

	mu   sync.Mutex
	from time.Time
	cpu  time.Duration // when the present seed began
	why  string
}

func (w *watchdog) progress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.from, w.cpu = time.Now(), processorTime(w.pid)
}

func (w *watchdog) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

func (w *watchdog) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		cpu, wall := processorTime(w.pid)-w.cpu, time.Since(w.from)
		if over := cpu > w.limit || wall > 20*w.limit; over {
			w.why = fmt.Sprintf("after %v of processor time and %v", cpu.Round(time.Second), wall.Round(time.Second))
			w.kill()
		}
		w.mu.Unlock()
	}
}

// processorTime is what a process has used so far, from /proc; 0 where there is none.
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	ticks := 0
	for _, f := range fields[11:13] { // user and system, in hundredths of a second
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
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
	fmt.Printf("      plan and history: %s; again: go run ./bench/simulation -from %d -seeds 1 -repeat 5\n", name, r.Seed)
}

// summary adds up the seeds.
type summary struct {
	seeds, failed, violations          int
	events, owed, deliveries, requests int
	dead, dropped, explained, unheard  int
	virtual, wall                      time.Duration
	counts                             map[string]int
	bad                                []uint64
}

func (s *summary) add(r *result) {
	s.seeds++
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
	s.wall += r.Wall
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
	if len(s.bad) > 0 {
		slices.Sort(s.bad)
		fmt.Println("seeds that failed:", s.bad)
	}
}
