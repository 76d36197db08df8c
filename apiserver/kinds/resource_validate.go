package kinds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// eachOf checks a list that has a greatest length; of one that is too long that alone is said. A negative max is none.
func eachOf[T any](list []T, max int, path *field.Path, check func(*T, *field.Path) field.ErrorList) field.ErrorList {
	if max >= 0 && len(list) > max {
		return field.ErrorList{field.TooMany(path, len(list), max)}
	}
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, check(&list[i], path.Index(i))...)
	}
	return errs
}

// distinctOf is eachOf for lists whose elements have different keys.
func distinctOf[T any, K comparable](list []T, max int, path *field.Path, key func(*T) K, check func(*T, *field.Path) field.ErrorList) field.ErrorList {
	errs := eachOf(list, max, path, check)
	if max >= 0 && len(list) > max {
		return errs
	}
	seen := map[K]bool{}
	for i := range list {
		k := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

func itself[T any](v *T) T { return *v }

func validateDeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	return append(validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateDeviceClassSpec(&c.Spec, &resourcev1.DeviceClassSpec{})...)
}

func validateDeviceClassUpdate(c, old *resourcev1.DeviceClass) field.ErrorList {
	return append(validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateDeviceClassSpec(&c.Spec, &old.Spec)...)
}

// validateDeviceClassSpec checks a class. Expressions and parameters that it had already were good when they came.
func validateDeviceClassSpec(s, old *resourcev1.DeviceClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	stored := equality.Semantic.DeepEqual(s.Selectors, old.Selectors)
	errs := validateDeviceSelectors(s.Selectors, stored, path.Child("selectors"))
	stored = equality.Semantic.DeepEqual(s.Config, old.Config)
	errs = append(errs, eachOf(s.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
		return validateDeviceConfiguration(&c.DeviceConfiguration, stored, at)
	})...)
	if name := s.ExtendedResourceName; name != nil && !isExtendedResource(corev1.ResourceName(*name)) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}

func validateResourceClaim(c *resourcev1.ResourceClaim) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDeviceClaim(&c.Spec.Devices, field.NewPath("spec", "devices"))...)
}

func validateResourceClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	return append(validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), immutable(c.Spec, old.Spec, field.NewPath("spec"))...)
}

func validateResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	errs := validateMeta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateClaimMeta(&t.Spec.ObjectMeta, field.NewPath("spec", "metadata"))...)
	return append(errs, validateDeviceClaim(&t.Spec.Spec.Devices, field.NewPath("spec", "spec", "devices"))...)
}

func validateResourceClaimTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	return append(validateMetaUpdate(&t.ObjectMeta, &old.ObjectMeta), immutable(t.Spec, old.Spec, field.NewPath("spec"))...)
}

// requestNames are a claim's requests by "name" and "name/subrequest".
type requestNames map[string]bool

func namesOf(c *resourcev1.DeviceClaim) requestNames {
	names := requestNames{}
	for _, r := range c.Requests {
		names[r.Name] = true
		for _, s := range r.FirstAvailable {
			names[r.Name+"/"+s.Name] = true
		}
	}
	return names
}

// refer checks a reference to a request.
func (n requestNames) refer(name *string, path *field.Path) field.ErrorList {
	const want = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(*name, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, *name, want)}
	}
	var errs field.ErrorList
	for _, part := range parts {
		errs = append(errs, dnsLabel(part, path)...)
	}
	if !n[*name] {
		errs = append(errs, field.Invalid(path, *name, want))
	}
	return errs
}

func (n requestNames) referAll(list []string, path *field.Path) field.ErrorList {
	return distinctOf(list, resourcev1.DeviceRequestsMaxSize, path, itself, n.refer)
}

func validateDeviceClaim(c *resourcev1.DeviceClaim, path *field.Path) field.ErrorList {
	names := namesOf(c)
	return slices.Concat(
		distinctOf(c.Requests, resourcev1.DeviceRequestsMaxSize, path.Child("requests"),
			func(r *resourcev1.DeviceRequest) string { return r.Name }, validateDeviceRequest),
		eachOf(c.Constraints, resourcev1.DeviceConstraintsMaxSize, path.Child("constraints"), func(d *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
			return append(names.referAll(d.Requests, at.Child("requests")), validateConstraint(d, at)...)
		}),
		eachOf(c.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), func(d *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
			return append(names.referAll(d.Requests, at.Child("requests")), validateDeviceConfiguration(&d.DeviceConfiguration, false, at)...)
		}),
	)
}

