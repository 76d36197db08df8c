package model

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// VolumeBinding is a volume for a claim.
type VolumeBinding struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// VolumePlan is what has to happen to the claims of a pod before it can run on a node.
type VolumePlan struct {
	Node string
	// Bind are claims for which there are volumes that the node reaches.
	Bind []VolumeBinding
	// Provision are claims for which provisioners are to make volumes that it reaches.
	Provision []*corev1.PersistentVolumeClaim
}

// Empty tells whether nothing has to happen.
func (p VolumePlan) Empty() bool { return len(p.Bind)+len(p.Provision) == 0 }

// VolumeFit is what is known of a pod's claims before single nodes are looked at.
type VolumeFit struct {
	cluster *Cluster
	bound   []*Volume // of claims that are bound
	missing bool      // a claim is bound to a volume that is not there
	open    []openClaim
}

// openClaim waits for the pod to be given a node.
type openClaim struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	// selected is the node that was chosen for it; empty for none.
	selected string
	reserved []*Volume
	// suitable are the free volumes that would do, the best first: those of one host by its name, the others under the empty one.
	suitable map[string][]*Volume
}

// Misfit is why a node does not do.
type Misfit uint8

// The reasons.
const (
	Fits Misfit = iota
	// NoVolume: the node reaches no volume for a claim, and none can be made for it.
	NoVolume
	// OutOfReach: the node does not reach a volume that a claim is bound to.
	OutOfReach
	// NoSpace: there is not enough storage left for the node.
	NoSpace
	// VolumeGone: a claim is bound to a volume that is not there.
	VolumeGone
)

// NewVolumeFit looks at the claims of a pod: those that are bound, and those, all of a class that waits for pods, that are not.
func (c *Cluster) NewVolumeFit(bound, open []*corev1.PersistentVolumeClaim) *VolumeFit {
	f := &VolumeFit{cluster: c}
	for _, claim := range bound {
		if v := c.storage.volumes[claim.Spec.VolumeName]; v != nil {
			f.bound = append(f.bound, v)
		} else {
			f.missing = true
		}
	}
	for _, claim := range open {
		f.open = append(f.open, c.newOpenClaim(claim))
	}
	slices.SortStableFunc(f.open, func(a, b openClaim) int { // the smallest first, so that it takes no volume that a larger one needs
		return a.claim.Spec.Resources.Requests.Storage().Cmp(*b.claim.Spec.Resources.Requests.Storage())
	})
	return f
}

func (c *Cluster) newOpenClaim(claim *corev1.PersistentVolumeClaim) openClaim {
	o := openClaim{claim: claim, class: c.StorageClass(claim), selected: claim.Annotations[volumes.SelectedNode]}
	matcher := volumes.NewMatcher(claim)
	key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	for name, a := range c.storage.assumedVolumes {
		if v := c.storage.volumes[name]; a.claim == key && v.Spec.ClaimRef == nil && matcher.Reserved(a.volume) {
			o.reserved = append(o.reserved, v)
		}
	}
	if len(o.reserved) > 0 || o.selected != "" {
		return o // it will be bound to that, or its provisioner has been asked
	}
	for _, v := range c.storage.reserved[key] {
		if matcher.Reserved(v.PersistentVolume) {
			o.reserved = append(o.reserved, v)
		}
	}
	if len(o.reserved) > 0 {
		return o
	}
	class, _ := volumes.ClassOfClaim(claim)
	o.suitable = map[string][]*Volume{}
	for name, v := range c.storage.free[class] {
		if c.storage.assumedVolumes[name] == nil && matcher.Suits(v.PersistentVolume) {
			o.suitable[v.host] = append(o.suitable[v.host], v)
		}
	}
	for _, list := range o.suitable {
		slices.SortFunc(list, func(a, b *Volume) int { return volumes.Closer(a.PersistentVolume, b.PersistentVolume) })
	}
	return o
}

// On plans for one node.
func (f *VolumeFit) On(node *corev1.Node) (VolumePlan, Misfit) {
	plan := VolumePlan{Node: node.Name}
	if f.missing {
		return plan, VolumeGone
	}
	for _, v := range f.bound {
		if !v.ReachableFrom(node) {
			return plan, OutOfReach
		}
	}
	for i := range f.open {
		o := &f.open[i]
		if o.selected != "" && o.selected != node.Name {
			return plan, NoVolume
		}
		if v := o.best(node, plan.Bind); v != nil {
			plan.Bind = append(plan.Bind, VolumeBinding{o.claim, v.PersistentVolume})
			continue
		}
		if len(o.reserved) > 0 {
			return plan, NoVolume // the claim will be bound to what is reserved for it
		}
		if misfit := f.cluster.provides(o, node); misfit != Fits {
			return plan, misfit
		}
		plan.Provision = append(plan.Provision, o.claim)
	}
	return plan, Fits
}

