package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// The headers that the router puts behind a record's own when it writes it to `undecodable`. Where a publisher used the same names, the last one
// counts, which is ours.
const (
	headerTopic     = "hookferry-source-topic"
	headerPartition = "hookferry-source-partition"
	headerOffset    = "hookferry-source-offset"
	headerTime      = "hookferry-source-time" // when the broker appended it, ms since 1970 UTC
	headerReason    = "hookferry-reason"
	headerNull      = "hookferry-null-value" // "true" if the record had no value at all: an empty one and none look the same here
	headerLeftOut   = "hookferry-left-out"   // bytes of a record that is too large to be kept: of its key, headers and value
)

// largestKept is the most bytes of key, headers and value that are kept: `undecodable` takes that much and our headers. A broker takes a larger record for
// a topic of events only within a compressed batch, whose packed size is what counts there.
const largestKept = schemas.MaxInput + 32<<10

// keepable gives what is kept of an undecodable record: all of it, or, where it is too large, its key if that is short. Then leftOut is its size.
func keepable(rec *kafka.Record) (kept *kafka.Record, leftOut int64) {
	size := rec.LeftOut
	if size == 0 {
		size = sizeOf(rec)
		if size <= largestKept {
			return rec, 0
		}
	}
	kept = &kafka.Record{Offset: rec.Offset, Time: rec.Time}
	if len(rec.Key) <= 4<<10 {
		kept.Key = rec.Key
	}
	return kept, size
}

// sizeOf is what key, headers and value take on the wire.
func sizeOf(rec *kafka.Record) int64 {
	var scratch [binary.MaxVarintLen64]byte
	field := func(n int) int { return binary.PutVarint(scratch[:], int64(n)) + n }
	size := field(len(rec.Key)) + field(len(rec.Value))
	for i := range rec.Headers {
		size += field(len(rec.Headers[i].Key)) + field(len(rec.Headers[i].Value))
	}
	return int64(size)
}

func undecodableHeaders(tp kafka.TP, rec *kafka.Record, leftOut int64, reason string) []kafka.Header {
	out := make([]kafka.Header, len(rec.Headers), len(rec.Headers)+7)
	copy(out, rec.Headers)
	add := func(key, value string) { out = append(out, kafka.Header{Key: key, Value: []byte(value)}) }
	add(headerTopic, tp.Topic)
	add(headerPartition, strconv.Itoa(int(tp.Partition)))
	add(headerOffset, strconv.FormatInt(rec.Offset, 10))
	add(headerTime, strconv.FormatInt(rec.Time, 10))
	add(headerReason, reason)
	if rec.Value == nil {
		add(headerNull, "true")
	}
	if leftOut > 0 {
		add(headerLeftOut, strconv.FormatInt(leftOut, 10))
	}
	return out
}

// Undecodable is one record of the topic `undecodable`.
type Undecodable struct {
	Partition int32          // of undecodable
	Offset    int64          // of undecodable
	Time      int64          // when it was put there, ms
	Source    schemas.Source // where the event lies, and when it was appended there
	Reason    string
	Key       []byte
	Value     []byte         // as it was published; nil if it had none
	Headers   []kafka.Header // its own, without the router's
	// LeftOut is the size of a record that was too large to be kept, in bytes; 0: it is here whole. Its value and headers, and a long key, stand only at
	// Source, until retention removes them.
	LeftOut int64
}

// ID names the record to people: its partition and offset in `undecodable`.
func (u *Undecodable) ID() string { return UndecodableID(u.Partition, u.Offset) }

// UndecodableID is what ID gives.
func UndecodableID(partition int32, offset int64) string {
	return strconv.Itoa(int(partition)) + "-" + strconv.FormatInt(offset, 10)
}

// IDError says that a text names no undecodable record. Missing: it could, but there is none of that id, or not any more.
type IDError struct {
	Text    string
	Missing bool
}

func (e *IDError) Error() string {
	if e.Missing {
		return fmt.Sprintf("there is no undecodable record %s, or retention has removed it", e.Text)
	}
	return fmt.Sprintf("%q does not name an undecodable record: its id is PARTITION-OFFSET, as `hookferry undecodable list` prints it", e.Text)
}

// Code is stable: programs may compare it.
func (e *IDError) Code() string {
	if e.Missing {
		return "no_such_undecodable"
	}
	return "bad_undecodable_id"
}

// ParseUndecodableID reads what ID gives.
func ParseUndecodableID(s string) (partition int32, offset int64, err error) {
	a, b, ok := strings.Cut(s, "-")
	p, err1 := strconv.ParseInt(a, 10, 32)
	o, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || p < 0 || o < 0 || UndecodableID(int32(p), o) != s {
		return 0, 0, &IDError{Text: s}
	}
	return int32(p), o, nil
}

