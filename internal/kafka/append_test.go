package kafka_test

import (
	"fmt"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
)

func TestRecordsComeBackAsTheyWereAppended(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 4)
	for codec := kafka.None; codec <= kafka.Zstd; codec++ {
		a := cl.NewAppender(kafka.AppenderConfig{Compression: codec})
		var r kafka.Records
		pos := map[kafka.TP]int64{}
		for p := range int32(4) {
			tp := kafka.TP{Topic: topic, Partition: p}
			ends, err := cl.Offsets(w.ctx(), topic, kafka.Latest)
			if err != nil {
				t.Fatal(err)
			}
			pos[tp] = ends[p]
			for i := range 100 {
				r.Add(tp, []byte(fmt.Sprint("key", i)), []kafka.Header{{Key: "h", Value: []byte{byte(i)}}}, []byte("value "), []byte(fmt.Sprint(i)))
			}
			r.AddTombstone(tp, []byte("gone"))
		}
		acks, err := a.Append(w.ctx(), &r)
		if err != nil {
			t.Fatal(err)
		}
		if len(acks) != 4 || r.Len() != 0 {
			t.Fatalf("%d answers, %d records left", len(acks), r.Len())
		}
		got := w.read(cl, kafka.FetchConfig{}, pos, count(404))
		for tp, rs := range got {
			for i, rec := range rs {
				if rec.Offset != pos[tp]+int64(i) {
					t.Fatalf("%v: record %d has offset %d", tp, i, rec.Offset)
				}
				if i == 100 {
					if rec.Value != nil || string(rec.Key) != "gone" {
						t.Fatalf("not a tombstone: %+v", rec)
					}
					continue
				}
				if string(rec.Key) != fmt.Sprint("key", i) || string(rec.Value) != fmt.Sprint("value ", i) ||
					len(rec.Headers) != 1 || rec.Headers[0].Key != "h" || rec.Headers[0].Value[0] != byte(i) {
					t.Fatalf("codec %d: record %d came back as %+v", codec, i, rec)
				}
			}
		}
	}
}
