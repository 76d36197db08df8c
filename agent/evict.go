package agent

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/volumes"
)

// watchUsage ends pods that use more local storage than they may.
func (a *Agent) watchUsage(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(a.cfg.StorageCheck):
		}
		for _, pod := range a.taken() {
			if !storageLimited(pod) {
				continue
			}
			if why := a.overuse(pod); why != "" {
				if w := a.worker(string(pod.UID)); w != nil {
					w.evict(why)
				}
			}
		}
	}
}

func storageLimited(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.Medium == v1.StorageMediumDefault && e.SizeLimit != nil && !e.SizeLimit.IsZero() {
			return true
		}
	}
	_, limited := podStorageLimit(pod)
	return limited
}

// podStorageLimit is the sum of the containers' limits of ephemeral storage, if each has one.
func podStorageLimit(pod *v1.Pod) (resource.Quantity, bool) {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[v1.ResourceEphemeralStorage]; !ok {
			return resource.Quantity{}, false
		}
	}
	lim := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	q, ok := lim[v1.ResourceEphemeralStorage]
	return q, ok
}

// overuse measures the pod; an empty answer is that it keeps within its limits.
func (a *Agent) overuse(pod *v1.Pod) string {
	var total int64
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != v1.StorageMediumDefault {
			continue
		}
		used := volumes.DiskUsage(a.volumes.EmptyDirPath(pod.UID, v.Name))
		total += used
		if lim := v.EmptyDir.SizeLimit; lim != nil && !lim.IsZero() && used > lim.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, lim.String())
		}
	}
	total += volumes.DiskUsage(podspec.LogDir(a.cfg.Layout.PodLogs(), podspec.Ref(pod)))
	if lim, ok := podStorageLimit(pod); ok && total > lim.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", lim.String())
	}
	return ""
}

// evict ends the pod for good.
func (w *worker) evict(why string) {
	w.mu.Lock()
	first := w.state.Rejection == nil && w.state.Stage == lifecycle.Syncing
	if first {
		w.state.Rejection = &lifecycle.Rejection{Reason: "Evicted", Message: why}
	}
	pod := w.state.Pod
	w.mu.Unlock()
	if first {
		w.a.event(pod, v1.EventTypeWarning, "Evicted", why)
		w.poke()
	}
}
