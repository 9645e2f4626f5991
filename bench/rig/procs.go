package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Proc is one process that the rig started.
type Proc struct {
	Name string
	Log  string // file with its standard output and error
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	asked atomic.Bool // to end
}

// Crash is a process that ended though nobody had asked it to.
type Crash struct {
	Name string
	How  string // it ended
	Log  string // the end of it
}

func (c Crash) String() string {
	return fmt.Sprintf("%s ended by itself (%s): %s", c.Name, c.How, c.Log)
}

// Crashed says whether the process has ended by itself.
func (p *Proc) Crashed() (c Crash, yes bool) {
	select {
	case <-p.done:
	default:
		return c, false
	}
	if p.asked.Load() {
		return c, false
	}
	log, _ := os.ReadFile(p.Log)
	return Crash{p.Name, fmt.Sprint(p.err), string(log[max(0, len(log)-2000):])}, true
}

// Start runs a command with its output in dir/NAME.log. It dies with us.
func Start(dir, name string, env []string, argv ...string) (*Proc, error) {
	log := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Proc{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	return p, nil
}

// PID of the process, also after its end.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Err says how the process ended; to be read after Done.
func (p *Proc) Err() error { return p.err }

// Signal sends a signal; a process that is gone is no error.
func (p *Proc) Signal(s syscall.Signal) {
	select {
	case <-p.done: // it ended before it was asked
	default:
		if s == syscall.SIGKILL || s == syscall.SIGTERM {
			p.asked.Store(true)
		}
	}
	p.cmd.Process.Signal(s)
}

// Kill ends the process the hard way and waits for its end.
func (p *Proc) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end and waits at most d, then kills it. The error says that it had to be killed or ended badly.
func (p *Proc) Stop(d time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(d):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s", p.Name, d)
	}
}

// CPU is the processor time that a process has used so far, threads and all, from /proc. Resolution: one clock tick, 10 ms.
func CPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, i := range []int{11, 12} { // utime and stime, counted from the state field
		n, _ := strconv.ParseInt(f[i], 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// RSS is the resident memory of a process in bytes.
func RSS(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// Kafka is a real broker, or three, from deploy/kafka/kafka.sh.
type Kafka struct {
	script, dir string
	env         []string
	Bootstrap   []string
}

// StartKafka starts N brokers on free ports of 127.0.0.1. heap is the JVM's, in its own words ("512m"); env is for kafka.sh.
func StartKafka(ctx context.Context, root, dir string, brokers int, heap string, env ...string) (*Kafka, error) {
	k := &Kafka{script: filepath.Join(root, "deploy/kafka/kafka.sh"), dir: dir, env: append(append(os.Environ(), "KAFKA_HEAP="+heap), env...)}
	return k, k.Start(ctx, brokers)
}

// Start brings dead nodes back.
func (k *Kafka) Start(ctx context.Context, brokers int) error {
	out, err := k.run(ctx, "start", "--brokers", strconv.Itoa(brokers), "--dir", k.dir)
	if err != nil {
		return err
	}
	k.Bootstrap = strings.Split(strings.TrimSpace(out), ",")
	return nil
}

// PID of node n (from 1), for kill -9 and for its CPU.
func (k *Kafka) PID(n int) int {
	b, _ := os.ReadFile(filepath.Join(k.dir, strconv.Itoa(n), "pid"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// Close stops all nodes and removes their data.
func (k *Kafka) Close() error {
	_, err := k.run(context.Background(), "stop", "--dir", k.dir, "--wipe")
	return err
}

func (k *Kafka) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", append([]string{k.script}, args...)...)
	cmd.Env = k.env
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kafka.sh %s: %w: %s", args[0], err, msg.String())
	}
	return out.String(), nil
}

// Redis is a real redis-server without persistence.
type Redis struct {
	*Proc
	Addr string
	dir  string
}

// StartRedis starts one on a free port of 127.0.0.1 and returns when it answers.
func StartRedis(dir string) (*Redis, error) {
	r := &Redis{Addr: "127.0.0.1:" + strconv.Itoa(FreePort()), dir: dir}
	return r, r.Start()
}

// Start starts it again on its port, empty.
func (r *Redis) Start() (err error) {
	_, port, _ := net.SplitHostPort(r.Addr)
	r.Proc, err = Start(r.dir, "redis", nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir)
	if err != nil {
		return fmt.Errorf("%w (is redis-server installed?)", err)
	}
	return Until(10*time.Second, "redis answers", func() bool { _, err := r.Do("PING"); return err == nil })
}

// Do sends one inline command and returns the first line of the answer.
func (r *Redis) Do(cmd string) (string, error) {
	c, err := net.DialTimeout("tcp", r.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, cmd+"\r\n"); err != nil {
		return "", err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// FreePort is a port that was free a moment ago, below the ephemeral range so that no outgoing connection takes it meanwhile.
func FreePort() int {
	freePort.Lock()
	defer freePort.Unlock()
	for {
		freePort.next = (freePort.next+1)%9000 + os.Getpid()%97
		p := 20000 + freePort.next
		if ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p)); err == nil {
			ln.Close()
			return p
		}
	}
}

var freePort struct {
	sync.Mutex
	next int
}

// Until asks every 5 ms until f is true; the error names what did not come true.
func Until(d time.Duration, what string, f func() bool) error {
	end := time.Now().Add(d)
	for !f() {
		if time.Now().After(end) {
			return errors.New("not within " + d.String() + ": " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
