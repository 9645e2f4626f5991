package kafka_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

const benchPartitions = 12

// fill appends n records of size bytes, 4,800 an append over all partitions.
func fill(b *testing.B, w *world, cl *kafka.Client, a *kafka.Appender, topic string, n, size int) {
	b.Helper()
	value := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var r kafka.Records
	for i := range n {
		r.Add(kafka.TP{Topic: topic, Partition: int32(i % benchPartitions)}, value[:26], nil, value)
		if r.Len() == 4800 || i == n-1 {
			if _, err := a.Append(context.Background(), &r); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, codec := range []kafka.Codec{kafka.None, kafka.Lz4} {
		b.Run(fmt.Sprint("codec=", codec), func(b *testing.B) {
			w := newWorld(b)
			cl := w.open(w.config(), kafka.Options{})
			topic := w.topic(cl, benchPartitions)
			a := cl.NewAppender(kafka.AppenderConfig{Compression: codec})
			fill(b, w, cl, a, topic, 4800, 1024)
			b.ReportAllocs()
			b.ResetTimer()
			fill(b, w, cl, a, topic, b.N, 1024)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	w := newWorld(b)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, benchPartitions)
	fill(b, w, cl, cl.NewAppender(kafka.AppenderConfig{}), topic, b.N, 1024)
	pos := map[kafka.TP]int64{}
	for p := range int32(benchPartitions) {
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	f := cl.NewFetcher(kafka.FetchConfig{})
	f.Assign(pos)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
		for i := range bs {
			n += len(bs[i].Records)
		}
		if n >= b.N {
			cancel()
		}
		return nil
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkOneRecordThroughKafka is the latency of a single record: append, acknowledge, fetch, hand over.
func BenchmarkOneRecordThroughKafka(b *testing.B) {
	w := newWorld(b)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, benchPartitions)}
	a := cl.NewAppender(kafka.AppenderConfig{})
	f := cl.NewFetcher(kafka.FetchConfig{})
	pos := map[kafka.TP]int64{}
	for p := range int32(benchPartitions) {
		pos[kafka.TP{Topic: tp.Topic, Partition: p}] = 0
	}
	f.Assign(pos)
	ctx, cancel := context.WithCancel(context.Background())
	came := make(chan time.Time, 1)
	done := make(chan error)
	go func() {
		done <- f.Run(ctx, func(context.Context, []kafka.Batch) error { came <- time.Now(); return nil })
	}()
	var r kafka.Records
	b.ReportAllocs()
	for b.Loop() {
		r.Add(tp, nil, nil, make([]byte, 1024))
		if _, err := a.Append(ctx, &r); err != nil {
			b.Fatal(err)
		}
		<-came
	}
	cancel()
	<-done
}
