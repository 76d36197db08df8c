package nft

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/coracle-dev/coracle/internal/nftable"
	"github.com/coracle-dev/coracle/proxy/ruleset"
	"github.com/google/nftables"
)

// maxElements of one message: a netlink attribute holds 64 KiB, an element with its key and data about 100 bytes.
const maxElements = 400

// Config is what the rules that every packet passes depend on.
type Config struct {
	// Services are the ranges of service addresses: what comes to an address of them that is of no service is refused at once.
	Services []netip.Prefix
	// Pods are the addresses of pods, of this node at least. Invalid: not known, then no cluster IP's client is masqueraded.
	Pods netip.Prefix
	// NodePorts are the addresses of this node at which node ports answer; nil: all.
	NodePorts []netip.Prefix
}

// Backends gives every key there is and where it leads.
type Backends = iter.Seq2[ruleset.Key, *ruleset.Backend]

// Outcome says what Sync found.
type Outcome uint8

const (
	// Equal: the kernel's table was as it should be.
	Equal Outcome = iota
	// Repaired: some of its elements or chains were changed.
	Repaired
	// Made: it was made, or made anew, as a whole.
	Made
)

// Table is the kernel's copy. It is not safe for concurrent use.
type Table struct {
	cfg  Config
	conn *connection
	// uses counts how many keys lead to a chain, hairpins how many have an endpoint as their own.
	uses     map[shape]int
	hairpins map[netip.Addr]int
	watcher  *watcher
}

// New makes a Table of this network namespace; nothing is in the kernel before Sync.
func New(cfg Config) *Table {
	return &Table{cfg: cfg, uses: map[shape]int{}, hairpins: map[netip.Addr]int{}}
}

// Configure changes what the rules that every packet passes depend on; the next Sync puts it into force.
func (t *Table) Configure(cfg Config) { t.cfg = cfg }

// Close lets go of the connection to the kernel; the table stays.
func (t *Table) Close() error {
	if t.conn == nil {
		return nil
	}
	err := t.conn.CloseLasting()
	t.conn = nil
	return err
}

// Sync makes the kernel's table equal to all, by as little as possible: what is there and right stays, be it from a process before this one.
// In any case that is one transaction, and clients keep their endpoints.
func (t *Table) Sync(all Backends) (Outcome, error) {
	if err := t.open(); err != nil {
		return Equal, err
	}
	tx, found, err := t.compare(all)
	if err != nil {
		return Equal, t.failed(err)
	}
	if found.usable {
		outcome, err := tx.adopt(found, all)
		if err == nil && outcome == Repaired {
			err = tx.commit(t)
		}
		if err == nil {
			t.uses, t.hairpins = tx.uses, tx.hairpins
			return outcome, nil
		}
		// Someone may change it at the same moment, or have tied it together in a way of his own.
		_ = t.Close()
		if err := t.open(); err != nil {
			return Equal, err
		}
		if tx, found, err = t.compare(all); err != nil {
			return Equal, t.failed(err)
		}
	}
	if err := tx.rebuild(found, all); err != nil {
		return Equal, t.failed(err)
	}
	return Made, tx.commit(t)
}

// Update changes the table, which Sync made. After an error, it is to be synced.
func (t *Table) Update(changes []ruleset.Change) error {
	if len(changes) == 0 {
		return nil
	}
	if err := t.open(); err != nil {
		return err
	}
	tx := t.begin()
	tx.uses, tx.hairpins = t.uses, t.hairpins
	for i := range changes {
		tx.change(&changes[i])
	}
	tx.settle()
	return tx.commit(t)
}

// failed gives the error of a transaction; acknowledgements that nobody read must not be taken for those of the next one.
func (t *Table) failed(err error) error {
	_ = t.Close()
	return fmt.Errorf("nft: %w", err)
}

// Delete removes the table from the kernel, if it is there.
func Delete() error { return nftable.Remove(table) }

// transaction collects one batch.
type transaction struct {
	conn *connection
	cfg  Config
	sets sets
	// uses and hairpins are as before the transaction, shifts and moved what it does to them.
	uses     map[shape]int
	hairpins map[netip.Addr]int
	shifts   map[shape]int
	moved    map[netip.Addr]int

	add, del           map[*nftables.Set][]nftables.SetElement
	addChain, delChain []shape
	// strangers are chains that nobody knows.
	strangers []string
}

func (t *Table) begin() *transaction {
	return &transaction{conn: t.conn, cfg: t.cfg, sets: newSets(), uses: map[shape]int{}, hairpins: map[netip.Addr]int{},
		shifts: map[shape]int{}, moved: map[netip.Addr]int{},
		add: map[*nftables.Set][]nftables.SetElement{}, del: map[*nftables.Set][]nftables.SetElement{}}
}

