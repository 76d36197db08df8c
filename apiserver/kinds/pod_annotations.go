package kinds

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	appArmorPrefix = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	seccompPrefix  = corev1.SeccompContainerAnnotationKeyPrefix
)

// validatePodAnnotations checks the annotations that mean something for a pod: some are the ancestors of fields.
func validatePodAnnotations(annotations map[string]string, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	if len(annotations) == 0 {
		return nil
	}
	var errs field.ErrorList
	if value, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && s.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if value := annotations[corev1.TolerationsAnnotationKey]; value != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &tolerations); err != nil {
			errs = append(errs, field.Invalid(path, corev1.TolerationsAnnotationKey, err.Error()))
		}
		errs = append(errs, validateTolerations(tolerations, path.Child(corev1.TolerationsAnnotationKey))...)
	}
	if value, set := annotations[corev1.PodDeletionCost]; set && !isDeletionCost(value) {
		errs = append(errs, field.Invalid(path.Key(corev1.PodDeletionCost), value, "must be a 32bit integer"))
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		switch {
		case key == corev1.SeccompPodAnnotationKey, strings.HasPrefix(key, seccompPrefix):
			errs = append(errs, validateSeccompValue(annotations[key], path.Child(key))...)
		case strings.HasPrefix(key, appArmorPrefix):
			errs = append(errs, validateAppArmorAnnotation(key, annotations[key], s, path)...)
		}
	}
	return errs
}

// isDeletionCost reports whether a controller can read the value: a number without a plus sign or leading zeros.
func isDeletionCost(value string) bool {
	if value == "" || value[0] == '+' || value[0] == '0' && value != "0" {
		return false
	}
	_, err := strconv.ParseInt(value, 10, 32)
	return err == nil
}

func validateSeccompValue(profile string, path *field.Path) field.ErrorList {
	switch profile {
	case corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined:
		return nil
	}
	if local, ok := strings.CutPrefix(profile, corev1.SeccompLocalhostProfileNamePrefix); ok {
		return descendingPath(local, path)
	}
	return field.ErrorList{field.Invalid(path, profile, "must be a valid seccomp profile")}
}

func validateAppArmorAnnotation(key, profile string, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name, found := strings.TrimPrefix(key, appArmorPrefix), false
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) { found = found || c.Name == name })
	if !found {
		errs = append(errs, field.Invalid(path.Key(key), name, "container not found"))
	}
	if appArmorOfAnnotation(profile) == nil && profile != "" && !strings.HasPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
		errs = append(errs, field.Invalid(path.Key(key), profile, "invalid AppArmor profile name: "+strconv.Quote(profile)))
	}
	return errs
}

// appArmorOfAnnotation is the field that the annotation's value stands for, or nil.
func appArmorOfAnnotation(value string) *corev1.AppArmorProfile {
	switch local, ok := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix); {
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case ok && local != "":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &local}
	}
	return nil
}

// applyAppArmorAnnotations makes fields of the annotations of a new pod's containers, where they say other than the fields.
func applyAppArmorAnnotations(pod *corev1.Pod) {
	if len(pod.Annotations) == 0 || pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return
	}
	visitContainers(&pod.Spec, nil, func(c *corev1.Container, _ *field.Path) {
		value, annotated := pod.Annotations[appArmorPrefix+c.Name]
		if !annotated || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		profile := appArmorOfAnnotation(value)
		if profile == nil || len(validateAppArmorProfile(profile, nil)) > 0 || sameAppArmor(profile, pod.Spec.SecurityContext) {
			return
		}
		setDefaultPtr(&c.SecurityContext, corev1.SecurityContext{})
		c.SecurityContext.AppArmorProfile = profile
	})
}

func sameAppArmor(p *corev1.AppArmorProfile, sc *corev1.PodSecurityContext) bool {
	if sc == nil || sc.AppArmorProfile == nil || sc.AppArmorProfile.Type != p.Type {
		return false
	}
	return *orZero(sc.AppArmorProfile.LocalhostProfile) == *orZero(p.LocalhostProfile)
}

