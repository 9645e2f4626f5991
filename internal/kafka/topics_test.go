package kafka_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

func TestTopicsAreCreatedOnceAndCheckedWhole(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	cl := w.open(c, kafka.Options{})
	err := cl.CheckTopics(w.ctx())
	var wrong *kafka.TopicsError
	if !errors.As(err, &wrong) || len(wrong.Problems) != len(cl.Topics().All()) || !strings.Contains(err.Error(), "hookferry topics create") {
		t.Fatalf("missing topics: %v", err)
	}
	changes, err := cl.CreateTopics(w.ctx())
	if err != nil || len(changes) != len(cl.Topics().All()) {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	if err := cl.CheckTopics(w.ctx()); err != nil {
		t.Fatal(err)
	}
	if changes, err := cl.CreateTopics(w.ctx()); err != nil || len(changes) != 0 {
		t.Fatalf("the second time: %v, %v", changes, err)
	}

	c.TopicConfigs = map[string]map[string]string{"subscriptions": {"segment.ms": "1000"}}
	cl = w.open(c, kafka.Options{})
	if err := cl.CheckTopics(w.ctx()); err == nil || !strings.Contains(err.Error(), "segment.ms") {
		t.Fatalf("a setting that differs: %v", err)
	}
	if changes, err := cl.CreateTopics(w.ctx()); err != nil || len(changes) != 1 || changes[0].Change != "altered" {
		t.Fatalf("altered: %v, %v", changes, err)
	}
	if err := cl.CheckTopics(w.ctx()); err != nil {
		t.Fatal(err)
	}

	c.Partitions++
	cl = w.open(c, kafka.Options{})
	if err := cl.CheckTopics(w.ctx()); err == nil || !strings.Contains(err.Error(), "has 4 partitions instead of 5") {
		t.Fatalf("partitions differ: %v", err)
	}
	if _, err := cl.CreateTopics(w.ctx()); !errors.As(err, &wrong) || strings.Contains(err.Error(), "run: hookferry topics create") {
		t.Fatalf("partitions differ, and the advice is of no use: %v", err)
	}
}

func TestEveryEntityHasATopicOfEvents(t *testing.T) {
	cl, err := kafka.Open(kafka.DefaultConfig(), kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if got := len(cl.Topics().Events); got != len(schemas.AllEntities()) {
		t.Fatalf("%d topics of events for %d entities", got, len(schemas.AllEntities()))
	}
	for _, e := range schemas.AllEntities() {
		if got, want := cl.Topics().Events[e], "hookferry.events."+e; got != want {
			t.Errorf("%s: %q instead of %q", e, got, want)
		}
	}
}
