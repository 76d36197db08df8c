package rest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// returnsDeleted are the resources whose deletion answers with the object rather than with a Status.
var returnsDeleted = map[schema.GroupResource]bool{
	{Resource: "pods"}: true, {Resource: "services"}: true, {Resource: "serviceaccounts"}: true,
	{Resource: "persistentvolumes"}: true, {Resource: "persistentvolumeclaims"}: true,
	{Resource: "podtemplates"}: true, {Resource: "resourcequotas"}: true,
}

var namespaces = schema.GroupResource{Resource: "namespaces"}

// deletion is what became of a delete request.
type deletion struct {
	obj  runtime.Object // in the stored version
	gone bool           // nothing is left of it
}

// delete answers a DELETE of one object.
func (c *call) delete() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	d, err := c.remove(c.info.Name, opts)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if orphan := orphanDependents(opts); !d.gone && orphan != nil && !*orphan {
		code = http.StatusAccepted
	}
	if !d.gone || returnsDeleted[c.r.gr] {
		return c.respondStored(code, d.obj)
	}
	m := accessor(d.obj)
	return c.respondFresh(code, statusGVK, &metav1.Status{
		Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{
			Name: m.GetName(), Group: c.r.gr.Group, Kind: c.r.gr.Resource, UID: m.GetUID(),
		},
	})
}

// remove deletes an object, or takes the next step towards it.
func (c *call) remove(name string, opts *metav1.DeleteOptions) (deletion, error) {
	cur, err := c.cached(name)
	if err != nil {
		return deletion{}, err
	}
	var d deletion
	err = c.attempt(cur, func(cur *current) error {
		if d, err = c.removeOnce(cur, opts.DeepCopy()); err != nil {
			return err
		}
		return nil
	})
	return d, err
}

func (c *call) removeOnce(cur *current, opts *metav1.DeleteOptions) (deletion, error) {
	obj := cur.raw.DeepCopyObject()
	m := accessor(obj)
	if err := c.deletePreconditions(m, opts); err != nil {
		return deletion{}, err
	}
	if err := c.admitDelete(cur.obj); err != nil {
		return deletion{}, err
	}
	if c.r.gr == namespaces {
		if done, err := c.terminateNamespace(obj, opts, cur); done || err != nil {
			return deletion{obj: obj}, err
		}
	}
	graceful, pending := c.beforeDelete(cur.obj, m, opts)
	if pending {
		// As upstream: what is to answer is the object as it is, although nothing happened.
		return deletion{obj: cur.raw.DeepCopyObject(), gone: returnsDeleted[c.r.gr]}, nil
	}
	if c.r.BeginDelete != nil && m.GetDeletionTimestamp() == nil {
		c.r.BeginDelete(obj, c.now())
	}
	m.SetFinalizers(c.r.finalizersFor(m.GetFinalizers(), opts))
	waits := len(m.GetFinalizers()) > 0
	if waits && !graceful {
		markDeleting(m, c.now())
	}
	if waits || graceful && *opts.GracePeriodSeconds > 0 {
		raw, err := c.writeRaw(obj, cur)
		return deletion{obj: raw}, err
	}
	return c.erase(obj, cur)
}

func (c *call) admitDelete(old runtime.Object) error {
	if err := c.mutate(admission.Delete, nil, old); err != nil {
		return err
	}
	return c.validate(admission.Delete, nil, old)
}

