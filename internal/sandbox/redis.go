package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// RedisConfig says what kind of Redis to start.
type RedisConfig struct {
	Virtual bool     // over pipes; then Redis.Dial must be used to reach it
	Network *Network // where it listens; nil: as Virtual says. Stop has no effect on it: cut its hosts off
	Ageless bool     // nothing expires: else each moment of virtual time goes through all keys, of which long tests have many
}

// Redis is a Redis in memory. What is in it expires by the clock, virtual or, within ageEach, real.
type Redis struct {
	Addr string
	// Dial reaches it over a pipe; nil if it listens on real TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mini *miniredis.Miniredis

	mu      sync.Mutex
	stopped bool
	virtual bool

	stopAgeing context.CancelFunc
	ageing     sync.WaitGroup
}

// ageEach is how often what has expired is looked for. miniredis would do it before each command, and goes through all keys each time: with some
// thousand of them a batch of commands takes seconds. In virtual time it may: there most commands come at the same moment.
const ageEach = time.Second

// virtualRedis is what a virtual Redis is called; nothing listens there.
const virtualRedis = "127.0.0.1:6379"

// StartRedis starts a Redis that serves when it returns. Close ends it.
func StartRedis(c RedisConfig) (*Redis, error) {
	r := &Redis{mini: miniredis.NewMiniRedis(), virtual: c.Virtual, stopAgeing: func() {}}
	r.mini.ClockTTL(!c.Ageless && (c.Virtual || c.Network != nil))
	if c.Network != nil {
		first, err := r.mini.Dial() // starts a server without a listener
		if err != nil {
			return nil, err
		}
		first.Close()
		r.Addr, r.virtual = virtualRedis, true
		return r, c.Network.Serve(r.Addr, func(c net.Conn) { r.mini.Server().ServeConn(c) })
	}
	if c.Virtual {
		r.Addr, r.Dial = virtualRedis, r.dialPipe
		return r, nil
	}
	if err := r.mini.Start(); err != nil {
		return nil, fmt.Errorf("start the Redis in memory: %w", err)
	}
	r.Addr = r.mini.Addr()
	if !c.Ageless {
		ctx, cancel := context.WithCancel(context.Background())
		r.stopAgeing = cancel
		r.ageing.Go(func() { r.age(ctx) })
	}
	return r, nil
}

// age lets the keys grow older until ctx ends.
func (r *Redis) age(ctx context.Context) {
	tick := time.NewTicker(ageEach)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := time.Now()
			r.mini.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (r *Redis) dialPipe(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Under the lock: a connection must not come to a server that Stop is ending, or miniredis would start another one for it.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	}
	return r.mini.Dial()
}

// Stop cuts every connection and refuses new ones until Start. The data stays.
func (r *Redis) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.stopped = true
		r.mini.Close()
	}
}

// Start ends a Stop, at the same address.
func (r *Redis) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		return errors.New("the Redis in memory runs already")
	}
	if !r.virtual {
		if err := r.mini.Restart(); err != nil {
			return fmt.Errorf("start the Redis in memory again: %w", err)
		}
	}
	r.stopped = false
	return nil
}

// Flush empties it.
func (r *Redis) Flush() { r.mini.FlushAll() }

// Keys are the names of what is in it, sorted.
func (r *Redis) Keys() []string { return r.mini.Keys() }

// Close ends it. It may be called more than once.
func (r *Redis) Close() {
	r.Stop()
	r.stopAgeing()
	r.ageing.Wait()
}
