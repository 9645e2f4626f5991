package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// KillAt is a place in the life of a process: its N-th write to a socket, before it or after it. N counts from 1 over all threads; 0 is nowhere.
type KillAt struct {
	N     int
	After bool
}

func (k KillAt) String() string {
	if k.After {
		return fmt.Sprintf("after write %d", k.N)
	}
	return fmt.Sprintf("before write %d", k.N)
}

// Traced is a process that runs under ptrace, and is killed by its tracer at a place. The fields are to be read after Done.
//
// Why not strace, which can inject a signal at the N-th write: it counts each thread by itself, and a Go program writes from many, so that no number says
// where a process died (`strace -f -e inject=write:signal=KILL:when=30` killed a program with five writing threads at its 54th write). Heartbeats
// and answers to health checks are not counted: they come by the clock, and would make the places of two runs different ones.
type Traced struct {
	*Proc
	Writes int       // how many there were, the last one included
	Killed bool      // at the place asked for; else the process ended otherwise
	At     time.Time // of the kill
	What   string    // which write it was: "Kafka Produce", "POST"
	Sorts  map[string]int

	at     KillAt
	mem    *os.File
	inside map[int]bool // threads in the write after which the process is to be killed
}

const (
	ptraceSysGood    = 1
	ptraceClone      = 8
	ptraceExitKill   = 1 << 20
	ptraceGetSyscall = 0x420e // PTRACE_GET_SYSCALL_INFO
	waitAll          = 0x40000000
	waitOwnThread    = 0x20000000
	syscallStop      = syscall.SIGTRAP | 0x80
)

// StartTraced is Start under a tracer. It fails loudly where a process may not trace another.
func StartTraced(dir, name string, env []string, at KillAt, argv ...string) (*Traced, error) {
	log := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Ptrace: true}
	t := &Traced{Proc: &Proc{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}, at: at, inside: map[int]bool{}, Sorts: map[string]int{}}
	started := make(chan error)
	// A tracer is a thread, not a process: one goroutine keeps its thread from the fork to the end, and waits for the children of that thread only, so
	// that it takes no end of a process from others who wait for one.
	go func() {
		defer f.Close()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := t.begin(); err != nil {
			started <- fmt.Errorf("trace %s: %w (are we allowed to ptrace?)", name, err)
			return
		}
		started <- nil
		t.err = t.follow()
		t.mem.Close()
		close(t.done)
	}()
	return t, <-started
}

// begin starts the process and lets it run from its exec on.
func (t *Traced) begin() error {
	if err := t.cmd.Start(); err != nil {
		return err
	}
	pid := t.PID()
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	if !ws.Stopped() {
		return errors.New("the process was not stopped at its start")
	}
	err := syscall.PtraceSetOptions(pid, ptraceSysGood|ptraceClone|ptraceExitKill)
	if err == nil {
		t.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	}
	if err == nil {
		err = syscall.PtraceSyscall(pid, 0)
	}
	if err != nil {
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, &ws, waitAll, nil)
	}
	return err
}

// follow lets the threads run from one system call to the next until the process has ended, and kills it at the place.
func (t *Traced) follow() error {
	known := map[int]bool{t.PID(): true}
	for {
		var ws syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &ws, waitAll|waitOwnThread, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait for %s: %w", t.Name, err)
		case (ws.Exited() || ws.Signaled()) && tid == t.PID():
			if ws.Exited() && ws.ExitStatus() == 0 {
				return nil
			}
			return fmt.Errorf("%s ended with status %#x", t.Name, uint32(ws))
		case !ws.Stopped():
			continue // a thread's end
		}
		pass := 0
		switch sig := ws.StopSignal(); {
		case sig == syscallStop:
			t.stopped(tid)
		case sig == syscall.SIGTRAP && ws.TrapCause() > 0: // a clone
		case sig == syscall.SIGSTOP && !known[tid]: // how a new thread begins
		default:
			pass = int(sig)
		}
		known[tid] = true
		syscall.PtraceSyscall(tid, pass) // fails if it was killed meanwhile: then its end is what comes next
	}
}

