package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestTheCheckedInTypesAreWhatTheSchemasSay(t *testing.T) {
	want, err := generate("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../events_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("events_gen.go is not what the .avsc files say; run: go generate ./schemas")
	}
}

func TestATypeThatTwoFilesDefineDifferentlyIsRefused(t *testing.T) {
	event := func(name, kinds string) []byte {
		return []byte(`{"type":"record","name":"` + name + `","fields":[
			{"name":"meta","type":{"type":"record","name":"M","fields":[{"name":"kind","type":{"type":"enum","name":"Kind","symbols":[` + kinds + `]}}]}},
			{"name":"data","type":"M"},{"name":"previous","type":["null","M"]}]}`)
	}
	var b bundle
	if err := b.add("one", event("One", `"A","B"`)); err != nil {
		t.Fatal(err)
	}
	if err := b.add("two", event("Two", `"A","B"`)); err != nil {
		t.Fatalf("an equal definition was refused: %v", err)
	}
	if err := b.add("three", event("Three", `"A","C"`)); err == nil || !strings.Contains(err.Error(), "Kind differs") {
		t.Fatalf("got %v, want: Kind differs", err)
	}
}

func TestWhatTheGoTypesCannotHoldIsRefused(t *testing.T) {
	for name, field := range map[string]string{
		"another scale":       `{"type":"bytes","logicalType":"decimal","precision":18,"scale":2}`,
		"more than 18 digits": `{"type":"bytes","logicalType":"decimal","precision":19,"scale":6}`,
		"a union of two":      `["int","string"]`,
		"a double":            `"double"`,
		"microseconds":        `{"type":"long","logicalType":"timestamp-micros"}`,
		"a map of numbers":    `{"type":"map","values":"int"}`,
		"a type not defined":  `"Nowhere"`,
	} {
		var b bundle
		err := b.add("x", []byte(`{"type":"record","name":"X","fields":[{"name":"meta","type":`+field+`}]}`))
		if err == nil || !strings.Contains(err.Error(), "X.meta") {
			t.Errorf("%s: got %v, want an error that names X.meta", name, err)
		}
	}
}
