package filter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/internal/volumes"
	"github.com/coracle-dev/coracle/scheduler/model"
)

var (
	unboundImmediate = finally("pod has unbound immediate PersistentVolumeClaims")
	misfits          = map[model.Misfit]*Rejection{
		model.NoVolume:   finally("node(s) didn't find available persistent volumes to bind"),
		model.OutOfReach: finally("node(s) didn't match PersistentVolume's node affinity"),
		model.NoSpace:    finally("node(s) did not have enough free storage"),
		model.VolumeGone: finally("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
	}
)

// volumeBinding asks that the node reaches the volumes of the pod's claims, and that those not bound yet can be bound or made there.
type volumeBinding struct{ fit *model.VolumeFit }

func (*volumeBinding) Name() string { return "VolumeBinding" }

func (f *volumeBinding) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	if len(pod.Claims) == 0 {
		return Scope{Skip: true}
	}
	for _, use := range pod.Claims {
		if why := unusable(use, cluster.Claim(use.Key), pod.Pod); why != "" {
			return Scope{Rejected: finally(why)}
		}
	}
	bound, open, immediate := cluster.SplitClaims(pod)
	if len(immediate) > 0 {
		return Scope{Rejected: unboundImmediate}
	}
	f.fit = cluster.NewVolumeFit(bound, open)
	return Scope{}
}

// unusable says why the pod cannot run anywhere because of a claim; empty where it is none of the claim's fault.
func unusable(use model.ClaimUse, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) string {
	switch {
	case claim == nil && use.Ephemeral:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", use.Key.Name)
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", use.Key.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name)
	case use.Ephemeral && !metav1.IsControlledBy(claim, pod):
		return fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
	}
	return ""
}

func (f *volumeBinding) Check(node *model.Node) *Rejection {
	_, misfit := f.fit.On(node.Node)
	return misfits[misfit] // none for what fits
}

func (*volumeBinding) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return true
	case NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels)
	case StorageChanged:
		switch object := e.Object.(type) {
		case *corev1.PersistentVolumeClaim:
			return usesClaim(pod, object)
		case *storagev1.VolumeAttachment:
			return false
		}
		return true
	}
	return false
}

// usesClaim tells whether the pod waits for the claim.
func usesClaim(pod *model.Pod, claim *corev1.PersistentVolumeClaim) bool {
	for _, use := range pod.Claims {
		if use.Key.Name == claim.Name && use.Key.Namespace == claim.Namespace {
			return true
		}
	}
	return false
}

// zoneLabels are the labels by which volumes and nodes name their zones and regions: the older names and what they are called now.
var zoneLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelTopologyZone: corev1.LabelTopologyZone, corev1.LabelTopologyRegion: corev1.LabelTopologyRegion,
}

// zonesIn are the zones that the value of a volume's label names: several are joined by two underscores.
func zonesIn(value string) map[string]bool {
	set := map[string]bool{}
	for _, z := range strings.Split(value, "__") {
		set[z] = true
	}
	return set
}

var otherZone = finally("node(s) had no available volume zone")

// volumeZone asks that the node is in the zones that the labels of the pod's volumes name. Nodes without such labels are of all zones.
type volumeZone struct{ zones []zone }

type zone struct {
	label  string
	values map[string]bool
}

func (*volumeZone) Name() string { return "VolumeZone" }

func (f *volumeZone) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	f.zones = f.zones[:0]
	for _, use := range pod.Claims {
		claim := cluster.Claim(use.Key)
		if claim == nil {
			continue
		}
		v := cluster.Volume(claim.Spec.VolumeName)
		if v == nil {
			continue
		}
		for label := range zoneLabels {
			if value, has := v.Labels[label]; has {
				f.zones = append(f.zones, zone{label, zonesIn(value)})
			}
		}
	}
	return Scope{Skip: len(f.zones) == 0}
}

func (f *volumeZone) Check(node *model.Node) *Rejection {
	zoned := false
	for label := range zoneLabels {
		_, has := node.Node.Labels[label]
		zoned = zoned || has
	}
	if !zoned {
		return nil
	}
	for _, z := range f.zones {
		value, has := node.Node.Labels[z.label]
		if !has {
			value = node.Node.Labels[zoneLabels[z.label]]
		}
		if !z.values[value] {
			return otherZone
		}
	}
	return nil
}

func (*volumeZone) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return true
	case NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels)
	case StorageChanged:
		switch object := e.Object.(type) {
		case *corev1.PersistentVolumeClaim:
			return usesClaim(pod, object)
		case *corev1.PersistentVolume, *storagev1.StorageClass:
			return true
		}
	}
	return false
}

var (
	otherUser = because("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
	diskInUse = because("node(s) had no available disk")
)

// volumeRestrictions keeps pods apart that cannot share a volume: those of a claim for one pod, and those with disks that only one pod may write.
type volumeRestrictions struct {
	taken bool // by another pod, wherever it is
	disks []corev1.Volume
}

func (*volumeRestrictions) Name() string { return "VolumeRestrictions" }

func (f *volumeRestrictions) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	f.taken, f.disks = false, f.disks[:0]
	exclusive := false
	for _, use := range pod.Claims {
		claim := cluster.Claim(use.Key)
		if claim == nil || !onePodOnly(claim) {
			continue
		}
		exclusive = true
		f.taken = f.taken || cluster.ClaimUsers(use.Key) > 0
	}
	for i := range pod.Pod.Spec.Volumes {
		if v := &pod.Pod.Spec.Volumes[i]; isDisk(v) {
			f.disks = append(f.disks, *v)
		}
	}
	return Scope{Skip: !exclusive && len(f.disks) == 0}
}

