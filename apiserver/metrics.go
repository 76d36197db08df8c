package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// metrics are the server's, under upstream's names.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	endless  *prometheus.GaugeVec
	// served tells the resources that get labels of their own; others are told apart by nothing.
	served func(schema.GroupVersionResource) bool
}

func newMetrics(more []prometheus.Collector) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests served, by verb, resource and HTTP response code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Response latency in seconds; endless requests are not counted.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10, 30, 60},
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests being served, endless ones not counted.",
		}, []string{"request_kind"}),
		endless: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Watches and other endless requests being served.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
	}
	m.registry = prometheus.NewRegistry()
	m.registry.MustRegister(m.requests, m.duration, m.inflight, m.endless,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(more...)
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// observation is one request being counted.
type observation struct {
	m       *metrics
	labels  []string
	start   time.Time
	endless bool
	gauge   prometheus.Gauge
}

func (m *metrics) begin(info *request.RequestInfo, endless bool) *observation {
	o := &observation{m: m, labels: m.labelsOf(info), start: time.Now(), endless: endless}
	switch {
	case endless:
		o.gauge = m.endless.WithLabelValues(o.labels...)
	case isRead(info.Verb):
		o.gauge = m.inflight.WithLabelValues("readOnly")
	default:
		o.gauge = m.inflight.WithLabelValues("mutating")
	}
	o.gauge.Inc()
	return o
}

func (o *observation) end(w *response) {
	o.gauge.Dec()
	if !o.endless {
		o.m.duration.WithLabelValues(o.labels...).Observe(time.Since(o.start).Seconds())
	}
	o.m.requests.WithLabelValues(append(o.labels, strconv.Itoa(w.code()))...).Inc()
}

// labelsOf keeps what clients can choose freely out of the labels.
func (m *metrics) labelsOf(info *request.RequestInfo) []string {
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	if !info.IsResourceRequest || !m.served(gvr) {
		return append(make([]string, 0, 8), strings.ToUpper(knownVerb(info.Verb)), "", "", "", "", "", "apiserver")
	}
	scope := "cluster"
	switch {
	case info.Name != "":
		scope = "resource"
	case info.Namespace != "":
		scope = "namespace"
	}
	return append(make([]string, 0, 8),
		strings.ToUpper(knownVerb(info.Verb)), info.APIGroup, info.APIVersion, info.Resource, knownSubresource(info.Subresource), scope, "apiserver")
}

func knownSubresource(sub string) string {
	switch sub {
	case "", "status", "scale", "binding", "eviction", "finalize", "token", "log", "exec", "attach", "portforward":
		return sub
	}
	return "other"
}

func knownVerb(verb string) string {
	switch verb {
	case "get", "list", "watch", "patch", "delete", "deletecollection", "post", "put", "head", "options":
		return verb
	case "create":
		return "post"
	case "update":
		return "put"
	}
	return "other"
}
