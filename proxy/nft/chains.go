package nft

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// masqueradeBit marks packets whose source address is to be hidden on their way out. It is the one that kube-proxy uses.
const masqueradeBit = 0x4000

// dynsetDelete is NFT_DYNSET_OP_DELETE.
const dynsetDelete = 2

// Words of register 1 as the kernel numbers them: of four bytes each.
const (
	word0 = 8 + iota
	word1
	word2
	word3
	word4
)

// The order among other tables' chains. Ours translate before those of others at the usual place, so that what a kube-proxy left behind has no
// say; the guard looks at addresses before they are translated.
var (
	priorityGuard  = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 10)
	priorityLookup = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 1)
)

// chain is one chain as it should be. Its rules carry a hash, by which they are known again in the kernel.
type chain struct {
	name string
	// hook is nil where only other chains lead here.
	hook     *nftables.ChainHook
	kind     nftables.ChainType
	priority *nftables.ChainPriority
	rules    [][]expr.Any
}

const (
	dispatchChain = "dispatch"
	guardChain    = "guard"
	refuseChain   = "refuse"
	strayChain    = "stray"
	rejectChain   = "refuse-now"
)

// base lists the chains that are always there. Those that others lead to come first.
func base(s sets, cfg Config) []chain {
	nat, filter := nftables.ChainTypeNAT, nftables.ChainTypeFilter
	call := func(name string) [][]expr.Any {
		return [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}}
	}
	ifNew := func(name string) [][]expr.Any {
		return [][]expr.Any{append(stateNew(), &expr.Verdict{Kind: expr.VerdictJump, Chain: name})}
	}
	refuseHere, refuseElsewhere := ifNew(refuseChain), append(ifNew(refuseChain), ifNew(strayChain)...)
	for _, match := range nodePortMatches(cfg) {
		refuseHere = append(refuseHere, append(append(stateNew(), match...), dispatchNodePort(s.refusedNodePorts)...))
	}
	return []chain{
		{name: dispatchChain, rules: dispatch(s, cfg)},
		{name: guardChain, rules: [][]expr.Any{guard(s)}},
		{name: rejectChain, rules: [][]expr.Any{{reject()}}},
		{name: refuseChain, rules: [][]expr.Any{{loadDest(word0), loadProto(word1), loadPort(word2), decide(s.refused)}}},
		{name: strayChain, rules: stray(cfg)},
		{name: "prerouting", hook: nftables.ChainHookPrerouting, kind: nat, priority: priorityLookup, rules: call(dispatchChain)},
		{name: "output", hook: nftables.ChainHookOutput, kind: nat, priority: priorityLookup, rules: call(dispatchChain)},
		{name: "postrouting", hook: nftables.ChainHookPostrouting, kind: nat, priority: nftables.ChainPriorityNATSource, rules: [][]expr.Any{masqueradeMarked(), masqueradeHairpin(s)}},
		{name: "raw-prerouting", hook: nftables.ChainHookPrerouting, kind: filter, priority: nftables.ChainPriorityRaw, rules: [][]expr.Any{keepLoopback()}},
		{name: "guard-prerouting", hook: nftables.ChainHookPrerouting, kind: filter, priority: priorityGuard, rules: ifNew(guardChain)},
		{name: "guard-output", hook: nftables.ChainHookOutput, kind: filter, priority: priorityGuard, rules: ifNew(guardChain)},
		{name: "refuse-input", hook: nftables.ChainHookInput, kind: filter, priority: nftables.ChainPriorityFilter, rules: refuseHere},
		{name: "refuse-forward", hook: nftables.ChainHookForward, kind: filter, priority: nftables.ChainPriorityFilter, rules: refuseElsewhere},
		{name: "refuse-output", hook: nftables.ChainHookOutput, kind: filter, priority: nftables.ChainPriorityFilter, rules: refuseElsewhere},
	}
}

