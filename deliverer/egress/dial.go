package egress

import (
	"context"
	"net"
	"net/http"
	"time"
)

// DialContext connects to host:port, like net.Dialer.DialContext, if all addresses of the host may be reached. Errors are *DialError.
func (p *Policy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	panic("BUG: egress dial is not built yet")
}

// HTTPClient is the one constructor of HTTP clients.
func (p *Policy) HTTPClient(timeout time.Duration, opts ...ClientOption) *http.Client {
	panic("BUG: egress client is not built yet")
}

// ClientOption changes what HTTPClient builds.
type ClientOption func(*clientOptions)

type clientOptions struct{ internal bool }

// Internal lifts the guard for a host that the operator configured.
func Internal() ClientOption { return func(o *clientOptions) { o.internal = true } }
