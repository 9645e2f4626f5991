package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// session is an operator at work on a world with a router and a deliverer, on virtual time. What he types and what he sees is written down.
type session struct {
	t        *testing.T
	app      *app
	out      *bytes.Buffer
	errOut   *bytes.Buffer
	receiver *sandbox.Receiver
	script   string // how the receiver answers
	text     strings.Builder
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, script: "/ok"}
	s.app, s.out, s.errOut = virtualKafka(t)
	var err error
	if s.receiver, err = sandbox.StartReceiver(sandbox.ReceiverConfig{Virtual: true, Script: func(*sandbox.Received) string { return s.script }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.receiver.Close)
	redis, err := sandbox.StartRedis(sandbox.RedisConfig{Virtual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	cfg := s.app.config
	cfg.Redis.Addr, cfg.Redis.Dial = redis.Addr, redis.Dial
	cfg.Egress.AllowHTTP, cfg.Egress.Ports, cfg.Egress.AllowRanges, cfg.Egress.Dial = true, []int{0}, []string{"127.0.0.0/8"}, s.receiver.Dial
	p := &pipeline{cfg: *cfg, log: zap.NewNop(), metrics: prometheus.NewRegistry(), kafka: s.app.client}
	if p.policy, err = s.app.policy(); err != nil {
		t.Fatal(err)
	}
	p.table = subscriptions.NewTable(p.kafka, s.app.keys, subscriptions.Options{})
	p.writer = subscriptions.NewWriter(p.kafka, p.table, s.app.keys, p.policy, cfg.Subscriptions)
	services, err := p.services([]string{"router", "deliverer"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, len(services))
	for _, service := range services {
		go func() { ended <- service.Run(ctx) }()
	}
	t.Cleanup(func() {
		stop()
		for range services {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// run runs a command line and returns what it prints; in is what it reads.
func (s *session) run(line string, in ...string) string {
	s.t.Helper()
	s.out.Reset()
	s.errOut.Reset()
	s.app.in, s.app.json = strings.NewReader(strings.Join(in, "\n")), false
	root := s.app.root()
	root.SetArgs(strings.Fields(line))
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	err := root.ExecuteContext(ctx)
	s.text.WriteString("$ hookferry " + line + "\n" + s.out.String())
	if err != nil {
		printError(&s.text, err, exitFailed)
	}
	s.text.WriteString("\n")
	return s.out.String()
}

// decode reads what a command printed for machines.
func decode[T any](s *session, text string) T {
	s.t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		s.t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// pass lets time go by, on which the services work.
func (s *session) pass(d time.Duration) { <-time.After(d) }

func product(id, event string) string {
	return `{"meta":{"eventType":"product.` + event + `","companyId":"acme","eventId":"evt_` + id + `","occurredAt":"2026-01-02T03:04:05Z"},` +
		`"data":{"productId":"` + id + `","name":"Dry Bag"}}`
}

// What differs from run to run: ids that are made up, times to the millisecond, ports. What stands for an id has its length, so that columns stay columns.
var changing = []struct {
	pattern *regexp.Regexp
	letter  string
}{
	{regexp.MustCompile(`\bsub_[a-z2-7]{26}`), "s"}, {regexp.MustCompile(`\bmsg_[a-z2-7]{26}`), "m"}, {regexp.MustCompile(`\brpl_[a-z2-7]{26}`), "r"},
	{regexp.MustCompile(`\bsec_[a-z2-7]{26}`), "c"}, {regexp.MustCompile(`\bwhsec_[A-Za-z0-9+/=]{44}`), "x"},
	{regexp.MustCompile(`\b[a-z2-7]{26}\b`), "t"}, {regexp.MustCompile(`\b[0-9a-f]{16}\b`), "f"}, {regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z`), ""},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "p"}, {regexp.MustCompile(`"duration_ms": [0-9.]+`), "d"},
}

func settle(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllStringFunc(text, func(s string) string {
			switch {
			case c.letter == "":
				return map[bool]string{false: "2000-01-01T00:00:00Z", true: "2000-01-01T00:00:00.000Z"}[strings.Contains(s, ".")]
			case c.letter == "p":
				return "127.0.0.1:PORT"
			case c.letter == "d":
				return `"duration_ms": 0`
			}
			prefix, rest := "", s
			if i := strings.IndexByte(s, '_'); i >= 0 {
				prefix, rest = s[:i+1], s[i+1:]
			}
			return prefix + strings.Repeat(c.letter, len(rest))
		})
	}
	return text
}

// The ways that go well, as an operator goes them, with all that is printed: testdata/session.txt. HOOKFERRY_WRITE_GOLDEN=1 writes it; read it then.
func TestWhatAnOperatorSees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSession(t)
		c := decode[subscriptionView](s, s.run("subscriptions create --company acme --name crm --url "+s.receiver.URL("/in")+
			" --events product.* --schedule 5s,5s --timeout 2s --json"))
		s.run("subscriptions list --company acme")
		s.run("subscriptions show crm --json")
		s.run("publish", product("41", "creation"), product("42", "creation"))
		s.pass(5 * time.Second)
		s.run("attempts")
		if got := decode[[]attemptRow](s, s.run("attempts --subscription "+c.ID+" --limit 1 --json")); len(got) != 1 || got[0].Subscription != c.ID || got[0].Number != 1 {
			t.Errorf("attempts: %+v", got)
		}

		s.script = "/status/503"
		s.run("publish", product("43", "creation"))
		s.pass(4 * time.Second)
		if got := decode[[]lagRow](s, s.run("lag --json")); len(got) != 1 || got[0].Waiting != 1 || got[0].Retrying != 1 || got[0].Subscription != c.ID {
			t.Errorf("lag: %+v", got)
		}
		s.run("lag")
		s.pass(time.Minute)
		s.run("dead list")
		dead := decode[[]deadRow](s, s.run("dead list --reason exhausted --json"))
		if len(dead) != 1 || dead[0].Tries != 3 || dead[0].EventID != "evt_43" {
			t.Fatalf("dead: %+v", dead)
		}
		s.run("dead show " + dead[0].ID)
		if body := s.run("dead show --raw " + dead[0].ID); !json.Valid([]byte(body)) {
			t.Errorf("the raw body is %q", body)
		}
		s.script = "/ok"
		s.run("dead redrive " + dead[0].ID)
		s.pass(10 * time.Second)
		s.run("attempts --event evt_43")

		s.garbage()
		s.pass(5 * time.Second)
		s.run("undecodable list")
		bad := decode[[]undecodableRow](s, s.run("undecodable list --reason unframed --json"))
		if len(bad) != 1 || bad[0].Bytes != len("no event") {
			t.Fatalf("undecodable: %+v", bad)
		}
		s.run("undecodable show " + bad[0].ID)
		if raw := s.run("undecodable show --raw " + bad[0].ID); raw != "no event" {
			t.Errorf("its bytes are %q", raw)
		}
		s.run("undecodable reroute " + bad[0].ID)
		if got := decode[[]rerouteRow](s, s.run("undecodable reroute --all --reason unframed --json")); len(got) != 1 || got[0].State != "done" {
			t.Errorf("reroute: %+v", got)
		}

		s.run("lag")
		s.run("subscriptions update crm --max-rate 5 --name crm2")
		s.run("subscriptions delete crm2 --yes")
		s.run("subscriptions list")
		s.run("subscriptions list --deleted --json")
		if n := len(s.receiver.Ledger()); n != 6 { // two at once, three that failed, one redriven
			t.Errorf("the receiver got %d requests", n)
		}
		const file = "testdata/session.txt"
		got := settle(s.text.String())
		if os.Getenv("HOOKFERRY_WRITE_GOLDEN") != "" {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the session was\n%s\nand not\n%s", got, want)
		}
	})
}

// garbage appends what is no event to a topic of events.
func (s *session) garbage() {
	s.t.Helper()
	var r kafka.Records
	r.Add(kafka.TP{Topic: s.app.client.Topics().Events["product"]}, []byte("acme/44"), nil, []byte("no event"))
	if _, err := s.app.client.NewAppender(kafka.AppenderConfig{}).Append(s.t.Context(), &r); err != nil {
		s.t.Fatal(err)
	}
}
