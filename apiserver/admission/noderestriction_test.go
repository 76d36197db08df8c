package admission

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

func nodeWorld() objects {
	w := world()
	w["nodes"] = []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-1"}}}
	w["persistentvolumeclaims"] = []runtime.Object{&corev1.PersistentVolumeClaim{ObjectMeta: om("default", "data"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}}}
	w["persistentvolumes"] = []runtime.Object{&corev1.PersistentVolume{ObjectMeta: om("", "pv"), Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disks"}}}}}
	w["csidrivers"] = []runtime.Object{&storagev1.CSIDriver{ObjectMeta: om("", "disks"), Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}}}}}
	return w
}

func mirror(change func(*corev1.Pod)) *corev1.Pod {
	pod := simplePod("default")
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	pod.Spec.NodeName = "n1"
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-1", Controller: ptr.To(true)}}
	change(pod)
	return pod
}

func TestNodeMayNot(t *testing.T) {
	claims, slices := schema.GroupResource{Resource: "persistentvolumeclaims"}, schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
	csi, nodes := schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}, schema.GroupResource{Resource: "nodes"}
	create := func(change func(*corev1.Pod)) *Request {
		return nodeRequest(Create, pods, "", "default", "", mirror(change), nil)
	}
	slice := func(op Operation, node *string) *Request {
		s := &resourcev1.ResourceSlice{ObjectMeta: om("", "s"), Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
		if op == Delete {
			return nodeRequest(op, slices, "", "", "s", nil, s)
		}
		return nodeRequest(op, slices, "", "", "", s, nil)
	}
	claim := func(change func(*corev1.PersistentVolumeClaim)) *Request {
		old := &corev1.PersistentVolumeClaim{ObjectMeta: om("default", "data")}
		c := old.DeepCopy()
		change(c)
		return nodeRequest(Update, claims, "status", "default", "data", c, old)
	}
	volume := func(node string, held, change func(*corev1.PersistentVolume)) *Request {
		old := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", DeletionTimestamp: ptr.To(metav1.Now()), Finalizers: []string{"coracle.dev/local-volume"},
			Labels: map[string]string{"coracle.dev/local-volume-of": node}, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "coracle.dev/local"}},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/v"}}}}
		held(old)
		v := old.DeepCopy()
		v.Finalizers = nil
		change(v)
		return nodeRequest(Update, schema.GroupResource{Resource: "persistentvolumes"}, "", "", "v", v, old)
	}
	asIs := func(*corev1.PersistentVolume) {}
	owned := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", OwnerReferences: []metav1.OwnerReference{{Name: "x"}}}}
	cases := []struct {
		name, refusal string
		r             *Request
	}{
		{"mirror pod", "", create(func(*corev1.Pod) {})},
		{"ordinary pod", `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`, create(func(p *corev1.Pod) { p.Annotations = nil })},
		{"for another node", `node "n1" can only create pods with spec.nodeName set to itself`, create(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })},
		{"unowned", `node "n1" can only create pods with an owner reference set to itself`, create(func(p *corev1.Pod) { p.OwnerReferences = nil })},
		{"twice owned", "with a single owner reference set to itself", create(func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0]) })},
		{"not controlled", "with a controller owner reference set to itself", create(func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil })},
		{"blocking", "must not set blockOwnerDeletion", create(func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = ptr.To(true) })},
		{"another life", "node n1 UID mismatch: expected node-0 got node-1", create(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "node-0" })},
		{"with an account", "can not create pods that reference a service account", create(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" })},
		{"with a secret", "can not create pods that reference secrets", create(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}} })},
		{"with a config map", "can not create pods that reference configmaps", create(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{}}}
		})},
		{"with a claim", "can not create pods that reference persistentvolumeclaims", create(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}}
		})},
		{"own eviction", "", nodeRequest(Create, pods, "eviction", "default", "mine", &policyv1.Eviction{}, nil)},
		{"another's eviction", "node n1 can only evict pods with spec.nodeName set to itself", nodeRequest(Create, pods, "eviction", "default", "theirs", &policyv1.Eviction{}, nil)},
		{"eviction of none", `"absent" not found`, nodeRequest(Create, pods, "eviction", "default", "absent", &policyv1.Eviction{}, nil)},
		{"a pod's spec", `unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`, nodeRequest(Update, pods, "", "default", "mine", nil, nil)},
		{"a claim", "may only update PVC status", nodeRequest(Update, claims, "", "default", "data", nil, nil)},
		{"a claim's size", "", claim(func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity = corev1.ResourceList{"storage": resource.MustParse("1Gi")}
		})},
		{"a claim's phase", "is not allowed to update fields other than", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })},
		{"own local volume", "", volume("n1", asIs, asIs)},
		{"another's local volume", "may only let go of its own local volumes", volume("n2", asIs, asIs)},
		{"a volume that something else holds", "may only let go of its own local volumes", volume("n1", func(v *corev1.PersistentVolume) {
			v.Finalizers = append(v.Finalizers, "kubernetes.io/pv-protection")
		}, asIs)},
		{"a volume that stays", "may only let go of its own local volumes", volume("n1", func(v *corev1.PersistentVolume) { v.DeletionTimestamp = nil }, asIs)},
		{"a volume's path", "may take its finalizer off a local volume and change nothing else", volume("n1", asIs, func(v *corev1.PersistentVolume) { v.Spec.Local.Path = "/" })},
		{"a finalizer of its own", "may take its finalizer off a local volume and change nothing else", volume("n1", asIs, func(v *corev1.PersistentVolume) { v.Finalizers = []string{"x"} })},
		{"own slice", "", slice(Create, ptr.To("n1"))},
		{"another's slice", "can only create ResourceSlice with the same NodeName as the requesting node", slice(Create, ptr.To("n2"))},
		{"everybody's slice", "can only create ResourceSlice", slice(Create, nil)},
		{"deleting another's slice", "can only delete ResourceSlice with the same NodeName", slice(Delete, ptr.To("n2"))},
		{"own CSINode", "", nodeRequest(Create, csi, "", "", "", &storagev1.CSINode{ObjectMeta: om("", "n1")}, nil)},
		{"another's CSINode", "can only access CSINode with the same name as the requesting node", nodeRequest(Create, csi, "", "", "", &storagev1.CSINode{ObjectMeta: om("", "n2")}, nil)},
		{"its own owner", `node "n1" is not allowed to modify ownerReferences`, nodeRequest(Update, nodes, "", "", "n1", owned, &corev1.Node{ObjectMeta: om("", "n1")})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := nodeRestriction{reader: nodeWorld()}.Mutate(t.Context(), c.r)
			if c.refusal == "" && err != nil || c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNodeAsksForADriversToken(t *testing.T) {
	w := nodeWorld()
	pod := w["pods"][0].(*corev1.Pod)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
	ask := func(audience string) error {
		return nodeRestriction{reader: w}.Mutate(t.Context(), nodeRequest(Create, schema.GroupResource{Resource: "serviceaccounts"}, "token", "default", "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "mine", UID: "u1"}},
		}, nil))
	}
	if err := ask("vault"); err != nil {
		t.Error(err)
	}
	if err := ask("bank"); err == nil || !strings.Contains(err.Error(), `audience "bank" not found in pod spec volume`) {
		t.Error(err)
	}
}
