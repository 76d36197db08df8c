package quota

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// legacy are the resources that can be counted by a name without "count/".
var legacy = map[schema.GroupResource]corev1.ResourceName{
	{Resource: "configmaps"}:             corev1.ResourceConfigMaps,
	{Resource: "resourcequotas"}:         corev1.ResourceQuotas,
	{Resource: "replicationcontrollers"}: corev1.ResourceReplicationControllers,
	{Resource: "secrets"}:                corev1.ResourceSecrets,
}

// Resources that are measured, not only counted.
var (
	Pods     = schema.GroupResource{Resource: "pods"}
	Services = schema.GroupResource{Resource: "services"}
	Claims   = schema.GroupResource{Resource: "persistentvolumeclaims"}
)

// CountName is the name by which the objects of any resource are counted.
func CountName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// Counts lists the resources that have to be looked at for a quota with these hard limits.
func Counts(hard corev1.ResourceList) []schema.GroupResource {
	seen := map[schema.GroupResource]bool{}
	for name := range hard {
		if gr, ok := resourceOf(name); ok {
			seen[gr] = true
		}
	}
	var out []schema.GroupResource
	for gr := range seen {
		out = append(out, gr)
	}
	return out
}

// resourceOf tells whose objects a name measures.
func resourceOf(name corev1.ResourceName) (schema.GroupResource, bool) {
	if counted, ok := strings.CutPrefix(string(name), "count/"); ok {
		return schema.ParseGroupResource(counted), counted != ""
	}
	for gr, alias := range legacy {
		if name == alias {
			return gr, true
		}
	}
	for _, gr := range []schema.GroupResource{Pods, Services, Claims} {
		if measures(gr, name) {
			return gr, true
		}
	}
	return schema.GroupResource{}, false
}

// measures tells whether the objects of gr use the named resource.
func measures(gr schema.GroupResource, name corev1.ResourceName) bool {
	switch {
	case name == CountName(gr), legacy[gr] != "" && name == legacy[gr]:
		return true
	case gr == Pods:
		return measuresPod(name)
	case gr == Services:
		return name == corev1.ResourceServices || name == corev1.ResourceServicesNodePorts || name == corev1.ResourceServicesLoadBalancers
	case gr == Claims:
		return measuresClaim(name)
	}
	return false
}

// Measured is the part of hard that the objects of gr use.
func Measured(gr schema.GroupResource, hard corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range hard {
		if measures(gr, name) {
			out[name] = q
		}
	}
	return out
}

// Usage is what one object uses. now decides about pods that should be gone.
func Usage(gr schema.GroupResource, obj runtime.Object, now time.Time) corev1.ResourceList {
	use := corev1.ResourceList{CountName(gr): one()}
	if alias := legacy[gr]; alias != "" {
		use[alias] = one()
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(use, o, now)
	case *corev1.Service:
		serviceUsage(use, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(use, o)
	}
	return use
}

func one() resource.Quantity { return *resource.NewQuantity(1, resource.DecimalSI) }

func number(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// Selectors are a quota's scopes as requirements, those of both fields.
func Selectors(spec *corev1.ResourceQuotaSpec) []corev1.ScopedResourceSelectorRequirement {
	var all []corev1.ScopedResourceSelectorRequirement
	for _, scope := range spec.Scopes {
		all = append(all, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if spec.ScopeSelector != nil {
		all = append(all, spec.ScopeSelector.MatchExpressions...)
	}
	return all
}

// InScopes tells whether an object is of all scopes of a quota. Only pods and claims are of any.
func InScopes(spec *corev1.ResourceQuotaSpec, obj runtime.Object) (bool, error) {
	for _, s := range Selectors(spec) {
		ok, err := inScope(s, obj)
		if err != nil {
			return false, err
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

func inScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podInScope(s, o)
	case *corev1.PersistentVolumeClaim:
		return claimInScope(s, o)
	}
	return false, nil
}

// selects applies a requirement to the class names an object has.
func selects(s corev1.ScopedResourceSelectorRequirement, names []string) (bool, error) {
	among := func() bool {
		for _, v := range s.Values {
			for _, n := range names {
				if v == n {
					return true
				}
			}
		}
		return false
	}
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(names) > 0, nil
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(names) == 0, nil
	case corev1.ScopeSelectorOpIn:
		return among(), nil
	case corev1.ScopeSelectorOpNotIn:
		return !among(), nil
	}
	return false, fmt.Errorf("failed to parse and convert selector: %q is not a valid scope selector operator", s.Operator)
}

// Charged tells whether a write of this kind can use more than there was: creations, and updates of what is measured.
func Charged(gr schema.GroupResource, subresource string, create bool) bool {
	switch {
	case create:
		return subresource == ""
	case gr == Pods:
		return subresource == "resize"
	case gr == Services, gr == Claims:
		return subresource == ""
	}
	return false
}
