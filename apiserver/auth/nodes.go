package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/internal/ingress"
	"github.com/coracle-dev/coracle/internal/volumes"
)

const nodeUserPrefix = "system:node:"

// NodeName returns the node that a user is the agent of.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	if !ok || name == "" || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return name, true
}

// nodeRules decide what a node's agent may do because of what it is and which pods are bound to it. What the path does not
// show, such as the name of an object that is being created, is for the NodeRestriction admission plug-in.
type nodeRules struct {
	pods   podIndex
	reader Reader
}

// decision is what a rule says: allowed, or why not.
type decision struct {
	allowed bool
	reason  string
}

var allow = decision{allowed: true}

func refuse(format string, args ...any) decision {
	if len(args) == 0 {
		return decision{reason: format}
	}
	return decision{reason: fmt.Sprintf(format, args...)}
}

func allowIf(ok bool) decision { return decision{allowed: ok} }

func (n nodeRules) authorize(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !a.IsResourceRequest() {
		return authorizer.DecisionNoOpinion, "", nil
	}
	d, err := n.decide(ctx, node, a)
	if err != nil || !d.allowed {
		return authorizer.DecisionNoOpinion, d.reason, err
	}
	return authorizer.DecisionAllow, "", nil
}

func (n nodeRules) decide(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	switch (schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}) {
	case schema.GroupResource{Resource: "nodes"}:
		return n.node(node, a), nil
	case schema.GroupResource{Resource: "pods"}:
		return n.pod(ctx, node, a)
	case schema.GroupResource{Resource: "secrets"}, schema.GroupResource{Resource: "configmaps"}:
		return n.read(ctx, node, a)
	case schema.GroupResource{Resource: "serviceaccounts"}:
		return n.account(ctx, node, a)
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		if a.GetSubresource() == "status" {
			return n.claimStatus(ctx, node, a)
		}
		return n.get(ctx, node, a)
	case schema.GroupResource{Resource: "persistentvolumes"}:
		return n.volume(ctx, node, a)
	case schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"},
		schema.GroupResource{Group: storagev1.GroupName, Resource: "volumeattachments"}:
		return n.get(ctx, node, a)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		return n.lease(node, a), nil
	case schema.GroupResource{Group: storagev1.GroupName, Resource: "csinodes"}:
		return n.csiNode(node, a), nil
	case schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}:
		return n.slice(ctx, node, a)
	}
	return allowIf(slices.ContainsFunc(uniformRules, func(r nodeRule) bool { return r.allows(a) })), nil
}

// nodeRule is what all nodes may do alike, beside what is decided above.
type nodeRule struct {
	group, resource string
	verbs           []string
}

func (r nodeRule) allows(a authorizer.Attributes) bool {
	return a.GetSubresource() == "" && r.group == a.GetAPIGroup() && r.resource == a.GetResource() && slices.Contains(r.verbs, a.GetVerb())
}

var uniformRules = []nodeRule{
	{authenticationGroup, "tokenreviews", []string{"create"}},
	{authorizationGroup, "subjectaccessreviews", []string{"create"}},
	{authorizationGroup, "localsubjectaccessreviews", []string{"create"}},
	{"", "services", []string{"get", "list", "watch"}},
	{"", "events", []string{"create", "update", "patch"}},
	{"", "endpoints", []string{"get"}},
	{certificatesGroup, "certificatesigningrequests", []string{"create", "get", "list", "watch"}},
	{storageGroup, "csidrivers", []string{"get", "list", "watch"}},
	{"node.k8s.io", "runtimeclasses", []string{"get", "list", "watch"}},
}

// node: which Node is written is NodeRestriction's to check.
func (n nodeRules) node(node string, a authorizer.Attributes) decision {
	verb := a.GetVerb()
	switch a.GetSubresource() {
	case "":
		switch verb {
		case "create", "update", "patch":
			return allow
		case "get", "list", "watch":
			switch objectName(a) {
			case node:
				return allow
			case "":
				return refuse("node '%s' cannot read all nodes, only its own Node object", node)
			}
			return refuse("node '%s' cannot read '%s', only its own Node object", node, a.GetName())
		}
	case "status":
		return allowIf(oneOf(verb, "update", "patch"))
	}
	return decision{}
}

