package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network is a network in memory with hosts that can be cut off, frozen and slowed: what a kernel and its cables are to processes. Everything in it
// waits on channels and timers, so a testing/synctest bubble can hold it and its time is virtual.
//
// A connection is two streams. What is written lies in the stream, as in a kernel's buffers, until the other side reads it; a write waits only when the
// buffer is full. So what a host wrote before it was cut off still arrives, as it does when a process is killed.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*netListener
}

// NewNetwork is a network without hosts and listeners.
func NewNetwork() *Network { return &Network{listeners: map[string]*netListener{}} }

// streamRoom is how much a stream holds before who writes must wait.
const streamRoom = 256 << 10

// Listen opens addr ("host:port") for connections. Its shape is that of net.Listen.
func (n *Network) Listen(_, addr string) (net.Listener, error) {
	l := &netListener{n: n, addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	return l, n.register(addr, l)
}

// Serve has accept called, in its own goroutine, with each connection that is made to addr.
func (n *Network) Serve(addr string, accept func(net.Conn)) error {
	return n.register(addr, &netListener{n: n, addr: addr, accept: accept, closed: make(chan struct{})})
}

func (n *Network) register(addr string, l *netListener) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return &net.OpError{Op: "listen", Net: "tcp", Addr: pipeAddr(addr), Err: syscall.EADDRINUSE}
	}
	n.listeners[addr] = l
	return nil
}

func (n *Network) find(addr string) *netListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[addr]
}

type netListener struct {
	n      *Network
	addr   string
	conns  chan net.Conn
	accept func(net.Conn)
	closed chan struct{}
	once   sync.Once
}

func (l *netListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *netListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		delete(l.n.listeners, l.addr)
	})
	return nil
}

func (l *netListener) Addr() net.Addr { return pipeAddr(l.addr) }

// Host is one process's place in a Network.
type Host struct {
	n    *Network
	name string

	mu     sync.Mutex
	dead   bool
	frozen chan struct{} // closed by Thaw; nil: not frozen
	links  map[string]*link
	conns  map[*netConn]struct{} // both ends of each, until they are closed
	// requests decides the fate of each Kafka request that the host sends to an address; nil: all pass.
	requests func(addr string, api int16) Fate
	fuse     int // writes until burn is called; 0: never
	burn     func()
}

// Fate is what becomes of a request.
type Fate int

const (
	Pass       Fate = iota
	Swallow         // it never arrives, and its connection is cut
	LoseAnswer      // it arrives and is worked off; its answer is lost with the connection
)

// link is the way from a host to an address.
type link struct {
	refused bool // connections are refused, standing ones were cut
	dark    bool // nothing arrives, in either direction, and nobody is told
	latency time.Duration
}

// Host names a new host. Several may have the same name: a process that is started again is another one.
func (n *Network) Host(name string) *Host {
	return &Host{n: n, name: name, links: map[string]*link{}, conns: map[*netConn]struct{}{}}
}

// Dial connects to whoever listens at addr.
func (h *Host) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: pipeAddr(addr), Err: err}
	}
	for {
		h.mu.Lock()
		frozen, l := h.frozen, h.link(addr)
		dead, refused, dark, latency := h.dead, l.refused, l.dark, l.latency
		h.mu.Unlock()
		switch {
		case dead:
			return fail(syscall.ENETDOWN)
		case frozen != nil:
			<-frozen // a stopped process does not look at its context
			continue
		case dark:
			<-ctx.Done()
			return fail(ctx.Err())
		case refused:
			return fail(syscall.ECONNREFUSED)
		}
		if latency > 0 {
			timer := time.NewTimer(latency)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return fail(ctx.Err())
			}
		}
		break
	}
	l := h.n.find(addr)
	if l == nil {
		return fail(syscall.ECONNREFUSED)
	}
	ours, theirs := h.connect(addr)
	if ours == nil {
		return fail(syscall.ENETDOWN)
	}
	if l.accept != nil {
		go l.accept(theirs)
		return ours, nil
	}
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		ours.Close()
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		ours.Close()
		return fail(ctx.Err())
	}
}

// link is the state of the way to an address. h.mu is held.
func (h *Host) link(addr string) *link {
	l := h.links[addr]
	if l == nil {
		l = &link{}
		h.links[addr] = l
	}
	return l
}

// connect makes both ends of a connection; nil if the host died meanwhile.
func (h *Host) connect(addr string) (ours, theirs *netConn) {
	out, in := newStream(), newStream()
	ours = &netConn{h: h, addr: addr, r: in, w: out, near: true, local: pipeAddr(h.name), remote: pipeAddr(addr)}
	theirs = &netConn{h: h, addr: addr, r: out, w: in, local: pipeAddr(addr), remote: pipeAddr(h.name)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil, nil
	}
	h.conns[ours], h.conns[theirs] = struct{}{}, struct{}{}
	return ours, theirs
}

