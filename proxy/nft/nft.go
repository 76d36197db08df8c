package nft

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// maxElements of one message: a netlink attribute holds 64 KiB, an element with its key and data about 100 bytes.
const maxElements = 400

// sendBuffer must hold one transaction; the default would end at some thousand elements.
const sendBuffer = 64 << 20

// Config says where packets for service addresses without endpoints end up, to be refused at once.
type Config struct {
	// Link is what Services, the range of service addresses, is routed to.
	Link     string
	Services netip.Prefix
}

// Table is the kernel's copy. It is not safe for concurrent use.
type Table struct {
	cfg      Config
	applied  ruleset.Ruleset
	chains   map[string]bool
	hairpins map[netip.Addr]int // endpoints by how many rules lead to each
}

// New makes a Table; nothing is in the kernel before Replace.
func New(cfg Config) *Table { return &Table{cfg: cfg} }

// Replace puts the whole ruleset in place of whatever the table held, in one transaction.
func (t *Table) Replace(rules ruleset.Ruleset) error {
	tx, err := t.begin()
	if err != nil {
		return err
	}
	tx.conn.AddTable(table) // so that the deletion that follows finds it
	tx.conn.DelTable(table)
	tx.conn.AddTable(table)
	for _, set := range tx.sets.all() {
		if err := tx.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("nft: set %s: %w", set.Name, err)
		}
	}
	addBase(tx.conn, tx.sets, t.cfg)
	tx.old, tx.chains, tx.hairpins = ruleset.Ruleset{}, map[string]bool{}, map[netip.Addr]int{}
	tx.change(rules, ruleset.Diff(tx.old, rules))
	return tx.commit(t, rules)
}

// Update changes the table from what was applied last to rules. The table keeps rules; it must not change.
func (t *Table) Update(rules ruleset.Ruleset) error {
	if t.applied == nil {
		return t.Replace(rules)
	}
	change := ruleset.Diff(t.applied, rules)
	if change.Empty() {
		return nil
	}
	tx, err := t.begin()
	if err != nil {
		return err
	}
	if err := tx.forgetClients(ruleset.Gone(t.applied, rules)); err != nil {
		return err
	}
	tx.change(rules, change)
	return tx.commit(t, rules)
}

// Present tells whether the table is in the kernel: someone else may have flushed it.
func (t *Table) Present() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(table.Family)
	return slices.ContainsFunc(tables, func(k *nftables.Table) bool { return k.Name == TableName }), err
}

// Delete removes the table from the kernel, if it is there.
func Delete() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.AddTable(table)
	conn.DelTable(table)
	return conn.Flush()
}

// transaction collects one batch.
type transaction struct {
	conn   *nftables.Conn
	sets   sets
	old    ruleset.Ruleset
	chains map[string]bool
	// hairpins are the Table's, which commit changes by shifts: a change costs what it changes and not a copy.
	hairpins, shifts map[netip.Addr]int

	add, del map[*nftables.Set][]nftables.SetElement
}

func (t *Table) begin() (*transaction, error) {
	conn, err := nftables.New(nftables.WithSockOptions(bigBuffers))
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	tx := &transaction{conn: conn, sets: newSets(), old: t.applied, chains: map[string]bool{},
		hairpins: t.hairpins, shifts: map[netip.Addr]int{},
		add: map[*nftables.Set][]nftables.SetElement{}, del: map[*nftables.Set][]nftables.SetElement{}}
	for name := range t.chains {
		tx.chains[name] = true
	}
	return tx, nil
}

func (tx *transaction) change(rules ruleset.Ruleset, change ruleset.Change) {
	count := func(b ruleset.Backend, n int) {
		for _, e := range b.Endpoints {
			tx.shifts[e.Addr()] += n
		}
	}
	for _, k := range change.Delete {
		count(tx.old[k], -1)
		tx.setKey(k, tx.old[k], ruleset.Backend{})
	}
	for _, k := range change.Set {
		count(tx.old[k], -1)
		count(rules[k], 1)
		tx.setKey(k, tx.old[k], rules[k])
	}
	for addr, n := range tx.shifts {
		tx.setHairpin(addr, tx.hairpins[addr], tx.hairpins[addr]+n)
	}
}

func (tx *transaction) setHairpin(addr netip.Addr, before, after int) {
	element := nftables.SetElement{Key: append(addrBytes(addr), addrBytes(addr)...)}
	switch {
	case before == 0 && after > 0:
		tx.add[tx.sets.hairpin] = append(tx.add[tx.sets.hairpin], element)
	case before > 0 && after == 0:
		tx.del[tx.sets.hairpin] = append(tx.del[tx.sets.hairpin], element)
	}
}

