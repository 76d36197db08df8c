package nft

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// found is what the kernel has.
type found struct {
	// usable: the rules that every packet passes are ours, so that only elements and chains of shapes may differ.
	usable bool
	// table: there is one of our name.
	table bool
	// chains are the names of those besides the base ones.
	chains map[string]bool
}

// compare begins a transaction that knows what there is to be, and what there is.
func (t *Table) compare(all Backends) (*transaction, found, error) {
	tx := t.begin()
	for k, b := range all {
		tx.weigh(k, b, 1)
	}
	found, err := t.inspect(tx)
	return tx, found, err
}

// inspect compares the kernel's chains with those that there are to be.
func (t *Table) inspect(tx *transaction) (found, error) {
	f := found{chains: map[string]bool{}}
	tables, err := tx.conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return f, fmt.Errorf("list tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(k *nftables.Table) bool { return k.Name == TableName })
	if i < 0 {
		return f, nil
	}
	f.table = true
	if tables[i].Flags != 0 { // dormant
		return f, nil
	}
	chains, err := tx.conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return f, fmt.Errorf("list chains: %w", err)
	}
	kernel := map[string]*nftables.Chain{}
	for _, c := range chains {
		if c.Table.Name == TableName {
			kernel[c.Name] = c
			f.chains[c.Name] = true
		}
	}
	for _, want := range base(tx.sets, tx.cfg) {
		delete(f.chains, want.name)
		if same, err := tx.same(kernel[want.name], want); err != nil || !same {
			return f, err
		}
	}
	for sh := range tx.shifts {
		if have := kernel[sh.chain()]; have != nil {
			if same, err := tx.same(have, sh.build(tx.sets, tx.cfg)); err != nil || !same {
				return f, err
			}
		}
	}
	f.usable = true
	return f, nil
}

// same tells whether a chain of the kernel is as wanted.
func (tx *transaction) same(have *nftables.Chain, want chain) (bool, error) {
	if have == nil || (have.Hooknum == nil) != (want.hook == nil) {
		return false, nil
	}
	if want.hook != nil && (*have.Hooknum != *want.hook || *have.Priority != *want.priority || have.Type != want.kind ||
		have.Policy != nil && *have.Policy != nftables.ChainPolicyAccept) {
		return false, nil
	}
	rules, err := tx.conn.GetRules(table, have)
	if err != nil {
		return false, fmt.Errorf("list chain %s: %w", have.Name, err)
	}
	if len(rules) != len(want.rules) {
		return false, nil
	}
	for i, r := range rules {
		if !bytes.Equal(r.UserData, want.fingerprint(i)) {
			return false, nil
		}
	}
	return true, nil
}

// adopt changes what differs from what there is to be.
func (tx *transaction) adopt(f found, all Backends) (Outcome, error) {
	for sh := range tx.shifts {
		if !f.chains[sh.chain()] {
			tx.addChain = append(tx.addChain, sh)
		}
		delete(f.chains, sh.chain())
	}
	for name := range f.chains {
		tx.strangers = append(tx.strangers, name)
	}
	slices.SortFunc(tx.strangers, func(a, b string) int { // those that lead to others first
		return strings.Compare(strings.Replace(a, "local-", "!", 1), strings.Replace(b, "local-", "!", 1))
	})
	for _, set := range tx.sets.written() {
		if err := tx.adoptSet(set, all); err != nil {
			return Equal, err
		}
	}
	if len(tx.addChain)+len(tx.strangers)+len(tx.add)+len(tx.del) == 0 {
		tx.settleCounts()
		return Equal, nil
	}
	return Repaired, nil
}

// settleCounts makes what was counted the state: there is nothing to commit.
func (tx *transaction) settleCounts() {
	tx.uses, tx.hairpins = tx.shifts, tx.moved
}

func (tx *transaction) adoptSet(set *nftables.Set, all Backends) error {
	wanted := map[string]nftables.SetElement{}
	for k, b := range all {
		tx.sets.visit(k, b, func(of *nftables.Set, e nftables.SetElement) {
			if of == set {
				wanted[identity(&e)] = e
			}
		})
	}
	if set == tx.sets.hairpin {
		for addr := range tx.moved {
			e := hairpin(addr)
			wanted[identity(&e)] = e
		}
	}
	err := elements(set, func(have nftables.SetElement) {
		id := identity(&have)
		if want, ok := wanted[id]; ok && value(&want) == value(&have) {
			delete(wanted, id)
			return
		}
		tx.del[set] = append(tx.del[set], nftables.SetElement{Key: have.Key, KeyEnd: have.KeyEnd})
	})
	if err != nil {
		return err
	}
	for _, e := range wanted {
		tx.add[set] = append(tx.add[set], e)
	}
	return nil
}

// rebuild puts everything in place of whatever the table held.
func (tx *transaction) rebuild(f found, all Backends) error {
	remembered := tx.remembered(f)
	tx.conn.AddTable(table) // so that the deletion that follows finds it
	tx.conn.DelTable(table)
	tx.conn.AddTable(table)
	for _, set := range tx.sets.all() {
		if err := tx.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	for _, c := range base(tx.sets, tx.cfg) {
		c.add(tx.conn.Conn)
	}
	tx.settle()
	for k, b := range all {
		tx.sets.visit(k, b, func(set *nftables.Set, e nftables.SetElement) { tx.add[set] = append(tx.add[set], e) })
	}
	tx.add[tx.sets.affinity] = remembered
	return nil
}

// remembered are the clients' endpoints of the table that is replaced. That they are lost, when it is not ours or about to go, is no error.
func (tx *transaction) remembered(f found) []nftables.SetElement {
	if !f.table {
		return nil
	}
	const keyLen, valueLen = 16, 4
	var kept []nftables.SetElement
	_ = elements(tx.sets.affinity, func(e nftables.SetElement) {
		if len(e.Key) == keyLen && len(e.Val) == valueLen && e.Expires > time.Second {
			kept = append(kept, nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: e.Expires})
		}
	})
	return kept
}
