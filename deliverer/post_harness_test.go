package deliverer

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/schemas"
)

// A receiver of raw bytes: what it does to a connection is a function, so that every answer a hostile server can give can be written down.
type rawReceiver struct {
	addr  string
	conns atomic.Int32
	reqs  atomic.Int32
	mu    sync.Mutex
	heads []string
}

func serveRaw(t testing.TB, f func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int)) *rawReceiver {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, f)
}

func serveOn(t testing.TB, l net.Listener, f func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int)) *rawReceiver {
	s := &rawReceiver{addr: l.Addr().String()}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			n := int(s.conns.Add(1))
			wg.Go(func() {
				f(s, c, bufio.NewReader(c), n)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// readRequest reads one request wholly and returns its body.
func (s *rawReceiver) readRequest(br *bufio.Reader) ([]byte, error) {
	var head strings.Builder
	length := 0
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		head.WriteString(line)
		if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(v))
		}
		if line == "\r\n" {
			break
		}
	}
	s.mu.Lock()
	s.heads = append(s.heads, head.String())
	s.mu.Unlock()
	body := make([]byte, length)
	_, err := io.ReadFull(br, body)
	s.reqs.Add(1)
	return body, err
}

func (s *rawReceiver) head(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads[i]
}

// answers sends the same bytes to every request.
func answers(t testing.TB, b string, thenClose bool) *rawReceiver {
	return serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
		for {
			if _, err := s.readRequest(br); err != nil {
				return
			}
			if _, err := io.WriteString(c, b); err != nil || thenClose {
				return
			}
		}
	})
}

const ok200 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// poster is one lane's client, posting to one receiver.
type poster struct {
	t      testing.TB
	sender *Sender
	target *Target
	task   schemas.Task
	w      *Scratch
	a      Answer
}

var testSecret = []byte("0123456789abcdef0123456789abcdef")

func testTask(body string) schemas.Task {
	return schemas.Task{
		ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", EventID: "evt-1", Subscription: "sub_a", Attempt: 1, ContentType: "application/json", Body: []byte(body),
	}
}

func targetOf(t testing.TB, raw string, change func(*targetSpec)) *Target {
	t.Helper()
	p, err := egress.NewPolicy(egress.Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.CheckURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	spec := targetSpec{url: u, userAgent: "hookferry/test", secrets: [][]byte{testSecret}}
	if change != nil {
		change(&spec)
	}
	target, err := newTarget(spec)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// post returns a lane's client for http://addr/hook.
func newPoster(t testing.TB, addr string) *poster {
	return posterTo(t, targetOf(t, "http://"+addr+"/hook", nil), (&net.Dialer{}).DialContext)
}

func posterTLS(t testing.TB, addr string, c *tls.Config) *poster {
	return posterTo(t, targetOf(t, "https://"+addr+"/hook", func(s *targetSpec) { s.tls = c }), (&net.Dialer{}).DialContext)
}

func posterTo(t testing.TB, target *Target, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *poster {
	p := &poster{t: t, sender: NewSender(dial), target: target, task: testTask("{}"), w: NewScratch()}
	t.Cleanup(p.sender.Close)
	return p
}

// post sends the task and returns what came of it: a status, or the reason of the failure.
func (p *poster) post(limit time.Duration) string {
	now := time.Now()
	p.sender.Post(p.target, p.w, &p.task, now, now.Add(limit), &p.a)
	if p.a.Failure != "" {
		return string(p.a.Failure)
	}
	return fmt.Sprint(p.a.Status)
}

func (p *poster) want(limit time.Duration, want string) {
	p.t.Helper()
	start := time.Now()
	if got := p.post(limit); got != want {
		p.t.Errorf("got %s (%s; %s), want %s", got, p.a.Detail, p.a.LogDetail, want)
	}
	if took := time.Since(start); took > limit+2*time.Second {
		p.t.Errorf("took %s of %s", took, limit)
	}
}

// kept says how many connections wait for another request.
func (p *poster) kept(want int) {
	p.t.Helper()
	if got := p.sender.Idle(); got != want {
		p.t.Errorf("%d idle connections, want %d", got, want)
	}
}

// awaitNoise waits until the kernel holds something for the idle connection: bytes, a FIN or a reset.
func (p *poster) awaitNoise() {
	p.t.Helper()
	p.sender.mu.Lock()
	defer p.sender.mu.Unlock()
	k := p.sender.idle[0]
	k.SetDeadline(time.Time{})
	for limit := time.Now().Add(5 * time.Second); k.isQuiet(); runtime.Gosched() {
		if time.Now().After(limit) {
			p.t.Fatal("nothing came on the idle connection")
		}
	}
}
