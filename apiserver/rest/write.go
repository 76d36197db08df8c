package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// current is the state that a write starts from. It is never changed.
type current struct {
	obj      runtime.Object // in the served version
	raw      runtime.Object // in the stored version; the same where those are one
	revision int64
	fresh    bool // read from the store for this request; otherwise it may be stale
	json     func() ([]byte, error)
}

// cached reads the state from the watch cache, which may lag behind; one that is missing there is read from the store. A dry
// run starts from the store, for it writes nothing that would find out.
func (c *call) cached(name string) (*current, error) {
	if c.dryRun {
		return c.fresh(name)
	}
	o, err := c.Cache.Get(c.ctx(), c.r.storage, c.r.key(c.info.Namespace, name), 0)
	if errors.Is(err, store.ErrNotFound) {
		return c.fresh(name)
	}
	if err != nil {
		return nil, readError(c.r.gr, name, 0, err)
	}
	cur, err := c.currentOf(o.Object, o.Revision)
	if err != nil {
		return nil, err
	}
	cur.json = func() ([]byte, error) { return c.r.encoded(o, c.r.form(output{mediaType: typeJSON})) }
	return cur, nil
}

// fresh reads the state from the store.
func (c *call) fresh(name string) (*current, error) {
	e, err := c.Store.Get(c.ctx(), c.r.key(c.info.Namespace, name), 0)
	if err != nil {
		return nil, readError(c.r.gr, name, 0, err)
	}
	return c.freshFrom(e)
}

func (c *call) freshFrom(e store.Entry) (*current, error) {
	raw, err := c.r.stored.decodeStored(e.Value, e.Revision)
	if err != nil {
		return nil, err
	}
	cur, err := c.currentOf(raw, e.Revision)
	if err != nil {
		return nil, err
	}
	cur.fresh = true
	return cur, nil
}

func (c *call) currentOf(raw runtime.Object, revision int64) (*current, error) {
	obj, err := c.r.convert(raw)
	if err != nil {
		return nil, err
	}
	cur := &current{obj: obj, raw: raw, revision: revision}
	cur.json = func() ([]byte, error) { return encodeJSON(cur.obj) }
	return cur, nil
}

// attempt tries a write on the cached state. Where that fails and the state was stale, or another write came
// first, it tries again on the newest.
func (c *call) attempt(cur *current, try func(*current) error) error {
	for {
		err := try(cur)
		var conflict *store.ConflictError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &conflict):
			if cur, err = c.freshFrom(conflict.Current); err != nil {
				return err
			}
		case errors.Is(err, store.ErrNotFound) || cur.fresh:
			return writeError(c.r.gr, c.info.Name, err)
		default:
			next, ferr := c.fresh(accessor(cur.obj).GetName())
			if ferr != nil {
				return ferr
			}
			if next.revision == cur.revision {
				return writeError(c.r.gr, c.info.Name, err)
			}
			cur = next
		}
		if err := c.ctx().Err(); err != nil {
			return err
		}
	}
}

// toStorage gives what is stored of an object in the served version. The object must be private to the call.
func (c *call) toStorage(obj runtime.Object) (runtime.Object, error) {
	if c.r.ToStorage == nil {
		return obj, nil
	}
	raw, err := c.r.ToStorage(obj)
	if err != nil {
		return nil, err
	}
	raw.GetObjectKind().SetGroupVersionKind(c.r.stored.GVK)
	return raw, nil
}

// encodeToStore encodes an object in the stored version without its resourceVersion, which is the store's to give.
func (r *resource) encodeToStore(raw runtime.Object) ([]byte, error) {
	m := accessor(raw)
	version := m.GetResourceVersion()
	m.SetResourceVersion("")
	value, err := r.stored.codec.encodeStored(raw)
	m.SetResourceVersion(version)
	return value, err
}

// admissionRequest describes the write to the chain.
func (c *call) admissionRequest(op admission.Operation, obj, old runtime.Object) *admission.Request {
	r := &admission.Request{
		Operation: op, Kind: c.r.GVK, Resource: c.r.gvr, Subresource: c.info.Subresource,
		Namespace: c.info.Namespace, Name: c.info.Name, Object: obj, Old: old,
		User: c.user, DryRun: c.dryRun, Options: c.options, Warn: c.warn, Annotate: admission.AnnotatorFrom(c.ctx()),
	}
	if r.Name == "" && obj != nil {
		r.Name = accessor(obj).GetName()
	}
	switch o := r.Options.(type) {
	case *metav1.CreateOptions:
		o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	case *metav1.UpdateOptions:
		o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	case *metav1.DeleteOptions:
		o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	case *metav1.PatchOptions:
		o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PatchOptions"))
	}
	if c.r.gr.Resource == "namespaces" && c.r.gr.Group == "" {
		r.Namespace = r.Name
	}
	if r.Subresource != "" {
		r.Kind = c.kindOf(obj)
		if obj != nil {
			obj.GetObjectKind().SetGroupVersionKind(r.Kind)
		}
	}
	return r
}

