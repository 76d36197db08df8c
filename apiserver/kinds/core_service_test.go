package kinds

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// newService is a valid one as the allocator leaves it, changed by edits before defaulting.
func newService(edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			ClusterIP:  "10.96.0.7",
			ClusterIPs: []string{"10.96.0.7"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: ptr(corev1.IPFamilyPolicySingleStack),
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
	for _, e := range edits {
		e(s)
	}
	defaultService(s)
	return s
}

func externalName(s *corev1.Service) {
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com."}
}

func nodePort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, port }
}

func loadBalancer(s *corev1.Service) {
	nodePort(30001)(s)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
}

func TestServiceDefaults(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
		Ports: []corev1.ServicePort{{Port: 80}, {Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("dns")}},
	}}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {Hostname: "lb"}}
	defaultService(s)
	want := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
		SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(10800))}},
		Ports: []corev1.ServicePort{
			{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(80)},
			{Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("dns")},
		},
		ExternalTrafficPolicy:         corev1.ServiceExternalTrafficPolicyCluster,
		InternalTrafficPolicy:         ptr(corev1.ServiceInternalTrafficPolicyCluster),
		AllocateLoadBalancerNodePorts: ptr(true),
	}}
	want.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: ptr(corev1.LoadBalancerIPModeVIP)}, {Hostname: "lb"}}
	if !apiequality.Semantic.DeepEqual(s, want) {
		t.Errorf("have %+v\nwant %+v", s, want)
	}
	plain := newService()
	if plain.Spec.Type != corev1.ServiceTypeClusterIP || plain.Spec.SessionAffinity != corev1.ServiceAffinityNone ||
		plain.Spec.ExternalTrafficPolicy != "" || plain.Spec.AllocateLoadBalancerNodePorts != nil {
		t.Errorf("defaults of a plain service: %+v", plain.Spec)
	}
	name := newService(externalName)
	if name.Spec.InternalTrafficPolicy != nil {
		t.Error("an ExternalName has a traffic policy")
	}
}

