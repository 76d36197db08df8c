package filter

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// nodeResources keeps nodes from being promised more than they have.
type nodeResources struct {
	requests *model.Resources
	scalars  []corev1.ResourceName // those the pod asks for and the profile does not ignore, in order
	ignored  func(corev1.ResourceName) bool
}

func newNodeResources(args configv1.NodeResourcesFitArgs) *nodeResources {
	return &nodeResources{ignored: func(name corev1.ResourceName) bool {
		group, _, _ := strings.Cut(string(name), "/")
		return slices.Contains(args.IgnoredResources, string(name)) || slices.Contains(args.IgnoredResourceGroups, group)
	}}
}

func (*nodeResources) Name() string { return "NodeResourcesFit" }

func (f *nodeResources) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	f.requests = &pod.Requests
	f.scalars = f.scalars[:0]
	for name, amount := range pod.Requests.Scalar {
		if amount > 0 && !f.ignored(name) {
			f.scalars = append(f.scalars, name)
		}
	}
	slices.Sort(f.scalars)
	return Scope{}
}

// What a pod can lack beside extended resources, as bits.
const (
	tooMany = 1 << iota
	noCPU
	noMemory
	noStorage
)

// lacking holds the rejections for each combination of these. Whether more than the whole node is asked for is not told
// apart in them: the two with Final are for that.
var lacking, beyond = rejections(because), rejections(finally)

func rejections(of func(...string) *Rejection) (all [16]*Rejection) {
	words := []string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage"}
	for bits := 1; bits < len(all); bits++ {
		var reasons []string
		for i, word := range words {
			if bits&(1<<i) != 0 {
				reasons = append(reasons, word)
			}
		}
		all[bits] = of(reasons...)
	}
	return all
}

func (f *nodeResources) Check(node *model.Node) *Rejection {
	have, used, want := &node.Allocatable, &node.Requested, f.requests
	bits, over := 0, false
	if used.Pods+1 > have.Pods {
		bits |= tooMany
	}
	lacks := func(want, used, have int64, bit int) {
		if want > 0 && want > have-used {
			bits |= bit
			over = over || want > have
		}
	}
	lacks(want.MilliCPU, used.MilliCPU, have.MilliCPU, noCPU)
	lacks(want.Memory, used.Memory, have.Memory, noMemory)
	lacks(want.EphemeralStorage, used.EphemeralStorage, have.EphemeralStorage, noStorage)
	if len(f.scalars) > 0 {
		return f.checkScalars(node, bits, over)
	}
	switch {
	case bits == 0:
		return nil
	case over:
		return beyond[bits]
	}
	return lacking[bits]
}

func (f *nodeResources) checkScalars(node *model.Node, bits int, over bool) *Rejection {
	var reasons []string
	if bits != 0 {
		reasons = append(reasons, lacking[bits].Reasons...)
	}
	for _, name := range f.scalars {
		want, have := f.requests.Scalar[name], node.Allocatable.Scalar[name]
		if want > have-node.Requested.Scalar[name] {
			reasons = append(reasons, "Insufficient "+string(name))
			over = over || want > have
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return &Rejection{Reasons: reasons, Final: over}
}

func (f *nodeResources) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return f.couldFit(pod, e.Node)
	case NodeChanged:
		return f.couldFit(pod, e.Node) && grew(e.OldNode.Status.Allocatable, e.Node.Status.Allocatable)
	case PodGone:
		return e.At == nil || f.room(pod, e.At)
	}
	return false
}

// room tells whether what is left of the node is enough.
func (f *nodeResources) room(pod *model.Pod, node *model.Node) bool {
	fresh := nodeResources{ignored: f.ignored}
	fresh.Prepare(pod, nil)
	return fresh.Check(node) == nil
}

// couldFit tells whether the node, when empty, has room for the pod.
func (f *nodeResources) couldFit(pod *model.Pod, node *corev1.Node) bool {
	have := model.ResourcesOf(node.Status.Allocatable)
	want := &pod.Requests
	if have.Pods < 1 || want.MilliCPU > have.MilliCPU || want.Memory > have.Memory || want.EphemeralStorage > have.EphemeralStorage {
		return false
	}
	for name, amount := range want.Scalar {
		if amount > have.Scalar[name] && !f.ignored(name) {
			return false
		}
	}
	return true
}

// grew tells whether there is more of anything than before.
func grew(before, after corev1.ResourceList) bool {
	for name, quantity := range after {
		old, had := before[name]
		if !had || quantity.Cmp(old) > 0 {
			return true
		}
	}
	return false
}
