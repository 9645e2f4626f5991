package hookferry

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/robustness.md names for each bug that was found what guards against it: tests, scenarios of `make faults`, or seeds of `make simulation`. A name that stands
// for nothing, and a bug that nothing guards against, would be promises without a proof.
func TestEveryBugOfTheRobustnessPageIsGuarded(t *testing.T) {
	page, err := os.ReadFile("docs/robustness.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := bytes.Cut(page, []byte("## Bugs found"))
	list, _, _ = bytes.Cut(list, []byte("\n## "))
	tests, rig := sources(t, ".", "_test.go"), sources(t, "bench/faults", ".go")
	n := 0
	for row := range strings.SplitSeq(string(list), "\n") {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if !strings.HasPrefix(row, "| 20") {
			continue
		}
		n++
		if len(cells) != 4 {
			t.Errorf("%d cells: %s", len(cells), row)
			continue
		}
		if guards := guardsOf(cells[3]); len(guards) == 0 {
			t.Errorf("nothing guards against %q", cells[1])
		}
		for _, g := range guardsOf(cells[3]) {
			if strings.HasPrefix(g, "Test") || strings.HasPrefix(g, "Fuzz") {
				if !bytes.Contains(tests, []byte("func "+g+"(")) {
					t.Errorf("no test is called %s", g)
				}
			} else if !strings.HasPrefix(g, "seed ") && !isScenario(rig, g) {
				t.Errorf("no scenario is called %s", g)
			}
		}
		for _, m := range regexp.MustCompile("`make faults`, ([a-z0-9-]+)").FindAllStringSubmatch(cells[2], -1) {
			if !isScenario(rig, m[1]) {
				t.Errorf("%q was found by %s, which is no scenario", cells[1], m[1])
			}
		}
	}
	if n < 30 {
		t.Errorf("%d bugs are read", n)
	}
}

// guardsOf reads the last cell of a row: names in backticks, and "seed N".
func guardsOf(cell string) (all []string) {
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+|[a-z0-9-]+)`|(seed [0-9]+)").FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1]+m[2])
	}
	return all
}

func isScenario(rig []byte, name string) bool {
	return bytes.Contains(rig, []byte(`name: "`+name+`"`)) || bytes.Contains(rig, []byte(`theRolling("`+name+`"`))
}

// sources is the text of all files under a directory whose names end so.
func sources(t *testing.T, dir, end string) []byte {
	var text bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, end) {
			return err
		}
		b, err := os.ReadFile(path)
		text.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}
