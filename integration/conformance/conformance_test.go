// Package conformance shows, on the real server, the behaviours that conformance asks of a Kubernetes API server. Each test
// is named after what it shows.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// suite is what the tests share: one server with its controllers and scheduler, and no node.
type suite struct {
	cluster *cluster.Cluster
	config  *rest.Config
	kube    kubernetes.Interface
	crds    clientset.Interface
	dynamic dynamic.Interface
}

// env is a suite in one test, with an API namespace of its own.
type env struct {
	*suite
	*testing.T
	ctx context.Context
	ns  string
}

// areas are all behaviours, as docs/conformance.md names them.
func areas() map[string]map[string]func(*env) {
	return map[string]map[string]func(*env){
		"watch": watchTests, "chunking": chunkingTests, "discovery": discoveryTests, "garbage": garbageTests,
		"namespaces": namespaceTests, "quota": quotaTests, "events": eventTests, "access": accessTests,
		"custom": customTests, "validation": validationTests,
		"operations": operationTests, "webhooks": webhookTests, "policies": policyTests,
		"published": publishTests, "conversion": conversionTests, "storage": storageTests,
		"tokens":         tokenTests,
		"quota of kinds": quotaKindTests, "certificates": certificateTests, "aggregation": aggregationTests,
	}
}

// TestConformance runs every behaviour.
func TestConformance(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	s := newSuite(t, c)
	for area, tests := range areas() {
		t.Run(area, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) { test(s.env(t)) })
			}
		})
	}
}

// newSuite speaks to a cluster that has been started.
func newSuite(t *testing.T, c *cluster.Cluster) *suite {
	t.Helper()
	config, err := c.REST()
	if err != nil {
		t.Fatal(err)
	}
	return &suite{cluster: c, config: config, kube: kubernetes.NewForConfigOrDie(config),
		crds: clientset.NewForConfigOrDie(config), dynamic: dynamic.NewForConfigOrDie(config)}
}

// env makes the namespace, which goes with the test.
func (s *suite) env(t *testing.T) *env {
	t.Helper()
	ns, err := s.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "conformance-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{suite: s, T: t, ctx: t.Context(), ns: ns.Name}
	t.Cleanup(func() {
		if err := s.kube.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete the namespace: %v", err)
		}
	})
	e.eventually(func() error { // pods need it
		_, err := s.kube.CoreV1().ServiceAccounts(ns.Name).Get(e.ctx, "default", metav1.GetOptions{})
		return err
	})
	return e
}

// must ends the test at an error.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// eventually waits until condition gives nil.
func (e *env) eventually(condition func() error) {
	e.Helper()
	cluster.Eventually(e.T, 30*time.Second, condition)
}

// next waits for an event of a watch.
func (e *env) next(w watch.Interface) watch.Event {
	e.Helper()
	select {
	case ev, ok := <-w.ResultChan():
		if !ok {
			e.Fatal("the watch ended")
		}
		return ev
	case <-time.After(20 * time.Second):
		e.Fatal("no event came")
		return watch.Event{}
	}
}

// sees waits for an event of one type and gives its object.
func (e *env) sees(w watch.Interface, want watch.EventType) runtime.Object {
	e.Helper()
	for {
		ev := e.next(w)
		if ev.Type == want {
			return ev.Object
		}
		if ev.Type != watch.Bookmark && ev.Type != watch.Modified {
			e.Fatalf("event %s, want %s: %v", ev.Type, want, ev.Object)
		}
	}
}

// quiet fails where a watch has something to say.
func (e *env) quiet(w watch.Interface) {
	e.Helper()
	select {
	case ev := <-w.ResultChan():
		e.Errorf("unexpected event %s %v", ev.Type, ev.Object)
	case <-time.After(200 * time.Millisecond):
	}
}

// refused expects an error with every part.
func (e *env) refused(err error, parts ...string) {
	e.Helper()
	if err == nil {
		e.Fatalf("not refused, want %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			e.Errorf("refused with %q, which lacks %q", err, p)
		}
	}
}

// equal compares.
func equal[T comparable](e *env, what string, got, want T) {
	e.Helper()
	if got != want {
		e.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (e *env) configMap(name string, labels map[string]string) *corev1.ConfigMap {
	e.Helper()
	m, err := e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"n": "0"},
	}, metav1.CreateOptions{})
	e.must(err)
	return m
}

// pod is one that no scheduler takes.
func pod(name string) *corev1.Pod {
	none := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "nobody", TerminationGracePeriodSeconds: &none,
			Containers: []corev1.Container{{Name: "c", Image: "example.org/none"}},
		},
	}
}

// object makes an untyped object of JSON.
func (e *env) object(format string, args ...any) *unstructured.Unstructured {
	e.Helper()
	var u unstructured.Unstructured
	e.must(json.Unmarshal(fmt.Appendf(nil, format, args...), &u.Object))
	return &u
}

// raw sends a request and gives the answer's body.
func (e *env) raw(verb, path, contentType, body string) (string, error) {
	e.Helper()
	r := e.kube.Discovery().RESTClient().Verb(verb).RequestURI(path)
	if body != "" {
		r = r.SetHeader("Content-Type", contentType).Body([]byte(body))
	}
	out, err := r.DoRaw(e.ctx)
	var status metav1.Status
	if err != nil && json.Unmarshal(out, &status) == nil && status.Message != "" {
		err = errors.New(status.Message)
	}
	return string(out), err
}

const (
	asJSON  = "application/json"
	asYAML  = "application/yaml"
	asApply = string(types.ApplyYAMLPatchType)
)

// same is the error of eventually where something differs.
func same[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("%v, want %v", got, want)
	}
	return nil
}
