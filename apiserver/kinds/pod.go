package kinds

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// pods is the entry of Pod.
func pods() []Kind {
	return []Kind{{
		GVK:                 corev1.SchemeGroupVersion.WithKind("Pod"),
		Resource:            "pods",
		Singular:            "pod",
		ShortNames:          []string{"po"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "pods",
		New:                 func() runtime.Object { return &corev1.Pod{} },
		NewList:             func() runtime.Object { return &corev1.PodList{} },
		Default:             on(defaultPod),
		PrepareCreate:       on(preparePodCreate),
		PrepareUpdate:       onUpdate(preparePodUpdate),
		Validate:            check(validatePod),
		ValidateUpdate:      checkUpdate(validatePodUpdate),
		Warnings:            warn(podWarnings),
		UnconditionalUpdate: true,
		GracePeriod: func(obj runtime.Object, opts *metav1.DeleteOptions) int64 {
			return podGracePeriod(obj.(*corev1.Pod), opts)
		},
		Fields:  fieldSet(podFields),
		Columns: podColumns(),
		Cells:   cells(podCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(preparePodStatusUpdate),
			ValidateUpdate: checkUpdate(validatePodStatusUpdate),
		},
		Others: []string{"attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "proxy", "resize"},
	}}
}

// preparePodCreate starts a pod's life: Pending, of the quality of service that its resources ask for.
func preparePodCreate(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(&pod.Spec)}
	dropDisabledPodFields(&pod.Spec, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	resolveMatchLabelKeys(pod)
	applyAppArmorAnnotations(pod)
}

func preparePodUpdate(pod, old *corev1.Pod) {
	old.Status.DeepCopyInto(&pod.Status)
	dropDisabledPodFields(&pod.Spec, &old.Spec)
}

// preparePodStatusUpdate keeps what is not status: the spec, and the owners, by which garbage is collected.
func preparePodStatusUpdate(pod, old *corev1.Pod) {
	old.Spec.DeepCopyInto(&pod.Spec)
	pod.DeletionTimestamp = old.DeletionTimestamp.DeepCopy()
	pod.OwnerReferences = slices.Clone(old.OwnerReferences)
	setDefault(&pod.Status.QOSClass, old.Status.QOSClass)
	keepObservedGenerations(&pod.Status, &old.Status)
	dropDisabledPodStatus(&pod.Status)
}

// keepObservedGenerations restores the generations that a writer which does not know them left out. Conditions of one type
// correspond by their order.
func keepObservedGenerations(s, old *corev1.PodStatus) {
	setDefault(&s.ObservedGeneration, old.ObservedGeneration)
	known := map[corev1.PodConditionType][]int64{}
	for i := range old.Conditions {
		c := &old.Conditions[i]
		known[c.Type] = append(known[c.Type], c.ObservedGeneration)
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if generations := known[c.Type]; len(generations) > 0 {
			setDefault(&c.ObservedGeneration, generations[0])
			known[c.Type] = generations[1:]
		}
	}
}

// podGracePeriod is how long a pod may take to end. One that no node runs has nothing to end.
func podGracePeriod(pod *corev1.Pod, opts *metav1.DeleteOptions) int64 {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	var seconds int64
	switch {
	case opts != nil && opts.GracePeriodSeconds != nil:
		seconds = *opts.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	default:
		seconds = podGracePeriodDefault
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

// podFields are the fields that pods are selected by.
func podFields(pod *corev1.Pod) fields.Set {
	ip, ips := pod.Status.PodIP, pod.Status.PodIP
	for i, p := range pod.Status.PodIPs {
		if i == 0 {
			ip, ips = p.IP, p.IP
			continue
		}
		ips += "," + p.IP
	}
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             ip,
		"status.podIPs":            ips,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// resolveMatchLabelKeys turns each matchLabelKeys and mismatchLabelKeys, which speak of the incoming pod's own labels, into requirements
// of the label selector beside it. A pod's labels may change later; what it was admitted with may not.
func resolveMatchLabelKeys(pod *corev1.Pod) {
	if a := pod.Spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			resolveAffinityTerms(pod.Labels, p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			resolveAffinityTerms(pod.Labels, p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		addLabelRequirements(c.LabelSelector, c.MatchLabelKeys, pod.Labels, metav1.LabelSelectorOpIn)
	}
}

func resolveAffinityTerms(labels map[string]string, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	resolve := func(t *corev1.PodAffinityTerm) {
		addLabelRequirements(t.LabelSelector, t.MatchLabelKeys, labels, metav1.LabelSelectorOpIn)
		addLabelRequirements(t.LabelSelector, t.MismatchLabelKeys, labels, metav1.LabelSelectorOpNotIn)
	}
	for i := range required {
		resolve(&required[i])
	}
	for i := range preferred {
		resolve(&preferred[i].PodAffinityTerm)
	}
}

// addLabelRequirements requires the pod's own value, or any other, of each key that the pod has. Without a selector nothing is matched anyway.
func addLabelRequirements(to *metav1.LabelSelector, keys []string, labels map[string]string, op metav1.LabelSelectorOperator) {
	if to == nil {
		return
	}
	for _, key := range keys {
		if value, has := labels[key]; has {
			to.MatchExpressions = append(to.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: key, Operator: op, Values: []string{value},
			})
		}
	}
}

// copyMap is a copy that may be changed; nil stays nil.
func copyMap(m map[string]string) map[string]string { return maps.Clone(m) }
