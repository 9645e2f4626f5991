package kafka_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

// TestHoursPassInABubble runs everything in virtual time: what is started must end, and nothing may wait for the real clock.
func TestHoursPassInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := sandbox.StartBroker(sandbox.BrokerConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		w := &world{t: t, addrs: b.Addrs(), dial: b.Dial}
		cl, err := kafka.Open(w.config(), kafka.Options{Dial: b.Dial, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		ctx := t.Context()
		if _, err := cl.CreateTopics(ctx); err != nil {
			t.Fatal(err)
		}
		topic := cl.Topics().Retry
		tp := kafka.TP{Topic: topic, Partition: 1}
		g, err := cl.JoinGroup(kafka.GroupConfig{ID: "g", CoPartitioned: []string{topic, cl.Topics().Replay}})
		if err != nil {
			t.Fatal(err)
		}
		gen, err := g.Next(ctx)
		if err != nil || len(gen.Assigned) != 8 {
			t.Fatal(gen, err)
		}
		fctx, stop := context.WithCancel(ctx)
		f := cl.NewFetcher(kafka.FetchConfig{Pace: func(n int) time.Duration { return 5 * time.Millisecond }})
		pos := map[kafka.TP]int64{}
		for tp := range gen.Assigned {
			pos[tp] = 0
		}
		f.Assign(pos)
		came := make(chan string, 100)
		done := make(chan error)
		go func() {
			done <- f.Run(fctx, func(_ context.Context, bs []kafka.Batch) error {
				for _, b := range bs {
					for _, r := range b.Records {
						came <- string(r.Value)
					}
				}
				return nil
			})
		}()
		a := cl.NewAppender(kafka.AppenderConfig{})
		began := time.Now()
		for hour := range 6 {
			time.Sleep(time.Hour) // virtual
			var r kafka.Records
			r.Add(tp, nil, nil, []byte(fmt.Sprint(hour)))
			sent := time.Now()
			if _, err := a.Append(ctx, &r); err != nil {
				t.Fatal(err)
			}
			if got := <-came; got != fmt.Sprint(hour) {
				t.Fatal(got)
			}
			if d := time.Since(sent); d > 100*time.Millisecond {
				t.Errorf("hour %d: it took %v", hour, d)
			}
			if err := gen.Commit(ctx, map[kafka.TP]kafka.Committed{tp: {Offset: int64(hour) + 1}}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-gen.Done():
			t.Error("the generation did not last")
		default:
		}
		if d := time.Since(began); d < 6*time.Hour || d > 6*time.Hour+time.Minute {
			t.Error(d)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		gen.Release()
		g.Close()
	})
}
