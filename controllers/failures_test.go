package controllers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

func (c *cluster) deploymentCondition(name string, t appsv1.DeploymentConditionType) appsv1.DeploymentCondition {
	c.Helper()
	d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	for _, cond := range d.Status.Conditions {
		if cond.Type == t {
			return cond
		}
	}
	return appsv1.DeploymentCondition{}
}

// refusal answers creations of pods, while it is on, as a quota that is used up does.
type refusal struct {
	next http.RoundTripper
	off  atomic.Bool
	seen atomic.Int32
}

func (r *refusal) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.off.Load() || req.Method != http.MethodPost || req.URL.Path != "/api/v1/namespaces/default/pods" {
		return r.next.RoundTrip(req)
	}
	r.seen.Add(1)
	status := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota: small")).Status()
	status.APIVersion, status.Kind = "v1", "Status"
	body, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), Request: req}, nil
}

func TestPodsRefused(t *testing.T) {
	quota := &refusal{}
	c := start(t, func(cfg *controllers.Config) {
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(func(rt http.RoundTripper) http.RoundTripper { quota.next = rt; return quota })
	})
	c.node("n1")
	_, err := c.client.AppsV1().Deployments("default").Create(c.ctx, deployment(100), metav1.CreateOptions{})
	c.must(err)
	c.eventually("ReplicaFailure", func() error {
		cond := c.deploymentCondition("web", appsv1.DeploymentReplicaFailure)
		if cond.Status != corev1.ConditionTrue || cond.Reason != "FailedCreate" || cond.Message != "pods is forbidden: exceeded quota: small" {
			return fmt.Errorf("%+v", cond)
		}
		return nil
	})
	if n := quota.seen.Load(); n > 10 {
		t.Fatalf("%d hopeless attempts", n)
	}
	c.event(c.sets()[0].Name, "FailedCreate", "Error creating: pods is forbidden: exceeded quota: small")
	quota.off.Store(true)
	c.rolledOut("web")
	c.eventually("the end of ReplicaFailure", func() error {
		if cond := c.deploymentCondition("web", appsv1.DeploymentReplicaFailure); cond.Type != "" {
			return fmt.Errorf("%+v", cond)
		}
		return nil
	})
}

func TestProgressDeadline(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	d := deployment(2)
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1)
	c.deploy(d)
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "broken" })
	c.eventually("deadline", func() error {
		cond := c.deploymentCondition("web", appsv1.DeploymentProgressing)
		if cond.Status != corev1.ConditionFalse || cond.Reason != "ProgressDeadlineExceeded" {
			return fmt.Errorf("%+v", cond)
		}
		return nil
	})
	if cond := c.deploymentCondition("web", appsv1.DeploymentAvailable); cond.Status != corev1.ConditionTrue {
		t.Fatalf("a broken image took the service down: %+v", cond)
	}
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v3" })
	c.rolledOut("web")
}

func owned(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

func reference(o *corev1.ConfigMap) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: ptr.To(true)}
}

func (c *cluster) configMap(namespace string, o *corev1.ConfigMap) *corev1.ConfigMap {
	c.Helper()
	o, err := c.client.CoreV1().ConfigMaps(namespace).Create(c.ctx, o, metav1.CreateOptions{})
	c.must(err)
	return o
}

func (c *cluster) gone(names ...string) {
	c.Helper()
	for _, name := range names {
		c.eventually("end of "+name, func() error {
			o, err := c.client.CoreV1().ConfigMaps("default").Get(c.ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("%v, finalizers %v", err, o.Finalizers)
		})
	}
}

func TestGarbage(t *testing.T) {
	c := start(t, nil)
	maps := c.client.CoreV1().ConfigMaps("default")

	never := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "11111111-1111-1111-1111-111111111111"}
	c.configMap("default", owned("dangling", never))
	c.gone("dangling")

	a, b := c.configMap("default", owned("a")), c.configMap("default", owned("b"))
	both := c.configMap("default", owned("both", reference(a), reference(b)))
	c.must(maps.Delete(c.ctx, "a", metav1.DeleteOptions{}))
	c.eventually("one owner less", func() error {
		o, err := maps.Get(c.ctx, both.Name, metav1.GetOptions{})
		c.must(err)
		if len(o.OwnerReferences) != 1 || o.OwnerReferences[0].Name != "b" {
			return fmt.Errorf("%+v", o.OwnerReferences)
		}
		return nil
	})
	c.must(maps.Delete(c.ctx, "b", metav1.DeleteOptions{}))
	c.gone("both")

	far := c.configMap("kube-system", owned("far"))
	c.configMap("default", owned("stray", reference(far)))
	c.gone("stray")
	c.event("stray", "OwnerRefInvalidNamespace", fmt.Sprintf(`ownerRef [v1/ConfigMap, namespace: default, name: far, uid: %s] does not exist in namespace "default"`, far.UID))

	unknown := c.configMap("default", owned("unknown", metav1.OwnerReference{APIVersion: "example.org/v1", Kind: "Nothing", Name: "x", UID: "2222"}))
	c.circle()
	if _, err := maps.Get(c.ctx, unknown.Name, metav1.GetOptions{}); err != nil {
		t.Fatalf("an owner of unknown kind was taken for gone: %v", err)
	}
}

// circle deletes, in the foreground, one of two objects that own each other.
func (c *cluster) circle() {
	maps := c.client.CoreV1().ConfigMaps("default")
	x := c.configMap("default", owned("x"))
	y := c.configMap("default", owned("y", reference(x)))
	x.OwnerReferences = []metav1.OwnerReference{reference(y)}
	_, err := maps.Update(c.ctx, x, metav1.UpdateOptions{})
	c.must(err)
	c.must(maps.Delete(c.ctx, "x", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	c.gone("x", "y")
}