func onePodOnly(claim *corev1.PersistentVolumeClaim) bool {
	for _, mode := range claim.Spec.AccessModes {
		if mode == corev1.ReadWriteOncePod {
			return true
		}
	}
	return false
}

func isDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.ISCSI != nil || v.RBD != nil
}

func (f *volumeRestrictions) Check(node *model.Node) *Rejection {
	for i := range f.disks {
		for _, p := range node.Pods {
			for j := range p.Pod.Spec.Volumes {
				if conflicting(&f.disks[i], &p.Pod.Spec.Volumes[j]) {
					return diskInUse
				}
			}
		}
	}
	if f.taken {
		return otherUser
	}
	return nil
}

// conflicting tells whether both are the same disk and may not be used twice: most may if nobody writes.
func conflicting(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		shared := slices.ContainsFunc(x.CephMonitors, func(monitor string) bool { return slices.Contains(y.CephMonitors, monitor) })
		return shared && x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && !(x.ReadOnly && y.ReadOnly)
	}
	return false
}

func (*volumeRestrictions) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return true
	case PodGone:
		return sharesClaim(pod, e.Pod) || sharesDisk(pod.Pod, e.Pod.Pod)
	case StorageChanged:
		claim, is := e.Object.(*corev1.PersistentVolumeClaim)
		return is && usesClaim(pod, claim)
	}
	return false
}

func sharesClaim(a, b *model.Pod) bool {
	for _, use := range a.Claims {
		for _, other := range b.Claims {
			if use.Key == other.Key {
				return true
			}
		}
	}
	return false
}

func sharesDisk(a, b *corev1.Pod) bool {
	for i := range a.Spec.Volumes {
		for j := range b.Spec.Volumes {
			if conflicting(&a.Spec.Volumes[i], &b.Spec.Volumes[j]) {
				return true
			}
		}
	}
	return false
}

var tooManyVolumes = because("node(s) exceed max volume count")

// nodeVolumeLimits keeps to the number of volumes that each CSI driver can attach to a node: those of its pods, and those that are attached still.
type nodeVolumeLimits struct {
	cluster *model.Cluster
	wanted  map[csiVolume]bool
}

// csiVolume is one volume of a driver; where it is not made yet, it is known by its claim.
type csiVolume struct{ driver, handle string }

func (*nodeVolumeLimits) Name() string { return "NodeVolumeLimits" }

func (f *nodeVolumeLimits) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	f.cluster, f.wanted = cluster, map[csiVolume]bool{}
	addVolumes(f.wanted, pod, cluster)
	return Scope{Skip: len(f.wanted) == 0}
}

// addVolumes adds the pod's volumes of CSI drivers, those among them that are yet to be made.
func addVolumes(set map[csiVolume]bool, pod *model.Pod, cluster *model.Cluster) {
	for _, use := range pod.Claims {
		claim := cluster.Claim(use.Key)
		if claim == nil || use.Ephemeral && !metav1.IsControlledBy(claim, pod.Pod) {
			continue
		}
		if v := cluster.Volume(claim.Spec.VolumeName); v != nil {
			if v.Spec.CSI != nil {
				set[csiVolume{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
			}
		} else if class := cluster.StorageClass(claim); class != nil && class.Provisioner != volumes.NoProvisioner {
			set[csiVolume{class.Provisioner, "claim " + use.Key.String()}] = true
		}
	}
}

func (f *nodeVolumeLimits) Check(node *model.Node) *Rejection {
	csi := f.cluster.CSINode(node.Name)
	if csi == nil {
		return nil
	}
	var there map[csiVolume]bool
	for i := range csi.Spec.Drivers {
		driver := &csi.Spec.Drivers[i]
		if driver.Allocatable == nil || driver.Allocatable.Count == nil || count(f.wanted, nil, driver.Name) == 0 {
			continue
		}
		if there == nil {
			there = f.on(node)
		}
		if more := count(f.wanted, there, driver.Name); more > 0 && count(there, nil, driver.Name)+more > int(*driver.Allocatable.Count) {
			return tooManyVolumes
		}
	}
	return nil
}

// on are the volumes of CSI drivers that the node has or is to have.
func (f *nodeVolumeLimits) on(node *model.Node) map[csiVolume]bool {
	there := map[csiVolume]bool{}
	for _, p := range node.Pods {
		if len(p.Claims) > 0 {
			addVolumes(there, p, f.cluster)
		}
	}
	for _, v := range f.cluster.AttachedTo(node.Name) {
		if v.Spec.CSI != nil {
			there[csiVolume{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
		}
	}
	return there
}

// count counts the volumes of a driver that are not among others.
func count(set, others map[csiVolume]bool, driver string) int {
	n := 0
	for v := range set {
		if v.driver == driver && !others[v] {
			n++
		}
	}
	return n
}

func (*nodeVolumeLimits) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return true
	case PodGone:
		return len(e.Pod.Claims) > 0
	case StorageChanged:
		switch object := e.Object.(type) {
		case *storagev1.CSINode, *storagev1.VolumeAttachment:
			return true
		case *corev1.PersistentVolumeClaim:
			return usesClaim(pod, object)
		}
	}
	return false
}
