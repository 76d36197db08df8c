package kinds

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

func networkingKinds() []Kind {
	return []Kind{ingressClasses(), ingresses(), ipAddresses(), networkPolicies(), serviceCIDRs()}
}

func ingresses() Kind {
	return Kind{
		GVK:                 networkingv1.SchemeGroupVersion.WithKind("Ingress"),
		Resource:            "ingresses",
		Singular:            "ingress",
		ShortNames:          []string{"ing"},
		Namespaced:          true,
		Prefix:              "ingress",
		New:                 func() runtime.Object { return &networkingv1.Ingress{} },
		NewList:             func() runtime.Object { return &networkingv1.IngressList{} },
		PrepareCreate:       on(func(i *networkingv1.Ingress) { i.Status = networkingv1.IngressStatus{} }),
		PrepareUpdate:       onUpdate(func(i, old *networkingv1.Ingress) { i.Status = *old.Status.DeepCopy() }),
		Validate:            check(validateIngress),
		ValidateUpdate:      checkUpdate(validateIngressUpdate),
		Warnings:            warn(ingressWarnings),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
			column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
			column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
			column("Ports", "string", "Ports of TLS configurations that open"),
			ageColumn(),
		},
		Cells: cells(ingressCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(i, old *networkingv1.Ingress) { i.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(validateIngressStatusUpdate),
		},
	}
}

func ingressCells(i *networkingv1.Ingress, now metav1.Time) []any {
	class := cellNone
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var addresses []string
	for _, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			addresses = append(addresses, in.IP)
		} else if in.Hostname != "" {
			addresses = append(addresses, in.Hostname)
		}
	}
	return []any{i.Name, class, ingressHosts(i.Spec.Rules), strings.Join(addresses, ","), ports, age(now, i.CreationTimestamp)}
}

// ingressHosts are three at most, and how many more there are.
func ingressHosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	for i := range rules {
		if h := rules[i].Host; h != "" {
			hosts = append(hosts, h)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case len(hosts) > most:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts[:most], ","), len(hosts)-most)
	}
	return strings.Join(hosts, ",")
}

func ingressClasses() Kind {
	return Kind{
		GVK:                 networkingv1.SchemeGroupVersion.WithKind("IngressClass"),
		Resource:            "ingressclasses",
		Singular:            "ingressclass",
		Prefix:              "ingressclasses",
		New:                 func() runtime.Object { return &networkingv1.IngressClass{} },
		NewList:             func() runtime.Object { return &networkingv1.IngressClassList{} },
		Default:             on(defaultIngressClass),
		Validate:            check(validateIngressClass),
		ValidateUpdate:      checkUpdate(validateIngressClassUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Controller", "string", "Controller that is responsible for handling this class"),
			column("Parameters", "string", "A reference to a resource with additional parameters"),
			ageColumn(),
		},
		Cells: cells(func(c *networkingv1.IngressClass, now metav1.Time) []any {
			parameters := cellNone
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if p.APIGroup != nil {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, age(now, c.CreationTimestamp)}
		}),
	}
}

func defaultIngressClass(c *networkingv1.IngressClass) {
	if p := c.Spec.Parameters; p != nil {
		setDefaultPtr(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

func networkPolicies() Kind {
	return Kind{
		GVK:                 networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"),
		Resource:            "networkpolicies",
		Singular:            "networkpolicy",
		ShortNames:          []string{"netpol"},
		Namespaced:          true,
		Prefix:              "networkpolicies",
		New:                 func() runtime.Object { return &networkingv1.NetworkPolicy{} },
		NewList:             func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Default:             on(defaultNetworkPolicy),
		Validate:            check(validateNetworkPolicy),
		ValidateUpdate:      checkUpdate(validateNetworkPolicyUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			ageColumn(),
		},
		Cells: cells(func(p *networkingv1.NetworkPolicy, now metav1.Time) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(now, p.CreationTimestamp)}
		}),
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	for i := range p.Spec.Ingress {
		defaultPolicyPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPolicyPorts(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		setDefaultPtr(&ports[i].Protocol, "TCP")
	}
}

func ipAddresses() Kind {
	return Kind{
		GVK:                 networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		Resource:            "ipaddresses",
		Singular:            "ipaddress",
		ShortNames:          []string{"ip"},
		Prefix:              "ipaddresses",
		New:                 func() runtime.Object { return &networkingv1.IPAddress{} },
		NewList:             func() runtime.Object { return &networkingv1.IPAddressList{} },
		Validate:            check(validateIPAddress),
		ValidateUpdate:      checkUpdate(validateIPAddressUpdate),
		UnconditionalUpdate: true,
		Fields: fieldSet(func(a *networkingv1.IPAddress) fields.Set {
			set := fields.Set{"spec.parentRef.name": ""}
			if a.Spec.ParentRef != nil {
				set["spec.parentRef.name"] = a.Spec.ParentRef.Name
			}
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
			ageColumn(),
		},
		Cells: cells(func(a *networkingv1.IPAddress, now metav1.Time) []any {
			parent := cellNone
			if r := a.Spec.ParentRef; r != nil {
				parent = strings.Join(slices.DeleteFunc([]string{r.Resource + dotted(r.Group), r.Namespace, r.Name}, func(s string) bool { return s == "" }), "/")
			}
			return []any{a.Name, parent, age(now, a.CreationTimestamp)}
		}),
	}
}

func dotted(group string) string {
	if group == "" {
		return ""
	}
	return "." + group
}

func serviceCIDRs() Kind {
	return Kind{
		GVK:                 networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
		Resource:            "servicecidrs",
		Singular:            "servicecidr",
		Prefix:              "servicecidrs",
		New:                 func() runtime.Object { return &networkingv1.ServiceCIDR{} },
		NewList:             func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		PrepareCreate:       on(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareUpdate:       onUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Status = *old.Status.DeepCopy() }),
		Validate:            check(validateServiceCIDR),
		ValidateUpdate:      checkUpdate(validateServiceCIDRUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("CIDRs", "string", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			ageColumn(),
		},
		Cells: cells(func(c *networkingv1.ServiceCIDR, now metav1.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(now, c.CreationTimestamp)}
		}),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(validateServiceCIDRStatusUpdate),
		},
	}
}