// weigh counts a backend's chain and its own endpoints n times.
func (tx *transaction) weigh(k ruleset.Key, b *ruleset.Backend, n int) {
	if b.Found() {
		tx.shifts[shapeOf(k, b)] += n
		for _, part := range shapeOf(k, b).parts() {
			tx.shifts[part] += n
		}
	}
	for _, addr := range b.Own {
		tx.moved[addr] += n
	}
}

func (tx *transaction) change(c *ruleset.Change) {
	tx.weigh(c.Key, &c.Before, -1)
	tx.weigh(c.Key, &c.After, 1)
	type place struct {
		set *nftables.Set
		key string
	}
	before := map[place]nftables.SetElement{}
	tx.sets.visit(c.Key, &c.Before, func(set *nftables.Set, e nftables.SetElement) { before[place{set, identity(&e)}] = e })
	tx.sets.visit(c.Key, &c.After, func(set *nftables.Set, e nftables.SetElement) {
		at := place{set, identity(&e)}
		was, had := before[at]
		if had && value(&was) == value(&e) {
			delete(before, at)
			return
		}
		tx.add[set] = append(tx.add[set], e)
	})
	for at, e := range before {
		tx.del[at.set] = append(tx.del[at.set], e)
	}
}

// settle finds out which chains and hairpins come and go.
func (tx *transaction) settle() {
	for sh, n := range tx.shifts {
		switch was := tx.uses[sh]; {
		case was == 0 && n > 0:
			tx.addChain = append(tx.addChain, sh)
		case was > 0 && was+n == 0:
			tx.delChain = append(tx.delChain, sh)
		}
	}
	for addr, n := range tx.moved {
		switch was := tx.hairpins[addr]; {
		case was == 0 && n > 0:
			tx.add[tx.sets.hairpin] = append(tx.add[tx.sets.hairpin], hairpin(addr))
		case was > 0 && was+n == 0:
			tx.del[tx.sets.hairpin] = append(tx.del[tx.sets.hairpin], hairpin(addr))
		}
	}
}

func hairpin(addr netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: append(addrBytes(addr), addrBytes(addr)...)}
}

// identity is what tells elements of a set apart, value what a map says of it.
func identity(e *nftables.SetElement) string { return string(e.Key) + string(e.KeyEnd) }

func value(e *nftables.SetElement) string {
	if e.VerdictData != nil {
		return fmt.Sprint(e.VerdictData.Kind, e.VerdictData.Chain)
	}
	return string(e.Val)
}

// commit sends the batch: deletions first, since an element may come back with other data.
func (tx *transaction) commit(t *Table) error {
	if err := tx.fill(); err != nil {
		return t.failed(err)
	}
	if err := tx.conn.Flush(); err != nil {
		return t.failed(fmt.Errorf("apply: %w", err))
	}
	for sh, n := range tx.shifts {
		if tx.uses[sh] += n; tx.uses[sh] == 0 {
			delete(tx.uses, sh)
		}
	}
	for addr, n := range tx.moved {
		if tx.hairpins[addr] += n; tx.hairpins[addr] == 0 {
			delete(tx.hairpins, addr)
		}
	}
	t.uses, t.hairpins = tx.uses, tx.hairpins
	return nil
}

func (tx *transaction) fill() error {
	for _, set := range tx.sets.all() {
		for chunk := range slices.Chunk(tx.del[set], maxElements) {
			if err := tx.conn.SetDeleteElements(set, chunk); err != nil {
				return fmt.Errorf("delete from %s: %w", set.Name, err)
			}
		}
	}
	// A chain comes before the one that leads to it, and goes after it.
	slices.SortFunc(tx.addChain, func(a, b shape) int { return len(a.parts()) - len(b.parts()) })
	slices.SortFunc(tx.delChain, func(a, b shape) int { return len(b.parts()) - len(a.parts()) })
	for _, sh := range tx.addChain {
		sh.build(tx.sets, tx.cfg).add(tx.conn.Conn)
	}
	for _, set := range tx.sets.all() {
		for chunk := range slices.Chunk(tx.add[set], maxElements) {
			if err := tx.conn.SetAddElements(set, chunk); err != nil {
				return fmt.Errorf("add to %s: %w", set.Name, err)
			}
		}
	}
	for _, sh := range tx.delChain {
		tx.conn.DelChain(&nftables.Chain{Name: sh.chain(), Table: table})
	}
	for _, name := range tx.strangers {
		tx.conn.DelChain(&nftables.Chain{Name: name, Table: table})
	}
	return nil
}
