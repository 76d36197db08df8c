package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the proxy does, under kube-proxy's names. It is a prometheus.Collector.
type Metrics struct {
	prometheus.Collector

	sync, full, partial, programming, conntrack prometheus.Histogram
	synced, queued                              prometheus.Gauge
	endpointChanges, serviceChanges             prometheus.Counter
	endpointsPending, servicesPending           prometheus.Gauge
	failures, forgotten                         prometheus.Counter
	repairs                                     prometheus.Counter
	noLocal                                     *prometheus.GaugeVec
	healthz, livez                              *prometheus.CounterVec
}

// NewMetrics makes one without counts.
func NewMetrics() *Metrics {
	var all collectors
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return keep(&all, prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "kubeproxy", Name: name, Help: help, Buckets: buckets}))
	}
	counter := func(name, help string) prometheus.Counter {
		return keep(&all, prometheus.NewCounter(prometheus.CounterOpts{Namespace: "kubeproxy", Name: name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return keep(&all, prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "kubeproxy", Name: name, Help: help}))
	}
	codes := func(name, help string) *prometheus.CounterVec {
		return keep(&all, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "kubeproxy", Name: name, Help: help}, []string{"code"}))
	}
	latency := prometheus.ExponentialBuckets(0.001, 2, 15)
	const rules = "sync_proxy_rules_"
	m := &Metrics{
		sync:             histogram(rules+"duration_seconds", "How long it took to apply changes", latency),
		full:             histogram("sync_full_proxy_rules_duration_seconds", "How long it took to compare or apply everything", latency),
		partial:          histogram("sync_partial_proxy_rules_duration_seconds", "How long it took to apply what changed", latency),
		programming:      histogram("network_programming_duration_seconds", "Time from a change of a pod or service until the rules follow it", programmingBuckets()),
		conntrack:        histogram("conntrack_reconciler_sync_duration_seconds", "How long it took to forget stale flows", latency),
		synced:           gauge(rules+"last_timestamp_seconds", "When changes were last applied"),
		queued:           gauge(rules+"last_queued_timestamp_seconds", "When a change was last waiting to be applied"),
		endpointChanges:  counter(rules+"endpoint_changes_total", "Changes of endpoints"),
		serviceChanges:   counter(rules+"service_changes_total", "Changes of services"),
		endpointsPending: gauge(rules+"endpoint_changes_pending", "Changes of endpoints that wait to be applied"),
		servicesPending:  gauge(rules+"service_changes_pending", "Changes of services that wait to be applied"),
		failures:         counter(rules+"nftables_sync_failures_total", "How often changes could not be applied"),
		forgotten:        counter("conntrack_reconciler_deleted_entries_total", "Flows that were forgotten"),
		repairs:          keep(&all, prometheus.NewCounter(prometheus.CounterOpts{Namespace: "coracle", Name: "proxy_repairs_total", Help: "How often the table was put right after others had changed it"})),
		noLocal: keep(&all, prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "kubeproxy", Name: rules + "no_local_endpoints_total",
			Help: "Service ports with the traffic policy Local whose endpoints are all elsewhere"}, []string{"traffic_policy"})),
		healthz: codes("proxy_healthz_total", "Answers on /healthz"),
		livez:   codes("proxy_livez_total", "Answers on /livez"),
	}
	m.Collector = all
	return m
}

// programmingBuckets are kube-proxy's: fine below two seconds, and up to five minutes.
func programmingBuckets() []float64 {
	buckets := prometheus.LinearBuckets(0.25, 0.25, 2)
	buckets = append(buckets, prometheus.LinearBuckets(1, 1, 59)...)
	buckets = append(buckets, prometheus.LinearBuckets(60, 5, 12)...)
	return append(buckets, prometheus.LinearBuckets(120, 30, 7)...)
}

// asked counts an answer of the health server.
func (m *Metrics) asked(path, code string) {
	if path == "healthz" {
		m.healthz.WithLabelValues(code).Inc()
		return
	}
	m.livez.WithLabelValues(code).Inc()
}

// applied notes that changes are.
func (m *Metrics) applied(started time.Time, everything bool, triggers []time.Time) {
	now := time.Now()
	took := now.Sub(started).Seconds()
	m.sync.Observe(took)
	if everything {
		m.full.Observe(took)
	} else {
		m.partial.Observe(took)
	}
	m.synced.Set(float64(now.UnixNano()) / 1e9)
	for _, t := range triggers {
		m.programming.Observe(now.Sub(t).Seconds())
	}
}

// collectors is a collector of several.
type collectors []prometheus.Collector

func keep[C prometheus.Collector](all *collectors, c C) C {
	*all = append(*all, c)
	return c
}

// Describe implements prometheus.Collector.
func (all collectors) Describe(to chan<- *prometheus.Desc) {
	for _, c := range all {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (all collectors) Collect(to chan<- prometheus.Metric) {
	for _, c := range all {
		c.Collect(to)
	}
}
