package deliverer

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// TestTenMillionMarksOnARealRedis measures what the form of the marks promises: at most 40 bytes a delivery, and a Redis that does not slow down as they
// grow. It needs a redis-server of its own, whose data it flushes:
//
//	HOOKFERRY_MEASURE_REDIS=127.0.0.1:6390 go test ./deliverer -run TenMillionMarks -v
func TestTenMillionMarksOnARealRedis(t *testing.T) {
	addr := os.Getenv("HOOKFERRY_MEASURE_REDIS")
	if addr == "" {
		t.Skip("HOOKFERRY_MEASURE_REDIS names no Redis that may be flushed")
	}
	total := 10_000_000
	if n, err := strconv.Atoi(os.Getenv("HOOKFERRY_MEASURE_MARKS")); err == nil {
		total = n
	}
	const batch = 1000
	m := newMarks(t, RedisConfig{Addr: addr, Budget: time.Second})
	redisSay(t, addr, "FLUSHALL")
	empty := redisInfo(t, addr, "used_memory")
	next := uint64(0)
	ms, got := make([]Mark, batch), make([]bool, batch)
	report := func(marks int, from, to usage) {
		bytes := redisInfo(t, addr, "used_memory") - empty
		t.Logf("%9d marks: %5.1f B a mark; redis %.2f us, here %.2f us a delivery (look-up and mark)",
			marks, bytes/float64(marks), (to.redis-from.redis)*1e6/float64(total/10), (to.own-from.own)*1e6/float64(total/10))
		if marks >= 1_000_000 && bytes/float64(marks) > 40 {
			t.Errorf("%d marks: over 40 B a mark", marks)
		}
	}
	for tenth := range 10 {
		before := measure(t, addr)
		for range total / 10 / batch {
			for i := range ms {
				next++
				ms[i] = Mark{bulkID(next), 0, 1}
			}
			if m.Seen(context.Background(), ms, got) {
				t.Fatal("redis did not answer in time")
			}
			for i := range got {
				if got[i] {
					t.Fatal("seen before it was set")
				}
				ms[i].Attempt = 0
			}
			if m.Set(context.Background(), ms) {
				t.Fatal("redis did not answer in time")
			}
		}
		report((tenth+1)*total/10, before, measure(t, addr))
	}
	for i := range ms {
		ms[i] = Mark{bulkID(uint64(i+1) * uint64(total/batch)), 0, 5}
	}
	if m.Seen(context.Background(), ms, got) {
		t.Fatal("redis did not answer in time")
	}
	for i := range got {
		if !got[i] {
			t.Fatal("a mark is gone")
		}
	}
}

// bulkID is a task id's look without its price: the mixed number, spread over the alphabet.
func bulkID(n uint64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], mix64(n))
	binary.BigEndian.PutUint64(b[8:], mix64(^n))
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var id [schemas.IDLength]byte
	for i := range id {
		bit := i * 5
		id[i] = alphabet[(uint(b[bit/8%16])<<8|uint(b[(bit/8+1)%16]))>>(11-bit%8)&31]
	}
	return string(id[:])
}

// usage is CPU time in seconds.
type usage struct{ redis, own float64 }

func measure(t *testing.T, addr string) usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return usage{
		redis: redisInfo(t, addr, "used_cpu_user") + redisInfo(t, addr, "used_cpu_sys"),
		own:   float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9,
	}
}

func redisSay(t *testing.T, addr, command string) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s\r\nECHO end-of-answer\r\n", command)
	var all strings.Builder
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "end-of-answer") {
			return all.String()
		}
		all.WriteString(line)
	}
}

func redisInfo(t *testing.T, addr, field string) float64 {
	for line := range strings.Lines(redisSay(t, addr, "INFO")) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("INFO has no %s", field)
	return 0
}
