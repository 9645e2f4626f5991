package recent

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the service tells about itself. docs/metrics.md lists them; the names are an interface. nil counts nothing: a command has none.
type metrics struct {
	events    prometheus.Counter
	skipped   *prometheus.CounterVec // reason
	companies prometheus.Gauge
	bookings  prometheus.Gauge
	waiting   prometheus.Gauge
	answers   *prometheus.CounterVec // code
	seconds   prometheus.Histogram
	snapshots prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, age func() float64) (*metrics, error) {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "hookferry", Subsystem: "recent", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "hookferry", Subsystem: "recent", Name: name, Help: help}
	}
	m := &metrics{
		events:    prometheus.NewCounter(counter("events_total", "Booking events that were read.")),
		skipped:   prometheus.NewCounterVec(counter("skipped_total", "Records of the topic of bookings that were passed over because they cannot be read, by reason."), []string{"reason"}),
		companies: prometheus.NewGauge(gauge("companies", "Companies that have bookings.")),
		bookings:  prometheus.NewGauge(gauge("bookings", "Bookings kept to answer with, at most 500 of a company and a little more for a moment.")),
		waiting:   prometheus.NewGauge(gauge("waiting_for_registry", "1 while no booking is read because the schema registry does not answer.")),
		answers:   prometheus.NewCounterVec(counter("answers_total", "Requests answered, by status."), []string{"status"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "hookferry", Subsystem: "recent", Name: "query_seconds",
			Help: "From a query's arrival to its answer.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14)}),
		snapshots: prometheus.NewCounter(counter("snapshots_total", "Snapshots published.")),
	}
	old := prometheus.NewGaugeFunc(gauge("age_seconds", "How old an answer may be: since the topic was last read to its end."), age)
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.events, m.skipped, m.companies, m.bookings, m.waiting, m.answers, m.seconds, m.snapshots, old} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) wait(on bool) {
	if m != nil && on {
		m.waiting.Set(1)
	} else if m != nil {
		m.waiting.Set(0)
	}
}

func (m *metrics) skip(reason string) {
	if m != nil {
		m.skipped.WithLabelValues(reason).Inc()
	}
}

func (m *metrics) count(events int) {
	if m != nil {
		m.events.Add(float64(events))
	}
}

func (m *metrics) size(companies, bookings int) {
	if m != nil {
		m.companies.Set(float64(companies))
		m.bookings.Set(float64(bookings))
	}
}

func (m *metrics) snapshot() {
	if m != nil {
		m.snapshots.Inc()
	}
}
