package subscriptions

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

func testWriter(t *testing.T) *Writer {
	t.Helper()
	policy, err := egress.NewPolicy(egress.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable(nil, nil, Options{})
	return &Writer{table: table, keys: secrets.Generate(), policy: policy, cfg: DefaultConfig()}
}

func goodDraft() Draft {
	return Draft{Company: "c0ffee01", Name: "crm", URL: "https://hooks.example.com/in", Events: []string{"booking.*"}}
}

func header(name, value string) HeaderValue { return HeaderValue{name, secrets.New([]byte(value))} }

// refused lists "code field" of everything that was refused.
func refused(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var rs Refusals
	if !errors.As(err, &rs) {
		t.Fatalf("%v is no refusal", err)
	}
	var out []string
	for _, r := range rs {
		out = append(out, r.Code()+" "+r.Field)
	}
	return out
}

func TestEveryRefusalOfADraftHasItsCodeAndField(t *testing.T) {
	long := strings.Repeat("x", 101)
	for _, c := range []struct {
		want string // "": accepted
		edit func(*Draft)
	}{
		{"", func(d *Draft) {}},
		{"company_invalid company", func(d *Draft) { d.Company = "" }},
		{"company_invalid company", func(d *Draft) { d.Company = "a/b" }}, // "/" parts company and entity in the key of an event
		{"company_invalid company", func(d *Draft) { d.Company = "a b" }},
		{"company_invalid company", func(d *Draft) { d.Company = strings.Repeat("a", 65) }},
		{"company_any company", func(d *Draft) { d.Company = "*" }},
		{"", func(d *Draft) { d.Company, d.Operator = "*", true }},
		{"name_invalid name", func(d *Draft) { d.Name = " " }},
		{"name_invalid name", func(d *Draft) { d.Name = long }},
		{"", func(d *Draft) { d.Name = strings.Repeat("ü", 100) }},
		{"name_invalid name", func(d *Draft) { d.Name = "a\x1b[31m" }},
		{"name_invalid name", func(d *Draft) { d.Name = "a\u202eb" }},
		{"name_invalid name", func(d *Draft) { d.Name = "a\xff" }},
		{"url_not_https url", func(d *Draft) { d.URL = "http://hooks.example.com/" }},
		{"url_host_local url", func(d *Draft) { d.URL = "https://localhost/" }},
		{"url_invalid url", func(d *Draft) { d.URL = "" }},
		{"events_missing events", func(d *Draft) { d.Events = nil }},
		{"event_unknown events[1]", func(d *Draft) { d.Events = []string{"booking.creation", "booking.create"} }},
		{"event_unknown events[0]", func(d *Draft) { d.Events = []string{"**"} }},
		{"event_unknown events[0]", func(d *Draft) { d.Events = []string{"*.*"} }},
		{"event_unknown events[0]", func(d *Draft) { d.Events = []string{"book*"} }},
		{"event_unknown events[0]", func(d *Draft) { d.Events = []string{"inventory.removal"} }},
		{"event_unknown events[0]", func(d *Draft) { d.Events = []string{""} }},
		{"events_too_many events", func(d *Draft) { d.Events = slices.Repeat([]string{"*"}, 65) }},
		{"", func(d *Draft) { d.Events = []string{"*", "booking.creation", "*.removal", "check_in.*"} }},
		{"format_unknown format", func(d *Draft) { d.Format = "xml" }},
		{"", func(d *Draft) { d.Format = "cloudevents" }},
		{"schedule_invalid schedule", func(d *Draft) { d.Schedule = []time.Duration{0, 7*24*time.Hour + 1} }},
		{"schedule_invalid schedule", func(d *Draft) { d.Schedule = []time.Duration{0, -1} }},
		{"schedule_invalid schedule", func(d *Draft) { d.Schedule = make([]time.Duration, 21) }},
		{"", func(d *Draft) { d.Schedule = make([]time.Duration, 20) }},
		{"timeout_invalid timeout", func(d *Draft) { d.Timeout = 999 * time.Millisecond }},
		{"timeout_invalid timeout", func(d *Draft) { d.Timeout = 31 * time.Second }},
		{"concurrency_invalid max-concurrency", func(d *Draft) { d.MaxConcurrency = 65 }},
		{"concurrency_invalid max-concurrency", func(d *Draft) { d.MaxConcurrency = -1 }},
		{"rate_invalid max-rate", func(d *Draft) { d.MaxRate = -1 }},
		{"rate_invalid max-rate", func(d *Draft) { d.MaxRate = 1e9 }},
		{"rate_invalid max-rate", func(d *Draft) { d.MaxRate = 0.001 }},
		{"secret_invalid secret", func(d *Draft) { s := secrets.New([]byte("whsec_short")); d.Secret = &s }},
		{"header_invalid headers", func(d *Draft) { d.Headers = []HeaderValue{header("a b", "v")} }},
		{"header_invalid headers", func(d *Draft) { d.Headers = []HeaderValue{header("", "v")} }},
		{"header_invalid headers", func(d *Draft) { d.Headers = []HeaderValue{header("X:", "v")} }},
		{"header_invalid headers.X-A", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", "a\r\nb")} }},
		{"header_invalid headers.X-A", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", "ü")} }},
		{"header_invalid headers.X-A", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", " a")} }},
		{"header_invalid headers.X-A", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", "")} }},
		{"header_invalid headers.X-A", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", strings.Repeat("v", 1025))} }},
		{"", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", "a \tb"), header("Authorization", "Bearer x")} }},
		{"header_duplicate headers.x-a", func(d *Draft) { d.Headers = []HeaderValue{header("X-A", "1"), header("x-a", "2")} }},
		{"headers_too_many headers", func(d *Draft) { d.Headers = manyHeaders(21, 1) }},
		{"headers_too_many headers", func(d *Draft) { d.Headers = manyHeaders(9, 1000) }},
	} {
		d := goodDraft()
		c.edit(&d)
		_, _, err := testWriter(t).draft(d, time.Now())
		got := strings.Join(refused(t, err), "; ")
		if got != c.want {
			t.Errorf("%+v: refused as %q, want %q", d, got, c.want)
		}
	}
}

func manyHeaders(n, size int) []HeaderValue {
	var out []HeaderValue
	for i := range n {
		out = append(out, header(fmt.Sprintf("X-%d", i), strings.Repeat("v", size)))
	}
	return out
}

func TestForbiddenHeaders(t *testing.T) {
	for _, name := range []string{"Host", "Content-Type", "content-length", "Transfer-Encoding", "TE", "Trailer", "Connection", "Keep-Alive", "Proxy-Authorization",
		"Upgrade", "Expect", "Accept-Encoding", "Cookie", "Date", "Via", "Forwarded", "X-Forwarded-For", "X-Real-IP", "Webhook-Id", "webhook-signature", "ce-id",
		"traceparent", "tracestate", "baggage", "Metadata", "Metadata-Flavor", "X-Amz-Security-Token", "x-aws-ec2-metadata-token", "X-Goog-Iam", "X-Google-Metadata-Request",
		"X-Azure-Ref", "X-MS-Client"} {
		d := goodDraft()
		d.Headers = []HeaderValue{header(name, "canary-value")}
		_, _, err := testWriter(t).draft(d, time.Now())
		if got := refused(t, err); len(got) != 1 || got[0] != "header_forbidden headers."+name {
			t.Errorf("%s: %v", name, got)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("the refusal shows the value: %v", err)
		}
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	_, _, err := testWriter(t).draft(Draft{Format: "xml", Timeout: time.Hour, MaxRate: -1, Headers: []HeaderValue{header("host", "x")}}, time.Now())
	want := []string{"company_invalid company", "name_invalid name", "url_invalid url", "events_missing events", "format_unknown format", "header_forbidden headers.host",
		"timeout_invalid timeout", "rate_invalid max-rate"}
	if got := refused(t, err); !slices.Equal(got, want) {
		t.Errorf("refused %v, want %v", got, want)
	}
}

func TestADraftIsStoredInCanonicalForm(t *testing.T) {
	w := testWriter(t)
	d := goodDraft()
	d.Name, d.URL, d.Events, d.Schedule = " crm ", "HTTPS://Hooks.Example.com:443", []string{" booking.*", "booking.*"}, []time.Duration{5 * time.Second, time.Minute}
	d.Headers = []HeaderValue{header("X-Token", "canary"), header("AUTHORIZATION", "Bearer canary")}
	s, plain, err := w.draft(d, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "crm" || s.URL != "https://hooks.example.com/" || !slices.Equal(s.Events, []string{"booking.*"}) || s.Format != schemas.FormatStandard {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.Schedule, []int64{0, 5000, 60000}) { // the first try is at once
		t.Errorf("schedule %v", s.Schedule)
	}
	if s.TimeoutMs != 15_000 || s.Version != 1 || len(s.ID) != len("sub_")+26 || len(s.Headers) != 1 || s.Auth == nil {
		t.Errorf("%+v", s)
	}
	if b := string(schemas.AppendSubscription(nil, s)); strings.Contains(b, "canary") || strings.Contains(b, string(plain.Reveal()[6:])) {
		t.Error("the record holds a secret in clear")
	}
	if s.Secrets[0].Fingerprint != secrets.Fingerprint(plain) {
		t.Error("the fingerprint is not the secret's")
	}
}

func TestUnknownEventSuggestsTheNearest(t *testing.T) {
	for given, want := range map[string]string{"booking.create": "", "booking.creaton": "booking.creation", "Booking.*": "booking.*", "*.removals": "*.removal", "checkin.recorded": "check_in.recorded"} {
		if got := suggestion(given); want != "" && !strings.Contains(got, "mean "+want+"?") {
			t.Errorf("%s: %q", given, got)
		}
	}
}

func TestMatchesText(t *testing.T) {
	for _, c := range []struct {
		pattern, event string
		want           bool
	}{
		{"*", "voucher.creation", true}, {"voucher.*", "voucher.creation", true}, {"voucher.*", "vouchers.creation", false}, {"*.creation", "voucher.creation", true},
		{"*.creation", "voucher.recreation", false}, {"*.creation", "creation", false}, {"voucher.creation", "voucher.creation", true}, {"voucher", "voucher.creation", false},
	} {
		if got := matchesText(c.pattern, c.event); got != c.want {
			t.Errorf("%s against %s: %v", c.pattern, c.event, got)
		}
	}
	// Both ways to match agree on every type of the catalogue.
	for pattern, bits := range patternBits {
		for _, e := range schemas.AllEventTypes() {
			if got := bits&typeBit[e.Name] != 0; got != matchesText(pattern, e.Name) {
				t.Errorf("%s against %s: by bits %v, by text %v", pattern, e.Name, got, !got)
			}
		}
	}
}
