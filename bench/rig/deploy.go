package rig

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// DeployConfig says what Deploy starts.
type DeployConfig struct {
	Dir     string // work here and keep it; empty: a temporary directory, removed by Close
	Brokers int
	Heap    string // of each broker's JVM
	Profile bool   // the services serve profiles

	Settings map[string]string // HOOKFERRY_...: environment variables for the services
	KafkaEnv map[string]string // KAFKA_...: environment variables for deploy/kafka/kafka.sh
	Proxy    bool              // the services reach the brokers through Deployment.Proxy; the rig's own client does not
	Skew     time.Duration     // of the brokers' clock when the services begin, with Proxy only
	Disk     int64             // bytes of the first broker's disk, a file system in memory; 0: no disk of its own (see Deployment.Disk)
}

// SameBrokers: a deployment for c can be used for o too. Settings of Kafka change what topics look like; other settings concern the services alone,
// which are started anew.
func (c DeployConfig) SameBrokers(o DeployConfig) bool {
	return c.Brokers == o.Brokers && c.Heap == o.Heap && c.Profile == o.Profile && c.Proxy == o.Proxy && c.Disk == o.Disk &&
		maps.Equal(c.KafkaEnv, o.KafkaEnv) && maps.Equal(ofTopics(c.Settings), ofTopics(o.Settings))
}

func ofTopics(settings map[string]string) map[string]string {
	m := maps.Clone(settings)
	maps.DeleteFunc(m, func(k, _ string) bool {
		return !strings.HasPrefix(k, "HOOKFERRY_KAFKA_") || k == "HOOKFERRY_KAFKA_SESSION_TIMEOUT"
	})
	return m
}

// Deployment is a Kafka, a Redis, a farm, and as many hookferry processes as the caller starts.
type Deployment struct {
	Dir      string
	Kafka    *Kafka
	Redis    *Redis
	Farm     *FarmClient
	Services map[string]*Proc
	began    []*Proc    // all services since StopServices, also those in whose place others have come
	mu       sync.Mutex // of Services, began and ports: a scenario may start several processes at a time
	Proxy    *Proxy     // nil unless DeployConfig.Proxy
	Disk     *Disk      // nil unless DeployConfig.Disk

	client   *kafka.Client
	front    *kafka.Client // goes the services' way: who makes subscriptions sees the clock that they see
	farm     *Proc
	bin, cfg string
	temp     bool
	ports    map[string]int
	keys     string
	settings []string // NAME=value, for the services
	asked    map[string]string

	publishers int64
}

// Subscription is what Subscribe makes: one that wants all booking events of a company, at a path of the farm.
type Subscription struct {
	Company, Path string
	Schedule      []time.Duration // the waits before each try; nil: the default
	Timeout       time.Duration   // of a try; 0: the default
	Order         string          // empty: none

	ID  string // set by Subscribe
	Cut int64  // ms of the brokers' clock: where its live span begins; set by Subscribe
}

// Deploy builds the binary, starts Kafka, Redis and the farm (this very program with -farm), and creates the topics.
func Deploy(ctx context.Context, c DeployConfig) (*Deployment, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	d := &Deployment{Dir: c.Dir, Services: map[string]*Proc{}, ports: map[string]int{}}
	if d.Dir == "" {
		d.temp = true
		if d.Dir, err = os.MkdirTemp("", "hookferry-rig-"); err != nil {
			return nil, err
		}
	} else if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := d.start(ctx, root, c); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Deployment) start(ctx context.Context, root string, c DeployConfig) (err error) {
	d.bin = filepath.Join(d.Dir, "hookferry")
	build := exec.CommandContext(ctx, "go", "build", "-o", d.bin, "./cmd/hookferry")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build hookferry: %w: %s", err, out)
	}
	env := pairs(c.KafkaEnv)
	if c.Proxy {
		if d.Proxy, err = NewProxy(c.Brokers); err != nil {
			return err
		}
		env = append(env, d.Proxy.Env())
	}
	if c.Disk > 0 {
		if d.Disk, err = NewDisk(filepath.Join(d.Dir, "kafka", "1", "data"), c.Disk); err != nil {
			return err
		}
	}
	if d.Kafka, err = StartKafka(ctx, root, filepath.Join(d.Dir, "kafka"), c.Brokers, c.Heap, env...); err != nil {
		return err
	}
	if d.Redis, err = StartRedis(d.Dir); err != nil {
		return err
	}
	if err := d.startFarm(); err != nil {
		return err
	}
	if err := d.keysAndClient(); err != nil {
		return err
	}
	if err := d.Configure(c); err != nil {
		return err
	}
	if _, err := d.client.CreateTopics(ctx); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	return nil
}

