package kafka_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// forgetful is a way to a broker that can forget its connections, as a firewall does: what is sent over them vanishes, and nobody says so.
type forgetful struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	era  atomic.Int64
}

func (f *forgetful) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := f.dial(ctx, network, addr)
	return &forgottenConn{Conn: c, f: f, era: f.era.Load()}, err
}

// forget makes all connections dead that are open now.
func (f *forgetful) forget() { f.era.Add(1) }

type forgottenConn struct {
	net.Conn
	f   *forgetful
	era int64
}

func (c *forgottenConn) Write(b []byte) (int, error) {
	if c.f.era.Load() != c.era {
		return len(b), nil
	}
	time.Sleep(time.Millisecond) // virtual: requests that begin together are under way together
	return c.Conn.Write(b)
}

// TestForgottenConnectionsCostOneTimeout: the pool held eight connections to a broker, and after a silence each of them cost its time-out, one after
// the other, before anybody dialled.
func TestForgottenConnectionsCostOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memoryWorld(t, sandbox.BrokerConfig{Virtual: true})
		way := &forgetful{dial: w.dial}
		cl := w.open(w.config(), kafka.Options{Dial: way.Dial})
		defer cl.Close()
		if _, err := cl.CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 { // at once, so that each has a connection of its own
			wg.Go(func() {
				if _, err := cl.Offsets(t.Context(), cl.Topics().Retry, kafka.Latest); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		way.forget()
		began := time.Now()
		if _, err := cl.Offsets(t.Context(), cl.Topics().Retry, kafka.Latest); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 9*time.Second {
			t.Errorf("it took %v, and one request may take 8 s", d)
		}
	})
}

// TestALongPollOverAForgottenConnectionEndsWithTheFirstTimeout: whoever polls for half a minute learned after half a minute and the time-out of a
// request that its connection was dead, though every other request of the process had failed long before. Tiers are polled so.
func TestALongPollOverAForgottenConnectionEndsWithTheFirstTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memoryWorld(t, sandbox.BrokerConfig{Virtual: true})
		way := &forgetful{dial: w.dial}
		c := w.config()
		cl := w.open(c, kafka.Options{Dial: way.Dial})
		defer cl.Close()
		if _, err := cl.CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		other := w.open(c, kafka.Options{})
		defer other.Close()
		tp := kafka.TP{Topic: cl.Topics().Retry}
		f := cl.NewFetcher(kafka.FetchConfig{MaxWait: 30 * time.Second})
		f.Assign(map[kafka.TP]int64{tp: 0})
		ctx, stop := context.WithCancel(t.Context())
		came, ended := make(chan time.Time, 1), make(chan struct{})
		go func() {
			defer close(ended)
			f.Run(ctx, func(context.Context, []kafka.Batch) error { came <- time.Now(); return nil })
		}()
		time.Sleep(time.Second) // virtual: the poll is under way
		way.forget()
		began := time.Now()
		var r kafka.Records
		r.Add(tp, nil, nil, []byte("v"))
		if _, err := other.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Offsets(t.Context(), tp.Topic, kafka.Latest); err != nil { // any request: it finds out
			t.Fatal(err)
		}
		if d := (<-came).Sub(began); d > 10*time.Second {
			t.Errorf("the record came after %v", d)
		}
		stop()
		<-ended
	})
}

// hasty is a way to a broker on which a deadline takes a moment to be set, and a caller gives up as his request goes out.
type hasty struct {
	net.Conn
	giveUp func()
	cut    *atomic.Int64
}

func (c *hasty) Write(b []byte) (int, error) {
	time.Sleep(2 * time.Millisecond) // virtual
	n, err := c.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.cut.Add(1)
	}
	c.giveUp()
	return n, err
}

func (c *hasty) SetDeadline(t time.Time) error {
	if t.Before(time.Now()) {
		time.Sleep(time.Millisecond) // virtual
	}
	return c.Conn.SetDeadline(t)
}

// TestAnEndBesideTheAnswerDoesNotCutTheNextRequest: a caller's context ended just as his answer came, and the deadline that this set fell upon whoever had the
// connection next.
func TestAnEndBesideTheAnswerDoesNotCutTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memoryWorld(t, sandbox.BrokerConfig{Virtual: true})
		var cut atomic.Int64
		giveUp := func() {}
		cl := w.open(w.config(), kafka.Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := w.dial(ctx, network, addr)
			return &hasty{c, func() { giveUp() }, &cut}, err
		}})
		defer cl.Close()
		if _, err := cl.CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Offsets(t.Context(), cl.Topics().Retry, kafka.Latest); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		giveUp = cancel
		if _, err := cl.Offsets(ctx, cl.Topics().Retry, kafka.Latest); err != nil {
			t.Fatal("the answer came, and was not taken:", err)
		}
		giveUp = func() {}
		if _, err := cl.Offsets(t.Context(), cl.Topics().Retry, kafka.Latest); err != nil || cut.Load() > 0 {
			t.Errorf("%d requests were cut, error %v", cut.Load(), err)
		}
	})
}
