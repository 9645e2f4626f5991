package rig

import (
	"os"
	"sync"
	"syscall"
)

// SyncFile is a file that is only appended to. Whoever must know that what he appended has reached the disk waits together with all others who do: one
// fdatasync for all of them.
//
//	Append, AppendSync -> buf -> the writer (a goroutine): write, fdatasync, wake
type SyncFile struct {
	f    *os.File
	sync bool
	kick chan struct{} // capacity 1
	end  chan struct{}

	mu      sync.Mutex
	buf     []byte
	spare   []byte
	round   *syncRound
	waiting bool
	err     error // of the first write that failed; nothing counts as written from then on
	closed  bool
}

// syncRound is what those wait for who appended before the writer took the buffer.
type syncRound struct {
	done chan struct{}
	err  error
}

// CreateSyncFile makes the file. sync=false leaves out fdatasync: what was written survives the death of every process, not of the machine.
func CreateSyncFile(name string, sync bool) (*SyncFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := &SyncFile{f: f, sync: sync, kick: make(chan struct{}, 1), end: make(chan struct{}), round: &syncRound{done: make(chan struct{})}}
	go s.run()
	return s, nil
}

// Append adds bytes that are written soon. fill appends to what it is given and returns it; it runs under the file's mutex.
func (s *SyncFile) Append(fill func([]byte) []byte) { s.append(fill, false) }

// AppendSync adds bytes and returns when they are on the disk.
func (s *SyncFile) AppendSync(fill func([]byte) []byte) error {
	r := s.append(fill, true)
	<-r.done
	return r.err
}

func (s *SyncFile) append(fill func([]byte) []byte, wait bool) *syncRound {
	s.mu.Lock()
	s.buf = fill(s.buf)
	s.waiting = s.waiting || wait
	r := s.round
	if s.closed { // whoever is late must not take it for written
		r = &syncRound{done: make(chan struct{}), err: os.ErrClosed}
		close(r.done)
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return r
}

func (s *SyncFile) run() {
	defer close(s.end)
	for range s.kick {
		s.flush()
		s.mu.Lock()
		done := s.closed && len(s.buf) == 0
		s.mu.Unlock()
		if done {
			return
		}
	}
}

func (s *SyncFile) flush() {
	s.mu.Lock()
	b, r, waiting, err := s.buf, s.round, s.waiting, s.err
	s.buf, s.round, s.waiting = s.spare[:0], &syncRound{done: make(chan struct{})}, false
	s.mu.Unlock()
	if err == nil && len(b) > 0 {
		_, err = s.f.Write(b)
	}
	if err == nil && waiting && s.sync {
		err = syscall.Fdatasync(int(s.f.Fd()))
	}
	s.mu.Lock()
	s.spare, s.err = b, err
	s.mu.Unlock()
	r.err = err
	close(r.done)
}

// Close writes what is left and closes the file.
func (s *SyncFile) Close() error {
	err := s.AppendSync(func(b []byte) []byte { return b })
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	<-s.end
	if cerr := s.f.Close(); err == nil {
		err = cerr
	}
	return err
}
