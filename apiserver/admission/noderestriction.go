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
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/coracle-dev/coracle/apiserver/auth"
)

var pods = schema.GroupResource{Resource: "pods"}

// nodeRestriction looks into what a node's agent writes, where the authorizer sees only names: its own Node and Lease, status
// of its own pods, tokens bound to its own pods, no label that would draw other's pods to it.
type nodeRestriction struct{ reader Reader }

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
	switch {
	case r.Resource.GroupResource() == pods:
		return p.pod(ctx, node, r)
	case r.Resource.Group == "" && r.Resource.Resource == "nodes":
		return p.node(node, r)
	case r.is("", "serviceaccounts", "token"):
		return p.token(ctx, node, r)
	case r.is(coordinationv1.GroupName, "leases", ""):
		return p.lease(node, r)
	}
	return nil
}

// Validate checks once more, for a plug-in after this one may have changed the object.
func (p nodeRestriction) Validate(ctx context.Context, r *Request) error { return p.Mutate(ctx, r) }

func (p nodeRestriction) pod(ctx context.Context, node string, r *Request) error {
	switch {
	case r.Subresource == "" && r.Operation == Create:
		return r.forbid(fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	case r.Subresource == "" && r.Operation == Delete:
		pod, err := get[*corev1.Pod](ctx, p.reader, pods, r.Namespace, r.Name)
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return r.forbid(err)
		}
		if pod.Spec.NodeName != node {
			return r.forbid(fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
		return nil
	case r.Subresource == "status" && r.Operation == Update:
		return p.podStatus(node, r)
	}
	return r.forbid(fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", r.Operation, node))
}

func (p nodeRestriction) podStatus(node string, r *Request) error {
	old, ok := r.Old.(*corev1.Pod)
	pod, isPod := r.Object.(*corev1.Pod)
	if !ok || !isPod {
		return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", r.Object))
	}
	if old.Spec.NodeName != node {
		return r.forbid(fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	}
	if !maps.Equal(old.Labels, pod.Labels) {
		return r.forbid(fmt.Errorf("node %q cannot update labels through pod status", node))
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return r.forbid(fmt.Errorf("node %q cannot update resource claim statuses", node))
	}
	return nil
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
		if bad := restrictedLabels(obj.Labels, nil); len(bad) > 0 {
			return r.forbid(fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", ")))
		}
		if len(obj.OwnerReferences) > 0 {
			return r.forbid(fmt.Errorf("node %q is not allowed to set ownerReferences", node))
		}
	case r.Operation == Update:
		old, ok := r.Old.(*corev1.Node)
		if !ok {
			return nil
		}
		if bad := restrictedLabels(obj.Labels, old.Labels); len(bad) > 0 {
			return r.forbid(fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", ")))
		}
		if !apiequality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints) {
			return r.forbid(fmt.Errorf("node %q is not allowed to modify taints", node))
		}
		if !apiequality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences) {
			return r.forbid(fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
		}
	}
	return nil
}

func (p nodeRestriction) lease(node string, r *Request) error {
	if r.Namespace != corev1.NamespaceNodeLease {
		return r.forbid(fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	}
	name := r.Name
	if lease, ok := r.Object.(*coordinationv1.Lease); ok && r.Operation == Create {
		name = lease.Name
	}
	if name != node {
		return r.forbid(errors.New("can only access node lease with the same name as the requesting node"))
	}
	return nil
}

func (p nodeRestriction) token(ctx context.Context, node string, r *Request) error {
	req, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok || r.Operation != Create {
		return apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", r.Object))
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
	return r.audienceRefusal(node, pod, req.Spec.Audiences)
}

// audienceRefusal: a node may ask for what the pod's volumes ask for, and no other audience.
func (r *Request) audienceRefusal(node string, pod *corev1.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return r.forbid(fmt.Errorf("node %q may only request 0 or 1 audiences", node))
	}
	wanted := ""
	if len(audiences) == 1 {
		wanted = audiences[0]
	}
	for i := range pod.Spec.Volumes {
		proj := pod.Spec.Volumes[i].Projected
		if proj == nil {
			continue
		}
		for j := range proj.Sources {
			if t := proj.Sources[j].ServiceAccountToken; t != nil && t.Audience == wanted {
				return nil
			}
		}
	}
	return r.forbid(fmt.Errorf("audience %q not found in pod spec volume", wanted))
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
