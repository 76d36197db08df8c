// Package attachdetach has the volumes of CSI drivers attached to the nodes whose pods need them, and detached when none does. It makes and removes
// VolumeAttachments, which the drivers' attachers carry out, and tells each node which of its volumes are attached.
//
// Invariants: a volume for one node at a time is not asked to be attached to a second one; a volume is detached only once its node has let go of it, unless
// the node is gone, declared out of service, or has not been ready for six minutes; the node is told first. Attachments made by others are left alone.
package attachdetach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller attaches and detaches; its keys are nodes.
type Controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	clock   clock.Clock
	nodes   corelisters.NodeLister
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	drivers storagelisters.CSIDriverLister
	pods    cache.Indexer
	vas     cache.Indexer
	loop    *loop.Loop

	mu sync.Mutex
	// unwanted is, per node, since when attachments have not been wanted. After a restart the wait begins anew.
	unwanted map[string]map[string]time.Time
	// made are attachments that were asked for and that the informer has not shown yet.
	made map[string]*storagev1.VolumeAttachment
	// told are, per node, the events told of volumes that are not attached yet.
	told map[string]map[telling]bool
}

// telling is an event told to a pod of a volume.
type telling struct {
	pod    types.UID
	volume string
	what   string
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core, storage := e.Informers.Core().V1(), e.Informers.Storage().V1()
	podInformer, vas := core.Pods().Informer(), storage.VolumeAttachments().Informer()
	err := errors.Join(pods.IndexByNode(podInformer), pods.IndexByClaim(podInformer), indexAttachments(vas))
	if err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, events: e.Recorder("attachdetach-controller"), clock: e.Clock, nodes: core.Nodes().Lister(),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(), drivers: storage.CSIDrivers().Lister(),
		pods: podInformer.GetIndexer(), vas: vas.GetIndexer(),
		unwanted: map[string]map[string]time.Time{}, made: map[string]*storagev1.VolumeAttachment{}, told: map[string]map[telling]bool{},
	}
	c.loop = e.Loop(loop.Config{Name: "attachdetach", Sync: c.sync, Workers: 1}) // one, lest two nodes get one volume
	loop.On(c.loop, podInformer, c.podChanged)
	loop.On(c.loop, vas, c.attachmentChanged)
	loop.On(c.loop, core.Nodes().Informer(), c.nodeChanged)
	loop.On(c.loop, core.PersistentVolumeClaims().Informer(), c.claimChanged)
	loop.On(c.loop, core.PersistentVolumes().Informer(), c.volumeChanged)
	loop.On(c.loop, storage.CSIDrivers().Informer(), c.driverChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, name string) error {
	s, err := c.look(name)
	if err != nil {
		return err
	}
	p := decide(s)
	if len(p.detach) > 0 { // what the node says of its volumes may be newer than the informer's
		if s.node, err = c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			s.node = nil
		} else if err != nil {
			return err
		}
		p = decide(s)
	}
	c.remember(name, s, p)
	if p.tell {
		if err := c.report(ctx, s.node, p.report); err != nil {
			return err
		}
	}
	var errs []error
	for _, a := range p.detach {
		err := c.client.StorageV1().VolumeAttachments().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(a.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	for _, a := range p.attach {
		errs = append(errs, c.attach(ctx, name, a, s.wants[a]))
	}
	if p.again > 0 {
		c.loop.AddAfter(name, p.again)
	}
	return errors.Join(errs...)
}

// attach asks for a volume to be attached.
func (c *Controller) attach(ctx context.Context, node, name string, w want) error {
	va, err := c.client.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			NodeName: node, Attacher: w.driver(), Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &w.volume.Name},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the informer has not shown it yet
	}
	if err != nil {
		for _, pod := range w.pods {
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %v", w.volume.Name, err)
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, shown, err := c.vas.GetByKey(name); err != nil || !shown {
		c.made[name] = va
	}
	return nil
}

// report tells the node which volumes are attached. Nobody else writes that list.
func (c *Controller) report(ctx context.Context, node *corev1.Node, list []corev1.AttachedVolume) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": list},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil // its end wakes this one again
	}
	return err
}

// message is what a pod is told of one of its volumes.
type message struct {
	telling
	to     *corev1.Pod
	normal bool
	text   string
}

// messages are what the node's pods are to know by now.
func (c *Controller) messages(s snapshot, p plan) (list []message) {
	add := func(w want, what string, normal bool, text func(*corev1.Pod) string) {
		for _, pod := range w.pods {
			list = append(list, message{telling{pod.UID, w.volume.Name, what}, pod, normal, text(pod)})
		}
	}
	for _, a := range p.blocked {
		w := s.wants[a]
		holders := c.holders(w, s.others[a])
		add(w, "blocked", false, func(pod *corev1.Pod) string { return blockedMessage(w.volume.Name, pod, holders) })
	}
	for a, w := range s.wants {
		va := s.attached[a]
		switch {
		case va == nil:
		case va.Status.Attached:
			add(w, "attached", true, func(*corev1.Pod) string {
				return fmt.Sprintf("AttachVolume.Attach succeeded for volume %q ", w.volume.Name)
			})
		case va.Status.AttachError != nil && va.Status.AttachError.Message != "":
			why := va.Status.AttachError.Message
			add(w, why, false, func(*corev1.Pod) string {
				return fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", w.volume.Name, why)
			})
		}
	}
	return list
}

// remember keeps what the next decision about the node needs, and tells its pods what became of their volumes: each thing once.
func (c *Controller) remember(name string, s snapshot, p plan) {
	list, told := c.messages(s, p), map[telling]bool{}
	for _, m := range list {
		told[m.telling] = true
	}
	c.mu.Lock()
	before := c.told[name]
	c.keep(name, p.unwanted, told)
	c.mu.Unlock()
	for _, m := range list {
		switch {
		case before[m.telling]:
		case !m.normal:
			c.events.Event(m.to, corev1.EventTypeWarning, "FailedAttachVolume", m.text)
		case m.to.Status.Phase == corev1.PodPending: // else it was told before this process began
			c.events.Event(m.to, corev1.EventTypeNormal, "SuccessfulAttachVolume", m.text)
		}
	}
}

// keep drops what is empty. It is called with the lock held.
func (c *Controller) keep(name string, unwanted map[string]time.Time, told map[telling]bool) {
	delete(c.unwanted, name)
	delete(c.told, name)
	if len(unwanted) > 0 {
		c.unwanted[name] = unwanted
	}
	if len(told) > 0 {
		c.told[name] = told
	}
}

// holders are the pods that use the volume on the nodes that have it.
func (c *Controller) holders(w want, others []*storagev1.VolumeAttachment) []*corev1.Pod {
	ref := w.volume.Spec.ClaimRef
	if ref == nil {
		return nil
	}
	var list []*corev1.Pod
	for _, pod := range pods.Using(c.pods, ref.Namespace+"/"+ref.Name) {
		for _, a := range others {
			if a.Spec.NodeName == pod.Spec.NodeName && !ended(pod) {
				list = append(list, pod)
			}
		}
	}
	return list
}
