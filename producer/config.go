package producer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// What the connection to Kafka and to a schema registry is made of. They are aliases because their home is internal.
type (
	TLSConfig      = kafka.TLSConfig
	SASLConfig     = kafka.SASLConfig
	RegistryConfig = kafka.RegistryConfig
)

// Config is how a Producer publishes. Start from DefaultConfig.
type Config struct {
	Brokers     []string // host:port of some brokers; the others are learned from them
	TopicPrefix string   // of the deployment; an entity's topic is this, "events.", and its name
	TLS         TLSConfig
	SASL        SASLConfig

	// Registry: with a URL, the schemas are registered under "<topic>-value" when the Producer is made, and events carry their ids (Confluent's wire
	// format). Without one, events carry their schema's fingerprint (Avro's single-object encoding), and nothing is registered anywhere.
	Registry RegistryConfig
	// Entities whose schemas are registered; empty: all ten. No matter without a registry, but for recent_reservations: that is Hookferry's own, and only
	// who names it can publish it.
	Entities []string

	// Compression of batches: "none", "gzip", "snappy", "lz4" or "zstd". Events are text-like and shrink to about a third.
	Compression string
	// SendTimeout is how long an event is tried once it was handed over; brokers that fail over take seconds. After it, the event is rejected or its
	// fate unknown. The context of Publish can only end the wait earlier.
	SendTimeout time.Duration
	// MaxEventBytes is the most that an event may be, encoded. Topics take 1 MiB; a lower bound is yours to set.
	MaxEventBytes int
	// MaxBuffered is how many bytes of events may wait for their acknowledgement. Publish blocks while it is reached.
	MaxBuffered int

	ClientID string
	Log      *zap.Logger // nil: none
	// Dial opens connections to brokers; nil: the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// LargestEvent is what the events topics take, in bytes of the record's value.
const LargestEvent = 1 << 20

// DefaultConfig is one local broker, no registry.
func DefaultConfig() Config {
	k := kafka.DefaultConfig()
	return Config{
		Brokers: k.Brokers, TopicPrefix: k.TopicPrefix, Registry: k.Registry,
		Compression: "lz4", SendTimeout: 30 * time.Second, MaxEventBytes: LargestEvent, MaxBuffered: 64 << 20, ClientID: "hookferry-producer",
	}
}

var codecs = map[string]kafka.Codec{"none": kafka.None, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}

// Validate names every mistake, by field.
func (c Config) Validate() error {
	return errors.Join(c.kafka().Validate(), c.validateOwn())
}

func (c Config) validateOwn() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &ConfigError{field, fmt.Sprintf(format, args...)})
	}
	if _, ok := codecs[c.Compression]; !ok {
		bad("compression", "%q is none of none, gzip, snappy, lz4, zstd", c.Compression)
	}
	if c.SendTimeout < 100*time.Millisecond || c.SendTimeout > time.Hour {
		bad("send_timeout", "%v is not within 100ms (less than a slow acknowledgement) and 1h", c.SendTimeout)
	}
	if c.MaxEventBytes < 1024 || c.MaxEventBytes > LargestEvent {
		bad("max_event_bytes", "%d is not within 1024 (an event's meta alone is 500) and %d (what the topics take)", c.MaxEventBytes, LargestEvent)
	}
	if c.MaxBuffered < LargestEvent {
		bad("max_buffered", "%d is less than one event may be (%d)", c.MaxBuffered, LargestEvent)
	}
	for i, e := range c.Entities {
		if !slices.Contains(schemas.AllEntities(), e) {
			bad(fmt.Sprintf("entities[%d]", i), "%q is no entity; there are %v", e, schemas.AllEntities())
		}
	}
	return errors.Join(errs...)
}

// ConfigError is one mistake in a Config.
type ConfigError struct{ Field, Problem string }

func (e *ConfigError) Error() string { return e.Field + ": " + e.Problem }

// Code is the stable name of the error.
func (e *ConfigError) Code() string { return "config_invalid" }

// kafka is the part of the configuration that is the client's.
func (c Config) kafka() kafka.Config {
	k := kafka.DefaultConfig()
	k.Brokers, k.TopicPrefix, k.TLS, k.SASL, k.Registry = c.Brokers, c.TopicPrefix, c.TLS, c.SASL, c.Registry
	return k
}