// validateProfileAnnotations: where a profile is given by an annotation and by its field, they must agree.
func validateProfileAnnotations(annotations map[string]string, s *corev1.PodSpec, path *field.Path) field.ErrorList {
	if len(annotations) == 0 {
		return nil
	}
	var errs field.ErrorList
	if sc := s.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		if value, found := annotations[corev1.SeccompPodAnnotationKey]; found {
			errs = append(errs, matchSeccomp(value, sc.SeccompProfile, path.Child("securityContext", "seccompProfile"))...)
		}
	}
	windows := s.OS != nil && s.OS.Name == corev1.Windows
	visitContainers(s, path, func(c *corev1.Container, at *field.Path) {
		sc := orZero(c.SecurityContext)
		if value, found := annotations[seccompPrefix+c.Name]; found && sc.SeccompProfile != nil {
			errs = append(errs, matchSeccomp(value, sc.SeccompProfile, at.Child("securityContext", "seccompProfile"))...)
		}
		profile := sc.AppArmorProfile
		if profile == nil {
			profile = orZero(s.SecurityContext).AppArmorProfile
		}
		if value, found := annotations[appArmorPrefix+c.Name]; found && profile != nil && !windows {
			errs = append(errs, matchAppArmor(value, profile, at.Child("securityContext", "appArmorProfile"))...)
		}
	})
	return errs
}

func matchSeccomp(value string, p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	matches := true
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		matches = value == corev1.SeccompProfileNameUnconfined
	case corev1.SeccompProfileTypeRuntimeDefault:
		matches = value == corev1.SeccompProfileRuntimeDefault || value == corev1.DeprecatedSeccompProfileDockerDefault
	case corev1.SeccompProfileTypeLocalhost:
		local, ok := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix)
		if ok && (p.LocalhostProfile == nil || *p.LocalhostProfile != local) {
			return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), "seccomp profile in annotation and field must match")}
		}
		matches = ok
	}
	if matches {
		return nil
	}
	return field.ErrorList{field.Forbidden(path.Child("type"), "seccomp type in annotation and field must match")}
}

func matchAppArmor(value string, p *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	matches := true
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		matches = value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
	case corev1.AppArmorProfileTypeRuntimeDefault:
		matches = value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
	case corev1.AppArmorProfileTypeLocalhost:
		local, ok := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		if ok && (p.LocalhostProfile == nil || *p.LocalhostProfile != local) {
			return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), "apparmor profile in annotation and field must match")}
		}
		matches = ok
	}
	if matches {
		return nil
	}
	return field.ErrorList{field.Forbidden(path.Child("type"), "apparmor type in annotation and field must match")}
}

// validatePodAnnotationsUpdate checks the annotations of a pod that exists: some stand for what cannot change any more.
func validatePodAnnotationsUpdate(pod, old *corev1.Pod, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := func(key string) string {
		switch {
		case strings.HasPrefix(key, appArmorPrefix):
			return "AppArmor annotations"
		case key == corev1.MirrorPodAnnotationKey:
			return "mirror pod annotation"
		}
		return ""
	}
	for _, key := range slices.Sorted(maps.Keys(old.Annotations)) {
		value, kept := pod.Annotations[key]
		if what := name(key); what != "" && (!kept || value != old.Annotations[key]) {
			errs = append(errs, field.Forbidden(path.Key(key), "may not remove or update "+what))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(pod.Annotations)) {
		if _, had := old.Annotations[key]; had {
			continue
		}
		if what := name(key); what != "" {
			errs = append(errs, field.Forbidden(path.Key(key), "may not add "+what))
		}
	}
	return append(errs, validatePodAnnotations(pod.Annotations, &pod.Spec, path)...)
}
