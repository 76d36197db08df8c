//lint:file-ignore SA1019 Endpoints are deprecated, and served.

package kinds

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func endpoints() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Endpoints"),
		Resource:   "endpoints",
		Singular:   "endpoints",
		ShortNames: []string{"ep"},
		Namespaced: true,
		Prefix:     "services/endpoints",
		New:        func() runtime.Object { return &corev1.Endpoints{} },
		NewList:    func() runtime.Object { return &corev1.EndpointsList{} },

		Default:             on(defaultEndpoints),
		PrepareCreate:       on(packValidSubsets),
		PrepareUpdate:       onUpdate(func(e, _ *corev1.Endpoints) { packValidSubsets(e) }),
		Validate:            check(func(e *corev1.Endpoints) field.ErrorList { return validateEndpoints(e, &corev1.Endpoints{}) }),
		ValidateUpdate:      checkUpdate(validateEndpointsUpdate),
		Warnings:            warn(endpointsWarnings),
		NoGeneration:        true,
		CreateOnUpdate:      true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]), ageColumn(),
		},
		Cells: cells(func(e *corev1.Endpoints, now metav1.Time) []any {
			return []any{e.Name, endpointsCell(e), age(now, e.CreationTimestamp)}
		}),
	}}
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			setDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

// packValidSubsets stores subsets in one form whatever the client wrote. Invalid ones are left as they are, so that
// errors name what the client knows.
func packValidSubsets(e *corev1.Endpoints) {
	if len(e.Subsets) > 0 && len(endpointSubsets(e.Subsets, anyAddress(e.Subsets), field.NewPath("subsets"))) == 0 {
		e.Subsets = packSubsets(e.Subsets)
	}
}

func validateEndpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	return append(validateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta), validateEndpoints(e, old)...)
}

func validateEndpoints(e, old *corev1.Endpoints) field.ErrorList {
	errs := validateMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, endpointSubsets(e.Subsets, anyAddress(old.Subsets), field.NewPath("subsets"))...)
}

// anyAddress lists the addresses of all subsets.
func anyAddress(subsets []corev1.EndpointSubset) []string {
	var ips []string
	for i := range subsets {
		for _, a := range subsets[i].Addresses {
			ips = append(ips, a.IP)
		}
		for _, a := range subsets[i].NotReadyAddresses {
			ips = append(ips, a.IP)
		}
	}
	return ips
}

func endpointSubsets(subsets []corev1.EndpointSubset, had []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range subsets {
		s, at := &subsets[i], path.Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, endpointAddress(&s.Addresses[j], had, at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, endpointAddress(&s.NotReadyAddresses[j], had, at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, endpointPort(&s.Ports[j], len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return errs
}

func endpointAddress(a *corev1.EndpointAddress, had []string, path *field.Path) field.ErrorList {
	errs := legacyIP(a.IP, path.Child("ip"), had)
	if a.Hostname != "" {
		errs = append(errs, dnsLabel(a.Hostname, path.Child("hostname"))...)
	}
	if a.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false))...)
	}
	if len(errs) == 0 {
		errs = endpointIP(a.IP, path.Child("ip"))
	}
	return errs
}

func endpointPort(p *corev1.EndpointPort, nameRequired bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if nameRequired && p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if p.Name != "" {
		errs = append(errs, dnsLabel(p.Name, path.Child("name"))...)
	}
	errs = append(errs, portNumber(p.Port, path.Child("port"))...)
	errs = append(errs, portProtocol(p.Protocol, path.Child("protocol"))...)
	if p.AppProtocol != nil {
		errs = append(errs, qualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}

func endpointsWarnings(e, _ *corev1.Endpoints) []string {
	var warnings []string
	for i := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, a := range e.Subsets[i].Addresses {
			warnings = append(warnings, ipWarnings(a.IP, path.Child("addresses").Index(j).Child("ip"))...)
		}
		for j, a := range e.Subsets[i].NotReadyAddresses {
			warnings = append(warnings, ipWarnings(a.IP, path.Child("notReadyAddresses").Index(j).Child("ip"))...)
		}
	}
	return warnings
}

// shownEndpoints is how many addresses or ports a table shows of an object.
const shownEndpoints = 3

func endpointsCell(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return "<none>"
	}
	var shown shortList
	for i := range e.Subsets {
		s := &e.Subsets[i]
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 { // a headless service's
				shown.add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				shown.add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return shown.String()
}

// shortList shows the first few of its elements and counts the others.
type shortList struct {
	first []string
	count int
}

func (l *shortList) add(s string) {
	if l.count++; l.count <= shownEndpoints {
		l.first = append(l.first, s)
	}
}

func (l *shortList) String() string {
	s := strings.Join(l.first, ",")
	if l.count > shownEndpoints {
		return fmt.Sprintf("%s + %d more...", s, l.count-shownEndpoints)
	}
	return s
}
