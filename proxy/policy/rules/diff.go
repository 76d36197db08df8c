package rules

import (
	"maps"
	"slices"
)

// Change is what leads from one ruleset to another, in the order of names and elements.
type Change struct {
	// AddSets and AddChains are new; DelSets and DelChains are gone. Rules of Rewrite are other than before, new chains' too.
	AddSets, DelSets     []string
	AddChains, DelChains []string
	Rewrite              []string
	// Add and Del are elements of sets, new ones included, and not those of sets that are gone.
	Add, Del map[string][]Element
	// AddPods and DelPods are addresses in the maps, by the map's name; a pod that gets another chain is in both.
	AddPods, DelPods map[string][]IP
	// AddSelf and DelSelf are pods that become isolated, and that stop being so.
	AddSelf, DelSelf []IP
}

// Empty tells whether nothing changes.
func (c *Change) Empty() bool {
	return len(c.AddSets)+len(c.DelSets)+len(c.AddChains)+len(c.DelChains)+len(c.Rewrite)+len(c.Add)+len(c.Del)+len(c.AddPods)+len(c.DelPods) == 0
}

// Diff compares two rulesets.
func Diff(old, updated *Ruleset) *Change {
	c := &Change{Add: map[string][]Element{}, Del: map[string][]Element{}, AddPods: map[string][]IP{}, DelPods: map[string][]IP{}}
	c.diffSets(old.Sets, updated.Sets)
	for _, name := range sorted(updated.Chains) {
		before, had := old.Chains[name]
		if !had {
			c.AddChains = append(c.AddChains, name)
		}
		if !had || !equalRules(before, updated.Chains[name]) {
			c.Rewrite = append(c.Rewrite, name)
		}
	}
	c.DelChains = missing(old.Chains, updated.Chains)
	c.diffPods(IngressMap, old.Ingress, updated.Ingress)
	c.diffPods(EgressMap, old.Egress, updated.Egress)
	before, after := old.Self(), updated.Self()
	c.AddSelf, c.DelSelf = absent(after, before), absent(before, after)
	return c
}

func (c *Change) diffSets(old, updated map[string]Set) {
	for _, name := range sorted(updated) {
		before, had := old[name]
		if !had {
			c.AddSets = append(c.AddSets, name)
		}
		add, del := compareSorted(before.Elements, updated[name].Elements)
		if len(add) > 0 {
			c.Add[name] = add
		}
		if len(del) > 0 {
			c.Del[name] = del
		}
	}
	c.DelSets = missing(old, updated)
}

// compareSorted tells what of two sorted lists is in one only. Lists that are the same slice are not looked into.
func compareSorted(before, after []Element) (add, del []Element) {
	if len(before) == len(after) && (len(before) == 0 || &before[0] == &after[0]) {
		return nil, nil
	}
	for len(before) > 0 && len(after) > 0 {
		switch order := compareElements(before[0], after[0]); {
		case order < 0:
			del, before = append(del, before[0]), before[1:]
		case order > 0:
			add, after = append(add, after[0]), after[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
	return append(add, after...), append(del, before...)
}

func (c *Change) diffPods(name string, old, updated map[IP]string) {
	for addr, chain := range updated {
		if before, had := old[addr]; !had || before != chain {
			c.AddPods[name] = append(c.AddPods[name], addr)
			if had {
				c.DelPods[name] = append(c.DelPods[name], addr)
			}
		}
	}
	for addr := range old {
		if _, has := updated[addr]; !has {
			c.DelPods[name] = append(c.DelPods[name], addr)
		}
	}
	slices.SortFunc(c.AddPods[name], compareIPs)
	slices.SortFunc(c.DelPods[name], compareIPs)
	maps.DeleteFunc(c.AddPods, func(_ string, list []IP) bool { return len(list) == 0 })
	maps.DeleteFunc(c.DelPods, func(_ string, list []IP) bool { return len(list) == 0 })
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// missing lists the names in old that are not in updated.
func missing[V any](old, updated map[string]V) []string {
	var names []string
	for _, name := range sorted(old) {
		if _, has := updated[name]; !has {
			names = append(names, name)
		}
	}
	return names
}

func absent(from, in map[IP]bool) []IP {
	var list []IP
	for a := range from {
		if !in[a] {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, compareIPs)
	return list
}
