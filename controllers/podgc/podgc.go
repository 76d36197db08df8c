// Package podgc removes pods that no agent will ever remove: those on nodes that are gone, those that are being deleted and were never
// scheduled or are on a node that is out of service, and the oldest of too many that have ended.
//
// Invariants: a pod counts as lost only after its node has been missing for a while, confirmed by a live read; nothing runs while no
// pod or node changes.
package podgc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

const (
	// quarantine is how long a node must have been missing before its pods are removed.
	quarantine = 40 * time.Second
	// gather is how long a change waits for others before all pods are looked at.
	gather = 2 * time.Second
	// everything is the only key: one look covers all pods.
	everything = "pods"
)

// Controller is the pod garbage collector.
type Controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	nodes     corelisters.NodeLister
	threshold int
	clock     clock.Clock
	loop      *loop.Loop
	// missing is since when nodes that pods are bound to have not been there. Only the one worker reads it.
	missing map[string]time.Time
}

// New makes the controller. More ended pods than threshold are too many; a negative threshold allows any number.
func New(e env.Env, threshold int) *Controller {
	core := e.Informers.Core().V1()
	c := &Controller{client: e.Client, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), threshold: threshold, clock: e.Clock, missing: map[string]time.Time{}}
	c.loop = e.Loop(loop.Config{Name: "podgc", Sync: c.sync, Workers: 1})
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		if cur != nil && c.concerns(old, cur) {
			c.loop.AddAfter(everything, gather)
		}
	})
	loop.On(c.loop, core.Nodes().Informer(), func(old, cur *corev1.Node) {
		if cur == nil || outOfService(cur) && (old == nil || !outOfService(old)) {
			c.loop.AddAfter(everything, gather)
		}
	})
	return c
}

// outOfService tells whether somebody has said of a node that is not ready that it is shut down.
func outOfService(node *corev1.Node) bool {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// concerns tells whether a pod's change may make it, or another, superfluous.
func (c *Controller) concerns(old, cur *corev1.Pod) bool {
	switch {
	case cur.DeletionTimestamp != nil && cur.Spec.NodeName == "":
		return true
	case cur.DeletionTimestamp != nil && (old == nil || old.DeletionTimestamp == nil):
		node, err := c.nodes.Get(cur.Spec.NodeName)
		return apierrors.IsNotFound(err) || err == nil && outOfService(node)
	case pods.Terminal(cur) && (old == nil || !pods.Terminal(old)):
		return c.threshold >= 0
	case cur.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == ""):
		_, err := c.nodes.Get(cur.Spec.NodeName)
		return apierrors.IsNotFound(err)
	}
	return false
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, _ string) error {
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	lost, again, err := c.lostNodes(ctx, all)
	if err != nil {
		return err
	}
	if again > 0 {
		c.loop.AddAfter(everything, again)
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	shut := map[string]bool{}
	for _, node := range nodes {
		if outOfService(node) {
			shut[node.Name] = true
		}
	}
	var errs []error
	for _, r := range decide(all, lost, shut, c.threshold) {
		errs = append(errs, c.remove(ctx, r))
	}
	return errors.Join(errs...)
}

// lostNodes are the nodes that have been missing for the quarantine, and are still when asked for live. Again is how
// long until another's quarantine ends.
func (c *Controller) lostNodes(ctx context.Context, all []*corev1.Pod) (lost map[string]bool, again time.Duration, err error) {
	lost, now := map[string]bool{}, c.clock.Now()
	still := map[string]time.Time{}
	for _, pod := range all {
		name := pod.Spec.NodeName
		if _, seen := still[name]; name == "" || seen {
			continue
		}
		if _, err := c.nodes.Get(name); !apierrors.IsNotFound(err) {
			continue
		}
		since, known := c.missing[name]
		if !known {
			since = now
		}
		still[name] = since
		if left := quarantine - now.Sub(since); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, 0, err
		}
		lost[name] = err != nil
	}
	c.missing = still
	return lost, again, nil
}

// removal is a pod to remove; message tells in its status that it was disrupted, and is empty where it was not.
type removal struct {
	pod     *corev1.Pod
	message string
}

// decide says which pods to remove: of nodes that are lost, and of those that are shut what is being deleted. It is pure.
func decide(all []*corev1.Pod, lost, shut map[string]bool, threshold int) []removal {
	var list []removal
	var ended []*corev1.Pod
	for _, pod := range all {
		switch {
		case lost[pod.Spec.NodeName]:
			list = append(list, removal{pod, "PodGC: node no longer exists"})
		case pod.DeletionTimestamp != nil && (pod.Spec.NodeName == "" || shut[pod.Spec.NodeName]):
			list = append(list, removal{pod: pod})
		case pods.Terminal(pod) && pod.DeletionTimestamp == nil:
			ended = append(ended, pod)
		}
	}
	excess := len(ended) - threshold
	if threshold < 0 || excess <= 0 {
		return list
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(evicted(a), evicted(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range ended[:excess] {
		list = append(list, removal{pod: pod})
	}
	return list
}

// evicted orders pods that were evicted before others: they have left nothing to look at.
func evicted(pod *corev1.Pod) int {
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted" {
		return 0
	}
	return 1
}

func (c *Controller) remove(ctx context.Context, r removal) error {
	if !pods.Terminal(r.pod) {
		if err := c.fail(ctx, r); err != nil {
			return err
		}
	}
	err := c.client.CoreV1().Pods(r.pod.Namespace).Delete(ctx, r.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(r.pod.UID)),
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err // a conflict with another by the same name ends when that is seen
}

// fail marks a pod as failed before it is removed, so that whoever counts on it learns of its end, and that it was disrupted if it was.
func (c *Controller) fail(ctx context.Context, r removal) error {
	var err error
	if r.message == "" {
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"resourceVersion":%q},"status":{"phase":"Failed"}}`, r.pod.UID, r.pod.ResourceVersion)
		_, err = c.client.CoreV1().Pods(r.pod.Namespace).Patch(ctx, r.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	} else {
		err = pods.PatchStatus(ctx, c.client, r.pod, corev1.PodFailed, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: r.message, LastTransitionTime: metav1.NewTime(c.clock.Now()),
		})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
