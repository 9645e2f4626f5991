package deliverer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/deliverer/signature"
	"github.com/hookferry/hookferry/schemas"
)

const soon = 5 * time.Second // a deadline that no test reaches

func TestTheRequestOnTheWire(t *testing.T) {
	s := answers(t, ok200, false)
	p := newPoster(t, s.addr)
	p.target = targetOf(t, "http://"+s.addr+"/a%20b?c=d", func(spec *targetSpec) {
		spec.headers = [][2]string{{"X-Own", "a b\tc"}, {"Authorization", "Bearer t"}}
		spec.secrets = [][]byte{bytes.Repeat([]byte{1}, 32), testSecret}
	})
	p.task = testTask(`{"type":"booking.creation"}`)
	p.task.Attempt, p.task.Lane, p.task.Replay, p.task.ContentType = 3, schemas.LaneReplay, "rpl_1", "application/cloudevents+json; charset=UTF-8"
	now := time.Unix(1700000000, 999)
	p.sender.Post(p.target, p.w, &p.task, now, time.Now().Add(soon), &p.a)
	id := schemas.WebhookID("sub_a", "evt-1")
	want := "POST /a%20b?c=d HTTP/1.1\r\nHost: " + s.addr + "\r\nAccept-Encoding: identity\r\nX-Own: a b\tc\r\nAuthorization: Bearer t\r\n" +
		"User-Agent: hookferry/test\r\nContent-Type: application/cloudevents+json; charset=UTF-8\r\nwebhook-id: " + id + "\r\n" +
		"webhook-timestamp: 1700000000\r\nwebhook-signature: " +
		signature.Sign(bytes.Repeat([]byte{1}, 32), id, 1700000000, p.task.Body) + " " + signature.Sign(testSecret, id, 1700000000, p.task.Body) + "\r\n" +
		"webhook-attempt: 3\r\nwebhook-replay: rpl_1\r\nContent-Length: 27\r\n\r\n"
	if got := s.head(0); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if p.a.Status != 200 || !p.a.Written || p.a.Sent != int64(len(want)+27) || p.a.Received != int64(len(ok200)) || string(p.a.Body) != "ok" ||
		p.a.Address != s.addr || p.a.Duration <= 0 || p.a.Failure != "" {
		t.Errorf("%+v", p.a)
	}
	// The next second, the next task: nothing of the first may be left. What a catch-up brings comes for the first time, and is no replay.
	p.task = testTask("{}")
	p.task.Lane, p.task.Replay = schemas.LaneCatchUp, "rpl_2"
	p.sender.Post(p.target, p.w, &p.task, now.Add(time.Second), time.Now().Add(soon), &p.a)
	if got := s.head(1); strings.Contains(got, "replay") || !strings.Contains(got, "webhook-timestamp: 1700000001\r\n") ||
		!strings.Contains(got, "webhook-attempt: 1\r\n") || s.conns.Load() != 1 {
		t.Errorf("second request over %d connections:\n%s", s.conns.Load(), got)
	}
}

func TestEveryRequestVerifiesByTheReceiversLibrary(t *testing.T) {
	for _, size := range []int{0, 1, 1000, joinBody - 1, joinBody, joinBody + 1, 1 << 20} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = signature.Verify([][]byte{testSecret}, r.Header, body, time.Now(), time.Minute)
			}
			if err != nil || len(body) != size || r.Method != "POST" || r.ContentLength != int64(size) {
				t.Errorf("%d bytes: %v", size, err)
				w.WriteHeader(500)
			}
		}))
		p := newPoster(t, s.Listener.Addr().String())
		p.task.Body = bytes.Repeat([]byte("x"), size)
		p.want(soon, "200")
		p.want(soon, "200")
		p.kept(1)
		s.Close()
	}
}

