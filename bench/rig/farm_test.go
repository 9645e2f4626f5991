package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
	"github.com/hookferry/hookferry/internal/secrets"
)

// keptFarm is a farm with a ledger, and a receiver's secret that it was told.
func keptFarm(t *testing.T, name string) (f *Farm, c *FarmClient, file string, key []byte) {
	t.Helper()
	f, err := NewFarm()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	c = &FarmClient{f.Addr(), f.Control()}
	file = filepath.Join(t.TempDir(), "farm.ledger")
	secret := secrets.NewWebhookSecret()
	if err := errors.Join(c.Open(file, true), c.Tell(name, string(secret.Reveal()))); err != nil {
		t.Fatal(err)
	}
	key, err = signature.ParseSecret(string(secret.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	return f, c, file, key
}

func body(seq int64) string {
	m := make([]byte, markLen)
	putMark(m, seq, 77)
	return fmt.Sprintf(`{"eventId":"evt_%020d","entityId":"en-0000000005","data":{"bookingId":"%s"}}`, seq, m)
}

// post sends one signed request over a connection of its own and gives the status, or the error.
func post(f *Farm, path string, key []byte, id string, try int, b string, stamp time.Time) (int, error) {
	tr := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequest("POST", "http://"+f.Addr()+path, strings.NewReader(b))
	if err != nil {
		return 0, err
	}
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", fmt.Sprint(stamp.Unix()))
	req.Header.Set("webhook-signature", signature.Sign(key, id, stamp.Unix(), []byte(b)))
	req.Header.Set("webhook-attempt", fmt.Sprint(try))
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// over waits until so many requests are over, which is written down after the answer, and gives the ledger.
func over(t *testing.T, file string, n int) (all []Request) {
	t.Helper()
	err := Until(5*time.Second, "the ledger is complete", func() bool {
		all, _ = ReadRequests(file)
		return len(all) == n && !slices.ContainsFunc(all, func(q Request) bool { return q.Done == 0 })
	})
	if err != nil {
		t.Fatalf("%v: %+v", err, all)
	}
	return all
}

// What is answered with 2xx stands in the file by then, whole, with what two verifiers say.
func TestAnAnsweredRequestStandsInTheLedger(t *testing.T) {
	f, c, file, key := keptFarm(t, "r1-0")
	now := time.Now()
	if status, err := post(f, "/ok/r1-0", key, "msg_a", 1, body(3), now); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	all, err := ReadRequests(file) // the farm has not been asked to close it
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	q := all[0]
	if q.Name != "r1-0" || q.ID != "msg_a" || q.Event != fmt.Sprintf("evt_%020d", 3) || q.Entity != "en-0000000005" || q.Seq != 3 || q.Due != 77 || q.Attempt != 1 ||
		q.Stamp != now.Unix() || q.Own != Valid || q.Ref != Valid || len(q.Sum) != 64 || q.Expected != int32(len(body(3))) || q.Received != q.Expected || q.Status != 200 {
		t.Errorf("%+v", q)
	}
	wrong := make([]byte, 32)
	post(f, "/ok/r1-0", wrong, "msg_b", 1, body(4), now)
	post(f, "/ok/r1-0", key, "msg_c", 1, body(5), now.Add(-time.Hour))
	post(f, "/ok/r1-unknown", key, "msg_d", 1, body(6), now)
	all = over(t, file, 4)
	if err := Until(5*time.Second, "four pairs are counted", func() bool { return c.Distinct("r1-") == 4 }); err != nil {
		t.Error(err)
	}
	if err := c.Open("", false); err != nil {
		t.Fatal(err)
	}
	for i, want := range []Check{Valid, "mismatch", "old", NoSecret} {
		if all[i].Own != want || all[i].Ref != want || all[i].Outcome != Answered || all[i].Done < all[i].At {
			t.Errorf("request %d: %+v, want %s", i, all[i], want)
		}
	}
}

// Each script answers as its comment says, and its ledger says the same.
func TestScripts(t *testing.T) {
	cases := []struct {
		path     string
		statuses []int // of successive tries at one task; 0: no answer
		delivers bool
	}{
		{"/ok/n", []int{200, 200}, true},
		{"/status/503/n", []int{503, 503}, false},
		{"/status/204/n", []int{204}, true},
		{"/delay/30ms/n", []int{200}, true},
		{"/delay/30ms/status/500/n", []int{500}, false},
		{"/reset/n", []int{0}, false},
		{"/drip/n", []int{200}, true},
		{"/early/n", []int{200}, false},
		{"/redirect/307/n", []int{307}, false},
		{"/flap/2/n", []int{503, 503, 200, 200}, true},
		{"/flap/1/delay/10ms/status/429/after/7/n", []int{429, 200}, true},
		{"/flap/1/reset/n", []int{0, 200}, true},
		{"/some/1/flap/1/n", []int{503, 200}, true},
		{"/some/1000003/flap/1/n", []int{200}, true},
	}
	for _, c := range cases {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			f, _, file, key := keptFarm(t, "n")
			if got := Delivers(c.path); got != c.delivers {
				t.Errorf("Delivers: %v", got)
			}
			for i, want := range c.statuses {
				status, err := post(f, c.path, key, "msg_a", i+1, body(1), time.Now())
				if status != want || (err != nil) != (want == 0) {
					t.Errorf("try %d: %d %v, want %d", i+1, status, err, want)
				}
			}
			for i, q := range over(t, file, len(c.statuses)) {
				if q.Name != "n" || int(q.Status) != c.statuses[i] || q.Own != Valid || q.Received != q.Expected {
					t.Errorf("%+v", q)
				}
			}
		})
	}
}

func TestARequestThatHangsIsWrittenDownAndNeverAnswered(t *testing.T) {
	f, client, file, key := keptFarm(t, "n")
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b := body(1)
	stamp := time.Now().Unix()
	fmt.Fprintf(conn, "POST /hang/n HTTP/1.1\r\nContent-Length: %d\r\nwebhook-id: m\r\nwebhook-timestamp: %d\r\nwebhook-signature: %s\r\n\r\n%s", len(b), stamp,
		signature.Sign(key, "m", stamp, []byte(b)), b)
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := bufio.NewReader(conn).ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("it was answered: %v", err)
	}
	conn.Close()
	if err := Until(5*time.Second, "the farm sees that the client has left", func() bool {
		all, err := ReadRequests(file)
		return err == nil && len(all) == 1 && all[0].Outcome == Cut
	}); err != nil {
		t.Error(err)
	}
	if all, _ := ReadRequests(file); len(all) != 1 || all[0].Status != 0 || all[0].Own != Valid || client.Count() != 0 {
		t.Errorf("%+v", all)
	}
}

// A sender that dies in the middle of a body leaves a line that says how much came.
func TestARequestCutInItsBody(t *testing.T) {
	f, client, file, _ := keptFarm(t, "n")
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /ok/n HTTP/1.1\r\nContent-Length: 100\r\nwebhook-id: m\r\n\r\n%s", strings.Repeat("x", 40))
	conn.Close()
	if err := Until(5*time.Second, "the line", func() bool { all, err := ReadRequests(file); return err == nil && len(all) == 1 }); err != nil {
		t.Fatal(err)
	}
	all, _ := ReadRequests(file)
	if q := all[0]; q.Received != 40 || q.Expected != 100 || q.Status != 0 || q.Sum != "-" || client.Distinct("n") != 0 {
		t.Errorf("%+v", q)
	}
}
