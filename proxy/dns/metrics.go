package dns

import (
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the server's, by the names that CoreDNS gives them.
type Metrics struct {
	requests, responses                      *prometheus.CounterVec
	duration, requestSize, responseSize      *prometheus.HistogramVec
	hits                                     *prometheus.CounterVec
	misses, stale, panics, rejected          prometheus.Counter
	entries                                  *prometheus.GaugeVec
	forwarded                                *prometheus.HistogramVec
	forwardRequests, forwardResponses, fails *prometheus.CounterVec

	all   []prometheus.Collector
	quick quick
	cache *answers

	server string
}

// quick holds what every question counts, found by numbers.
type quick struct {
	requests                  [2][len(countedTypes) + 1]prometheus.Counter
	responses                 [fromNone + 1][dns.RcodeRefused + 1]prometheus.Counter // nil for codes that are rare
	requestSize, responseSize [2]prometheus.Observer
	duration                  prometheus.Observer
	hits                      [2]prometheus.Counter
}

var (
	countedTypes = [...]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeCNAME, dns.TypeTXT, dns.TypeSOA, dns.TypeNS, dns.TypeMX, dns.TypeHTTPS, dns.TypeANY}
	transports   = [2]string{"udp", "tcp"}
	origins      = [...]string{fromCluster: "kubernetes", fromForward: "forward", fromHosts: "hosts", fromNone: ""}
	sizes        = []float64{0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3}
)

// NewMetrics makes the metrics of one server.
func NewMetrics() *Metrics {
	m := &Metrics{}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "coredns", Name: name, Help: help}, labels)
		m.all = append(m.all, c)
		return c
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "coredns", Name: name, Help: help, Buckets: buckets}, labels)
		m.all = append(m.all, h)
		return h
	}
	durations := prometheus.ExponentialBuckets(0.00025, 2, 16)
	m.requests = counters("dns_requests_total", "Requests by zone, protocol and type.", "server", "zone", "view", "proto", "family", "type")
	m.responses = counters("dns_responses_total", "Responses by code and what gave them.", "server", "zone", "view", "rcode", "plugin")
	m.duration = histograms("dns_request_duration_seconds", "How long each request took.", durations, "server", "zone", "view")
	m.requestSize = histograms("dns_request_size_bytes", "Size of requests.", sizes, "server", "zone", "view", "proto")
	m.responseSize = histograms("dns_response_size_bytes", "Size of responses.", sizes, "server", "zone", "view", "proto")
	m.hits = counters("cache_hits_total", "Answers from the cache.", "server", "type", "zones", "view")
	misses := counters("cache_misses_total", "Questions whose answer was not in the cache.", "server", "zones", "view")
	stale := counters("cache_served_stale_total", "Answers past their time, given because no server answered.", "server", "zones", "view")
	panics := counters("panics_total", "Questions that were not answered by a mistake of the program.")
	rejected := counters("forward_max_concurrent_rejects_total", "Questions refused because too many waited for other servers.")
	m.forwarded = histograms("proxy_request_duration_seconds", "How long other servers took.", durations, "proxy_name", "to", "rcode")
	m.forwardRequests = counters("forward_requests_total", "Questions to other servers.", "to")
	m.forwardResponses = counters("forward_responses_total", "Answers of other servers.", "to", "rcode")
	m.fails = counters("proxy_healthcheck_failures_total", "Servers found not to answer.", "proxy_name", "to")
	m.misses, m.stale = misses.WithLabelValues("", ".", ""), stale.WithLabelValues("", ".", "")
	m.panics, m.rejected = panics.WithLabelValues(), rejected.WithLabelValues()
	m.entries = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "coredns", Name: "cache_entries", Help: "Answers in the cache."}, []string{"server", "type", "zones", "view"})
	return m
}

// serve makes the metrics those of a server.
func (m *Metrics) serve(addr netip.Addr, c *answers) {
	server, zone, family := "dns://"+net.JoinHostPort(addr.String(), "53"), ".", "1"
	if addr.Is6() {
		family = "2"
	}
	q := &m.quick
	for i, transport := range transports {
		for t, rrtype := range countedTypes {
			q.requests[i][t] = m.requests.WithLabelValues(server, zone, "", transport, family, dns.TypeToString[rrtype])
		}
		q.requests[i][len(countedTypes)] = m.requests.WithLabelValues(server, zone, "", transport, family, "other")
		q.requestSize[i] = m.requestSize.WithLabelValues(server, zone, "", transport)
		q.responseSize[i] = m.responseSize.WithLabelValues(server, zone, "", transport)
	}
	for o, plugin := range origins {
		for _, code := range []int{dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeServerFailure} {
			q.responses[o][code] = m.responses.WithLabelValues(server, zone, "", dns.RcodeToString[code], plugin)
		}
	}
	q.duration = m.duration.WithLabelValues(server, zone, "")
	q.hits = [2]prometheus.Counter{m.hits.WithLabelValues(server, "success", zone, ""), m.hits.WithLabelValues(server, "denial", zone, "")}
	m.cache, m.server = c, server
}

// answered counts a question and its answer.
func (m *Metrics) answered(w *worker, size int, took time.Duration) {
	transport, t := 0, 0
	if w.q.tcp {
		transport = 1
	}
	for t < len(countedTypes) && countedTypes[t] != w.q.qtype {
		t++
	}
	m.quick.requests[transport][t].Inc()
	code := int(w.r.buf[3] & 0xF)
	if code < len(m.quick.responses[w.from]) && m.quick.responses[w.from][code] != nil {
		m.quick.responses[w.from][code].Inc()
	} else {
		m.responses.WithLabelValues(m.server, ".", "", dns.RcodeToString[code], origins[w.from]).Inc()
	}
	m.quick.requestSize[transport].Observe(float64(len(w.q.packet)))
	m.quick.responseSize[transport].Observe(float64(size))
	m.quick.duration.Observe(took.Seconds())
}

// hit counts an answer from the cache.
func (m *Metrics) hit(e *entry) {
	if e.denial {
		m.quick.hits[1].Inc()
	} else {
		m.quick.hits[0].Inc()
	}
}

// asked counts what another server did with a question.
func (m *Metrics) asked(to string, answer *dns.Msg, err error, took time.Duration) {
	m.forwardRequests.WithLabelValues(to).Inc()
	if err == nil {
		code := dns.RcodeToString[answer.Rcode]
		m.forwardResponses.WithLabelValues(to, code).Inc()
		m.forwarded.WithLabelValues("forward", to, code).Observe(took.Seconds())
	}
}

// failed counts a server that was found not to answer.
func (m *Metrics) failed(to string) { m.fails.WithLabelValues("forward", to).Inc() }

// Describe lists the metrics.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(out)
	}
	m.entries.Describe(out)
}

// Collect gives their values.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(out)
	}
	if m.cache != nil {
		successes, denials := m.cache.sizes()
		m.entries.WithLabelValues(m.server, "success", ".", "").Set(float64(successes))
		m.entries.WithLabelValues(m.server, "denial", ".", "").Set(float64(denials))
	}
	m.entries.Collect(out)
}
