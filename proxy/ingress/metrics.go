package ingress

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count requests by route. Their labels come from Ingresses, never from requests, so that there are as many series as there are
// routes that were asked for. A route's series go with it.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	ejected  prometheus.Counter
	routes   prometheus.Gauge

	mu    sync.Mutex
	known map[routeLabels]*routeMetrics
}

// routeLabels name a route; all are empty for requests that no route is for.
type routeLabels struct{ namespace, ingress, host, path, service string }

var routeLabelNames = []string{"namespace", "ingress", "host", "path", "service"}

func (l routeLabels) values(more ...string) []string {
	return append([]string{l.namespace, l.ingress, l.host, l.path, l.service}, more...)
}

// NewMetrics makes metrics that count nothing yet.
func NewMetrics() *Metrics {
	const prefix = "coracle_ingress_"
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "requests_total", Help: "Requests by route and status code."}, append(routeLabelNames, "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_duration_seconds", Help: "Time from a request's header to the end of its answer; of a connection that is upgraded, to the upgrade.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, routeLabelNames),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "retries_total", Help: "Attempts at another endpoint after one that failed."}, routeLabelNames),
		ejected: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "endpoint_failures_total", Help: "Failures for which an endpoint got no requests for a time."}),
		routes:  prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "ingresses", Help: "Ingresses that are served."}),
		known:   map[routeLabels]*routeMetrics{},
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.duration, m.retries, m.ejected, m.routes}
}

// route gives the metrics of a route, the same as long as it is kept.
func (m *Metrics) route(l routeLabels) *routeMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.known[l]
	if r == nil {
		r = &routeMetrics{all: m, labels: l}
		m.known[l] = r
	}
	return r
}

// keep drops the series of routes that are not among those.
func (m *Metrics) keep(live map[routeLabels]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for l, r := range m.known {
		if live[l] {
			continue
		}
		delete(m.known, l)
		labels := prometheus.Labels{}
		for i, value := range l.values() {
			labels[routeLabelNames[i]] = value
		}
		r.gone.Store(true)
		m.requests.DeletePartialMatch(labels)
		m.duration.DeletePartialMatch(labels)
		m.retries.DeletePartialMatch(labels)
	}
}

// routeMetrics are a route's series, made when they are first needed.
type routeMetrics struct {
	all    *Metrics
	labels routeLabels
	// gone: the route is no more; requests that are on their way are not counted.
	gone atomic.Bool

	once     sync.Once
	duration prometheus.Observer
	// codes are the few status codes that there were; replaced as a whole.
	codes atomic.Pointer[[]codeCounter]
}

type codeCounter struct {
	code  int
	count prometheus.Counter
}

// done counts a request.
func (r *routeMetrics) done(code int, took time.Duration) {
	if r.gone.Load() {
		return
	}
	r.once.Do(func() { r.duration = r.all.duration.WithLabelValues(r.labels.values()...) })
	r.duration.Observe(took.Seconds())
	r.counter(code).Inc()
}

func (r *routeMetrics) counter(code int) prometheus.Counter {
	var known []codeCounter
	if have := r.codes.Load(); have != nil {
		known = *have
	}
	for _, c := range known {
		if c.code == code {
			return c.count
		}
	}
	// Of two that add one at the same time one may be lost, and is added again with the next request.
	made := codeCounter{code, r.all.requests.WithLabelValues(r.labels.values(strconv.Itoa(code))...)}
	added := append(slices.Clip(known), made)
	r.codes.Store(&added)
	return made.count
}

func (r *routeMetrics) retried() {
	if !r.gone.Load() {
		r.all.retries.WithLabelValues(r.labels.values()...).Inc()
	}
}