// What a status line, a field or a frame may look like. kept says whether the connection carries another request.
func TestAnswers(t *testing.T) {
	chunk := "2\r\nok\r\n0\r\n\r\n"
	i103 := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nRetry-After: 7\r\n\r\n"
	te := "Transfer-Encoding: chunked\r\n"
	for _, x := range []struct {
		name, bytes string
		want        string
		kept        bool
	}{
		{"plain", ok200, "200", true},
		{"no reason, no space", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"HTTP/1.9", "HTTP/1.9 200 OK\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "200", false},
		{"chunked", "HTTP/1.1 200 OK\r\n" + te + "\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", "200", true},
		{"two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"UTF-8 in a value", "HTTP/1.1 200 OK\r\nX: é\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"204", "HTTP/1.1 204 No\r\n\r\n", "204", true},
		{"304 with a length", "HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", "304", true},
		{"body of 60,000", "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("a", 60000), "200", true},
		{"one 103", i103 + ok200, "200", true},
		{"a field of 16,000 B", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 16000) + "\r\nContent-Length: 2\r\n\r\nok", "200", true},
		{"a framing field of 9,000 B", "HTTP/1.1 200 OK\r\nContent-Length:" + strings.Repeat(" ", 9000) + "2\r\n\r\nok", "200", true},
		{"eight interim", strings.Repeat(i103, 7) + "HTTP/1.1 100 Continue\r\n\r\n" + ok200, "200", true},
		{"keep-alive", "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", "200", true},
		// The status stands, the connection does not.
		{"Connection: close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "200", false},
		{"Connection: foo, Close", "HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 2\r\n\r\nok", "200", false},
		{"204 with a body", "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", "204", false},
		{"second answer planted", ok200 + "HTTP/1.1 299 P\r\nContent-Length: 0\r\n\r\n", "200", false},
		{"half an answer planted", ok200 + "HTTP/1.1", "200", false},
		{"body over 64 KiB", "HTTP/1.1 500 No\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("a", 70000), "500", false},
		{"chunk over 64 KiB", "HTTP/1.1 200 OK\r\n" + te + "\r\n11170\r\n" + strings.Repeat("a", 70000) + "\r\n0\r\n\r\n", "200", false},
		{"length of 10 GB", "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + strings.Repeat("a", 70000), "200", false},
		{"chunk of 7fffffffffffffff", "HTTP/1.1 200 OK\r\n" + te + "\r\n7fffffffffffffff\r\naaa", "200", false},
		{"chunk size 0x2", "HTTP/1.1 200 OK\r\n" + te + "\r\n0x2\r\nok\r\n0\r\n\r\n", "200", false},
		{"chunk size with a space before", "HTTP/1.1 200 OK\r\n" + te + "\r\n 2\r\nok\r\n0\r\n\r\n", "200", false},
		{"chunk size signed", "HTTP/1.1 200 OK\r\n" + te + "\r\n+2\r\nok\r\n0\r\n\r\n", "200", false},
		{"a trailer that is no field", "HTTP/1.1 200 OK\r\n" + te + "\r\n0\r\n0\r\n\r\n", "200", false},
		{"chunk longer than its size", "HTTP/1.1 200 OK\r\n" + te + "\r\n2\r\noklahoma\r\n0\r\n\r\n", "200", false},
		{"bare LF in chunk lines", "HTTP/1.1 200 OK\r\n" + te + "\r\n2\nok\n0\n\n", "200", false},
		{"chunk extensions of 4,000 B", "HTTP/1.1 200 OK\r\n" + te + "\r\n" + strings.Repeat("1;x="+strings.Repeat("a", 4000)+"\r\na\r\n", 40), "200", false},
		{"one endless chunk extension", "HTTP/1.1 200 OK\r\n" + te + "\r\n1;x=" + strings.Repeat("a", 20000), "200", false},
		{"trailer flood", "HTTP/1.1 200 OK\r\n" + te + "\r\n0\r\n" + strings.Repeat("X-A: b\r\n", 5000), "200", false},
		// Refused.
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello", "protocol", false},
		{"nine interim", strings.Repeat(i103, 9) + ok200, "protocol", false},
		{"10,000 headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 10000), "protocol", false},
		{"a field of 16 KiB", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", headMax) + "\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"two fields of 9,000 B", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 9000)+"\r\n", 2) + "Content-Length: 0\r\n\r\n", "protocol", false},
		{"a line of 1 MB", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1<<20), "protocol", false},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + te + "\r\n" + chunk, "protocol", false},
		{"chunked and length", "HTTP/1.1 200 OK\r\n" + te + "Content-Length: 2\r\n\r\n" + chunk, "protocol", false},
		{"two different lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "protocol", false},
		{"length '2, 2'", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "protocol", false},
		{"length +2", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "protocol", false},
		{"length -1", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", "protocol", false},
		{"length empty", "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "protocol", false},
		{"length overflow", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", "protocol", false},
		{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", "protocol", false},
		{"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunk, "protocol", false},
		{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", "protocol", false},
		{"chunked twice", "HTTP/1.1 200 OK\r\n" + te + te + "\r\n" + chunk, "protocol", false},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "protocol", false},
		{"bare CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"folded length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n 3\r\n\r\nok", "protocol", false},
		{"folded first line", "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"NUL in a name", "HTTP/1.1 200 OK\r\nX\x00: a\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"space in a name", "HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"no colon", "HTTP/1.1 200 OK\r\nXY\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"no name", "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status 99", "HTTP/1.1 99 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status 099", "HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status 000", "HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status 600", "HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status 2000", "HTTP/1.1 2000 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status -1", "HTTP/1.1 -1 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"status +20", "HTTP/1.1 +20 X\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"HTTP/0.9", "HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"http/1.1", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"ICY", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"blank lines first", "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "protocol", false},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", "protocol", false},
		{"Redis", "-ERR unknown command 'POST'\r\n", "protocol", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := answers(t, x.bytes, false)
			p := newPoster(t, s.addr)
			p.want(soon, x.want)
			if x.kept {
				p.kept(1)
			} else {
				p.kept(0)
			}
			if len(p.a.Body) > keepBody || p.a.RetryAfter != "" {
				t.Errorf("%d bytes kept, Retry-After %q", len(p.a.Body), p.a.RetryAfter)
			}
			p.want(soon, x.want) // the first leaves nothing behind
			if want := map[bool]int32{true: 1, false: 2}[x.kept]; s.conns.Load() != want {
				t.Errorf("%d connections, want %d", s.conns.Load(), want)
			}
		})
	}
}

func TestAnswersThatEnd(t *testing.T) {
	for name, x := range map[string]struct{ bytes, want string }{
		"empty":         {"", "reset"},
		"cut in head":   {"HTTP/1.1 200 OK\r\nConte", "reset"},
		"cut in status": {"HTTP/1.1 2", "reset"},
		"cut in body":   {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "200"},
		"cut in chunk":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", "200"},
		"no framing":    {"HTTP/1.1 200 OK\r\n\r\nhello", "200"},
		"only interim":  {"HTTP/1.1 100 Continue\r\n\r\n", "reset"},
	} {
		p := newPoster(t, answers(t, x.bytes, true).addr)
		p.t = named{t, name}
		p.want(soon, x.want)
		p.kept(0)
	}
}

// named puts a case's name before what a helper reports.
type named struct {
	testing.TB
	name string
}

func (n named) Errorf(format string, args ...any) {
	n.TB.Helper()
	n.TB.Errorf(n.name+": "+format, args...)
}

// A body that drips, never comes or never ends costs the connection and at most bodyWait, never the status; a head that drips costs the deadline.
func TestSlowAnswersAreBounded(t *testing.T) {
	drip := func(pre, unit string) *rawReceiver {
		return serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
			s.readRequest(br)
			io.WriteString(c, pre)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(c, unit); err != nil {
					return
				}
			}
		})
	}
	var wg sync.WaitGroup
	for name, x := range map[string]struct{ pre, unit, want string }{
		"head bytes":   {"HTTP/1.1 200 OK\r\nX-A: ", "a", "timeout"},
		"head lines":   {"HTTP/1.1 200 OK\r\n", "A: b\r\n", "timeout"},
		"body":         {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "a", "200"},
		"chunks":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n", "200"},
		"no framing":   {"HTTP/1.1 500 No\r\n\r\n", "a", "500"},
		"silent body":  {"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", "", "200"},
		"half a size":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5", "", "200"},
		"no last line": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", "", "200"},
		"nothing":      {"", "", "timeout"},
		"interim drip": {"", "HTTP/1.1 103 E\r\n\r\n", "protocol"},
	} {
		wg.Go(func() {
			p := newPoster(t, drip(x.pre, x.unit).addr)
			p.t = named{t, name}
			start := time.Now()
			limit := 300 * time.Millisecond
			if x.want != "timeout" {
				limit = 10 * time.Second
			}
			p.want(limit, x.want)
			if took := time.Since(start); took > bodyWait+2*time.Second {
				t.Errorf("%s: took %s", name, took)
			}
			p.kept(0)
		})
	}
	wg.Wait()
}

func TestEndlessAnswersAreCutOff(t *testing.T) {
	for name, x := range map[string]struct{ pre, unit, want string }{
		"103":              {"", "HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n", "protocol"},
		"100":              {"", "HTTP/1.1 100 Continue\r\n\r\n", "protocol"},
		"headers":          {"HTTP/1.1 200 OK\r\n", strings.Repeat("X-A: b\r\n", 100), "protocol"},
		"one header":       {"HTTP/1.1 200 OK\r\nX: ", strings.Repeat("a", 10000), "protocol"},
		"body, no framing": {"HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("a", 10000), "200"},
		"body of 10 GB":    {"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", strings.Repeat("a", 10000), "200"},
		"chunk extension":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=", strings.Repeat("a", 10000), "200"},
		"trailers":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", strings.Repeat("X-A: b\r\n", 100), "200"},
	} {
		s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
			s.readRequest(br)
			io.WriteString(c, x.pre)
			for {
				if _, err := io.WriteString(c, x.unit); err != nil {
					return
				}
			}
		})
		p := newPoster(t, s.addr)
		p.t = named{t, name}
		p.want(soon, x.want)
		p.kept(0)
		if p.a.Received > headMax+bodyMax+2*readBuffer {
			t.Errorf("%s: %d bytes were read", name, p.a.Received)
		}
	}
}

// Planted bytes meet nobody: neither in the same segment nor later, whole or in halves.
func TestPlantedAnswerIsNeverTakenForTheNextOne(t *testing.T) {
	const plant = "HTTP/1.1 299 Planted\r\nContent-Length: 2\r\n\r\nno"
	for _, mode := range []string{"later", "half now, rest later", "FIN", "RST"} {
		for range 5 {
			now := make(chan struct{})
			s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int) {
				for i := 0; ; i++ {
					if _, err := s.readRequest(br); err != nil {
						return
					}
					switch {
					case i > 0 || n > 1:
						io.WriteString(c, ok200)
						continue
					case strings.HasPrefix(mode, "half"):
						io.WriteString(c, ok200+plant[:10])
						<-now
						io.WriteString(c, plant[10:])
					case mode == "later":
						io.WriteString(c, ok200)
						<-now
						io.WriteString(c, plant)
					case mode == "FIN":
						io.WriteString(c, ok200)
						<-now
						return
					case mode == "RST":
						io.WriteString(c, ok200)
						<-now
						c.(*net.TCPConn).SetLinger(0)
						return
					}
				}
			})
			p := newPoster(t, s.addr)
			p.t = named{t, mode}
			p.want(soon, "200")
			close(now)
			if !strings.HasPrefix(mode, "half") { // that one is closed at once
				p.awaitNoise()
			}
			p.want(soon, "200")
			if s.conns.Load() != 2 || s.reqs.Load() != 2 {
				t.Fatalf("%s: %d connections, %d requests", mode, s.conns.Load(), s.reqs.Load())
			}
		}
	}
}

func TestPlantedAnswerInsideTLS(t *testing.T) {
	ts := httptest.NewUnstartedServer(http.NotFoundHandler())
	ts.StartTLS()
	defer ts.Close()
	pool := x509.NewCertPool()
	pool.AddCert(ts.Certificate())
	const plant = "HTTP/1.1 299 Planted\r\nContent-Length: 2\r\n\r\nno"
	for _, mode := range []string{"same record", "own record", "later"} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: ts.TLS.Certificates})
		if err != nil {
			t.Fatal(err)
		}
		now, planted := make(chan struct{}), make(chan struct{})
		s := serveOn(t, l, func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int) {
			for i := 0; ; i++ {
				if _, err := s.readRequest(br); err != nil {
					return
				}
				switch {
				case i > 0 || n > 1:
					io.WriteString(c, ok200)
				case mode == "same record":
					io.WriteString(c, ok200+plant)
				case mode == "own record":
					io.WriteString(c, ok200)
					io.WriteString(c, plant)
					close(planted)
				default:
					io.WriteString(c, ok200)
					<-now
					io.WriteString(c, plant)
				}
			}
		})
		p := posterTLS(t, s.addr, &tls.Config{RootCAs: pool, ServerName: "example.com"})
		p.t = named{t, mode}
		p.want(soon, "200")
		close(now)
		if mode == "own record" {
			<-planted
		}
		if p.sender.Idle() == 1 {
			p.awaitNoise()
		}
		p.want(soon, "200")
		if s.conns.Load() != 2 {
			t.Errorf("%s: %d connections", mode, s.conns.Load())
		}
		p.want(soon, "200") // and a clean one is kept, which rests on crypto/tls surviving a read's time-out
		if s.conns.Load() != 2 {
			t.Errorf("%s: a clean TLS connection was not used again", mode)
		}
	}
}

