package router

import (
	"errors"
	"fmt"
	"time"
)

// Config is the router's section of the configuration.
type Config struct {
	// BodyLimit is the largest body that is sent, in bytes. A larger one becomes a dead letter with the event's coordinates and without the body.
	BodyLimit int `yaml:"body_limit"`
	// CommitInterval is how often offsets are committed: how much is routed again after a crash, for the marks to drop.
	CommitInterval time.Duration `yaml:"commit_interval"`
	// UnknownSchemaWait is how long a schema id that the registry does not know is asked for again, before its events are undecodable. Meanwhile
	// their partition waits.
	UnknownSchemaWait time.Duration `yaml:"unknown_schema_wait"`
	// FetchBytes and PartitionBytes bound one answer of a broker, in all and for one partition.
	FetchBytes     int `yaml:"fetch_bytes"`
	PartitionBytes int `yaml:"partition_bytes"`
	// DelivererGroup is the deliverers' consumer group, as in deliverer.group: what it has committed of the topic `replay` says how much of it is waiting.
	DelivererGroup string `yaml:"deliverer_group"`
	// ReplayOutstanding is how many tasks of replays and catch-ups may wait in one partition for the deliverers. Beyond, a replay waits.
	ReplayOutstanding int `yaml:"replay_outstanding"`
	// ReplayOrders is how many replays and catch-ups are worked off side by side. More take turns.
	ReplayOrders int `yaml:"replay_orders"`
	// Grace is how long a stopping router may take to write down the tasks that it has at hand.
	Grace time.Duration `yaml:"grace"`
}

// DefaultConfig is what a router does without a word about it.
func DefaultConfig() Config {
	return Config{
		BodyLimit:         1 << 20,
		CommitInterval:    500 * time.Millisecond,
		UnknownSchemaWait: time.Minute,
		FetchBytes:        16 << 20,
		PartitionBytes:    1 << 20,
		DelivererGroup:    "deliverer",
		ReplayOutstanding: 10_000,
		ReplayOrders:      4,
		Grace:             2 * time.Second,
	}
}

// FieldError is one mistake in the configuration.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Code is stable: programs may compare it.
func (e *FieldError) Code() string { return "config_invalid" }

// Validate names every mistake at once, by field, with the reason for the bound.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			errs = append(errs, &FieldError{field, fmt.Sprintf(format, args...)})
		}
	}
	check(c.BodyLimit >= 1<<10 && c.BodyLimit <= 1920<<10, "body_limit",
		"%d is not within 1 KiB and 1,920 KiB: a task is its body and up to 128 KiB of head, and the task topics take 2 MiB", c.BodyLimit)
	check(c.CommitInterval >= 50*time.Millisecond && c.CommitInterval <= 10*time.Second, "commit_interval",
		"%v is not within 50ms and 10s: each commit is a round trip, and what is not committed is routed again after a crash", c.CommitInterval)
	check(c.UnknownSchemaWait >= 0 && c.UnknownSchemaWait <= time.Hour, "unknown_schema_wait",
		"%v is not within 0 and 1h: a partition waits so long for a schema that may never come", c.UnknownSchemaWait)
	check(c.PartitionBytes >= 64<<10 && c.PartitionBytes <= 64<<20, "partition_bytes",
		"%d is not within 64 KiB and 64 MiB: small fetches halve the throughput, large ones are held in memory", c.PartitionBytes)
	check(c.FetchBytes >= c.PartitionBytes && c.FetchBytes <= 256<<20, "fetch_bytes",
		"%d is not within partition_bytes and 256 MiB: up to two answers a broker are held in memory", c.FetchBytes)
	check(c.DelivererGroup != "", "deliverer_group",
		"is empty: without it nobody knows how much of a replay is waiting; it is the same as deliverer.group")
	check(c.ReplayOutstanding >= 100 && c.ReplayOutstanding <= 10_000_000, "replay_outstanding",
		"%d is not within 100 and 10000000: with fewer, deliverers wait for the next look at them, a second away; with more, a cancel leaves that many to be dropped", c.ReplayOutstanding)
	check(c.ReplayOrders >= 1 && c.ReplayOrders <= 64, "replay_orders",
		"%d is not within 1 and 64: each reads with connections and memory of its own", c.ReplayOrders)
	check(c.Grace >= 100*time.Millisecond && c.Grace <= time.Minute, "grace",
		"%v is not within 100ms and 1m: an append under way needs a round trip, and a stop should end", c.Grace)
	return errors.Join(errs...)
}
