package statefulset

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/run"
)

// parallel is how many requests of one set are under way at once.
const parallel = 32

// act carries a plan out. It stops at the first kind of write that fails; what is left is decided anew.
func (c *Controller) act(ctx context.Context, key string, set *appsv1.StatefulSet, p plan) error {
	a := action{c, key, set}
	steps := []func() error{
		func() error {
			return run.Each(len(p.owners), parallel, func(i int) error { return a.setOwners(ctx, p.owners[i]) })
		},
		func() error {
			return run.Each(len(p.claims), parallel, func(i int) error { return a.makeClaims(ctx, p.claims[i]) })
		},
		func() error {
			return run.Batches(len(p.create), parallel, func(i int) error { return a.create(ctx, p.create[i]) })
		},
		func() error {
			return run.Each(len(p.repair), parallel, func(i int) error { return a.repair(ctx, p.repair[i]) })
		},
		func() error {
			return run.Each(len(p.delete), parallel, func(i int) error { return a.delete(ctx, p.delete[i]) })
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return pods.IgnoreEnd(err)
		}
	}
	return nil
}

// action writes for one set.
type action struct {
	*Controller
	key string
	set *appsv1.StatefulSet
}

// report records what was done to a pod, or that it failed.
func (a action) report(verb, reason, pod string, err error) {
	switch {
	case err == nil:
		a.events.Eventf(a.set, corev1.EventTypeNormal, "Successful"+reason, "%s Pod %s in StatefulSet %s successful", verb, pod, a.set.Name)
	case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		a.events.Eventf(a.set, corev1.EventTypeWarning, "Failed"+reason, "%s Pod %s in StatefulSet %s failed error: %v", verb, pod, a.set.Name, err)
	}
}

func (a action) setOwners(ctx context.Context, o ownerChange) error {
	if o.conflict {
		a.events.Eventf(a.set, corev1.EventTypeWarning, "ConflictingController",
			"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim", o.claim.Name)
	}
	if !o.changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": o.claim.UID, "resourceVersion": o.claim.ResourceVersion, "ownerReferences": o.want,
	}})
	if err != nil {
		return err
	}
	written, err := a.client.CoreV1().PersistentVolumeClaims(o.claim.Namespace).Patch(ctx, o.claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		a.claimLag.Wrote(a.key, written.ResourceVersion)
	}
	return err
}

// makeClaims creates the claims that a pod lacks. That one of them is being deleted is an error, for the pod must not get it.
func (a action) makeClaims(ctx context.Context, c claiming) error {
	for _, claim := range c.make {
		made, err := a.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
		switch {
		case err == nil:
			a.claimLag.Wrote(a.key, made.ResourceVersion)
			a.events.Eventf(a.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", claim.Name, c.pod, a.set.Name)
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return err
		default:
			if !apierrors.IsAlreadyExists(err) {
				a.events.Eventf(a.set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, c.pod, a.set.Name, err)
			}
			return fmt.Errorf("failed to create PVC %s: %w", claim.Name, err)
		}
	}
	if c.going != "" {
		return fmt.Errorf("pvc %s is being deleted", c.going)
	}
	return nil
}

func (a action) create(ctx context.Context, c creation) error {
	if err := a.makeClaims(ctx, c.claims); err != nil {
		a.report("create", "Create", c.pod.Name, err)
		return err
	}
	made, err := pods.Create(ctx, a.client, c.pod)
	if apierrors.IsAlreadyExists(err) {
		return err // another's pod has the name: its end wakes the set
	}
	a.report("create", "Create", c.pod.Name, err)
	if err == nil {
		a.lag.Wrote(a.key, made.ResourceVersion)
	}
	return err
}

// repair puts back what identifies a pod. That its volumes cannot be changed is for the API server to say.
func (a action) repair(ctx context.Context, r repair) error {
	meta := map[string]any{"uid": r.pod.UID}
	if r.labels != nil {
		meta["labels"] = r.labels
	}
	patch := map[string]any{"metadata": meta}
	if r.volumes != nil {
		patch["spec"] = map[string]any{"volumes": r.volumes}
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	written, err := a.client.CoreV1().Pods(r.pod.Namespace).Patch(ctx, r.pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	a.report("update", "Update", r.pod.Name, err)
	if err == nil {
		a.lag.Wrote(a.key, written.ResourceVersion)
	}
	return err
}

func (a action) delete(ctx context.Context, pod *corev1.Pod) error {
	err := pods.Delete(ctx, a.client, pod)
	a.report("delete", "Delete", pod.Name, err)
	if err == nil {
		a.lag.Deleted(a.key, pod.UID)
	}
	return err
}
