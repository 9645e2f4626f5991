package deliverer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/deliverer/signature"
	"github.com/hookferry/hookferry/schemas"
)

// This file and answer.go are the one place that knows HTTP/1.1. They POST one body and read the status and a prefix of the answer, nothing else, and
// trust nothing that comes back: every rule here was once an attack or a loss (the cases stand in post_test.go).
//
//	Post: take a quiet connection or dial one -> write head and body -> read the answer, even if the write failed -> give the connection back or close it
//
// A Sender owns the connections of one lane, so that bytes which a receiver plants can only ever meet its own next request. There is no goroutine, no
// timer and no context per send, and on a warm connection no allocation.

const (
	joinBody = 16 << 10 // a body up to this goes out in one write with its head: one packet train, one TLS record chain
	maxIdle  = 64       // idle connections a lane keeps: the highest concurrency that a subscription may have
	idleFor  = time.Minute
	maxAge   = 5 * time.Minute // a connection older than this is not used again, so that a receiver that moves by DNS is followed
	// lastWord is kept of the deadline, while a long body is written, to hear what a receiver that stopped reading may have answered.
	lastWord = 250 * time.Millisecond
)

// Target is where and how one version of a subscription is posted to. It is immutable, and everything in it that came from outside has been checked.
type Target struct {
	addr    string      // host:port to dial
	key     string      // connections made under another key are not used: scheme, host and port
	prefix  []byte      // request line, Host, fixed and custom fields; may hold credentials, so it is never printed
	tls     *tls.Config // nil: plain text
	secrets [][]byte    // decoded, newest first
}

// targetSpec is what a Target is made of, apart from how a subscription stores it.
type targetSpec struct {
	url       egress.URL
	userAgent string
	headers   [][2]string // custom; an Authorization field among them
	secrets   [][]byte
	tls       *tls.Config
}

func newTarget(spec targetSpec) (*Target, error) {
	t := &Target{
		addr:    spec.url.Addr(),
		key:     spec.url.Scheme + "://" + spec.url.Addr(),
		secrets: spec.secrets,
	}
	if spec.url.Scheme == "https" {
		t.tls = spec.tls
	}
	target := spec.url.Target()
	if !isTarget(target) || !isText([]byte(spec.url.HostHeader())) || spec.url.Host == "" {
		return nil, errors.New("the subscription's URL is not in canonical form")
	}
	t.prefix = append(t.prefix, "POST "+target+" HTTP/1.1\r\nHost: "+spec.url.HostHeader()+"\r\nAccept-Encoding: identity\r\n"...)
	agent := [2]string{"User-Agent", spec.userAgent}
	for _, f := range spec.headers {
		if ownField(f[0]) {
			return nil, fmt.Errorf("the header %q may not be set", f[0])
		}
		if strings.EqualFold(f[0], agent[0]) {
			agent[1] = ""
		}
	}
	for _, f := range append(spec.headers[:len(spec.headers):len(spec.headers)], agent) {
		if f[1] == "" {
			continue
		}
		if err := checkField(f[0], f[1]); err != nil {
			return nil, err
		}
		t.prefix = append(append(append(append(t.prefix, f[0]...), ": "...), f[1]...), "\r\n"...)
	}
	return t, nil
}

// ownField names the fields that a subscription's own would double: where two programs read different ones, one request becomes two. The writer of
// subscriptions refuses these and many more; this holds alone.
func ownField(name string) bool {
	lower := strings.ToLower(name)
	for _, prefix := range []string{"content-", "webhook-", "proxy-"} {
		if strings.HasPrefix(lower, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"host", "transfer-encoding", "te", "trailer", "connection", "keep-alive", "upgrade", "expect", "accept-encoding"}, lower)
}

// checkField holds alone what the admission of custom headers has checked before: one bad byte here is a smuggled request. It does not show the value.
func checkField(name, value string) error {
	if !isToken([]byte(name)) || !isText([]byte(value)) || len(value) != len(bytes.TrimSpace([]byte(value))) {
		return fmt.Errorf("the header %q may not be sent", name)
	}
	return nil
}

// isTarget says whether a text may stand between "POST " and " HTTP/1.1".
func isTarget(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && s[0] == '/'
}

// Answer is how one Post went. It is made to be used again: Body keeps its capacity.
type Answer struct {
	Status    int            // 0 when no status was read
	Failure   schemas.Reason // "" when a status was read and stands
	Detail    string         // for the owner of the subscription: never an address nor an error of the dialler
	LogDetail string         // for our own log
	Written   bool           // the whole request was handed to the kernel
	Late      bool           // nothing was sent: connecting took so long that it may not be any more

	RetryAfter string // as sent
	Location   string // as sent, cut at 1 KiB
	Disable    bool   // webhook-delivery: disable
	Abort      bool   // webhook-delivery: abort-message

	Body           []byte // the first KiB of the answer's body, made printable UTF-8
	Sent, Received int64  // bytes of HTTP, without TLS
	Address        string // the literal that was connected to, host:port; empty without a connection
	Duration       time.Duration
}