func TestServiceValidation(t *testing.T) {
	k := kindOf(t, "", "services")
	for name, c := range map[string]struct {
		edit func(*corev1.Service)
		want []string
	}{
		"cluster IP":                    {},
		"node port":                     {edit: nodePort(30001)},
		"load balancer":                 {edit: loadBalancer},
		"external name":                 {edit: externalName},
		"name that begins with a digit": {edit: func(s *corev1.Service) { s.Name = "2048" }},
		"bad name": {
			edit: func(s *corev1.Service) { s.Name = "a.b" },
			want: []string{`metadata.name: Invalid value: "a.b": must not contain dots`},
		},
		"headless without ports": {edit: func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports = "None", []string{"None"}, nil
		}},
		"no ports": {
			edit: func(s *corev1.Service) { s.Spec.Ports = nil },
			want: []string{"spec.ports: Required value"},
		},
		"unnamed among several": {
			edit: func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 80}, {Port: 443, Name: "tls"}} },
			want: []string{"spec.ports[0].name: Required value"},
		},
		"duplicate names and ports": {
			edit: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{{Port: 80, Name: "a"}, {Port: 80, Name: "a"}}
			},
			want: []string{
				`spec.ports[1].name: Duplicate value: "a"`,
				`spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}`,
			},
		},
		"one port in two protocols": {edit: func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: 53, Name: "a"}, {Port: 53, Name: "b", Protocol: corev1.ProtocolUDP}}
		}},
		"bad port": {
			edit: func(s *corev1.Service) {
				s.Spec.Ports[0] = corev1.ServicePort{Port: 70000, Protocol: "ICMP", TargetPort: intstr.FromString("way-too-long-a-name"), AppProtocol: ptr("a/b/c")}
			},
			want: []string{
				"spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
				`spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`,
				`spec.ports[0].targetPort: Invalid value: "way-too-long-a-name": must be no more than 15 characters`,
				`spec.ports[0].appProtocol: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
			},
		},
		"node port of a cluster IP": {
			edit: func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30001 },
			want: []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		},
		"duplicate node ports": {
			edit: func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.Ports = []corev1.ServicePort{{Port: 80, Name: "a", NodePort: 30001}, {Port: 81, Name: "b", NodePort: 30001}}
			},
			want: []string{"spec.ports[1].nodePort: Duplicate value: 30001"},
		},
		"unknown type": {
			edit: func(s *corev1.Service) { s.Spec.Type = "Fast" },
			want: []string{`spec.type: Unsupported value: "Fast": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		},
		"external name without a name": {
			edit: func(s *corev1.Service) { externalName(s); s.Spec.ExternalName = "." },
			want: []string{"spec.externalName: Required value"},
		},
		"external name with addresses": {
			edit: func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "a.b" },
			want: []string{
				"spec.clusterIPs: Forbidden: may not be set for ExternalName services",
				"spec.ipFamilies: Forbidden: may not be set for ExternalName services",
				"spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
			},
		},
		"headless node port": {
			edit: func(s *corev1.Service) {
				nodePort(30001)(s)
				s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"}
			},
			want: []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`},
		},
		"cluster IP that is none": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0", []string{"10.96.0"} },
			want: []string{`spec.clusterIPs[0]: Invalid value: "10.96.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		},
		"cluster IP with leading zeros": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.07", []string{"10.96.0.07"} },
			want: []string{`spec.clusterIPs[0]: Invalid value: "10.96.0.07": must not have leading 0s`},
		},
		"cluster IPs that differ": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.8"} },
			want: []string{"spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: first value must match `clusterIP`"},
		},
		"two of one family": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.7", "10.96.0.8"} },
			want: []string{`spec.clusterIPs: Invalid value: ["10.96.0.7","10.96.0.8"]: may specify no more than one IP for each IP family`},
		},
		"address of another family": {
			edit: func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} },
			want: []string{"spec.clusterIPs[0]: Invalid value: \"10.96.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		},
		"families": {
			edit: func(s *corev1.Service) {
				s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv4Protocol, "IPv5"}
				s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicy("Any"))
			},
			want: []string{
				`spec.ipFamilies[1]: Duplicate value: "IPv4"`,
				`spec.ipFamilies[2]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`,
				`spec.ipFamilyPolicy: Unsupported value: "Any": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`,
			},
		},
		"affinity": {
			edit: func(s *corev1.Service) {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(86401))}}
			},
			want: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"},
		},
		"external IPs": {
			edit: func(s *corev1.Service) {
				s.Spec.ExternalIPs = []string{"127.0.0.1", "0.0.0.0", "169.254.1.1", "host", "192.0.2.1"}
			},
			want: []string{
				`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
				`spec.externalIPs[1]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)`,
				`spec.externalIPs[2]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`,
				`spec.externalIPs[3]: Invalid value: "host": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			},
		},
		"load balancer's fields elsewhere": {
			edit: func(s *corev1.Service) {
				s.Spec.LoadBalancerClass, s.Spec.AllocateLoadBalancerNodePorts = ptr("a/b"), ptr(false)
				s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/33"}
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 30002
			},
			want: []string{
				"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
				"spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
				"spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
				`spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0/33": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
				`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`,
				"spec.healthCheckNodePort: Invalid value: 30002: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
			},
		},
		"local load balancer without a port": {
			edit: func(s *corev1.Service) {
				loadBalancer(s)
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			},
			want: []string{"spec.healthCheckNodePort: Required value"},
		},
		"source ranges by annotation": {
			edit: func(s *corev1.Service) {
				loadBalancer(s)
				s.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "10.0.0.0/8, 10.0.0.1/8"}
			},
			want: []string{`metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length`},
		},
		"policies": {
			edit: func(s *corev1.Service) {
				nodePort(30001)(s)
				s.Spec.ExternalTrafficPolicy = "Near"
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicy("Near"))
				s.Spec.TrafficDistribution = ptr("Near")
			},
			want: []string{
				`spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`,
				`spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`,
				`spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`,
			},
		},
		"topology annotations": {
			edit: func(s *corev1.Service) {
				s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto", corev1.DeprecatedAnnotationTopologyAwareHints: "Disabled"}
			},
			want: []string{`metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "Auto": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService()
			if c.edit != nil {
				s = newService(c.edit)
			}
			wantTexts(t, create(k, s), c.want...)
		})
	}
}

