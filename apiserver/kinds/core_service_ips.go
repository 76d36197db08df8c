package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// serviceClusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, each and against each other.
func serviceClusterIPs(spec, old *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil // where all of them must be unset
	}
	ips := path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ips, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	errs = append(errs, ipFamilies(spec, path)...)
	bad := clusterIPFormats(spec, old, ips)
	errs = append(errs, bad...)
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if len(bad) > 0 {
		return errs // what follows would only confuse
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil || !dual {
			errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	return append(errs, clusterIPFamilies(spec, ips)...)
}

func ipFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.IPFamily]bool{}
	for i, f := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		errs = append(errs, among(f, at, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen[f] {
			errs = append(errs, field.Duplicate(at, f))
		}
		seen[f] = true
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, among(*p, path.Child("ipFamilyPolicy"), corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

func clusterIPFormats(spec, old *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range spec.ClusterIPs {
		if i > 0 || ip != corev1.ClusterIPNone {
			errs = append(errs, legacyIP(ip, path.Index(i), old.ClusterIPs)...)
		} else if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(path, spec.ClusterIPs, "'None' must be the first and only value"))
		}
	}
	return errs
}

// clusterIPFamilies checks each address against the family at its place.
func clusterIPFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if isHeadless(spec) {
		return nil
	}
	var errs field.ErrorList
	for i, ip := range spec.ClusterIPs {
		if i >= len(spec.IPFamilies) {
			break
		}
		got := corev1.IPv4Protocol
		if netutils.IsIPv6String(ip) {
			got = corev1.IPv6Protocol
		}
		want := spec.IPFamilies[i]
		if (want == corev1.IPv4Protocol || want == corev1.IPv6Protocol) && want != got {
			errs = append(errs, field.Invalid(path.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", want, i)))
		}
	}
	return errs
}

// fixedAddresses reports whether the rules on changing addresses apply: neither service is an ExternalName.
func fixedAddresses(spec, old *corev1.ServiceSpec) bool {
	return needsClusterIP(spec) && needsClusterIP(old)
}

// changedClusterIPs lets a second address be added or released, and nothing else.
func changedClusterIPs(spec, old *corev1.ServiceSpec) field.ErrorList {
	if !fixedAddresses(spec, old) || isHeadless(spec) && isHeadless(old) {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	var errs field.ErrorList
	had, have := old.ClusterIPs, spec.ClusterIPs
	if len(had) == len(have) {
		for i := range had {
			if had[i] != have[i] {
				errs = append(errs, field.Invalid(path.Index(i), have, "may not change once set"))
			}
		}
		return errs
	}
	if len(have) == 0 {
		errs = append(errs, field.Invalid(path.Index(0), have, "primary clusterIP can not be unset"))
	}
	if len(had) > 0 && len(have) > 0 && had[0] != have[0] {
		errs = append(errs, field.Invalid(path.Index(0), have, "may not change once set"))
	}
	if len(had) > len(have) && len(have) == 1 && !singleStack(spec) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

// changedIPFamilies lets a second family be added or released. Headless services may change theirs.
func changedIPFamilies(spec, old *corev1.ServiceSpec) field.ErrorList {
	if !fixedAddresses(spec, old) || isHeadless(spec) || isHeadless(old) {
		return nil
	}
	first := field.NewPath("spec", "ipFamilies").Index(0)
	var errs field.ErrorList
	had, have := old.IPFamilies, spec.IPFamilies
	if len(had) == len(have) {
		for i := range had {
			if had[i] != have[i] {
				errs = append(errs, field.Invalid(first, have, "may not change once set"))
			}
		}
		return errs
	}
	if len(had) > len(have) && len(spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(first, have, "primary ipFamily can not be unset"))
	}
	if len(had) > 0 && len(have) > 0 && had[0] != have[0] {
		errs = append(errs, field.Invalid(first, spec.ClusterIPs, "may not change once set"))
	}
	if len(had) > len(have) && len(have) == 1 && !singleStack(spec) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func singleStack(spec *corev1.ServiceSpec) bool {
	return spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
}

func changedLoadBalancerClass(spec, old *corev1.ServiceSpec) field.ErrorList {
	if spec.Type != corev1.ServiceTypeLoadBalancer || old.Type != corev1.ServiceTypeLoadBalancer ||
		apiequality.Semantic.DeepEqual(spec.LoadBalancerClass, old.LoadBalancerClass) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "loadBalancerClass"), spec.LoadBalancerClass, "may not change once set")}
}
