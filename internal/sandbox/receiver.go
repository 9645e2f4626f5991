package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
)

// ReceiverConfig says what kind of receiver to start.
type ReceiverConfig struct {
	Addr    string // host:port to listen on; empty: a free port of 127.0.0.1
	Virtual bool   // over pipes; then Receiver.Dial must be used to reach it
	// Script says how to answer a request, as the paths of Receiver do ("/status/503"); nil or "": as the request's own path says.
	Script func(*Received) string
	// Notify is called with every request, one at a time, before it is answered.
	Notify func(*Received)
	// Forget: keep no ledger, for receivers that run for long.
	Forget bool
}

// Receiver receives webhooks. How it behaves stands in the first parts of the path; what follows is a name, so that many subscriptions can have a path
// of their own:
//
//	/ok               200 with the body "ok"
//	/status/503       that status. 429 and 503 may be followed by seconds: /status/429/30 adds Retry-After: 30
//	/delay/100ms      200 after that time
//	/hang             reads the request and never answers
//	/reset            reads the request and resets the connection
//	/drip             answers one byte of its headers every 200 ms, without end
//	/flap/2           the first two tries of each webhook-id get 503, the next one 200
//	/early            200 as soon as the headers have come, before the body was read; then it closes
//	/redirect         302 to /ok
//	/disable, /abort  500 with webhook-delivery: disable, or abort-message
//
// Everything else gets 404. All of it is in the ledger.
type Receiver struct {
	// Dial reaches it over a pipe, whatever the address; nil if it listens on real TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	cfg    ReceiverConfig
	server *http.Server
	addr   string
	served chan struct{}
	closed chan struct{} // what hangs, ends

	notify sync.Mutex // one Notify at a time, in the order of the ledger

	mu     sync.Mutex
	keys   map[string][][]byte // by path: decoded signing secrets. "": for every path
	ledger []*Received
	grown  chan struct{} // closed and replaced when the ledger grows
	tries  map[string]int
}

// Received is one request. It is immutable.
type Received struct {
	At        time.Time // when it had been read
	Path      string
	Header    http.Header
	Body      []byte
	Sum       [sha256.Size]byte // of the body
	WebhookID string
	Attempt   int // webhook-attempt; 0: none
	Status    int // what is answered; 0: nothing
	// Signature is nil if one of the secrets of this path signed the request, ErrNotChecked if the path has no secret.
	Signature error
}

// Delivered says that the request was answered with 2xx.
func (r *Received) Delivered() bool { return r.Status >= 200 && r.Status <= 299 }

// ErrNotChecked is the verdict on a signature for which no secret is known.
var ErrNotChecked = errors.New("no secret is known for this path")

// virtualReceiver is what a virtual receiver is called; nothing listens there.
const virtualReceiver = "127.0.0.1:80"

// A receiver takes bodies up to maxReceived; the product's own limit is below it.
const maxReceived = 4 << 20

// StartReceiver starts a receiver that serves when it returns. Close ends it.
func StartReceiver(c ReceiverConfig) (*Receiver, error) {
	r := &Receiver{cfg: c, keys: map[string][][]byte{}, tries: map[string]int{}, grown: make(chan struct{}),
		served: make(chan struct{}), closed: make(chan struct{})}
	var listener net.Listener
	if c.Virtual {
		p := listenPipes(virtualReceiver)
		listener, r.Dial = p, p.dial
	} else {
		addr := c.Addr
		if addr == "" {
			addr = "127.0.0.1:0"
		}
		var err error
		if listener, err = net.Listen("tcp", addr); err != nil {
			return nil, fmt.Errorf("start a receiver: %w", err)
		}
	}
	r.addr = listener.Addr().String()
	r.server = &http.Server{Handler: http.HandlerFunc(r.handle), ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(r.served)
		r.server.Serve(listener) // ends with Close
	}()
	return r, nil
}

