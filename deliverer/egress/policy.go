package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where deliveries may go, for the whole deployment; nothing of it can be set by a company.
type Config struct {
	// AllowHTTP admits the scheme http and port 80: bodies, signatures and custom headers then cross the network readably.
	AllowHTTP bool `yaml:"allow_http"`
	// Ports that a URL may name. 0 in the list admits every port, for tests and closed networks. Empty: 443 and 8443.
	Ports []int `yaml:"ports"`
	// AllowRanges are CIDR prefixes that may be reached although they are not public. Link-local and metadata addresses stay refused.
	AllowRanges []string `yaml:"allow_ranges"`
	// DenyRanges are CIDR prefixes that may not be reached although they are public. They win over AllowRanges.
	DenyRanges []string `yaml:"deny_ranges"`
	// ForwardProxy is host:port of an HTTP proxy that all deliveries go through (CONNECT to the checked address). Empty: none.
	ForwardProxy string `yaml:"forward_proxy"`

	// CAFile is a PEM file of authorities that receivers' certificates are accepted from, beside the system's. Empty: the system's alone.
	CAFile string `yaml:"ca_file"`

	// Lookup and Dial replace the resolver and the dialer for a world without a network (sandbox, tests). The guard stands all the same.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)      `yaml:"-"`
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error) `yaml:"-"`
}

// DefaultConfig reaches public addresses by https on ports 443 and 8443.
func DefaultConfig() Config { return Config{Ports: []int{443, 8443}} }

// Validate reports every mistake at once, by field name.
func (c Config) Validate() error {
	_, err := c.rules()
	return err
}

// rules turns the texts of a Config into what classification needs.
func (c Config) rules() (*rules, error) {
	var errs []error
	r := &rules{}
	for _, port := range c.Ports {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("ports: %d is no port (1 to 65535, or 0 for every port)", port))
		}
	}
	for _, text := range c.AllowRanges {
		prefix, err := parseRange(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("allow_ranges: %w", err))
		case neverRange(prefix):
			errs = append(errs, fmt.Errorf("allow_ranges: %q holds nothing but addresses that are never reached (link-local, metadata, multicast)", text))
		default:
			r.allow = append(r.allow, prefix)
		}
	}
	for _, text := range c.DenyRanges {
		prefix, err := parseRange(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("deny_ranges: %w", err))
			continue
		}
		r.deny = append(r.deny, prefix)
	}
	if c.ForwardProxy != "" {
		host, port, err := net.SplitHostPort(c.ForwardProxy)
		if _, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil {
			errs = append(errs, fmt.Errorf("forward_proxy: %q is not host:port", c.ForwardProxy))
		}
	}
	if c.CAFile != "" {
		if _, err := c.roots(); err != nil {
			errs = append(errs, fmt.Errorf("ca_file: %w", err))
		}
	}
	return r, errors.Join(errs...)
}

// roots returns the system's authorities and those of CAFile; nil without a CAFile, which means the system's.
func (c Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a container without any
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate (is it PEM?)", c.CAFile)
	}
	return pool, nil
}

// parseRange reads a CIDR prefix without host bits: 10.1.2.3/8 is a typing error more often than a wish.
func parseRange(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, fmt.Errorf("%q is not a CIDR prefix such as 10.0.0.0/8", text)
	}
	if prefix.Addr().Is4In6() {
		return prefix, fmt.Errorf("%q is an IPv4-mapped prefix; write it as IPv4", text)
	}
	if prefix != prefix.Masked() {
		return prefix, fmt.Errorf("%q has bits set beyond its length (did you mean %s?)", text, prefix.Masked())
	}
	return prefix, nil
}

// A Policy answers where we may connect, and connects. It is immutable but for the host's own addresses and safe for concurrent use.
type Policy struct {
	cfg   Config
	rules *rules
	roots *x509.CertPool // nil: the system's

	// The host's own addresses, read again when older than ownFor. ownMu lets one reader at a time ask the kernel; the others use what stands.
	ownMu sync.Mutex
	own   atomic.Pointer[ownAddrs]

	born     time.Time
	answered atomic.Int64 // ns after born: when the forward proxy last answered; 0: never
}

// The host's own addresses change with containers and leases, rarely and never at our wish: once a minute is soon enough, and a lookup costs 50 us.
const ownFor = time.Minute

type ownAddrs struct {
	at    time.Time
	addrs map[netip.Addr]bool
}

// NewPolicy returns the policy of a valid Config; the error joins every mistake of an invalid one.
func NewPolicy(c Config) (*Policy, error) {
	r, err := c.rules()
	if err != nil {
		return nil, err
	}
	if len(c.Ports) == 0 {
		c.Ports = DefaultConfig().Ports
	}
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return &Policy{cfg: c, rules: r, roots: roots, born: time.Now()}, nil
}

// TLSConfig is how to speak TLS to a receiver: its certificate must be for the host of its URL. The few sessions that are kept make it cheap to come
// back after an idle minute.
func (p *Policy) TLSConfig(host string) *tls.Config {
	return &tls.Config{
		ServerName:         host,
		RootCAs:            p.roots,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(2),
	}
}

// CheckAddr says whether an address may be reached; if not, why, as a stable code.
func (p *Policy) CheckAddr(a netip.Addr) (code string, ok bool) {
	if code = classify(a, p.rules); code != "" {
		return code, false
	}
	if a = a.Unmap(); p.ownAddresses()[a] && !contains(p.rules.allow, a) {
		return CodeAddrOwn, false
	}
	return "", true
}

// ownAddresses returns the addresses of this host's interfaces. If the kernel does not tell, the last known ones stand.
func (p *Policy) ownAddresses() map[netip.Addr]bool {
	o := p.own.Load()
	if o != nil && (time.Since(o.at) < ownFor || !p.ownMu.TryLock()) {
		return o.addrs
	}
	if o == nil {
		p.ownMu.Lock()
		if first := p.own.Load(); first != nil { // another reader was faster
			p.ownMu.Unlock()
			return first.addrs
		}
	}
	defer p.ownMu.Unlock()
	next := &ownAddrs{at: time.Now(), addrs: map[netip.Addr]bool{}}
	list, err := net.InterfaceAddrs()
	if err != nil && o != nil {
		next.addrs = o.addrs
	}
	for _, a := range list {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			next.addrs[prefix.Addr().Unmap().WithZone("")] = true
		}
	}
	p.own.Store(next)
	return next.addrs
}
