package auth

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The API groups whose names are long.
const (
	authenticationGroup = "authentication.k8s.io"
	authorizationGroup  = "authorization.k8s.io"
	certificatesGroup   = "certificates.k8s.io"
	coordinationGroup   = "coordination.k8s.io"
	discoveryGroup      = "discovery.k8s.io"
	networkingGroup     = "networking.k8s.io"
	resourceGroup       = "resource.k8s.io"
	storageGroup        = "storage.k8s.io"
)

// addSystemRoles adds those of components and add-ons.
func (d *Defaults) addSystemRoles() {
	d.clusterRole("system:auth-delegator",
		rule("create", authenticationGroup, "tokenreviews"),
		rule("create", authorizationGroup, "subjectaccessreviews"))
	d.clusterRole("system:kube-aggregator", rule(reads, core, "services endpoints"))
	usage := d.clusterRole("system:aggregated-metrics-reader", rule(reads, "metrics.k8s.io", "pods nodes"))
	for _, name := range []string{"view", "edit", "admin"} {
		usage.Labels[aggregateTo+name] = "true"
	}
	d.clusterRole("system:heapster", rule(reads, core, "events pods nodes namespaces"), rule(reads, "extensions", "deployments"))
	d.clusterRole("system:kube-dns", rule("list watch", core, "endpoints services"))
	d.bind("system:kube-dns", account("kube-dns"))
	d.clusterRole("system:persistent-volume-provisioner",
		rule("get list watch create delete", core, "persistentvolumes"),
		rule("get list watch update", core, "persistentvolumeclaims"),
		rule(reads, storageGroup, "storageclasses"),
		rule("watch", core, "events"),
		events())
	d.addCertificateRoles()
	d.clusterRole("system:kube-controller-manager", managerRules()...)
	d.bind("system:kube-controller-manager", named(user.KubeControllerManager))
	d.clusterRole("system:kube-scheduler", schedulerRules()...)
	d.bind("system:kube-scheduler", named(user.KubeScheduler))
	d.clusterRole("system:volume-scheduler",
		rule("get list watch update patch", core, "persistentvolumes"),
		rule(reads, storageGroup, "storageclasses"),
		rule("get list watch update patch", core, "persistentvolumeclaims"))
	d.bind("system:volume-scheduler", named(user.KubeScheduler))
	d.clusterRole("system:node-proxier",
		rule("list watch", core, "services endpoints"),
		rule(reads, core, "nodes"),
		events(),
		rule("list watch", discoveryGroup, "endpointslices"),
		rule("list watch", networkingGroup, "servicecidrs"))
	d.bind("system:node-proxier", named(user.KubeProxy))
}

func (d *Defaults) addCertificateRoles() {
	const prefix = "system:certificates.k8s.io:"
	for _, who := range []string{"nodeclient", "selfnodeclient"} {
		d.clusterRole(prefix+"certificatesigningrequests:"+who, rule("create", certificatesGroup, "certificatesigningrequests/"+who))
	}
	for _, signer := range []string{"legacy-unknown", "kubelet-serving", "kube-apiserver-client", "kube-apiserver-client-kubelet"} {
		d.clusterRole(prefix+signer+"-approver", rule("approve", certificatesGroup, "signers", "kubernetes.io/"+signer))
	}
}

func managerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		events(),
		rule("create", coordinationGroup, "leases"),
		rule("get update", coordinationGroup, "leases", "kube-controller-manager"),
		rule("create", core, "secrets serviceaccounts"),
		rule("delete", core, "secrets"),
		rule("get", core, "namespaces secrets serviceaccounts configmaps"),
		rule("update", core, "secrets serviceaccounts"),
		rule("create", authenticationGroup, "tokenreviews"),
		rule("create", authorizationGroup, "subjectaccessreviews"),
		rule("list watch", "*", "*"),
		rule("create", core, "serviceaccounts/token"),
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		events(),
		rule("create", coordinationGroup, "leases"),
		rule("get update", coordinationGroup, "leases", "kube-scheduler"),
		rule(reads, core, "nodes"),
		rule("get list watch delete", core, "pods"),
		rule("create", core, "pods/binding bindings"),
		rule("patch update", core, "pods/status"),
		rule(reads, core, "services replicationcontrollers"),
		rule(reads, "apps extensions", "replicasets"),
		rule(reads, "apps", "statefulsets"),
		rule(reads, "policy", "poddisruptionbudgets"),
		rule(reads, core, "persistentvolumeclaims persistentvolumes"),
		rule("create", authenticationGroup, "tokenreviews"),
		rule("create", authorizationGroup, "subjectaccessreviews"),
		rule(reads, storageGroup, "csinodes"),
		rule(reads, core, "namespaces"),
		rule(reads, storageGroup, "csidrivers"),
		rule(reads, storageGroup, "csistoragecapacities"),
		rule(reads, storageGroup, "volumeattachments"),
		rule(reads, resourceGroup, "deviceclasses"),
		rule("get list watch update patch", resourceGroup, "resourceclaims"),
		rule("get list watch update patch", resourceGroup, "resourceclaims/status"),
		rule("update", core, "pods/finalizers"),
		rule(reads, resourceGroup, "resourceslices"),
	}
}