// syscallInfo is struct ptrace_syscall_info as far as an entry fills it.
type syscallInfo struct {
	Op   uint8 // 1: entry, 2: exit
	_    [3]uint8
	Arch uint32
	_    [2]uint64 // instruction and stack pointer
	Nr   uint64
	Args [6]uint64
	_    [2]uint64
}

// stopped looks at a thread that enters or leaves a system call.
func (t *Traced) stopped(tid int) {
	if t.Killed {
		return
	}
	var si syscallInfo
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PTRACE, ptraceGetSyscall, uintptr(tid), unsafe.Sizeof(si), uintptr(unsafe.Pointer(&si)), 0, 0); e != 0 {
		return
	}
	if si.Op != 1 {
		if t.inside[tid] {
			t.kill()
		}
		return
	}
	buf := si.Args[1]
	switch si.Nr {
	case syscall.SYS_WRITE, syscall.SYS_PWRITE64, syscall.SYS_SENDTO:
	case syscall.SYS_WRITEV:
		buf = binary.NativeEndian.Uint64(t.peek(buf, 8))
	case syscall.SYS_SENDMSG:
		iov := binary.NativeEndian.Uint64(t.peek(buf+16, 8)) // behind the name and its length
		buf = binary.NativeEndian.Uint64(t.peek(iov, 8))
	default:
		return
	}
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.PID(), si.Args[0]))
	if err != nil || !strings.HasPrefix(file, "socket:") {
		return
	}
	what := sortOfWrite(t.peek(buf, 64))
	if what == "" {
		return
	}
	t.Writes++
	t.Sorts[what]++
	if t.Writes != t.at.N {
		return
	}
	t.What = what
	if t.at.After {
		t.inside[tid] = true
		return
	}
	t.kill()
}

// kill ends the process. A system call that it is about to enter is not made: the kernel looks for a deadly signal first.
func (t *Traced) kill() {
	t.Killed, t.At = true, time.Now()
	t.asked.Store(true)
	syscall.Kill(t.PID(), syscall.SIGKILL)
}

// peek reads the process's memory; zeros where it cannot.
func (t *Traced) peek(at uint64, n int) []byte {
	b := make([]byte, n)
	t.mem.ReadAt(b, int64(at))
	return b
}

// kafkaRequests names what a Kafka request asks for by its number.
var kafkaRequests = map[uint16]string{
	0: "Produce", 1: "Fetch", 2: "ListOffsets", 3: "Metadata", 8: "OffsetCommit", 9: "OffsetFetch", 10: "FindCoordinator", 11: "JoinGroup",
	13: "LeaveGroup", 14: "SyncGroup", 17: "SaslHandshake", 18: "ApiVersions", 22: "InitProducerId", 32: "DescribeConfigs", 36: "SaslAuthenticate",
}

// sortOfWrite tells from its first bytes what a write to a socket is; empty: one that comes by the clock.
func sortOfWrite(b []byte) string {
	switch {
	case b[0] == '*': // *<words>\r\n$<length>\r\n<command>
		words := strings.SplitN(string(b), "\r\n", 4)
		if len(words) > 2 {
			return "Redis " + words[2]
		}
		return "Redis"
	case strings.HasPrefix(string(b), "POST "):
		return "POST"
	case strings.HasPrefix(string(b), "HTTP/"):
		return ""
	}
	switch key := binary.BigEndian.Uint16(b[4:]); {
	case b[0] == 0 && key == 12:
		return "" // a heartbeat
	case b[0] == 0 && kafkaRequests[key] != "":
		return "Kafka " + kafkaRequests[key]
	}
	return "the rest of a write"
}

// StartTraced starts a service under a tracer and does not wait until it is ready: it may die before.
func (d *Deployment) StartTraced(name, command string, at KillAt) (*Traced, error) {
	env := append([]string{fmt.Sprintf("HOOKFERRY_HOST_LISTEN=127.0.0.1:%d", d.port(name))}, d.settings...)
	t, err := StartTraced(d.Dir, name, env, at, d.bin, command, "--config", d.cfg)
	if err == nil {
		d.enter(name, t.Proc)
	}
	return t, err
}
