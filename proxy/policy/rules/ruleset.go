// Package rules turns NetworkPolicies into what the packet filter of one node must do: pure and sorted, so that equal input
// gives an equal Ruleset, and two of them can be compared.
//
// A packet passes two chains, of which either may drop it: egress looks it up by its source in the map egress-pods, ingress by its destination in
// ingress-pods. Both lead a pod of this node that some policy isolates to the chain of the combination of policies that select it. That chain
// asks one after the other and drops what none allows. So a packet costs two lookups, and for isolated pods what their own policies say, however many
// others there are.
//
// Every packet in the direction in which its connection began is looked at, not only the first: a connection that is no longer allowed ends with the
// transaction that forbids it. Replies pass.
package rules

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// TableName is the table's name; it has one writer.
const TableName = "coracle-policies"

// Names of what is always there. Those of the chains of policies and of combinations, and of sets, never equal these.
const (
	IngressChain = "ingress"
	EgressChain  = "egress"
	IngressMap   = "ingress-pods"
	EgressMap    = "egress-pods"
	// SelfSet holds each isolated pod's address twice: a pod that reaches itself through a Service is never refused.
	SelfSet = "itself"
)

// IP is an IPv4 address. What it lacks of netip.Addr is size: sets hold thousands.
type IP [4]byte

// ParseIP reads an IPv4 address.
func ParseIP(text string) (IP, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return IP{}, false
	}
	return a.As4(), true
}

func (a IP) String() string { return netip.AddrFrom4(a).String() }

func compareIPs(a, b IP) int { return bytes.Compare(a[:], b[:]) }

// Type says what the elements of a set are.
type Type int

// Addresses are single ones, Blocks ranges of them. Ports are ranges of ports of a protocol, Endpoints ports of a protocol at an address.
const (
	Addresses Type = iota
	Blocks
	Ports
	Endpoints
)

// Element is one element of a set; what the set's type has no use for is zero.
type Element struct {
	Addr, To    IP    // To is the last of a block
	Protocol    uint8 // IANA's number
	First, Last uint16
}

func compareElements(a, b Element) int {
	return cmp.Or(compareIPs(a.Addr, b.Addr), compareIPs(a.To, b.To), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// Set is a set that rules look into. Elements are sorted and distinct, and those of Blocks and Ports do not overlap. Neither they nor the slice
// ever change; where elements come or go, it is another slice.
type Set struct {
	Type     Type
	Comment  string
	Elements []Element
}

// Field is what of a packet a rule looks up.
type Field int

// The fields by which sets are searched: addresses, the protocol with the port, and the destination with both.
const (
	Source Field = iota
	Destination
	Port
	Endpoint
)

// Match is a condition: the packet's field is in the set.
type Match struct {
	Field Field
	Set   string
}

// Action is what becomes of a packet that meets a rule's conditions.
type Action int

// Accept and Drop end a packet's way through ingress or egress; Jump asks a chain, which may come back undecided.
const (
	Accept Action = iota
	Drop
	Jump
)

// Rule is one rule of a chain.
type Rule struct {
	Matches []Match
	Action  Action
	Chain   string // to jump to
}

func equalRules(a, b []Rule) bool {
	if len(a) != len(b) || len(a) > 0 && &a[0] == &b[0] {
		return len(a) == len(b)
	}
	return slices.EqualFunc(a, b, func(x, y Rule) bool {
		return x.Action == y.Action && x.Chain == y.Chain && slices.Equal(x.Matches, y.Matches)
	})
}

// Ruleset is what the table holds beside what is always there.
type Ruleset struct {
	// Ingress and Egress lead the node's isolated pods to the chains of what they may receive and send.
	Ingress, Egress map[IP]string
	// Chains are those of policies, which allow and else return, and those of combinations, which jump to them and drop.
	Chains map[string][]Rule
	Sets   map[string]Set
}

// Self lists the pods that are isolated in one direction or the other.
func (r *Ruleset) Self() map[IP]bool {
	all := make(map[IP]bool, len(r.Ingress)+len(r.Egress))
	for a := range r.Ingress {
		all[a] = true
	}
	for a := range r.Egress {
		all[a] = true
	}
	return all
}

// protocolNumber is IANA's; zero for one that the API does not know.
func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolTCP:
		return 6
	case corev1.ProtocolUDP:
		return 17
	case corev1.ProtocolSCTP:
		return 132
	}
	return 0
}

func protocolName(number uint8) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return "sctp"
}

// NewEndpoint is a port at an address, an element of a set of Endpoints.
func NewEndpoint(addr IP, protocol corev1.Protocol, port uint16) Element {
	return Element{Addr: addr, Protocol: protocolNumber(protocol), First: port}
}
