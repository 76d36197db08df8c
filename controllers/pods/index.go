package pods

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/owner"
)

const byNode = "coracle/node"

// IndexByController lets Of and Orphans find pods. Several controllers may ask for it on one informer.
func IndexByController(informer cache.SharedIndexInformer) error { return owner.Index(informer) }

// IndexByNode lets On find pods.
func IndexByNode(informer cache.SharedIndexInformer) error {
	return addIndex(informer, byNode, func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	})
}

func addIndex(informer cache.SharedIndexInformer, name string, index cache.IndexFunc) error {
	if _, ok := informer.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{name: index})
}

// Of lists the pods whose controller has the UID. The informer must be indexed by IndexByController.
func Of(indexer cache.Indexer, controller types.UID) []*corev1.Pod {
	return owner.Owned[*corev1.Pod](indexer, controller)
}

// Orphans lists the pods of a namespace that no controller owns. The informer must be indexed by IndexByController.
func Orphans(indexer cache.Indexer, namespace string) []*corev1.Pod {
	return owner.Orphans[*corev1.Pod](indexer, namespace)
}

// On lists the pods bound to a node. The informer must be indexed by IndexByNode.
func On(indexer cache.Indexer, node string) []*corev1.Pod {
	return lookup(indexer, byNode, node)
}

func lookup(indexer cache.Indexer, index, value string) []*corev1.Pod {
	objs, err := indexer.ByIndex(index, value)
	if err != nil {
		return nil // only an unknown index errs
	}
	list := make([]*corev1.Pod, 0, len(objs))
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok {
			list = append(list, pod)
		}
	}
	return list
}
