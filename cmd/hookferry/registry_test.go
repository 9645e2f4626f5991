package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// subjects is the little of a registry that register and check ask. What is refused, nothing may follow.
type subjects struct {
	mu      sync.Mutex
	ids     map[string]int // by subject and schema
	refused string         // a subject
}

func (g *subjects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var in struct{ Schema string }
	json.NewDecoder(r.Body).Decode(&in)
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	switch {
	case r.Method == http.MethodPost && parts[0] == "compatibility":
		json.NewEncoder(w).Encode(map[string]any{"is_compatible": parts[2] != g.refused, "messages": []string{"READER_FIELD_MISSING_DEFAULT_VALUE"}})
	case r.Method == http.MethodPost && parts[0] == "subjects":
		key := parts[1] + " " + in.Schema
		if g.ids[key] == 0 {
			g.ids[key] = len(g.ids) + 1
		}
		json.NewEncoder(w).Encode(map[string]any{"id": g.ids[key]})
	default:
		http.NotFound(w, r)
	}
}

// Holds for a registry in this process, and for the real one whose URL HOOKFERRY_TEST_REGISTRY names.
func TestSchemasAreRegisteredOnceAndChecked(t *testing.T) {
	fake := &subjects{ids: map[string]int{}}
	url := os.Getenv("HOOKFERRY_TEST_REGISTRY")
	inMemory := url == ""
	if inMemory {
		server := httptest.NewServer(fake)
		t.Cleanup(server.Close)
		url = server.URL
	}
	cfg := defaultConfig()
	cfg.Kafka.Registry.URL = url
	cfg.Kafka.TopicPrefix = fmt.Sprintf("cmd%d.", time.Now().UnixNano())
	run := func(args string) (string, error) {
		out, errOut := new(bytes.Buffer), new(bytes.Buffer)
		a := &app{in: strings.NewReader(""), out: out, errOut: errOut, config: &cfg}
		defer a.close()
		root := a.root()
		root.SetArgs(strings.Fields(args))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	registerAll := func() (rows []registered) {
		t.Helper()
		out, err := run("schemas register --json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &rows)
		}
		if err != nil || len(rows) != len(schemas.AllEntities()) {
			t.Fatalf("register: %v\n%s", err, out)
		}
		return rows
	}
	if out, err := run("schemas check booking customer"); err != nil || strings.Count(out, "  compatible\n") != 2 {
		t.Errorf("before anything is registered: %v\n%s", err, out)
	}
	first := registerAll()
	for _, r := range first {
		if r.ID == 0 || r.Subject != cfg.Kafka.TopicPrefix+"events."+r.Entity+"-value" {
			t.Errorf("registered: %+v", r)
		}
	}
	again := registerAll()
	if !slices.EqualFunc(first, again, func(a, b registered) bool { return a.Subject == b.Subject && a.ID == b.ID }) {
		t.Errorf("registered again, the ids are %+v, and were %+v", again, first)
	}
	if out, err := run("schemas register booking"); err != nil || !strings.HasPrefix(out, "SUBJECT ") || !strings.Contains(out, fmt.Sprint(first[0].Subject, "  ", first[0].ID)) {
		t.Errorf("register booking: %v\n%s", err, out)
	}
	if out, err := run("schemas check"); err != nil || strings.Count(out, "-value") != len(first) || strings.Contains(out, "incompatible") {
		t.Errorf("check: %v\n%s", err, out)
	}
	if !inMemory {
		return
	}
	fake.refused = first[0].Subject
	out, err := run("schemas check --json")
	var rows []registered
	if json.Unmarshal([]byte(out), &rows) != nil || codeOf(err) != "schema_incompatible" || *rows[0].Compatible || len(rows[0].Why) == 0 || !*rows[1].Compatible {
		t.Errorf("check of a schema that may not follow: %v\n%s", err, out)
	}
}

// A command that registers what it publishes ends when the registry does not answer, and says what it could not reach.
func TestPublishingEndsWhenTheRegistryDoesNotAnswer(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	for _, c := range []struct {
		name          string
		first, after  http.HandlerFunc
		wait          time.Duration
		says, saysNot string
	}{
		{"it refuses", refuse, refuse, 2 * time.Second, "503", ""},
		{"it refuses and then hangs", refuse, hang, 2 * time.Second, "503", "deadline"},
		{"it hangs", hang, hang, 300 * time.Millisecond, "deadline", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			registryWait = c.wait
			t.Cleanup(func() { registryWait = 15 * time.Second })
			var asked atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 1 {
					c.first(w, r)
				} else {
					c.after(w, r)
				}
			}))
			t.Cleanup(server.Close)
			a, _, _ := publishApp(t, "")
			cfg := a.client.Config()
			cfg.Registry.URL = server.URL
			client, err := kafka.Open(cfg, kafka.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			a.client = client
			began := time.Now()
			err = execute(t, publishCommand(a), "--sample", "1")
			took := time.Since(began)
			if codeOf(err) != "registry_unreachable" || !strings.Contains(err.Error(), c.says) || c.saysNot != "" && strings.Contains(err.Error(), c.saysNot) ||
				took > 10*time.Second {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}
