package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// metadataAge is how long an answer of the brokers is not asked for again, however many notice at once that a leader has moved.
const metadataAge = 20 * time.Millisecond

// cluster is what we know of brokers and leaders. It is refreshed when someone finds it wrong, never by the clock:
// a moved leader answers with an error at once.
type cluster struct {
	mu      sync.Mutex
	id      string
	brokers map[int32]string           // node id -> address
	control int32                      // node id of the controller
	topics  map[string]map[int32]int32 // topic -> partition -> leader, -1: none at present
	wanted  map[string]bool            // topics to ask for
	at      time.Time                  // of the last good answer
	flight  chan struct{}              // closed when the refresh under way has ended; nil: none
	err     error                      // of the last refresh
	prefer  string                     // the broker that answered last
}

// want adds topics to what is asked for. It says whether all were known already.
func (m *cluster) want(topics ...string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := true
	for _, t := range topics {
		m.wanted[t] = true
		known = known && m.topics[t] != nil
	}
	return known
}

// leader is the address of a partition's leader; ok is false if it is not known.
func (m *cluster) leader(tp TP) (addr string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.topics[tp.Topic][tp.Partition]
	if !ok || id < 0 {
		return "", false
	}
	addr, ok = m.brokers[id]
	return addr, ok
}

// partitions is the number of partitions of a topic, 0: not known.
func (m *cluster) partitions(topic string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.topics[topic])
}

// addrs lists the brokers to ask for metadata: the one that answered last, the known ones, the configured ones.
func (m *cluster) addrs(seeds []string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	if m.prefer != "" {
		out = append(out, m.prefer)
	}
	for _, a := range append(slices.Sorted(maps.Values(m.brokers)), seeds...) {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// refresh asks the brokers who leads what. Calls that meet share one question; an answer younger than metadataAge counts as one.
func (c *Client) refresh(ctx context.Context) error {
	m := &c.meta
	for {
		m.mu.Lock()
		if m.err == nil && time.Since(m.at) < metadataAge {
			m.mu.Unlock()
			return nil
		}
		if m.flight == nil {
			break
		}
		flight := m.flight
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flight:
		}
		m.mu.Lock()
		err := m.err
		m.mu.Unlock()
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if ctx.Err() != nil { // the one who asked gave up; we ask ourselves unless we must give up too
			return ctx.Err()
		}
	}
	flight := make(chan struct{})
	m.flight = flight
	topics := slices.Sorted(maps.Keys(m.wanted))
	m.mu.Unlock()
	err := c.askMetadata(ctx, topics)
	m.mu.Lock()
	m.err, m.flight = err, nil
	m.mu.Unlock()
	close(flight)
	return err
}

func (c *Client) askMetadata(ctx context.Context, topics []string) error {
	var errs []error
	for _, addr := range c.meta.addrs(c.cfg.Brokers) {
		// An empty list asks for no topic, nil for all of them.
		msg, err := c.ask(ctx, addr, &metadata.Request{TopicNames: append([]string{}, topics...)}, dialTimeout)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		r := msg.(*metadata.Response)
		if len(r.Brokers) == 0 {
			errs = append(errs, fmt.Errorf("broker %s knows of no broker yet", addr))
			continue
		}
		c.meta.learn(r, addr)
		return nil
	}
	return fmt.Errorf("no broker answers: %w", errors.Join(errs...))
}

func (m *cluster) learn(r *metadata.Response, from string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at, m.prefer = time.Now(), from
	if r.ClusterID != "" {
		m.id = r.ClusterID
	}
	m.brokers = make(map[int32]string, len(r.Brokers))
	for _, b := range r.Brokers {
		m.brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	m.control = r.ControllerID
	for _, t := range r.Topics {
		if t.ErrorCode != 0 && len(t.Partitions) == 0 {
			// Right after a start a broker may not know a topic that others know: what we knew stands, unless the topic is surely gone.
			if kgo.Error(t.ErrorCode) == kgo.UnknownTopicOrPartition {
				delete(m.topics, t.Name)
			}
			continue
		}
		leaders := make(map[int32]int32, len(t.Partitions))
		for _, p := range t.Partitions {
			leaders[p.PartitionIndex] = p.LeaderID
		}
		m.topics[t.Name] = leaders
	}
}

// broker is the address of any broker: the one that answered last.
func (c *Client) broker() string { return c.meta.addrs(c.cfg.Brokers)[0] }

// controller is the address to send changes of topics to.
func (c *Client) controller() string {
	c.meta.mu.Lock()
	addr, ok := c.meta.brokers[c.meta.control]
	c.meta.mu.Unlock()
	if !ok {
		return c.broker()
	}
	return addr
}

// backoff grows from 20 ms to half a second: the waits between tries of one request.
func backoff(try int) time.Duration {
	return min(500*time.Millisecond, 20*time.Millisecond<<min(try, 10))
}

// sleep waits, or returns early with ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
