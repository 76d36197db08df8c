package resourcequota

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/quota"
)

// page is how many objects are listed at a time.
const page = 500

// counter counts live objects: informers hold neither all resources nor all that a pod asks for.
type counter struct {
	client    kubernetes.Interface
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
	clock     clock.Clock

	mu     sync.Mutex
	found  map[schema.GroupResource]schema.GroupVersionResource
	missed map[schema.GroupResource]time.Time
}

// count is what the objects of the quota's namespace use of it. unknown tells that it names resources that are not served;
// of these there is no number.
func (c *counter) count(ctx context.Context, q *corev1.ResourceQuota) (used corev1.ResourceList, unknown bool, err error) {
	used = corev1.ResourceList{}
	for _, gr := range quota.Counts(q.Spec.Hard) {
		use, ok, err := c.use(ctx, gr, q)
		if err != nil {
			return nil, false, fmt.Errorf("count %s: %w", gr, err)
		}
		if !ok {
			unknown = true
			continue
		}
		hard := quota.Measured(gr, q.Spec.Hard)
		for name, limit := range hard {
			used[name] = resource.Quantity{Format: limit.Format}
		}
		used = quota.Add(used, quota.Mask(use, hard))
	}
	return used, unknown, nil
}

// use sums what the objects of one resource use; ok is false where it is not served.
func (c *counter) use(ctx context.Context, gr schema.GroupResource, q *corev1.ResourceQuota) (sum corev1.ResourceList, ok bool, err error) {
	now, core := c.clock.Now(), c.client.CoreV1()
	add := func(obj runtime.Object) error {
		in, err := quota.InScopes(&q.Spec, obj)
		if in {
			sum = quota.Add(sum, quota.Usage(gr, obj, now))
		}
		return err
	}
	switch gr {
	case quota.Pods:
		err = pages(func(o metav1.ListOptions) ([]corev1.Pod, string, error) {
			l, err := core.Pods(q.Namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}, func(p *corev1.Pod) error { return add(p) })
	case quota.Services:
		err = pages(func(o metav1.ListOptions) ([]corev1.Service, string, error) {
			l, err := core.Services(q.Namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}, func(s *corev1.Service) error { return add(s) })
	case quota.Claims:
		err = pages(func(o metav1.ListOptions) ([]corev1.PersistentVolumeClaim, string, error) {
			l, err := core.PersistentVolumeClaims(q.Namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}, func(p *corev1.PersistentVolumeClaim) error { return add(p) })
	default:
		return c.number(ctx, gr, q)
	}
	return sum, err == nil, err
}

// pages lists everything and calls each for every object.
func pages[T any](list func(metav1.ListOptions) ([]T, string, error), each func(*T) error) error {
	options := metav1.ListOptions{Limit: page}
	for {
		items, next, err := list(options)
		if err != nil {
			return err
		}
		for i := range items {
			if err := each(&items[i]); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		options.Continue = next
	}
}

// number counts objects of which only the number matters. Scopes leave none of them.
func (c *counter) number(ctx context.Context, gr schema.GroupResource, q *corev1.ResourceQuota) (corev1.ResourceList, bool, error) {
	gvr, ok := c.resolve(ctx, gr)
	if !ok {
		return nil, false, nil
	}
	if len(quota.Selectors(&q.Spec)) > 0 {
		return nil, true, nil
	}
	n, err := c.length(ctx, gvr, q.Namespace)
	if apierrors.IsNotFound(err) { // served no more
		c.forget(gr)
		return nil, false, nil
	}
	sum := corev1.ResourceList{}
	for name := range quota.Usage(gr, &metav1.PartialObjectMetadata{}, c.clock.Now()) {
		sum[name] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return sum, err == nil, err
}

// length asks for one object, and with it for the number of others, which servers tell unless they do not know it.
func (c *counter) length(ctx context.Context, gvr schema.GroupVersionResource, namespace string) (int64, error) {
	client := c.metadata.Resource(gvr).Namespace(namespace)
	l, err := client.List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case err != nil:
		return 0, err
	case l.Continue == "":
		return int64(len(l.Items)), nil
	case l.RemainingItemCount != nil:
		return int64(len(l.Items)) + *l.RemainingItemCount, nil
	}
	var n int64
	err = pages(func(o metav1.ListOptions) ([]metav1.PartialObjectMetadata, string, error) {
		l, err := client.List(ctx, o)
		if err != nil {
			return nil, "", err
		}
		return l.Items, l.Continue, nil
	}, func(*metav1.PartialObjectMetadata) error { n++; return nil })
	return n, err
}

// resolve finds the version in which a resource is served; what is not found is not asked for again for a while.
func (c *counter) resolve(ctx context.Context, gr schema.GroupResource) (schema.GroupVersionResource, bool) {
	if gr == quota.Claims {
		return gr.WithVersion("v1"), true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if gvr, ok := c.found[gr]; ok {
		return gvr, true
	}
	if at, ok := c.missed[gr]; ok && c.clock.Now().Sub(at) < unknownWait/2 {
		return schema.GroupVersionResource{}, false
	}
	for _, gv := range c.versions(gr.Group) {
		list, err := c.discovery.ServerResourcesForGroupVersion(gv.String())
		if err != nil {
			continue
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool {
			return r.Name == gr.Resource && r.Namespaced && slices.Contains(r.Verbs, "list")
		}) {
			delete(c.missed, gr)
			c.found[gr] = gv.WithResource(gr.Resource)
			return c.found[gr], true
		}
	}
	c.missed[gr] = c.clock.Now()
	return schema.GroupVersionResource{}, false
}

func (c *counter) forget(gr schema.GroupResource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.found, gr)
}

// versions are a group's, the preferred one first.
func (c *counter) versions(group string) []schema.GroupVersion {
	if group == "" {
		return []schema.GroupVersion{{Version: "v1"}}
	}
	groups, err := c.discovery.ServerGroups()
	if err != nil {
		return nil
	}
	var out []schema.GroupVersion
	for i := range groups.Groups {
		if g := &groups.Groups[i]; g.Name == group {
			out = append(out, schema.GroupVersion{Group: group, Version: g.PreferredVersion.Version})
			for _, v := range g.Versions {
				if v.Version != g.PreferredVersion.Version {
					out = append(out, schema.GroupVersion{Group: group, Version: v.Version})
				}
			}
		}
	}
	return out
}
