package deployment

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// limits resolves maxSurge, rounded up, and maxUnavailable, rounded down, against the size. Both zero would never move, so
// then one pod may be unavailable.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	want := int(wanted(d))
	s, err := intstr.GetScaledValueFromIntOrPercent(orZero(rolling.MaxSurge), want, true)
	if err != nil {
		return 0, 0 // validation lets none in
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(orZero(rolling.MaxUnavailable), want, false)
	if err != nil {
		return 0, 0
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(min(u, want))
}

func orZero(v *intstr.IntOrString) *intstr.IntOrString {
	if v == nil {
		return &intstr.IntOrString{}
	}
	return v
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := limits(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := limits(d)
	return unavailable
}

// roll moves a rolling update one step on: first the newest set grows as far as maxSurge allows, and when it cannot, old sets shrink as
// far as maxUnavailable allows.
func (w *work) roll() {
	w.syncRevision()
	w.ensureNewest()
	if w.newest.was == nil || w.growNewest() {
		return
	}
	if w.shrinkOld() {
		return
	}
	if complete(w.deploy, &w.deploy.Status) {
		w.cleanUp()
	}
}

// newestSize is the size the newest set may have now.
func (w *work) newestSize(have int32) int32 {
	want := w.want()
	switch {
	case have >= want:
		return want
	case w.deploy.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return want
	}
	room := want + maxSurge(w.deploy) - total(w.all())
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

func (w *work) growNewest() bool {
	have := w.newest.size()
	if have == w.want() {
		return false
	}
	target := w.newestSize(have)
	return target != have && w.resize(w.newest, target)
}

// shrinkOld takes pods from old sets: unhealthy ones first, as those serve nobody, then healthy ones down to what must
// stay available. While the status of a set trails, its next one wakes the deployment.
func (w *work) shrinkOld() bool {
	old := active(w.old)
	if total(old) == 0 || trailing(w.all()) {
		return false
	}
	floor := w.want() - maxUnavailable(w.deploy)
	pending := w.newest.size() - w.newest.is.Status.AvailableReplicas
	spare := total(w.all()) - floor - pending
	if spare <= 0 {
		return false
	}
	shrunk := w.shrinkUnhealthy(old, spare)
	return w.shrinkHealthy(old, floor) || shrunk
}

func (w *work) shrinkUnhealthy(old []*replicas, spare int32) bool {
	shrunk := false
	for _, r := range old {
		n := min(spare, r.size()-r.is.Status.AvailableReplicas)
		if n <= 0 {
			continue
		}
		spare -= n
		shrunk = w.resize(r, r.size()-n) || shrunk
	}
	return shrunk
}

func (w *work) shrinkHealthy(old []*replicas, floor int32) bool {
	spare := available(w.all()) - floor
	shrunk := false
	for _, r := range old {
		n := min(spare, r.size())
		if n <= 0 {
			continue
		}
		spare -= n
		shrunk = w.resize(r, r.size()-n) || shrunk
	}
	return shrunk
}
