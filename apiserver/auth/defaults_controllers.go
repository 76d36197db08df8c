package auth

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

const controllerPrefix = "system:controller:"

// addControllerRoles adds upstream's role of each controller, bound to the service account of kube-system that it runs as
// where it runs on its own.
func (d *Defaults) addControllerRoles() {
	for _, c := range controllerRules() {
		d.clusterRole(controllerPrefix+c.name, c.rules...)
		d.bind(controllerPrefix+c.name, account(c.name))
	}
}

type controller struct {
	name  string
	rules []rbacv1.PolicyRule
}

func controllerRules() []controller {
	var list []controller
	add := func(name string, rules ...rbacv1.PolicyRule) { list = append(list, controller{name, rules}) }
	addWorkloadControllers(add)
	addVolumeControllers(add)
	addClusterControllers(add)
	return list
}

// appsRules are what a controller of a workload does to it: "replicasets" is read, its status and finalizers are updated.
func appsRules(groups, resource, verbs string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbs, groups, resource),
		rule("update", groups, resource+"/status"),
		rule("update", groups, resource+"/finalizers"),
	}
}

func with(rules []rbacv1.PolicyRule, more ...rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return append(rules, append(more, events())...)
}

func addWorkloadControllers(add func(string, ...rbacv1.PolicyRule)) {
	podWrites := rule("create delete list patch watch", core, "pods")
	revisions := rule("create delete get list patch update watch", "apps", "controllerrevisions")
	const both = "apps extensions"
	add("cronjob-controller", with([]rbacv1.PolicyRule{
		rule("get list update watch", "batch", "cronjobs"),
		rule("create delete get list patch update watch", "batch", "jobs"),
		rule("update", "batch", "cronjobs/status"), rule("update", "batch", "cronjobs/finalizers"),
		rule("delete list watch", core, "pods")})...)
	add("daemon-set-controller", with(appsRules(both, "daemonsets", reads),
		rule("list watch", core, "nodes"), podWrites, rule("create", core, "pods/binding"), revisions)...)
	add("deployment-controller", with(appsRules(both, "deployments", "get list update watch"),
		rule("create delete get list patch update watch", both, "replicasets"), rule("get list update watch", core, "pods"))...)
	add("job-controller", with([]rbacv1.PolicyRule{
		rule("get list patch update watch", "batch", "jobs"), rule("update", "batch", "jobs/status"), rule("update", "batch", "jobs/finalizers"), podWrites})...)
	add("replicaset-controller", with(appsRules(both, "replicasets", "get list update watch"), podWrites)...)
	add("replication-controller", with(appsRules(core, "replicationcontrollers", "get list update watch"), podWrites)...)
	add("statefulset-controller", with([]rbacv1.PolicyRule{
		rule("list watch", core, "pods")}, append(appsRules("apps", "statefulsets", reads),
		rule("create delete get patch update", core, "pods"), revisions,
		rule("create get list watch", core, "persistentvolumeclaims"), rule("delete update", core, "persistentvolumeclaims"),
		rule("update", core, "pods/finalizers"))...)...)
	add("horizontal-pod-autoscaler", with([]rbacv1.PolicyRule{
		rule(reads, "autoscaling", "horizontalpodautoscalers"), rule("update", "autoscaling", "horizontalpodautoscalers/status"),
		rule("get update", "*", "*/scale"), rule("list watch", core, "pods"), rule("list watch", "metrics.k8s.io", "pods"),
		rule(reads, "custom.metrics.k8s.io", "*"), rule(reads, "external.metrics.k8s.io", "*")})...)
	add("disruption-controller", with([]rbacv1.PolicyRule{
		rule(reads, both, "deployments"), rule(reads, both, "replicasets"), rule(reads, core, "replicationcontrollers"),
		rule(reads, "policy", "poddisruptionbudgets"), rule(reads, "apps", "statefulsets"), rule("update", "policy", "poddisruptionbudgets/status"),
		rule("patch update", core, "pods/status"), rule("get", "*", "*/scale")})...)
	add("pod-garbage-collector", rule("delete list watch", core, "pods"), rule(reads, core, "nodes"), rule("patch", core, "pods/status"))
	add("ttl-after-finished-controller", with([]rbacv1.PolicyRule{rule("delete get list watch", "batch", "jobs")})...)
	add("resource-claim-controller", with([]rbacv1.PolicyRule{
		rule(reads, core, "pods"), rule("update", core, "pods/finalizers"),
		rule("create delete get list watch", resourceGroup, "resourceclaims"),
		rule("patch update", resourceGroup, "resourceclaims resourceclaims/status"), rule("patch update", core, "pods/status")},
		rule("patch update", resourceGroup, "resourceclaims/binding"))...)
	add("device-taint-eviction-controller", with([]rbacv1.PolicyRule{
		rule("delete get list watch", core, "pods"), rule("patch update", core, "pods/status"), rule(reads, resourceGroup, "resourceclaims"),
		rule(reads, resourceGroup, "resourceslices"), rule(reads, resourceGroup, "deviceclasses")})...)
}

