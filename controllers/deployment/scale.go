package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// resized tells whether the deployment's size has changed since its sets were last sized.
func (w *work) resized() bool {
	for _, r := range active(w.all()) {
		if noted, ok := numberAnnotation(r.is, desiredAnnotation); ok && noted != w.want() {
			return true
		}
	}
	return false
}

func numberAnnotation(set *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(set.Annotations[key], 10, 32)
	return int32(n), err == nil
}

// scale gives the sets the deployment's new size without moving a rollout on: a single set gets all of it; several get
// shares in proportion to what they have, so that a bad rollout under way does not grow faster than it may.
func (w *work) scale() {
	if only := w.activeOrLatest(); only != nil {
		w.resize(only, w.want())
		return
	}
	old := active(w.old)
	if w.saturated() {
		for _, r := range old {
			w.resize(r, 0)
		}
		return
	}
	if w.deploy.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return
	}
	w.scaleInProportion(active(w.all()))
}

// activeOrLatest is the one active set, or the newest there is when none is active; nil when several are.
func (w *work) activeOrLatest() *replicas {
	all := w.all()
	switch list := active(all); {
	case len(list) == 1:
		return list[0]
	case len(list) > 1 || len(all) == 0:
		return nil
	}
	return all[len(all)-1] // sorted by age, the set of the present template last
}

// saturated tells whether the newest set alone does all that is asked.
func (w *work) saturated() bool {
	if w.newest == nil || trailing([]*replicas{w.newest}) {
		return false
	}
	noted, ok := numberAnnotation(w.newest.is, desiredAnnotation)
	return ok && noted == w.want() && w.newest.size() == w.want() && w.newest.is.Status.AvailableReplicas == w.want()
}

func (w *work) scaleInProportion(sets []*replicas) {
	var allowed int32
	if w.want() > 0 {
		allowed = w.want() + maxSurge(w.deploy)
	}
	add := allowed - total(sets)
	sortForScale(sets, add > 0)
	sizes := make([]int32, len(sets))
	var added int32
	for i, r := range sets {
		share := w.share(r, add, added)
		sizes[i] = r.size() + share
		added += share
	}
	for i, r := range sets {
		if i == 0 {
			sizes[0] = max(0, sizes[0]+add-added) // what rounding left over
		}
		w.resize(r, sizes[i])
	}
}

// sortForScale puts larger sets first; of equal ones the newer first when growing, the older first when shrinking.
func sortForScale(sets []*replicas, grow bool) {
	slices.SortStableFunc(sets, func(a, b *replicas) int {
		age := byAge(a.is, b.is)
		if grow {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.size(), a.size()), age)
	})
}

// share is how many of add pods the set gets, of which added are given away already. Both are negative when shrinking.
func (w *work) share(r *replicas, add, added int32) int32 {
	if r.size() == 0 || add == 0 || add == added {
		return 0
	}
	fraction := w.fraction(r)
	if add > 0 {
		return min(fraction, add-added)
	}
	return max(fraction, add-added)
}

// fraction is the change that keeps the set's part of the deployment as it was at the size noted on it.
func (w *work) fraction(r *replicas) int32 {
	want := w.want()
	if want == 0 {
		return -r.size()
	}
	before, ok := numberAnnotation(r.is, maxAnnotation)
	if !ok || before == 0 {
		before = w.deploy.Status.Replicas
		if before == 0 {
			return 0
		}
	}
	after := float64(r.size()) * float64(want+maxSurge(w.deploy)) / float64(before)
	return int32(math.Round(after)) - r.size()
}
