package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a connection from a host to a listener in a network.
func pair(t *testing.T) (h *Host, ours, theirs net.Conn) {
	t.Helper()
	n := NewNetwork()
	l, err := n.Listen("tcp", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	h = n.Host("a")
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if ours, err = h.Dial(t.Context(), "tcp", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	l.Close()
	return h, ours, <-accepted
}

func readAll(t *testing.T, c net.Conn, want string, wantErr error) {
	t.Helper()
	b := make([]byte, 64)
	got := ""
	for {
		n, err := c.Read(b)
		got += string(b[:n])
		if err != nil {
			if got != want || !errors.Is(err, wantErr) {
				t.Errorf("read %q and %v, want %q and %v", got, err, want, wantErr)
			}
			return
		}
	}
}

// What a process wrote before it was killed arrives, and nothing after; the process itself is told nothing good.
func TestWhatWasWrittenBeforeTheCutArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ours, theirs := pair(t)
		h.Delay("127.0.0.1:1", time.Second)
		ours.Write([]byte("before"))
		h.Cut()
		if _, err := ours.Write([]byte("after")); err == nil {
			t.Error("a dead host wrote")
		}
		if _, err := h.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ENETDOWN) {
			t.Error("a dead host dialled:", err)
		}
		readAll(t, theirs, "before", io.EOF)
		readAll(t, ours, "", syscall.ECONNRESET)
		theirs.Close()
	})
}

// A frozen host reads and writes nothing, whatever its deadlines say, and goes on when it is thawed.
func TestAFrozenHostDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ours, theirs := pair(t)
		h.Freeze()
		began := time.Now()
		time.AfterFunc(time.Minute, h.Thaw)
		ours.SetReadDeadline(time.Now().Add(time.Second))
		readAll(t, ours, "", os.ErrDeadlineExceeded)
		if d := time.Since(began); d != time.Minute {
			t.Errorf("a frozen host saw its deadline after %v", d)
		}
		h.Freeze()
		time.AfterFunc(time.Minute, h.Thaw)
		go ours.Write([]byte("x"))
		theirs.Read(make([]byte, 1))
		if d := time.Since(began); d != 2*time.Minute {
			t.Errorf("what a frozen host wrote came after %v", d)
		}
		ours.Close()
		theirs.Close()
	})
}

// In the dark nothing arrives and nobody is told; afterwards it does. A dial waits for as long as it may.
func TestWhatIsWrittenInTheDarkArrivesAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ours, theirs := pair(t)
		h.Darken("127.0.0.1:1")
		ours.Write([]byte("x"))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Dial(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.AfterFunc(time.Minute, func() { h.Heal("127.0.0.1:1") })
		theirs.Read(make([]byte, 1))
		if d := time.Since(began); d != time.Minute+time.Second {
			t.Errorf("it came after %v", d)
		}
		ours.Close()
		theirs.Close()
		if h.Conns() != 0 {
			t.Errorf("%d connections are left", h.Conns())
		}
	})
}

// A request that is swallowed never arrives; one whose answer is lost does.
func TestFatesOfRequests(t *testing.T) {
	for _, fate := range []Fate{Pass, Swallow, LoseAnswer} {
		synctest.Test(t, func(t *testing.T) {
			h, ours, theirs := pair(t)
			h.Requests(func(_ string, api int16) Fate {
				if api == 7 {
					return fate
				}
				return Pass
			})
			arrived := make(chan int, 1)
			go func() {
				n, _ := io.ReadFull(theirs, make([]byte, 8))
				arrived <- n
				theirs.Write([]byte("answer"))
				theirs.Close()
			}()
			_, err := ours.Write([]byte{0, 0, 0, 4, 0, 7, 1, 2})
			if n := <-arrived; (n == 8) != (fate != Swallow) || (err == nil) != (fate != Swallow) {
				t.Errorf("fate %d: %d bytes arrived, error %v", fate, n, err)
			}
			if answer, _ := io.ReadAll(ours); (string(answer) == "answer") != (fate == Pass) {
				t.Errorf("fate %d: answer %q", fate, answer)
			}
			ours.Close()
		})
	}
}

// The third write is the last.
func TestAFuseBurnsAtItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ours, theirs := pair(t)
		h.Fuse(3, h.Cut)
		for _, s := range []string{"1", "2", "3", "4"} {
			ours.Write([]byte(s))
		}
		readAll(t, theirs, "12", io.EOF)
		theirs.Close()
	})
}
