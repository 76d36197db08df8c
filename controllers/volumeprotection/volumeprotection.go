// Package volumeprotection keeps storage that is in use from going: claims that pods use, volumes that are bound, and attribute classes that
// either names. A finalizer holds each until nobody uses it.
//
// Invariant: a claim's or a class's finalizer is taken off only after a look at the live objects showed no user.
package volumeprotection

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// The finalizers.
const (
	ClaimFinalizer  = "kubernetes.io/pvc-protection"
	VolumeFinalizer = "kubernetes.io/pv-protection"
	ClassFinalizer  = "kubernetes.io/vac-protection"
)

// Controller holds and lets go claims, volumes and classes, each kind with a loop of its own.
type Controller struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.VolumeAttributesClassLister

	claimLoop, volumeLoop, classLoop *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	core, storage := e.Informers.Core().V1(), e.Informers.Storage().V1()
	c := &Controller{
		client: e.Client, claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		classes: storage.VolumeAttributesClasses().Lister(),
	}
	c.claimLoop = e.Loop(loop.Config{Name: "pvcprotection", Sync: c.syncClaim, Workers: 2})
	c.volumeLoop = e.Loop(loop.Config{Name: "pvprotection", Sync: c.syncVolume, Workers: 1})
	c.classLoop = e.Loop(loop.Config{Name: "vacprotection", Sync: c.syncClass, Workers: 1})
	loop.On(c.claimLoop, core.PersistentVolumeClaims().Informer(), func(_, cur *corev1.PersistentVolumeClaim) {
		if cur != nil && waits(&cur.ObjectMeta, ClaimFinalizer) {
			c.claimLoop.AddObject(cur)
		}
	})
	loop.On(c.claimLoop, core.Pods().Informer(), c.podChanged)
	loop.On(c.volumeLoop, core.PersistentVolumes().Informer(), func(_, cur *corev1.PersistentVolume) {
		if cur != nil && waits(&cur.ObjectMeta, VolumeFinalizer) {
			c.volumeLoop.Add(cur.Name)
		}
	})
	loop.On(c.classLoop, storage.VolumeAttributesClasses().Informer(), func(_, cur *storagev1.VolumeAttributesClass) {
		if cur != nil && waits(&cur.ObjectMeta, ClassFinalizer) {
			c.classLoop.Add(cur.Name)
		}
	})
	loop.On(c.classLoop, core.PersistentVolumeClaims().Informer(), func(old, _ *corev1.PersistentVolumeClaim) { c.classesLeft(claimClasses(old)) })
	loop.On(c.classLoop, core.PersistentVolumes().Informer(), func(old, _ *corev1.PersistentVolume) { c.classesLeft(volumeClasses(old)) })
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return run.All(ctx, c.claimLoop.Run, c.volumeLoop.Run, c.classLoop.Run)
}

// waits reports whether there is something to do: the finalizer is missing on an object that stays, or holds one that is to go.
func waits(m *metav1.ObjectMeta, finalizer string) bool {
	return slices.Contains(m.Finalizers, finalizer) == (m.DeletionTimestamp != nil)
}

// without is the finalizers but for one.
func without(finalizers []string, finalizer string) []string {
	return slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool { return f == finalizer })
}

// turn gives an object the finalizer, or takes it off one that is to go.
func turn(m *metav1.ObjectMeta, finalizer string) {
	if m.DeletionTimestamp != nil {
		m.Finalizers = without(m.Finalizers, finalizer)
	} else {
		m.Finalizers = append(slices.Clone(m.Finalizers), finalizer)
	}
}

// done makes the end of an object the end of the work on it.
func done(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// podChanged wakes the claims that a pod has let go: it is gone, or it never came to a node.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old == nil || cur != nil && cur.UID == old.UID && cur.Spec.NodeName != "" && !shutDown(cur) {
		return
	}
	for i := range old.Spec.Volumes {
		if name := claimName(old, &old.Spec.Volumes[i]); name != "" {
			c.claimLoop.Add(old.Namespace + "/" + name)
		}
	}
}

// claimName is the claim that a volume of the pod is, by name or made for the pod; empty for others.
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// shutDown reports whether nothing of the pod runs any more and only its object is left.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

// uses reports whether a pod uses the claim: pods without a node do not, for none is started with a claim that is to go.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		switch {
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ClaimName == claim.Name
		case v.Ephemeral != nil:
			return !shutDown(pod) && claimName(pod, &v) == claim.Name && metav1.IsControlledBy(claim, pod)
		}
		return false
	})
}

func (c *Controller) syncClaim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil || !waits(&claim.ObjectMeta, ClaimFinalizer) {
		return done(err)
	}
	if claim.DeletionTimestamp != nil {
		pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil || slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return uses(&p, claim) }) {
			return err
		}
	}
	changed := claim.DeepCopy()
	turn(&changed.ObjectMeta, ClaimFinalizer)
	_, err = c.client.CoreV1().PersistentVolumeClaims(namespace).Update(ctx, changed, metav1.UpdateOptions{})
	return done(err)
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	volume, err := c.volumes.Get(name)
	if err != nil || !waits(&volume.ObjectMeta, VolumeFinalizer) {
		return done(err)
	}
	if volume.DeletionTimestamp != nil && volume.Status.Phase == corev1.VolumeBound {
		return nil // wakes again when it is released
	}
	changed := volume.DeepCopy()
	turn(&changed.ObjectMeta, VolumeFinalizer)
	_, err = c.client.CoreV1().PersistentVolumes().Update(ctx, changed, metav1.UpdateOptions{})
	return done(err)
}

// claimClasses are the attribute classes that a claim names.
func claimClasses(claim *corev1.PersistentVolumeClaim) []string {
	if claim == nil {
		return nil
	}
	var names []string
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil {
			names = append(names, *name)
		}
	}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	return names
}

func volumeClasses(volume *corev1.PersistentVolume) []string {
	if volume == nil || volume.Spec.VolumeAttributesClassName == nil {
		return nil
	}
	return []string{*volume.Spec.VolumeAttributesClassName}
}

// classesLeft wakes the classes that an object named before it changed or went.
func (c *Controller) classesLeft(names []string) {
	for _, name := range names {
		if name != "" {
			c.classLoop.Add(name)
		}
	}
}

func (c *Controller) syncClass(ctx context.Context, name string) error {
	class, err := c.classes.Get(name)
	if err != nil || !waits(&class.ObjectMeta, ClassFinalizer) {
		return done(err)
	}
	if class.DeletionTimestamp != nil {
		used, err := c.classUsed(ctx, name)
		if err != nil || used {
			return err
		}
	}
	changed := class.DeepCopy()
	turn(&changed.ObjectMeta, ClassFinalizer)
	_, err = c.client.StorageV1().VolumeAttributesClasses().Update(ctx, changed, metav1.UpdateOptions{})
	return done(err)
}

// classUsed looks at the live claims and volumes.
func (c *Controller) classUsed(ctx context.Context, name string) (bool, error) {
	claims, err := c.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(claims.Items, func(o corev1.PersistentVolumeClaim) bool { return slices.Contains(claimClasses(&o), name) }) {
		return true, nil
	}
	volumes, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(volumes.Items, func(o corev1.PersistentVolume) bool { return slices.Contains(volumeClasses(&o), name) }), nil
}