// fail sets what a Post without a status leaves behind.
func (a *Answer) fail(reason schemas.Reason, detail string, err error) {
	a.Status, a.Failure, a.Detail = 0, reason, detail
	if err != nil {
		a.LogDetail = err.Error()
	}
}

// Scratch is what a goroutine that sends brings along: buffers, the state of the signer, the text of the current second. It belongs to one goroutine.
type Scratch struct {
	out    []byte
	rd     reader
	signer *signature.Signer
	signs  *Target // the target whose secrets signer holds
	second int64
	stamp  []byte // text of second
}

// NewScratch returns an empty Scratch; it grows to some 10 KiB with its first send.
func NewScratch() *Scratch { return &Scratch{} }

// request writes the head of a request, up to the empty line, into w.out.
func (w *Scratch) request(t *Target, task *schemas.Task, now time.Time) {
	if w.signs != t {
		w.signer, w.signs = signature.NewSigner(t.secrets...), t
	}
	if second := now.Unix(); second != w.second || len(w.stamp) == 0 {
		w.second, w.stamp = second, strconv.AppendInt(w.stamp[:0], second, 10)
	}
	id := schemas.WebhookID(task.Subscription, task.EventID)
	b := append(w.out[:0], t.prefix...)
	b = append(append(b, "Content-Type: "...), contentType(task.ContentType)...)
	b = append(append(b, "\r\nwebhook-id: "...), id...)
	b = append(append(b, "\r\nwebhook-timestamp: "...), w.stamp...)
	if len(t.secrets) > 0 {
		b = append(b, "\r\nwebhook-signature: "...)
		b = w.signer.AppendSignature(b, id, w.stamp, task.Body)
	}
	b = append(b, "\r\nwebhook-attempt: "...)
	b = strconv.AppendInt(b, int64(max(task.Attempt, 1)), 10)
	if task.Lane == schemas.LaneReplay && isTarget("/"+task.Replay) { // a catch-up brings what was never sent before
		b = append(append(b, "\r\nwebhook-replay: "...), task.Replay...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(task.Body)), 10)
	w.out = append(b, "\r\n\r\n"...)
}

// contentType passes what the router writes, and lets no other bytes of a task into a head.
func contentType(s string) string {
	if s == "" || checkField("Content-Type", s) != nil {
		return "application/json"
	}
	return s
}

// Sender holds the connections of one lane. It is safe for concurrent use; each caller brings its own Scratch and Answer.
type Sender struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	may  func() bool // asked after a connection was made; nil: yes
	rest func()      // told that a connection has become idle; nil: nobody wants to know

	mu     sync.Mutex
	idle   []*conn            // the one used last stands last, and is taken first: the others grow old and are closed
	busy   map[*conn]struct{} // sends under way, so that Close reaches them
	closed bool

	stop     context.Context // ends dials under way
	stopDial context.CancelFunc
}

