package alloc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// repairPeriod is longer than any request lives: what looks wrong in two rounds is not a write on its way.
const repairPeriod = 3 * time.Minute

// Run makes keys and Services agree at the start and then every few minutes, until ctx ends.
func (a *Allocator) Run(ctx context.Context) error {
	suspects := map[string]int64{}
	for wait := time.Second; ; wait = repairPeriod {
		err := a.sync(ctx)
		if err == nil {
			suspects, err = a.repair(ctx, suspects)
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("Service addresses and ports could not be checked", "err", err)
			wait = 5 * time.Second
		} else if wait < repairPeriod {
			wait = repairPeriod
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// sync does the first round before anything is given out: what the Services of a restored store hold may have no key.
func (a *Allocator) sync(ctx context.Context) error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	if a.synced {
		return nil
	}
	if _, err := a.repair(ctx, nil); err != nil {
		return fmt.Errorf("loading service addresses and ports: %w", err)
	}
	a.synced = true
	return nil
}

// claim is what a Service says is its own: the slot, and who says so.
type claim struct {
	held
	owner owner
	svc   *corev1.Service
}

// repair does one round. It returns the keys that look wrong, with their revisions; those it was given, and still finds
// as they were, it puts right.
func (a *Allocator) repair(ctx context.Context, suspects map[string]int64) (map[string]int64, error) {
	ips, _, err := a.ips.pools(ctx)
	if err != nil {
		return suspects, err
	}
	// Keys are read before Services: a key is made first and deleted last.
	have := map[string]store.Entry{}
	for _, prefix := range []string{ipPrefix, portPrefix} {
		list, err := a.store.List(ctx, prefix, store.ListOptions{})
		if err != nil {
			return suspects, fmt.Errorf("listing %s: %w", prefix, err)
		}
		for _, e := range list.Entries {
			have[e.Key] = e
		}
	}
	want, err := a.wanted(ctx, ips)
	if err != nil {
		return suspects, err
	}
	next := map[string]int64{}
	err = errors.Join(a.addMissing(ctx, have, want), a.removeLeaked(ctx, have, want, suspects, next))
	for _, p := range append(ips, a.ports) {
		p.learn(have)
	}
	return next, err
}

// wanted is who holds which key by the Services there are.
func (a *Allocator) wanted(ctx context.Context, ips []*pool) (map[string]claim, error) {
	services, _, err := a.reader.List(ctx, schema.GroupResource{Resource: "services"}, "")
	if err != nil {
		return nil, err
	}
	want := map[string]claim{}
	for _, obj := range services {
		svc, ok := obj.(*corev1.Service)
		if !ok {
			continue
		}
		a.reportStrays(svc, ips)
		c := claim{owner: ownerOf(svc), svc: svc}
		for _, c.held = range a.holdings(svc, ips) {
			key := c.pool.key(c.slot)
			first, taken := want[key]
			if !taken {
				want[key] = c
				continue
			}
			a.log.Warn("Two services have one address or port; delete and create one of them anew",
				"value", c.pool.nameOf(c.slot), "service", first.owner.String(), "other", c.owner.String())
			if c.pool == a.ports {
				a.report(svc, "PortAlreadyAllocated", fmt.Sprintf("Port %s was assigned to multiple services; please recreate service", c.pool.nameOf(c.slot)))
			} else {
				a.report(svc, "ClusterIPAlreadyAllocated", fmt.Sprintf("Cluster IP [%v]:%s was assigned to multiple services; please recreate service", corev1.IPv4Protocol, c.pool.nameOf(c.slot)))
			}
		}
	}
	return want, nil
}

// reportStrays tells of addresses that are of no range: nobody can be kept from having them as well.
func (a *Allocator) reportStrays(svc *corev1.Service, ips []*pool) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || isHeadless(&svc.Spec) {
		return
	}
	for _, ip := range svc.Spec.ClusterIPs {
		if _, ok := of(ips, ip); !ok {
			a.report(svc, "ClusterIPOutOfRange", fmt.Sprintf("Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", corev1.IPv4Protocol, ip))
		}
	}
}

func (a *Allocator) addMissing(ctx context.Context, have map[string]store.Entry, want map[string]claim) error {
	for key, c := range want {
		if _, ok := have[key]; ok {
			continue
		}
		err := c.pool.take(ctx, c.slot, c.owner, false)
		if err == nil && a.unwritten(ctx, c.owner) { // deleted since it was listed, maybe before the key was there to go
			a.giveAll(ctx, []held{c.held}, c.owner)
			continue
		}
		switch {
		case errors.Is(err, c.pool.errTaken): // by its own Service's server, since the keys were read
		case err != nil:
			return err
		case c.pool == a.ports:
			a.report(c.svc, "PortNotAllocated", fmt.Sprintf("Port %s is not allocated; repairing", c.pool.nameOf(c.slot)))
		default:
			a.report(c.svc, "ClusterIPNotAllocated", fmt.Sprintf("Cluster IP [%v]: %s is not allocated; repairing", corev1.IPv4Protocol, c.pool.nameOf(c.slot)))
		}
		have[key] = store.Entry{Key: key}
	}
	return nil
}

// removeLeaked deletes keys that no Service accounts for, and corrects the owner of others, once they were suspect before.
func (a *Allocator) removeLeaked(ctx context.Context, have map[string]store.Entry, want map[string]claim, suspects, next map[string]int64) error {
	for key, e := range have {
		if e.Revision == 0 {
			continue // made a moment ago
		}
		holder, err := a.holder(key, e.Value)
		c, wanted := want[key]
		if errors.Is(err, errForeign) || wanted && err == nil && holder.is(c.owner) {
			continue
		}
		if suspects[key] != e.Revision {
			next[key] = e.Revision
			continue
		}
		a.reportLeak(key, holder, e.Value, wanted)
		if err := a.settle(ctx, e, c, wanted); err != nil {
			return err
		}
		if !wanted {
			delete(have, key)
		}
	}
	return nil
}

// holder reads who has made a key.
func (a *Allocator) holder(key string, value []byte) (owner, error) {
	if strings.HasPrefix(key, ipPrefix) {
		return decodeIP(value)
	}
	return a.ports.decode(value)
}

func (a *Allocator) reportLeak(key string, holder owner, value []byte, wanted bool) {
	name, isIP := strings.CutPrefix(key, ipPrefix)
	if !isIP {
		a.log.Info("A node port had leaked", "port", strings.TrimPrefix(key, portPrefix), "service", holder.String())
		return
	}
	obj, _, err := envelope().Decode(value, nil, nil)
	if err != nil {
		return
	}
	if wanted {
		a.report(obj, "IPAddressWrongReference", fmt.Sprintf("IPAddress: %s for Service %s has a wrong reference; cleaning up", name, holder))
		return
	}
	a.report(obj, "IPAddressNotAllocated", fmt.Sprintf("IPAddress: %s for Service %s appears to have leaked: cleaning up", name, holder))
}

func (a *Allocator) settle(ctx context.Context, e store.Entry, c claim, wanted bool) error {
	var err error
	if wanted {
		var value []byte
		if value, err = c.pool.encode(c.pool.nameOf(c.slot), c.owner); err == nil {
			_, err = a.store.Update(ctx, e.Key, value, e.Revision)
		}
	} else {
		_, err = a.store.Delete(ctx, e.Key, e.Revision)
	}
	if errors.Is(err, store.ErrNotFound) || errors.As(err, new(*store.ConflictError)) {
		return nil
	}
	return err
}

// AddressDeleted gives a Service its IPAddress back that somebody has deleted: the Service still has the address.
func (a *Allocator) AddressDeleted(ctx context.Context, obj runtime.Object) {
	ip, ok := obj.(*networkingv1.IPAddress)
	if !ok || ip.Labels[networkingv1.LabelManagedBy] != managedBy {
		return
	}
	ctx = context.WithoutCancel(ctx)
	ips, _, err := a.ips.pools(ctx)
	if err != nil {
		return // the next round finds it
	}
	want, err := a.wanted(ctx, ips)
	if err != nil {
		return
	}
	if c, ok := want[ipPrefix+ip.Name]; ok {
		if err := a.addMissing(ctx, map[string]store.Entry{}, map[string]claim{ipPrefix + ip.Name: c}); err != nil {
			a.log.Warn("A service's address could not be reserved again yet", "address", ip.Name, "err", err)
		}
		return
	}
	if h, ok := of(ips, ip.Name); ok {
		h.pool.mark(h.slot, false)
	}
}
