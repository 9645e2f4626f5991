package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mutant is one file: a header of "key: value" lines (a line that begins with a blank goes on with the one before), then a unified diff against the
// module's root.
//
//	bug:      what it is, and who shipped it if that is known
//	package:  of the test, from the module's root
//	test:     the one test that must go red; TestX/part for a part of it
//	limit:    how long the test may take, build not counted (optional)
//	hang:     "red" if running into the limit is how this bug shows; else a hang is an error of the mutant (optional)
type mutant struct {
	name  string // of its file
	bug   string
	pkg   string
	test  string
	limit time.Duration
	hang  bool
	files []filePatch
}

func (m *mutant) key() string { return m.pkg + " " + m.test }

type filePatch struct {
	path  string
	hunks []hunk
}

// hunk replaces one run of lines by another. Where it lies is found by its lines alone: the numbers of a diff are out of date with the next edit above.
type hunk struct{ old, new []string }

const defaultLimit = time.Minute

// folder is where the mutants lie, from the module's root.
const folder = "bench/mutants"

// moduleRoot is the directory of go.mod at or above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod at or above the working directory")
		}
	}
}

// load reads all mutants, by name.
func load(root string) (out []*mutant, err error) {
	paths, err := filepath.Glob(filepath.Join(root, folder, "*.patch"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		m, err := parse(strings.TrimSuffix(filepath.Base(p), ".patch"), string(text))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func parse(name, text string) (*mutant, error) {
	m := &mutant{name: name, limit: defaultLimit}
	fail := func(n int, format string, args ...any) (*mutant, error) {
		return nil, fmt.Errorf("%s.patch:%d: %s", name, n+1, fmt.Sprintf(format, args...))
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	n, last := 0, ""
	for ; n < len(lines) && !strings.HasPrefix(lines[n], "--- "); n++ {
		key, value, ok := strings.Cut(lines[n], ": ")
		switch {
		case lines[n] == "":
		case lines[n][0] == ' ' && last == "bug":
			m.bug += " " + strings.TrimSpace(lines[n])
		case !ok || m.set(key, value) != nil:
			return fail(n, "%q is no line of a header", lines[n])
		default:
			last = key
		}
	}
	if m.bug == "" || m.pkg == "" || m.test == "" {
		return fail(0, "bug, package or test is missing")
	}
	for n < len(lines) {
		path, ok := strings.CutPrefix(lines[n], "--- a/")
		if !ok || n+1 >= len(lines) || lines[n+1] != "+++ b/"+path {
			return fail(n, "a diff begins with --- a/PATH and +++ b/PATH, the same")
		}
		fp := filePatch{path: path}
		for n += 2; n < len(lines) && strings.HasPrefix(lines[n], "@@"); {
			var h hunk
			for n++; n < len(lines) && !strings.HasPrefix(lines[n], "@@") && !strings.HasPrefix(lines[n], "--- a/"); n++ {
				if !h.take(lines[n]) {
					return fail(n, "%q is no line of a diff", lines[n])
				}
			}
			fp.hunks = append(fp.hunks, h)
		}
		if len(fp.hunks) == 0 {
			return fail(n-1, "%s has no hunk", path)
		}
		m.files = append(m.files, fp)
	}
	if len(m.files) == 0 {
		return fail(n, "there is no diff")
	}
	return m, nil
}

func (m *mutant) set(key, value string) (err error) {
	switch key {
	case "bug":
		m.bug = value
	case "package":
		m.pkg = value
	case "test":
		m.test = value
	case "limit":
		m.limit, err = time.ParseDuration(value)
	case "hang":
		if m.hang = true; value != "red" {
			err = errors.New("hang can only be red")
		}
	default:
		err = errors.New("no such key")
	}
	return err
}

// take adds a line of a diff. Editors strip the blank of an empty line.
func (h *hunk) take(line string) bool {
	if line == "" {
		line = " "
	}
	switch line[0] {
	case ' ':
		h.old, h.new = append(h.old, line[1:]), append(h.new, line[1:])
	case '-':
		h.old = append(h.old, line[1:])
	case '+':
		h.new = append(h.new, line[1:])
	default:
		return false
	}
	return true
}

// apply is the text of a file with its hunks applied. Each must fit exactly one place: one that fits two might plant another bug than it says.
func (f *filePatch) apply(text string) (string, error) {
	lines := strings.Split(text, "\n")
	for i, h := range f.hunks {
		at, found := 0, 0
		for from := 0; from+len(h.old) <= len(lines) && len(h.old) > 0; from++ {
			if slices.Equal(lines[from:from+len(h.old)], h.old) {
				at, found = from, found+1
			}
		}
		if found != 1 {
			return "", fmt.Errorf("hunk %d fits %d places of %s, and must fit one", i+1, found, f.path)
		}
		lines = slices.Concat(lines[:at], h.new, lines[at+len(h.old):])
	}
	return strings.Join(lines, "\n"), nil
}
