package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// The reasons why something is not given, worded for the user. Callers add what was asked for.
var errFull = errors.New("range is full")

// pool is a range of numbered slots, each held by the Service that has made its key.
type pool struct {
	store  store.Store
	prefix string // of the keys, with its final slash
	size   int
	first  int32  // the number of slot 0, where slots are ports
	shown  string // the range in messages
	// static is how many of the first slots are kept for those who ask for one by name: they are the last to be chosen.
	static int
	// errTaken is what the user reads about a slot that is held.
	errTaken error
	// nameOf and slotOf map slots to the last part of their keys.
	nameOf func(slot int) string
	slotOf func(name string) (int, bool)
	encode func(name string, o owner) ([]byte, error)
	decode func(value []byte) (owner, error)

	mu   sync.Mutex
	used []uint64 // a bit a slot: a guess
}

func (p *pool) key(slot int) string { return p.prefix + p.nameOf(slot) }

func (p *pool) init() { p.used = make([]uint64, (p.size+63)/64) }

func (p *pool) has(slot int) bool { return p.used[slot/64]&(1<<(slot%64)) != 0 }

func (p *pool) set(slot int) { p.used[slot/64] |= 1 << (slot % 64) }

func (p *pool) clear(slot int) { p.used[slot/64] &^= 1 << (slot % 64) }

func (p *pool) mark(slot int, used bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if used {
		p.set(slot)
	} else {
		p.clear(slot)
	}
}

// take reserves one slot, or returns errTaken. A dry run only looks.
func (p *pool) take(ctx context.Context, slot int, o owner, dry bool) error {
	if dry {
		_, err := p.store.Get(ctx, p.key(slot), 0)
		switch {
		case err == nil:
			return p.errTaken
		case errors.Is(err, store.ErrNotFound):
			return nil
		}
		return err
	}
	value, err := p.encode(p.nameOf(slot), o)
	if err != nil {
		return err
	}
	_, err = p.store.Create(ctx, p.key(slot), value, store.CreateOptions{})
	var exists *store.ExistsError
	switch {
	case err == nil:
		p.mark(slot, true)
		return nil
	case errors.As(err, &exists):
		p.mark(slot, true)
		return p.errTaken
	}
	return err
}

// takeNext reserves any slot but those in not. errFull comes only after a look at the store.
func (p *pool) takeNext(ctx context.Context, o owner, dry bool, not map[int]bool) (int, error) {
	for refreshed := false; ; {
		slot, ok := p.pick(dry, not)
		if !ok {
			if refreshed {
				return 0, errFull
			}
			if err := p.refresh(ctx); err != nil {
				return 0, err
			}
			refreshed = true
			continue
		}
		err := p.take(ctx, slot, o, dry)
		if err == nil {
			return slot, nil
		}
		if !errors.Is(err, p.errTaken) {
			if !dry {
				p.mark(slot, false)
			}
			return 0, err
		}
		p.mark(slot, true) // another server was first
	}
}

// pick chooses a slot that seems free, at random: first of the dynamic band, then of the static one. It is marked
// unless for a dry run, so that concurrent picks differ.
func (p *pool) pick(dry bool, not map[int]bool) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, band := range [][2]int{{p.static, p.size}, {0, p.static}} {
		length := band[1] - band[0]
		if length <= 0 {
			continue
		}
		start := rand.IntN(length)
		for i := range length {
			slot := band[0] + (start+i)%length
			if !p.has(slot) && !not[slot] {
				if !dry {
					p.set(slot)
				}
				return slot, true
			}
		}
	}
	return 0, false
}

// give deletes a slot's key if o holds it.
func (p *pool) give(ctx context.Context, slot int, o owner) error {
	entry, err := p.store.Get(ctx, p.key(slot), 0)
	if errors.Is(err, store.ErrNotFound) {
		p.mark(slot, false)
		return nil
	}
	if err != nil {
		return err
	}
	holder, err := p.decode(entry.Value)
	if errors.Is(err, errForeign) {
		return nil
	}
	if err != nil {
		return err
	}
	if !holder.is(o) {
		return nil
	}
	_, err = p.store.Delete(ctx, entry.Key, entry.Revision)
	if err == nil || errors.Is(err, store.ErrNotFound) {
		p.mark(slot, false)
		return nil
	}
	return err
}

// refresh replaces the guesses by what the store holds.
func (p *pool) refresh(ctx context.Context) error {
	list, err := p.store.List(ctx, p.prefix, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing %s: %w", p.prefix, err)
	}
	have := make(map[string]store.Entry, len(list.Entries))
	for _, e := range list.Entries {
		have[e.Key] = e
	}
	p.learn(have)
	return nil
}

// learn takes the keys there are. Those of other ranges that share the prefix are left out.
func (p *pool) learn(have map[string]store.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.used)
	for key := range have {
		name, mine := strings.CutPrefix(key, p.prefix)
		if slot, ok := p.slotOf(name); ok && mine {
			p.set(slot)
		}
	}
}
