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

// docs/robustness.md names a test for each bug that was found. A name that stands for no test would be a promise without a proof.
func TestEveryTestThatTheRobustnessPageNamesExists(t *testing.T) {
	page, err := os.ReadFile("docs/robustness.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests bytes.Buffer
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		tests.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(page, -1)
	if len(names) == 0 {
		t.Error("the page names no test")
	}
	for _, m := range names {
		if !bytes.Contains(tests.Bytes(), append([]byte("func "), append(m[1], '(')...)) {
			t.Errorf("no test is called %s", m[1])
		}
	}
}
