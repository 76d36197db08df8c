package podspec

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
)

// LabelResources has a container's resources, as JSON, as they were last set.
const LabelResources = "coracle.dev/resources"

// AppliedLabel is the value of LabelResources for a container of such resources.
func AppliedLabel(r v1.ResourceRequirements) string {
	data, err := json.Marshal(v1.ResourceRequirements{Requests: r.Requests, Limits: r.Limits})
	if err != nil {
		return "" // quantities always have a text
	}
	return string(data)
}

// Applied reads LabelResources; nil where it is not told.
func Applied(label string) *v1.ResourceRequirements {
	r := &v1.ResourceRequirements{}
	if label == "" || json.Unmarshal([]byte(label), r) != nil {
		return nil
	}
	return r
}

// WithResources is pod with the CPU and memory of the containers that have says, by name, and of whole for the pod itself. It is pod
// itself where that changes nothing.
func WithResources(pod *v1.Pod, have map[string]v1.ResourceRequirements, whole *v1.ResourceRequirements) *v1.Pod {
	out := pod
	mutable := func() *v1.PodSpec {
		if out == pod {
			out = pod.DeepCopy()
		}
		return &out.Spec
	}
	if r := pod.Spec.Resources; r != nil && whole != nil && !lifecycle.SameResources(r, whole) {
		setAmounts(mutable().Resources, whole)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if r, ok := have[c.Name]; ok && !lifecycle.SameResources(&c.Resources, &r) {
			setAmounts(&mutable().InitContainers[i].Resources, &r)
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if r, ok := have[c.Name]; ok && !lifecycle.SameResources(&c.Resources, &r) {
			setAmounts(&mutable().Containers[i].Resources, &r)
		}
	}
	return out
}

// setAmounts takes CPU and memory over.
func setAmounts(to, from *v1.ResourceRequirements) {
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		to.Requests, to.Limits = setAmount(to.Requests, from.Requests, name), setAmount(to.Limits, from.Limits, name)
	}
}

func setAmount(to, from v1.ResourceList, name v1.ResourceName) v1.ResourceList {
	q, ok := from[name]
	if !ok {
		delete(to, name)
		return to
	}
	if to == nil {
		to = v1.ResourceList{}
	}
	to[name] = q.DeepCopy()
	return to
}

// ResourcesOf is what WithResources takes, of a pod that has it.
func ResourcesOf(pod *v1.Pod) (have map[string]v1.ResourceRequirements, whole *v1.ResourceRequirements) {
	have = map[string]v1.ResourceRequirements{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			have[list[i].Name] = list[i].Resources
		}
	}
	return have, pod.Spec.Resources
}

// Resize is a pod that asks for other resources than the node has allocated.
type Resize struct{ Wanted, Allocated *v1.Pod }

// ResizeOrder sorts as the kubelet: those that ask for no more come first, then the more important pods, guaranteed ones, and those that
// have waited longer.
func ResizeOrder(list []Resize) {
	slices.SortStableFunc(list, func(a, b Resize) int {
		return cmp.Or(
			cmp.Compare(rank(a.grows()), rank(b.grows())),
			cmp.Compare(priority(b.Wanted), priority(a.Wanted)),
			cmp.Compare(rank(lifecycle.QOSClass(&a.Wanted.Spec) != v1.PodQOSGuaranteed), rank(lifecycle.QOSClass(&b.Wanted.Spec) != v1.PodQOSGuaranteed)),
			cmp.Compare(a.since(), b.since()))
	})
}

func rank(last bool) int {
	if last {
		return 1
	}
	return 0
}

func priority(p *v1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func (r Resize) grows() bool {
	was := helpers.PodRequests(r.Allocated, helpers.PodResourcesOptions{})
	now := helpers.PodRequests(r.Wanted, helpers.PodResourcesOptions{})
	return now.Cpu().Cmp(*was.Cpu()) > 0 || now.Memory().Cmp(*was.Memory()) > 0
}

// since is when the pod began to wait, in seconds; what does not wait yet comes last.
func (r Resize) since() int64 {
	for _, c := range r.Wanted.Status.Conditions {
		if c.Type == v1.PodResizePending {
			return c.LastTransitionTime.Unix()
		}
	}
	return 1<<63 - 1
}

// ResizeMessage is the text of an event about a resize: prefix, and the pod's resources and what is wrong with them as JSON.
func ResizeMessage(prefix string, pod *v1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources,omitempty"`
	}
	summary := struct {
		Resources      *v1.ResourceRequirements `json:"resources,omitempty"`
		InitContainers []container              `json:"initContainers,omitempty"`
		Containers     []container              `json:"containers,omitempty"`
		Generation     int64                    `json:"generation"`
		Error          string                   `json:"error,omitempty"`
	}{Resources: pod.Spec.Resources, Generation: generation, Error: problem}
	for i := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].Resources})
	}
	for i := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Resources})
	}
	data, err := json.Marshal(summary)
	if err != nil {
		return prefix
	}
	return fmt.Sprintf("%s: %s", prefix, data)
}
