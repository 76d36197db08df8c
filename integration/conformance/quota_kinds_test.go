package conformance

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var quotaKindTests = map[string]func(*env){
	"charges every request of a pod, which cannot change them": quotaPodRequests,
	"counts services by type":                                  quotaServices,
	"counts replica sets":                                      quotaReplicaSets,
	"counts claims and their storage":                          quotaClaims,
	"counts pods without requests by scope":                    quotaBestEffort,
	"counts pods that end by themselves by scope":              quotaTerminating,
	"counts pods of a priority class by scope":                 quotaPriority,
	"has a status that is put right again":                     quotaStatus,
}

func quotaPodRequests(e *env) {
	const device = "example.org/device"
	e.quota("pods", "5", "cpu", "1", "memory", "500Mi", "ephemeral-storage", "50Gi", "requests."+device, "3")
	pods := e.kube.CoreV1().Pods(e.ns)
	asks := func(name string, pairs ...string) *corev1.Pod {
		p := pod(name)
		p.Spec.Containers[0].Resources.Requests = quantities(pairs...)
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{}
		if q, ok := p.Spec.Containers[0].Resources.Requests[device]; ok {
			p.Spec.Containers[0].Resources.Limits[device] = q
		}
		return p
	}
	p, err := pods.Create(e.ctx, asks("first", "cpu", "500m", "memory", "252Mi", "ephemeral-storage", "30Gi", device, "2"), metav1.CreateOptions{})
	e.must(err)
	e.used("pods", "1", "cpu", "500m", "memory", "252Mi", "ephemeral-storage", "30Gi", "requests."+device, "2")
	_, err = pods.Create(e.ctx, asks("large", "cpu", "600m", "memory", "100Mi", "ephemeral-storage", "10Gi"), metav1.CreateOptions{})
	e.refused(err, `pods "large" is forbidden: exceeded quota: quota, requested: cpu=600m, used: cpu=500m, limited: cpu=1`)
	_, err = pods.Create(e.ctx, asks("devices", "cpu", "500m", "memory", "100Mi", "ephemeral-storage", "10Gi", device, "2"), metav1.CreateOptions{})
	e.refused(err, `exceeded quota: quota, requested: requests.example.org/device=2, used: requests.example.org/device=2, limited: requests.example.org/device=3`)
	p.Spec.Containers[0].Resources.Requests = quantities("cpu", "100m", "memory", "100Mi", "ephemeral-storage", "30Gi", device, "2")
	_, err = pods.Update(e.ctx, p, metav1.UpdateOptions{})
	e.refused(err, "spec: Forbidden: pod updates may not change fields other than")
	e.used("pods", "1", "cpu", "500m", "memory", "252Mi")
	e.must(pods.Delete(e.ctx, "first", metav1.DeleteOptions{}))
	e.used("pods", "0", "cpu", "0", "memory", "0", "ephemeral-storage", "0", "requests."+device, "0")
}

func quotaServices(e *env) {
	e.quota("services", "3", "services.nodeports", "1", "services.loadbalancers", "1")
	services := e.kube.CoreV1().Services(e.ns)
	made := func(name string, kind corev1.ServiceType) error {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
		if kind == corev1.ServiceTypeLoadBalancer {
			s.Spec.AllocateLoadBalancerNodePorts = new(bool)
		}
		_, err := services.Create(e.ctx, s, metav1.CreateOptions{})
		return err
	}
	e.must(made("inside", corev1.ServiceTypeClusterIP))
	e.must(made("node", corev1.ServiceTypeNodePort))
	e.used("services", "2", "services.nodeports", "1", "services.loadbalancers", "0")
	e.refused(made("node2", corev1.ServiceTypeNodePort), "exceeded quota: quota, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1")
	e.must(made("balanced", corev1.ServiceTypeLoadBalancer))
	e.used("services", "3", "services.nodeports", "1", "services.loadbalancers", "1")
	for _, name := range []string{"inside", "node", "balanced"} {
		e.must(services.Delete(e.ctx, name, metav1.DeleteOptions{}))
	}
	e.used("services", "0", "services.nodeports", "0", "services.loadbalancers", "0")
}

func quotaReplicaSets(e *env) {
	e.quota("count/replicasets.apps", "1")
	labels, none := map[string]string{"a": "b"}, int32(0)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
	}}
	sets := e.kube.AppsV1().ReplicaSets(e.ns)
	_, err := sets.Create(e.ctx, set, metav1.CreateOptions{})
	e.must(err)
	e.used("count/replicasets.apps", "1")
	set.Name = "two"
	_, err = sets.Create(e.ctx, set, metav1.CreateOptions{})
	e.refused(err, "exceeded quota: quota, requested: count/replicasets.apps=1, used: count/replicasets.apps=1, limited: count/replicasets.apps=1")
	e.must(sets.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.used("count/replicasets.apps", "0")
}

