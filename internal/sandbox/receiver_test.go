package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
)

const (
	testSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	otherSecret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

// post sends one request by hand and returns the status, 0 if the connection ended without an answer.
func post(t *testing.T, c net.Conn, path, id, secret, body string) (int, http.Header) {
	t.Helper()
	defer c.Close()
	key, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	request := "POST " + path + " HTTP/1.1\r\nHost: a\r\nwebhook-id: " + id + "\r\nwebhook-timestamp: " + strconv.FormatInt(now, 10) +
		"\r\nwebhook-signature: " + signature.Sign(key, id, now, []byte(body)) + "\r\nwebhook-attempt: 3\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header
}

func dial(t *testing.T, r *Receiver) net.Conn {
	t.Helper()
	connect := r.Dial
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	c, err := connect(context.Background(), "tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestReceiverAnswersAsThePathSays(t *testing.T) {
	for _, world := range []struct {
		name    string
		virtual bool
	}{{"tcp", false}, {"virtual", true}} {
		t.Run(world.name, func(t *testing.T) {
			in := func(t *testing.T, f func(*testing.T)) { f(t) }
			if world.virtual {
				in = synctest.Test
			}
			in(t, func(t *testing.T) { answers(t, world.virtual) })
		})
	}
}

func answers(t *testing.T, virtual bool) {
	r, err := StartReceiver(ReceiverConfig{Virtual: virtual})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, c := range []struct {
		path   string
		status int
		header string // "name: value" that must be there
	}{
		{"/ok/anyone", 200, ""},
		{"/status/503", 503, ""},
		{"/status/410/x", 410, ""},
		{"/status/429/30/x", 429, "Retry-After: 30"},
		{"/delay/50ms", 200, ""},
		{"/reset", 0, ""},
		{"/flap/2/a", 503, ""},
		{"/flap/2/a", 503, ""},
		{"/flap/2/a", 200, ""},
		{"/redirect", 302, "Location: /ok"},
		{"/disable", 500, "Webhook-Delivery: disable"},
		{"/abort", 500, "Webhook-Delivery: abort-message"},
		{"/early", 200, ""},
		{"/nonsense", 404, ""},
		{"/status/x", 404, ""},
	} {
		status, header := post(t, dial(t, r), c.path, "msg_1", testSecret, `{"a":1}`)
		if status != c.status {
			t.Errorf("%s: status %d, want %d", c.path, status, c.status)
		}
		if name, value, ok := strings.Cut(c.header, ": "); ok && header.Get(name) != value {
			t.Errorf("%s: header %s is %q, want %q", c.path, name, header.Get(name), value)
		}
		last := r.Ledger()[len(r.Ledger())-1]
		if last.Path != c.path || last.Status != c.status || last.WebhookID != "msg_1" || last.Attempt != 3 {
			t.Errorf("%s: the ledger says %+v", c.path, last)
		}
		if c.path != "/early" && string(last.Body) != `{"a":1}` {
			t.Errorf("%s: the ledger has the body %q", c.path, last.Body)
		}
	}
}

// Two more tries of another webhook-id must not be spared what the first had to go through.
func TestFlapCountsEachWebhookIDByItself(t *testing.T) {
	r, err := StartReceiver(ReceiverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, step := range []struct {
		id   string
		want int
	}{{"a", 503}, {"b", 503}, {"a", 200}, {"b", 200}, {"a", 200}} {
		if got, _ := post(t, dial(t, r), "/flap/1", step.id, testSecret, "{}"); got != step.want {
			t.Fatalf("%s: %d, want %d", step.id, got, step.want)
		}
	}
}

func TestHangAndDripEndWithTheSenderAndWithTheReceiver(t *testing.T) {
	for _, path := range []string{"/hang", "/drip", "/delay/1h"} {
		synctest.Test(t, func(t *testing.T) {
			r, err := StartReceiver(ReceiverConfig{Virtual: true})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			c := dial(t, r)
			c.SetDeadline(time.Now().Add(5 * time.Second))
			if status, _ := post(t, c, path, "m", testSecret, "{}"); status != 0 || time.Since(began) != 5*time.Second {
				t.Errorf("%s: status %d after %v, want none until the sender's deadline", path, status, time.Since(began))
			}
			ended := make(chan int)
			go func() {
				status, _ := post(t, dial(t, r), path, "m", testSecret, "{}")
				ended <- status
			}()
			synctest.Wait()
			r.Close()
			if status := <-ended; status != 0 {
				t.Errorf("%s: status %d from a receiver that was closed", path, status)
			}
		})
	}
}

func TestReceiverJudgesSignatures(t *testing.T) {
	r, err := StartReceiver(ReceiverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Trust("/ok/known", testSecret); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, secret string
		want         error
	}{
		{"/ok/known", testSecret, nil},
		{"/ok/known", otherSecret, signature.ErrMismatch},
		{"/ok/unknown", testSecret, ErrNotChecked},
	} {
		post(t, dial(t, r), c.path, "msg_1", c.secret, "{}")
		if got := r.Ledger()[len(r.Ledger())-1].Signature; !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", c.path, got, c.want)
		}
	}
	if err := r.Trust("", "nonsense"); err == nil {
		t.Error("a text that is no secret was taken")
	}
}

func TestWaitSeesWhatComesLaterAndSaysWhatItHasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := StartReceiver(ReceiverConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			for _, id := range []string{"a", "a", "b"} {
				<-time.After(time.Minute) // virtual
				post(t, dial(t, r), "/ok", id, testSecret, "{}")
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := r.WaitDelivered(ctx, "/ok", 2); err != nil || len(r.Ledger()) != 3 {
			t.Errorf("%v after %d requests, want the third to be the second id", err, len(r.Ledger()))
		}
		err = r.WaitDelivered(ctx, "/ok", 3)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3 requests") {
			t.Errorf("%v", err)
		}
	})
}

func TestScriptOverridesThePathAndNotifySeesTheAnswer(t *testing.T) {
	var seen []int
	r, err := StartReceiver(ReceiverConfig{Forget: true, Script: func(*Received) string { return "/status/418" },
		Notify: func(got *Received) { seen = append(seen, got.Status) }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if status, _ := post(t, dial(t, r), "/ok", "m", testSecret, "{}"); status != 418 {
		t.Errorf("status %d", status)
	}
	if len(seen) != 1 || seen[0] != 418 || len(r.Ledger()) != 0 {
		t.Errorf("notified of %v, ledger of %d", seen, len(r.Ledger()))
	}
}

func TestABodyOverTheLimitIsCutOff(t *testing.T) {
	r, err := StartReceiver(ReceiverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := dial(t, r)
	defer c.Close()
	io.WriteString(c, "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: "+strconv.Itoa(maxReceived+1)+"\r\n\r\n")
	c.Write(bytes.Repeat([]byte{'x'}, maxReceived+1))
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil || len(r.Ledger()) != 0 {
		t.Errorf("error %v, %d requests in the ledger", err, len(r.Ledger()))
	}
}
