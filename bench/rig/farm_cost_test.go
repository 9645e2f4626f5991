package rig

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
)

// What a request costs that is verified twice, written down and synced before its answer, over 32 connections. The figure µs-cpu/op includes the client's
// share, which is a write and a read.
func BenchmarkAFarmWithALedger(b *testing.B) {
	f, err := NewFarm()
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	c := &FarmClient{f.Addr(), f.Control()}
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	key, err := signature.ParseSecret(secret)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Open(b.TempDir()+"/farm.ledger", true); err != nil {
		b.Fatal(err)
	}
	if err := c.Tell("n", secret); err != nil {
		b.Fatal(err)
	}
	text := body(1) + strings.Repeat(" ", 900)
	now := time.Now().Unix()
	request := fmt.Appendf(nil, "POST /ok/n HTTP/1.1\r\nContent-Length: %d\r\nwebhook-id: msg_x\r\nwebhook-timestamp: %d\r\nwebhook-signature: %s\r\nwebhook-attempt: 1\r\n\r\n%s",
		len(text), now, signature.Sign(key, "msg_x", now, []byte(text)), text)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	cpu := usage()
	var wg sync.WaitGroup
	for range 32 {
		conn, err := net.Dial("tcp", f.Addr())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		wg.Go(func() {
			r := bufio.NewReader(conn)
			for left.Add(-1) >= 0 {
				conn.Write(request)
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != 200 {
					b.Errorf("%v %v", res, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((usage()-cpu).Microseconds())/float64(b.N), "µs-cpu/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