// best is the volume for the claim that the node reaches best and that is not given to another claim of the pod.
func (o *openClaim) best(node *corev1.Node, given []VolumeBinding) *Volume {
	for _, v := range o.reserved {
		if v.ReachableFrom(node) {
			return v
		}
	}
	var best *Volume
	for _, host := range [...]string{node.Labels[corev1.LabelHostname], ""} {
		for _, v := range o.suitable[host] {
			if slices.ContainsFunc(given, func(b VolumeBinding) bool { return b.Volume.Name == v.Name }) || !v.ReachableFrom(node) {
				continue
			}
			if best == nil || volumes.Closer(v.PersistentVolume, best.PersistentVolume) < 0 {
				best = v
			}
			break
		}
		if host == "" {
			break
		}
	}
	return best
}

// provides tells whether a volume for the claim can be made that the node reaches.
func (c *Cluster) provides(o *openClaim, node *corev1.Node) Misfit {
	if o.class == nil || o.class.Provisioner == "" || o.class.Provisioner == volumes.NoProvisioner || !inTopology(o.class.AllowedTopologies, node) {
		return NoVolume
	}
	driver := c.storage.drivers[o.class.Provisioner]
	size, sized := o.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if driver == nil || !ptr.Deref(driver.Spec.StorageCapacity, false) || !sized {
		return Fits
	}
	for _, capacity := range c.storage.capacities {
		if capacity.StorageClassName == o.class.Name && capacity.Holds(size.Value(), node) {
			return Fits
		}
	}
	return NoSpace
}

// inTopology tells whether one of the terms is of the node; no terms are of all.
func inTopology(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, has := node.Labels[e.Key]
			return !has || !slices.Contains(e.Values, value)
		})
	})
}

// SplitClaims sorts the claims of a pod: bound ones, those that wait for the pod to be given a node, and those that must be bound first. A claim that is not
// there is none of them.
func (c *Cluster) SplitClaims(p *Pod) (bound, open, immediate []*corev1.PersistentVolumeClaim) {
	for _, use := range p.Claims {
		switch claim := c.Claim(use.Key); {
		case claim == nil:
		case claim.Spec.VolumeName != "" && volumes.Completed(claim):
			bound = append(bound, claim)
		case claim.Spec.VolumeName == "" && volumes.Delayed(c.StorageClass(claim)):
			open = append(open, claim)
		default:
			immediate = append(immediate, claim)
		}
	}
	return bound, open, immediate
}

// PlanVolumes plans for a pod and a node on which VolumeBinding has found it to fit.
func (c *Cluster) PlanVolumes(p *Pod, node *corev1.Node) VolumePlan {
	if len(p.Claims) == 0 {
		return VolumePlan{Node: node.Name}
	}
	bound, open, _ := c.SplitClaims(p)
	plan, _ := c.NewVolumeFit(bound, open).On(node)
	return plan
}

// assumedVolume is a volume that was given to a claim and not yet seen as its.
type assumedVolume struct {
	claim  types.NamespacedName
	volume *corev1.PersistentVolume
	pods   map[types.UID]bool // for whose sake
}

// assumedClaim is a claim for which a node was chosen and not yet seen.
type assumedClaim struct {
	uid   types.UID
	node  string
	claim *corev1.PersistentVolumeClaim
	pods  map[types.UID]bool
}

// AssumeVolumes takes a plan for done from now on: its volumes are given to nobody else, its claims go to no other node.
func (c *Cluster) AssumeVolumes(pod types.UID, plan VolumePlan) {
	for _, b := range plan.Bind {
		key := types.NamespacedName{Namespace: b.Claim.Namespace, Name: b.Claim.Name}
		a := c.storage.assumedVolumes[b.Volume.Name]
		if a == nil {
			bound, _ := volumes.Claimed(b.Volume, b.Claim)
			a = &assumedVolume{claim: key, volume: bound, pods: map[types.UID]bool{}}
			c.storage.assumedVolumes[b.Volume.Name] = a
		}
		a.pods[pod] = true
	}
	for _, claim := range plan.Provision {
		key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
		a := c.storage.assumedClaims[key]
		if a == nil {
			a = &assumedClaim{uid: claim.UID, node: plan.Node, claim: SelectedFor(claim, plan.Node), pods: map[types.UID]bool{}}
			c.storage.assumedClaims[key] = a
		}
		a.pods[pod] = true
	}
}

// SelectedFor is the claim with the node chosen for it.
func SelectedFor(claim *corev1.PersistentVolumeClaim, node string) *corev1.PersistentVolumeClaim {
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumes.SelectedNode, node)
	return claim
}

// ForgetVolumes ends what was assumed for a pod, where no other pod rests on it.
func (c *Cluster) ForgetVolumes(pod types.UID) {
	for name, a := range c.storage.assumedVolumes {
		if delete(a.pods, pod); len(a.pods) == 0 {
			delete(c.storage.assumedVolumes, name)
		}
	}
	for key, a := range c.storage.assumedClaims {
		if delete(a.pods, pod); len(a.pods) == 0 {
			delete(c.storage.assumedClaims, key)
		}
	}
}
