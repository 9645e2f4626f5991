package deliverer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/hookferry/hookferry/schemas"
)

const testCluster = "mK9pL3q8RwS2vXyZ0aBcDg" // a Kafka cluster id is 22 characters long

func newMarks(t testing.TB, c RedisConfig) *Marks {
	t.Helper()
	if c.Buckets == 0 {
		c.Buckets = minBuckets
	}
	if c.Budget == 0 {
		c.Budget = 5 * time.Second // a test machine may be slow; the budget has tests of its own
	}
	m, err := NewMarks(c, testCluster, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func taskIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = schemas.TaskID(schemas.Source{Topic: "t", Offset: int64(i)}, "e", "s", "")
	}
	return ids
}

// seen asks for some marks and fails the test if Redis does not answer.
func seen(t testing.TB, m *Marks, ms ...Mark) []bool {
	t.Helper()
	got := make([]bool, len(ms))
	if m.Seen(context.Background(), ms, got) {
		t.Fatal("redis did not answer")
	}
	return got
}

func set(t testing.TB, m *Marks, ms ...Mark) {
	t.Helper()
	if m.Set(context.Background(), ms) {
		t.Fatal("redis did not answer")
	}
}

func TestMarksAnswerForTheirTryAndForTheEnd(t *testing.T) {
	m := newMarks(t, RedisConfig{Addr: miniredis.RunT(t).Addr()})
	id := taskIDs(6)
	set(t, m, Mark{id[0], 0, 2}, Mark{id[1], 0, 0}, Mark{id[2], 7, 1}, Mark{id[3], 7, 0}, Mark{"an id of another form", 0, 1})
	for _, x := range []struct {
		ask  Mark
		want bool
	}{
		{Mark{id[0], 0, 2}, true},  // that try ended
		{Mark{id[0], 0, 1}, false}, // another one of the same task
		{Mark{id[0], 0, 3}, false},
		{Mark{id[0], 2, 2}, false}, // the same number, another round
		{Mark{id[1], 0, 1}, true},  // the task ended: every try of its round
		{Mark{id[1], 0, 9}, true},
		{Mark{id[1], 1, 1}, false}, // a redrive is a new round
		{Mark{id[2], 7, 1}, true},
		{Mark{id[2], 0, 1}, false},
		{Mark{id[2], 7, 2}, false},
		{Mark{id[3], 7, 4}, true},
		{Mark{id[3], 0, 1}, false},
		{Mark{id[4], 0, 1}, false},
		{Mark{"an id of another form", 0, 1}, true},
		{Mark{"an id of another for", 0, 1}, false},
		{Mark{"", 0, 1}, false},
	} {
		if got := seen(t, m, x.ask); got[0] != x.want {
			t.Errorf("%+v: %v", x.ask, got[0])
		}
	}
}

func TestABatchIsAnsweredInItsOrder(t *testing.T) {
	m := newMarks(t, RedisConfig{Addr: miniredis.RunT(t).Addr()})
	ids := taskIDs(5000)
	var odd, all []Mark
	for i, id := range ids {
		all = append(all, Mark{id, 0, 1})
		if i%2 == 1 {
			odd = append(odd, Mark{id, 0, int32(i % 4 / 2)}) // attempt 0 or 1: ends and tries
		}
	}
	set(t, m, odd...)
	for i, got := range seen(t, m, all...) {
		if got != (i%2 == 1) {
			t.Fatalf("%d: %v", i, got)
		}
	}
	if len(seen(t, m)) != 0 || m.Set(context.Background(), nil) {
		t.Error("an empty batch")
	}
}

