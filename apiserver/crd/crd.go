// Package crd serves what CustomResourceDefinitions define. Its invariant: what is served follows from the definitions in
// the watch cache alone, so that all servers on one store serve the same; a definition is Established only once the server
// that says so serves it. Schemas are compiled when an object first needs them.
package crd

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/internal/run"
)

// definitions is the cache's name of the kind.
const definitions = "customresourcedefinitions.apiextensions.k8s.io"

// source names the kinds of this package to discovery, and with a group behind it to OpenAPI.
const source = "crds"

// StatusWriter writes the status of definitions, and with it their finalizers. client-go's
// CustomResourceDefinitionInterface is one.
type StatusWriter interface {
	UpdateStatus(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, o metav1.UpdateOptions) (*apiextensionsv1.CustomResourceDefinition, error)
}

// Config is what a Controller works on.
type Config struct {
	Cache  *cache.Cache
	Scheme *runtime.Scheme
	// Rest serves the kinds.
	Rest *rest.Handler
	// Client writes the status of definitions.
	Client StatusWriter
	// Discovery shows kinds that a source serves; nil: nobody does.
	Discovery func(source string, table []kinds.Kind) error
	// OpenAPI publishes the documents of a source, by "apis/<group>/<version>", in place of those before; nil: nobody does.
	OpenAPI func(source string, v3 map[string]*spec3.OpenAPI, v2 []*spec.Swagger)
	// Document gives a document of version 3 that has the models of object metadata, options and Scale, from the
	// server's own types. It is asked for once, when there is a definition to publish.
	Document func(ctx context.Context) ([]byte, error)
	// Service connects to webhooks that are Services; nil: those cannot be reached.
	Service ServiceDialer
	// Synced is called once all definitions that there are at the start are served. May be nil.
	Synced func()
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Controller makes the servers serve what is defined, and keeps the definitions' status.
type Controller struct {
	Config
	log   *slog.Logger
	hooks *webhooks

	applied applied
	// checked are the generations whose schemas the stored status tells of.
	checked map[types.UID]int64
	// known are the definitions as the cache has them, by name; served those in force. Only follow uses them.
	known     map[string]*apiextensionsv1.CustomResourceDefinition
	served    map[string]*definition
	tables    map[string]*cacheTable // what was added to the cache, by definition
	status    writer
	publisher publisher
	synced    sync.Once
}

// cacheTable is the resource that a definition put into the cache.
type cacheTable struct {
	uid    types.UID
	name   string
	shared *shared
}

// New makes a controller, which does nothing until Run.
func New(cfg Config) *Controller {
	c := &Controller{
		Config: cfg, log: slog.With("component", "crd"), hooks: &webhooks{service: cfg.Service},
		known: map[string]*apiextensionsv1.CustomResourceDefinition{}, checked: map[types.UID]int64{}, served: map[string]*definition{}, tables: map[string]*cacheTable{},
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.applied.change = make(chan struct{})
	c.status, c.publisher = newWriter(c), newPublisher(c)
	return c
}

// Run serves what the definitions say until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return run.All(ctx, c.follow, c.status.run, c.publisher.run)
}

// follow applies every change of a definition, in the order of the watch.
func (c *Controller) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.followOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, cache.ErrTooOld) {
			c.log.Warn("watching definitions failed, trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

func (c *Controller) followOnce(ctx context.Context) error {
	w, err := c.Cache.Watch(ctx, definitions, cache.WatchOptions{SendInitial: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	seen := map[string]*apiextensionsv1.CustomResourceDefinition{} // the state, until it is whole
	revisions := map[string]int64{}
	initial, complete := true, true
	for {
		events, err := c.next(ctx, w, complete)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Type == watch.Bookmark {
				if e.InitialEnd {
					c.known, initial = seen, false
				}
				continue
			}
			crd, ok := e.Object.Object.(*apiextensionsv1.CustomResourceDefinition)
			if !ok {
				continue
			}
			revisions[crd.Name] = e.Revision
			if e.Type == watch.Deleted {
				delete(seen, crd.Name)
			} else {
				seen[crd.Name] = crd
			}
		}
		if !initial {
			complete = c.apply(ctx)
			c.applied.add(revisions)
			clear(revisions)
		}
	}
}

// next waits for events; where not all that is defined is served, no longer than it takes until that is tried again.
func (c *Controller) next(ctx context.Context, w cache.Watcher, complete bool) ([]cache.Event, error) {
	if complete {
		return w.Next(ctx)
	}
	short, cancel := context.WithTimeout(ctx, writeRetry)
	defer cancel()
	events, err := w.Next(short)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return events, err
}

// apply makes what is served follow from what is known. It reports false where that failed for some definition.
func (c *Controller) apply(ctx context.Context) (complete bool) {
	complete = true
	all := slices.SortedFunc(maps.Values(c.known), func(a, b *apiextensionsv1.CustomResourceDefinition) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	if len(c.checked) > 2*len(all)+100 { // of definitions that are gone
		clear(c.checked)
	}
	next := map[string]*definition{}
	var wanted []*apiextensionsv1.CustomResourceDefinition
	for i, crd := range all {
		decided := decide(crd, all, c.checked[crd.UID] == crd.Generation, metav1.NewTime(c.Now()).Rfc3339Copy())
		if decided == crd {
			c.checked[crd.UID] = crd.Generation
		}
		all[i] = decided // so that of two that want one name the older gets it
		if !isServed(decided) {
			if decided != crd {
				wanted = append(wanted, decided)
			}
			continue
		}
		d, err := c.definition(ctx, decided)
		if err != nil {
			c.log.Error("definition is not served", "name", crd.Name, "error", err)
			complete = false
			continue
		}
		next[crd.Name] = d
		if decided != crd {
			wanted = append(wanted, decided)
		}
	}
	c.publish(next)
	c.status.set(all, wanted)
	if complete && c.Synced != nil {
		c.synced.Do(c.Synced)
	}
	return complete
}

// definition gives what is in force of a definition, made anew where it has changed.
func (c *Controller) definition(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) (*definition, error) {
	t := c.tables[crd.Name]
	if t != nil && t.uid != crd.UID { // it went, and came again
		c.drop(crd.Name)
		t = nil
	}
	if d := c.served[crd.Name]; d != nil && t != nil {
		if next := d.follows(crd); next != nil {
			return next, nil
		}
	}
	if t != nil {
		return newDefinition(crd, t.shared, c.hooks, c.typeConverter), nil
	}
	d := newDefinition(crd, &shared{}, c.hooks, c.typeConverter)
	resources := rest.CacheResources(d.kinds(), c.Scheme)
	for _, r := range resources {
		if err := c.Cache.Add(ctx, r); err != nil {
			return nil, err
		}
	}
	c.tables[crd.Name] = &cacheTable{uid: crd.UID, name: d.groupResource().String(), shared: d.shared}
	return d, nil
}

// drop ends the watches of a definition that is gone, and forgets its objects.
func (c *Controller) drop(name string) {
	if t := c.tables[name]; t != nil {
		c.Cache.Remove(t.name)
		delete(c.tables, name)
	}
}

// publish serves the definitions, and no others. The cache has their objects already.
func (c *Controller) publish(next map[string]*definition) {
	same := maps.EqualFunc(next, c.served, func(a, b *definition) bool { return a == b })
	if same {
		return
	}
	var table []kinds.Kind
	for _, name := range slices.Sorted(maps.Keys(next)) {
		table = append(table, next[name].kinds()...)
	}
	c.Rest.SetDynamic(table)
	for name := range c.tables {
		if next[name] == nil {
			c.drop(name)
		}
	}
	c.served = next
	if c.Discovery != nil {
		if err := c.Discovery(source, table); err != nil {
			c.log.Error("discovery does not show all kinds", "error", err)
		}
	}
	c.publisher.set(next)
}
