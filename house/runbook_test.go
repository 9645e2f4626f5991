package house

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// The runbooks of docs/operations.md are run as they stand there, by bash, with processes of their own: every block of every runbook, so that none can be
// added that was not tried, or be changed into what does not work.
func TestTheRunbooksRun(t *testing.T) {
	if os.Getenv("HOOKFERRY_TEST_KAFKA") == "" {
		t.Skip("runbooks are about a real Kafka and a real Redis, and are run there: make test-kafka")
	}
	t.Parallel()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "hookferry"), "../cmd/hookferry")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	blocks := runbookBlocks(t)
	for heading := range runbooks {
		if blocks[heading] == "" {
			t.Errorf("docs/operations.md has no commands under %q any more", heading)
		}
	}
	for heading, block := range blocks {
		r, ok := runbooks[heading]
		if !ok {
			t.Errorf("nobody runs the commands that docs/operations.md has under %q", heading)
			continue
		}
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			d := deploy(t)
			team := &platformTeam{deployment: d, bin: bin, dir: t.TempDir(), sub: d.subscribe("acme", "/flap/2/runbook", func(dr *subscriptions.Draft) {
				dr.Name, dr.Schedule = "runbook", []time.Duration{0, time.Second}
			})}
			r(team, block)
		})
	}
}

// runbookBlocks are the commands of each runbook, by its heading.
func runbookBlocks(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, part := range strings.Split(string(text), "\n## ")[1:] {
		heading, rest, _ := strings.Cut(part, "\n")
		for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(rest, -1) {
			blocks[heading] += m[1]
		}
	}
	return blocks
}

// runbooks are what runs the commands under each heading, and looks at what came of it.
var runbooks = map[string]func(p *platformTeam, commands string){
	"Add and remove deliverers and routers": func(p *platformTeam, commands string) {
		p.start("router")
		leaver := p.start("deliverer")
		out := p.do(commands, fmt.Sprintf("PID_OF_A_DELIVERER=%d", leaver.Process.Pid))
		p.says(out, "nothing waits")
		p.ends(leaver)
		p.flows()
	},
	"Grow beyond the partition count": func(p *platformTeam, commands string) {
		few := strings.ReplaceAll(commands, "PARTITIONS=48", "PARTITIONS=8") // a thousand partitions at once keep a broker of two cores from its heartbeats
		out := p.do(few + "hookferry subscriptions show \"$SUB\" && hookferry publish --sample 3 --company acme --types booking.creation\n")
		p.says(out, p.sub.ID, "8 partitions")
		p.await("what was published into the new set", func(l []*sandbox.Received) bool { return len(l) >= 3 })
	},
	"Retention": func(p *platformTeam, commands string) {
		p.says(p.do(commands, "HOOKFERRY_KAFKA_RETENTION_EVENTS=20d"), "retention.ms")
	},
	"Upgrade and roll back": func(p *platformTeam, commands string) {
		p.start("router")
		port := freePort(p.t)
		old := p.start("deliverer", "HOOKFERRY_HOST_LISTEN="+port)
		p.do(strings.ReplaceAll(commands, "127.0.0.1:9464", port), fmt.Sprintf("PID_OF_A_DELIVERER=%d", old.Process.Pid), "HOOKFERRY_HOST_LISTEN="+port)
		p.ends(old)
		p.flows()
	},
	"Replay after an incident": func(p *platformTeam, commands string) {
		p.start("all")
		p.publish("booking.creation", "acme", 2)
		p.await("both tries of both", func(l []*sandbox.Received) bool { return len(l) >= 4 })
		for p.command("dead", "list", "--json", "--reason", "exhausted") == "" { // each is a process, and reads the topic anew
		}
		p.says(p.do(commands), "owed", "exhausted")
		p.await("both replayed, and both redriven", func(l []*sandbox.Received) bool {
			n := map[string]int{}
			for _, r := range l {
				if r.Delivered() {
					n[fmt.Sprint(r.Header.Get("Webhook-Replay") != "")]++
				}
			}
			return n["true"] == 2 && n["false"] == 2
		})
	},
	"A receiver needs a break": func(p *platformTeam, commands string) {
		p.start("all")
		p.do(commands)
		p.flows()
	},
	"Change the key of the secrets": func(p *platformTeam, commands string) {
		out := p.do(commands + "hookferry subscriptions show \"$SUB\"\n")
		p.says(out, "k2", p.sub.ID)
	},
}

