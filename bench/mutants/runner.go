package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// What came of a mutant. Only red is good.
const (
	red      = "red"
	survived = "SURVIVED" // its test is green: nobody would have noticed this bug
	broken   = "BROKEN"   // it says nothing: no longer fits, does not compile, panics, or hangs without being known for it
)

type result struct {
	verdict string
	why     string
	took    time.Duration
}

// runner builds and runs in a directory of its own.
type runner struct {
	root, dir string
	verbose   bool

	mu  sync.Mutex // lines of two mutants do not mix
	out io.Writer
}

func (r *runner) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format, args...)
}

// greens runs every named test once without a patch, a package at a time, and returns what is wrong with each that is not green, by mutant.key.
func (r *runner) greens(ctx context.Context, mutants []*mutant) map[string]string {
	byPkg := map[string][]*mutant{}
	for _, m := range mutants {
		if !slices.ContainsFunc(byPkg[m.pkg], func(o *mutant) bool { return o.test == m.test }) {
			byPkg[m.pkg] = append(byPkg[m.pkg], m)
		}
	}
	out := map[string]string{}
	for pkg, list := range byPkg {
		begun := time.Now()
		bin := filepath.Join(r.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
		err := r.build(ctx, pkg, bin, "")
		for _, m := range list {
			if err != nil {
				out[m.key()] = err.Error()
				continue
			}
			// A second chance, for tests with deadlines on a machine that has more to do; with a mutant in there is none.
			text, green := r.green(ctx, bin, m)
			if !green {
				text, green = r.green(ctx, bin, m)
			}
			if !green {
				out[m.key()] = "its test is not green: " + firstComplaint(text)
			}
		}
		r.say("%-34s %d named tests without a mutant (%.1f s)\n", pkg, len(list), time.Since(begun).Seconds())
	}
	return out
}

func (r *runner) green(ctx context.Context, bin string, m *mutant) (text string, ok bool) {
	text, err := r.test(ctx, bin, m)
	return text, err == nil && strings.Contains(text, "--- PASS: "+m.test+" (")
}

// mutant builds the package's tests with the mutant in, and runs the one that must go red.
func (r *runner) mutant(ctx context.Context, m *mutant) (res result) {
	begun := time.Now()
	defer func() { res.took = time.Since(begun) }()
	dir := filepath.Join(r.dir, m.name)
	overlay, err := m.overlay(r.root, dir)
	if err != nil {
		return result{verdict: broken, why: err.Error()}
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "mutant.test")
	if err := r.build(ctx, m.pkg, bin, overlay); err != nil {
		return result{verdict: broken, why: err.Error()}
	}
	text, err := r.test(ctx, bin, m)
	if r.verbose {
		r.say("\n== %s: %s\n%s\n", m.name, m.bug, text)
	}
	return judge(m, text, err)
}

// overlay writes patched copies of a mutant's files, and the file that tells the go command of them.
func (m *mutant) overlay(root, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var o struct{ Replace map[string]string }
	o.Replace = map[string]string{}
	for i, f := range m.files {
		real := filepath.Join(root, filepath.FromSlash(f.path))
		text, err := os.ReadFile(real)
		if err != nil {
			return "", err
		}
		patched, err := f.apply(string(text))
		if err != nil {
			return "", err
		}
		to := filepath.Join(dir, fmt.Sprintf("%d_%s", i, filepath.Base(f.path)))
		if err := os.WriteFile(to, []byte(patched), 0o644); err != nil {
			return "", err
		}
		o.Replace[real] = to
	}
	b, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, b, 0o644)
}

// build makes a package's test binary. A compiler's complaint is the error.
func (r *runner) build(ctx context.Context, pkg, bin, overlay string) error {
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", bin}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = r.root
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("does not compile: %w\n%s", err, bytes.TrimSpace(text))
	}
	return nil
}

// test runs one test of a binary and returns all that it printed. The worlds are those in memory: variables that would lead to real ones are left out.
func (r *runner) test(ctx context.Context, bin string, m *mutant) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.limit+10*time.Second) // the test's own time-out comes first, and says where it hangs
	defer cancel()
	pattern := "^" + strings.ReplaceAll(m.test, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, bin, "-test.v", "-test.count=1", "-test.run", pattern, "-test.timeout", m.limit.String())
	cmd.Dir = filepath.Join(r.root, filepath.FromSlash(m.pkg))
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HOOKFERRY_") })
	text, err := cmd.CombinedOutput()
	return string(text), errors.Join(err, ctx.Err())
}

var (
	timedOut = regexp.MustCompile(`(?m)^panic: test timed out`)
	panicked = regexp.MustCompile(`(?m)^(panic: |fatal error: |WARNING: DATA RACE)`)
)

// judge says what a run with a mutant in shows. It must be the named test that fails, by what it found: a panic or a race elsewhere in the process
// would be noticed too, but by luck.
func judge(m *mutant, text string, err error) result {
	failed := strings.Contains(text, "--- FAIL: "+m.test+" (")
	switch {
	case err == nil && strings.Contains(text, "--- PASS: "+m.test+" ("):
		return result{verdict: survived, why: m.bug}
	case timedOut.MatchString(text) && m.hang:
		return result{verdict: red, why: "it hangs"}
	case timedOut.MatchString(text) || errors.Is(err, context.DeadlineExceeded):
		return result{verdict: broken, why: "it hangs, and its header does not say so"}
	case panicked.MatchString(text):
		return result{verdict: broken, why: panicked.FindString(text) + "in the run: not the test's own finding"}
	case failed:
		return result{verdict: red, why: firstComplaint(text)}
	}
	return result{verdict: broken, why: fmt.Sprintf("%s did not run to its end: %v", m.test, err)}
}

var complaint = regexp.MustCompile(`(?m)^\s+[a-z_0-9]+_test\.go:\d+: .*$`)

// firstComplaint is the first line with which a test explains itself, cut to what fits beside its name.
func firstComplaint(text string) string {
	line := strings.TrimSpace(complaint.FindString(text))
	return line[:min(len(line), 160)]
}
