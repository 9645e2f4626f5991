package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// received is one request at a receiver, in the receivers' ledger.
type received struct {
	sub      int       // whose path
	path     string    // with its generation: "/r3/g1"
	from     string    // the process that sent it
	at, done time.Time // when its head had been read; when the answer was written, zero: none
	status   int
	whole    bool // the answer was written while the sender still listened
	first    bool // on its connection
	id       string
	attempt  int
	event    string
	sum      [sha256.Size]byte
	wrong    string        // what is wrong with signature, time or body
	retry    time.Duration // Retry-After that was asked for
}

func (r *received) ok() bool { return r.whole && r.status >= 200 && r.status <= 299 }

// receivers are all receivers of a world behind one server: the path says which one is meant.
type receivers struct {
	w      *world
	tries  map[string]int
	closed chan struct{}
}

// requestsKey is where a connection's context has the number of its requests.
type requestsKey struct{}

// counted is the context of a new connection.
func counted(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, requestsKey{}, new(atomic.Int64))
}

// mode is how the receiver of a subscription behaves now.
func (p *subPlan) mode(at time.Duration) string {
	mode := "ok"
	for _, ph := range p.Phases {
		if ph.From <= at {
			mode = ph.Mode
		}
	}
	return mode
}

// ServeHTTP reads a request and does what its receiver does just now.
func (rs *receivers) ServeHTTP(rw http.ResponseWriter, q *http.Request) {
	w := rs.w
	n := -1
	fmt.Sscanf(q.URL.Path, "/r%d", &n)
	host, _, _ := strings.Cut(q.RemoteAddr, "!")
	e := &received{sub: n, path: q.URL.Path, from: host, at: time.Now(), id: q.Header.Get("webhook-id")}
	e.first = q.Context().Value(requestsKey{}).(*atomic.Int64).Add(1) == 1
	e.attempt, _ = strconv.Atoi(q.Header.Get("webhook-attempt"))
	mode := "404"
	if n >= 0 && n < len(w.plan.Subs) {
		mode = w.plan.Subs[n].mode(w.elapsed())
	}
	if mode != "early" {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return // half a request is none
		}
		e.sum = sha256.Sum256(body)
		e.event = eventIn(body)
		e.wrong = w.verify(n, q.Header, body)
	}
	w.mu.Lock()
	w.ledger = append(w.ledger, e)
	rs.tries[e.path+e.id]++
	try := rs.tries[e.path+e.id]
	chance := w.rng.Float64()
	w.mu.Unlock()
	rs.answer(rw, q, e, mode, try, chance)
}

func (rs *receivers) answer(rw http.ResponseWriter, q *http.Request, e *received, mode string, try int, chance float64) {
	word, argument, _ := strings.Cut(mode, " ")
	status := func(code int) {
		rw.WriteHeader(code)
		rs.answered(q, e, code)
	}
	switch word {
	case "ok":
		status(200)
	case "slow":
		d, _ := time.ParseDuration(argument)
		if rs.wait(q, d) {
			status(200)
		}
	case "hang":
		rs.wait(q, 1000*time.Hour)
		rs.hangUp(rw, false)
	case "reset", "refuse":
		rs.hangUp(rw, true)
	case "early":
		if c, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			c.Close()
			rs.answered(q, e, 200)
		}
	case "flaky":
		p, _ := strconv.ParseFloat(argument, 64)
		if chance < p {
			status(503)
		} else {
			status(200)
		}
	case "flap":
		if k, _ := strconv.Atoi(argument); try <= k {
			status(500)
		} else {
			status(200)
		}
	case "gone":
		status(410)
	case "302":
		rw.Header().Set("Location", "/r0/elsewhere")
		status(302)
	default:
		code, _ := strconv.Atoi(word)
		if argument != "" {
			rw.Header().Set("Retry-After", argument)
			seconds, _ := strconv.Atoi(argument)
			e.retry = time.Duration(seconds) * time.Second
		}
		status(code)
	}
}

// wait is false if the sender or the world has gone meanwhile.
func (rs *receivers) wait(q *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-q.Context().Done():
	case <-rs.closed:
	}
	return false
}

func (rs *receivers) hangUp(rw http.ResponseWriter, reset bool) {
	c, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	if r, ok := c.(interface{ Reset() }); ok && reset {
		r.Reset()
		return
	}
	c.Close()
}

func (rs *receivers) answered(q *http.Request, e *received, code int) {
	rs.w.mu.Lock()
	defer rs.w.mu.Unlock()
	e.done, e.status, e.whole = time.Now(), code, q.Context().Err() == nil
}

// eventIn finds the event's id in a body of any format, by the text that stands before it.
func eventIn(body []byte) string {
	for _, before := range []string{`"eventId":"`, `"specversion":"1.0","id":"`, `"eventNotificationUniqueId":"`} {
		if _, rest, ok := bytes.Cut(body, []byte(before)); ok {
			id, _, _ := bytes.Cut(rest, []byte(`"`))
			return string(id)
		}
	}
	return ""
}

// verify checks a signature by code of its own: HMAC-SHA256 over id.timestamp.body, as Standard Webhooks says.
func (w *world) verify(sub int, h http.Header, body []byte) string {
	w.mu.Lock()
	var key []byte
	if s := w.subOf(sub); s != nil {
		key = s.secret
	}
	w.mu.Unlock()
	if key == nil {
		return ""
	}
	id, ts, sig := h.Get("webhook-id"), h.Get("webhook-timestamp"), h.Get("webhook-signature")
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, ts)
	mac.Write(body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); sig != want {
		return "the signature is wrong"
	}
	sec, err := strconv.ParseInt(ts, 10, 64)
	if late := time.Since(time.Unix(sec, 0)); err != nil || late < -2*time.Second || late > 5*time.Minute {
		return fmt.Sprintf("the timestamp is off by %v", late)
	}
	return ""
}