// platformTeam is a shell with hookferry in its path and its configuration in the environment.
type platformTeam struct {
	*deployment
	bin, dir string
	sub      *subscriptions.Live
}

func (p *platformTeam) environment(more ...string) []string {
	return append(append(os.Environ(),
		"PATH="+p.bin+":"+os.Getenv("PATH"),
		"SUB="+p.sub.ID,
		"HOOKFERRY_KAFKA_BROKERS="+strings.Join(p.config.Brokers, ","),
		"HOOKFERRY_KAFKA_TOPIC_PREFIX="+p.config.TopicPrefix,
		fmt.Sprintf("HOOKFERRY_KAFKA_PARTITIONS=%d", p.config.Partitions),
		"HOOKFERRY_KAFKA_TIERS=1s,5s,1m",
		"HOOKFERRY_REDIS_ADDR="+p.redis.Addr,
		"HOOKFERRY_SECRET_KEYS="+p.keys,
		"HOOKFERRY_EGRESS_ALLOW_HTTP=true",
		"HOOKFERRY_EGRESS_ALLOW_RANGES=127.0.0.0/8",
		"HOOKFERRY_EGRESS_PORTS=0",
		"HOOKFERRY_HOST_LISTEN=",
		"HOOKFERRY_RECENT_LISTEN=",
	), more...)
}

// begin starts a command in a process group of its own, which dies with the test, and has what it says in a file.
func (p *platformTeam) begin(what string, cmd *exec.Cmd, more ...string) (said func() string) {
	p.t.Helper()
	out, err := os.CreateTemp(p.dir, "said")
	p.must(err)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, out, out // a file: a pipe is kept open by what the commands leave behind
	cmd.Env = p.environment(more...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.must(cmd.Start())
	said = func() string {
		text, err := os.ReadFile(out.Name())
		p.must(err)
		return string(text)
	}
	p.t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		out.Close()
		if p.t.Failed() || testing.Verbose() {
			p.t.Logf("%s said:\n%s", what, said())
		}
	})
	return said
}

// do runs commands as bash does what it is given, and returns what they said. What they leave behind runs until the test ends.
func (p *platformTeam) do(commands string, more ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.ctx, "bash", "-euxo", "pipefail", "-c", commands)
	said := p.begin("the runbook", cmd, more...)
	if err := cmd.Wait(); err != nil {
		p.t.Fatalf("the runbook does not run: %v", err)
	}
	return said()
}

// command runs one command of hookferry.
func (p *platformTeam) command(args ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.ctx, filepath.Join(p.bin, "hookferry"), args...)
	cmd.Env = p.environment()
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%v: %v", args, err)
	}
	return string(out)
}

// start starts a service, as before the runbook begins, and waits until it owns partitions.
func (p *platformTeam) start(service string, more ...string) *exec.Cmd {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.bin, "hookferry"), service)
	said := p.begin(service, cmd, more...)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for service != "deliverer" && !strings.Contains(said(), "owns source partitions") || service != "router" && !strings.Contains(said(), "a generation of the group begins") {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			p.t.Fatalf("%s does not start", service)
		}
	}
	return cmd
}

// ends waits for a service that the runbook has stopped.
func (p *platformTeam) ends(cmd *exec.Cmd) {
	p.t.Helper()
	if err := cmd.Wait(); err != nil {
		p.t.Errorf("who was stopped by the runbook: %v", err)
	}
}

// says holds that an output has each of these in it.
func (p *platformTeam) says(out string, want ...string) {
	p.t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			p.t.Errorf("nowhere does it say %q", w)
		}
	}
}

// flows publishes an event and waits for its delivery.
func (p *platformTeam) flows() {
	p.t.Helper()
	p.publish("booking.creation", "acme", 1)
	p.await("an event published after the runbook", func(l []*sandbox.Received) bool { return len(l) >= 2 }) // the first two tries are refused
}

func (p *platformTeam) await(what string, ok func(ledger []*sandbox.Received) bool) {
	p.t.Helper()
	if err := p.receiver.Wait(p.ctx, ok); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newKeys is the text of one key.
func newKeys(t *testing.T) (text string, keyring *secrets.Keyring) {
	t.Helper()
	var key [32]byte
	rand.Read(key[:])
	text = "k1:" + base64.StdEncoding.EncodeToString(key[:])
	keyring, err := secrets.NewKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return text, keyring
}
