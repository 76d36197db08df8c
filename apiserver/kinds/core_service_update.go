package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// A service's fields depend on each other, and some are allocated by the server. Clients that do not know all of them, or
// only mean to change the type, leave fields out or behind; the functions here find out what they meant.
// Where a client changed a field itself, it is left for validation to judge.

func prepareServiceCreate(s *corev1.Service) {
	s.Status = corev1.ServiceStatus{}
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = *old.Status.DeepCopy()
	keepAllocated(&s.Spec, &old.Spec)
	syncClusterIPs(&s.Spec, &old.Spec)
	dropTypeDependent(&s.Spec, &old.Spec)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// keepAllocated carries over what the server allocated and the client left out.
func keepAllocated(spec, old *corev1.ServiceSpec) {
	if needsClusterIP(old) && needsClusterIP(spec) {
		setDefault(&spec.ClusterIP, old.ClusterIP)
		if len(spec.ClusterIPs) == 0 && spec.ClusterIP == old.ClusterIP {
			spec.ClusterIPs = slices.Clone(old.ClusterIPs)
		}
	}
	if needsNodePort(old) && needsNodePort(spec) {
		keepNodePorts(spec, old)
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(spec) {
		setDefault(&spec.HealthCheckNodePort, old.HealthCheckNodePort)
	}
}

// keepNodePorts gives ports without a node port that of the old port of their name, unless another has taken it.
func keepNodePorts(spec, old *corev1.ServiceSpec) {
	byName := map[string]int32{}
	for _, p := range old.Ports {
		byName[p.Name] = p.NodePort
	}
	taken := nodePorts(spec)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if port := byName[p.Name]; p.NodePort == 0 && !taken[port] {
			p.NodePort = port
		}
	}
}

// nodePorts is the set of the node ports that are given.
func nodePorts(spec *corev1.ServiceSpec) map[int32]bool {
	ports := map[int32]bool{}
	for _, p := range spec.Ports {
		if p.NodePort != 0 {
			ports[p.NodePort] = true
		}
	}
	return ports
}

// syncClusterIPs makes clusterIPs follow clusterIP where the client changed only that (it may not know the other).
func syncClusterIPs(spec, old *corev1.ServiceSpec) {
	if len(old.ClusterIPs) > 0 && len(spec.ClusterIPs) == 0 && old.ClusterIP == spec.ClusterIP {
		spec.ClusterIPs = slices.Clone(old.ClusterIPs)
	}
	if old.ClusterIP == spec.ClusterIP || !slices.Equal(old.ClusterIPs, spec.ClusterIPs) {
		return
	}
	if spec.ClusterIP == "" {
		spec.ClusterIPs = nil
	} else {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// dropTypeDependent clears fields that do not apply to the type a service changes to, where the client did not set them
// along with it. What was allocated is released by the allocator, which compares old and new.
func dropTypeDependent(spec, old *corev1.ServiceSpec) {
	if needsClusterIP(old) && !needsClusterIP(spec) {
		if old.ClusterIP == spec.ClusterIP && slices.Equal(old.ClusterIPs, spec.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(old.IPFamilies, spec.IPFamilies) {
			spec.IPFamilies = nil
		}
		if apiequality.Semantic.DeepEqual(old.IPFamilyPolicy, spec.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if needsNodePort(old) && !needsNodePort(spec) && noNewNodePorts(spec, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(spec) && old.HealthCheckNodePort == spec.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if old.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		dropUnchanged(&spec.AllocateLoadBalancerNodePorts, old.AllocateLoadBalancerNodePorts)
		dropUnchanged(&spec.LoadBalancerClass, old.LoadBalancerClass)
	}
	if externallyAccessible(old) && !externallyAccessible(spec) && old.ExternalTrafficPolicy == spec.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

// dropUnchanged clears an optional field that has its old value.
func dropUnchanged[T comparable](p **T, old *T) {
	if *p != nil && old != nil && **p == *old {
		*p = nil
	}
}

func noNewNodePorts(spec, old *corev1.ServiceSpec) bool {
	had := nodePorts(old)
	for port := range nodePorts(spec) {
		if !had[port] {
			return false
		}
	}
	return true
}

func needsClusterIP(spec *corev1.ServiceSpec) bool {
	return spec.Type != corev1.ServiceTypeExternalName
}

func needsNodePort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
}

// needsHealthCheckPort reports whether a load balancer must find out which nodes have endpoints.
func needsHealthCheckPort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}
