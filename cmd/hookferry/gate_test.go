package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
)

// gated runs the gate of a Kafka that is reached with dial.
func gated(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), addrs ...string) (g *topicsGate, ended <-chan error, log *observer.ObservedLogs) {
	t.Helper()
	a, _, _ := virtualApp(t, addrs, dial)
	core, log := observer.New(zapcore.WarnLevel)
	g = newTopicsGate(a.client, zap.New(core))
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() { done <- g.Run(ctx) }()
	return g, done, log
}

func isOpen(g *topicsGate) bool {
	select {
	case <-g.open:
		return true
	default:
		return false
	}
}

// Kafka comes up 40 s after the service, as both do on a fresh machine.
func TestTheGateSaysAtOnceThatKafkaIsNotThereAndOpensWhenItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		a, _, _ := virtualApp(t, b.Addrs(), b.Dial)
		if _, err := a.client.CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := time.Now().Add(40 * time.Second)
		g, _, log := gated(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
			if time.Now().Before(up) {
				return nil, errors.New("connection refused")
			}
			return b.Dial(ctx, network, addr)
		}, b.Addrs()...)
		synctest.Wait()
		if err := g.Ready(); err == nil || !strings.Contains(err.Error(), "refused") || log.Len() != 1 {
			t.Errorf("at once: ready %v, %d warnings", err, log.Len())
		}
		<-time.After(39 * time.Second)
		if isOpen(g) || log.Len() != 1 {
			t.Errorf("before Kafka is up: open %v, %d warnings", isOpen(g), log.Len())
		}
		<-time.After(3 * time.Second)
		if err := g.Ready(); err != nil || !isOpen(g) {
			t.Errorf("after Kafka is up: open %v, ready %v", isOpen(g), err)
		}
	})
}

// A broker that takes the connection and says nothing: no error tells that anything is wrong.
func TestTheGateSaysSoonThatKafkaIsSilentAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		g, ended, log := gated(t, func(context.Context, string, string) (net.Conn, error) {
			here, _ := net.Pipe()
			return here, nil
		}, "broker.test:9092")
		<-time.After(kafkaSilence + time.Millisecond)
		if err := g.Ready(); err == nil || !strings.Contains(err.Error(), "no answer yet") || log.Len() != 1 {
			t.Errorf("ready %v, %d warnings", err, log.Len())
		}
		err := <-ended
		if codeOf(err) != "kafka_unreachable" || !strings.Contains(err.Error(), "broker.test:9092") || log.Len() != 1 {
			t.Errorf("%v, %d warnings", err, log.Len())
		}
		if took := time.Since(began); took < kafkaPatience || took > kafkaPatience+time.Second {
			t.Errorf("it gave up after %v", took)
		}
	})
}

func TestTheGateRefusesMissingTopicsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		began := time.Now()
		g, ended, _ := gated(t, b.Dial, b.Addrs()...)
		if err := <-ended; codeOf(err) != "topics_wrong" || time.Since(began) > time.Second || isOpen(g) {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// A process that waits for Kafka must not look like one that hangs: whoever watches it would restart it.
func TestHealthIsServedWhileAServiceWaitsForKafka(t *testing.T) {
	cfg := defaultConfig()
	cfg.Kafka.Brokers, cfg.Host.Listen = []string{"127.0.0.1:1"}, "127.0.0.1:0" // nobody listens on port 1
	core, log := observer.New(zapcore.InfoLevel)
	p, err := newPipeline(cfg, secrets.Generate(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.runBehindGate(ctx, []string{"router", "deliverer"}) }()
	get := func(path string) (int, string) {
		served := log.FilterMessageSnippet("serving").All()
		if len(served) == 0 {
			return 0, ""
		}
		res, err := http.Get("http://" + served[0].ContextMap()["address"].(string) + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(5 * time.Second)
	const waits = "topics: no answer from Kafka: "
	for code, text := get("/readyz"); code != http.StatusServiceUnavailable || !strings.HasPrefix(text, waits) || strings.Count(text, "\n") != 1; code, text = get("/readyz") {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("/readyz answers %d %q", code, text)
		}
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d", code)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped while it waited: %v", err)
	}
}
