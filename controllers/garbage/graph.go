package garbage

import (
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// resource is a kind of object as the API serves it; one value is shared by all objects of the kind.
type resource struct {
	gvr        schema.GroupVersionResource
	kind       schema.GroupVersionKind
	namespaced bool
}

// node is one object of the cluster: who owns it, and who depends on it. It holds nothing else of the object.
type node struct {
	resource        *resource // nil while the object is known from references only
	namespace, name string
	uid             types.UID
	owners          []metav1.OwnerReference
	dependents      map[types.UID]*node // by UID; nil when there are none
	deleting        bool                // it has a deletion timestamp
	foreground      bool                // deleting, and it waits for its dependents
	orphan          bool                // deleting, and its dependents are to be let go
}

// graph is all objects of the cluster by ownership. It is a data structure without I/O; all methods may be called
// side by side.
//
// Invariants: for every node and each of its owners' UIDs there is a node of that UID, which lists it among its dependents; a node
// whose object is not observed lives only as long as it has dependents.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	// observed are the UIDs of each resource's objects.
	observed map[*resource]map[types.UID]struct{}
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, observed: map[*resource]map[types.UID]struct{}{}}
}

const (
	finalizerForeground = metav1.FinalizerDeleteDependents
	finalizerOrphan     = metav1.FinalizerOrphanDependents
)

// stray is a reference from an object to an owner in another namespace, where no owner can be.
type stray struct {
	resource        *resource
	namespace, name string
	uid             types.UID
	owner           metav1.OwnerReference
}

// observe takes in an object as it is now. It returns the UIDs of nodes to look at, and references that cannot hold.
func (g *graph) observe(r *resource, obj metav1.Object) (wake []types.UID, strays []stray) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[obj.GetUID()]
	if n == nil {
		n = &node{uid: obj.GetUID()}
		g.nodes[n.uid] = n
	}
	first := n.resource == nil
	before := *n
	n.resource, n.namespace, n.name = r, obj.GetNamespace(), obj.GetName()
	n.deleting = obj.GetDeletionTimestamp() != nil
	n.foreground = n.deleting && slices.Contains(obj.GetFinalizers(), finalizerForeground)
	n.orphan = n.deleting && slices.Contains(obj.GetFinalizers(), finalizerOrphan)
	if g.observed[r] == nil {
		g.observed[r] = map[types.UID]struct{}{}
	}
	g.observed[r][n.uid] = struct{}{}
	wake = g.relink(n, obj.GetOwnerReferences())
	if n.foreground && !before.foreground {
		wake = append(append(wake, n.uid), uids(n.dependents)...)
	}
	if n.orphan && !before.orphan {
		wake = append(wake, n.uid)
	}
	if first && len(n.dependents) > 0 {
		strays = g.strays(n, n.dependents)
	}
	strays = append(strays, g.strayRefs(n, before.owners)...)
	for _, s := range strays {
		wake = append(wake, s.uid) // where it looks for its owner there is none
	}
	return wake, strays
}

// relink makes the graph follow n's owner references. It wakes owners not seen yet, so that they are looked for, owners that n no
// longer blocks, and n itself when it has lost an owner that waits for it.
func (g *graph) relink(n *node, refs []metav1.OwnerReference) (wake []types.UID) {
	for i := range refs {
		ref := &refs[i]
		owner := g.nodes[ref.UID]
		if owner == nil {
			owner = &node{uid: ref.UID, name: ref.Name, namespace: n.namespace}
			g.nodes[ref.UID] = owner
		}
		if owner.resource == nil && owner.dependents[n.uid] == nil {
			wake = append(wake, n.uid) // whether that owner exists is found out on its dependents' behalf
		}
		if owner.foreground && owner.dependents[n.uid] == nil {
			wake = append(wake, n.uid)
		}
		if owner.dependents == nil {
			owner.dependents = map[types.UID]*node{}
		}
		owner.dependents[n.uid] = n
	}
	for _, old := range n.owners {
		i := slices.IndexFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == old.UID })
		if i < 0 {
			wake = append(wake, g.unlink(n, old.UID)...)
		} else if blocks(old) && !blocks(refs[i]) {
			wake = append(wake, old.UID)
		}
	}
	n.owners = slices.Clone(refs)
	return wake
}

