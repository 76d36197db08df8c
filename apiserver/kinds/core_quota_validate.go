package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	errs := validateMeta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	path, seen := field.NewPath("spec", "limits"), map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], path.Index(i)
		errs = append(errs, qualifiedOrStandard(string(item.Type), at.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		errs = append(errs, validateLimitItem(item, at)...)
	}
	return errs
}

func validateLimitRangeUpdate(l, old *corev1.LimitRange) field.ErrorList {
	return append(validateMetaUpdate(&l.ObjectMeta, &old.ObjectMeta), validateLimitRange(l)...)
}

// qualifiedOrStandard takes names of Kubernetes' own, which need no domain, and qualified ones.
func qualifiedOrStandard(value string, path *field.Path) field.ErrorList {
	errs := qualifiedName(value, path)
	if len(errs) > 0 || strings.Contains(value, "/") {
		return errs
	}
	switch corev1.LimitType(value) {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, "must be a standard limit type or fully qualified")}
}

func validateLimitItem(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	lists := []struct {
		field string
		list  corev1.ResourceList
	}{{"max", item.Max}, {"min", item.Min}, {"default", item.Default}, {"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio}}
	names := sets.New[corev1.ResourceName]()
	for _, l := range lists {
		if item.Type == corev1.LimitTypePod && strings.HasPrefix(l.field, "default") {
			if len(l.list) > 0 {
				errs = append(errs, field.Forbidden(at.Child(l.field), "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(l.list)) {
			names.Insert(name)
			errs = append(errs, limitResourceName(item.Type, name, at.Child(l.field).Key(string(name)))...)
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim && !hasKey(item.Max, corev1.ResourceStorage) && !hasKey(item.Min, corev1.ResourceStorage) {
		errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		errs = append(errs, validateLimitBounds(item, name, at)...)
	}
	return errs
}

func hasKey(list corev1.ResourceList, name corev1.ResourceName) bool {
	_, ok := list[name]
	return ok
}

func limitResourceName(limit corev1.LimitType, name corev1.ResourceName, path *field.Path) field.ErrorList {
	switch limit {
	case corev1.LimitTypePod, corev1.LimitTypeContainer:
		return containerResourceName(name, path)
	}
	return anyResourceName(name, path)
}

// validateLimitBounds compares what an item says of one resource: least <= default request <= default <= greatest.
func validateLimitBounds(item *corev1.LimitRangeItem, name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	below := func(low, high corev1.ResourceList, path *field.Path, text string) {
		l, okLow := low[name]
		h, okHigh := high[name]
		if okLow && okHigh && l.Cmp(h) > 0 {
			errs = append(errs, field.Invalid(path.Key(string(name)), l.String(), fmt.Sprintf(text, l.String(), h.String())))
		}
	}
	below(item.Min, item.Max, at.Child("min"), "min value %s is greater than max value %s")
	below(item.Min, item.DefaultRequest, at.Child("defaultRequest"), "min value %s is greater than default request value %s")
	below(item.DefaultRequest, item.Max, at.Child("defaultRequest"), "default request value %s is greater than max value %s")
	below(item.DefaultRequest, item.Default, at.Child("defaultRequest"), "default request value %s is greater than default limit value %s")
	below(item.Min, item.Default, at.Child("default"), "min value %s is greater than default value %s")
	below(item.Default, item.Max, at.Child("default"), "default value %s is greater than max value %s")
	if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
		errs = append(errs, validateLimitRatio(item, name, ratio, at.Child("maxLimitRequestRatio").Key(string(name)))...)
	}
	if !overcommittable(name) && item.Type == corev1.LimitTypeContainer {
		d, okDefault := item.Default[name]
		r, okRequest := item.DefaultRequest[name]
		if okDefault && okRequest && d.Cmp(r) != 0 {
			errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(name)), r.String(), fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", d.String(), r.String(), name)))
		}
	}
	return errs
}

func validateLimitRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, ratio resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		errs = append(errs, field.Invalid(path, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	least, okMin := item.Min[name]
	most, okMax := item.Max[name]
	if okMin && okMax && !least.IsZero() {
		if greatest := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > greatest {
			errs = append(errs, field.Invalid(path, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), greatest)))
		}
	}
	return errs
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	errs := validateMeta(&q.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateQuotaSpec(&q.Spec, field.NewPath("spec"))...)
	return append(errs, validateQuotaStatus(&q.Status)...)
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateMetaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validateQuotaSpec(&q.Spec, field.NewPath("spec"))...)
	path := field.NewPath("spec", "scopes")
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(path, q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
	}
	return errs
}

func validateResourceQuotaStatusUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateMetaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	if q.ResourceVersion == "" {
		errs = append(errs, field.Required(metadata().Child("resourceVersion"), ""))
	}
	return append(errs, validateQuotaStatus(&q.Status)...)
}

func validateQuotaStatus(s *corev1.ResourceQuotaStatus) field.ErrorList {
	errs := quotaAmounts(s.Hard, field.NewPath("status", "hard"))
	return append(errs, quotaAmounts(s.Used, field.NewPath("status", "used"))...)
}

func quotaAmounts(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(list)) {
		at := path.Key(string(name))
		errs = append(errs, quotaResourceName(name, at)...)
		errs = append(errs, resourceQuantity(name, list[name], at)...)
	}
	return errs
}

// standardQuotas are the names without a domain that a quota may limit.
var standardQuotas = sets.New[corev1.ResourceName](
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
	corev1.ResourceLimitsEphemeralStorage, corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices,
	corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

func quotaResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if standardQuota(name) {
		return qualifiedName(string(name), path)
	}
	errs := anyResourceName(name, path)
	if strings.Contains(string(name), "/") {
		return errs
	}
	return append(errs, field.Invalid(path, name, "must be a standard resource for quota"))
}

func validateQuotaSpec(s *corev1.ResourceQuotaSpec, path *field.Path) field.ErrorList {
	errs := quotaAmounts(s.Hard, path.Child("hard"))
	errs = append(errs, validateQuotaScopes(s, path)...)
	return append(errs, validateScopeSelector(s, path)...)
}

// knownScopes are those a quota may have.
var (
	knownScopes = sets.New(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass)
)

// scopeCounts tells whether a quota of a scope can count a resource.
func scopeCounts(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage || name == "count/persistentvolumeclaims" || strings.Contains(string(name), ".storageclass.storage.k8s.io/")
	}
	switch name {
	case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
		return true
	}
	return false
}

