package controllers_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

func (c *cluster) quota(name, hard string) {
	c.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)}}
	_, err := c.client.CoreV1().ResourceQuotas("default").Create(c.ctx, q, metav1.CreateOptions{})
	c.must(err)
}

// used waits until the quota's status says what is wanted, of the names that are in want.
func (c *cluster) used(name, want string) {
	c.Helper()
	c.eventually("quota "+name, func() error {
		q, err := c.client.CoreV1().ResourceQuotas("default").Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for resource, n := range amounts(want) {
			if have, ok := q.Status.Used[resource]; !ok || have.Cmp(n) != 0 {
				return fmt.Errorf("%s: %s used, want %s", resource, have.String(), n.String())
			}
		}
		return nil
	})
}

// TestResourceQuotaLife follows what conformance asks: the life of a pod, a service, a secret, a config map in the status.
func TestResourceQuotaLife(t *testing.T) {
	t.Parallel()
	c := admitting(t, memory.New())
	c.control("resourcequota", "serviceaccount")
	core := c.client.CoreV1()
	c.eventually("default account", func() error {
		_, err := core.ServiceAccounts("default").Get(c.ctx, "default", metav1.GetOptions{})
		return err
	})
	c.quota("q", "pods=2 requests.cpu=1 count/secrets=5 configmaps=9 services=3 services.nodeports=2 resourcequotas=1 count/deployments.apps=1")
	c.used("q", "pods=0 requests.cpu=0 count/secrets=0 configmaps=0 services.nodeports=0 resourcequotas=1 count/deployments.apps=0")

	_, err := core.Pods("default").Create(c.ctx, plainPod("a", "cpu=500m"), metav1.CreateOptions{})
	c.must(err)
	c.used("q", "pods=1 requests.cpu=500m")
	_, err = core.Pods("default").Create(c.ctx, plainPod("b", "cpu=501m"), metav1.CreateOptions{})
	if want := `pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=501m, used: requests.cpu=500m, limited: requests.cpu=1`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	_, err = core.Pods("default").Create(c.ctx, plainPod("b", ""), metav1.CreateOptions{})
	if want := `failed quota: q: must specify requests.cpu for: c`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
	_, err = core.Pods("default").Create(c.ctx, plainPod("a", "cpu=100m"), metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	c.used("q", "pods=1 requests.cpu=500m") // what was charged for the refused one comes back with the next count
	_, err = core.Pods("default").Create(c.ctx, plainPod("dry", "cpu=100m"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	c.must(err)
	c.used("q", "pods=1 requests.cpu=500m")

	_, err = core.Secrets("default").Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	c.must(err)
	_, err = core.Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "np"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.AppsV1().Deployments("default").Create(c.ctx, deployment(0), metav1.CreateOptions{})
	c.must(err)
	c.used("q", "count/secrets=1 services.nodeports=1 count/deployments.apps=1")

	c.must(core.Pods("default").Delete(c.ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.must(core.Secrets("default").Delete(c.ctx, "s", metav1.DeleteOptions{}))
	c.must(core.Services("default").Delete(c.ctx, "np", metav1.DeleteOptions{}))
	c.must(c.client.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}))
	c.used("q", "pods=0 requests.cpu=0 count/secrets=0 services.nodeports=0 count/deployments.apps=0")

	q, err := core.ResourceQuotas("default").Get(c.ctx, "q", metav1.GetOptions{})
	c.must(err)
	q.Spec.Hard = amounts("pods=1 limits.cpu=4")
	_, err = core.ResourceQuotas("default").Update(c.ctx, q, metav1.UpdateOptions{})
	c.must(err)
	c.used("q", "pods=0 limits.cpu=0")
}

// TestResourceQuotaEndedPods: what a pod asked for is free once it has ended, though the pod is still there.
func TestResourceQuotaEndedPods(t *testing.T) {
	t.Parallel()
	c := admitting(t, memory.New())
	c.control("resourcequota", "serviceaccount")
	core := c.client.CoreV1()
	c.quota("q", "pods=1 count/pods=9")
	c.used("q", "pods=0 count/pods=0")
	var pod *corev1.Pod
	c.eventually("pod", func() (err error) {
		pod, err = core.Pods("default").Create(c.ctx, plainPod("a", ""), metav1.CreateOptions{})
		return err
	})
	c.used("q", "pods=1 count/pods=1")
	pod.Status.Phase = corev1.PodSucceeded
	_, err := core.Pods("default").UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
	c.must(err)
	c.used("q", "pods=0 count/pods=1")
}

// TestResourceQuotaTwoServers: clients of two servers on one store create and delete at once, controllers count, and at no
// time are there more objects than the quota allows; in the end the status is what there is.
func TestResourceQuotaTwoServers(t *testing.T) {
	t.Parallel()
	const limit = 10
	st := memory.New()
	servers := []*cluster{admitting(t, st), admitting(t, st)}
	c := servers[0]
	c.control("resourcequota")
	c.quota("q", fmt.Sprintf("configmaps=%d", limit))
	c.used("q", "configmaps=0")
	var mu sync.Mutex
	made, refused, most := 0, 0, 0
	var wg sync.WaitGroup
	for i, server := range servers {
		maps := server.client.CoreV1().ConfigMaps("default")
		for j := range 6 {
			wg.Go(func() {
				for k := range 15 {
					name := fmt.Sprintf("c-%d-%d-%d", i, j, k)
					_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
					mu.Lock()
					switch {
					case err == nil:
						made++
					case apierrors.IsForbidden(err):
						refused++
					default:
						t.Error(err)
					}
					mu.Unlock()
					if l, lerr := maps.List(t.Context(), metav1.ListOptions{}); lerr == nil {
						mu.Lock()
						most = max(most, len(l.Items))
						mu.Unlock()
					}
					if err == nil && k%2 == 0 {
						_ = maps.Delete(t.Context(), name, metav1.DeleteOptions{})
					}
				}
			})
		}
	}
	wg.Wait()
	if most > limit || made < limit || refused == 0 {
		t.Errorf("at most %d of %d at once, %d made, %d refused", most, limit, made, refused)
	}
	l, err := c.client.CoreV1().ConfigMaps("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	c.used("q", fmt.Sprintf("configmaps=%d", len(l.Items)))
}

// TestResourceQuotaOfCustomResources: count/<resource>.<group> holds for resources that come later than the quota.
func TestResourceQuotaOfCustomResources(t *testing.T) {
	t.Parallel()
	c := admitting(t, memory.New())
	c.control("resourcequota")
	widgets := c.widgets().Namespace("default")
	c.quota("q", "count/widgets.example.com=1")
	c.used("q", "count/widgets.example.com=0")
	_, err := widgets.Create(c.ctx, widget("a"), metav1.CreateOptions{})
	c.must(err)
	_, err = widgets.Create(c.ctx, widget("b"), metav1.CreateOptions{})
	if want := `widgets.example.com "b" is forbidden: exceeded quota: q, requested: count/widgets.example.com=1, used: count/widgets.example.com=1, limited: count/widgets.example.com=1`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	c.must(widgets.Delete(c.ctx, "a", metav1.DeleteOptions{}))
	c.used("q", "count/widgets.example.com=0")
	_, err = widgets.Create(c.ctx, widget("b"), metav1.CreateOptions{})
	c.must(err)
}