// startFarm runs this program again, as the farm, so that the receivers' processor time is not ours.
func (d *Deployment) startFarm() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-farm")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.farm = &Proc{Name: "farm", cmd: cmd, done: make(chan struct{})}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { d.farm.err = cmd.Wait(); close(d.farm.done) }()
	if err != nil {
		return fmt.Errorf("the farm did not start: %w", err)
	}
	d.Farm, err = ParseFarm(line)
	return err
}

// keysAndClient makes what stays the same as long as the brokers do: the key that encrypts secrets, and the rig's own client.
func (d *Deployment) keysAndClient() (err error) {
	var key [32]byte
	rand.Read(key[:])
	d.keys = "rig:" + base64.StdEncoding.EncodeToString(key[:])
	if err := os.WriteFile(filepath.Join(d.Dir, "keys"), []byte(d.keys+"\n"), 0o600); err != nil {
		return err
	}
	kc := kafka.DefaultConfig()
	kc.Brokers = d.Kafka.Bootstrap
	if d.client, err = kafka.Open(kc, kafka.Options{ClientID: "rig"}); err != nil {
		return err
	}
	kc.Brokers = d.brokers()
	d.front, err = kafka.Open(kc, kafka.Options{ClientID: "rig"})
	return err
}

// Configure writes the services' configuration. Services that run keep the one they began with.
func (d *Deployment) Configure(c DeployConfig) error {
	d.settings, d.asked = pairs(c.Settings), c.Settings
	if d.Proxy != nil {
		d.Proxy.Skew(c.Skew)
	}
	_, port, _ := strings.Cut(d.Farm.Addr, ":")
	d.cfg = filepath.Join(d.Dir, "hookferry.yml")
	text := fmt.Sprintf(`kafka:
  brokers: [%s]
redis:
  addr: %s
secrets:
  key_file: %s
egress:
  allow_http: true
  allow_ranges: [127.0.0.0/8]
  ports: [%s]
host:
  profile: %t
`, strings.Join(d.brokers(), ", "), d.Redis.Addr, filepath.Join(d.Dir, "keys"), port, c.Profile)
	return os.WriteFile(d.cfg, []byte(text), 0o600)
}

// brokers are where the services find Kafka.
func (d *Deployment) brokers() []string {
	if d.Proxy != nil {
		return d.Proxy.Addrs()
	}
	return d.Kafka.Bootstrap
}

func pairs(env map[string]string) []string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		all = append(all, k+"="+env[k])
	}
	return all
}

// Client is the rig's own client of Kafka, past any proxy.
func (d *Deployment) Client() *kafka.Client { return d.client }

// Settings are the environment variables that services are started with.
func (d *Deployment) Settings() map[string]string { return d.asked }

// StopServices stops every router and deliverer and forgets them; Kafka, Redis and the farm stay.
func (d *Deployment) StopServices() {
	var wg sync.WaitGroup
	for _, p := range d.Services {
		wg.Go(func() {
			p.Signal(syscall.SIGCONT) // a scenario that ended early may have left it stopped
			p.Stop(10 * time.Second)
		})
	}
	wg.Wait()
	clear(d.Services)
	d.began = nil
}

// Crashes are the routers and deliverers that have ended by themselves since StopServices.
func (d *Deployment) Crashes() (all []Crash) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.began {
		if c, yes := p.Crashed(); yes {
			all = append(all, c)
		}
	}
	return all
}

