package faults

import (
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func replicasOf(set *appsv1.ReplicaSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

func most[T any](list []T, value func(T) int) int {
	m := value(list[0])
	for _, v := range list[1:] {
		m = max(m, value(v))
	}
	return m
}

func least[T any](list []T, value func(T) int) int {
	return -most(list, func(v T) int { return -value(v) })
}

// setNotTooLarge: a pod is made for a set only while it has fewer than it wants.
func setNotTooLarge(s Step) []string {
	pod, set := created[*appsv1.ReplicaSet](s)
	if pod == nil {
		return nil
	}
	have, want := len(s.podsOf(set.UID, active)), most(possible(s.World, set), replicasOf)
	if have <= want {
		return nil
	}
	return []string{fmt.Sprintf("set %s has %d pods with %s, wants %d", set.Name, have, pod.Name, want)}
}

// setNotTooSmall: a set deletes only pods that it has too many.
func setNotTooSmall(s Step) []string {
	pod, set := deleted[*appsv1.ReplicaSet](s)
	if pod == nil {
		return nil
	}
	have, want := len(s.podsOf(set.UID, active)), least(possible(s.World, set), replicasOf)
	if have+s.harmed(set.UID) >= want {
		return nil
	}
	return []string{fmt.Sprintf("set %s has %d pods without %s, wants %d", set.Name, have, pod.Name, want)}
}

// brokenFirst: a set deletes no ready pod while it has one that has not been ready for long.
func brokenFirst(s Step) []string {
	pod, set := deleted[*appsv1.ReplicaSet](s)
	if pod == nil || !available(pod) {
		return nil
	}
	for _, other := range s.podsOf(set.UID, active) {
		if !isReady(other) && s.Now.Sub(s.ready[other.UID]) > window {
			return []string{fmt.Sprintf("set %s deleted %s, which was ready, and kept %s, which is not", set.Name, pod.Name, other.Name)}
		}
	}
	return nil
}

// setsOf are a deployment's sets.
func (w *World) setsOf(deployment types.UID) []*appsv1.ReplicaSet {
	var list []*appsv1.ReplicaSet
	for _, o := range w.objects {
		if set, ok := o.(*appsv1.ReplicaSet); ok {
			if ref := metav1.GetControllerOfNoCopy(set); ref != nil && ref.UID == deployment {
				list = append(list, set)
			}
		}
	}
	return list
}

// resized is the set that the step made or resized, its sizes before and after, and its deployment; nil where it did neither.
func resized(s Step) (set *appsv1.ReplicaSet, from, to int, d *appsv1.Deployment) {
	set, ok := s.Object.(*appsv1.ReplicaSet)
	if !ok || s.Gone {
		return nil, 0, 0, nil
	}
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil, 0, 0, nil
	}
	if d, ok = s.objects[ref.UID].(*appsv1.Deployment); !ok {
		return nil, 0, 0, nil
	}
	if before, ok := s.Before.(*appsv1.ReplicaSet); ok {
		from = replicasOf(before)
	}
	if to = replicasOf(set); from == to {
		return nil, 0, 0, nil
	}
	return set, from, to, d
}

// oneSetPerTemplate: a deployment makes one set for a template.
func oneSetPerTemplate(s Step) []string {
	set, ok := s.Object.(*appsv1.ReplicaSet)
	ref := metav1.GetControllerOfNoCopy(s.Object)
	if !ok || s.Before != nil || s.Gone || ref == nil {
		return nil
	}
	for _, other := range s.setsOf(ref.UID) {
		if other.UID != set.UID && sameTemplate(&other.Spec.Template, &set.Spec.Template) {
			return []string{fmt.Sprintf("sets %s and %s have one template", other.Name, set.Name)}
		}
	}
	return nil
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	a.Labels, b.Labels = maps.Clone(a.Labels), maps.Clone(b.Labels)
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(a, b)
}

// bounds are how many pods a deployment may have, and how many of them it must have available.
func bounds(d *appsv1.Deployment) (ceiling, floor int) {
	want := int(ptr.Deref(d.Spec.Replicas, 1))
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return want, 0
	}
	surge, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxSurge, intstr.FromInt32(0))), want, true)
	if err != nil {
		return want, 0
	}
	down, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxUnavailable, intstr.FromInt32(0))), want, false)
	if err != nil {
		return want, 0
	}
	if surge == 0 && down == 0 {
		down = 1
	}
	return want + surge, max(0, want-down)
}

