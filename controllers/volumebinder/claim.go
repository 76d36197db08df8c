package volumebinder

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// claimView is what a decision about a claim rests on.
type claimView struct {
	claim *corev1.PersistentVolumeClaim
	// volume is the one that the claim names; for a claim that names none the best there is. Nil for none.
	volume *corev1.PersistentVolume
	// class is the claim's; nil when it has none, or one that does not exist.
	class *storagev1.StorageClass
	// fallback is the default class; nil for none.
	fallback *storagev1.StorageClass
	// waiting names the pods that use the claim and have no node yet.
	waiting []string
}

// event is what is told of an object.
type event struct{ kind, reason, message string }

func warning(reason, format string, args ...any) *event {
	return &event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

func normal(reason, format string, args ...any) *event {
	return &event{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

// claimPlan is what to do about a claim. At most one of bind, class and provisioner is set.
type claimPlan struct {
	// bind tells to bind the view's volume to the claim, or to complete that.
	bind bool
	// class is the default class, which the claim is to get.
	class string
	// provisioner is who is asked to make a volume for the claim; migrated is set where it has taken over from one that was once built in.
	provisioner string
	migrated    bool
	// phase is the claim's; empty leaves it.
	phase corev1.PersistentVolumeClaimPhase
	event *event
}

// decideClaim decides what becomes of a claim. It is pure.
func decideClaim(s claimView) claimPlan {
	switch {
	case volumes.Completed(s.claim):
		return decideBound(s)
	case s.claim.Spec.VolumeName != "":
		return decideNamed(s)
	case s.volume != nil:
		return claimPlan{bind: true}
	}
	class, named := volumes.ClassOfClaim(s.claim)
	_, selected := s.claim.Annotations[volumes.SelectedNode]
	switch {
	case !named && s.fallback != nil:
		return claimPlan{class: s.fallback.Name}
	case volumes.Delayed(s.class) && !selected:
		return claimPlan{phase: corev1.ClaimPending, event: awaitsConsumer(s.waiting)}
	case class != "":
		return provision(class, s.class)
	}
	return claimPlan{phase: corev1.ClaimPending, event: normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")}
}

func awaitsConsumer(waiting []string) *event {
	switch len(waiting) {
	case 0:
		return normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return normal("WaitForPodScheduled", "waiting for pod %s to be scheduled", waiting[0])
	}
	return normal("WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(waiting, ","))
}

// decideNamed is for claims that name a volume and were never bound to it.
func decideNamed(s claimView) claimPlan {
	switch {
	case s.volume == nil:
		return claimPlan{phase: corev1.ClaimPending}
	case s.volume.Spec.ClaimRef == nil:
		if why := volumes.Mismatch(s.volume, s.claim); why != "" {
			return claimPlan{phase: corev1.ClaimPending, event: warning("VolumeMismatch", "Cannot bind to requested volume %q: %s", s.volume.Name, why)}
		}
		return claimPlan{bind: true}
	case volumes.Refers(s.volume, s.claim):
		return claimPlan{bind: true}
	}
	return claimPlan{phase: corev1.ClaimPending, event: warning("FailedBinding", "volume %q already bound to a different claim.", s.volume.Name)}
}

// decideBound is for claims that have been bound. A volume that nobody holds was not seen yet as bound, or was set free: either way it is taken again.
func decideBound(s claimView) claimPlan {
	lost := func(reason, message string) claimPlan {
		return claimPlan{phase: corev1.ClaimLost, event: warning(reason, "%s", message)}
	}
	switch {
	case s.claim.Spec.VolumeName == "":
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case s.volume == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case s.volume.Spec.ClaimRef == nil || volumes.Refers(s.volume, s.claim):
		return claimPlan{bind: true, event: grows(s.claim)}
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// grows is what is told of a bound claim that asks for more than it has: a resizer outside sees to it, and keeps its conditions.
func grows(claim *corev1.PersistentVolumeClaim) *event {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || want.Cmp(have) <= 0 {
		return nil
	}
	return normal("ExternalExpanding", "waiting for an external controller to expand this PVC")
}

// builtin starts the names of provisioners that were once part of the controllers.
const builtin = "kubernetes.io/"

// drivers are the CSI drivers that have taken over from built-in provisioners.
var drivers = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

// provision asks the class's provisioner for a volume.
func provision(name string, class *storagev1.StorageClass) claimPlan {
	if class == nil {
		return claimPlan{event: warning("ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)}
	}
	who, migrated := class.Provisioner, false
	if strings.HasPrefix(who, builtin) {
		driver, ok := drivers[who]
		if !ok {
			return claimPlan{event: warning("ProvisioningFailed", "no volume plugin matched name: %s", who)}
		}
		who, migrated = driver, true
	}
	return claimPlan{provisioner: who, migrated: migrated, event: normal("ExternalProvisioning",
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", who)}
}

// asked is the claim with the annotations that its provisioner waits for.
func asked(claim *corev1.PersistentVolumeClaim, provisioner string, migrated bool) (c *corev1.PersistentVolumeClaim, changed bool) {
	set := func(name, value string) {
		if have, ok := claim.Annotations[name]; !ok || have != value {
			if !changed {
				c, changed = claim.DeepCopy(), true
			}
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, name, value)
		}
	}
	set(volumes.StorageProvisioner, provisioner)
	set(volumes.BetaStorageProvisioner, provisioner)
	if migrated {
		set(volumes.MigratedTo, provisioner)
	}
	return c, changed
}

// bound is the claim bound to the volume.
func bound(claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) (c *corev1.PersistentVolumeClaim, changed bool) {
	if claim.Spec.VolumeName == volume.Name && volumes.Completed(claim) {
		return claim, false
	}
	c = claim.DeepCopy()
	if c.Spec.VolumeName != volume.Name {
		c.Spec.VolumeName = volume.Name
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BindCompleted, "yes")
	return c, true
}

// resizedFrom is the capacity that a volume had when its growth began, which the claim's file system still has.
const resizedFrom = "volume.alpha.kubernetes.io/pre-resize-capacity"

// claimStatus is the claim in the phase, with its volume's properties, or without any where there is none. The capacity is told when the claim becomes
// bound; from then on it is the resizer's.
func claimStatus(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume) (c *corev1.PersistentVolumeClaim, changed bool) {
	c = claim.DeepCopy()
	c.Status.Phase = phase
	if volume == nil {
		c.Status.AccessModes, c.Status.Capacity, c.Status.CurrentVolumeAttributesClassName = nil, nil, nil
	} else {
		c.Status.AccessModes = volume.Spec.AccessModes
		if claim.Status.Phase != phase {
			c.Status.Capacity = capacity(volume)
			c.Status.CurrentVolumeAttributesClassName = nil
			if name := ptr.Deref(volume.Spec.VolumeAttributesClassName, ""); name != "" {
				c.Status.CurrentVolumeAttributesClassName = &name
			}
		}
	}
	return c, !apiequality.Semantic.DeepEqual(claim.Status, c.Status)
}

func capacity(volume *corev1.PersistentVolume) corev1.ResourceList {
	list := volume.Spec.Capacity.DeepCopy()
	if before, ok := volume.Annotations[resizedFrom]; ok {
		if q, err := resource.ParseQuantity(before); err == nil {
			list[corev1.ResourceStorage] = q
		}
	}
	return list
}

// waitingPods names those of the pods that have no node, in the order of their names.
func waitingPods(pods []*corev1.Pod) []string {
	names := sets.New[string]()
	for _, pod := range pods {
		if pod.Spec.NodeName == "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			names.Insert(pod.Name)
		}
	}
	return sets.List(names)
}
