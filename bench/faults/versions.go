package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

// olderRelease is a commit whose binary is known to be good. What it wrote, this one must read, and the other way round, as docs/operations.md promises of two
// releases in a row. Before the first release a schema is read and written at once: then this moves on to that commit, or a later one.
const olderRelease = "800a262351b06681632cafa0fc7ef2d3f84535c8"

var versionsScenario = scenario{
	name: "versions", what: "an older binary and this one in one group: rolled back and upgraded process by process, twice", act: rollVersions,
	flow: 75 * time.Second, rest: patience, noRepeat: true, unable: func(ctx context.Context) string { _, _, why := olderCommit(ctx); return why },
}

// rollVersions replaces one process after the other: this binary by the older one, and back, so that most of the time both are at work.
func rollVersions(ctx context.Context, w *world) error {
	old, note, err := buildOlder(ctx, w.d.Dir)
	if err != nil {
		return err
	}
	fmt.Println("      versions: beside " + note)
	for range 2 {
		for _, older := range []bool{true, false} {
			for _, name := range []string{"deliverer-1", "router", "deliverer-2"} {
				if err := replaceProcess(ctx, w, name, old, older); err != nil {
					return fmt.Errorf("%s, older %v: %w", name, older, err)
				}
				if err := pause(ctx, 3*time.Second); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// replaceProcess stops a process and starts it again from this binary or the older one.
func replaceProcess(ctx context.Context, w *world, name, old string, older bool) error {
	kind := Other
	start := w.d.StartRouter
	if name != "router" {
		kind, start = StopDeliverer, w.d.StartDeliverer
	}
	if err := w.faultOn(kind, name, func() error { return w.d.Proc(name).Stop(10 * time.Second) }); err != nil {
		return err
	}
	if !older {
		return start(ctx, name)
	}
	return withBinary(w, old, func() error { return start(ctx, name) })
}

// withBinary lets the deployment start processes from another file while f runs.
func withBinary(w *world, file string, f func() error) error {
	own := filepath.Join(w.d.Dir, "hookferry")
	if err := errors.Join(os.Rename(own, own+".this"), os.Link(file, own)); err != nil {
		return errors.Join(err, os.Rename(own+".this", own))
	}
	err := f()
	return errors.Join(err, os.Rename(own+".this", own)) // replaces the link
}

// olderCommit is what to build beside this one. Where the history is cut off, it takes the oldest commit that is there; where that is this one, or there is
// no history, it says so.
func olderCommit(ctx context.Context) (commit, note, why string) {
	if _, err := git(ctx, "cat-file", "-e", olderRelease+"^{commit}"); err == nil {
		return olderRelease, "commit " + olderRelease[:10], ""
	}
	all, err := git(ctx, "rev-list", "HEAD")
	list := strings.Fields(all)
	switch {
	case err != nil:
		return "", "", "there is no history: " + err.Error()
	case len(list) == 1:
		return "", "", "this clone has no older commit"
	}
	commit = list[len(list)-1]
	return commit, "commit " + commit[:10] + ", the oldest that this clone has", ""
}

func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	return strings.TrimSpace(string(out)), err
}

// buildOlder builds the older release out of the history.
func buildOlder(ctx context.Context, dir string) (file, note string, err error) {
	commit, note, why := olderCommit(ctx)
	if why != "" {
		return "", "", errors.New(why)
	}
	src := filepath.Join(dir, "older")
	if err := os.MkdirAll(src, 0o700); err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, "hookferry-older")
	top, err := git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", "", err
	}
	script := `git -C "$1" archive "$2" | tar -x -C "$3" && cd "$3" && go build -o "$4" ./cmd/hookferry`
	if out, err := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", script, "-", top, commit, src, file).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build %s: %w: %s", note, err, out)
	}
	return file, note, os.RemoveAll(src)
}

var descriptorsScenario = scenario{
	name: "descriptors", what: "no descriptor left for 3 s, five times for each deliverer and five times for the router", act: exhaustDescriptors,
	flow: 100 * time.Second, rest: patience, noRepeat: true, deploy: editsScenario.deploy, check: lateAfterHealing(10),
}

