package subscriptions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Gap is what a partition of a topic of events has lost of a span: the records below the offset Below, as far as they were appended from From on. Until is
// when the first that is left was appended, 0: none is left. Times are broker ms.
type Gap struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Below     int64  `json:"below_offset"`
	From      int64  `json:"from"`
	Until     int64  `json:"until,omitempty"`
}

func (g Gap) String() string {
	until := "and nothing is left"
	if g.Until != 0 {
		until = "to " + stamp(g.Until)
	}
	return fmt.Sprintf("%s/%d: the events below offset %d, from %s %s", g.Topic, g.Partition, g.Below, stamp(g.From), until)
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

const (
	settingsLimit = 5 * time.Second // for the question how long the topics keep what they hold
	notedGaps     = 3               // partitions named in the note of an order
)

// gaps finds what was deleted of a span that begins at from. began says where partitions ended when it began, as far as that was noted.
//
// A partition has lost nothing if it still holds a record from before the span, or begins at offset 0. Where it does not, its log starts with or behind the
// span's beginning, and what lay before is gone: events of the span, if the log starts behind where it ended when the span began. Where that was not noted,
// retention decides: what it deletes is older than the topic's retention.ms, so it takes of a span only what is older than that. (Whoever deletes records
// by hand, with DeleteRecords, is then not seen.)
func (w *Writer) gaps(ctx context.Context, from int64, began []schemas.PartitionOffset) ([]Gap, error) {
	noted := map[kafka.TP]int64{}
	for _, b := range began {
		noted[kafka.TP{Topic: b.Topic, Partition: b.Partition}] = b.Offset
	}
	var out []Gap
	keeps := w.keeper(ctx)
	for _, topic := range w.c.Topics().EventTopics() {
		first, err := w.c.Offsets(ctx, topic, from) // before the starts: they may move in between
		if err != nil {
			return nil, err
		}
		starts, err := w.c.Offsets(ctx, topic, kafka.Earliest)
		if err != nil {
			return nil, err
		}
		for p, start := range starts {
			if start == 0 || first[p] > start {
				continue
			}
			end, known := noted[kafka.TP{Topic: topic, Partition: p}]
			if known && start <= end || !known && keeps(topic, from) {
				continue
			}
			out = append(out, Gap{Topic: topic, Partition: p, Below: start, From: from})
		}
	}
	slices.SortFunc(out, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out, w.date(ctx, out)
}

// keeper says whether a topic still keeps all that was appended from a time on, by its settings. It asks for them when first needed.
func (w *Writer) keeper(ctx context.Context) func(topic string, from int64) bool {
	var settings map[string]map[string]string
	return func(topic string, from int64) bool {
		if settings == nil {
			ctx, cancel := context.WithTimeout(ctx, settingsLimit)
			defer cancel()
			if settings, _ = w.c.TopicSettings(ctx, w.c.Topics().EventTopics()); settings == nil {
				settings = map[string]map[string]string{} // not allowed to ask, say: then nothing is known to be kept
			}
		}
		return keptSince(settings[topic], from, w.c.BrokerNow().UnixMilli())
	}
}

// keptSince: do these settings keep everything that was appended from a time on?
func keptSince(settings map[string]string, from, now int64) bool {
	if size, err := strconv.ParseInt(cmp.Or(settings["retention.bytes"], "-1"), 10, 64); err != nil || size >= 0 {
		return false
	}
	age, err := strconv.ParseInt(settings["retention.ms"], 10, 64)
	return err == nil && (age < 0 || from >= now-age)
}

// date notes when the first record was appended that is left in each partition.
func (w *Writer) date(ctx context.Context, gaps []Gap) error {
	if len(gaps) == 0 {
		return nil
	}
	pos, at := map[kafka.TP]int64{}, map[kafka.TP]*Gap{}
	for i := range gaps {
		tp := kafka.TP{Topic: gaps[i].Topic, Partition: gaps[i].Partition}
		pos[tp], at[tp] = gaps[i].Below, &gaps[i]
	}
	return w.read(ctx, pos, func(tp kafka.TP, rec *kafka.Record) bool {
		at[tp].Until = rec.Time
		return false
	})
}

// read calls fn with the records of partitions from an offset, or from Earliest, to where the partition ends now, until fn says that it has seen enough of the
// partition.
func (w *Writer) read(ctx context.Context, from map[kafka.TP]int64, fn func(kafka.TP, *kafka.Record) (more bool)) error {
	ends, pos := map[kafka.TP]int64{}, map[kafka.TP]int64{}
	starts, stops := map[string]map[int32]int64{}, map[string]map[int32]int64{}
	for tp, at := range from {
		if starts[tp.Topic] == nil {
			var err error
			if starts[tp.Topic], err = w.c.Offsets(ctx, tp.Topic, kafka.Earliest); err != nil {
				return err
			}
			if stops[tp.Topic], err = w.c.Offsets(ctx, tp.Topic, kafka.Latest); err != nil {
				return err
			}
		}
		if at, end := max(at, starts[tp.Topic][tp.Partition]), stops[tp.Topic][tp.Partition]; at < end {
			pos[tp], ends[tp] = at, end
		}
	}
	if len(pos) == 0 {
		return nil
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	f := w.c.NewFetcher(kafka.FetchConfig{MaxWait: 100 * time.Millisecond, Empty: true,
		OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(pos)
	err := f.Run(reading, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			end, open := ends[b.TP]
			for j := 0; open && j < len(b.Records) && b.Records[j].Offset < end; j++ {
				open = fn(b.TP, &b.Records[j])
			}
			if !open || b.Next >= end {
				delete(ends, b.TP)
			}
		}
		if len(ends) == 0 {
			stop()
		}
		return nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(ends) == 0 {
		return nil
	}
	return err
}

// gapRefusal names every range that is gone.
func gapRefusal(field string, gaps []Gap) Refusals {
	rs := Refusals{refuse(CodeRetentionGap, field, "the topics do not hold any more all that was appended from %s on: %d of their partitions have lost events. "+
		"--accept-gap goes on without them", stamp(gaps[0].From), len(gaps))}
	for _, g := range gaps {
		rs = append(rs, refuse(CodeRetentionGap, "", "%s", g.String()))
	}
	return rs
}

// gapNote is what the order of a span says about what was gone before it began.
func gapNote(gaps []Gap) string {
	if len(gaps) == 0 {
		return ""
	}
	var parts []string
	for _, g := range gaps[:min(notedGaps, len(gaps))] {
		parts = append(parts, g.String())
	}
	if n := len(gaps) - notedGaps; n > 0 {
		parts = append(parts, fmt.Sprintf("and in %d more partitions", n))
	}
	return "gone before it began, and accepted: " + strings.Join(parts, "; ")
}
