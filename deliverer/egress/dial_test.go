package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// world is a network of names and addresses without one: what answers a look-up, and what a dial to a literal gives.
type world struct {
	mu     sync.Mutex
	names  map[string][]string
	failed map[string]error
	dial   func(ctx context.Context, addr string) (net.Conn, error)
	dialed []string
}

func (w *world) config() Config {
	return Config{
		Lookup: func(ctx context.Context, host string) (as []netip.Addr, err error) {
			for _, text := range w.names[host] {
				as = append(as, netip.MustParseAddr(text))
			}
			return as, w.failed[host]
		},
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			w.mu.Lock()
			w.dialed = append(w.dialed, addr)
			w.mu.Unlock()
			return w.dial(ctx, addr)
		},
	}
}

func kind(err error) Kind {
	var de *DialError
	if errors.As(err, &de) {
		return de.Kind
	}
	return ""
}

func TestOneForbiddenAnswerRefusesAll(t *testing.T) {
	many := make([]string, maxAddrs+1)
	for i := range many {
		many[i] = fmt.Sprintf("93.184.216.%d", i+1)
	}
	w := &world{
		names: map[string][]string{
			"good.example":   {"93.184.216.34", "2606:4700::1111"},
			"mixed.example":  {"93.184.216.34", "10.0.0.1"},
			"mapped.example": {"::ffff:127.0.0.1"},
			"late.example":   append(many, "127.0.0.1"),
			"zone.example":   {"fe80::1%eth0"},
		},
		dial: func(context.Context, string) (net.Conn, error) { c, _ := net.Pipe(); return c, nil },
	}
	p := policy(t, w.config())
	for host, want := range map[string]Kind{
		"good.example": "", "mixed.example": KindBlocked, "mapped.example": KindBlocked, "late.example": KindBlocked, "zone.example": KindBlocked,
		"127.0.0.1": KindBlocked, "::1": KindBlocked, "0.0.0.0": KindBlocked, "169.254.169.254": KindBlocked, "93.184.216.34": "",
	} {
		c, err := p.DialContext(context.Background(), "tcp", net.JoinHostPort(host, "443"))
		if kind(err) != want || (err == nil) != (want == "") {
			t.Errorf("%s: %v, want %q", host, err, want)
		}
		if c != nil {
			c.Close()
		}
	}
	for _, addr := range w.dialed {
		if addr != "93.184.216.34:443" {
			t.Errorf("dialled %s", addr)
		}
	}
}

func TestAtMostSixteenAddressesAreTriedInOrder(t *testing.T) {
	w := &world{names: map[string][]string{}, dial: func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }}
	for i := range 40 {
		w.names["hook.example"] = append(w.names["hook.example"], fmt.Sprintf("93.184.216.%d", i+1))
	}
	_, err := policy(t, w.config()).DialContext(context.Background(), "tcp", "hook.example:443")
	if kind(err) != KindRefused || len(w.dialed) != maxAddrs || w.dialed[0] != "93.184.216.1:443" || w.dialed[15] != "93.184.216.16:443" {
		t.Fatalf("%v %v", err, w.dialed)
	}
}

