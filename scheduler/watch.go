package scheduler

import (
	"context"
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// follow calls the functions for each object of a resource, and gives what says whether all that were there have been seen.
func follow[T runtime.Object](ctx context.Context, informer cache.SharedIndexInformer, set func(old, cur T), gone func(T)) (cache.InformerSynced, error) {
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { var none T; set(none, obj.(T)) },
		UpdateFunc: func(old, obj any) {
			before, now := old.(T), obj.(T)
			if namesakes(before, now) {
				var none T
				gone(before)
				before = none
			}
			set(before, now)
		},
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			if object, ok := obj.(T); ok {
				gone(object)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	return handler.HasSynced, nil
}

// namesakes tells whether a relist shows as a change of one object what is the end of one and the beginning of another.
func namesakes(old, cur any) bool {
	a, ok1 := old.(metav1.Object)
	b, ok2 := cur.(metav1.Object)
	return ok1 && ok2 && a.GetUID() != b.GetUID()
}

// watch feeds the model and the queue, and returns once both hold the present state. What decisions depend on comes first, so that
// no pod is decided on half of it.
func (s *Scheduler) watch(ctx context.Context) error {
	core, policy := s.kube.CoreV1().RESTClient(), s.kube.PolicyV1().RESTClient()
	var synced []cache.InformerSynced
	var failed error
	add := func(has cache.InformerSynced, err error) {
		synced = append(synced, has)
		if err != nil && failed == nil {
			failed = err
		}
	}
	add(follow(ctx, s.informer(core, client.Nodes, &corev1.Node{}, "", nil), s.setNode, s.deleteNode))
	add(follow(ctx, s.informer(core, corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{}, "", trimNamespace), s.setNamespace, s.deleteNamespace))
	add(follow(ctx, s.informer(core, corev1.SchemeGroupVersion.WithResource("services"), &corev1.Service{}, "", trimService), s.setService, s.deleteService))
	add(follow(ctx, s.informer(policy, policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"), &policyv1.PodDisruptionBudget{}, "", nil), s.setBudget, s.deleteBudget))
	stored, err := s.watchStorage(ctx)
	if failed == nil {
		failed = err
	}
	synced = append(synced, stored...)
	if failed != nil {
		return failed
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	add(follow(ctx, s.informer(core, client.Pods, &corev1.Pod{}, "status.phase!=Succeeded,status.phase!=Failed", nil), s.setPod, s.deletePod))
	if failed != nil {
		return failed
	}
	cache.WaitForCacheSync(ctx.Done(), synced...)
	return nil
}

// informer follows a resource: what a field selector leaves of it. Pods and nodes may come from this process's API server.
func (s *Scheduler) informer(rc rest.Interface, resource schema.GroupVersionResource, object runtime.Object, selector string, trim cache.TransformFunc) cache.SharedIndexInformer {
	if s.cfg.Shared == nil || resource != client.Pods && resource != client.Nodes {
		lw := cache.NewFilteredListWatchFromClient(rc, resource.Resource, metav1.NamespaceAll, func(o *metav1.ListOptions) {
			o.FieldSelector = selector
			client.Newest(o) // a leader that knew less than the one before would fill nodes twice
		})
		i := cache.NewSharedIndexInformer(lw, object, 0, cache.Indexers{})
		if trim == nil {
			trim = client.DropManagedFields
		}
		_ = i.SetTransform(trim) // fails only where it runs already
		return i
	}
	from := cache.ToListerWatcherWithContext(s.cfg.Shared(resource))
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return from.ListWithContext(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return from.WatchWithContext(ctx, o)
		},
	}, object, 0, cache.Indexers{})
}

func trimNamespace(obj any) (any, error) {
	if o, ok := obj.(*corev1.Namespace); ok {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.ResourceVersion, Labels: o.Labels}}, nil
	}
	return obj, nil
}

func trimService(obj any) (any, error) {
	if o, ok := obj.(*corev1.Service); ok {
		meta := metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, ResourceVersion: o.ResourceVersion}
		return &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: o.Spec.Selector}}, nil
	}
	return obj, nil
}

func (s *Scheduler) setNode(old, node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.SetNode(node)
	switch {
	case old == nil:
		s.happened(&filter.Event{Kind: filter.NodeAdded, Node: node, At: s.cluster.Node(node.Name)})
	case nodeMatters(old, node):
		s.happened(&filter.Event{Kind: filter.NodeChanged, Node: node, OldNode: old, At: s.cluster.Node(node.Name)})
	}
}

func (s *Scheduler) deleteNode(node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveNode(node.Name)
	s.stir()
	for _, f := range s.frameworks {
		for _, p := range f.plugins {
			p.Forget(node.Name)
		}
	}
}

func (s *Scheduler) setNamespace(old, namespace *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	labels := namespace.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	if old != nil && reflect.DeepEqual(old.Labels, namespace.Labels) {
		return
	}
	s.cluster.SetNamespace(namespace.Name, labels)
	if old != nil {
		s.happened(&filter.Event{Kind: filter.NamespaceChanged})
	}
}

func (s *Scheduler) deleteNamespace(namespace *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.SetNamespace(namespace.Name, nil)
}