// kindOf is the kind of what a request to a subresource carries, which may be another than the resource's.
func (c *call) kindOf(obj runtime.Object) schema.GroupVersionKind {
	if obj == nil || c.r.Dynamic != nil && c.info.Subresource != "scale" {
		return c.r.GVK
	}
	known, _, err := c.Scheme.ObjectKinds(obj)
	if err != nil || len(known) == 0 || slices.Contains(known, c.r.GVK) {
		return c.r.GVK
	}
	return known[0]
}

func (c *call) mutate(op admission.Operation, obj, old runtime.Object) error {
	if d := c.r.Dynamic; d != nil && d.Terminating && op == admission.Create {
		return apierrors.NewForbidden(c.r.gr, accessor(obj).GetName(),
			errors.New("create not allowed while custom resource definition is terminating"))
	}
	if c.Admission == nil || c.unasked {
		return nil
	}
	return c.Admission.Mutate(c.ctx(), c.admissionRequest(op, obj, old))
}

func (c *call) validate(op admission.Operation, obj, old runtime.Object) error {
	if c.Admission == nil || c.unasked {
		return nil
	}
	c.takeBack() // an attempt before this one stored nothing
	r := c.admissionRequest(op, obj, old)
	r.OnFailure = func(undo func(context.Context)) { c.undo = append(c.undo, undo) }
	return c.Admission.Validate(c.ctx(), r)
}

// matchPath makes an object's namespace and name the request's.
func (c *call) matchPath(m metav1.Object) error {
	if err := c.matchNamespace(m); err != nil {
		return err
	}
	return c.matchName(m)
}

// matchNamespace makes an object's namespace the request's.
func (c *call) matchNamespace(m metav1.Object) error {
	want := ""
	if c.r.Namespaced {
		want = c.info.Namespace
	}
	if have := m.GetNamespace(); have != "" && want != "" && have != want {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	m.SetNamespace(want)
	return nil
}

// matchName refuses an object with another name than the URL's.
func (c *call) matchName(m metav1.Object) error {
	if m.GetName() == "" {
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s based on URL) was undeterminable: name must be provided", c.info.Name))
	}
	if m.GetName() != c.info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), c.info.Name))
	}
	return nil
}

// wipeSystemFields clears what only the server sets.
func wipeSystemFields(m metav1.Object) {
	m.SetCreationTimestamp(metav1.Time{})
	m.SetUID("")
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	m.SetManagedFields(nil)
	m.SetGeneration(0)
}

func (c *call) fillSystemFields(m metav1.Object) {
	m.SetCreationTimestamp(c.now())
	m.SetUID(uuid.NewUUID())
	if !c.r.NoGeneration {
		m.SetGeneration(1)
	}
}

// now is the time that objects carry, to the second, as encoding keeps no more.
func (h *Handler) now() metav1.Time { return metav1.NewTime(h.Now()).Rfc3339Copy() }

// dedupOwners drops owner references that are there twice.
func (c *call) dedupOwners(m metav1.Object, format string) {
	refs := m.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var twice []string
	for _, ref := range refs {
		same := func(o metav1.OwnerReference) bool { return apiequality.Semantic.DeepEqual(o, ref) }
		if slices.ContainsFunc(kept, same) {
			twice = append(twice, string(ref.UID))
			continue
		}
		kept = append(kept, ref)
	}
	if len(twice) == 0 {
		return
	}
	m.SetOwnerReferences(kept)
	c.warn(fmt.Sprintf(format, twice))
}

const (
	dupOwnersBefore = ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v"
	dupOwnersAfter  = ".metadata.ownerReferences contains duplicate entries after mutating admission happens; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v"
)

// checkCommon is the part of validation that every kind shares: it runs behind the kind's own, whose words are better.
func (r *resource) checkCommon(m metav1.Object) field.ErrorList {
	return apivalidation.ValidateObjectMetaAccessor(m, r.Namespaced, func(name string, prefix bool) []string {
		if prefix {
			return content.IsPathSegmentPrefix(name)
		}
		return content.IsPathSegmentName(name)
	}, field.NewPath("metadata"))
}

func (r *resource) invalid(name string, errs field.ErrorList) error {
	return apierrors.NewInvalid(r.GVK.GroupKind(), name, errs)
}

// preconditionFailed words a UID that is not the object's.
func (c *call) preconditionFailed(want, have types.UID) error {
	return apierrors.NewConflict(c.r.gr, c.info.Name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v",
		c.r.key(c.info.Namespace, c.info.Name), want, have))
}

func conflict(c *call) error {
	return apierrors.NewConflict(c.r.gr, c.info.Name, errors.New(optimisticLock))
}

// unknownError is an answer that upstream gives without a reason.
func unknownError(message string) error {
	return statusError(http.StatusInternalServerError, metav1.StatusReasonUnknown, message)
}

// finisher calls a hook's finish once.
type finisher struct{ finish func(bool) }

func (f *finisher) done(written bool) {
	if f.finish != nil {
		f.finish(written)
		f.finish = nil
	}
}
