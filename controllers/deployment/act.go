package deployment

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
)

// act carries a plan out. It stops at the first write that fails; what is left is decided anew.
func (c *Controller) act(ctx context.Context, key string, d *appsv1.Deployment, p plan) error {
	if p.create != nil {
		if done, err := c.create(ctx, d, p); !done {
			return err
		}
	}
	for _, u := range p.updates {
		if err := c.update(ctx, d, u); err != nil {
			return err
		}
	}
	base := d
	if p.revision != "" {
		var err error
		if base, err = c.annotate(ctx, d, p.revision); err != nil {
			return err
		}
	}
	if err := c.updateStatus(ctx, base, p.status); err != nil {
		return err
	}
	for _, set := range p.remove {
		if err := c.remove(ctx, set); err != nil {
			return err
		}
	}
	if p.again > 0 {
		c.loop.AddAfter(key, p.again)
	}
	return nil
}

// create makes the newest set. Not done means that the plan's rest no longer holds.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, p plan) (done bool, err error) {
	sets := c.client.AppsV1().ReplicaSets(d.Namespace)
	made, err := owner.Create(ctx, p.create,
		func() (*appsv1.ReplicaSet, error) { return sets.Create(ctx, p.create, metav1.CreateOptions{}) },
		func() (*appsv1.ReplicaSet, error) { return sets.Get(ctx, p.create.Name, metav1.GetOptions{}) })
	switch {
	case err == nil:
		c.setLag.Wrote(d.Namespace+"/"+d.Name, made.ResourceVersion)
		c.eventScaled(d, p.create.Name, 0, size(p.create))
		return true, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return false, nil // nothing can be created there any more, and the deployment is about to go
	case apierrors.IsAlreadyExists(err):
		return false, c.resolve(ctx, d, p.create)
	}
	return false, c.reportCreateFailure(ctx, d, p.create, err)
}

// resolve finds out why the newest set's name is taken. Either the set is ours and the informer trails behind, then its
// event will wake us; or two templates share a hash, then the count of collisions makes for another one.
func (c *Controller) resolve(ctx context.Context, d *appsv1.Deployment, want *appsv1.ReplicaSet) error {
	have, err := c.client.AppsV1().ReplicaSets(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if ref := metav1.GetControllerOf(have); ref != nil && ref.UID == d.UID && sameTemplate(&have.Spec.Template, &d.Spec.Template) {
		return nil
	}
	status := d.Status.DeepCopy()
	status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
	if err := c.updateStatus(ctx, d, *status); err != nil {
		return err
	}
	return fmt.Errorf("replica set name %s is taken by another template, trying another", want.Name)
}

// reportCreateFailure shows in status and events that the newest set cannot be made.
func (c *Controller) reportCreateFailure(ctx context.Context, d *appsv1.Deployment, set *appsv1.ReplicaSet, failure error) error {
	message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, failure)
	c.events.Event(d, corev1.EventTypeWarning, "ReplicaSetCreateError", message)
	w := &work{snapshot: snapshot{deployment: d, now: c.clock.Now()}, deploy: d, status: *d.Status.DeepCopy()}
	if w.hasDeadline() {
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message)
		if err := c.updateStatus(ctx, d, w.status); err != nil {
			return err
		}
	}
	return failure
}

// update writes a changed set. Its status is written by another controller all the time, so when only that has changed since the
// decision, the decision stands.
func (c *Controller) update(ctx context.Context, d *appsv1.Deployment, u update) error {
	sets := c.client.AppsV1().ReplicaSets(u.is.Namespace)
	next := u.is
	for try := 0; ; try++ {
		updated, err := sets.Update(ctx, next, metav1.UpdateOptions{})
		if err == nil {
			c.setLag.Wrote(d.Namespace+"/"+d.Name, updated.ResourceVersion)
			c.eventScaled(d, u.is.Name, size(u.was), size(u.is))
			return nil
		}
		if owner.OutcomeOf(err) == owner.Refused && !apierrors.IsConflict(err) {
			return err
		}
		// It may have had its effect, and no decision may rest on the set without it.
		live, getErr := owner.Live(ctx, func() (*appsv1.ReplicaSet, error) { return sets.Get(ctx, u.is.Name, metav1.GetOptions{}) })
		if getErr == nil && live != nil {
			c.setLag.Wrote(d.Namespace+"/"+d.Name, live.ResourceVersion)
		}
		if getErr != nil || live == nil || try == 3 || live.UID != u.was.UID || live.Generation != u.was.Generation || !apiequality.Semantic.DeepEqual(live.ObjectMeta.Annotations, u.was.Annotations) {
			return err
		}
		next = u.is.DeepCopy()
		next.ResourceVersion, next.Status = live.ResourceVersion, live.Status
		next.Labels, next.OwnerReferences, next.Finalizers = live.Labels, live.OwnerReferences, live.Finalizers
	}
}

func (c *Controller) eventScaled(d *appsv1.Deployment, set string, from, to int32) {
	direction := "up"
	switch {
	case from == to:
		return
	case to < from:
		direction = "down"
	}
	c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set, from, to)
}

// annotate writes the revision and gives the deployment as it is then.
func (c *Controller) annotate(ctx context.Context, d *appsv1.Deployment, revision string) (*appsv1.Deployment, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": d.UID, "resourceVersion": d.ResourceVersion, "annotations": map[string]string{revisionAnnotation: revision},
	}})
	if err != nil {
		return nil, err
	}
	updated, err := c.client.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, err
	}
	c.lag.Wrote(d.Namespace+"/"+d.Name, updated.ResourceVersion)
	return updated, nil
}

// updateStatus writes the status, if it has changed, onto d as it was last seen: a status update carries annotations too.
func (c *Controller) updateStatus(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	if apiequality.Semantic.DeepEqual(d.Status, status) {
		return nil
	}
	updated := *d // a shallow copy: only status is replaced
	updated.Status = status
	written, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, &updated, metav1.UpdateOptions{})
	if err == nil {
		c.lag.Wrote(d.Namespace+"/"+d.Name, written.ResourceVersion)
	}
	return err
}

// remove deletes an old set, unless it has changed since it was found superfluous.
func (c *Controller) remove(ctx context.Context, set *appsv1.ReplicaSet) error {
	err := c.client.AppsV1().ReplicaSets(set.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
