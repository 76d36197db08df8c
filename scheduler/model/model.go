// Package model is the scheduler's private picture of the cluster: nodes, the pods on them, what is left, and how many
// pods of each selection that somebody asked for are where. It is changed one event at a time and is pure: no I/O, clock or
// randomness. Its invariants: a pod counts on exactly the node it was last put on, once, whatever order events come in; a
// node's Version changes with everything that a decision about this node alone could depend on.
package model

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is one node with its pods. Node is nil while pods name a node that is not known (any more).
type Node struct {
	Name        string
	Node        *corev1.Node
	Allocatable Resources
	Requested   Resources
	Assumed     Resources
	Pods        map[types.UID]*Pod
	HostPorts   []HostPort
	// Nominated are pods that wait for this node to be freed for them.
	Nominated []*Pod
	// Version is unique to this state of this node.
	Version uint64
	// Slot is a small number that no other present node has, for arrays by node.
	Slot int32

	images map[string]int64 // sizes in bytes by normalised name
}

// put adds a pod and what it takes, or with sign -1 takes it off.
func (n *Node) put(p *Pod, sign int64) {
	if sign > 0 {
		n.Pods[p.Pod.UID] = p
	} else {
		delete(n.Pods, p.Pod.UID)
	}
	n.Requested.Add(p.Requests, sign)
	n.Assumed.Add(p.Assumed, sign)
	if len(p.HostPorts) == 0 {
		return
	}
	if sign > 0 {
		n.HostPorts = append(n.HostPorts, p.HostPorts...)
		return
	}
	for _, port := range p.HostPorts {
		if i := slices.Index(n.HostPorts, port); i >= 0 {
			n.HostPorts = slices.Delete(n.HostPorts, i, i+1)
		}
	}
}

// Cluster is the model. It is not safe for concurrent use.
type Cluster struct {
	nodes     map[string]*Node
	sorted    []*Node // those with a Node object, by name
	turns     []*Node // the same, zones taking turns; nil when it must be made again
	pods      map[types.UID]*Node
	nominated map[types.UID]*Node

	slots     []*Node // by Slot
	freeSlots []int32
	version   uint64

	topologies map[string]*Topology
	counts     countSet
	terms      termSet
	storage    storage
	namespaces map[string]map[string]string
	services   map[types.NamespacedName]*corev1.Service
	budgets    map[types.NamespacedName]*Budget
	images     map[string]int // how many nodes have it

	// Shared changes with what decisions about one node depend on beside that node: images and how many nodes there are.
	Shared uint64
	// BudgetVersion changes with every budget.
	BudgetVersion uint64
}

// New is an empty cluster.
func New() *Cluster {
	c := &Cluster{
		nodes: map[string]*Node{}, pods: map[types.UID]*Node{}, nominated: map[types.UID]*Node{}, topologies: map[string]*Topology{},
		namespaces: map[string]map[string]string{}, services: map[types.NamespacedName]*corev1.Service{},
		budgets: map[types.NamespacedName]*Budget{}, images: map[string]int{},
		storage: newStorage(),
	}
	c.counts.init()
	c.terms.init()
	return c
}

// Nodes lists the known nodes, zones taking turns, so that any stretch of it spans the zones. The slice must not be changed.
func (c *Cluster) Nodes() []*Node {
	if c.turns == nil {
		c.turns = takeTurns(c.sorted)
	}
	return c.turns
}

// takeTurns orders nodes that are sorted by name so that their zones alternate.
func takeTurns(sorted []*Node) []*Node {
	byZone := map[string][]*Node{}
	var zones []string
	for _, n := range sorted {
		zone := n.Node.Labels[corev1.LabelTopologyRegion] + "\x00" + n.Node.Labels[corev1.LabelTopologyZone]
		if byZone[zone] == nil {
			zones = append(zones, zone)
		}
		byZone[zone] = append(byZone[zone], n)
	}
	slices.Sort(zones)
	turns := make([]*Node, 0, len(sorted))
	for i := 0; len(turns) < len(sorted); i++ {
		for _, zone := range zones {
			if i < len(byZone[zone]) {
				turns = append(turns, byZone[zone][i])
			}
		}
	}
	return turns
}

