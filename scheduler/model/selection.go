package model

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

// Selection says which pods are meant: those in some namespaces with some labels, or those of one owner. Selections with the
// same Key mean the same pods.
type Selection struct {
	Key string

	owner      types.UID // where set, nothing else counts but living
	namespaces []string
	// byLabels selects namespaces beside those named; nil selects none.
	byLabels labels.Selector
	pods     labels.Selector
	// all, where set, are the terms that must match, and nothing else counts; namespaces and byLabels are the first one's.
	all []*Term
	// living leaves out pods that are being deleted.
	living bool
}

// Matches tells whether the pod is meant. The cluster knows the labels of namespaces.
func (s *Selection) Matches(p *Pod, c *Cluster) bool {
	if s.living && p.Terminating() {
		return false
	}
	switch {
	case s.owner != "":
		return p.Owner == s.owner
	case s.all != nil:
		return !slices.ContainsFunc(s.all, func(t *Term) bool { return !t.Matches(p, c) })
	}
	if !slices.Contains(s.namespaces, p.Pod.Namespace) &&
		(s.byLabels == nil || !s.byLabels.Matches(labels.Set(c.namespaces[p.Pod.Namespace]))) {
		return false
	}
	return s.pods.Matches(labels.Set(p.Pod.Labels))
}

// ownedBy selects the living pods of an owner.
func ownedBy(owner types.UID) *Selection {
	return &Selection{Key: "owner " + string(owner), owner: owner, living: true}
}

// livingIn selects the living pods of a namespace by labels.
func livingIn(namespace string, selector labels.Selector) *Selection {
	return &Selection{Key: "living " + namespace + " " + textOf(selector), namespaces: []string{namespace}, pods: selector, living: true}
}

// Term is a pod affinity or anti-affinity term of some pod: the pods it speaks of, and where.
type Term struct {
	Selection
	TopologyKey string
	// key tells terms with other pods or places apart.
	key string
}

// WeightedTerm is a term that only scores; it speaks against the place where Weight is negative.
type WeightedTerm struct {
	*Term
	Weight int64
}

func newTerms(terms []corev1.PodAffinityTerm, owner *corev1.Pod) []*Term {
	parsed := make([]*Term, len(terms))
	for i := range terms {
		parsed[i] = newTerm(&terms[i], owner)
	}
	return parsed
}

func newTerm(term *corev1.PodAffinityTerm, owner *corev1.Pod) *Term {
	t := &Term{TopologyKey: term.TopologyKey}
	t.pods = selectorOf(term.LabelSelector)
	t.pods = require(t.pods, selection.In, term.MatchLabelKeys, owner.Labels)
	t.pods = require(t.pods, selection.NotIn, term.MismatchLabelKeys, owner.Labels)
	t.namespaces = slices.Sorted(slices.Values(term.Namespaces))
	if term.NamespaceSelector != nil {
		t.byLabels = selectorOf(term.NamespaceSelector)
	} else if len(t.namespaces) == 0 {
		t.namespaces = []string{owner.Namespace}
	}
	var b strings.Builder
	for _, namespace := range t.namespaces {
		b.WriteString(namespace)
		b.WriteByte(',')
	}
	if t.byLabels != nil {
		b.WriteString(" " + textOf(t.byLabels))
	}
	b.WriteString("|" + textOf(t.pods))
	t.Key = b.String()
	t.key = t.TopologyKey + "|" + t.Key
	return t
}

// textOf is equal for selectors that match the same. The one that matches nothing prints as the one that matches all.
func textOf(s labels.Selector) string {
	if isNothing(s) {
		return "<nothing>"
	}
	return "<" + s.String() + ">"
}

func isNothing(s labels.Selector) bool { return s.String() == "" && !s.Empty() }

// selectorOf is a selector; one that is absent or cannot be read, which validation lets none be, matches nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// require narrows the selector by the owner's own values of some keys.
func require(selector labels.Selector, operator selection.Operator, keys []string, owner map[string]string) labels.Selector {
	for _, key := range keys {
		value, has := owner[key]
		if !has || isNothing(selector) {
			continue
		}
		if r, err := labels.NewRequirement(key, operator, []string{value}); err == nil {
			selector = selector.Add(*r)
		}
	}
	return selector
}

// MayMatch is Matches without the labels of namespaces, all of which count where they are selected by labels, and whether or not the
// pod is being deleted.
func (s *Selection) MayMatch(p *Pod) bool {
	switch {
	case s.owner != "":
		return p.Owner == s.owner
	case s.all != nil:
		return !slices.ContainsFunc(s.all, func(t *Term) bool { return !t.MayMatch(p) })
	}
	return (s.byLabels != nil || slices.Contains(s.namespaces, p.Pod.Namespace)) && s.pods.Matches(labels.Set(p.Pod.Labels))
}

// MatchingAll selects the pods that every one of the terms speaks of. There must be a term.
func MatchingAll(terms []*Term) *Selection {
	if len(terms) == 1 {
		return &terms[0].Selection
	}
	s := &Selection{all: terms, namespaces: terms[0].namespaces, byLabels: terms[0].byLabels}
	for _, t := range terms {
		s.Key += t.Key + " and "
	}
	return s
}

// selectsNamespaces tells whether the labels of namespaces decide.
func (s *Selection) selectsNamespaces() bool {
	return s.byLabels != nil || slices.ContainsFunc(s.all, func(t *Term) bool { return t.selectsNamespaces() })
}
