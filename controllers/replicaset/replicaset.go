// Package replicaset keeps as many pods running as a ReplicaSet or a ReplicationController asks for. One controller
// serves both: a ReplicationController is read in a ReplicaSet's form.
//
// Invariants: pods are counted only once the informer has shown the creations of the sync before, so the set never
// overshoots; a pod already deleted is not counted and not deleted twice; only spec of the set decides, never its status.
package replicaset

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller serves one of the two kinds.
type Controller struct {
	source source
	client kubernetes.Interface
	pods   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	// lag is about pods, statusLag about the sets themselves.
	lag, statusLag *loop.Lag
	loop           *loop.Loop
}

// pace is how far apart a set is looked at during a burst of pod changes: a look costs as much as the set has pods, and the more there are, the more
// of their changes fit into one status write.
func pace(set *appsv1.ReplicaSet) time.Duration {
	n := max(ptr.Deref(set.Spec.Replicas, 1), set.Status.Replicas+ptr.Deref(set.Status.TerminatingReplicas, 0))
	return min(10*time.Millisecond+time.Duration(n)*time.Millisecond, 500*time.Millisecond)
}

// soon is when it is looked again whether the informer has shown what was written, and when a set goes on that a burst was not enough for.
const soon = 10 * time.Millisecond

// New makes the controller of ReplicaSets.
func New(e env.Env) (*Controller, error) {
	informer := e.Informers.Apps().V1().ReplicaSets()
	if err := owner.Index(informer.Informer()); err != nil {
		return nil, err
	}
	c, err := build(e, "replicaset", replicaSets{client: e.Client, lister: informer.Lister(), owned: informer.Informer().GetIndexer()})
	if err != nil {
		return nil, err
	}
	loop.On(c.loop, informer.Informer(), func(old, cur *appsv1.ReplicaSet) {
		if old != nil && cur != nil && statusOnly(old, cur) {
			c.statusChanged(cur, pace(cur))
			return
		}
		c.setChanged(loop.Either(cur, old))
	})
	return c, nil
}

// NewForReplicationControllers makes the controller of ReplicationControllers.
func NewForReplicationControllers(e env.Env) (*Controller, error) {
	informer := e.Informers.Core().V1().ReplicationControllers()
	c, err := build(e, "replication", replicationControllers{client: e.Client, lister: informer.Lister()})
	if err != nil {
		return nil, err
	}
	loop.On(c.loop, informer.Informer(), func(old, cur *corev1.ReplicationController) {
		if old != nil && cur != nil && statusOnly(old, cur) {
			c.statusChanged(cur, pace(fromController(cur)))
			return
		}
		c.setChanged(loop.Either(cur, old))
	})
	return c, nil
}

func build(e env.Env, name string, s source) (*Controller, error) {
	informer := e.Informers.Core().V1().Pods().Informer()
	if err := pods.IndexByController(informer); err != nil {
		return nil, err
	}
	component := name + "-controller"
	c := &Controller{source: s, client: e.Client, pods: informer.GetIndexer(), events: e.Recorder(component), clock: e.Clock,
		lag: loop.NewLag(e.Clock), statusLag: loop.NewLag(e.Clock)}
	c.loop = e.Loop(loop.Config{Name: name, Sync: c.sync})
	loop.On(c.loop, informer, c.podChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) setChanged(set metav1.Object) {
	c.statusLag.Saw(set.GetResourceVersion())
	c.loop.AddObject(set)
}

// statusOnly tells a change of the status, nearly always this controller's own, from one of what is asked for.
func statusOnly(old, cur metav1.Object) bool {
	return old.GetUID() == cur.GetUID() && old.GetGeneration() == cur.GetGeneration() && (old.GetDeletionTimestamp() == nil) == (cur.GetDeletionTimestamp() == nil)
}

// statusChanged lets what somebody else wrote into the status be put right.
func (c *Controller) statusChanged(set metav1.Object, pace time.Duration) {
	c.statusLag.Saw(set.GetResourceVersion())
	c.loop.AddSpaced(set.GetNamespace()+"/"+set.GetName(), pace)
}

// podChanged wakes the sets that a pod's change concerns: its controller's before and now, or those that may adopt it.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	c.lag.Saw(loop.Either(cur, old).ResourceVersion)
	var before, now *metav1.OwnerReference
	if old != nil {
		before = metav1.GetControllerOfNoCopy(old)
		c.wakeOwner(old.Namespace, before)
	}
	if cur == nil {
		return
	}
	now = metav1.GetControllerOfNoCopy(cur)
	if now != nil {
		if before == nil || before.UID != now.UID {
			c.wakeOwner(cur.Namespace, now)
		}
		return
	}
	if cur.DeletionTimestamp == nil {
		c.wakeAdopters(cur)
	}
}

