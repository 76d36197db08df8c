package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// port is what a service listens on.
type port struct {
	protocol corev1.Protocol
	number   int32
}

func (p port) String() string { return fmt.Sprintf("%d/%s", p.number, p.protocol) }

// request is what a service asks for.
type request struct {
	// key is the service's namespace/name.
	key, namespace string
	// pool is the one it names, addr the address; the zero values are any.
	pool string
	addr netip.Addr
	// current is what it has, by its status.
	current netip.Addr
	ports   []port
	// sharing services may have one address: those that give the same word, have different ports and serve from all nodes.
	sharing string
	local   bool
}

func (r request) shares(o request) bool {
	return r.sharing != "" && r.sharing == o.sharing && !r.local && !o.local &&
		!slices.ContainsFunc(r.ports, func(p port) bool { return slices.Contains(o.ports, p) })
}

// table is which service has which address. It is the memory of one controller, and changes before the API does: what it has given out
// is given to nobody else until the service is seen to be gone.
type table struct {
	holders map[netip.Addr]map[string]request
	held    map[string]netip.Addr
	// ports are those of services that have the nodes' own addresses, by which only one service can be reached.
	ports map[port]string
	// freed tells that something was given up since it was last asked.
	freed bool
}

func newTable() *table {
	return &table{holders: map[netip.Addr]map[string]request{}, held: map[string]netip.Addr{}, ports: map[port]string{}}
}

// release takes everything from a service.
func (t *table) release(key string) {
	t.releaseAddr(key)
	t.releasePorts(key, nil)
}

func (t *table) releaseAddr(key string) {
	addr, had := t.held[key]
	if !had {
		return
	}
	delete(t.held, key)
	delete(t.holders[addr], key)
	if len(t.holders[addr]) == 0 {
		delete(t.holders, addr)
	}
	t.freed = true
}

// releasePorts takes the ports but those to keep.
func (t *table) releasePorts(key string, keep []port) {
	for p, holder := range t.ports {
		if holder == key && !slices.Contains(keep, p) {
			delete(t.ports, p)
			t.freed = true
		}
	}
}

// takeFreed tells whether something was given up since the last call.
func (t *table) takeFreed() bool {
	freed := t.freed
	t.freed = false
	return freed
}

// give notes that the service has the address, and no other. Others may share what it no longer asks for.
func (t *table) give(addr netip.Addr, r request) {
	before := t.holders[addr][r.key]
	if t.held[r.key] != addr {
		t.releaseAddr(r.key)
	} else if !slices.Equal(before.ports, r.ports) || before.sharing != r.sharing || before.local != r.local {
		t.freed = true
	}
	if t.holders[addr] == nil {
		t.holders[addr] = map[string]request{}
	}
	t.holders[addr][r.key], t.held[r.key] = r, addr
}

// conflict is a service that has the address and does not share it with r; empty if there is none.
func (t *table) conflict(addr netip.Addr, r request) string {
	var first string
	for key, holder := range t.holders[addr] {
		if key != r.key && !r.shares(holder) && (first == "" || key < first) {
			first = key
		}
	}
	return first
}

// Refusals, as far as they are not about one address.
var (
	errNoAddress = errors.New("no available IPs")
	errNoPool    = errors.New("no pool gives addresses to its namespace without being named")
)

// assign finds an address for the service and notes it. Where none is found the service loses what it had. avoid are addresses that are no
// service's.
func (t *table) assign(pools Pools, r request, avoid map[netip.Addr]bool) (netip.Addr, *Pool, error) {
	addr, pool, err := t.find(pools, r, avoid)
	if err != nil {
		t.releaseAddr(r.key)
		return addr, nil, err
	}
	t.give(addr, r)
	return addr, pool, nil
}