// The second request on a connection was read and never answered: it may have been acted on, so it is not sent again.
func TestNothingThatWasReceivedIsSentAgain(t *testing.T) {
	for _, mode := range []string{"FIN", "RST", "one byte"} {
		s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int) {
			s.readRequest(br)
			io.WriteString(c, ok200)
			s.readRequest(br)
			switch mode {
			case "RST":
				c.(*net.TCPConn).SetLinger(0)
			case "one byte":
				io.WriteString(c, "H")
			}
		})
		p := newPoster(t, s.addr)
		p.t = named{t, mode}
		p.want(soon, "200")
		p.want(soon, "reset")
		if s.reqs.Load() != 2 || s.conns.Load() != 1 || !p.a.Written {
			t.Errorf("%s: %d requests on %d connections, written %v", mode, s.reqs.Load(), s.conns.Load(), p.a.Written)
		}
	}
}

// Half of a long request was taken on a used connection: the receiver may have acted on it.
func TestAHalfWrittenRequestIsNotSentAgain(t *testing.T) {
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int) {
		s.readRequest(br)
		io.WriteString(c, ok200)
		io.ReadFull(br, make([]byte, 300))
	})
	p := newPoster(t, s.addr)
	p.want(soon, "200")
	p.task.Body = make([]byte, 16<<20)
	p.want(soon, "reset")
	if s.conns.Load() != 1 || p.a.Written || p.a.Sent == 0 {
		t.Errorf("%d connections, written %v, sent %d", s.conns.Load(), p.a.Written, p.a.Sent)
	}
}

