package model

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// ClaimUse is a pod's use of a claim.
type ClaimUse struct {
	Key types.NamespacedName
	// Ephemeral: the claim is made for the pod, and must be its own.
	Ephemeral bool
}

// claimsOf are the claims that a pod uses, each once.
func claimsOf(pod *corev1.Pod) []ClaimUse {
	var uses []ClaimUse
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := volumes.ClaimName(pod, v)
		use := ClaimUse{types.NamespacedName{Namespace: pod.Namespace, Name: name}, v.Ephemeral != nil}
		if name != "" && !slices.Contains(uses, use) {
			uses = append(uses, use)
		}
	}
	return uses
}

// Volume is a persistent volume, with where it can be used computed once.
type Volume struct {
	*corev1.PersistentVolume
	affinity *nodeaffinity.NodeSelector // nil for everywhere
	nowhere  bool                       // its affinity cannot be read
	// host is the one value of the label kubernetes.io/hostname that its affinity allows; empty where it is not as simple as that.
	host string
}

func newVolume(pv *corev1.PersistentVolume) *Volume {
	v := &Volume{PersistentVolume: pv}
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return v
	}
	required := pv.Spec.NodeAffinity.Required
	selector, err := nodeaffinity.NewNodeSelector(required)
	v.affinity, v.nowhere = selector, err != nil
	if len(required.NodeSelectorTerms) != 1 {
		return v
	}
	for _, e := range required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
			v.host = e.Values[0]
		}
	}
	return v
}

// ReachableFrom tells whether the volume can be used on the node.
func (v *Volume) ReachableFrom(node *corev1.Node) bool {
	return !v.nowhere && (v.affinity == nil || v.affinity.Match(node))
}

// storage is what the model knows of claims, volumes and those who make them. What is assumed of them lies over what the API server shows.
type storage struct {
	claims     map[types.NamespacedName]*corev1.PersistentVolumeClaim
	volumes    map[string]*Volume
	free       map[string]map[string]*Volume               // volumes that nobody has, by class and name
	reserved   map[types.NamespacedName]map[string]*Volume // the others, by their claim and name
	classes    map[string]*storagev1.StorageClass
	drivers    map[string]*storagev1.CSIDriver
	csiNodes   map[string]*storagev1.CSINode
	capacities map[types.NamespacedName]*Capacity
	attached   map[string]map[string]string // volumes by node and attachment
	// users counts the placed pods that use a claim.
	users map[types.NamespacedName]int

	assumedVolumes map[string]*assumedVolume
	assumedClaims  map[types.NamespacedName]*assumedClaim
}

func newStorage() storage {
	return storage{
		claims: map[types.NamespacedName]*corev1.PersistentVolumeClaim{}, volumes: map[string]*Volume{}, free: map[string]map[string]*Volume{},
		reserved: map[types.NamespacedName]map[string]*Volume{}, classes: map[string]*storagev1.StorageClass{},
		drivers: map[string]*storagev1.CSIDriver{}, csiNodes: map[string]*storagev1.CSINode{}, capacities: map[types.NamespacedName]*Capacity{},
		attached: map[string]map[string]string{}, users: map[types.NamespacedName]int{}, assumedVolumes: map[string]*assumedVolume{}, assumedClaims: map[types.NamespacedName]*assumedClaim{},
	}
}

// Capacity is what a driver has left for one class in one part of the cluster.
type Capacity struct {
	*storagev1.CSIStorageCapacity
	nodes labels.Selector // nil for none
}

// Holds tells whether a volume of the size can be made there for the node.
func (c *Capacity) Holds(size int64, node *corev1.Node) bool {
	limit := c.CSIStorageCapacity.Capacity
	if c.MaximumVolumeSize != nil {
		limit = c.MaximumVolumeSize // more precise
	}
	return limit != nil && limit.Value() >= size && c.nodes != nil && c.nodes.Matches(labels.Set(node.Labels))
}

// SetClaim adds or replaces a claim. What was assumed of it ends once the API server shows it, or another claim by its name.
func (c *Cluster) SetClaim(claim *corev1.PersistentVolumeClaim) {
	key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	c.storage.claims[key] = claim
	if a := c.storage.assumedClaims[key]; a != nil && (a.uid != claim.UID || claim.Spec.VolumeName != "" || claim.Annotations[volumes.SelectedNode] == a.node) {
		delete(c.storage.assumedClaims, key)
	}
}

// RemoveClaim forgets a claim.
func (c *Cluster) RemoveClaim(namespace, name string) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	delete(c.storage.claims, key)
	delete(c.storage.assumedClaims, key)
}

// SetVolume adds or replaces a volume. What was assumed of it ends once the API server shows that it is somebody's.
func (c *Cluster) SetVolume(pv *corev1.PersistentVolume) {
	c.dropVolume(pv.Name)
	v := newVolume(pv)
	c.storage.volumes[pv.Name] = v
	if ref := pv.Spec.ClaimRef; ref != nil {
		key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
		put(c.storage.reserved, key, v)
		if a := c.storage.assumedVolumes[pv.Name]; a != nil && (ref.UID != "" || a.claim != key) {
			delete(c.storage.assumedVolumes, pv.Name)
		}
		return
	}
	put(c.storage.free, volumes.ClassOf(pv), v)
}

