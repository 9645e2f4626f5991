package sandbox

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// pipes is a listener whose connections are pipes in memory. A pipe has no buffer: who writes waits for who reads, which is what a full kernel buffer
// does too.
type pipes struct {
	addr   pipeAddr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

type pipeAddr string

func (pipeAddr) Network() string  { return "tcp" }
func (a pipeAddr) String() string { return string(a) }

func listenPipes(addr string) *pipes {
	return &pipes{addr: pipeAddr(addr), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for the next connection.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close refuses connections from now on.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is what the listener is called.
func (p *pipes) Addr() net.Addr { return p.addr }

// dial connects to the listener, whatever the address.
func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return named{ours, p.addr}, nil
	case <-p.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: p.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: p.addr, Err: ctx.Err()}
	}
}

// named is a pipe that knows whom it leads to, as a connection over TCP does.
type named struct {
	net.Conn
	remote net.Addr
}

func (n named) RemoteAddr() net.Addr { return n.remote }
