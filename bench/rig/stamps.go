package rig

import (
	"context"

	"github.com/hookferry/hookferry/internal/kafka"
)

// Stamp is when an event was appended (ms): by the clock that is right, and as the services see it, by a wrong clock if the proxy shows one.
type Stamp struct{ Real, Shown int64 }

// Stamps of all our events that are in the log, by sequence number.
func (d *Deployment) Stamps(ctx context.Context) (map[int64]Stamp, error) {
	topic := d.client.Topics().Events["booking"]
	starts, err := d.client.Offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return nil, err
	}
	from := map[kafka.TP]int64{}
	for p, o := range starts {
		from[kafka.TP{Topic: topic, Partition: p}] = o
	}
	stamps := map[int64]Stamp{}
	return stamps, d.scan(ctx, from, func(_ kafka.TP, r *kafka.Record) bool {
		s := Stamp{r.Time, r.Time}
		if d.Proxy != nil {
			s.Shown = d.Proxy.StampOf(r.Time)
		}
		stamps[eventSeq(r.Value)] = s
		return true
	})
}
