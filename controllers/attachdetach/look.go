package attachdetach

import (
	"maps"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/volumes"
)

const (
	byNode   = "coracle/node"
	byVolume = "coracle/volume"
)

func indexAttachments(informer cache.SharedIndexInformer) error {
	return informer.AddIndexers(cache.Indexers{
		byNode: func(obj any) ([]string, error) {
			if a, ok := obj.(*storagev1.VolumeAttachment); ok {
				return []string{a.Spec.NodeName}, nil
			}
			return nil, nil
		},
		byVolume: func(obj any) ([]string, error) {
			if a, ok := obj.(*storagev1.VolumeAttachment); ok && a.Spec.Source.PersistentVolumeName != nil {
				return []string{*a.Spec.Source.PersistentVolumeName}, nil
			}
			return nil, nil
		},
	})
}

func (c *Controller) attachments(index, value string) []*storagev1.VolumeAttachment {
	objs, err := c.vas.ByIndex(index, value)
	if err != nil {
		return nil // only an unknown index errs
	}
	var list []*storagev1.VolumeAttachment
	for _, obj := range objs {
		if a, ok := obj.(*storagev1.VolumeAttachment); ok {
			list = append(list, a)
		}
	}
	return list
}

// look gathers what a decision about the node rests on.
func (c *Controller) look(name string) (snapshot, error) {
	s := snapshot{
		name: name, wants: map[string]want{}, attached: map[string]*storagev1.VolumeAttachment{}, others: map[string][]*storagev1.VolumeAttachment{}, now: c.clock.Now(),
	}
	var err error
	if s.node, err = c.nodes.Get(name); err != nil && !apierrors.IsNotFound(err) {
		return s, err
	}
	for _, a := range c.attachments(byNode, name) {
		if c.mine(a) {
			s.attached[a.Name] = a
		}
	}
	for _, pod := range pods.On(c.pods, name) {
		if err := c.addWants(&s, pod); err != nil {
			return s, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, w := range s.wants {
		for _, a := range c.attachments(byVolume, w.volume.Name) {
			if a.Spec.NodeName != name {
				s.others[key] = append(s.others[key], a)
			}
		}
		for _, a := range c.made {
			if a.Spec.NodeName != name && *a.Spec.Source.PersistentVolumeName == w.volume.Name {
				s.others[key] = append(s.others[key], a)
			}
		}
	}
	s.unwanted = maps.Clone(c.unwanted[name])
	return s, nil
}

// generated is the form of the names of attachments that controllers make; only for volumes that are gone does it have to do.
var generated = regexp.MustCompile(`^csi-[0-9a-f]{64}$`)

// mine tells whether an attachment bears the name that this controller gives: others may be made by hand.
func (c *Controller) mine(a *storagev1.VolumeAttachment) bool {
	if a.Spec.Source.PersistentVolumeName == nil {
		return false
	}
	v, err := c.volumes.Get(*a.Spec.Source.PersistentVolumeName)
	if err != nil || v.Spec.CSI == nil {
		return generated.MatchString(a.Name)
	}
	return a.Name == volumes.AttachmentName(v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle, a.Spec.NodeName)
}

// ended tells whether nothing of the pod needs its volumes any more.
func ended(pod *corev1.Pod) bool {
	running := len(pod.Status.ContainerStatuses) == 0 || slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Terminated == nil
	})
	return pods.Terminal(pod) || pod.DeletionTimestamp != nil && !running
}

// addWants adds the volumes that the pod needs attached.
func (c *Controller) addWants(s *snapshot, pod *corev1.Pod) error {
	if ended(pod) {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v, err := c.volumeOf(pod, &pod.Spec.Volumes[i])
		if err != nil {
			return err
		}
		if v == nil || v.Spec.CSI == nil {
			continue
		}
		needs, err := c.attaches(v.Spec.CSI.Driver)
		if err != nil {
			return err
		}
		if needs {
			name := volumes.AttachmentName(v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle, s.name)
			s.wants[name] = want{v, append(s.wants[name].pods, pod)}
		}
	}
	return nil
}

