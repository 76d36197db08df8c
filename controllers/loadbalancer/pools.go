package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// NodesPool is the name by which a service asks for the nodes' own addresses where there are pools.
const NodesPool = "nodes"

// Range is the IPv4 addresses from First to Last, both of it.
type Range struct{ First, Last netip.Addr }

func (r Range) contains(a netip.Addr) bool { return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 }

func (r Range) overlaps(o Range) bool {
	return r.First.Compare(o.Last) <= 0 && o.First.Compare(r.Last) <= 0
}

func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Pool is addresses for services.
type Pool struct {
	Name   string
	Ranges []Range
	// Manual pools give addresses only to services that name them.
	Manual bool
	// AvoidBuggy passes over addresses that end in .0 or .255, which some old devices refuse.
	AvoidBuggy bool
	// Namespaces are those whose services may have addresses of it; empty is all.
	Namespaces []string
}

func (p *Pool) contains(a netip.Addr) bool {
	last := a.As4()[3]
	if p.AvoidBuggy && (last == 0 || last == 255) {
		return false
	}
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.contains(a) })
}

func (p *Pool) serves(namespace string) bool {
	return len(p.Namespaces) == 0 || slices.Contains(p.Namespaces, namespace)
}

// Pools are in the order in which they are tried.
type Pools []Pool

func (p Pools) named(name string) *Pool {
	i := slices.IndexFunc(p, func(pool Pool) bool { return pool.Name == name })
	if i < 0 {
		return nil
	}
	return &p[i]
}

// of is the pool that an address belongs to.
func (p Pools) of(a netip.Addr) *Pool {
	i := slices.IndexFunc(p, func(pool Pool) bool { return pool.contains(a) })
	if i < 0 {
		return nil
	}
	return &p[i]
}

// ParseRanges makes the pool "default" of ranges such as 192.168.1.240-192.168.1.250, 10.0.0.0/28 or 10.0.0.7. None gives no pool.
func ParseRanges(texts []string) (Pools, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	pool := Pool{Name: "default"}
	for _, text := range texts {
		r, err := parseRange(text)
		if err != nil {
			return nil, err
		}
		pool.Ranges = append(pool.Ranges, r)
	}
	pools := Pools{pool}
	return pools, pools.check()
}

// poolText is a pool as people write it.
type poolText struct {
	Name          string   `json:"name"`
	Addresses     []string `json:"addresses"`
	AutoAssign    *bool    `json:"autoAssign"`
	AvoidBuggyIPs bool     `json:"avoidBuggyIPs"`
	Namespaces    []string `json:"namespaces"`
}

// ParseConfig reads a YAML list of pools.
func ParseConfig(text string) (Pools, error) {
	var texts []poolText
	if err := yaml.UnmarshalStrict([]byte(text), &texts); err != nil {
		return nil, err
	}
	var pools Pools
	for _, t := range texts {
		pool := Pool{Name: t.Name, Manual: t.AutoAssign != nil && !*t.AutoAssign, AvoidBuggy: t.AvoidBuggyIPs, Namespaces: t.Namespaces}
		for _, address := range t.Addresses {
			r, err := parseRange(address)
			if err != nil {
				return nil, fmt.Errorf("pool %q: %w", t.Name, err)
			}
			pool.Ranges = append(pool.Ranges, r)
		}
		pools = append(pools, pool)
	}
	return pools, pools.check()
}

func parseRange(text string) (Range, error) {
	var r Range
	var err error
	text = strings.TrimSpace(text)
	if first, last, found := strings.Cut(text, "-"); found {
		var errLast error
		r.First, err = netip.ParseAddr(strings.TrimSpace(first))
		r.Last, errLast = netip.ParseAddr(strings.TrimSpace(last))
		err = errors.Join(err, errLast)
	} else if prefix, perr := netip.ParsePrefix(text); perr == nil {
		r = rangeOf(prefix)
	} else {
		r.First, err = netip.ParseAddr(text)
		r.Last = r.First
	}
	switch {
	case err != nil:
		return Range{}, fmt.Errorf("%q: want FIRST-LAST, a CIDR or an address", text)
	case !r.First.Is4() || !r.Last.Is4():
		return Range{}, fmt.Errorf("%q: only IPv4 addresses can be announced", text)
	case r.Last.Less(r.First):
		return Range{}, fmt.Errorf("%q: the last address is before the first", text)
	}
	for _, bad := range notAnnounced {
		if r.overlaps(rangeOf(bad)) {
			return Range{}, fmt.Errorf("%q: nobody could reach a service by addresses of %s", text, bad)
		}
	}
	return r, nil
}

// notAnnounced are addresses that are not a host's: "this network", loopback, link-local, multicast and reserved ones.
var notAnnounced = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

func rangeOf(p netip.Prefix) Range {
	p = p.Masked()
	if !p.Addr().Is4() {
		return Range{First: p.Addr(), Last: p.Addr()}
	}
	last := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return Range{First: p.Addr(), Last: netip.AddrFrom4(last)}
}

// check refuses pools that cannot be told apart.
func (p Pools) check() error {
	for i, pool := range p {
		switch {
		case len(validation.IsDNS1123Label(pool.Name)) > 0:
			return fmt.Errorf("pool %q: the name must be lower case letters, digits and '-'", pool.Name)
		case pool.Name == NodesPool:
			return fmt.Errorf("pool %q: the name stands for the nodes' own addresses", pool.Name)
		case p.named(pool.Name) != &p[i]:
			return fmt.Errorf("pool %q: there are two of the name", pool.Name)
		case len(pool.Ranges) == 0:
			return fmt.Errorf("pool %q has no addresses", pool.Name)
		}
		for _, r := range pool.Ranges {
			if err := p[:i].overlap(pool.Name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckAgainst refuses pools with addresses of pods or of cluster IPs.
func (p Pools) CheckAgainst(cluster []netip.Prefix) error {
	for _, pool := range p {
		for _, r := range pool.Ranges {
			for _, prefix := range cluster {
				if r.overlaps(rangeOf(prefix)) {
					return fmt.Errorf("pool %q: %s overlaps the cluster's own %s", pool.Name, r, prefix)
				}
			}
		}
	}
	return nil
}

func (p Pools) overlap(name string, r Range) error {
	for _, other := range p {
		for _, o := range other.Ranges {
			if r.overlaps(o) {
				return fmt.Errorf("pool %q: %s overlaps %s of pool %q", name, r, o, other.Name)
			}
		}
	}
	return nil
}
