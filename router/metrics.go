package router

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a router tells about itself. docs/metrics.md lists them; the names are an interface.
type metrics struct {
	events         *prometheus.CounterVec // entity
	tasks          prometheus.Counter
	tooLarge       prometheus.Counter
	undecodable    *prometheus.CounterVec // reason
	wrongPartition *prometheus.CounterVec // entity
	seconds        prometheus.Histogram
	lag            *prometheus.GaugeVec // topic, partition
	lost           *prometheus.CounterVec
	waiting        *prometheus.GaugeVec // why
	repeats        prometheus.Counter
	rerouted       *prometheus.CounterVec // outcome
	replays        prometheus.Gauge
	replayScanned  prometheus.Counter
	replayTasks    *prometheus.CounterVec // kind
	handOvers      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, tableAge func() float64) (*metrics, error) {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "hookferry", Subsystem: "router", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "hookferry", Subsystem: "router", Name: name, Help: help}
	}
	m := &metrics{
		events:         prometheus.NewCounterVec(counter("events_total", "Events routed, by entity."), []string{"entity"}),
		tasks:          prometheus.NewCounter(counter("tasks_total", "Tasks written.")),
		tooLarge:       prometheus.NewCounter(counter("too_large_total", "Tasks written without their body, because it is over router.body_limit.")),
		undecodable:    prometheus.NewCounterVec(counter("undecodable_total", "Records written to the topic undecodable, by reason."), []string{"reason"}),
		wrongPartition: prometheus.NewCounterVec(counter("wrong_partition_total", "Events in another partition than their key belongs to: their publisher has another partitioner, and order within an entity is at risk."), []string{"entity"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "hookferry", Subsystem: "router", Name: "append_to_task_seconds",
			Help: "From the broker's append of an event to the acknowledgement of its tasks.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		lag:           prometheus.NewGaugeVec(gauge("lag_events", "Events behind the end of a source partition, as of its last fetch."), []string{"topic", "partition"}),
		lost:          prometheus.NewCounterVec(counter("lost_events_total", "Offsets that retention removed before they were routed."), []string{"topic"}),
		waiting:       prometheus.NewGaugeVec(gauge("partitions_waiting", "Source partitions that are not being routed, by why."), []string{"why"}),
		repeats:       prometheus.NewCounter(counter("repeats_total", "Batches that are routed again because an append failed.")),
		rerouted:      prometheus.NewCounterVec(counter("rerouted_total", "Undecodable records that a reroute took up, by what came of it: routed, still, gone."), []string{"outcome"}),
		replays:       prometheus.NewGauge(gauge("replays", "Replays and catch-ups that are not over, paused ones among them.")),
		replayScanned: prometheus.NewCounter(counter("replay_scanned_total", "Records that replays and catch-ups have looked at.")),
		replayTasks:   prometheus.NewCounterVec(counter("replay_tasks_total", "Tasks written by replays and catch-ups, by kind: replay, catch_up."), []string{"kind"}),
		handOvers:     prometheus.NewCounter(counter("hand_overs_total", "Source partitions in which the live path took over from the catch-up of an ordered subscription.")),
	}
	age := prometheus.NewGaugeFunc(gauge("table_age_seconds", "Age of the last good read of the subscriptions. Nothing is matched when it is over a second."), tableAge)
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.events, m.tasks, m.tooLarge, m.undecodable, m.wrongPartition, m.seconds, m.lag, m.lost, m.waiting, m.repeats, m.rerouted,
		m.replays, m.replayScanned, m.replayTasks, m.handOvers, age} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
