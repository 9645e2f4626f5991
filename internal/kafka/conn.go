package kafka

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

const (
	dialTimeout    = 3 * time.Second
	requestTimeout = 8 * time.Second // of an ordinary request: longer than the 5 s that the broker itself is told to wait
	idleTimeout    = time.Minute     // an older idle connection is not used again: brokers and firewalls drop them silently
	answerPiece    = 256 << 10       // bytes of an answer that must come within a requestTimeout
	maxAnswer      = 256 << 20       // bytes of any answer: a length beyond it is not Kafka talking
)

// conn is a connection to one broker, for one request at a time.
type conn struct {
	net.Conn
	addr string
	pool *pool
	pc   *protocol.Conn // kafka-go's requests and answers
	br   *bufio.Reader  // our own fetch; pc leaves nothing unread between requests, so the two never disturb each other
	cid  uint32
	used time.Time // when it was last put back
	// spent: ctx ended beside the last answer, so it must not be used again.
	spent bool
}

// dial opens a connection: TCP, TLS, which versions of the protocol there are, SASL.
func (c *Client) dial(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := c.dialNet(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial broker %s: %w", addr, err)
	}
	k := &conn{Conn: nc, addr: addr, pool: &c.conns}
	// A broker that accepts and then says nothing must not hold us longer than the dial may take.
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := k.handshake(ctx, c); err != nil {
		nc.Close()
		return nil, fmt.Errorf("broker %s: %w", addr, err)
	}
	if !stop() {
		nc.Close()
		return nil, fmt.Errorf("dial broker %s: %w", addr, context.Cause(ctx))
	}
	return k, nil
}

func (k *conn) handshake(ctx context.Context, c *Client) error {
	host, portText, err := net.SplitHostPort(k.addr)
	if err != nil {
		return err
	}
	if c.tls != nil {
		cfg := c.tls
		if cfg.ServerName == "" {
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		t := tls.Client(k.Conn, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w (does this port speak TLS, and is ca_file the broker's?)", err)
		}
		k.Conn = t
	}
	k.pc = protocol.NewConn(k.Conn, c.clientID)
	k.br = bufio.NewReaderSize(k.Conn, 4096)
	m, err := k.pc.RoundTrip(new(apiversions.Request))
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("closed the connection at the first request: %w (is TLS missing?)", err)
		}
		return err
	}
	r := m.(*apiversions.Response)
	if r.ErrorCode != 0 {
		return kgo.Error(r.ErrorCode)
	}
	versions := make(map[protocol.ApiKey]int16, len(r.ApiKeys))
	for _, v := range r.ApiKeys {
		key := protocol.ApiKey(v.ApiKey)
		versions[key] = key.SelectVersion(v.MinVersion, v.MaxVersion)
		if key == protocol.Fetch && (v.MinVersion > fetchVersion || v.MaxVersion < fetchVersion) {
			return fmt.Errorf("speaks Fetch v%d to v%d, and we need v%d", v.MinVersion, v.MaxVersion, fetchVersion)
		}
	}
	k.pc.SetVersions(versions)
	if c.sasl == nil {
		return nil
	}
	port, _ := strconv.Atoi(portText)
	if err := k.authenticate(sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: port}), c.sasl); err != nil {
		return fmt.Errorf("SASL %s: %w", c.sasl.Name(), err)
	}
	return nil
}

func (k *conn) authenticate(ctx context.Context, mechanism sasl.Mechanism) error {
	m, err := k.pc.RoundTrip(&saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return err
	}
	if code := m.(*saslhandshake.Response).ErrorCode; code != 0 {
		return kgo.Error(code)
	}
	session, state, err := mechanism.Start(ctx)
	for done := false; err == nil && !done; {
		if m, err = k.pc.RoundTrip(&saslauthenticate.Request{AuthBytes: state}); err != nil {
			return err
		}
		r := m.(*saslauthenticate.Response)
		if r.ErrorCode != 0 {
			return fmt.Errorf("%w: %s", kgo.Error(r.ErrorCode), r.ErrorMessage)
		}
		done, state, err = session.Next(ctx, r.AuthBytes)
	}
	return err
}

// roundTrip sends one of kafka-go's requests. After an error the connection must be closed: an answer may still be on its way.
func (k *conn) roundTrip(ctx context.Context, req protocol.Message, timeout time.Duration) (protocol.Message, error) {
	deadline := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	k.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { k.SetDeadline(time.Unix(1, 0)) })
	m, err := k.pc.RoundTrip(req)
	k.spent = !stop() // that function may still run, and would end the next request
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return m, err
}