func TestServiceUpdate(t *testing.T) {
	k := kindOf(t, "", "services")
	for name, c := range map[string]struct {
		old  func(*corev1.Service) // nil: a plain one
		edit func(*corev1.Service)
		want []string
		// check looks at the result of an accepted update.
		check func(s *corev1.Service) bool
	}{
		"an old client's, without what was allocated": {
			old: nodePort(30001),
			edit: func(s *corev1.Service) {
				s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = "", nil, 0
			},
			check: func(s *corev1.Service) bool {
				return s.Spec.ClusterIP == "10.96.0.7" && len(s.Spec.ClusterIPs) == 1 && s.Spec.Ports[0].NodePort == 30001
			},
		},
		"a node port moves to another port": {
			old: nodePort(30001),
			edit: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{{Name: "x", Port: 81, NodePort: 30001}, {Name: "", Port: 80}}
			},
			want: []string{"spec.ports[1].name: Required value"},
		},
		"to cluster IP": {
			old:  nodePort(30001),
			edit: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP },
			check: func(s *corev1.Service) bool {
				return s.Spec.Ports[0].NodePort == 0 && s.Spec.ExternalTrafficPolicy == "" && s.Spec.ClusterIP == "10.96.0.7"
			},
		},
		"to cluster IP with a new node port": {
			old: nodePort(30001),
			edit: func(s *corev1.Service) {
				s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 30002
			},
			want: []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		},
		"load balancer to node port": {
			old: func(s *corev1.Service) {
				loadBalancer(s)
				s.Spec.LoadBalancerClass = ptr("example.com/lb")
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 30009
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
			},
			edit: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
			check: func(s *corev1.Service) bool {
				return s.Spec.LoadBalancerClass == nil && s.Spec.AllocateLoadBalancerNodePorts == nil && s.Spec.HealthCheckNodePort == 0 &&
					len(s.Status.LoadBalancer.Ingress) == 0 && s.Spec.Ports[0].NodePort == 30001
			},
		},
		"to external name": {
			edit: func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
			},
			check: func(s *corev1.Service) bool {
				return s.Spec.ClusterIP == "" && s.Spec.ClusterIPs == nil && s.Spec.IPFamilies == nil && s.Spec.IPFamilyPolicy == nil
			},
		},
		"another cluster IP": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.8" },
			want: []string{`spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set`},
		},
		"to headless": {
			edit: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
			want: []string{`spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`},
		},
		"another family": {
			edit: func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} },
			want: []string{
				`spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set`,
				"spec.clusterIPs[0]: Invalid value: \"10.96.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`",
			},
		},
		"release of the second address": {
			old: func(s *corev1.Service) {
				s.Spec.ClusterIPs = []string{"10.96.0.7", "fd00::7"}
				s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
				s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyRequireDualStack)
			},
			edit: func(s *corev1.Service) {
				s.Spec.ClusterIPs, s.Spec.IPFamilies = s.Spec.ClusterIPs[:1], s.Spec.IPFamilies[:1]
			},
			want: []string{
				`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be set to 'SingleStack' when releasing the secondary clusterIP`,
				`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be set to 'SingleStack' when releasing the secondary ipFamily`,
			},
		},
		"another class": {
			old:  func(s *corev1.Service) { loadBalancer(s); s.Spec.LoadBalancerClass = ptr("example.com/a") },
			edit: func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr("example.com/b") },
			want: []string{`spec.loadBalancerClass: Invalid value: "example.com/b": may not change once set`},
		},
		"an address of old stays": {
			old:  func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.000.002.001"} },
			edit: func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} },
		},
		"status": {
			edit:  func(s *corev1.Service) { s.Status.Conditions = []metav1.Condition{{Type: "Mine"}} },
			check: func(s *corev1.Service) bool { return len(s.Status.Conditions) == 0 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			old := newService()
			if c.old != nil {
				old = newService(c.old)
			}
			old.ResourceVersion = "1"
			s := old.DeepCopy()
			c.edit(s)
			wantTexts(t, update(k, s, old), c.want...)
			if c.check != nil && !c.check(s) {
				t.Errorf("result: %+v", s)
			}
		})
	}
}

