package kinds

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func dropDisabledPodFields(s, old *corev1.PodSpec) {}

func validatePod(pod *corev1.Pod) field.ErrorList {
	errs := validateMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validatePodSpec(&pod.Spec, field.NewPath("spec"))...)
}

func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	return validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
}

func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	return validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
}

func validatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return validatePodSpec(&t.Spec, path.Child("spec"))
}

func validatePodSpec(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), ""))
	}
	for i := range s.Containers {
		if s.Containers[i].Image == "" {
			errs = append(errs, field.Required(path.Child("containers").Index(i).Child("image"), ""))
		}
	}
	return errs
}

func podWarnings(pod, old *corev1.Pod) []string { return nil }

func podTemplateWarnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string { return nil }
