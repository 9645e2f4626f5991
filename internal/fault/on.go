//go:build faultpoints && linux

package fault

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// Enabled says whether this build can be hurt.
const Enabled = true

// armed is what the environment orders, read once before main, and never changed but for the counts.
type armed struct {
	orders []Order
	hits   []atomic.Int64 // of each order
	log    *os.File
}

var in armed

// The orders are taken out of the environment: an unknown HOOKFERRY_ variable is a mistake to the configuration, and children are not meant.
func init() {
	text, log := os.Getenv(Environ), os.Getenv(EnvironLog)
	os.Unsetenv(Environ)
	os.Unsetenv(EnvironLog)
	if text == "" {
		return
	}
	orders, err := Parse(text)
	if err == nil && log != "" {
		in.log, err = os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, Environ+":", err)
		os.Exit(2)
	}
	in.orders, in.hits = orders, make([]atomic.Int64, len(orders))
}

// Before stands in front of the step of a point. An error, only ever injected, stands for one of the step, which then was not made.
func Before(p Point) error { return in.reached(p, SideBefore) }

// After stands behind the step of a point and passes its error on, or an injected one in place of none.
func After(p Point, err error) error {
	if injected := in.reached(p, SideAfter); err == nil {
		return injected
	}
	return err
}

func (a *armed) reached(p Point, s Side) error {
	for i := range a.orders {
		o := &a.orders[i]
		if o.Point != p || o.Side != s {
			continue
		}
		n := a.hits[i].Add(1)
		if n < o.Nth || n >= o.Nth+o.Times {
			continue
		}
		if a.log != nil {
			fmt.Fprintf(a.log, "%s %d %d\n", o, n, time.Now().UnixNano()) // one write: it is in the page cache, which a SIGKILL leaves
		}
		switch o.Kind {
		case Kill:
			stopHere(syscall.SIGKILL)
		case Stall:
			stopHere(syscall.SIGSTOP)
		case Slow:
			time.Sleep(SlowFor)
		case Fail:
			return &Error{*o}
		}
	}
	return nil
}

// stopHere sends a signal to this very thread, so that the calling goroutine makes not one step more before the whole process is dead or stands still.
func stopHere(s syscall.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(s))
}
