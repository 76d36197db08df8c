// Package daemonset runs a pod on every node that a DaemonSet selects. The scheduler binds it there: the pod's affinity leaves it no choice.
//
// Invariants: a node has one pod of a set, with surge two, the second only beside an old one that serves; a rollout leaves no more
// nodes without a serving pod than maxUnavailable, and starts no more than maxSurge ahead; pods are counted only once the informer
// has shown the writes of the sync before; a failed pod is replaced with growing back-off.
package daemonset

import (
	"context"
	"errors"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/history"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// pace is how far apart a set is looked at during a burst of changes of pods and nodes: a look goes over all of them, and the more there are, the
// more of their changes fit into one status write.
func pace(set *appsv1.DaemonSet) time.Duration {
	n := set.Status.DesiredNumberScheduled + set.Status.NumberMisscheduled
	return min(10*time.Millisecond+time.Duration(n)*50*time.Microsecond, 500*time.Millisecond)
}

// Controller serves DaemonSets.
type Controller struct {
	client  kubernetes.Interface
	sets    appslisters.DaemonSetLister
	nodes   corelisters.NodeLister
	pods    cache.Indexer
	history *history.Keeper
	events  record.EventRecorder
	clock   clock.Clock
	backoff *backoff
	// lag is about pods, setLag about the sets themselves.
	lag, setLag *loop.Lag
	loop        *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	sets, nodes, podInformer := e.Informers.Apps().V1().DaemonSets(), e.Informers.Core().V1().Nodes(), e.Informers.Core().V1().Pods().Informer()
	if err := pods.IndexByController(podInformer); err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, sets: sets.Lister(), nodes: nodes.Lister(), pods: podInformer.GetIndexer(), events: e.Recorder("daemonset-controller"),
		clock: e.Clock, backoff: newBackoff(), lag: loop.NewLag(e.Clock), setLag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "daemonset", Sync: c.sync})
	loop.On(c.loop, sets.Informer(), c.setChanged)
	loop.On(c.loop, podInformer, func(old, cur *corev1.Pod) {
		if cur != nil {
			c.lag.Saw(cur.ResourceVersion)
		} else {
			c.lag.Saw(old.ResourceVersion)
		}
		childChanged(c, old, cur)
	})
	loop.On(c.loop, nodes.Informer(), c.nodeChanged)
	var err error
	c.history, err = history.NewKeeper(e, c.loop, kind, appsv1.DefaultDaemonSetUniqueLabelKey, func(old, cur *appsv1.ControllerRevision) { childChanged(c, old, cur) })
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// setChanged wakes the set at once, unless only its status has changed, nearly always by this controller.
func (c *Controller) setChanged(old, cur *appsv1.DaemonSet) {
	set := cur
	if set == nil {
		set = old
	}
	c.setLag.Saw(set.ResourceVersion)
	if old != nil && cur != nil && old.UID == cur.UID && old.Generation == cur.Generation && (old.DeletionTimestamp == nil) == (cur.DeletionTimestamp == nil) {
		c.wakeSpaced(cur)
		return
	}
	c.loop.AddObject(set)
}

func (c *Controller) wakeSpaced(set *appsv1.DaemonSet) {
	c.loop.AddSpaced(set.Namespace+"/"+set.Name, pace(set))
}

// childChanged wakes the sets that a pod's or a revision's change concerns: its controller's before and now, or those that may adopt it.
func childChanged[T interface {
	comparable
	metav1.Object
}](c *Controller, old, cur T) {
	var none T
	var before *metav1.OwnerReference
	if old != none {
		before = metav1.GetControllerOfNoCopy(old)
		c.wakeOwner(old.GetNamespace(), before)
	}
	if cur == none {
		return
	}
	now := metav1.GetControllerOfNoCopy(cur)
	switch {
	case now == nil && cur.GetDeletionTimestamp() == nil:
		c.wakeAdopters(cur.GetNamespace(), cur.GetLabels())
	case now != nil && (before == nil || before.UID != now.UID):
		c.wakeOwner(cur.GetNamespace(), now)
	}
}

func (c *Controller) wakeOwner(namespace string, ref *metav1.OwnerReference) {
	if ref == nil || ref.Kind != kind.Kind {
		return
	}
	if set, err := c.sets.DaemonSets(namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
		c.wakeSpaced(set)
	}
}

func (c *Controller) wakeAdopters(namespace string, of map[string]string) {
	sets, err := c.sets.DaemonSets(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		if selector, ok := selectorOf(set); ok && selector.Matches(labels.Set(of)) {
			c.loop.AddObject(set)
		}
	}
}

