package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/coracle-dev/coracle/internal/nftable"
	"github.com/coracle-dev/coracle/internal/sysctl"
)

// sysctls keeps the parameters that labs have changed, for all labs of a place.
func (r Root) sysctls() *sysctl.Keeper {
	return sysctl.NewKeeper(r.sysctlFile())
}

func (r Root) sysctlFile() string { return filepath.Join(r.Run, "sysctls.json") }

func ignoreNone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openWayOut writes the lab's table of the ip family: what its machines send to elsewhere leaves with the host's address, and nothing is
// forwarded between labs.
func (p Plan) openWayOut(out bool) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: p.Table(), Family: nftables.TableFamilyIPv4})
	conn.FlushTable(table)
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	notHere := linkIs(expr.MetaKeyOIFNAME, p.Bridge())
	notHere[1].(*expr.Cmp).Op = expr.CmpOpNeq
	otherLab := []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(LinkPrefix)}}
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: concat(
		linkIs(expr.MetaKeyIIFNAME, p.Bridge()), notHere, otherLab, []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})})
	if out {
		leave := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		network, mask := p.Subnet.Addr().AsSlice(), []byte{255, 255, 255, 0}
		fromHere := []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network},
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: leave, Exprs: concat(fromHere, notHere, []expr.Any{&expr.Counter{}, &expr.Masq{}})})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if !out {
		return nil
	}
	return p.Root.sysctls().Set("net/ipv4/ip_forward", "1")
}

func concat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// closeWayOut gives the host back what was changed for all labs, once none is left. A cluster on the host itself forwards too.
func (r Root) closeWayOut() error {
	clusterHere, err := nftable.Exists(&nftables.Table{Name: "coracle-pods", Family: nftables.TableFamilyIPv4})
	if err != nil {
		return err
	}
	if clusterHere {
		return ignoreNone(os.Remove(r.sysctlFile()))
	}
	return r.sysctls().Restore()
}
