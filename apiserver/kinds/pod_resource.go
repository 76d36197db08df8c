package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresource "k8s.io/component-helpers/resource"
)

// isHugePages reports whether the resource is memory in huge pages of some size.
func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNativeResource reports whether the name belongs to Kubernetes: without a domain, or of its own.
func isNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommittable reports whether limits of the resource may add up to more than there is.
func overcommittable(name corev1.ResourceName) bool {
	return isNativeResource(name) && !isHugePages(name)
}

// setResource sets one resource of a list that may be nil.
func setResource(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q.DeepCopy()
}

// QOSClass is the quality of service that a pod's resources ask for. Guaranteed: every container (or the pod as a whole) is limited in
// CPU and memory and requests just that. BestEffort: nothing is requested or limited. Burstable: all between.
func QOSClass(s *corev1.PodSpec) corev1.PodQOSClass {
	if s.Resources != nil && len(s.Resources.Requests)+len(s.Resources.Limits) > 0 {
		return qosOf([]*corev1.ResourceRequirements{s.Resources})
	}
	all := make([]*corev1.ResourceRequirements, 0, len(s.InitContainers)+len(s.Containers))
	for i := range s.Containers {
		all = append(all, &s.Containers[i].Resources)
	}
	for i := range s.InitContainers {
		all = append(all, &s.InitContainers[i].Resources)
	}
	return qosOf(all)
}

