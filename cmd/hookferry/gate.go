package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/host"
	"github.com/hookferry/hookferry/internal/kafka"
)

const (
	// kafkaPatience is how long a service waits for a Kafka that does not answer when it starts: as long as a broker takes to start beside it.
	kafkaPatience = 2 * time.Minute
	// kafkaSilence is after what time without any answer, not even a refused connection, the log says so.
	kafkaSilence = 2 * time.Second
)

// topicsGate is the first service of a router or deliverer: the others begin their work when it has found the topics as they must be. It is a service and
// no step before them, so that meanwhile /healthz says that the process lives and /readyz what it waits for: whoever runs it could not tell a process that
// waits for Kafka from one that hangs, and would restart it.
type topicsGate struct {
	kafka *kafka.Client
	log   *zap.Logger
	open  chan struct{} // closed when the topics are right

	mu  sync.Mutex
	why error // it is not open yet; nil until something went wrong
}

func newTopicsGate(c *kafka.Client, log *zap.Logger) *topicsGate {
	return &topicsGate{kafka: c, log: log, open: make(chan struct{})}
}

// Name is the name of the service.
func (g *topicsGate) Name() string { return "topics" }

// Ready says what the process waits for.
func (g *topicsGate) Ready() error {
	select {
	case <-g.open:
		return nil
	default:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return fmt.Errorf("no answer from Kafka: %w", g.why)
	}
	return errors.New("being checked")
}

// Run checks the topics, opens the gate, and stays until ctx ends. Topics that are missing or differ end it at once, for waiting would not mend them;
// a Kafka that does not answer ends it after kafkaPatience.
func (g *topicsGate) Run(ctx context.Context) error {
	if err := g.check(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(g.open)
	<-ctx.Done()
	return nil
}

func (g *topicsGate) check(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, kafkaPatience)
	defer cancel()
	silence := time.AfterFunc(kafkaSilence, func() { g.late(errors.New("no answer yet")) })
	defer silence.Stop()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		// A broker is asked for its name first: that fails as soon as a connection does, while the question about topics is tried for long.
		_, err := g.kafka.ClusterID(limit)
		if err == nil {
			err = g.kafka.CheckTopics(limit)
		}
		if err == nil || errors.As(err, new(*kafka.TopicsError)) {
			return err
		}
		silence.Stop()
		if limit.Err() == nil {
			g.late(err)
		}
		select {
		case <-again.C:
		case <-limit.Done():
			return kafkaUnreachable(g.kafka.Config().Brokers, g.last(err))
		}
	}
}

// late notes why the gate is not open yet. The first time it goes to the log; /readyz has the last one.
func (g *topicsGate) late(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == nil {
		g.log.Warn("Kafka does not answer; waiting", zap.Duration("at_most", kafkaPatience), zap.Error(err))
	}
	g.why = err
}

// last is what was wrong before the time was over: it says more than that it is over.
func (g *topicsGate) last(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return g.why
	}
	return err
}

// behindGate is a service that begins once the gate is open.
type behindGate struct {
	host.Service
	gate *topicsGate
}

func (b behindGate) Run(ctx context.Context) error {
	select {
	case <-b.gate.open:
		return b.Service.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// Ready leaves it to the gate to say what is missing while it is closed.
func (b behindGate) Ready() error {
	select {
	case <-b.gate.open:
	default:
		return nil
	}
	if r, ok := b.Service.(host.Readier); ok {
		return r.Ready()
	}
	return nil
}
