package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func validateServiceCreate(s *corev1.Service) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel)
	return append(errs, validateService(s, &corev1.Service{})...)
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, changedClusterIPs(&s.Spec, &old.Spec)...)
	errs = append(errs, changedIPFamilies(&s.Spec, &old.Spec)...)
	errs = append(errs, changedLoadBalancerClass(&s.Spec, &old.Spec)...)
	if needsHealthCheckPort(&s.Spec) && needsHealthCheckPort(&old.Spec) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(s, old)...)
}

// validateService checks a service whose addresses and ports are allocated. old is empty on create; values it has are
// not held to rules that are stricter than those of its time.
func validateService(s, old *corev1.Service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := topologyAnnotations(s)
	if len(spec.Ports) == 0 && !isHeadless(spec) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	errs = append(errs, serviceTypeFields(spec, path)...)
	names := map[string]bool{}
	for i := range spec.Ports {
		errs = append(errs, servicePort(&spec.Ports[i], len(spec.Ports) > 1, names, path.Child("ports").Index(i))...)
	}
	errs = append(errs, metavalidation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, sessionAffinity(spec, path)...)
	errs = append(errs, serviceClusterIPs(spec, &old.Spec, path)...)
	errs = append(errs, externalIPs(spec, &old.Spec, path.Child("externalIPs"))...)
	errs = append(errs, oneOf(spec.Type, path.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, portConflicts(spec, path.Child("ports"))...)
	errs = append(errs, sourceRanges(s, old, path.Child("LoadBalancerSourceRanges"))...)
	errs = append(errs, loadBalancerFields(spec, path)...)
	errs = append(errs, trafficPolicies(spec, path)...)
	return errs
}

func topologyAnnotations(s *corev1.Service) field.ErrorList {
	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	if !hasHints || !hasMode || hints == mode {
		return nil
	}
	return field.ErrorList{field.Invalid(metadata().Child("annotations").Key(corev1.AnnotationTopologyMode), mode,
		fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
}

// serviceTypeFields checks what a type rules out or requires.
func serviceTypeFields(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if needsNodePort(spec) && isHeadless(spec) {
		return field.ErrorList{field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0],
			fmt.Sprintf("may not be set to 'None' for %s services", spec.Type))}
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		return nil
	}
	const detail = "may not be set for ExternalName services"
	var errs field.ErrorList
	if len(spec.ClusterIPs) > 0 {
		errs = append(errs, field.Forbidden(path.Child("clusterIPs"), detail))
	}
	if len(spec.IPFamilies) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ipFamilies"), detail))
	}
	if spec.IPFamilyPolicy != nil {
		errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), detail))
	}
	name := strings.TrimSuffix(spec.ExternalName, ".") // a final dot makes it fully qualified
	if name == "" {
		return append(errs, field.Required(path.Child("externalName"), ""))
	}
	return append(errs, dnsSubdomain(name, path.Child("externalName"))...)
}

func servicePort(p *corev1.ServicePort, nameRequired bool, names map[string]bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if nameRequired && p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if p.Name != "" {
		errs = append(errs, dnsLabel(p.Name, path.Child("name"))...)
		if names[p.Name] {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		}
		names[p.Name] = true
	}
	errs = append(errs, portNumber(p.Port, path.Child("port"))...)
	errs = append(errs, portProtocol(p.Protocol, path.Child("protocol"))...)
	errs = append(errs, portNumberOrName(p.TargetPort, path.Child("targetPort"))...)
	if p.AppProtocol != nil {
		errs = append(errs, qualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}

func portNumberOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	switch port.Type {
	case intstr.Int:
		return invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unknown type: %v", port.Type))}
}

func sessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := oneOf(spec.SessionAffinity, path.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config := path.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		errs = append(errs, clientIPAffinity(spec.SessionAffinityConfig, config)...)
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(config, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	}
	return errs
}

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

func clientIPAffinity(c *corev1.SessionAffinityConfig, path *field.Path) field.ErrorList {
	missing := func(p *field.Path) field.ErrorList {
		return field.ErrorList{field.Required(p, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP))}
	}
	clientIP := path.Child("clientIP")
	timeout := clientIP.Child("timeoutSeconds")
	switch {
	case c == nil:
		return missing(path)
	case c.ClientIP == nil:
		return missing(clientIP)
	case c.ClientIP.TimeoutSeconds == nil:
		return missing(timeout)
	}
	if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinitySeconds {
		return field.ErrorList{field.Invalid(timeout, t, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))}
	}
	return nil
}

func externalIPs(spec, old *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range spec.ExternalIPs {
		if bad := legacyIP(ip, path.Index(i), old.ExternalIPs); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, endpointIP(ip, path.Index(i))...)
		}
	}
	return errs
}

