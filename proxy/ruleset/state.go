package ruleset

import (
	"cmp"
	"iter"
	"slices"
)

// State is the rules of all services together. Two services may claim the same key, by an external address or while one takes
// over the address of another that is going; the older one has it, and the other gets it when that is gone.
// It is not safe for concurrent use.
type State struct {
	services map[string]Rules
	owners   map[Key]string
	// rivals are the other claims of keys that are claimed more than once.
	rivals map[Key][]string
}

// NewState is without services.
func NewState() *State {
	return &State{services: map[string]Rules{}, owners: map[Key]string{}, rivals: map[Key][]string{}}
}

// Change is what becomes of one key. A backend without anything found and without refusal is none.
type Change struct {
	Key           Key
	Before, After Backend
}

// Rules gives those of a service, by namespace/name.
func (s *State) Rules(service string) Rules { return s.services[service] }

// All gives every key and its backend, in no order.
func (s *State) All() iter.Seq2[Key, *Backend] {
	return func(yield func(Key, *Backend) bool) {
		for k, owner := range s.owners {
			if !yield(k, s.find(owner, k)) {
				return
			}
		}
	}
}

// Len is how many keys there are.
func (s *State) Len() int { return len(s.owners) }

// Update takes the rules of services that changed, empty ones of those that are gone, and gives what changes, sorted by key.
func (s *State) Update(changed ...Rules) []Change {
	before := map[Key]Backend{}
	touch := func(k Key) {
		if _, seen := before[k]; !seen {
			before[k] = s.get(k)
		}
	}
	for _, rules := range changed {
		for _, e := range s.services[rules.Service].Entries {
			touch(e.Key)
		}
		for _, e := range rules.Entries {
			touch(e.Key)
		}
	}
	for _, rules := range changed {
		s.set(rules)
	}
	var changes []Change
	for k, was := range before {
		if now := s.get(k); !was.equal(&now) {
			changes = append(changes, Change{Key: k, Before: was, After: now})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return compareKeys(a.Key, b.Key) })
	return changes
}

func (s *State) set(rules Rules) {
	for _, e := range s.services[rules.Service].Entries {
		s.release(e.Key, rules.Service)
	}
	if len(rules.Entries) == 0 && rules.Health.Port == 0 {
		delete(s.services, rules.Service)
		return
	}
	s.services[rules.Service] = rules
	for _, e := range rules.Entries {
		s.claim(e.Key, rules.Service)
	}
}

func (s *State) claim(k Key, service string) {
	owner, taken := s.owners[k]
	if !taken {
		s.owners[k] = service
		return
	}
	all := append(s.rivals[k], owner, service)
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.services[a].Created, s.services[b].Created), cmp.Compare(a, b))
	})
	s.owners[k], s.rivals[k] = all[0], all[1:]
}

func (s *State) release(k Key, service string) {
	rivals := s.rivals[k]
	if s.owners[k] != service {
		s.keepRivals(k, slices.DeleteFunc(rivals, func(r string) bool { return r == service }))
		return
	}
	if len(rivals) == 0 {
		delete(s.owners, k)
		return
	}
	s.owners[k] = rivals[0]
	s.keepRivals(k, rivals[1:])
}

func (s *State) keepRivals(k Key, rivals []string) {
	if len(rivals) == 0 {
		delete(s.rivals, k)
		return
	}
	s.rivals[k] = rivals
}

func (s *State) get(k Key) Backend {
	owner, ok := s.owners[k]
	if !ok {
		return Backend{}
	}
	return *s.find(owner, k)
}

func (s *State) find(service string, k Key) *Backend {
	entries := s.services[service].Entries
	i, ok := slices.BinarySearchFunc(entries, k, func(e Entry, k Key) int { return compareKeys(e.Key, k) })
	if !ok {
		panic("ruleset: the owner of a key does not have it")
	}
	return &entries[i].Backend
}
