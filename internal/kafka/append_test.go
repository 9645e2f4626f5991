package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"

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

func TestALostAnswerDoesNotWriteTwice(t *testing.T) {
	w := newWorld(t)
	var n atomic.Int64
	c := &cutter{dial: w.dial, lose: func(api int16) bool { return api == apiProduce && n.Add(1)%2 == 1 }}
	cl := w.open(w.config(), kafka.Options{Dial: c.Dial})
	topic := w.topic(cl, 2)
	a := cl.NewAppender(kafka.AppenderConfig{Compression: kafka.Lz4})
	pos := map[kafka.TP]int64{{Topic: topic, Partition: 0}: 0, {Topic: topic, Partition: 1}: 0}
	for i := range 10 {
		var r kafka.Records
		for p := range int32(2) {
			r.Add(kafka.TP{Topic: topic, Partition: p}, nil, nil, []byte(fmt.Sprint(2*i)))
			r.Add(kafka.TP{Topic: topic, Partition: p}, nil, nil, []byte(fmt.Sprint(2*i+1)))
		}
		acks, err := a.Append(w.ctx(), &r)
		if err != nil {
			t.Fatal(err)
		}
		for _, ack := range acks {
			if ack.Base != int64(2*i) || ack.Count != 2 {
				t.Fatalf("append %d: %+v", i, ack)
			}
		}
	}
	if c.lost.Load() != 10 {
		t.Fatalf("%d answers were lost", c.lost.Load())
	}
	for tp, rs := range w.read(cl, kafka.FetchConfig{}, pos, count(40)) {
		for i, rec := range rs {
			if string(rec.Value) != fmt.Sprint(i) {
				t.Fatalf("%v: offset %d holds %q", tp, rec.Offset, rec.Value)
			}
		}
	}
}

// The batch behind one that was given up has as many records: under the same sequence the broker would take it for that one sent again,
// acknowledge it, and store nothing.
func TestGivingUpABatchWhoseFateIsUnknownHarmsNoneAfterIt(t *testing.T) {
	for _, c := range []struct {
		name     string
		arrives  bool // the broker has it, only the answer is lost
		inFlight bool // given up while an attempt is under way; else between two
	}{{"arrives", true, true}, {"gets lost", false, true}, {"arrives, between tries", true, false}, {"gets lost, between tries", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			ctx, giveUp := context.WithCancel(w.ctx())
			var armed atomic.Bool
			var tries atomic.Int64
			cut := &cutter{dial: w.dial}
			cut.lose = func(api int16) bool {
				if api != apiProduce || !armed.Load() {
					return false
				}
				if n := tries.Add(1); c.inFlight {
					giveUp()
				} else if n == 5 { // the next wait is a third of a second
					time.AfterFunc(100*time.Millisecond, giveUp)
				}
				return true
			}
			cl := w.open(w.config(), kafka.Options{Dial: cut.Dial})
			tp := kafka.TP{Topic: w.topic(cl, 1)}
			a := cl.NewAppender(kafka.AppenderConfig{})
			w.append(a, tp, "first")
			cut.deafTo.Store(!c.arrives)
			armed.Store(true)
			var r kafka.Records
			r.Add(tp, nil, nil, []byte("unknown"))
			_, err := a.Append(ctx, &r)
			var pe *kafka.PartitionError
			if !errors.As(err, &pe) || !pe.Unknown || pe.Rejected || !errors.Is(err, context.Canceled) {
				t.Fatalf("the given up append says %v", err)
			}
			armed.Store(false)
			cut.deafTo.Store(false)
			w.append(a, tp, "second")
			w.append(a, tp, "third", "fourth")
			want := "first second third fourth"
			if c.arrives {
				want = "first unknown second third fourth"
			}
			var text []string
			for _, rec := range w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{tp: 0}, count(len(strings.Fields(want))))[tp] {
				text = append(text, string(rec.Value))
			}
			if s := strings.Join(text, " "); s != want {
				t.Fatal(s)
			}
		})
	}
}

