package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The words are those of deliverer/redislink.go: if they change there, this says so.
func TestWhatADelivererSaysOfRedisIsFoundInItsLog(t *testing.T) {
	source, err := os.ReadFile("../../deliverer/redislink.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{`"redis does not answer`, `"redis answers again`} {
		if !strings.Contains(string(source), words) {
			t.Errorf("a link to Redis does not say %s any more", words)
		}
	}
	dir := t.TempDir()
	log := `{"level":"warn","time":"2026-01-02T03:04:05Z","msg":"redis does not answer: before the run","link":"look-ups"}
{"level":"warn","time":"2026-01-02T03:04:15Z","msg":"redis does not answer: x","link":"look-ups"}
{"level":"warn","time":"2026-01-02T03:04:16Z","msg":"redis does not answer: x","link":"marks"}
{"level":"info","time":"2026-01-02T03:04:19Z","msg":"redis answers again: y","link":"look-ups"}
no JSON "msg":"redis
`
	if err := os.WriteFile(filepath.Join(dir, "deliverer-2.log"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 10, 0, time.UTC)
	got := unheard(dir, at)
	want := []Fault{{RedisUnheard, "deliverer-2", at.Add(5 * time.Second), at.Add(9 * time.Second)}, {RedisUnheard, "deliverer-2", at.Add(6 * time.Second), at.Add(8 * time.Second)}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}
