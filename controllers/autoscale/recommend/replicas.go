// Package recommend decides how many replicas a measured load asks for, and how far a HorizontalPodAutoscaler may go there at once. It is pure:
// time is given to it.
//
// Invariants: what is not measured never makes a decision bolder (a pod without a sample counts as busy when the load is low and as idle when it
// is high), and never turns it round; a verdict is within the autoscaler's bounds; no policy's allowance is exceeded over any period of its length.
package recommend

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// Tolerances are how far below and above its target a load may be without consequence, as shares of the target.
type Tolerances struct{ Down, Up float64 }

func (t Tolerances) within(ratio float64) bool { return 1-t.Down <= ratio && ratio <= 1+t.Up }

// Sample is what one pod uses, in thousandths of the metric's unit, measured over Window until At.
type Sample struct {
	Value  int64
	At     time.Time
	Window time.Duration
}

// Samples are by the pod's name.
type Samples map[string]Sample

// Load is what a recommendation rests on besides the samples.
type Load struct {
	// Current is how many replicas are asked for now.
	Current int32
	// Pods are those of the target. Of a resource's samples, Resource and Container say what they are of; the container is empty for whole pods.
	Pods       []*corev1.Pod
	Resource   corev1.ResourceName
	Container  string
	Tolerances Tolerances
	Now        time.Time
	// CPUInitialization is how long after its start a pod's CPU samples count only when it is ready and they were taken since. ReadinessDelay
	// is how long after its start a pod that becomes not ready is taken never to have been ready.
	CPUInitialization, ReadinessDelay time.Duration
}

// Proposal is a number of replicas, and the load it was made from.
type Proposal struct {
	Replicas int32
	// Value is in thousandths: a pod's average, or the whole, as the target is.
	Value int64
	// Utilization is a percentage of what the pods request; of Utilization only.
	Utilization int32
}

// Errors of a load that cannot be judged.
var (
	errNoPods    = errors.New("no pods returned by selector while calculating replica count")
	errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")
	errNoMatch   = errors.New("no metrics returned matched known pods")
)

// Utilization proposes replicas so that the pods use target percent of what they request.
func Utilization(l Load, samples Samples, target int32) (Proposal, error) {
	requests := make(map[string]int64, len(l.Pods))
	g, err := l.group(samples)
	if err != nil {
		return Proposal{}, err
	}
	for _, pod := range l.Pods {
		if requests[pod.Name], err = request(pod, l.Container, l.Resource); err != nil {
			return Proposal{}, err
		}
	}
	measure := func(s Samples) (float64, Proposal, error) {
		var used, asked, n int64
		for name, sample := range s {
			if r, ok := requests[name]; ok {
				used, asked, n = used+sample.Value, asked+r, n+1
			}
		}
		if asked == 0 {
			return 0, Proposal{}, errNoMatch
		}
		percent := percentage(used, asked)
		return float64(percent) / float64(target), Proposal{Value: used / n, Utilization: percent}, nil
	}
	return l.propose(g, measure, func(name string) int64 { return requests[name] * int64(max(100, target)) / 100 })
}

// Average proposes replicas so that each pod uses target on average.
func Average(l Load, samples Samples, target int64) (Proposal, error) {
	g, err := l.group(samples)
	if err != nil {
		return Proposal{}, err
	}
	measure := func(s Samples) (float64, Proposal, error) {
		var used int64
		for _, sample := range s {
			used += sample.Value
		}
		average := used / int64(len(s))
		return float64(average) / float64(target), Proposal{Value: average}, nil
	}
	return l.propose(g, measure, func(string) int64 { return target })
}

// Total proposes replicas so that value, which is about all pods together, becomes target.
func Total(l Load, value, target int64) (Proposal, error) {
	p := Proposal{Replicas: l.Current, Value: value}
	ratio := float64(value) / float64(target)
	switch {
	case l.Current == 0:
		p.Replicas = ceil(ratio)
	case !l.Tolerances.within(ratio):
		if len(l.Pods) == 0 {
			return Proposal{}, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
		}
		ready := 0
		for _, pod := range l.Pods {
			if pod.Status.Phase == corev1.PodRunning && pods.Ready(pod) {
				ready++
			}
		}
		p.Replicas = ceil(ratio * float64(ready))
	}
	return p, nil
}