func quotaClaims(e *env) {
	e.quota("persistentvolumeclaims", "2", "requests.storage", "10Gi", "gold.storageclass.storage.k8s.io/requests.storage", "5Gi")
	claims := e.kube.CoreV1().PersistentVolumeClaims(e.ns)
	made := func(name, class, size string) error {
		_, err := claims.Create(e.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: quantities("storage", size)},
		}}, metav1.CreateOptions{})
		return err
	}
	e.must(made("first", "gold", "4Gi"))
	e.used("persistentvolumeclaims", "1", "requests.storage", "4Gi", "gold.storageclass.storage.k8s.io/requests.storage", "4Gi")
	e.refused(made("second", "gold", "2Gi"), "exceeded quota: quota, requested: gold.storageclass.storage.k8s.io/requests.storage=2Gi, used: gold.storageclass.storage.k8s.io/requests.storage=4Gi, limited: gold.storageclass.storage.k8s.io/requests.storage=5Gi")
	e.must(made("third", "silver", "6Gi"))
	e.used("persistentvolumeclaims", "2", "requests.storage", "10Gi", "gold.storageclass.storage.k8s.io/requests.storage", "4Gi")
	e.must(claims.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	e.used("persistentvolumeclaims", "0", "requests.storage", "0", "gold.storageclass.storage.k8s.io/requests.storage", "0")
}

// scopedQuota counts pods of one scope.
func (e *env) scopedQuota(name string, spec corev1.ResourceQuotaSpec) {
	e.Helper()
	spec.Hard = quantities("pods", "5")
	_, err := e.kube.CoreV1().ResourceQuotas(e.ns).Create(e.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	e.must(err)
	e.podsOf(name, 0)
}

// podsOf waits until a quota counts so many pods.
func (e *env) podsOf(quota string, want int64) {
	e.Helper()
	e.eventually(func() error {
		q, err := e.kube.CoreV1().ResourceQuotas(e.ns).Get(e.ctx, quota, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got, ok := q.Status.Used[corev1.ResourcePods]; !ok || got.Value() != want {
			return fmt.Errorf("%s counts %v", quota, q.Status.Used)
		}
		return nil
	})
}

// scopes creates a pod that one quota counts and the other does not, and deletes it.
func (e *env) scopes(p *corev1.Pod, counted, other string) {
	e.Helper()
	_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	e.podsOf(counted, 1)
	e.podsOf(other, 0)
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, p.Name, metav1.DeleteOptions{}))
	e.podsOf(counted, 0)
}

func quotaBestEffort(e *env) {
	e.scopedQuota("best", corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}})
	e.scopedQuota("other", corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort}})
	e.scopes(pod("idle"), "best", "other")
	busy := pod("busy")
	busy.Spec.Containers[0].Resources.Requests = quantities("cpu", "100m")
	e.scopes(busy, "other", "best")
}

func quotaTerminating(e *env) {
	e.scopedQuota("ending", corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}})
	e.scopedQuota("lasting", corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}})
	e.scopes(pod("long"), "lasting", "ending")
	short := pod("short")
	short.Spec.ActiveDeadlineSeconds = new(int64(3600))
	e.scopes(short, "ending", "lasting")
}

func quotaPriority(e *env) {
	class := func(op corev1.ScopeSelectorOperator) corev1.ResourceQuotaSpec {
		r := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: op, Values: []string{"system-node-critical"}}
		return corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{r}}}
	}
	e.scopedQuota("critical", class(corev1.ScopeSelectorOpIn))
	e.scopedQuota("rest", class(corev1.ScopeSelectorOpNotIn))
	p := pod("first")
	p.Spec.PriorityClassName = "system-node-critical"
	e.scopes(p, "critical", "rest")
}

// quotaStatus is taken as it is written, until the controller counts again.
func quotaStatus(e *env) {
	e.quota("cpu", "500m")
	quotas := e.kube.CoreV1().ResourceQuotas(e.ns)
	q, err := quotas.Patch(e.ctx, "quota", types.MergePatchType, []byte(`{"status":{"hard":{"cpu":"900m"}}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	if got := q.Status.Hard[corev1.ResourceCPU]; got.String() != "900m" {
		e.Errorf("status %v", q.Status)
	}
	e.eventually(func() error {
		q, err := quotas.Get(e.ctx, "quota", metav1.GetOptions{})
		if err != nil {
			return err
		}
		got := q.Status.Hard[corev1.ResourceCPU]
		return same(got.String(), "500m")
	})
}
