package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// TopicChange is something that CreateTopics did.
type TopicChange struct {
	Topic  string `json:"topic"`
	Change string `json:"change"` // "created", "altered"
	Detail string `json:"detail"`
}

// TopicProblem is one way in which a topic is not as it must be.
type TopicProblem struct {
	Topic   string `json:"topic"`
	Problem string `json:"problem"`
	// Fatal: CreateTopics cannot mend it (a partition count is fixed for the life of a deployment).
	Fatal bool `json:"fatal"`

	config, value string // a setting that may be altered
	missing       bool
}

// TopicReport is how the topics stand.
type TopicReport struct {
	Problems []TopicProblem `json:"problems"`
	Warnings []string       `json:"warnings"` // nothing that keeps a service from starting
}

// TopicsError lists everything about the topics that keeps a service from starting.
type TopicsError struct{ Problems []TopicProblem }

func (e *TopicsError) Error() string {
	var list []string
	fatal := false
	for _, p := range e.Problems {
		list = append(list, p.Topic+": "+p.Problem)
		fatal = fatal || p.Fatal
	}
	advice := "run: hookferry topics create"
	if fatal {
		advice = "a partition count cannot be changed: make a new set of topics by another topic_prefix, or set partitions to what is there"
	}
	return fmt.Sprintf("the topics are not as they must be (%s); %s", strings.Join(list, "; "), advice)
}

// Code is stable: programs may compare it.
func (e *TopicsError) Code() string { return "topics_wrong" }

// cleanerConfigs are settings of the log cleaner that the broker in memory does not know: it never compacts unless it is told to.
var cleanerConfigs = []string{"min.compaction.lag.ms", "max.compaction.lag.ms", "min.cleanable.dirty.ratio"}

// atLeast are settings where more than we ask for is as good.
var atLeast = []string{"retention.ms", "max.message.bytes", "min.insync.replicas", "min.compaction.lag.ms"}

// CheckTopics returns a *TopicsError if topics are missing or differ.
func (c *Client) CheckTopics(ctx context.Context) error {
	r, err := c.InspectTopics(ctx)
	if err != nil {
		return err
	}
	for _, w := range r.Warnings {
		c.log.Warn(w)
	}
	if len(r.Problems) > 0 {
		return &TopicsError{r.Problems}
	}
	return nil
}

// InspectTopics compares the topics with what they must be. Only what the broker reports is compared.
func (c *Client) InspectTopics(ctx context.Context) (TopicReport, error) {
	specs := c.names.All()
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	c.meta.want(names...)
	var report TopicReport
	there, err := c.describeTopics(ctx, names)
	if err != nil {
		return report, err
	}
	configs, err := c.describeConfigs(ctx, slices.Sorted(maps.Keys(there)))
	if err != nil {
		return report, err
	}
	for _, s := range specs {
		t, ok := there[s.Name]
		if !ok {
			report.Problems = append(report.Problems, TopicProblem{Topic: s.Name, Problem: "is missing", missing: true})
			continue
		}
		if len(t.Partitions) != s.Partitions {
			report.Problems = append(report.Problems, TopicProblem{
				Topic: s.Name, Fatal: true, Problem: fmt.Sprintf("has %d partitions instead of %d", len(t.Partitions), s.Partitions),
			})
		}
		report.Problems = append(report.Problems, compareConfigs(s, configs[s.Name])...)
		if rf := c.cfg.ReplicationFactor; rf > 0 && len(t.Partitions) > 0 && len(t.Partitions[0].ReplicaNodes) < rf {
			report.Warnings = append(report.Warnings, fmt.Sprintf("%s has %d replicas instead of %d", s.Name, len(t.Partitions[0].ReplicaNodes), rf))
		}
	}
	w, err := c.inspectBroker(ctx)
	report.Warnings = append(report.Warnings, w...)
	return report, err
}

// compareConfigs lists what differs. A setting that the broker does not report (one in memory knows fewer) is not judged.
func compareConfigs(s TopicSpec, have map[string]string) []TopicProblem {
	var out []TopicProblem
	for _, k := range slices.Sorted(maps.Keys(s.Configs)) {
		want := s.Configs[k]
		got, ok := have[k]
		if !ok || got == want || (slices.Contains(atLeast, k) && enough(got, want)) {
			continue
		}
		out = append(out, TopicProblem{Topic: s.Name, Problem: fmt.Sprintf("%s is %s instead of %s", k, got, want), config: k, value: want})
	}
	return out
}

// enough says whether a number is at least another; -1 is no limit.
func enough(got, want string) bool {
	g, err1 := strconv.ParseInt(got, 10, 64)
	w, err2 := strconv.ParseInt(want, 10, 64)
	return err1 == nil && err2 == nil && (g >= w || g == -1)
}

