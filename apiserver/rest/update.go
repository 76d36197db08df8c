package rest

import (
	"bytes"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// change is one update of an object, by whatever means.
type change struct {
	// make gives the new object for the current one. It is called again when the current one was not the
	// newest; what it returns is private to the call.
	make func(cur *current) (runtime.Object, error)
	// uid, if set, must be the object's.
	uid types.UID
	// unconditional lets the new object come without resourceVersion.
	unconditional bool
	// path is what part of the object may change; nil is the main resource.
	prepare  func(obj, old runtime.Object)
	validate func(obj, old runtime.Object) field.ErrorList
	warn     bool
	// silent leaves metadata.generation as it is, whatever changes.
	silent bool
	// admitted tells that make runs mutating admission by itself and that validating admission sees another object.
	admitted bool
}

// mainChange is the update path of the resource itself.
func (c *call) mainChange() change {
	return change{
		prepare: c.r.PrepareUpdate, validate: c.r.checkUpdate, unconditional: c.r.UnconditionalUpdate, warn: true,
	}
}

// statusChange is the path of the status subresource.
func (c *call) statusChange() change {
	s := c.r.Kind.Status
	return change{prepare: s.PrepareUpdate, validate: s.ValidateUpdate, unconditional: c.r.UnconditionalUpdate, silent: true}
}

// update answers a PUT of the main resource.
func (c *call) update() error { return c.put(c.mainChange(), c.r.CreateOnUpdate) }

// put reads the object of a PUT and writes it.
func (c *call) put(ch change, allowCreate bool) error {
	body, err := readBody(c.req)
	if err != nil {
		return err
	}
	if err := c.writeOptions("UpdateOptions", ""); err != nil {
		return err
	}
	obj, err := c.decodePut(body)
	if err != nil {
		return err
	}
	ch.uid = accessor(obj).GetUID()
	next := obj
	ch.make = func(cur *current) (runtime.Object, error) {
		obj := next
		if next == nil {
			var err error
			if obj, err = c.decodePut(body); err != nil {
				return nil, err
			}
		}
		next = nil
		return obj, c.mutateUpdate(obj, cur.obj)
	}
	raw, err := c.apply(ch)
	if allowCreate && apierrors.IsNotFound(err) {
		return c.createByPut(body)
	}
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusOK, raw)
}

// mutateUpdate notes who manages what, and admits.
func (c *call) mutateUpdate(obj, old runtime.Object) error {
	c.track(obj, old)
	return c.admitUpdate(obj, old)
}

func (c *call) admitUpdate(obj, old runtime.Object) error {
	if err := c.mutate(admission.Update, obj, old); err != nil {
		return err
	}
	c.dedupOwners(accessor(obj), dupOwnersAfter)
	return nil
}

func (c *call) decodePut(body []byte) (runtime.Object, error) {
	obj := c.r.New()
	if err := c.decodeObject(body, c.r.GVK, obj); err != nil {
		return nil, err
	}
	if c.r.Default != nil {
		c.r.Default(obj)
	}
	m := accessor(obj)
	if err := c.matchNamespace(m); err != nil {
		return nil, err
	}
	c.dedupOwners(m, dupOwnersBefore)
	return obj, c.matchName(m)
}

// createByPut creates what a PUT did not find, if the user may.
func (c *call) createByPut(body []byte) error {
	obj, err := c.decodePut(body)
	if err != nil {
		return err
	}
	m := accessor(obj)
	if uid := m.GetUID(); uid != "" {
		return c.preconditionFailed(uid, "")
	}
	if err := c.mayCreate(); err != nil {
		return err
	}
	wipeSystemFields(m)
	m.SetResourceVersion("")
	if err := c.mutate(admission.Create, obj, nil); err != nil {
		return err
	}
	raw, err := c.insert(obj)
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusCreated, raw)
}