// exchange writes a request that stands in w behind four bytes for its length, and reads the answer behind its length.
// The answer must begin within wait; its body, once it comes, may take as long as it likes if only it goes on coming: a line that falls silent in the
// middle of it must not hold the partitions for longer than any other. alloc gives the buffer to read into.
func (k *conn) exchange(w []byte, wait time.Duration, alloc func(n int) []byte) ([]byte, error) {
	binary.BigEndian.PutUint32(w, uint32(len(w)-4))
	if err := k.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if _, err := k.Write(w); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(k.br, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 4 || n > maxAnswer {
		return nil, fmt.Errorf("answer of %d bytes from %s: is this a Kafka broker?", n, k.addr)
	}
	b := alloc(int(n))
	for rest := b; len(rest) > 0; {
		piece := rest[:min(len(rest), answerPiece)]
		if err := k.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(k.br, piece); err != nil {
			return nil, err
		}
		rest = rest[len(piece):]
	}
	if got := binary.BigEndian.Uint32(b); got != k.cid {
		return nil, fmt.Errorf("answer %d to request %d from %s", got, k.cid, k.addr)
	}
	return b, nil
}

// pool keeps idle connections by address, the last used on top. It starts nothing: stale ones are dropped when met.
type pool struct {
	mu     sync.Mutex
	idle   map[string][]*conn
	held   map[*conn]bool // by fetch loops, in a long poll or between two
	closed bool
}

func (p *pool) get(addr string) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[addr]
	for len(list) > 0 {
		k := list[len(list)-1]
		list[len(list)-1] = nil
		list = list[:len(list)-1]
		if time.Since(k.used) < idleTimeout {
			p.idle[addr] = list
			return k
		}
		k.Conn.Close()
	}
	p.idle[addr] = list
	return nil
}

func (p *pool) put(k *conn) {
	k.used = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, k)
	if p.closed || k.spent || len(p.idle[k.addr]) >= 8 {
		k.Conn.Close()
		return
	}
	p.idle[k.addr] = append(p.idle[k.addr], k)
}

// hold notes that a fetch loop keeps a connection, until that is put back or closed.
func (p *pool) hold(k *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[k] = true
}

func (p *pool) letGo(k *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, k)
}

// Close closes the connection. Not for who holds the pool's mutex.
func (k *conn) Close() error {
	k.pool.letGo(k)
	return k.Conn.Close()
}

// failed deals with what the failure of a request says of the other connections to that broker. One that was not answered in time speaks against those
// of the fetch loops too: each would otherwise cost a time-out of its own, and one that polls seldom or rests begins to wait for it only when all is
// well again. What we closed ourselves says nothing.
func (p *pool) failed(addr string, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) {
		return
	}
	p.forget(addr)
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.held {
		if k.addr == addr {
			k.Conn.Close()
			delete(p.held, k)
		}
	}
}

// forget closes the idle connections to a broker, after a request over another one has failed. What cut or silenced that one (a firewall that has
// forgotten us, a broker that was replaced) has done the same to them, and to try them one after the other would cost the time-out of a request each.
// Those too that were used while the request waited: they may have been silenced just after.
func (p *pool) forget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.idle[addr] {
		k.Conn.Close()
	}
	delete(p.idle, addr)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for addr, list := range p.idle {
		for _, k := range list {
			k.Conn.Close()
		}
		delete(p.idle, addr)
	}
}

// grab takes an idle connection to the broker at addr, or dials.
func (c *Client) grab(ctx context.Context, addr string) (*conn, error) {
	if k := c.conns.get(addr); k != nil {
		return k, nil
	}
	return c.dial(ctx, addr)
}

// askOn sends a request over a connection that was grabbed, and gives it back.
func (c *Client) askOn(ctx context.Context, k *conn, req protocol.Message, timeout time.Duration) (protocol.Message, error) {
	m, err := k.roundTrip(ctx, req, timeout)
	if err != nil {
		k.Close()
		c.conns.failed(k.addr, err)
		return nil, fmt.Errorf("broker %s: %w", k.addr, err)
	}
	c.conns.put(k)
	return m, nil
}

// ask sends a request to the broker at addr.
func (c *Client) ask(ctx context.Context, addr string, req protocol.Message, timeout time.Duration) (protocol.Message, error) {
	k, err := c.grab(ctx, addr)
	if err != nil {
		return nil, err
	}
	return c.askOn(ctx, k, req, timeout)
}
