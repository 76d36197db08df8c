package scheduler

import (
	"context"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/scheduler/filter"
)

// storageKind is how one kind of storage object gets into the model.
type storageKind struct {
	resource string
	object   runtime.Object
	set      func(runtime.Object)
	gone     func(runtime.Object)
}

// watchStorage follows what pods' claims depend on.
func (s *Scheduler) watchStorage(ctx context.Context) (synced []cache.InformerSynced, err error) {
	core, storage := s.kube.CoreV1().RESTClient(), s.kube.StorageV1().RESTClient()
	c := s.cluster
	for _, k := range []struct {
		client rest.Interface
		storageKind
	}{
		{core, kindOf("persistentvolumeclaims", c.SetClaim, func(o *corev1.PersistentVolumeClaim) { c.RemoveClaim(o.Namespace, o.Name) })},
		{core, kindOf("persistentvolumes", c.SetVolume, func(o *corev1.PersistentVolume) { c.RemoveVolume(o.Name) })},
		{storage, kindOf("storageclasses", c.SetStorageClass, func(o *storagev1.StorageClass) { c.RemoveStorageClass(o.Name) })},
		{storage, kindOf("csidrivers", c.SetCSIDriver, func(o *storagev1.CSIDriver) { c.RemoveCSIDriver(o.Name) })},
		{storage, kindOf("csinodes", c.SetCSINode, func(o *storagev1.CSINode) { c.RemoveCSINode(o.Name) })},
		{storage, kindOf("volumeattachments", c.SetAttachment, c.RemoveAttachment)},
		{storage, kindOf("csistoragecapacities", c.SetStorageCapacity, func(o *storagev1.CSIStorageCapacity) { c.RemoveStorageCapacity(o.Namespace, o.Name) })},
	} {
		resource := corev1.SchemeGroupVersion.WithResource(k.resource)
		has, err := follow(ctx, s.informer(k.client, resource, k.object, "", nil),
			func(_, cur runtime.Object) { s.stored(cur, k.set) },
			func(gone runtime.Object) { s.stored(gone, k.gone) })
		if err != nil {
			return nil, err
		}
		synced = append(synced, has)
	}
	return synced, nil
}

// kindOf makes a storageKind of functions for one type.
func kindOf[T runtime.Object](resource string, set, gone func(T)) storageKind {
	var none T
	return storageKind{
		resource: resource, object: reflect.New(reflect.TypeOf(none).Elem()).Interface().(T),
		set: func(o runtime.Object) { set(o.(T)) }, gone: func(o runtime.Object) { gone(o.(T)) },
	}
}

// stored takes a change into the model and wakes the pods that it may help, and those that wait for their volumes to be bound.
func (s *Scheduler) stored(object runtime.Object, change func(runtime.Object)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(object)
	s.stir()
	s.happened(&filter.Event{Kind: filter.StorageChanged, Object: object})
}
