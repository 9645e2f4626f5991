package deliverer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
	"github.com/hookferry/hookferry/schemas"
)

// The receiver of the cost tests is another process, so that its CPU time and its allocations are not ours: this test binary, started again with a
// variable set, reads requests and answers each with the same bytes until its standard input ends.
const receiverEnv = "HOOKFERRY_TEST_RECEIVER"

func init() {
	if os.Getenv(receiverEnv) == "" {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerForever(c)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func answerForever(c net.Conn) {
	defer c.Close()
	b, n := make([]byte, 16<<10), 0
	for {
		m, err := c.Read(b[n:])
		if err != nil {
			return
		}
		n += m
		head := bytes.Index(b[:n], []byte("\r\n\r\n"))
		if head < 0 {
			continue
		}
		length := 0
		_, after, _ := bytes.Cut(b[:head], []byte("Content-Length: "))
		for _, d := range after {
			if d < '0' || d > '9' {
				break
			}
			length = length*10 + int(d-'0')
		}
		if n < head+4+length {
			continue
		}
		n = 0
		io.WriteString(c, ok200)
	}
}

func otherReceiver(tb testing.TB) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close(); cmd.Wait() })
	b := make([]byte, 64)
	n, err := out.Read(b)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(b[:n]))
}

// The one allocation is the text of the webhook id, which schemas.WebhookID returns as a string.
func TestAWarmPostAllocatesItsIDAndNothingElse(t *testing.T) {
	p := newPoster(t, otherReceiver(t))
	p.task.Body = make([]byte, 1024)
	p.want(soon, "200")
	deadline := time.Now().Add(soon)
	if n := testing.AllocsPerRun(200, func() {
		p.sender.Post(p.target, p.w, &p.task, time.Now(), deadline, &p.a)
		if p.a.Status != 200 {
			t.Fatalf("%+v", p.a)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPost and BenchmarkNetHTTP send the same signed requests to the same receiver.
func BenchmarkPost(b *testing.B) {
	p := newPoster(b, otherReceiver(b))
	p.task.Body = make([]byte, 1024)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	for range b.N {
		now := time.Now()
		p.sender.Post(p.target, p.w, &p.task, now, now.Add(soon), &p.a)
		if p.a.Status != 200 {
			b.Fatalf("%+v", p.a)
		}
	}
	b.ReportMetric(float64(cpuTime()-start)/float64(b.N), "cpu-ns/op")
}

func BenchmarkNetHTTP(b *testing.B) {
	url := "http://" + otherReceiver(b) + "/hook"
	tr := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 16 << 10}
	defer tr.CloseIdleConnections()
	task := testTask("")
	task.Body = make([]byte, 1024)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	for range b.N {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		req, _ := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(task.Body))
		now, id := time.Now().Unix(), schemas.WebhookID(task.Subscription, task.EventID)
		req.Header["Content-Type"] = []string{"application/json"}
		req.Header["User-Agent"] = []string{"hookferry/test"}
		req.Header["webhook-id"] = []string{id}
		req.Header["webhook-timestamp"] = []string{fmt.Sprint(now)}
		req.Header["webhook-signature"] = []string{signature.Sign(testSecret, id, now, task.Body)}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, io.LimitReader(resp.Body, keepBody))
		resp.Body.Close()
		cancel()
	}
	b.ReportMetric(float64(cpuTime()-start)/float64(b.N), "cpu-ns/op")
}

func BenchmarkSetDeadline(b *testing.B) {
	c, err := net.Dial("tcp", otherReceiver(b))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for i := 0; b.Loop(); i++ {
		c.SetDeadline(time.Now().Add(soon))
	}
}
