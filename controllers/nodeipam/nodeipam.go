// Package nodeipam gives every node its own range of the cluster's pod addresses.
//
// Invariant: no two nodes ever have overlapping ranges: all ranges in use are known before the first is given out, a range is taken before it is
// written, and only its node's deletion frees it.
package nodeipam

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller serves nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	events record.EventRecorder
	loop   *loop.Loop

	mu     sync.Mutex
	ranges *ranges
}

// New makes the controller. Each node gets a range of prefix length bits out of cluster.
func New(e env.Env, cluster netip.Prefix, bits int) (*Controller, error) {
	r, err := newRanges(cluster, bits)
	if err != nil {
		return nil, err
	}
	informer := e.Informers.Core().V1().Nodes()
	c := &Controller{client: e.Client, nodes: informer.Lister(), events: e.Recorder("cidrAllocator"), ranges: r}
	c.loop = e.Loop(loop.Config{Name: "nodeipam", Sync: c.sync, Workers: 1})
	loop.On(c.loop, informer.Informer(), c.nodeChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if cur != nil && cur.Spec.PodCIDR != "" {
		if old == nil || old.Spec.PodCIDR == "" {
			c.occupy(cur)
		}
		return
	}
	if cur != nil {
		c.loop.Add(cur.Name)
		return
	}
	if c.release(old.UID) {
		c.wakeWaiting() // one that found no range may find one now
	}
}

func (c *Controller) occupy(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cidr := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			c.ranges.occupy(p, ownerOf(node))
		}
	}
}

func (c *Controller) release(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges.release(uid)
}

func (c *Controller) take(node *corev1.Node) (netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges.take(ownerOf(node))
}

func ownerOf(node *corev1.Node) owner { return owner{node.UID, node.Name} }

func (c *Controller) wakeWaiting() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		if node.Spec.PodCIDR == "" {
			c.loop.Add(node.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	node, err := c.nodes.Get(key)
	if apierrors.IsNotFound(err) || err == nil && node.Spec.PodCIDR != "" {
		return nil
	}
	if err != nil {
		return err
	}
	cidr, ok := c.take(node)
	if !ok {
		c.events.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", node.Name)
		return nil // a node's deletion wakes this one
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": cidr.String(), "podCIDRs": []string{cidr.String()}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		c.release(node.UID) // the node is gone, and its deletion may have been seen before the range was taken
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