func (t *table) find(pools Pools, r request, avoid map[netip.Addr]bool) (netip.Addr, *Pool, error) {
	if r.pool != "" {
		switch named := pools.named(r.pool); {
		case named == nil:
			return netip.Addr{}, nil, fmt.Errorf("unknown pool %q", r.pool)
		case !named.serves(r.namespace):
			return netip.Addr{}, nil, fmt.Errorf("pool %q is not for namespace %q", r.pool, r.namespace)
		}
	}
	if r.addr.IsValid() {
		return t.wanted(pools, r, avoid)
	}
	for _, addr := range []netip.Addr{t.held[r.key], r.current} {
		if pool := t.allowed(pools, r, addr); pool != nil && !avoid[addr] && t.conflict(addr, r) == "" {
			return addr, pool, nil
		}
	}
	return t.free(pools, r, avoid)
}

// wanted is the address that the service asks for.
func (t *table) wanted(pools Pools, r request, avoid map[netip.Addr]bool) (netip.Addr, *Pool, error) {
	pool := t.allowed(pools, r, r.addr)
	switch {
	case pools.of(r.addr) == nil:
		return netip.Addr{}, nil, fmt.Errorf("%s is not in any pool", r.addr)
	case pool == nil && r.pool != "":
		return netip.Addr{}, nil, fmt.Errorf("%s is not in pool %q", r.addr, r.pool)
	case pool == nil:
		return netip.Addr{}, nil, fmt.Errorf("%s is of pool %q, which is not for namespace %q", r.addr, pools.of(r.addr).Name, r.namespace)
	case avoid[r.addr]:
		return netip.Addr{}, nil, fmt.Errorf("%s is a node's own address", r.addr)
	}
	if other := t.conflict(r.addr, r); other != "" {
		return netip.Addr{}, nil, fmt.Errorf("%s is in use by service %q", r.addr, other)
	}
	return r.addr, pool, nil
}

// allowed is the address' pool, if the service may have addresses of that.
func (t *table) allowed(pools Pools, r request, addr netip.Addr) *Pool {
	if !addr.IsValid() {
		return nil
	}
	pool := pools.of(addr)
	if pool == nil || !pool.serves(r.namespace) || r.pool != "" && r.pool != pool.Name {
		return nil
	}
	return pool
}

// free is one that a service of its kind has and shares, or else the first that nobody has.
func (t *table) free(pools Pools, r request, avoid map[netip.Addr]bool) (netip.Addr, *Pool, error) {
	if addr, pool := t.shared(pools, r); pool != nil {
		return addr, pool, nil
	}
	tried := false
	for i := range pools {
		pool := &pools[i]
		if !pool.serves(r.namespace) || r.pool != "" && r.pool != pool.Name || r.pool == "" && pool.Manual {
			continue
		}
		tried = true
		for _, within := range pool.Ranges {
			for addr := within.First; within.contains(addr); addr = addr.Next() {
				if len(t.holders[addr]) == 0 && !avoid[addr] && pool.contains(addr) {
					return addr, pool, nil
				}
			}
		}
	}
	if !tried {
		return netip.Addr{}, nil, errNoPool
	}
	return netip.Addr{}, nil, errNoAddress
}

// shared is the lowest address with the request's sharing word that it can have too.
func (t *table) shared(pools Pools, r request) (netip.Addr, *Pool) {
	var best netip.Addr
	if r.sharing == "" {
		return best, nil
	}
	for addr, holders := range t.holders {
		common := len(holders) > 0 && t.conflict(addr, r) == ""
		if _, mine := holders[r.key]; common && !mine && t.allowed(pools, r, addr) != nil && (!best.IsValid() || addr.Less(best)) {
			best = addr
		}
	}
	return best, t.allowed(pools, r, best)
}

// takePorts gives the service its ports on the nodes' addresses, all or none. reserved are the cluster's own.
func (t *table) takePorts(r request, reserved map[port]string) error {
	for _, p := range r.ports {
		holder := reserved[p]
		if other := t.ports[p]; other != "" && other != r.key {
			holder = fmt.Sprintf("service %q", other)
		}
		if holder != "" {
			t.releasePorts(r.key, nil)
			return fmt.Errorf("port %s of the nodes is in use by %s", p, holder)
		}
	}
	t.releasePorts(r.key, r.ports)
	for _, p := range r.ports {
		t.ports[p] = r.key
	}
	return nil
}
