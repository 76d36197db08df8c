package model

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// Pod is a pod with everything that placing it needs, computed once.
type Pod struct {
	Pod      *corev1.Pod
	Priority int32
	// Requests is what it asks for; Assumed raises containers that state nothing to a small minimum, for scores.
	Requests, Assumed Resources
	HostPorts         []HostPort
	Claims            []ClaimUse
	// Owner is the UID of the controlling ReplicaSet, ReplicationController or StatefulSet; empty without one.
	Owner types.UID
	// Affinity and AntiAffinity are the required terms; Preferred the others, those against with a negative weight.
	Affinity, AntiAffinity []*Term
	Preferred              []WeightedTerm
	// Spread are the pod's own spread constraints: those that must hold, then those that only score.
	Spread, SoftSpread []*Constraint

	// Doomed: it is being removed to make room for another.
	Doomed bool

	class string
}

// HostPort is a port of the node that a pod takes.
type HostPort struct {
	Protocol corev1.Protocol
	IP       string // 0.0.0.0 is every address
	Port     int32
}

// Conflicts tells whether both cannot be taken on one node.
func (p HostPort) Conflicts(other HostPort) bool {
	const all = "0.0.0.0"
	return p.Port == other.Port && p.Protocol == other.Protocol &&
		(p.IP == other.IP || p.IP == all || other.IP == all)
}

// NewPod computes a Pod. The API object is kept and must not change.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{Pod: pod, Priority: schedulinghelper.PodPriority(pod), HostPorts: hostPorts(pod), Claims: claimsOf(pod)}
	p.Requests, p.Assumed = requestsOf(pod)
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		switch owner.Kind {
		case "ReplicaSet", "ReplicationController", "StatefulSet":
			p.Owner = owner.UID
		}
	}
	p.setAffinity(pod.Spec.Affinity)
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			p.Spread = append(p.Spread, newConstraint(c, pod))
		} else {
			p.SoftSpread = append(p.SoftSpread, newConstraint(c, pod))
		}
	}
	return p
}

func (p *Pod) setAffinity(a *corev1.Affinity) {
	if a == nil {
		return
	}
	if a.PodAffinity != nil {
		p.Affinity = newTerms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, p.Pod)
		p.prefer(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a.PodAntiAffinity != nil {
		p.AntiAffinity = newTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, p.Pod)
		p.prefer(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
}

func (p *Pod) prefer(terms []corev1.WeightedPodAffinityTerm, sign int64) {
	for i := range terms {
		p.Preferred = append(p.Preferred, WeightedTerm{Term: newTerm(&terms[i].PodAffinityTerm, p.Pod), Weight: sign * int64(terms[i].Weight)})
	}
}

// Terminating tells whether the pod is being deleted.
func (p *Pod) Terminating() bool { return p.Pod.DeletionTimestamp != nil }

// Class is equal for pods about which every decision that looks at one node alone is equal: what they ask of a node, what
// they tolerate, and their priority.
func (p *Pod) Class() string {
	if p.class == "" {
		p.class = classOf(p)
	}
	return p.class
}

func classOf(p *Pod) string {
	var b strings.Builder
	spec := &p.Pod.Spec
	fmt.Fprintf(&b, "%d|%s|", p.Priority, spec.NodeName)
	p.Requests.write(&b)
	p.Assumed.write(&b)
	for _, port := range p.HostPorts {
		fmt.Fprintf(&b, "%s/%s/%d,", port.Protocol, port.IP, port.Port)
	}
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		b.WriteByte('|')
		for _, s := range []string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			b.WriteString(strconv.Quote(s))
		}
	}
	writeMap(&b, spec.NodeSelector)
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil {
		if raw, err := a.NodeAffinity.Marshal(); err == nil {
			b.Write(raw)
		}
	}
	for i := range spec.InitContainers {
		b.WriteString("|i" + spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		b.WriteString("|c" + spec.Containers[i].Image)
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			b.WriteString("|v" + image.Reference)
		}
	}
	return b.String()
}

func hostPorts(pod *corev1.Pod) []HostPort {
	var ports []HostPort
	add := func(containers []corev1.Container) {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				hp := HostPort{Protocol: port.Protocol, IP: port.HostIP, Port: port.HostPort}
				if hp.IP == "" || hp.IP == "::" {
					hp.IP = "0.0.0.0"
				}
				if hp.Protocol == "" {
					hp.Protocol = corev1.ProtocolTCP
				}
				ports = append(ports, hp)
			}
		}
	}
	add(pod.Spec.Containers)
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			add(pod.Spec.InitContainers[i : i+1])
		}
	}
	return ports
}