func TestRefusedRecordsAreToldApartAndStopNobodyElse(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	good := kafka.TP{Topic: w.topic(cl, 1)}
	small := kafka.TP{Topic: w.topic(cl, 1, "max.message.bytes", "2000")}
	a := cl.NewAppender(kafka.AppenderConfig{})
	for range 2 {
		var r kafka.Records
		r.Add(good, nil, nil, []byte("good"))
		r.Add(small, nil, nil, make([]byte, 5000))
		acks, err := a.Append(w.ctx(), &r)
		var ae *kafka.AppendError
		if !errors.As(err, &ae) || len(ae.Partitions) != 1 || !ae.Partitions[0].Rejected || ae.Partitions[0].TP != small || !errors.Is(err, kgo.MessageSizeTooLarge) {
			t.Fatal(err)
		}
		if acks[0].Err != nil || acks[1].Err == nil {
			t.Fatal(acks)
		}
		w.append(a, small, "fits")
	}
	if w.real {
		compacted := kafka.TP{Topic: w.topic(cl, 1, "cleanup.policy", "compact")}
		var r kafka.Records
		r.Add(compacted, nil, nil, []byte("no key"))
		var pe *kafka.PartitionError
		if _, err := a.Append(w.ctx(), &r); !errors.As(err, &pe) || !pe.Rejected {
			t.Fatal(err)
		}
		w.append(a, compacted, "with a key")
	}
	if got := w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{small: 0}, count(2))[small]; got[1].Offset != 1 {
		t.Fatal(got)
	}
}

func TestManyAppendAtOnceAndEachKeepsItsOrder(t *testing.T) {
	w := newWorld(t)
	var n atomic.Int64
	c := &cutter{dial: w.dial, lose: func(api int16) bool { return api == apiProduce && n.Add(1)%5 == 0 }}
	cl := w.open(w.config(), kafka.Options{Dial: c.Dial})
	topic := w.topic(cl, 3)
	a := cl.NewAppender(kafka.AppenderConfig{})
	const writers, rounds = 8, 30
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			var r kafka.Records
			for i := range rounds {
				for p := range int32(3) {
					r.Add(kafka.TP{Topic: topic, Partition: p}, []byte{byte(g)}, nil, []byte{byte(i)})
				}
				if _, err := a.Append(t.Context(), &r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	pos := map[kafka.TP]int64{}
	for p := range int32(3) {
		pos[kafka.TP{Topic: topic, Partition: p}] = 0
	}
	for tp, rs := range w.read(cl, kafka.FetchConfig{}, pos, count(3*writers*rounds)) {
		next := map[byte]byte{}
		for _, rec := range rs {
			if rec.Value[0] != next[rec.Key[0]] {
				t.Fatalf("%v: writer %d: record %d stands where %d belongs", tp, rec.Key[0], rec.Value[0], next[rec.Key[0]])
			}
			next[rec.Key[0]]++
		}
	}
	if len(pos) != 3 || c.lost.Load() == 0 {
		t.Fatal("no answer was lost")
	}
}

func TestLargeAppendsAreSplitAndStayInOrder(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1, "max.message.bytes", "3000000")}
	a := cl.NewAppender(kafka.AppenderConfig{})
	var r kafka.Records
	sizes := []int{400_000, 400_000, 400_000, 2_000_000, 10, 300_000}
	for i, n := range sizes {
		v := make([]byte, n)
		v[0] = byte(i)
		r.Add(tp, nil, nil, v)
	}
	acks, err := a.Append(w.ctx(), &r)
	if err != nil {
		t.Fatal(err)
	}
	if len(acks) != 4 || acks[0].Count != 2 || acks[1].Count != 1 || acks[2].Count != 1 || acks[3].Count != 2 || acks[3].Base != 4 {
		t.Fatalf("%+v", acks)
	}
	for i, rec := range w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{tp: 0}, count(6))[tp] {
		if rec.Value[0] != byte(i) || len(rec.Value) != sizes[i] {
			t.Fatalf("record %d: %d bytes", i, len(rec.Value))
		}
	}
}