// inspectBroker looks at what no topic's setting can say: how long the offsets of a stopped service are remembered.
func (c *Client) inspectBroker(ctx context.Context) ([]string, error) {
	c.meta.mu.Lock()
	ids := slices.Sorted(maps.Keys(c.meta.brokers))
	var addr string
	if len(ids) > 0 {
		addr = c.meta.brokers[ids[0]]
	}
	c.meta.mu.Unlock()
	if addr == "" {
		return nil, nil
	}
	const name = "offsets.retention.minutes"
	m, err := c.ask(ctx, addr, &describeconfigs.Request{Resources: []describeconfigs.RequestResource{
		{ResourceType: int8(kgo.ResourceTypeBroker), ResourceName: strconv.Itoa(int(ids[0])), ConfigNames: []string{name}},
	}}, requestTimeout)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range m.(*describeconfigs.Response).Resources {
		for _, e := range r.ConfigEntries {
			minutes, err := strconv.Atoi(e.ConfigValue)
			if e.ConfigName == name && err == nil && time.Duration(minutes)*time.Minute < c.cfg.Retention.Events {
				out = append(out, fmt.Sprintf("the brokers forget the offsets of a service that was stopped for %v (%s), but events are kept for %v: "+
					"a service that is stopped longer will not know where it was; raise %s", time.Duration(minutes)*time.Minute, name, c.cfg.Retention.Events, name))
			}
		}
	}
	return out, nil
}

// patiently tries a question again while brokers start, elect or move.
func patiently(ctx context.Context, try func() error) error {
	for i := 0; ; i++ {
		err := try()
		if err == nil {
			return nil
		}
		var code kgo.Error
		if errors.As(err, &code) && !transientAdmin(code) {
			return err
		}
		if i > 40 || ctx.Err() != nil { // about 20 s of waits
			return err
		}
		if sleep(ctx, backoff(i)) != nil {
			return err
		}
	}
}

func transientAdmin(code kgo.Error) bool {
	return fateOf(code) == moved || fateOf(code) == uncertain || code == kgo.NotController || code == kgo.ThrottlingQuotaExceeded
}

// describeTopics says which of the topics are there.
func (c *Client) describeTopics(ctx context.Context, names []string) (there map[string]metadata.ResponseTopic, err error) {
	err = patiently(ctx, func() error {
		if err := c.refresh(ctx); err != nil {
			return err
		}
		m, err := c.ask(ctx, c.controller(), &metadata.Request{TopicNames: names}, requestTimeout)
		if err != nil {
			return err
		}
		there = map[string]metadata.ResponseTopic{}
		for _, t := range m.(*metadata.Response).Topics {
			switch code := kgo.Error(t.ErrorCode); code {
			case 0, kgo.LeaderNotAvailable:
				there[t.Name] = t
			case kgo.UnknownTopicOrPartition:
			default:
				return fmt.Errorf("%s: %w", t.Name, code)
			}
		}
		return nil
	})
	return there, err
}

// describeConfigs reads the settings of topics.
func (c *Client) describeConfigs(ctx context.Context, topics []string) (configs map[string]map[string]string, err error) {
	if len(topics) == 0 {
		return nil, nil
	}
	req := &describeconfigs.Request{}
	for _, t := range topics {
		req.Resources = append(req.Resources, describeconfigs.RequestResource{ResourceType: int8(kgo.ResourceTypeTopic), ResourceName: t})
	}
	err = patiently(ctx, func() error {
		m, err := c.ask(ctx, c.controller(), req, requestTimeout)
		if err != nil {
			return errors.Join(err, c.refresh(ctx))
		}
		configs = map[string]map[string]string{}
		for _, r := range m.(*describeconfigs.Response).Resources {
			if r.ErrorCode != 0 {
				return fmt.Errorf("settings of %s: %w", r.ResourceName, kgo.Error(r.ErrorCode))
			}
			list := map[string]string{}
			for _, e := range r.ConfigEntries {
				list[e.ConfigName] = e.ConfigValue
			}
			configs[r.ResourceName] = list
		}
		return nil
	})
	return configs, err
}

// CreateTopics makes what is missing and alters settings that differ, and returns when every partition has a leader.
// Called again, it changes nothing. What it cannot mend is a *TopicsError.
func (c *Client) CreateTopics(ctx context.Context) ([]TopicChange, error) {
	var changes []TopicChange
	err := c.CreateTopicsFunc(ctx, func(ch TopicChange) { changes = append(changes, ch) })
	return changes, err
}

