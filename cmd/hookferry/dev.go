package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/internal/host"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/schemas"
)

const devCompany = "acme"

func devCommand(a *app) *cobra.Command {
	var rate float64
	var bodies bool
	c := &cobra.Command{
		Use:   "dev",
		Short: "A whole world in one process: broker, Redis, publisher, router, deliverer, recent reservations, receiver. Not for production",
		Long: `Run everything in one process, with nothing installed: a Kafka broker and a Redis in memory, sample events of all 26 types, router, deliverer, and a
receiver that verifies and prints what comes. It is NOT for production: what is in memory is gone when it ends.

It prints how other commands can be pointed at it, so that subscriptions can be created and attempts watched beside it.`,
		Example: "  hookferry dev --rate 2",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if rate != 0 && !(rate >= 0.001 && rate <= 10000) {
				return usagef("--rate %v is neither 0 nor within 0.001 and 10000 events per second", rate)
			}
			fmt.Fprintln(a.out, "hookferry dev: NOT FOR PRODUCTION. Broker and Redis live in this process and are gone when it ends; http and loopback are allowed.")
			w, err := a.startEmbedded(sandbox.ReceiverConfig{Forget: true, Notify: func(got *sandbox.Received) { a.printReceived(got, bodies) }})
			if err != nil {
				return err
			}
			defer w.close()
			if w.cfg.Host.Listen, err = freeAddress(w.cfg.Host.Listen); err != nil {
				return err
			}
			if w.cfg.Recent.Listen, err = freeAddress(w.cfg.Recent.Listen); err != nil {
				return err
			}
			w.cfg.Recent.URL = "http://" + w.cfg.Recent.Listen
			dir, err := w.leaveConfig()
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			p, err := w.pipeline(c.Context())
			if err != nil {
				return err
			}
			defer p.close()
			w.explain(a, filepath.Join(dir, configName))
			return p.run(c.Context(), allRoles, &samplePublisher{app: a, pipeline: p, receiver: w.receiver, rate: rate})
		},
	}
	c.Flags().Float64Var(&rate, "rate", 1, "sample events to publish per second (0: none)")
	c.Flags().BoolVar(&bodies, "bodies", false, "print the bodies that arrive too")
	return c
}

// embedded is a world in this process, on free ports of 127.0.0.1.
type embedded struct {
	cfg      Config
	log      *zap.Logger
	keyText  string
	keys     *secrets.Keyring
	broker   *sandbox.Broker
	redis    *sandbox.Redis
	receiver *sandbox.Receiver
}

// startEmbedded starts broker, Redis and receiver, and makes the configuration that leads to them out of the one in force. Its log is for people.
func (a *app) startEmbedded(rc sandbox.ReceiverConfig) (_ *embedded, err error) {
	cfg, err := a.cfg()
	if err != nil {
		return nil, err
	}
	if cfg.Log == host.DefaultLogConfig() {
		cfg.Log = host.LogConfig{Format: "console", Level: "warn"}
	}
	w := &embedded{log: host.NewLogger(cfg.Log, a.errOut)}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	key := make([]byte, 32)
	rand.Read(key)
	w.keyText = "dev:" + base64.StdEncoding.EncodeToString(key)
	if w.keys, err = secrets.NewKeyring(w.keyText); err != nil {
		return nil, err
	}
	// The stand-in's default would make us warn about a retention that nobody is here long enough to see.
	retention := kfake.BrokerConfigs(map[string]string{"offsets.retention.minutes": "43200"})
	if w.broker, err = sandbox.StartBroker(sandbox.BrokerConfig{Options: []kfake.Opt{retention}}); err != nil {
		return nil, err
	}
	if w.redis, err = sandbox.StartRedis(sandbox.RedisConfig{}); err != nil {
		return nil, err
	}
	if w.receiver, err = sandbox.StartReceiver(rc); err != nil {
		return nil, err
	}
	cfg.Kafka.Brokers, cfg.Kafka.ReplicationFactor = w.broker.Addrs(), 1
	cfg.Kafka.TLS, cfg.Kafka.SASL, cfg.Kafka.Registry = kafka.TLSConfig{}, kafka.SASLConfig{}, kafka.DefaultRegistryConfig()
	cfg.Redis = deliverer.DefaultRedisConfig()
	cfg.Redis.Addr = w.redis.Addr
	cfg.Redis.Budget = 500 * time.Millisecond // everything shares this process's cores: what is late here is not down
	cfg.Recent = recent.DefaultConfig()
	cfg.Egress.AllowHTTP, cfg.Egress.Ports, cfg.Egress.ForwardProxy = true, []int{0}, ""
	cfg.Egress.AllowRanges = append(cfg.Egress.AllowRanges, "127.0.0.0/8")
	w.cfg = cfg
	return w, cfg.Validate()
}

