// Package nodettl tells agents how long they may go on with the Secrets and ConfigMaps that they have read: the larger the cluster,
// the longer, by the annotation node.alpha.kubernetes.io/ttl.
//
// Invariant: a node is written only where its annotation is another one; a cluster whose size wavers around a limit stays on one side.
package nodettl

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// step is a size of clusters, in nodes, and its time in seconds. Steps overlap: one is left upwards beyond most, downwards below least.
type step struct{ least, most, seconds int }

// steps are upstream's.
var steps = []step{{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, 1<<31 - 1, 300}}

// next is the step of a cluster that has been at one and has count nodes now. It is pure.
func next(at, count int) int {
	for count > steps[at].most {
		at++
	}
	for count < steps[at].least {
		at--
	}
	return at
}

// Controller keeps the annotation.
type Controller struct {
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	indexer cache.Indexer
	loop    *loop.Loop

	mu sync.Mutex
	// count is how many nodes there are, at the step of such clusters.
	count, at int
}

// New makes the controller.
func New(e env.Env) *Controller {
	nodes := e.Informers.Core().V1().Nodes()
	c := &Controller{client: e.Client, nodes: nodes.Lister(), indexer: nodes.Informer().GetIndexer()}
	c.loop = e.Loop(loop.Config{Name: "ttl", Sync: c.sync, Workers: 2})
	loop.On(c.loop, nodes.Informer(), func(old, cur *corev1.Node) {
		switch {
		case old == nil:
			c.resize(1)
		case cur == nil:
			c.resize(-1)
		}
		if cur != nil && (old == nil || old.Annotations[corev1.ObjectTTLAnnotationKey] != cur.Annotations[corev1.ObjectTTLAnnotationKey]) {
			c.loop.Add(cur.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// resize notes that there are more or fewer nodes, and looks at all of them where the cluster has come to another step.
func (c *Controller) resize(by int) {
	c.mu.Lock()
	before := c.at
	c.count += by
	c.at = next(before, c.count)
	moved := c.at != before
	c.mu.Unlock()
	if !moved {
		return
	}
	for _, name := range c.indexer.ListKeys() {
		c.loop.Add(name)
	}
}

func (c *Controller) seconds() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strconv.Itoa(steps[c.at].seconds)
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) || err == nil && node.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	want := c.seconds()
	if node.Annotations[corev1.ObjectTTLAnnotationKey] == want {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID, "annotations": map[string]string{corev1.ObjectTTLAnnotationKey: want}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
