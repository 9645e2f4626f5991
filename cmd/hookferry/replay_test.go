package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

const crm, shop = "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa", "sub_bbbbbbbbbbbbbbbbbbbbbbbbbb"

// replayWorld is a broker with two subscriptions of acme, one of borea, a paused one, and ten bookings of acme that are some time old.
func replayWorld(t *testing.T) (a *app, out, errOut *bytes.Buffer) {
	a, out, errOut = virtualKafka(t)
	putSubscription(t, a.client, crm, "acme")
	putSubscription(t, a.client, shop, "borea", func(s *schemas.Subscription) { s.Name = "shop" })
	putSubscription(t, a.client, "sub_cccccccccccccccccccccccccc", "acme", func(s *schemas.Subscription) { s.Name, s.State = "paused", schemas.StatePaused })
	putEvents(t, a.client, "booking.creation", "acme", 10)
	putEvents(t, a.client, "customer.creation", "acme", 5)
	<-time.After(time.Minute)
	return a, out, errOut
}

// startRouter runs a router until the test ends.
func startRouter(t *testing.T, a *app) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	table := subscriptions.NewTable(a.client, a.keys, subscriptions.Options{})
	r, err := router.New(router.DefaultConfig(), router.Deps{Kafka: a.client, Table: table, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- table.Run(ctx) }()
	<-table.Loaded()
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
}

// read is the JSON that a command printed.
func read[T any](t *testing.T, out *bytes.Buffer) (v T) {
	t.Helper()
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out.Reset()
	return v
}

func TestADryRunCountsAndPricesAReplayAndWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := replayWorld(t)
		a.json = true
		args := []string{"create", "--subscription", "crm", "--from", "earliest", "--rate", "2", "--dry-run"}
		if err := execute(t, replayCommand(a), args...); err != nil {
			t.Fatal(err)
		}
		p := read[planView](t, out)
		if p.Subscriptions != 1 || p.Tasks != 10 || p.Matched != 10 || p.Bytes < 1000 || p.Seconds != 5 || p.From != nil || len(p.Topics) == 0 {
			t.Errorf("%+v", p)
		}
		if list, err := router.ListReplays(t.Context(), a.client); err != nil || len(list) != 0 {
			t.Errorf("written: %v, %v", list, err)
		}
		a.json = false
		if err := execute(t, replayCommand(a), "create", "--all", "--from", "1h", "--dry-run"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"10 sends to 2 subscriptions, as fast as", "1 subscriptions are paused or disabled", "Nothing was written"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
	})
}

func TestManySendsAreAskedAboutAndRefusedWhereNobodyCanAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := replayWorld(t)
		a.json = true
		for _, args := range []string{"create --all --from 1h --detach", "create --all --from earliest --detach"} {
			err := execute(t, replayCommand(a), strings.Fields(args)...)
			if codeOf(err) != "not_confirmed" || !strings.Contains(err.Error(), "10 sends to 2 subscriptions") {
				t.Errorf("%s: %v", args, err)
			}
		}
		for _, args := range []string{"create --all --from 1h --detach --yes", "create --subscriptions company=acme --from 1h --detach", "create --subscription crm --from 1h --detach"} {
			if err := execute(t, replayCommand(a), strings.Fields(args)...); err != nil {
				t.Errorf("%s: %v", args, err)
			} else if s := read[replayStatus](t, out); s.State != schemas.ReplayRunning || s.Total == 0 || s.Matched != 0 {
				t.Errorf("%s: %+v", args, s)
			}
		}
		if list, err := router.ListReplays(t.Context(), a.client); err != nil || len(list) != 3 {
			t.Errorf("%d replays, %v", len(list), err)
		}
	})
}

func TestTheNumberOfSendsIsWhatMakesAQuestion(t *testing.T) {
	a := &app{in: strings.NewReader("y\n"), errOut: &bytes.Buffer{}}
	for _, c := range []struct {
		subscriptions int
		tasks         int64
		asks          bool
	}{{1, 0, false}, {1, askAbove, false}, {1, askAbove + 1, true}, {2, 1, true}} {
		err := a.confirmReplay(&router.ReplayPlan{Subscriptions: c.subscriptions, Tasks: c.tasks})
		if asks := codeOf(err) == "not_confirmed"; asks != c.asks {
			t.Errorf("%d sends to %d subscriptions: %v", c.tasks, c.subscriptions, err)
		}
	}
}

func TestWhatAReplayMayNotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := replayWorld(t)
		for args, code := range map[string]string{
			"create --subscription crm":                                                 "usage",
			"create --subscription crm --from soon":                                     "usage",
			"create --subscriptions acme --from 1h":                                     "usage",
			"create --subscription crm --offsets booking:1-2":                           "usage",
			"create --subscription crm --offsets booking/0:1-2 --offsets booking/0:4-5": "usage",
			"create --subscription crm --offsets booking/1:1-2":                         "usage",
			"create --subscription nobody --from 1h":                                    "subscription_unknown",
			"create --subscription crm --company borea --from 1h":                       "subscription_unknown",
			"create --from 1h":                                                          "replay_who",
			"create --all --subscription crm --from 1h":                                 "replay_who",
			"create --subscription paused --from 1h":                                    "replay_not_active",
			"create --subscriptions company=nobody --from 1h":                           "replay_nobody",
			"create --subscription crm --from 1h --to 2h":                               "replay_range",
			"create --subscription crm --from 1h --to 2100-01-01":                       "replay_range",
			"create --subscription crm --from 1h --rate -1":                             "replay_rate",
			"create --subscription crm --from 1h --events nonsense":                     "event_unknown",
			"create --subscription crm --from 1h --events nonsense --dry-run":           "event_unknown",
			"list --state lost":                                                         "usage",
			"list --limit 0":                                                            "usage",
			"show rpl_x":                                                                "replay_not_found",
			"show rpl_x --watch":                                                        "replay_not_found",
			"cancel rpl_x":                                                              "replay_not_found",
			"pause rpl_x":                                                               "replay_not_found",
			"resume rpl_x":                                                              "replay_not_found",
		} {
			if err := execute(t, replayCommand(a), strings.Fields(args)...); codeOf(err) != code {
				t.Errorf("%s: %v, want the code %s", args, err, code)
			}
		}
	})
}

func TestOffsetsAreReadWithTheirTopicByAnyOfItsNames(t *testing.T) {
	c, err := kafka.Open(kafka.DefaultConfig(), kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"hookferry.events.booking/3:100-200", "events.booking/3:100-200", "booking/3:100-200"} {
		begin, end, err := parseOffsets(text, c.Topics())
		if want := (schemas.PartitionOffset{Topic: "hookferry.events.booking", Partition: 3, Offset: 100}); err != nil || begin != want || end.Offset != 200 || end.Topic != want.Topic {
			t.Errorf("%s: %v %v %v", text, begin, end, err)
		}
	}
	for _, text := range []string{"", "booking", "booking/3", "booking/3:100", "booking/3:200-100", "booking/3:5-5", "booking/-1:1-2", "booking/x:1-2", "retry/1:1-2", "hookferry.retry/1:1-2"} {
		if _, _, err := parseOffsets(text, c.Topics()); !errors.As(err, new(*usageError)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// attempt is one at a task of a replay.
func attempt(id string, task string, v schemas.Verdict) []byte {
	return schemas.AppendAttempt(nil, &schemas.Attempt{TaskID: task, Subscription: crm, Replay: id, Verdict: v, Number: 1, StartedAt: time.Now().UnixMilli()})
}

func TestAReplayIsWorkedOffWhileItsCommandWaitsAndThenShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := replayWorld(t)
		startRouter(t, a)
		a.json = true
		if err := execute(t, replayCommand(a), "create", "--subscription", "crm", "--from", "1h", "--events", "booking.creation"); err != nil {
			t.Fatal(err)
		}
		s := read[replayStatus](t, out)
		if s.State != schemas.ReplayDone || s.Matched != 10 || s.Waiting != 10 || s.Scanned != s.Total || s.Total < 10 || s.Subscription != crm || len(s.Partitions) == 0 {
			t.Errorf("%+v", s)
		}
		attempts := a.client.Topics().Attempts
		for task, verdicts := range map[string][]schemas.Verdict{
			"one":   {schemas.VerdictRetry, schemas.VerdictDelivered, schemas.VerdictDelivered},
			"two":   {schemas.VerdictDead, schemas.VerdictDelivered},
			"three": {schemas.VerdictDead},
			"four":  {schemas.VerdictDropped},
			"five":  {schemas.VerdictPostponed},
		} {
			for _, v := range verdicts {
				put(t, a.client, attempts, crm, attempt(s.ID, task, v))
			}
		}
		put(t, a.client, attempts, crm, attempt("rpl_another", "six", schemas.VerdictDelivered))
		if err := execute(t, replayCommand(a), "show", s.ID); err != nil {
			t.Fatal(err)
		}
		if s = read[replayStatus](t, out); s.Delivered != 2 || s.Dead != 1 || s.Dropped != 1 || s.Waiting != 6 {
			t.Errorf("%+v", s)
		}
		if err := execute(t, replayCommand(a), "list"); err != nil {
			t.Fatal(err)
		}
		if rows := read[[]replayRow](t, out); len(rows) != 1 || rows[0].ID != s.ID || rows[0].Matched != 10 || rows[0].Kind != schemas.ReplayReplay {
			t.Errorf("%+v", rows)
		}
		a.json = false
		if err := errors.Join(execute(t, replayCommand(a), "show", s.ID), execute(t, replayCommand(a), "show", s.ID, "--watch"), execute(t, replayCommand(a), "list")); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"delivered:   2", "(100%)", "booking.creation", "booking", "done", "SCANNED"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
		if n := strings.Count(out.String(), "PARTITION"); n != 1 {
			t.Errorf("the partitions are shown %d times, and not by show alone", n)
		}
		if err := execute(t, replayCommand(a), "cancel", s.ID); codeOf(err) != router.CodeReplayOver {
			t.Errorf("cancelled when it was done: %v", err)
		}
	})
}