func (c *Controller) wakeOwner(namespace string, ref *metav1.OwnerReference) {
	if ref == nil || ref.Kind != c.source.kind().Kind {
		return
	}
	if set, err := c.source.get(namespace, ref.Name); err == nil && set.UID == ref.UID {
		c.loop.AddSpaced(namespace+"/"+ref.Name, pace(set))
	}
}

func (c *Controller) wakeAdopters(pod *corev1.Pod) {
	sets, err := c.source.list(pod.Namespace)
	if err != nil {
		return
	}
	for _, set := range sets {
		if selector, ok := selectorOf(set); ok && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(set)
		}
	}
}

// selectorOf is the set's selector; not ok when it selects nothing or cannot be read.
func selectorOf(set *appsv1.ReplicaSet) (labels.Selector, bool) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	return selector, err == nil && !selector.Empty()
}

// reference names the set, as its own kind, to the event recorder.
func (c *Controller) reference(set *appsv1.ReplicaSet) runtime.Object {
	kind := c.source.kind()
	return &corev1.ObjectReference{
		APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: set.Namespace, Name: set.Name, UID: set.UID, ResourceVersion: set.ResourceVersion,
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	wait := max(c.lag.Behind(key), c.statusLag.Behind(key)) // before anything is read, so that what is read is as new
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	set, err := c.source.get(namespace, name)
	if apierrors.IsNotFound(err) {
		c.lag.Forget(key)
		c.statusLag.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait > 0 {
		c.loop.AddAfter(key, min(wait, soon))
		return nil
	}
	selector, ok := selectorOf(set)
	if !ok {
		return nil // validation lets none in
	}
	owned, err := c.claim(ctx, set, selector)
	if err != nil {
		return err
	}
	s := snapshot{set: set, owned: pods.MarkDoomed(c.lag, key, owned, c.clock.Now()), now: c.clock.Now(), related: func() []*corev1.Pod { return c.related(set) }}
	reason, failure := c.manage(ctx, key, s)
	return c.finish(ctx, key, s, reason, failure)
}

// claim gives the pods of the set, ended and terminating ones among them.
func (c *Controller) claim(ctx context.Context, set *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	candidates := pods.Of(c.pods, set.UID)
	for _, pod := range pods.Orphans(c.pods, set.Namespace) {
		if pods.Active(pod) {
			candidates = append(candidates, pod)
		}
	}
	return owner.Claim(ctx, owner.Claimer{
		Owner: set, Kind: c.source.kind(), Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) { return c.source.live(ctx, set.Namespace, set.Name) },
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			_, err := c.client.CoreV1().Pods(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}, candidates)
}

// related lists the pods of all sets that the set's own controller, a Deployment, controls.
func (c *Controller) related(set *appsv1.ReplicaSet) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return pods.Of(c.pods, set.UID)
	}
	var all []*corev1.Pod
	for _, sibling := range c.source.siblings(set, ref.UID) {
		all = append(all, pods.Of(c.pods, sibling.UID)...)
	}
	return all
}

// manage creates or deletes pods. The reason names which of them failed.
func (c *Controller) manage(ctx context.Context, key string, s snapshot) (reason string, failure error) {
	if s.set.DeletionTimestamp != nil {
		return "", nil
	}
	p := decide(s)
	all := true
	if p.create > 0 {
		reason = "FailedCreate"
		all, failure = c.create(ctx, key, s.set, p.create)
	} else {
		reason, failure = "FailedDelete", c.delete(ctx, key, s.set, p.delete)
	}
	if all && failure == nil && max(p.create, len(p.delete)) == burst {
		c.loop.AddAfter(key, soon) // with the rest
	}
	return reason, failure
}

// finish writes the status if it has changed.
func (c *Controller) finish(ctx context.Context, key string, s snapshot, reason string, failure error) error {
	if wait := nextAvailable(s); wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	status := decideStatus(s, reason, failure)
	if c.source.kind().Kind == "ReplicationController" {
		status.TerminatingReplicas = nil // that kind has no such field
	}
	if sameStatus(s.set.Status, status) {
		return failure
	}
	version, err := c.source.updateStatus(ctx, s.set, status)
	if err == nil {
		c.statusLag.Wrote(key, version)
	}
	return errors.Join(failure, err)
}