// volumeOf is the persistent volume behind one of a pod's volumes; nil for other volumes, and until the claim is bound.
func (c *Controller) volumeOf(pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error) {
	name := volumes.ClaimName(pod, v)
	if name == "" {
		return nil, nil
	}
	claim, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil || claim.Status.Phase != corev1.ClaimBound || v.Ephemeral != nil && !metav1.IsControlledBy(claim, pod) {
		return nil, err
	}
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return volume, err
}

// attaches tells whether the driver's volumes have to be attached: all are that do not say otherwise.
func (c *Controller) attaches(driver string) (bool, error) {
	d, err := c.drivers.Get(driver)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && (d.Spec.AttachRequired == nil || *d.Spec.AttachRequired), err
}

// podChanged wakes the node of a pod with claims that comes, ends or goes.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old != nil && cur != nil && old.Spec.NodeName == cur.Spec.NodeName && ended(old) == ended(cur) {
		return
	}
	for _, pod := range []*corev1.Pod{old, cur} {
		if pod != nil && pod.Spec.NodeName != "" && len(pods.Claims(pod)) > 0 {
			c.loop.Add(pod.Spec.NodeName)
		}
	}
}

// attachmentChanged wakes the attachment's node, and, when it is gone, the nodes that wait for its volume.
func (c *Controller) attachmentChanged(old, cur *storagev1.VolumeAttachment) {
	c.mu.Lock()
	for _, a := range []*storagev1.VolumeAttachment{old, cur} {
		if a != nil {
			delete(c.made, a.Name)
		}
	}
	c.mu.Unlock()
	if cur != nil {
		c.loop.Add(cur.Spec.NodeName)
		return
	}
	c.loop.Add(old.Spec.NodeName)
	if name := old.Spec.Source.PersistentVolumeName; name != nil {
		if v, err := c.volumes.Get(*name); err == nil {
			c.volumeChanged(nil, v)
		}
	}
}

// nodeChanged wakes a node that comes or goes, or that says something else of itself or its volumes.
func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if cur == nil {
		c.loop.Add(old.Name)
		return
	}
	was, is := snapshot{node: old}, snapshot{node: cur}
	if old == nil || was.ready() != is.ready() || was.abandoned() != is.abandoned() ||
		!slices.Equal(old.Status.VolumesInUse, cur.Status.VolumesInUse) || !slices.Equal(old.Status.VolumesAttached, cur.Status.VolumesAttached) {
		c.loop.Add(cur.Name)
	}
}

// claimChanged wakes the nodes of the pods whose claim has been bound.
func (c *Controller) claimChanged(old, cur *corev1.PersistentVolumeClaim) {
	if cur == nil || old != nil && old.Status.Phase == cur.Status.Phase {
		return
	}
	c.wakeUsers(cur.Namespace + "/" + cur.Name)
}

// volumeChanged wakes the nodes of the pods that use a volume that has come.
func (c *Controller) volumeChanged(old, cur *corev1.PersistentVolume) {
	if old == nil && cur.Spec.ClaimRef != nil && cur.Spec.CSI != nil {
		c.wakeUsers(cur.Spec.ClaimRef.Namespace + "/" + cur.Spec.ClaimRef.Name)
	}
}

func (c *Controller) wakeUsers(claim string) {
	for _, pod := range pods.Using(c.pods, claim) {
		if pod.Spec.NodeName != "" {
			c.loop.Add(pod.Spec.NodeName)
		}
	}
}

// driverChanged wakes all nodes with volumes: whether they have to be attached may be another matter now.
func (c *Controller) driverChanged(old, cur *storagev1.CSIDriver) {
	if old != nil && cur != nil && (old.Spec.AttachRequired == nil || *old.Spec.AttachRequired) == (cur.Spec.AttachRequired == nil || *cur.Spec.AttachRequired) {
		return
	}
	for _, obj := range c.pods.List() {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" && len(pods.Claims(pod)) > 0 {
			c.loop.Add(pod.Spec.NodeName)
		}
	}
}
