package kafka_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// apiProduce and apiFetch are the numbers of requests in their heads.
const (
	apiProduce = 0
	apiFetch   = 1
)

// cutter dials connections on which the answers to chosen requests get lost: the broker has answered, but the client only sees the end
// of the connection.
type cutter struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	lose func(api int16) bool // asked for each request
	// deafTo: a produce request is swallowed, and the connection cut.
	deafTo atomic.Bool
	lost   atomic.Int64
	seen   sync.Map // api -> *atomic.Int64: requests of each kind
}

func (c *cutter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: nc, c: c}, nil
}

func (c *cutter) count(api int16) int64 {
	if n, ok := c.seen.Load(api); ok {
		return n.(*atomic.Int64).Load()
	}
	return 0
}

type cutConn struct {
	net.Conn
	c    *cutter
	left int // bytes of the present request still to be written
	head []byte
	lose bool
	deaf bool // what deafTo said when the request began
}

// Write follows the frames: a length, then the api key.
func (k *cutConn) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		if k.left == 0 {
			n := min(6-len(k.head), len(rest))
			k.head = append(k.head, rest[:n]...)
			rest = rest[n:]
			if len(k.head) < 6 {
				break
			}
			k.left = int(binary.BigEndian.Uint32(k.head)) - 2
			api := int16(binary.BigEndian.Uint16(k.head[4:]))
			k.head = k.head[:0]
			n64, _ := k.c.seen.LoadOrStore(api, new(atomic.Int64))
			n64.(*atomic.Int64).Add(1)
			k.deaf = k.c.deafTo.Load() // before it is asked: what lose does may let the test go on, and change it
			k.lose = k.c.lose != nil && k.c.lose(api)
		}
		n := min(k.left, len(rest))
		k.left -= n
		rest = rest[n:]
	}
	if k.lose && k.deaf {
		k.Conn.Close()
		return len(b), nil
	}
	return k.Conn.Write(b)
}

func (k *cutConn) Read(b []byte) (int, error) {
	n, err := k.Conn.Read(b)
	if k.lose && err == nil { // the answer is there, so the broker has done its work
		k.c.lost.Add(1)
		k.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
