package volumes

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
)

// emptyDirs are folders for the pod's life, on disk or in memory.
type emptyDirs struct{ mountsOnly }

func (emptyDirs) setUp(_ context.Context, r *request) (Volume, error) {
	source, v := r.volume.EmptyDir, Volume{Path: r.dir}
	if _, err := os.Lstat(r.dir); err == nil && (source.Medium == v1.StorageMediumDefault || mountPoint(r.dir)) {
		return v, nil // it holds the pod's data by now: hands off
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return v, err
	}
	switch source.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if err := mountTmpfs(r.dir, tmpfsOptions(r.Pod.Pod, source, r.Facts)); err != nil {
			return v, err
		}
	default:
		if err := mountHugePages(r.dir, r.Pod.Pod, source.Medium, r.Facts.Allocatable); err != nil {
			return v, err
		}
	}
	if err := os.Chmod(r.dir, 0o777); err != nil {
		return v, err
	}
	if g := fsGroup(r.Pod.Pod); g != nil {
		return v, ownByGroup(r.dir, *g, false)
	}
	return v, nil
}

// tmpfsOptions limits the volume by the node's memory, the pod's memory limit and its own sizeLimit, whichever is smallest.
func tmpfsOptions(pod *v1.Pod, e *v1.EmptyDirVolumeSource, facts fields.Facts) string {
	var size int64
	atMost := func(q *resource.Quantity) {
		if n := q.Value(); n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	atMost(facts.Allocatable.Memory())
	if limits := helpers.PodLimits(pod, helpers.PodResourcesOptions{}); memoryLimited(pod) {
		atMost(limits.Memory())
	}
	if e.SizeLimit != nil {
		atMost(e.SizeLimit)
	}
	if size == 0 {
		return "mode=0777"
	}
	return fmt.Sprintf("mode=0777,size=%d", size)
}

// mountHugePages mounts a file system of huge pages: of the size that the medium names, or of the only one that the pod asks for.
func mountHugePages(dir string, pod *v1.Pod, medium v1.StorageMedium, node v1.ResourceList) error {
	size, err := pageSize(pod, medium)
	if err != nil {
		return err
	}
	if q := node[v1.ResourceName(v1.ResourceHugePagesPrefix+size)]; q.IsZero() {
		return fmt.Errorf("emptyDir of medium %s: the node has no huge pages of %s", medium, size)
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, "pagesize="+size); err != nil {
		return fmt.Errorf("mount huge pages of %s: %w", size, err)
	}
	return nil
}

// pageSize is the size of huge pages that a medium stands for, as 2Mi.
func pageSize(pod *v1.Pod, medium v1.StorageMedium) (string, error) {
	if size, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); ok {
		return size, nil
	}
	if medium != v1.StorageMediumHugePages {
		return "", fmt.Errorf("emptyDir of medium %s is not supported on this node", medium)
	}
	var sizes []string
	for name := range helpers.PodRequests(pod, helpers.PodResourcesOptions{}) {
		if size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
			sizes = append(sizes, size)
		}
	}
	if len(sizes) != 1 {
		return "", fmt.Errorf("medium %s: the pod must ask for huge pages of exactly one size, not of %d", medium, len(sizes))
	}
	return sizes[0], nil
}

// memoryLimited tells whether the pod as a whole has a memory limit: its own, or those of all its containers.
func memoryLimited(pod *v1.Pod) bool {
	if r := pod.Spec.Resources; r != nil && !r.Limits.Memory().IsZero() {
		return true
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
			return false
		}
	}
	return true
}
