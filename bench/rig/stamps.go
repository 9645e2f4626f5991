package rig

import (
	"context"

	"github.com/hookferry/hookferry/internal/kafka"
)

// Stamps are the append times (ms) of all our events that are in the log, by sequence number, as the services see them: by a wrong clock if the proxy shows
// one.
func (d *Deployment) Stamps(ctx context.Context) (map[int64]int64, error) {
	topic := d.client.Topics().Events["booking"]
	starts, err := d.client.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return nil, err
	}
	from := map[kafka.TP]int64{}
	for p, o := range starts {
		from[kafka.TP{Topic: topic, Partition: p}] = o
	}
	stamps := map[int64]int64{}
	return stamps, d.scan(ctx, from, func(_ kafka.TP, r *kafka.Record) bool {
		at := r.Time
		if d.Proxy != nil {
			at = d.Proxy.StampOf(at)
		}
		stamps[eventSeq(r.Value)] = at
		return true
	})
}
