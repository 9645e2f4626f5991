package router

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// Any bytes on a topic of events end as tasks whose bodies are valid UTF-8 JSON, or as undecodable with a reason; never in a panic, and never in
// some of an event's tasks.
func FuzzEvent(f *testing.F) {
	w := newWorld(f, false, nil)
	for _, format := range []string{FormatStandard, FormatCloudEvents, FormatClassic} {
		w.subscribe("sub_"+format, "*", format, "*", "recent_reservations.*")
	}
	if w.broker == nil {
		f.Skip("the broker is to be stopped")
	}
	r := w.router(func(c *Config) { c.UnknownSchemaWait = 0 })
	// The table stays as it is when nothing runs any more: goroutines in the background would look like coverage to the fuzzer.
	own := subscriptions.NewTable(w.client, nil, subscriptions.Options{})
	stop := run(f, own.Run)
	<-own.Loaded()
	r.live.table = own
	stop()
	w.stopTable()
	w.broker.Close()
	topics := w.client.Topics().EventTopics()
	paths, _ := filepath.Glob(filepath.Join("testdata", "*.avro"))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for i := range topics {
			f.Add(uint8(i), b)
		}
	}
	now := time.Now().UnixMilli()
	f.Fuzz(func(t *testing.T, topic uint8, value []byte) {
		src := schemas.Source{Topic: topics[int(topic)%len(topics)], Time: now}
		out := r.live.event(&src, value, now)
		n := r.live.tasks.Len()
		r.live.reset()
		m := &r.live.meta
		alone := schemas.Addressee(string(m.EventType), string(m.CompanyID), string(m.EntityID)) != ""
		if bad := out.reason != "" || out.wait != nil; bad && n != 0 || !bad && !alone && n != 3 || alone && n > 1 {
			t.Fatalf("%d tasks with the outcome %+v", n, out)
		}
		if n == 0 {
			return
		}
		for format := range formats {
			b, err := r.live.render.body(format)
			if err != nil {
				t.Fatal(err)
			}
			whole := append([]byte{}, b.head...)
			if b.hole {
				whole = append(append(whole, `"n"`...), b.tail...)
			}
			if !validText(whole) || !json.Valid(whole) {
				t.Fatalf("%s", whole)
			}
		}
	})
}