// Addr is host:port.
func (r *Receiver) Addr() string { return r.addr }

// URL is the address of a path: URL("/status/503/someone").
func (r *Receiver) URL(path string) string { return "http://" + r.addr + path }

// Close cuts every connection; requests that hang, end.
func (r *Receiver) Close() {
	close(r.closed)
	r.server.Close()
	<-r.served
}

// Trust makes the receiver verify what comes to a path ("": to any) with a secret, as a text or decoded from one. Several secrets of one path are
// tried in turn.
func (r *Receiver) Trust(path, secret string) error {
	key, err := signature.ParseSecret(secret)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[path] = append(r.keys[path], key)
	return nil
}

// Ledger is everything that came so far, in order. The slice must not be changed.
func (r *Receiver) Ledger() []*Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger[:len(r.ledger):len(r.ledger)]
}

// Wait returns when ok says yes to the ledger; it asks now and after each request. The error is that of ctx.
func (r *Receiver) Wait(ctx context.Context, ok func(ledger []*Received) bool) error {
	for {
		r.mu.Lock()
		ledger, grown := r.ledger[:len(r.ledger):len(r.ledger)], r.grown
		r.mu.Unlock()
		if ok(ledger) {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a receiver, which has got %d requests: %w", len(ledger), ctx.Err())
		}
	}
}

// WaitDelivered waits until n different webhook-ids were answered with 2xx on a path ("": on any).
func (r *Receiver) WaitDelivered(ctx context.Context, path string, n int) error {
	seen, from := map[string]bool{}, 0
	return r.Wait(ctx, func(ledger []*Received) bool {
		for ; from < len(ledger); from++ {
			if e := ledger[from]; e.Delivered() && (path == "" || e.Path == path) {
				seen[e.WebhookID] = true
			}
		}
		return len(seen) >= n
	})
}

func (r *Receiver) handle(w http.ResponseWriter, q *http.Request) {
	got := &Received{Path: q.URL.Path, Header: q.Header, WebhookID: q.Header.Get(signature.HeaderID)}
	got.Attempt, _ = strconv.Atoi(q.Header.Get("webhook-attempt"))
	how := got.Path
	if r.cfg.Script != nil {
		if s := r.cfg.Script(got); s != "" {
			how = s
		}
	}
	parts := strings.Split(strings.Trim(how, "/"), "/")
	answer := r.behaviour(got, parts)
	if parts[0] != "early" {
		body, err := io.ReadAll(io.LimitReader(q.Body, maxReceived+1))
		if err != nil || len(body) > maxReceived {
			cut(w, q) // half a request is none
			return
		}
		got.Body = body
	}
	r.record(got)
	answer(w, q)
}

// record judges a request and puts it into the ledger.
func (r *Receiver) record(got *Received) {
	r.notify.Lock()
	defer r.notify.Unlock()
	got.At, got.Sum = time.Now(), sha256.Sum256(got.Body)
	r.mu.Lock()
	keys := append(r.keys[""][:len(r.keys[""]):len(r.keys[""])], r.keys[got.Path]...)
	r.mu.Unlock()
	got.Signature = ErrNotChecked
	if len(keys) > 0 && got.Body != nil { // without its body (/early) there is nothing to verify
		got.Signature = signature.Verify(keys, got.Header, got.Body, got.At, signature.DefaultTolerance)
	}
	if r.cfg.Notify != nil {
		r.cfg.Notify(got)
	}
	if r.cfg.Forget {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledger = append(r.ledger, got)
	close(r.grown)
	r.grown = make(chan struct{})
}

// tried counts the tries of a webhook-id on a path, this one included.
func (r *Receiver) tried(got *Received) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := got.Path + "\x00" + got.WebhookID
	r.tries[key]++
	return r.tries[key]
}

// behaviours are the first parts of paths that say how to answer.
var behaviours = []string{"ok", "status", "delay", "flap", "redirect", "disable", "abort", "hang", "reset", "drip", "early"}