// add puts the chain and its rules into a transaction.
func (c chain) add(conn *nftables.Conn) {
	added := conn.AddChain(c.kernel())
	for i, exprs := range c.rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: added, Exprs: exprs, UserData: c.fingerprint(i)})
	}
}

func (c chain) kernel() *nftables.Chain {
	return &nftables.Chain{Name: c.name, Table: table, Hooknum: c.hook, Type: c.kind, Priority: c.priority}
}

// fingerprintType is that of a rule's user data; nft shows only comments, which are of type 0.
const fingerprintType = 99

// schema changes whenever the sets do: what rules say depends on them.
const schema = "2"

// fingerprint says what a rule of ours says.
func (c chain) fingerprint(rule int) []byte {
	h := fnv.New64a()
	fmt.Fprint(h, schema, c.name, rule)
	for _, e := range c.rules[rule] {
		if l, ok := e.(*expr.Lookup); ok { // its set's number is of one transaction only
			e = &expr.Lookup{SourceRegister: l.SourceRegister, DestRegister: l.DestRegister, SetName: l.SetName, Invert: l.Invert}
		}
		if d, ok := e.(*expr.Dynset); ok {
			e = &expr.Dynset{SrcRegKey: d.SrcRegKey, SrcRegData: d.SrcRegData, SetName: d.SetName, Operation: d.Operation, Timeout: d.Timeout}
		}
		fmt.Fprintf(h, "%T%+v", e, e)
	}
	return h.Sum([]byte{fingerprintType, 8})
}

func load(word uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: word, Base: base, Offset: offset, Len: length}
}

func loadSource(word uint32) expr.Any { return load(word, expr.PayloadBaseNetworkHeader, 12, 4) }
func loadDest(word uint32) expr.Any   { return load(word, expr.PayloadBaseNetworkHeader, 16, 4) }
func loadPort(word uint32) expr.Any   { return load(word, expr.PayloadBaseTransportHeader, 2, 2) }
func loadProto(word uint32) expr.Any  { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word} }

// find looks the words from the first on up; the value found is put in their place. Without one, the rule ends.
func find(set *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: word0, DestRegister: word0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}
}

// isIn: the words from the first on are in a set, or are not.
func isIn(set *nftables.Set, is bool) expr.Any {
	return &expr.Lookup{SourceRegister: word0, SetName: set.Name, SetID: set.ID, Invert: !is}
}

// decide is a verdict map's verdict on the words from the first on.
func decide(set *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: word0, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}
}

// stateNew: ct state new.
func stateNew() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// local: fib daddr type local, or saddr.
func local(source bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: !source, FlagSADDR: source, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// within compares a loaded address with a prefix.
func within(load expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	exprs := []expr.Any{load}
	if p.Bits() < 32 {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(prefixMask(p)), Xor: make([]byte, 4)})
	}
	return append(exprs, &expr.Cmp{Op: op, Register: 1, Data: addrBytes(p.Masked().Addr())})
}

