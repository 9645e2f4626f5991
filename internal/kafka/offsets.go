package kafka

import (
	"context"
	"fmt"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// Earliest and Latest are the two times that Offsets knows besides real ones.
const (
	Latest   = int64(-1) // the high watermark
	Earliest = int64(-2)
)

// missingAfter is how long a topic may be unknown before we believe that it is missing: brokers learn of a new topic one after the other.
const missingAfter = 5 * time.Second

// MissingTopicError is returned when a topic is asked about that is not there.
type MissingTopicError struct{ Topic string }

func (e *MissingTopicError) Error() string {
	return fmt.Sprintf("topic %s does not exist; run: hookferry topics create", e.Topic)
}

// Code is stable: programs may compare it.
func (e *MissingTopicError) Code() string { return "topic_missing" }

// PartitionCount asks for the number of partitions of a topic.
func (c *Client) PartitionCount(ctx context.Context, topic string) (int, error) {
	if !c.meta.want(topic) {
		if err := c.awaitTopic(ctx, topic); err != nil {
			return 0, err
		}
	}
	return c.meta.partitions(topic), nil
}

// awaitTopic waits until metadata names a topic; a *MissingTopicError says that it does not.
func (c *Client) awaitTopic(ctx context.Context, topic string) error {
	c.meta.want(topic)
	began := time.Now()
	for try := 0; ; try++ {
		err := c.refresh(ctx)
		if err == nil && c.meta.partitions(topic) > 0 {
			return nil
		}
		if err == nil && time.Since(began) > missingAfter {
			return &MissingTopicError{topic}
		}
		if e := sleep(ctx, backoff(try)); e != nil {
			if err == nil {
				err = &MissingTopicError{topic}
			}
			return fmt.Errorf("%w: %w", e, err)
		}
	}
}

// Offsets finds, for every partition of a topic, the first offset whose record is not older than at (ms), or Earliest, or Latest.
// A time past the last record gives the end as it was before. One or, for a time, two requests per leader; transient errors are tried again until ctx ends.
func (c *Client) Offsets(ctx context.Context, topic string, at int64) (map[int32]int64, error) {
	n, err := c.PartitionCount(ctx, topic)
	if err != nil {
		return nil, err
	}
	open := make([]TP, n)
	for p := range open {
		open[p] = TP{topic, int32(p)}
	}
	// The ends first: behind a record that is appended between the two questions a later end would lie.
	var ends map[TP]int64
	if at >= 0 {
		if ends, err = c.listOffsets(ctx, open, Latest); err != nil {
			return nil, err
		}
	}
	found, err := c.listOffsets(ctx, open, at)
	if err != nil {
		return nil, err
	}
	out := make(map[int32]int64, n)
	for tp, o := range found {
		if o < 0 { // no record has reached that time
			o = ends[tp]
		}
		out[tp.Partition] = o
	}
	return out, nil
}

// listOffsets asks the leaders of partitions, until all have answered.
func (c *Client) listOffsets(ctx context.Context, open []TP, at int64) (map[TP]int64, error) {
	found := make(map[TP]int64, len(open))
	for try := 0; ; try++ {
		last := error(kgo.LeaderNotAvailable)
		groups := map[string][]TP{}
		for _, tp := range open {
			if addr, ok := c.meta.leader(tp); ok {
				groups[addr] = append(groups[addr], tp)
			}
		}
		for addr, tps := range groups {
			if err := c.listOffsetsOf(ctx, addr, tps, at, found); err != nil {
				last = err
			}
		}
		left := open[:0:0]
		for _, tp := range open {
			if _, ok := found[tp]; !ok {
				left = append(left, tp)
			}
		}
		if open = left; len(open) == 0 {
			return found, nil
		}
		if e := sleep(ctx, backoff(try)); e != nil {
			return nil, fmt.Errorf("offsets of %s/%d: %w (%w)", open[0].Topic, open[0].Partition, e, last)
		}
		if err := c.refresh(ctx); err != nil {
			last = err
		}
	}
}

// listOffsetsOf asks one broker, and adds what it knows to found. The error is the last of a partition's.
func (c *Client) listOffsetsOf(ctx context.Context, addr string, tps []TP, at int64, found map[TP]int64) error {
	var topics []listoffsets.RequestTopic
	for _, tp := range tps {
		if k := len(topics); k == 0 || topics[k-1].Topic != tp.Topic {
			topics = append(topics, listoffsets.RequestTopic{Topic: tp.Topic})
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, listoffsets.RequestPartition{Partition: tp.Partition, CurrentLeaderEpoch: -1, Timestamp: at})
	}
	// Not through kafka-go's Transport: that makes a request of each partition.
	m, err := c.ask(ctx, addr, &listoffsets.Request{ReplicaID: -1, Topics: topics}, requestTimeout)
	if err != nil {
		return err
	}
	for _, t := range m.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				err = kgo.Error(p.ErrorCode)
				continue
			}
			found[TP{t.Topic, p.Partition}] = p.Offset
		}
	}
	return err
}

// LogEnds says whether a log has nothing behind what a fetch brought. The high watermark of the answer does not say so: right after a change of leader it may lie
// below what was acknowledged long before. ListOffsets is refused then, and asked again. false: there is more, or nobody can say yet, and the next answer asks again.
func (c *Client) LogEnds(ctx context.Context, b *Batch) bool {
	if len(b.Records) > 0 || b.Next < b.HighWatermark {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // other partitions wait for the answer
	defer cancel()
	ends, err := c.OffsetsOf(ctx, []TP{b.TP}, Latest)
	return err == nil && b.Next >= ends[b.TP]
}