// onePiece holds back what is written until it is told to let go: two TLS records then come with one read of the client.
type onePiece struct {
	net.Conn
	hold bool
	kept []byte
}

func (c *onePiece) Write(b []byte) (int, error) {
	c.kept = append(c.kept, b...)
	if c.hold {
		return len(b), nil
	}
	_, err := c.Conn.Write(c.kept)
	c.kept = nil
	return len(b), err
}

// The planted record lies inside the client's TLS layer, where no peek at the kernel finds it.
func TestPlantedRecordThatWasReadWithTheAnswer(t *testing.T) {
	ts := httptest.NewUnstartedServer(http.NotFoundHandler())
	ts.StartTLS()
	defer ts.Close()
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, _ *bufio.Reader, n int) {
		joined := &onePiece{Conn: c}
		tc := tls.Server(joined, &tls.Config{Certificates: ts.TLS.Certificates, SessionTicketsDisabled: true})
		for br := bufio.NewReader(tc); ; {
			if _, err := s.readRequest(br); err != nil {
				return
			}
			joined.hold = n == 1
			io.WriteString(tc, ok200)
			joined.hold = false
			if n == 1 {
				io.WriteString(tc, "HTTP/1.1 299 Planted\r\nContent-Length: 2\r\n\r\nno")
			}
		}
	})
	pool := x509.NewCertPool()
	pool.AddCert(ts.Certificate())
	p := posterTLS(t, s.addr, &tls.Config{RootCAs: pool, ServerName: "example.com"})
	p.want(soon, "200")
	p.kept(0)
	p.want(soon, "200")
	p.kept(1)
}