// mayCreate asks the authorizer about the creation that an update turned into.
func (c *call) mayCreate() error {
	if c.Authorizer == nil {
		return nil
	}
	a := authorizer.AttributesRecord{
		User: c.user, ResourceRequest: true, Path: c.info.Path, Verb: "create", APIGroup: c.info.APIGroup,
		APIVersion: c.info.APIVersion, Resource: c.info.Resource, Subresource: c.info.Subresource,
		Namespace: c.info.Namespace, Name: c.info.Name,
	}
	decision, reason, err := c.Authorizer.Authorize(c.ctx(), a)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	}
	return Forbidden(a, reason)
}

// apply carries out a change and returns the object as it is then, in the stored version.
func (c *call) apply(ch change) (runtime.Object, error) {
	cur, err := c.cached(c.info.Name)
	if err != nil {
		return nil, err
	}
	var result runtime.Object
	err = c.attempt(cur, func(cur *current) error {
		result, err = c.applyOnce(ch, cur)
		return err
	})
	return result, err
}

func (c *call) applyOnce(ch change, cur *current) (runtime.Object, error) {
	old := accessor(cur.obj)
	if ch.uid != "" && ch.uid != old.GetUID() {
		return nil, c.preconditionFailed(ch.uid, old.GetUID())
	}
	obj, err := ch.make(cur)
	if err != nil {
		return nil, err
	}
	m := accessor(obj)
	if err := c.checkVersion(ch, m, old); err != nil {
		return nil, err
	}
	m.SetResourceVersion(old.GetResourceVersion())
	m.SetSelfLink("")
	c.prepareUpdate(ch, obj, cur.obj)
	var hook finisher
	defer hook.done(false)
	if c.r.hook.BeginUpdate != nil {
		finish, err := c.r.hook.BeginUpdate(c.ctx(), obj, cur.obj, c.dryRun)
		if err != nil {
			return nil, err
		}
		hook.finish = finish
	}
	if err := c.checkUpdated(ch, obj, cur.obj); err != nil {
		return nil, err
	}
	if !ch.admitted {
		if err := c.validate(admission.Update, obj, cur.obj); err != nil {
			return nil, err
		}
	}
	if c.deletesByUpdate(obj, cur.obj) {
		hook.done(!c.dryRun)
		return c.deleteByUpdate(obj, cur)
	}
	raw, err := c.storeUpdate(obj, cur)
	if err == nil {
		hook.done(!c.dryRun)
	}
	return raw, err
}

// checkVersion is the optimistic lock.
func (c *call) checkVersion(ch change, m, old metav1.Object) error {
	version := m.GetResourceVersion()
	if version == "0" {
		version = ""
	}
	switch {
	case version == "" && ch.unconditional:
		return nil
	case version == "":
		errs := field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")}
		kind := c.r.GVK.GroupKind()
		kind.Kind = c.r.Resource
		return apierrors.NewInvalid(kind, c.info.Name, errs)
	case version != old.GetResourceVersion():
		if _, err := parseRevision(version); err != nil {
			return c.r.invalid(c.info.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), version, "must be a number")})
		}
		return conflict(c)
	}
	return nil
}

// prepareUpdate carries over what an update must not change.
func (c *call) prepareUpdate(ch change, obj, old runtime.Object) {
	m, oldMeta := accessor(obj), accessor(old)
	m.SetGeneration(oldMeta.GetGeneration())
	if ch.prepare != nil {
		ch.prepare(obj, old)
	}
	if m.GetUID() == "" {
		m.SetUID(oldMeta.GetUID())
	}
	if t := oldMeta.GetCreationTimestamp(); !t.IsZero() {
		m.SetCreationTimestamp(t)
	}
	if !oldMeta.GetDeletionTimestamp().IsZero() {
		m.SetDeletionTimestamp(oldMeta.GetDeletionTimestamp())
	}
	if g := oldMeta.GetDeletionGracePeriodSeconds(); g != nil && m.GetDeletionGracePeriodSeconds() == nil {
		m.SetDeletionGracePeriodSeconds(g)
	}
}

