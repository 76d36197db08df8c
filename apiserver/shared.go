package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// ListWatch feeds informers inside this process with the watch cache's own objects, which are not to be changed. u is
// authorised as for requests over the network. The resource is one of all namespaces, in the version that is stored.
func (s *Server) ListWatch(u user.Info, resource schema.GroupVersionResource) toolscache.ListerWatcher {
	table := kinds.All()
	for i := range table {
		if k := &table[i]; k.GVK.GroupVersion() == resource.GroupVersion() && k.Resource == resource.Resource {
			w := &sharedObjects{server: s, user: u, kind: k}
			return &toolscache.ListWatch{ListWithContextFunc: w.list, WatchFuncWithContext: w.watch}
		}
	}
	panic(fmt.Sprintf("apiserver: %v is not served", resource))
}

type sharedObjects struct {
	server *Server
	user   user.Info
	kind   *kinds.Kind
}

func (o *sharedObjects) allow(ctx context.Context, verb string) error {
	return o.server.allow(ctx, authorizer.AttributesRecord{
		User: o.user, Verb: verb, APIGroup: o.kind.GVK.Group, APIVersion: o.kind.GVK.Version, Resource: o.kind.Resource, ResourceRequest: true,
	}, nil)
}

func (o *sharedObjects) list(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	if err := o.allow(ctx, "list"); err != nil {
		return nil, err
	}
	byLabel, byField, err := selectors(opts)
	if err != nil {
		return nil, err
	}
	r, err := o.server.cache.List(ctx, o.kind.GroupResource().String(), cache.ListOptions{
		Labels: byLabel, Fields: byField, Consistent: opts.ResourceVersion != "0",
	})
	if err != nil {
		return nil, err
	}
	list := &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(r.Revision, 10)}, Items: make([]runtime.RawExtension, len(r.Objects))}
	for i, obj := range r.Objects {
		list.Items[i].Object = obj.Object
	}
	return list, nil
}

func selectors(opts metav1.ListOptions) (byLabel labels.Selector, byField fields.Selector, err error) {
	if opts.LabelSelector != "" {
		if byLabel, err = labels.Parse(opts.LabelSelector); err != nil {
			return nil, nil, err
		}
	}
	if opts.FieldSelector != "" {
		byField, err = fields.ParseSelector(opts.FieldSelector)
	}
	return byLabel, byField, err
}

func (o *sharedObjects) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	if err := o.allow(ctx, "watch"); err != nil {
		return nil, err
	}
	byLabel, byField, err := selectors(opts)
	if err != nil {
		return nil, err
	}
	var after int64
	if opts.ResourceVersion != "" {
		if after, err = strconv.ParseInt(opts.ResourceVersion, 10, 64); err != nil {
			return nil, err
		}
	}
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	w, err := o.server.cache.Watch(ctx, o.kind.GroupResource().String(), cache.WatchOptions{
		After: after, SendInitial: initial, Consistent: initial && opts.ResourceVersion == "", Bookmarks: opts.AllowWatchBookmarks,
		Labels: byLabel, Fields: byField,
	})
	if errors.Is(err, cache.ErrTooOld) {
		return nil, apierrors.NewResourceExpired("too old resource version")
	}
	if err != nil {
		return nil, err
	}
	ctx, end := o.server.rest.Endless(ctx)
	s := &sharedWatch{objects: o, from: w, events: make(chan watch.Event, 100), end: end}
	timeout := time.Hour
	if opts.TimeoutSeconds != nil {
		timeout = time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	go s.run(ctx, timeout)
	return s, nil
}

// sharedWatch is a watch whose events hold the cache's objects.
type sharedWatch struct {
	objects *sharedObjects
	from    cache.Watcher
	events  chan watch.Event
	end     context.CancelFunc
}

func (s *sharedWatch) ResultChan() <-chan watch.Event { return s.events }
func (s *sharedWatch) Stop()                          { s.end() }

func (s *sharedWatch) run(ctx context.Context, timeout time.Duration) {
	defer close(s.events)
	defer s.end()
	defer s.from.Stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		events, err := s.from.Next(ctx)
		if errors.Is(err, cache.ErrTooOld) {
			status := apierrors.NewResourceExpired("too old resource version").Status()
			s.send(ctx, watch.Event{Type: watch.Error, Object: &status})
		}
		if err != nil {
			return
		}
		for i := range events {
			if !s.send(ctx, s.event(&events[i])) {
				return
			}
		}
	}
}

func (s *sharedWatch) send(ctx context.Context, e watch.Event) bool {
	select {
	case s.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *sharedWatch) event(e *cache.Event) watch.Event {
	if e.Object != nil {
		return watch.Event{Type: e.Type, Object: e.Object.Object}
	}
	obj := s.objects.kind.New()
	if m, err := meta.Accessor(obj); err == nil {
		m.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
		if e.InitialEnd {
			m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
	}
	return watch.Event{Type: e.Type, Object: obj}
}
