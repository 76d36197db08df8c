package disruption

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	scaleclient "github.com/coracle-dev/coracle/controllers/scales"
	"github.com/coracle-dev/coracle/internal/loop"
)

// owners know how many pods a controller of pods is to have: from informers, and from the scale subresource where there is none.
type owners struct {
	deployments  appslisters.DeploymentLister
	sets         appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	controllers  corelisters.ReplicationControllerLister
	others       *scaleclient.Client
}

func newOwners(e env.Env, s *scaleclient.Client) owners {
	apps := e.Informers.Apps().V1()
	return owners{
		deployments: apps.Deployments().Lister(), sets: apps.ReplicaSets().Lister(), statefulSets: apps.StatefulSets().Lister(),
		controllers: e.Informers.Core().V1().ReplicationControllers().Lister(), others: s,
	}
}

// watch calls wake with the labels of the pods of every owner whose scale becomes known or changes.
func (o owners) watch(e env.Env, l *loop.Loop, wake func(namespace string, pods labels.Set)) {
	apps := e.Informers.Apps().V1()
	onRescale(l, apps.Deployments().Informer(), wake, func(d *appsv1.Deployment) (*int32, labels.Set) { return d.Spec.Replicas, d.Spec.Template.Labels })
	onRescale(l, apps.ReplicaSets().Informer(), wake, func(s *appsv1.ReplicaSet) (*int32, labels.Set) { return s.Spec.Replicas, s.Spec.Template.Labels })
	onRescale(l, apps.StatefulSets().Informer(), wake, func(s *appsv1.StatefulSet) (*int32, labels.Set) { return s.Spec.Replicas, s.Spec.Template.Labels })
	onRescale(l, e.Informers.Core().V1().ReplicationControllers().Informer(), wake, func(c *corev1.ReplicationController) (*int32, labels.Set) {
		if c.Spec.Template == nil {
			return c.Spec.Replicas, c.Spec.Selector
		}
		return c.Spec.Replicas, c.Spec.Template.Labels
	})
}

func onRescale[T interface {
	comparable
	metav1.Object
}](l *loop.Loop, informer cache.SharedIndexInformer, wake func(string, labels.Set), scale func(T) (*int32, labels.Set)) {
	var none T
	loop.On(l, informer, func(old, cur T) {
		if cur == none {
			return
		}
		now, pods := scale(cur)
		if old != none {
			if before, _ := scale(old); ptr.Equal(before, now) {
				return
			}
		}
		wake(cur.GetNamespace(), pods)
	})
}

// scales gives each controller of the pods once, by UID, with how many pods it is to have. Pods without one are passed over.
func (o owners) scales(ctx context.Context, list []*corev1.Pod) (map[types.UID]int32, error) {
	known, scales := map[types.UID]bool{}, map[types.UID]int32{}
	for _, pod := range list {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil || known[ref.UID] {
			continue
		}
		known[ref.UID] = true
		if uid, n, ok := o.informed(pod.Namespace, ref); ok {
			scales[uid] = n
			continue
		}
		s, err := o.others.Owner(ctx, pod.Namespace, ref)
		if err != nil {
			return nil, err
		}
		if s == nil {
			return nil, &noController{pod.Name}
		}
		scales[s.UID] = s.Spec.Replicas
	}
	return scales, nil
}

// informed finds the scale of the kinds that have informers; not ok when the kind is another, or the object is not there.
func (o owners) informed(namespace string, ref *metav1.OwnerReference) (types.UID, int32, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, false
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		return o.ofSet(namespace, ref)
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		s, err := o.statefulSets.StatefulSets(namespace).Get(ref.Name)
		if err == nil && s.UID == ref.UID {
			return s.UID, ptr.Deref(s.Spec.Replicas, 1), true
		}
	case schema.GroupKind{Kind: "ReplicationController"}:
		c, err := o.controllers.ReplicationControllers(namespace).Get(ref.Name)
		if err == nil && c.UID == ref.UID {
			return c.UID, ptr.Deref(c.Spec.Replicas, 1), true
		}
	}
	return "", 0, false
}

// ofSet is the scale of a ReplicaSet, or, when a Deployment controls it, of that: during an update its pods are spread over several sets.
func (o owners) ofSet(namespace string, ref *metav1.OwnerReference) (types.UID, int32, bool) {
	set, err := o.sets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return "", 0, false
	}
	if of := metav1.GetControllerOfNoCopy(set); of != nil && of.Kind == "Deployment" {
		d, err := o.deployments.Deployments(namespace).Get(of.Name)
		if err == nil && d.UID == of.UID {
			return d.UID, ptr.Deref(d.Spec.Replicas, 1), true
		}
	}
	return set.UID, ptr.Deref(set.Spec.Replicas, 1), true
}
