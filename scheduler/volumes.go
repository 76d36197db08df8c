package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/volumes"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// volumeTimeout is how long the volumes of a pod may take to be bound where the profile does not say.
const volumeTimeout = 10 * time.Minute

// volumeTries is how often a write of a claim or a volume is made over what has changed meanwhile.
const volumeTries = 5

// errSuperseded: the pod was deleted, or given a node by another, while its volumes were being bound.
var errSuperseded = errors.New("the pod does not wait any more")

// volumeWait is what a pod waits for: each claim of its plan, at the version written here or a later one.
type volumeWait struct {
	plan     model.VolumePlan
	versions map[types.UID]uint64
}

// planVolumes is what has to happen to the pod's claims, if the profile cares for them. The lock is held.
func (s *Scheduler) planVolumes(f *framework, item *queue.Item, node string) model.VolumePlan {
	n := s.cluster.Node(node)
	cares := slices.ContainsFunc(f.decider.Filters(), func(each filter.Filter) bool { return each.Name() == "VolumeBinding" })
	if n == nil || !cares {
		return model.VolumePlan{Node: node}
	}
	return s.cluster.PlanVolumes(item.Pod, n.Node)
}

// bindVolumes carries out the plan of a pod that has been given a node, then binds the pod. It may take minutes.
func (s *Scheduler) bindVolumes(ctx context.Context, f *framework, item *queue.Item, plan model.VolumePlan) {
	timeout := f.profile.BindTimeout
	if timeout == 0 {
		timeout = volumeTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	wait := volumeWait{plan, map[types.UID]uint64{}}
	err := s.writeVolumes(limited, &wait)
	if err == nil {
		err = s.awaitVolumes(limited, item, &wait)
	}
	pod := item.Pod.Pod
	s.mu.Lock()
	s.cluster.ForgetVolumes(pod.UID) // what was bound has been seen; what was not is free again
	s.mu.Unlock()
	switch {
	case err == nil:
		s.bind(ctx, f, item, plan.Node)
	case ctx.Err() != nil || errors.Is(err, errSuperseded):
	default:
		s.unbind(item, pod, err)
		s.cfg.Metrics.failed(f.profile.Name)
		s.log.Warn("volumes are not bound", "namespace", pod.Namespace, "pod", pod.Name, "node", plan.Node, "error", err)
		f.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", `running PreBind plugin "VolumeBinding": binding volumes: %v`, err)
	}
}

// writeVolumes writes the plan: volumes refer to their claims, claims say for which node they are to be provisioned. The controllers do the rest.
func (s *Scheduler) writeVolumes(ctx context.Context, w *volumeWait) error {
	for _, b := range w.plan.Bind {
		if err := s.writeVolume(ctx, b); err != nil {
			return err
		}
	}
	for _, claim := range w.plan.Provision {
		version, err := s.writeSelected(ctx, claim, w.plan.Node)
		if err != nil {
			return err
		}
		w.versions[claim.UID] = version
	}
	return nil
}

// writeVolume gives a volume to a claim, unless another has it by now.
func (s *Scheduler) writeVolume(ctx context.Context, b model.VolumeBinding) error {
	client, v := s.kube.CoreV1().PersistentVolumes(), b.Volume
	for try := 0; ; try++ {
		next, changed := volumes.Claimed(v, b.Claim)
		if !changed {
			return nil
		}
		_, err := client.Update(ctx, next, metav1.UpdateOptions{})
		if err == nil || !apierrors.IsConflict(err) || try == volumeTries {
			return err
		}
		if v, err = client.Get(ctx, b.Volume.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if v.UID != b.Volume.UID || v.Spec.ClaimRef != nil && !volumes.Refers(v, b.Claim) || v.DeletionTimestamp != nil {
			return fmt.Errorf("persistentvolume %q is no longer available", v.Name)
		}
	}
}

// writeSelected notes the node on a claim, unless it is bound or has another by now, and gives the claim's version.
func (s *Scheduler) writeSelected(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) (version uint64, err error) {
	client, c := s.kube.CoreV1().PersistentVolumeClaims(claim.Namespace), claim
	for try := 0; ; try++ {
		if c.Annotations[volumes.SelectedNode] != node && c.Spec.VolumeName == "" {
			c, err = client.Update(ctx, model.SelectedFor(c, node), metav1.UpdateOptions{})
		}
		if err == nil {
			return versionOf(c), nil
		}
		if !apierrors.IsConflict(err) || try == volumeTries {
			return 0, err
		}
		if c, err = client.Get(ctx, claim.Name, metav1.GetOptions{}); err != nil {
			return 0, err
		}
		if other := c.Annotations[volumes.SelectedNode]; c.UID != claim.UID || other != "" && other != node {
			return 0, fmt.Errorf("persistentvolumeclaim %q is being provisioned for another node", c.Name)
		}
	}
}

func versionOf(o metav1.Object) uint64 {
	version, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return version
}

// awaitVolumes waits until all claims of the plan are bound, or cannot be.
func (s *Scheduler) awaitVolumes(ctx context.Context, item *queue.Item, w *volumeWait) error {
	for {
		s.mu.Lock()
		superseded := s.inFlight[item.Pod.Pod.UID] != item
		done, err := s.volumesBound(w)
		stirred := s.stirred
		s.mu.Unlock()
		switch {
		case superseded:
			return errSuperseded
		case done || err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-stirred:
		}
	}
}

// stir wakes those who wait for volumes. The lock is held.
func (s *Scheduler) stir() {
	close(s.stirred)
	s.stirred = make(chan struct{})
}

// volumesBound tells whether all claims of the plan are bound to volumes that the node reaches. The lock is held.
func (s *Scheduler) volumesBound(w *volumeWait) (bool, error) {
	node := s.cluster.Node(w.plan.Node)
	if node == nil {
		return false, fmt.Errorf("node %q not found", w.plan.Node)
	}
	all := true
	check := func(claim *corev1.PersistentVolumeClaim, provisioned bool) error {
		c := s.cluster.StoredClaim(types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name})
		switch {
		case c == nil || c.UID != claim.UID:
			return fmt.Errorf("persistentvolumeclaim %q not found", claim.Name)
		case c.DeletionTimestamp != nil:
			return fmt.Errorf("persistentvolumeclaim %q is being deleted", claim.Name)
		case provisioned && versionOf(c) >= w.versions[claim.UID] && c.Spec.VolumeName == "" && c.Annotations[volumes.SelectedNode] == "":
			return fmt.Errorf("selectedNode annotation reset for PVC %q", claim.Name)
		case provisioned && c.Spec.VolumeName == "" && c.Annotations[volumes.SelectedNode] != w.plan.Node && versionOf(c) >= w.versions[claim.UID]:
			return fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		case c.Spec.VolumeName == "" || !volumes.Completed(c):
			all = false
			return nil
		}
		v := s.cluster.Volume(c.Spec.VolumeName)
		if v == nil {
			all = false // the claim was seen first
			return nil
		}
		if !v.ReachableFrom(node.Node) {
			return fmt.Errorf("pv %q node affinity doesn't match node %q", v.Name, node.Name)
		}
		return nil
	}
	for _, b := range w.plan.Bind {
		if err := check(b.Claim, false); err != nil {
			return false, err
		}
	}
	for _, claim := range w.plan.Provision {
		if err := check(claim, true); err != nil {
			return false, err
		}
	}
	return all, nil
}