// By offsets alone: what lies in them, however old, and nothing beside them.
func TestAReplayOfOffsetsTakesThemAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := replayWorld(t)
		startRouter(t, a)
		a.json = true
		if err := execute(t, replayCommand(a), "create", "--subscription", "crm", "--offsets", "booking/0:2-5"); err != nil {
			t.Fatal(err)
		}
		if s := read[replayStatus](t, out); s.State != schemas.ReplayDone || s.Matched != 3 || len(s.Partitions) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAReplayRestsGoesOnAndEndsAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, errOut := replayWorld(t)
		a.json = true
		if err := execute(t, replayCommand(a), "create", "--subscription", "crm", "--from", "1h", "--detach"); err != nil {
			t.Fatal(err)
		}
		id := read[replayStatus](t, out).ID
		for _, step := range []struct{ command, state string }{{"pause", schemas.ReplayPaused}, {"pause", schemas.ReplayPaused}, {"resume", schemas.ReplayRunning}} {
			if err := execute(t, replayCommand(a), step.command, id, "--note", "lunch"); err != nil {
				t.Fatal(err)
			}
			if v := read[replayView](t, out); v.State != step.state || v.Note != "lunch" {
				t.Errorf("%s: %+v", step.command, v)
			}
		}
		// Somebody waits, without any router; and somebody else cancels.
		ended := make(chan error, 1)
		go func() { ended <- a.followReplay(t.Context(), a.client, nil, id, nil) }()
		<-time.After(idleAfter + 2*replayEvery)
		if !strings.Contains(errOut.String(), "nothing has moved") {
			t.Errorf("nobody is told that nobody works: %q", errOut)
		}
		if _, err := router.SetReplayState(t.Context(), a.client, id, schemas.ReplayCancelled, ""); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; codeOf(err) != "replay_cancelled" {
			t.Errorf("%v", err)
		}
		if s := read[replayStatus](t, out); s.State != schemas.ReplayCancelled {
			t.Errorf("%+v", s)
		}
		if err := execute(t, replayCommand(a), "resume", id); codeOf(err) != router.CodeReplayOver {
			t.Errorf("%v", err)
		}
	})
}

func TestReplayCommandsLeaveOtherOrdersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := replayWorld(t)
		for id, kind := range map[string]string{"rpl_redrive": schemas.ReplayRedrive, "rpl_reroute": schemas.ReplayReroute, "rpl_catchup": schemas.ReplayCatchUp} {
			put(t, a.client, a.client.Topics().Replays, id, schemas.AppendReplay(nil, &schemas.Replay{ID: id, Kind: kind, Subscription: crm, State: schemas.ReplayRunning, From: 1, CreatedAt: time.Now().UnixMilli()}))
		}
		for args, code := range map[string]string{
			"cancel rpl_redrive": router.CodeReplayOtherOrder, "pause rpl_reroute": router.CodeReplayOtherOrder, "cancel rpl_catchup": router.CodeReplayIsCatchUp,
			"show rpl_redrive": router.CodeReplayNotFound, "show rpl_catchup": "", "pause rpl_catchup": "", "resume rpl_catchup": "",
		} {
			if err := execute(t, replayCommand(a), strings.Fields(args)...); codeOf(err) != code || code == "" && err != nil {
				t.Errorf("%s: %v, want the code %q", args, err, code)
			}
		}
		out.Reset()
		a.json = true
		for args, n := range map[string]int{"list": 0, "list --catch-ups": 1, "list --catch-ups --state done": 0} {
			if err := execute(t, replayCommand(a), strings.Fields(args)...); err != nil {
				t.Error(err)
			}
			if rows := read[[]replayRow](t, out); len(rows) != n {
				t.Errorf("%s: %+v", args, rows)
			}
		}
	})
}

func TestABarThatJoinsWorkHalfWayTellsTheTimeByWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := (&app{errOut: &b}).progress("x", 0)
		p.outOf(1000)
		p.joins(900)
		<-time.After(10 * time.Second)
		p.Set(950)
		p.Done()
		if want := "x: 950 of 1000 (95%), about 10s left\n"; !strings.HasPrefix(b.String(), want) {
			t.Errorf("%q", b.String())
		}
	})
}

func TestSizesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 20: "5 MiB", 3 << 40: "3.0 TiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
