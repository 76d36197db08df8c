package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"

	"github.com/coracle-dev/coracle/internal/nftable"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

// maxElements of one message: a netlink attribute holds 64 KiB, an element with the name of a chain at most about 200 bytes.
const maxElements = 300

// Words of register 1 as the kernel numbers them: of four bytes each.
const (
	word0 = 8 + iota
	word1
	word2
)

var table = &nftables.Table{Name: rules.TableName, Family: nftables.TableFamilyIPv4}

// Table is the kernel's copy of a ruleset, changed by netlink in whole transactions. It is not safe for concurrent use.
type Table struct {
	applied *rules.Ruleset
}

// Replace puts the ruleset in place of whatever the table held, in one transaction: pods are at no time without the old rules or the new.
func (t *Table) Replace(r *rules.Ruleset) error {
	tx, err := begin()
	if err != nil {
		return err
	}
	tx.AddTable(table) // so that the deletion that follows finds it
	tx.DelTable(table)
	tx.AddTable(table)
	tx.base()
	tx.change(&rules.Ruleset{}, r)
	return t.commit(tx, r)
}

// Update changes the table from what was applied last to r, which must not change afterwards.
func (t *Table) Update(r *rules.Ruleset) error {
	if t.applied == nil {
		return t.Replace(r)
	}
	tx, err := begin()
	if err != nil {
		return err
	}
	if !tx.change(t.applied, r) {
		t.applied = r
		return nil
	}
	return t.commit(tx, r)
}

func (t *Table) commit(tx *transaction, r *rules.Ruleset) error {
	err := tx.err
	if err == nil {
		err = tx.Flush()
	}
	if err != nil {
		t.applied = nil // unknown now: the next Update starts from nothing
		return fmt.Errorf("nftables: %w", err)
	}
	t.applied = r
	return nil
}

// Forget makes the next Update start from nothing, whatever the kernel holds.
func (t *Table) Forget() { t.applied = nil }

// baseRules is how many rules each of the two chains has that packets begin in.
const baseRules = 4

// Intact tells whether the table is in the kernel with the chains that packets begin in: someone else may have flushed or removed it.
func (t *Table) Intact() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	for _, name := range []string{rules.IngressChain, rules.EgressChain} {
		found, err := conn.GetRules(table, &nftables.Chain{Name: name, Table: table})
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err != nil || len(found) != baseRules {
			return false, err
		}
	}
	return true, nil
}

// Cleanup removes the table from this network namespace, if it is there.
func Cleanup() error { return nftable.Remove(table) }

// transaction collects one batch. The first error stays in err.
type transaction struct {
	*nftables.Conn
	sets uint32 // numbered so far: the kernel wants numbers for those that are new
	err  error
}

func begin() (*transaction, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		nftable.MakeRoom(c)
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return &transaction{Conn: conn}, nil
}

func (tx *transaction) addSet(set *nftables.Set) {
	tx.sets++
	set.ID = tx.sets
	tx.err = errors.Join(tx.err, tx.AddSet(set, nil))
}

// base adds what is always there.
func (tx *transaction) base() {
	tx.addSet(podMap(rules.IngressMap))
	tx.addSet(podMap(rules.EgressMap))
	tx.addSet(selfSet())
	for _, c := range []struct{ chain, lookup string }{{rules.EgressChain, rules.EgressMap}, {rules.IngressChain, rules.IngressMap}} {
		chain := tx.AddChain(&nftables.Chain{Name: c.chain, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		add := func(exprs ...expr.Any) { tx.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs}) }
		accept := &expr.Verdict{Kind: expr.VerdictAccept}
		add(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{directionReply}}, accept)
		add(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitRELATED), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, accept)
		add(load(word0, sourceOffset), load(word1, destinationOffset), &expr.Lookup{SourceRegister: word0, SetName: rules.SelfSet}, accept)
		offset := uint32(destinationOffset)
		if c.chain == rules.EgressChain {
			offset = sourceOffset
		}
		add(load(word0, offset), &expr.Lookup{SourceRegister: word0, IsDestRegSet: true, SetName: c.lookup})
	}
}

const (
	directionReply = 1 // IP_CT_DIR_REPLY
	// Where an IPv4 header has its addresses.
	sourceOffset, destinationOffset = 12, 16
)

