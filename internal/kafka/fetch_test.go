package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// running is a Fetcher that runs, and what it handed over.
type running struct {
	*kafka.Fetcher
	t    testing.TB
	stop func()
	mu   sync.Mutex
	got  map[kafka.TP][]int64 // offsets
	more chan struct{}
}

func (w *world) run(cl *kafka.Client, fc kafka.FetchConfig, handle func([]kafka.Batch)) *running {
	f := &running{Fetcher: cl.NewFetcher(fc), t: w.t, got: map[kafka.TP][]int64{}, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(w.ctx())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(_ context.Context, bs []kafka.Batch) error {
			if handle != nil {
				handle(bs)
			}
			f.mu.Lock()
			for _, b := range bs {
				for _, r := range b.Records {
					f.got[b.TP] = append(f.got[b.TP], r.Offset)
				}
			}
			f.mu.Unlock()
			select {
			case f.more <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(f.stop)
	return f
}

// offsets waits until a partition has brought n records and returns their offsets.
func (f *running) offsets(tp kafka.TP, n int) []int64 {
	f.t.Helper()
	late := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		got := slices.Clone(f.got[tp])
		f.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-f.more:
		case <-late:
			f.t.Fatalf("%v: %d records instead of %d", tp, len(got), n)
		}
	}
}

func TestAnAssignedPartitionIsReadAtOnceThoughAPollIsUnderWay(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	a := cl.NewAppender(kafka.AppenderConfig{})
	w.append(a, p1, "there")
	polling := make(chan struct{}, 100)
	f := w.run(cl, kafka.FetchConfig{MaxWait: 20 * time.Second, Full: func(kafka.TP) bool { polling <- struct{}{}; return false }}, nil)
	f.Assign(map[kafka.TP]int64{p0: 0})
	<-polling
	began := time.Now()
	f.Assign(map[kafka.TP]int64{p0: kafka.KeepPosition, p1: 0})
	f.offsets(p1, 1)
	if d := time.Since(began); d > 10*time.Second {
		t.Fatalf("it waited for the poll: %v", d)
	}
}

func TestWhatWasReadAheadForAPartitionThatLeftIsDropped(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	a := cl.NewAppender(kafka.AppenderConfig{})
	w.append(a, p0, "0", "1")
	entered, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f := w.run(cl, kafka.FetchConfig{}, func([]kafka.Batch) {
		once.Do(func() { entered <- struct{}{}; <-goOn })
	})
	f.Assign(map[kafka.TP]int64{p0: 0, p1: 0})
	<-entered // the first answer is being handled, and the next is read ahead
	w.append(a, p0, "2", "3")
	w.append(a, p1, "0")
	f.Assign(map[kafka.TP]int64{p1: kafka.KeepPosition})
	f.Assign(map[kafka.TP]int64{p0: 1, p1: kafka.KeepPosition}) // it comes back, at another place
	close(goOn)
	if got := f.offsets(p0, 5); !slices.Equal(got, []int64{0, 1, 1, 2, 3}) {
		t.Fatal(got)
	}
	if got := f.offsets(p1, 1); !slices.Equal(got, []int64{0}) {
		t.Fatal(got)
	}
	if at, ok := f.Position(p0); !ok || at != 4 {
		t.Fatal(at, ok)
	}
	f.Seek(p0, 2)
	if got := f.offsets(p0, 7); !slices.Equal(got, []int64{0, 1, 1, 2, 3, 2, 3}) {
		t.Fatal(got)
	}
}

func TestAPartitionThatStaysIsNotReadTwice(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	a := cl.NewAppender(kafka.AppenderConfig{})
	f := w.run(cl, kafka.FetchConfig{}, nil)
	f.Assign(map[kafka.TP]int64{p0: 0})
	for i := range 40 {
		w.append(a, p0, fmt.Sprint(i))
		if i%2 == 0 {
			f.Assign(map[kafka.TP]int64{p0: kafka.KeepPosition, p1: 0})
		} else {
			f.Assign(map[kafka.TP]int64{p0: kafka.KeepPosition})
		}
	}
	for i, o := range f.offsets(p0, 40) {
		if o != int64(i) {
			t.Fatalf("record %d has offset %d", i, o)
		}
	}
}

func TestAFullPartitionWaitsAndTheOthersDoNot(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	a := cl.NewAppender(kafka.AppenderConfig{})
	var full atomic.Bool
	full.Store(true)
	f := w.run(cl, kafka.FetchConfig{MaxWait: 20 * time.Second, Full: func(tp kafka.TP) bool { return tp == p0 && full.Load() }}, nil)
	f.Assign(map[kafka.TP]int64{p0: 0, p1: 0})
	w.append(a, p0, "0")
	w.append(a, p1, "0")
	f.offsets(p1, 1)
	w.append(a, p1, "1")
	f.offsets(p1, 2)
	if at, _ := f.Position(p0); at != 0 {
		t.Fatal("a full partition was read")
	}
	full.Store(false)
	f.Wake()
	began := time.Now()
	f.offsets(p0, 1)
	if d := time.Since(began); d > 10*time.Second {
		t.Fatalf("it waited for the poll of the others: %v", d)
	}
}

func TestOutOfRangeIsDecidedByThePolicy(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1)}
	a := cl.NewAppender(kafka.AppenderConfig{})
	w.append(a, tp, "0", "1", "2")
	asks := make(chan [3]int64, 10)
	var goOn atomic.Bool
	f := w.run(cl, kafka.FetchConfig{OutOfRange: func(_ kafka.TP, asked, start, end int64) (int64, bool) {
		asks <- [3]int64{asked, start, end}
		return end - 1, goOn.Load()
	}}, nil)
	f.Assign(map[kafka.TP]int64{tp: 7})
	if got := <-asks; got != [3]int64{7, 0, 3} {
		t.Fatal(got)
	}
	for len(f.Stopped()) == 0 {
		if sleepOr(t, time.Millisecond) {
			break
		}
	}
	var oor *kafka.OutOfRangeError
	if err := f.Stopped()[tp]; !errors.As(err, &oor) || oor.Asked != 7 || oor.End != 3 {
		t.Fatal(err)
	}
	goOn.Store(true)
	f.Seek(tp, 8)
	if got := f.offsets(tp, 1); !slices.Equal(got, []int64{2}) {
		t.Fatal(got)
	}
}

