package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/audit"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

func TestMomentsAreReadAsPeopleGiveThem(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"now": now, "earliest": earliest, "24h": now.Add(-24 * time.Hour), "0s": now, "2026-01-30": now.Add(-36 * time.Hour),
		"2026-01-31T12:00:00+02:00": now.Add(-2 * time.Hour), "2026-01-31T11:59:59.5Z": now.Add(-500 * time.Millisecond),
	} {
		if got, err := parseWhen("from", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "-1h", "2026-01-31 12:00", "12"} {
		if got, err := parseWhen("from", text, now); !errors.As(err, new(*usageError)) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, ends := range [][2]string{{"now", "now"}, {"1h", "2h"}, {"now", "earliest"}} {
		if _, _, err := parseStretch(ends[0], ends[1], now); !errors.As(err, new(*usageError)) {
			t.Errorf("%v: %v", ends, err)
		}
	}
}

// put writes a record.
func put(t *testing.T, c *kafka.Client, topic string, key string, value []byte) {
	t.Helper()
	var r kafka.Records
	r.Add(kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(key), c.Config().Partitions)}, []byte(key), nil, value)
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
}

// putSubscription writes a subscription that is live since an hour ago.
func putSubscription(t *testing.T, c *kafka.Client, id, company string, edit ...func(*schemas.Subscription)) {
	t.Helper()
	s := &schemas.Subscription{ID: id, Version: 1, Company: company, Name: "crm", URL: "https://hooks.example.com/", Events: []string{"booking.*"}, Format: schemas.FormatStandard,
		State: schemas.StateActive, TimeoutMs: 15_000, Spans: []schemas.Cut{{At: time.Now().Add(-time.Hour).UnixMilli(), Kind: schemas.CutLive}}}
	for _, e := range edit {
		e(s)
	}
	put(t, c, c.Topics().Subscriptions, id, schemas.AppendSubscription(nil, s))
}

// putEvents publishes events of a type, and gives their ids.
func putEvents(t *testing.T, c *kafka.Client, eventType, company string, n int) (ids []string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(len(company)+n)))
	for i := range n {
		e := sandbox.Sample(rng, eventType, company, int64(i))
		value, err := e.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(e.EntityName()).Fingerprint()))
		if err != nil {
			t.Fatal(err)
		}
		put(t, c, c.Topics().Events[e.EntityName()], company+"/"+e.EventMeta().EntityID, value)
		ids = append(ids, e.EventMeta().EventID)
	}
	return ids
}

func TestVerifySaysWhatWaitsAndForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t)
		putSubscription(t, a.client, "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa", "acme")
		putEvents(t, a.client, "booking.creation", "acme", 3)
		putEvents(t, a.client, "booking.creation", "borea", 2)
		<-time.After(time.Second)
		a.json = true
		if err := execute(t, verifyCommand(a), "--subscription", "crm", "--company", "acme", "--from", "1h"); err != nil {
			t.Fatal(err)
		}
		var r audit.Report
		if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Owed != 3 || r.WaitingBy["not_routed"] != 3 || r.Events != 5 || !r.OK() {
			t.Errorf("%v: %s", err, out)
		}
		for args, code := range map[string]string{
			"--subscription nobody":                            "subscription_unknown",
			"--subscription crm --from then":                   "usage",
			"--subscription crm --limit -1":                    "usage",
			"--subscription crm --from 1h --to 2h":             "usage",
			"--subscription crm --company borea --from 1h":     "subscription_unknown",
			"--subscription crm --from earliest --to earliest": "usage",
		} {
			if err := execute(t, verifyCommand(a), strings.Fields(args)...); codeOf(err) != code {
				t.Errorf("%s: %v, want the code %s", args, err, code)
			}
		}
	})
}

// For a moment the new leader of a partition shows less than was acknowledged. That is not where the log ends.
func TestVerifyDoesNotTakeANewLeadersMarkForTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t, func(b *sandbox.Broker) { b.StaleLeader("hookferry.events.booking") })
		putSubscription(t, a.client, "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa", "acme")
		putEvents(t, a.client, "booking.creation", "acme", 3)
		<-time.After(time.Second)
		a.json = true
		err := execute(t, verifyCommand(a), "--subscription", "crm", "--company", "acme", "--from", "1h")
		var r audit.Report
		if jerr := json.Unmarshal(out.Bytes(), &r); err != nil || jerr != nil || r.Owed != 3 || r.Events != 3 {
			t.Errorf("%v, %v: %s", err, jerr, out)
		}
		<-time.After(2 * time.Second) // no bubble ends while an answer is held back
	})
}

func TestVerifyListsWhatIsMissingAndFails(t *testing.T) {
	r := &audit.Report{Subscription: "sub_a", Owed: 7, Delivered: 3, Dead: 2, DeadBy: map[string]int64{"gone": 1, "exhausted": 1}, Missing: 2, GapCount: 2,
		Gaps: []audit.Gap{{Kind: audit.GapNoTask, Event: "evt_1\x1b[2J", Type: "booking.creation", Source: audit.Place{Topic: "t", Partition: 1, Offset: 2}, Appended: 1000},
			{Kind: audit.GapUnreadable, Source: audit.Place{Topic: "t", Partition: 1, Offset: 3}}},
		GhostCount: 1, Ghosts: []audit.Ghost{{What: "delivered", Why: "not_wanted", Event: "evt_9"}}, Notes: []string{"mind the gap"},
		Replays: []audit.ReplayReport{{Replay: "rpl_x", Tasks: 4, Delivered: 4}}}
	var b bytes.Buffer
	a := &app{out: &b}
	if err := a.showVerified(r, 1); codeOf(err) != "events_missing" {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"MISSING      2", "1 exhausted, 1 gone", "t/1@2", "(1 of 2;", "evt_9", "rpl_x", "note: mind the gap"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	if strings.ContainsAny(b.String(), "\x1b") {
		t.Error("a control character reaches the terminal")
	}
	r.GapCount, r.Gaps, r.Missing = 0, nil, 0
	if err := a.showVerified(r, 1); err != nil {
		t.Errorf("ghosts alone are no failure: %v", err)
	}
}
