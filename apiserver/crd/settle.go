package crd

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// settleMost bounds the wait for what another server has established.
const settleMost = 5 * time.Second

// definitionKey is where a definition lies in the store.
func definitionKey(name string) string {
	return store.Root + "apiextensions.k8s.io/customresourcedefinitions/" + name
}

// applied is how far the controller has come: of each definition, the revision that it is served by.
type applied struct {
	mu        sync.Mutex
	revisions map[string]int64
	change    chan struct{} // closed at the next change
}

func (a *applied) add(revisions map[string]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revisions == nil {
		a.revisions = map[string]int64{}
	}
	maps.Copy(a.revisions, revisions)
	close(a.change)
	a.change = make(chan struct{})
}

// reached tells whether a definition is served by a revision, or else gives what is closed at the next change.
func (a *applied) reached(name string, revision int64) (bool, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revisions[name] >= revision, a.change
}

// Settle returns once the server serves a resource as it is defined in the store now. It returns at once where no definition
// of it is established; the errors are those of reading the cache.
func (c *Controller) Settle(ctx context.Context, gr schema.GroupResource) error {
	o, err := c.Cache.Get(ctx, definitions, definitionKey(gr.String()), cache.Newest)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if crd, ok := o.Object.(*apiextensionsv1.CustomResourceDefinition); !ok || !isServed(crd) {
		return nil
	}
	limit := time.NewTimer(settleMost)
	defer limit.Stop()
	for {
		done, change := c.applied.reached(gr.String(), o.Revision)
		if done {
			return nil
		}
		select {
		case <-change:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
