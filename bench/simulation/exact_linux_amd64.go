package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// A seed decides a run only if nothing else does. For a process with one processor (GOMAXPROCS=1), what Go's runtime leaves to chance or to the machine is:
//
//	its random numbers     which decide the order of maps, of the cases of a select and of timers that are due at once. It seeds them with 16 bytes that the
//	                       kernel puts beside the arguments (AT_RANDOM): always the same ones here.
//	addresses              by which pointers are hashed: no address space layout randomization.
//	the clock              a mutex that somebody waits for over a millisecond is handed on otherwise, for one. The bubble has a clock of its own; the one of
//	                       the machine stands still here: the function that reads it (in the vDSO) is overwritten.
//	the thread sysmon      which takes the processor away from who has it for over 10 ms. It is the first thread that a process starts: it never runs.
//	threads side by side   while packages are initialized, the main thread hands the processor on and gets it back: all on one processor of the machine, and
//	                       who is woken does not displace who woke him (SCHED_BATCH).
//
// So the child is started under ptrace, changed before its first instruction, and then left alone but for the birth of threads. The Go that builds it is the
// ordinary one. Another build, another machine with other instructions, or another environment may take another way; the same build takes the same one.

const (
	ptraceExitKill    = 0x100000   // PTRACE_O_EXITKILL
	waitOwnThread     = 0x20000000 // __WNOTHREAD: another thread may trace another child
	addrNoRandomize   = 0x0040000  // personality
	schedBatch        = 3
	auxRandom         = 25
	auxVDSO           = 33
	vdsoMost          = 16 << 10
	clockFunctionName = "__vdso_clock_gettime"
)

// standstill is clock_gettime(clock, *timespec) that always says 1e9 seconds: mov qword [rsi], 1e9; mov qword [rsi+8], 0; xor eax, eax; ret.
var standstill = []byte{0x48, 0xc7, 0x06, 0x00, 0xca, 0x9a, 0x3b, 0x48, 0xc7, 0x46, 0x08, 0, 0, 0, 0, 0x31, 0xc0, 0xc3}

// startExact starts a child that runs the same way each time, on one of the machine's processors. What it says comes out of out, which ends with it; then wait
// says how it ended.
func startExact(binary string, args, env []string, processor int) (p *childProcess, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	ended := make(chan error, 1)
	p = &childProcess{out: out, wait: func() error { return <-ended }}
	go func() {
		runtime.LockOSThread() // it is this thread's child, and the thread ends with this goroutine, as it is changed itself
		t := tracer{}
		err := t.start(binary, args, env, processor, in)
		in.Close()
		p.pid = t.pid
		started <- err
		if err == nil {
			ended <- t.run()
		}
	}()
	if err := <-started; err != nil {
		out.Close()
		return nil, err
	}
	return p, nil
}

// tracer is the thread that has started a child.
type tracer struct {
	pid    int
	sysmon int
	known  map[int]bool // threads that run
	early  map[int]bool // that stopped, as each does at its birth, before their mother said that they are there
}

func (t *tracer) start(binary string, args, env []string, processor int, out *os.File) error {
	if err := settle(processor); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	child, err := os.StartProcess(binary, args, &os.ProcAttr{Dir: "/", Env: env, Files: []*os.File{null, out, out}, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return err
	}
	t.pid = child.Pid
	child.Release()
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(t.pid, &ws, waitOwnThread, nil); err != nil || !ws.Stopped() {
		return fmt.Errorf("the child did not stop before its first instruction: %v", err)
	}
	if err := t.change(); err != nil {
		syscall.Kill(t.pid, syscall.SIGKILL)
		syscall.Wait4(t.pid, &ws, waitOwnThread, nil)
		return err
	}
	t.known, t.early = map[int]bool{t.pid: true}, map[int]bool{}
	return syscall.PtraceCont(t.pid, 0)
}

// settle prepares this thread: what it sets here its child inherits.
func settle(processor int) error {
	var mask [16]uint64
	size, at := unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, size, at); e != 0 {
		return fmt.Errorf("sched_getaffinity: %w", e)
	}
	var allowed []int
	for i := range 64 * len(mask) {
		if mask[i/64]>>(i%64)&1 != 0 {
			allowed = append(allowed, i)
		}
	}
	one := allowed[processor%len(allowed)]
	mask = [16]uint64{}
	mask[one/64] = 1 << (one % 64)
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, size, at); e != 0 {
		return fmt.Errorf("sched_setaffinity: %w", e)
	}
	priority := int32(0)
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedBatch, uintptr(unsafe.Pointer(&priority))); e != 0 {
		return fmt.Errorf("sched_setscheduler: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_PERSONALITY, addrNoRandomize, 0, 0); e != 0 {
		return fmt.Errorf("personality: %w", e)
	}
	return nil
}

