package deliverer

import (
	"context"
	"errors"
	"math"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer/egress"
)

// connections bounds how many connections to receivers are open at once. Each is a descriptor, and so are those to Kafka and Redis: where receivers take the last
// one, nothing that was sent can be written down, and a successor sends it again.
type connections struct {
	most    int64
	open    atomic.Int64
	waiting atomic.Int64
	room    chan struct{} // capacity 1: perhaps there is some, for one who waits
	evict   func() bool   // closes one that is idle; false: there is none
	log     *zap.Logger
	said    atomic.Int64 // Unix seconds
}

const (
	ownShare   = 256         // descriptors that are left for all else; of a low limit three quarters
	roomWithin = time.Second // after that a task waits in a tier
	sayAgain   = time.Minute // when there are too few for the receivers
)

var errNoDescriptor = errors.New("as many connections to receivers are open as this process may have (ulimit -n)")

// mostConnections is how many descriptors receivers may have.
func mostConnections() int64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return math.MaxInt64
	}
	n := int64(min(l.Cur, math.MaxInt32))
	return n - min(n*3/4, ownShare)
}

// dial connects by way of next. Where no descriptor is left it closes an idle connection first, of whichever receiver, or waits a moment for one.
func (c *connections) dial(next dialler) dialler {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !c.take() && !c.await(ctx) {
			c.say()
			return nil, &egress.DialError{Kind: egress.KindLocal, Err: errNoDescriptor}
		}
		nc, err := next(ctx, network, addr)
		if err != nil {
			c.gone()
			return nil, err
		}
		k := &countedConn{Conn: nc, of: c}
		if sc, ok := nc.(syscall.Conn); ok {
			return &countedSocket{k, sc}, nil
		}
		return k, nil
	}
}

// await takes a place as soon as there is one.
func (c *connections) await(ctx context.Context) bool {
	c.waiting.Add(1)
	defer c.freed() // there may be room for the next one as well
	defer c.waiting.Add(-1)
	late := time.NewTimer(roomWithin)
	defer late.Stop()
	for !c.take() {
		if c.evict() {
			continue
		}
		select {
		case <-c.room:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// freed tells one who waits that a connection was closed, or is idle.
func (c *connections) freed() {
	if c.waiting.Load() > 0 {
		poke(c.room)
	}
}

func (c *connections) gone() {
	c.open.Add(-1)
	c.freed()
}

func (c *connections) take() bool {
	for {
		n := c.open.Load()
		if n >= c.most {
			return false
		}
		if c.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (c *connections) say() {
	now := time.Now().Unix()
	if said := c.said.Load(); now-said >= int64(sayAgain/time.Second) && c.said.CompareAndSwap(said, now) {
		c.log.Warn("receivers have all the connections that this process may have, and some tasks wait: raise its limit of descriptors (ulimit -n), or add deliverers",
			zap.Int64("connections", c.most))
	}
}

type dialler = func(ctx context.Context, network, addr string) (net.Conn, error)

type countedConn struct {
	net.Conn
	of     *connections
	closed atomic.Bool
}

func (k *countedConn) Close() error {
	if k.closed.CompareAndSwap(false, true) {
		defer k.of.gone()
	}
	return k.Conn.Close()
}

// countedSocket is one that the kernel can be asked about.
type countedSocket struct {
	*countedConn
	syscall.Conn
}
