// Package quota tells what an object counts towards a ResourceQuota: which quotas it falls under, what it uses of
// them, and what a quota demands of it.
//
// Invariant: the server that charges a request and the controller that recounts a namespace use these same functions,
// so that a recount finds what was charged.
package quota

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Add is the sum by name.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	sum := make(corev1.ResourceList, len(a))
	for name, q := range a {
		sum[name] = q.DeepCopy()
	}
	for name, q := range b {
		have := sum[name]
		if _, ok := sum[name]; !ok {
			have = resource.Quantity{Format: q.Format}
		}
		have.Add(q)
		sum[name] = have
	}
	return sum
}

// Increase is what of a exceeds b, by name; what does not exceed is left out.
func Increase(a, b corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range a {
		more := q.DeepCopy()
		more.Sub(b[name])
		if more.Sign() > 0 {
			out[name] = more
		}
	}
	return out
}

// Decrease takes b from a; nothing falls below zero, and names that only b has are left out.
func Decrease(a, b corev1.ResourceList) corev1.ResourceList {
	out := make(corev1.ResourceList, len(a))
	for name, q := range a {
		less := q.DeepCopy()
		less.Sub(b[name])
		if less.Sign() < 0 {
			less = resource.Quantity{Format: q.Format}
		}
		out[name] = less
	}
	return out
}

// Mask keeps the names that filter has.
func Mask(list, filter corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		if _, ok := filter[name]; ok {
			out[name] = q.DeepCopy()
		}
	}
	return out
}

// Equal compares by value.
func Equal(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// Negative gives the names of amounts below zero, sorted.
func Negative(list corev1.ResourceList) []corev1.ResourceName {
	var names []corev1.ResourceName
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if q := list[name]; q.Sign() < 0 {
			names = append(names, name)
		}
	}
	return names
}

// Text words a list as "cpu=1,pods=2".
func Text(list corev1.ResourceList) string {
	parts := make([]string, 0, len(list))
	for _, name := range slices.Sorted(maps.Keys(list)) {
		q := list[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}
