package node

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
)

const (
	maxImages     = 50
	maxImageNames = 5
)

// Input is all that a node's status is made of.
type Input struct {
	Facts   Facts
	Name    string
	IPs     []netip.Addr
	MaxPods int
	Port    int32
	Images  []runtime.Image
	// Handler has what the default runtime gives pods; Handlers are the names of further ones.
	Handler  v1.NodeRuntimeHandlerFeatures
	Handlers []string
	// Reserved is kept from pods.
	Reserved v1.ResourceList
	// VolumesInUse are the attachable volumes that are in place for pods.
	VolumesInUse []v1.UniqueVolumeName
	// Pressure has the pressures that the node is under.
	Pressure []v1.NodeConditionType
	// Network tells of the ways to other nodes' pods.
	Network network.Status
	// NotReady says what keeps the node from being ready; none makes it ready.
	NotReady []string
	Now      time.Time
}

// Status is the node's status now; old is what the API server has, whose foreign parts are kept.
func Status(in Input, old *v1.NodeStatus) v1.NodeStatus {
	st := *old.DeepCopy()
	st.Capacity, st.Allocatable = capacity(in), allocatable(in)
	for name, quantity := range old.Capacity {
		if extended(name) {
			st.Capacity[name], st.Allocatable[name] = quantity, quantity
		}
	}
	st.NodeInfo = in.Facts.Info
	st.Addresses = addresses(in)
	st.DaemonEndpoints.KubeletEndpoint.Port = in.Port
	st.Images = imageList(in.Images)
	st.VolumesInUse = in.VolumesInUse
	st.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: new(true)}
	st.RuntimeHandlers = runtimeHandlers(in)
	st.Conditions = conditions(in, old.Conditions)
	return st
}

// runtimeHandlers lists the default runtime by both of its names, and the others.
func runtimeHandlers(in Input) []v1.NodeRuntimeHandler {
	out := []v1.NodeRuntimeHandler{{Features: in.Handler.DeepCopy()}, {Name: runtime.DefaultHandler, Features: in.Handler.DeepCopy()}}
	for _, name := range slices.Sorted(slices.Values(in.Handlers)) {
		if name != runtime.DefaultHandler {
			out = append(out, v1.NodeRuntimeHandler{Name: name})
		}
	}
	return out
}

// extended tells whether a resource is one that somebody else advertises for the node, by a name with a domain.
func extended(name v1.ResourceName) bool {
	domain, _, found := strings.Cut(string(name), "/")
	return found && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

func addresses(in Input) []v1.NodeAddress {
	var out []v1.NodeAddress
	for _, ip := range in.IPs {
		out = append(out, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	return append(out, v1.NodeAddress{Type: v1.NodeHostName, Address: in.Name})
}

// imageList has the largest images, as the scheduler's image locality wants them.
func imageList(list []runtime.Image) []v1.ContainerImage {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b runtime.Image) int {
		if a.Size != b.Size {
			return int(min(max(b.Size-a.Size, -1), 1))
		}
		return strings.Compare(a.ID, b.ID)
	})
	var out []v1.ContainerImage
	for _, img := range list[:min(len(list), maxImages)] {
		names := slices.Concat(img.Digests, img.Names)
		if len(names) == 0 {
			continue
		}
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: img.Size})
	}
	return out
}

// words of a condition: reason and message where it is false and where it is true.
type words struct{ okReason, okMessage, badReason, badMessage string }

var pressures = []struct {
	kind v1.NodeConditionType
	words
}{
	{v1.NodeMemoryPressure, words{"KubeletHasSufficientMemory", "kubelet has sufficient memory available",
		"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"}},
	{v1.NodeDiskPressure, words{"KubeletHasNoDiskPressure", "kubelet has no disk pressure",
		"KubeletHasDiskPressure", "kubelet has disk pressure"}},
	{v1.NodePIDPressure, words{"KubeletHasSufficientPID", "kubelet has sufficient PID available",
		"KubeletHasInsufficientPID", "kubelet has insufficient PID available"}},
}

func conditions(in Input, old []v1.NodeCondition) []v1.NodeCondition {
	var own []v1.NodeCondition
	for _, p := range pressures {
		c := v1.NodeCondition{Type: p.kind, Status: v1.ConditionFalse, Reason: p.okReason, Message: p.okMessage}
		if slices.Contains(in.Pressure, p.kind) {
			c.Status, c.Reason, c.Message = v1.ConditionTrue, p.badReason, p.badMessage
		}
		own = append(own, c)
	}
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if len(in.NotReady) > 0 {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "KubeletNotReady", strings.Join(in.NotReady, ", ")
	}
	own = append(own, ready)
	if in.Network.Known {
		own = append(own, networkUnavailable(in.Network))
	}
	now := metav1.NewTime(in.Now).Rfc3339Copy()
	for i := range own {
		c := &own[i]
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		if j := slices.IndexFunc(old, func(o v1.NodeCondition) bool { return o.Type == c.Type && o.Status == c.Status }); j >= 0 {
			c.LastTransitionTime = old[j].LastTransitionTime
		}
	}
	for _, c := range old {
		if !slices.ContainsFunc(own, func(o v1.NodeCondition) bool { return o.Type == c.Type }) {
			own = append(own, c)
		}
	}
	return own
}

// networkUnavailable is written by who makes the ways between nodes.
func networkUnavailable(s network.Status) v1.NodeCondition {
	if s.Unavailable != "" {
		return v1.NodeCondition{Type: v1.NodeNetworkUnavailable, Status: v1.ConditionTrue, Reason: "CoracleIsDown", Message: s.Unavailable}
	}
	return v1.NodeCondition{Type: v1.NodeNetworkUnavailable, Status: v1.ConditionFalse, Reason: "CoracleIsUp", Message: "the ways to the pods of other nodes are made"}
}

// same compares statuses but for their heartbeats.
func same(a, b *v1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

// transitions are the event reasons of conditions that changed.
func transitions(old, now []v1.NodeCondition) []string {
	var out []string
	for _, c := range now {
		i := slices.IndexFunc(old, func(o v1.NodeCondition) bool { return o.Type == c.Type })
		if i >= 0 && old[i].Status == c.Status {
			continue
		}
		switch {
		case c.Type == v1.NodeReady && c.Status == v1.ConditionTrue:
			out = append(out, "NodeReady")
		case c.Type == v1.NodeReady:
			out = append(out, "NodeNotReady")
		default:
			if r, ok := strings.CutPrefix(c.Reason, "Kubelet"); ok {
				out = append(out, "Node"+r)
			}
		}
	}
	return out
}
