package rig

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestASentFileGivesBackWhatWasSent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "publisher.ledger")
	f, err := CreateSentFile(name)
	if err != nil {
		t.Fatal(err)
	}
	batch := []Sent{{Company: 1, Entity: 7, Version: 1, Due: 5}, {Company: 2, Entity: -1, Version: 1, Due: 6}, {Company: 0, Entity: 7, Version: 2, Due: 7}}
	if err := f.Before(300, batch); err != nil {
		t.Fatal(err)
	}
	first, before, err := ReadSent(name) // the rig dies here: nobody knows what became of them
	if err != nil || first != 300 || len(before) != 3 {
		t.Fatal(first, before, err)
	}
	for _, e := range before {
		if e.Fate != Unknown {
			t.Errorf("before its answer: %+v", e)
		}
	}
	batch[0].Fate, batch[1].Fate, batch[2].Fate = Accepted, Rejected, Unknown
	f.After(300, batch)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, after, err := ReadSent(name); err != nil || !reflect.DeepEqual(after, batch) {
		t.Errorf("%+v %v", after, err)
	}
}

// Whoever dies while he writes leaves half a line; it is passed over. A line that is whole and wrong is an error.
func TestLedgersAfterADeath(t *testing.T) {
	name := filepath.Join(t.TempDir(), "l")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sent := "s\t5\t0\t1\t1\t9\ns\t6\t1\t1\t1\t9\no\t5\t5\taccepted\n"
	req := "r\t1\t10\t/ok/n\tm\te\ten\t5\t9\t1\t3\tok\tok\tab\t4\t4\t200\n"
	for cut := range len(sent) {
		write(sent[:cut])
		if _, all, err := ReadSent(name); err != nil || len(all) > strings.Count(sent[:cut], "s\t") {
			t.Fatalf("cut at %d: %v %v", cut, all, err)
		}
	}
	for cut := range len(req) {
		write(req + req[:cut])
		if all, err := ReadRequests(name); err != nil || len(all) != 1 || all[0].Outcome != Open {
			t.Fatalf("cut at %d: %v %v", cut, all, err)
		}
	}
	for _, bad := range []string{"x\t1\n", "s\t5\t0\n", "o\t5\t5\taccepted\n", "s\t5\t0\t1\t1\t9\no\t5\t6\taccepted\n", "s\t5\t0\t1\t1\t9\no\t5\t5\tperhaps\n", "s\t5\t0\t1\t1\t9\ns\t7\t0\t1\t1\t9\n"} {
		write(bad)
		if _, _, err := ReadSent(name); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	for _, bad := range []string{"x\t1\n", "r\t0\t1\n", "r\t1\tx\n", "e\t1\n", strings.Replace(req, "200", "two hundred", 1)} {
		write(bad)
		if _, err := ReadRequests(name); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// Many who wait at once each find their line in the file when they are told so.
func TestASyncFileTellsNobodyTooEarly(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := CreateSyncFile(name, true)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			mine := strings.Repeat(string(rune('A'+i)), 3) + "\n"
			if err := f.AppendSync(func(b []byte) []byte { return append(b, mine...) }); err != nil {
				t.Error(err)
			}
			if all, err := os.ReadFile(name); err != nil || !strings.Contains(string(all), mine) {
				t.Errorf("%q is not there: %v", mine, err)
			}
		})
	}
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.AppendSync(func(b []byte) []byte { return b }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// The events of a publisher with versions: each entity has its versions in turn, others in between.
func TestPlacesOfVersions(t *testing.T) {
	p := &Publisher{versions: 4}
	last := map[int64]int{}
	seen := map[int64]int64{}
	for m := range int64(1000) {
		e, v := p.place(m)
		if v != last[e]+1 || v > 4 {
			t.Fatalf("event %d: entity %d, version %d after %d", m, e, v, last[e])
		}
		if at, ok := seen[e]; ok && m-at != interleaved {
			t.Fatalf("entity %d: %d events between two versions", e, m-at)
		}
		last[e], seen[e] = v, m
	}
}
