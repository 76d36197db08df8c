package volumebinder

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// The indexes. A claim that has no volume is found by its class; one that names no class at all is under unclassed, which no class can be called.
const (
	claimsByVolume = "coracle/volume"
	openByClass    = "coracle/open-class"
	volumesByClaim = "coracle/claim"
	freeByClass    = "coracle/free-class"
	unclassed      = "/"
)

func index(claims, vols, podInformer cache.SharedIndexInformer) error {
	err := claims.AddIndexers(cache.Indexers{
		claimsByVolume: func(obj any) ([]string, error) {
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName != "" {
				return []string{c.Spec.VolumeName}, nil
			}
			return nil, nil
		},
		openByClass: func(obj any) ([]string, error) {
			c, ok := obj.(*corev1.PersistentVolumeClaim)
			if !ok || c.Spec.VolumeName != "" || volumes.Completed(c) {
				return nil, nil
			}
			name, named := volumes.ClassOfClaim(c)
			if !named {
				name = unclassed
			}
			return []string{name}, nil
		},
	})
	if err != nil {
		return err
	}
	err = vols.AddIndexers(cache.Indexers{
		volumesByClaim: func(obj any) ([]string, error) {
			if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil {
				return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}, nil
			}
			return nil, nil
		},
		freeByClass: func(obj any) ([]string, error) {
			if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef == nil {
				return []string{volumes.ClassOf(v)}, nil
			}
			return nil, nil
		},
	})
	if err != nil {
		return err
	}
	return pods.IndexByClaim(podInformer)
}

// shown reads an informer's store.
func shown[T any](informer cache.SharedIndexInformer) func(string) (T, bool) {
	return func(key string) (T, bool) {
		obj, ok, err := informer.GetIndexer().GetByKey(key)
		t, is := obj.(T)
		return t, ok && is && err == nil
	}
}

// indexed lists volumes.
func (c *Controller) indexed(name, value string) []*corev1.PersistentVolume {
	objs, err := c.volumeIndex.ByIndex(name, value)
	if err != nil {
		return nil // only an unknown index errs
	}
	list := make([]*corev1.PersistentVolume, 0, len(objs))
	for _, obj := range objs {
		if v, ok := obj.(*corev1.PersistentVolume); ok {
			list = append(list, v)
		}
	}
	return list
}

func (c *Controller) claimsIn(name, value string) []*corev1.PersistentVolumeClaim {
	objs, err := c.claimIndex.ByIndex(name, value)
	if err != nil {
		return nil // only an unknown index errs
	}
	list := make([]*corev1.PersistentVolumeClaim, 0, len(objs))
	for _, obj := range objs {
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			list = append(list, claim)
		}
	}
	return list
}

// claimChanged wakes the claim, and the volumes on which its change bears.
func (c *Controller) claimChanged(old, cur *corev1.PersistentVolumeClaim) {
	last := cur
	if cur == nil {
		last = old
	}
	key := last.Namespace + "/" + last.Name
	c.claims.get(key) // drops what was written here and is shown by now
	c.claimLoop.Add(key)
	if old != nil && cur != nil && old.UID == cur.UID && old.Spec.VolumeName == cur.Spec.VolumeName {
		return
	}
	for _, v := range c.indexed(volumesByClaim, key) {
		c.volumeLoop.Add(v.Name)
	}
	if last.Spec.VolumeName != "" {
		c.volumeLoop.Add(last.Spec.VolumeName)
	}
}

// volumeChanged wakes the volume, the claims bound to it or waiting for it, and those of its class that wait for any.
func (c *Controller) volumeChanged(old, cur *corev1.PersistentVolume) {
	for _, v := range []*corev1.PersistentVolume{old, cur} {
		if v != nil && v.Spec.ClaimRef != nil {
			c.claimLoop.Add(v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name)
		}
	}
	last := cur
	if cur == nil {
		last = old
	}
	c.volumes.get(last.Name) // as above
	c.volumeLoop.Add(last.Name)
	for _, claim := range c.claimsIn(claimsByVolume, last.Name) {
		c.claimLoop.Add(claim.Namespace + "/" + claim.Name)
	}
	if cur != nil {
		c.claimLoop.AddPaced(classKey + volumes.ClassOf(cur))
	}
}

// classKey starts the keys of classes; no namespace is empty.
const classKey = "/"

// open lists the claims that a free volume of the class could serve at once: those of classes that wait for pods are the scheduler's.
func (c *Controller) open(class string) []*corev1.PersistentVolumeClaim {
	if class == "" {
		return append(c.claimsIn(openByClass, ""), c.claimsIn(openByClass, unclassed)...)
	}
	if sc, err := c.classes.Get(class); err == nil && volumes.Delayed(sc) {
		return nil
	}
	return c.claimsIn(openByClass, class)
}

// classChanged wakes the claims of the class that have no volume, and those of no class, which get a default one.
func (c *Controller) classChanged(old, cur *storagev1.StorageClass) {
	last := cur
	if cur == nil {
		last = old
	}
	waiting := c.claimsIn(openByClass, last.Name)
	if cur != nil && volumes.IsDefaultClass(cur) {
		waiting = append(waiting, c.claimsIn(openByClass, unclassed)...)
	}
	for _, claim := range waiting {
		c.claimLoop.Add(claim.Namespace + "/" + claim.Name)
	}
}

// podChanged wakes the claims without a volume that a pod has begun or ceased to wait for, the released volumes it has let go, and the volume that it empties.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old != nil && cur != nil && (old.Spec.NodeName == "") == (cur.Spec.NodeName == "") && pods.Terminal(old) == pods.Terminal(cur) {
		return
	}
	last := cur
	if cur == nil {
		last = old
	}
	if name, ok := recycled(last); ok {
		c.volumeLoop.Add(name)
	}
	for _, name := range pods.Claims(last) {
		key := last.Namespace + "/" + name
		for _, v := range c.indexed(volumesByClaim, key) {
			c.volumeLoop.Add(v.Name)
		}
		if claim, ok := c.claims.get(key); ok && !volumes.Completed(claim) {
			c.claimLoop.Add(key)
		}
	}
}
