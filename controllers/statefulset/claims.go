package statefulset

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// newClaim is the claim that a template makes for an ordinal, with the owners it is to have.
func newClaim(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	claim := template.DeepCopy()
	claim.Name, claim.Namespace = claimName(set, template, ordinal), set.Namespace
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	claim.OwnerReferences, _, _ = owners(set, member{name: podName(set, ordinal), wanted: true}, nil)
	return claim
}

// member is the pod that a claim is for.
type member struct {
	name string
	// uid is empty as long as the pod is yet to be created.
	uid types.UID
	// wanted means that the set is to have the pod.
	wanted bool
}

// owners gives the owner references that a claim's retention policy asks for, out of those it has. No pod that is gone, no set of the same
// name and no other controller is interfered with: conflict means that another controller owns the claim, which the policy then does
// not apply to. It is pure.
func owners(set *appsv1.StatefulSet, pod member, have []metav1.OwnerReference) (want []metav1.OwnerReference, changed, conflict bool) {
	whenDeleted, whenScaled := retention(set)
	for _, ref := range have {
		ours := names(ref, set.Name, kind.GroupVersion().String(), kind.Kind)
		pods := names(ref, pod.name, "v1", "Pod")
		switch {
		case ours && ref.UID != set.UID, pods && ref.UID != pod.uid:
			return have, false, false // of a former set or pod: the garbage collector is about to take the claim
		case ours, pods:
			continue
		}
		want = append(want, ref)
		conflict = conflict || ptr.Deref(ref.Controller, false) && (whenDeleted || whenScaled)
	}
	switch {
	case conflict:
	case whenScaled && !pod.wanted:
		want = append(want, *owner.Reference(&metav1.ObjectMeta{Name: pod.name, UID: pod.uid}, podKind))
	case whenDeleted && pod.wanted, whenDeleted && !whenScaled:
		want = append(want, *owner.Reference(set, kind))
	}
	return want, !sameOwners(have, want), conflict
}

// retention tells whether claims go with the set, and with the pods that a scale-down takes.
func retention(set *appsv1.StatefulSet) (whenDeleted, whenScaled bool) {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil {
		return false, false
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return p.WhenDeleted == remove, p.WhenScaled == remove
}

func names(ref metav1.OwnerReference, name, version, kind string) bool {
	return ref.Name == name && ref.APIVersion == version && ref.Kind == kind
}

// sameOwners compares by UID and by who is the controller.
func sameOwners(a, b []metav1.OwnerReference) bool {
	of := func(refs []metav1.OwnerReference) map[types.UID]bool {
		m := map[types.UID]bool{}
		for _, ref := range refs {
			m[ref.UID] = ptr.Deref(ref.Controller, false)
		}
		return m
	}
	return len(a) == len(b) && maps.Equal(of(a), of(b))
}

// stale tells whether a claim still belongs to a pod of that name that a scale-down took: it goes with it, and must not be used again.
func stale(set *appsv1.StatefulSet, pod string, claim *corev1.PersistentVolumeClaim) bool {
	if _, whenScaled := retention(set); !whenScaled {
		return false
	}
	for _, ref := range claim.OwnerReferences {
		if names(ref, pod, "v1", "Pod") {
			return true
		}
	}
	return false
}
