package pods

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/volumes"
)

const byClaim = "coracle/claim"

// Claims are the names of the claims that the pod uses, those made for it among them.
func Claims(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		if name := volumes.ClaimName(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// IndexByClaim lets Using find pods.
func IndexByClaim(informer cache.SharedIndexInformer) error {
	return addIndex(informer, byClaim, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		keys := Claims(pod)
		for i, name := range keys {
			keys[i] = pod.Namespace + "/" + name
		}
		return keys, nil
	})
}

// Using lists the pods that use a claim, given as namespace/name. The informer must be indexed by IndexByClaim.
func Using(indexer cache.Indexer, claim string) []*corev1.Pod { return lookup(indexer, byClaim, claim) }
