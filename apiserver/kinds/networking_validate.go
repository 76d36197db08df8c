package kinds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// classAnnotation named an Ingress's class before there was a field.
const classAnnotation = "kubernetes.io/ingress.class"

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	errs := validateMeta(&i.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateIngressSpec(&i.Spec, field.NewPath("spec"))...)
	annotated, byAnnotation := i.Annotations[classAnnotation]
	if byAnnotation && i.Spec.IngressClassName != nil && annotated != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), annotated, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngressUpdate(i, old *networkingv1.Ingress) field.ErrorList {
	errs := validateMetaUpdate(&i.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("spec")
	return append(errs, inherited(validateIngressSpec(&i.Spec, path), func() field.ErrorList { return validateIngressSpec(&old.Spec, path) })...)
}

func validateIngressSpec(s *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateIngressBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		errs = append(errs, validateIngressRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	for i := range s.TLS {
		at := path.Child("tls").Index(i)
		for k, host := range s.TLS[i].Hosts {
			errs = append(errs, ingressHost(host, at.Child("hosts").Index(k))...)
		}
		if name := s.TLS[i].SecretName; name != "" {
			errs = append(errs, dnsSubdomain(name, at.Child("secretName"))...)
		}
	}
	if class := s.IngressClassName; class != nil {
		errs = append(errs, dnsSubdomain(*class, path.Child("ingressClassName"))...)
	}
	return errs
}

func ingressHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return dnsSubdomain(host, path)
}

func validateIngressRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, ingressHost(r.Host, at.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validateIngressPath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

// Parts that a path of an Ingress cannot have: they mean something else to who routes by it.
var (
	badPathParts  = []string{"//", "/./", "/../", "%2f", "%2F"}
	badPathEnds   = []string{"/..", "/."}
	knownPathType = []networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}
)

func validateIngressPath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	path := at.Child("path")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(path, p.Path, "must be an absolute path"))
		}
		if p.Path != "" {
			for _, bad := range badPathParts {
				if strings.Contains(p.Path, bad) {
					errs = append(errs, field.Invalid(path, p.Path, fmt.Sprintf("must not contain '%s'", bad)))
				}
			}
			for _, bad := range badPathEnds {
				if strings.HasSuffix(p.Path, bad) {
					errs = append(errs, field.Invalid(path, p.Path, fmt.Sprintf("cannot end with '%s'", bad)))
				}
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(path, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *p.PathType, knownPathType))
	}
	return append(errs, validateIngressBackend(&p.Backend, at.Child("backend"))...)
}

func validateIngressBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReferent(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	return validateIngressService(b.Service, at)
}

// validateReferent checks what names an object of some kind.
func validateReferent(group *string, kind, name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, dnsSubdomain(*group, path.Child("apiGroup"))...)
	}
	errs = append(errs, pathSegment(kind, path.Child("kind"), "")...)
	return append(errs, pathSegment(name, path.Child("name"), "")...)
}

// validateIngressService checks the service at a backend's path, which faults of its port are told of.
func validateIngressService(s *networkingv1.IngressServiceBackend, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	name, port := at.Child("service", "name"), at.Child("service", "port")
	if s.Name == "" {
		errs = append(errs, field.Required(name, ""))
	} else {
		errs = append(errs, invalid(name, s.Name, apivalidation.NameIsDNSLabel(s.Name, false))...)
	}
	switch hasName, hasNumber := s.Port.Name != "", s.Port.Number != 0; {
	case hasName && hasNumber:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case hasName:
		errs = append(errs, invalid(port.Child("name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case hasNumber:
		errs = append(errs, portNumber(s.Port.Number, port.Child("number"))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func validateIngressStatusUpdate(i, old *networkingv1.Ingress) field.ErrorList {
	errs := validateMetaUpdate(&i.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status", "loadBalancer", "ingress")
	var had []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		had = append(had, in.IP)
	}
	for k, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			errs = append(errs, legacyIP(in.IP, path.Index(k).Child("ip"), had)...)
		}
		if in.Hostname != "" {
			errs = append(errs, dnsSubdomain(in.Hostname, path.Index(k).Child("hostname"))...)
			if _, err := netip.ParseAddr(in.Hostname); err == nil {
				errs = append(errs, field.Invalid(path.Index(k).Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

func ingressWarnings(i, old *networkingv1.Ingress) []string {
	had := false
	if old != nil {
		_, had = old.Annotations[classAnnotation]
	}
	if _, has := i.Annotations[classAnnotation]; has && !had {
		return []string{"annotation \"" + classAnnotation + "\" is deprecated, please use 'spec.ingressClassName' instead"}
	}
	return nil
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	const longest = 250
	if len(c.Spec.Controller) > longest {
		errs = append(errs, field.TooLong(path.Child("controller"), "", longest))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path.Child("controller"), c.Spec.Controller)...)
	return append(errs, validateClassParameters(c.Spec.Parameters, path.Child("parameters"))...)
}

func validateClassParameters(p *networkingv1.IngressClassParametersReference, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateReferent(p.APIGroup, p.Kind, p.Name, path)
	if p.Scope == nil {
		return append(errs, field.Required(path.Child("scope"), ""))
	}
	scope, namespace := *p.Scope, path.Child("namespace")
	switch scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			return append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		}
		return append(errs, invalid(namespace, *p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false))...)
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("scope"), scope, []string{"Cluster", "Namespace"}))
	}
	return errs
}

func validateIngressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))...)
	return append(errs, validateClassParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))...)
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateNetworkPolicySpec(&p.Spec)...)
}