// parseUndecodable reads a record of `undecodable`. ok is false if it does not carry the router's headers, which no router wrote.
func parseUndecodable(partition int32, rec *kafka.Record) (u Undecodable, ok bool) {
	u = Undecodable{Partition: partition, Offset: rec.Offset, Time: rec.Time, Key: rec.Key, Value: rec.Value}
	var bad error
	num := func(b []byte, bits int) int64 {
		n, err := strconv.ParseInt(string(b), 10, bits)
		bad = errors.Join(bad, err)
		return n
	}
	seen, own, isNull := 0, len(rec.Headers), false
	for i := len(rec.Headers) - 1; i >= 0 && seen < 5; i-- {
		h := &rec.Headers[i]
		switch h.Key {
		case headerTopic:
			u.Source.Topic = string(h.Value)
		case headerPartition:
			u.Source.Partition = int32(num(h.Value, 32))
		case headerOffset:
			u.Source.Offset = num(h.Value, 64)
		case headerTime:
			u.Source.Time = num(h.Value, 64)
		case headerReason:
			u.Reason = string(h.Value)
		case headerNull:
			isNull = true
			own = i
			continue
		case headerLeftOut:
			u.LeftOut = num(h.Value, 64)
			own = i
			continue
		default:
			return u, false
		}
		seen++
		own = i
	}
	u.Headers = rec.Headers[:own]
	if isNull {
		u.Value = nil
	} else if u.Value == nil {
		u.Value = []byte{}
	}
	return u, seen == 5 && bad == nil && u.Source.Topic != ""
}

// Progress of a scan, for a progress bar: records read and records in all.
type ScanProgress func(read, total int64)

// ScanUndecodable calls f for every record of `undecodable` from the first one to the ends as they are now, partition by partition in
// no given order; f may stop the scan by returning false. only, if it is not negative, reads one partition. The ends are returned: a reroute
// of everything that was listed carries them.
func ScanUndecodable(ctx context.Context, c *kafka.Client, only int32, progress ScanProgress, f func(*Undecodable) bool) ([]schemas.PartitionOffset, error) {
	topic := c.Topics().Undecodable
	starts, err := c.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return nil, err
	}
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return nil, err
	}
	var out []schemas.PartitionOffset
	pos := map[kafka.TP]int64{}
	var total, read int64
	for p, end := range ends {
		if only >= 0 && p != only {
			continue
		}
		out = append(out, schemas.PartitionOffset{Topic: topic, Partition: p, Offset: end})
		if starts[p] < end {
			pos[kafka.TP{Topic: topic, Partition: p}] = starts[p]
			total += end - starts[p]
		}
	}
	if len(pos) == 0 {
		return out, nil
	}
	return out, scan(ctx, c, pos, func(tp kafka.TP) int64 { return ends[tp.Partition] }, func(tp kafka.TP, rec *kafka.Record) bool {
		u, ok := parseUndecodable(tp.Partition, rec)
		return !ok || f(&u)
	}, func(n int64) {
		read += n
		if progress != nil {
			progress(read, total)
		}
	})
}

// scan reads partitions from a position to an end each, and calls f for every record; f may stop the scan by returning false. stepped, if
// not nil, learns how many offsets each batch moved on.
func scan(ctx context.Context, c *kafka.Client, pos map[kafka.TP]int64, end func(kafka.TP) int64, f func(kafka.TP, *kafka.Record) bool, stepped func(int64)) error {
	at := maps.Clone(pos)
	return scanBatches(ctx, c, pos, end, func(b *kafka.Batch) bool {
		last := end(b.TP)
		for j := range b.Records {
			if b.Records[j].Offset >= last {
				break
			}
			if !f(b.TP, &b.Records[j]) {
				return false
			}
		}
		if stepped != nil {
			stepped(min(b.Next, last) - at[b.TP])
		}
		at[b.TP] = b.Next
		return true
	})
}

// scanBatches is scan by batches; a batch may go on behind the end. A compacted log may have no record just before its end: an empty
// answer at the high watermark ends a partition, too.
func scanBatches(ctx context.Context, c *kafka.Client, pos map[kafka.TP]int64, end func(kafka.TP) int64, f func(*kafka.Batch) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fetcher := c.NewFetcher(kafka.FetchConfig{
		Empty: true, MaxWait: 100 * time.Millisecond,
		OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true },
	})
	fetcher.Assign(pos)
	left := maps.Clone(pos)
	err := fetcher.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			if _, ok := left[b.TP]; !ok {
				continue
			}
			if len(b.Records) > 0 && !f(b) {
				return errScanEnd
			}
			left[b.TP] = b.Next
			if b.Next >= end(b.TP) || c.LogEnds(ctx, b) {
				delete(left, b.TP)
			}
		}
		if len(left) == 0 {
			return errScanEnd
		}
		return nil
	})
	if errors.Is(err, errScanEnd) {
		return nil
	}
	return err
}

// scanTopic reads a topic from its start to its end as it is now.
func scanTopic(ctx context.Context, c *kafka.Client, topic string, f func(kafka.TP, *kafka.Record) bool) error {
	starts, err := c.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return err
	}
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return err
	}
	pos := map[kafka.TP]int64{}
	for p, end := range ends {
		if starts[p] < end {
			pos[kafka.TP{Topic: topic, Partition: p}] = starts[p]
		}
	}
	if len(pos) == 0 {
		return nil
	}
	return scan(ctx, c, pos, func(tp kafka.TP) int64 { return ends[tp.Partition] }, f, nil)
}

var errScanEnd = errors.New("the scan is over")