func TestKindsOfFailure(t *testing.T) {
	v4, v6 := "93.184.216.34", "2606:4700::1111"
	op := func(e error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", e)}
	}
	for _, x := range []struct {
		name   string
		addrs  []string
		lookup error
		errs   []error
		want   Kind
	}{
		{"no such name", nil, &net.DNSError{IsNotFound: true}, nil, KindDNS},
		{"no address", nil, nil, nil, KindDNS},
		{"SERVFAIL", nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}, nil, KindLocal},
		{"resolver silent", nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true}, nil, KindLocal},
		{"refused", []string{v4}, nil, []error{op(syscall.ECONNREFUSED)}, KindRefused},
		{"host unreachable", []string{v4}, nil, []error{op(syscall.EHOSTUNREACH)}, KindRefused},
		{"no IPv6 here", []string{v6}, nil, []error{op(syscall.ENETUNREACH)}, KindRefused},
		{"no network here", []string{v4}, nil, []error{op(syscall.ENETUNREACH)}, KindLocal},
		{"no IPv6 here, refused by IPv4", []string{v6, v4}, nil, []error{op(syscall.ENETUNREACH), op(syscall.ECONNREFUSED)}, KindRefused},
		{"reset", []string{v4}, nil, []error{op(syscall.ECONNRESET)}, KindReset},
		{"timeout", []string{v4}, nil, []error{op(syscall.ETIMEDOUT)}, KindTimeout},
		{"deadline", []string{v4}, nil, []error{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}}, KindTimeout},
		{"stopping", []string{v4}, nil, []error{context.Canceled}, KindLocal},
		{"no port", []string{v4, v6}, nil, []error{op(syscall.EADDRNOTAVAIL)}, KindLocal},
		{"no descriptor", []string{v4}, nil, []error{&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}}, KindLocal},
		{"table full", []string{v4}, nil, []error{op(syscall.ENFILE)}, KindLocal},
		{"our firewall", []string{v4}, nil, []error{op(syscall.EPERM)}, KindLocal},
		{"refused by the control hook", []string{v4}, nil, []error{&net.OpError{Op: "dial", Err: refuse(CodeAddrOwn, "x")}}, KindBlocked},
		{"something new", []string{v4}, nil, []error{errors.New("?")}, KindRefused},
		{"second address answers", []string{v4, v6}, nil, []error{op(syscall.ECONNREFUSED), nil}, ""},
	} {
		w := &world{names: map[string][]string{"h.example": x.addrs}, failed: map[string]error{"h.example": x.lookup}}
		w.dial = func(context.Context, string) (net.Conn, error) {
			if err := x.errs[len(w.dialed)-1]; err != nil {
				return nil, err
			}
			c, _ := net.Pipe()
			return c, nil
		}
		_, err := policy(t, w.config()).DialContext(context.Background(), "tcp", "h.example:443")
		if kind(err) != x.want || (err == nil) != (x.want == "") {
			t.Errorf("%s: %v, want %q", x.name, err, x.want)
		}
	}
}

// A hostile name server that never answers may not hold an attempt for its whole deadline, and each of several dead addresses gets only its share.
func TestWaitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			names: map[string][]string{"two.example": {"93.184.216.34", "93.184.216.35"}},
			dial: func(ctx context.Context, addr string) (net.Conn, error) {
				if addr == "93.184.216.35:443" {
					c, _ := net.Pipe()
					return c, nil
				}
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}
		c := w.config()
		lookup := c.Lookup
		c.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if host == "mute.example" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return lookup(ctx, host)
		}
		p := policy(t, c)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := p.DialContext(ctx, "tcp", "mute.example:443"); kind(err) != KindLocal || time.Since(start) != lookupWait {
			t.Errorf("silent resolver: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		if _, err := p.DialContext(ctx, "tcp", "two.example:443"); err != nil || time.Since(start) != 6*time.Second {
			t.Errorf("two addresses in 12 s: %v after %s", err, time.Since(start))
		}
		if _, err := p.DialContext(ctx, "tcp", "93.184.216.34:443"); kind(err) != KindTimeout {
			t.Errorf("dead address: %v", err)
		}
	})
}

// The third layer alone: a dialler that was led astray is stopped by the hook, before a packet leaves.
func TestControlHookRefusesWhatTheKernelIsAboutToUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := policy(t, DefaultConfig())
	if _, err = p.dialLiteral(context.Background(), "tcp", l.Addr().String()); kindOf(context.Background(), err, netip.Addr{}) != KindBlocked {
		t.Fatalf("not refused: %v", err)
	}
	p = policy(t, Config{AllowRanges: []string{"127.0.0.0/8"}})
	c, err := p.DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	dead := l.Addr().String()
	l.Close()
	if _, err = p.DialContext(context.Background(), "tcp", dead); kind(err) != KindRefused {
		t.Fatalf("closed port: %v", err)
	}
}

