package recent

import (
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/hookferry/hookferry/internal/kafka"
)

// Config is where the latest bookings are served, and where commands ask for them.
type Config struct {
	// Listen is where the service answers; empty: it is not started with the others, and `hookferry recent serve` refuses.
	Listen string `yaml:"listen"`
	// Token is what who asks must know. Needed where others than this machine can ask: the answers hold customers' names.
	Token kafka.Password `yaml:"token"`
	// URL is where commands ask; empty: they read the bookings themselves, which takes as long as the topic is.
	URL string `yaml:"url"`
}

// DefaultConfig answers on this machine only.
func DefaultConfig() Config { return Config{Listen: "127.0.0.1:9465"} }

// FieldError is one mistake in a configuration.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Code is stable: programs may compare it.
func (e *FieldError) Code() string { return "config_invalid" }

// shortestToken is what nobody guesses over a network, if it was made by chance.
const shortestToken = 16

// Validate names every mistake at once, by field, with the reason for the bound.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{field, fmt.Sprintf(format, args...)})
	}
	if c.Listen != "" {
		host, port, err := net.SplitHostPort(c.Listen)
		switch {
		case err != nil || port == "":
			bad("listen", "%q is not host:port (:port listens on every address; empty turns it off)", c.Listen)
		case c.Token == "" && !isLoopback(host):
			bad("token", "is needed to listen on %s: the answers hold customers' names, and others than this machine could ask", c.Listen)
		}
	}
	if c.Token != "" && len(c.Token) < shortestToken {
		bad("token", "has %d characters, and needs %d, so that nobody guesses it", len(c.Token), shortestToken)
	}
	for _, b := range []byte(c.Token) {
		if b <= ' ' || b > '~' {
			bad("token", "holds a character that no HTTP header takes: visible ASCII only")
			break
		}
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			bad("url", "must be an http or https URL") // not quoted: it may hold a password
		case u.User != nil || u.RawQuery != "" || u.Fragment != "":
			bad("url", "must not hold a user, query or fragment; paths are put behind it")
		}
	}
	return errors.Join(errs...)
}

// isLoopback says that only this machine reaches a host of an address.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
