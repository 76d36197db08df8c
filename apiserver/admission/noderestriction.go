package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/internal/volumes"
)

var pods = schema.GroupResource{Resource: "pods"}

// nodeRestriction looks into what a node's agent writes, where the authorizer sees only names: its own Node, Lease, CSINode and
// ResourceSlices, status of its own pods, tokens bound to its own pods, no label that would draw others' pods to it.
type nodeRestriction struct {
	reader     Reader
	authorizer authorizer.UnconditionalAuthorizer // may be nil
}

func (nodeRestriction) Name() string { return "NodeRestriction" }

func (p nodeRestriction) Mutate(ctx context.Context, r *Request) error {
	if r.User == nil {
		return nil
	}
	node, ok := auth.NodeName(r.User)
	if !ok {
		if slices.Contains(r.User.GetGroups(), user.NodesGroup) && !slices.Contains(r.User.GetGroups(), user.SystemPrivilegedGroup) {
			return r.forbid(fmt.Errorf("could not determine node from user %q", r.User.GetName()))
		}
		return nil
	}
	switch r.Resource.GroupResource() {
	case pods:
		return p.pod(ctx, node, r)
	case schema.GroupResource{Resource: "nodes"}:
		return p.node(node, r)
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		return p.claim(node, r)
	case schema.GroupResource{Resource: "persistentvolumes"}:
		return p.volume(node, r)
	case schema.GroupResource{Resource: "serviceaccounts"}:
		if r.Subresource == "token" {
			return p.token(ctx, node, r)
		}
	case schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}:
		return p.lease(node, r)
	case schema.GroupResource{Group: storagev1.GroupName, Resource: "csinodes"}:
		if r.objectName() != node {
			return r.forbid(errors.New("can only access CSINode with the same name as the requesting node"))
		}
	case schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}:
		return p.slice(node, r)
	}
	return nil
}

// Validate checks once more, for a plug-in after this one may have changed the object.
func (p nodeRestriction) Validate(ctx context.Context, r *Request) error { return p.Mutate(ctx, r) }

// objectName is the name in the URL or, on creation, in the object.
func (r *Request) objectName() string {
	if r.Operation == Create {
		if m, err := meta.Accessor(r.Object); err == nil {
			return m.GetName()
		}
	}
	return r.Name
}

