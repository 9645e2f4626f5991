package router

import (
	"fmt"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// What an event costs from its bytes to its tasks in the produce request's buffer: unframe, projection, inspection, match, body, id, head and record.
// Not in it: the fetch before and the append behind.
func BenchmarkEvent(b *testing.B) {
	w := newWorld(b, false, nil)
	for _, f := range []string{FormatStandard, FormatCloudEvents, FormatClassic} {
		for fan := range 10 {
			w.subscribe(fmt.Sprintf("sub_%s_%d_7f3a9c21d4e8aaaa", f, fan), "c_"+f, f, "*")
			if fan == 0 {
				w.subscribe("sub_one_"+f+"_7f3a9c21d4e8aaaa", "c_one_"+f, f, "*")
			}
		}
	}
	r := w.router(nil)
	r.schemas.ctx = w.ctx
	now := time.Now().UnixMilli()
	for _, typ := range []string{"booking.creation", "customer.creation"} {
		for _, c := range []struct{ name, company string }{
			{"no match", "c_nobody"}, {"standard 1", "c_one_standard"}, {"standard 10", "c_standard"}, {"cloudevents 1", "c_one_cloudevents"},
			{"classic 1", "c_one_classic"}, {"classic 10", "c_classic"},
		} {
			tp, _, value, _ := w.sample(typ, c.company)
			b.Run(typ+" "+c.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(value)))
				src := schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Time: now}
				for b.Loop() {
					src.Offset++
					if out := r.live.event(&src, value, now); out.reason != "" || out.wait != nil {
						b.Fatal(out)
					}
					if r.live.tasks.Size() > flushBytes {
						r.live.reset()
					}
				}
				r.live.reset()
			})
		}
	}
}

// What a format costs, on an event that is decoded already.
func BenchmarkBody(b *testing.B) {
	w := newWorld(b, false, nil)
	_, _, value, _ := w.sample("booking.creation", "c_a")
	frame, avro, _ := schemas.Unframe(value)
	schema, _ := schemas.CompiledIn(frame.Fingerprint)
	reader, err := schemas.NewEventReader(schema)
	if err != nil {
		b.Fatal(err)
	}
	m, types, r := new(schemas.Meta), eventTypes(), new(renderer)
	b.Run("meta", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reader.Meta(avro, m)
		}
	})
	rest, _ := reader.Meta(avro, m)
	for f, name := range []string{FormatStandard, FormatCloudEvents, FormatClassic} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r.load(reader, m, types[string(m.EventType)], rest)
			for b.Loop() {
				r.bodies[f].built = false
				if _, err := r.body(format(f)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(r.bodies[f].head)+len(r.bodies[f].tail)), "body-bytes")
		})
	}
}

// A whole backlog through a router and the broker in memory, which shares the processor with it. Run it with -benchtime 1x.
func BenchmarkBacklog(b *testing.B) {
	const n = 20_000
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, false, func(c *kafka.Config) { c.Partitions = 12 })
		w.subscribe("sub_1", "c_a", FormatStandard, "*")
		var rs kafka.Records
		for i := range n {
			tp, key, value, _ := w.sample("customer.creation", "c_a")
			rs.Add(tp, key, nil, value)
			if i%1000 == 999 {
				w.write(&rs)
			}
		}
		b.StartTimer()
		began := time.Now()
		stop := w.start(nil)
		w.committed()
		b.ReportMetric(n/time.Since(began).Seconds(), "events/s")
		stop()
	}
}
