package deliverer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

// RedisConfig says where the marks are kept. One Redis server (6.2 or later), no Sentinel and no Cluster: losing it costs duplicates, never an event.
type RedisConfig struct {
	// Addr is host:port. Empty: no marks at all; after a crash everything since the last commit is sent again.
	Addr     string          `yaml:"addr"`
	Username string          `yaml:"username"` // ACL user; empty: the default user
	Password kafka.Password  `yaml:"password"`
	DB       int             `yaml:"db"`
	TLS      kafka.TLSConfig `yaml:"tls"`
	// Buckets is how many small sets an hour's marks are spread over: a power of two. All deliverers of a deployment must agree.
	Buckets int `yaml:"buckets"`
	// Budget is how long a batch may wait for Redis; then it goes on without marks.
	Budget time.Duration `yaml:"budget"`

	// Dial replaces the network for a world without one. TLS goes over what it returns.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `yaml:"-"`
}

// DefaultRedisConfig is a Redis on this machine, with room for 29 million marks an hour in small sets.
func DefaultRedisConfig() RedisConfig {
	return RedisConfig{Addr: "127.0.0.1:6379", Buckets: minBuckets, Budget: 50 * time.Millisecond}
}

// A mark is compared by its bucket and 64 bits in it: 2^16 buckets make the 80 bits that the design asks for. 20 bits of a task id name the bucket.
// The largest number still takes 2^20 x 450 marks an hour, 130,000 a second.
const (
	minBuckets = 1 << 16
	maxBuckets = 1 << bucketBits
	bucketBits = 20
)

// Validate names every mistake at once, by field, with the reason for each bound.
func (c RedisConfig) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &kafka.FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	if c.Addr != "" {
		if host, port, err := net.SplitHostPort(c.Addr); err != nil || host == "" || port == "" {
			bad("addr", "%q is not host:port", c.Addr)
		}
	}
	if c.Username != "" && c.Password == "" {
		bad("password", "is needed for user %q", c.Username)
	}
	if c.DB < 0 {
		bad("db", "%d: Redis counts its databases from 0", c.DB)
	}
	if c.Buckets < minBuckets || c.Buckets > maxBuckets || bits.OnesCount(uint(c.Buckets)) != 1 {
		bad("buckets", "%d: must be a power of two from %d (fewer would compare less than 80 bits) to %d", c.Buckets, minBuckets, maxBuckets)
	}
	if c.Budget < time.Millisecond || c.Budget > time.Second {
		bad("budget", "%s: must lie between 1ms (no round trip is sooner) and 1s (deliveries wait for it)", c.Budget)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls", "cert_file and key_file go together")
	}
	if !c.TLS.Enabled && (c.TLS.CAFile != "" || c.TLS.CertFile != "" || c.TLS.ServerName != "") {
		bad("tls.enabled", "is false, but other fields of tls are set (did you mean true?)")
	}
	return errors.Join(errs...)
}

// tlsConfig reads the files; nil if TLS is off.
func (c RedisConfig) tlsConfig() (*tls.Config, error) {
	if !c.TLS.Enabled {
		return nil, nil
	}
	host, _, _ := net.SplitHostPort(c.Addr)
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLS.ServerName}
	if t.ServerName == "" {
		t.ServerName = host
	}
	if c.TLS.CAFile != "" {
		pem, err := os.ReadFile(c.TLS.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.tls.ca_file: no certificate in %s (is it PEM?)", c.TLS.CAFile)
		}
	}
	if c.TLS.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.cert_file: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