// CreateTopicsFunc is CreateTopics; it tells each change when it is made.
func (c *Client) CreateTopicsFunc(ctx context.Context, changed func(TopicChange)) error {
	report, err := c.InspectTopics(ctx)
	if err != nil {
		return err
	}
	var fatal []TopicProblem
	alter := map[string][]TopicProblem{}
	specs := map[string]TopicSpec{}
	for _, s := range c.names.All() {
		specs[s.Name] = s
	}
	for _, p := range report.Problems {
		switch {
		case p.missing:
			made, err := c.createTopic(ctx, specs[p.Topic])
			if err != nil {
				return err
			}
			if made {
				changed(TopicChange{p.Topic, "created", fmt.Sprintf("%d partitions", specs[p.Topic].Partitions)})
			}
		case p.Fatal:
			fatal = append(fatal, p)
		default:
			alter[p.Topic] = append(alter[p.Topic], p)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(alter)) {
		if err := c.alterTopic(ctx, topic, alter[topic]); err != nil {
			return err
		}
		for _, p := range alter[topic] {
			changed(TopicChange{topic, "altered", p.Problem})
		}
	}
	if fatal != nil {
		return &TopicsError{fatal}
	}
	return c.awaitLeaders(ctx)
}

// createTopic makes one topic. made is false if someone else was faster.
func (c *Client) createTopic(ctx context.Context, s TopicSpec) (made bool, err error) {
	rf := int16(c.cfg.ReplicationFactor)
	if rf == 0 {
		rf = -1
	}
	req := createtopics.RequestTopic{Name: s.Name, NumPartitions: int32(s.Partitions), ReplicationFactor: rf}
	for _, k := range slices.Sorted(maps.Keys(s.Configs)) {
		req.Configs = append(req.Configs, createtopics.RequestConfig{Name: k, Value: s.Configs[k]})
	}
	reduced := false
	err = patiently(ctx, func() error {
		m, err := c.askController(ctx, &createtopics.Request{Topics: []createtopics.RequestTopic{req}, TimeoutMs: brokerTimeout})
		if err != nil {
			return err
		}
		for _, t := range m.(*createtopics.Response).Topics {
			switch code := kgo.Error(t.ErrorCode); {
			case code == 0:
				made = true
			case code == kgo.TopicAlreadyExists:
			case code == kgo.InvalidConfiguration && !reduced: // perhaps it is only that this broker does not know the cleaner's settings
				reduced = true
				req.Configs = slices.DeleteFunc(req.Configs, func(e createtopics.RequestConfig) bool { return slices.Contains(cleanerConfigs, e.Name) })
				return kgo.NotController // that is: again
			default:
				return fmt.Errorf("create %s: %w (%s)", t.Name, code, t.ErrorMessage)
			}
		}
		return nil
	})
	return made, err
}

func (c *Client) askController(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	m, err := c.ask(ctx, c.controller(), req, requestTimeout)
	if err != nil {
		c.refresh(ctx)
	}
	return m, err
}

// alterTopic changes single settings. (AlterConfigs would reset all that it does not name.)
func (c *Client) alterTopic(ctx context.Context, topic string, problems []TopicProblem) error {
	r := incrementalalterconfigs.RequestResource{ResourceType: int8(kgo.ResourceTypeTopic), ResourceName: topic}
	for _, p := range problems {
		r.Configs = append(r.Configs, incrementalalterconfigs.RequestConfig{Name: p.config, ConfigOperation: int8(kgo.ConfigOperationSet), Value: p.value})
	}
	return patiently(ctx, func() error {
		m, err := c.askController(ctx, &incrementalalterconfigs.Request{Resources: []incrementalalterconfigs.RequestResource{r}})
		if err != nil {
			return err
		}
		for _, e := range m.(*incrementalalterconfigs.Response).Responses {
			if e.ErrorCode != 0 {
				return fmt.Errorf("alter %s: %w (%s)", topic, kgo.Error(e.ErrorCode), e.ErrorMessage)
			}
		}
		return nil
	})
}

// awaitLeaders returns when the brokers know a leader of every partition: right after creation they do not.
func (c *Client) awaitLeaders(ctx context.Context) error {
	for try := 0; ; try++ {
		err := c.refresh(ctx)
		open := ""
		for _, s := range c.names.All() {
			for p := range s.Partitions {
				if _, ok := c.meta.leader(TP{s.Name, int32(p)}); !ok {
					open = s.Name
				}
			}
		}
		if open == "" && err == nil {
			return nil
		}
		if e := sleep(ctx, backoff(try)); e != nil {
			return fmt.Errorf("wait for leaders of %s: %w", open, errors.Join(e, err))
		}
	}
}
