package agent

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/agent/probes"
)

// nodePods implements NodePods.
type nodePods struct {
	a     *Agent
	store cache.Store
}

// Pod implements NodePods.
func (n nodePods) Pod(namespace, name string) (*v1.Pod, bool) {
	obj, _, _ := n.store.GetByKey(namespace + "/" + name)
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return nil, false
	}
	return shownAs(pod), true
}

// Pods implements NodePods.
func (n nodePods) Pods() []*v1.Pod {
	var pods []*v1.Pod
	for _, obj := range n.store.List() {
		if pod, ok := obj.(*v1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods
}

// VolumePaths implements NodePods.
func (n nodePods) VolumePaths(uid string) map[string]string {
	w := n.a.worker(uid)
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	paths := make(map[string]string, len(w.mounted.Volumes))
	for name, v := range w.mounted.Volumes {
		paths[name] = v.Path
	}
	return paths
}

// ProbeCounts implements NodePods.
func (n nodePods) ProbeCounts(tell func(pod *v1.Pod, container, kind, outcome string, count uint64)) {
	n.a.probes.Counts(func(t probes.Target, k probes.Kind, outcome string, count uint64) {
		tell(t.Pod, t.Container.Name, k.String(), outcome, count)
	})
}
