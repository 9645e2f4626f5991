package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

func runApp(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = (&app{in: strings.NewReader(""), out: &o, errOut: &e}).main(args)
	return code, o.String(), e.String()
}

func TestExitCodesTellAMistakeFromAFailure(t *testing.T) {
	for _, c := range []struct {
		args  string
		code  int
		error string // what standard error begins with
	}{
		{"version", exitOK, ""},
		{"--help", exitOK, ""},
		{"config", exitOK, ""},
		{"nonsense", exitUsage, `error: usage: unknown command "nonsense"`},
		{"config nonsense", exitUsage, `error: usage: unknown command "nonsense" for "hookferry config"`},
		{"version --nonsense", exitUsage, "error: usage: unknown flag: --nonsense"},
		{"version too much", exitUsage, "error: usage: "},
		{"demo --events 0", exitUsage, "error: usage: --events 0"},
		{"dev --rate -1", exitUsage, "error: usage: --rate -1"},
		{"listen --fail sometimes", exitUsage, `error: usage: --fail "sometimes"`},
		{"subscriptions list --state bogus", exitUsage, `error: usage: --state: "bogus" is none of active, paused, disabled, deleted`},
		{"attempts --type nope", exitUsage, `error: usage: --type: "nope" is no event type`},
		{"attempts --type booking.*", exitUsage, `error: usage: --type: "booking.*" is no event type`},
		{"attempts --verdict nope", exitUsage, `error: usage: --verdict: "nope" is none of delivered, retry,`},
		{"attempts --reason nope", exitUsage, `error: usage: --reason: "nope" is none of early_response,`},
		{"attempts --since -1h", exitUsage, "error: usage: --since -1h0m0s"},
		{"attempts --since 0s", exitUsage, "error: usage: --since 0s"},
		{"attempts --limit 0", exitUsage, "error: usage: --limit"},
		{"dead list --since -1h", exitUsage, "error: usage: --since -1h0m0s"},
		{"undecodable list --reason nope", exitUsage, `error: usage: --reason: "nope" is none of bad_boolean,`},
		{"undecodable list --limit -1", exitUsage, "error: usage: --limit"},
		{"undecodable reroute --all --reason bogus", exitUsage, `error: usage: --reason: "bogus" is none of`},
		{"undecodable reroute --all --rate -1", exitUsage, "error: usage: --rate -1"},
		{"undecodable reroute --all --rate NaN", exitUsage, "error: usage: --rate NaN"},
		{"config check --config nowhere.yml", exitFailed, "error: config_invalid: "},
	} {
		code, out, errs := runApp(strings.Fields(c.args)...)
		if code != c.code || !strings.HasPrefix(errs, c.error) || c.error == "" && (errs != "" || out == "") {
			t.Errorf("%s: exit %d, want %d; standard error %q, standard output %q", c.args, code, c.code, errs, out)
		}
	}
}

// style.md, habit 15: every command's help shows one line that works.
func TestEveryCommandShowsHowItIsUsed(t *testing.T) {
	a := &app{}
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() == "help" || sub.Name() == "completion" {
				continue
			}
			if !strings.Contains(sub.Example, "hookferry ") || sub.Short == "" {
				t.Errorf("%s has no example or no summary", sub.CommandPath())
			}
			look(sub)
		}
	}
	look(a.root())
}

func TestEveryMistakeIsALineWithItsCode(t *testing.T) {
	refused := func(s string) error { return &refusal{"topic_missing", s} }
	for _, c := range []struct {
		err  error
		want string
	}{
		{refused("x"), "error: topic_missing: x\n"},
		{fmt.Errorf("at start: %w", refused("x")), "error: topic_missing: at start: x\n"},
		{errors.Join(refused("x"), errors.New("y")), "error: topic_missing: x\nerror: failed: y\n"},
		{fmt.Errorf("a: %w", errors.Join(refused("x"), fmt.Errorf("b: %w", errors.Join(refused("y"), refused("z"))))),
			"error: topic_missing: a: x\nerror: topic_missing: a: b: y\nerror: topic_missing: a: b: z\n"},
		{&kafka.TopicsError{}, "error: topics_wrong: "},
		{fmt.Errorf("ask: %w", context.DeadlineExceeded), "error: timeout: ask: context deadline exceeded\n"},
		{errors.New("two\nlines"), "error: failed: two\n  lines\n"},
	} {
		var b bytes.Buffer
		printError(&b, c.err, exitFailed)
		if !strings.HasPrefix(b.String(), c.want) || strings.HasSuffix(c.want, "\n") && b.String() != c.want {
			t.Errorf("%q, want %q", b.String(), c.want)
		}
	}
}

