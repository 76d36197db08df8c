// Package localprovisioner makes volumes for claims of classes whose provisioner is coracle.dev/local: folders of the node that the
// claim's first pod goes to. The agent of that node makes the folder and, when the volume goes, removes it.
//
// Invariant: a claim has at most one volume, named after its UID; a volume's object goes only after its node has removed the data, or is
// itself gone.
package localprovisioner

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// Controller provisions, grows and lets go local volumes.
type Controller struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	nodes   corelisters.NodeLister
	events  record.EventRecorder

	claimLoop, volumeLoop *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	core, storage := e.Informers.Core().V1(), e.Informers.Storage().V1()
	c := &Controller{
		client: e.Client, claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		classes: storage.StorageClasses().Lister(), nodes: core.Nodes().Lister(), events: e.Recorder(volumes.LocalProvisioner),
	}
	c.claimLoop = e.Loop(loop.Config{Name: "localprovisioner", Sync: c.syncClaim})
	c.volumeLoop = e.Loop(loop.Config{Name: "localvolume", Sync: c.syncVolume})
	loop.On(c.claimLoop, core.PersistentVolumeClaims().Informer(), func(_, cur *corev1.PersistentVolumeClaim) {
		if cur != nil && cur.Annotations[volumes.StorageProvisioner] == volumes.LocalProvisioner {
			c.claimLoop.AddObject(cur)
		}
	})
	loop.On(c.volumeLoop, core.PersistentVolumes().Informer(), func(_, cur *corev1.PersistentVolume) {
		if cur != nil && cur.Annotations[volumes.ProvisionedBy] == volumes.LocalProvisioner {
			c.volumeLoop.Add(cur.Name)
		}
	})
	loop.On(c.volumeLoop, core.Nodes().Informer(), func(_, cur *corev1.Node) {
		if cur == nil {
			c.wakeLeaving()
		}
	})
	c.claimLoop.Wait(core.PersistentVolumes().Informer())
	c.claimLoop.Wait(core.Nodes().Informer())
	c.claimLoop.Wait(storage.StorageClasses().Informer())
	c.volumeLoop.Wait(core.PersistentVolumeClaims().Informer())
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return run.All(ctx, c.claimLoop.Run, c.volumeLoop.Run)
}

// wakeLeaving looks at the volumes that wait for their nodes: one of these is gone.
func (c *Controller) wakeLeaving() {
	list, err := c.volumes.List(everything)
	if err != nil {
		return // a lister's memory does not fail
	}
	for _, v := range list {
		if v.DeletionTimestamp != nil && slices.Contains(v.Finalizers, volumes.LocalFinalizer) {
			c.volumeLoop.Add(v.Name)
		}
	}
}

// syncClaim makes the volume of a claim that has none, or lets it grow.
func (c *Controller) syncClaim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && claim.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	if claim.Spec.VolumeName != "" {
		return c.grow(ctx, claim)
	}
	name, selected := claim.Annotations[volumes.SelectedNode]
	if _, err := c.volumes.Get(volumeName(claim)); err == nil {
		return nil // it waits to be bound
	}
	class, _ := volumes.ClassOfClaim(claim)
	view := request{claim: claim, selected: selected}
	if view.class, err = c.classes.Get(class); err != nil {
		return ignoreMissing(err)
	}
	if !selected && volumes.Delayed(view.class) {
		return nil // its first pod is yet to come
	}
	if view.node, err = c.nodes.Get(name); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return c.provision(ctx, view)
}

func (c *Controller) provision(ctx context.Context, r request) error {
	v, why := r.volume()
	if why == nil {
		c.events.Eventf(r.claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", r.claim.Namespace+"/"+r.claim.Name)
		_, err := c.client.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
		if err == nil {
			c.events.Eventf(r.claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", v.Name)
		}
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	c.events.Eventf(r.claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", r.class.Name, why.message)
	if !why.elsewhere {
		return nil
	}
	claim := r.claim.DeepCopy()
	delete(claim.Annotations, volumes.SelectedNode) // for the scheduler to choose another
	_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return err
}

// grow gives the volume the size that its claim asks for; the agent of its node holds it to that.
func (c *Controller) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil || claim.Status.Phase != corev1.ClaimBound || v.Annotations[volumes.ProvisionedBy] != volumes.LocalProvisioner || !volumes.Refers(v, claim) {
		return ignoreMissing(err)
	}
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	if want.Cmp(have) > 0 {
		c.events.Eventf(claim, corev1.EventTypeNormal, "Resizing", "External resizer is resizing volume %s", v.Name)
		v = v.DeepCopy()
		v.Spec.Capacity[corev1.ResourceStorage], have = want, want
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if told := claim.Status.Capacity[corev1.ResourceStorage]; told.Cmp(want) >= 0 {
		return nil
	}
	claim = claim.DeepCopy()
	if claim.Status.Capacity == nil {
		claim.Status.Capacity = corev1.ResourceList{}
	}
	claim.Status.Capacity[corev1.ResourceStorage] = have
	if _, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err == nil {
		c.events.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	}
	return err
}

// syncVolume deletes a volume whose claim has gone, and lets one go whose node has.
func (c *Controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if err != nil {
		return ignoreMissing(err)
	}
	api := c.client.CoreV1().PersistentVolumes()
	switch {
	case v.DeletionTimestamp == nil && v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		err = api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &v.UID, ResourceVersion: &v.ResourceVersion}})
	case volumes.LocalLeaves(v) && c.orphaned(v):
		v = v.DeepCopy()
		v.Finalizers = nil
		_, err = api.Update(ctx, v, metav1.UpdateOptions{})
	}
	return ignoreMissing(err)
}

// orphaned tells whether the node is gone that has the volume's data.
func (c *Controller) orphaned(v *corev1.PersistentVolume) bool {
	nodes, err := c.nodes.List(everything)
	return err == nil && !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return volumes.Local(v, n.Name) })
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
