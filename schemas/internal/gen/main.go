// Command gen writes events_gen.go from the event schemas (*_event.avsc): one Go type per named Avro type, with its encoder and its decoder.
// The .avsc files are the source; run `go generate ./schemas` after a change of one. A test here fails while the two differ.
//
// It does not import package schemas, which does not compile without what it writes.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	out, err := generate(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "events_gen.go"), out, 0o644)
}

// generate is the whole text of events_gen.go for the schemas in dir.
func generate(dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_event.avsc"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no *_event.avsc in %s: is this the folder schemas?", dir)
	}
	var b bundle
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		entity := filepath.Base(f)
		entity = entity[:len(entity)-len("_event.avsc")]
		if err := b.add(entity, text); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
	}
	return write(&b)
}