func (n nodeRules) lease(node string, a authorizer.Attributes) decision {
	verb := a.GetVerb()
	switch {
	case !oneOf(verb, "get", "create", "update", "patch", "delete"):
		return refuse("can only get, create, update, patch, or delete a node lease")
	case a.GetNamespace() != corev1.NamespaceNodeLease:
		return refuse("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case verb != "create" && a.GetName() != node:
		return refuse("can only access node lease with the same name as the requesting node")
	}
	return allow
}

func (n nodeRules) csiNode(node string, a authorizer.Attributes) decision {
	verb := a.GetVerb()
	switch {
	case !oneOf(verb, "get", "create", "update", "patch", "delete"):
		return refuse("can only get, create, update, patch, or delete a CSINode")
	case a.GetSubresource() != "":
		return refuse("cannot authorize CSINode subresources")
	case verb != "create" && a.GetName() != node:
		return refuse("can only access CSINode with the same name as the requesting node")
	}
	return allow
}

func (n nodeRules) slice(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	if a.GetSubresource() != "" {
		return refuse("cannot authorize ResourceSlice subresources"), nil
	}
	switch a.GetVerb() {
	case "create":
		return allow, nil
	case "get", "update", "patch", "delete":
		return n.related(ctx, node, a)
	case "watch", "list", "deletecollection":
		if selectedField(a, "spec.nodeName") == node || selectedField(a, "nodeName") == node {
			return allow, nil
		}
		return refuse("can only list/watch/deletecollection resourceslices with nodeName field selector"), nil
	}
	return refuse("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"), nil
}

// pod: which pod is written is NodeRestriction's to check.
func (n nodeRules) pod(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	verb := a.GetVerb()
	switch a.GetSubresource() {
	case "":
		switch verb {
		case "get":
			return n.related(ctx, node, a)
		case "list", "watch":
			if selectedField(a, "spec.nodeName") == node {
				return allow, nil
			}
			if objectName(a) != "" {
				return n.related(ctx, node, a)
			}
			return refuse("can only list/watch pods with spec.nodeName field selector"), nil
		case "create", "delete":
			return allow, nil
		}
	case "status":
		return allowIf(oneOf(verb, "update", "patch")), nil
	case "eviction":
		return allowIf(verb == "create"), nil
	}
	return decision{}, nil
}

// read allows to read a single object that a pod on the node refers to.
func (n nodeRules) read(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	switch {
	case !oneOf(a.GetVerb(), "get", "list", "watch"):
		return refuse("can only read resources of this type"), nil
	case a.GetSubresource() != "":
		return refuse("cannot read subresource"), nil
	case a.GetNamespace() == "":
		return refuse("can only read namespaced object of this type"), nil
	}
	d, err := n.related(ctx, node, a)
	if err != nil || d.allowed || a.GetResource() != "secrets" {
		return d, err
	}
	if served, err := n.ingressSecret(ctx, a); err != nil || served {
		return decision{allowed: served}, err
	}
	return d, nil
}

// ingressSecret: beyond upstream, every node may follow the certificates of Ingresses that it serves. It has to ask for Secrets of that type
// alone: whoever may write an Ingress could otherwise show nodes any Secret of the namespace.
func (n nodeRules) ingressSecret(ctx context.Context, a authorizer.Attributes) (bool, error) {
	name := objectName(a)
	if name == "" || !oneOf(a.GetVerb(), "list", "watch") || selectedField(a, "type") != string(corev1.SecretTypeTLS) {
		return false, nil
	}
	all, _, err := n.reader.List(ctx, schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingresses"}, a.GetNamespace())
	if err != nil {
		return false, err
	}
	served := func(class string) bool {
		obj, err := n.reader.Get(ctx, schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingressclasses"}, "", class)
		c, ok := obj.(*networkingv1.IngressClass)
		return err == nil && ok && c.Spec.Controller == ingress.Controller
	}
	return slices.ContainsFunc(all, func(obj runtime.Object) bool {
		i, ok := obj.(*networkingv1.Ingress)
		return ok && ingress.NamesSecret(i, name) && ingress.Ours(i, served)
	}), nil
}

func (n nodeRules) get(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	switch {
	case a.GetVerb() != "get":
		return refuse("can only get individual resources of this type"), nil
	case a.GetSubresource() != "":
		return refuse("cannot get subresource"), nil
	}
	return n.related(ctx, node, a)
}

// volume: beyond upstream, a node may follow the volumes that were provisioned on it, and let them go once it has removed their data. What it
// writes is NodeRestriction's to check.
func (n nodeRules) volume(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	switch a.GetVerb() {
	case "list", "watch":
		if a.GetSubresource() == "" && selectedLabel(a, volumes.LocalNode) == volumes.NodeLabel(node) {
			return allow, nil
		}
	case "patch":
		if a.GetSubresource() == "" {
			v, err := find[*corev1.PersistentVolume](ctx, n.reader, "persistentvolumes", "", a.GetName())
			return allowIf(err == nil && volumes.Local(v, node)), ignoreMissing(err)
		}
	}
	return n.get(ctx, node, a)
}

func (n nodeRules) claimStatus(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	if !oneOf(a.GetVerb(), "update", "patch") {
		return refuse("can only get/update/patch this type"), nil
	}
	return n.related(ctx, node, a)
}

// account allows to ask for tokens of the accounts that the node's pods run as and, beyond upstream, to read these accounts:
// the agent takes the image pull secrets from them.
func (n nodeRules) account(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	if a.GetSubresource() == "" && oneOf(a.GetVerb(), "get", "list", "watch") {
		return n.read(ctx, node, a)
	}
	switch {
	case a.GetVerb() != "create" || a.GetName() == "":
		return refuse("can only create tokens for individual service accounts"), nil
	case a.GetSubresource() != "token":
		return refuse("can only create token subresource of serviceaccount"), nil
	}
	return n.related(ctx, node, a)
}

// related allows what concerns an object that leads to the node.
func (n nodeRules) related(ctx context.Context, node string, a authorizer.Attributes) (decision, error) {
	name := objectName(a)
	if name == "" {
		return refuse("No Object name found"), nil
	}
	known, err := n.pods.leadsTo(ctx, reference{node, a.GetNamespace(), a.GetResource(), name})
	if err != nil || known {
		return decision{allowed: known}, err
	}
	return refuse("no relationship found between node '%s' and this object", node), nil
}

func oneOf(s string, of ...string) bool { return slices.Contains(of, s) }
