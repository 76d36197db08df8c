package kinds

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	podSpecPath        = field.NewPath("spec")
	podAnnotationsPath = field.NewPath("metadata", "annotations")
)

// validatePod checks a new pod.
func validatePod(pod *corev1.Pod) field.ErrorList {
	errs := slices.Concat(
		validateMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain),
		validatePodAnnotations(pod.Annotations, &pod.Spec, podAnnotationsPath),
		validatePodSpec(&pod.Spec, &pod.ObjectMeta, podSpecPath),
	)
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, validateProfileAnnotations(pod.Annotations, &pod.Spec, podSpecPath)...)
}

// inherited drops the errors that the old object has too: what was let in once may stay, until someone changes it.
func inherited(errs field.ErrorList, of func() field.ErrorList) field.ErrorList {
	if len(errs) == 0 {
		return nil
	}
	had := map[string]bool{}
	for _, err := range of() {
		had[err.Error()] = true
	}
	return slices.DeleteFunc(errs, func(err *field.Error) bool { return had[err.Error()] })
}

// validatePodUpdate checks a change of a pod: of its spec almost nothing may change.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := slices.Concat(
		validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta),
		inherited(validatePodSpec(&pod.Spec, &pod.ObjectMeta, podSpecPath), func() field.ErrorList {
			return validatePodSpec(&old.Spec, &old.ObjectMeta, podSpecPath)
		}),
		inherited(validatePodAnnotationsUpdate(pod, old, podAnnotationsPath), func() field.ErrorList {
			return validatePodAnnotations(old.Annotations, &old.Spec, podAnnotationsPath)
		}),
	)
	for _, list := range []struct {
		containers, old []corev1.Container
		name            string
	}{{pod.Spec.Containers, old.Spec.Containers, "containers"}, {pod.Spec.InitContainers, old.Spec.InitContainers, "initContainers"}} {
		if len(list.containers) != len(list.old) {
			return append(errs, field.Forbidden(podSpecPath.Child(list.name), "pod updates may not add or remove containers"))
		}
	}
	found, stop := validateDeadlineUpdate(pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, podSpecPath.Child("activeDeadlineSeconds"))
	errs = append(errs, found...)
	if stop {
		return errs
	}
	errs = append(errs, validateTolerationsUpdate(pod.Spec.Tolerations, old.Spec.Tolerations, podSpecPath.Child("tolerations"))...)
	errs = append(errs, validateSchedulingGatesUpdate(pod.Spec.SchedulingGates, old.Spec.SchedulingGates, podSpecPath.Child("schedulingGates"))...)
	return append(errs, validatePodSpecUpdate(&pod.Spec, &old.Spec)...)
}

// validateDeadlineUpdate: a deadline may be set or come nearer. stop: it is so wrong that the rest does not matter.
func validateDeadlineUpdate(deadline, old *int64, path *field.Path) (errs field.ErrorList, stop bool) {
	switch {
	case deadline == nil && old != nil:
		return field.ErrorList{field.Invalid(path, deadline, "must not update from a positive integer to nil value")}, false
	case deadline == nil:
		return nil, false
	case *deadline < 0 || *deadline > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *deadline, validation.InclusiveRangeError(0, math.MaxInt32))}, true
	case old != nil && *old < *deadline:
		return field.ErrorList{field.Invalid(path, *deadline, "must be less than or equal to previous value")}, true
	}
	return nil, false
}

// validateTolerationsUpdate: tolerations may be added, and of those there are only the seconds may change.
func validateTolerationsUpdate(tolerations, old []corev1.Toleration, path *field.Path) field.ErrorList {
	for _, was := range old {
		if !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			t.TolerationSeconds = was.TolerationSeconds
			return t == was
		}) {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

// validateSchedulingGatesUpdate: gates may only be removed.
func validateSchedulingGatesUpdate(gates, old []corev1.PodSchedulingGate, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range gates {
		if !slices.Contains(old, gate) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

var changeablePodFields = strings.Join([]string{
	"`spec.containers[*].image`",
	"`spec.initContainers[*].image`",
	"`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

// validatePodSpecUpdate refuses a change of anything but the fields that may change. There are as many containers as before.
func validatePodSpecUpdate(s, old *corev1.PodSpec) field.ErrorList {
	if equality.Semantic.DeepEqual(s, old) {
		return nil
	}
	rest := s.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	rest.SchedulingGates = old.SchedulingGates
	rest.Tolerations = old.Tolerations
	if g := old.TerminationGracePeriodSeconds; g != nil && *g < 0 && rest.TerminationGracePeriodSeconds != nil && *rest.TerminationGracePeriodSeconds == 1 {
		rest.TerminationGracePeriodSeconds = g
	}
	var errs field.ErrorList
	if len(old.SchedulingGates) > 0 {
		errs = validateGatedUpdate(rest, old)
	}
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(podSpecPath,
			fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeablePodFields, diff.Diff(old, rest))))
	}
	return errs
}

// validateGatedUpdate checks what more may change of a pod that is not scheduled yet: where it may go can become narrower. It takes those
// changes back in s.
func validateGatedUpdate(s, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for key, value := range old.NodeSelector {
		if now, kept := s.NodeSelector[key]; !kept || now != value {
			errs = append(errs, field.Invalid(podSpecPath.Child("nodeSelector"), s.NodeSelector,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	s.NodeSelector = old.NodeSelector
	now, was := orZero(s.Affinity).NodeAffinity, orZero(old.Affinity).NodeAffinity
	if equality.Semantic.DeepEqual(now, was) {
		return errs
	}
	errs = append(errs, validateNodeAffinityUpdate(now, was, podSpecPath.Child("affinity", "nodeAffinity", requiredTerms, "nodeSelectorTerms"))...)
	setDefaultPtr(&s.Affinity, corev1.Affinity{})
	s.Affinity.NodeAffinity = was
	if old.Affinity == nil && *s.Affinity == (corev1.Affinity{}) {
		s.Affinity = nil
	}
	return errs
}

// validateNodeAffinityUpdate: each term may get requirements, and there may be no fewer or more terms.
func validateNodeAffinityUpdate(now, was *corev1.NodeAffinity, path *field.Path) field.ErrorList {
	old := orZero(orZero(was).RequiredDuringSchedulingIgnoredDuringExecution).NodeSelectorTerms
	terms := orZero(orZero(now).RequiredDuringSchedulingIgnoredDuringExecution).NodeSelectorTerms
	if len(old) > 0 && len(old) != len(terms) {
		return field.ErrorList{field.Invalid(path, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range old {
		empty := len(old[i].MatchExpressions)+len(old[i].MatchFields) == 0
		grew := len(terms[i].MatchExpressions)+len(terms[i].MatchFields) > 0
		if empty && grew || !startsWith(terms[i].MatchExpressions, old[i].MatchExpressions) || !startsWith(terms[i].MatchFields, old[i].MatchFields) {
			errs = append(errs, field.Invalid(path.Index(i), terms[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func startsWith(list, prefix []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(prefix) && (len(prefix) == 0 || equality.Semantic.DeepEqual(list[:len(prefix)], prefix))
}