// change changes the child before its first instruction.
func (t *tracer) change() error {
	vectors, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", t.pid))
	if err != nil {
		return err
	}
	done := 0
	for ; len(vectors) >= 16; vectors = vectors[16:] {
		value := uintptr(binary.LittleEndian.Uint64(vectors[8:]))
		switch binary.LittleEndian.Uint64(vectors) {
		case auxRandom:
			if _, err := syscall.PtracePokeData(t.pid, value, []byte("no chance in this")[:16]); err != nil {
				return fmt.Errorf("random bytes: %w", err)
			}
			done++
		case auxVDSO:
			clock, err := t.clock(value)
			if err == nil {
				_, err = syscall.PtracePokeData(t.pid, clock, standstill)
			}
			if err != nil {
				return fmt.Errorf("clock: %w", err)
			}
			done++
		}
	}
	if done != 2 {
		return errors.New("the kernel hands over no random bytes, or no vDSO")
	}
	return syscall.PtraceSetOptions(t.pid, syscall.PTRACE_O_TRACECLONE|ptraceExitKill)
}

// clock finds the function that reads the clock.
func (t *tracer) clock(vdso uintptr) (uintptr, error) {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", t.pid))
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	f, err := elf.NewFile(io.NewSectionReader(memory, int64(vdso), vdsoMost))
	if err != nil {
		return 0, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == clockFunctionName {
			return vdso + uintptr(s.Value), nil
		}
	}
	return 0, errors.New("the vDSO has no " + clockFunctionName)
}

// run lets the child run to its end.
func (t *tracer) run() error {
	var ws syscall.WaitStatus
	for {
		id, err := syscall.Wait4(-1, &ws, syscall.WALL|waitOwnThread, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case id == t.pid && ws.Exited():
			if ws.ExitStatus() != 0 {
				return fmt.Errorf("exit status %d", ws.ExitStatus())
			}
			return nil
		case id == t.pid && ws.Signaled():
			return fmt.Errorf("signal: %v", ws.Signal())
		case ws.Stopped() && ws.TrapCause() == syscall.PTRACE_EVENT_CLONE:
			if err := t.born(id); err != nil {
				return err
			}
		case ws.Stopped() && id == t.sysmon:
		case ws.Stopped() && !t.known[id]:
			t.early[id] = true
		case ws.Stopped():
			signal := ws.StopSignal()
			if signal == syscall.SIGTRAP || signal == syscall.SIGSTOP {
				signal = 0 // ours
			}
			syscall.PtraceCont(id, int(signal)) // an error: it is gone, and the next wait says so
		}
	}
}

// born deals with a new thread.
func (t *tracer) born(mother int) error {
	child, err := syscall.PtraceGetEventMsg(mother)
	if err != nil {
		return err
	}
	id := int(child)
	if t.sysmon == 0 {
		t.sysmon = id
	} else {
		t.known[id] = true
		if t.early[id] {
			syscall.PtraceCont(id, 0)
		}
	}
	syscall.PtraceCont(mother, 0)
	return nil
}