// loopbackLink compares the name of a packet's link with lo.
func loopbackLink(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

// dispatch: ip daddr . meta l4proto . th dport vmap @services, and for the node's addresses meta l4proto . th dport vmap @node-ports.
func dispatch(s sets, cfg Config) [][]expr.Any {
	rules := [][]expr.Any{{loadDest(word0), loadProto(word1), loadPort(word2), decide(s.services)}}
	for _, match := range nodePortMatches(cfg) {
		rules = append(rules, append(match, dispatchNodePort(s.nodePorts)...))
	}
	return rules
}

// nodePortMatches are the conditions, any of which makes a packet's address one for node ports.
func nodePortMatches(cfg Config) [][]expr.Any {
	if cfg.NodePorts == nil {
		return [][]expr.Any{local(false)}
	}
	var matches [][]expr.Any
	for _, p := range cfg.NodePorts {
		matches = append(matches, append(within(loadDest(1), p, expr.CmpOpEq), local(false)...))
	}
	return matches
}

func dispatchNodePort(set *nftables.Set) []expr.Any {
	return []expr.Any{loadProto(word0), loadPort(word1), decide(set)}
}

// guard: drop what comes to a guarded address from elsewhere than its sources.
func guard(s sets) []expr.Any {
	return []expr.Any{
		loadDest(word0), loadProto(word1), loadPort(word2), isIn(s.guarded, true),
		loadDest(word0), loadProto(word1), loadPort(word2), loadSource(word3), isIn(s.sources, false),
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// stray: oifname != "lo" ip daddr RANGE reject; what is left of the service addresses is of no service. One that is this node's own, as that of DNS,
// is reached by the loopback.
func stray(cfg Config) [][]expr.Any {
	var rules [][]expr.Any
	for _, p := range cfg.Services {
		rules = append(rules, append(append(loopbackLink(expr.MetaKeyOIFNAME, expr.CmpOpNeq), within(loadDest(1), p, expr.CmpOpEq)...), reject()))
	}
	return rules
}

func reject() expr.Any {
	const icmpPortUnreachable = 3
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}
}

// keepLoopback: iifname != "lo" ip daddr 127.0.0.0/8 drop. So that node ports answer on 127.0.0.1 too, the kernel is allowed to route these addresses; what
// others send to them must not profit.
func keepLoopback() []expr.Any {
	return append(append(loopbackLink(expr.MetaKeyIIFNAME, expr.CmpOpNeq), within(loadDest(1), loopback, expr.CmpOpEq)...), &expr.Verdict{Kind: expr.VerdictDrop})
}

var loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

// mark sets or clears the bit that says whether to masquerade.
func mark(set bool) []expr.Any {
	xor := make([]byte, 4)
	if set {
		xor = binaryutil.NativeEndian.PutUint32(masqueradeBit)
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeBit)), Xor: xor},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// masqueradeMarked: meta mark and BIT == BIT oifname != "lo" meta mark set mark and ~BIT masquerade. The bit is cleared, since a packet that is sent on within
// another one passes here again.
func masqueradeMarked() []expr.Any {
	bit := binaryutil.NativeEndian.PutUint32(masqueradeBit)
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bit},
	}
	exprs = append(append(exprs, loopbackLink(expr.MetaKeyOIFNAME, expr.CmpOpNeq)...), mark(false)...)
	return append(exprs, &expr.Masq{FullyRandom: true})
}

// masqueradeHairpin: ip saddr . ip daddr @hairpin masquerade; a pod that reached itself through a service.
func masqueradeHairpin(s sets) []expr.Any {
	exprs := append([]expr.Any{loadSource(word0), loadDest(word1), isIn(s.hairpin, true)}, loopbackLink(expr.MetaKeyOIFNAME, expr.CmpOpNeq)...)
	return append(exprs, &expr.Masq{FullyRandom: true})
}

// shape is what a load-balancing chain depends on. Chains are few, since services differ little in shape.
type shape struct {
	endpoints int
	nodePort  bool
	affinity  time.Duration
	source    ruleset.Source
	// first is the number of the first endpoint.
	first uint32
	// local chains tell clients of this node from others; the former are led to one of inside endpoints.
	local  bool
	inside int
}

func shapeOf(k ruleset.Key, b *ruleset.Backend) shape {
	return shape{endpoints: len(b.Endpoints), nodePort: k.NodePort(), affinity: b.Affinity, source: b.Source, local: b.Local, inside: len(b.Inside)}
}

// parts are the chains that a local one leads to: for the pods of this node, and for the node itself.
func (sh shape) parts() []shape {
	if !sh.local || sh.inside == 0 {
		return nil
	}
	pods := shape{endpoints: sh.inside, nodePort: sh.nodePort, affinity: sh.affinity, source: ruleset.Keep, first: insideIndex}
	node := pods
	node.source = ruleset.Hide
	return []shape{pods, node}
}