// addNodeRoles adds those for nodes. system:node is bound to nobody: nodeRules allow more exactly what it says.
func (d *Defaults) addNodeRoles() {
	d.clusterRole("system:node",
		rule("create", authenticationGroup, "tokenreviews"),
		rule("create", authorizationGroup, "subjectaccessreviews localsubjectaccessreviews"),
		rule(reads, core, "services"),
		rule("create get list watch", core, "nodes"),
		rule("update patch", core, "nodes/status"),
		rule("update patch", core, "nodes"),
		rule("create update patch", core, "events"),
		rule(reads, core, "pods"),
		rule("create delete", core, "pods"),
		rule("update patch", core, "pods/status"),
		rule("create", core, "pods/eviction"),
		rule(reads, core, "secrets configmaps"),
		rule("get", core, "persistentvolumeclaims persistentvolumes"),
		rule("get", core, "endpoints"),
		rule("create get list watch", certificatesGroup, "certificatesigningrequests"),
		rule("get create update patch delete", coordinationGroup, "leases"),
		rule("get", storageGroup, "volumeattachments"),
		rule("create", core, "serviceaccounts/token"),
		rule("get update patch", core, "persistentvolumeclaims/status"),
		rule(reads, storageGroup, "csidrivers"),
		rule("get create update patch delete", storageGroup, "csinodes"),
		rule(reads, "node.k8s.io", "runtimeclasses"),
		rule("get", resourceGroup, "resourceclaims"),
		rule(readWrites, resourceGroup, "resourceslices"))
	d.bind("system:node")
	d.clusterRole("system:node-problem-detector", rule("get", core, "nodes"), rule("patch", core, "nodes/status"), events())
	d.clusterRole("system:node-bootstrapper", rule("create get list watch", certificatesGroup, "certificatesigningrequests"))
	d.clusterRole("system:kubelet-api-admin",
		rule(reads, core, "nodes"),
		rule("proxy", core, "nodes"),
		rule("*", core, "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/configz nodes/healthz nodes/pods"))
}

// addNamespaceRoles adds those of kube-system and kube-public.
func (d *Defaults) addNamespaceRoles() {
	const system, public, signer = metav1.NamespaceSystem, metav1.NamespacePublic, controllerPrefix + "bootstrap-signer"
	const authReader, managerLock, schedulerLock = "extension-apiserver-authentication-reader",
		"system::leader-locking-kube-controller-manager", "system::leader-locking-kube-scheduler"
	d.role(system, authReader, rule(reads, core, "configmaps", AuthenticationConfigMap))
	d.bindIn(system, "system::"+authReader, authReader, named(user.KubeControllerManager), named(user.KubeScheduler))
	d.role(system, managerLock, rule("watch", core, "configmaps"), rule("get update", core, "configmaps", "kube-controller-manager"),
		rule("get watch list create update", coordinationGroup, "leases"))
	d.bindIn(system, managerLock, managerLock, named(user.KubeControllerManager), account("kube-controller-manager"), account("leader-election-controller"))
	d.role(system, schedulerLock, rule("watch", core, "configmaps"), rule("get update", core, "configmaps", "kube-scheduler"))
	d.bindIn(system, schedulerLock, schedulerLock, named(user.KubeScheduler), account("kube-scheduler"))
	d.role(system, signer, rule(reads, core, "secrets"))
	d.bindIn(system, signer, signer, account("bootstrap-signer"))
	d.role(system, controllerPrefix+"cloud-provider", rule("create get list watch", core, "configmaps"))
	d.bindIn(system, controllerPrefix+"cloud-provider", controllerPrefix+"cloud-provider", account("cloud-provider"))
	d.role(system, controllerPrefix+"token-cleaner", rule("get list watch delete", core, "secrets"), events())
	d.bindIn(system, controllerPrefix+"token-cleaner", controllerPrefix+"token-cleaner", account("token-cleaner"))
	d.role(public, signer, rule(reads, core, "configmaps"), rule("update", core, "configmaps", "cluster-info"), events())
	d.bindIn(public, signer, signer, account("bootstrap-signer"))
	// kubeadm's: whoever wants to join finds the cluster without credentials.
	const finder = "kubeadm:bootstrap-signer-clusterinfo"
	d.role(public, finder, rule("get", core, "configmaps", "cluster-info"))
	d.bindIn(public, finder, finder, named(user.Anonymous))
}

