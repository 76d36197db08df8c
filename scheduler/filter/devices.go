package filter

import "github.com/coracle-dev/coracle/scheduler/model"

var noDevices = finally("cannot allocate all claims: no part of this cluster allocates devices")

// devices keeps pods with resource claims waiting: nodes would refuse them, and their controllers make others without end.
type devices struct{}

func (*devices) Name() string { return "DynamicResources" }

func (*devices) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	if len(pod.Pod.Spec.ResourceClaims) == 0 {
		return Scope{Skip: true}
	}
	return Scope{Rejected: noDevices}
}

func (*devices) Check(*model.Node) *Rejection { return nil }

func (*devices) Helps(*model.Pod, *Event) bool { return false }
