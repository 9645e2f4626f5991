package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// virtualApp is an app whose Kafka is reached with dial, on a bubble's virtual time.
func virtualApp(t *testing.T, addrs []string, dial func(context.Context, string, string) (net.Conn, error)) (a *app, out, errOut *bytes.Buffer) {
	t.Helper()
	cfg := defaultConfig()
	cfg.Kafka.Brokers, cfg.Kafka.Partitions, cfg.Kafka.ReplicationFactor = addrs, 1, 1
	client, err := kafka.Open(cfg.Kafka, kafka.Options{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secrets.NewKeyring("k1:" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	if err != nil {
		t.Fatal(err)
	}
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	a = &app{in: strings.NewReader(""), out: out, errOut: errOut, config: &cfg, client: client, keys: keys}
	t.Cleanup(func() {
		a.close()
		client.Close()
	})
	return a, out, errOut
}

// virtualKafka is virtualApp with a broker that has all topics.
func virtualKafka(t *testing.T, control ...func(*sandbox.Broker)) (a *app, out, errOut *bytes.Buffer) {
	t.Helper()
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	a, out, errOut = virtualApp(t, b.Addrs(), b.Dial)
	if _, err := a.client.CreateTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range control {
		c(b)
	}
	return a, out, errOut
}

func codeOf(err error) string {
	var c coded
	if !errors.As(err, &c) {
		return ""
	}
	return c.Code()
}

// A broker that takes the connection and then says nothing is the worst case: nothing refuses, nothing fails.
func TestEveryCommandEndsWhenKafkaDoesNotAnswer(t *testing.T) {
	silent := func(context.Context, string, string) (net.Conn, error) {
		here, _ := net.Pipe()
		return here, nil
	}
	for name, c := range map[string]struct {
		make func(*app) *cobra.Command
		args string
	}{
		"subscriptions list":   {subscriptionsCommand, "list"},
		"subscriptions show":   {subscriptionsCommand, "show x"},
		"subscriptions create": {subscriptionsCommand, "create --company c --name n --url https://hooks.example.com/ --events *"},
		"subscriptions update": {subscriptionsCommand, "update x --name y"},
		"subscriptions delete": {subscriptionsCommand, "delete x --yes"},
		"subscriptions pause":  {subscriptionsCommand, "pause x"},
		"subscriptions resume": {subscriptionsCommand, "resume x"},
		"attempts":             {attemptsCommand, ""},
		"attempts --follow":    {attemptsCommand, "--follow"},
		"dead list":            {deadCommand, "list"},
		"dead redrive":         {deadCommand, "redrive --all"},
		"undecodable list":     {undecodableCommand, "list"},
		"undecodable reroute":  {undecodableCommand, "reroute --all"},
		"lag":                  {lagCommand, ""},
		"verify":               {verifyCommand, "--subscription x"},
		"replay create":        {replayCommand, "create --all --from 1h"},
		"replay list":          {replayCommand, "list"},
		"replay show":          {replayCommand, "show x --watch"},
		"replay cancel":        {replayCommand, "cancel x"},
		"recent":               {recentCommand, "--company c"},
		"recent snapshot":      {recentCommand, "snapshot --company c"},
		"publish":              {publishCommand, "--sample 1"},
		"topics check":         {topicsCommand, "check"},
		"topics create":        {topicsCommand, "create"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _, _ := virtualApp(t, []string{"broker.test:9092"}, silent)
				began := time.Now()
				err := execute(t, c.make(a), strings.Fields(c.args)...)
				if took := time.Since(began); codeOf(err) != "kafka_unreachable" || took > 15*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				if err != nil && !strings.Contains(err.Error(), "broker.test:9092") {
					t.Errorf("the error does not say which Kafka: %v", err)
				}
			})
		})
	}
}

// The brokers let us see topics, and not what a group has committed: no try will change that, and nobody sees that the command tries.
func TestACommandThatMayNotSeeAGroupEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := virtualKafka(t, func(b *sandbox.Broker) {
			c := b.Cluster()
			c.ControlKey(int16(kmsg.OffsetFetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				denied := q.ResponseKind().(*kmsg.OffsetFetchResponse)
				denied.ErrorCode = kerr.GroupAuthorizationFailed.Code
				return denied, nil, true
			})
		})
		if err := execute(t, lagCommand(a)); codeOf(err) != "kafka_denied" {
			t.Error(err)
		}
	})
}

func TestRatesThatAreNoneAreRefused(t *testing.T) {
	for _, rate := range []string{"nan", "inf", "-1", "1e-10"} {
		a := &app{out: new(bytes.Buffer), errOut: new(bytes.Buffer)}
		if err := execute(t, devCommand(a), "--rate", rate); codeOf(err) != "usage" {
			t.Errorf("dev --rate %s: %v", rate, err)
		}
		if rate == "1e-10" { // one event now, and the next in three centuries
			continue
		}
		if err := execute(t, publishCommand(a), "--sample", "1", "--rate", rate); codeOf(err) != "usage" {
			t.Errorf("publish --rate %s: %v", rate, err)
		}
	}
}