// portConflicts finds node ports where there may be none, and ports and node ports given twice for one protocol.
func portConflicts(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	if spec.Type == corev1.ServiceTypeClusterIP {
		for i, p := range spec.Ports {
			if p.NodePort != 0 {
				errs = append(errs, field.Forbidden(path.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	nodePorts := map[key]bool{}
	for i, p := range spec.Ports {
		k := key{p.Protocol, p.NodePort}
		if p.NodePort != 0 && nodePorts[k] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("nodePort"), p.NodePort))
		}
		nodePorts[k] = true
	}
	ports := map[key]bool{}
	for i, p := range spec.Ports {
		k := key{p.Protocol, p.Port}
		if ports[k] {
			errs = append(errs, field.Duplicate(path.Index(i), duplicatePort{Protocol: p.Protocol, Port: p.Port}))
		}
		ports[k] = true
	}
	return errs
}

// duplicatePort is how upstream shows a duplicate port in errors: its unversioned type, of which only the key is set.
type duplicatePort struct {
	Name        string
	Protocol    corev1.Protocol
	AppProtocol *string
	Port        int32
	TargetPort  intstr.IntOrString
	NodePort    int32
}

// sourceRanges checks the prefixes a load balancer admits, given by the field or, from before it, by an annotation.
func sourceRanges(s, old *corev1.Service, path *field.Path) field.ErrorList {
	var had []string
	ranges := s.Spec.LoadBalancerSourceRanges
	at := path.Index
	if len(ranges) > 0 {
		for _, r := range old.Spec.LoadBalancerSourceRanges {
			had = append(had, strings.TrimSpace(r))
		}
	} else {
		const annotation = corev1.AnnotationLoadBalancerSourceRangesKey
		value, ok := s.Annotations[annotation]
		if !ok {
			return nil
		}
		path = metadata().Child("annotations").Key(annotation)
		at = func(int) *field.Path { return path }
		if value = strings.TrimSpace(value); value != "" && s.Annotations[annotation] != old.Annotations[annotation] {
			ranges = strings.Split(value, ",")
		}
	}
	var errs field.ErrorList
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(path, "may only be used when `type` is 'LoadBalancer'"))
	}
	for i, r := range ranges {
		errs = append(errs, legacyCIDR(strings.TrimSpace(r), at(i), had)...)
	}
	return errs
}

func loadBalancerFields(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	const detail = "may only be used when `type` is 'LoadBalancer'"
	var errs field.ErrorList
	class := path.Child("loadBalancerClass")
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
		}
		if spec.LoadBalancerClass != nil {
			errs = append(errs, qualifiedName(*spec.LoadBalancerClass, class)...)
		}
		return errs
	}
	if spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), detail))
	}
	if spec.LoadBalancerClass != nil {
		errs = append(errs, field.Forbidden(class, detail))
	}
	return errs
}

func trafficPolicies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := externalTrafficPolicy(spec, path)
	internal := path.Child("internalTrafficPolicy")
	if p := spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, among(*p, internal, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if hasProxyPath(spec) {
		errs = append(errs, field.Required(internal, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, among(*d, path.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func externalTrafficPolicy(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	policy := path.Child("externalTrafficPolicy")
	if externallyAccessible(spec) {
		errs = oneOf(spec.ExternalTrafficPolicy, policy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(policy, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	port := path.Child("healthCheckNodePort")
	switch {
	case !needsHealthCheckPort(spec) && spec.HealthCheckNodePort != 0:
		errs = append(errs, field.Invalid(port, spec.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	case needsHealthCheckPort(spec) && spec.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(port, ""))
	case needsHealthCheckPort(spec):
		errs = append(errs, portNumber(spec.HealthCheckNodePort, port)...)
	}
	return errs
}

func validateServiceStatusUpdate(s, old *corev1.Service) field.ErrorList {
	errs := validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		return append(errs, field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	var had []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		had = append(had, in.IP)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		errs = append(errs, loadBalancerIngress(&s.Status.LoadBalancer.Ingress[i], had, path.Index(i))...)
	}
	return errs
}

func loadBalancerIngress(in *corev1.LoadBalancerIngress, had []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if in.IP != "" {
		errs = append(errs, legacyIP(in.IP, path.Child("ip"), had)...)
	}
	mode := path.Child("ipMode")
	switch {
	case in.IPMode == nil && in.IP != "":
		errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
	case in.IPMode != nil && in.IP == "":
		errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
	case in.IPMode != nil:
		errs = append(errs, among(*in.IPMode, mode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
	}
	if in.Hostname != "" {
		errs = append(errs, dnsSubdomain(in.Hostname, path.Child("hostname"))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(path.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
