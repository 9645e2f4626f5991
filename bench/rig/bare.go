package rig

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bare is the yardstick: a loop that signs a body and posts it with net/http, nothing else. No log, no retry, no ledger: what a
// program without any promise would reach on this machine, to this receiver, with this body.
type Bare struct {
	PerSecond float64
	CPU       time.Duration // of this process, a request
}

// RunBare posts body over conns connections for d. It runs in the caller's process, which must be idle otherwise.
func RunBare(ctx context.Context, url string, body []byte, conns int, d time.Duration) Bare {
	tr := &http.Transport{MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns, DisableCompression: true}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var done atomic.Int64
	cpu, start := usage(), time.Now()
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			mac := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
			for ctx.Err() == nil {
				if postSigned(ctx, client, url, mac, body) == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	el, n := time.Since(start), done.Load()
	return Bare{PerSecond: float64(n) / el.Seconds(), CPU: (usage() - cpu) / time.Duration(max(n, 1))}
}

func postSigned(ctx context.Context, client *http.Client, url string, mac hash.Hash, body []byte) error {
	id, ts := "msg_p5jXN8AQM9LWM0D4loKWxJek", strconv.FormatInt(time.Now().Unix(), 10)
	mac.Reset()
	io.WriteString(mac, id+"."+ts+".")
	mac.Write(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", ts)
	req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, res.Body)
	return res.Body.Close()
}

func usage() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