// sleepOr yields for a moment while a condition that nothing announces is awaited.
func sleepOr(t *testing.T, d time.Duration) bool {
	select {
	case <-t.Context().Done():
		return true
	case <-time.After(d):
		return false
	}
}

func TestTheBrokersAppendTimeIsTold(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1, "message.timestamp.type", "LogAppendTime")}
	old := time.Now().Add(-time.Hour)
	// kafka-go's writer sets the producer's time; ours has no say in it.
	kw := &kgo.Writer{Addr: kgo.TCP(w.addrs...), Topic: tp.Topic, Transport: &kgo.Transport{Dial: w.dial}, RequiredAcks: kgo.RequireAll}
	defer kw.Close()
	if err := kw.WriteMessages(w.ctx(), kgo.Message{Value: []byte("old"), Time: old}); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	acks := w.append(cl.NewAppender(kafka.AppenderConfig{}), tp, "new")
	got := w.read(cl, kafka.FetchConfig{}, map[kafka.TP]int64{tp: 0}, count(2))[tp]
	if d := before.Sub(time.UnixMilli(got[1].Time)); d.Abs() > 10*time.Second {
		t.Fatalf("the new record is off by %v", d)
	}
	if !w.real {
		return // the broker in memory keeps the producer's time
	}
	if d := before.Sub(time.UnixMilli(got[0].Time)); d.Abs() > 10*time.Second {
		t.Fatalf("the old record is off by %v: that is the producer's time", d)
	}
	if acks[0].Time != got[1].Time {
		t.Fatalf("acknowledged with %d, read with %d", acks[0].Time, got[1].Time)
	}
	if s := cl.Skew(); s == 0 || s.Abs() > time.Second {
		t.Fatalf("skew %v", s)
	}
}

func TestABatchLargerThanAskedForComesAllTheSame(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1)}
	a := cl.NewAppender(kafka.AppenderConfig{})
	big := string(bytes.Repeat([]byte("x"), 100_000))
	w.append(a, tp, "a")
	w.append(a, tp, big, big)
	w.append(a, tp, "b")
	got := w.read(cl, kafka.FetchConfig{PartitionBytes: 1000, MaxBytes: 1000}, map[kafka.TP]int64{tp: 0}, count(4))[tp]
	if len(got[2].Value) != 100_000 || string(got[3].Value) != "b" {
		t.Fatal("the records are not whole")
	}
}

