// Package garbage deletes objects whose owners are gone, and carries out foreground and orphaning deletions.
//
// Invariants: nothing is deleted on a cache's word: the object and each of its owners are read live first, by UID; every
// write carries the object's UID and the version it was decided on; memory per object is its identity and its references only.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

const (
	// refreshPeriod is how often the API is asked which resources it serves.
	refreshPeriod = 30 * time.Second
	// starting is how often it is looked whether all resources have been listed.
	starting = 100 * time.Millisecond
	// workers is how many objects are looked at side by side, and how many dependents of one are let go.
	workers = 16
	// pace is how far apart an owner is looked at while its dependents go.
	pace = 20 * time.Millisecond
	// absentOwners is how many owners known to be gone are remembered; UIDs never come back.
	absentOwners = 1000
)

// Controller is the garbage collector.
type Controller struct {
	graph    *graph
	monitors *monitors
	metadata metadata.Interface
	absent   *lru.Cache[string, struct{}]
	events   record.EventRecorder
	clock    clock.Clock
	loop     *loop.Loop
}

// New makes the collector.
func New(e env.Env, d discovery.DiscoveryInterface, m metadata.Interface) (*Controller, error) {
	absent, err := lru.New[string, struct{}](absentOwners)
	if err != nil {
		return nil, err
	}
	c := &Controller{graph: newGraph(), metadata: m, absent: absent, events: e.Recorder("garbage-collector-controller"), clock: e.Clock}
	c.loop = e.Loop(loop.Config{Name: "garbage", Sync: c.sync, Workers: workers, Pace: pace})
	c.monitors = &monitors{
		discovery: d, metadata: m, informers: e.Informers, graph: c.graph, wake: c.wake, stray: c.reportStray,
		running: map[schema.GroupVersionResource]*monitor{},
	}
	for _, gvr := range shared {
		generic, err := e.Informers.ForResource(gvr)
		if err != nil {
			return nil, err
		}
		generic.Informer() // so that the factory starts it with the rest
	}
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return run.All(ctx, c.loop.Run, c.keepFresh)
}