func TestDeploymentsThatShareARedisKeepApart(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	a := newMarks(t, RedisConfig{Addr: addr})
	b, err := NewMarks(RedisConfig{Addr: addr, Buckets: minBuckets, Budget: 5 * time.Second}, "another-cluster-id-000", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	mark := Mark{taskIDs(1)[0], 0, 1}
	set(t, a, mark)
	if seen(t, b, mark)[0] || !seen(t, a, mark)[0] {
		t.Error("one sees the other's marks")
	}
}

// Somebody writes over keys of ours. Their marks are gone, and no others; new ones are kept at once, in the same keys too.
func TestAKeyOfAnotherTypeTakesNoOtherMarkWithIt(t *testing.T) {
	server := miniredis.RunT(t)
	m := newMarks(t, RedisConfig{Addr: server.Addr()})
	ids := taskIDs(40)
	var all []Mark
	for _, id := range ids {
		all = append(all, Mark{TaskID: id, Attempt: 1})
	}
	set(t, m, all...)
	hit := map[string]bool{}
	for i, k := range all {
		if i%2 == 0 {
			key := string(m.appendKey(nil, time.Now().Unix()/hourSeconds, m.placeOf(k).bucket))
			key = strings.Split(key, "\r\n")[1]
			server.Del(key)
			if i%4 == 0 {
				server.Set(key, "x")
			} else {
				server.Push(key, "x")
			}
			hit[key] = true
		}
	}
	for i, got := range seen(t, m, all...) {
		if got != (i%2 == 1) {
			t.Errorf("mark %d: seen %v", i, got)
		}
	}
	set(t, m, all...)
	for i, got := range seen(t, m, all...) {
		if !got {
			t.Errorf("mark %d is not kept again", i)
		}
	}
	for key := range hit {
		if server.TTL(key) == 0 {
			t.Errorf("%s never expires", key)
		}
	}
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// What is compared must be the whole of it: no two of many marks may share a bucket and a member, and all bits must matter.
func TestAtLeastEightyBitsAreCompared(t *testing.T) {
	for _, buckets := range []int{minBuckets, maxBuckets} {
		m := newMarks(t, RedisConfig{Buckets: buckets})
		found := map[place]Mark{}
		var and, or place
		and = place{1<<32 - 1, -1}
		for _, id := range taskIDs(20000) {
			for _, k := range []Mark{{id, 0, 0}, {id, 0, 1}, {id, 0, 2}, {id, 0, -1}, {id, 0, -2}, {id, 1, 0}, {id, 1, 1}, {id, 1, -1}, {id, 1 << 40, 10}} {
				p := m.placeOf(k)
				if other, ok := found[p]; ok {
					t.Fatalf("%+v and %+v are the same", k, other)
				}
				if int(p.bucket) >= buckets {
					t.Fatalf("bucket %d of %d", p.bucket, buckets)
				}
				found[p] = k
				and, or = place{and.bucket & p.bucket, and.member & p.member}, place{or.bucket | p.bucket, or.member | p.member}
			}
			if m.placeOf(Mark{id, 0, 0}).bucket != m.placeOf(Mark{id, 3, 9}).bucket {
				t.Fatal("the marks of one task lie in two buckets")
			}
		}
		if and != (place{}) || or != (place{uint32(buckets) - 1, -1}) {
			t.Errorf("%d buckets: some bit never changes: %x %x", buckets, and, or)
		}
	}
}

func TestMarksLastThroughTheNextHourAndAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		mini.ClockTTL(true)
		defer mini.Close()
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) { return mini.Dial() }})
		defer m.Close()
		pass(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + 30*time.Minute))) // virtual
		ids := taskIDs(3)
		set(t, m, Mark{ids[0], 0, 1})
		pass(89 * time.Minute) // the last minute of the next hour
		if !seen(t, m, Mark{ids[0], 0, 1})[0] {
			t.Error("forgotten within the window")
		}
		set(t, m, Mark{ids[1], 0, 1})
		pass(2 * time.Minute)
		got := seen(t, m, Mark{ids[0], 0, 1}, Mark{ids[1], 0, 1})
		if got[0] || !got[1] {
			t.Errorf("after the window: %v", got)
		}
		pass(4 * time.Hour)
		if keys := mini.Keys(); len(keys) != 0 {
			t.Errorf("%d keys have no expiry: %v", len(keys), keys)
		}
	})
}