// PerPod proposes replicas so that value, which is about all pods together, is target for each of them. There are as many as status says.
func PerPod(t Tolerances, status int32, value, target int64) Proposal {
	p := Proposal{Replicas: status, Value: int64(math.Ceil(float64(value) / float64(max(1, status))))}
	if status == 0 || !t.within(float64(value)/(float64(target)*float64(status))) {
		p.Replicas = ceil(float64(value) / float64(target))
	}
	return p
}

// propose compares what the samples measure with the target, first as they are, then with those supposed that are missing: supposed so that
// they hold the change back.
func (l Load) propose(g groups, measure func(Samples) (float64, Proposal, error), busy func(name string) int64) (Proposal, error) {
	ratio, p, err := measure(g.samples)
	if err != nil {
		return Proposal{}, err
	}
	p.Replicas = l.Current
	more := len(g.unready) > 0 && ratio > 1
	if !more && len(g.missing) == 0 {
		if !l.Tolerances.within(ratio) {
			p.Replicas = ceil(ratio * float64(g.ready))
		}
		return p, nil
	}
	for _, name := range g.missing {
		if ratio < 1 {
			g.samples[name] = Sample{Value: busy(name)}
		} else if ratio > 1 {
			g.samples[name] = Sample{}
		}
	}
	if more {
		for _, name := range g.unready {
			g.samples[name] = Sample{}
		}
	}
	supposed, _, err := measure(g.samples)
	if err != nil {
		return Proposal{}, err
	}
	if l.Tolerances.within(supposed) || ratio < 1 && supposed > 1 || ratio > 1 && supposed < 1 {
		return p, nil
	}
	n := ceil(supposed * float64(len(g.samples)))
	if supposed < 1 && n > l.Current || supposed > 1 && n < l.Current {
		return p, nil
	}
	p.Replicas = n
	return p, nil
}

// groups are the pods by what is known of their load.
type groups struct {
	ready            int
	unready, missing []string
	// samples are those that count.
	samples Samples
}

// group sorts the pods: those that are going or failed do not count at all, those that have not begun or not become ready may count as idle.
func (l Load) group(samples Samples) (groups, error) {
	if len(l.Pods) == 0 {
		return groups{}, errNoPods
	}
	g := groups{samples: maps.Clone(samples)}
	for _, pod := range l.Pods {
		sample, measured := samples[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			delete(g.samples, pod.Name)
		case pod.Status.Phase == corev1.PodPending || measured && l.Resource == corev1.ResourceCPU && l.warming(pod, sample):
			delete(g.samples, pod.Name)
			g.unready = append(g.unready, pod.Name)
		case !measured:
			g.missing = append(g.missing, pod.Name)
		default:
			g.ready++
		}
	}
	if len(g.samples) == 0 {
		return groups{}, errNoSamples
	}
	return g, nil
}

// warming tells whether a pod's CPU sample is about its start rather than about its work.
func (l Load) warming(pod *corev1.Pod, s Sample) bool {
	ready := pods.Condition(pod, corev1.PodReady)
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	if pod.Status.StartTime.Add(l.CPUInitialization).After(l.Now) {
		return ready.Status == corev1.ConditionFalse || s.At.Before(ready.LastTransitionTime.Add(s.Window))
	}
	return ready.Status == corev1.ConditionFalse && pod.Status.StartTime.Add(l.ReadinessDelay).After(ready.LastTransitionTime.Time)
}

// request is how much of a resource the pod, or one container of it, requests, in thousandths.
func request(pod *corev1.Pod, container string, name corev1.ResourceName) (int64, error) {
	if r := pod.Spec.Resources; container == "" && r != nil {
		if q, ok := r.Requests[name]; ok {
			return q.MilliValue(), nil
		}
	}
	var sum int64
	for _, list := range [][]corev1.Container{pod.Spec.Containers, sidecars(pod)} {
		for i := range list {
			c := &list[i]
			if container != "" && container != c.Name {
				continue
			}
			q, ok := c.Resources.Requests[name]
			if !ok {
				return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
			}
			sum += q.MilliValue()
		}
	}
	return sum, nil
}

// sidecars are the init containers that run as long as the pod does.
func sidecars(pod *corev1.Pod) []corev1.Container {
	var list []corev1.Container
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			list = append(list, c)
		}
	}
	return list
}

// percentage is a whole number, rounded down.
func percentage(part, whole int64) int32 {
	if part > math.MaxInt64/100 {
		return int32(min(part/max(1, whole/100), math.MaxInt32))
	}
	return int32(min(part*100/whole, math.MaxInt32))
}

// ceil rounds up to a number of replicas.
func ceil(n float64) int32 {
	if n >= math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(math.Ceil(n))
}
