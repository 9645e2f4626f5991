package kafka_test

import (
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
)

func TestACommitComesBackWithItsMetadata(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 3)
	join := func() (*kafka.Group, *kafka.Generation) {
		g, err := cl.JoinGroup(kafka.GroupConfig{ID: topic + "-g", CoPartitioned: []string{topic}})
		if err != nil {
			t.Fatal(err)
		}
		gen, err := g.Next(w.ctx())
		if err != nil {
			t.Fatal(err)
		}
		return g, gen
	}
	g, gen := join()
	if len(gen.Assigned) != 3 {
		t.Fatal(gen.Assigned)
	}
	tp := kafka.TP{Topic: topic, Partition: 1}
	if got := gen.Assigned[tp]; got.Offset != -1 {
		t.Fatal(got)
	}
	if err := gen.Commit(w.ctx(), map[kafka.TP]kafka.Committed{tp: {Offset: 7, Metadata: "seven"}}); err != nil {
		t.Fatal(err)
	}
	gen.Release()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g, gen = join()
	if got := gen.Assigned[tp]; got.Offset != 7 || got.Metadata != "seven" {
		t.Fatal(got)
	}
	gen.Release()
	g.Close()
}