func (p nodeRestriction) pod(ctx context.Context, node string, r *Request) error {
	switch {
	case r.Subresource == "" && r.Operation == Create:
		return p.mirrorPod(ctx, node, r)
	case r.Subresource == "" && r.Operation == Delete:
		return p.boundPod(ctx, r, node, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
	case r.Subresource == "":
		return r.forbid(fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", r.Operation, node))
	case r.Subresource == "status" && r.Operation == Update:
		return p.podStatus(node, r)
	case r.Subresource == "eviction" && r.Operation == Create:
		return p.boundPod(ctx, r, node, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
	case r.Subresource == "status" || r.Subresource == "eviction":
		return r.forbid(fmt.Errorf("unexpected operation %q", r.Operation))
	}
	return r.forbid(fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", r.Subresource))
}

// boundPod refuses what is done to a pod of another node.
func (p nodeRestriction) boundPod(ctx context.Context, r *Request, node string, refusal error) error {
	pod, err := get[*corev1.Pod](ctx, p.reader, pods, r.Namespace, r.Name)
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		return r.forbid(err)
	case pod.Spec.NodeName != node:
		return r.forbid(refusal)
	}
	return nil
}

// mirrorPod: a node may show what it runs on its own, which must not open anything of the API to it.
func (p nodeRestriction) mirrorPod(ctx context.Context, node string, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok {
		return r.forbid(fmt.Errorf("unexpected type %T", r.Object))
	}
	if !isMirror(pod) {
		return r.forbid(fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	}
	if pod.Spec.NodeName != node {
		return r.forbid(fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	if err := p.mirrorOwner(ctx, node, pod); err != nil {
		return r.forbid(err)
	}
	uses := func(what string) error {
		return r.forbid(fmt.Errorf("node %q can not create pods that reference %s", node, what))
	}
	any := func(string) bool { return true }
	switch {
	case pod.Spec.ServiceAccountName != "":
		return uses("a service account")
	case auth.AnySecret(pod, any):
		return uses("secrets")
	case auth.AnyConfigMap(pod, any):
		return uses("configmaps")
	case len(pod.Spec.ResourceClaims) > 0:
		return uses("resourceclaims")
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil {
			return uses("persistentvolumeclaims")
		}
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil }) {
			return uses("clustertrustbundles")
		}
	}
	return nil
}

func (p nodeRestriction) mirrorOwner(ctx context.Context, node string, pod *corev1.Pod) error {
	switch len(pod.OwnerReferences) {
	case 0:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case 1:
	default:
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	n, err := get[*corev1.Node](ctx, p.reader, schema.GroupResource{Resource: "nodes"}, "", node)
	if err != nil {
		return fmt.Errorf("error looking up node %s to verify uid: %w", node, err)
	}
	if owner.UID != n.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, n.UID)
	}
	return nil
}

func (p nodeRestriction) podStatus(node string, r *Request) error {
	old, ok := r.Old.(*corev1.Pod)
	pod, isPod := r.Object.(*corev1.Pod)
	if !ok || !isPod {
		return r.forbid(fmt.Errorf("unexpected type %T", r.Object))
	}
	if old.Spec.NodeName != node {
		return r.forbid(fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	}
	if !maps.Equal(old.Labels, pod.Labels) {
		return r.forbid(fmt.Errorf("node %q cannot update labels through pod status", node))
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return r.forbid(fmt.Errorf("node %q cannot update resource claim statues", node)) // upstream's spelling
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		return r.forbid(fmt.Errorf("node %q cannot update extended resource claim status", node))
	}
	return nil
}

// claim: a node reports how far the resizing of a volume has come, and nothing else.
func (p nodeRestriction) claim(node string, r *Request) error {
	if r.Subresource != "status" {
		return r.forbid(errors.New("may only update PVC status"))
	}
	old, ok := r.Old.(*corev1.PersistentVolumeClaim)
	claim, isClaim := r.Object.(*corev1.PersistentVolumeClaim)
	switch {
	case r.Operation != Update:
		return r.forbid(fmt.Errorf("unexpected operation %q", r.Operation))
	case !ok || !isClaim:
		return r.forbid(fmt.Errorf("unexpected type %T", r.Object))
	}
	bare := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		s := &c.Status
		s.Capacity, s.Conditions, s.AllocatedResourceStatuses, s.AllocatedResources = nil, nil, nil, nil
		return c
	}
	if was, is := bare(old), bare(claim); !apiequality.Semantic.DeepEqual(was, is) {
		return r.forbid(fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions: %v", node, diff.Diff(was, is)))
	}
	return nil
}

// volume: a node lets go of a volume whose data it has removed, and changes nothing else of it.
func (p nodeRestriction) volume(node string, r *Request) error {
	old, ok := r.Old.(*corev1.PersistentVolume)
	v, isVolume := r.Object.(*corev1.PersistentVolume)
	if r.Operation != Update || r.Subresource != "" || !ok || !isVolume || !volumes.Local(old, node) || !volumes.LocalLeaves(old) {
		return r.forbid(fmt.Errorf("node %q may only let go of its own local volumes, once nothing else holds them", node))
	}
	bare := func(v *corev1.PersistentVolume) *corev1.PersistentVolume {
		v = v.DeepCopy()
		v.ResourceVersion, v.ManagedFields, v.Finalizers = "", nil, nil
		return v
	}
	if len(v.Finalizers) > 0 || !apiequality.Semantic.DeepEqual(bare(old), bare(v)) {
		return r.forbid(fmt.Errorf("node %q may take its finalizer off a local volume and change nothing else", node))
	}
	return nil
}

func (p nodeRestriction) slice(node string, r *Request) error {
	obj := r.Object
	if r.Operation == Delete {
		obj = r.Old
	}
	s, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return nil // the authorizer has looked at the slice that there is
	}
	if name := s.Spec.NodeName; name != nil && *name == node {
		return nil
	}
	switch r.Operation {
	case Create:
		return r.forbid(errors.New("can only create ResourceSlice with the same NodeName as the requesting node"))
	case Delete:
		return r.forbid(errors.New("can only delete ResourceSlice with the same NodeName as the requesting node"))
	}
	return nil // the field is immutable
}

func (p nodeRestriction) node(node string, r *Request) error {
	requested := r.Name
	obj, _ := r.Object.(*corev1.Node)
	if requested == "" && obj != nil {
		requested = obj.Name
	}
	if requested != node {
		return r.forbid(fmt.Errorf("node %q is not allowed to modify node %q", node, requested))
	}
	switch {
	case obj == nil:
		return nil
	case r.Operation == Create:
		//lint:ignore SA1019 it is refused while it exists
		if obj.Spec.ConfigSource != nil {
			return r.forbid(fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node))
		}
		if bad := restrictedLabels(obj.Labels, nil); len(bad) > 0 {
			return r.forbid(fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", ")))
		}
		if len(obj.OwnerReferences) > 0 {
			return r.forbid(fmt.Errorf("node %q is not allowed to set ownerReferences", node))
		}
	case r.Operation == Update:
		if old, ok := r.Old.(*corev1.Node); ok {
			return p.nodeUpdate(node, r, obj, old)
		}
	}
	return nil
}

