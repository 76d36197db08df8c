package lab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// fault is what a part of the lab's network was made to suffer. The rules of the lab's table in the bridge family are the only record:
// each has its fault as comment.
type fault struct {
	kind string // partition or loss
	// a and b are machines; b is empty for a partition from all, and for a loss.
	a, b string
	// share is a loss, in hundredths of a per cent.
	share int
}

const (
	partition = "partition"
	loss      = "loss"
)

// String is the comment of a fault's rules; parseFault reads it.
func (f fault) String() string {
	switch {
	case f.kind == loss:
		return fmt.Sprintf("%s %s %d", loss, f.a, f.share)
	case f.b == "":
		return partition + " " + f.a
	default:
		return fmt.Sprintf("%s %s %s", partition, f.a, f.b)
	}
}

func parseFault(text string) (fault, bool) {
	fields := strings.Fields(text)
	switch {
	case len(fields) == 3 && fields[0] == loss:
		share, err := strconv.Atoi(fields[2])
		return fault{kind: loss, a: fields[1], share: share}, err == nil
	case len(fields) == 2 && fields[0] == partition:
		return fault{kind: partition, a: fields[1]}, true
	case len(fields) == 3 && fields[0] == partition:
		return fault{kind: partition, a: fields[1], b: fields[2]}, true
	}
	return fault{}, false
}

// words tells a machine's user of a fault; empty where it does not concern that machine.
func (f fault) words(node string) string {
	switch {
	case f.kind == loss && f.a == node:
		return fmt.Sprintf("loses %s%%", strconv.FormatFloat(float64(f.share)/100, 'f', -1, 64))
	case f.kind == partition && f.b == "" && f.a == node:
		return "cut off"
	case f.kind == partition && f.b != "" && f.a == node:
		return "cut off from " + f.b
	case f.kind == partition && f.b == node:
		return "cut off from " + f.a
	}
	return ""
}

// match is what one rule of a fault looks at: the bridge's ports that a frame comes from and goes to; empty is any.
type match struct{ chain, from, to string }

// Chains of the lab's table in the bridge family: between machines, and between a machine and the host.
const (
	chainForward = "forward"
	chainInput   = "input"
	chainOutput  = "output"
)

// matches are the rules of a fault.
func (p Plan) matches(f fault) []match {
	a := p.Port(f.a)
	if f.b != "" {
		b := p.Port(f.b)
		return []match{{chainForward, a, b}, {chainForward, b, a}}
	}
	return []match{{chainForward, a, ""}, {chainForward, "", a}, {chainInput, a, ""}, {chainOutput, "", a}}
}

// faults reads what there is.
func (p Plan) faults() ([]fault, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	rules, err := p.faultRules(conn)
	if err != nil {
		return nil, err
	}
	var all []fault
	for f := range rules {
		all = append(all, f)
	}
	slices.SortFunc(all, func(x, y fault) int { return cmp.Compare(x.String(), y.String()) })
	return all, nil
}

// faultRules are the rules in the kernel, by their faults.
func (p Plan) faultRules(conn *nftables.Conn) (map[fault][]*nftables.Rule, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, nil // a kernel without the family has no faults
		}
		return nil, err
	}
	found := map[fault][]*nftables.Rule{}
	for _, c := range chains {
		if c.Table.Name != p.Table() {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if f, ok := parseFault(comment); ok {
				found[f] = append(found[f], r)
			}
		}
	}
	return found, nil
}

// changeFaults removes those that drop names and adds others, in one transaction.
func (p Plan) changeFaults(drop func(fault) bool, add ...fault) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	rules, err := p.faultRules(conn)
	if err != nil {
		return err
	}
	for f, list := range rules {
		if !drop(f) {
			continue
		}
		for _, r := range list {
			if err := conn.DelRule(r); err != nil {
				return err
			}
		}
	}
	if len(add) > 0 {
		table := conn.AddTable(&nftables.Table{Name: p.Table(), Family: nftables.TableFamilyBridge})
		chains := map[string]*nftables.Chain{}
		for name, hook := range map[string]*nftables.ChainHook{
			chainForward: nftables.ChainHookForward, chainInput: nftables.ChainHookInput, chainOutput: nftables.ChainHookOutput,
		} {
			chains[name] = conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
		}
		for _, f := range add {
			for _, m := range p.matches(f) {
				conn.AddRule(&nftables.Rule{Table: table, Chain: chains[m.chain], Exprs: m.exprs(f), UserData: userdata.AppendString(nil, userdata.TypeComment, f.String())})
			}
		}
	}
	if err := conn.Flush(); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("this kernel has no nftables for bridges (%w): load or build nf_tables with NF_TABLES_BRIDGE and nft_numgen", err)
		}
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (m match) exprs(f fault) []expr.Any {
	var all []expr.Any
	for _, end := range []struct {
		key  expr.MetaKey
		name string
	}{{expr.MetaKeyIIFNAME, m.from}, {expr.MetaKeyOIFNAME, m.to}} {
		if end.name != "" {
			all = append(all, linkIs(end.key, end.name)...)
		}
	}
	if f.kind == loss {
		limit := binary.BigEndian.AppendUint32(nil, uint32(f.share))
		all = append(all,
			&expr.Numgen{Register: 1, Modulus: wholeShare, Type: unix.NFT_NG_RANDOM},
			// The number is the machine's, and what is compared is in network order.
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: limit})
	}
	return append(all, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// wholeShare is everything, in the unit of a fault's share.
const wholeShare = 10_000

// linkIs matches a link's name.
func linkIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded}}
}

// Partition cuts two machines off from each other, or one from all others and the host, until Heal.
func (l *Lab) Partition(machines ...string) error {
	f := fault{kind: partition, a: machines[0]}
	if len(machines) > 1 {
		f.b = machines[1]
	}
	for _, m := range machines {
		if err := l.has(m); err != nil {
			return err
		}
	}
	if f.a == f.b {
		return fmt.Errorf("%s cannot be cut off from itself", f.a)
	}
	if f.b != "" && CompareNodes(f.a, f.b) > 0 {
		f.a, f.b = f.b, f.a
	}
	return l.changeFaults(func(old fault) bool { return old == f }, f)
}

// Heal ends partitions: all of them, those of one machine, or the one between two. Losses stay.
func (l *Lab) Heal(machines ...string) error {
	for _, m := range machines {
		if err := l.has(m); err != nil {
			return err
		}
	}
	return l.changeFaults(func(f fault) bool {
		if f.kind != partition {
			return false
		}
		for _, m := range machines {
			if f.a != m && f.b != m {
				return false
			}
		}
		return true
	})
}

// Loss makes a machine lose a share of what it sends and of what it is sent; 0% ends that.
func (l *Lab) Loss(machine, share string) error {
	if err := l.has(machine); err != nil {
		return err
	}
	n, err := parsePercent(share)
	if err != nil {
		return err
	}
	old := func(f fault) bool { return f.kind == loss && f.a == machine }
	if n == 0 {
		return l.changeFaults(old)
	}
	return l.changeFaults(old, fault{kind: loss, a: machine, share: n})
}