// A deliverer whose clock is ahead writes into the next hour already; one whose clock is behind must find it.
func TestTheNextHourIsAskedForAroundItsBeginning(t *testing.T) {
	at := func(s string) []int64 {
		now, err := time.Parse(time.DateTime, "2026-11-23 "+s)
		if err != nil {
			t.Fatal(err)
		}
		hours := askedHours(now, nil)
		for i := range hours {
			hours[i] -= now.Unix() / hourSeconds
		}
		return hours
	}
	for s, want := range map[string]string{"12:00:00": "[0 -1]", "12:57:59": "[0 -1]", "12:58:00": "[0 -1 1]", "12:59:59": "[0 -1 1]"} {
		if got := fmt.Sprint(at(s)); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestEveryBucketHasAnExpiryEvenAfterAFlush(t *testing.T) {
	mini := miniredis.RunT(t)
	m := newMarks(t, RedisConfig{Addr: mini.Addr()})
	check := func(when string) {
		t.Helper()
		for _, key := range mini.Keys() {
			if mini.TTL(key) <= time.Hour-time.Minute {
				t.Errorf("%s: %s expires in %s", when, key, mini.TTL(key))
			}
		}
	}
	ids := taskIDs(300)
	set(t, m, Mark{ids[0], 0, 1}, Mark{ids[1], 0, 1})
	set(t, m, Mark{ids[0], 0, 2})
	check("at first")
	mini.FlushAll()
	set(t, m, Mark{ids[0], 0, 3}, Mark{ids[1], 0, 3}, Mark{ids[2], 0, 3})
	check("after a flush")
	if m.Lost() != 1 || len(mini.Keys()) != 4 {
		t.Errorf("lost %d times, %d keys", m.Lost(), len(mini.Keys()))
	}
	if !seen(t, m, Mark{ids[1], 0, 3})[0] || seen(t, m, Mark{ids[1], 0, 1})[0] {
		t.Error("what was set after the flush stands, and nothing else")
	}
}

func TestAGoneRedisCostsOneBudgetNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		defer mini.Close()
		state, dials := "up", 0
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials++
			switch state {
			case "refused":
				return nil, errors.New("refused")
			case "silent":
				c, _ := net.Pipe()
				return c, nil
			case "black hole":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return mini.Dial()
		}})
		defer m.Close()
		mark := []Mark{{taskIDs(1)[0], 0, 1}}
		got := make([]bool, 1)
		set(t, m, mark...)
		for _, down := range []string{"refused", "silent", "black hole"} {
			state = down
			m.seen.whileLocked(m.seen.disconnect)
			start, calls, before := time.Now(), 0, dials
			var spent time.Duration
			for time.Since(start) < 20*time.Second { // a batch every 10 ms
				call := time.Now()
				if !m.Seen(context.Background(), mark, got) || got[0] {
					t.Fatalf("%s: something is known", down)
				}
				took := time.Since(call)
				if took > 50*time.Millisecond {
					t.Fatalf("%s: a call took %s", down, took)
				}
				spent += took
				calls++
				pass(10 * time.Millisecond)
			}
			if spent > time.Second || calls < 1800 || dials-before > 20 {
				t.Errorf("%s: %s of 20 s in %d calls, %d dials", down, spent, calls, dials-before)
			}
			state = "up"
			back := time.Now()
			for m.Seen(context.Background(), mark, got) {
				pass(10 * time.Millisecond)
			}
			if took := time.Since(back); took > dialWait+mostWait+time.Second || !got[0] {
				t.Errorf("%s: back after %s, seen %v", down, took, got[0])
			}
		}
	})
}

// What Redis did not take is kept and set when it answers again, oldest first, and no more than there is room for.
func TestMarksThatRedisDidNotTakeAreOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		defer mini.Close()
		up := false
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) {
			if !up {
				return nil, errors.New("refused")
			}
			return mini.Dial()
		}})
		defer m.Close()
		var all []Mark
		for _, id := range taskIDs(owedMost + 100) {
			all = append(all, Mark{TaskID: id})
		}
		if m.Owes() {
			t.Error("owes before anything was asked of it")
		}
		for rest := all; len(rest) > 0; rest = rest[min(1000, len(rest)):] {
			if !m.Set(context.Background(), rest[:min(1000, len(rest))]) {
				t.Fatal("a Redis that is not there took marks")
			}
		}
		if owes, soon := m.Settle(context.Background()); !owes || !soon {
			t.Errorf("after one failure: owes %t, soon %t", owes, soon)
		}
		for range 100 {
			pass(100 * time.Millisecond)
			m.Settle(context.Background())
		}
		if owes, soon := m.Settle(context.Background()); !owes || soon {
			t.Errorf("after 10 s: owes %t, soon %t", owes, soon)
		}
		up = true
		pass(mostWait)
		for m.Owes() {
			m.Settle(context.Background())
			pass(10 * time.Millisecond)
		}
		for i, got := range seen(t, m, all[50], all[99], all[100], all[len(all)-1]) {
			if got != (i >= 2) {
				t.Errorf("mark %d of four: seen %t", i, got)
			}
		}
	})
}

