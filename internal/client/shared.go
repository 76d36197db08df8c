package client

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Shared gives informers inside the server's process the server's own objects, decoded once for all. They are never
// to be changed. Nil outside that process.
type Shared func(schema.GroupVersionResource) cache.ListerWatcher

// Pods and Nodes are the resources whose objects are shared: the most numerous and the largest.
var (
	Pods  = corev1.SchemeGroupVersion.WithResource("pods")
	Nodes = corev1.SchemeGroupVersion.WithResource("nodes")
)

// Informers is like the function of that name; pods and nodes come from s, where it is set, as they are. trim is the
// transform of all others, and of these too where s is nil.
func (s Shared) Informers(client kubernetes.Interface, trim cache.TransformFunc) informers.SharedInformerFactory {
	if s == nil {
		return Informers(client, informers.WithTransform(trim))
	}
	f := Informers(client, informers.WithTransform(func(obj any) (any, error) {
		switch obj.(type) {
		case *corev1.Pod, *corev1.Node:
			return obj, nil
		}
		return trim(obj)
	}))
	for resource, object := range map[schema.GroupVersionResource]runtime.Object{Pods: &corev1.Pod{}, Nodes: &corev1.Node{}} {
		f.InformerFor(object, func(_ kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(s(resource), object, resync, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
	return f
}