func addVolumeControllers(add func(string, ...rbacv1.PolicyRule)) {
	claims, volumes := rule(reads, core, "persistentvolumeclaims"), rule(reads, core, "persistentvolumes")
	add("attachdetach-controller", with([]rbacv1.PolicyRule{
		rule("list watch", core, "persistentvolumeclaims persistentvolumes"), rule(reads, core, "nodes"), rule("patch update", core, "nodes/status"),
		rule("list watch", core, "pods"), rule("create delete get list watch", storageGroup, "volumeattachments"),
		rule(reads, storageGroup, "csidrivers"), rule(reads, storageGroup, "csinodes")})...)
	add("ephemeral-volume-controller", with([]rbacv1.PolicyRule{
		rule(reads, core, "pods"), rule("update", core, "pods/finalizers"), rule("create get list watch", core, "persistentvolumeclaims")})...)
	add("expand-controller", with([]rbacv1.PolicyRule{
		rule("get list patch update watch", core, "persistentvolumes"), rule("patch update", core, "persistentvolumeclaims/status"), claims})...)
	add("persistent-volume-binder", with([]rbacv1.PolicyRule{
		rule("create delete get list update watch", core, "persistentvolumes"), rule("update", core, "persistentvolumes/status"),
		rule("get list update watch", core, "persistentvolumeclaims"), rule("update", core, "persistentvolumeclaims/status"),
		rule("create delete get list watch", core, "pods"), rule(reads, storageGroup, "storageclasses"),
		rule("list watch", core, "nodes"), rule("watch", core, "events")})...)
	add("pv-protection-controller", with([]rbacv1.PolicyRule{rule("get list update watch", core, "persistentvolumes")})...)
	add("pvc-protection-controller", with([]rbacv1.PolicyRule{
		rule("get list update watch", core, "persistentvolumeclaims"), rule("update", core, "persistentvolumeclaims/status"), rule(reads, core, "pods")})...)
	add("selinux-warning-controller", with([]rbacv1.PolicyRule{volumes, claims, rule(reads, core, "pods"), rule(reads, storageGroup, "csidrivers")})...)
	add("volumeattributesclass-protection-controller", with([]rbacv1.PolicyRule{
		claims, volumes, rule("get list update watch", storageGroup, "volumeattributesclasses")})...)
}

func addClusterControllers(add func(string, ...rbacv1.PolicyRule)) {
	signers := func(verb, names string) rbacv1.PolicyRule {
		var full []string
		for _, name := range strings.Fields(names) {
			full = append(full, "kubernetes.io/"+name)
		}
		return rule(verb, certificatesGroup, "signers", full...)
	}
	slices := rule("create delete get list update watch", discoveryGroup, "endpointslices")
	add("certificate-controller", with([]rbacv1.PolicyRule{
		rule("delete get list watch", certificatesGroup, "certificatesigningrequests"),
		rule("update", certificatesGroup, "certificatesigningrequests/approval certificatesigningrequests/status"),
		signers("approve", "kube-apiserver-client-kubelet"),
		signers("sign", "kube-apiserver-client kube-apiserver-client-kubelet kubelet-serving legacy-unknown"),
		rule("create", authorizationGroup, "subjectaccessreviews")})...)
	add("clusterrole-aggregation-controller", rule("escalate get list patch update watch", rbacv1.GroupName, "clusterroles"))
	add("endpoint-controller", with([]rbacv1.PolicyRule{
		rule(reads, core, "pods services"), rule("create delete get list update watch", core, "endpoints"), rule("create", core, "endpoints/restricted")})...)
	add("endpointslice-controller", with([]rbacv1.PolicyRule{rule(reads, core, "nodes pods services"), rule("update", core, "services/finalizers"), slices})...)
	add("endpointslicemirroring-controller", with([]rbacv1.PolicyRule{
		rule(reads, core, "endpoints services"), rule("update", core, "services/finalizers"), rule("update", core, "endpoints/finalizers"), slices})...)
	add("generic-garbage-collector", with([]rbacv1.PolicyRule{rule("delete get list patch update watch", "*", "*")})...)
	add("legacy-service-account-token-cleaner",
		rule("get", core, "configmaps", "kube-apiserver-legacy-service-account-token-tracking"), rule("delete patch", core, "secrets"))
	add("namespace-controller",
		rule("delete get list watch", core, "namespaces"), rule("update", core, "namespaces/finalize namespaces/status"),
		rule("delete deletecollection get list watch", "*", "*"))
	add("node-controller", with([]rbacv1.PolicyRule{
		rule("delete get list patch update watch", core, "nodes"), rule("patch update", core, "nodes/status"),
		rule("patch update", core, "pods/status"), rule("delete get list watch", core, "pods")})...)
	add("resourcequota-controller", with([]rbacv1.PolicyRule{rule("list watch", "*", "*"), rule("update", core, "resourcequotas/status")})...)
	add("root-ca-cert-publisher", with([]rbacv1.PolicyRule{rule("create update", core, "configmaps")})...)
	add("route-controller", with([]rbacv1.PolicyRule{rule("list watch", core, "nodes"), rule("patch", core, "nodes/status")})...)
	add("service-account-controller", with([]rbacv1.PolicyRule{rule("create", core, "serviceaccounts")})...)
	add("service-cidrs-controller", with([]rbacv1.PolicyRule{
		rule("get list patch update watch", "networking.k8s.io", "servicecidrs"), rule("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
		rule("patch update", "networking.k8s.io", "servicecidrs/status"), rule(reads, "networking.k8s.io", "ipaddresses")})...)
	add("service-controller", with([]rbacv1.PolicyRule{
		rule(reads, core, "services"), rule("patch update", core, "services/status"), rule("list watch", core, "nodes")})...)
	add("ttl-controller", with([]rbacv1.PolicyRule{rule("list patch update watch", core, "nodes")})...)
	add("validatingadmissionpolicy-status-controller", with([]rbacv1.PolicyRule{
		rule(reads, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
		rule("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status")})...)
}
