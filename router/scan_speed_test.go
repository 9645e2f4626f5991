package router

import (
	"os"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

// How fast one router scans when few events match: a replay for one company of a thousand, over all that the topics hold, on a real broker that shares the
// machine. What is asserted leaves room for a machine that others use, too; the figure is in the log.
func TestAReplayScansFast(t *testing.T) {
	if os.Getenv("HOOKFERRY_TEST_KAFKA") == "" {
		t.Skip("it says nothing about a broker in memory; set HOOKFERRY_TEST_KAFKA")
	}
	const events, kinds = 400_000, 2000
	w := newWorld(t, false, func(c *kafka.Config) { c.Partitions = 12 })
	w.ctx = t.Context()
	w.subscribe("sub_1", "c_rare", FormatStandard, "*")
	packed := w.client.NewAppender(kafka.AppenderConfig{Compression: kafka.Lz4})
	type sample struct {
		tp         kafka.TP
		key, value []byte
	}
	samples := make([]sample, kinds)
	types := []string{"booking.creation", "customer.creation", "booking.amendment", "inventory.change"}
	for i := range samples {
		company := "c_many"
		if i%1000 == 0 {
			company = "c_rare"
		}
		tp, key, value, _ := w.sample(types[i%4], company)
		samples[i] = sample{tp, key, value}
	}
	var rs kafka.Records
	bytes := 0
	for i := range events {
		s := &samples[i%kinds]
		rs.Add(s.tp, s.key, nil, s.value)
		bytes += len(s.value)
		if i%4000 == 3999 {
			if _, err := packed.Append(w.ctx, &rs); err != nil {
				t.Fatal(err)
			}
			rs.Reset()
		}
	}
	w.start(func(c *Config) { c.CommitInterval = 500 * time.Millisecond })
	w.committed()
	w.deliver()
	began := time.Now()
	o := w.startReplay(ReplayDraft{Subscription: "sub_1"})
	w.until("the replay is done", func() bool { // looked at often, for what is measured is its end
		found, err := FindReplay(w.ctx, w.client, o.ID)
		return err == nil && over(found)
	})
	took := time.Since(began)
	p := w.over(o.ID)
	rate := float64(p.Total) / took.Seconds()
	t.Logf("%d events of %d bytes on the average scanned in %v: %.0f a second; %d tasks", p.Total, bytes/events, took.Round(time.Millisecond), rate, p.Matched)
	if p.Total != events || p.Matched != events/1000 {
		t.Errorf("%d events scanned, %d tasks", p.Total, p.Matched)
	}
	if rate < 20_000 {
		t.Errorf("%.0f events a second", rate)
	}
}
