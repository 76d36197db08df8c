package nodeipam

import (
	"fmt"
	"math/big"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// maxRanges bounds how many ranges one cluster prefix is cut into.
const maxRanges = 1 << 16

// ranges hands out equal parts of a prefix, each to one owner at a time. It goes round, so that a part just given back is the last to
// be used again, but for a node of the same name as the one that had it last: one that registers anew keeps its pods' addresses. It is not safe
// for concurrent use.
type ranges struct {
	base  netip.Prefix
	bits  int
	count int
	next  int
	used  map[int]types.UID
	last  map[int]string // the name of the node that had it last, or has it
}

// owner is a node; another of the same name has another UID.
type owner struct {
	uid  types.UID
	name string
}

func newRanges(base netip.Prefix, bits int) (*ranges, error) {
	if !base.IsValid() || bits < base.Bits() || bits > base.Addr().BitLen() {
		return nil, fmt.Errorf("pod CIDR %s cannot be cut into /%d ranges", base, bits)
	}
	r := &ranges{base: base.Masked(), bits: bits, count: maxRanges, used: map[int]types.UID{}, last: map[int]string{}}
	if n := bits - base.Bits(); n < 16 {
		r.count = 1 << n
	}
	return r, nil
}

// at is the i-th range.
func (r *ranges) at(i int) netip.Prefix {
	start := new(big.Int).SetBytes(r.base.Addr().AsSlice())
	step := new(big.Int).Lsh(big.NewInt(int64(i)), uint(r.base.Addr().BitLen()-r.bits))
	bytes := make([]byte, r.base.Addr().BitLen()/8)
	start.Add(start, step).FillBytes(bytes)
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, r.bits)
}

// touched are the first and last of the ranges that a prefix overlaps; not ok when it overlaps none.
func (r *ranges) touched(p netip.Prefix) (first, last int, ok bool) {
	if !p.IsValid() || !p.Overlaps(r.base) {
		return 0, 0, false
	}
	if p.Bits() <= r.base.Bits() {
		return 0, r.count - 1, true
	}
	offset := new(big.Int).SetBytes(p.Masked().Addr().AsSlice())
	offset.Sub(offset, new(big.Int).SetBytes(r.base.Addr().AsSlice()))
	offset.Rsh(offset, uint(r.base.Addr().BitLen()-r.bits))
	if !offset.IsInt64() || offset.Int64() >= int64(r.count) {
		return 0, 0, false
	}
	first = int(offset.Int64())
	last = first
	if p.Bits() < r.bits {
		last = min(first+1<<min(r.bits-p.Bits(), 16)-1, r.count-1)
	}
	return first, last, true
}

// occupy marks what a prefix overlaps as the owner's. Ranges of other owners stay theirs.
func (r *ranges) occupy(p netip.Prefix, o owner) {
	first, last, ok := r.touched(p)
	if !ok {
		return
	}
	for i := first; i <= last; i++ {
		if _, taken := r.used[i]; !taken {
			r.give(i, o)
		}
	}
}

func (r *ranges) give(i int, o owner) { r.used[i], r.last[i] = o.uid, o.name }

// take gives the owner a free range; the one it has already, if any. Not ok means that none is free.
func (r *ranges) take(o owner) (netip.Prefix, bool) {
	for i, uid := range r.used {
		if uid == o.uid {
			return r.at(i), true
		}
	}
	for i, name := range r.last {
		if _, taken := r.used[i]; name == o.name && !taken {
			r.give(i, o)
			return r.at(i), true
		}
	}
	for range r.count {
		i := r.next
		r.next = (r.next + 1) % r.count
		if _, taken := r.used[i]; !taken {
			r.give(i, o)
			return r.at(i), true
		}
	}
	return netip.Prefix{}, false
}

// release frees all that the owner has, and tells whether that was anything.
func (r *ranges) release(owner types.UID) bool {
	freed := false
	for i, o := range r.used {
		if o == owner {
			delete(r.used, i)
			freed = true
		}
	}
	return freed
}
