// Package scales reads and writes how many pods an object of any kind is to have, through the kind's scale subresource.
//
// Invariants: nothing is asked before the first use; a kind that is not known is looked for again, at most every half minute, so that
// one that is defined later is found.
package scales

import (
	"context"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"

	"github.com/coracle-dev/coracle/internal/clock"
)

// lookAgain is how long a kind that was not found is taken not to exist.
const lookAgain = 30 * time.Second

// Client finds kinds and their scales. It is a meta.RESTMapper of its cluster.
type Client struct {
	meta.RESTMapper // what is not overridden
	mapper          meta.ResettableRESTMapper
	discovery       discovery.DiscoveryInterface
	scales          scale.ScalesGetter
	clock           clock.Clock

	mu    sync.Mutex
	reset time.Time
}

// New makes a Client of the API server that cfg leads to.
func New(cfg *rest.Config, c clock.Clock) (*Client, error) {
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))
	getter, err := scale.NewForConfig(cfg, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(d))
	if err != nil {
		return nil, err
	}
	return &Client{RESTMapper: mapper, mapper: mapper, discovery: d, scales: getter, clock: c}, nil
}

// RESTMapping finds the resource of a kind.
func (c *Client) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	m, err := c.mapper.RESTMapping(gk, versions...)
	if c.again(err) {
		return c.mapper.RESTMapping(gk, versions...)
	}
	return m, err
}

// RESTMappings finds the resources of a kind in all versions, the preferred one first.
func (c *Client) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	m, err := c.mapper.RESTMappings(gk, versions...)
	if c.again(err) {
		return c.mapper.RESTMappings(gk, versions...)
	}
	return m, err
}

// again tells whether it is worth looking a second time, with what the server says now.
func (c *Client) again(err error) bool {
	if !meta.IsNoMatchError(err) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	if now.Sub(c.reset) < lookAgain {
		return false
	}
	c.reset = now
	c.mapper.Reset()
	return true
}

// Get reads the scale of an object whose kind gk is served in some version, and names the resource to Update it by.
func (c *Client) Get(ctx context.Context, gk schema.GroupKind, namespace, name string) (*autoscalingv1.Scale, schema.GroupResource, error) {
	mappings, err := c.RESTMappings(gk)
	if err != nil {
		return nil, schema.GroupResource{}, err
	}
	var first error
	for _, m := range mappings {
		gr := m.Resource.GroupResource()
		s, err := c.scales.Scales(namespace).Get(ctx, gr, name, metav1.GetOptions{})
		if err == nil {
			return s, gr, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fmt.Errorf("unrecognized resource")
	}
	return nil, schema.GroupResource{}, first
}

// Owner reads the scale of an owner of pods: nil when that object is gone, an error when its kind has no scale.
func (c *Client) Owner(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*autoscalingv1.Scale, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	mapping, err := c.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		return nil, err
	}
	gr := mapping.Resource.GroupResource()
	s, err := c.scales.Scales(namespace).Get(ctx, gr, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, c.implemented(mapping.Resource)
	}
	if err != nil || s.UID != ref.UID {
		return nil, err
	}
	return s, nil
}

// NoScaleError says that a kind has no scale subresource.
type NoScaleError struct{ Resource schema.GroupResource }

func (e *NoScaleError) Error() string {
	return e.Resource.String() + " does not implement the scale subresource"
}

// implemented tells an object that is not there from a kind without scales: the server answers both alike.
func (c *Client) implemented(gvr schema.GroupVersionResource) error {
	list, err := c.discovery.ServerResourcesForGroupVersion(gvr.GroupVersion().String())
	if err != nil {
		return err
	}
	for i := range list.APIResources {
		if r := &list.APIResources[i]; r.Name == gvr.Resource+"/scale" && r.Kind == "Scale" {
			return nil
		}
	}
	return &NoScaleError{Resource: gvr.GroupResource()}
}

// Update writes a scale that was read by Get, unless the object has changed since.
func (c *Client) Update(ctx context.Context, gr schema.GroupResource, s *autoscalingv1.Scale) error {
	_, err := c.scales.Scales(s.Namespace).Update(ctx, gr, s, metav1.UpdateOptions{})
	return err
}
