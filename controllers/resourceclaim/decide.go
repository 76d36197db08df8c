package resourceclaim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// claimAnnotation says for which of the pod's claims one was generated.
const claimAnnotation = "resource.kubernetes.io/pod-claim-name"

// done tells whether a pod needs its claims no more: it has ended, or will never run.
func done(pod *corev1.Pod) bool {
	return pods.Terminal(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// claimNames are the claims that a pod is known to use: those it names, those generated for it, and the one that the scheduler made for
// its extended resources.
func claimNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.ResourceClaims {
		if name := claimName(pod, &pod.Spec.ResourceClaims[i]); name != "" {
			names = append(names, name)
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		names = append(names, s.ResourceClaimName)
	}
	return names
}

// claimName is the claim that stands for one of a pod; empty where none is needed, or generated yet.
func claimName(pod *corev1.Pod, c *corev1.PodResourceClaim) string {
	if c.ResourceClaimName != nil {
		return *c.ResourceClaimName
	}
	name, _ := generated(pod, c)
	return name
}

// generated tells of a claim by a template whether it was dealt with, and what it is called; empty where none was needed.
func generated(pod *corev1.Pod, c *corev1.PodResourceClaim) (name string, known bool) {
	for _, s := range pod.Status.ResourceClaimStatuses {
		if s.Name == c.Name {
			return ptr.Deref(s.ResourceClaimName, ""), true
		}
	}
	return "", false
}

// claimFor is the claim that a template makes for a pod. Its name, of the pod's, its claim's and five letters, follows from the pod's
// UID: a creation of which the answer was lost is met again. Another attempt gives other letters.
func claimFor(pod *corev1.Pod, podClaim string, template *resourcev1.ResourceClaimTemplate, attempt int) *resourcev1.ResourceClaim {
	annotations := maps.Clone(template.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[claimAnnotation] = podClaim
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: baseName(pod.Name, podClaim) + letters(pod.UID, podClaim, attempt),
			Labels: maps.Clone(template.Spec.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: *template.Spec.Spec.DeepCopy(),
	}
}

// baseName leaves room for five letters in 63. Names that are too long are both cut, each by its share.
func baseName(pod, claim string) string {
	const longest = 58
	length := len(pod) + len(claim) + 2
	if length > longest {
		keep := longest - 2
		part := len(pod) * keep / (len(pod) + len(claim))
		pod, claim = strings.TrimRight(pod[:part], ".-"), strings.TrimRight(claim[:min(len(claim), keep-part)], ".-")
	}
	return pod + "-" + claim + "-"
}

func letters(uid types.UID, podClaim string, attempt int) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%d", uid, podClaim, attempt)
	return rand.SafeEncodeString(fmt.Sprintf("%05d", h.Sum64()%100000))
}

// plan is what is to be done about a claim.
type plan struct {
	// reserved is who may use it from now on, if that changes.
	reserved []resourcev1.ResourceClaimConsumerReference
	release  bool // write reserved
	// deallocate gives the devices back; unprotect takes off the finalizer that holds the claim while devices are allocated.
	deallocate, unprotect bool
	// remove deletes a claim that was generated for a pod that needs it no more.
	remove bool
}

// standing says what is known of a pod that uses a claim, or owns it.
type standing int

const (
	needs   standing = iota // it runs, or may
	unknown                 // not known
	over                    // it has gone, was replaced, or has ended
)

// decide says what to do about a claim; of tells of pods by name and UID. It is pure.
func decide(claim *resourcev1.ResourceClaim, of func(name string, uid types.UID) standing) plan {
	var p plan
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" && of(r.Name, r.UID) == over {
			p.release = true
			continue
		}
		p.reserved = append(p.reserved, r)
	}
	if len(p.reserved) > 0 {
		return p
	}
	// Somebody else may allocate without reserving: only the last user's end, or the deletion, gives the devices back.
	if protected := slices.Contains(claim.Finalizers, resourcev1.Finalizer); protected && (p.release || claim.DeletionTimestamp != nil) {
		p.deallocate, p.unprotect = claim.Status.Allocation != nil, true
	}
	owner := metav1.GetControllerOfNoCopy(claim)
	p.remove = claim.DeletionTimestamp == nil && owner != nil && owner.APIVersion == "v1" && owner.Kind == "Pod" && of(owner.Name, owner.UID) == over
	return p
}
