package rules

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// span is an inclusive range of numbers.
type span struct{ first, last uint32 }

// merge gives the same numbers in spans that neither overlap nor touch, in order.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
	var merged []span
	for _, s := range spans {
		if n := len(merged); n > 0 && uint64(s.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, s.last)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// without takes spans out of one; the result is in order.
func (s span) without(holes []span) []span {
	var left []span
	next := uint64(s.first)
	for _, hole := range merge(holes) {
		if hole.last < s.first || hole.first > s.last {
			continue
		}
		if uint64(hole.first) > next {
			left = append(left, span{uint32(next), hole.first - 1})
		}
		next = max(next, uint64(hole.last)+1)
	}
	if next <= uint64(s.last) {
		left = append(left, span{uint32(next), s.last})
	}
	return left
}

// spanOf is the range of an IPv4 prefix. Prefixes of IPv6 have none here: pods have no such addresses.
func spanOf(cidr string) (span, bool) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil || !p.Addr().Is4() {
		return span{}, false
	}
	base := p.Masked().Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	return span{first, first | uint32(uint64(1)<<(32-p.Bits())-1)}, true
}

// blocks gives the addresses of all blocks together, as ranges.
func blocks(list []*networkingv1.IPBlock) []Element {
	var spans []span
	for _, b := range list {
		whole, ok := spanOf(b.CIDR)
		if !ok {
			continue
		}
		var holes []span
		for _, except := range b.Except {
			if hole, ok := spanOf(except); ok {
				holes = append(holes, hole)
			}
		}
		spans = append(spans, whole.without(holes)...)
	}
	var elements []Element
	for _, s := range merge(spans) {
		var e Element
		binary.BigEndian.PutUint32(e.Addr[:], s.first)
		binary.BigEndian.PutUint32(e.To[:], s.last)
		elements = append(elements, e)
	}
	return elements
}

// numbered gives the ports of a rule that are given by number, or by protocol alone.
func numbered(ports []networkingv1.NetworkPolicyPort) []Element {
	spans := map[uint8][]span{}
	for i := range ports {
		p := &ports[i]
		number := protocolNumber(protocolOf(p))
		switch {
		case number == 0 || p.Port != nil && p.Port.StrVal != "":
			continue
		case p.Port == nil:
			spans[number] = append(spans[number], span{0, 65535})
		default:
			s := span{uint32(p.Port.IntVal), uint32(p.Port.IntVal)}
			if p.EndPort != nil {
				s.last = uint32(*p.EndPort)
			}
			spans[number] = append(spans[number], s)
		}
	}
	var elements []Element
	for number, list := range spans {
		for _, s := range merge(list) {
			elements = append(elements, Element{Protocol: number, First: uint16(s.first), Last: uint16(s.last)})
		}
	}
	slices.SortFunc(elements, compareElements)
	return elements
}
