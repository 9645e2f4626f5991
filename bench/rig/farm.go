package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
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
	"sync/atomic"
	"time"
)

// Farm is a set of receivers behind one listener. The path says who is meant and how it behaves: see script.
//
// It speaks just enough HTTP/1.1 to be much cheaper than what it measures: one goroutine a connection, one read and one write a
// request. It is fed by our own client only; hostile input is the business of the tests of deliverer/post.go.
//
// It keeps what it sees in one of two ways. For the bench: entries in memory, nothing verified, nothing synced. For the fault rig, from the moment it
// is told a file: a line per request in that file, with what two verifiers say of the signature, on the disk before a 2xx is answered.
type Farm struct {
	ln    net.Listener
	ctl   *http.Server
	ctlLn net.Listener
	mu    sync.Mutex
	names map[string]*ledger
	count atomic.Int64 // answered with 2xx
	body  []byte       // the first one of the newest connection
	open  sync.WaitGroup

	file atomic.Pointer[SyncFile] // nil: entries in memory
	n    atomic.Int64             // number of the last request in the file
}

// Entry is one request as the farm saw it.
type Entry struct {
	At      int64  `json:"at"`   // UnixNano when the request had been read
	Done    int64  `json:"done"` // UnixNano when the answer was written; 0: never
	Due     int64  `json:"due"`  // UnixNano when the event was due at the publisher
	Seq     int64  `json:"seq"`
	ID      string `json:"id"` // webhook-id
	Attempt int    `json:"attempt"`
	Status  int    `json:"status"`
	Sum     uint64 `json:"sum"` // FNV-1a of the body: a try of one task must not differ from another
}

// ledger is what is kept of one receiver.
type ledger struct {
	keys atomic.Pointer[keys]

	mu      sync.Mutex
	entries []Entry
	tries   map[string]int // by webhook-id, of receivers that flap
	good    map[int64]bool // events that were answered with 2xx, while there is a file
}

// try counts the tries of one webhook-id.
func (l *ledger) try(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tries == nil {
		l.tries = map[string]int{}
	}
	l.tries[id]++
	return l.tries[id]
}

// NewFarm listens on a free port of 127.0.0.1, and on another one for the questions that a measurement asks.
func NewFarm() (*Farm, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		ln.Close()
		return nil, err
	}
	f := &Farm{ln: ln, ctlLn: ctl, names: map[string]*ledger{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, f.count.Load()) })
	mux.HandleFunc("/reset", func(http.ResponseWriter, *http.Request) { f.reset() })
	mux.HandleFunc("/ledger", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(f.Ledger(r.FormValue("prefix")))
	})
	mux.HandleFunc("/body", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(f.lastBody()) })
	mux.HandleFunc("/seen", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, f.seen(r.FormValue("prefix"))) })
	mux.HandleFunc("/stats", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(f.Stats(r.FormValue("prefix")))
	})
	f.handleFiles(mux)
	f.ctl = &http.Server{Handler: mux}
	f.open.Go(func() { f.ctl.Serve(ctl) })
	f.open.Go(f.accept)
	return f, nil
}

// Addr is where webhooks go, Control where questions go.
func (f *Farm) Addr() string    { return f.ln.Addr().String() }
func (f *Farm) Control() string { return f.ctlLn.Addr().String() }

// Close stops listening. Connections end with the process.
func (f *Farm) Close() {
	f.ln.Close()
	f.ctl.Close()
	f.open.Wait()
}

// Ledger returns what the receivers whose name starts with prefix have seen, by name.
func (f *Farm) Ledger(prefix string) map[string][]Entry {
	out := map[string][]Entry{}
	f.each(prefix, func(name string, l *ledger) { out[name] = slices.Clone(l.entries) })
	return out
}

// seen counts the requests to the receivers whose name starts with prefix, those that failed among them.
func (f *Farm) seen(prefix string) (n int) {
	f.each(prefix, func(_ string, l *ledger) { n += len(l.entries) })
	return n
}

// each calls fn with the ledgers of the receivers whose name starts with prefix, locked.
func (f *Farm) each(prefix string, fn func(name string, l *ledger)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, l := range f.names {
		if strings.HasPrefix(name, prefix) {
			l.mu.Lock()
			fn(name, l)
			l.mu.Unlock()
		}
	}
}

// Stats is the short form of a ledger: how many came, how many twice, and how long after they were due.
type Stats struct {
	Delivered, Duplicates int
	P50, P99, Max         time.Duration
}

// Stats of the receivers whose name starts with prefix, over what they answered with 2xx.
func (f *Farm) Stats(prefix string) Stats {
	var s Stats
	var late []time.Duration
	for _, l := range f.Ledger(prefix) {
		seen := make(map[int64]bool, len(l))
		for _, e := range l {
			if e.Status/100 != 2 || e.Done == 0 {
				continue
			}
			if s.Delivered++; seen[e.Seq] {
				s.Duplicates++
			}
			seen[e.Seq] = true
			late = append(late, time.Duration(e.At-e.Due))
		}
	}
	s.P50, s.P99, s.Max = Quantile(late, 0.50), Quantile(late, 0.99), Quantile(late, 1)
	return s
}

