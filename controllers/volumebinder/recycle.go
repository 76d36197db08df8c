package volumebinder

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// Reclaim policy Recycle is deprecated, and is kept for volumes on NFS and of host paths: a pod empties the volume, then it is free again.
const (
	recyclerNamespace = metav1.NamespaceDefault
	recyclerPrefix    = "recycler-for-"
	recyclerImage     = "busybox:stable"
	// recyclesFor holds the UID of the claim after which a pod cleans up: a pod left over from an earlier claim proves nothing.
	recyclesFor = "coracle.dev/recycles-for"
)

// recycled is the volume that the pod empties.
func recycled(pod *corev1.Pod) (volume string, ok bool) {
	if pod.Namespace != recyclerNamespace {
		return "", false
	}
	return strings.CutPrefix(pod.Name, recyclerPrefix)
}

// recycler is the pod that empties a volume. It has half a minute for each GiB, a minute at least.
func recycler(v *corev1.PersistentVolume) *corev1.Pod {
	deadline := max(60, 30*v.Spec.Capacity.Storage().Value()>>30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: recyclerNamespace, Name: recyclerPrefix + v.Name, Annotations: map[string]string{recyclesFor: string(v.Spec.ClaimRef.UID)},
		},
		Spec: corev1.PodSpec{
			ActiveDeadlineSeconds: &deadline, RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: ptr.To(false),
			Volumes: []corev1.Volume{{Name: "vol", VolumeSource: corev1.VolumeSource{HostPath: v.Spec.HostPath, NFS: v.Spec.NFS}}},
			Containers: []corev1.Container{{
				Name: "recycler", Image: recyclerImage,
				Command:      []string{"/bin/sh", "-c", `test -d /scrub && find /scrub -mindepth 1 -delete && test -z "$(ls -A /scrub)"`},
				VolumeMounts: []corev1.VolumeMount{{Name: "vol", MountPath: "/scrub"}},
			}},
		},
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: a.Required}}
	}
	return pod
}

// recycle brings the emptying of a released volume one step on. Its pod's end wakes the volume for the next. A pod that fails is left for people to see
// why; its removal starts the next try.
func (c *Controller) recycle(ctx context.Context, v *corev1.PersistentVolume) error {
	if users := c.users(v); len(users) > 0 {
		c.say("volume/"+v.Name, v.UID, v, normal("VolumeFailedRecycle", "Volume is used by pods: %s", strings.Join(users, ",")))
		return nil
	}
	client := c.client.CoreV1().Pods(recyclerNamespace)
	pod, err := client.Get(ctx, recyclerPrefix+v.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, recycler(v), metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	switch mine := pod.Annotations[recyclesFor] == string(v.Spec.ClaimRef.UID); {
	case !mine && pod.DeletionTimestamp != nil:
		return nil
	case !mine:
		return c.removeRecycler(ctx, pod)
	case pod.Status.Phase == corev1.PodSucceeded:
		c.events.Event(v, corev1.EventTypeNormal, "VolumeRecycled", "Volume recycled")
		if err := c.unbind(ctx, v); err != nil {
			return err
		}
		return c.removeRecycler(ctx, pod)
	case pod.Status.Phase == corev1.PodFailed && v.Status.Phase != corev1.VolumeFailed:
		e := warning("VolumeFailedRecycle", "Recycle failed: %s", why(pod))
		if v, err = c.setPhase(ctx, v, corev1.VolumeFailed, e.message); err == nil {
			c.events.Event(v, e.kind, e.reason, e.message)
		}
		return err
	}
	return nil
}

func (c *Controller) removeRecycler(ctx context.Context, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// why is what a failed pod says of its end.
func why(pod *corev1.Pod) string {
	if pod.Status.Message != "" {
		return pod.Status.Message
	}
	return "pod failed, pod.Status.Message unknown"
}

// users are the pods that may still use the volume, unless a claim of that name is there again: then they use its volume.
func (c *Controller) users(v *corev1.PersistentVolume) []string {
	key := v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
	if _, ok := c.claims.get(key); ok {
		return nil
	}
	var names []string
	for _, pod := range pods.Using(c.pods, key) {
		if !pods.Terminal(pod) {
			names = append(names, pod.Namespace+"/"+pod.Name)
		}
	}
	return names
}
