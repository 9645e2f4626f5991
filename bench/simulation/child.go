package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childProcess is a child that runs one seed.
type childProcess struct {
	pid  int
	out  io.ReadCloser // what it says, on both ways; ends with it
	wait func() error
}

// build builds the test binary.
func build(dir string) (binary string, err error) {
	binary = filepath.Join(dir, "simulation.test")
	c := exec.Command("go", "test", "-c", "-o", binary, "github.com/hookferry/hookferry/bench/simulation")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the simulation: %w\n%s", err, out)
	}
	return binary, nil
}

// start starts a child for a seed. Its environment is the same everywhere, for it is a part of what decides how a seed runs.
func start(binary string, seed uint64, processor int) (p *childProcess, exact bool, err error) {
	trace := "0"
	if os.Getenv("SIMULATION_TRACE") != "" {
		trace = "1"
	}
	args := []string{"simulation.test", "-test.run", "^TestSimulation$", "-test.timeout", "0"}
	// One processor a child: as many children as there are processors. Who does not end says where it is: GOTRACEBACK.
	env := []string{"GOMAXPROCS=1", "GOGC=400", "GOTRACEBACK=all", "SIMULATION_TRACE=" + trace, fmt.Sprintf("SIMULATION_SEED=%020d", seed)}
	if p, err = startExact(binary, args, env, processor); err == nil {
		return p, true, nil
	}
	untraced.Do(func() { fmt.Println("a seed may not run the same way again here:", err) })
	c := exec.Command(binary, args[1:]...)
	c.Env = env
	out, in, err := os.Pipe()
	if err != nil {
		return nil, false, err
	}
	c.Stdout, c.Stderr = in, in
	err = c.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, false, err
	}
	return &childProcess{pid: c.Process.Pid, out: out, wait: c.Wait}, false, nil
}

var untraced sync.Once

// child runs a seed.
func child(o *options, binary string, seed uint64, processor int) *result {
	p, exact, err := start(binary, seed, processor)
	if err != nil {
		return &result{Seed: seed, Violations: []string{"the child did not start: " + err.Error()}}
	}
	defer p.out.Close()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watchdog{limit: o.limit, pid: p.pid, from: time.Now()}
	var watching sync.WaitGroup
	watching.Go(func() { w.run(ctx) })
	var r *result
	var said []string
	lines := bufio.NewReaderSize(p.out, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if encoded, ok := strings.CutPrefix(line, "RESULT "); ok {
			r = &result{exact: exact, way: fmt.Sprintf("%x", sha256.Sum256([]byte(encoded)))}
			if err := json.Unmarshal([]byte(encoded), r); err != nil {
				r = nil
			}
		} else if line != "" {
			said = append(said, strings.TrimSuffix(line, "\n"))
		}
		if err != nil {
			break
		}
	}
	err = p.wait()
	cancel()
	watching.Wait()
	switch {
	case r == nil && w.why != "":
		r = &result{Seed: seed, exact: exact, Violations: []string{"no end: " + w.why}, History: said}
	case r == nil:
		r = &result{Seed: seed, exact: exact, Violations: []string{fmt.Sprintf("the child ended: %v", err)}, History: said}
	case len(r.Violations) == 0 && !o.history:
		r.Plan, r.History = "", nil
	}
	return r
}

// watchdog ends a child whose seed takes too long: by processor time, because a loaded machine is no fault of the seed's, and by wall-clock time, because
// what hangs takes no processor time. It asks for the stacks of all goroutines, and gives it ten seconds for them.
type watchdog struct {
	limit time.Duration
	pid   int
	from  time.Time
	why   string
}

func (w *watchdog) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	asked := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cpu, wall := processorTime(w.pid), time.Since(w.from)
		switch {
		case w.why == "" && (cpu > w.limit || wall > 20*w.limit):
			w.why = fmt.Sprintf("after %v of processor time and %v", cpu.Round(time.Second), wall.Round(time.Second))
			asked = time.Now()
			syscall.Kill(w.pid, syscall.SIGQUIT)
		case w.why != "" && time.Since(asked) > 10*time.Second:
			syscall.Kill(w.pid, syscall.SIGKILL)
		}
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
