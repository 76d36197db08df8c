package podmetrics

import (
	"errors"
	"io"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"k8s.io/apimachinery/pkg/types"
)

// accept asks for the compact form of metrics, and takes text.
const accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3"

// maxAnswer is how much of a node's answer is read, in bytes.
const maxAnswer = 16 << 20

// youngest is how long a container must have run for its mean use since its start to say anything.
const youngest = 5 * time.Second

// point is what something had used at one time, by the node's clock.
type point struct {
	at      time.Time
	started time.Time // zero: long ago
	cpu     float64   // seconds of CPU time since it started
	memory  float64   // working set in bytes
}

// sample is what one node said.
type sample struct {
	node point
	pods map[types.NamespacedName]map[string]*point // by container
}

// read reads the answer of a node.
func read(body io.Reader, header http.Header) (*sample, error) {
	s := &sample{pods: map[types.NamespacedName]map[string]*point{}}
	for dec := expfmt.NewDecoder(io.LimitReader(body, maxAnswer), expfmt.ResponseFormat(header)); ; {
		var family dto.MetricFamily
		err := dec.Decode(&family)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for _, m := range family.Metric {
			s.add(family.GetName(), m)
		}
	}
	if s.node.at.IsZero() {
		return nil, errors.New("it does not tell its own use")
	}
	return s, nil
}

// add notes one value.
func (s *sample) add(name string, m *dto.Metric) {
	value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
	at := time.UnixMilli(m.GetTimestampMs())
	switch name {
	case "node_cpu_usage_seconds_total":
		s.node.at, s.node.cpu = at, value
	case "node_memory_working_set_bytes":
		s.node.memory = value
	case "container_cpu_usage_seconds_total":
		p := s.container(m)
		p.at, p.cpu = at, value
	case "container_memory_working_set_bytes":
		s.container(m).memory = value
	case "container_start_time_seconds":
		s.container(m).started = time.UnixMilli(int64(value * 1000))
	}
}

// container finds whom a value is of.
func (s *sample) container(m *dto.Metric) *point {
	var pod types.NamespacedName
	var name string
	for _, l := range m.Label {
		switch l.GetName() {
		case "namespace":
			pod.Namespace = l.GetValue()
		case "pod":
			pod.Name = l.GetValue()
		case "container":
			name = l.GetValue()
		}
	}
	if s.pods[pod] == nil {
		s.pods[pod] = map[string]*point{}
	}
	p := s.pods[pod][name]
	if p == nil {
		p = &point{}
		s.pods[pod][name] = p
	}
	return p
}

// use is a mean over a window that ends at a time.
type use struct {
	at     time.Time
	window time.Duration
	cores  float64
	memory float64 // working set at the end, in bytes
}

// between is what was used between two points; where the first is missing, or is of what ran there before, since the start of what is
// young. It is pure.
func between(prev, last *point) (use, bool) {
	if last == nil || last.at.IsZero() {
		return use{}, false
	}
	var from point
	switch {
	case prev != nil && prev.at.Before(last.at) && prev.started.Equal(last.started) && prev.cpu <= last.cpu:
		from = *prev
	case !last.started.IsZero() && last.at.Sub(last.started) >= youngest && last.at.Sub(last.started) <= linger:
		from = point{at: last.started}
	default:
		return use{}, false
	}
	window := last.at.Sub(from.at)
	return use{at: last.at, window: window, cores: (last.cpu - from.cpu) / window.Seconds(), memory: last.memory}, true
}
