package kafka

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// entities have a topic of events each. Held to schemas.AllEntities by a test. The last is our own: snapshots of recent reservations.
var entities = []string{"booking", "customer", "check_in", "account", "contact", "employee", "package", "activity", "product", "inventory", "recent_reservations"}

// Names are the topics of a deployment, with their prefix.
type Names struct {
	Events                                                                              map[string]string // by entity
	Subscriptions, Retry, Replay, Attempts, Dead, Undecodable, Replays, Progress, Lines string
	Tiers                                                                               []Tier // ascending

	cfg Config
}

// Tier is a retry topic whose records all wait the same time.
type Tier struct {
	Name string
	Wait time.Duration
}

// TopicSpec is what a topic must look like.
type TopicSpec struct {
	Name       string
	Partitions int
	Configs    map[string]string
}

func (c Config) names() Names {
	p := c.TopicPrefix
	n := Names{
		Events:        map[string]string{},
		Subscriptions: p + "subscriptions", Retry: p + "retry", Replay: p + "replay", Attempts: p + "attempts", Dead: p + "dead",
		Undecodable: p + "undecodable", Replays: p + "replays", Progress: p + "progress", Lines: p + "lines",
		cfg: c,
	}
	for _, e := range entities {
		n.Events[e] = p + "events." + e
	}
	for _, t := range c.Tiers {
		n.Tiers = append(n.Tiers, Tier{p + "retry." + tierName(t), t})
	}
	return n
}

// tierName is 5s, 1m, 30m, 2h: the wait in its largest whole unit.
func tierName(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	default:
		return strconv.Itoa(int(d/time.Second)) + "s"
	}
}

// short lists the names without the prefix, sorted.
func (n Names) short() []string {
	var out []string
	for _, t := range n.All() {
		out = append(out, strings.TrimPrefix(t.Name, n.cfg.TopicPrefix))
	}
	slices.Sort(out)
	return out
}

// EventTopics lists the topics of events in a fixed order.
func (n Names) EventTopics() []string {
	return slices.Sorted(maps.Values(n.Events))
}

// LaneTopics lists the topics whose partition p must belong to one deliverer: all that carry tasks or the state of lanes.
func (n Names) LaneTopics() []string {
	out := []string{n.Retry, n.Replay}
	for _, t := range n.Tiers {
		out = append(out, t.Name)
	}
	return out
}

const kib = 1 << 10

// All says what every topic must look like, in a fixed order.
func (n Names) All() []TopicSpec {
	c := n.cfg
	var out []TopicSpec
	add := func(name string, configs ...string) {
		m := map[string]string{"cleanup.policy": "delete"}
		for i := 0; i < len(configs); i += 2 {
			m[configs[i]] = configs[i+1]
		}
		if c.ReplicationFactor >= 3 {
			m["min.insync.replicas"] = "2"
		}
		maps.Copy(m, c.TopicConfigs[strings.TrimPrefix(name, c.TopicPrefix)])
		out = append(out, TopicSpec{Name: name, Partitions: c.Partitions, Configs: m})
	}
	keep := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	const policy, stamp, retention, largest, lag = "cleanup.policy", "message.timestamp.type", "retention.ms", "max.message.bytes", "min.compaction.lag.ms"
	events, tasks, tiers := strconv.Itoa((1024+64)*kib), strconv.Itoa(2048*kib), strconv.Itoa((2048+64)*kib)
	undecodable := strconv.Itoa((1024 + 128) * kib) // a record of the largest size is kept with our own headers beside its own
	for _, t := range n.EventTopics() {
		add(t, stamp, "LogAppendTime", retention, keep(c.Retention.Events), largest, events)
	}
	compacted := []string{policy, "compact", lag, keep(c.CompactionLag)}
	add(n.Subscriptions, append([]string{stamp, "LogAppendTime"}, compacted...)...)
	add(n.Retry, retention, keep(c.Retention.Events), largest, tasks)
	add(n.Replay, retention, keep(c.Retention.Events), largest, tasks)
	for _, t := range n.Tiers {
		add(t.Name, stamp, "LogAppendTime", retention, keep(c.Retention.Events), largest, tiers)
	}
	add(n.Attempts, stamp, "LogAppendTime", retention, keep(c.Retention.Attempts))
	add(n.Dead, retention, keep(c.Retention.Dead), largest, tiers)
	add(n.Undecodable, retention, keep(c.Retention.Undecodable), largest, undecodable)
	add(n.Replays, compacted...)
	add(n.Progress, compacted...)
	add(n.Lines, compacted...)
	return out
}