// fill makes a topic's partition so long that an order over it has something to wait for.
func fill(t *testing.T, c *kafka.Client, topic string) {
	t.Helper()
	var r kafka.Records
	r.Add(kafka.TP{Topic: topic}, []byte("k"), nil, []byte("v"))
	if _, err := c.NewAppender(kafka.AppenderConfig{}).Append(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
}

// Nobody runs who could work it off; after a while somebody takes it back.
func TestWhoWaitsForAnOrderLearnsThatNobodyWorksAndThatItWasCancelled(t *testing.T) {
	for name, c := range map[string]struct {
		topic  func(kafka.Names) string
		order  func(context.Context, *kafka.Client) (*schemas.Replay, error)
		follow func(context.Context, *app, *schemas.Replay) error
		cancel func(context.Context, *kafka.Client, *schemas.Replay) error
		hint   string
	}{
		"redrive": {
			func(n kafka.Names) string { return n.Dead },
			func(ctx context.Context, c *kafka.Client) (*schemas.Replay, error) {
				return deliverer.OrderRedrive(ctx, c, schemas.Replay{})
			},
			func(ctx context.Context, a *app, o *schemas.Replay) error {
				return a.followRedrive(ctx, a.client, o, false)
			},
			func(ctx context.Context, c *kafka.Client, o *schemas.Replay) error {
				return deliverer.CancelRedrive(ctx, c, o.ID)
			},
			"no deliverer seems to run",
		},
		"reroute": {
			func(n kafka.Names) string { return n.Undecodable },
			func(ctx context.Context, c *kafka.Client) (*schemas.Replay, error) {
				return router.StartReroute(ctx, c, router.RerouteFilter{})
			},
			func(ctx context.Context, a *app, o *schemas.Replay) error {
				return a.followReroutes(ctx, a.client, []*schemas.Replay{o})
			},
			router.CancelReroute,
			"no router seems to run",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _, errOut := virtualKafka(t)
				fill(t, a.client, c.topic(a.client.Topics()))
				o, err := c.order(t.Context(), a.client)
				if err != nil {
					t.Fatal(err)
				}
				standing := *o
				ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
				defer stop()
				ended := make(chan error, 1)
				go func() { ended <- c.follow(ctx, a, o) }()
				select {
				case err := <-ended:
					t.Fatalf("it ended while the order stood: %v", err)
				case <-time.After(45 * time.Second):
				}
				if err := c.cancel(ctx, a.client, &standing); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; codeOf(err) != "replay_cancelled" || !strings.Contains(err.Error(), standing.ID) {
					t.Errorf("after it was cancelled: %v", err)
				}
				if s := errOut.String(); strings.Count(s, c.hint) != 1 {
					t.Errorf("%q does not say once that %s", s, c.hint)
				}
			})
		})
	}
}

// "nothing waits" would look like an answer about a subscription that there is. Whoever only looks needs no keys for it.
func TestASubscriptionThatNobodyKnowsIsRefused(t *testing.T) {
	for name, make := range map[string]func(*app) *cobra.Command{
		"redrive": deadCommand, "": lagCommand, "--limit 5": attemptsCommand, "--follow": attemptsCommand,
	} {
		synctest.Test(t, func(t *testing.T) {
			a, out, _ := virtualKafka(t)
			a.keys = nil
			args := append(strings.Fields(name), "--subscription", "sub_nobody")
			if err := execute(t, make(a), args...); codeOf(err) != subscriptions.CodeNotFound || out.Len() > 0 {
				t.Errorf("%v: %v, and it printed %q", args, err, out)
			}
		})
	}
}

// Ten seconds of silence look like a command that hangs.
func TestWhoWaitsForKafkasFirstAnswerSeesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, errOut := virtualApp(t, []string{"broker.test:9092"}, func(context.Context, string, string) (net.Conn, error) {
			here, _ := net.Pipe()
			return here, nil
		})
		execute(t, lagCommand(a))
		if s := errOut.String(); !strings.HasPrefix(s, "waiting for Kafka's first answer: 1.0s of 10.0s\n") {
			t.Errorf("%q", s)
		}
	})
}

// Ctrl-C while create waits for its cut: the subscription stands, so its secret must be told.
func TestAnInterruptedCreateTellsTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, out, errOut := virtualKafka(t)
		if _, err := a.table(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, interrupt := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer interrupt()
		c := subscriptionsCommand(a)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs(strings.Fields("create --company c --name n --url https://hooks.example.com/ --events *"))
		if err := c.ExecuteContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is gone: %v", err)
		}
		for l := range a.subs.All() {
			s, err := l.SigningSecrets()
			if err != nil || len(s) != 1 {
				t.Fatal(s, err)
			}
			if !strings.Contains(out.String(), l.ID) || !strings.Contains(out.String(), string(s[0].Reveal())) || !strings.Contains(errOut.String(), l.ID) {
				t.Errorf("the subscription %s stands, and this was said:\n%s%s", l.ID, out, errOut)
			}
		}
		if a.subs.Len() != 1 {
			t.Errorf("%d subscriptions stand", a.subs.Len())
		}
	})
}
