package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// interval is the completion indexes from first to last, both among them.
type interval struct{ first, last int }

// indexes is a set of completion indexes: its intervals are in order and neither touch nor overlap.
type indexes []interval

// parseIndexes reads what status shows, such as 1,3-5,7, as far as it lies below completions. Parts that cannot be read are
// passed over: who may write a status may spoil it.
func parseIndexes(text string, completions int) indexes {
	var list indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last < first || first >= completions {
			continue
		}
		list = append(list, interval{first, min(last, completions-1)})
	}
	return normal(list)
}

// normal sorts intervals and joins those that touch.
func normal(list indexes) indexes {
	slices.SortFunc(list, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	var joined indexes
	for _, iv := range list {
		if n := len(joined); n > 0 && iv.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, iv.last)
			continue
		}
		joined = append(joined, iv)
	}
	return joined
}

// setOf is the set of single indexes.
func setOf(list map[int]bool) indexes {
	all := make(indexes, 0, len(list))
	for i := range list {
		all = append(all, interval{i, i})
	}
	return normal(all)
}

// String writes the set as status shows it: three and more in a row as a range.
func (s indexes) String() string {
	var b strings.Builder
	for _, iv := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(iv.first))
		switch {
		case iv.last == iv.first+1:
			b.WriteByte(',')
			b.WriteString(strconv.Itoa(iv.last))
		case iv.last > iv.first:
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(iv.last))
		}
	}
	return b.String()
}

// union is all of both sets.
func (s indexes) union(other indexes) indexes { return normal(slices.Concat(s, other)) }

// total counts the indexes.
func (s indexes) total() int {
	n := 0
	for _, iv := range s {
		n += iv.last - iv.first + 1
	}
	return n
}

func (s indexes) has(i int) bool {
	at, _ := slices.BinarySearchFunc(s, i, func(iv interval, i int) int { return cmp.Compare(iv.last, i) })
	return at < len(s) && s[at].first <= i
}

// common counts the indexes that are in both sets.
func (s indexes) common(other indexes) int {
	n := 0
	for a, b := 0, 0; a < len(s) && b < len(other); {
		n += max(0, min(s[a].last, other[b].last)-max(s[a].first, other[b].first)+1)
		if s[a].last < other[b].last {
			a++
		} else {
			b++
		}
	}
	return n
}

// missing gives the first n indexes below completions that are not in the set.
func (s indexes) missing(n, completions int) []int {
	var gaps []int
	next := 0
	for _, iv := range append(slices.Clone(s), interval{completions, completions}) {
		for ; next < min(iv.first, completions) && len(gaps) < n; next++ {
			gaps = append(gaps, next)
		}
		next = max(next, iv.last+1)
	}
	return gaps
}
