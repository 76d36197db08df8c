package rest

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// create answers a POST to a collection.
func (c *call) create() error {
	body, err := readBody(c.req)
	if err != nil {
		return err
	}
	if err := c.writeOptions("CreateOptions", ""); err != nil {
		return err
	}
	obj := c.r.New()
	if err := c.decodeObject(body, c.r.GVK, obj); err != nil {
		return err
	}
	if c.r.Default != nil {
		c.r.Default(obj)
	}
	if !stored(c.r.Kind) {
		return c.createVirtual(obj)
	}
	m := accessor(obj)
	wipeSystemFields(m)
	if err := c.matchNamespace(m); err != nil {
		return err
	}
	c.dedupOwners(m, dupOwnersBefore)
	if err := c.mutate(admission.Create, obj, nil); err != nil {
		return err
	}
	c.dedupOwners(m, dupOwnersAfter)
	raw, err := c.insert(obj)
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusCreated, raw)
}

// createVirtual answers for kinds that are questions rather than objects.
func (c *call) createVirtual(obj runtime.Object) error {
	if b, ok := obj.(*corev1.Binding); ok {
		return c.createBinding(b)
	}
	if c.Reviews == nil {
		return MethodNotAllowed()
	}
	answer, err := c.Reviews.Review(c.ctx(), c.user, c.info.Namespace, obj)
	if err != nil {
		return err
	}
	return c.respondFresh(http.StatusCreated, c.r.GVK, answer)
}

// The names that the server generates: upstream's length and number of tries.
const (
	generatedSuffix = 5
	generatedMax    = 63
	generateTries   = 8
)

func generateName(base string) string {
	return base[:min(len(base), generatedMax-generatedSuffix)] + utilrand.String(generatedSuffix)
}

// insert completes, validates and stores a new object, which is private to the call. It returns what was
// stored, in the stored version. Where a generated name is taken, all is done again with another, as what is completed may
// depend on it.
func (c *call) insert(obj runtime.Object) (runtime.Object, error) {
	if m := accessor(obj); m.GetName() != "" || m.GetGenerateName() == "" {
		return c.insertNamed(obj)
	}
	for try := 1; ; try++ {
		one := obj
		if try < generateTries {
			one = obj.DeepCopyObject()
		}
		m := accessor(one)
		m.SetName(generateName(m.GetGenerateName()))
		raw, err := c.insertNamed(one)
		var taken *nameTakenError
		switch {
		case !errors.As(err, &taken):
			return raw, err
		case try == generateTries:
			return nil, apierrors.NewGenerateNameConflict(c.r.gr, m.GetName(), 1)
		}
	}
}

// nameTakenError says that there is an object of the name already.
type nameTakenError struct{ error }

func (e *nameTakenError) Unwrap() error { return e.error }

func (c *call) insertNamed(obj runtime.Object) (runtime.Object, error) {
	m := accessor(obj)
	c.fillSystemFields(m)
	if c.r.PrepareCreate != nil {
		c.r.PrepareCreate(obj)
	}
	var hook finisher
	defer hook.done(false)
	if c.r.hook.BeginCreate != nil {
		finish, err := c.r.hook.BeginCreate(c.ctx(), obj, c.dryRun)
		if err != nil {
			return nil, err
		}
		hook.finish = finish
	}
	if err := c.checkNew(obj); err != nil {
		return nil, err
	}
	if err := c.validate(admission.Create, obj, nil); err != nil {
		return nil, err
	}
	if m.GetResourceVersion() != "" && m.GetResourceVersion() != "0" {
		return nil, unknownError("resourceVersion should not be set on objects to be created")
	}
	raw, err := c.toStorage(obj)
	if err != nil {
		return nil, err
	}
	err = c.storeNew(raw)
	var exists *store.ExistsError
	switch {
	case err == nil:
		hook.done(!c.dryRun)
		return raw, nil
	case errors.As(err, &exists):
		return nil, &nameTakenError{c.alreadyExists(m.GetName(), exists.Current)}
	}
	return nil, writeError(c.r.gr, m.GetName(), err)
}

// checkNew validates a new object.
func (c *call) checkNew(obj runtime.Object) error {
	m := accessor(obj)
	if c.r.Validate != nil {
		if errs := c.r.Validate(obj); len(errs) > 0 {
			return c.r.invalid(m.GetName(), errs)
		}
	}
	if errs := c.r.checkCommon(m); len(errs) > 0 {
		return c.r.invalid(m.GetName(), errs)
	}
	if c.r.Warnings != nil {
		for _, w := range c.r.Warnings(obj, nil) {
			c.warn(w)
		}
	}
	return nil
}

// storeNew writes an object under a key that must be free, and gives it its resourceVersion. A dry run only looks.
func (c *call) storeNew(raw runtime.Object) error {
	m := accessor(raw)
	m.SetResourceVersion("")
	key := c.r.key(m.GetNamespace(), m.GetName())
	if c.dryRun {
		e, err := c.Store.Get(c.ctx(), key, 0)
		switch {
		case err == nil:
			return &store.ExistsError{Current: e}
		case errors.Is(err, store.ErrNotFound):
			return nil
		}
		return err
	}
	value, err := c.r.encodeToStore(raw)
	if err != nil {
		return err
	}
	revision, err := c.Store.Create(c.ctx(), key, value, store.CreateOptions{TTL: time.Duration(c.r.TTLSeconds) * time.Second})
	c.wrote(err)
	if err != nil {
		return err
	}
	m.SetResourceVersion(formatRevision(revision))
	c.settle(revision)
	return nil
}

// alreadyExists tells as well if the object in the way is about to go.
func (c *call) alreadyExists(name string, existing store.Entry) error {
	err := apierrors.NewAlreadyExists(c.r.gr, name)
	if obj, derr := c.r.stored.codec.decode(existing.Value); derr == nil && accessor(obj).GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = fmt.Sprintf("object is being deleted: %s", err.ErrStatus.Message)
	}
	return err
}
