package kinds

import (
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

func resourceClaims() []Kind {
	return []Kind{deviceClasses(), deviceClaims(), deviceClaimTemplates(), resourceSlices()}
}

func deviceClasses() Kind {
	return Kind{
		GVK:      resourcev1.SchemeGroupVersion.WithKind("DeviceClass"),
		Resource: "deviceclasses",
		Singular: "deviceclass",
		Prefix:   "deviceclasses",
		New:      func() runtime.Object { return &resourcev1.DeviceClass{} },
		NewList:  func() runtime.Object { return &resourcev1.DeviceClassList{} },

		Validate:            check(validateDeviceClass),
		ValidateUpdate:      checkUpdate(validateDeviceClassUpdate),
		UnconditionalUpdate: true,
		Columns:             []metav1.TableColumnDefinition{nameColumn(), ageColumn()},
		Cells: cells(func(c *resourcev1.DeviceClass, now metav1.Time) []any {
			return []any{c.Name, age(now, c.CreationTimestamp)}
		}),
	}
}

func deviceClaims() Kind {
	return Kind{
		GVK:        resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		Resource:   "resourceclaims",
		Singular:   "resourceclaim",
		Namespaced: true,
		Prefix:     "resourceclaims",
		New:        func() runtime.Object { return &resourcev1.ResourceClaim{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceClaimList{} },

		Default: on(func(c *resourcev1.ResourceClaim) {
			defaultDeviceClaim(&c.Spec.Devices)
			if a := c.Status.Allocation; a != nil {
				for i := range a.Devices.Results {
					defaultDeviceTolerations(a.Devices.Results[i].Tolerations)
				}
			}
		}),
		PrepareCreate: on(func(c *resourcev1.ResourceClaim) {
			c.Status = resourcev1.ResourceClaimStatus{}
			dropDeviceFeatures(&c.Spec.Devices)
		}),
		PrepareUpdate: onUpdate(func(c, old *resourcev1.ResourceClaim) {
			c.Status = *old.Status.DeepCopy()
			dropDeviceFeatures(&c.Spec.Devices)
		}),
		Validate:            check(validateResourceClaim),
		ValidateUpdate:      checkUpdate(validateResourceClaimUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."), ageColumn(),
		},
		Cells: cells(func(c *resourcev1.ResourceClaim, now metav1.Time) []any {
			return []any{c.Name, claimState(c), age(now, c.CreationTimestamp)}
		}),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareResourceClaimStatus),
			ValidateUpdate: checkUpdate(validateResourceClaimStatusUpdate),
		},
	}
}