// standardQuota tells the names without a domain that a quota may limit.
func standardQuota(name corev1.ResourceName) bool {
	return standardQuotas.Has(name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

func validateQuotaScopes(s *corev1.ResourceQuotaSpec, path *field.Path) field.ErrorList {
	if len(s.Scopes) == 0 {
		return nil
	}
	var errs field.ErrorList
	have, at := sets.New(s.Scopes...), path.Child("scopes")
	for _, scope := range s.Scopes {
		if !knownScopes.Has(scope) {
			errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope"))
		}
		for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
			if knownScopes.Has(scope) && standardQuota(name) && !scopeCounts(scope, name) {
				errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
			}
		}
	}
	return append(errs, conflictingScopes(have, s.Scopes, at)...)
}

func conflictingScopes(have sets.Set[corev1.ResourceQuotaScope], shown []corev1.ResourceQuotaScope, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if have.HasAll(pair[0], pair[1]) {
			errs = append(errs, field.Invalid(at, shown, "conflicting scopes"))
		}
	}
	return errs
}

func validateScopeSelector(s *corev1.ResourceQuotaSpec, path *field.Path) field.ErrorList {
	if s.ScopeSelector == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("scopeSelector", "matchExpressions")
	have := sets.New[corev1.ResourceQuotaScope]()
	for i := range s.ScopeSelector.MatchExpressions {
		r := &s.ScopeSelector.MatchExpressions[i]
		if !knownScopes.Has(r.ScopeName) {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		have.Insert(r.ScopeName)
		for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
			if knownScopes.Has(r.ScopeName) && standardQuota(name) && !scopeCounts(r.ScopeName, name) {
				errs = append(errs, field.Invalid(at, s.ScopeSelector, "unsupported scope applied to resource"))
			}
		}
		errs = append(errs, validateScopeRequirement(r, at)...)
	}
	return append(errs, conflictingScopes(have, s.Scopes, at)...)
}

func validateScopeRequirement(r *corev1.ScopedResourceSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	byValue := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
	if knownScopes.Has(r.ScopeName) && !byValue && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}