// Quantile sorts d and gives the value that the share q of it does not exceed.
func Quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[max(0, int(math.Ceil(q*float64(len(d))))-1)]
}

func (f *Farm) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.names {
		l.mu.Lock()
		l.entries = l.entries[:0]
		l.tries, l.good = nil, nil
		l.mu.Unlock()
	}
	f.count.Store(0)
}

func (f *Farm) ledger(name string) *ledger {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.names[name]
	if l == nil {
		l = &ledger{}
		f.names[name] = l
	}
	return l
}

func (f *Farm) accept() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		go f.serve(c)
	}
}

func (f *Farm) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	var s *script
	var body []byte
	first := true
	for {
		h, err := readHead(r)
		if err != nil {
			return
		}
		if s == nil || s.path != h.path {
			s = parseScript(h.path, f.Addr())
			s.ledger = f.ledger(s.name)
		}
		b := s.now(h.id, time.Now())
		body = slices.Grow(body[:0], h.length)[:h.length]
		if file := f.file.Load(); file != nil {
			if !f.keep(c, r, file, s, b, h, body) {
				return
			}
			continue
		}
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if first {
			first = false
			f.mu.Lock()
			f.body = slices.Clone(body)
			f.mu.Unlock()
		}
		e := Entry{At: time.Now().UnixNano(), ID: h.id, Attempt: h.attempt, Sum: fnv1a(body)}
		if e.Seq, e.Due = mark(body); e.Seq < s.since {
			b = &s.good
		}
		e.Status = b.status
		if _, ok := b.meet(c, r); !ok {
			e.Status = 0
			s.ledger.add(e)
			return
		}
		e.Done = time.Now().UnixNano()
		s.ledger.add(e)
		if b.status/100 == 2 {
			f.count.Add(1)
		}
	}
}

// meet does what the script says after a request has been read. done is when the last of the answer was about to be written, or all was over; before it
// nobody can have heard the answer. Not ok: the connection is over.
func (b *behaviour) meet(c net.Conn, r *bufio.Reader) (done time.Time, ok bool) {
	if b.delay > 0 {
		time.Sleep(b.delay)
	}
	switch {
	case b.hang:
		r.Peek(1) // until the client gives up
		return time.Now(), false
	case b.reset:
		c.Write(b.answer[:len(b.answer)/2])
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // Close sends RST
		}
		return time.Now(), false
	case b.drip:
		for i := range b.answer {
			done = time.Now()
			if _, err := c.Write(b.answer[i : i+1]); err != nil {
				return done, false
			}
			if i < len(b.answer)-1 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		return done, true
	}
	done = time.Now()
	_, err := c.Write(b.answer)
	return done, err == nil
}

func (f *Farm) lastBody() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.body
}

func (l *ledger) add(e Entry) {
	l.mu.Lock()
	l.entries = append(l.entries, e)
	l.mu.Unlock()
}

type head struct {
	length, attempt int
	path, id        string
	stamp, sig      string
}

func readHead(r *bufio.Reader) (h head, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return h, err
	}
	_, rest, _ := bytes.Cut(line, []byte(" "))
	p, _, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return h, errors.New("request line")
	}
	h.path = string(p)
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return h, err
		}
		name, value, ok := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		if !ok {
			return h, nil
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			h.length, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("webhook-id")):
			h.id = string(value)
		case bytes.EqualFold(name, []byte("webhook-attempt")):
			h.attempt, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("webhook-timestamp")):
			h.stamp = string(value)
		case bytes.EqualFold(name, []byte("webhook-signature")):
			h.sig = string(value)
		}
	}
}

// A text of each event, by default its entity id, carries what a measurement wants to know of it: its number and when it was due.
const markLen = len("bk-0000000000-0000000000000000000")

func putMark(dst []byte, seq, due int64) {
	copy(dst, "bk-0000000000-0000000000000000000")
	for i := 12; i > 2; i-- {
		dst[i] = byte('0' + seq%10)
		seq /= 10
	}
	for i := markLen - 1; i > 13; i-- {
		dst[i] = byte('0' + due%10)
		due /= 10
	}
}

var markStart = []byte(`"bk-`)

func mark(body []byte) (seq, due int64) {
	i := bytes.Index(body, markStart)
	if i < 0 || len(body) < i+1+markLen {
		return -1, 0
	}
	m := body[i+1 : i+1+markLen]
	for _, c := range m[3:13] {
		seq = seq*10 + int64(c-'0')
	}
	for _, c := range m[14:] {
		due = due*10 + int64(c-'0')
	}
	return seq, due
}

func fnv1a(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for len(b) >= 8 { // eight bytes a step: this is a check of equality, not a published hash
		h = (h ^ (uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56)) * 1099511628211
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}
