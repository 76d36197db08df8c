package attachdetach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// patience is how long a volume that a node, no longer ready, has mounted is left to it after its last pod has gone.
const patience = 6 * time.Minute

// want is a volume that pods of a node need attached.
type want struct {
	volume *corev1.PersistentVolume
	pods   []*corev1.Pod
}

func (w want) driver() string { return w.volume.Spec.CSI.Driver }
func (w want) handle() string { return w.volume.Spec.CSI.VolumeHandle }

// snapshot is what a decision about a node rests on. Volumes are known by the name of their attachment to the node.
type snapshot struct {
	name string
	// node is nil when it is gone.
	node  *corev1.Node
	wants map[string]want
	// attached are the attachments to the node that are this controller's to make and to remove.
	attached map[string]*storagev1.VolumeAttachment
	// others are the attachments of a wanted volume to other nodes.
	others map[string][]*storagev1.VolumeAttachment
	// unwanted is since when attachments have not been wanted.
	unwanted map[string]time.Time
	now      time.Time
}

// plan is what to do about a node's volumes: first it is told which are attached, then attachments are removed and made.
type plan struct {
	// report is what the node's status is to say; tell is false where it says so, or there is no node.
	report []corev1.AttachedVolume
	tell   bool
	detach []*storagev1.VolumeAttachment
	attach []string
	// blocked are wanted volumes that another node has, alone.
	blocked []string
	// unwanted is as in the snapshot, for the next decision.
	unwanted map[string]time.Time
	// again is how long until an unready node's volumes are taken from it; zero when that is not about to happen.
	again time.Duration
}

// decide is pure.
func decide(s snapshot) plan {
	p := plan{unwanted: map[string]time.Time{}}
	inUse := s.inUse()
	going := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.attached)) {
		if _, wanted := s.wants[name]; wanted {
			continue
		}
		since, ok := s.unwanted[name]
		if !ok {
			since = s.now
		}
		p.unwanted[name] = since
		if inUse[name] && !s.abandoned() {
			if s.ready() {
				continue // the node says when it has let go
			}
			if left := since.Add(patience).Sub(s.now); left > 0 {
				if p.again == 0 || left < p.again {
					p.again = left
				}
				continue
			}
		}
		going[name] = true
		if s.attached[name].DeletionTimestamp == nil {
			p.detach = append(p.detach, s.attached[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.wants)) {
		switch w := s.wants[name]; {
		case s.attached[name] != nil:
		case len(s.others[name]) > 0 && !volumes.Shareable(w.volume):
			p.blocked = append(p.blocked, name)
		case s.node != nil:
			p.attach = append(p.attach, name)
		}
	}
	if s.node != nil {
		p.report = s.report(going)
		p.tell = !slices.Equal(p.report, s.node.Status.VolumesAttached)
	}
	return p
}

// inUse names the attachments of volumes that the node still has mounted, by what it says.
func (s snapshot) inUse() map[string]bool {
	set := map[string]bool{}
	if s.node == nil {
		return set
	}
	for _, name := range s.node.Status.VolumesInUse {
		if driver, handle, ok := volumes.ParseUniqueName(name); ok {
			set[volumes.AttachmentName(driver, handle, s.name)] = true
		}
	}
	return set
}

// abandoned tells whether the node is gone, or somebody has declared that it is off: what it says of its volumes counts no more.
func (s snapshot) abandoned() bool {
	return s.node == nil || slices.ContainsFunc(s.node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (s snapshot) ready() bool {
	return slices.ContainsFunc(s.node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// report lists what is attached and not about to be detached, in the order of names.
func (s snapshot) report(going map[string]bool) []corev1.AttachedVolume {
	told := map[string]corev1.UniqueVolumeName{} // covers volumes whose PersistentVolume is gone
	for _, v := range s.node.Status.VolumesAttached {
		if driver, handle, ok := volumes.ParseUniqueName(v.Name); ok {
			told[volumes.AttachmentName(driver, handle, s.name)] = v.Name
		}
	}
	var list []corev1.AttachedVolume
	for name, a := range s.attached {
		if !a.Status.Attached || a.DeletionTimestamp != nil || going[name] {
			continue
		}
		unique := told[name]
		if w, ok := s.wants[name]; ok {
			unique = volumes.UniqueName(w.driver(), w.handle())
		}
		if unique != "" {
			list = append(list, corev1.AttachedVolume{Name: unique})
		}
	}
	slices.SortFunc(list, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// blockedMessage tells a pod why its volume is not attached. Pods of other namespaces are counted, not named.
func blockedMessage(volume string, pod *corev1.Pod, holders []*corev1.Pod) string {
	prefix := fmt.Sprintf("Multi-Attach error for volume %q ", volume)
	if len(holders) == 0 {
		return prefix + "Volume is already exclusively attached to one node and can't be attached to another"
	}
	var here []string
	elsewhere := 0
	for _, h := range holders {
		if h.Namespace == pod.Namespace {
			here = append(here, h.Name)
		} else {
			elsewhere++
		}
	}
	slices.Sort(here)
	switch {
	case len(here) == 0:
		return fmt.Sprintf("%sVolume is already used by %d pod(s) in different namespaces", prefix, elsewhere)
	case elsewhere > 0:
		return fmt.Sprintf("%sVolume is already used by pod(s) %s and %d pod(s) in different namespaces", prefix, strings.Join(here, ", "), elsewhere)
	}
	return fmt.Sprintf("%sVolume is already used by pod(s) %s", prefix, strings.Join(here, ", "))
}