// Behaves says whether a path tells a receiver how to answer.
func Behaves(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains(behaviours, first)
}

// Understands says whether a path tells a receiver how to answer with arguments that it can read: status/CODE, status/CODE/RETRY-AFTER, delay/DURATION,
// flap/N, and the others with none. A path that only Behaves is answered with 404.
func Understands(path string) bool {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	number := func(i, least, most int) bool {
		n, err := strconv.Atoi(parts[i])
		return err == nil && n >= least && n <= most
	}
	switch parts[0] {
	case "status":
		return len(parts) == 2 && number(1, 200, 999) || len(parts) == 3 && number(1, 200, 999) && number(2, 0, math.MaxInt)
	case "flap":
		return len(parts) == 2 && number(1, 1, math.MaxInt)
	case "delay":
		if len(parts) != 2 {
			return false
		}
		d, err := time.ParseDuration(parts[1])
		return err == nil && d > 0
	}
	return len(parts) == 1 && slices.Contains(behaviours, parts[0])
}

// behaviour decides how to answer and notes the status.
func (r *Receiver) behaviour(got *Received, parts []string) http.HandlerFunc {
	argument := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	status := func(code int, pairs ...string) http.HandlerFunc {
		got.Status = code
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(pairs); i += 2 {
				w.Header().Set(pairs[i], pairs[i+1])
			}
			w.WriteHeader(code)
			if code == http.StatusOK {
				io.WriteString(w, "ok")
			}
		}
	}
	switch parts[0] {
	case "ok":
		return status(http.StatusOK)
	case "status":
		code, err := strconv.Atoi(argument(1))
		if err != nil || code < 200 || code > 999 {
			break
		}
		if _, err := strconv.Atoi(argument(2)); err == nil {
			return status(code, "Retry-After", argument(2))
		}
		return status(code)
	case "delay":
		d, err := time.ParseDuration(argument(1))
		if err != nil {
			break
		}
		return r.after(d, status(http.StatusOK))
	case "flap":
		n, err := strconv.Atoi(argument(1))
		if err != nil {
			break
		}
		if r.tried(got) <= n {
			return status(http.StatusServiceUnavailable)
		}
		return status(http.StatusOK)
	case "redirect":
		return status(http.StatusFound, "Location", "/ok")
	case "disable":
		return status(http.StatusInternalServerError, "webhook-delivery", "disable")
	case "abort":
		return status(http.StatusInternalServerError, "webhook-delivery", "abort-message")
	case "hang":
		return r.hang
	case "reset":
		return raw(reset)
	case "drip":
		return raw(r.drip)
	case "early":
		got.Status = http.StatusOK
		return raw(early)
	}
	return status(http.StatusNotFound)
}

// after answers later, unless the sender or the receiver is gone by then.
func (r *Receiver) after(d time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		wait := time.NewTimer(d)
		defer wait.Stop()
		select {
		case <-wait.C:
			next(w, q)
		case <-q.Context().Done():
		case <-r.closed:
		}
	}
}

func (r *Receiver) hang(w http.ResponseWriter, q *http.Request) {
	select {
	case <-q.Context().Done():
	case <-r.closed:
	}
	cut(w, q) // else the server would answer 200
}

// cut ends the connection without an answer.
var cut = raw(func(net.Conn) {})

// raw takes the connection away from the server, for answers that it would not give.
func raw(do func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return // the server has closed it
		}
		defer c.Close()
		do(c)
	}
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
}

func early(c net.Conn) {
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// drip ends when the other side has had enough, or with the receiver.
func (r *Receiver) drip(c net.Conn) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	head := "HTTP/1.1 200 OK\r\nX-Slow: "
	for i := 0; ; i++ {
		b := "x"
		if i < len(head) {
			b = head[i : i+1]
		}
		if _, err := io.WriteString(c, b); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.closed:
			return
		}
	}
}