// Node gives a node by name; nil where it is not known.
func (c *Cluster) Node(name string) *Node {
	if n := c.nodes[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Slots is one more than the greatest Slot in use.
func (c *Cluster) Slots() int { return len(c.slots) }

// SetNode adds or replaces a node.
func (c *Cluster) SetNode(node *corev1.Node) {
	n := c.entry(node.Name)
	before := n.Node
	if before == nil {
		i, _ := slices.BinarySearchFunc(c.sorted, node.Name, byName)
		c.sorted = slices.Insert(c.sorted, i, n)
		c.Shared++
	}
	if before == nil || zoneOf(before) != zoneOf(node) {
		c.turns = nil
	}
	n.Node = node
	n.Allocatable = ResourcesOf(node.Status.Allocatable)
	for _, t := range c.topologies {
		c.place(t, n)
	}
	c.setImages(n, node.Status.Images)
	c.touch(n)
}

func zoneOf(node *corev1.Node) [2]string {
	return [2]string{node.Labels[corev1.LabelTopologyRegion], node.Labels[corev1.LabelTopologyZone]}
}

// touch gives the node a new version.
func (c *Cluster) touch(n *Node) {
	c.version++
	n.Version = c.version
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
	c.turns = nil
	for _, t := range c.topologies {
		c.place(t, n)
	}
	c.setImages(n, nil)
	c.Shared++
	c.touch(n)
	c.dropIfEmpty(n)
}

// SetPod puts a pod on a node, moving it from where it was.
func (c *Cluster) SetPod(p *Pod, node string) {
	c.RemovePod(p.Pod.UID)
	n := c.entry(node)
	c.Suppose(p, n, 1)
	c.pods[p.Pod.UID] = n
	c.touch(n)
}

// RemovePod takes a pod off its node and tells whether it was on one. A nomination of the pod ends, too.
func (c *Cluster) RemovePod(uid types.UID) bool {
	c.Nominate(uid, nil, "")
	n := c.pods[uid]
	if n == nil {
		return false
	}
	c.Suppose(n.Pods[uid], n, -1)
	delete(c.pods, uid)
	c.touch(n)
	c.dropIfEmpty(n)
	return true
}

// Suppose counts a pod on a node, or with sign -1 no longer, without making it so: the node's version stays, and what
// is supposed must be taken back before the model is changed otherwise. Filters that were prepared must be prepared again.
func (c *Cluster) Suppose(p *Pod, n *Node, sign int) {
	n.put(p, int64(sign))
	c.count(p, n, int32(sign))
	c.countClaims(p, sign)
}

// NodeOf gives the name of the node a pod counts on; empty where it is on none.
func (c *Cluster) NodeOf(uid types.UID) string {
	if n := c.pods[uid]; n != nil {
		return n.Name
	}
	return ""
}

// Pod gives a placed pod; nil where it is on no node.
func (c *Cluster) Pod(uid types.UID) *Pod {
	if n := c.pods[uid]; n != nil {
		return n.Pods[uid]
	}
	return nil
}

// Nominate notes that a pod waits for a node; an empty node ends that.
func (c *Cluster) Nominate(uid types.UID, p *Pod, node string) {
	if n := c.nominated[uid]; n != nil {
		n.Nominated = slices.DeleteFunc(n.Nominated, func(other *Pod) bool { return other.Pod.UID == uid })
		delete(c.nominated, uid)
		c.touch(n)
		c.dropIfEmpty(n)
	}
	if node == "" {
		return
	}
	n := c.entry(node)
	n.Nominated = append(n.Nominated, p)
	c.nominated[uid] = n
	c.touch(n)
}

// Nominated gives a pod that waits for a node, and that node's name; nil where it waits for none.
func (c *Cluster) Nominated(uid types.UID) (*Pod, string) {
	n := c.nominated[uid]
	if n == nil {
		return nil, ""
	}
	i := slices.IndexFunc(n.Nominated, func(p *Pod) bool { return p.Pod.UID == uid })
	return n.Nominated[i], n.Name
}

// NominatedTo gives the name of the node that a pod waits for; empty where it waits for none.
func (c *Cluster) NominatedTo(uid types.UID) string {
	if n := c.nominated[uid]; n != nil {
		return n.Name
	}
	return ""
}

func (c *Cluster) entry(name string) *Node {
	n := c.nodes[name]
	if n == nil {
		n = &Node{Name: name, Pods: map[types.UID]*Pod{}}
		c.nodes[name] = n
		if last := len(c.freeSlots) - 1; last >= 0 {
			n.Slot, c.freeSlots = c.freeSlots[last], c.freeSlots[:last]
			c.slots[n.Slot] = n
		} else {
			n.Slot = int32(len(c.slots))
			c.slots = append(c.slots, n)
		}
		c.touch(n)
	}
	return n
}

func (c *Cluster) dropIfEmpty(n *Node) {
	if n.Node != nil || len(n.Pods) > 0 || len(n.Nominated) > 0 {
		return
	}
	delete(c.nodes, n.Name)
	c.slots[n.Slot] = nil
	c.freeSlots = append(c.freeSlots, n.Slot)
}

// SetNamespace notes a namespace's labels; nil forgets it.
func (c *Cluster) SetNamespace(name string, labels map[string]string) {
	if labels == nil {
		delete(c.namespaces, name)
	} else {
		c.namespaces[name] = labels
	}
	c.counts.dropSelecting()
}

// SetService adds or replaces a service; one without a selector spreads nothing and is forgotten.
func (c *Cluster) SetService(s *corev1.Service) {
	key := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	if len(s.Spec.Selector) == 0 {
		delete(c.services, key)
		return
	}
	c.services[key] = s
}

// RemoveService forgets a service.
func (c *Cluster) RemoveService(namespace, name string) {
	delete(c.services, types.NamespacedName{Namespace: namespace, Name: name})
}

func byName(n *Node, name string) int { return cmp.Compare(n.Name, name) }
