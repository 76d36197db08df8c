//lint:file-ignore SA1019 spec.configSource is deprecated, and checked.

package kinds

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// annotationTaints held taints before spec.taints did.
const annotationTaints = "scheduler.alpha.kubernetes.io/taints"

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, nodeAnnotations(n.Annotations, metadata().Child("annotations"))...)
	errs = append(errs, nodeTaints(n.Spec.Taints, metadata().Child("taints"))...)
	errs = append(errs, nodeResources(&n.Status)...)
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil && *swap.Capacity <= 0 {
		errs = append(errs, field.Invalid(metadata().Child("nodeSwapStatus", "capacity"), *swap.Capacity, "must be greater than zero"))
	}
	errs = append(errs, declaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	errs = append(errs, nodePodCIDRs(&n.Spec, nil, field.NewPath("spec", "podCIDRs"))...)
	return append(errs, nodePreemption(&n.Spec)...)
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeStatusUpdate(n, old)
	errs = append(errs, nodePodCIDRs(&n.Spec, old.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
	return append(errs, nodePreemption(&n.Spec)...)
}

// validateNodeStatusUpdate checks what holds for both update paths: either may carry metadata, and status once came by
// the main one.
func validateNodeStatusUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, nodeAnnotations(n.Annotations, metadata().Child("annotations"))...)
	errs = append(errs, nodeResources(&n.Status)...)
	errs = append(errs, duplicateAddresses(n.Status.Addresses, field.NewPath("status", "addresses"))...)
	errs = append(errs, changedNodeSpec(&n.Spec, &old.Spec, field.NewPath("spec"))...)
	if n.Spec.ConfigSource != nil {
		errs = append(errs, nodeConfigSource(n.Spec.ConfigSource, false, field.NewPath("spec", "configSource"))...)
	}
	errs = append(errs, nodeConfig(n.Status.Config, field.NewPath("status", "config"))...)
	errs = append(errs, declaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	return append(errs, nodeTaints(n.Spec.Taints, metadata().Child("taints"))...)
}

// changedNodeSpec refuses changes of what a node may get once.
func changedNodeSpec(spec, old *corev1.NodeSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(old.PodCIDRs) > 0 && !slices.Equal(old.PodCIDRs, spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(path.Child("podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if old.ProviderID != "" && old.ProviderID != spec.ProviderID {
		errs = append(errs, field.Forbidden(path.Child("providerID"), `node updates may not change providerID except from "" to valid`))
	}
	if old.DoNotUseExternalID != spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(path.Child("externalID"), "may not be updated"))
	}
	return errs
}

// nodePreemption refuses the field of a feature that is off by default and that nothing here acts on.
func nodePreemption(spec *corev1.NodeSpec) field.ErrorList {
	if spec.PodPreemptionPolicy == nil {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec", "podPreemptionPolicy"), "")}
}

func nodePodCIDRs(spec *corev1.NodeSpec, had []string, path *field.Path) field.ErrorList {
	cidrs := spec.PodCIDRs
	var errs field.ErrorList
	if spec.PodCIDR != "" && len(cidrs) > 0 && cidrs[0] != spec.PodCIDR {
		errs = append(errs, field.Invalid(path, cidrs, "first value must match `podCIDR`"))
	}
	for i, c := range cidrs {
		errs = append(errs, legacyCIDR(c, path.Index(i), had)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	for i, c := range cidrs {
		if slices.Contains(cidrs[:i], c) {
			errs = append(errs, field.Duplicate(path.Index(i), c))
		}
	}
	return errs
}

func nodeResources(s *corev1.NodeStatus) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedResources(s.Capacity) {
		errs = append(errs, resourceQuantity(name, s.Capacity[name], field.NewPath("status", "capacity", string(name)))...)
	}
	for _, name := range sortedResources(s.Allocatable) {
		errs = append(errs, resourceQuantity(name, s.Allocatable[name], field.NewPath("status", "allocatable", string(name)))...)
	}
	return errs
}

// featureName is an UpperCamelCase name, maybe of a part of another feature.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

func declaredFeatures(features []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range features {
		at := path.Index(i)
		if len(f) > validation.DNS1123SubdomainMaxLength {
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, validation.DNS1123SubdomainMaxLength)))
		} else if !featureName.MatchString(f) {
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments "+
				"separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		switch {
		case i == 0:
		case f == features[i-1]:
			errs = append(errs, field.Duplicate(at, f))
		case f < features[i-1]:
			errs = append(errs, field.Invalid(at, f, "list must be sorted alphabetically"))
		}
	}
	return errs
}

