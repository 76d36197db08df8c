package alloc

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// repair does one round. It returns the keys that look wrong, with their revisions; those it was given, and still finds
// as they were, it puts right.
func (a *Allocator) repair(ctx context.Context, suspects map[string]int64) (map[string]int64, error) {
	// Keys are read before Services: a key is made first and deleted last.
	have := map[*pool]map[int]store.Entry{}
	for _, p := range []*pool{a.ips, a.ports} {
		entries, err := p.entries(ctx)
		if err != nil {
			return suspects, err
		}
		have[p] = entries
	}
	want, err := a.wanted(ctx)
	if err != nil {
		return suspects, err
	}
	next := map[string]int64{}
	var errs []error
	for p, entries := range have {
		errs = append(errs, p.addMissing(ctx, entries, want[p]))
		errs = append(errs, p.removeLeaked(ctx, entries, want[p], suspects, next))
		p.learn(entries)
	}
	return next, errors.Join(errs...)
}

// wanted is who holds what by the Services there are.
func (a *Allocator) wanted(ctx context.Context) (map[*pool]map[int]owner, error) {
	services, _, err := a.reader.List(ctx, schema.GroupResource{Resource: "services"}, "")
	if err != nil {
		return nil, err
	}
	want := map[*pool]map[int]owner{a.ips: {}, a.ports: {}}
	for _, obj := range services {
		svc, ok := obj.(*corev1.Service)
		if !ok {
			continue
		}
		o := ownerOf(svc)
		for _, h := range a.holdings(svc) {
			if first, taken := want[h.pool][h.slot]; taken {
				a.log.Warn("Two services have one address or port; delete and create one of them anew",
					"value", h.pool.nameOf(h.slot), "service", first.Namespace+"/"+first.Name, "other", o.Namespace+"/"+o.Name)
				continue
			}
			want[h.pool][h.slot] = o
		}
	}
	return want, nil
}

func (p *pool) addMissing(ctx context.Context, entries map[int]store.Entry, want map[int]owner) error {
	for slot, o := range want {
		if _, ok := entries[slot]; ok {
			continue
		}
		if err := p.take(ctx, slot, o, false); err != nil && !errors.Is(err, p.errTaken) {
			return err
		}
		entries[slot] = store.Entry{Key: p.key(slot)}
	}
	return nil
}

// removeLeaked deletes keys that no Service accounts for, and corrects the owner of others, once they were suspect before.
func (p *pool) removeLeaked(ctx context.Context, entries map[int]store.Entry, want map[int]owner, suspects, next map[string]int64) error {
	for slot, e := range entries {
		if e.Revision == 0 {
			continue // made a moment ago
		}
		o, wanted := want[slot]
		if holder, err := p.decode(e.Value); wanted && err == nil && holder.is(o) {
			continue
		}
		if suspects[e.Key] != e.Revision {
			next[e.Key] = e.Revision
			continue
		}
		if err := p.settle(ctx, slot, e, o, wanted); err != nil {
			return err
		}
		if !wanted {
			delete(entries, slot)
		}
	}
	return nil
}

func (p *pool) settle(ctx context.Context, slot int, e store.Entry, o owner, wanted bool) error {
	var err error
	if wanted {
		var value []byte
		if value, err = p.encode(p.nameOf(slot), o); err == nil {
			_, err = p.store.Update(ctx, e.Key, value, e.Revision)
		}
	} else {
		_, err = p.store.Delete(ctx, e.Key, e.Revision)
	}
	if errors.Is(err, store.ErrNotFound) || errors.As(err, new(*store.ConflictError)) {
		return nil
	}
	return err
}
