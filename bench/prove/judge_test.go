package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheShortFormDoesNotJudgeWhatItDoesNotRun(t *testing.T) {
	list := []claim{{command: "it", figure: `lost (\d+)`, goal: "= 0", whole: true}}
	results := map[string]*result{"it": {out: "nothing of the kind"}}
	if got := judge(list, results, true)[0].state; got != unproven {
		t.Errorf("short: %s", got)
	}
	if got := judge(list, results, false)[0].state; got != broken {
		t.Errorf("whole: %s", got)
	}
}

// A promise that the README makes and nobody proves, or the other way round, is found here.
func TestEveryPromiseOfTheReadmeHasAClaim(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\| promise \| proof \|\n\|---\|---\|\n(.*?)\n\n`).FindSubmatch(text)
	if table == nil {
		t.Fatal("no table of promises")
	}
	var promised, claimed []string
	for _, m := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllSubmatch(table[1], -1) {
		promised = append(promised, string(m[1]))
	}
	for _, c := range claims {
		claimed = append(claimed, c.promise)
	}
	if claimed = slices.Compact(claimed); !slices.Equal(promised, claimed) {
		t.Errorf("the README promises\n%q\nand the claims are of\n%q", promised, claimed)
	}
}

func TestJudge(t *testing.T) {
	const out = "ok a: lost 0, 82 %\n--- PASS: TestX (0.1s)\nok b: lost 2, 49.5 %\n--- FAIL: TestY (0.1s)\n    --- PASS: TestZ (0.0s)\n"
	for name, c := range map[string]struct {
		claim claim
		found string
		state state
	}{
		"the worst figure decides":              {claim{figure: `lost (\d+)`, goal: "= 0"}, "2 (worst of 2)", broken},
		"at least":                              {claim{figure: `([\d.]+) %`, goal: ">= 49"}, "49.5 (worst of 2)", held},
		"at least, missed":                      {claim{figure: `([\d.]+) %`, goal: ">= 50"}, "49.5 (worst of 2)", broken},
		"missed and told":                       {claim{figure: `([\d.]+) %`, goal: ">= 50", missed: "told"}, "49.5 (worst of 2)", told},
		"one line":                              {claim{figure: `^ok a: lost (\d+)`, goal: "<= 0"}, "0", held},
		"nothing printed is not zero":           {claim{figure: `gone (\d+)`, goal: "= 0"}, "no figure was printed", broken},
		"a test that passed":                    {claim{tests: []string{"TestX"}}, "1 of 1 tests", held},
		"a test that failed":                    {claim{tests: []string{"TestX", "TestY"}}, "not passed: TestY", broken},
		"a test that did not run":               {claim{tests: []string{"TestV"}}, "not passed: TestV", broken},
		"a subtest is not the test of its name": {claim{tests: []string{"TestZ"}}, "not passed: TestZ", broken},
	} {
		c.claim.command = "it"
		rows := judge([]claim{c.claim}, map[string]*result{"it": {out: out}}, true)
		if rows[0].found != c.found || rows[0].state != c.state {
			t.Errorf("%s: %s, %s", name, rows[0].found, rows[0].state)
		}
		if rows := judge([]claim{c.claim}, nil, false); rows[0].state != unproven {
			t.Errorf("%s: %s without its command", name, rows[0].state)
		}
	}
}

func TestAFailedCommandIsNoProof(t *testing.T) {
	if verdict(nil, map[string]*result{commands[0].name: {exit: 1}}, 0, 0) == nil {
		t.Error("accepted")
	}
}

func TestWhatTakesTooLongIsNoProof(t *testing.T) {
	for _, c := range []struct {
		took, budget time.Duration
		ok           bool
	}{{time.Hour, 45 * time.Minute, false}, {44 * time.Minute, 45 * time.Minute, true}, {time.Hour, -1, true}} {
		if err := verdict(nil, nil, c.took, c.budget); (err == nil) != c.ok {
			t.Errorf("%v of %v: %v", c.took, c.budget, err)
		}
	}
}

// One table: a row for each claim with its figure, goal and command, whatever came of it, and what could not be run below it.
func TestTheTable(t *testing.T) {
	list := []claim{
		{promise: "It is kept", command: commands[0].name, what: "lost", figure: `lost (\d+)`, goal: "= 0"},
		{promise: "It is kept", command: commands[0].name, what: "doubled", figure: `doubled (\d+)`, goal: "= 0"},
		{promise: "It is fast", command: "nobody ran it", what: "rate", figure: `rate (\d+)`, goal: ">= 9"},
		{promise: "It is small", command: commands[0].name, what: "bytes", figure: `bytes (\d+)`, goal: "<= 1", missed: "docs say why"},
	}
	results := map[string]*result{commands[0].name: {out: "lost 0\ndoubled 3\nbytes 2\nSKIP  kafka-disk  no mount\n"}}
	var out strings.Builder
	printTable(&out, judge(list, results, false), results)
	words := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"It is kept lost 0 = 0 make demo held", "as above doubled 3 = 0 make demo NOT HELD", "It is fast rate - >= 9 nobody ran it not run",
		"It is small bytes 2 <= 1 make demo missed", "missed: bytes: docs say why", "not run: make demo, kafka-disk no mount",
	} {
		if !strings.Contains(words, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