func ceiling(d *appsv1.Deployment) int { c, _ := bounds(d); return c }
func floor(d *appsv1.Deployment) int   { _, f := bounds(d); return f }

// surge: a deployment's set grows only as far as all of its sets together keep within replicas and maxSurge.
func surge(s Step) []string {
	set, from, to, d := resized(s)
	if set == nil || to < from {
		return nil
	}
	total := 0
	for _, other := range s.setsOf(d.UID) {
		total += replicasOf(other)
	}
	if limit := most(possible(s.World, d), ceiling); total > limit {
		return []string{fmt.Sprintf("sets of %s have %d replicas of at most %d after %s grew from %d to %d", d.Name, total, limit, set.Name, from, to)}
	}
	return nil
}

// availability: a deployment's set shrinks only as far as enough pods stay available, or where it costs no available pod.
func availability(s Step) []string {
	set, from, to, d := resized(s)
	if set == nil || to > from {
		return nil
	}
	before, after := 0, 0
	var uids []types.UID
	for _, other := range s.setsOf(d.UID) {
		uids = append(uids, other.UID)
		ready, size := len(s.podsOf(other.UID, available)), replicasOf(other)
		after += min(ready, size)
		if other.UID == set.UID {
			size = from
		}
		before += min(ready, size)
	}
	need := least(recently(s.World, d), floor)
	if after >= before || after+s.harmed(uids...) >= need {
		return nil
	}
	return []string{fmt.Sprintf("%s keeps %d available pods of at least %d after %s shrank from %d to %d", d.Name, after, need, set.Name, from, to)}
}

// recreate: a deployment that recreates makes no pod while one of another set still runs.
func recreate(s Step) []string {
	pod, set := created[*appsv1.ReplicaSet](s)
	if pod == nil {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil
	}
	d, ok := s.objects[ref.UID].(*appsv1.Deployment)
	if !ok || most(recently(s.World, d), func(d *appsv1.Deployment) int {
		if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			return 0
		}
		return 1
	}) == 1 {
		return nil
	}
	for _, other := range s.setsOf(d.UID) {
		if running := s.podsOf(other.UID, func(p *corev1.Pod) bool { return !terminal(p) }); other.UID != set.UID && len(running) > 0 && !scaledDuringRollback(s, other) {
			return []string{fmt.Sprintf("%s recreates, and %s was made while %s still runs", d.Name, pod.Name, running[0].Name)}
		}
	}
	return nil
}

// scaledDuringRollback excuses a set whose size changed within the window: the template went to and fro, and both sets were the newest.
func scaledDuringRollback(s Step, set *appsv1.ReplicaSet) bool {
	for _, v := range s.versions[set.UID] {
		if !v.replaced.IsZero() && s.Now.Sub(v.replaced) < 3*time.Second && replicasOf(v.object.(*appsv1.ReplicaSet)) > 0 {
			return true
		}
	}
	return false
}

// expected is how many pods the controllers of what a selector matches want, as few as they may.
func (w *World) expected(selector labels.Selector, namespace string) int {
	total := 0
	for _, o := range w.objects {
		if o.GetNamespace() != namespace {
			continue
		}
		switch o := o.(type) {
		case *appsv1.Deployment:
			if selector.Matches(labels.Set(o.Spec.Template.Labels)) {
				total += least(recently(w, o), func(d *appsv1.Deployment) int { return int(ptr.Deref(d.Spec.Replicas, 1)) })
			}
		case *appsv1.StatefulSet:
			if selector.Matches(labels.Set(o.Spec.Template.Labels)) {
				total += least(recently(w, o), func(d *appsv1.StatefulSet) int { return int(ptr.Deref(d.Spec.Replicas, 1)) })
			}
		}
	}
	return total
}