// BootstrapGroup is that of machines with a token that may join, as kubeadm names it.
const BootstrapGroup = bootstrapGroup + ":kubeadm:default-node-token"

// addJoinRoles lets machines with a token become nodes, and nodes renew their certificates, by kubeadm's bindings.
func (d *Defaults) addJoinRoles() {
	const getNodes, approved = "kubeadm:get-nodes", "system:certificates.k8s.io:certificatesigningrequests:"
	d.clusterRole(getNodes, rule("get", core, "nodes"))
	d.bind(getNodes, group(BootstrapGroup))
	d.bindAs("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", group(BootstrapGroup))
	d.bindAs("kubeadm:node-autoapprove-bootstrap", approved+"nodeclient", group(BootstrapGroup))
	d.bindAs("kubeadm:node-autoapprove-certificate-rotation", approved+"selfnodeclient", group(user.NodesGroup))
}

// addOwnRoles adds what our components do beyond upstream's: the controllers share one identity, nodes route to each other's
// pods and serve DNS and Services.
func (d *Defaults) addOwnRoles() {
	const own = "system:coracle:"
	d.clusterRole(own+"scheduler",
		rule(reads, "scheduling.k8s.io", "priorityclasses"),
		rule("patch", coordinationGroup, "leases", "kube-scheduler"))
	d.bind(own+"scheduler", named(user.KubeScheduler))
	d.clusterRole(own+"controllers",
		// Garbage collection and namespace deletion walk over every resource there is.
		rule(reads, "*", "*"),
		rule("delete deletecollection patch update", "*", "*"),
		rule("create", core, "pods endpoints endpoints/restricted serviceaccounts configmaps secrets persistentvolumes persistentvolumeclaims pods/binding pods/eviction resourcequotas"),
		rule("create", "apps", "replicasets controllerrevisions"),
		rule("create", "batch", "jobs"),
		rule("create", discoveryGroup, "endpointslices endpointslices/restricted"),
		rule("create", coordinationGroup, "leases"),
		rule("create", storageGroup, "volumeattachments csistoragecapacities"),
		rule("create", resourceGroup, "resourceclaims"),
		rule("create", networkingGroup, "servicecidrs ipaddresses"),
		rule("create", authorizationGroup, "subjectaccessreviews"),
		rule("create", authenticationGroup, "tokenreviews"),
		rule("escalate", rbacv1.GroupName, "clusterroles"),
		rule("approve", certificatesGroup, "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
		rule("sign", certificatesGroup, "signers", "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet",
			"kubernetes.io/kubelet-serving", "kubernetes.io/legacy-unknown"),
		events())
	d.bind(own+"controllers", named(user.KubeControllerManager))
	d.clusterRole(own+"proxy",
		rule(reads, core, "services endpoints namespaces"),
		rule(reads, discoveryGroup, "endpointslices"))
	d.bind(own+"proxy", named(user.KubeProxy))
	d.clusterRole(own+"node",
		rule(reads, core, "nodes services endpoints namespaces"),
		rule(reads, discoveryGroup, "endpointslices"),
		rule(reads, networkingGroup, "ingresses ingressclasses"),
		rule("list watch", networkingGroup, "networkpolicies servicecidrs"),
		events())
	d.bind(own+"node", group(user.NodesGroup))
	d.role(metav1.NamespaceSystem, own+"node", rule("get", core, "configmaps", ClusterConfigMap))
	d.bindIn(metav1.NamespaceSystem, own+"node", own+"node", group(user.NodesGroup))
	d.role(metav1.NamespaceSystem, own+"dns", rule(reads, core, "configmaps", DNSConfigMap))
	d.bindIn(metav1.NamespaceSystem, own+"dns", own+"dns", group(user.NodesGroup), named(user.KubeProxy))
}