// keepFresh follows the resources that the API serves, which custom resources change.
func (c *Controller) keepFresh(ctx context.Context) error {
	for {
		wait := refreshPeriod
		if err := c.monitors.refresh(ctx, c.clock.Now()); err != nil {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (c *Controller) wake(list []types.UID) {
	for _, uid := range list {
		c.loop.AddPaced(string(uid))
	}
}

func (c *Controller) reportStray(s stray) {
	ref := &corev1.ObjectReference{APIVersion: s.resource.kind.GroupVersion().String(), Kind: s.resource.kind.Kind, Namespace: s.namespace, Name: s.name, UID: s.uid}
	c.events.Eventf(ref, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", show(s.owner, s.namespace), s.namespace)
}

// show is upstream's way to write an owner, with the namespace in which it was looked for.
func show(ref metav1.OwnerReference, namespace string) string {
	return fmt.Sprintf("[%s/%s, namespace: %s, name: %s, uid: %s]", ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID)
}

// sync looks at one object, by UID.
func (c *Controller) sync(ctx context.Context, key string) error {
	if !c.monitors.ready(c.clock.Now()) {
		c.loop.AddAfter(key, starting) // a dependent not seen yet would be lost
		return nil
	}
	it, ok := c.graph.get(types.UID(key))
	switch {
	case !ok:
		return nil // gone, and its dependents have been woken
	case it.orphan:
		return c.orphan(ctx, it)
	case it.foreground:
		return c.endForeground(ctx, it)
	case it.deleting, len(it.owners) == 0, c.graph.settled(it):
		return nil // others' finalizers hold it, or all is well
	}
	return c.collect(ctx, it)
}

func (c *Controller) client(r *resource, namespace string) metadata.ResourceInterface {
	if r.namespaced {
		return c.metadata.Resource(r.gvr).Namespace(namespace)
	}
	return c.metadata.Resource(r.gvr)
}

// live reads the object past every cache; nil when it is gone or another has taken its name.
func (c *Controller) live(ctx context.Context, it node) (*metav1.PartialObjectMetadata, error) {
	obj, err := c.client(it.resource, it.namespace).Get(ctx, it.name, metav1.GetOptions{})
	if gone(err) || err == nil && obj.UID != it.uid {
		return nil, nil
	}
	return obj, err
}

// gone tells an object that does not exist from a resource that is not served: a group that is away for a while must not cost
// the objects that its objects own.
func gone(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// errUnknownKind: whether an owner of a kind that the API does not serve exists cannot be found out.
var errUnknownKind = errors.New("owner of a kind that the API does not serve")

// state of an owner as a dependent sees it.
type state int

const (
	solid   state = iota // it exists, or is to be taken as existing
	missing              // it does not exist
	waiting              // it exists, is being deleted, and waits for its dependents
)

// owners sorts the live references of an object by their owner's state.
func (c *Controller) owners(ctx context.Context, it node, refs []metav1.OwnerReference) (map[state][]metav1.OwnerReference, error) {
	sorted := map[state][]metav1.OwnerReference{}
	for _, ref := range refs {
		s, err := c.owner(ctx, it, ref)
		if err != nil {
			return nil, err
		}
		sorted[s] = append(sorted[s], ref)
	}
	return sorted, nil
}

func (c *Controller) owner(ctx context.Context, it node, ref metav1.OwnerReference) (state, error) {
	r := c.monitors.find(ref)
	if r == nil {
		return solid, errUnknownKind
	}
	if r.namespaced && !it.resource.namespaced {
		return solid, nil // such a reference means nothing; it was reported when it was seen
	}
	namespace := ""
	if r.namespaced {
		namespace = it.namespace
	}
	id := r.gvr.String() + "/" + namespace + "/" + ref.Name + "/" + string(ref.UID)
	if c.absent.Contains(id) {
		return missing, nil
	}
	owner, err := c.client(r, namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case gone(err) || err == nil && owner.UID != ref.UID:
		c.absent.Add(id, struct{}{})
		return missing, nil
	case err != nil:
		return solid, err
	case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, finalizerForeground):
		return waiting, nil
	}
	return solid, nil
}

// collect deletes the object if it has owners and none of them is to stay.
func (c *Controller) collect(ctx context.Context, it node) error {
	obj, err := c.live(ctx, it)
	if err != nil {
		return err
	}
	if obj == nil {
		c.wake(c.graph.forget(it.uid))
		return nil
	}
	if len(obj.OwnerReferences) == 0 || obj.DeletionTimestamp != nil {
		return nil
	}
	sorted, err := c.owners(ctx, it, obj.OwnerReferences)
	if errors.Is(err, errUnknownKind) {
		c.loop.AddAfter(string(it.uid), refreshPeriod) // it may be served by then
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case len(sorted[solid]) > 0:
		if len(sorted[missing])+len(sorted[waiting]) == 0 {
			return nil
		}
		return c.setOwners(ctx, it, obj, sorted[solid]) // it is not deleted for these owners' sake
	case len(sorted[waiting]) > 0:
		if dependents := c.graph.dependents(it.uid); len(dependents) > 0 {
			return c.cascade(ctx, it, dependents, obj)
		}
	}
	return c.delete(ctx, it, obj, policy(obj))
}

// policy is how an object was meant to be deleted, if it says so.
func policy(obj *metav1.PartialObjectMetadata) metav1.DeletionPropagation {
	switch {
	case slices.Contains(obj.Finalizers, finalizerOrphan):
		return metav1.DeletePropagationOrphan
	case slices.Contains(obj.Finalizers, finalizerForeground):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// cascade deletes, in the foreground too, an object whose owner is being deleted in the foreground. When one of its dependents is
// deleted so already, the references may form a circle; then it no longer blocks its owners, or all would wait for ever.
func (c *Controller) cascade(ctx context.Context, it node, dependents []node, obj *metav1.PartialObjectMetadata) error {
	if slices.ContainsFunc(dependents, func(d node) bool { return d.foreground }) {
		refs := slices.Clone(obj.OwnerReferences)
		for i := range refs {
			no := false
			refs[i].BlockOwnerDeletion = &no
		}
		if err := c.setOwners(ctx, it, obj, refs); err != nil {
			return err
		}
		obj.ResourceVersion = "" // the patch has changed it; the UID still guards
	}
	return c.delete(ctx, it, obj, metav1.DeletePropagationForeground)
}

// endForeground lets a foreground deletion end once nothing blocks it, and until then sees to what does.
func (c *Controller) endForeground(ctx context.Context, it node) error {
	blocked, idle := c.graph.blockers(it.uid)
	if !blocked {
		return c.dropFinalizer(ctx, it, finalizerForeground)
	}
	c.wake(idle)
	return nil
}

// orphan lets all dependents go, and then the owner.
func (c *Controller) orphan(ctx context.Context, it node) error {
	dependents := c.graph.dependents(it.uid)
	if err := run.Each(len(dependents), workers, func(i int) error { return c.letGo(ctx, dependents[i], it.uid) }); err != nil {
		return err
	}
	return c.dropFinalizer(ctx, it, finalizerOrphan)
}

// letGo takes the references to an owner off a dependent.
func (c *Controller) letGo(ctx context.Context, d node, from types.UID) error {
	obj, err := c.live(ctx, d)
	if err != nil || obj == nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(obj.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == from })
	if len(kept) == len(obj.OwnerReferences) {
		return nil
	}
	return c.setOwners(ctx, d, obj, kept)
}