func qosOf(parts []*corev1.ResourceRequirements) corev1.PodQOSClass {
	requests, limits := map[corev1.ResourceName]resource.Quantity{}, map[corev1.ResourceName]resource.Quantity{}
	allLimited := true
	for _, r := range parts {
		sumComputeResources(requests, r.Requests)
		if sumComputeResources(limits, r.Limits) < 2 {
			allLimited = false
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if !allLimited || len(requests) != len(limits) {
		return corev1.PodQOSBurstable
	}
	for name, request := range requests {
		if limit, set := limits[name]; !set || limit.Cmp(request) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

// sumComputeResources adds the list's CPU and memory to sums and returns how many of the two it has.
func sumComputeResources(sums map[corev1.ResourceName]resource.Quantity, list corev1.ResourceList) int {
	found := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, set := list[name]
		if !set || q.Sign() <= 0 {
			continue
		}
		found++
		sum := sums[name].DeepCopy()
		sum.Add(q)
		sums[name] = sum
	}
	return found
}

// validateResources checks requests and limits. name says which resources there may be; claims are the devices that the pod has claimed.
func validateResources(r *corev1.ResourceRequirements, name func(corev1.ResourceName, *field.Path) field.ErrorList, claims sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	limits, requests := path.Child("limits"), path.Child("requests")
	for _, resourceName := range sortedResources(r.Limits) {
		errs = append(errs, validateAmount(resourceName, r.Limits[resourceName], name, limits)...)
	}
	for _, resourceName := range sortedResources(r.Requests) {
		request := r.Requests[resourceName]
		errs = append(errs, validateAmount(resourceName, request, name, requests)...)
		limit, limited := r.Limits[resourceName]
		switch {
		case !limited && !overcommittable(resourceName):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case !limited:
		case request.Cmp(limit) != 0 && !overcommittable(resourceName):
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be equal to %s limit of %s", resourceName, limit.String())))
		case request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", resourceName, limit.String())))
		}
	}
	if !hasResource(r, func(n corev1.ResourceName) bool { return n == corev1.ResourceCPU || n == corev1.ResourceMemory }) && hasResource(r, isHugePages) {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, validateClaimRefs(r.Claims, claims, path.Child("claims"))...)
}

func sortedResources(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

func hasResource(r *corev1.ResourceRequirements, is func(corev1.ResourceName) bool) bool {
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name := range list {
			if is(name) {
				return true
			}
		}
	}
	return false
}

func validateAmount(name corev1.ResourceName, q resource.Quantity, checkName func(corev1.ResourceName, *field.Path) field.ErrorList, list *field.Path) field.ErrorList {
	path := list.Key(string(name))
	errs := append(checkName(name, path), resourceQuantity(name, q, path)...)
	if isHugePages(name) && !wholePages(name, q) {
		errs = append(errs, field.Invalid(path, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name)))
	}
	return errs
}

// wholePages reports whether the amount is so many pages of the size that the name gives.
func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Value() <= 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

// standardResources are the names without a domain that mean something somewhere in the API.
var standardResources = sets.New(
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceRequestsStorage, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

// anyResourceName refuses what cannot be the name of a resource.
func anyResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if msgs := validation.IsQualifiedName(string(name)); len(msgs) > 0 {
		return invalid(path, name, msgs)
	}
	if !strings.Contains(string(name), "/") && !standardResources.Has(name) && !isHugePages(name) {
		return field.ErrorList{field.Invalid(path, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

// containerResourceName refuses what a container cannot ask for.
func containerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := anyResourceName(name, path)
	if strings.Contains(string(name), "/") {
		if !isNativeResource(name) && !isExtendedResource(name) {
			errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
		}
		return errs
	}
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return errs
	}
	if !isHugePages(name) {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
	}
	return errs
}

// podResourceName refuses what a pod as a whole cannot ask for.
func podResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := anyResourceName(name, path); len(errs) > 0 {
		return errs
	}
	if !podresource.IsSupportedPodLevelResource(name) {
		return field.ErrorList{field.NotSupported(path, name, sets.List(podresource.SupportedPodLevelResources()))}
	}
	return nil
}

// validateClaimRefs checks that each claim that a container uses is one of the pod's, and is not named twice: as a whole, or a request of it.
func validateClaimRefs(refs []corev1.ResourceClaim, claims sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ref := range refs {
		at := path.Index(i)
		if ref.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		errs = append(errs, repeatedClaim(ref, seen, at)...)
		if !claims.Has(ref.Name) {
			err := field.NotFound(at, ref.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if len(claims) > 0 {
				err.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(claims), ", ")
			}
			errs = append(errs, err)
		}
	}
	return errs
}

// repeatedClaim checks one reference against those seen before, and adds it to them.
func repeatedClaim(ref corev1.ResourceClaim, seen sets.Set[string], path *field.Path) field.ErrorList {
	if seen.Has(ref.Name) {
		return field.ErrorList{field.Duplicate(path, ref.Name)}
	}
	var errs field.ErrorList
	key := ref.Name
	if ref.Request != "" {
		errs = append(errs, dnsLabel(ref.Request, path.Child("request"))...)
		key += "/" + ref.Request
	}
	if seen.Has(key) {
		errs = append(errs, field.Duplicate(path, key))
	} else if ref.Request == "" {
		for _, other := range sets.List(seen) {
			if strings.HasPrefix(other, ref.Name+"/") {
				errs = append(errs, field.Duplicate(path, ref.Name))
			}
		}
	}
	seen.Insert(key)
	return errs
}

// podResources checks the resources of the pod as a whole, and that its containers fit in them.
func (c *podSpecCheck) podResources() field.ErrorList {
	r, path := c.spec.Resources, c.path.Child("resources")
	if r == nil {
		return nil
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, validateResources(r, podResourceName, c.claims, path)...)
	pod := &corev1.Pod{Spec: *c.spec}
	sums := podresource.AggregateContainerRequests(pod, podresource.PodResourcesOptions{})
	for _, name := range sortedResources(sums) {
		if whole, set := r.Requests[name]; set && whole.Cmp(sums[name]) < 0 {
			sum := sums[name]
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), whole.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	sums = podresource.AggregateContainerLimits(pod, podresource.PodResourcesOptions{})
	for _, name := range sortedResources(sums) {
		if whole, set := r.Limits[name]; set && isHugePages(name) && whole.Cmp(sums[name]) < 0 {
			sum := sums[name]
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), whole.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	for i := range c.spec.Containers {
		limits := c.spec.Containers[i].Resources.Limits
		for _, name := range sortedResources(limits) {
			if whole, set := r.Limits[name]; set && whole.Cmp(limits[name]) < 0 {
				limit := limits[name]
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String())))
			}
		}
	}
	return errs
}
