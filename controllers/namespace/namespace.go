// Package namespace empties namespaces that are being deleted, and then lets them go.
//
// Invariants: pods go first, and nothing else is touched while one is left, for others (accounts, secrets, policies) are what they run on;
// a namespace is let go only after every resource the API serves in it has been listed and found empty.
package namespace

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Waits between two looks at a namespace in which something is left: a quarter of the time it has been waiting, within these.
const (
	minWait = 200 * time.Millisecond
	maxWait = 10 * time.Second
)

// Controller serves namespaces.
type Controller struct {
	client     kubernetes.Interface
	discovery  discovery.DiscoveryInterface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
	clock      clock.Clock
	loop       *loop.Loop

	mu   sync.Mutex
	left map[string]int // how many objects the last look at a namespace found
}

// New makes the controller.
func New(e env.Env, d discovery.DiscoveryInterface, m metadata.Interface) *Controller {
	core := e.Informers.Core().V1()
	c := &Controller{client: e.Client, discovery: d, metadata: m, namespaces: core.Namespaces().Lister(), clock: e.Clock, left: map[string]int{}}
	c.loop = e.Loop(loop.Config{Name: "namespace", Sync: c.sync})
	loop.On(c.loop, core.Namespaces().Informer(), func(_, cur *corev1.Namespace) {
		if cur != nil && cur.DeletionTimestamp != nil {
			c.loop.Add(cur.Name)
		}
	})
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		if cur != nil {
			return
		}
		if ns, err := c.namespaces.Get(old.Namespace); err == nil && ns.DeletionTimestamp != nil {
			c.loop.AddAfter(ns.Name, c.podWait(ns.Name)) // it may have been the last
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// podWait is how long after a pod's end its namespace is looked at: a look costs as much as there is left, so that is waited for together.
func (c *Controller) podWait(namespace string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return min(20*time.Millisecond+time.Duration(c.left[namespace])*200*time.Microsecond, time.Second)
}

// note remembers what a look at a namespace has found.
func (c *Controller) note(namespace string, f findings) {
	sum := 0
	for _, n := range f.remaining {
		sum += n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sum == 0 {
		delete(c.left, namespace)
	} else {
		c.left[namespace] = sum
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) || err == nil && (ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes)) {
		c.note(key, findings{})
		return nil
	}
	if err != nil {
		return err
	}
	found := c.empty(ctx, ns.Name)
	c.note(ns.Name, found)
	ns, err = c.report(ctx, ns, found)
	if err != nil {
		return err
	}
	if err := errors.Join(append(found.failures, found.discovery, found.parsing)...); err != nil {
		return err
	}
	if len(found.remaining) > 0 {
		age := c.clock.Now().Sub(ns.DeletionTimestamp.Time)
		c.loop.AddAfter(key, min(max(age/4, minWait), maxWait))
		return nil
	}
	return c.finalize(ctx, ns)
}

// report shows in the namespace's status what was found, and gives the namespace as it is then.
func (c *Controller) report(ctx context.Context, ns *corev1.Namespace, found findings) (*corev1.Namespace, error) {
	status := corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating, Conditions: conditions(ns.Status.Conditions, found, metav1.NewTime(c.clock.Now()))}
	if apiequality.Semantic.DeepEqual(ns.Status, status) {
		return ns, nil
	}
	fresh := *ns // a shallow copy: only status is replaced
	fresh.Status = status
	return c.client.CoreV1().Namespaces().UpdateStatus(ctx, &fresh, metav1.UpdateOptions{})
}

func (c *Controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	fresh := ns.DeepCopy()
	fresh.Spec.Finalizers = slices.DeleteFunc(fresh.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := c.client.CoreV1().Namespaces().Finalize(ctx, fresh, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
