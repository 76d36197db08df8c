package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
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

// nodeRules decide what a node's agent may do because of what it is and which pods are bound to it.
type nodeRules struct{ pods podIndex }

const nodeLeases = "kube-node-lease"

func (n nodeRules) authorize(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !a.IsResourceRequest() {
		return authorizer.DecisionNoOpinion, "", nil
	}
	switch a.GetAPIGroup() + "/" + a.GetResource() {
	case "/nodes":
		return n.node(node, a)
	case "coordination.k8s.io/leases":
		return n.lease(node, a)
	case "/pods":
		return n.pod(ctx, node, a)
	case "/secrets":
		return n.referenced(ctx, node, a, refersToSecret)
	case "/configmaps":
		return n.referenced(ctx, node, a, refersToConfigMap)
	case "/serviceaccounts":
		return n.referenced(ctx, node, a, refersToServiceAccount)
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// node: reading is in rules.go; writing is for its own object only.
func (n nodeRules) node(node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	sub := a.GetSubresource()
	if a.GetName() != node {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("node '%s' cannot write '%s', only its own Node object", node, a.GetName()), nil
	}
	if oneOf(a.GetVerb(), "update", "patch") && (sub == "" || sub == "status") {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (n nodeRules) lease(node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" || a.GetNamespace() != nodeLeases {
		return authorizer.DecisionNoOpinion, "can only access leases in the \"" + nodeLeases + "\" system namespace", nil
	}
	switch a.GetVerb() {
	case "create": // the name is in the body: NodeRestriction
		return authorizer.DecisionAllow, "", nil
	case "get", "update", "patch", "delete":
		if a.GetName() == node {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "can only access node lease with the same name as the requesting node", nil
}

func (n nodeRules) pod(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	verb := a.GetVerb()
	switch {
	case a.GetSubresource() == "" && oneOf(verb, "list", "watch") && a.GetName() == "":
		if selectedField(a, "spec.nodeName") == node {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "can only list/watch pods with spec.nodeName field selector", nil
	case a.GetSubresource() == "" && oneOf(verb, "get", "list", "watch", "delete"),
		a.GetSubresource() == "status" && oneOf(verb, "get", "update", "patch"):
		bound, err := n.pods.onNode(ctx, node, a.GetNamespace(), a.GetName())
		if err != nil {
			return authorizer.DecisionNoOpinion, "", err
		}
		if bound {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, noRelationship(node), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// referenced allows to read an object that a pod on the node refers to, and to ask for tokens of its service account.
func (n nodeRules) referenced(ctx context.Context, node string, a authorizer.Attributes, refers func(*corev1.Pod, string) bool) (authorizer.Decision, string, error) {
	reads := a.GetSubresource() == "" && oneOf(a.GetVerb(), "get", "list", "watch")
	token := a.GetResource() == "serviceaccounts" && a.GetSubresource() == "token" && a.GetVerb() == "create"
	if !reads && !token {
		return authorizer.DecisionNoOpinion, "can only read resources of this type", nil
	}
	name := objectName(a)
	if name == "" || a.GetNamespace() == "" {
		return authorizer.DecisionNoOpinion, "No Object name found", nil
	}
	known, err := n.pods.refers(ctx, reference{node, a.GetNamespace(), a.GetResource(), name}, refers)
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	if known {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, noRelationship(node), nil
}

func noRelationship(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

func oneOf(s string, of ...string) bool { return slices.Contains(of, s) }