// RemoveVolume forgets a volume.
func (c *Cluster) RemoveVolume(name string) {
	c.dropVolume(name)
	delete(c.storage.volumes, name)
	delete(c.storage.assumedVolumes, name)
}

// dropVolume takes a volume out of where it is filed.
func (c *Cluster) dropVolume(name string) {
	old := c.storage.volumes[name]
	if old == nil {
		return
	}
	if ref := old.Spec.ClaimRef; ref != nil {
		take(c.storage.reserved, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, name)
	} else {
		take(c.storage.free, volumes.ClassOf(old.PersistentVolume), name)
	}
}

func put[K comparable](files map[K]map[string]*Volume, key K, v *Volume) {
	if files[key] == nil {
		files[key] = map[string]*Volume{}
	}
	files[key][v.Name] = v
}

func take[K comparable](files map[K]map[string]*Volume, key K, name string) {
	if delete(files[key], name); len(files[key]) == 0 {
		delete(files, key)
	}
}

// SetStorageClass adds or replaces a class.
func (c *Cluster) SetStorageClass(class *storagev1.StorageClass) {
	c.storage.classes[class.Name] = class
}

// RemoveStorageClass forgets a class.
func (c *Cluster) RemoveStorageClass(name string) { delete(c.storage.classes, name) }

// SetCSIDriver adds or replaces a driver.
func (c *Cluster) SetCSIDriver(driver *storagev1.CSIDriver) { c.storage.drivers[driver.Name] = driver }

// RemoveCSIDriver forgets a driver.
func (c *Cluster) RemoveCSIDriver(name string) { delete(c.storage.drivers, name) }

// SetCSINode adds or replaces what a node's drivers say of it.
func (c *Cluster) SetCSINode(node *storagev1.CSINode) { c.storage.csiNodes[node.Name] = node }

// RemoveCSINode forgets it.
func (c *Cluster) RemoveCSINode(name string) { delete(c.storage.csiNodes, name) }

// CSINode is what a node's drivers say of it; nil for nothing.
func (c *Cluster) CSINode(name string) *storagev1.CSINode { return c.storage.csiNodes[name] }

// SetAttachment adds or replaces the attachment of a volume to a node; neither ever changes.
func (c *Cluster) SetAttachment(a *storagev1.VolumeAttachment) {
	if a.Spec.Source.PersistentVolumeName == nil {
		return
	}
	if c.storage.attached[a.Spec.NodeName] == nil {
		c.storage.attached[a.Spec.NodeName] = map[string]string{}
	}
	c.storage.attached[a.Spec.NodeName][a.Name] = *a.Spec.Source.PersistentVolumeName
}

// RemoveAttachment forgets one.
func (c *Cluster) RemoveAttachment(a *storagev1.VolumeAttachment) {
	of := c.storage.attached[a.Spec.NodeName]
	if delete(of, a.Name); len(of) == 0 {
		delete(c.storage.attached, a.Spec.NodeName)
	}
}

// AttachedTo lists the volumes that are attached to a node, or about to be, or not detached yet.
func (c *Cluster) AttachedTo(node string) []*Volume {
	var list []*Volume
	for _, name := range c.storage.attached[node] {
		if v := c.storage.volumes[name]; v != nil {
			list = append(list, v)
		}
	}
	return list
}

// SetStorageCapacity adds or replaces what a driver has left somewhere. A topology that cannot be read is of no node.
func (c *Cluster) SetStorageCapacity(s *storagev1.CSIStorageCapacity) {
	capacity := &Capacity{CSIStorageCapacity: s}
	if s.NodeTopology != nil {
		if selector, err := metav1.LabelSelectorAsSelector(s.NodeTopology); err == nil {
			capacity.nodes = selector
		}
	}
	c.storage.capacities[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = capacity
}

// RemoveStorageCapacity forgets it.
func (c *Cluster) RemoveStorageCapacity(namespace, name string) {
	delete(c.storage.capacities, types.NamespacedName{Namespace: namespace, Name: name})
}

// Claim gives a claim, as it will be once what is assumed of it has been written; nil where there is none.
func (c *Cluster) Claim(key types.NamespacedName) *corev1.PersistentVolumeClaim {
	if a := c.storage.assumedClaims[key]; a != nil {
		return a.claim
	}
	return c.storage.claims[key]
}

// StoredClaim gives a claim as the API server shows it; nil where there is none.
func (c *Cluster) StoredClaim(key types.NamespacedName) *corev1.PersistentVolumeClaim {
	return c.storage.claims[key]
}

// Volume gives a volume as the API server shows it; nil where there is none.
func (c *Cluster) Volume(name string) *Volume { return c.storage.volumes[name] }

// StorageClass gives the class of a claim; nil where it has none, or one that does not exist.
func (c *Cluster) StorageClass(claim *corev1.PersistentVolumeClaim) *storagev1.StorageClass {
	name, _ := volumes.ClassOfClaim(claim)
	return c.storage.classes[name]
}

// ClaimUsers is how many placed pods use a claim.
func (c *Cluster) ClaimUsers(key types.NamespacedName) int { return c.storage.users[key] }

// countClaims notes that a pod uses its claims on a node, or no longer does.
func (c *Cluster) countClaims(p *Pod, sign int) {
	for _, use := range p.Claims {
		if c.storage.users[use.Key] += sign; c.storage.users[use.Key] == 0 {
			delete(c.storage.users, use.Key)
		}
	}
}
