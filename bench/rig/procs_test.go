package rig

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// What nobody asked to end and ended is a crash, whatever it says of itself; what was asked is none.
func TestAProcessThatEndsByItselfHasCrashed(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		ask    func(*Proc)
		want   string
	}{
		"a panic":              {"echo panic: oh >&2; exit 2", nil, "exit status 2): panic: oh"},
		"an end as if all was": {"true", nil, "ended by itself"},
		"killed":               {"exec sleep 60", (*Proc).Kill, ""},
		"stopped":              {"exec sleep 60", func(p *Proc) { p.Stop(10 * time.Second) }, ""},
		"stopped too late":     {"exit 1", func(p *Proc) { <-p.Done(); p.Stop(time.Second) }, "exit status 1"},
		"stalled and gone":     {"exit 3", func(p *Proc) { p.Signal(syscall.SIGCONT) }, "exit status 3"},
	} {
		p, err := Start(t.TempDir(), "it", nil, "sh", "-c", c.script)
		if err != nil {
			t.Fatal(err)
		}
		if c.ask != nil {
			c.ask(p)
		}
		<-p.Done()
		crash, yes := p.Crashed()
		if yes != (c.want != "") || yes && !strings.Contains(crash.String(), c.want) {
			t.Errorf("%s: %v %v", name, yes, crash)
		}
	}
}
