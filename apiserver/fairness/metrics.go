package fairness

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("apiserver_flowcontrol_"+name, help, labels, nil)
}

// descriptions of what Collect gives, under upstream's names.
type descriptions struct {
	nominal, lower, upper, current, demand *prometheus.Desc
	queued, executing, seats, dispatched   *prometheus.Desc
	rejected, waited                       *prometheus.Desc
}

func newDescriptions() descriptions {
	const level, schema = "priority_level", "flow_schema"
	return descriptions{
		nominal:    describe("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", level),
		lower:      describe("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", level),
		upper:      describe("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", level),
		current:    describe("current_limit_seats", "current derived number of execution seats available to each priority level", level),
		demand:     describe("demand_seats_smoothed", "Smoothed seat demands", level),
		queued:     describe("current_inqueue_requests", "Number of requests currently pending in queues of the API Priority and Fairness subsystem", level, schema),
		executing:  describe("current_executing_requests", "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem", level, schema),
		seats:      describe("current_executing_seats", "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem", level, schema),
		dispatched: describe("dispatched_requests_total", "Number of requests executed by API Priority and Fairness subsystem", level, schema),
		rejected:   describe("rejected_requests_total", "Number of requests rejected by API Priority and Fairness subsystem", level, schema, "reason"),
		waited:     describe("request_wait_duration_seconds", "Length of time a request spent waiting in its queue", level, schema, "execute"),
	}
}

// Collector gives the controller's metrics to Prometheus.
type Collector struct {
	c *Controller
	d descriptions
}

// Collector makes the controller's.
func (c *Controller) Collector() *Collector { return &Collector{c, newDescriptions()} }

// Describe implements prometheus.Collector: what there is is not known before.
func (*Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Collector) Collect(out chan<- prometheus.Metric) {
	config := m.c.config.Load()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for name, l := range config.levels {
		l.mu.Lock()
		limits, limit, smoothed := l.limits, l.limit, l.demand.smoothed
		l.mu.Unlock()
		gauge(m.d.nominal, float64(limits.nominal), name)
		gauge(m.d.lower, float64(limits.lower), name)
		gauge(m.d.upper, float64(limits.upper), name)
		gauge(m.d.current, float64(limit), name)
		gauge(m.d.demand, smoothed, name)
	}
	for i := range config.schemas {
		m.collectFlow(out, config.schemas[i].flow)
	}
}

func (m *Collector) collectFlow(out chan<- prometheus.Metric, f *flow) {
	l := f.level
	l.mu.Lock()
	now := *f // nobody is to wait until a scraper has read it
	now.rejected = maps.Clone(f.rejected)
	l.mu.Unlock()
	f = &now
	if f.dispatched == 0 && f.queued == 0 && len(f.rejected) == 0 {
		return
	}
	labels := []string{l.name, f.schema}
	give := func(d *prometheus.Desc, kind prometheus.ValueType, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, float64(v), labels...)
	}
	give(m.d.queued, prometheus.GaugeValue, f.queued, labels...)
	give(m.d.executing, prometheus.GaugeValue, f.executing, labels...)
	give(m.d.seats, prometheus.GaugeValue, f.seats, labels...)
	give(m.d.dispatched, prometheus.CounterValue, f.dispatched, labels...)
	for why, n := range f.rejected {
		give(m.d.rejected, prometheus.CounterValue, n, l.name, f.schema, string(why))
	}
	for execute, h := range map[string]*histogram{"true": &f.waits, "false": &f.lost} {
		if h.n > 0 {
			out <- prometheus.MustNewConstHistogram(m.d.waited, h.n, h.sum, h.cumulative(), l.name, f.schema, execute)
		}
	}
}
