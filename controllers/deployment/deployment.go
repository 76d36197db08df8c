// Package deployment rolls Deployments out: one ReplicaSet a pod template, sized against each other so that a rollout
// keeps within maxSurge and maxUnavailable, with a numbered history that kubectl rollout undo goes back to.
//
// Invariants: decide is pure and sees one snapshot; every write carries what it was decided on (a resource version or UID), so a
// stale decision is refused and made again; a template has one ReplicaSet, whose name follows from the template.
package deployment

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller serves Deployments.
type Controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        cache.Indexer // of ReplicaSets, by owner
	pods        cache.Indexer
	events      record.EventRecorder
	clock       clock.Clock
	// lag is about deployments, setLag about their sets.
	lag, setLag *loop.Lag
	loop        *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	deployments, sets, podInformer := e.Informers.Apps().V1().Deployments(), e.Informers.Apps().V1().ReplicaSets(), e.Informers.Core().V1().Pods().Informer()
	if err := errors.Join(pods.IndexByController(podInformer), owner.Index(sets.Informer())); err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, deployments: deployments.Lister(), sets: sets.Informer().GetIndexer(), pods: podInformer.GetIndexer(),
		events: e.Recorder("deployment-controller"), clock: e.Clock, lag: loop.NewLag(e.Clock), setLag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "deployment", Sync: c.sync})
	loop.On(c.loop, deployments.Informer(), func(old, cur *appsv1.Deployment) {
		if cur == nil {
			cur = old
		}
		c.lag.Saw(cur.ResourceVersion)
		c.loop.AddObject(cur)
	})
	loop.On(c.loop, sets.Informer(), c.setChanged)
	loop.On(c.loop, podInformer, c.podChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) setChanged(old, cur *appsv1.ReplicaSet) {
	for _, set := range []*appsv1.ReplicaSet{old, cur} {
		if set != nil {
			c.setLag.Saw(set.ResourceVersion)
		}
	}
	var before *metav1.OwnerReference
	if old != nil {
		before = metav1.GetControllerOfNoCopy(old)
		c.wakeOwner(old.Namespace, before)
	}
	if cur == nil {
		return
	}
	now := metav1.GetControllerOfNoCopy(cur)
	if now == nil {
		c.wakeAdopters(cur)
	} else if before == nil || before.UID != now.UID {
		c.wakeOwner(cur.Namespace, now)
	}
}

// pace is how far apart a deployment is looked at during a burst of its sets' changes: the more pods it has, the more of their changes fit into
// one status write and one step of a rollout.
func pace(d *appsv1.Deployment) time.Duration {
	return min(10*time.Millisecond+time.Duration(wanted(d))*time.Millisecond, 100*time.Millisecond)
}

// soon is when it is looked again whether the informers have shown what was written.
const soon = 10 * time.Millisecond

func (c *Controller) wakeOwner(namespace string, ref *metav1.OwnerReference) {
	if d := c.owner(namespace, ref); d != nil {
		c.loop.AddSpaced(namespace+"/"+d.Name, pace(d))
	}
}

func (c *Controller) owner(namespace string, ref *metav1.OwnerReference) *appsv1.Deployment {
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	d, err := c.deployments.Deployments(namespace).Get(ref.Name)
	if err != nil || d.UID != ref.UID {
		return nil
	}
	return d
}

func (c *Controller) wakeAdopters(set *appsv1.ReplicaSet) {
	list, err := c.deployments.Deployments(set.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range list {
		if selector, ok := selectorOf(d); ok && selector.Matches(labels.Set(set.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

// podChanged matters to strategy Recreate only, which waits for the last old pod's end.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old == nil || cur != nil && (pods.Terminal(old) || !pods.Terminal(cur)) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	obj, _, _ := c.sets.GetByKey(old.Namespace + "/" + ref.Name)
	set, ok := obj.(*appsv1.ReplicaSet)
	if !ok || set.UID != ref.UID {
		return
	}
	d := c.owner(set.Namespace, metav1.GetControllerOfNoCopy(set))
	if d != nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.AddObject(d)
	}
}

func selectorOf(d *appsv1.Deployment) (labels.Selector, bool) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return selector, err == nil && !selector.Empty()
}

func (c *Controller) sync(ctx context.Context, key string) error {
	wait := max(c.lag.Behind(key), c.setLag.Behind(key)) // before anything is read, so that what is read is as new
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	d, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.lag.Forget(key)
		c.setLag.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait > 0 {
		c.loop.AddAfter(key, min(wait, soon))
		return nil
	}
	selector, ok := selectorOf(d)
	if !ok {
		return nil // validation lets none in
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	p := decide(snapshot{deployment: d, sets: sets, running: c.running, now: c.clock.Now()})
	return c.act(ctx, key, d, p)
}

// running tells whether a set has pods that have not ended; terminating ones still run.
func (c *Controller) running(set types.UID) bool {
	for _, pod := range pods.Of(c.pods, set) {
		if !pods.Terminal(pod) {
			return true
		}
	}
	return false
}

func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates := append(owner.Owned[*appsv1.ReplicaSet](c.sets, d.UID), owner.Orphans[*appsv1.ReplicaSet](c.sets, d.Namespace)...)
	return owner.Claim(ctx, owner.Claimer{
		Owner: d, Kind: kind, Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}, candidates)
}
