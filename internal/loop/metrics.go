package loop

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// Metrics counts the work of a process's loops under upstream's names, by the loops' names. It is a prometheus.Collector. What would
// need a timer, how long syncs have been running, is found out when somebody looks.
type Metrics struct {
	depth          *prometheus.GaugeVec
	adds, retries  *prometheus.CounterVec
	waited, worked *prometheus.HistogramVec
	leading        *prometheus.GaugeVec

	unfinished, longest *prometheus.Desc

	mu    sync.Mutex
	loops map[*Loop]bool
}

// NewMetrics makes Metrics that have counted nothing.
func NewMetrics() *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Subsystem: "workqueue", Name: name, Help: help}
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "workqueue", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(10e-9, 10, 10),
		}, []string{"name"})
	}
	return &Metrics{
		depth:   prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("depth", "Keys that wait for a worker.")), []string{"name"}),
		adds:    prometheus.NewCounterVec(prometheus.CounterOpts(opts("adds_total", "Keys that were queued.")), []string{"name"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts(opts("retries_total", "Keys that were queued to be looked at later.")), []string{"name"}),
		waited:  histogram("queue_duration_seconds", "How long keys waited for a worker, in seconds."),
		worked:  histogram("work_duration_seconds", "How long syncs took, in seconds."),
		leading: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "leader_election_master_status", Help: "1 while this process holds the lease of the name, else 0.",
		}, []string{"name"}),
		unfinished: prometheus.NewDesc("workqueue_unfinished_work_seconds", "How long the syncs that run now have run, together, in seconds.", []string{"name"}, nil),
		longest:    prometheus.NewDesc("workqueue_longest_running_processor_seconds", "How long the oldest of the syncs that run now has run, in seconds.", []string{"name"}, nil),
		loops:      map[*Loop]bool{},
	}
}

// Leading notes whether this process holds a lease.
func (m *Metrics) Leading(lease string, holds bool) {
	if m == nil {
		return
	}
	value := 0.0
	if holds {
		value = 1
	}
	m.leading.WithLabelValues(lease).Set(value)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.counted() {
		c.Describe(out)
	}
	out <- m.unfinished
	out <- m.longest
}

func (m *Metrics) counted() []prometheus.Collector {
	return []prometheus.Collector{m.depth, m.adds, m.retries, m.waited, m.worked, m.leading}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range m.counted() {
		c.Collect(out)
	}
	total, oldest := map[string]time.Duration{}, map[string]time.Duration{}
	m.mu.Lock()
	for l := range m.loops {
		sum, longest := l.running(time.Now())
		total[l.cfg.Name] += sum
		oldest[l.cfg.Name] = max(oldest[l.cfg.Name], longest)
	}
	m.mu.Unlock()
	for name := range total {
		out <- prometheus.MustNewConstMetric(m.unfinished, prometheus.GaugeValue, total[name].Seconds(), name)
		out <- prometheus.MustNewConstMetric(m.longest, prometheus.GaugeValue, oldest[name].Seconds(), name)
	}
}

// watch has the loop counted, or no longer.
func (m *Metrics) watch(l *Loop, on bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if on {
		m.loops[l] = true
	} else {
		delete(m.loops, l)
		m.depth.WithLabelValues(l.cfg.Name).Set(0)
	}
}

// provider gives a queue what it counts with.
type provider struct{ *Metrics }

func (p provider) NewDepthMetric(name string) workqueue.GaugeMetric {
	return p.depth.WithLabelValues(name)
}

func (p provider) NewAddsMetric(name string) workqueue.CounterMetric {
	return p.adds.WithLabelValues(name)
}

func (p provider) NewLatencyMetric(name string) workqueue.HistogramMetric {
	return p.waited.WithLabelValues(name)
}

func (p provider) NewWorkDurationMetric(name string) workqueue.HistogramMetric {
	return p.worked.WithLabelValues(name)
}

func (p provider) NewRetriesMetric(name string) workqueue.CounterMetric {
	return p.retries.WithLabelValues(name)
}

// The queue would set these twice a second.
func (provider) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric { return unset{} }

func (provider) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return unset{}
}

type unset struct{}

func (unset) Set(float64) {}

// untimed is a clock without tickers: what the queue does by them is done when somebody looks.
type untimed struct{ clock.RealClock }

func (untimed) NewTicker(time.Duration) clock.Ticker { return never{} }

type never struct{}

func (never) C() <-chan time.Time { return nil }
func (never) Stop()               {}

// newQueue makes a loop's queue, which counts if there are Metrics.
func newQueue(name string, m *Metrics) workqueue.TypedRateLimitingInterface[string] {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](minBackoff, maxBackoff)
	if m == nil {
		return workqueue.NewTypedRateLimitingQueue(limiter)
	}
	inner := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Name: name, MetricsProvider: provider{m}, Clock: untimed{}})
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[string]{
		DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{Name: name, MetricsProvider: provider{m}, Queue: inner}),
	})
}
