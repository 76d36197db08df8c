// Package statefulset gives each pod of a StatefulSet a name, an ordinal and storage that outlive it, and changes them in order.
//
// Invariants: there is never a second pod of an ordinal, since its name is taken until the first has gone from the API; a pod is created
// after its claims; in order, a pod is created only while all before it are available, and removed only after all behind it
// are gone; pods below the partition keep their revision, and no update leaves more pods unavailable than it may.
package statefulset

import (
	"context"
	"errors"
	"strings"
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

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// hashLabel is where a revision shows its hash.
const hashLabel = "controller.kubernetes.io/hash"

// pace is how far apart a set is looked at during a burst of changes: a look costs as much as the set has pods, and the more there are, the more
// of their changes fit into one status write.
func pace(set *appsv1.StatefulSet) time.Duration {
	n := max(replicas(set), int(set.Status.Replicas))
	return min(10*time.Millisecond+time.Duration(n)*100*time.Microsecond, 500*time.Millisecond)
}

// Controller serves StatefulSets.
type Controller struct {
	client  kubernetes.Interface
	sets    appslisters.StatefulSetLister
	claims  corelisters.PersistentVolumeClaimLister
	pods    cache.Indexer
	history *history.Keeper
	events  record.EventRecorder
	clock   clock.Clock
	// lag is about pods, claimLag about claims, setLag about the sets themselves.
	lag, claimLag, setLag *loop.Lag
	loop                  *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	sets, claims, podInformer := e.Informers.Apps().V1().StatefulSets(), e.Informers.Core().V1().PersistentVolumeClaims(), e.Informers.Core().V1().Pods().Informer()
	if err := pods.IndexByController(podInformer); err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, sets: sets.Lister(), claims: claims.Lister(), pods: podInformer.GetIndexer(),
		events: e.Recorder("statefulset-controller"), clock: e.Clock,
		lag: loop.NewLag(e.Clock), claimLag: loop.NewLag(e.Clock), setLag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "statefulset", Sync: c.sync})
	loop.On(c.loop, sets.Informer(), c.setChanged)
	loop.On(c.loop, podInformer, c.podChanged)
	loop.On(c.loop, claims.Informer(), c.claimChanged)
	var err error
	c.history, err = history.NewKeeper(e, c.loop, kind, hashLabel, c.revisionChanged)
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// setChanged wakes the set at once, unless only its status has changed, nearly always by this controller.
func (c *Controller) setChanged(old, cur *appsv1.StatefulSet) {
	set := loop.Either(cur, old)
	c.setLag.Saw(set.ResourceVersion)
	if old != nil && cur != nil && old.UID == cur.UID && old.Generation == cur.Generation && (old.DeletionTimestamp == nil) == (cur.DeletionTimestamp == nil) {
		c.wakeSpaced(cur)
		return
	}
	c.loop.AddObject(set)
}

func (c *Controller) wakeSpaced(set *appsv1.StatefulSet) {
	c.loop.AddSpaced(set.Namespace+"/"+set.Name, pace(set))
}

// podChanged wakes the set that controls the pod, and the one that gives the pod's name: it may adopt the pod, or wait for the name.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	pod := loop.Either(cur, old)
	c.lag.Saw(pod.ResourceVersion)
	c.wakeOwners(pod.Namespace, controllers(old, cur))
	parent, _, ok := parentAndOrdinal(pod.Name)
	if ref := metav1.GetControllerOfNoCopy(pod); !ok || ref != nil && ref.Kind == kind.Kind && ref.Name == parent {
		return
	}
	if set, err := c.sets.StatefulSets(pod.Namespace).Get(parent); err == nil {
		c.loop.AddObject(set)
	}
}

// revisionChanged wakes the set that controls the revision, or those that may adopt it.
func (c *Controller) revisionChanged(old, cur *appsv1.ControllerRevision) {
	r := loop.Either(cur, old)
	refs := controllers(old, cur)
	c.wakeOwners(r.Namespace, refs)
	if cur == nil || metav1.GetControllerOfNoCopy(cur) != nil {
		return
	}
	sets, err := c.sets.StatefulSets(r.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		if selector, ok := selectorOf(set); ok && selector.Matches(labels.Set(r.Labels)) {
			c.loop.AddObject(set)
		}
	}
}

// controllers are the owner references to what controlled an object before its change and to what controls it now.
func controllers[T interface {
	comparable
	metav1.Object
}](old, cur T) []*metav1.OwnerReference {
	var none T
	var refs []*metav1.OwnerReference
	for _, obj := range []T{old, cur} {
		if obj == none {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(obj); ref != nil && (len(refs) == 0 || refs[0].UID != ref.UID) {
			refs = append(refs, ref)
		}
	}
	return refs
}

func (c *Controller) wakeOwners(namespace string, refs []*metav1.OwnerReference) {
	for _, ref := range refs {
		if ref.Kind != kind.Kind {
			continue
		}
		if set, err := c.sets.StatefulSets(namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
			c.wakeSpaced(set)
		}
	}
}

// claimChanged wakes the sets that may wait for a claim to appear, to go, or to change owners.
func (c *Controller) claimChanged(old, cur *corev1.PersistentVolumeClaim) {
	claim := loop.Either(cur, old)
	c.claimLag.Saw(claim.ResourceVersion)
	if old != nil && cur != nil && (old.DeletionTimestamp == nil) == (cur.DeletionTimestamp == nil) && apiequality.Semantic.DeepEqual(old.OwnerReferences, cur.OwnerReferences) {
		return
	}
	sets, err := c.sets.StatefulSets(claim.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		for i := range set.Spec.VolumeClaimTemplates {
			if strings.HasPrefix(claim.Name, set.Spec.VolumeClaimTemplates[i].Name+"-"+set.Name+"-") {
				c.wakeSpaced(set)
				break
			}
		}
	}
}

func selectorOf(set *appsv1.StatefulSet) (labels.Selector, bool) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	return selector, err == nil && !selector.Empty()
}

