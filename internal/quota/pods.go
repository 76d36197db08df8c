package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
)

// computeNames are those of a pod's resources that quotas name as they are.
var computeNames = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods,
}

// mustSay are the resources that every container has to name where a quota has them: for cpu and memory that is so
// from the beginning, for later ones it is not.
var mustSay = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

func measuresPod(name corev1.ResourceName) bool {
	text := string(name)
	if slices.Contains(computeNames, name) || strings.HasPrefix(text, corev1.ResourceHugePagesPrefix) || strings.HasPrefix(text, corev1.ResourceRequestsHugePagesPrefix) {
		return true
	}
	asked, ok := strings.CutPrefix(text, corev1.DefaultResourceRequestsPrefix)
	return ok && extended(corev1.ResourceName(asked))
}

// extended tells the resources of devices: they have a domain that is not Kubernetes's own.
func extended(name corev1.ResourceName) bool {
	text := string(name)
	return strings.Contains(text, "/") && !strings.Contains(text, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(text, corev1.DefaultResourceRequestsPrefix)
}

func podUsage(use corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if !Alive(pod, now) {
		return // it is still counted by count/pods
	}
	options := helpers.PodResourcesOptions{UseStatusResources: true}
	compute(use, helpers.PodRequests(pod, options), helpers.PodLimits(pod, options))
	use[corev1.ResourcePods] = one()
}

// compute puts requests and limits in under the names that quotas have for them.
func compute(use, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			use[name] = q
			use[corev1.DefaultResourceRequestsPrefix+name] = q
		case extended(name):
			use[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for name, q := range limits {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			use["limits."+name] = q
		}
	}
}

// Alive tells whether a pod still uses what it asked for: it has not ended, and is not overdue to be gone, as one on a
// lost node may be.
func Alive(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
		grace := time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
		return !now.After(pod.DeletionTimestamp.Add(grace))
	}
	return true
}

// Demand says what a pod leaves out that a quota with these limits needs it to say; nil where nothing is missing.
func Demand(hard corev1.ResourceList, pod *corev1.Pod) error {
	missing := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			said := corev1.ResourceList{}
			compute(said, containers[i].Resources.Requests, containers[i].Resources.Limits)
			podLevel(said, pod)
			for _, name := range mustSay {
				_, wanted := hard[name]
				if _, ok := said[name]; wanted && !ok {
					missing[name] = append(missing[name], containers[i].Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		texts = append(texts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(missing[name]), ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(texts, "; "))
}

// podLevel adds what the pod says for all its containers.
func podLevel(said corev1.ResourceList, pod *corev1.Pod) {
	if r := pod.Spec.Resources; r != nil {
		compute(said, r.Requests, r.Limits)
	}
}

func podInScope(s corev1.ScopedResourceSelectorRequirement, pod *corev1.Pod) (bool, error) {
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(s, given(pod.Spec.PriorityClassName))
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespace(pod.Spec.Affinity), nil
	}
	return false, nil
}

// given lists the names that are not empty.
func given(names ...string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// bestEffort tells of a pod whose containers ask for no cpu or memory.
func bestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	asks := func(lists ...corev1.ResourceList) bool {
		return slices.ContainsFunc(lists, func(l corev1.ResourceList) bool { return !l.Cpu().IsZero() || !l.Memory().IsZero() })
	}
	if r := pod.Spec.Resources; r != nil && asks(r.Requests, r.Limits) {
		return false
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if asks(containers[i].Resources.Requests, containers[i].Resources.Limits) {
				return false
			}
		}
	}
	return true
}

// crossNamespace tells of terms that look into other namespaces.
func crossNamespace(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for i := range list {
			terms = append(terms, list[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