// What a receiver answered is shown to an operator: it must not move his cursor or turn his text around.
func TestTablesShowNoControlCharacters(t *testing.T) {
	var b bytes.Buffer
	(&app{out: &b}).printTable([]string{"A", "B"}, [][]string{{"\x1b[2Jx\r", "y\u202ez\u0085"}, {"tab\there", "line\nbreak"}})
	want := "A         B\n\uFFFD[2Jx\uFFFD    y\uFFFDz\uFFFD\ntab here  line break\n"
	if b.String() != want {
		t.Errorf("%q\nwant %q", b.String(), want)
	}
}

func TestJSONIsLeftAsItIs(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b}
	if err := a.printJSONLine(map[string]string{"url": "https://a/?b=1&c=<d>"}); err != nil || b.String() != `{"url":"https://a/?b=1&c=<d>"}`+"\n" {
		t.Errorf("%v %s", err, b.String())
	}
}

// The same characters as in tables, but a program must get what was there.
func TestJSONShowsNoControlCharactersAndSaysTheSame(t *testing.T) {
	const text = "a\x7fb\u0085c\u202ed\u2066e\x1bf é😀"
	for name, print := range map[string]func(*app, any) error{"document": (*app).printJSON, "line": (*app).printJSONLine} {
		var b bytes.Buffer
		if err := print(&app{out: &b}, map[string]string{"answer": text}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), `a\u007fb\u0085c\u202ed\u2066e\u001bf é😀`) {
			t.Errorf("%s: %q", name, b.String())
		}
		var back map[string]string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["answer"] != text {
			t.Errorf("%s: read back %q, %v", name, back["answer"], err)
		}
	}
	var b bytes.Buffer
	(&app{out: &b, json: true}).printReceived(&sandbox.Received{Path: "/\u009b", Body: []byte("{\"x\":\"\u202e\x9b\"}")}, true)
	if s := b.String(); !strings.Contains(s, `"body":{"x":"\u202e\ufffd"}`) || !strings.Contains(s, `"path":"/\u009b"`) {
		t.Errorf("listen: %q", s)
	}
}

// What an error repeats may come from a receiver, a document or a broker.
func TestErrorsShowNoControlCharacters(t *testing.T) {
	var b bytes.Buffer
	printError(&b, errors.New("one\x1b[2J\ntwo\u202e"), exitFailed)
	if want := "error: failed: one\uFFFD[2J\n  two\uFFFD\n"; b.String() != want {
		t.Errorf("%q\nwant %q", b.String(), want)
	}
	var out, errOut bytes.Buffer
	r := &report{a: &app{out: &out, errOut: &errOut}}
	r.reject(1, errors.New("x\x1b[2J"))
	r.line(&published{Fate: "rejected", EventID: "e\x1b", Error: "y\u009b"})
	r.line(&published{Fate: "accepted", EventID: "e\x1b", Type: "t"})
	if s := out.String() + errOut.String(); strings.ContainsAny(s, "\x1b\u009b") || strings.Count(s, "\uFFFD") != 4 || strings.Count(s, "\n") != 3 {
		t.Errorf("%q", s)
	}
}

func TestProgressIsSilentForASecondThenShowsPlainLinesAwayFromATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		a := &app{errOut: &b}
		short := a.progress("short", 10)
		short.Add(10)
		<-time.After(900 * time.Millisecond)
		short.Add(0)
		short.Done()
		if b.Len() != 0 {
			t.Errorf("work of 0.9 s showed %q", b.String())
		}
		long := a.progress("scanning", 100)
		for range 12 {
			<-time.After(time.Second)
			long.Add(8)
		}
		long.Set(100)
		long.Done()
		long.Done()
		want := "scanning: 8 of 100 (8%), about 12s left\nscanning: 48 of 100 (48%), about 7s left\nscanning: 88 of 100 (88%), about 2s left\nscanning: 100 of 100 (100%) in 12s\n"
		if b.String() != want {
			t.Errorf("%q\nwant %q", b.String(), want)
		}
	})
}

