package conformance

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var quotaTests = map[string]func(*env){
	"is created, changed and deleted":   quotaLife,
	"counts config maps and secrets":    quotaObjects,
	"charges a pod's requests":          quotaPod,
	"counts replication controllers":    quotaController,
	"holds under concurrent creation":   quotaConcurrent,
	"a limit range fills in and checks": limitRange,
}

func quantities(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// quota makes one and waits until it has counted.
func (e *env) quota(pairs ...string) {
	e.Helper()
	_, err := e.kube.CoreV1().ResourceQuotas(e.ns).Create(e.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota", Labels: map[string]string{"quota": e.ns}}, Spec: corev1.ResourceQuotaSpec{Hard: quantities(pairs...)},
	}, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		q, err := e.kube.CoreV1().ResourceQuotas(e.ns).Get(e.ctx, "quota", metav1.GetOptions{})
		if err == nil && (len(q.Status.Hard) != len(pairs)/2 || len(q.Status.Used) != len(pairs)/2) {
			err = fmt.Errorf("status %v", q.Status)
		}
		return err
	})
}

// used waits for what the quota's status tells.
func (e *env) used(pairs ...string) {
	e.Helper()
	e.eventually(func() error {
		q, err := e.kube.CoreV1().ResourceQuotas(e.ns).Get(e.ctx, "quota", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for name, want := range quantities(pairs...) {
			if got := q.Status.Used[name]; got.Cmp(want) != 0 {
				return fmt.Errorf("%s: %v used, want %v", name, &got, &want)
			}
		}
		return nil
	})
}

func quotaLife(e *env) {
	quotas := e.kube.CoreV1().ResourceQuotas(e.ns)
	e.quota("cpu", "1", "memory", "500Mi")
	q, err := quotas.Get(e.ctx, "quota", metav1.GetOptions{})
	e.must(err)
	q.Spec.Hard = quantities("cpu", "2", "memory", "1Gi")
	q, err = quotas.Update(e.ctx, q, metav1.UpdateOptions{})
	e.must(err)
	if got := q.Spec.Hard[corev1.ResourceCPU]; got.String() != "2" {
		e.Errorf("hard %v", q.Spec.Hard)
	}
	list, err := e.kube.CoreV1().ResourceQuotas("").List(e.ctx, metav1.ListOptions{LabelSelector: "quota=" + e.ns})
	e.must(err)
	equal(e, "quotas of all namespaces", len(list.Items), 1)
	q, err = quotas.Patch(e.ctx, "quota", types.StrategicMergePatchType, []byte(`{"spec":{"hard":{"memory":"750Mi"}}}`), metav1.PatchOptions{})
	e.must(err)
	if got := q.Spec.Hard[corev1.ResourceMemory]; got.String() != "750Mi" {
		e.Errorf("hard %v", q.Spec.Hard)
	}
	q, err = quotas.Patch(e.ctx, "quota", types.StrategicMergePatchType, []byte(`{"status":{"hard":{"memory":"700Mi"}}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	if got := q.Spec.Hard[corev1.ResourceMemory]; got.String() != "750Mi" {
		e.Errorf("a change of the status changed the spec to %v", q.Spec.Hard)
	}
	e.eventually(func() error { // the controller puts it right again
		q, err := quotas.Get(e.ctx, "quota", metav1.GetOptions{})
		if got := q.Status.Hard[corev1.ResourceMemory]; err == nil && got.String() != "750Mi" {
			err = fmt.Errorf("status %v", q.Status)
		}
		return err
	})
	e.must(quotas.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "quota=" + e.ns}))
}

func quotaObjects(e *env) {
	e.eventually(func() error { // the root certificate is there from the start
		_, err := e.kube.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	e.quota("configmaps", "2", "secrets", "1", "count/leases.coordination.k8s.io", "0")
	e.used("configmaps", "1", "secrets", "0")
	e.configMap("one", nil)
	e.used("configmaps", "2")
	_, err := e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "two"}}, metav1.CreateOptions{})
	e.refused(err, `configmaps "two" is forbidden: exceeded quota: quota, requested: configmaps=1, used: configmaps=2, limited: configmaps=2`)
	_, err = e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
	e.must(err)
	e.used("secrets", "1")
	e.must(e.kube.CoreV1().ConfigMaps(e.ns).Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.must(e.kube.CoreV1().Secrets(e.ns).Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.used("configmaps", "1", "secrets", "0")
}

func quotaPod(e *env) {
	e.quota("pods", "1", "requests.cpu", "1", "limits.memory", "1Gi")
	pods := e.kube.CoreV1().Pods(e.ns)
	_, err := pods.Create(e.ctx, pod("bare"), metav1.CreateOptions{})
	e.refused(err, `pods "bare" is forbidden: failed quota: quota: must specify limits.memory for: c; requests.cpu for: c`)
	p := pod("fits")
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: quantities("cpu", "500m"), Limits: quantities("memory", "100Mi")}
	_, err = pods.Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	e.used("pods", "1", "requests.cpu", "500m", "limits.memory", "100Mi")
	p.Name = "late"
	_, err = pods.Create(e.ctx, p, metav1.CreateOptions{})
	e.refused(err, `exceeded quota: quota, requested: pods=1, used: pods=1, limited: pods=1`)
	e.must(pods.Delete(e.ctx, "fits", metav1.DeleteOptions{}))
	e.used("pods", "0", "requests.cpu", "0", "limits.memory", "0")
}

func quotaController(e *env) {
	e.quota("replicationcontrollers", "1")
	rcs := e.kube.CoreV1().ReplicationControllers(e.ns)
	labels, none := map[string]string{"a": "b"}, int32(0)
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &none, Selector: labels, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
	}}
	_, err := rcs.Create(e.ctx, rc, metav1.CreateOptions{})
	e.must(err)
	e.used("replicationcontrollers", "1")
	rc.Name = "two"
	_, err = rcs.Create(e.ctx, rc, metav1.CreateOptions{})
	e.refused(err, "exceeded quota")
	e.must(rcs.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.used("replicationcontrollers", "0")
}

func quotaConcurrent(e *env) {
	e.quota("count/secrets", "10")
	const tries = 40
	errs := make(chan error, tries)
	for i := range tries {
		go func() {
			_, err := e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i)}}, metav1.CreateOptions{})
			errs <- err
		}()
	}
	made := 0
	for range tries {
		if <-errs == nil {
			made++
		}
	}
	l, err := e.kube.CoreV1().Secrets(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "secrets made", made, 10)
	equal(e, "secrets there", len(l.Items), 10)
	e.used("count/secrets", "10")
}

func limitRange(e *env) {
	_, err := e.kube.CoreV1().LimitRanges(e.ns).Create(e.ctx, &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Max: quantities("cpu", "1"), Min: quantities("memory", "10Mi"),
			Default: quantities("cpu", "500m"), DefaultRequest: quantities("cpu", "100m", "memory", "20Mi"),
		}}},
	}, metav1.CreateOptions{})
	e.must(err)
	pods := e.kube.CoreV1().Pods(e.ns)
	p, err := pods.Create(e.ctx, pod("filled"), metav1.CreateOptions{})
	e.must(err)
	r := p.Spec.Containers[0].Resources
	for what, got := range map[string]string{
		"500m": r.Limits.Cpu().String(), "100m": r.Requests.Cpu().String(), "20Mi": r.Requests.Memory().String(),
	} {
		equal(e, "default", got, what)
	}
	big := pod("big")
	big.Spec.Containers[0].Resources.Limits = quantities("cpu", "2")
	_, err = pods.Create(e.ctx, big, metav1.CreateOptions{})
	e.refused(err, `pods "big" is forbidden: maximum cpu usage per Container is 1, but limit is 2`)
}
