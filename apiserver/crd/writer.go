package crd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store"
)

const (
	// writeRetry is the pause before what failed is tried again.
	writeRetry = time.Second
	// cleanupFirst and cleanupMost are the pauses between looks at the objects that finalizers hold back.
	cleanupFirst = 20 * time.Millisecond
	cleanupMost  = 5 * time.Second
)

// writer writes the status of definitions and ends those that are being deleted, beside the goroutine that serves.
type writer struct {
	c    *Controller
	wake chan struct{}

	mu     sync.Mutex
	wanted map[string]*apiextensionsv1.CustomResourceDefinition
	ending map[string]bool // by name, those whose objects are being deleted
	queue  []string        // to be ended
}

func newWriter(c *Controller) writer {
	return writer{c: c, wake: make(chan struct{}, 1), wanted: map[string]*apiextensionsv1.CustomResourceDefinition{}, ending: map[string]bool{}}
}

// set says what is to be written: of all definitions, those whose status differs from the stored one.
func (w *writer) set(all, wanted []*apiextensionsv1.CustomResourceDefinition) {
	w.mu.Lock()
	clear(w.wanted)
	for _, crd := range wanted {
		w.wanted[crd.Name] = crd
	}
	for _, crd := range all {
		if crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) && !w.ending[crd.Name] {
			w.ending[crd.Name] = true
			w.queue = append(w.queue, crd.Name)
		}
	}
	w.mu.Unlock()
	w.signal()
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *writer) take() (wanted map[string]*apiextensionsv1.CustomResourceDefinition, ending []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted, ending = maps.Clone(w.wanted), w.queue
	w.queue = nil
	return wanted, ending
}

func (w *writer) run(ctx context.Context) error {
	var endings sync.WaitGroup
	defer endings.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		}
		wanted, ending := w.take()
		for _, name := range slices.Sorted(maps.Keys(wanted)) {
			if err := w.write(ctx, wanted[name]); err != nil {
				w.c.log.Warn("status of a definition not written, trying again", "name", name, "error", err)
				time.AfterFunc(writeRetry, w.signal)
			}
		}
		for _, name := range ending {
			endings.Go(func() { w.end(ctx, name) })
		}
	}
}

// write writes a status. Where another write came first, an event will say what is to be written then.
func (w *writer) write(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	_, err := w.c.Client.UpdateStatus(ctx, crd, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	if err == nil {
		w.mu.Lock()
		if w.wanted[crd.Name] == crd {
			delete(w.wanted, crd.Name)
		}
		w.mu.Unlock()
	}
	return err
}

// end deletes a definition's objects and then lets the definition go.
func (w *writer) end(ctx context.Context, name string) {
	pause := cleanupFirst
	for ctx.Err() == nil {
		done, err := w.endOnce(ctx, name)
		if done {
			break
		}
		if err != nil {
			w.c.log.Warn("objects of a definition not deleted, trying again", "name", name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, cleanupMost)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ending, name)
}

func (w *writer) endOnce(ctx context.Context, name string) (done bool, err error) {
	crd, err := w.newest(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if crd.DeletionTimestamp == nil || !slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		return true, nil
	}
	if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		return w.release(ctx, crd, "NeverEstablished", "resource was never established")
	}
	if c := apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating); c == nil || c.Reason == "InstanceDeletionPending" {
		if crd, err = w.terminating(ctx, crd, "InstanceDeletionInProgress", "CustomResource deletion is in progress"); err != nil {
			return false, ignoreConflict(err)
		}
	}
	left, err := w.deleteObjects(ctx, crd)
	if err != nil {
		_, _ = w.terminating(ctx, crd, "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err))
		return false, err
	}
	if left > 0 {
		return false, nil
	}
	return w.release(ctx, crd, "InstanceDeletionCompleted", "removed all instances")
}

func (w *writer) deleteObjects(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) (left int, err error) {
	d := newDefinition(crd, &shared{}, w.c.hooks, nil)
	if !w.c.Cache.Has(d.groupResource().String()) {
		return 0, fmt.Errorf("%s is not served yet", d.groupResource())
	}
	stored := d.storedKind()
	return w.c.Rest.DeleteObjects(ctx, &stored)
}

func (w *writer) newest(ctx context.Context, name string) (*apiextensionsv1.CustomResourceDefinition, error) {
	o, err := w.c.Cache.Get(ctx, definitions, definitionKey(name), cache.Newest)
	if err != nil {
		return nil, err
	}
	crd, ok := o.Object.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("unexpected object: %T", o.Object)
	}
	return crd.DeepCopy(), nil
}

func (w *writer) terminating(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, reason, message string) (*apiextensionsv1.CustomResourceDefinition, error) {
	kinds.SetDefinitionCondition(crd, condition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: reason, Message: message,
	}, metav1.NewTime(w.c.Now()).Rfc3339Copy())
	return w.c.Client.UpdateStatus(ctx, crd, metav1.UpdateOptions{})
}

// release takes the finalizer away.
func (w *writer) release(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, reason, message string) (done bool, err error) {
	kinds.SetDefinitionCondition(crd, condition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionFalse, Reason: reason, Message: message,
	}, metav1.NewTime(w.c.Now()).Rfc3339Copy())
	apihelpers.CRDRemoveFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer)
	_, err = w.c.Client.UpdateStatus(ctx, crd, metav1.UpdateOptions{})
	return err == nil, ignoreConflict(err)
}

// ignoreConflict: the next try sees what came first.
func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
