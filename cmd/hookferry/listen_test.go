package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
)

func TestListenTakesItsSecretFromAFile(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, file := range map[string]string{"none": filepath.Join(dir, "nowhere"), "no secret": write("bad", "nonsense\n")} {
		a := &app{out: io.Discard, errOut: io.Discard}
		if err := execute(t, listenCommand(a), "--addr", "127.0.0.1:0", "--secret-file", file); codeOf(err) != "secret_invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}

	out, printed := io.Pipe()
	a := &app{out: printed, errOut: io.Discard}
	c := listenCommand(a)
	c.SetArgs([]string{"--addr", "127.0.0.1:0", "--secret-file", write("good", secret+"\n"), "--fail", "503"})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.ExecuteContext(ctx) }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("it printed nothing")
	}
	url := strings.TrimSuffix(strings.TrimPrefix(lines.Text(), "listening on "), "; Ctrl-C ends it")
	key, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"type":"booking.creation"}`)
	now := time.Now().Unix()
	q, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header = http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {strconv.FormatInt(now, 10)}, "Webhook-Attempt": {"1"},
		"Webhook-Signature": {signature.Sign(key, "msg_1", now, body)}}
	go func() {
		if res, err := http.DefaultClient.Do(q); err == nil {
			res.Body.Close()
		}
	}()
	if !lines.Scan() || !strings.Contains(lines.Text(), "signature valid") || !strings.Contains(lines.Text(), "answered 503") {
		t.Errorf("it printed %q", lines.Text())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
