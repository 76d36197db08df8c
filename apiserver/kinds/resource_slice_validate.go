package kinds

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxRequestValues is how many amounts a capacity may be asked for in.
const maxRequestValues = 10

func validateResourceSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	return append(validateMeta(&s.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateSliceSpec(&s.Spec, nil)...)
}

func validateResourceSliceUpdate(s, old *resourcev1.ResourceSlice) field.ErrorList {
	path := field.NewPath("spec")
	return slices.Concat(
		validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta),
		validateSliceSpec(&s.Spec, &old.Spec),
		immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name")),
		immutable(s.Spec.Driver, old.Spec.Driver, path.Child("driver")),
		immutable(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName")),
	)
}

// validateSliceSpec checks a slice; old is nil on create.
func validateSliceSpec(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := append(validateDriverName(s.Driver, path.Child("driver")), validatePoolName(s.Pool.Name, path.Child("pool", "name"))...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	errs = append(errs, validateSliceNodes(s, path)...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	advanced := func(d resourcev1.Device) bool { return len(d.Taints)+len(d.ConsumesCounters) > 0 }
	if slices.ContainsFunc(s.Devices, advanced) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	perDevice := *orZero(s.PerDeviceNodeSelection)
	errs = append(errs, distinctOf(s.Devices, most, path.Child("devices"), func(d *resourcev1.Device) string { return d.Name },
		func(d *resourcev1.Device, at *field.Path) field.ErrorList {
			was := &resourcev1.Device{}
			if old != nil {
				was = orZero(deviceNamed(old, d.Name))
			}
			return append(validateDevice(d, was, at), validateDeviceNodes(d, perDevice, at)...)
		})...)
	return append(errs, distinctOf(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet) string { return c.Name },
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return validateCounters("name", c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at)
		})...)
}

// nodeChoice is one way to say from which nodes devices can be used.
type nodeChoice struct {
	name string
	set  bool
}

// setChoices are the names of those that are set, as errors show them.
func setChoices(choices []nodeChoice) []string {
	var names []string
	for _, c := range choices {
		if c.set {
			names = append(names, "`"+c.name+"`")
		}
	}
	return names
}

func validateSliceNodes(s *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	var errs field.ErrorList
	if s.NodeName != nil {
		if *s.NodeName == "" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *s.NodeName, "must be either unset or set to a non-empty string"))
		} else {
			errs = append(errs, dnsSubdomain(*s.NodeName, path.Child("nodeName"))...)
		}
	}
	if s.NodeSelector != nil {
		errs = append(errs, validateNodeSelector(s.NodeSelector, path.Child("nodeSelector"))...)
		if terms := s.NodeSelector.NodeSelectorTerms; len(terms) != 1 {
			errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), terms, "must have exactly one node selector term"))
		}
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		if f.value != nil && !*f.value {
			errs = append(errs, field.Invalid(path.Child(f.name), *f.value, "must be either unset or set to true"))
		}
	}
	set := setChoices([]nodeChoice{
		{"nodeName", *orZero(s.NodeName) != ""}, {"nodeSelector", s.NodeSelector != nil},
		{"allNodes", *orZero(s.AllNodes)}, {"perDeviceNodeSelection", *orZero(s.PerDeviceNodeSelection)},
	})
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(path, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", one+", but multiple fields are set"))
	}
	return errs
}

func validateDeviceNodes(d *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(path, nil,
				"`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	var errs field.ErrorList
	if d.NodeName != nil {
		if *d.NodeName == "" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *d.NodeName, "must not be empty"))
		} else {
			errs = append(errs, dnsSubdomain(*d.NodeName, path.Child("nodeName"))...)
		}
	}
	if d.NodeSelector != nil {
		errs = append(errs, validateNodeSelector(d.NodeSelector, path.Child("nodeSelector"))...)
	}
	if d.AllNodes != nil && !*d.AllNodes {
		errs = append(errs, field.Invalid(path.Child("allNodes"), *d.AllNodes, "must be either unset or set to true"))
	}
	set := setChoices([]nodeChoice{
		{"nodeName", *orZero(d.NodeName) != ""}, {"nodeSelector", d.NodeSelector != nil}, {"allNodes", *orZero(d.AllNodes)},
	})
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(path, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", one))
	}
	return errs
}

// validateDevice checks all of a device but its nodes. Capacities and taints that it had already may stay.
func validateDevice(d, old *resourcev1.Device, path *field.Path) field.ErrorList {
	errs := dnsLabel(d.Name, path.Child("name"))
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	if n := len(d.Attributes) + len(d.Capacity); n > most {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most)))
	}
	attributes, capacity := path.Child("attributes"), path.Child("capacity")
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		errs = append(errs, validateAttributeName(string(name), attributes)...)
		a := d.Attributes[name]
		errs = append(errs, validateAttribute(&a, attributes.Key(string(name)))...)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
		if equality.Semantic.DeepEqual(d.Capacity, old.Capacity) {
			break
		}
		errs = append(errs, validateAttributeName(string(name), capacity)...)
		c := d.Capacity[name]
		errs = append(errs, validateCapacity(&c, *orZero(d.AllowMultipleAllocations), capacity.Key(string(name)))...)
	}
	if !equality.Semantic.DeepEqual(d.Taints, old.Taints) {
		errs = append(errs, eachOf(d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), validateDeviceTaint)...)
	}
	errs = append(errs, distinctOf(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			return validateCounters("counterSet", c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at)
		})...)
	return append(errs, validateBindingConditions(d.BindingConditions, d.BindingFailureConditions, path)...)
}