func (s *Scheduler) setService(_, service *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.SetService(service)
}

func (s *Scheduler) deleteService(service *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveService(service.Namespace, service.Name)
}

func (s *Scheduler) setBudget(_, budget *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.SetBudget(budget)
}

func (s *Scheduler) deleteBudget(budget *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveBudget(budget.Namespace, budget.Name)
}

// setPod takes in one pod in whatever state it is.
func (s *Scheduler) setPod(_, pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	switch {
	case pod.Spec.NodeName != "":
		s.leave(pod.UID)
		s.setPlaced(pod)
	case s.inFlight[pod.UID] != nil:
		// What we hold of it stays until the API server shows it bound, or binding fails.
	case !s.mine(pod):
		s.queue.Delete(pod.UID, now)
		s.cluster.Nominate(pod.UID, nil, "")
	default:
		p := model.NewPod(pod)
		s.queue.Set(p, now)
		if s.cluster.NominatedTo(pod.UID) != "" || pod.Status.NominatedNodeName != "" {
			s.renominate(p)
		}
	}
	s.signal()
}

// leave ends the waiting of a pod that has a node or is gone, wherever it waits; if it was woken for others, too, the next is.
func (s *Scheduler) leave(uid types.UID) {
	now := s.cfg.Now()
	s.queue.Delete(uid, now)
	if item := s.inFlight[uid]; item != nil {
		delete(s.inFlight, uid)
		s.queue.Placed(item, now)
	}
}

// renominate keeps the node that a pod waits for: what was decided here last, else what the API server shows, as after a restart.
func (s *Scheduler) renominate(p *model.Pod) {
	node := s.cluster.NominatedTo(p.Pod.UID)
	if node == "" {
		node = p.Pod.Status.NominatedNodeName
	}
	s.cluster.Nominate(p.Pod.UID, p, node)
}

// setPlaced takes in a pod that has a node.
func (s *Scheduler) setPlaced(pod *corev1.Pod) {
	was := s.cluster.Pod(pod.UID)
	if was != nil && s.cluster.NodeOf(pod.UID) == pod.Spec.NodeName && same(was.Pod, pod) {
		was.Pod = pod
		return
	}
	p := model.NewPod(pod)
	if was != nil {
		p.Doomed = was.Doomed
	}
	s.cluster.SetPod(p, pod.Spec.NodeName)
	switch {
	case was == nil || !maps.Equal(was.Pod.Labels, pod.Labels):
		s.happened(&filter.Event{Kind: filter.PodPlaced, Pod: p})
	case was.Requests.MilliCPU > p.Requests.MilliCPU || was.Requests.Memory > p.Requests.Memory:
		s.happened(&filter.Event{Kind: filter.PodGone, Pod: was, At: s.cluster.Node(pod.Spec.NodeName)})
	}
}

// same tells whether nothing of a placed pod has changed that decisions about others depend on.
func same(a, b *corev1.Pod) bool {
	return a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels) &&
		a.Status.StartTime.Equal(b.Status.StartTime) && len(a.Status.ContainerStatuses) == len(b.Status.ContainerStatuses) && sameResources(a, b)
}

// sameResources compares what a resize in place changes.
func sameResources(a, b *corev1.Pod) bool {
	for i := range a.Status.ContainerStatuses {
		x, y := &a.Status.ContainerStatuses[i], &b.Status.ContainerStatuses[i]
		if !equalQuantities(x.AllocatedResources, y.AllocatedResources) || (x.Resources == nil) != (y.Resources == nil) ||
			x.Resources != nil && !equalQuantities(x.Resources.Requests, y.Resources.Requests) {
			return false
		}
	}
	return true
}

func (s *Scheduler) deletePod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.Delete(pod.UID, s.cfg.Now())
	if s.inFlight[pod.UID] != nil {
		delete(s.inFlight, pod.UID)
		s.stir()
	}
	s.forget(pod.UID)
}

// forget takes a pod off its node and lets others use the room.
func (s *Scheduler) forget(uid types.UID) {
	p, node := s.cluster.Pod(uid), s.cluster.NodeOf(uid)
	if nominated, to := s.cluster.Nominated(uid); nominated != nil {
		s.cluster.Nominate(uid, nil, "")
		s.happened(&filter.Event{Kind: filter.PodGone, Pod: nominated, At: s.cluster.Node(to)})
	}
	if s.cluster.RemovePod(uid) {
		s.happened(&filter.Event{Kind: filter.PodGone, Pod: p, At: s.cluster.Node(node)})
	}
}

// nodeMatters tells whether a change of a node could let a rejected pod in.
func nodeMatters(old, node *corev1.Node) bool {
	if old.Spec.Unschedulable != node.Spec.Unschedulable || len(old.Spec.Taints) != len(node.Spec.Taints) {
		return true
	}
	for i := range old.Spec.Taints {
		if !old.Spec.Taints[i].MatchTaint(&node.Spec.Taints[i]) || old.Spec.Taints[i].Value != node.Spec.Taints[i].Value {
			return true
		}
	}
	return !maps.Equal(old.Labels, node.Labels) || !equalQuantities(old.Status.Allocatable, node.Status.Allocatable)
}

func equalQuantities(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}
