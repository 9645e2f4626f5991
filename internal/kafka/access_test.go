package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// certificate makes a self-signed certificate for the loopback and writes it to a file.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"broker.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// TestEverythingSpeaksTLSAndSASL goes over our own connections and those of kafka-go's group client alike.
func TestEverythingSpeaksTLSAndSASL(t *testing.T) {
	pair, ca := certificate(t)
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			b, err := sandbox.StartBroker(sandbox.BrokerConfig{Options: []kfake.Opt{
				kfake.EnableSASL(), kfake.Superuser(mechanism, "ferry", "secret"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}),
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			speaksTLSAndSASL(t, b.Addrs(), ca, kafka.SASLConfig{Mechanism: mechanism, User: "ferry", Password: "secret"})
		})
	}
}

// The same with a real broker. HOOKFERRY_TEST_KAFKA_SECURE names the folder that `deploy/kafka/kafka.sh start --secure` fills.
func TestARealKafkaWithTLSAndSASL(t *testing.T) {
	dir := os.Getenv("HOOKFERRY_TEST_KAFKA_SECURE")
	if dir == "" {
		t.Skip("set HOOKFERRY_TEST_KAFKA_SECURE, as .ci/test-kafka does")
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	addrs, password := strings.Split(read("bootstrap"), ","), kafka.Password(read("password"))
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			speaksTLSAndSASL(t, addrs, filepath.Join(dir, "ca.pem"), kafka.SASLConfig{Mechanism: mechanism, User: "ferry", Password: password})
		})
	}
}

func speaksTLSAndSASL(t *testing.T, addrs []string, ca string, sasl kafka.SASLConfig) {
	t.Helper()
	w := &world{t: t, addrs: addrs, dial: (&net.Dialer{}).DialContext}
	c := w.config()
	c.ReplicationFactor = 1
	c.TLS = kafka.TLSConfig{Enabled: true, CAFile: ca}
	c.SASL = sasl
	cl := w.open(c, kafka.Options{})
	if _, err := cl.CreateTopics(w.ctx()); err != nil {
		t.Fatal(err)
	}
	tp := kafka.TP{Topic: cl.Topics().Retry}
	w.append(cl.NewAppender(kafka.AppenderConfig{}), tp, "x")
	w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{tp: 0}, count(1))
	gens := settle(w, c.Partitions, w.member(cl, kafka.GroupConfig{ID: c.TopicPrefix + "g", CoPartitioned: []string{tp.Topic}}, nil))
	if err := gens[0].Commit(w.ctx(), map[kafka.TP]kafka.Committed{tp: {Offset: 1}}); err != nil {
		t.Fatal(err)
	}

	for name, spoil := range map[string]func(*kafka.Config){
		"SASL":                    func(c *kafka.Config) { c.SASL.Password = "wrong" },
		"is ca_file the broker's": func(c *kafka.Config) { c.TLS.CAFile = "" },
		"is TLS missing":          func(c *kafka.Config) { c.TLS = kafka.TLSConfig{} },
		"not other.test":          func(c *kafka.Config) { c.TLS.ServerName = "other.test" },
	} {
		c := c
		spoil(&c)
		ctx, cancel := context.WithTimeout(w.ctx(), 5*time.Second)
		_, err := w.open(c, kafka.Options{}).ClusterID(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), sasl.Password.Reveal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryMistakeInTheConfigurationIsNamedAtOnce(t *testing.T) {
	if err := kafka.DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*kafka.Config){
		"brokers":                 func(c *kafka.Config) { c.Brokers = nil },
		"brokers[0]":              func(c *kafka.Config) { c.Brokers = []string{"nowhere"} },
		"topic_prefix":            func(c *kafka.Config) { c.TopicPrefix = "a b" },
		"partitions":              func(c *kafka.Config) { c.Partitions = 0 },
		"replication_factor":      func(c *kafka.Config) { c.ReplicationFactor = -1 },
		"tiers":                   func(c *kafka.Config) { c.Tiers = nil },
		"tiers[0]":                func(c *kafka.Config) { c.Tiers[0] = time.Millisecond },
		"tiers[1]":                func(c *kafka.Config) { c.Tiers[1] = c.Tiers[0] },
		"retention.events":        func(c *kafka.Config) { c.Retention.Events = time.Hour },
		"retention.attempts":      func(c *kafka.Config) { c.Retention.Attempts = 0 },
		"retention.dead":          func(c *kafka.Config) { c.Retention.Dead = 0 },
		"retention.undecodable":   func(c *kafka.Config) { c.Retention.Undecodable = 0 },
		"session_timeout":         func(c *kafka.Config) { c.SessionTimeout = 999 * time.Millisecond },
		"compaction_lag":          func(c *kafka.Config) { c.CompactionLag = -1 },
		"topic_configs.elsewhere": func(c *kafka.Config) { c.TopicConfigs = map[string]map[string]string{"elsewhere": nil} },
		"tls.enabled":             func(c *kafka.Config) { c.TLS.CAFile = "x" },
		"tls.cert_file":           func(c *kafka.Config) { c.TLS = kafka.TLSConfig{Enabled: true, CertFile: "x"} },
		"sasl.mechanism":          func(c *kafka.Config) { c.SASL.Mechanism = "GSSAPI" },
		"sasl.user":               func(c *kafka.Config) { c.SASL = kafka.SASLConfig{Mechanism: "PLAIN", Password: "x"} },
		"sasl.password":           func(c *kafka.Config) { c.SASL = kafka.SASLConfig{Mechanism: "PLAIN", User: "x"} },
	} {
		c := kafka.DefaultConfig()
		spoil(&c)
		var fe *kafka.FieldError
		if err := c.Validate(); !errors.As(err, &fe) || fe.Field != field || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", field, err)
		}
	}
	c := kafka.DefaultConfig()
	c.Brokers, c.Partitions, c.SASL.Mechanism = nil, 0, "x"
	if n := strings.Count(c.Validate().Error(), "\n"); n != 2 {
		t.Errorf("three mistakes, told: %v", c.Validate())
	}
}