func TestForwardProxyIsAskedForTheCheckedLiteral(t *testing.T) {
	for answer, want := range map[string]Kind{
		"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\nhello": "",
		"HTTP/1.0 204 x\r\n\r\nhello":                              "",
		"HTTP/1.1 403 Forbidden\r\n\r\n":                           KindBlocked,
		"HTTP/1.1 407 Who are you\r\n\r\n":                         KindLocal,
		"HTTP/1.1 502 Bad\r\n\r\n":                                 KindRefused,
		"HTTP/1.1 504 Late\r\n\r\n":                                KindTimeout,
		"SSH-2.0-OpenSSH\r\n\r\n":                                  KindLocal,
		"HTTP/1.1 2xx\r\n\r\n":                                     KindLocal,
		"":                                                         KindLocal,
		"HTTP/1.1 200 " + strings.Repeat("a", maxProxyHead):        KindLocal,
	} {
		asked := make(chan string, 1)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			line, _ := bufio.NewReader(c).ReadString('\n')
			asked <- line
			io.WriteString(c, answer)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		}()
		p := policy(t, Config{
			ForwardProxy: l.Addr().String(),
			Lookup: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
			},
		})
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		c, err := p.DialContext(ctx, "tcp", "hook.example:443")
		if kind(err) != want || (err == nil) != (want == "") {
			t.Errorf("%.30q: %v, want %q", answer, err, want)
		}
		if line := <-asked; line != "CONNECT 93.184.216.34:443 HTTP/1.1\r\n" {
			t.Errorf("the proxy was asked %q", line)
		}
		if err == nil {
			b := make([]byte, 5)
			io.ReadFull(c, b)
			if string(b) != "hello" || c.RemoteAddr().String() != "93.184.216.34:443" {
				t.Errorf("through the tunnel: %q from %s", b, c.RemoteAddr())
			}
			if _, ok := c.(syscall.Conn); !ok {
				t.Error("a tunnel over TCP cannot be peeked at")
			}
			c.Close()
		}
		cancel()
		l.Close()
	}
	p := policy(t, Config{ForwardProxy: "127.0.0.1:1", AllowRanges: []string{"10.0.0.0/8"}})
	if _, err := p.DialContext(context.Background(), "tcp", "10.0.0.1:443"); kind(err) != KindLocal {
		t.Errorf("proxy down: %v", err)
	}
	if _, err := p.DialContext(context.Background(), "tcp", "127.0.0.1:443"); kind(err) != KindBlocked {
		t.Errorf("forbidden target: %v", err)
	}
}

func TestHTTPClient(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	hits := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/other", http.StatusFound)
		case "/big":
			w.Write(make([]byte, 2000))
		}
	}))
	defer s.Close()
	guarded := policy(t, DefaultConfig()).HTTPClient(5 * time.Second)
	if _, err := guarded.Get(s.URL); kind(err) != KindBlocked || hits != 0 {
		t.Fatalf("the guard let %d through: %v", hits, err)
	}
	c := (*Policy)(nil).HTTPClient(5*time.Second, Internal(), MaxBody(1000))
	defer c.CloseIdleConnections()
	resp, err := c.Get(s.URL + "/redirect")
	if err != nil || resp.StatusCode != http.StatusFound || hits != 1 {
		t.Fatalf("redirect: %v %v, %d requests", resp, err, hits)
	}
	resp.Body.Close()
	resp, err = c.Get(s.URL + "/big")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, ErrBodyTooLarge) || len(b) != 1000 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	resp.Body.Close()
}

// A proxy waits for one receiver for longer than we do, and answers for another: the first is the receiver's fault. Before it has answered anybody it is ours.
func TestWhoKeepsTheForwardProxyWaitingIsTheReceiver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if line, _ := bufio.NewReader(c).ReadString('\n'); strings.Contains(line, ":443 ") {
					io.WriteString(c, "HTTP/1.1 200 x\r\n\r\n")
				}
				io.Copy(io.Discard, c)
			}()
		}
	}()
	p := policy(t, Config{ForwardProxy: l.Addr().String(), AllowRanges: []string{"10.0.0.0/8"}, Ports: []int{443, 8443}})
	dial := func(addr string) Kind {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		c, err := p.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
		}
		return kind(err)
	}
	for i, want := range []struct {
		addr string
		kind Kind
	}{{"10.0.0.1:8443", KindLocal}, {"10.0.0.1:443", ""}, {"10.0.0.1:8443", KindTimeout}} {
		if got := dial(want.addr); got != want.kind {
			t.Errorf("dial %d, of %s: %q, want %q", i, want.addr, got, want.kind)
		}
	}
}
