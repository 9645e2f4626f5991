package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
)

// pointSession is the session time-out of the groups here: most of a cell is the wait until a dead member is missed.
const pointSession = 3 * time.Second

// pointRig is what all worlds share: brokers, Redis, the binary with the points in it, and a schema registry.
type pointRig struct {
	d        *rig.Deployment
	bin      string
	registry *pointRegistry
}

// pointWorld is a deployment of its own on shared brokers, by the prefix of its topics: so cells run side by side, which mostly wait. It has one router
// and one deliverer; a cell replaces one of them by a carrier, which has the order to be hurt.
type pointWorld struct {
	*pointRig
	n       int
	made    int // how many prefixes it has had
	cells   int
	dir     string
	env     []string
	kafka   *kafka.Client
	table   *subscriptions.Table
	writer  *subscriptions.Writer
	publish *producer.Producer
	procs   map[string]*rig.Proc // by role
	ports   map[string]int
	end     func() // of what renew started
}

func newPointWorld(ctx context.Context, r *pointRig, n int) (*pointWorld, error) {
	w := &pointWorld{pointRig: r, n: n, dir: filepath.Join(r.d.Dir, fmt.Sprintf("points-%d", n)), procs: map[string]*rig.Proc{}, ports: map[string]int{}, end: func() {}}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	return w, w.renew(ctx)
}

// renew gives the world topics that nobody has used, and starts router and deliverer on them.
func (w *pointWorld) renew(ctx context.Context) error {
	w.close()
	w.made++
	var key [32]byte
	rand.Read(key[:])
	keys := "rig:" + base64.StdEncoding.EncodeToString(key[:])
	kc := kafka.DefaultConfig()
	kc.Brokers, kc.Partitions = w.d.Kafka.Bootstrap, 2
	kc.TopicPrefix = fmt.Sprintf("points%d-%d.", w.n, w.made)
	kc.Tiers = []time.Duration{time.Second, 5 * time.Second}
	kc.SessionTimeout = pointSession
	w.env = []string{
		"HOOKFERRY_KAFKA_BROKERS=" + strings.Join(kc.Brokers, ","), "HOOKFERRY_KAFKA_TOPIC_PREFIX=" + kc.TopicPrefix, "HOOKFERRY_KAFKA_PARTITIONS=2",
		"HOOKFERRY_KAFKA_TIERS=1s,5s", "HOOKFERRY_KAFKA_SESSION_TIMEOUT=" + pointSession.String(), "HOOKFERRY_KAFKA_REGISTRY_URL=" + w.registry.url(),
		"HOOKFERRY_REDIS_ADDR=" + w.d.Redis.Addr, "HOOKFERRY_SECRET_KEYS=" + keys, "HOOKFERRY_ROUTER_UNKNOWN_SCHEMA_WAIT=1s",
		"HOOKFERRY_EGRESS_ALLOW_HTTP=true", "HOOKFERRY_EGRESS_PORTS=0", "HOOKFERRY_EGRESS_ALLOW_RANGES=127.0.0.0/8",
	}
	keyring, err := secrets.NewKeyring(keys)
	if err != nil {
		return err
	}
	policy, err := egress.NewPolicy(egress.Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"127.0.0.0/8"}})
	if err != nil {
		return err
	}
	if w.kafka, err = kafka.Open(kc, kafka.Options{ClientID: "points"}); err != nil {
		return err
	}
	if _, err := w.kafka.CreateTopics(ctx); err != nil {
		return err
	}
	w.table = subscriptions.NewTable(w.kafka, keyring, subscriptions.Options{})
	running, stop := context.WithCancel(ctx)
	var ran sync.WaitGroup
	ran.Go(func() { w.table.Run(running) })
	pc := producer.DefaultConfig()
	pc.Brokers, pc.TopicPrefix = kc.Brokers, kc.TopicPrefix
	w.publish, err = producer.New(ctx, pc)
	w.end = func() {
		if w.publish != nil {
			w.publish.Close(context.Background())
		}
		stop()
		ran.Wait()
		w.kafka.Close()
	}
	if err != nil {
		return err
	}
	select {
	case <-w.table.Loaded():
	case <-ctx.Done():
		return ctx.Err()
	}
	w.writer = subscriptions.NewWriter(w.kafka, w.table, keyring, policy, subscriptions.DefaultConfig())
	return errors.Join(w.start("router", nil), w.start("deliverer", nil))
}

