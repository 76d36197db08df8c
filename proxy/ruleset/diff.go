package ruleset

import (
	"net/netip"
	"slices"
)

// Change is what leads from one ruleset to another.
type Change struct {
	// Set are keys that are new or lead elsewhere, Delete those that are gone; in order.
	Set    []Key
	Delete []Key
}

// Empty tells whether nothing changes.
func (c Change) Empty() bool { return len(c.Set) == 0 && len(c.Delete) == 0 }

// Diff compares two rulesets.
func Diff(old, updated Ruleset) Change {
	var c Change
	for k, backend := range updated {
		if before, had := old[k]; !had || !before.equal(backend) {
			c.Set = append(c.Set, k)
		}
	}
	for k := range old {
		if _, has := updated[k]; !has {
			c.Delete = append(c.Delete, k)
		}
	}
	slices.SortFunc(c.Set, compareKeys)
	slices.SortFunc(c.Delete, compareKeys)
	return c
}

// Gone lists the endpoints that a key led to before and does not any more, by key: the connections that the
// kernel must forget where the protocol has none of its own (UDP).
func Gone(old, updated Ruleset) map[Key][]netip.AddrPort {
	gone := map[Key][]netip.AddrPort{}
	for k, before := range old {
		after := updated[k].Endpoints
		if slices.Equal(before.Endpoints, after) {
			continue
		}
		for _, e := range before.Endpoints {
			if !slices.Contains(after, e) {
				gone[k] = append(gone[k], e)
			}
		}
	}
	return gone
}

// Apply gives the ruleset in which the rules of one service are replaced: before are its old ones.
func (r Ruleset) Apply(before, after Ruleset) {
	for k := range before {
		delete(r, k)
	}
	for k, backend := range after {
		r[k] = backend
	}
}
