package kafka

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"
)

// Options are what a process decides for all its Kafka traffic.
type Options struct {
	// Dial opens a connection to a broker; nil dials the real network. TLS and SASL go over what it returns.
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	Log      *zap.Logger // nil: none
	ClientID string      // default "hookferry"
}

// Client is one process's access to a cluster. Safe for concurrent use.
type Client struct{}

// Open checks the configuration and makes a Client; it makes no round trip.
func Open(cfg Config, o Options) (*Client, error) { panic("BUG: not there yet") }

// Close ends all connections and what was made of this Client.
func (c *Client) Close() {}

// ClusterID is the id that the cluster was formatted with.
func (c *Client) ClusterID(ctx context.Context) (string, error) { panic("BUG: not there yet") }

// Topics are the topics of this deployment.
func (c *Client) Topics() Names { panic("BUG: not there yet") }

// Registry is the schema registry, nil without one.
func (c *Client) Registry() *Registry { panic("BUG: not there yet") }

// Skew is the broker's clock minus ours, the median of recent appends to topics whose records the broker stamps; 0 until one was acknowledged.
func (c *Client) Skew() time.Duration { return 0 }

// BrokerNow is the broker's time now, as far as Skew knows.
func (c *Client) BrokerNow() time.Time { return time.Now().Add(c.Skew()) }
