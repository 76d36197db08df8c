// Package owner decides which objects a controller owns and makes it so: orphans that match its selector are adopted,
// owned objects that no longer match are released.
//
// Invariants: an object that another controller owns is never touched; nothing is adopted by an owner that the API server says is
// being deleted or replaced; every patch carries the object's UID, so it never hits a namesake.
package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Action is what to do with one candidate.
type Action int

// Skip leaves the object alone, Keep counts it as owned, Adopt takes it, Release lets it go.
const (
	Skip Action = iota
	Keep
	Adopt
	Release
)

// Decide says what owner does with obj. It is pure.
func Decide(owner metav1.Object, selector labels.Selector, obj metav1.Object) Action {
	ref := metav1.GetControllerOfNoCopy(obj)
	match := selector.Matches(labels.Set(obj.GetLabels()))
	deleting := owner.GetDeletionTimestamp() != nil
	switch {
	case ref != nil && ref.UID != owner.GetUID():
		return Skip
	case ref != nil && match:
		return Keep
	case ref != nil && !deleting:
		return Release
	case ref == nil && match && !deleting && obj.GetDeletionTimestamp() == nil && obj.GetNamespace() == owner.GetNamespace():
		return Adopt
	}
	return Skip
}

// Reference is the owner reference that makes obj's controller out of owner.
func Reference(owner metav1.Object, kind schema.GroupVersionKind) *metav1.OwnerReference {
	return metav1.NewControllerRef(owner, kind)
}

// Claimer adopts and releases for one owner during one sync.
type Claimer struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Finalizer, unless empty, is put on what is adopted and taken off what is released, by the same patch.
	Finalizer string
	// Live reads the owner past every cache; it is called once, before the first adoption.
	Live func(ctx context.Context) (metav1.Object, error)
	// Patch applies a strategic merge patch to a candidate.
	Patch func(ctx context.Context, obj metav1.Object, patch []byte) error
}

// Claim gives those of objs that the owner owns once it has adopted and released. What could not be
// adopted or released is in the error, the rest is claimed all the same.
func Claim[T metav1.Object](ctx context.Context, c Claimer, objs []T) ([]T, error) {
	var owned []T
	var errs []error
	adoptable := onceError(func() error { return c.adoptable(ctx) })
	for _, obj := range objs {
		switch Decide(c.Owner, c.Selector, obj) {
		case Keep:
			owned = append(owned, obj)
		case Adopt:
			taken, err := c.adopt(ctx, obj, adoptable)
			if taken {
				owned = append(owned, obj)
			}
			errs = append(errs, err)
		case Release:
			errs = append(errs, c.release(ctx, obj))
		}
	}
	return owned, errors.Join(errs...)
}

func onceError(f func() error) func() error {
	var done bool
	var err error
	return func() error {
		if !done {
			done, err = true, f()
		}
		return err
	}
}

func (c Claimer) adoptable(ctx context.Context) error {
	live, err := c.Live(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("adopt: %w", err)
	case live.GetUID() != c.Owner.GetUID():
		return fmt.Errorf("adopt: original %s %s/%s is gone: got uid %s, wanted %s", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName(), live.GetUID(), c.Owner.GetUID())
	case live.GetDeletionTimestamp() != nil:
		return fmt.Errorf("adopt: %s %s/%s is being deleted", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName())
	}
	return nil
}

func (c Claimer) adopt(ctx context.Context, obj metav1.Object, adoptable func() error) (bool, error) {
	if err := adoptable(); err != nil {
		return false, err
	}
	err := c.Patch(ctx, obj, c.refPatch(obj.GetUID(), "finalizers", metav1.OwnerReference{
		APIVersion: c.Kind.GroupVersion().String(), Kind: c.Kind.Kind, Name: c.Owner.GetName(), UID: c.Owner.GetUID(),
		Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
	}))
	if apierrors.IsNotFound(err) {
		return false, nil // gone meanwhile
	}
	return err == nil, err
}

func (c Claimer) release(ctx context.Context, obj metav1.Object) error {
	err := c.Patch(ctx, obj, c.refPatch(obj.GetUID(), "$deleteFromPrimitiveList/finalizers", map[string]any{"$patch": "delete", "uid": c.Owner.GetUID()}))
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // gone, or no longer ours: a namesake with another UID refuses the patch
	}
	return err
}

// refPatch changes the reference to the owner, and the finalizer as the directive says.
func (c Claimer) refPatch(uid types.UID, directive string, ref any) []byte {
	metadata := map[string]any{"uid": uid, "ownerReferences": []any{ref}}
	if c.Finalizer != "" {
		metadata[directive] = []string{c.Finalizer}
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // strings and booleans always marshal
	}
	return patch
}
