// Package model is the scheduler's private picture of the cluster: nodes, the pods on them and what is
// left. It is changed one event at a time and is pure: no I/O, clock or randomness. Its invariant: a pod
// counts on exactly the node it was last put on, once, whatever order events come in.
package model

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pod is a pod with everything that placing it needs, computed once.
type Pod struct {
	Pod *corev1.Pod
	// Requests is what it asks for; Assumed raises containers that state nothing to a small minimum, for scores.
	Requests, Assumed Resources
	HostPorts         []HostPort
	// Owner is the UID of the controlling owner; empty without one.
	Owner types.UID
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
	p := &Pod{Pod: pod, HostPorts: hostPorts(pod)}
	p.Requests, p.Assumed = requestsOf(pod)
	if owner := metav1.GetControllerOf(pod); owner != nil {
		p.Owner = owner.UID
	}
	return p
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

// Node is one node with its pods. Node is nil while pods name a node that is not known (any more).
type Node struct {
	Name        string
	Node        *corev1.Node
	Allocatable Resources
	Requested   Resources
	Assumed     Resources
	Pods        map[types.UID]*Pod
	HostPorts   []HostPort
	// Owners counts the pods of each controlling owner.
	Owners map[types.UID]int
	// AntiAffine counts the pods that have required anti-affinity terms of their own.
	AntiAffine int
}

func (n *Node) put(p *Pod, sign int64) {
	n.Requested.Add(p.Requests, sign)
	n.Assumed.Add(p.Assumed, sign)
	if p.Owner != "" {
		if n.Owners[p.Owner] += int(sign); n.Owners[p.Owner] == 0 {
			delete(n.Owners, p.Owner)
		}
	}
	if a := p.Pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil &&
		len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0 {
		n.AntiAffine += int(sign)
	}
	if sign > 0 {
		n.Pods[p.Pod.UID] = p
		n.HostPorts = append(n.HostPorts, p.HostPorts...)
		return
	}
	delete(n.Pods, p.Pod.UID)
	for _, port := range p.HostPorts {
		if i := slices.Index(n.HostPorts, port); i >= 0 {
			n.HostPorts = slices.Delete(n.HostPorts, i, i+1)
		}
	}
}

// Cluster is the model. It is not safe for concurrent use.
type Cluster struct {
	nodes  map[string]*Node
	sorted []*Node // those with a Node object, by name
	pods   map[types.UID]*Node
}

// New is an empty cluster.
func New() *Cluster {
	return &Cluster{nodes: map[string]*Node{}, pods: map[types.UID]*Node{}}
}

// Nodes lists the known nodes by name. The slice must not be changed.
func (c *Cluster) Nodes() []*Node { return c.sorted }

// Node gives a node by name; nil where it is not known.
func (c *Cluster) Node(name string) *Node {
	if n := c.nodes[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// SetNode adds or replaces a node.
func (c *Cluster) SetNode(node *corev1.Node) {
	n := c.entry(node.Name)
	if n.Node == nil {
		i, _ := slices.BinarySearchFunc(c.sorted, node.Name, byName)
		c.sorted = slices.Insert(c.sorted, i, n)
	}
	n.Node = node
	n.Allocatable = resourcesOf(node.Status.Allocatable)
}

// RemoveNode forgets a node; pods that are still on it stay counted until they go.
func (c *Cluster) RemoveNode(name string) {
	n := c.nodes[name]
	if n == nil || n.Node == nil {
		return
	}
	n.Node = nil
	if i, found := slices.BinarySearchFunc(c.sorted, name, byName); found {
		c.sorted = slices.Delete(c.sorted, i, i+1)
	}
	c.dropIfEmpty(n)
}

// SetPod puts a pod on a node, moving it from where it was.
func (c *Cluster) SetPod(p *Pod, node string) {
	c.RemovePod(p.Pod.UID)
	n := c.entry(node)
	n.put(p, 1)
	c.pods[p.Pod.UID] = n
}

// RemovePod takes a pod off its node and tells whether it was on one.
func (c *Cluster) RemovePod(uid types.UID) bool {
	n := c.pods[uid]
	if n == nil {
		return false
	}
	n.put(n.Pods[uid], -1)
	delete(c.pods, uid)
	c.dropIfEmpty(n)
	return true
}

// NodeOf gives the name of the node a pod counts on; empty where it is on none.
func (c *Cluster) NodeOf(uid types.UID) string {
	if n := c.pods[uid]; n != nil {
		return n.Name
	}
	return ""
}

func (c *Cluster) entry(name string) *Node {
	n := c.nodes[name]
	if n == nil {
		n = &Node{Name: name, Pods: map[types.UID]*Pod{}, Owners: map[types.UID]int{}}
		c.nodes[name] = n
	}
	return n
}

func (c *Cluster) dropIfEmpty(n *Node) {
	if n.Node == nil && len(n.Pods) == 0 {
		delete(c.nodes, n.Name)
	}
}

func byName(n *Node, name string) int {
	switch {
	case n.Name < name:
		return -1
	case n.Name > name:
		return 1
	}
	return 0
}
