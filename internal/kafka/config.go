package kafka

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config says where Kafka is and what the topics of this deployment look like.
type Config struct {
	Brokers     []string `yaml:"brokers"`      // host:port of some brokers; the others are learned from them
	TopicPrefix string   `yaml:"topic_prefix"` // stands before every topic name
	Partitions  int      `yaml:"partitions"`   // of every topic; fixed for the life of a deployment
	// ReplicationFactor of topics that are created. 0: as the broker's default.replication.factor says.
	ReplicationFactor int             `yaml:"replication_factor"`
	TLS               TLSConfig       `yaml:"tls"`
	SASL              SASLConfig      `yaml:"sasl"`
	Tiers             []time.Duration `yaml:"tiers"` // waits of the retry topics, ascending
	Retention         RetentionConfig `yaml:"retention"`
	// CompactionLag is min.compaction.lag.ms of the compacted topics: how long a record of an older version surely stays readable.
	CompactionLag time.Duration `yaml:"compaction_lag"`
	// SessionTimeout is how long the coordinator of a group waits for a sign of life from a member before it gives its partitions to others.
	SessionTimeout time.Duration `yaml:"session_timeout"`
	// TopicConfigs adds to or overrides the settings of single topics, by their name without the prefix ("subscriptions").
	TopicConfigs map[string]map[string]string `yaml:"topic_configs"`
	Registry     RegistryConfig               `yaml:"registry"`
}

// RetentionConfig says how long records are kept.
type RetentionConfig struct {
	Events      time.Duration `yaml:"events"` // also of the task topics: how far back a replay reaches
	Attempts    time.Duration `yaml:"attempts"`
	Dead        time.Duration `yaml:"dead"`
	Undecodable time.Duration `yaml:"undecodable"`
}

// TLSConfig says how to speak TLS to the brokers.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled"`
	CAFile     string `yaml:"ca_file"`     // PEM; empty: the system's
	CertFile   string `yaml:"cert_file"`   // PEM client certificate, with KeyFile
	KeyFile    string `yaml:"key_file"`    // PEM
	ServerName string `yaml:"server_name"` // empty: the host that was dialled
}

// SASLConfig says how to authenticate to the brokers.
type SASLConfig struct {
	Mechanism string   `yaml:"mechanism"` // "", PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
	User      string   `yaml:"user"`
	Password  Password `yaml:"password"`
}

const day = 24 * time.Hour

// DefaultConfig is a deployment on one local broker.
func DefaultConfig() Config {
	return Config{
		Brokers:       []string{"127.0.0.1:9092"},
		TopicPrefix:   "hookferry.",
		Partitions:    12,
		Tiers:         []time.Duration{5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour},
		Retention:     RetentionConfig{Events: 14 * day, Attempts: 7 * day, Dead: 30 * day, Undecodable: 30 * day},
		CompactionLag: time.Hour, SessionTimeout: 6 * time.Second,
		Registry: DefaultRegistryConfig(),
	}
}

// FieldError is one mistake in a configuration.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Code is stable: programs may compare it.
func (e *FieldError) Code() string { return "config_invalid" }

var legalPrefix = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)

// Validate names every mistake at once, by field, with the reason for each bound.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{field, fmt.Sprintf(format, args...)})
	}
	if len(c.Brokers) == 0 {
		bad("brokers", "name at least one broker, as host:port")
	}
	for i, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			bad(fmt.Sprintf("brokers[%d]", i), "%q is not host:port", b)
		}
	}
	if !legalPrefix.MatchString(c.TopicPrefix) || len(c.TopicPrefix) > 200 {
		bad("topic_prefix", "%q: Kafka allows letters, digits, '.', '_' and '-' in topic names, and 249 characters with our own names behind it", c.TopicPrefix)
	}
	if c.Partitions < 1 || c.Partitions > 1024 {
		bad("partitions", "%d: must lie between 1 and 1024, because every fetch names them all", c.Partitions)
	}
	if c.ReplicationFactor < 0 || c.ReplicationFactor > 15 {
		bad("replication_factor", "%d: must lie between 0 (the broker's default) and 15", c.ReplicationFactor)
	}
	c.validateTimes(bad)
	c.validateAccess(bad)
	if err := c.Registry.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("registry: %w", err))
	}
	return errors.Join(errs...)
}

func (c Config) validateTimes(bad func(field, format string, args ...any)) {
	if len(c.Tiers) == 0 || len(c.Tiers) > 16 {
		bad("tiers", "%d tiers: there must be 1 to 16, because each is a topic", len(c.Tiers))
	}
	for i, t := range c.Tiers {
		if t < time.Second || t > 24*time.Hour {
			bad(fmt.Sprintf("tiers[%d]", i), "%v: must lie between 1s (less is waited in memory) and 24h", t)
		} else if t%time.Second != 0 {
			bad(fmt.Sprintf("tiers[%d]", i), "%v: must be whole seconds, because the topic is named after it", t)
		}
		if i > 0 && t <= c.Tiers[i-1] {
			bad(fmt.Sprintf("tiers[%d]", i), "%v: must be longer than the tier before it", t)
		}
	}
	longest := time.Duration(0)
	if len(c.Tiers) > 0 {
		longest = slices.Max(c.Tiers)
	}
	for _, r := range []struct {
		field string
		d     time.Duration
		min   time.Duration
		why   string
	}{
		{"retention.events", c.Retention.Events, max(time.Hour, 2*longest), "tasks wait in topics that are kept as long, and must outlive the longest tier twice over"},
		{"retention.attempts", c.Retention.Attempts, time.Minute, "else there is nothing to look up"},
		{"retention.dead", c.Retention.Dead, time.Hour, "else there is nothing to redrive"},
		{"retention.undecodable", c.Retention.Undecodable, time.Hour, "else there is nothing to reroute"},
	} {
		if r.d < r.min {
			bad(r.field, "%v: must be at least %v: %s", r.d, r.min, r.why)
		}
	}
	if c.CompactionLag < 0 || c.CompactionLag > 30*day {
		bad("compaction_lag", "%v: must lie between 0 and 720h", c.CompactionLag)
	}
	if c.SessionTimeout < time.Second || c.SessionTimeout > time.Minute {
		bad("session_timeout", "%v: must lie between 1s, because a busy machine misses shorter ones without being dead, and 1m, because the tasks of a "+
			"process that died wait so long", c.SessionTimeout)
	}
}

func (c Config) validateAccess(bad func(field, format string, args ...any)) {
	known := c.names().short()
	for name := range c.TopicConfigs {
		if !slices.Contains(known, name) {
			bad("topic_configs."+name, "no such topic; there are %s", strings.Join(known, ", "))
		}
	}
	if !c.TLS.Enabled && (c.TLS.CAFile != "" || c.TLS.CertFile != "" || c.TLS.KeyFile != "" || c.TLS.ServerName != "") {
		bad("tls.enabled", "is false, but other tls settings are given: they would have no effect")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls.cert_file", "cert_file and key_file belong together")
	}
	switch c.SASL.Mechanism {
	case "":
		if c.SASL.User != "" || c.SASL.Password != "" {
			bad("sasl.mechanism", "is empty, but a user or password is given; choose PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
		}
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if c.SASL.User == "" {
			bad("sasl.user", "is needed for %s", c.SASL.Mechanism)
		}
		if c.SASL.Password == "" {
			bad("sasl.password", "is needed for %s", c.SASL.Mechanism)
		}
	default:
		bad("sasl.mechanism", "%q: must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASL.Mechanism)
	}
}