func (p nodeRestriction) nodeUpdate(node string, r *Request, obj, old *corev1.Node) error {
	//lint:ignore SA1019 it is refused while it exists
	if obj.Spec.ConfigSource != nil && !apiequality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource) {
		return r.forbid(fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node))
	}
	if !apiequality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints) {
		return r.forbid(fmt.Errorf("node %q is not allowed to modify taints", node))
	}
	if bad := restrictedLabels(obj.Labels, old.Labels); len(bad) > 0 {
		return r.forbid(fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", ")))
	}
	if !apiequality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences) {
		return r.forbid(fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
	}
	return nil
}

func (p nodeRestriction) lease(node string, r *Request) error {
	if r.Namespace != corev1.NamespaceNodeLease {
		return r.forbid(fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	}
	if r.objectName() != node {
		return r.forbid(errors.New("can only access node lease with the same name as the requesting node"))
	}
	return nil
}

func (p nodeRestriction) token(ctx context.Context, node string, r *Request) error {
	req, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok || r.Operation != Create {
		return r.forbid(fmt.Errorf("unexpected type %T", r.Object))
	}
	ref := req.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return r.forbid(errors.New("node requested token not bound to a pod"))
	}
	if ref.UID == "" {
		return r.forbid(errors.New("node requested token with a pod binding without a uid"))
	}
	pod, err := get[*corev1.Pod](ctx, p.reader, pods, r.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return r.forbid(err)
	}
	if ref.UID != pod.UID {
		return r.forbid(fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	if pod.Spec.NodeName != node {
		return r.forbid(errors.New("node requested token bound to a pod scheduled on a different node"))
	}
	return p.audience(ctx, node, r, pod, req.Spec.Audiences)
}

// audience: a node may ask for what the pod's volumes ask for, and what it was given leave to.
func (p nodeRestriction) audience(ctx context.Context, node string, r *Request, pod *corev1.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return r.forbid(fmt.Errorf("node %q may only request 0 or 1 audiences", node))
	}
	wanted := ""
	if len(audiences) == 1 {
		wanted = audiences[0]
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if projects(v, wanted) || p.driverAsks(ctx, p.driverOf(ctx, pod, v), wanted) {
			return nil
		}
	}
	if p.authorizer != nil {
		d, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: r.User, Verb: "request-serviceaccounts-token-audience", Namespace: r.Namespace, APIVersion: "v1",
			Resource: wanted, Name: r.Name, ResourceRequest: true,
		})
		if err == nil && d == authorizer.DecisionAllow {
			return nil
		}
	}
	return r.forbid(fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", wanted, r.User.GetName()))
}

func projects(v *corev1.Volume, audience string) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
	})
}

// driverOf is the CSI driver of a pod's volume; empty where there is none.
func (p nodeRestriction) driverOf(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) string {
	claim := ""
	switch {
	case v.CSI != nil:
		return v.CSI.Driver
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		claim = pod.Name + "-" + v.Name
	default:
		return ""
	}
	c, err := get[*corev1.PersistentVolumeClaim](ctx, p.reader, schema.GroupResource{Resource: "persistentvolumeclaims"}, pod.Namespace, claim)
	if err != nil || c.Spec.VolumeName == "" {
		return ""
	}
	volume, err := get[*corev1.PersistentVolume](ctx, p.reader, schema.GroupResource{Resource: "persistentvolumes"}, "", c.Spec.VolumeName)
	if err != nil || volume.Spec.CSI == nil {
		return ""
	}
	return volume.Spec.CSI.Driver
}

func (p nodeRestriction) driverAsks(ctx context.Context, driver, audience string) bool {
	if driver == "" {
		return false
	}
	d, err := get[*storagev1.CSIDriver](ctx, p.reader, schema.GroupResource{Group: storagev1.GroupName, Resource: "csidrivers"}, "", driver)
	return err == nil && slices.ContainsFunc(d.Spec.TokenRequests, func(r storagev1.TokenRequest) bool { return r.Audience == audience })
}

// ownLabels are the labels of the API's own domains that a node may set on itself.
var ownLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
	corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// restrictedLabels are the changed labels of kubernetes.io and k8s.io that say what pods may be put on a node, sorted.
func restrictedLabels(labels, old map[string]string) []string {
	var out []string
	check := func(key string) {
		domain, _, ok := strings.Cut(key, "/")
		if !ok || slices.Contains(ownLabels, key) || slices.Contains(out, key) {
			return
		}
		if within(domain, "kubelet.kubernetes.io") || within(domain, "node.kubernetes.io") {
			return
		}
		if within(domain, "kubernetes.io") || within(domain, "k8s.io") {
			out = append(out, key)
		}
	}
	for key, value := range labels {
		if was, had := old[key]; !had || was != value {
			check(key)
		}
	}
	for key := range old {
		if _, has := labels[key]; !has {
			check(key)
		}
	}
	slices.Sort(out)
	return out
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}