// checkUpdated bumps the generation where the update asks for something new, and validates.
func (c *call) checkUpdated(ch change, obj, old runtime.Object) error {
	m, oldMeta := accessor(obj), accessor(old)
	if !c.r.NoGeneration && !ch.silent && m.GetGeneration() == oldMeta.GetGeneration() && specChanged(obj, old) {
		m.SetGeneration(oldMeta.GetGeneration() + 1)
	}
	errs := c.r.checkCommon(m)
	errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(m, oldMeta, field.NewPath("metadata"))...)
	if ch.validate != nil {
		errs = merge(errs, ch.validate(obj, old))
	}
	if len(errs) > 0 {
		return c.r.invalid(m.GetName(), errs)
	}
	if ch.warn && c.r.Warnings != nil {
		for _, w := range c.r.Warnings(obj, old) {
			c.warn(w)
		}
	}
	return nil
}

// merge appends the errors that are not said yet: a kind checks its metadata as well.
func merge(errs, more field.ErrorList) field.ErrorList {
	said := map[string]bool{}
	for _, e := range errs {
		said[e.Error()] = true
	}
	for _, e := range more {
		if !said[e.Error()] {
			errs = append(errs, e)
		}
	}
	return errs
}

// checkUpdate is the validation of an update of the main resource.
func (r *resource) checkUpdate(obj, old runtime.Object) field.ErrorList {
	if r.ValidateUpdate != nil {
		return r.ValidateUpdate(obj, old)
	}
	if r.Validate != nil {
		return r.Validate(obj)
	}
	return nil
}

// storeUpdate writes an object over the current one, unless they are the same.
func (c *call) storeUpdate(obj runtime.Object, cur *current) (runtime.Object, error) {
	raw, err := c.toStorage(obj)
	if err != nil {
		return nil, err
	}
	m := accessor(raw)
	m.SetResourceVersion("")
	managed := m.GetManagedFields()
	kept := keepTimes(m, accessor(cur.raw)) // of what did not change, the time does not either
	value, err := c.r.stored.codec.encodeStored(raw)
	if err != nil {
		return nil, err
	}
	same, err := c.unchanged(value, cur)
	if err == nil && !same && kept {
		m.SetManagedFields(managed)
		value, err = c.r.stored.codec.encodeStored(raw)
	}
	if err != nil {
		return nil, err
	}
	revision := cur.revision
	if !same && !c.dryRun {
		ctx := c.ctx()
		if c.r.TTLSeconds > 0 { // it begins anew with every write
			ctx = store.WithTTL(ctx, seconds(int64(c.r.TTLSeconds)))
		}
		revision, err = c.Store.Update(ctx, c.r.key(m.GetNamespace(), m.GetName()), value, cur.revision)
		c.wrote(err)
		if err != nil {
			return nil, err
		}
		c.settle(revision)
	}
	m.SetResourceVersion(formatRevision(revision))
	return raw, nil
}

// errStale makes attempt look at the store again.
var errStale = errors.New("rest: state may be stale")

// staler is a store that wants some values written again even where nothing has changed.
type staler interface{ Stale(key string) bool }

// unchanged compares what would be written with what is there. An unwritten answer must be about the newest state.
func (c *call) unchanged(value []byte, cur *current) (bool, error) {
	held := cur.raw.DeepCopyObject()
	accessor(held).SetResourceVersion("")
	was, err := c.r.stored.codec.encodeStored(held)
	if err != nil || !bytes.Equal(was, value) {
		return false, err
	}
	if s, ok := c.Store.(staler); ok && s.Stale(c.r.key(accessor(cur.raw).GetNamespace(), accessor(cur.raw).GetName())) {
		return false, nil
	}
	if cur.fresh {
		return true, nil
	}
	e, err := c.Store.Get(c.ctx(), c.r.key(c.info.Namespace, accessor(cur.raw).GetName()), 0)
	if err == nil && e.Revision != cur.revision {
		return false, errStale
	}
	return true, err
}
