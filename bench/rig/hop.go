package rig

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

// Hop measures the floor that this machine and broker set to any latency: how long one record of size bytes takes from the call that appends it (acks=all)
// to the hand of a waiting reader, at a fixed rate, in one process. The way of an event has two such hops before its request is written.
func (d *Deployment) Hop(ctx context.Context, size, n int, rate float64) (p50, p99 time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(float64(n)/rate*1e9)+20*time.Second)
	defer cancel()
	tp := kafka.TP{Topic: d.client.Topics().Lines} // who takes a partition over passes over what it cannot read there
	ends, err := d.client.Offsets(ctx, tp.Topic, kafka.Latest)
	if err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	fetcher := d.client.NewFetcher(kafka.FetchConfig{})
	fetcher.Assign(map[kafka.TP]int64{tp: ends[0]})
	read := make(chan error, 1)
	go func() {
		read <- fetcher.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
			now := time.Now().UnixNano()
			for _, b := range bs {
				for _, r := range b.Records {
					took = append(took, time.Duration(now-int64(binary.BigEndian.Uint64(r.Value))))
				}
			}
			if len(took) >= n {
				cancel()
			}
			return nil
		})
	}()
	var rec kafka.Records
	a := d.client.NewAppender(kafka.AppenderConfig{})
	value := make([]byte, size)
	begin := time.Now()
	for i := range n {
		if wait := time.Until(begin.Add(time.Duration(float64(i) / rate * 1e9))); wait > 0 {
			time.Sleep(wait)
		}
		binary.BigEndian.PutUint64(value, uint64(time.Now().UnixNano()))
		rec.Add(tp, []byte("hop"), nil, value)
		if _, err := a.Append(ctx, &rec); err != nil && len(took) < n {
			break
		}
	}
	err = <-read
	return Quantile(took, 0.5), Quantile(took, 0.99), err
}
