package deliverer

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a deliverer tells about itself. docs/metrics.md lists them; the names are an interface.
type metrics struct {
	attempts    *prometheus.CounterVec // verdict, reason
	seconds     prometheus.Histogram
	skipped     prometheus.Counter
	copies      prometheus.Counter
	failOpen    prometheus.Counter
	flushFailed prometheus.Counter
	refused     *prometheus.CounterVec // topic
	lost        *prometheus.CounterVec // topic
	stopped     *prometheus.CounterVec // topic
	redriven    prometheus.Counter
	orphans     prometheus.Counter
	awaited     prometheus.Counter

	inFlight, connections, memory, unwritten, lease, lag, lanes, members *prometheus.Desc
	d                                                                    *Deliverer
}

func newMetrics(d *Deliverer, reg prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "hookferry", Subsystem: "deliverer", Name: name, Help: help}
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hookferry_deliverer_"+name, help, labels, nil)
	}
	m := &metrics{
		d: d,
		attempts: prometheus.NewCounterVec(opts("attempts_total", "Tasks that came to something, by verdict and reason; postponed ones were not tried, but for reason local."),
			[]string{"verdict", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "hookferry", Subsystem: "deliverer", Name: "event_to_delivery_seconds",
			Help: "From the broker's append of an event to the end of its delivery, replays and catch-ups left out.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 22)}),
		skipped:     prometheus.NewCounter(opts("skipped_total", "Tasks not tried because a mark says that the try, or the task, has ended.")),
		copies:      prometheus.NewCounter(opts("copies_total", "Second copies of a task that was in memory already.")),
		failOpen:    prometheus.NewCounter(opts("redis_fail_open_total", "Batches that went on without marks because Redis did not answer.")),
		flushFailed: prometheus.NewCounter(opts("flush_failed_total", "Times that a partition took no outcomes for more than a second; they wait in memory, and it is tried on.")),
		refused:     prometheus.NewCounterVec(opts("refused_total", "Records of outcomes that Kafka refused for good (too large, against a policy); the log says what became of each."), []string{"topic"}),
		lost:        prometheus.NewCounterVec(opts("lost_tasks_total", "Offsets that retention removed before they were delivered."), []string{"topic"}),
		stopped:     prometheus.NewCounterVec(opts("partitions_stopped_total", "Partitions that are not read any more; the log says why."), []string{"topic"}),
		redriven:    prometheus.NewCounter(opts("redriven_total", "Dead letters put back in line.")),
		orphans:     prometheus.NewCounter(opts("line_orphans_total", "Members of lines for which nothing came up: they were taken out, and their entities went on.")),
		awaited:     prometheus.NewCounter(opts("awaited_total", "Tasks that wait up to 5 s after a change of owner, because a process that had lost Kafka says in Redis that it has the try in hand.")),
		inFlight:    desc("in_flight", "Sends under way."),
		connections: desc("receiver_connections", "Connections to receivers, open or being made."),
		memory:      desc("tasks_in_memory", "Tasks read and not finished."),
		unwritten:   desc("unwritten_outcomes", "Outcomes that are being written or wait for a partition that takes none.", "partition"),
		lease:       desc("lease", "1 while sends may start, or might if it had a partition: an offset commit succeeded within the last two thirds of kafka.session_timeout, and the clocks are less than two minutes apart."),
		lag:         desc("lag_tasks", "Tasks of a partition that are not finished, as of its last fetch.", "topic", "partition"),
		lanes:       desc("lanes", "Lanes by state.", "state"),
		members:     desc("line_members", "Tasks of subscriptions that ask for order which have not ended: in memory, or in a tier. One in a tier takes some 200 bytes of memory."),
	}
	for _, topic := range d.topics.LaneTopics() { // a counter that begins with its first loss does not increase
		m.lost.WithLabelValues(topic)
		m.stopped.WithLabelValues(topic)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.attempts, m.seconds, m.skipped, m.copies, m.failOpen, m.flushFailed, m.refused, m.lost, m.stopped, m.redriven, m.orphans, m.awaited, m} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Describe and Collect give what is read when it is asked for.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.inFlight, m.connections, m.memory, m.unwritten, m.lease, m.lag, m.lanes, m.members} {
		ch <- d
	}
}

func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	tasks, _ := m.d.memory.counts()
	gauge(m.inFlight, float64(m.d.inFlight.Load()))
	gauge(m.connections, float64(m.d.connections.open.Load()))
	gauge(m.memory, float64(tasks))
	for partition, n := range m.d.collector.heldCounts() {
		gauge(m.unwritten, float64(n), strconv.Itoa(int(partition)))
	}
	may := 0.0
	if m.d.Ready() == nil {
		may = 1
	}
	gauge(m.lease, may)
	for tp, p := range *m.d.parts.Load() {
		_, lag := p.counts()
		gauge(m.lag, float64(lag), tp.Topic, strconv.Itoa(int(tp.Partition)))
	}
	states := map[string]int{laneHealthy: 0, laneThrottled: 0, laneHeld: 0, laneFailing: 0}
	members := 0
	for _, l := range m.d.allLanes() {
		l.mu.Lock()
		states[l.press.state(now)]++
		if l.order != nil {
			members += l.order.members
		}
		l.mu.Unlock()
	}
	gauge(m.members, float64(members))
	for state, n := range states {
		gauge(m.lanes, float64(n), state)
	}
}