func TestEmptyAnswersTellThatTheEndWasReached(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1)}
	w.append(cl.NewAppender(kafka.AppenderConfig{}), tp, "0")
	ends := make(chan kafka.Batch, 1000)
	f := w.run(cl, kafka.FetchConfig{Empty: true, MaxWait: 10 * time.Millisecond}, func(bs []kafka.Batch) {
		for _, b := range bs {
			if len(b.Records) == 0 {
				ends <- b
			}
		}
	})
	f.Assign(map[kafka.TP]int64{tp: 0})
	if b := <-ends; b.Next != 1 || b.HighWatermark != 1 {
		t.Fatalf("%+v", b)
	}
}

func TestLostFetchAnswersAreAskedForAgain(t *testing.T) {
	w := newWorld(t)
	var n atomic.Int64
	c := &cutter{dial: w.dial, lose: func(api int16) bool { return api == apiFetch && n.Add(1)%2 == 1 }}
	cl := w.open(w.config(), kafka.Options{Dial: c.Dial})
	tp := kafka.TP{Topic: w.topic(cl, 1)}
	a := cl.NewAppender(kafka.AppenderConfig{})
	f := w.run(cl, kafka.FetchConfig{}, nil)
	f.Assign(map[kafka.TP]int64{tp: 0})
	for i := range 5 {
		w.append(a, tp, "x")
		if got := f.offsets(tp, i+1); got[i] != int64(i) {
			t.Fatal(got)
		}
	}
}

func TestAMissingTopicHoldsUpNoOtherAndMakesNoHotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		w := &world{t: t, addrs: b.Addrs(), dial: b.Dial}
		c := &cutter{dial: w.dial}
		cl, err := kafka.Open(w.config(), kafka.Options{Dial: c.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := cl.CreateTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		tp := kafka.TP{Topic: cl.Topics().Retry}
		f := cl.NewFetcher(kafka.FetchConfig{})
		f.Assign(map[kafka.TP]int64{tp: 0, {Topic: tp.Topic, Partition: 99}: 0, {Topic: "never-made"}: 0})
		ctx, stop := context.WithCancel(t.Context())
		came, done := make(chan struct{}), make(chan error)
		go func() {
			done <- f.Run(ctx, func(context.Context, []kafka.Batch) error { came <- struct{}{}; return nil })
		}()
		const metadata = 3
		a := cl.NewAppender(kafka.AppenderConfig{})
		before := c.count(metadata) + c.count(apiFetch)
		for range 60 {
			time.Sleep(time.Second) // virtual
			var r kafka.Records
			r.Add(tp, nil, nil, []byte("x"))
			sent := time.Now()
			if _, err := a.Append(ctx, &r); err != nil {
				t.Fatal(err)
			}
			<-came
			if d := time.Since(sent); d > 10*time.Millisecond {
				t.Errorf("it took %v", d)
			}
		}
		if n := c.count(metadata) + c.count(apiFetch) - before; n > 60*8 {
			t.Errorf("%d requests in a minute", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOffsetsByTime(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 3)
	a := cl.NewAppender(kafka.AppenderConfig{})
	p1 := kafka.TP{Topic: topic, Partition: 1}
	w.append(a, p1, "0", "1")
	middle := time.Now().Add(2 * time.Millisecond)
	for time.Now().Before(middle.Add(2 * time.Millisecond)) {
		sleepOr(t, time.Millisecond)
	}
	w.append(a, p1, "2")
	for at, want := range map[int64]map[int32]int64{
		kafka.Earliest:     {0: 0, 1: 0, 2: 0},
		kafka.Latest:       {0: 0, 1: 3, 2: 0},
		middle.UnixMilli(): {0: 0, 1: 2, 2: 0},
		math.MaxInt64 / 2:  {0: 0, 1: 3, 2: 0},
	} {
		got, err := cl.Offsets(w.ctx(), topic, at)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("at %d: %v instead of %v (%v)", at, got, want, err)
		}
	}
	if n, err := cl.PartitionCount(w.ctx(), topic); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	var missing *kafka.MissingTopicError
	ctx, cancel := context.WithTimeout(w.ctx(), 100*time.Millisecond)
	defer cancel()
	if _, err := cl.PartitionCount(ctx, "never-made"); !errors.As(err, &missing) {
		t.Fatal(err)
	}
}