func claimState(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

func deviceClaimTemplates() Kind {
	return Kind{
		GVK:        resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"),
		Resource:   "resourceclaimtemplates",
		Singular:   "resourceclaimtemplate",
		Namespaced: true,
		Prefix:     "resourceclaimtemplates",
		New:        func() runtime.Object { return &resourcev1.ResourceClaimTemplate{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },

		Default:       on(func(t *resourcev1.ResourceClaimTemplate) { defaultDeviceClaim(&t.Spec.Spec.Devices) }),
		PrepareCreate: on(func(t *resourcev1.ResourceClaimTemplate) { dropDeviceFeatures(&t.Spec.Spec.Devices) }),
		PrepareUpdate: onUpdate(func(t, _ *resourcev1.ResourceClaimTemplate) {
			dropDeviceFeatures(&t.Spec.Spec.Devices)
		}),
		Validate:            check(validateResourceClaimTemplate),
		ValidateUpdate:      checkUpdate(validateResourceClaimTemplateUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns:             []metav1.TableColumnDefinition{nameColumn(), ageColumn()},
		Cells: cells(func(t *resourcev1.ResourceClaimTemplate, now metav1.Time) []any {
			return []any{t.Name, age(now, t.CreationTimestamp)}
		}),
	}
}

func resourceSlices() Kind {
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return Kind{
		GVK:      resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"),
		Resource: "resourceslices",
		Singular: "resourceslice",
		Prefix:   "resourceslices",
		New:      func() runtime.Object { return &resourcev1.ResourceSlice{} },
		NewList:  func() runtime.Object { return &resourcev1.ResourceSliceList{} },

		PrepareCreate:       on(dropSliceFeatures),
		PrepareUpdate:       onUpdate(func(s, _ *resourcev1.ResourceSlice) { dropSliceFeatures(s) }),
		Validate:            check(validateResourceSlice),
		ValidateUpdate:      checkUpdate(validateResourceSliceUpdate),
		UnconditionalUpdate: true,
		Fields: fieldSet(func(s *resourcev1.ResourceSlice) fields.Set {
			return fields.Set{
				resourcev1.ResourceSliceSelectorNodeName: *orZero(s.Spec.NodeName), resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver,
			}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Node", "string", doc["nodeName"]),
			column("Driver", "string", doc["driver"]),
			column("Pool", "string", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			ageColumn(),
		},
		Cells: cells(func(s *resourcev1.ResourceSlice, now metav1.Time) []any {
			return []any{s.Name, orUnset(*orZero(s.Spec.NodeName)), s.Spec.Driver, s.Spec.Pool.Name, age(now, s.CreationTimestamp)}
		}),
	}
}

// defaultDeviceClaim asks for one device where a request does not say how many.
func defaultDeviceClaim(c *resourcev1.DeviceClaim) {
	count := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		setDefault(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			setDefault(count, 1)
		}
	}
	for i := range c.Requests {
		if e := c.Requests[i].Exactly; e != nil {
			count(&e.AllocationMode, &e.Count)
			defaultDeviceTolerations(e.Tolerations)
		}
		for j := range c.Requests[i].FirstAvailable {
			s := &c.Requests[i].FirstAvailable[j]
			count(&s.AllocationMode, &s.Count)
			defaultDeviceTolerations(s.Tolerations)
		}
	}
}

func defaultDeviceTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		setDefault(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// dropDeviceFeatures drops fields of a feature that is off: DRADerivedAttributes.
func dropDeviceFeatures(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		if e := c.Requests[i].Exactly; e != nil {
			e.DerivedAttributes = nil
		}
		for j := range c.Requests[i].FirstAvailable {
			c.Requests[i].FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// dropSliceFeatures drops fields of features that are off: DRAListTypeAttributes, DRADeviceCompatibilityGroups,
// DRANodeAllocatableResources, DRAOptionalNodeOperations and DRAPartitionableDevicesType.
func dropSliceFeatures(s *resourcev1.ResourceSlice) {
	s.Spec.PartitionTypeAttribute, s.Spec.SkipNodeOperations = nil, nil
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for name, a := range d.Attributes {
			a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

// StampDeviceTaints gives new taints of devices the time since when they are there. A taint that was there keeps its time.
func StampDeviceTaints(s, old *resourcev1.ResourceSlice, now metav1.Time) {
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		for j := range d.Taints {
			if d.Taints[j].TimeAdded == nil {
				since := now
				d.Taints[j].TimeAdded = &since
				if was := sameTaint(old, d.Name, &d.Taints[j]); was != nil && was.TimeAdded != nil {
					since = *was.TimeAdded
				}
			}
		}
	}
}

func sameTaint(s *resourcev1.ResourceSlice, device string, taint *resourcev1.DeviceTaint) *resourcev1.DeviceTaint {
	if s == nil {
		return nil
	}
	d := deviceNamed(&s.Spec, device)
	if d == nil {
		return nil
	}
	for i := range d.Taints {
		if t := &d.Taints[i]; t.Key == taint.Key && t.Value == taint.Value && t.Effect == taint.Effect {
			return t
		}
	}
	return nil
}

func deviceNamed(s *resourcev1.ResourceSliceSpec, name string) *resourcev1.Device {
	for i := range s.Devices {
		if s.Devices[i].Name == name {
			return &s.Devices[i]
		}
	}
	return nil
}

// prepareResourceClaimStatus forgets what was said about devices that the claim has no more.
func prepareResourceClaimStatus(c, old *resourcev1.ResourceClaim) {
	c.Spec = *old.Spec.DeepCopy()
	c.Labels, c.Annotations, c.OwnerReferences, c.Finalizers = keptMeta(&old.ObjectMeta)
	if a := c.Status.Allocation; a != nil && (old.Status.Allocation == nil || !equality.Semantic.DeepEqual(a, old.Status.Allocation)) {
		for i := range a.Devices.Results {
			a.Devices.Results[i].SkipNodeOperations = nil // feature DRAOptionalNodeOperations, which is off
		}
	}
	gone := allocatedDevices(old.Status.Allocation)
	for id := range allocatedDevices(c.Status.Allocation) {
		delete(gone, id)
	}
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		return gone[deviceID{d.Driver, d.Pool, d.Device, *orZero(d.ShareID)}]
	})
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

// deviceID identifies an allocated device, or a share of one.
type deviceID struct{ driver, pool, device, share string }

// String is how errors show it.
func (d deviceID) String() string {
	id := d.driver + "/" + d.pool + "/" + d.device
	if d.share != "" {
		id += "/" + d.share
	}
	return id
}

func allocatedDevices(a *resourcev1.AllocationResult) map[deviceID]bool {
	ids := map[deviceID]bool{}
	if a == nil {
		return ids
	}
	for _, r := range a.Devices.Results {
		ids[deviceID{r.Driver, r.Pool, r.Device, string(*orZero(r.ShareID))}] = true
	}
	return ids
}
