package kinds

import (
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What the status of an allocated device may hold.
const (
	maxDeviceConditions = 8
	maxDeviceIPs        = 16
)

func validateResourceClaimStatusUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, path := &c.Status, field.NewPath("status")
	allocated := allocatedDevices(s.Allocation)
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, distinctOf(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, path.Child("reservedFor"),
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID },
		func(r *resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
			return required(at, namedValue{"resource", r.Resource}, namedValue{"name", r.Name}, namedValue{"uid", string(r.UID)})
		})...)
	id := func(d *resourcev1.AllocatedDeviceStatus) deviceID {
		return deviceID{d.Driver, d.Pool, d.Device, *orZero(d.ShareID)}
	}
	errs = append(errs, distinctOf(s.Devices, -1, path.Child("devices"), id, func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
		found := validateDeviceStatus(d, at)
		if !allocated[id(d)] {
			found = append(found, field.Invalid(at, id(d).String(), "must be an allocated device in the claim"))
		}
		return found
	})...)
	errs = append(errs, validateReservations(c, old, path.Child("reservedFor"))...)
	switch allocation := path.Child("allocation"); {
	case s.Allocation == nil:
	case old.Status.Allocation != nil:
		errs = append(errs, immutable(s.Allocation, old.Status.Allocation, allocation)...)
	default:
		errs = append(errs, validateAllocation(s.Allocation, namesOf(&c.Spec.Devices), allocation)...)
	}
	return errs
}

// validateReservations: only what is allocated is reserved, and no more for what is to go.
func validateReservations(c, old *resourcev1.ResourceClaim, path *field.Path) field.ErrorList {
	if len(c.Status.ReservedFor) == 0 {
		return nil
	}
	if c.Status.Allocation == nil {
		return field.ErrorList{field.Forbidden(path, "may not be specified when `allocated` is not set")}
	}
	added := func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(old.Status.ReservedFor, r)
	}
	if c.DeletionTimestamp != nil && slices.ContainsFunc(c.Status.ReservedFor, added) {
		return field.ErrorList{field.Forbidden(path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")}
	}
	return nil
}

func validateAllocation(a *resourcev1.AllocationResult, names requestNames, path *field.Path) field.ErrorList {
	devices := path.Child("devices")
	errs := eachOf(a.Devices.Results, resourcev1.AllocationResultsMaxSize, devices.Child("results"),
		func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
			found := slices.Concat(
				names.refer(&r.Request, at.Child("request")),
				validateDriverName(r.Driver, at.Child("driver")),
				validatePoolName(r.Pool, at.Child("pool")),
				dnsLabel(r.Device, at.Child("device")),
				validateBindingConditions(r.BindingConditions, r.BindingFailureConditions, at),
				eachOf(r.Tolerations, resourcev1.DeviceTolerationsMaxLength, at.Child("tolerations"), validateDeviceToleration),
			)
			if r.ShareID != nil {
				found = append(found, validateUID(string(*r.ShareID), at.Child("shareID"))...)
			}
			return found
		})
	errs = append(errs, eachOf(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, devices.Child("config"),
		func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
			return slices.Concat(
				oneOf(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass),
				names.referAll(c.Requests, at.Child("requests")),
				validateDeviceConfiguration(&c.DeviceConfiguration, false, at),
			)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, validateNodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, path *field.Path) field.ErrorList {
	errs := slices.Concat(
		validateDriverName(d.Driver, path.Child("driver")), validatePoolName(d.Pool, path.Child("pool")), dnsLabel(d.Device, path.Child("device")),
	)
	if d.ShareID != nil {
		errs = append(errs, validateUID(*d.ShareID, path.Child("shareID"))...)
	}
	if len(d.Conditions) > maxDeviceConditions {
		errs = append(errs, field.TooMany(path.Child("conditions"), len(d.Conditions), maxDeviceConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, path.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateRawObject(d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	n := d.NetworkData
	if n == nil {
		return errs
	}
	at := path.Child("networkData")
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(at.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(at.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	return append(errs, distinctOf(n.IPs, maxDeviceIPs, at.Child("ips"), itself, func(ip *string, at *field.Path) field.ErrorList {
		return validation.IsValidInterfaceAddress(at, *ip)
	})...)
}

// validateUID wants a UUID in its usual form.
func validateUID(uid string, path *field.Path) field.ErrorList {
	plain := strings.ReplaceAll(uid, "-", "")
	hex := func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }
	if len(plain) != 32 || strings.ContainsFunc(plain, hex) {
		return field.ErrorList{field.Invalid(path, uid, fmt.Sprintf("error validating uid: invalid UUID length: %d", len(uid)))}
	}
	for _, i := range []int{8, 13, 18, 23} {
		if len(uid) != 36 || uid[i] != '-' || uid != strings.ToLower(uid) {
			return field.ErrorList{field.Invalid(path, uid,
				"uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
		}
	}
	return nil
}

// validateBindingConditions: the conditions to wait for and those to give up by come together and are not the same.
func validateBindingConditions(conditions, failures []string, path *field.Path) field.ErrorList {
	wait, fail := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	label := func(name *string, at *field.Path) field.ErrorList { return metavalidation.ValidateLabelName(*name, at) }
	errs := append(distinctOf(conditions, resourcev1.BindingConditionsMaxSize, wait, itself, label),
		distinctOf(failures, resourcev1.BindingFailureConditionsMaxSize, fail, itself, label)...)
	for i, f := range failures {
		if slices.Contains(conditions, f) {
			errs = append(errs, field.Invalid(fail.Index(i), f, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(conditions) == 0 && len(failures) > 0 {
		errs = append(errs, field.Invalid(wait, conditions, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failures) == 0 && len(conditions) > 0 {
		errs = append(errs, field.Invalid(fail, failures, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}