func (c *call) deletePreconditions(m metav1.Object, opts *metav1.DeleteOptions) error {
	p := opts.Preconditions
	if p == nil {
		return nil
	}
	gr := schema.GroupResource{Group: c.r.GVK.Group, Resource: c.r.GVK.Kind}
	if p.UID != nil && *p.UID != m.GetUID() {
		return apierrors.NewConflict(gr, m.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(gr, m.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

// beforeDelete decides about grace and marks m, the metadata of a copy of served, accordingly. graceful: m is
// marked, and opts has the period. pending: a deletion is under way that this one does not hasten.
func (c *call) beforeDelete(served runtime.Object, m metav1.Object, opts *metav1.DeleteOptions) (graceful, pending bool) {
	if g := opts.GracePeriodSeconds; g != nil && *g < 0 {
		opts.GracePeriodSeconds = ptrTo(int64(1))
	}
	if c.r.GracePeriod == nil {
		return false, false
	}
	if m.GetDeletionTimestamp() != nil {
		return c.hasten(m, opts)
	}
	opts.GracePeriodSeconds = ptrTo(c.r.GracePeriod(served, opts))
	at := metav1.NewTime(c.now().Add(seconds(*opts.GracePeriodSeconds)))
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(opts.GracePeriodSeconds)
	if m.GetGeneration() > 0 {
		m.SetGeneration(m.GetGeneration() + 1)
	}
	return true, false
}

// hasten shortens the grace of an object that is being deleted already; it never lengthens it.
func (c *call) hasten(m metav1.Object, opts *metav1.DeleteOptions) (graceful, pending bool) {
	granted := m.GetDeletionGracePeriodSeconds()
	if granted == nil || *granted == 0 {
		return false, false
	}
	if opts.GracePeriodSeconds == nil || *opts.GracePeriodSeconds >= *granted {
		return false, true
	}
	period := *opts.GracePeriodSeconds
	at := metav1.NewTime(m.GetDeletionTimestamp().Add(seconds(period - *granted)))
	if now := c.now(); at.Before(&now) {
		at = now
		if period != 0 {
			period = 1
		}
	}
	opts.GracePeriodSeconds = &period
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&period)
	return true, false
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

func ptrTo[T any](v T) *T { return &v }

// markDeleting marks an object without graceful deletion that finalizers hold back.
func markDeleting(m metav1.Object, now metav1.Time) {
	if m.GetDeletionTimestamp() == nil && m.GetGeneration() > 0 {
		m.SetGeneration(m.GetGeneration() + 1)
	}
	if t := m.GetDeletionTimestamp(); t == nil || t.After(now.Time) {
		m.SetDeletionTimestamp(&now)
	}
	m.SetDeletionGracePeriodSeconds(ptrTo(int64(0)))
}

// finalizersFor gives an object's finalizers once the options' propagation policy is put into them.
func (r *resource) finalizersFor(have []string, opts *metav1.DeleteOptions) []string {
	orphan, foreground := r.propagation(have, opts)
	var out []string
	for _, f := range have {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	if len(out) == len(have) && !slices.ContainsFunc(out, func(f string) bool { return !slices.Contains(have, f) }) {
		return have
	}
	return out
}

// orphanDependents is the older way to say what propagationPolicy says.
func orphanDependents(opts *metav1.DeleteOptions) *bool {
	//lint:ignore SA1019 clients may still send it
	return opts.OrphanDependents
}

// propagation: the options decide, then the finalizers there are, then the kind's default.
func (r *resource) propagation(have []string, opts *metav1.DeleteOptions) (orphan, foreground bool) {
	switch orphan := orphanDependents(opts); {
	case orphan != nil:
		return *orphan, false
	case opts.PropagationPolicy != nil:
		return *opts.PropagationPolicy == metav1.DeletePropagationOrphan,
			*opts.PropagationPolicy == metav1.DeletePropagationForeground
	}
	for _, f := range have {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return true, false
		case metav1.FinalizerDeleteDependents:
			return false, true
		}
	}
	return r.OrphanByDefault, false
}

// writeRaw writes an object in the stored version over the current one.
func (c *call) writeRaw(raw runtime.Object, cur *current) (runtime.Object, error) {
	m := accessor(raw)
	if c.dryRun {
		return raw, nil
	}
	value, err := c.r.encodeToStore(raw)
	if err != nil {
		return nil, err
	}
	same, err := c.unchanged(value, cur)
	if same || err != nil {
		return raw, err
	}
	revision, err := c.Store.Update(c.ctx(), c.r.key(m.GetNamespace(), m.GetName()), value, cur.revision)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(formatRevision(revision))
	c.settle(revision)
	return raw, nil
}

// erase removes an object from the store. A deletion without grace is one write: there is no state in between.
func (c *call) erase(raw runtime.Object, cur *current) (deletion, error) {
	m := accessor(raw)
	if c.dryRun {
		return deletion{obj: raw, gone: true}, nil
	}
	revision, err := c.Store.Delete(c.ctx(), c.r.key(m.GetNamespace(), m.GetName()), cur.revision)
	if err != nil {
		return deletion{}, err
	}
	if c.r.hook.AfterDelete != nil {
		c.r.hook.AfterDelete(c.ctx(), cur.obj)
	}
	m.SetResourceVersion(formatRevision(revision))
	c.settle(revision)
	return deletion{obj: raw, gone: true}, nil
}

// deletesByUpdate tells whether an update took the last finalizer from an object that is being deleted.
func (c *call) deletesByUpdate(obj, old runtime.Object) bool {
	m := accessor(old)
	if len(accessor(obj).GetFinalizers()) > 0 || m.GetDeletionTimestamp() == nil {
		return false
	}
	if g := m.GetDeletionGracePeriodSeconds(); g != nil && *g != 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		return len(ns.Spec.Finalizers) == 0
	}
	return true
}

// deleteByUpdate deletes where the update leaves nothing to wait for, and answers with the updated object.
func (c *call) deleteByUpdate(obj runtime.Object, cur *current) (runtime.Object, error) {
	raw, err := c.toStorage(obj)
	if err != nil {
		return nil, err
	}
	if _, err := c.erase(raw, cur); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	accessor(raw).SetResourceVersion(formatRevision(cur.revision))
	return raw, nil
}

// terminateNamespace begins the end of a namespace; done tells that there is no more to do now, because its
// contents have to go first. obj is a copy of the current state.
func (c *call) terminateNamespace(obj runtime.Object, opts *metav1.DeleteOptions, cur *current) (done bool, err error) {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return false, nil
	}
	if ns.DeletionTimestamp.IsZero() {
		now := c.now()
		ns.DeletionTimestamp = &now
		ns.Status.Phase = corev1.NamespaceTerminating
		ns.Finalizers = c.r.finalizersFor(ns.Finalizers, opts)
		if len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0 {
			return false, nil
		}
		_, err := c.writeRaw(ns, cur)
		return true, err
	}
	return len(ns.Spec.Finalizers) > 0, nil
}

// deleteCollection answers a DELETE of a collection with the list of what it deleted.
func (c *call) deleteCollection() error {
	list, err := c.listOptions()
	if err != nil {
		return err
	}
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	if c.out.transform == asMetadata {
		return notAcceptableList(c.r.NewList(), false)
	}
	p, err := c.page(list)
	if err != nil {
		return err
	}
	info := *c.info
	one := *c
	one.info = &info
	for _, o := range p.objects {
		m := accessor(o.Object)
		info.Namespace, info.Name = m.GetNamespace(), m.GetName()
		if c.r.gr == namespaces {
			info.Namespace = info.Name
		}
		if _, err := one.remove(info.Name, opts); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return c.respondPage(p)
}