// NewSender returns a Sender that connects with dial, which refuses forbidden addresses itself (egress.Policy.DialContext).
func NewSender(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Sender {
	s := &Sender{dial: dial, busy: map[*conn]struct{}{}}
	s.stop, s.stopDial = context.WithCancel(context.Background())
	return s
}

// conn is one connection to the receiver.
type conn struct {
	net.Conn            // TLS, or tcp itself
	tcp        net.Conn // what was dialled
	raw        syscall.RawConn
	peek       func(fd uintptr) bool
	quiet      bool // set by peek
	one        [1]byte
	key        string
	address    string
	born, used time.Time // used is zero before the first answer
	until      time.Time // the deadline that stands on both directions; zero if another was set since
	fresh      bool
}

// arm sees to it that the connection's deadline is the given one or lies, not farther than half of what is left, before it. Moving a deadline moves two
// timers of the runtime, which costs more than the peek and the parsing together; so a busy connection keeps its deadline for some sends, and who runs
// into one too early extends it (reader.Read). It is never later than the one that was asked for.
func (k *conn) arm(now, deadline time.Time) error {
	if !k.until.After(deadline) && k.until.Sub(now) >= deadline.Sub(now)/2 {
		return nil
	}
	k.until = deadline
	return k.SetDeadline(deadline)
}

var errSenderClosed = errors.New("the sender is closed")

// Post sends one task and says in a how it went. Dial, TLS, write and the answer's head and body all end by deadline. now is the wall clock that is
// signed. If the task's copy may have been received is for a to say: Written, or a status.
//
// A request is written a second time only where nothing of the first was taken by the kernel, on a pooled connection that the receiver had closed.
func (s *Sender) Post(t *Target, w *Scratch, task *schemas.Task, now time.Time, deadline time.Time, a *Answer) {
	*a = Answer{Body: a.Body[:0]}
	start := time.Now()
	w.request(t, task, now)
	head, body := w.out, task.Body
	if len(body) <= joinBody {
		w.out = append(w.out, body...)
		head, body = w.out, nil
	}
	for {
		k, err := s.take(t, start, deadline)
		if err != nil {
			failConnect(a, err)
			break
		}
		if k.fresh && s.may != nil && !s.may() {
			a.Late = true
			s.drop(k)
			break
		}
		if s.exchange(k, w, head, body, deadline, a) || k.fresh {
			break
		}
	}
	a.Body = printable(a.Body)
	a.Duration = time.Since(start)
}

// exchange writes the request and reads the answer. It is false only if nothing was sent, so that another connection may be tried.
func (s *Sender) exchange(k *conn, w *Scratch, head, body []byte, deadline time.Time, a *Answer) (sent bool) {
	a.Address = k.address
	n, werr := k.Write(head)
	total := n
	if werr == nil && len(body) > 0 {
		if early := deadline.Add(-lastWord); time.Until(early) > lastWord {
			k.SetDeadline(deadline) // an earlier send's may stand (arm), and is not made up for when until is gone
			k.SetWriteDeadline(early)
			k.until = time.Time{}
		}
		n, werr = k.Write(body)
		total += n
	}
	if total == 0 && werr != nil && !k.fresh && !errors.Is(werr, os.ErrDeadlineExceeded) {
		s.drop(k)
		return false
	}
	a.Sent = int64(total)
	a.Written = werr == nil

	// A receiver that answers early and stops reading may have said why: 410, 413, 429.
	w.rd.start(k)
	keep, rerr := w.rd.answer(k, deadline, a)
	a.Received = w.rd.received
	judgeExchange(a, k, werr, rerr)
	if keep = keep && werr == nil && rerr == nil && w.rd.drained(); !keep || !s.give(k) {
		s.drop(k)
	}
	w.rd.release()
	return true
}

// judgeExchange turns the two errors of an exchange into the answer's failure. A status that was read stands, unless it claims a success that cannot be.
func judgeExchange(a *Answer, k *conn, werr, rerr error) {
	switch {
	case rerr == nil && werr == nil:
	case rerr == nil && a.Status >= 300:
		a.LogDetail = "write: " + werr.Error()
	case rerr == nil:
		a.LogDetail = "write: " + werr.Error()
		a.Failure, a.Detail = schemas.ReasonEarlyResponse, "answered "+strconv.Itoa(a.Status)+" before the whole request was sent"
	case errors.Is(rerr, errMalformed):
		a.fail(schemas.ReasonProtocol, rerr.Error(), rerr)
	case errors.Is(rerr, os.ErrDeadlineExceeded) || errors.Is(rerr, syscall.ETIMEDOUT):
		detail := "no answer in time"
		if werr != nil {
			detail = "the request was not taken in time"
		}
		a.fail(schemas.ReasonTimeout, detail, rerr)
	case errors.Is(rerr, net.ErrClosed):
		a.fail(schemas.ReasonLocal, "stopped on our side", rerr)
	case isTLSError(rerr):
		a.fail(schemas.ReasonTLS, "the TLS connection failed", rerr)
	default:
		detail := "the connection was closed before an answer came"
		if !k.fresh {
			rerr = fmt.Errorf("reused connection: %w", rerr)
		}
		a.fail(schemas.ReasonReset, detail, rerr)
	}
}

// take returns a quiet pooled connection, or a new one, with the deadline set.
func (s *Sender) take(t *Target, now, deadline time.Time) (*conn, error) {
	for {
		k, err := s.pop()
		if err != nil {
			return nil, err
		}
		if k == nil {
			return s.connect(t, deadline)
		}
		if k.key == t.key && now.Sub(k.used) < idleFor && now.Sub(k.born) < maxAge && k.arm(now, deadline) == nil && k.isQuiet() {
			k.fresh = false
			return k, nil
		}
		s.drop(k) // old, for another URL, closed by the receiver, or holding bytes that nobody asked for
	}
}

// isQuiet asks the kernel whether anything came while the connection was idle: a FIN, a reset, or an answer to a question not yet asked.
func (k *conn) isQuiet() bool {
	k.quiet = false
	return k.raw.Read(k.peek) == nil && k.quiet
}

// connect dials, and shakes hands where the target says so. The connection counts as busy from the moment the dialler hands it over.
func (s *Sender) connect(t *Target, deadline time.Time) (*conn, error) {
	ctx, cancel := context.WithDeadline(s.stop, deadline)
	defer cancel()
	tcp, err := s.dial(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	k := &conn{Conn: tcp, tcp: tcp, key: t.key, address: tcp.RemoteAddr().String(), born: time.Now(), fresh: true}
	if !s.enter(k) {
		tcp.Close()
		return nil, errSenderClosed
	}
	if err = k.arm(k.born, deadline); err == nil && t.tls != nil {
		c := tls.Client(tcp, t.tls)
		if k.Conn, err = c, c.Handshake(); err != nil {
			err = &handshakeError{err}
		}
	}
	if err == nil {
		err = k.preparePeek()
	}
	if err != nil {
		s.drop(k)
		return nil, err
	}
	return k, nil
}

// preparePeek builds the one closure of the connection's life. Without a file descriptor (net.Pipe) there is no peek, and the connection is used once.
func (k *conn) preparePeek() (err error) {
	sc, ok := k.tcp.(syscall.Conn)
	if !ok {
		return nil
	}
	if k.raw, err = sc.SyscallConn(); err != nil {
		return err
	}
	k.peek = func(fd uintptr) bool {
		_, _, e := syscall.Recvfrom(int(fd), k.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		k.quiet = e == syscall.EAGAIN
		return true
	}
	return nil
}

// pop takes the idle connection used last and counts it as busy; nil if there is none.
func (s *Sender) pop() (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errSenderClosed
	}
	n := len(s.idle) - 1
	if n < 0 {
		return nil, nil
	}
	k := s.idle[n]
	s.idle[n] = nil
	s.idle = s.idle[:n]
	s.busy[k] = struct{}{}
	return k, nil
}

func (s *Sender) enter(k *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.busy[k] = struct{}{}
	}
	return !s.closed
}

// give puts a connection back that is known to be clean. It is false if the connection cannot be kept.
func (s *Sender) give(k *conn) bool {
	if k.raw == nil {
		return false
	}
	if k.Conn != k.tcp && !k.tlsDrained() {
		return false
	}
	k.used = time.Now()
	s.mu.Lock()
	keep := !s.closed && len(s.idle) < maxIdle
	if keep {
		delete(s.busy, k)
		s.idle = append(s.idle, k)
	}
	s.mu.Unlock()
	if keep && s.rest != nil {
		s.rest()
	}
	return keep
}

// tlsDrained finds a record that lies inside the TLS layer, out of the peek's sight: a read that may not wait returns it. It rests on crypto/tls not
// taking a time-out for a broken connection, which a test watches.
func (k *conn) tlsDrained() bool {
	k.SetReadDeadline(time.Unix(1, 0))
	k.until = time.Time{}
	n, err := k.Read(k.one[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// drop closes a connection for good. The TCP connection is closed without TLS's goodbye, which could block.
func (s *Sender) drop(k *conn) {
	k.tcp.Close()
	s.mu.Lock()
	delete(s.busy, k)
	s.mu.Unlock()
}

// CloseIdle closes the connections that have been idle since before olderThan. The owner of many senders calls it now and then, with a minute ago.
func (s *Sender) CloseIdle(olderThan time.Time) {
	s.mu.Lock()
	n := 0 // idle stands in the order of use, oldest first
	for n < len(s.idle) && s.idle[n].used.Before(olderThan) {
		n++
	}
	old := append([]*conn(nil), s.idle[:n]...)
	kept := copy(s.idle, s.idle[n:])
	clear(s.idle[kept:])
	s.idle = s.idle[:kept]
	s.mu.Unlock()
	for _, k := range old {
		k.tcp.Close()
	}
}

// CloseOldest closes the connection that has been idle for longest; false: there is none.
func (s *Sender) CloseOldest() bool {
	s.mu.Lock()
	if len(s.idle) == 0 {
		s.mu.Unlock()
		return false
	}
	k := s.idle[0]
	s.idle = slices.Delete(s.idle, 0, 1)
	s.mu.Unlock()
	k.tcp.Close()
	return true
}

// Close ends everything: idle connections, sends under way (their answers say local, with Written telling whether the receiver may have the request)
// and dials. Later Posts fail at once.
func (s *Sender) Close() {
	s.mu.Lock()
	s.closed = true
	all := s.idle
	s.idle = nil
	for k := range s.busy {
		all = append(all, k)
	}
	s.mu.Unlock()
	s.stopDial()
	for _, k := range all {
		k.tcp.Close()
	}
}

// Idle is the number of idle connections.
func (s *Sender) Idle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.idle)
}
