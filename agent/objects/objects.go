// Package objects reads the config maps and secrets that this node's pods use, each by its name alone, as the node
// authorizer allows. An object that a pod holds is watched, so that reading it costs nothing and its changes are told.
//
// Invariant: there is a watch for exactly the objects that are held.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Kind of a held object.
type Kind string

// The kinds that can be held.
const (
	ConfigMap Kind = "configmaps"
	Secret    Kind = "secrets"
)

// Key names an object.
type Key struct {
	Kind            Kind
	Namespace, Name string
}

// Cache holds objects. It is safe for concurrent use.
type Cache struct {
	ctx    context.Context
	client kubernetes.Interface
	log    *slog.Logger

	mu      sync.Mutex
	entries map[Key]*entry
	held    map[string][]Key // by holder
}

type entry struct {
	cancel  context.CancelFunc
	holders map[string]func()
	synced  chan struct{} // closed after the first list, or the first failure of one

	obj runtime.Object // nil: it does not exist
	err error          // of the newest list, while nothing better is known
}

// New makes a Cache whose watches end with ctx.
func New(ctx context.Context, client kubernetes.Interface, log *slog.Logger) *Cache {
	return &Cache{ctx: ctx, client: client, log: log, entries: map[Key]*entry{}, held: map[string][]Key{}}
}

// Hold watches keys for holder until Release. changed is called, from any goroutine, whenever one of them is not what it
// was; it must not block.
func (c *Cache) Hold(holder string, keys []Key, changed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		e := c.entries[k]
		if e == nil {
			ctx, cancel := context.WithCancel(c.ctx)
			e = &entry{cancel: cancel, holders: map[string]func(){}, synced: make(chan struct{})}
			c.entries[k] = e
			go c.follow(ctx, k, e)
		}
		e.holders[holder] = changed
	}
	c.held[holder] = keys
}

// Release ends what Hold began.
func (c *Cache) Release(holder string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.held[holder] {
		e := c.entries[k]
		if e == nil {
			continue
		}
		delete(e.holders, holder)
		if len(e.holders) == 0 {
			e.cancel()
			delete(c.entries, k)
		}
	}
	delete(c.held, holder)
}

// ConfigMap gives the object, from memory where it is held.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	obj, err := c.get(ctx, Key{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.ConfigMap), nil
}

// Secret gives the object, from memory where it is held.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	obj, err := c.get(ctx, Key{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.Secret), nil
}

// Claim gives a claim as it is now: nodes may not watch them.
func (c *Cache) Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	return c.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// PersistentVolume gives a volume as it is now.
func (c *Cache) PersistentVolume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	return c.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

// Token asks the API server for a service account's token.
func (c *Cache) Token(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	return c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
}

func (c *Cache) get(ctx context.Context, k Key) (runtime.Object, error) {
	c.mu.Lock()
	e := c.entries[k]
	c.mu.Unlock()
	if e == nil {
		return c.fetch(ctx, k)
	}
	select {
	case <-e.synced:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.err != nil:
		return nil, e.err
	case e.obj == nil:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: string(k.Kind)}, k.Name)
	}
	return e.obj, nil
}

func (c *Cache) fetch(ctx context.Context, k Key) (runtime.Object, error) {
	if k.Kind == Secret {
		return c.client.CoreV1().Secrets(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	}
	return c.client.CoreV1().ConfigMaps(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
}

// The pause after a watch that could not be had; it is also how old an object can get where only lists are allowed.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 8 * time.Second
)

// follow lists and watches one object until ctx ends.
func (c *Cache) follow(ctx context.Context, k Key, e *entry) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := c.listAndWatch(ctx, k, e)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			pause = firstPause
		}
		if err != nil {
			c.log.Debug("object not watched", "kind", k.Kind, "namespace", k.Namespace, "name", k.Name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

func (c *Cache) listAndWatch(ctx context.Context, k Key, e *entry) error {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", k.Name).String()}
	obj, version, err := c.list(ctx, k, opts)
	c.store(e, obj, err)
	if err != nil {
		return err
	}
	opts.ResourceVersion, opts.AllowWatchBookmarks = version, true
	var w watch.Interface
	if k.Kind == Secret {
		w, err = c.client.CoreV1().Secrets(k.Namespace).Watch(ctx, opts)
	} else {
		w, err = c.client.CoreV1().ConfigMaps(k.Namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		switch event.Type {
		case watch.Added, watch.Modified:
			c.store(e, event.Object, nil)
		case watch.Deleted:
			c.store(e, nil, nil)
		case watch.Error:
			return apierrors.FromObject(event.Object)
		}
	}
	return nil
}

func (c *Cache) list(ctx context.Context, k Key, opts metav1.ListOptions) (runtime.Object, string, error) {
	if k.Kind == Secret {
		l, err := c.client.CoreV1().Secrets(k.Namespace).List(ctx, opts)
		if err != nil || len(l.Items) == 0 {
			return nil, versionOf(l, err), err
		}
		return &l.Items[0], l.ResourceVersion, nil
	}
	l, err := c.client.CoreV1().ConfigMaps(k.Namespace).List(ctx, opts)
	if err != nil || len(l.Items) == 0 {
		return nil, versionOf(l, err), err
	}
	return &l.Items[0], l.ResourceVersion, nil
}

func versionOf(l metav1.ListInterface, err error) string {
	if err != nil {
		return ""
	}
	return l.GetResourceVersion()
}

// store takes over what is known now. An error does not displace an object that was read before.
func (c *Cache) store(e *entry, obj runtime.Object, err error) {
	c.mu.Lock()
	first := !isClosed(e.synced)
	changed := !first && err == nil && version(obj) != version(e.obj)
	changed = changed || e.err != nil && err == nil
	switch {
	case err == nil:
		e.obj, e.err = obj, nil
	case e.obj == nil:
		e.err = fmt.Errorf("%w", err)
	}
	if first {
		close(e.synced)
	}
	var tell []func()
	if changed {
		for _, f := range e.holders {
			tell = append(tell, f)
		}
	}
	c.mu.Unlock()
	for _, f := range tell {
		f()
	}
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func version(obj runtime.Object) string {
	if obj == nil {
		return ""
	}
	if m, ok := obj.(metav1.Object); ok {
		return m.GetResourceVersion()
	}
	return ""
}