func TestEarlyAnswers(t *testing.T) {
	early := func(answer string, after int) *rawReceiver {
		return serveRaw(t, func(_ *rawReceiver, c net.Conn, _ *bufio.Reader, _ int) {
			c.(*net.TCPConn).SetReadBuffer(4 << 10)
			io.ReadFull(c, make([]byte, after))
			io.WriteString(c, answer)
			if after == 301 { // stalls
				<-t.Context().Done()
			}
		})
	}
	var wg sync.WaitGroup
	for name, x := range map[string]struct {
		answer string
		after  int
		want   string
		limit  time.Duration
	}{
		"200, then close": {ok200, 300, "early_response", soon},
		"410, then close": {"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", 300, "410", soon},
		"429, then stall": {"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", 301, "429", time.Second},
		"200, then stall": {ok200, 301, "early_response", time.Second},
	} {
		wg.Go(func() {
			p := newPoster(t, early(x.answer, x.after).addr)
			p.t = named{t, name}
			p.task.Body = make([]byte, 16<<20)
			got := p.post(x.limit)
			// A reset that overtakes the answer destroys it: then there is nothing to read, for any client.
			if got != x.want && !(x.limit == soon && got == "reset") {
				t.Errorf("%s: %s (%s), want %s", name, got, p.a.LogDetail, x.want)
			}
			if p.a.Written || p.a.Sent == 0 {
				t.Errorf("%s: written %v, sent %d", name, p.a.Written, p.a.Sent)
			}
			p.kept(0)
		})
	}
	wg.Wait()
}

func TestFieldsThatDecide(t *testing.T) {
	for head, want := range map[string]Answer{
		"Retry-After: 120\r\n":                                 {RetryAfter: "120"},
		"retry-after:  Wed, 21 Oct 2026 07:28:00 GMT \r\n":     {RetryAfter: "Wed, 21 Oct 2026 07:28:00 GMT"},
		"Location: https://other.example/\x80\r\n":             {Location: "https://other.example/."},
		"Location: " + strings.Repeat("a", 4000) + "\r\n":      {Location: strings.Repeat("a", keepField)},
		"webhook-delivery: disable\r\n":                        {Disable: true},
		"Webhook-Delivery:Abort-Message\r\n":                   {Abort: true},
		"webhook-delivery: disable, abort-message\r\n":         {},
		"webhook-delivery: x\r\nwebhook-delivery: disable\r\n": {Disable: true},
		"X: y\r\n": {},
	} {
		p := newPoster(t, answers(t, "HTTP/1.1 500 No\r\n"+head+"Content-Length: 0\r\n\r\n", false).addr)
		p.want(soon, "500")
		if p.a.RetryAfter != want.RetryAfter || p.a.Location != want.Location || p.a.Disable != want.Disable || p.a.Abort != want.Abort {
			t.Errorf("%q: %+v", head, p.a)
		}
	}
}

func TestTheBodysPrefixIsSafeToShow(t *testing.T) {
	for body, want := range map[string]string{
		"ok":                                "ok",
		"a\x00b\x1b[31mc\x7f":               "a.b.[31mc.",
		"line\n\ttab":                       "line\n\ttab",
		"h\u00f6\u202e\u0085":               "h\u00f6.....",
		"\xff\xfe":                          "..",
		strings.Repeat("\u00fc", 600):       strings.Repeat("\u00fc", 512),
		"x" + strings.Repeat("\u00fc", 600): "x" + strings.Repeat("\u00fc", 511),
	} {
		p := newPoster(t, answers(t, fmt.Sprintf("HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%s", len(body), body), false).addr)
		p.want(soon, "500")
		if string(p.a.Body) != want {
			t.Errorf("%q: %q, want %q", body, p.a.Body, want)
		}
	}
}