// setKey changes where one key leads; a backend without endpoints is none.
func (tx *transaction) setKey(k ruleset.Key, before, after ruleset.Backend) {
	tx.replace(tx.sets.endpoints, endpointElements(k, before), endpointElements(k, after))
	tx.replace(tx.sets.picks, pickElements(k, before), pickElements(k, after))
	had, has := len(before.Endpoints) > 0, len(after.Endpoints) > 0
	if had && has && shapeOf(k, before) == shapeOf(k, after) {
		return
	}
	set, key := tx.sets.services, serviceKey(k)
	if k.NodePort() {
		set, key = tx.sets.nodePorts, protoPort(k)
	}
	if had {
		tx.del[set] = append(tx.del[set], verdict(key, shapeOf(k, before)))
	}
	if has {
		tx.ensureChain(shapeOf(k, after))
		tx.add[set] = append(tx.add[set], verdict(key, shapeOf(k, after)))
	}
}

// replace deletes the elements that are not in after as they were, and adds what is new.
func (tx *transaction) replace(set *nftables.Set, before, after []nftables.SetElement) {
	same := func(e nftables.SetElement) func(nftables.SetElement) bool {
		return func(o nftables.SetElement) bool { return bytes.Equal(e.Key, o.Key) && bytes.Equal(e.Val, o.Val) }
	}
	for _, e := range before {
		if !slices.ContainsFunc(after, same(e)) {
			tx.del[set] = append(tx.del[set], e)
		}
	}
	for _, e := range after {
		if !slices.ContainsFunc(before, same(e)) {
			tx.add[set] = append(tx.add[set], e)
		}
	}
}

func endpointElements(k ruleset.Key, b ruleset.Backend) []nftables.SetElement {
	elements := make([]nftables.SetElement, len(b.Endpoints))
	for i, e := range b.Endpoints {
		elements[i] = nftables.SetElement{Key: endpointKey(k, b, i), Val: endpointData(e)}
	}
	return elements
}

func pickElements(k ruleset.Key, b ruleset.Backend) []nftables.SetElement {
	if b.Affinity == 0 {
		return nil
	}
	elements := make([]nftables.SetElement, len(b.Endpoints))
	for i, e := range b.Endpoints {
		elements[i] = nftables.SetElement{Key: pickKey(k, i), Val: addrBytes(e.Addr())}
	}
	return elements
}

func verdict(key []byte, sh shape) nftables.SetElement {
	return nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: sh.chain()}}
}

func (tx *transaction) ensureChain(sh shape) {
	if !tx.chains[sh.chain()] {
		tx.chains[sh.chain()] = true
		addChain(tx.conn, sh, tx.sets)
	}
}

// forgetClients drops what binds clients to endpoints that are gone.
func (tx *transaction) forgetClients(gone map[ruleset.Key][]netip.AddrPort) error {
	targets := map[string]bool{}
	for k, endpoints := range gone {
		if tx.old[k].Affinity > 0 {
			for _, e := range endpoints {
				targets[string(serviceKey(k))+string(addrBytes(e.Addr()))] = true
			}
		}
	}
	if len(targets) == 0 {
		return nil
	}
	elements, err := tx.conn.GetSetElements(tx.sets.affinity)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("nft: read affinities: %w", err)
	}
	for _, e := range elements {
		const clientLen = 4
		if len(e.Key) > clientLen && targets[string(e.Key[clientLen:])+string(e.Val)] {
			tx.del[tx.sets.affinity] = append(tx.del[tx.sets.affinity], nftables.SetElement{Key: bytes.Clone(e.Key), Val: bytes.Clone(e.Val)})
		}
	}
	return nil
}

// commit sends the batch: deletions first, since an element may come back with other data.
func (tx *transaction) commit(t *Table, rules ruleset.Ruleset) error {
	for _, set := range tx.sets.all() {
		for chunk := range slices.Chunk(tx.del[set], maxElements) {
			if err := tx.conn.SetDeleteElements(set, chunk); err != nil {
				return fmt.Errorf("nft: delete from %s: %w", set.Name, err)
			}
		}
		for chunk := range slices.Chunk(tx.add[set], maxElements) {
			if err := tx.conn.SetAddElements(set, chunk); err != nil {
				return fmt.Errorf("nft: add to %s: %w", set.Name, err)
			}
		}
	}
	if err := tx.conn.Flush(); err != nil {
		t.applied = nil // unknown now: the next Update starts from nothing
		return fmt.Errorf("nft: apply: %w", err)
	}
	for addr, n := range tx.shifts {
		if tx.hairpins[addr] += n; tx.hairpins[addr] == 0 {
			delete(tx.hairpins, addr)
		}
	}
	t.applied, t.chains, t.hairpins = rules, tx.chains, tx.hairpins
	return nil
}