// Cut takes the host off the network for good, as the kernel does with a process that was killed: its connections are over for both sides, what it wrote
// before still arrives, and nothing that it does from now on reaches anybody.
func (h *Host) Cut() {
	h.mu.Lock()
	h.dead = true
	if h.frozen != nil {
		close(h.frozen)
		h.frozen = nil
	}
	for _, l := range h.links {
		l.dark = false // or the other side would wait for ever
	}
	conns := h.conns
	h.conns = map[*netConn]struct{}{}
	h.mu.Unlock()
	for c := range conns {
		if c.near {
			c.r.fail(syscall.ECONNRESET)
			c.w.end()
		}
	}
	for c := range conns {
		c.r.poke()
	}
}

// Freeze stops all reads, writes and dials of the host until Thaw: as far as anybody else can see, its process is stopped.
func (h *Host) Freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.dead && h.frozen == nil {
		h.frozen = make(chan struct{})
	}
}

// Thaw ends a Freeze.
func (h *Host) Thaw() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.frozen != nil {
		close(h.frozen)
		h.frozen = nil
	}
}

// Refuse cuts the host's connections to an address and refuses new ones, until Heal.
func (h *Host) Refuse(addr string) {
	h.mu.Lock()
	h.link(addr).refused = true
	var cut []*netConn
	for c := range h.conns {
		if c.near && c.addr == addr {
			cut = append(cut, c)
		}
	}
	h.mu.Unlock()
	for _, c := range cut {
		c.reset()
	}
}

// Darken lets nothing pass between the host and an address until Heal, and tells neither. What is written meanwhile arrives afterwards.
func (h *Host) Darken(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.link(addr).dark = true
}

// Delay has everything between the host and an address take so long, each way.
func (h *Host) Delay(addr string, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.link(addr).latency = d
}

// Heal ends Refuse and Darken.
func (h *Host) Heal(addr string) {
	h.mu.Lock()
	l := h.link(addr)
	l.refused, l.dark = false, false
	var conns []*netConn
	for c := range h.conns {
		if c.addr == addr {
			conns = append(conns, c)
		}
	}
	h.mu.Unlock()
	for _, c := range conns {
		c.r.poke()
		c.w.poke()
	}
}

// Requests has fate asked about every Kafka request that the host sends; nil: all pass.
func (h *Host) Requests(fate func(addr string, api int16) Fate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = fate
}

// Fuse has burn called when the host makes its n-th write from now on, before it goes out: a death at an enumerated position.
func (h *Host) Fuse(n int, burn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fuse, h.burn = n, burn
}

// burned counts a write.
func (h *Host) burned() {
	h.mu.Lock()
	var burn func()
	if h.fuse > 0 {
		if h.fuse--; h.fuse == 0 {
			burn = h.burn
		}
	}
	h.mu.Unlock()
	if burn != nil {
		burn()
	}
}

// Conns is how many connections the host has.
func (h *Host) Conns() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if c.near {
			n++
		}
	}
	return n
}

// way is how the link stands now.
func (h *Host) way(addr string) (frozen chan struct{}, dead, dark bool, latency time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.link(addr)
	return h.frozen, h.dead, l.dark, l.latency
}

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	chunks  []chunk
	size    int
	ended   bool  // the writer has closed: what is there can be read, then EOF
	err     error // the connection was reset: both sides get this
	changed chan struct{}
}

type chunk struct {
	at time.Time // when it arrives
	b  []byte
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// poke has whoever waits look again.
func (s *stream) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
}

func (s *stream) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		s.wake()
	}
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.chunks, s.size = nil, 0
		s.wake()
	}
}

// netConn is one end of a connection; near is the host's.
type netConn struct {
	h             *Host
	addr          string
	near          bool
	r, w          *stream
	local, remote pipeAddr

	mu      sync.Mutex
	closed  bool
	readBy  time.Time
	writeBy time.Time
	frame   frameReader // of what the near end writes to a broker
	losing  bool        // the answer that comes next is lost
}

func (c *netConn) LocalAddr() net.Addr  { return c.local }
func (c *netConn) RemoteAddr() net.Addr { return c.remote }

func (c *netConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *netConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.readBy = t
	c.mu.Unlock()
	c.r.poke()
	return nil
}

func (c *netConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.writeBy = t
	c.mu.Unlock()
	c.w.poke()
	return nil
}

func (c *netConn) state() (closed, losing bool, readBy, writeBy time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed, c.losing, c.readBy, c.writeBy
}

// thawed waits until the near end may do something: a stopped process does nothing, and looks at no deadline.
func (c *netConn) thawed() {
	for c.near {
		frozen, _, _, _ := c.h.way(c.addr)
		if frozen == nil {
			return
		}
		<-frozen
	}
}