func TestNothingIsInflated(t *testing.T) {
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, 9)
	w.Write(make([]byte, 20<<20))
	w.Close()
	p := newPoster(t, answers(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", z.Len(), z.String()), false).addr)
	p.want(soon, "200")
	if p.a.Received > bodyMax+headMax {
		t.Errorf("%d bytes read", p.a.Received)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	canary := answers(t, ok200, false)
	for code := 300; code <= 308; code++ {
		s := answers(t, fmt.Sprintf("HTTP/1.1 %d X\r\nLocation: http://%s/x\r\nContent-Length: 0\r\n\r\n", code, canary.addr), false)
		p := newPoster(t, s.addr)
		p.want(soon, fmt.Sprint(code))
		if p.a.Location != "http://"+canary.addr+"/x" {
			t.Errorf("%d: Location %q", code, p.a.Location)
		}
	}
	if canary.conns.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestHeadersThatMayNotBeSent(t *testing.T) {
	u := targetSpec{url: egress.URL{Scheme: "http", Host: "h.example", Port: 80, Path: "/"}, userAgent: "a"}
	for _, h := range [][2]string{
		{"X-A", "a\r\nX-Evil: 1"}, {"X-A", "a\nb"}, {"X-A", "a\x00b"}, {"X-A", "a\x7f"}, {"X-A", "\x01"}, {"X-A", " a"}, {"X-A", "a "},
		{"X A", "b"}, {"X:A", "b"}, {"X\r\nEvil", "b"}, {"", "b"}, {"X\xc3\xa4", "b"},
		{"Host", "evil"}, {"content-length", "5"}, {"Transfer-Encoding", "chunked"}, {"Connection", "close"}, {"Expect", "100-continue"}, {"TRAILER", "X"},
		{"webhook-id", "x"}, {"Proxy-Authorization", "x"}, {"Content-Type", "x"}, {"Upgrade", "h2c"},
	} {
		spec := u
		spec.headers = [][2]string{h}
		if _, err := newTarget(spec); err == nil {
			t.Errorf("%q: %q may be sent", h[0], h[1])
		} else if h[1] != "" && len(h[1]) > 3 && strings.Contains(err.Error(), h[1]) {
			t.Errorf("%q: the error shows the value", h[0])
		}
	}
	for _, path := range []string{"", "x", "/a b", "/a\r\nX: y", "/\x00", "/ü"} {
		spec := u
		spec.url.Path = path
		if _, err := newTarget(spec); err == nil {
			t.Errorf("the path %q may be sent", path)
		}
	}
	spec := u
	spec.headers = [][2]string{{"user-agent", "mine"}}
	target, err := newTarget(spec)
	if err != nil || strings.Count(strings.ToLower(string(target.prefix)), "user-agent") != 1 {
		t.Errorf("%v %s", err, target.prefix)
	}
}

// A task is a record from a topic: its texts must not be able to end a line either.
func TestTasksTextsCannotSmuggle(t *testing.T) {
	s := answers(t, ok200, false)
	p := newPoster(t, s.addr)
	p.task.ContentType, p.task.Replay, p.task.Attempt = "a\r\nX-Evil: 1", "r\r\nX-Evil: 2", -5
	p.want(soon, "200")
	if head := s.head(0); strings.Contains(head, "Evil") || !strings.Contains(head, "webhook-attempt: 1\r\n") {
		t.Error(head)
	}
}

func TestConnectFailures(t *testing.T) {
	op := func(e syscall.Errno) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", e)} }
	for _, x := range []struct {
		err  error
		want schemas.Reason
	}{
		{&egress.DialError{Kind: egress.KindBlocked, Err: errors.New("10.0.0.1")}, schemas.ReasonBlocked},
		{&egress.DialError{Kind: egress.KindDNS, Err: errors.New("x")}, schemas.ReasonDNS},
		{&egress.DialError{Kind: egress.KindLocal, Err: errors.New("x")}, schemas.ReasonLocal},
		{&egress.DialError{Kind: egress.KindTimeout, Addr: "1.2.3.4:443", Err: errors.New("x")}, schemas.ReasonTimeout},
		{&egress.DialError{Kind: egress.KindReset, Err: errors.New("x")}, schemas.ReasonReset},
		{op(syscall.ECONNREFUSED), schemas.ReasonRefused},
		{op(syscall.EMFILE), schemas.ReasonLocal},
		{op(syscall.EADDRNOTAVAIL), schemas.ReasonLocal},
		{context.DeadlineExceeded, schemas.ReasonTimeout},
		{context.Canceled, schemas.ReasonLocal},
		{errors.New("new"), schemas.ReasonRefused},
	} {
		p := posterTo(t, targetOf(t, "http://127.0.0.1:1/", nil), func(context.Context, string, string) (net.Conn, error) { return nil, x.err })
		p.want(soon, string(x.want))
		if strings.Contains(p.a.Detail, "10.0.0.1") || strings.Contains(p.a.Detail, "1.2.3.4") || p.a.Detail == "" || p.a.LogDetail == "" || p.a.Written ||
			p.a.Sent != 0 {
			t.Errorf("%v: %+v", x.err, p.a)
		}
	}
}

func TestTLS(t *testing.T) {
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	}))
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.StartTLS()
	defer ts.Close()
	pool := x509.NewCertPool()
	pool.AddCert(ts.Certificate())
	addr := ts.Listener.Addr().String()
	p := posterTLS(t, addr, &tls.Config{RootCAs: pool, ServerName: "example.com"})
	p.want(soon, "200")
	p.kept(1)
	p.task.Body = make([]byte, 1<<20)
	p.want(soon, "200")
	p.kept(1)
	for name, c := range map[string]*tls.Config{
		"the certificate is for another host name":                                                     {RootCAs: pool, ServerName: "evil.test"},
		"the certificate is not signed by a known authority (is an intermediate certificate missing?)": {RootCAs: x509.NewCertPool(), ServerName: "example.com"},
		"the certificate has expired or is not valid yet":                                              {RootCAs: pool, ServerName: "example.com", Time: func() time.Time { return time.Now().AddDate(200, 0, 0) }},
	} {
		p := posterTLS(t, addr, c)
		p.want(soon, "tls")
		if p.a.Detail != name {
			t.Errorf("%q, want %q", p.a.Detail, name)
		}
	}
	banner := serveRaw(t, func(_ *rawReceiver, c net.Conn, _ *bufio.Reader, _ int) {
		io.WriteString(c, ok200)
		io.Copy(io.Discard, c)
	})
	plain := posterTLS(t, banner.addr, &tls.Config{ServerName: "example.com"})
	plain.want(soon, "tls")
	mute := serveRaw(t, func(_ *rawReceiver, c net.Conn, _ *bufio.Reader, _ int) { io.Copy(io.Discard, c) })
	hang := posterTLS(t, mute.addr, &tls.Config{ServerName: "example.com"})
	hang.want(200*time.Millisecond, "timeout")
}