// Subscribe makes all the subscriptions side by side, tells the farm their secrets, and returns when each is live: what is published from now on is owed.
func (d *Deployment) Subscribe(ctx context.Context, subs []Subscription) error {
	keyring, err := secrets.NewKeyring(d.keys)
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(d.Farm.Addr, ":")
	var portNumber int
	fmt.Sscan(port, &portNumber)
	policy, err := egress.NewPolicy(egress.Config{AllowHTTP: true, AllowRanges: []string{"127.0.0.0/8"}, Ports: []int{portNumber}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	table := subscriptions.NewTable(d.front, keyring, subscriptions.Options{})
	ran := make(chan error, 1)
	go func() { ran <- table.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	select {
	case <-table.Loaded():
	case err := <-ran:
		ran <- err
		return fmt.Errorf("read the subscriptions: %w", err)
	}
	w := subscriptions.NewWriter(d.front, table, keyring, policy, subscriptions.DefaultConfig())
	var wg sync.WaitGroup
	errs := make([]error, len(subs))
	for i, s := range subs {
		wg.Go(func() {
			secret := secrets.NewWebhookSecret()
			if errs[i] = d.Farm.Tell(ReceiverName(s.Path), string(secret.Reveal())); errs[i] != nil {
				return
			}
			live, _, err := w.Create(ctx, subscriptions.Draft{Company: s.Company, Name: strings.ReplaceAll(s.Path, "/", " "), URL: "http://" + d.Farm.Addr + s.Path,
				Events: []string{"booking.*"}, Schedule: s.Schedule, Timeout: s.Timeout, Order: s.Order, Secret: &secret})
			if errs[i] = err; err == nil {
				subs[i].ID, subs[i].Cut = live.ID, live.Spans[len(live.Spans)-1].At
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Publisher appends events of these companies, each with an entity of its own. Each publisher of a deployment counts from a number of its own, the first
// one from 0, so that what comes late is not taken for what comes next.
func (d *Deployment) Publisher(companies []string) (*Publisher, error) {
	return d.VersionPublisher(companies, 0)
}

// VersionPublisher appends events of entities with so many versions each.
func (d *Deployment) VersionPublisher(companies []string, versions int) (*Publisher, error) {
	p, err := NewPublisher(d.client, companies, versions)
	if err == nil {
		p.next = d.publishers * 100_000_000
		p.first = p.next
		d.publishers++
	}
	return p, err
}

// StartRouter and StartDeliverer start a process under a name and return when it is ready.
func (d *Deployment) StartRouter(ctx context.Context, name string) error {
	return d.service(ctx, name, "router")
}

func (d *Deployment) StartDeliverer(ctx context.Context, name string) error {
	return d.service(ctx, name, "deliverer")
}

func (d *Deployment) service(ctx context.Context, name, command string) error {
	addr := fmt.Sprintf("127.0.0.1:%d", d.port(name))
	p, err := Start(d.Dir, name, append([]string{"HOOKFERRY_HOST_LISTEN=" + addr}, d.settings...), d.bin, command, "--config", d.cfg)
	if err != nil {
		return err
	}
	d.enter(name, p)
	died := false
	err = Until(30*time.Second, name+" is ready", func() bool {
		select {
		case <-p.Done():
			died = true
			return true
		case <-ctx.Done():
			return true
		default:
		}
		res, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if died {
		log, _ := os.ReadFile(p.Log)
		return fmt.Errorf("%s ended before it was ready: %s", name, log[max(0, len(log)-2000):])
	}
	return errors.Join(err, ctx.Err())
}

// Hookferry runs a command of the command line to its end and gives what it printed.
func (d *Deployment) Hookferry(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.bin, append(args, "--config", d.cfg)...)
	cmd.Env = append(os.Environ(), d.settings...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("hookferry %s: %w: %s%s", strings.Join(args, " "), err, out, said.String())
	}
	return string(out), err
}

// port is where a service listens, the same one each time.
func (d *Deployment) port(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ports[name] == 0 {
		d.ports[name] = FreePort()
	}
	return d.ports[name]
}

// enter puts a process in its service's place.
func (d *Deployment) enter(name string, p *Proc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Services[name] = p
	d.began = append(d.began, p)
}

// Profile takes the processor profile of a service for so many seconds and writes it to a file.
func (d *Deployment) Profile(name, file string, seconds int) error {
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", d.port(name), seconds))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}

// Proc is a service by its name.
func (d *Deployment) Proc(name string) *Proc {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Services[name]
}

// CPU used so far, by process.
func (d *Deployment) CPU() map[string]time.Duration {
	use := map[string]time.Duration{"kafka": CPU(d.Kafka.PID(1)), "redis": CPU(d.Redis.PID()), "farm": CPU(d.farm.PID())}
	for name, p := range d.Services {
		use[name] = CPU(p.PID())
	}
	return use
}

// SampleBody is a body as a receiver got it: the farm keeps the last one.
func (d *Deployment) SampleBody(context.Context) ([]byte, error) {
	var b []byte
	err := d.Farm.ask("/body", &b)
	if err == nil && len(b) == 0 {
		err = errors.New("the farm has seen no body yet")
	}
	return b, err
}

// Close stops everything, the services first, and removes the directory if it was ours.
func (d *Deployment) Close() {
	d.StopServices()
	for _, c := range []*kafka.Client{d.client, d.front} {
		if c != nil {
			c.Close()
		}
	}
	if d.farm != nil {
		d.farm.Kill()
	}
	if d.Redis != nil && d.Redis.Proc != nil {
		d.Redis.Kill()
	}
	if d.Kafka != nil {
		d.Kafka.Close()
	}
	if d.Proxy != nil {
		d.Proxy.Close()
	}
	if d.Disk != nil {
		d.Disk.Close()
	}
	if d.temp {
		os.RemoveAll(d.Dir)
	}
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("run this inside the repository")
	}
	return filepath.Dir(mod), nil
}
