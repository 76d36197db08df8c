//lint:file-ignore SA1019 Endpoints are deprecated, and served.

package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

func TestEndpointsValidation(t *testing.T) {
	k := kindOf(t, "", "endpoints")
	for name, c := range map[string]struct {
		subset corev1.EndpointSubset
		want   []string
	}{
		"good": {subset: corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}},
		"empty": {
			want: []string{"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		},
		"addresses": {
			subset: corev1.EndpointSubset{
				Addresses: []corev1.EndpointAddress{{IP: "127.0.0.1"}, {IP: "x"}, {IP: "10.0.0.1", Hostname: "a.b", NodeName: ptr("_")}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "fe80::1"}},
			},
			want: []string{
				`subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
				`subsets[0].addresses[1].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
				`subsets[0].addresses[2].hostname: Invalid value: "a.b": must not contain dots`,
				`subsets[0].addresses[2].nodeName: Invalid value: "_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
				`subsets[0].notReadyAddresses[0].ip: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`,
			},
		},
		"ports": {
			subset: corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 0}, {Name: "a", Port: 1, Protocol: "X"}}},
			want: []string{
				"subsets[0].ports[0].name: Required value",
				"subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
				`subsets[0].ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := &corev1.Endpoints{ObjectMeta: configMeta, Subsets: []corev1.EndpointSubset{c.subset}}
			wantTexts(t, create(k, e), c.want...)
		})
	}
}

func TestDeprecation(t *testing.T) {
	if have := kindOf(t, "", "endpoints").Deprecation(); have != "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice" {
		t.Error(have)
	}
	if have := kindOf(t, "", "services").Deprecation(); have != "" {
		t.Error(have)
	}
}

func TestPackSubsets(t *testing.T) {
	address := func(ip string) corev1.EndpointAddress { return corev1.EndpointAddress{IP: ip} }
	http := corev1.EndpointPort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	dns := corev1.EndpointPort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}
	have := packSubsets([]corev1.EndpointSubset{
		{Addresses: []corev1.EndpointAddress{address("10.0.0.2")}, Ports: []corev1.EndpointPort{http, dns}},
		{Addresses: []corev1.EndpointAddress{address("10.0.0.1")}, Ports: []corev1.EndpointPort{http}},
		{Addresses: []corev1.EndpointAddress{address("10.0.0.3")}, NotReadyAddresses: []corev1.EndpointAddress{address("10.0.0.3")}, Ports: []corev1.EndpointPort{http}},
		{Addresses: []corev1.EndpointAddress{address("10.0.0.4")}},
	})
	want := []corev1.EndpointSubset{
		{Addresses: []corev1.EndpointAddress{address("10.0.0.1"), address("10.0.0.2")}, NotReadyAddresses: []corev1.EndpointAddress{address("10.0.0.3")}, Ports: []corev1.EndpointPort{http}},
		{Addresses: []corev1.EndpointAddress{address("10.0.0.2")}, Ports: []corev1.EndpointPort{dns}},
		{Addresses: []corev1.EndpointAddress{address("10.0.0.4")}},
	}
	if !apiequality.Semantic.DeepEqual(have, want) {
		t.Errorf("have %+v\nwant %+v", have, want)
	}
	if again := packSubsets(have); !apiequality.Semantic.DeepEqual(again, have) {
		t.Errorf("packed again: %+v", again)
	}
}

func TestEndpointsCell(t *testing.T) {
	e := &corev1.Endpoints{}
	if have := endpointsCell(e); have != "<none>" {
		t.Error(have)
	}
	e.Subsets = []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "fd00::1"}},
		Ports:     []corev1.EndpointPort{{Port: 80}, {Port: 443}},
	}, {Addresses: []corev1.EndpointAddress{{IP: "10.0.0.9"}}}}
	if have := endpointsCell(e); have != "10.0.0.1:80,[fd00::1]:80,10.0.0.1:443 + 2 more..." {
		t.Error(have)
	}
	if have := slicePortsCell(nil); have != "<unset>" {
		t.Error(have)
	}
	if have := slicePortsCell([]discoveryv1.EndpointPort{{Port: ptr(int32(80))}, {Name: ptr("a")}, {}}); have != "80,a,*" {
		t.Error(have)
	}
}

func TestEndpointSlice(t *testing.T) {
	k := kindOf(t, "discovery.k8s.io", "endpointslices")
	slice := func(edit func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: configMeta, AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}, Ports: []discoveryv1.EndpointPort{{Port: ptr(int32(80))}},
		}
		edit(s)
		return s
	}
	for name, c := range map[string]struct {
		edit func(*discoveryv1.EndpointSlice)
		want []string
	}{
		"good":         {edit: func(s *discoveryv1.EndpointSlice) {}},
		"no type":      {edit: func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, want: []string{"addressType: Required value"}},
		"unknown type": {edit: func(s *discoveryv1.EndpointSlice) { s.AddressType = "IP" }, want: []string{`addressType: Unsupported value: "IP": supported values: "FQDN", "IPv4", "IPv6"`}},
		"no address":   {edit: func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil }, want: []string{"endpoints[0].addresses: Required value: must contain at least 1 address"}},
		"many addresses": {edit: func(s *discoveryv1.EndpointSlice) {
			s.AddressType = "FQDN"
			s.Endpoints[0].Addresses = repeat("a.b", 101)
		}, want: []string{"endpoints[0].addresses: Too many: 101: must have at most 100 items"}},
		"many endpoints":  {edit: func(s *discoveryv1.EndpointSlice) { s.Endpoints = make([]discoveryv1.Endpoint, 1001) }, want: []string{"endpoints: Too many: 1001: must have at most 1000 items"}},
		"other family":    {edit: func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = []string{"fd00::1"} }, want: []string{`endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address`}},
		"loopback":        {edit: func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = []string{"127.0.0.1"} }, want: []string{`endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		"name":            {edit: func(s *discoveryv1.EndpointSlice) { s.AddressType = "FQDN"; s.Endpoints[0].Addresses = []string{"a"} }, want: []string{`endpoints[0].addresses[0]: Invalid value: "a": should be a domain with at least two segments separated by dots`}},
		"old topology":    {edit: func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].DeprecatedTopology = map[string]string{"_": "_"} }},
		"unnamed ports":   {edit: func(s *discoveryv1.EndpointSlice) { s.Ports = append(s.Ports, discoveryv1.EndpointPort{}) }, want: []string{`ports[1].name: Duplicate value: ""`}},
		"port's protocol": {edit: func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = ptr(corev1.Protocol("X")) }, want: []string{`ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`}},
		"hints": {
			edit: func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}}, ForNodes: make([]discoveryv1.ForNode, 9)}
			},
			want: []string{`endpoints[0].hints.forZones[1].name: Duplicate value: "a"`, "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"},
		},
	} {
		t.Run(name, func(t *testing.T) { wantTexts(t, create(k, slice(c.edit)), c.want...) })
	}
	old := slice(func(s *discoveryv1.EndpointSlice) {
		s.Endpoints[0].DeprecatedTopology = map[string]string{corev1.LabelHostname: "n1"}
	})
	s := old.DeepCopy()
	s.AddressType, s.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"fd00::1"}
	wantTexts(t, update(k, s, old), `addressType: Invalid value: "IPv6": field is immutable`)
	if s.Endpoints[0].DeprecatedTopology != nil || s.Endpoints[0].NodeName == nil || *s.Endpoints[0].NodeName != "n1" {
		t.Errorf("updated: %+v", s.Endpoints[0])
	}
}

func repeat(s string, n int) []string {
	var all []string
	for range n {
		all = append(all, s)
	}
	return all
}
