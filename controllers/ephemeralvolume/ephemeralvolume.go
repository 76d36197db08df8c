// Package ephemeralvolume makes the claims of pods' generic ephemeral volumes. A claim is called after its pod and its volume and belongs to the pod, so that
// the garbage collector takes it away with it.
//
// Invariant: a claim of that name that does not belong to the pod is left alone, and the pod is told of it.
package ephemeralvolume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// Controller makes claims for pods.
type Controller struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	index  cache.Indexer
	claims corelisters.PersistentVolumeClaimLister
	events record.EventRecorder
	loop   *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core := e.Informers.Core().V1()
	if err := pods.IndexByClaim(core.Pods().Informer()); err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, pods: core.Pods().Lister(), index: core.Pods().Informer().GetIndexer(), claims: core.PersistentVolumeClaims().Lister(),
		events: e.Recorder("ephemeral_volume"),
	}
	c.loop = e.Loop(loop.Config{Name: "ephemeralvolume", Sync: c.sync})
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		if cur != nil && (old == nil || old.UID != cur.UID) && wanted(cur) {
			c.loop.AddObject(cur)
		}
	})
	loop.On(c.loop, core.PersistentVolumeClaims().Informer(), func(old, cur *corev1.PersistentVolumeClaim) {
		if cur != nil {
			return
		}
		for _, pod := range pods.Using(c.index, old.Namespace+"/"+old.Name) {
			if wanted(pod) {
				c.loop.AddObject(pod)
			}
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// wanted tells whether the pod is to have claims of its own.
func wanted(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || pods.Terminal(pod) {
		return false
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !wanted(pod) {
		return err
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		if err := c.provide(ctx, pod, v); err != nil {
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // nothing can be created there any more, and the pod is about to go
			}
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// provide makes sure that there is a claim for the volume, and that it is the pod's.
func (c *Controller) provide(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := volumes.ClaimName(pod, v)
	claim, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
	if apierrors.IsNotFound(err) {
		client := c.client.CoreV1().PersistentVolumeClaims(pod.Namespace)
		if claim, err = client.Create(ctx, newClaim(pod, v), metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			claim, err = client.Get(ctx, name, metav1.GetOptions{}) // the informer has not shown it yet
		}
		if err != nil {
			return fmt.Errorf("create PVC %s: %w", name, err)
		}
	}
	if err != nil {
		return err
	}
	if !metav1.IsControlledBy(claim, pod) {
		return fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
	}
	return nil
}

// newClaim is the claim of the pod's volume.
func newClaim(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: volumes.ClaimName(pod, v), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
}
