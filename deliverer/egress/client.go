package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Bounds of what a client from HTTPClient reads.
const (
	maxClientHead = 16 << 10
	maxClientBody = 4 << 20
)

// ErrBodyTooLarge ends the reading of an answer over its limit.
var ErrBodyTooLarge = errors.New("the answer's body is over its limit")

// ClientOption changes what HTTPClient builds.
type ClientOption func(*clientOptions)

type clientOptions struct {
	internal bool
	tls      *tls.Config
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	maxBody  int64
}

// Internal lifts the guard: for hosts that the operator configured, such as the registry. Never for an address that somebody else chose.
func Internal() ClientOption { return func(o *clientOptions) { o.internal = true } }

// TLS gives the client a TLS configuration, for an authority or a certificate of the operator's own.
func TLS(c *tls.Config) ClientOption { return func(o *clientOptions) { o.tls = c } }

// DialWith replaces the dialer of an Internal client, for a world without a network.
func DialWith(dial func(ctx context.Context, network, addr string) (net.Conn, error)) ClientOption {
	return func(o *clientOptions) { o.dial = dial }
}

// MaxBody changes how many bytes of an answer may be read (default 4 MiB).
func MaxBody(n int64) ClientOption { return func(o *clientOptions) { o.maxBody = n } }

// HTTPClient is the one constructor of HTTP clients outside the deliverer's own. A client follows no redirect, takes no proxy from the environment,
// keeps no cookie, speaks HTTP/1.1, ends by its timeout, and reads a bounded answer. With Internal alone it may be called on a nil Policy.
func (p *Policy) HTTPClient(timeout time.Duration, opts ...ClientOption) *http.Client {
	o := clientOptions{maxBody: maxClientBody}
	for _, opt := range opts {
		opt(&o)
	}
	dial := o.dial
	switch {
	case !o.internal && p == nil:
		panic("BUG: an HTTP client without a policy must be internal")
	case !o.internal:
		dial = p.DialContext // a replaced dialer would lift the guard
	case dial == nil:
		dial = (&net.Dialer{}).DialContext
	}
	if o.tls == nil {
		o.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &limited{maxBody: o.maxBody, next: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        o.tls,
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: maxClientHead,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        time.Minute,
			DisableCompression:     true, // nothing is ever inflated
			Protocols:              http1(),
		}},
	}
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// limited bounds every answer's body.
type limited struct {
	next    *http.Transport
	maxBody int64
}

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: l.maxBody}
	return resp, nil
}

// CloseIdleConnections lets http.Client reach the transport's.
func (l *limited) CloseIdleConnections() { l.next.CloseIdleConnections() }

type limitedBody struct {
	io.ReadCloser
	left int64
}

// Read gives one byte more than allowed the chance to come, and fails then: a cut answer must not look like a short one.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrBodyTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, ErrBodyTooLarge
	}
	return n, err
}