// A Redis that stops in the middle of a batch: the batch is over with the budget and the patience of a link that was well, and what it had answered is not half believed.
func TestASlowAnswerIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) {
			c, server := net.Pipe()
			go func() {
				b := make([]byte, 4096)
				server.Read(b)
				fmt.Fprint(server, "+PONG\r\n")
				go func() {
					for {
						if _, err := server.Read(b); err != nil {
							return
						}
					}
				}()
				fmt.Fprint(server, "*2\r\n:1\r\n:0\r\n*2\r\n:0\r\n:0\r\n*2\r\n:1") // and no more
			}()
			return c, nil
		}})
		defer m.Close()
		ids, got := taskIDs(2), []bool{true, true}
		start := time.Now()
		if open := m.Seen(context.Background(), []Mark{{ids[0], 0, 1}, {ids[1], 0, 1}}, got); !open || got[0] || got[1] {
			t.Errorf("open %v, seen %v", open, got)
		}
		if took := time.Since(start); took != (1+patience)*50*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	for _, answer := range []string{
		"-NOAUTH Authentication required.\r\n", "-LOADING Redis is loading the dataset in memory\r\n", "-WRONGTYPE x\r\n", ":1\r\n", "*3\r\n:1\r\n:1\r\n:1\r\n",
		"*2\r\n$1\r\n1\r\n:1\r\n", "*2\r\n:-1\r\n:1\r\n", "HTTP/1.1 400 Bad Request\r\n", "\r\n", "*2\n:0\n:0\n", strings.Repeat("x", 40000) + "\r\n", "",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			c.Read(b)
			fmt.Fprint(c, "+PONG\r\n")
			c.Read(b)
			fmt.Fprint(c, answer)
			c.(*net.TCPConn).CloseWrite()
			c.Read(b)
			c.Close()
		}()
		m := newMarks(t, RedisConfig{Addr: l.Addr().String()})
		got := []bool{true}
		if !m.Seen(context.Background(), []Mark{{"a", 0, 1}}, got) || got[0] {
			t.Errorf("%.30q: taken for an answer", answer)
		}
		l.Close()
	}
}

func TestWithoutRedisNothingIsKnown(t *testing.T) {
	m := newMarks(t, RedisConfig{})
	got := []bool{true}
	if !m.Seen(context.Background(), []Mark{{"a", 0, 1}}, got) || got[0] || !m.Set(context.Background(), []Mark{{"a", 0, 1}}) {
		t.Error("marks without a Redis")
	}
}

func TestTheCallersDeadlineStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		defer m.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		if !m.Set(ctx, []Mark{{"a", 0, 1}}) || time.Since(start) != 20*time.Millisecond {
			t.Errorf("took %s", time.Since(start))
		}
	})
}

