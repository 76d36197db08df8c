package auth

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The verbs that rules combine.
var (
	read   = []string{"get", "list", "watch"}
	write  = []string{"create", "update", "patch", "delete"}
	all    = []string{"*"}
	record = []string{"create", "patch", "update"}
)

// userRules are what a user may do by name.
var userRules = map[string][]rbacv1.PolicyRule{
	user.KubeScheduler: {
		on(read, "", "nodes", "pods", "namespaces", "services", "replicationcontrollers", "persistentvolumes", "persistentvolumeclaims"),
		on(read, "apps", "replicasets", "statefulsets"),
		on(read, "policy", "poddisruptionbudgets"),
		on(read, "scheduling.k8s.io", "priorityclasses"),
		on(read, "storage.k8s.io", "storageclasses", "csinodes", "csidrivers", "csistoragecapacities"),
		on([]string{"delete"}, "", "pods"),
		on([]string{"create"}, "", "pods/binding", "bindings"),
		on([]string{"update", "patch"}, "", "pods/status"),
		on(record, "", "events"),
		on(record, "events.k8s.io", "events"),
		on([]string{"create"}, "coordination.k8s.io", "leases"),
		named([]string{"get", "update", "patch"}, "coordination.k8s.io", "leases", "kube-scheduler"),
	},

	user.KubeControllerManager: {
		// Garbage collection and namespace deletion walk over every resource there is.
		on(read, "*", "*"),
		on([]string{"delete", "deletecollection", "patch", "update"}, "*", "*"),
		on(write, "", "pods", "endpoints", "serviceaccounts", "configmaps"),
		on([]string{"update"}, "", "namespaces/finalize", "namespaces/status", "nodes/status", "pods/status", "replicationcontrollers/status", "replicationcontrollers/scale"),
		on([]string{"create"}, "", "pods/eviction"),
		on(write, "apps", "replicasets", "controllerrevisions"),
		on([]string{"update", "patch"}, "apps", "deployments/status", "replicasets/status", "replicasets/scale", "deployments/scale"),
		on(write, "discovery.k8s.io", "endpointslices"),
		on(write, "coordination.k8s.io", "leases"),
		on(record, "", "events"),
		on(record, "events.k8s.io", "events"),
	},

	user.KubeProxy: {
		on(read, "", "nodes", "services", "endpoints", "namespaces"),
		on(read, "discovery.k8s.io", "endpointslices"),
		on(record, "", "events"),
		on(record, "events.k8s.io", "events"),
	},
}

// groupRules are what the members of a group may do. What a node may do beyond these depends on the pods that
// are bound to it: see nodes.go.
var groupRules = map[string][]rbacv1.PolicyRule{
	user.SystemPrivilegedGroup: {
		on(all, "*", "*"),
		at(all, "*"),
	},

	user.NodesGroup: {
		// Nodes route to each other's pods and serve DNS and Services, so they see what these take.
		on(read, "", "nodes", "services", "endpoints", "namespaces"),
		on(read, "discovery.k8s.io", "endpointslices"),
		on([]string{"create"}, "", "nodes"), // its own: NodeRestriction
		on(record, "", "events"),
		on(record, "events.k8s.io", "events"),
	},

	user.AllAuthenticated: {
		at([]string{"get"}, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"),
		at([]string{"get"}, health...),
		on([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
		on([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews"),
	},

	serviceaccount.AllServiceAccountsGroup: {
		at([]string{"get"}, OpenIDConfigurationPath, JWKSPath),
	},

	user.AllUnauthenticated: {
		at([]string{"get"}, health...),
	},
}

var health = []string{"/livez", "/livez/*", "/readyz", "/readyz/*", "/healthz", "/healthz/*", "/version", "/version/"}

// on allows verbs on resources ("pods", "pods/status") of an API group.
func on(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// named allows verbs on one object of a resource, in any namespace.
func named(verbs []string, group, resource, name string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: []string{name}}
}

// at allows verbs on paths that are no resources; a final * stands for any rest.
func at(verbs []string, paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: paths}
}