func TestDeadlineCoversDialWriteAndHead(t *testing.T) {
	p := posterTo(t, targetOf(t, "http://127.0.0.1:1/", nil), func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	p.want(100*time.Millisecond, "timeout")
	mute := serveRaw(t, func(_ *rawReceiver, c net.Conn, _ *bufio.Reader, _ int) { <-t.Context().Done() })
	q := newPoster(t, mute.addr)
	q.task.Body = make([]byte, 16<<20)
	q.want(700*time.Millisecond, "timeout")
	if q.a.Written {
		t.Error("16 MiB that nobody reads count as written")
	}
}

// A busy connection keeps the deadline of an earlier send; a later send that waits longer must still get all of its own time, and no more. A large body is written
// apart, which moves the deadline for writing.
func TestAKeptDeadlineCutsNoSendShort(t *testing.T) {
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
		s.readRequest(br)
		io.WriteString(c, ok200)
		s.readRequest(br)
		<-time.After(700 * time.Millisecond)
		io.WriteString(c, ok200)
		s.readRequest(br)
		io.Copy(io.Discard, br)
	})
	for i, large := range []bool{false, true} {
		p := newPoster(t, s.addr)
		p.want(600*time.Millisecond, "200")
		first := p.sender.idle[0].until
		if large {
			p.task.Body = bytes.Repeat([]byte{' '}, joinBody+1)
		}
		p.want(time.Second, "200")
		if last := p.sender.idle[0].until; int(s.conns.Load()) != i+1 || !large && !last.After(first) {
			t.Errorf("large %v: %d connections; the deadline was %s, is %s", large, s.conns.Load(), first, last)
		}
		start := time.Now()
		p.want(800*time.Millisecond, "timeout")
		if took := time.Since(start); took < 800*time.Millisecond {
			t.Errorf("large %v: cut short after %s", large, took)
		}
	}
}

// Eight senders share one lane's connections; each answer must be the sender's own, while the receiver closes and plants.
func TestConcurrentAnswersAreTheSendersOwn(t *testing.T) {
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
		for i := 1; ; i++ {
			b, err := s.readRequest(br)
			if err != nil {
				return
			}
			plant := ""
			if i%13 == 0 {
				plant = "HTTP/1.1 299 P\r\nContent-Length: 1\r\n\r\nx"
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(b), b, plant)
			if i%29 == 0 {
				return
			}
		}
	})
	p := newPoster(t, s.addr)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			w, a := NewScratch(), Answer{}
			for i := range 200 {
				task := testTask(fmt.Sprintf("%d-%d", g, i))
				p.sender.Post(p.target, w, &task, time.Now(), time.Now().Add(soon), &a)
				// A close that comes after the peek is a reset. (So would a plant that comes after it be taken for an answer: no client can tell, and
				// only the receiver that plants is harmed. Here it comes with the answer.)
				if a.Failure != schemas.ReasonReset && (a.Status != 200 || string(a.Body) != string(task.Body)) {
					t.Errorf("the answer to %s was %+v", task.Body, a)
				}
			}
		})
	}
	wg.Wait()
}

func TestAnotherURLDoesNotUseTheOldConnections(t *testing.T) {
	a, b := answers(t, ok200, false), answers(t, ok200, false)
	p := newPoster(t, a.addr)
	p.want(soon, "200")
	p.target = targetOf(t, "http://"+b.addr+"/hook", nil)
	p.want(soon, "200")
	p.kept(1)
	if a.reqs.Load() != 1 || b.reqs.Load() != 1 {
		t.Errorf("%d and %d requests", a.reqs.Load(), b.reqs.Load())
	}
}

