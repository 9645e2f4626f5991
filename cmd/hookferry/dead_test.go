package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Two letters, the first of which a redrive has taken out, and its marker.
func fillDead(t *testing.T, c *kafka.Client) {
	t.Helper()
	task := func(id string, body string) schemas.Task {
		return schemas.Task{ID: id, EventID: "evt_" + id, EventType: "booking.creation", Company: "acme", EntityID: "b-" + id, Subscription: "sub_a", Attempt: 10, Body: []byte(body)}
	}
	topic, at := c.Topics().Dead, time.Now().UnixMilli()
	marker := schemas.Dead{Reason: schemas.ReasonRedriven, At: at, Task: task("one", "")}
	marker.Task.Replay, marker.Task.Source = "rpl_x", schemas.Source{Topic: topic}
	var r kafka.Records
	for _, d := range []schemas.Dead{
		{Reason: schemas.ReasonExhausted, At: at, Task: task("one", "{}")}, {Reason: schemas.ReasonExhausted, At: at, Task: task("two", "{}")}, marker,
	} {
		r.Add(kafka.TP{Topic: topic}, []byte("sub_a"), nil, schemas.AppendDead(nil, &d))
	}
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
}

func TestWhatARedriveHasTakenOutIsNotListedAndNotRedrivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t)
		fillDead(t, a.client)
		rows := func(args string) (ids []string) {
			t.Helper()
			out.Reset()
			a.json = true
			defer func() { a.json = false }()
			if err := execute(t, deadCommand(a), strings.Fields(args)...); err != nil {
				t.Fatal(err)
			}
			var list []deadRow
			if err := json.Unmarshal(out.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			for _, r := range list {
				ids = append(ids, r.ID+" "+r.TakenOut)
			}
			return ids
		}
		for args, want := range map[string]string{
			"list":                             "0-1 ",
			"list --all":                       "0-0 rpl_x,0-1 ,0-2 ",
			"list --all --reason redriven":     "0-2 ",
			"list --entity b-one":              "",
			"list --entity b-two":              "0-1 ",
			"list --company other":             "",
			"list --from 2000-01-02T00:00:00Z": "",
			"list --from 1999-01-02T00:00:00Z --to 2000-01-02T00:00:00Z": "0-1 ",
		} {
			if got := strings.Join(rows(args), ","); got != want {
				t.Errorf("%s: %q, want %q", args, got, want)
			}
		}
		for args, want := range map[string]string{
			"redrive 0-0":           "already_redriven",
			"redrive 0-2":           "no_such_dead_letter",
			"redrive 0-3":           "no_such_dead_letter",
			"list --from yesterday": "usage",
			"list --since 1h --from 2000-01-01T00:00:00Z":                "usage",
			"list --from 2000-01-02T00:00:00Z --to 2000-01-01T00:00:00Z": "usage",
		} {
			if err := execute(t, deadCommand(a), strings.Fields(args)...); codeOf(err) != want {
				t.Errorf("%s: %v", args, err)
			}
		}
		out.Reset()
		if err := execute(t, deadCommand(a), "show", "0-0"); err != nil || !strings.Contains(out.String(), "by rpl_x") {
			t.Errorf("%v: %s", err, out)
		}
		o, err := deliverer.OrderRedrive(t.Context(), a.client, schemas.Replay{})
		if err != nil || recordsOf([]*schemas.Replay{o}) != 3 {
			t.Errorf("%+v, %v: a bar over %d records", o, err, recordsOf([]*schemas.Replay{o}))
		}
		o.Begins = nil
		if n := recordsOf([]*schemas.Replay{o}); n != 0 {
			t.Errorf("a bar over %d records, which nobody knows", n)
		}
	})
}