func validateDeviceTaint(t *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabelName(t.Key, path.Child("key"))
	errs = append(errs, invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	return append(errs, oneOf(t.Effect, path.Child("effect"), deviceTaintEffects...)...)
}

func validateCounters(child, name string, counters map[string]resourcev1.Counter, most int, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{child, name})
	if name != "" {
		errs = append(errs, dnsLabel(name, path.Child(child))...)
	}
	at := path.Child("counters")
	switch {
	case len(counters) == 0:
		return append(errs, field.Required(at, ""))
	case len(counters) > most:
		return append(errs, field.TooMany(at, len(counters), most))
	}
	for _, counter := range slices.Sorted(maps.Keys(counters)) {
		errs = append(errs, dnsLabel(counter, at)...)
	}
	return errs
}

// semanticVersion is a version as semver.org has it.
var semanticVersion = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// validateAttribute checks that an attribute has one value, and that.
func validateAttribute(a *resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := 0
	for _, set := range []bool{
		a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil,
		a.BoolValues != nil, a.IntValues != nil, a.StringValues != nil, a.VersionValues != nil,
	} {
		if set {
			values++
		}
	}
	for _, text := range []struct {
		name  string
		value *string
	}{{"string", a.StringValue}, {"version", a.VersionValue}} {
		if text.value == nil {
			continue
		}
		if text.name == "version" && !semanticVersion.MatchString(*text.value) {
			errs = append(errs, field.Invalid(path.Child(text.name), *text.value, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*text.value) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path.Child(text.name), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	switch values {
	case 0:
		errs = append(errs, field.Invalid(path, "", "exactly one value must be specified"))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, a, "exactly one value must be specified"))
	}
	return errs
}

// validateCapacity checks in which amounts a capacity may be asked for, which is for devices that are shared.
func validateCapacity(c *resourcev1.DeviceCapacity, shared bool, path *field.Path) field.ErrorList {
	p, at := c.RequestPolicy, path.Child("requestPolicy")
	switch {
	case p == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return validateRequestValues(p, c.Value, at.Child("validValues"))
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case p.ValidRange != nil:
		return validateRequestRange(*p.Default, p.ValidRange, c.Value, at.Child("validRange"))
	}
	return nil
}

func validateRequestValues(p *resourcev1.CapacityRequestPolicy, capacity resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(p.ValidValues); i++ {
		if p.ValidValues[i-1].Cmp(p.ValidValues[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), text(p.ValidValues[i]), "values must be sorted in ascending order"))
		}
	}
	errs = append(errs, distinctOf(p.ValidValues, maxRequestValues, path, func(q *resource.Quantity) string { return fmt.Sprint(q.Value()) },
		func(q *resource.Quantity, at *field.Path) field.ErrorList {
			if q.Cmp(capacity) > 0 {
				return field.ErrorList{field.Invalid(at, text(*q), "option is larger than capacity value: "+text(capacity))}
			}
			return nil
		})...)
	if !slices.ContainsFunc(p.ValidValues, func(q resource.Quantity) bool { return q.Cmp(*p.Default) == 0 }) {
		errs = append(errs, field.Invalid(path, text(*p.Default), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

// text writes a quantity without touching the object it is of: writing remembers the text.
func text(q resource.Quantity) string { return q.String() }

func validateRequestRange(def resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, capacity resource.Quantity, path *field.Path) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	refuse := func(wrong bool, child string, q resource.Quantity, message string, limit resource.Quantity) {
		if wrong {
			errs = append(errs, field.Invalid(path.Child(child), text(q), message+": "+text(limit)))
		}
	}
	low := *r.Min
	refuse(low.Cmp(capacity) > 0, "min", low, "min is larger than capacity value", capacity)
	refuse(def.Cmp(low) < 0, "default", def, "default is less than min", low)
	if r.Max != nil {
		refuse(low.Cmp(*r.Max) > 0, "max", low, "min is larger than max", *r.Max)
		refuse(r.Max.Cmp(capacity) > 0, "max", *r.Max, "max is larger than capacity value", capacity)
		refuse(def.Cmp(*r.Max) > 0, "default", def, "default is more than max", *r.Max)
	}
	if r.Step == nil {
		return errs
	}
	return append(errs, validateStep(def, r, capacity, path)...)
}

// validateStep checks that the default and the end of a range are whole steps from its start.
func validateStep(def resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, capacity resource.Quantity, path *field.Path) field.ErrorList {
	step := path.Child("step")
	if r.Step.Sign() <= 0 {
		return field.ErrorList{field.Invalid(step, text(*r.Step), "must be greater than zero")}
	}
	var errs field.ErrorList
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	if first.Cmp(capacity) > 0 {
		errs = append(errs, field.Invalid(step, text(*r.Step), fmt.Sprintf("one step %s is larger than capacity value: %s", text(first), text(capacity))))
	}
	reached := []resource.Quantity{def}
	if r.Max != nil {
		reached = append(reached, *r.Max)
	}
	for _, q := range append(slices.Clone(reached), *r.Min, *r.Step) {
		switch { // what follows counts in 64 bits
		case q.Sign() < 0:
			return append(errs, field.Invalid(path, text(q), apivalidation.IsNegativeErrorMsg))
		case q.CmpInt64(math.MaxInt64) > 0:
			return append(errs, field.Invalid(path, text(q), "must not be larger than 9223372036854775807"))
		}
	}
	for _, q := range reached {
		if (q.Value()-r.Min.Value())%r.Step.Value() != 0 {
			errs = append(errs, field.Invalid(step, text(q), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", text(*r.Step), text(*r.Min))))
		}
	}
	return errs
}
