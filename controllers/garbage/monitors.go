package garbage

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// shared are the resources that other controllers watch anyway, whose informers are used instead of another watch.
var shared = []schema.GroupVersionResource{
	{Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "services"}, {Version: "v1", Resource: "endpoints"}, {Version: "v1", Resource: "nodes"},
	{Version: "v1", Resource: "namespaces"}, {Version: "v1", Resource: "serviceaccounts"}, {Version: "v1", Resource: "replicationcontrollers"},
	{Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "apps", Version: "v1", Resource: "replicasets"},
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
}

// patience is how long a resource that cannot be listed holds up the others.
const patience = 30 * time.Second

// monitors feed the graph from a watch of every deletable resource the API serves.
type monitors struct {
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
	informers informers.SharedInformerFactory
	graph     *graph
	wake      func([]types.UID)
	stray     func(stray)

	mu      sync.Mutex
	running map[schema.GroupVersionResource]*monitor
	kinds   map[schema.GroupVersionKind]*resource
}

type monitor struct {
	resource *resource
	synced   <-chan struct{}
	since    time.Time
	stop     func()
}

// find is the resource of an owner reference; nil when the API serves none.
func (m *monitors) find(ref metav1.OwnerReference) *resource {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kinds[gv.WithKind(ref.Kind)]
}

// ready tells whether every resource has been listed once, but for those that have long been failing.
func (m *monitors) ready(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mon := range m.running {
		select {
		case <-mon.synced:
		default:
			if now.Sub(mon.since) < patience {
				return false
			}
		}
	}
	return len(m.running) > 0
}

// refresh starts and stops watches so that they match what the API serves now.
func (m *monitors) refresh(ctx context.Context, now time.Time) error {
	groups, lists, err := m.discovery.ServerGroupsAndResources()
	if err != nil && len(lists) == 0 {
		return err
	}
	partial := err != nil // some group did not answer; what it serves is left as it is
	kinds := kindsOf(lists)
	watched := watchable(groups, lists, kinds)
	m.mu.Lock()
	defer m.mu.Unlock()
	if partial {
		for kind, r := range m.kinds {
			if kinds[kind] == nil {
				kinds[kind] = r
			}
		}
	}
	m.kinds = kinds
	for gvr, r := range watched {
		if m.running[gvr] == nil {
			m.running[gvr] = m.start(ctx, r, now)
		}
	}
	for gvr, mon := range m.running {
		if watched[gvr] == nil && !partial {
			mon.stop()
			delete(m.running, gvr)
			for _, uid := range m.graph.absent(mon.resource, nil) {
				m.wake(m.graph.forget(uid))
			}
		}
	}
	return nil
}

func kindsOf(lists []*metav1.APIResourceList) map[schema.GroupVersionKind]*resource {
	kinds := map[schema.GroupVersionKind]*resource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				kinds[gv.WithKind(r.Kind)] = &resource{gvr: gv.WithResource(r.Name), kind: gv.WithKind(r.Kind), namespaced: r.Namespaced}
			}
		}
	}
	return kinds
}

// watchable are the resources whose objects can own, be owned and be deleted, each in the version its group prefers. Events are many,
// short-lived and own nothing.
func watchable(groups []*metav1.APIGroup, lists []*metav1.APIResourceList, kinds map[schema.GroupVersionKind]*resource) map[schema.GroupVersionResource]*resource {
	byVersion := map[string]*metav1.APIResourceList{}
	for _, list := range lists {
		byVersion[list.GroupVersion] = list
	}
	found := map[schema.GroupVersionResource]*resource{}
	for _, group := range groups {
		seen := map[string]bool{}
		for _, version := range append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...) {
			list := byVersion[version.GroupVersion]
			if list == nil {
				continue
			}
			gv := schema.GroupVersion{Group: group.Name, Version: version.Version}
			for _, r := range list.APIResources {
				known := kinds[gv.WithKind(r.Kind)]
				if known != nil && !seen[r.Name] && usable(r) {
					seen[r.Name] = true
					found[known.gvr] = known
				}
			}
		}
	}
	return found
}

func usable(r metav1.APIResource) bool {
	lacks := func(verb string) bool { return !slices.Contains(r.Verbs, verb) }
	return !slices.ContainsFunc([]string{"delete", "list", "watch"}, lacks) && !strings.Contains(r.Name, "/") && r.Name != "events"
}

func (m *monitors) start(ctx context.Context, r *resource, now time.Time) *monitor {
	if slices.Contains(shared, r.gvr) {
		if mon, err := m.startShared(r, now); err == nil {
			return mon
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	feed := &feed{monitors: m, resource: r, synced: make(chan struct{})}
	client := m.metadata.Resource(r.gvr)
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, m.metadata)
	reflector := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, feed, cache.ReflectorOptions{Name: "garbage-" + r.gvr.GroupResource().String(), TypeDescription: r.gvr.String()})
	go reflector.RunWithContext(ctx)
	return &monitor{resource: r, synced: feed.synced, since: now, stop: cancel}
}

// startShared listens to an informer of the factory. It is used for built-in resources only, which never go away.
func (m *monitors) startShared(r *resource, now time.Time) (*monitor, error) {
	generic, err := m.informers.ForResource(r.gvr)
	if err != nil {
		return nil, err
	}
	f := &feed{monitors: m, resource: r}
	reg, err := generic.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.observe(obj) },
		UpdateFunc: f.changed,
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			f.forget(obj)
		},
	})
	if err != nil {
		return nil, err
	}
	return &monitor{resource: r, synced: reg.HasSyncedChecker().Done(), since: now, stop: func() { _ = generic.Informer().RemoveEventHandler(reg) }}, nil
}

// feed is the store of a reflector: objects go into the graph and are kept nowhere else.
type feed struct {
	*monitors
	resource *resource
	once     sync.Once
	synced   chan struct{}
}

func (f *feed) observe(obj any) {
	if o, ok := obj.(metav1.Object); ok {
		wake, strays := f.graph.observe(f.resource, o)
		f.wake(wake)
		for _, s := range strays {
			f.stray(s)
		}
	}
}

// changed takes in an informer's update, which after a relist may be of another object by the same name: of the end of the first it says
// nothing else.
func (f *feed) changed(old, cur any) {
	before, ok1 := old.(metav1.Object)
	now, ok2 := cur.(metav1.Object)
	if ok1 && ok2 && before.GetUID() != now.GetUID() {
		f.forget(old)
	}
	f.observe(cur)
}

func (f *feed) forget(obj any) {
	if o, ok := obj.(metav1.Object); ok {
		f.wake(f.graph.forget(o.GetUID()))
	}
}

func (f *feed) Add(obj any) error    { f.observe(obj); return nil }
func (f *feed) Update(obj any) error { f.observe(obj); return nil }
func (f *feed) Delete(obj any) error { f.forget(obj); return nil }
func (f *feed) Resync() error        { return nil }

// Replace takes in a whole list; what is not in it is gone.
func (f *feed) Replace(list []any, _ string) error {
	present := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		if o, ok := obj.(metav1.Object); ok {
			present[o.GetUID()] = true
		}
		f.observe(obj)
	}
	for _, uid := range f.graph.absent(f.resource, present) {
		f.wake(f.graph.forget(uid))
	}
	f.once.Do(func() { close(f.synced) })
	return nil
}
