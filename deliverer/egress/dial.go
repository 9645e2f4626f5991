package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	// lookupWait bounds one lookup: a resolver that takes longer is in trouble, and the deadline of the attempt is needed for the rest.
	lookupWait = 3 * time.Second
	// maxAddrs bounds how many addresses of one name are dialled: a name with more is hostile or a mistake, and each may cost a time-out.
	maxAddrs = 16
	// minTry is the least time that one of several addresses gets; a shorter one fails on a far continent.
	minTry = 2 * time.Second
)

// Kind says what a failed dial was. The list is closed.
type Kind string

const (
	KindBlocked Kind = "blocked" // an address that may not be reached
	KindDNS     Kind = "dns"     // the name does not exist, or has no address
	KindLocal   Kind = "local"   // our own trouble: resolver, ports, descriptors, route, forward proxy
	KindRefused Kind = "refused" // nobody listens, or no way leads there
	KindReset   Kind = "reset"   // the connection broke while it was made
	KindTimeout Kind = "timeout" // no answer by the deadline
)

// A DialError is why DialContext has no connection. Its text names addresses: it is for the operator's log, never for the owner of a subscription.
type DialError struct {
	Kind Kind
	Addr string // the literal that was dialled last, host:port; empty if none was
	Err  error
}

func (e *DialError) Error() string {
	if e.Addr == "" {
		return string(e.Kind) + ": " + e.Err.Error()
	}
	return string(e.Kind) + ": " + e.Addr + ": " + e.Err.Error()
}

func (e *DialError) Unwrap() error { return e.Err }

// Timeout makes a DialError a net.Error's equal for those who ask.
func (e *DialError) Timeout() bool { return e.Kind == KindTimeout }

// DialContext connects to host:port, like net.Dialer.DialContext, if every address of the host may be reached; it dials those addresses and never the
// name. The connection's RemoteAddr is the address of the receiver, through a forward proxy too. Errors are *DialError.
func (p *Policy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &DialError{Kind: KindBlocked, Err: fmt.Errorf("%q is not host:port", addr)}
	}
	addrs, err := p.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if code, ok := p.CheckAddr(a); !ok {
			return nil, &DialError{Kind: KindBlocked, Err: fmt.Errorf("%s resolves to %s: %w", host, a, refuse(code, code))}
		}
	}
	return p.dialFirst(ctx, network, addrs[:min(len(addrs), maxAddrs)], port)
}

// resolve returns the addresses of a host, at least one, unmapped and unchecked.
func (p *Policy) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	lookup := p.cfg.Lookup
	if lookup == nil {
		lookup = lookupHost
	}
	addrs, err := lookup(ctx, host)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, &DialError{Kind: KindDNS, Err: err}
	case err != nil: // SERVFAIL, no answer, no resolver: whose fault it is cannot be told from here, so it is ours
		return nil, &DialError{Kind: KindLocal, Err: err}
	case len(addrs) == 0:
		return nil, &DialError{Kind: KindDNS, Err: fmt.Errorf("%s has no address", host)}
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, nil
}

// lookupHost asks Go's own resolver (the C library's may have plug-ins that answer for local names) for the complete name: the trailing dot keeps the
// search domains of resolv.conf out, which inside a cluster turn hook.example into hook.example.default.svc.cluster.local.
func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", host+".")
}

// dialFirst tries the addresses in order, each with its share of the time that is left, and returns the first connection.
func (p *Policy) dialFirst(ctx context.Context, network string, addrs []netip.Addr, port string) (net.Conn, error) {
	var first *DialError
	for i, a := range addrs {
		literal := net.JoinHostPort(a.String(), port)
		tryCtx, cancel := share(ctx, len(addrs)-i)
		c, err := p.dialLiteral(tryCtx, network, literal)
		cancel()
		if err == nil {
			return c, nil
		}
		de := p.dialError(ctx, err, literal, a)
		if first == nil || unreachable(first.Err) {
			first = de // what a receiver says outweighs that no route leads to its other address
		}
		if ctx.Err() != nil || de.Kind == KindLocal && !unreachable(err) || de.Kind == KindBlocked {
			return nil, de
		}
	}
	return nil, first
}

// share gives one of n addresses its part of the time until the deadline.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n <= 1 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, max(time.Until(deadline)/time.Duration(n), minTry))
}

func (p *Policy) dialLiteral(ctx context.Context, network, literal string) (net.Conn, error) {
	if p.cfg.ForwardProxy != "" {
		return p.dialThroughProxy(ctx, network, literal)
	}
	if p.cfg.Dial != nil {
		return p.cfg.Dial(ctx, network, literal)
	}
	d := net.Dialer{ControlContext: p.control}
	return d.DialContext(ctx, network, literal)
}

// control is the third layer: the kernel is about to connect to this very address.
func (p *Policy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return refuse(CodeAddrInvalid, "the dialer was given no address")
	}
	if code, ok := p.CheckAddr(ap.Addr()); !ok {
		return refuse(code, code)
	}
	return nil
}

// dialError classifies by the error's type and number, never by its text.
func (p *Policy) dialError(ctx context.Context, err error, literal string, a netip.Addr) *DialError {
	var already *DialError
	if errors.As(err, &already) {
		return already
	}
	return &DialError{Kind: kindOf(ctx, err, a), Addr: literal, Err: err}
}

// localErrnos are failures of this host: a port, a descriptor, memory, a firewall rule of our own.
var localErrnos = []syscall.Errno{
	syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EACCES,
	syscall.ENETDOWN, syscall.EAGAIN,
}

func kindOf(ctx context.Context, err error, a netip.Addr) Kind {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return KindBlocked
	}
	if errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled) {
		return KindLocal // we are stopping
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return KindTimeout
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EPIPE) {
		return KindReset
	}
	if errors.Is(err, syscall.ENETUNREACH) && a.Is4() {
		return KindLocal // without a route for IPv4 nothing at all can be reached; without one for IPv6 most things can
	}
	for _, errno := range localErrnos {
		if errors.Is(err, errno) {
			return KindLocal
		}
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return KindTimeout
	}
	return KindRefused
}

func unreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}

// KindOf classifies an error of a dialler that is not ours.
func KindOf(err error) Kind {
	var de *DialError
	if errors.As(err, &de) {
		return de.Kind
	}
	return kindOf(context.Background(), err, netip.Addr{})
}
