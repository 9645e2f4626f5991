package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"go.uber.org/zap"
)

// Options are what a process decides for all its Kafka traffic.
type Options struct {
	// Dial opens a connection to a broker; nil dials the real network. TLS and SASL go over what it returns.
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	Log      *zap.Logger // nil: none
	ClientID string      // default "hookferry"
	// Heartbeat is how often a member of a group shows that it lives, and how soon it learns that another joins or leaves; 0: 100 ms. LeastWait is the least
	// time that a broker holds an empty fetch; 0: none. Worlds in virtual time, where hours of idling must cost little, set them.
	Heartbeat time.Duration
	LeastWait time.Duration
}

// Client is one process's access to a cluster. Safe for concurrent use.
type Client struct {
	cfg      Config
	names    Names
	clientID string
	log      *zap.Logger
	calm     struct{ heartbeat, leastWait time.Duration }
	dialNet  func(ctx context.Context, network, addr string) (net.Conn, error)
	tls      *tls.Config
	sasl     sasl.Mechanism
	registry *Registry

	conns pool
	meta  cluster
	skew  skew

	ctx    context.Context // ends with Close; what works in the background lives in it
	cancel context.CancelFunc
	work   sync.WaitGroup
	starts sync.Mutex // keeps work.Add away from work.Wait
}

// start runs fn as background work that Close waits for. false: closed already.
func (c *Client) start(fn func()) bool {
	c.starts.Lock()
	defer c.starts.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Go(fn)
	return true
}

// Open checks the configuration and makes a Client; it makes no round trip.
func Open(cfg Config, o Options) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, names: cfg.names(), clientID: o.ClientID, log: o.Log, dialNet: o.Dial}
	if c.clientID == "" {
		c.clientID = "hookferry"
	}
	c.calm.heartbeat, c.calm.leastWait = cmp.Or(o.Heartbeat, heartbeat), o.LeastWait
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if c.dialNet == nil {
		c.dialNet = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	var err error
	if c.tls, err = cfg.TLS.config(); err != nil {
		return nil, err
	}
	if c.sasl, err = cfg.SASL.mechanism(); err != nil {
		return nil, err
	}
	if cfg.Registry.URL != "" {
		if c.registry, err = NewRegistry(cfg.Registry); err != nil {
			return nil, err
		}
	}
	c.conns.idle, c.conns.held = map[string][]*conn{}, map[*conn]bool{}
	c.meta.topics, c.meta.wanted = map[string]map[int32]int32{}, map[string]bool{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends what works in the background for this Client and closes its connections. Fetchers and Groups are ended by who runs them, before.
func (c *Client) Close() {
	c.starts.Lock()
	c.cancel()
	c.starts.Unlock()
	c.work.Wait()
	c.conns.close()
}

// Topics are the topics of this deployment.
func (c *Client) Topics() Names { return c.names }

// Config is what the Client was opened with.
func (c *Client) Config() Config { return c.cfg }

// Registry is the schema registry, nil without one.
func (c *Client) Registry() *Registry { return c.registry }

// ClusterID is the id that the cluster was formatted with.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	if err := c.refresh(ctx); err != nil {
		return "", err
	}
	c.meta.mu.Lock()
	defer c.meta.mu.Unlock()
	if c.meta.id == "" {
		return "", errors.New("the cluster has no id")
	}
	return c.meta.id, nil
}

func (t TLSConfig) config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	out := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, &FieldError{"tls.ca_file", err.Error()}
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &FieldError{"tls.ca_file", fmt.Sprintf("%s holds no PEM certificate", t.CAFile)}
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, &FieldError{"tls.cert_file", err.Error()}
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func (s SASLConfig) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "PLAIN":
		return plain.Mechanism{Username: s.User, Password: s.Password.Reveal()}, nil
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		algo := scram.SHA256
		if s.Mechanism == "SCRAM-SHA-512" {
			algo = scram.SHA512
		}
		m, err := scram.Mechanism(algo, s.User, s.Password.Reveal())
		if err != nil {
			return nil, &FieldError{"sasl", err.Error()}
		}
		return m, nil
	}
	return nil, nil
}

// dialer is for kafka-go's group client, which dials for itself.
func (c *Client) dialer() *kgo.Dialer {
	return &kgo.Dialer{ClientID: c.clientID, Timeout: dialTimeout, DialFunc: c.dialNet, TLS: c.tls, SASLMechanism: c.sasl}
}

// skew measures the broker's clock against ours by the append times in produce answers.
type skew struct {
	mu      sync.Mutex
	samples [31]skewSample
	n       int // samples ever taken
}

type skewSample struct {
	off time.Duration
	at  time.Time
}

// A clock that was put right must be believed again soon, also by who writes little: the last skewRecent decides alone if it holds skewEnough samples.
const (
	skewRecent = 5 * time.Second
	skewEnough = 3
)

// add takes a sample: the broker stamped a batch at stamped (ms) that was sent and acknowledged at these times of ours.
// The truth lies within the round trip, so its middle is wrong by half of it at most.
func (s *skew) add(stamped int64, sent, acked time.Time) {
	middle := sent.Add(acked.Sub(sent) / 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples[s.n%len(s.samples)] = skewSample{time.UnixMilli(stamped).Sub(middle), acked}
	s.n++
}

func (s *skew) median() time.Duration {
	s.mu.Lock()
	var all, recent []time.Duration
	now := time.Now()
	for _, sample := range s.samples[:min(s.n, len(s.samples))] {
		all = append(all, sample.off)
		if now.Sub(sample.at) < skewRecent {
			recent = append(recent, sample.off)
		}
	}
	s.mu.Unlock()
	if len(recent) >= skewEnough {
		all = recent
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Skew is the broker's clock minus ours, the median of recent appends to topics whose records the broker stamps; 0 until one was acknowledged.
func (c *Client) Skew() time.Duration { return c.skew.median() }

// BrokerNow is the broker's time now, as far as Skew knows.
func (c *Client) BrokerNow() time.Time { return time.Now().Add(c.Skew()) }