// exhaustDescriptors sets the limit of a running process to what it has open, so that every new connection fails, and raises it again. The post's receiver
// closes after each answer, so that its every send needs a new connection.
func exhaustDescriptors(ctx context.Context, w *world) error {
	p, err := openPost(ctx, w, "descriptors")
	if err != nil {
		return err
	}
	defer p.close()
	p.server.SetKeepAlivesEnabled(false)
	slowest := time.Duration(0)
	for range 5 {
		for _, names := range [][]string{{"deliverer-1", "deliverer-2"}, {"router"}} {
			var ids []string
			err := w.fault(Other, func() (err error) {
				ids, err = exhaust(ctx, p, names)
				return err
			})
			if err != nil {
				return err
			}
			raised := time.Now()
			for _, id := range ids {
				if err := rig.Until(healed+5*time.Second, "events that came while there was no descriptor are delivered", func() bool { return p.caught(id) == 1 }); err != nil {
					return err
				}
			}
			slowest = max(slowest, time.Since(raised))
		}
	}
	fmt.Printf("      descriptors: the last event of an exhaustion was delivered %.1f s after its end at most\n", slowest.Seconds())
	return nil
}

// exhaust publishes ten events while some processes may open nothing, for 3 s.
func exhaust(ctx context.Context, p *post, names []string) (ids []string, err error) {
	limits := map[string]syscall.Rlimit{}
	for _, name := range names {
		pid := p.w.d.Proc(name).PID()
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, err
		}
		var before syscall.Rlimit
		if err := limitDescriptors(pid, nil, &before); err != nil {
			return nil, err
		}
		if err := limitDescriptors(pid, &syscall.Rlimit{Cur: uint64(len(open)), Max: before.Max}, nil); err != nil {
			return nil, err
		}
		limits[name] = before
	}
	for range 10 {
		id, perr := p.publish(ctx, schemas.AppendSingleObject(nil, schemas.EventSchema("booking").Fingerprint()))
		err = errors.Join(err, perr)
		ids = append(ids, id)
	}
	err = errors.Join(err, pause(ctx, 3*time.Second))
	for name, before := range limits {
		err = errors.Join(err, limitDescriptors(p.w.d.Proc(name).PID(), &before, nil))
	}
	return ids, err
}

// limitDescriptors is prlimit(2) for RLIMIT_NOFILE.
func limitDescriptors(pid int, set, before *syscall.Rlimit) error {
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(before)), 0, 0)
	if e != 0 {
		return fmt.Errorf("prlimit: %w", e)
	}
	return nil
}

var lowLimitScenario = scenario{
	name: "low-limit", what: "router and deliverers with 40 descriptors from the start, 60 receivers", act: lowLimit, events: 6000, flow: 30 * time.Second, noRepeat: true,
	rest: patience, deploy: editsScenario.deploy,
}

// lowLimit restarts every process with so few descriptors that not every receiver can have a connection at once.
func lowLimit(ctx context.Context, w *world) error {
	file := filepath.Join(w.d.Dir, "low-limit")
	script := "#!/bin/sh\nulimit -n 40\nexec " + filepath.Join(w.d.Dir, "hookferry.this") + " \"$@\"\n"
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		return err
	}
	restart := func(start func(name string) error) error {
		for _, name := range []string{"router", "deliverer-1", "deliverer-2"} {
			kind := Other
			if name != "router" {
				kind = StopDeliverer
			}
			err := w.faultOn(kind, name, func() error { return w.d.Proc(name).Stop(10 * time.Second) })
			if err = errors.Join(err, start(name)); err != nil {
				return err
			}
		}
		return nil
	}
	start := func(name string) error {
		if name == "router" {
			return w.d.StartRouter(ctx, name)
		}
		return w.d.StartDeliverer(ctx, name)
	}
	if err := withBinary(w, file, func() error { return restart(start) }); err != nil {
		return err
	}
	var subs []rig.Subscription
	for i := range 60 {
		subs = append(subs, rig.Subscription{Company: w.companies[0], Path: fmt.Sprintf("/ok/low%d-%d", time.Now().UnixNano(), i)})
	}
	if err := w.d.Subscribe(ctx, subs); err != nil {
		return err
	}
	if err := pause(ctx, 15*time.Second); err != nil {
		return err
	}
	return restart(start) // as many as they like again
}
