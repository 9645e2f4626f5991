package deliverer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// link is one connection to Redis with a budget and a breaker: a batch of commands goes out, its answers come back, or the batch does without.
//
//	do ── has the turn ── uses conn ─ or takes what dial has brought ─ or starts dial, waits for it within its budget
//	                              dial: one goroutine, ended by close
//
// After a failure the connection is closed, since nobody knows which answers are still on their way, and nothing is tried for a while: 100 ms, doubling
// to 2 s. So a Redis that is gone costs the senders one budget now and then, not one a batch.
//
// A budget that runs out does not say that Redis is gone: on a busy machine this process, or Redis, is not given the processor for as long, and the answer lies there.
// To go on without marks then is to send again what is marked. So a link that was well waits longer, once in a while.
type link struct {
	cfg    RedisConfig
	secure *tls.Config // nil: plain text
	log    *zap.Logger

	// held for a whole round trip, since answers come in order: a channel and not a mutex, so that virtual time passes for who waits for it
	turn chan struct{}

	conn    net.Conn
	replies replies
	out     []byte
	down    bool // logged as down
	wait    time.Duration
	retryAt time.Time
	dialled chan net.Conn // what dial brings, nil for a failure; nil while no dial is under way

	patientAt time.Time // when it last waited longer

	stop   context.Context
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

const (
	firstWait = 100 * time.Millisecond
	mostWait  = 2 * time.Second
	dialWait  = 2 * time.Second
	// A link that was well waits for patience more budgets, at most every patienceEach.
	patience     = 4
	patienceEach = 5 * time.Second
	// asyncWrite is the size from which a batch is written beside the reading of its answers: a proxy in between may stop taking commands while nobody
	// takes its answers. A connection without a kernel buffer (net.Pipe) needs it always.
	asyncWrite = 64 << 10
	// keepOut bounds the buffer that is kept for the next batch.
	keepOut = 4 << 20
)

var (
	errRedisWaiting = errors.New("redis failed a moment ago")
	errRedisDialing = errors.New("redis is being connected to")
	errRedisBudget  = errors.New("another batch used up the time")
)

func newLink(cfg RedisConfig, secure *tls.Config, log *zap.Logger) *link {
	l := &link{cfg: cfg, secure: secure, log: log, turn: make(chan struct{}, 1)}
	l.stop, l.cancel = context.WithCancel(context.Background())
	l.replies.br = bufio.NewReaderSize(nil, 32<<10)
	return l
}

func (l *link) close() {
	l.cancel()
	l.ended.Wait() // a dial that is under way ends by its context
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.disconnect()
	if l.dialled != nil {
		if c := <-l.dialled; c != nil {
			c.Close()
		}
		l.dialled = nil
	}
}

func (l *link) whileLocked(f func()) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	f()
}

// do writes what build appends and lets read take the answers, all within the budget from now on.
func (l *link) do(ctx context.Context, build func([]byte) (b []byte, commands int), read func(*replies) error) error {
	deadline := time.Now().Add(l.cfg.Budget)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if !time.Now().Before(deadline) {
		if l.conn == nil || ctx.Err() != nil {
			return errRedisBudget // a queue of batches must not add up its waits; Redis itself is not to blame
		}
		deadline = time.Now().Add(l.cfg.Budget) // the one before was answered in the end: so may this one be
	}
	if err := l.connect(deadline); err != nil {
		return err
	}
	l.out, l.replies.left = build(l.out[:0])
	err := l.exchange(deadline, read)
	if cap(l.out) > keepOut {
		l.out = nil
	}
	l.settle(err)
	return err
}

// exchange is one round trip on the connection that stands.
func (l *link) exchange(deadline time.Time, read func(*replies) error) error {
	if err := l.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, kernel := l.conn.(syscall.Conn); kernel && len(l.out) < asyncWrite {
		if _, err := l.conn.Write(l.out); err != nil {
			return err
		}
		return read(&l.replies)
	}
	written := make(chan error, 1)
	go func(c net.Conn, b []byte) {
		_, err := c.Write(b)
		written <- err
	}(l.conn, l.out)
	err := read(&l.replies)
	if err != nil {
		l.conn.Close() // ends the writer too
	}
	if werr := <-written; err == nil {
		err = werr
	}
	return err
}

// settle draws the consequences of a round trip.
func (l *link) settle(err error) {
	if err == nil {
		l.wait = 0
		if l.down {
			l.down = false
			l.log.Info("redis answers again: marks are kept")
		}
		return
	}
	l.disconnect()
	l.wait = min(max(2*l.wait, firstWait), mostWait)
	l.retryAt = time.Now().Add(l.wait)
	if !l.down {
		l.down = true
		l.log.Warn("redis does not answer: sending goes on without marks, and a crash now would repeat sends", zap.Error(err))
	}
}

func (l *link) disconnect() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// connect makes sure that a connection stands. Only the batch that starts a dial waits for it; the others go on without Redis meanwhile.
func (l *link) connect(deadline time.Time) error {
	if l.conn != nil {
		return nil
	}
	if l.stop.Err() != nil {
		return l.stop.Err()
	}
	if l.dialled != nil {
		select {
		case c := <-l.dialled:
			return l.take(c)
		default:
			return errRedisDialing
		}
	}
	if time.Now().Before(l.retryAt) {
		return errRedisWaiting
	}
	l.dialled = make(chan net.Conn, 1)
	l.ended.Add(1)
	go l.dial(l.dialled)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case c := <-l.dialled:
		return l.take(c)
	case <-timer.C:
		return errRedisDialing
	}
}

