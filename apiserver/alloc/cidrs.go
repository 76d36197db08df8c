package alloc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// errNoRange is what the user reads about an address that is of no ServiceCIDR.
var errNoRange = errors.New("the provided network does not match the current range")

var serviceCIDRs = schema.GroupResource{Group: networkingv1.GroupName, Resource: "servicecidrs"}

// ranges are the pools of cluster IPs: that of the configuration, which is always there, and one for each range of the
// ServiceCIDR objects. Ranges may overlap: an address has one key, whatever the pool it is taken by.
type ranges struct {
	store  store.Store
	reader Reader
	base   *pool
	cidr   netip.Prefix // base's
	log    *slog.Logger

	mu    sync.Mutex
	more  map[netip.Prefix]*pool
	wrong map[netip.Prefix]bool // not to be made pools of, and said so
	// prefer is where an address was found last: the others may be full.
	prefer *pool
}

func newRanges(s store.Store, r Reader, cidr netip.Prefix, log *slog.Logger) (*ranges, error) {
	base, err := newIPPool(s, cidr)
	if err != nil {
		return nil, err
	}
	return &ranges{store: s, reader: r, base: base, cidr: cidr.Masked(), log: log, prefer: base,
		more: map[netip.Prefix]*pool{}, wrong: map[netip.Prefix]bool{}}, nil
}

// pools gives all pools, and those that addresses may be chosen from: ranges on their way out keep what they gave and give
// nothing more.
func (r *ranges) pools(ctx context.Context) (all, open []*pool, err error) {
	objs, _, err := r.reader.List(ctx, serviceCIDRs, "")
	if err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all, open = []*pool{r.base}, []*pool{r.base}
	var closed []*pool
	there := map[netip.Prefix]bool{}
	for _, obj := range objs {
		cidr, ok := obj.(*networkingv1.ServiceCIDR)
		if !ok {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || prefix == r.cidr || there[prefix] {
				continue
			}
			p, err := r.pool(ctx, prefix)
			if err != nil {
				return nil, nil, err
			}
			if p == nil {
				continue
			}
			there[prefix] = true
			if gives(cidr) {
				open = append(open, p)
			} else {
				closed = append(closed, p)
			}
		}
	}
	for prefix := range r.more {
		if !there[prefix] {
			delete(r.more, prefix)
		}
	}
	all = slices.Concat(open, closed)
	if i := slices.Index(open, r.prefer); i > 0 {
		open[0], open[i] = open[i], open[0]
	}
	return all, open, nil
}

// gives tells whether addresses may be chosen from a ServiceCIDR.
func gives(cidr *networkingv1.ServiceCIDR) bool {
	return cidr.DeletionTimestamp == nil && !meta.IsStatusConditionFalse(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
}

// pool finds or makes the pool of a range; nil for those that there can be none of.
func (r *ranges) pool(ctx context.Context, prefix netip.Prefix) (*pool, error) {
	if p := r.more[prefix]; p != nil || r.wrong[prefix] {
		return p, nil
	}
	p, err := newIPPool(r.store, prefix)
	if err != nil {
		r.wrong[prefix] = true
		r.log.Warn("no cluster IP will be chosen from a ServiceCIDR", "cidr", prefix, "err", err)
		return nil, nil
	}
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	r.more[prefix] = p
	return p, nil
}

// of finds the pool and slot of an address.
func of(pools []*pool, address string) (held, bool) {
	for _, p := range pools {
		if slot, ok := p.slotOf(address); ok {
			return held{p, slot}, true
		}
	}
	return held{}, false
}

// near finds the range whose network or broadcast address this is, which is given to nobody.
func near(pools []*pool, address string) *pool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return nil
	}
	for _, p := range pools {
		if prefix, err := netip.ParsePrefix(p.shown); err == nil && prefix.Contains(addr) {
			return p
		}
	}
	return nil
}

// takeNextIP chooses an address from any range.
func (t *transaction) takeNextIP() (string, error) {
	_, open, err := t.a.ips.pools(t.ctx)
	if err != nil {
		return "", err
	}
	for _, p := range open {
		slot, err := t.takeNext(p)
		if errors.Is(err, errFull) {
			continue
		}
		if err != nil {
			return "", err
		}
		t.a.ips.mu.Lock()
		t.a.ips.prefer = p
		t.a.ips.mu.Unlock()
		return p.nameOf(slot), nil
	}
	return "", errFull
}
