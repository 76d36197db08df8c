package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func services() []Kind {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Service"),
		Resource:   "services",
		Singular:   "service",
		ShortNames: []string{"svc"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "services/specs",
		New:        func() runtime.Object { return &corev1.Service{} },
		NewList:    func() runtime.Object { return &corev1.ServiceList{} },

		Default:             on(defaultService),
		PrepareCreate:       on(prepareServiceCreate),
		PrepareUpdate:       onUpdate(prepareServiceUpdate),
		Validate:            check(validateServiceCreate),
		ValidateUpdate:      checkUpdate(validateServiceUpdate),
		Warnings:            warn(serviceWarnings),
		NoGeneration:        true,
		CreateOnUpdate:      true,
		UnconditionalUpdate: true,
		Fields: fieldSet(func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", doc["type"]),
			column("Cluster-IP", "string", doc["clusterIP"]),
			column("External-IP", "string", doc["externalIPs"]),
			column("Port(s)", "string", doc["ports"]),
			ageColumn(),
			wideColumn("Selector", "string", doc["selector"]),
		},
		Cells: cells(serviceCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(s, old *corev1.Service) { s.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(validateServiceStatusUpdate),
		},
		Others: []string{"proxy"},
	}}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	setDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		defaultAffinityTimeout(spec)
	}
	setDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		setDefault(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(spec) {
		setDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if hasProxyPath(spec) {
		setDefaultPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	setDefaultPtr(&spec.AllocateLoadBalancerNodePorts, true)
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			setDefaultPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

func defaultAffinityTimeout(spec *corev1.ServiceSpec) {
	setDefaultPtr(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
	setDefaultPtr(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
	setDefaultPtr(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
}

// hasProxyPath reports whether proxies forward to the service (headless ones count, for simplicity's sake).
func hasProxyPath(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeClusterIP || needsNodePort(spec)
}

// externallyAccessible reports whether traffic from outside the cluster can reach the service.
func externallyAccessible(spec *corev1.ServiceSpec) bool {
	return needsNodePort(spec) || spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
}

func isHeadless(spec *corev1.ServiceSpec) bool {
	return len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func serviceWarnings(s, _ *corev1.Service) []string {
	var warnings []string
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		warnings = append(warnings, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
			corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	spec, path := &s.Spec, field.NewPath("spec")
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range spec.ClusterIPs {
			warnings = append(warnings, ipWarnings(ip, path.Child("clusterIPs").Index(i))...)
		}
	}
	headless := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone
	if headless {
		warnings = append(warnings, headlessWarnings(spec)...)
	}
	for i, ip := range spec.ExternalIPs {
		warnings = append(warnings, ipWarnings(ip, path.Child("externalIPs").Index(i))...)
	}
	if len(spec.ExternalIPs) > 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		warnings = append(warnings, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if spec.LoadBalancerIP != "" {
		warnings = append(warnings, ipWarnings(spec.LoadBalancerIP, path.Child("loadBalancerIP"))...)
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		if cidr := strings.TrimSpace(cidr); len(legacyCIDR(cidr, path, nil)) == 0 {
			warnings = append(warnings, validation.GetWarningsForCIDR(path.Child("loadBalancerSourceRanges").Index(i), cidr)...)
		}
	}
	return append(warnings, ignoredServiceFields(spec)...)
}

func ignoredServiceFields(spec *corev1.ServiceSpec) []string {
	var warnings []string
	if spec.Type == corev1.ServiceTypeExternalName && len(spec.ExternalIPs) > 0 {
		warnings = append(warnings, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	}
	if spec.Type != corev1.ServiceTypeExternalName && spec.ExternalName != "" {
		warnings = append(warnings, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if td := spec.TrafficDistribution; td != nil && *td == corev1.ServiceTrafficDistributionPreferClose {
		warnings = append(warnings, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q",
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return warnings
}

func headlessWarnings(spec *corev1.ServiceSpec) []string {
	var warnings []string
	const ignored = "%s is ignored for headless services"
	if spec.LoadBalancerIP != "" {
		warnings = append(warnings, fmt.Sprintf(ignored, "spec.loadBalancerIP"))
	}
	if len(spec.ExternalIPs) > 0 {
		warnings = append(warnings, fmt.Sprintf(ignored, "spec.externalIPs"))
	}
	if spec.SessionAffinity != corev1.ServiceAffinityNone {
		warnings = append(warnings, fmt.Sprintf(ignored, "spec.SessionAffinity"))
	}
	return warnings
}

// ipWarnings tells of addresses that are valid but written in an unusual way.
func ipWarnings(ip string, path *field.Path) []string {
	if len(validation.IsValidIPForLegacyField(path, ip, false, nil)) > 0 {
		return nil
	}
	return validation.GetWarningsForIP(path, ip)
}

func serviceCells(s *corev1.Service, now metav1.Time) []any {
	clusterIP := "<none>"
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	}
	ports := servicePorts(s.Spec.Ports)
	if ports == "" {
		ports = "<none>"
	}
	return []any{
		s.Name, string(s.Spec.Type), clusterIP, serviceExternalIPs(s), ports, age(now, s.CreationTimestamp),
		labels.FormatLabels(s.Spec.Selector),
	}
}

func servicePorts(ports []corev1.ServicePort) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			parts[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return strings.Join(parts, ",")
}

func serviceExternalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		if len(s.Spec.ExternalIPs) == 0 {
			return "<none>"
		}
		return strings.Join(s.Spec.ExternalIPs, ",")
	case corev1.ServiceTypeLoadBalancer:
		addresses := append(loadBalancerAddresses(s), s.Spec.ExternalIPs...)
		if len(addresses) == 0 {
			return "<pending>"
		}
		return strings.Join(addresses, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return "<unknown>"
}

// loadBalancerAddresses are those in the status, sorted.
func loadBalancerAddresses(s *corev1.Service) []string {
	var addresses []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			addresses = append(addresses, in.IP)
		} else if in.Hostname != "" {
			addresses = append(addresses, in.Hostname)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}