// Read waits for bytes that have arrived.
func (c *netConn) Read(b []byte) (int, error) {
	for {
		c.thawed()
		closed, losing, by, _ := c.state()
		frozen, _, dark, _ := c.h.way(c.addr)
		now := time.Now()
		c.r.mu.Lock()
		changed := c.r.changed
		var until time.Time
		switch {
		case closed:
			c.r.mu.Unlock()
			return 0, net.ErrClosed
		case !by.IsZero() && !by.After(now):
			c.r.mu.Unlock()
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		case c.r.err != nil:
			err := c.r.err
			c.r.mu.Unlock()
			return 0, c.failed("read", err)
		case c.near && frozen != nil:
			c.r.mu.Unlock()
			continue
		case dark:
		case len(c.r.chunks) > 0 && !c.r.chunks[0].at.After(now):
			if losing {
				c.r.mu.Unlock()
				c.reset()
				return 0, c.failed("read", syscall.ECONNRESET)
			}
			n := c.r.take(b, now)
			c.r.mu.Unlock()
			return n, nil
		case len(c.r.chunks) > 0:
			until = c.r.chunks[0].at
		case c.r.ended:
			c.r.mu.Unlock()
			return 0, io.EOF
		}
		c.r.mu.Unlock()
		await(changed, until, by)
	}
}

// take moves what has arrived to b.
func (s *stream) take(b []byte, now time.Time) (n int) {
	for n < len(b) && len(s.chunks) > 0 && !s.chunks[0].at.After(now) {
		m := copy(b[n:], s.chunks[0].b)
		n += m
		if s.chunks[0].b = s.chunks[0].b[m:]; len(s.chunks[0].b) == 0 {
			s.chunks = s.chunks[1:]
		}
	}
	full := s.size >= streamRoom
	s.size -= n
	if full {
		s.wake()
	}
	return n
}

// await waits for a change, or for the earlier of two times (zero: none).
func await(changed chan struct{}, a, b time.Time) {
	at := a
	if at.IsZero() || !b.IsZero() && b.Before(at) {
		at = b
	}
	if at.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// Write puts bytes on their way.
func (c *netConn) Write(b []byte) (int, error) {
	if c.near {
		c.h.burned()
	}
	c.thawed()
	if c.near && c.requested(b) == Swallow {
		c.reset()
		return 0, c.failed("write", syscall.EPIPE)
	}
	for {
		c.thawed()
		closed, _, _, by := c.state()
		_, _, _, latency := c.h.way(c.addr)
		now := time.Now()
		c.w.mu.Lock()
		changed := c.w.changed
		switch {
		case closed:
			c.w.mu.Unlock()
			return 0, net.ErrClosed
		case !by.IsZero() && !by.After(now):
			c.w.mu.Unlock()
			return 0, c.failed("write", os.ErrDeadlineExceeded)
		case c.w.err != nil || c.w.ended:
			c.w.mu.Unlock()
			return 0, c.failed("write", syscall.EPIPE)
		case c.w.size < streamRoom:
			at := now.Add(latency)
			if k := len(c.w.chunks); k > 0 && c.w.chunks[k-1].at.After(at) {
				at = c.w.chunks[k-1].at
			}
			c.w.chunks = append(c.w.chunks, chunk{at, append([]byte(nil), b...)})
			c.w.size += len(b)
			c.w.wake()
			c.w.mu.Unlock()
			return len(b), nil
		}
		c.w.mu.Unlock()
		await(changed, time.Time{}, by)
	}
}

// requested asks about the fate of a request that begins in b.
func (c *netConn) requested(b []byte) (fate Fate) {
	c.h.mu.Lock()
	decide := c.h.requests
	c.h.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, api := range c.frame.apis(b) {
		if decide == nil {
			continue
		}
		switch decide(c.addr, api) {
		case Swallow:
			return Swallow
		case LoseAnswer:
			c.losing = true
		}
	}
	return Pass
}

func (c *netConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: c.remote, Err: err}
}

// reset ends the connection for both sides at once.
func (c *netConn) reset() {
	c.r.fail(syscall.ECONNRESET)
	c.w.fail(syscall.ECONNRESET)
	c.forget()
}

// Reset closes the connection as a receiver does that will hear no more: the other side gets a reset.
func (c *netConn) Reset() { c.reset() }

// Close ends the connection; what was written before still arrives. The other side may write on, to nobody.
func (c *netConn) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	c.w.end()
	c.r.poke()
	c.r.end()
	c.forget()
	return nil
}

func (c *netConn) forget() {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	delete(c.h.conns, c)
}

// frameReader follows Kafka's frames in what is written: a length, then the number of the request's kind.
type frameReader struct {
	head []byte
	left int
}

// apis are the kinds of the requests whose heads are complete with b.
func (f *frameReader) apis(b []byte) (out []int16) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, len(b))
			f.left -= n
			b = b[n:]
			continue
		}
		n := min(6-len(f.head), len(b))
		f.head = append(f.head, b[:n]...)
		if b = b[n:]; len(f.head) == 6 {
			f.left = int(f.head[0])<<24 | int(f.head[1])<<16 | int(f.head[2])<<8 | int(f.head[3])
			f.left = max(0, f.left-2)
			out = append(out, int16(f.head[4])<<8|int16(f.head[5]))
			f.head = f.head[:0]
		}
	}
	return out
}

// String names the host.
func (h *Host) String() string { return fmt.Sprintf("host %s", h.name) }
