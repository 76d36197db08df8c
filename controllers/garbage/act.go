package garbage

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// setOwners replaces the references of obj, unless it has changed since it was read. Merge patches are understood by custom
// resources too.
func (c *Controller) setOwners(ctx context.Context, n node, obj *metav1.PartialObjectMetadata, refs []metav1.OwnerReference) error {
	if refs == nil {
		refs = []metav1.OwnerReference{}
	}
	return c.patch(ctx, n, map[string]any{"uid": obj.UID, "resourceVersion": obj.ResourceVersion, "ownerReferences": refs})
}

// dropFinalizer takes one finalizer off the object, if it is there.
func (c *Controller) dropFinalizer(ctx context.Context, n node, finalizer string) error {
	obj, err := c.live(ctx, n)
	if err != nil {
		return err
	}
	if obj == nil || !slices.Contains(obj.Finalizers, finalizer) {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(obj.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, n, map[string]any{"uid": obj.UID, "resourceVersion": obj.ResourceVersion, "finalizers": kept})
}

func (c *Controller) patch(ctx context.Context, n node, meta map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	_, err = c.client(n.resource, n.namespace).Patch(ctx, n.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// delete removes the object, unless it has changed since it was read.
func (c *Controller) delete(ctx context.Context, n node, obj *metav1.PartialObjectMetadata, how metav1.DeletionPropagation) error {
	pre := &metav1.Preconditions{UID: &obj.UID}
	if obj.ResourceVersion != "" {
		pre.ResourceVersion = &obj.ResourceVersion
	}
	err := c.client(n.resource, n.namespace).Delete(ctx, n.name, metav1.DeleteOptions{Preconditions: pre, PropagationPolicy: &how})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