func validateNetworkPolicyUpdate(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	errs := validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	return append(errs, inherited(validateNetworkPolicySpec(&p.Spec), func() field.ErrorList { return validateNetworkPolicySpec(&old.Spec) })...)
}

func validateNetworkPolicySpec(s *networkingv1.NetworkPolicySpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSelector(&s.PodSelector, path.Child("podSelector"))
	for i, r := range s.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.From, at.Child("from"))...)
	}
	for i, r := range s.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.To, at.Child("to"))...)
	}
	known := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	if len(s.PolicyTypes) > len(known) {
		return append(errs, field.Invalid(path.Child("policyTypes"), &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if !slices.Contains(known, t) {
			errs = append(errs, field.NotSupported(path.Child("policyTypes").Index(i), t, known))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Protocol != nil {
			known := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
			if !slices.Contains(known, *p.Protocol) {
				errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, known))
			}
		}
		if p.Port == nil {
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is not specified"))
			}
			continue
		}
		if p.Port.Type == intstr.Int {
			errs = append(errs, portNumber(p.Port.IntVal, at.Child("port"))...)
			if p.EndPort != nil {
				if *p.EndPort < p.Port.IntVal {
					errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "must be greater than or equal to `port`"))
				}
				errs = append(errs, portNumber(*p.EndPort, at.Child("endPort"))...)
			}
			continue
		}
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, invalid(at.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func validatePolicyPeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		p, at := &peers[i], path.Index(i)
		count := 0
		if p.PodSelector != nil {
			count++
			errs = append(errs, metavalidation.ValidateLabelSelector(p.PodSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("podSelector"))...)
		}
		if p.NamespaceSelector != nil {
			count++
			errs = append(errs, metavalidation.ValidateLabelSelector(p.NamespaceSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("namespaceSelector"))...)
		}
		if p.IPBlock != nil {
			if count > 0 {
				errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
			}
			count++
			errs = append(errs, validateIPBlock(p.IPBlock, at.Child("ipBlock"))...)
		}
		if count == 0 {
			errs = append(errs, field.Required(at, "must specify a peer"))
		}
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := legacyCIDR(b.CIDR, path.Child("cidr"), nil)
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, legacyCIDR(except, at, nil)...)
		part, err := netip.ParsePrefix(except)
		if err != nil {
			continue
		}
		if !whole.Contains(part.Masked().Addr()) || part.Bits() <= whole.Bits() {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	errs := validateMeta(&a.ObjectMeta, false, func(name string, _ bool) []string {
		if ip, err := netip.ParseAddr(name); err != nil || ip.String() != name {
			return []string{"must be a valid IP address in canonical form"}
		}
		return nil
	})
	return append(errs, validateParent(a.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
}

func validateParent(r *networkingv1.ParentReference, path *field.Path) field.ErrorList {
	if r == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if r.Group != "" {
		errs = append(errs, dnsSubdomain(r.Group, path.Child("group"))...)
	}
	for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}} {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		} else {
			errs = append(errs, invalid(path.Child(f.name), f.value, content.IsPathSegmentName(f.value))...)
		}
	}
	if r.Namespace != "" {
		errs = append(errs, invalid(path.Child("namespace"), r.Namespace, content.IsPathSegmentName(r.Namespace))...)
	}
	return errs
}

func validateIPAddressUpdate(a, old *networkingv1.IPAddress) field.ErrorList {
	errs := validateMetaUpdate(&a.ObjectMeta, &old.ObjectMeta)
	return append(errs, immutable(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec", "cidrs")
	switch n := len(c.Spec.CIDRs); {
	case n == 0:
		return append(errs, field.Required(path, "at least one CIDR required"))
	case n > 2:
		errs = append(errs, field.Invalid(path, c.Spec, "may only hold up to 2 values"))
	}
	families := map[bool]bool{}
	for i, text := range c.Spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), text)...)
		if p, err := netip.ParsePrefix(text); err == nil {
			if families[p.Addr().Is4()] {
				errs = append(errs, field.Invalid(path, c.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
			}
			families[p.Addr().Is4()] = true
		}
	}
	return errs
}

// validateServiceCIDRUpdate lets a range of the other family be added, no more.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("spec", "cidrs")
	switch was, is := old.Spec.CIDRs, c.Spec.CIDRs; {
	case len(was) == 1 && len(is) == 2:
		errs = append(errs, immutable(is[0], was[0], path.Index(0))...)
		errs = append(errs, validateServiceCIDR(c)...)
	default:
		errs = append(errs, immutable(is, was, path)...)
	}
	return errs
}

func validateServiceCIDRStatusUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	return validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta) // conditions may lack a reason, as that of the default range does
}
