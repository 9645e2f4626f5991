package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hookferry/hookferry/schemas"
)

func TestTheLifeOfASubscriptionByCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, _ := virtualKafka(t)
		a.json = true
		show := func(args ...string) (v struct {
			subscriptionView
			CatchUp string `json:"catch_up"`
			Redrive string `json:"redrive"`
		}) {
			t.Helper()
			out.Reset()
			if err := execute(t, subscriptionsCommand(a), args...); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			if err := json.Unmarshal(out.Bytes(), &v); err != nil {
				t.Fatalf("%v: %v in %s", args, err, out)
			}
			return v
		}
		made := show("create", "--company", "c", "--name", "crm", "--url", "https://hooks.example.com/in", "--events", "*", "--from", "24h", "--order", "entity",
			"--replay-rate", "20")
		if made.BackfilledFrom == nil || made.Order != "entity" || made.ReplayRate != 20 || len(made.Cuts) != 1 || !strings.HasPrefix(made.Cuts[0].CatchUp, "rpl_") {
			t.Errorf("made: %+v", made)
		}
		if v := show("update", "crm", "--order", "none", "--replay-rate", "0"); v.Order != "none" || v.ReplayRate != 0 {
			t.Errorf("updated: %+v", v)
		}
		if v := show("pause", "crm", "--reason", "moving"); v.State != schemas.StatePaused || v.StateReason != "moving" || len(v.Cuts) != 2 || v.Cuts[1].Reason != "moving" {
			t.Errorf("paused: %+v", v)
		}
		v := show("resume", "crm", "--company", "c")
		if v.State != schemas.StateActive || len(v.Cuts) != 3 || v.CatchUp == "" || v.Cuts[2].CatchUp != v.CatchUp || v.Redrive == "" {
			t.Errorf("resumed: %+v", v)
		}
		a.json = false
		out.Reset()
		if err := execute(t, subscriptionsCommand(a), "show", "crm"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"backfilled from:", "live from:", "paused from:", " moving", "(before: catch-up " + v.CatchUp + ")", "replay rate:", "order:"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("show does not say %q:\n%s", want, out)
			}
		}
		for _, c := range []struct{ args, code string }{
			{"create --company c --name late --url https://hooks.example.com/in --events * --from 2099-01-01", "from_invalid"},
			{"create --company c --name late --url https://hooks.example.com/in --events * --from tomorrow", "usage"},
			{"create --company c --name late --url https://hooks.example.com/in --events * --order strict", "order_unknown"},
			{"pause nobody", "subscription_unknown"},
			{"resume nobody", "subscription_unknown"},
		} {
			err := execute(t, subscriptionsCommand(a), strings.Fields(c.args)...)
			if codeOf(err) != c.code && !(c.code == "usage" && err != nil && codeOf(err) == "") {
				t.Errorf("%s: %v (%s)", c.args, err, codeOf(err))
			}
		}
	})
}
