package owner

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// byController is the index of objects by their controller's UID, or, where they have none, by their namespace.
const byController = "coracle/controller"

// Index lets Owned and Orphans find an informer's objects. Several controllers may ask for it on one informer.
func Index(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[byController]; ok {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{byController: func(obj any) ([]string, error) {
		o, ok := obj.(metav1.Object)
		if !ok {
			return nil, nil
		}
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphansOf(o.GetNamespace())}, nil
	}})
}

// orphansOf is the index value of a namespace's objects without a controller; no UID has a slash.
func orphansOf(namespace string) string { return "orphans/" + namespace }

// Owned lists the objects whose controller has the UID. The informer must be indexed by Index, and hold objects of type T.
func Owned[T any](indexer cache.Indexer, controller types.UID) []T {
	return lookup[T](indexer, string(controller))
}

// Orphans lists the objects of a namespace that no controller owns. The informer must be indexed by Index.
func Orphans[T any](indexer cache.Indexer, namespace string) []T {
	return lookup[T](indexer, orphansOf(namespace))
}

func lookup[T any](indexer cache.Indexer, value string) []T {
	objs, err := indexer.ByIndex(byController, value)
	if err != nil {
		return nil // only an unknown index errs
	}
	list := make([]T, 0, len(objs))
	for _, obj := range objs {
		if o, ok := obj.(T); ok {
			list = append(list, o)
		}
	}
	return list
}