func duplicateAddresses(addresses []corev1.NodeAddress, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
		seen[a] = true
	}
	return errs
}

func nodeTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.Taint]bool{}
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if bad := validation.IsValidLabelValue(t.Value); len(bad) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(bad, ";")))
		}
		errs = append(errs, oneOf(t.Effect, at.Child("effect"),
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		key := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if seen[key] {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		}
		seen[key] = true
	}
	return errs
}

// nodeAnnotations checks two annotations of old that still are objects of the API.
func nodeAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if text := annotations[annotationTaints]; text != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(text), &taints); err != nil {
			errs = append(errs, field.Invalid(path, annotationTaints, err.Error()))
		} else {
			errs = append(errs, nodeTaints(taints, path.Child(annotationTaints))...)
		}
	}
	if text := annotations[corev1.PreferAvoidPodsAnnotationKey]; text != "" {
		errs = append(errs, avoidPods(text, path)...)
	}
	return errs
}

func avoidPods(text string, path *field.Path) field.ErrorList {
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(text), &avoid); err != nil {
		return field.ErrorList{field.Invalid(path.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error())}
	}
	var errs field.ErrorList
	for i, entry := range avoid.PreferAvoidPods {
		signature := path.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		if c := entry.PodSignature.PodController; c == nil {
			errs = append(errs, field.Required(signature, ""))
		} else if c.Controller == nil || !*c.Controller {
			errs = append(errs, field.Invalid(signature.Child("PodController", "Controller"), c.Controller, "must point to a controller"))
		}
	}
	return errs
}

func nodeConfig(c *corev1.NodeConfigStatus, path *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	for _, part := range []struct {
		name   string
		source *corev1.NodeConfigSource
	}{{"assigned", c.Assigned}, {"active", c.Active}, {"lastKnownGood", c.LastKnownGood}} {
		if part.source != nil {
			errs = append(errs, nodeConfigSource(part.source, true, path.Child(part.name))...)
		}
	}
	return errs
}

// nodeConfigSource checks a reference to a ConfigMap: to one by name in spec, to one version of it in status.
func nodeConfigSource(s *corev1.NodeConfigSource, inStatus bool, path *field.Path) field.ErrorList {
	ref, at := s.ConfigMap, path.Child("configMap")
	if ref == nil {
		return field.ErrorList{field.Invalid(path, s, "exactly one reference subfield must be non-nil")}
	}
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"uid", string(ref.UID)}, {"resourceVersion", ref.ResourceVersion}} {
		if !inStatus && f.value != "" {
			errs = append(errs, field.Forbidden(at.Child(f.name), f.name+" must not be set in spec"))
		}
		if inStatus && f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), f.name+" must be set in status"))
		}
	}
	for _, f := range []struct {
		name, value string
		check       func(string) []string
	}{
		{"namespace", ref.Namespace, func(s string) []string { return apivalidation.ValidateNamespaceName(s, false) }},
		{"name", ref.Name, func(s string) []string { return apivalidation.NameIsDNSSubdomain(s, false) }},
		{"kubeletConfigKey", ref.KubeletConfigKey, validation.IsConfigMapKey},
	} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), f.name+" must be set"))
		} else {
			errs = append(errs, invalid(at.Child(f.name), f.value, f.check(f.value))...)
		}
	}
	return errs
}

func nodeWarnings(n, _ *corev1.Node) []string {
	var warnings []string
	for i, c := range n.Spec.PodCIDRs {
		if len(validation.IsValidCIDRForLegacyField(nil, c, false, nil)) == 0 {
			warnings = append(warnings, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
		}
	}
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	return warnings
}