// A wait is told in seconds, and a reading says how much there is to read.
func TestProgressOfAWaitAndOfAReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		a := &app{errOut: &b}
		done := a.waiting("waiting for it", 10*time.Second)
		<-time.After(7100 * time.Millisecond)
		done()
		done()
		reading := a.progress("reading", 0)
		<-time.After(time.Second)
		reading.Of(250, 1000)
		reading.Done()
		want := "waiting for it: 1.0s of 10.0s\nwaiting for it: 6.0s of 10.0s\nwaiting for it: 7.0s of 10.0s\n" +
			"reading: 250 of 1000 (25%), about 3s left\nreading: 250 of 1000 (25%), about 3s left\n"
		if b.String() != want {
			t.Errorf("%q\nwant %q", b.String(), want)
		}
	})
}

func TestProgressDrawsOneBarOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := (&app{errOut: &b}).progress("x", 4)
		p.terminal = true
		<-time.After(2 * time.Second)
		p.Add(2)
		p.Add(1) // too soon to draw again
		p.Done()
		if s := b.String(); strings.Count(s, "\r") != 2 || !strings.Contains(s, "[###############---------------]") || strings.Count(s, "\n") != 1 {
			t.Errorf("%q", s)
		}
	})
}

func TestListenFailsAsItIsTold(t *testing.T) {
	at := func(fail string, times int, rate float64, path string, ids ...string) string {
		script, err := failScript(fail, times, rate, times > 0, rate != 1)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, id := range ids {
			out = append(out, script(&sandbox.Received{Path: path, WebhookID: id}))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ got, want string }{
		{at("503", 0, 1, "/x", "a", "a"), "/status/503 /status/503"},
		{at("hang", 2, 1, "/x", "a", "b", "a", "a", "b"), "/hang /hang /hang /ok /hang"},
		{at("delay/5s", 0, 1, "/x", "a"), "/delay/5s"},
		{at("503", 0, 0, "/x", "a", "a"), "/ok /ok"},
		{at("", 0, 1, "/x", "a"), "/ok"},
		{at("", 0, 1, "/status/410", "a"), ""}, // as the path says
		{at("reset", 1, 1, "/flap/2", "a", "a"), "/reset "},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	for _, f := range []func() error{
		func() error { _, err := failScript("", 1, 1, true, false); return err },
		func() error { _, err := failScript("503", 0, 1, true, false); return err },
		func() error { _, err := failScript("503", 1, 1.5, true, true); return err },
		func() error { _, err := failScript("503", 1, math.NaN(), true, true); return err },
	} {
		if err := f(); !errors.As(err, new(*usageError)) {
			t.Errorf("%v is no usage error", err)
		}
	}
	// Each of these was once taken, and answered with 404 or 200 when the first request came.
	for _, fail := range []string{"99", "1000", "-1", "nonsense", "status", "status/", "status/abc", "status/99", "status/503/soon", "status/503/1/2", "delay", "delay/5",
		"delay/-5s", "delay/soon", "hang/5s", "reset/", "/503", "503/", "ok", "flap/2", " 503"} {
		if _, err := failScript(fail, 0, 1, false, false); !errors.As(err, new(*usageError)) {
			t.Errorf("--fail %q: %v is no usage error", fail, err)
		}
	}
	for _, fail := range []string{"503", "204", "status/410", "status/429/30", "delay/100ms", "hang", "reset", "drip", "early", "redirect", "disable", "abort"} {
		if _, err := failScript(fail, 0, 1, false, false); err != nil {
			t.Errorf("--fail %q: %v", fail, err)
		}
	}
}

func TestListenPrintsWhatItThinksOfARequest(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b, json: true}
	a.printReceived(&sandbox.Received{Path: "/x", WebhookID: "msg_1", Attempt: 2, Status: 503, Body: []byte(`{"eventNotificationTypeV2":"booking.creation"}`), Signature: errors.New("bad")}, true)
	var v received
	if err := json.Unmarshal(b.Bytes(), &v); err != nil || v.Type != "booking.creation" || v.Signature != "INVALID: bad" || v.Answered != 503 || v.Attempt != 2 || len(v.Body) == 0 {
		t.Errorf("%v %s", err, b.String())
	}
	b.Reset()
	a.json = false
	a.printReceived(&sandbox.Received{WebhookID: "m\x1b[31m", Signature: sandbox.ErrNotChecked}, false)
	if s := b.String(); strings.Contains(s, "\x1b") || !strings.Contains(s, "unchecked") || !strings.Contains(s, "no answer") || !strings.HasSuffix(s, "\n") {
		t.Errorf("%q", s)
	}
}
