package deliverer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// A real redis-server that takes TLS only, and a user who may do what config.example.yml says he must, and nothing else. It runs where the tests run
// against real servers: there is a redis-server then.
func TestARealRedisWithTLSAndAnACLUser(t *testing.T) {
	if os.Getenv("HOOKFERRY_TEST_REDIS") == "" {
		t.Skip("set HOOKFERRY_TEST_REDIS, as .ci/test-kafka does")
	}
	dir := t.TempDir()
	pair := selfSigned(t, dir)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	var log bytes.Buffer
	server := exec.Command("redis-server", "--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", filepath.Join(dir, "ca.pem"),
		"--tls-key-file", filepath.Join(dir, "key.pem"), "--tls-ca-cert-file", filepath.Join(dir, "ca.pem"), "--tls-auth-clients", "no",
		"--save", "", "--appendonly", "no", "--dir", dir, "--user", "default", "off",
		"--user", "deliverer", "on", ">s3cret", "~"+testCluster+":*", "-@all", "+ping", "+select", "+smismember", "+sadd", "+expireat", "+exists", "+set")
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	c := DefaultRedisConfig()
	c.Addr, c.Username, c.Password, c.DB, c.Budget = addr, "deliverer", "s3cret", 3, time.Second
	c.TLS.Enabled, c.TLS.CAFile = true, filepath.Join(dir, "ca.pem")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	mark, other := Mark{taskIDs(2)[0], 0, 1}, Mark{taskIDs(2)[1], 0, 1}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for newMarks(t, c).Set(context.Background(), []Mark{mark}) { // until it is up
		select {
		case <-tick.C:
		case <-limit:
			server.Process.Kill()
			server.Wait()
			t.Fatalf("marks are not taken; redis-server says\n%s", &log)
		}
	}
	if got := seen(t, newMarks(t, c), mark, other); !got[0] || got[1] {
		t.Errorf("seen: %v", got)
	}
	for name, change := range map[string]func(*RedisConfig){
		"password":  func(c *RedisConfig) { c.Password = "wrong" },
		"user":      func(c *RedisConfig) { c.Username = "somebody" },
		"no user":   func(c *RedisConfig) { c.Username, c.Password = "", "" },
		"authority": func(c *RedisConfig) { c.TLS.CAFile = "" },
		"no TLS":    func(c *RedisConfig) { c.TLS = DefaultRedisConfig().TLS },
	} {
		bad := c
		change(&bad)
		if !newMarks(t, bad).Set(context.Background(), []Mark{mark}) {
			t.Errorf("a wrong %s is accepted", name)
		}
	}
}
