package auth

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Defaults are the roles and bindings that every cluster has: upstream's, by upstream's names, and those with the
// prefix system:coracle: for what our own components do beyond upstream's of their kind.
type Defaults struct {
	ClusterRoles        []rbacv1.ClusterRole
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	Roles               []rbacv1.Role
	RoleBindings        []rbacv1.RoleBinding
}

// NewDefaults makes them. The result is private to the caller.
func NewDefaults() Defaults {
	var d Defaults
	d.addUserRoles()
	d.addSystemRoles()
	d.addNodeRoles()
	d.addControllerRoles()
	d.addNamespaceRoles()
	d.addJoinRoles()
	d.addOwnRoles()
	return d
}

// Parts of rules that many share, as rule takes them.
const (
	reads      = "get list watch"
	writes     = "create update patch delete deletecollection"
	readWrites = reads + " " + writes
	core       = "core"
)

// rule makes a rule of lists that are divided by spaces; the group "core" is the empty one.
func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{Verbs: sorted(verbs), APIGroups: sorted(groups), Resources: sorted(resources), ResourceNames: names}
	for i, g := range r.APIGroups {
		if g == core {
			r.APIGroups[i] = ""
		}
	}
	slices.Sort(r.APIGroups)
	return r
}

// paths makes a rule about reading paths that are no resources.
func paths(list string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: sorted(list)}
}

func sorted(list string) []string {
	out := strings.Fields(list)
	slices.Sort(out)
	return out
}

// events is leave to report what happened.
func events() rbacv1.PolicyRule { return rule("create update patch", "core events.k8s.io", "events") }

func defaultMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (d *Defaults) clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	d.ClusterRoles = append(d.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: defaultMeta("", name), Rules: rules})
	return &d.ClusterRoles[len(d.ClusterRoles)-1]
}

// bind gives a cluster role to subjects everywhere, by a binding of the role's name.
func (d *Defaults) bind(role string, subjects ...rbacv1.Subject) { d.bindAs(role, role, subjects...) }

// bindAs is bind by a binding of another name.
func (d *Defaults) bindAs(name, role string, subjects ...rbacv1.Subject) {
	d.ClusterRoleBindings = append(d.ClusterRoleBindings, rbacv1.ClusterRoleBinding{
		ObjectMeta: defaultMeta("", name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	})
}

func (d *Defaults) role(namespace, name string, rules ...rbacv1.PolicyRule) {
	d.Roles = append(d.Roles, rbacv1.Role{ObjectMeta: defaultMeta(namespace, name), Rules: rules})
}

// bindIn gives a namespace's role to subjects.
func (d *Defaults) bindIn(namespace, name, role string, subjects ...rbacv1.Subject) {
	d.RoleBindings = append(d.RoleBindings, rbacv1.RoleBinding{
		ObjectMeta: defaultMeta(namespace, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
	})
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func named(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

// account is a service account of kube-system.
func account(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}
}

// addUserRoles adds what is for people, and what everybody may.
func (d *Defaults) addUserRoles() {
	d.clusterRole("cluster-admin", rule("*", "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	d.bind("cluster-admin", group(user.SystemPrivilegedGroup))
	const information = "/livez /readyz /healthz /version /version/"
	d.clusterRole("system:discovery", paths(information+" /openapi /openapi/* /api /api/* /apis /apis/*"))
	d.bind("system:discovery", group(user.AllAuthenticated))
	d.clusterRole("system:public-info-viewer", paths(information))
	d.bind("system:public-info-viewer", group(user.AllAuthenticated), group(user.AllUnauthenticated))
	d.clusterRole("system:basic-user",
		rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
		rule("create", "authentication.k8s.io", "selfsubjectreviews"))
	d.bind("system:basic-user", group(user.AllAuthenticated))
	d.clusterRole("system:monitoring", paths("/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/*"))
	d.bind("system:monitoring", group(user.MonitoringGroup))
	d.clusterRole("system:service-account-issuer-discovery",
		paths("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/"))
	d.bind("system:service-account-issuer-discovery", group(serviceaccount.AllServiceAccountsGroup))

	d.aggregate("admin", "")
	d.aggregate("edit", "admin")
	d.aggregate("view", "edit")
	d.clusterRole("system:aggregate-to-admin", adminRules()...).Labels[aggregateTo+"admin"] = "true"
	d.clusterRole("system:aggregate-to-edit", editRules()...).Labels[aggregateTo+"edit"] = "true"
	d.clusterRole("system:aggregate-to-view", viewRules()...).Labels[aggregateTo+"view"] = "true"
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// aggregate adds a role that is made of those labelled for it, and is part of another itself.
func (d *Defaults) aggregate(name, partOf string) {
	r := d.clusterRole(name)
	if partOf != "" {
		r.Labels[aggregateTo+partOf] = "true"
	}
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + name: "true"}}}}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(readWrites, rbacv1.GroupName, "roles rolebindings"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(reads, core, "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
		rule("impersonate", core, "serviceaccounts"),
		rule(writes, core, "pods pods/attach pods/proxy pods/exec pods/portforward"),
		rule("create", core, "pods/eviction"),
		rule(writes, core, "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets events"),
		rule("create", core, "serviceaccounts/token"),
		rule(writes, "apps", "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale"),
		rule(writes, "autoscaling", "horizontalpodautoscalers"),
		rule(writes, "batch", "jobs cronjobs"),
		rule(writes, "extensions", "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies"),
		rule(writes, "policy", "poddisruptionbudgets"),
		rule(writes, "networking.k8s.io", "networkpolicies ingresses"),
		rule(readWrites, "coordination.k8s.io", "leases"),
		rule(writes, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(reads, core, "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps"),
		rule(reads, core, "limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log"),
		rule(reads, core, "namespaces"),
		rule(reads, "discovery.k8s.io", "endpointslices"),
		rule(reads, "apps", "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status "+
			"deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale"),
		rule(reads, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		rule(reads, "batch", "jobs cronjobs cronjobs/status jobs/status"),
		rule(reads, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status "+
			"replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies"),
		rule(reads, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		rule(reads, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
		rule(reads, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
	}
}
