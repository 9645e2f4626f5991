package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// registryWorld is a small registry in this process: the routes of the Confluent API that the client uses, and a hand on what it answers.
type registryWorld struct {
	mu       sync.Mutex
	schemas  []string            // by id - 1
	subjects map[string][]uint32 // versions
	calls    int
	broken   func(w http.ResponseWriter) // instead of any answer
}

func (g *registryWorld) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	if g.broken != nil {
		g.broken(w)
		return
	}
	var in struct{ Schema string }
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !json.Valid([]byte(in.Schema)) || !strings.Contains(in.Schema, "record") {
			g.answer(w, 422, map[string]any{"error_code": 42201, "message": "invalid schema"})
			return
		}
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.Method == http.MethodGet && len(parts) == 3 && parts[0] == "schemas":
		id, err := strconv.Atoi(parts[2])
		if err != nil || id < 1 || id > len(g.schemas) {
			g.answer(w, 404, map[string]any{"error_code": 40403, "message": "Schema not found"})
			return
		}
		g.answer(w, 200, map[string]any{"schema": g.schemas[id-1]})
	case r.Method == http.MethodPost && len(parts) == 3 && parts[0] == "subjects":
		g.register(w, parts[1], in.Schema)
	case r.Method == http.MethodPost && parts[0] == "compatibility":
		versions := g.subjects[parts[2]]
		if len(versions) == 0 {
			g.answer(w, 404, map[string]any{"error_code": 40401, "message": "Subject not found"})
			return
		}
		ok := g.follows(parts[2], in.Schema)
		out := map[string]any{"is_compatible": ok}
		if !ok {
			out["messages"] = []string{"a field without a default was added"}
		}
		g.answer(w, 200, out)
	default:
		g.answer(w, 404, nil)
	}
}

// follows knows one rule of compatibility, the one that the tests break: a field without a default must not be added.
func (g *registryWorld) follows(subject, text string) bool {
	for _, id := range g.subjects[subject] {
		if strings.Contains(text, `"added"`) && !strings.Contains(g.schemas[id-1], `"added"`) {
			return false
		}
	}
	return true
}

func (g *registryWorld) register(w http.ResponseWriter, subject, text string) {
	if !g.follows(subject, text) {
		g.answer(w, 409, map[string]any{"error_code": 409, "message": "incompatible"})
		return
	}
	id := uint32(0)
	for i, s := range g.schemas {
		if s == text {
			id = uint32(i + 1)
		}
	}
	if id == 0 {
		g.schemas = append(g.schemas, text)
		id = uint32(len(g.schemas))
	}
	g.subjects[subject] = append(g.subjects[subject], id)
	g.answer(w, 200, map[string]any{"id": id})
}

func (g *registryWorld) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (g *registryWorld) breakWith(f func(w http.ResponseWriter)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken = f
}

func newRegistryWorld(t *testing.T) (*registryWorld, string) {
	g := &registryWorld{subjects: map[string][]uint32{}}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	return g, s.URL
}

