package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// owed are the mutants that there must be: each a bug that somebody may plant again without thinking of it.
var owed = strings.Fields(`
	mark-before-send mark-before-the-outcome-is-durable mark-without-the-round commit-before-send commit-at-poll write-error-logged-and-acknowledged
	redirects-followed redirect-is-delivered body-unbounded send-without-the-lease stale-table reset-to-the-end reset-to-the-start
	commit-metadata-ignored shared-connection-pool wait-inside-the-partition jitter-by-die overlap-within-an-entity new-webhook-id-per-try
	re-marshal-after-signing early-2xx-accepted undecodable-skipped non-contiguous-commit company-predicate-missing secret-in-a-log-line
	wall-clock-for-durations tombstone-at-once egress-check-at-admission-only only-the-first-dns-answer replay-ids-equal-to-live-ones`)

// A change of the code that a mutant no longer fits must be seen with the change, not with the next run of all mutants.
func TestEveryMutantFitsTheCodeAndNamesATestThatExists(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	all, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range all {
		names[m.name] = true
		for _, f := range m.files {
			text, err := os.ReadFile(filepath.Join(root, f.path))
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				continue
			}
			patched, err := f.apply(string(text))
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				continue
			}
			if strings.HasSuffix(f.path, "_test.go") || patched == string(text) {
				t.Errorf("%s changes a test, or nothing: %s", m.name, f.path)
			}
			if _, err := parser.ParseFile(token.NewFileSet(), f.path, patched, parser.SkipObjectResolution); err != nil {
				t.Errorf("%s: what comes out is not Go: %v", m.name, err)
			}
		}
		if name, _, _ := strings.Cut(m.test, "/"); !testsOf(t, filepath.Join(root, m.pkg))[name] {
			t.Errorf("%s names %s, which %s does not have", m.name, m.test, m.pkg)
		}
	}
	for _, name := range owed {
		if !names[name] {
			t.Errorf("the mutant %s is gone", name)
		}
	}
}

var testsByDir = map[string]map[string]bool{}

// testsOf are the names of a package's tests.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	if out := testsByDir[dir]; out != nil {
		return out
	}
	out := map[string]bool{}
	testsByDir[dir] = out
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				out[f.Name.Name] = true
			}
		}
	}
	return out
}

const sample = `bug: it is
  wrong
package: p
test: TestX
limit: 5s

--- a/p/x.go
+++ b/p/x.go
@@ -1,3 +1,2 @@
 a
-b

@@ -9,1 +8,2 @@
 z
+y
--- a/q/y.go
+++ b/q/y.go
@@ -1 +1 @@
-1
+2
`

func TestAMutantIsReadAndApplied(t *testing.T) {
	m, err := parse("m", sample)
	if err != nil {
		t.Fatal(err)
	}
	if m.bug != "it is wrong" || m.pkg != "p" || m.test != "TestX" || m.limit.Seconds() != 5 || m.hang || len(m.files) != 2 || len(m.files[0].hunks) != 2 {
		t.Errorf("%+v", m)
	}
	for _, c := range []struct{ before, after string }{
		{"a\nb\n\nz\n", "a\n\nz\ny\n"},
		{"new\nlines\nabove\na\nb\n\nmore\nz", "new\nlines\nabove\na\n\nmore\nz\ny"},
		{"a\nb\n\na\nb\n\nz\n", ""}, // fits two places
		{"a\nc\n\nz\n", ""},         // fits none
	} {
		got, err := m.files[0].apply(c.before)
		if got != c.after || (err != nil) != (c.after == "") {
			t.Errorf("%q became %q (%v), want %q", c.before, got, err, c.after)
		}
	}
}

func TestAMutantThatIsNotWellFormedIsRefused(t *testing.T) {
	for _, c := range []struct{ old, new string }{
		{"bug:", "bag:"}, {"package: p\n", ""}, {"test: TestX\n", ""}, {"limit: 5s", "limit: soon"}, {"limit: 5s", "hang: green"},
		{"+++ b/p/x.go", "+++ b/p/z.go"}, {"-b", "b"}, {"@@ -1 +1 @@\n-1\n+2\n", ""}, {sample[strings.Index(sample, "---"):], ""},
	} {
		if m, err := parse("m", strings.Replace(sample, c.old, c.new, 1)); err == nil {
			t.Errorf("%q in place of %q was taken: %+v", c.new, c.old, m)
		}
	}
}

func TestOnlyTheNamedTestsOwnFindingIsRed(t *testing.T) {
	exit := errors.New("exit status 1")
	m, hangs := &mutant{test: "TestX"}, &mutant{test: "TestX", hang: true}
	for _, c := range []struct {
		m    *mutant
		text string
		err  error
		want string
	}{
		{m, "=== RUN   TestX\n    x_test.go:3: wrong\n--- FAIL: TestX (0.00s)\nFAIL\n", exit, red},
		{m, "=== RUN   TestX\n--- PASS: TestX (0.00s)\nPASS\n", nil, survived},
		{m, "testing: warning: no tests to run\nPASS\n", nil, broken},
		{m, "--- FAIL: TestXY (0.00s)\nFAIL\n", exit, broken},
		{m, "--- FAIL: TestX (0.00s)\npanic: nil [recovered]\n", exit, broken},
		{m, "fatal error: all goroutines are asleep - deadlock!\n", exit, broken},
		{m, "panic: test timed out after 1m0s\n", exit, broken},
		{hangs, "panic: test timed out after 1m0s\n", exit, red},
		{hangs, "=== RUN   TestX\n--- PASS: TestX (0.00s)\nPASS\n", nil, survived},
	} {
		if got := judge(c.m, c.text, c.err); got.verdict != c.want {
			t.Errorf("%q: %s (%s), want %s", c.text, got.verdict, got.why, c.want)
		}
	}
}

func TestTheTableSaysRedOnlyWhereAllAre(t *testing.T) {
	ms := []*mutant{{name: "a"}, {name: "b"}}
	var out strings.Builder
	if table(&out, ms, []result{{verdict: red}, {verdict: survived}}, 0) || !strings.Contains(out.String(), "1 of 2 red") || !strings.Contains(out.String(), survived) {
		t.Error(out.String())
	}
	if table(&out, ms, []result{{verdict: red}, {}}, 0) {
		t.Error("a mutant that was not run counts as red")
	}
	if !table(&out, ms, []result{{verdict: red}, {verdict: red}}, 0) {
		t.Error("all are red, and it says no")
	}
}