func TestACLUserAndTLS(t *testing.T) {
	dir := t.TempDir()
	pair := selfSigned(t, dir)
	mini := miniredis.NewMiniRedis()
	mini.RequireUserAuth("deliverer", "s3cret")
	if err := mini.StartTLS(&tls.Config{Certificates: []tls.Certificate{pair}}); err != nil {
		t.Fatal(err)
	}
	defer mini.Close()
	c := DefaultRedisConfig()
	c.Addr, c.Username, c.Password, c.DB, c.Budget = mini.Addr(), "deliverer", "s3cret", 3, time.Second
	c.TLS.Enabled, c.TLS.CAFile = true, filepath.Join(dir, "ca.pem")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	mark := Mark{taskIDs(1)[0], 0, 1}
	m := newMarks(t, c)
	set(t, m, mark)
	if !seen(t, m, mark)[0] || len(mini.DB(3).Keys()) != 2 {
		t.Errorf("%v", mini.DB(3).Keys())
	}
	for name, change := range map[string]func(*RedisConfig){
		"password":  func(c *RedisConfig) { c.Password = "wrong" },
		"authority": func(c *RedisConfig) { c.TLS.CAFile = "" },
		"host name": func(c *RedisConfig) { c.TLS.ServerName = "other.example" },
		"no TLS":    func(c *RedisConfig) { c.TLS = DefaultRedisConfig().TLS },
	} {
		bad := c
		bad.Budget = time.Second
		change(&bad)
		if !newMarks(t, bad).Set(context.Background(), []Mark{mark}) {
			t.Errorf("a wrong %s is accepted", name)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(s, "s3cret") {
		t.Error("the password can be printed")
	}
}

func selfSigned(t *testing.T, dir string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestRedisConfigReportsEveryMistakeAtOnce(t *testing.T) {
	c := RedisConfig{Addr: "x", Username: "u", DB: -1, Buckets: 1000, Budget: time.Hour}
	c.TLS.CertFile = "c"
	var joined interface{ Unwrap() []error }
	if err := c.Validate(); !errors.As(err, &joined) || len(joined.Unwrap()) != 7 {
		t.Errorf("%v", err)
	}
	if err := DefaultRedisConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestLookingUpAndMarkingAllocateNothing(t *testing.T) {
	mini := miniredis.RunT(t)
	m := newMarks(t, RedisConfig{Addr: mini.Addr()})
	var ms []Mark
	for _, id := range taskIDs(100) {
		ms = append(ms, Mark{id, 0, 1})
	}
	got := make([]bool, len(ms))
	set(t, m, ms...)
	seen(t, m, ms...)
	// miniredis lives in this process and allocates as it likes; what is ours is the building and the reading.
	var b []byte
	b = m.appendSet(b, m.armed.hour, ms)
	if n := testing.AllocsPerRun(10, func() { b = m.appendSet(b[:0], m.armed.hour, ms) }); n != 0 {
		t.Errorf("%v allocations to write a batch", n)
	}
	_ = got
	runtime.KeepAlive(b)
}

// A machine that is busy for a tenth of a second is no Redis that is gone: what is marked must not be sent again for that. But a Redis that stays slow is not waited
// for over and over.
func TestALinkThatWasWellWaitsForALateAnswerOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini := miniredis.NewMiniRedis()
		defer mini.Close()
		var late atomic.Int64 // of every answer
		m := newMarks(t, RedisConfig{Addr: "redis:6379", Budget: 50 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) {
			up, err := mini.Dial()
			if err != nil {
				return nil, err
			}
			c, near := net.Pipe()
			go func() { io.Copy(up, near); up.Close() }()
			go func() {
				b := make([]byte, 4096)
				for {
					n, err := up.Read(b)
					if err != nil {
						near.Close()
						return
					}
					pass(time.Duration(late.Load()))
					if _, err := near.Write(b[:n]); err != nil {
						return
					}
				}
			}()
			return c, nil
		}})
		mark := []Mark{{taskIDs(1)[0], 0, 1}}
		set(t, m, mark...)
		if !seen(t, m, mark...)[0] {
			t.Fatal("the mark is not there")
		}
		got := make([]bool, 1)
		for range 3 {
			late.Store(int64(120 * time.Millisecond))
			if open := m.Seen(context.Background(), mark, got); open || !got[0] {
				t.Error("an answer that came after 120 ms was not waited for")
			}
			late.Store(0)
			pass(patienceEach + time.Second)
		}
		late.Store(int64(time.Second))
		spent := time.Duration(0)
		for began := time.Now(); time.Since(began) < 4*time.Second; pass(10 * time.Millisecond) {
			call := time.Now()
			if !m.Seen(context.Background(), mark, got) {
				t.Fatal("an answer that comes after a second was waited for")
			}
			spent += time.Since(call)
		}
		if spent > (patience+1)*50*time.Millisecond+500*time.Millisecond {
			t.Errorf("%v of 4 s were spent with waiting", spent)
		}
		m.Close()
		pass(5 * time.Second) // what is late yet
	})
}