func newTestRegistry(t *testing.T, url string) *Registry {
	t.Helper()
	cfg := DefaultRegistryConfig()
	cfg.URL = url
	r, err := NewRegistry(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// TestRegistrySpeaksConfluent holds for the registry in this process, and for a real one whose URL HOOKFERRY_TEST_REGISTRY names
// (deploy/kafka/registry.sh starts one).
func TestRegistrySpeaksConfluent(t *testing.T) {
	url := os.Getenv("HOOKFERRY_TEST_REGISTRY")
	if url == "" {
		_, url = newRegistryWorld(t)
	}
	ctx := context.Background()
	r := newTestRegistry(t, url)
	subject := fmt.Sprintf("hookferry.events.test-%d/%d-value", os.Getpid(), time.Now().UnixNano()) // a subject may hold any character
	subject = strings.ReplaceAll(subject, "/", "-")
	v1 := fmt.Sprintf(`{"type":"record","name":"T%d","fields":[{"name":"a","type":"string"}]}`, time.Now().UnixNano())
	v2 := strings.Replace(v1, `}]}`, `},{"name":"more","type":["null","string"],"default":null}]}`, 1)
	bad := strings.Replace(v1, `}]}`, `},{"name":"added","type":"string"}]}`, 1)

	if ok, why, err := r.CheckCompatible(ctx, subject, v1); err != nil || !ok {
		t.Fatalf("the first schema of a subject: %v %v %v", ok, why, err)
	}
	id, err := r.Register(ctx, subject, v1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := newTestRegistry(t, url).Register(ctx, subject, v1); err != nil || again != id {
		t.Errorf("registered again: id %d, %v; was %d", again, err, id)
	}
	text, err := newTestRegistry(t, url).SchemaByID(ctx, id)
	if err != nil || !sameJSON(text, v1) {
		t.Errorf("by id: %s, %v", text, err)
	}
	if ok, why, err := r.CheckCompatible(ctx, subject, v2); err != nil || !ok {
		t.Errorf("a field with a default: %v %v %v", ok, why, err)
	}
	requireBackward(t, url, subject)
	if ok, why, err := r.CheckCompatible(ctx, subject, bad); err != nil || ok {
		t.Errorf("a field without a default: %v %v %v", ok, why, err)
	}
	var refused *RegistryError
	if _, err := r.Register(ctx, subject, bad); !errors.Is(err, ErrSchemaRefused) || !errors.As(err, &refused) || refused.Code() != "schema_refused" {
		t.Errorf("registering what is not compatible: %v", err)
	}
	if _, err := r.Register(ctx, subject, `{"type":"nonsense"}`); !errors.Is(err, ErrSchemaRefused) {
		t.Errorf("registering nonsense: %v", err)
	}
	if _, err := r.SchemaByID(ctx, 2_000_000_000); !errors.Is(err, ErrUnknownSchema) || errors.Is(err, ErrRegistryDown) {
		t.Errorf("an id that nobody registered: %v", err)
	}
	if _, err := newTestRegistry(t, url+"/nowhere").SchemaByID(ctx, id); !errors.Is(err, ErrRegistryDown) {
		t.Errorf("a wrong path must not look like an unknown schema: %v", err)
	}
}

// requireBackward sets the subject's rule. The registry in this process has no other, and answers 404.
func requireBackward(t *testing.T, url, subject string) {
	req, err := http.NewRequest(http.MethodPut, url+"/config/"+subject, strings.NewReader(`{"compatibility":"BACKWARD"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	resp, err := newTestRegistry(t, url).client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// TestRegistryDownIsNotUnknown: whatever is wrong with the registry, an event that names one of its ids must wait.
func TestRegistryDownIsNotUnknown(t *testing.T) {
	g, url := newRegistryWorld(t)
	status := func(code int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, f := range map[string]func(http.ResponseWriter){
		"500":            status(500, `{"error_code":50001,"message":"store"}`),
		"503":            status(503, "<html>"),
		"429":            status(429, ""),
		"401":            status(401, ""),
		"404, a proxy's": status(404, "<html>not here</html>"),
		"404, a subject": status(404, `{"error_code":40401}`),
		"302":            status(302, ""),
		"not JSON":       status(200, "hello"),
		"another API":    status(200, `{"ok":true}`),
		"cut off": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		},
	} {
		g.breakWith(f)
		_, err := newTestRegistry(t, url).SchemaByID(context.Background(), 1)
		var e *RegistryError
		if !errors.Is(err, ErrRegistryDown) || errors.Is(err, ErrUnknownSchema) || !errors.As(err, &e) || e.Code() != "registry_down" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := newTestRegistry(t, url).Register(context.Background(), "s", "{}"); !errors.Is(err, ErrRegistryDown) {
			t.Errorf("%s: register: %v", name, err)
		}
	}
	g.breakWith(status(404, `{"error_code":404,"message":"HTTP 404 Not Found"}`)) // what a registry says to an id that is no signed integer
	for _, id := range []uint32{1 << 31, 1<<32 - 1} {
		if _, err := newTestRegistry(t, url).SchemaByID(context.Background(), id); !errors.Is(err, ErrUnknownSchema) || errors.Is(err, ErrRegistryDown) {
			t.Errorf("id %d: %v", id, err)
		}
	}
	closed := httptest.NewServer(g)
	closed.Close()
	if _, err := newTestRegistry(t, closed.URL).SchemaByID(context.Background(), 1); !errors.Is(err, ErrRegistryDown) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := newTestRegistry(t, url).SchemaByID(ctx, 1); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRegistryDown) {
		t.Errorf("a caller that gave up: %v", err)
	}
}

// TestRegistryKeepsWhatItLearned for ever, and no error.
// An answer that is too long to be read would hold its partition for ever if it were taken for no answer.
func TestASchemaTooLongToBeReadIsUnknown(t *testing.T) {
	w := &registryWorld{subjects: map[string][]uint32{}}
	for _, size := range []int{maxRegistryAnswer / 2, maxRegistryAnswer, 4 * maxRegistryAnswer} {
		w.schemas = append(w.schemas, `{"type":"record","name":"X","fields":[],"doc":"`+strings.Repeat("x", size)+`"}`)
	}
	server := httptest.NewServer(w)
	defer server.Close()
	c := DefaultRegistryConfig()
	c.URL = server.URL
	r, err := NewRegistry(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, err := r.SchemaByID(t.Context(), 1); err != nil || text != w.schemas[0] {
		t.Errorf("one that can be read: %d bytes, %v", len(text), err)
	}
	for id := uint32(2); id <= 3; id++ {
		if _, err := r.SchemaByID(t.Context(), id); !errors.Is(err, ErrUnknownSchema) {
			t.Errorf("schema %d: %v", id, err)
		}
	}
}

func TestRegistryKeepsWhatItLearned(t *testing.T) {
	g, url := newRegistryWorld(t)
	r := newTestRegistry(t, url)
	ctx := context.Background()
	const text = `{"type":"record","name":"T","fields":[]}`
	if _, err := r.SchemaByID(ctx, 1); !errors.Is(err, ErrUnknownSchema) {
		t.Fatal(err)
	}
	id, err := r.Register(ctx, "s", text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.SchemaByID(ctx, id); err != nil || got != text {
		t.Fatalf("registered a moment later, still %q, %v", got, err)
	}
	calls := g.calls
	g.breakWith(func(w http.ResponseWriter) { w.WriteHeader(500) })
	for range 3 {
		if got, err := r.SchemaByID(ctx, id); err != nil || got != text {
			t.Fatal(got, err)
		}
		if again, err := r.Register(ctx, "s", text); err != nil || again != id {
			t.Fatal(again, err)
		}
	}
	if g.calls != calls {
		t.Errorf("%d calls for what was known", g.calls-calls)
	}
}

func TestRegistrySendsItsUser(t *testing.T) {
	var user, password string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ = r.BasicAuth()
		_, _ = w.Write([]byte(`{"schema":"\"int\""}`))
	}))
	defer s.Close()
	cfg := RegistryConfig{URL: s.URL + "/", User: "ferry", Password: "pw", Timeout: time.Second}
	r, err := NewRegistry(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.SchemaByID(context.Background(), 1); err != nil || user != "ferry" || password != "pw" {
		t.Errorf("%q %q %v", user, password, err)
	}
}

func TestPasswordDoesNotPrint(t *testing.T) {
	cfg := RegistryConfig{User: "u", Password: "hunter2"}
	doc, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v %#v %s %q %x %d", cfg, cfg, cfg, cfg, cfg.Password, cfg.Password), string(doc)} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e") {
			t.Errorf("printed: %s", s)
		}
	}
}

func TestRegistryConfigNamesEachMistake(t *testing.T) {
	good := RegistryConfig{URL: "https://registry/apis/ccompat/v7", User: "u", Password: "p", Timeout: time.Second}
	if err := errors.Join(good.Validate(), DefaultRegistryConfig().Validate()); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(*RegistryConfig){
		"url: must be an http or https URL": func(c *RegistryConfig) { c.URL = "registry:8081" },
		"url: must not hold a user":         func(c *RegistryConfig) { c.URL = "http://u:hunter2@registry" },
		"url: must not hold a query":        func(c *RegistryConfig) { c.URL = "http://registry/?x=1" },
		"password: needs a user":            func(c *RegistryConfig) { c.User = "" },
		"timeout: 0s":                       func(c *RegistryConfig) { c.Timeout = 0 },
		"timeout: 2m0s":                     func(c *RegistryConfig) { c.Timeout = 2 * time.Minute },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("want %q, got %v", field, err)
		}
	}
	if r, err := NewRegistry(RegistryConfig{}); r != nil || err != nil {
		t.Errorf("without a URL: %v, %v", r, err)
	}
}
