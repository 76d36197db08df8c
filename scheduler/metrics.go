package scheduler

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coracle-dev/coracle/scheduler/queue"
)

// Metrics measures scheduling under upstream's names. It is a prometheus.Collector.
type Metrics struct {
	attempts    *prometheus.CounterVec
	algorithm   prometheus.Histogram
	waited      *prometheus.HistogramVec
	tries       prometheus.Histogram
	preemptions prometheus.Counter
	victims     prometheus.Histogram
	pending     *prometheus.Desc
	outside     *prometheus.Desc

	mu sync.Mutex
	of *Scheduler
}

// NewMetrics makes metrics that nothing was measured with yet.
func NewMetrics() *Metrics {
	return &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total", Help: "Attempts to schedule pods, by result: scheduled, unschedulable, error.",
		}, []string{"result", "profile"}),
		algorithm: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_algorithm_duration_seconds", Help: "Seconds that decisions take.", Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
		}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_sli_duration_seconds", Help: "Seconds from when a pod came to when it was bound.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"attempts"}),
		tries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_attempts", Help: "Attempts until a pod was bound.", Buckets: prometheus.ExponentialBuckets(1, 2, 5),
		}),
		preemptions: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total", Help: "Preemptions begun."}),
		victims: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_preemption_victims", Help: "Pods removed by one preemption.", Buckets: prometheus.ExponentialBuckets(1, 2, 7),
		}),
		pending: prometheus.NewDesc("scheduler_pending_pods", "Pods that wait: active, in back-off, or unschedulable.", []string{"queue"}, nil),
		outside: prometheus.NewDesc("coracle_scheduler_plugin_pods_total", "Pods that a plug-in out of process was asked about, by how that ended: answered, late, invalid, failed, refused.",
			[]string{"plugin", "profile", "result"}, nil),
	}
}

func (m *Metrics) own() []prometheus.Collector {
	return []prometheus.Collector{m.attempts, m.algorithm, m.waited, m.tries, m.preemptions, m.victims}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.own() {
		c.Describe(to)
	}
	to <- m.pending
	to <- m.outside
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.own() {
		c.Collect(to)
	}
	m.mu.Lock()
	s := m.of
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	now, later, wait := s.queue.Len()
	s.mu.Unlock()
	for name, n := range map[string]int{"active": now, "backoff": later, "unschedulable": wait} {
		to <- prometheus.MustNewConstMetric(m.pending, prometheus.GaugeValue, float64(n), name)
	}
	for _, f := range s.frameworks {
		for _, p := range f.plugins {
			c := p.Counts()
			for result, n := range map[string]uint64{"answered": c.Answered, "late": c.Late, "invalid": c.Invalid, "failed": c.Failed, "refused": c.Refused} {
				to <- prometheus.MustNewConstMetric(m.outside, prometheus.CounterValue, float64(n), p.Config().Name, f.profile.Name, result)
			}
		}
	}
}

func (m *Metrics) attach(s *Scheduler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of = s
}

func (m *Metrics) decided(started time.Time) { m.algorithm.Observe(time.Since(started).Seconds()) }

func (m *Metrics) preempted(victims int) {
	m.preemptions.Inc()
	m.victims.Observe(float64(victims))
}

func (m *Metrics) bound(profile string, item *queue.Item, now time.Time) {
	m.attempts.WithLabelValues("scheduled", profile).Inc()
	attempts := "1"
	if item.Attempts > 0 {
		attempts = "more"
	}
	m.waited.WithLabelValues(attempts).Observe(now.Sub(item.Added).Seconds())
	m.tries.Observe(float64(item.Attempts + 1))
}

func (m *Metrics) unschedulable(profile string) {
	m.attempts.WithLabelValues("unschedulable", profile).Inc()
}

func (m *Metrics) failed(profile string) { m.attempts.WithLabelValues("error", profile).Inc() }