// close stops everything but the shared rig.
func (w *pointWorld) close() {
	var all sync.WaitGroup
	for role := range maps.Clone(w.procs) {
		p := w.procs[role]
		all.Go(func() { p.Stop(10 * time.Second) })
	}
	all.Wait()
	clear(w.procs)
	w.end()
	w.end = func() {}
}

// start starts a service under a role: "router", "deliverer", or "deliverer-2" for another one. It does not wait until it is ready: some points stand
// before that.
func (w *pointWorld) start(role string, env []string) error {
	if w.ports[role] == 0 {
		w.ports[role] = rig.FreePort()
	}
	env = append(append([]string{fmt.Sprintf("HOOKFERRY_HOST_LISTEN=127.0.0.1:%d", w.ports[role])}, w.env...), env...)
	command, _, _ := strings.Cut(role, "-")
	p, err := rig.Start(w.dir, role, env, w.bin, command)
	if err == nil {
		w.procs[role] = p
	}
	return err
}

// stop ends a service in good order.
func (w *pointWorld) stop(role string) error {
	p := w.procs[role]
	if p == nil {
		return nil
	}
	delete(w.procs, role)
	err := p.Stop(time.Minute)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil // so young that it does not listen to signals yet: it had nothing to finish
	}
	if err != nil {
		return fmt.Errorf("stop the %s: %w", role, err)
	}
	return nil
}

// command starts a command of the binary.
func (w *pointWorld) command(name string, env []string, args ...string) (*rig.Proc, error) {
	return rig.Start(w.dir, name, append(w.env[:len(w.env):len(w.env)], env...), append([]string{w.bin}, args...)...)
}

// order is the environment that orders a process to be hurt, and the file in which it says that it was.
func (w *pointWorld) order(text string) (env []string, log string) {
	log = filepath.Join(w.dir, fmt.Sprintf("reached-%d-%d", w.made, w.cells))
	return []string{fault.Environ + "=" + text, fault.EnvironLog + "=" + log}, log
}

// reachedAt is when a process was hurt on a side of a point; false: not yet.
func reachedAt(log string, c fault.Cell) (time.Time, bool) {
	b, _ := os.ReadFile(log)
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) == 3 && strings.HasPrefix(f[0], c.String()+":") {
			ns, _ := strconv.ParseInt(f[2], 10, 64)
			return time.Unix(0, ns), true
		}
	}
	return time.Time{}, false
}

// stopped says whether a process stands still after a SIGSTOP.
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return len(f) > 0 && f[0] == "T"
}

// pointRegistry is a schema registry that knows what it is told: an id it does not know yet makes a record undecodable.
type pointRegistry struct {
	ln   net.Listener
	mu   sync.Mutex
	last int
	text map[int]string
}

func startPointRegistry() (*pointRegistry, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &pointRegistry{ln: ln, text: map[int]string{}}
	go http.Serve(ln, r) // ends with the listener
	return r, nil
}

func (r *pointRegistry) url() string { return "http://" + r.ln.Addr().String() }

// next is an id that nobody uses, and nobody knows before it is registered.
func (r *pointRegistry) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	return r.last
}

// register makes an id known.
func (r *pointRegistry) register(id int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text[id] = text
}

func (r *pointRegistry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method == http.MethodPost { // a command registers what it publishes
		var in struct{ Schema string }
		json.NewDecoder(q.Body).Decode(&in)
		id := r.next()
		r.register(id, in.Schema)
		json.NewEncoder(w).Encode(map[string]int{"id": id})
		return
	}
	id, err := strconv.Atoi(strings.TrimPrefix(q.URL.Path, "/schemas/ids/"))
	r.mu.Lock()
	text, known := r.text[id]
	r.mu.Unlock()
	if err != nil || !known {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error_code":40403,"message":"Schema not found"}`)
		return
	}
	json.NewEncoder(w).Encode(map[string]string{"schema": text})
}