// unlink takes n out of an owner's dependents, and drops an owner that nothing else holds.
func (g *graph) unlink(n *node, uid types.UID) (wake []types.UID) {
	owner := g.nodes[uid]
	if owner == nil {
		return nil
	}
	delete(owner.dependents, n.uid)
	if len(owner.dependents) == 0 {
		owner.dependents = nil
		if owner.resource == nil {
			delete(g.nodes, uid)
		}
	}
	if owner.foreground || owner.orphan {
		return []types.UID{uid}
	}
	return nil
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// forget takes in that an object is gone. Its dependents, and owners that waited for it, are to be looked at.
func (g *graph) forget(uid types.UID) (wake []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil || n.resource == nil {
		return nil
	}
	delete(g.observed[n.resource], uid)
	n.resource, n.deleting, n.foreground, n.orphan = nil, false, false, false
	for _, ref := range n.owners {
		wake = append(wake, g.unlink(n, ref.UID)...)
	}
	n.owners = nil
	if len(n.dependents) == 0 {
		delete(g.nodes, uid)
		return wake
	}
	return append(wake, uids(n.dependents)...)
}

// absent lists the observed objects of a resource that are not among the present ones.
func (g *graph) absent(r *resource, present map[types.UID]bool) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []types.UID
	for uid := range g.observed[r] {
		if !present[uid] {
			gone = append(gone, uid)
		}
	}
	return gone
}

// settled tells whether every owner of n has been seen, where n says it is, and is not waiting for n to go. Nothing needs to be read
// live then: an owner's deletion will wake its dependents.
func (g *graph) settled(n node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, ref := range n.owners {
		owner := g.nodes[ref.UID]
		if owner == nil || owner.resource == nil || owner.foreground || outOfReach(owner, &n) ||
			owner.name != ref.Name || owner.resource.kind.Kind != ref.Kind || owner.resource.kind.Group != groupOf(ref) {
			return false
		}
	}
	return true
}

func groupOf(ref metav1.OwnerReference) string {
	group, _, found := strings.Cut(ref.APIVersion, "/")
	if !found {
		return ""
	}
	return group
}

// get reads a node, but for its dependents; not ok when its object is not observed.
func (g *graph) get(uid types.UID) (node, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil || n.resource == nil {
		return node{}, false
	}
	return alone(n), true
}

// alone is a copy of n that shares nothing which changes.
func alone(n *node) node {
	one := *n
	one.dependents = nil
	return one
}

// dependents lists the observed dependents of an object.
func (g *graph) dependents(uid types.UID) []node {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	var list []node
	for _, d := range n.dependents {
		if d.resource != nil {
			list = append(list, alone(d))
		}
	}
	return list
}

// blockers tells whether a dependent keeps a foreground deletion from ending, and which of those that do are not being deleted yet.
func (g *graph) blockers(uid types.UID) (blocked bool, idle []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return false, nil
	}
	for _, d := range n.dependents {
		if d.resource == nil || !slices.ContainsFunc(d.owners, func(ref metav1.OwnerReference) bool { return ref.UID == uid && blocks(ref) }) {
			continue
		}
		blocked = true
		if !d.deleting {
			idle = append(idle, d.uid)
		}
	}
	return blocked, idle
}

func uids(nodes map[types.UID]*node) []types.UID {
	list := make([]types.UID, 0, len(nodes))
	for uid := range nodes {
		list = append(list, uid)
	}
	return list
}

// strays are the references to owner from dependents in other namespaces.
func (g *graph) strays(owner *node, dependents map[types.UID]*node) []stray {
	var list []stray
	for _, d := range dependents {
		if d.resource != nil && outOfReach(owner, d) {
			for _, ref := range d.owners {
				if ref.UID == owner.uid {
					list = append(list, stray{d.resource, d.namespace, d.name, d.uid, ref})
				}
			}
		}
	}
	return list
}

// strayRefs are n's new references to owners in other namespaces.
func (g *graph) strayRefs(n *node, before []metav1.OwnerReference) []stray {
	var list []stray
	for _, ref := range n.owners {
		known := slices.ContainsFunc(before, func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
		if owner := g.nodes[ref.UID]; !known && owner != nil && owner.resource != nil && outOfReach(owner, n) {
			list = append(list, stray{n.resource, n.namespace, n.name, n.uid, ref})
		}
	}
	return list
}

func outOfReach(owner, dependent *node) bool {
	return owner.resource.namespaced && owner.namespace != dependent.namespace
}