func (c *Controller) sync(ctx context.Context, key string) error {
	wait := max(c.lag.Behind(key), c.claimLag.Behind(key), c.setLag.Behind(key), c.history.Behind(key)) // before anything is read, so that what is read is as new
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
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
		return nil // validation lets none in
	}
	return c.serve(ctx, key, set, selector)
}

func (c *Controller) forget(key string) {
	for _, lag := range []*loop.Lag{c.lag, c.claimLag, c.setLag} {
		lag.Forget(key)
	}
	c.history.Forget(key)
}

// serve brings one set closer to what it asks for.
func (c *Controller) serve(ctx context.Context, key string, set *appsv1.StatefulSet, selector labels.Selector) error {
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	members, err := c.members(ctx, set, selector, live)
	if err != nil {
		return err
	}
	s := snapshot{
		set: set, pods: pods.MarkDoomed(c.lag, key, members, c.clock.Now()), collisions: set.Status.CollisionCount, now: c.clock.Now(),
		current: revision{name: set.Status.CurrentRevision}, update: revision{name: set.Status.UpdateRevision},
		claim: func(name string) *corev1.PersistentVolumeClaim {
			claim, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(name)
			if err != nil {
				return nil // only an unknown name errs
			}
			return claim
		},
	}
	if set.DeletionTimestamp != nil { // its status is all that is left to do
		return c.updateStatus(ctx, key, set, decide(s).status)
	}
	h, err := c.history.Sync(ctx, history.Workload{
		Key: key, Object: set, Selector: selector, Template: &set.Spec.Template, Collisions: set.Status.CollisionCount, Live: live,
	})
	if err != nil {
		return pods.IgnoreEnd(err)
	}
	if err := s.takeRevisions(h); err != nil {
		return err
	}
	p := decide(s)
	if p.again > 0 {
		c.loop.AddAfter(key, p.again)
	}
	failure := c.act(ctx, key, set, p)
	return errors.Join(failure, c.updateStatus(ctx, key, set, p.status), c.truncate(ctx, s, h))
}

// takeRevisions reads the current and the update revision from the history.
func (s *snapshot) takeRevisions(h history.History) error {
	s.collisions, s.update = h.Collisions, revision{name: h.Current.Name, template: &s.set.Spec.Template, same: map[string]bool{}}
	for _, r := range h.Same {
		s.update.same[r.Name] = true
	}
	s.current = s.update
	if r := h.Named(s.set.Status.CurrentRevision); r != nil && !s.update.same[r.Name] {
		template, err := history.Template(r)
		if err != nil {
			return err
		}
		s.current = revision{name: r.Name, template: template}
	}
	return nil
}

// members adopts and releases pods, and gives the set's. A pod whose name the set does not give is none of them.
func (c *Controller) members(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*corev1.Pod, error) {
	var named, others []*corev1.Pod
	for _, pod := range pods.Of(c.pods, set.UID) {
		if memberOf(set, pod) {
			named = append(named, pod)
		} else {
			others = append(others, pod)
		}
	}
	for _, pod := range pods.Orphans(c.pods, set.Namespace) {
		if memberOf(set, pod) {
			named = append(named, pod)
		}
	}
	claimer := owner.Claimer{
		Owner: set, Kind: kind, Selector: selector, Live: live,
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			_, err := c.client.CoreV1().Pods(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	members, err := owner.Claim(ctx, claimer, named)
	claimer.Selector = labels.Nothing()
	_, released := owner.Claim(ctx, claimer, others)
	return members, errors.Join(err, released)
}

// truncate removes the oldest revisions that no pod runs, beyond the history limit.
func (c *Controller) truncate(ctx context.Context, s snapshot, h history.History) error {
	live := map[string]bool{s.current.name: true, s.update.name: true}
	for _, pod := range s.pods {
		live[revisionOf(pod)] = true
	}
	return c.history.Remove(ctx, history.Excess(h.All, func(r *appsv1.ControllerRevision) bool { return live[r.Name] }, s.set.Spec.RevisionHistoryLimit))
}

// updateStatus writes the status if it has changed.
func (c *Controller) updateStatus(ctx context.Context, key string, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if apiequality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	updated := *set // a shallow copy: only status is replaced
	updated.Status = status
	written, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, &updated, metav1.UpdateOptions{})
	if err == nil {
		c.setLag.Wrote(key, written.ResourceVersion)
	}
	return err
}
