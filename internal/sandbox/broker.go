package sandbox

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokerConfig says what kind of broker to start.
type BrokerConfig struct {
	Brokers int // default 1
	// Virtual: on a network in memory, so that a testing/synctest bubble can hold the broker and everything that talks to it.
	// Then Broker.Dial must be used to reach it.
	Virtual bool
	Network *Network // where it listens; nil: as Virtual says
	Dir     string   // where records are kept across restarts; empty: nowhere
	// Options are passed on to kfake, for the rare test that needs more (SASL, TLS, faults).
	Options []kfake.Opt
}

// Broker is a Kafka broker in memory. It ignores message.timestamp.type (times are the producer's, which is the same clock here),
// and what it says about faults is a hint: the real broker decides.
type Broker struct {
	// Dial reaches the broker on its network in memory; nil if it listens on real TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	cluster *kfake.Cluster
}

// virtualPort is where virtual brokers listen; each network in memory is its own, so they never meet.
const virtualPort = 9092

// StartBroker starts a broker that serves when it returns. Close ends it.
func StartBroker(c BrokerConfig) (*Broker, error) {
	n := max(1, c.Brokers)
	opts := []kfake.Opt{kfake.NumBrokers(n), kfake.GroupMinSessionTimeout(1)}
	b := &Broker{}
	if c.Virtual || c.Network != nil {
		ports := make([]int, n)
		for i := range ports {
			ports[i] = virtualPort + i
		}
		opts = append(opts, kfake.Ports(ports...))
	}
	if c.Network != nil {
		opts = append(opts, kfake.ListenFn(c.Network.Listen))
	} else if c.Virtual {
		network := new(kfake.VirtualNetwork)
		opts = append(opts, kfake.ListenFn(network.Listen))
		b.Dial = network.DialContext
	}
	if c.Dir != "" {
		opts = append(opts, kfake.DataDir(c.Dir), kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(append(opts, c.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("start the broker in memory: %w", err)
	}
	b.cluster = cluster
	return b, nil
}

// Addrs are the addresses of the brokers.
func (b *Broker) Addrs() []string { return b.cluster.ListenAddrs() }

// Cluster is the broker underneath, for faults and for what only it can tell.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and cuts its connections.
func (b *Broker) Close() { b.cluster.Close() }

// StaleLeader has the reads of a topic that are no session (of replays, orders and commands) answered as by a leader that has just become one: it does not know
// yet how far its log is acknowledged, shows nothing behind where it is asked, and does not say where the log ends. It returns when it has been asked once, and
// lasts for a second from then on.
func (b *Broker) StaleLeader(topic string) (asked <-chan struct{}) {
	came := make(chan struct{})
	var until time.Time // of the broker's goroutine, which runs one control at a time
	cluster := b.cluster
	cluster.ControlKey(int16(kmsg.Fetch), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := q.(*kmsg.FetchRequest)
		if req.SessionEpoch != -1 || !slices.ContainsFunc(req.Topics, func(t kmsg.FetchRequestTopic) bool { return t.Topic == topic }) {
			return nil, nil, false
		}
		if until.IsZero() {
			until = time.Now().Add(time.Second)
			close(came)
		}
		if !time.Now().Before(until) {
			return nil, nil, false
		}
		cluster.SleepControl(func() { time.Sleep(time.Duration(req.MaxWaitMillis) * time.Millisecond) })
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewFetchResponseTopicPartition()
				rp.Partition, rp.HighWatermark, rp.RecordBatches = p.Partition, p.FetchOffset, []byte{}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	cluster.ControlKey(int16(kmsg.ListOffsets), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := q.(*kmsg.ListOffsetsRequest)
		if !time.Now().Before(until) || len(req.Topics) != 1 || req.Topics[0].Topic != topic || req.Topics[0].Partitions[0].Timestamp != -1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = topic
		for _, p := range req.Topics[0].Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, kerr.OffsetNotAvailable.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	return came
}
