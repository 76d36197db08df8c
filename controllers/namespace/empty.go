package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/ptr"
)

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// page is how many objects are listed at a time.
const page = 500

// target is a resource to empty.
type target struct {
	gvr schema.GroupVersionResource
	// collection tells whether all its objects can be deleted by one request.
	collection bool
}

// empty deletes what is in the namespace, pods first, and tells what is left.
func (c *Controller) empty(ctx context.Context, namespace string) findings {
	f := findings{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	lists, err := discovery.ServerPreferredNamespacedResources(c.discovery)
	f.discovery = err
	targets, err := targetsOf(lists)
	f.parsing = err
	for _, pods := range []bool{true, false} {
		for _, t := range targets {
			if (t.gvr == podResource) != pods {
				continue
			}
			if err := c.emptyOne(ctx, namespace, t, &f); err != nil {
				f.failures = append(f.failures, fmt.Errorf("%s: %w", t.gvr.GroupResource(), err))
			}
		}
		if len(f.remaining) > 0 || len(f.failures) > 0 {
			break
		}
	}
	return f
}

// targetsOf are the resources whose objects can be listed and deleted. The error tells of lists that make no sense; their
// resources are left out.
func targetsOf(lists []*metav1.APIResourceList) ([]target, error) {
	var targets []target
	var errs []error
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") && slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") {
				targets = append(targets, target{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
			}
		}
	}
	return targets, errors.Join(errs...)
}

func (c *Controller) emptyOne(ctx context.Context, namespace string, t target, f *findings) error {
	client := c.metadata.Resource(t.gvr).Namespace(namespace)
	before, err := list(ctx, client)
	if err != nil || len(before) == 0 {
		return err
	}
	if err := remove(ctx, client, t, before); err != nil {
		return err
	}
	left, err := list(ctx, client)
	if err != nil || len(left) == 0 {
		return err
	}
	f.remaining[t.gvr] = len(left)
	for _, obj := range left {
		for _, finalizer := range obj.Finalizers {
			f.finalizers[finalizer]++
		}
	}
	return nil
}

// remove asks for the deletion of all objects that are not being deleted yet.
func remove(ctx context.Context, client metadata.ResourceInterface, t target, objs []metav1.PartialObjectMetadata) error {
	objs = slices.DeleteFunc(objs, func(o metav1.PartialObjectMetadata) bool { return o.DeletionTimestamp != nil })
	if len(objs) == 0 {
		return nil
	}
	options := metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
	if t.collection {
		err := client.DeleteCollection(ctx, options, metav1.ListOptions{})
		if !apierrors.IsMethodNotSupported(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for i := range objs {
		if err := client.Delete(ctx, objs[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// list gives all objects of a resource; a resource no longer served has none.
func list(ctx context.Context, client metadata.ResourceInterface) ([]metav1.PartialObjectMetadata, error) {
	var all []metav1.PartialObjectMetadata
	options := metav1.ListOptions{Limit: page}
	for {
		l, err := client.List(ctx, options)
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if l.Continue == "" {
			return all, nil
		}
		options.Continue = l.Continue
	}
}
