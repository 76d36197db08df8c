// Package alloc gives Services their cluster IPs and node ports. Its invariant: one address and one port are never given out
// twice, however many API servers share a store. What decides is a key per address or port in the store, made if absent before
// the Service is written and deleted after it went; what is kept in memory only guesses at which are free. A crash in
// between leaves a key without a Service, never a Service without its key; Run finds such keys and deletes them.
package alloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// Reader lists the Services there are.
type Reader interface {
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error)
}

// Config sets up an Allocator.
type Config struct {
	Store  store.Store
	Reader Reader
	// ServiceCIDR is the IPv4 range cluster IPs are of.
	ServiceCIDR netip.Prefix
	// FirstNodePort and LastNodePort bound the node ports, both inclusive.
	FirstNodePort, LastNodePort int32
}

// Allocator reserves what Services need around their writes. Its methods are those of rest.Hook.
type Allocator struct {
	reader Reader
	store  store.Store
	ips    *ranges
	ports  *pool
	log    *slog.Logger
	events atomic.Pointer[Report]

	syncing sync.Mutex
	synced  bool
}

// New checks the ranges.
func New(cfg Config) (*Allocator, error) {
	log := slog.With("component", "alloc")
	ips, err := newRanges(cfg.Store, cfg.Reader, cfg.ServiceCIDR, log)
	if err != nil {
		return nil, err
	}
	ports, err := newPortPool(cfg.Store, cfg.FirstNodePort, cfg.LastNodePort)
	if err != nil {
		return nil, err
	}
	return &Allocator{reader: cfg.Reader, store: cfg.Store, ips: ips, ports: ports, log: log}, nil
}

// Report tells of something wrong with an object, as an event about it does.
type Report func(about runtime.Object, reason, note string)

// ReportTo makes the allocator tell of what it finds wrong and repairs.
func (a *Allocator) ReportTo(r Report) { a.events.Store(&r) }

func (a *Allocator) report(about runtime.Object, reason, note string) {
	if r := a.events.Load(); r != nil {
		(*r)(about, reason, note)
	}
}

// owner is the Service a key is held by.
type owner struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid,omitempty"`
}

func ownerOf(svc *corev1.Service) owner {
	return owner{Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID}
}

// String is the Service's namespace and name.
func (o owner) String() string { return o.Namespace + "/" + o.Name }

// is compares owners by UID: a generated name may change once more before it is stored. Keys that others wrote have none.
func (o owner) is(other owner) bool {
	if o.UID != "" && other.UID != "" {
		return o.UID == other.UID
	}
	return o.Namespace == other.Namespace && o.Name == other.Name
}

// transaction collects what one write of a Service reserves and what it sets free.
type transaction struct {
	a     *Allocator
	ctx   context.Context
	owner owner
	dry   bool
	taken []held // undone if the Service was not written
	freed []held // given back once it was
}

// held is one slot of a pool.
type held struct {
	pool *pool
	slot int
}

func (a *Allocator) begin(ctx context.Context, svc *corev1.Service, dry bool) *transaction {
	return &transaction{a: a, ctx: ctx, owner: ownerOf(svc), dry: dry}
}

func (t *transaction) take(p *pool, slot int) error {
	if t.slots(p)[slot] {
		return p.errTaken
	}
	if err := p.take(t.ctx, slot, t.owner, t.dry); err != nil {
		return err
	}
	t.taken = append(t.taken, held{p, slot})
	return nil
}

func (t *transaction) takeNext(p *pool) (int, error) {
	slot, err := p.takeNext(t.ctx, t.owner, t.dry, t.slots(p))
	if err != nil {
		return 0, err
	}
	t.taken = append(t.taken, held{p, slot})
	return slot, nil
}

// slots are those of a pool that this transaction has taken; a dry run leaves no other trace of them.
func (t *transaction) slots(p *pool) map[int]bool {
	out := map[int]bool{}
	for _, h := range t.taken {
		if h.pool == p {
			out[h.slot] = true
		}
	}
	return out
}

func (t *transaction) free(p *pool, slot int) { t.freed = append(t.freed, held{p, slot}) }

// finish is rest.Hook's: it keeps the side effects in line with whether the Service was written.
func (t *transaction) finish(written bool) {
	if t.dry {
		return
	}
	give := t.freed
	if !written {
		give = t.taken
	}
	if len(give) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 10*time.Second)
	defer cancel()
	if !written && !t.a.unwritten(ctx, t.owner) {
		return
	}
	t.a.giveAll(ctx, give, t.owner)
}

// unwritten makes sure that a failed write did not happen after all (a store that answers late may have done it): only
// then may what it reserved be given to others. What is kept by mistake is found by Run.
func (a *Allocator) unwritten(ctx context.Context, o owner) bool {
	entry, err := a.store.Get(ctx, serviceKey(o), 0)
	if errors.Is(err, store.ErrNotFound) {
		return true
	}
	if err != nil {
		return false
	}
	uid, err := storedUID(entry.Value)
	return err == nil && uid != o.UID
}

// giveAll gives slots back. A failure is logged: Run tries again.
func (a *Allocator) giveAll(ctx context.Context, slots []held, o owner) {
	for _, h := range slots {
		if err := h.pool.give(ctx, h.slot, o); err != nil {
			a.log.Warn("A service's address or port could not be given back yet", "key", h.pool.key(h.slot), "service", o.Namespace+"/"+o.Name, "err", err)
		}
	}
}

func serviceKey(o owner) string {
	return fmt.Sprintf("%sservices/specs/%s/%s", store.Root, o.Namespace, o.Name)
}
