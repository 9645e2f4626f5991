package house

import (
	"context"

	"github.com/hookferry/hookferry/internal/kafka"
)

// read reads a topic from its start until it has n records.
func (d *deployment) read(topic string, n int) (all []kafka.Record) {
	d.t.Helper()
	first, err := d.kafka.Offsets(d.ctx, topic, kafka.Earliest)
	d.must(err)
	pos := map[kafka.TP]int64{}
	for p, off := range first {
		pos[kafka.TP{Topic: topic, Partition: p}] = off
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	f := d.kafka.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for _, b := range bs {
			all = append(all, b.Records...)
		}
		if len(all) >= n {
			cancel()
		}
		return nil
	})
	if len(all) < n {
		d.t.Fatalf("%s has %d records, want %d", topic, len(all), n)
	}
	return all
}