// take adopts what dial has brought.
func (l *link) take(c net.Conn) error {
	l.dialled = nil
	if c == nil {
		err := errors.New("redis cannot be connected to (see the log above)")
		l.settle(err)
		return err
	}
	l.conn = c
	l.replies.br.Reset(patient{c, l})
	return nil
}

// patient is the reading side of a connection that may wait longer than its deadline says.
type patient struct {
	net.Conn
	l *link
}

func (p patient) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || p.l.wait != 0 || time.Since(p.l.patientAt) < patienceEach {
		return n, err
	}
	p.l.patientAt = time.Now()
	if err := p.SetReadDeadline(p.l.patientAt.Add(patience * p.l.cfg.Budget)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// dial connects, secures and logs in. It has more time than a batch, since a handshake takes several round trips.
func (l *link) dial(done chan<- net.Conn) {
	defer l.ended.Done()
	ctx, cancel := context.WithTimeout(l.stop, dialWait)
	defer cancel()
	c, err := l.open(ctx)
	if err != nil {
		l.log.Debug("redis dial failed", zap.Error(err))
		c = nil
	}
	done <- c
}

func (l *link) open(ctx context.Context) (net.Conn, error) {
	c, err := dialRedis(ctx, l.cfg)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if l.secure != nil {
		c = tls.Client(c, l.secure)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err = l.login(c)
	if !stop() && err == nil { // the deadline may still be set, when a batch is on its way
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// login sends AUTH and SELECT as far as they are needed, and PING, so that a Redis which refuses us is found here.
func (l *link) login(c net.Conn) error {
	var b []byte
	if password := l.cfg.Password.Reveal(); password != "" {
		if l.cfg.Username != "" {
			b = appendBulk(append(b, "*3\r\n$4\r\nAUTH\r\n"...), l.cfg.Username)
		} else {
			b = append(b, "*2\r\n$4\r\nAUTH\r\n"...)
		}
		b = appendBulk(b, password)
	}
	if l.cfg.DB != 0 {
		b = appendBulkInt(append(b, "*2\r\n$6\r\nSELECT\r\n"...), int64(l.cfg.DB))
	}
	commands := 1
	if l.cfg.DB != 0 {
		commands++
	}
	if l.cfg.Password.Reveal() != "" {
		commands++
	}
	b = append(b, "*1\r\n$4\r\nPING\r\n"...)
	written := make(chan error, 1)
	go func() { _, err := c.Write(b); written <- err }()
	r := replies{br: bufio.NewReader(c), left: commands}
	err := r.rest(nil)
	if err != nil {
		c.Close()
	}
	if werr := <-written; err == nil {
		err = werr
	}
	return err
}

// replies reads the RESP answers of one batch, of which left are still to come. An error answer of Redis (-NOAUTH, -LOADING, -OOM, -READONLY) is an error like a broken connection: the batch goes on
// without marks either way.
type replies struct {
	br   *bufio.Reader
	left int
}

func (r *replies) line() ([]byte, error) {
	if r.left--; r.left < 0 {
		panic("BUG: more answers read than commands sent")
	}
	return r.rawLine()
}

func (r *replies) rawLine() ([]byte, error) {
	b, err := r.br.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || b[len(b)-2] != '\r' {
		return nil, errors.New("redis: malformed answer (is this a Redis server?)")
	}
	return b[:len(b)-2], nil
}

// integer reads ":n"; "+OK" counts as 1.
func (r *replies) integer() (int64, error) {
	b, err := r.line()
	if err != nil {
		return 0, err
	}
	return parseInteger(b)
}

func parseInteger(b []byte) (int64, error) {
	switch b[0] {
	case ':':
		n := int64(0)
		for _, c := range b[1:] {
			if c < '0' || c > '9' {
				return 0, fmt.Errorf("redis: %q is no count", b)
			}
			n = n*10 + int64(c-'0')
		}
		return n, nil
	case '+':
		return 1, nil
	case '-':
		if bytes.HasPrefix(b, []byte("-WRONGTYPE ")) {
			return 0, errWrongType
		}
		return 0, fmt.Errorf("redis: %s", b[1:])
	}
	return 0, fmt.Errorf("redis: unexpected answer %.20q", b)
}

// counts reads an array of len(into) counts, nine at most. In a key that is no set stand no marks.
func (r *replies) counts(into []int64) error {
	b, err := r.line()
	if err != nil {
		return err
	}
	if len(b) != 2 || b[0] != '*' || b[1] != '0'+byte(len(into)) {
		if _, err = parseInteger(b); err == nil {
			err = fmt.Errorf("redis: unexpected answer %.20q", b)
		} else if errors.Is(err, errWrongType) {
			err = nil
		}
		return err
	}
	for i := range into {
		if b, err = r.rawLine(); err != nil {
			return err
		}
		if into[i], err = parseInteger(b); err != nil {
			return err
		}
	}
	return nil
}

// errWrongType is Redis' answer about one key that is no set, because somebody wrote over it. It says nothing about the other commands of the batch.
var errWrongType = errors.New("redis: a key of ours holds something else")

// rest reads what is left, unless an error has come before.
func (r *replies) rest(err error) error {
	for err == nil && r.left > 0 {
		_, err = r.integer()
	}
	return err
}
