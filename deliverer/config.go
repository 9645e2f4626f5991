package deliverer

import (
	"errors"
	"fmt"
	"time"
)

// Config is the deliverer's section of the configuration.
type Config struct {
	// Group is the consumer group that replicas of the deliverer share; the topic prefix stands before it.
	Group string `yaml:"group"`
	// UserAgent is what receivers see. Empty: hookferry/<version>.
	UserAgent string `yaml:"user_agent"`
	// TasksInMemory and BytesInMemory bound what is read and not finished.
	TasksInMemory int64 `yaml:"tasks_in_memory"`
	BytesInMemory int64 `yaml:"bytes_in_memory"`
	// MaxSends bounds the sends under way in this process, over all subscriptions. Each lane may always have one.
	MaxSends int64 `yaml:"max_sends"`
	// MaxConcurrency bounds the sends under way to one subscription that sets no bound of its own.
	MaxConcurrency int `yaml:"max_concurrency"`
	// CircuitFailures is after how many straight failures a lane stops trying and probes, one task at a time.
	CircuitFailures int `yaml:"circuit_failures"`
	// CommitInterval is how often offsets are committed, changed or not: what a crash repeats if Redis is gone as well.
	CommitInterval time.Duration `yaml:"commit_interval"`
	// FetchBytes and PartitionBytes bound one answer of a broker, in all and for one partition; FetchWait is how long a broker holds an empty one.
	FetchBytes     int32         `yaml:"fetch_bytes"`
	PartitionBytes int32         `yaml:"partition_bytes"`
	FetchWait      time.Duration `yaml:"fetch_wait"`
	// Linger is how long outcomes are collected, at most, before they are written together. They are off the path of a delivery, and a crash repeats them.
	Linger time.Duration `yaml:"linger"`
	// Grace is how long a stopping deliverer waits for sends under way. The rest is named in the last commit, and the successor waits it out.
	Grace time.Duration `yaml:"grace"`
	// Redis holds the marks.
	Redis RedisConfig `yaml:"redis"`
}

const (
	// concurrencyMost is the most that a subscription may set for itself, and so the most that a deployment sets for all.
	concurrencyMost = 64
	defaultTimeout  = 15 * time.Second
	// failingMost: a subscription that has failed for so long is disabled.
	failingMost = 5 * 24 * time.Hour
)

// DefaultConfig is what a deliverer does without a word about it.
func DefaultConfig() Config {
	return Config{
		Group:           "deliverer",
		TasksInMemory:   8192,
		BytesInMemory:   64 << 20,
		MaxSends:        4096,
		MaxConcurrency:  concurrencyMost,
		CircuitFailures: circuitStrikes,
		CommitInterval:  500 * time.Millisecond,
		FetchBytes:      16 << 20,
		PartitionBytes:  1 << 20,
		FetchWait:       500 * time.Millisecond,
		Linger:          20 * time.Millisecond,
		Grace:           1500 * time.Millisecond, // a stop takes 2 s at most, though a receiver hangs
		Redis:           DefaultRedisConfig(),
	}
}

// commitIntervalMost is the longest commit interval with the default session.
const commitIntervalMost = 2 * time.Second

// fits says whether the commit interval goes with Kafka's session time-out: the lease must outlive one commit that fails.
func (c Config) fits(session time.Duration) error {
	if most := leaseTerm(session) / 2; c.CommitInterval > most {
		return &FieldError{"commit_interval", fmt.Sprintf("%v is more than a third of kafka.session_timeout (%v): sends start only within %v of a commit, "+
			"and one of them may fail", c.CommitInterval, session, leaseTerm(session))}
	}
	return nil
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
	check(c.Group != "", "group", "is empty: replicas find each other by it")
	check(c.TasksInMemory >= 64 && c.TasksInMemory <= 1<<20, "tasks_in_memory",
		"%d is not within 64 and 1,048,576: below 4,096 the throughput falls, and each costs about 2 KiB", c.TasksInMemory)
	check(c.BytesInMemory >= 4<<20, "bytes_in_memory", "%d is below 4 MiB: one task may have 2 MiB, and several are held at once", c.BytesInMemory)
	check(c.MaxSends >= 1 && c.MaxSends <= 60000, "max_sends", "%d is not within 1 and 60,000: each is a socket, and a host has no more ports", c.MaxSends)
	check(c.MaxConcurrency >= 1 && c.MaxConcurrency <= concurrencyMost, "max_concurrency",
		"%d is not within 1 and %d: that is as far as a subscription goes, and more sends at once only queue at a receiver", c.MaxConcurrency, concurrencyMost)
	check(c.CircuitFailures >= 1 && c.CircuitFailures <= 1000, "circuit_failures",
		"%d is not within 1 and 1,000: each is a try, and a receiver that is down would burn those of all its tasks", c.CircuitFailures)
	check(c.CommitInterval >= 50*time.Millisecond && c.CommitInterval <= commitIntervalMost, "commit_interval",
		"%v is not within 50ms and %v: sends start only for a while after a commit, and one of them may fail", c.CommitInterval, commitIntervalMost)
	check(c.PartitionBytes >= 64<<10 && c.PartitionBytes <= 64<<20, "partition_bytes",
		"%d is not within 64 KiB and 64 MiB: small fetches halve the throughput, large ones are held in memory", c.PartitionBytes)
	check(c.FetchBytes >= c.PartitionBytes && c.FetchBytes <= 256<<20, "fetch_bytes",
		"%d is not within partition_bytes and 256 MiB: up to two answers a broker are held in memory", c.FetchBytes)
	check(c.FetchWait >= time.Millisecond && c.FetchWait <= 10*time.Second, "fetch_wait",
		"%v is not within 1ms and 10s: a broker's connection is held that long", c.FetchWait)
	check(c.Linger >= 0 && c.Linger <= time.Second, "linger", "%v is not within 0 and 1s: what has ended and is not written yet is repeated after a crash", c.Linger)
	check(c.Grace >= 0 && c.Grace <= time.Minute, "grace", "%v is not within 0 and 1m: a stop should end", c.Grace)
	if err := c.Redis.Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