func TestServiceStatusUpdate(t *testing.T) {
	k := kindOf(t, "", "services")
	old := newService(loadBalancer)
	old.ResourceVersion = "1"
	s := old.DeepCopy()
	s.Spec.ClusterIP = "10.96.0.9"
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
		{IP: "192.0.2.x"}, {Hostname: "192.0.2.1"}, {IPMode: ptr(corev1.LoadBalancerIPModeVIP)}, {IP: "192.0.2.2", IPMode: ptr(corev1.LoadBalancerIPMode("Q"))},
	}
	k.Status.PrepareUpdate(s, old)
	if s.Spec.ClusterIP != "10.96.0.7" {
		t.Error("a status update changed the spec")
	}
	wantTexts(t, k.Status.ValidateUpdate(s, old),
		`status.loadBalancer.ingress[0].ip: Invalid value: "192.0.2.x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
		"status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
		`status.loadBalancer.ingress[1].hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address`,
		"status.loadBalancer.ingress[2].ipMode: Forbidden: may not be specified when `ip` is not set",
		`status.loadBalancer.ingress[3].ipMode: Unsupported value: "Q": supported values: "Proxy", "VIP"`)
	plain := newService()
	plain.ResourceVersion = "1"
	s = plain.DeepCopy()
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.2"}}
	wantTexts(t, k.Status.ValidateUpdate(s, plain), "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'")
}

func TestServiceCells(t *testing.T) {
	k := kindOf(t, "", "services")
	for want, edit := range map[string]func(*corev1.Service){
		"web|ClusterIP|10.96.0.7|<none>|80/TCP|5m|app=web":             func(s *corev1.Service) {},
		"web|NodePort|10.96.0.7|<none>|80:30001/TCP|5m|app=web":        nodePort(30001),
		"web|LoadBalancer|10.96.0.7|<pending>|80:30001/TCP|5m|app=web": loadBalancer,
		"web|ExternalName|<none>|example.com.|<none>|5m|<none>":        externalName,
		"web|ClusterIP|None|<none>|<none>|5m|app=web":                  func(s *corev1.Service) { s.Spec.ClusterIPs, s.Spec.Ports = []string{"None"}, nil },
		"web|LoadBalancer|10.96.0.7|192.0.2.1,lb,192.0.2.9|80:30001/TCP|5m|app=web": func(s *corev1.Service) {
			loadBalancer(s)
			s.Spec.ExternalIPs = []string{"192.0.2.9"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb"}, {IP: "192.0.2.1"}, {IP: "192.0.2.1"}}
		},
	} {
		s := newService(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, edit)
		s.CreationTimestamp = metav1.NewTime(now.Add(-5 * time.Minute))
		if have := rowText(k.Cells(s, now)); have != want {
			t.Errorf("have %s\nwant %s", have, want)
		}
	}
}

func TestServiceWarnings(t *testing.T) {
	k := kindOf(t, "", "services")
	s := newService(func(s *corev1.Service) {
		s.Spec.ExternalIPs, s.Spec.ExternalName = []string{"192.0.2.1"}, "a.b"
		s.Spec.TrafficDistribution = ptr(corev1.ServiceTrafficDistributionPreferClose)
	})
	want := []string{
		"spec.externalIPs is deprecated and may no longer be implemented in some clusters",
		`spec.externalName is ignored when spec.type is not "ExternalName"`,
		`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`,
	}
	if have := k.Warnings(s, nil); !slices.Equal(have, want) {
		t.Errorf("warnings:\n\t%s", strings.Join(have, "\n\t"))
	}
}