// nodeChanged wakes the sets that look at a node differently than before.
func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if old != nil && cur != nil && apiequality.Semantic.DeepEqual(old.Labels, cur.Labels) && apiequality.Semantic.DeepEqual(old.Spec.Taints, cur.Spec.Taints) {
		return
	}
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		p := placementOf(set)
		var was, is [2]bool
		if old != nil {
			was[0], was[1] = p.on(old)
		}
		if cur != nil {
			is[0], is[1] = p.on(cur)
		}
		if was != is {
			c.wakeSpaced(set)
		}
	}
}

func selectorOf(set *appsv1.DaemonSet) (labels.Selector, bool) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	return selector, err == nil && !selector.Empty()
}

func (c *Controller) sync(ctx context.Context, key string) error {
	wait := max(c.lag.Behind(key), c.setLag.Behind(key), c.history.Behind(key)) // before anything is read, so that what is read is as new
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	set, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.lag.Forget(key)
		c.setLag.Forget(key)
		c.history.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait > 0 {
		c.loop.AddAfter(key, wait) // the informer's next event comes long before
		return nil
	}
	selector, ok := selectorOf(set)
	if !ok {
		c.events.Event(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if set.DeletionTimestamp != nil {
		return nil
	}
	return c.serve(ctx, key, set, selector)
}

// serve brings one set closer to what it asks for.
func (c *Controller) serve(ctx context.Context, key string, set *appsv1.DaemonSet, selector labels.Selector) error {
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	h, err := c.history.Sync(ctx, history.Workload{
		Key: key, Object: set, Selector: selector, Template: &set.Spec.Template, Collisions: set.Status.CollisionCount, Live: live,
	})
	if err != nil {
		return pods.IgnoreEnd(err)
	}
	owned, err := c.claim(ctx, set, selector, live)
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	s := snapshot{
		set: set, nodes: nodes, pods: pods.MarkDoomed(c.lag, key, owned, c.clock.Now()), updated: updated(set, h), collisions: h.Collisions, now: c.clock.Now(),
		backoff: func(node string) time.Duration { return c.backoff.wait(backoffKey(set, node), c.clock.Now()) },
	}
	p := decide(s)
	if p.again > 0 {
		c.loop.AddAfter(key, p.again)
	}
	failure := c.act(ctx, key, set, hashOf(h.Current), p)
	return errors.Join(failure, c.updateStatus(ctx, key, set, p.status), c.truncate(ctx, s, h))
}

// updated tells pods of the present template from others. Equal revisions, as adoption can bring them, stand for one template; so
// does the generation that former versions counted.
func updated(set *appsv1.DaemonSet, h history.History) func(*corev1.Pod) bool {
	hashes := map[string]bool{}
	for _, r := range h.Same {
		hashes[hashOf(r)] = true
	}
	generation, counted := generationOf(set)
	return func(pod *corev1.Pod) bool {
		return hashes[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] || counted && pod.Labels[templateGeneration] == generation
	}
}

// hashOf is what pods of a revision are marked with.
func hashOf(r *appsv1.ControllerRevision) string {
	if hash := r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; hash != "" {
		return hash
	}
	return r.Name
}

// backoffKey lets every template start afresh on every node.
func backoffKey(set *appsv1.DaemonSet, node string) string {
	return string(set.UID) + "/" + strconv.FormatInt(set.Generation, 10) + "/" + node
}

// claim gives the pods of the set, ended and terminating ones among them.
func (c *Controller) claim(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*corev1.Pod, error) {
	candidates := append(pods.Of(c.pods, set.UID), pods.Orphans(c.pods, set.Namespace)...)
	return owner.Claim(ctx, owner.Claimer{
		Owner: set, Kind: kind, Selector: selector, Live: live,
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			_, err := c.client.CoreV1().Pods(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}, candidates)
}

// truncate removes the oldest revisions that no pod runs, beyond the history limit.
func (c *Controller) truncate(ctx context.Context, s snapshot, h history.History) error {
	live := map[string]bool{hashOf(h.Current): true}
	for _, pod := range s.pods {
		live[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	return c.history.Remove(ctx, history.Excess(h.All, func(r *appsv1.ControllerRevision) bool { return live[hashOf(r)] }, s.set.Spec.RevisionHistoryLimit))
}

// updateStatus writes the status if it has changed.
func (c *Controller) updateStatus(ctx context.Context, key string, set *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if apiequality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	written := *set // a shallow copy: only status is replaced
	written.Status = status
	is, err := c.client.AppsV1().DaemonSets(set.Namespace).UpdateStatus(ctx, &written, metav1.UpdateOptions{})
	if err == nil {
		c.setLag.Wrote(key, is.ResourceVersion)
	}
	return err
}
