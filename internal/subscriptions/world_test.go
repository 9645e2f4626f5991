package subscriptions_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

const partitions = 4

// world is a broker in memory with the topic made.
type world struct {
	t      *testing.T
	broker *sandbox.Broker
	keys   *secrets.Keyring
	policy *egress.Policy
	cfg    kafka.Config
}

// newWorld is to be called inside a synctest bubble: the broker lives on a network in memory and on virtual time.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, kfake.SeedTopics(partitions, "hookferry.subscriptions"))
}

// newWholeWorld has all topics of a deployment, with their settings.
func newWholeWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldOf(t)
	if _, err := w.client().CreateTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorldOf(t *testing.T, o ...kfake.Opt) *world {
	t.Helper()
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	keys, err := secrets.NewKeyring("k1:" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := egress.NewPolicy(egress.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafka.DefaultConfig()
	cfg.Brokers, cfg.Partitions, cfg.ReplicationFactor = b.Addrs(), partitions, 1
	return &world{t, b, keys, policy, cfg}
}

func (w *world) client() *kafka.Client {
	w.t.Helper()
	var o kafka.Options
	if w.broker != nil {
		o.Dial = w.broker.Dial
	}
	c, err := kafka.Open(w.cfg, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// process is what one process has of the subscriptions.
type process struct {
	*subscriptions.Table
	*subscriptions.Writer
	client *kafka.Client
	end    func()
}

// process starts a table of its own and waits until it is loaded.
func (w *world) process() *process {
	w.t.Helper()
	c := w.client()
	t := subscriptions.NewTable(c, w.keys, subscriptions.Options{})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	ended := false
	end := func() {
		cancel()
		if ended {
			return
		}
		ended = true
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}
	w.t.Cleanup(end)
	select {
	case <-t.Loaded():
	case err := <-done:
		done <- nil
		w.t.Fatalf("Run: %v", err)
	case <-time.After(time.Minute):
		w.t.Fatal("not loaded within a minute")
	}
	return &process{t, subscriptions.NewWriter(c, t, w.keys, w.policy, subscriptions.DefaultConfig()), c, end}
}

func draft(company, name string, events ...string) subscriptions.Draft {
	return subscriptions.Draft{Company: company, Name: name, URL: "https://hooks.example.com/" + name, Events: events}
}