func (w *embedded) close() {
	if w.receiver != nil {
		w.receiver.Close()
	}
	if w.redis != nil {
		w.redis.Close()
	}
	if w.broker != nil {
		w.broker.Close()
	}
}

// pipeline makes the topics and what the services share.
func (w *embedded) pipeline(ctx context.Context) (*pipeline, error) {
	p, err := newPipeline(w.cfg, w.keys, w.log)
	if err != nil {
		return nil, err
	}
	if _, err := p.kafka.CreateTopics(ctx); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

const configName = "hookferry.yml"

// leaveConfig writes the configuration and the key into a directory of their own, for other commands to be pointed at this world.
func (w *embedded) leaveConfig() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "hookferry-dev-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	w.cfg.Secrets.KeyFile = filepath.Join(dir, "keys")
	if err := os.WriteFile(w.cfg.Secrets.KeyFile, []byte(w.keyText+"\n"), 0o600); err != nil {
		return "", err
	}
	text, err := yaml.Marshal(tree(reflect.ValueOf(w.cfg), ""))
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, configName), text, 0o600)
}

func (w *embedded) explain(a *app, config string) {
	fmt.Fprintf(a.out, `
  Kafka     %s
  Redis     %s
  receiver  %s   (also /status/503, /hang, /flap/2 and more: hookferry listen --help)
  metrics   http://%s/metrics

Point other commands at it, from another terminal:

  export %s=%s
  hookferry subscriptions list
  hookferry attempts --follow
  hookferry recent --company %s

`, w.cfg.Kafka.Brokers[0], w.cfg.Redis.Addr, w.receiver.URL("/ok"), w.cfg.Host.Listen, envConfig, config, devCompany)
}

// freeAddress is addr if nobody listens there, else a free one on this machine.
func freeAddress(addr string) (string, error) {
	for _, try := range []string{addr, "127.0.0.1:0"} {
		if l, err := net.Listen("tcp", try); err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		} else if try != addr {
			return "", err
		}
	}
	panic("BUG: the last address was tried")
}

// samplePublisher is a service: it subscribes the receiver to everything of one company, then publishes events of all types in turn.
type samplePublisher struct {
	app      *app
	pipeline *pipeline
	receiver *sandbox.Receiver
	rate     float64
}

// Name is the service's name.
func (s *samplePublisher) Name() string { return "samples" }

// Run publishes until ctx ends.
func (s *samplePublisher) Run(ctx context.Context) error {
	err := s.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *samplePublisher) run(ctx context.Context) error {
	p := s.pipeline
	select {
	case <-p.table.Loaded():
	case <-ctx.Done():
		return ctx.Err()
	}
	live, secret, err := p.writer.Create(ctx, subscriptions.Draft{Company: devCompany, Name: "dev", URL: s.receiver.URL("/ok/dev"), Events: []string{"*"}})
	if err != nil {
		return err
	}
	if err := s.receiver.Trust("/ok/dev", string(secret.Reveal())); err != nil {
		return err
	}
	fmt.Fprintf(s.app.out, "subscription %s of company %s wants everything; what arrives is printed below. Ctrl-C ends it.\n\n", live.ID, devCompany)
	if s.rate == 0 {
		<-ctx.Done()
		return nil
	}
	cfg := producer.DefaultConfig()
	cfg.Brokers, cfg.TopicPrefix = p.cfg.Kafka.Brokers, p.cfg.Kafka.TopicPrefix
	publisher, err := producer.Over(ctx, p.kafka, cfg)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Duration(float64(time.Second) / s.rate))
	defer tick.Stop()
	rng := mathrand.New(mathrand.NewPCG(uint64(time.Now().UnixNano()), 0))
	types := schemas.EventTypes()
	for n := 0; ; n++ {
		err := publisher.Publish(ctx, sandbox.Sample(rng, types[n%len(types)].Name, devCompany, int64(n/len(types))))
		if err != nil {
			return errors.Join(err, publisher.Close(context.WithoutCancel(ctx)))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return publisher.Close(context.WithoutCancel(ctx))
		}
	}
}