func TestIdleConnectionsGrowOld(t *testing.T) {
	s := answers(t, ok200, false)
	p := newPoster(t, s.addr)
	p.want(soon, "200")
	p.sender.CloseIdle(time.Now().Add(-time.Minute))
	p.kept(1)
	p.sender.CloseIdle(time.Now())
	p.kept(0)
	for _, age := range []func(k *conn){
		func(k *conn) { k.used = time.Now().Add(-idleFor) },
		func(k *conn) { k.born = time.Now().Add(-maxAge) },
	} {
		p.want(soon, "200")
		age(p.sender.idle[0])
		before := s.conns.Load()
		p.want(soon, "200")
		if s.conns.Load() != before+1 {
			t.Error("an old connection was used")
		}
		p.sender.CloseIdle(time.Now())
	}
}

func TestTheIdleConnectionsOfALaneAreCapped(t *testing.T) {
	release := make(chan struct{})
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, _ int) {
		s.readRequest(br)
		<-release
		io.WriteString(c, ok200)
		s.readRequest(br)
	})
	p := newPoster(t, s.addr)
	var wg sync.WaitGroup
	for range maxIdle + 6 {
		wg.Go(func() {
			a := Answer{}
			task := testTask("{}")
			p.sender.Post(p.target, NewScratch(), &task, time.Now(), time.Now().Add(2*soon), &a)
			if a.Status != 200 {
				t.Errorf("%+v", a)
			}
		})
	}
	for s.reqs.Load() < maxIdle+6 && !t.Failed() {
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
	p.kept(maxIdle)
}

func TestCloseEndsSendsDialsAndIdleConnections(t *testing.T) {
	got := make(chan struct{}, 1)
	s := serveRaw(t, func(s *rawReceiver, c net.Conn, br *bufio.Reader, n int) {
		s.readRequest(br)
		if n == 1 {
			io.WriteString(c, ok200)
		} else {
			got <- struct{}{}
		}
		s.readRequest(br)
	})
	p := newPoster(t, s.addr)
	p.want(soon, "200")
	k, _ := p.sender.pop() // keeps the next Post from using it
	var wg sync.WaitGroup
	wg.Go(func() { p.want(time.Minute, "local") })
	<-got
	p.sender.give(k)
	dialling := make(chan struct{})
	q := posterTo(t, p.target, func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialling)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	wg.Go(func() { q.want(time.Minute, "local") })
	<-dialling
	p.sender.Close()
	q.sender.Close()
	wg.Wait()
	p.kept(0)
	if !p.a.Written || q.a.Written {
		t.Errorf("written %v and %v: only the first may have been received", p.a.Written, q.a.Written)
	}
	p.want(soon, "local")
}

// In virtual time a connection is a net.Pipe: deadlines work, and it is never kept.
func TestPipesInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mute := false
		p := posterTo(t, targetOf(t, "http://127.0.0.1:1/", nil), func(context.Context, string, string) (net.Conn, error) {
			c, server := net.Pipe()
			go func() {
				defer server.Close()
				var s rawReceiver
				br := bufio.NewReader(server)
				if _, err := s.readRequest(br); err != nil {
					return
				}
				if mute {
					io.Copy(io.Discard, server)
				}
				io.WriteString(server, ok200)
			}()
			return c, nil
		})
		p.want(15*time.Second, "200")
		p.kept(0)
		mute = true
		start := time.Now()
		p.want(15*time.Second, "timeout")
		if time.Since(start) != 15*time.Second {
			t.Errorf("the deadline came after %s", time.Since(start))
		}
	})
}

// What the reader accepts and keeps, net/http must read as the same status with the same body, ending at the same byte.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		ok200, "HTTP/1.1 103 E\r\nLink: <a>\r\n\r\n" + ok200, "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nX: a\r\n b\r\n\r\n2;a=b\r\nok\r\n0\r\nT: u\r\n\r\nrest",
		"HTTP/1.1 204 N\r\n\r\n", "HTTP/1.1 304 N\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	} {
		f.Add([]byte(s))
	}
	post, _ := http.NewRequest("POST", "http://h/", nil)
	f.Fuzz(func(t *testing.T, in []byte) {
		var r reader
		var a Answer
		r.reset(bytes.NewReader(in))
		keep, err := r.answer(nil, time.Time{}, &a)
		if len(a.Body) > keepBody || len(a.Location) > 2*keepField {
			t.Fatal("kept too much")
		}
		if err == nil && (a.Status < 200 || a.Status > 599) {
			t.Fatalf("status %d", a.Status)
		}
		if err != nil || !keep {
			return
		}
		rest, _ := io.ReadAll(r.br)
		br := bufio.NewReader(bytes.NewReader(in))
		for {
			resp, err := http.ReadResponse(br, post)
			if err != nil {
				t.Fatalf("net/http: %v; ours %+v", err, a)
			}
			b, berr := io.ReadAll(resp.Body)
			if resp.StatusCode < 200 {
				continue
			}
			rest2, _ := io.ReadAll(br)
			if resp.StatusCode != a.Status || berr != nil || !bytes.HasPrefix(b, a.Body) || !bytes.Equal(rest, rest2) || resp.Close {
				t.Fatalf("net/http: %d close=%v %q %v rest %q; ours %+v rest %q", resp.StatusCode, resp.Close, b, berr, rest2, a, rest)
			}
			return
		}
	})
}
