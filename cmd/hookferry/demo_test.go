package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

// counted is a demo in which every event type was owed once, on one path.
func counted() (*demo, []*sandbox.Received) {
	d := &demo{owed: map[string]owed{}, published: map[string]int{}}
	var ledger []*sandbox.Received
	for _, t := range schemas.EventTypes() {
		id := "msg_" + t.Name
		d.owed[id], d.published[t.Name] = owed{t.Name, "/ok/a"}, 1
		ledger = append(ledger, &sandbox.Received{WebhookID: id, Path: "/ok/a", Attempt: 1, Status: 503}, &sandbox.Received{WebhookID: id, Path: "/ok/a", Attempt: 2, Status: 200})
	}
	return d, ledger
}

// The demo is a proof only if it fails when it should: each of these is a way in which the pipeline could be wrong.
func TestTheDemoCountsWhatIsWrong(t *testing.T) {
	d, ledger := counted()
	c := d.count(ledger)
	if !c.ok() || c.Complete != 26 || c.Requests != 52 || c.Verified != 52 || c.Rows[0].Attempts != 2 || c.Rows[0].Retried != 1 || c.Retried != 26 {
		t.Fatalf("a good run is not ok: %+v", c)
	}
	for name, spoil := range map[string]struct {
		change func(*demo, []*sandbox.Received) []*sandbox.Received
		see    func(demoCount) bool
	}{
		"lost":       {func(_ *demo, l []*sandbox.Received) []*sandbox.Received { return l[:len(l)-1] }, func(c demoCount) bool { return c.Lost == 1 && c.Complete == 25 }},
		"sent again": {again, func(c demoCount) bool { return c.Duplicates == 1 }},
		"same try twice": {func(_ *demo, l []*sandbox.Received) []*sandbox.Received {
			return append([]*sandbox.Received{l[0]}, l...)
		},
			func(c demoCount) bool { return c.Duplicates == 1 && c.Lost == 0 }},
		"bad signature": {func(_ *demo, l []*sandbox.Received) []*sandbox.Received { l[0].Signature = errors.New("no"); return l },
			func(c demoCount) bool { return c.Verified == c.Requests-1 }},
		"wrong company": {func(_ *demo, l []*sandbox.Received) []*sandbox.Received { l[1].Path = "/ok/b"; return l },
			func(c demoCount) bool { return c.Strangers == 1 && c.Lost == 1 }},
		"nobody's": {func(_ *demo, l []*sandbox.Received) []*sandbox.Received {
			return append(l, &sandbox.Received{WebhookID: "msg_x", Path: "/ok/a", Status: 200})
		}, func(c demoCount) bool { return c.Strangers == 1 }},
		"no retry": {func(_ *demo, l []*sandbox.Received) (once []*sandbox.Received) {
			for _, e := range l {
				if e.Delivered() {
					first := *e
					first.Attempt = 1
					once = append(once, &first)
				}
			}
			return once
		}, func(c demoCount) bool { return c.Retried == 0 && c.Lost == 0 && c.Complete == 26 }},
		"a type that nobody was owed": {func(d *demo, l []*sandbox.Received) []*sandbox.Received {
			delete(d.owed, "msg_inventory.change")
			return l[:len(l)-2]
		}, func(c demoCount) bool { return c.Complete == 25 }},
	} {
		t.Run(name, func(t *testing.T) {
			d, ledger := counted()
			c := d.count(spoil.change(d, ledger))
			if c.ok() || !spoil.see(c) {
				t.Errorf("%+v", c)
			}
			var out bytes.Buffer
			d.app = &app{out: &out, errOut: &out}
			if err := d.report(c, time.Second); err == nil {
				t.Error("reported as good")
			}
		})
	}
}

// again adds another try of what was delivered last.
func again(_ *demo, l []*sandbox.Received) []*sandbox.Received {
	copied := *l[len(l)-1]
	copied.Attempt++
	return append(l, &copied)
}

func TestTheDemosReceiverNeverFailsTwoInARow(t *testing.T) {
	s := new(someFirstTriesFail)
	failed, inARow, worst := map[string]int{}, 0, 0
	for n := range 48 {
		id := string(rune('a' + n))
		if s.answer(&sandbox.Received{Path: "/p", WebhookID: id}) == "/ok" {
			inARow = 0
			continue
		}
		inARow++
		worst = max(worst, inARow)
		for failed[id] = 1; s.answer(&sandbox.Received{Path: "/p", WebhookID: id}) != "/ok"; failed[id]++ {
		}
	}
	once, twice := 0, 0
	for _, n := range failed {
		switch n {
		case 1:
			once++
		case 2:
			twice++
		}
	}
	if worst != 1 || once != 8 || twice != 4 {
		t.Errorf("%d in a row, %d fail once, %d twice", worst, once, twice)
	}
}

// The whole demo, as a user runs it.
func TestTheDemoEndsWellByItself(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s of real time: its longest retry goes through a tier of 5 s, twice")
	}
	var out, errs bytes.Buffer
	began := time.Now()
	code := (&app{out: &out, errOut: &errs}).main([]string{"demo", "--events", "1"})
	for _, want := range []string{"26 of 26 event types delivered", "lost 0", "duplicates 0", "sent to the wrong company 0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if code != exitOK || time.Since(began) > time.Minute {
		t.Errorf("exit %d after %v\n%s\n%s", code, time.Since(began), out.String(), errs.String())
	}
}
