package kinds

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// The limits of an EndpointSlice.
const (
	maxSliceEndpoints = 1000
	maxSliceAddresses = 100
	maxSlicePorts     = 20000
	maxSliceTopology  = 16
	maxSliceHints     = 8
)

func endpointSlices() []Kind {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return []Kind{{
		GVK:        discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Resource:   "endpointslices",
		Singular:   "endpointslice",
		Namespaced: true,
		Prefix:     "endpointslices",
		New:        func() runtime.Object { return &discoveryv1.EndpointSlice{} },
		NewList:    func() runtime.Object { return &discoveryv1.EndpointSliceList{} },

		Default:       on(defaultEndpointSlice),
		PrepareCreate: on(func(s *discoveryv1.EndpointSlice) { dropTopology(s, nil) }),
		PrepareUpdate: onUpdate(dropTopology),
		Validate: check(func(s *discoveryv1.EndpointSlice) field.ErrorList {
			return validateEndpointSlice(s, &discoveryv1.EndpointSlice{})
		}),
		ValidateUpdate:      checkUpdate(validateEndpointSliceUpdate),
		Warnings:            warn(endpointSliceWarnings),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AddressType", "string", doc["addressType"]),
			column("Ports", "string", doc["ports"]),
			column("Endpoints", "string", doc["endpoints"]),
			ageColumn(),
		},
		Cells: cells(func(s *discoveryv1.EndpointSlice, now metav1.Time) []any {
			return []any{s.Name, string(s.AddressType), slicePortsCell(s.Ports), sliceEndpointsCell(s.Endpoints), age(now, s.CreationTimestamp)}
		}),
	}}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		setDefaultPtr(&s.Ports[i].Name, "")
		setDefaultPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// dropTopology clears what only discovery/v1beta1 could set. Where an old endpoint named its node there, as that version
// did, the name moves to its field. Unchanged endpoints are left alone.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	nodes := map[string]bool{}
	if old != nil {
		if apiequality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) {
			return
		}
		for _, e := range old.Endpoints {
			if node, ok := e.DeprecatedTopology[corev1.LabelHostname]; ok {
				nodes[node] = true
			}
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		node := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && nodes[node] && len(apivalidation.NameIsDNSSubdomain(node, false)) == 0 {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateEndpointSlice(s, old)
	return append(errs, immutable(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
}

// validateEndpointSlice checks a slice; old is empty on create.
func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, oneOf(s.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	errs = append(errs, sliceEndpoints(s, old, field.NewPath("endpoints"))...)
	return append(errs, slicePorts(s.Ports, field.NewPath("ports"))...)
}

func sliceEndpoints(s, old *discoveryv1.EndpointSlice, path *field.Path) field.ErrorList {
	if len(s.Endpoints) > maxSliceEndpoints {
		return field.ErrorList{field.TooMany(path, len(s.Endpoints), maxSliceEndpoints)}
	}
	var had []string
	for i := range old.Endpoints {
		had = append(had, old.Endpoints[i].Addresses...)
	}
	var errs field.ErrorList
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], path.Index(i)
		errs = append(errs, sliceAddresses(e.Addresses, s.AddressType, had, at.Child("addresses"))...)
		errs = append(errs, sliceEndpoint(e, at)...)
	}
	return errs
}

func sliceAddresses(addresses []string, typ discoveryv1.AddressType, had []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(addresses) == 0 {
		errs = append(errs, field.Required(path, "must contain at least 1 address"))
	} else if len(addresses) > maxSliceAddresses {
		errs = append(errs, field.TooMany(path, len(addresses), maxSliceAddresses))
	}
	for i, address := range addresses {
		at := path.Index(i)
		switch typ {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			errs = append(errs, sliceAddress(address, typ, had, at)...)
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(at, address)...)
		}
	}
	return errs
}

func sliceAddress(address string, typ discoveryv1.AddressType, had []string, path *field.Path) field.ErrorList {
	if errs := legacyIP(address, path, had); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	if netutils.IsIPv6String(address) != (typ == discoveryv1.AddressTypeIPv6) {
		errs = append(errs, field.Invalid(path, address, fmt.Sprintf("must be an %s address", typ)))
	}
	return append(errs, endpointIP(address, path)...)
}

// sliceEndpoint checks all of an endpoint but its addresses.
func sliceEndpoint(e *discoveryv1.Endpoint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	topology := path.Child("deprecatedTopology")
	if len(e.DeprecatedTopology) > maxSliceTopology {
		errs = append(errs, field.TooMany(topology, len(e.DeprecatedTopology), maxSliceTopology))
	}
	errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if e.Hostname != nil {
		errs = append(errs, dnsLabel(*e.Hostname, path.Child("hostname"))...)
	}
	if e.Hints == nil {
		return errs
	}
	var zones, nodes []string
	for _, z := range e.Hints.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range e.Hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	node := func(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }
	errs = append(errs, sliceHints(zones, validation.IsValidLabelValue, path.Child("hints", "forZones"))...)
	return append(errs, sliceHints(nodes, node, path.Child("hints", "forNodes"))...)
}

func sliceHints(names []string, check func(string) []string, path *field.Path) field.ErrorList {
	if len(names) > maxSliceHints {
		return field.ErrorList{field.TooMany(path, len(names), maxSliceHints)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range names {
		at := path.Index(i).Child("name")
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
		errs = append(errs, invalid(at, name, check(name))...)
	}
	return errs
}

func slicePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxSlicePorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxSlicePorts)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			errs = append(errs, dnsLabel(name, at.Child("name"))...)
		}
		if names[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, among(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, qualifiedName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}

func endpointSliceWarnings(s, _ *discoveryv1.EndpointSlice) []string {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return []string{fmt.Sprintf("%s: FQDN endpoints are deprecated", field.NewPath("spec", "addressType"))}
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return nil // they write addresses in the usual form
	}
	var warnings []string
	for i := range s.Endpoints {
		for j, address := range s.Endpoints[i].Addresses {
			warnings = append(warnings, ipWarnings(address, field.NewPath("endpoints").Index(i).Child("addresses").Index(j))...)
		}
	}
	return warnings
}

func slicePortsCell(ports []discoveryv1.EndpointPort) string {
	var shown shortList
	for _, p := range ports {
		switch {
		case p.Port != nil:
			shown.add(strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			shown.add(*p.Name)
		default:
			shown.add("*")
		}
	}
	return orUnset(shown.String())
}

func sliceEndpointsCell(endpoints []discoveryv1.Endpoint) string {
	var shown shortList
	for i := range endpoints {
		for _, address := range endpoints[i].Addresses {
			shown.add(address)
		}
	}
	return orUnset(shown.String())
}

func orUnset(s string) string {
	if s == "" {
		return "<unset>"
	}
	return s
}
