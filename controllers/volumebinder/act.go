package volumebinder

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// Every write below carries the resource version of what it was decided on.

// bind binds the volume to the claim: first the volume, for it can be had once only, then the claim. Each step that is done already costs nothing, so
// that a binding that broke off between two of them is completed by doing it again.
func (c *Controller) bind(ctx context.Context, volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	var err error
	if next, changed := volumes.Claimed(volume, claim); changed {
		if volume, err = c.updateVolume(ctx, next); err != nil {
			return err
		}
	}
	if volume, err = c.setPhase(ctx, volume, corev1.VolumeBound, ""); err != nil {
		return err
	}
	if next, changed := bound(claim, volume); changed {
		if claim, err = c.updateClaim(ctx, next); err != nil {
			return err
		}
	}
	return c.setClaimStatus(ctx, claim, corev1.ClaimBound, volume)
}

// unbind takes back a binding that has not come about.
func (c *Controller) unbind(ctx context.Context, volume *corev1.PersistentVolume) error {
	volume, err := c.updateVolume(ctx, unbound(volume))
	if err != nil {
		return err
	}
	_, err = c.setPhase(ctx, volume, corev1.VolumeAvailable, "")
	return err
}

func (c *Controller) updateVolume(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	v, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	if err == nil {
		c.volumes.wrote(v.Name, v)
	}
	return v, err
}

func (c *Controller) setPhase(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase {
		return v, nil
	}
	v = v.DeepCopy()
	v.Status.Phase, v.Status.Message, v.Status.LastPhaseTransitionTime = phase, message, nil
	v, err := c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{})
	if err == nil {
		c.volumes.wrote(v.Name, v)
	}
	return v, err
}

func (c *Controller) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err == nil {
		c.claims.wrote(claim.Namespace+"/"+claim.Name, claim)
	}
	return claim, err
}

func (c *Controller) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume) error {
	next, changed := claimStatus(claim, phase, volume)
	if !changed {
		return nil
	}
	next, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err == nil {
		c.claims.wrote(next.Namespace+"/"+next.Name, next)
	}
	return err
}

// sayAgain is how long a state must last until its event is told once more: events are kept for an hour, and who looks should find one.
const sayAgain = 30 * time.Minute

// saying is the last event told of an object.
type saying struct {
	uid  types.UID
	what event
	when time.Time
}

// say tells an event of a state, which lasts: the same one again only after a while. It reports how long until then, and whether
// it was told.
func (c *Controller) say(key string, uid types.UID, obj runtime.Object, e *event) (again time.Duration, told bool) {
	return c.sayAs(c.events, key, uid, obj, e)
}

// sayAs is say in the name of another component.
func (c *Controller) sayAs(events record.EventRecorder, key string, uid types.UID, obj runtime.Object, e *event) (again time.Duration, told bool) {
	now := c.clock.Now()
	c.mu.Lock()
	last, ok := c.said[key]
	fresh := !ok || last.uid != uid || last.what != *e || now.Sub(last.when) >= sayAgain
	if fresh {
		last = saying{uid, *e, now}
		c.said[key] = last
	}
	c.mu.Unlock()
	if fresh {
		events.Event(obj, e.kind, e.reason, e.message)
	}
	return last.when.Add(sayAgain).Sub(now), fresh
}

// silent forgets what was said of an object.
func (c *Controller) silent(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.said, key)
}