func validateConstraint(d *resourcev1.DeviceConstraint, path *field.Path) field.ErrorList {
	switch {
	case d.MatchAttribute != nil:
		return validateFullName(string(*d.MatchAttribute), path.Child("matchAttribute"))
	case d.DistinctAttribute != nil:
		return validateFullName(string(*d.DistinctAttribute), path.Child("distinctAttribute"))
	}
	return field.ErrorList{field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)}
}

func validateDeviceRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := dnsLabel(r.Name, path.Child("name"))
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		errs = append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		errs = append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		errs = append(errs, deviceWish{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations}.validate(path.Child("exactly"))...)
	default:
		errs = append(errs, distinctOf(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"),
			func(s *resourcev1.DeviceSubRequest) string { return s.Name },
			func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
				wish := deviceWish{s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations}
				return append(dnsLabel(s.Name, at.Child("name")), wish.validate(at)...)
			})...)
	}
	return errs
}

// deviceWish is what a request and a subrequest have in common.
type deviceWish struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func (w deviceWish) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if w.class == "" {
		errs = append(errs, field.Required(path.Child("deviceClassName"), ""))
	} else {
		errs = append(errs, dnsSubdomain(w.class, path.Child("deviceClassName"))...)
	}
	errs = append(errs, validateDeviceSelectors(w.selectors, false, path.Child("selectors"))...)
	switch count := path.Child("count"); {
	case w.mode == resourcev1.DeviceAllocationModeAll && w.count != 0:
		errs = append(errs, field.Invalid(count, w.count, fmt.Sprintf("must not be specified when allocationMode is '%s'", w.mode)))
	case w.mode == resourcev1.DeviceAllocationModeExactCount && w.count <= 0:
		errs = append(errs, field.Invalid(count, w.count, "must be greater than zero"))
	}
	errs = append(errs, among(w.mode, path.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	return append(errs, eachOf(w.tolerations, resourcev1.DeviceTolerationsMaxLength, path.Child("tolerations"), validateDeviceToleration)...)
}

// validateDeviceSelectors checks selectors; the expressions of stored ones were compiled before.
func validateDeviceSelectors(list []resourcev1.DeviceSelector, stored bool, path *field.Path) field.ErrorList {
	return eachOf(list, resourcev1.DeviceSelectorsMaxSize, path, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		switch {
		case s.CEL == nil:
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		case stored:
			return nil
		}
		return validateDeviceExpression(s.CEL.Expression, at.Child("cel", "expression"))
	})
}

var deviceTaintEffects = []resourcev1.DeviceTaintEffect{
	resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone,
}

func validateDeviceToleration(t *resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	errs = append(errs, oneOf(t.Operator, path.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	return append(errs, amongPtr(emptyIsNil(&t.Effect), path.Child("effect"), deviceTaintEffects...)...)
}

func validateDeviceConfiguration(c *resourcev1.DeviceConfiguration, stored bool, path *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	at := path.Child("opaque")
	limit := resourcev1.OpaqueParametersMaxLength
	if stored {
		limit = len(c.Opaque.Parameters.Raw) // what was let in may stay
	}
	return append(validateDriverName(c.Opaque.Driver, at.Child("driver")), validateRawObject(&c.Opaque.Parameters, limit, at.Child("parameters"))...)
}

// validateRawObject wants a JSON object of so many bytes at most.
func validateRawObject(raw *runtime.RawExtension, limit int, path *field.Path) field.ErrorList {
	switch {
	case len(raw.Raw) == 0:
		return field.ErrorList{field.Required(path, "")}
	case len(raw.Raw) > limit:
		return field.ErrorList{field.TooLong(path, "", limit)}
	}
	var v any
	if err := json.Unmarshal(raw.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if v == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

func validatePoolName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, dnsSubdomain(part, path)...)
	}
	return errs
}

// validateAttributeName checks the name of an attribute or capacity: an identifier, with a domain before it or not.
func validateAttributeName(name string, path *field.Path) field.ErrorList {
	parts := strings.Split(name, "/")
	if len(parts) == 1 {
		return validateIdentifier(name, path)
	}
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, name, "must not contain more than one slash")}
	}
	var errs field.ErrorList
	if parts[0] == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriverName(parts[0], path)...)
	}
	if parts[1] == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, validateIdentifier(parts[1], path)...)
}

func validateFullName(name string, path *field.Path) field.ErrorList {
	errs := validateAttributeName(name, path)
	if !strings.Contains(name, "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

func validateIdentifier(id string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, invalid(path, id, content.IsCIdentifier(id))...)
}
