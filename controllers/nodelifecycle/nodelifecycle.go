// Package nodelifecycle notices nodes whose agent has fallen silent: it says so in their conditions, taints them, and evicts their pods
// when those no longer tolerate it.
//
// Invariants: silence is measured by this process' clock from what it has itself seen, so that clocks may differ; lease renewals cost
// no work, for every node has one timer; while no node at all is ready nothing is evicted, as the fault is more likely on this side.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// Controller watches over nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   cache.Indexer
	leases informers.SharedInformerFactory
	events record.EventRecorder
	clock  clock.Clock
	began  time.Time
	grace  time.Duration
	loop   *loop.Loop

	mu sync.Mutex
	// heard is when each node was last heard of, by its lease or its status.
	heard map[string]time.Time
	// pace is, by zone, when the next node may be given up.
	pace map[string]time.Time
}

// New makes the controller. A node silent for grace counts as lost.
func New(e env.Env, grace time.Duration) (*Controller, error) {
	core := e.Informers.Core().V1()
	if err := pods.IndexByNode(core.Pods().Informer()); err != nil {
		return nil, err
	}
	leases := client.Informers(e.Client, informers.WithNamespace(corev1.NamespaceNodeLease))
	c := &Controller{
		client: e.Client, nodes: core.Nodes().Lister(), pods: core.Pods().Informer().GetIndexer(), leases: leases, events: e.Recorder("node-controller"), clock: e.Clock,
		began: e.Clock.Now().Truncate(time.Second), grace: grace, heard: map[string]time.Time{}, pace: map[string]time.Time{},
	}
	c.loop = e.Loop(loop.Config{Name: "nodelifecycle", Sync: c.sync})
	c.loop.Wait(core.Pods().Informer())
	loop.On(c.loop, core.Nodes().Informer(), c.nodeChanged)
	loop.On(c.loop, leases.Coordination().V1().Leases().Informer(), func(_, cur *coordinationv1.Lease) {
		if cur != nil {
			c.hear(cur.Name)
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	watch := func(ctx context.Context) error {
		c.leases.StartWithContext(ctx)
		<-ctx.Done()
		c.leases.Shutdown()
		return nil
	}
	return run.All(ctx, watch, c.loop.Run)
}

func (c *Controller) hear(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[node] = c.clock.Now()
}

func (c *Controller) lastHeard(node string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.heard[node]; !ok {
		c.heard[node] = c.clock.Now()
	}
	return c.heard[node]
}

func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if cur == nil {
		c.mu.Lock()
		delete(c.heard, old.Name)
		c.mu.Unlock()
		c.events.Eventf(old, corev1.EventTypeNormal, "RemovingNode", "Node %[1]s event: Removing Node %[1]s from Controller", old.Name)
		return
	}
	if old == nil && !cur.CreationTimestamp.Time.Before(c.began) {
		c.events.Eventf(cur, corev1.EventTypeNormal, "RegisteredNode", "Node %[1]s event: Registered Node %[1]s in Controller", cur.Name)
	}
	if old == nil || heartbeat(cur).After(heartbeat(old)) {
		c.hear(cur.Name)
	}
	c.loop.Add(cur.Name)
	if old != nil && readiness(old) != readiness(cur) {
		c.readinessChanged(old, cur)
	}
}

func heartbeat(node *corev1.Node) time.Time {
	if ready := condition(node, corev1.NodeReady); ready != nil {
		return ready.LastHeartbeatTime.Time
	}
	return time.Time{}
}

// readinessChanged looks at the zone's other nodes again, for how many are lost decides what is done about each.
func (c *Controller) readinessChanged(old, cur *corev1.Node) {
	if (readiness(old) == corev1.ConditionTrue) == (readiness(cur) == corev1.ConditionTrue) {
		return
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		if readiness(node) != corev1.ConditionTrue {
			c.loop.Add(node.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	node, err := c.nodes.Get(key)
	if apierrors.IsNotFound(err) || err == nil && node.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	now := c.clock.Now()
	wait := untilLost(node, c.lastHeard(key), now, c.grace)
	if wait <= 0 {
		if node, err = c.lose(ctx, node); err != nil {
			return err
		}
		wait = c.grace
	}
	c.loop.AddAfter(key, wait)
	if missing := missingLabels(node); len(missing) > 0 {
		return c.label(ctx, node, missing) // its next version brings it back
	}
	if err := c.taint(ctx, node); err != nil {
		return err
	}
	if readiness(node) == corev1.ConditionTrue || condition(node, corev1.NodeReady) == nil {
		return nil
	}
	return c.markPods(ctx, node)
}

// lose writes that the node is not heard of, and gives it as it is then.
func (c *Controller) lose(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	conditions, changed := markLost(node, metav1.NewTime(c.clock.Now()))
	if !changed {
		return node, nil
	}
	wasReady := readiness(node) == corev1.ConditionTrue
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion}, "status": map[string]any{"conditions": conditions},
	})
	if err != nil {
		return nil, err
	}
	updated, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err == nil && wasReady {
		c.events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return updated, err
}

// label gives the node the labels that older clients know.
func (c *Controller) label(ctx context.Context, node *corev1.Node, missing map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID, "labels": missing}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// taint brings the node's taints in step with its conditions.
func (c *Controller) taint(ctx context.Context, node *corev1.Node) error {
	mode, again := c.mode(node)
	if again > 0 {
		c.loop.AddAfter(node.Name, again)
	}
	list, changed := taints(node, mode, metav1.NewTime(c.clock.Now()))
	if !changed {
		return nil
	}
	if list == nil {
		list = []corev1.Taint{}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion}, "spec": map[string]any{"taints": list},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// mode decides whether a node that is not ready may be given up now, or when to ask again.
func (c *Controller) mode(node *corev1.Node) (mode evict, again time.Duration) {
	if readiness(node) == corev1.ConditionTrue {
		return evictNot, 0
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return evictHold, 0
	}
	zone, anywhere := health{}, false
	for _, n := range all {
		ready := readiness(n) == corev1.ConditionTrue && n.Name != node.Name
		anywhere = anywhere || ready
		if zoneOf(n) != zoneOf(node) {
			continue
		}
		if ready {
			zone.ready++
		} else {
			zone.notReady++
		}
	}
	apart, never := zone.interval(!anywhere)
	switch {
	case !anywhere:
		return evictNot, 0
	case never:
		return evictHold, 0
	case evicting(node):
		return evictNow, 0
	}
	return c.turn(zoneOf(node), apart)
}

// turn lets one node of a zone be given up at a time.
func (c *Controller) turn(zone string, apart time.Duration) (mode evict, again time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	if wait := c.pace[zone].Sub(now); wait > 0 {
		return evictHold, wait
	}
	c.pace[zone] = now.Add(apart)
	return evictNow, 0
}

func evicting(node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable) {
			return true
		}
	}
	return false
}

func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + "/" + node.Labels[corev1.LabelTopologyZone]
}

// markPods shows the pods of a node that is not ready as not ready, so that no service sends to them.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node) error {
	for _, pod := range pods.On(c.pods, node.Name) {
		if !pods.Ready(pod) {
			continue
		}
		was := pods.Condition(pod, corev1.PodReady)
		err := pods.PatchStatus(ctx, c.client, pod, "", corev1.PodCondition{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(c.clock.Now()), Reason: was.Reason, Message: was.Message,
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		c.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
