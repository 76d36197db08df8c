package nodelifecycle

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Eviction deletes pods from nodes with NoExecute taints that they do not, or no longer, tolerate. It serves anyone's taints.
type Eviction struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	lister corelisters.PodLister
	pods   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	loop   *loop.Loop

	mu sync.Mutex
	// seen is since when each NoExecute taint of a node counts: this process saw it come, or it was there before and says when it came.
	seen map[string]map[string]time.Time
	// due are the pods that a timer runs for.
	due map[string]bool
}

// NewEviction makes the controller.
func NewEviction(e env.Env) (*Eviction, error) {
	core := e.Informers.Core().V1()
	informer := core.Pods().Informer()
	if err := pods.IndexByNode(informer); err != nil {
		return nil, err
	}
	c := &Eviction{
		client: e.Client, nodes: core.Nodes().Lister(), lister: core.Pods().Lister(), pods: informer.GetIndexer(), events: e.Recorder("taint-eviction-controller"), clock: e.Clock,
		seen: map[string]map[string]time.Time{}, due: map[string]bool{},
	}
	c.loop = e.Loop(loop.Config{Name: "tainteviction", Sync: c.sync, Workers: 8})
	loop.On(c.loop, core.Nodes().Informer(), c.nodeChanged)
	loop.On(c.loop, informer, c.podChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Eviction) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// noExecute are the node's taints that evict.
func noExecute(node *corev1.Node) []corev1.Taint {
	var list []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			list = append(list, t)
		}
	}
	return list
}

func (c *Eviction) nodeChanged(old, cur *corev1.Node) {
	var before, after []corev1.Taint
	name := ""
	if old != nil {
		before, name = noExecute(old), old.Name
	}
	if cur != nil {
		after, name = noExecute(cur), cur.Name
	}
	if slices.EqualFunc(before, after, func(a, b corev1.Taint) bool {
		return a.MatchTaint(&b) && a.Value == b.Value && a.TimeAdded.Equal(b.TimeAdded)
	}) {
		return
	}
	c.note(name, after, old != nil)
	if cur == nil {
		return
	}
	for _, pod := range pods.On(c.pods, name) {
		c.loop.AddObject(pod)
	}
}

// taintID tells a taint from one that took its place.
func taintID(t *corev1.Taint) string {
	if t.TimeAdded == nil {
		return t.ToString()
	}
	return t.ToString() + t.TimeAdded.UTC().Format(time.RFC3339)
}

// note remembers since when each of the node's taints counts. Of those that came while the node was watched that is now, whatever clock
// they were dated by; of others it is their date, so that a restart gives no pod more time.
func (c *Eviction) note(node string, list []corev1.Taint, watched bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.seen[node]
	delete(c.seen, node)
	for i := range list {
		if c.seen[node] == nil {
			c.seen[node] = map[string]time.Time{}
		}
		id := taintID(&list[i])
		at, known := before[id]
		if !known {
			at = c.clock.Now()
			if added := list[i].TimeAdded; !watched && added != nil && added.Time.Before(at) {
				at = added.Time
			}
		}
		c.seen[node][id] = at
	}
}

func (c *Eviction) firstSeen(node string) map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.seen[node])
}

func (c *Eviction) podChanged(old, cur *corev1.Pod) {
	if cur == nil {
		c.setDue(old.Namespace+"/"+old.Name, false)
		return
	}
	if cur.Spec.NodeName == "" || old != nil && old.Spec.NodeName == cur.Spec.NodeName && len(old.Spec.Tolerations) == len(cur.Spec.Tolerations) {
		return // tolerations can only be added to
	}
	if node, err := c.nodes.Get(cur.Spec.NodeName); err == nil && len(noExecute(node)) == 0 {
		return
	}
	c.loop.AddObject(cur)
}

// setDue notes whether a timer runs for the pod, and tells whether one did.
func (c *Eviction) setDue(key string, due bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.due[key]
	if due {
		c.due[key] = true
	} else {
		delete(c.due, key)
	}
	return was
}

func (c *Eviction) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	pod, err := c.lister.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pods.Terminal(pod) || pod.Spec.NodeName == "") {
		c.setDue(key, false)
		return nil
	}
	if err != nil {
		return err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // the pod garbage collector's case
	}
	if err != nil {
		return err
	}
	wait, evicted := untilEviction(pod, noExecute(node), c.firstSeen(node.Name), c.clock.Now())
	switch {
	case !evicted:
		if c.setDue(key, false) {
			c.events.Eventf(podReference(pod), corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return nil
	case wait > 0:
		c.setDue(key, true)
		c.loop.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, key, pod)
}

// untilEviction is how long the pod still tolerates the taints; evicted is false when it does for ever. The shortest of its times counts, from
// when the taint was seen or the pod bound, whichever is later. It is pure.
func untilEviction(pod *corev1.Pod, list []corev1.Taint, seen map[string]time.Time, now time.Time) (wait time.Duration, evicted bool) {
	var bound time.Time
	if c := pods.Condition(pod, corev1.PodScheduled); c != nil {
		bound = c.LastTransitionTime.Time
	}
	for i := range list {
		seconds, forever, tolerated := toleration(pod, &list[i])
		if !tolerated {
			return 0, true
		}
		if forever {
			continue
		}
		start, known := seen[taintID(&list[i])]
		if !known { // the node's event is still on its way, and will bring the pod back
			start = now
		}
		if bound.After(start) {
			start = bound
		}
		left := max(0, start.Add(time.Duration(seconds)*time.Second).Sub(now))
		if !evicted || left < wait {
			wait, evicted = left, true
		}
	}
	return wait, evicted
}

// toleration is the first of the pod's tolerations of a taint.
func toleration(pod *corev1.Pod, taint *corev1.Taint) (seconds int64, forever, tolerated bool) {
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		if !t.ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		if t.TolerationSeconds == nil {
			return 0, true, true
		}
		return max(0, *t.TolerationSeconds), false, true
	}
	return 0, false, false
}

func (c *Eviction) evict(ctx context.Context, key string, pod *corev1.Pod) error {
	c.events.Eventf(podReference(pod), corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	if have := pods.Condition(pod, corev1.DisruptionTarget); have == nil || have.Status != corev1.ConditionTrue {
		err := pods.PatchStatus(ctx, c.client, pod, "", corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
			LastTransitionTime: metav1.NewTime(c.clock.Now()),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return err // a conflict with another by the same name ends when that is seen
	}
	c.setDue(key, false)
	return nil
}

func podReference(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}
