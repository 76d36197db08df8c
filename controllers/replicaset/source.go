package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
)

// source is where sets come from: ReplicaSets as they are, or ReplicationControllers in the same form.
type source interface {
	kind() schema.GroupVersionKind
	get(namespace, name string) (*appsv1.ReplicaSet, error)
	list(namespace string) ([]*appsv1.ReplicaSet, error)
	// siblings are the sets of a controller, which is the set's own.
	siblings(set *appsv1.ReplicaSet, controller types.UID) []*appsv1.ReplicaSet
	live(ctx context.Context, namespace, name string) (metav1.Object, error)
	// updateStatus gives the version it wrote.
	updateStatus(ctx context.Context, set *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) (string, error)
}

type replicaSets struct {
	client kubernetes.Interface
	lister appslisters.ReplicaSetLister
	owned  cache.Indexer // of ReplicaSets, by owner
}

func (s replicaSets) kind() schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
}

func (s replicaSets) get(namespace, name string) (*appsv1.ReplicaSet, error) {
	return s.lister.ReplicaSets(namespace).Get(name)
}

func (s replicaSets) list(namespace string) ([]*appsv1.ReplicaSet, error) {
	return s.lister.ReplicaSets(namespace).List(labels.Everything())
}

func (s replicaSets) siblings(_ *appsv1.ReplicaSet, controller types.UID) []*appsv1.ReplicaSet {
	return owner.Owned[*appsv1.ReplicaSet](s.owned, controller)
}

func (s replicaSets) live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return s.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s replicaSets) updateStatus(ctx context.Context, set *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) (string, error) {
	update := *set // a shallow copy: only status is replaced
	update.Status = status
	updated, err := s.client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, &update, metav1.UpdateOptions{})
	if err != nil {
		return "", err
	}
	return updated.ResourceVersion, nil
}

type replicationControllers struct {
	client kubernetes.Interface
	lister corelisters.ReplicationControllerLister
}

func (s replicationControllers) kind() schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("ReplicationController")
}

func (s replicationControllers) get(namespace, name string) (*appsv1.ReplicaSet, error) {
	rc, err := s.lister.ReplicationControllers(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return fromController(rc), nil
}

func (s replicationControllers) list(namespace string) ([]*appsv1.ReplicaSet, error) {
	rcs, err := s.lister.ReplicationControllers(namespace).List(labels.Everything())
	sets := make([]*appsv1.ReplicaSet, 0, len(rcs))
	for _, rc := range rcs {
		sets = append(sets, fromController(rc))
	}
	return sets, err
}

// siblings of a ReplicationController are none but itself: what controls it, if anything, makes no revisions of it.
func (s replicationControllers) siblings(set *appsv1.ReplicaSet, _ types.UID) []*appsv1.ReplicaSet {
	return []*appsv1.ReplicaSet{set}
}

func (s replicationControllers) live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return s.client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s replicationControllers) updateStatus(ctx context.Context, set *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) (string, error) {
	rc, err := s.lister.ReplicationControllers(set.Namespace).Get(set.Name)
	if err != nil {
		return "", err
	}
	update := *rc
	update.ResourceVersion = set.ResourceVersion // what the status was computed from
	update.Status = corev1.ReplicationControllerStatus{
		Replicas: status.Replicas, FullyLabeledReplicas: status.FullyLabeledReplicas, ReadyReplicas: status.ReadyReplicas,
		AvailableReplicas: status.AvailableReplicas, ObservedGeneration: status.ObservedGeneration,
	}
	for _, c := range status.Conditions {
		update.Status.Conditions = append(update.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	updated, err := s.client.CoreV1().ReplicationControllers(set.Namespace).UpdateStatus(ctx, &update, metav1.UpdateOptions{})
	if err != nil {
		return "", err
	}
	return updated.ResourceVersion, nil
}

// fromController shows a ReplicationController as a ReplicaSet. The two share what is below their first level, so
// the result is read-only as everything from a lister is.
func fromController(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
			Template:        ptr.Deref(rc.Spec.Template, corev1.PodTemplateSpec{}),
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}
