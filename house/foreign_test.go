package house

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// A publisher that shares no code with us (house/foreign/publish.py: librdkafka, fastavro) and a receiver that shares none (verify.py: a Standard
// Webhooks library). HOOKFERRY_TEST_PYTHON names a python3 that has house/foreign/requirements.txt installed.
func TestAForeignPublisherAndAForeignReceiver(t *testing.T) {
	python := os.Getenv("HOOKFERRY_TEST_PYTHON")
	if python == "" {
		t.Skip("set HOOKFERRY_TEST_PYTHON to a python3 with house/foreign/requirements.txt installed")
	}
	t.Run("with a fingerprint", func(t *testing.T) { foreign(t, python, "", "c3") })
	t.Run("with a registry's id", func(t *testing.T) {
		registry := os.Getenv("HOOKFERRY_TEST_REGISTRY")
		if registry == "" {
			t.Skip("set HOOKFERRY_TEST_REGISTRY to the URL of a schema registry")
		}
		foreign(t, python, registry, "00")
	})
}

// foreign publishes with Python, framed as the first byte says, and lets Python verify what arrives.
func foreign(t *testing.T, python, registry, frame string) {
	d := deploy(t)
	d.config.Registry.URL = registry
	d.router()
	d.deliverer()
	const path = "/ok/foreign"
	l, secret, err := d.writer.Create(d.ctx, subscriptions.Draft{Company: "acme", Name: "foreign", URL: d.receiver.URL(path), Events: []string{"*"}})
	d.must(err)
	d.must(d.receiver.Trust(path, string(secret.Reveal())))

	args := []string{"foreign/publish.py", "--bootstrap", strings.Join(d.config.Brokers, ","), "--prefix", d.config.TopicPrefix, "--schemas", "../schemas", "--company", "acme"}
	if registry != "" {
		args = append(args, "--registry", registry)
	}
	lines := runForeign(t, nil, python, args...)
	types := map[string]string{} // by webhook id
	var ids []string
	for _, line := range lines {
		var p struct {
			EventID   string `json:"event_id"`
			Type      string `json:"type"`
			EntityID  string `json:"entity_id"`
			Partition int32  `json:"partition"`
			Frame     string `json:"frame"`
		}
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		if want := kafka.Partition([]byte("acme/"+p.EntityID), d.config.Partitions); p.Partition != want {
			t.Errorf("%s: librdkafka put it into partition %d, ours is %d", p.Type, p.Partition, want)
		}
		if p.Frame != frame {
			t.Errorf("%s: it begins with the byte %s, want %s", p.Type, p.Frame, frame)
		}
		types[schemas.WebhookID(l.ID, p.EventID)] = p.Type
		ids = append(ids, p.EventID)
	}
	if len(ids) != 5 {
		t.Fatalf("%d events published", len(ids))
	}
	d.arrive(path, l, ids...)

	var received bytes.Buffer
	for _, r := range d.at(path) {
		line, err := json.Marshal(map[string]any{"secret": string(secret.Reveal()), "body": base64.StdEncoding.EncodeToString(r.Body), "headers": map[string]string{
			"webhook-id": r.Header.Get("webhook-id"), "webhook-timestamp": r.Header.Get("webhook-timestamp"), "webhook-signature": r.Header.Get("webhook-signature"),
		}})
		d.must(err)
		received.Write(append(line, '\n'))
	}
	for _, line := range runForeign(t, received.Bytes(), python, "foreign/verify.py") {
		var v struct {
			WebhookID string `json:"webhook_id"`
			Type      string `json:"type"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		if want, ok := types[v.WebhookID]; !ok || v.Type != want {
			t.Errorf("%s was verified as %q, published as %q", v.WebhookID, v.Type, want)
		}
		delete(types, v.WebhookID)
	}
	if len(types) != 0 {
		t.Errorf("not verified: %v", types)
	}
}

// runForeign runs a program and returns the lines of its output.
func runForeign(t *testing.T, in []byte, name string, args ...string) [][]byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Stdin = bytes.NewReader(in)
	var errOut bytes.Buffer
	c.Stderr = &errOut
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, &errOut)
	}
	return bytes.Split(bytes.TrimSpace(out), []byte("\n"))
}