// chain gives the name: it says all that the shape does.
func (sh shape) chain() string {
	name := fmt.Sprintf("lb-%d", sh.endpoints)
	if sh.local {
		name = fmt.Sprintf("local-%d-inside-%d", sh.endpoints, sh.inside)
	} else if sh.first > 0 {
		name = fmt.Sprintf("inside-%d", sh.endpoints)
	}
	if sh.nodePort {
		name += "-node"
	}
	if !sh.local {
		name += map[ruleset.Source]string{ruleset.Outside: "", ruleset.Hide: "-masq", ruleset.Keep: "-keep"}[sh.source]
	}
	if sh.affinity > 0 {
		name += fmt.Sprintf("-sticky-%ds", int(sh.affinity.Seconds()))
	}
	return name
}

// build gives the chain of a shape.
func (sh shape) build(s sets, cfg Config) chain {
	c := chain{name: sh.chain()}
	if parts := sh.parts(); parts != nil {
		if cfg.Pods.IsValid() {
			c.rules = append(c.rules, append(within(loadSource(1), cfg.Pods, expr.CmpOpEq), parts[0].enter()))
		}
		c.rules = append(c.rules, append(local(true), parts[1].enter()))
	}
	switch {
	case sh.source == ruleset.Hide:
		c.rules = append(c.rules, mark(true))
	case sh.source == ruleset.Outside && cfg.Pods.IsValid():
		c.rules = append(c.rules, append(within(loadSource(1), cfg.Pods, expr.CmpOpNeq), mark(true)...))
	}
	if sh.endpoints == 0 {
		return c
	}
	if sh.affinity > 0 {
		c.rules = append(c.rules, sh.sticky(s)...)
	} else {
		c.rules = append(c.rules, append(sh.draw(s.endpoints), translate()))
	}
	return c
}

func (sh shape) enter() expr.Any {
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: sh.chain()}
}

// loadService loads the service: address, protocol and port. The zero address that stands for the node is any one with all bits cleared.
func (sh shape) loadService(addr, proto, port uint32) []expr.Any {
	exprs := []expr.Any{loadDest(addr)}
	if sh.nodePort {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: addr, DestRegister: addr, Len: 4, Mask: make([]byte, 4), Xor: make([]byte, 4)})
	}
	return append(exprs, loadProto(proto), loadPort(port))
}

func (sh shape) client() []expr.Any {
	return append([]expr.Any{loadSource(word0)}, sh.loadService(word1, word2, word3)...)
}

// draw takes one of the endpoints at random, and finds what a map says of its number.
func (sh shape) draw(in *nftables.Set) []expr.Any {
	return append(sh.loadService(word0, word1, word2),
		&expr.Numgen{Register: word3, Modulus: uint32(sh.endpoints), Offset: sh.first, Type: unix.NFT_NG_RANDOM}, find(in))
}

// sticky leads a client to the endpoint that it was led to before. The endpoint's number passes from rule to rule as the packet's priority, which the
// kernel sets anew when it forwards it. A client whose endpoint is gone is forgotten, and the rules begin again.
func (sh shape) sticky(s sets) [][]expr.Any {
	number := &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: word4}
	keep := &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: word0, SourceRegister: true}
	set := func(operation uint32, timeout time.Duration) []expr.Any {
		return append(sh.client(), number, &expr.Dynset{SrcRegKey: word0, SrcRegData: word4, SetName: s.affinity.Name, SetID: s.affinity.ID, Operation: operation, Timeout: timeout})
	}
	drawn := append(sh.draw(s.picks), keep)
	remember := set(unix.NFT_DYNSET_OP_UPDATE, sh.affinity) // what is remembered already stays, for that long again
	recall := append(sh.client(), find(s.affinity), keep)
	lead := append(append(sh.loadService(word0, word1, word2), &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: word3}, find(s.endpoints)), translate())
	forget := set(dynsetDelete, 0)
	return [][]expr.Any{drawn, remember, recall, lead, forget, drawn, remember, lead}
}

// translate: dnat ip to REGISTER 1, an address and a port.
func translate() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: word0, RegProtoMin: word1, Specified: true}
}