func load(word, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: word, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

// change adds what leads from one ruleset to the other; false where that is nothing. What is referred to comes before what refers to
// it, and goes after it.
func (tx *transaction) change(old, updated *rules.Ruleset) bool {
	c := rules.Diff(old, updated)
	if c.Empty() {
		return false
	}
	for _, name := range c.AddSets {
		tx.addSet(kernelSet(name, updated.Sets[name]))
	}
	for _, name := range c.AddChains {
		tx.AddChain(chain(name))
	}
	for name, elements := range c.Del {
		tx.elements(tx.SetDeleteElements, kernelSet(name, old.Sets[name]), elements)
	}
	for name, elements := range c.Add {
		tx.elements(tx.SetAddElements, kernelSet(name, updated.Sets[name]), elements)
	}
	for _, name := range c.Rewrite {
		if _, had := old.Chains[name]; had {
			tx.FlushChain(chain(name))
		}
		for _, rule := range updated.Chains[name] {
			tx.AddRule(&nftables.Rule{Table: table, Chain: chain(name), Exprs: expressions(rule)})
		}
	}
	tx.pods(c, old, updated)
	for _, name := range c.DelChains {
		tx.FlushChain(chain(name))
	}
	for _, name := range c.DelChains {
		tx.DelChain(chain(name))
	}
	for _, name := range c.DelSets {
		tx.DelSet(kernelSet(name, old.Sets[name]))
	}
	return true
}

// pods leads pods to their chains.
func (tx *transaction) pods(c *rules.Change, old, updated *rules.Ruleset) {
	for name, chains := range map[string][2]map[rules.IP]string{rules.IngressMap: {old.Ingress, updated.Ingress}, rules.EgressMap: {old.Egress, updated.Egress}} {
		tx.chunks(tx.SetDeleteElements, podMap(name), verdicts(c.DelPods[name], chains[0]))
		tx.chunks(tx.SetAddElements, podMap(name), verdicts(c.AddPods[name], chains[1]))
	}
	tx.chunks(tx.SetDeleteElements, selfSet(), pairs(c.DelSelf))
	tx.chunks(tx.SetAddElements, selfSet(), pairs(c.AddSelf))
}

func verdicts(pods []rules.IP, chains map[rules.IP]string) []nftables.SetElement {
	list := make([]nftables.SetElement, len(pods))
	for i, a := range pods {
		list[i] = nftables.SetElement{Key: a[:], VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chains[a]}}
	}
	return list
}

func pairs(pods []rules.IP) []nftables.SetElement {
	list := make([]nftables.SetElement, len(pods))
	for i, a := range pods {
		list[i] = nftables.SetElement{Key: append(a[:], a[:]...)}
	}
	return list
}

type elementsFunc func(*nftables.Set, []nftables.SetElement) error

func (tx *transaction) elements(do elementsFunc, set *nftables.Set, elements []rules.Element) {
	list := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		list = append(list, kernelElements(set, e)...)
	}
	tx.chunks(do, set, list)
}

func (tx *transaction) chunks(do elementsFunc, set *nftables.Set, list []nftables.SetElement) {
	for chunk := range slices.Chunk(list, maxElements) {
		tx.err = errors.Join(tx.err, do(set, chunk))
	}
}

func chain(name string) *nftables.Chain { return &nftables.Chain{Name: name, Table: table} }

func podMap(name string) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
}

func selfSet() *nftables.Set {
	return &nftables.Set{Table: table, Name: rules.SelfSet, Concatenation: true, KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)}
}

func kernelSet(name string, s rules.Set) *nftables.Set {
	set := &nftables.Set{Table: table, Name: name, Comment: rules.Comment(s.Comment)}
	switch s.Type {
	case rules.Addresses:
		set.KeyType = nftables.TypeIPAddr
	case rules.Blocks:
		set.KeyType, set.Interval = nftables.TypeIPAddr, true
	case rules.Ports:
		set.KeyType, set.Interval, set.Concatenation = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), true, true
	case rules.Endpoints:
		set.KeyType, set.Concatenation = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), true
	}
	return set
}

// kernelElements are an element's as the kernel wants it: a block is its beginning and what comes after its end.
func kernelElements(set *nftables.Set, e rules.Element) []nftables.SetElement {
	switch {
	case set.Interval && set.Concatenation:
		return []nftables.SetElement{{Key: port(e.Protocol, e.First), KeyEnd: port(e.Protocol, e.Last)}}
	case set.Concatenation:
		return []nftables.SetElement{{Key: append(e.Addr[:], port(e.Protocol, e.First)...)}}
	case set.Interval:
		list := []nftables.SetElement{{Key: e.Addr[:]}}
		if after := binary.BigEndian.Uint32(e.To[:]) + 1; after != 0 {
			list = append(list, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, after), IntervalEnd: true})
		}
		return list
	}
	return []nftables.SetElement{{Key: e.Addr[:]}}
}

// port is two words: the protocol and the port, each in its word's first bytes.
func port(protocol uint8, number uint16) []byte {
	return []byte{protocol, 0, 0, 0, byte(number >> 8), byte(number), 0, 0}
}

func expressions(r rules.Rule) []expr.Any {
	var exprs []expr.Any
	for _, m := range r.Matches {
		switch m.Field {
		case rules.Source:
			exprs = append(exprs, load(word0, sourceOffset))
		case rules.Destination:
			exprs = append(exprs, load(word0, destinationOffset))
		case rules.Port:
			exprs = append(exprs, loadPort(word0, word1)...)
		case rules.Endpoint:
			exprs = append(append(exprs, load(word0, destinationOffset)), loadPort(word1, word2)...)
		}
		exprs = append(exprs, &expr.Lookup{SourceRegister: word0, SetName: m.Set})
	}
	switch r.Action {
	case rules.Accept:
		return append(exprs, &expr.Verdict{Kind: expr.VerdictAccept})
	case rules.Jump:
		return append(exprs, &expr.Verdict{Kind: expr.VerdictJump, Chain: r.Chain})
	}
	return append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
}

// loadPort loads the protocol and the destination's port.
func loadPort(protocol, number uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: number, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}
