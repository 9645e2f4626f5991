package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxProxyHead bounds the forward proxy's answer to CONNECT.
const maxProxyHead = 8 << 10

// proxyWell is for how long after an answer the forward proxy is taken to be well: while it answers others, who keeps it waiting is the receiver.
const proxyWell = time.Minute

// dialThroughProxy asks the operator's forward proxy for a tunnel to a checked literal, so that the proxy resolves nothing. The proxy itself is not
// checked: the operator named it, and it usually has a private address.
func (p *Policy) dialThroughProxy(ctx context.Context, network, literal string) (net.Conn, error) {
	dial := p.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	c, err := dial(ctx, network, p.cfg.ForwardProxy)
	if err != nil {
		return nil, &DialError{Kind: KindLocal, Addr: literal, Err: fmt.Errorf("forward proxy: %w", err)}
	}
	// The tunnel obeys the deadline, and a cancelled context ends it at once.
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	status, err := connect(c, literal)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	kind := proxyKind(status)
	switch {
	case err == nil:
		p.answered.Store(int64(time.Since(p.born)))
		if kind != "" {
			err = &DialError{Kind: kind, Addr: literal, Err: fmt.Errorf("forward proxy answered %d to CONNECT", status)}
		}
	case errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(ctx.Err(), context.Canceled) && p.proxyIsWell():
		err = &DialError{Kind: KindTimeout, Addr: literal, Err: fmt.Errorf("forward proxy: no answer to CONNECT: %w", err)}
	default:
		err = &DialError{Kind: KindLocal, Addr: literal, Err: fmt.Errorf("forward proxy: %w", err)}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return tunnel(c, literal), nil
}

func (p *Policy) proxyIsWell() bool {
	at := time.Duration(p.answered.Load())
	return at > 0 && time.Since(p.born)-at < proxyWell
}

// proxyKind is "" for a tunnel that stands.
func proxyKind(status int) Kind {
	switch {
	case status >= 200 && status <= 299:
		return ""
	case status == 403:
		return KindBlocked // the proxy has a policy of its own
	case status == 504:
		return KindTimeout
	case status == 502 || status == 503:
		return KindRefused
	}
	return KindLocal // 407 and whatever else a proxy that does not know us says
}

// connect writes the CONNECT request and reads the head of the answer byte by byte: what follows it belongs to the receiver.
func connect(c net.Conn, literal string) (status int, err error) {
	if _, err = c.Write([]byte("CONNECT " + literal + " HTTP/1.1\r\nHost: " + literal + "\r\n\r\n")); err != nil {
		return 0, err
	}
	var head strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		if head.Len() >= maxProxyHead {
			return 0, errors.New("answer to CONNECT without end")
		}
		if _, err = c.Read(one); err != nil {
			return 0, err
		}
		head.WriteByte(one[0])
	}
	line := head.String()
	if len(line) < 13 || !strings.HasPrefix(line, "HTTP/1.") || line[8] != ' ' {
		return 0, errors.New("no HTTP answer to CONNECT (is forward_proxy an HTTP proxy?)")
	}
	if status, err = strconv.Atoi(line[9:12]); err != nil {
		return 0, errors.New("no status in the answer to CONNECT")
	}
	return status, nil
}

// tunnel gives a connection through the proxy the receiver's address; a TCP connection stays one, so that its idle state can still be peeked at.
func tunnel(c net.Conn, literal string) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		return tcpTunnel{tcp, literalAddr(literal)}
	}
	return anyTunnel{c, literalAddr(literal)}
}

type literalAddr string

func (a literalAddr) Network() string { return "tcp" }
func (a literalAddr) String() string  { return string(a) }

type tcpTunnel struct {
	*net.TCPConn
	remote literalAddr
}

func (t tcpTunnel) RemoteAddr() net.Addr { return t.remote }

type anyTunnel struct {
	net.Conn
	remote literalAddr
}

func (t anyTunnel) RemoteAddr() net.Addr { return t.remote }
