package kinds

import (
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mustSay fails unless the errors are these, each by what it starts with.
func mustSay(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	if len(errs) != len(want) {
		t.Fatalf("%d errors, want %d: %v", len(errs), len(want), errs)
	}
	for i := range want {
		if !strings.HasPrefix(errs[i].Error(), want[i]) {
			t.Errorf("got  %v\nwant %v", errs[i], want[i])
		}
	}
}

func claimWith(change func(*resourcev1.DeviceClaim)) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"}}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu.example.com"}}}
	if change != nil {
		change(&c.Spec.Devices)
	}
	defaultDeviceClaim(&c.Spec.Devices)
	return c
}

func selector(expression string) func(*resourcev1.DeviceClaim) {
	return func(c *resourcev1.DeviceClaim) {
		c.Requests[0].Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
}

func TestResourceClaim(t *testing.T) {
	const at = "spec.devices.requests[0].exactly.selectors[0].cel.expression: "
	for _, c := range []struct {
		name   string
		change func(*resourcev1.DeviceClaim)
		want   []string
	}{
		{"plain", nil, nil},
		{"attribute", selector(`device.attributes["gpu.example.com"].model == "a100" && device.driver == "gpu.example.com"`), nil},
		{"capacity", selector(`device.capacity["gpu.example.com"].memory.compareTo(quantity("10Gi")) >= 0`), nil},
		{"version", selector(`device.attributes["gpu.example.com"].version.isGreaterThan(semver("1.2.0"))`), nil},
		{"bind", selector(`cel.bind(a, device.attributes["gpu.example.com"], has(a.x) && a.x)`), nil},
		{"not a bool", selector(`device.driver`), []string{at + "Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"}},
		{"no such field", selector(`device.nope == 1`), []string{at + "Invalid value: \"device.nope == 1\": compilation failed: ERROR: <input>:1:7: undefined field 'nope'"}},
		{"endless", selector(`device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b + c + d != "x"))))`),
			[]string{at + "Forbidden: too complex, exceeds cost limit"}},
		{"no class", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly.DeviceClassName = "" },
			[]string{"spec.devices.requests[0].exactly.deviceClassName: Required value"}},
		{"neither", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly = nil },
			[]string{"spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"}},
		{"twice", func(c *resourcev1.DeviceClaim) { c.Requests = append(c.Requests, c.Requests[0]) },
			[]string{`spec.devices.requests[1]: Duplicate value: "gpu"`}},
		{"all of three", func(c *resourcev1.DeviceClaim) {
			c.Requests[0].Exactly.AllocationMode, c.Requests[0].Exactly.Count = resourcev1.DeviceAllocationModeAll, 3
		}, []string{"spec.devices.requests[0].exactly.count: Invalid value: 3: must not be specified when allocationMode is 'All'"}},
		{"constraint on nothing", func(c *resourcev1.DeviceClaim) {
			c.Constraints = []resourcev1.DeviceConstraint{{Requests: []string{"other"}, MatchAttribute: ptr(resourcev1.FullyQualifiedName("plain"))}}
		}, []string{`spec.devices.constraints[0].requests[0]: Invalid value: "other": must be the name of a request`,
			`spec.devices.constraints[0].matchAttribute: Invalid value: "plain": a fully qualified name must be a domain and a name`}},
		{"parameters", func(c *resourcev1.DeviceClaim) {
			c.Config = []resourcev1.DeviceClaimConfiguration{{DeviceConfiguration: resourcev1.DeviceConfiguration{
				Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: "d.example.com", Parameters: runtime.RawExtension{Raw: []byte(`[]`)}}}}}
		}, []string{`spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object`}},
	} {
		t.Run(c.name, func(t *testing.T) { mustSay(t, validateResourceClaim(claimWith(c.change)), c.want...) })
	}
	changed := claimWith(selector("true"))
	mustSay(t, validateResourceClaimUpdate(changed, claimWith(nil)), "metadata.resourceVersion", "spec: Invalid value")
}

func TestResourceClaimStatus(t *testing.T) {
	old := claimWith(nil)
	old.ResourceVersion = "1"
	c := old.DeepCopy()
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "u"}}
	mustSay(t, validateResourceClaimStatusUpdate(c, old), "status.reservedFor: Forbidden: may not be specified when `allocated` is not set")
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
		Results: []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: "d.example.com", Pool: "p", Device: "d0"}}}}
	c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d.example.com", Pool: "p", Device: "d0"}}
	mustSay(t, validateResourceClaimStatusUpdate(c, old))
	c.Status.Devices[0].Device = "d1"
	mustSay(t, validateResourceClaimStatusUpdate(c, old), `status.devices[0]: Invalid value: "d.example.com/p/d1": must be an allocated device in the claim`)

	// What was said about a device goes with it.
	c.Status.Devices[0].Device = "d0"
	free := c.DeepCopy()
	free.Status.Allocation, free.Status.ReservedFor = nil, nil
	prepareResourceClaimStatus(free, c)
	if free.Status.Devices != nil {
		t.Errorf("devices that are not allocated: %v", free.Status.Devices)
	}
}

func TestResourceSlice(t *testing.T) {
	slice := func(change func(*resourcev1.ResourceSliceSpec)) *resourcev1.ResourceSlice {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "d.example.com", NodeName: ptr("n"), Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "d0", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"x": {IntValue: ptr(int64(1))}}}},
		}}
		change(&s.Spec)
		return s
	}
	quantity := func(s string) *resource.Quantity { return ptr(resource.MustParse(s)) }
	shared := func(r resourcev1.CapacityRequestPolicyRange, def string) func(*resourcev1.ResourceSliceSpec) {
		return func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].AllowMultipleAllocations = ptr(true)
			s.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"m": {Value: resource.MustParse("10"),
				RequestPolicy: &resourcev1.CapacityRequestPolicy{Default: quantity(def), ValidRange: &r}}}
		}
	}
	const step = "spec.devices[0].capacity[m].requestPolicy.validRange"
	for _, c := range []struct {
		name   string
		change func(*resourcev1.ResourceSliceSpec)
		want   []string
	}{
		{"plain", func(*resourcev1.ResourceSliceSpec) {}, nil},
		{"nowhere", func(s *resourcev1.ResourceSliceSpec) { s.NodeName = nil }, []string{"spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`"}},
		{"twice", func(s *resourcev1.ResourceSliceSpec) { s.AllNodes = ptr(true) }, []string{`spec: Invalid value: "{` + "`nodeName`, `allNodes`" + `}": exactly one of`}},
		{"no value", func(s *resourcev1.ResourceSliceSpec) { s.Devices[0].Attributes["x"] = resourcev1.DeviceAttribute{} },
			[]string{`spec.devices[0].attributes[x]: Invalid value: "": exactly one value must be specified`}},
		{"version", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].Attributes["x"] = resourcev1.DeviceAttribute{VersionValue: ptr("v1")}
		}, []string{`spec.devices[0].attributes[x].version: Invalid value: "v1": must be a string compatible with semver.org spec 2.0.0`}},
		{"taint", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "a", Effect: "No"}}
		},
			[]string{`spec.devices[0].taints[0].effect: Unsupported value: "No": supported values: "NoExecute", "NoSchedule", "None"`}},
		{"steps", shared(resourcev1.CapacityRequestPolicyRange{Min: quantity("1"), Max: quantity("9"), Step: quantity("2")}, "3"), nil},
		{"between steps", shared(resourcev1.CapacityRequestPolicyRange{Min: quantity("1"), Step: quantity("2")}, "4"),
			[]string{step + `.step: Invalid value: "4": value is not a multiple of a given step (2) from (1)`}},
		{"huge step", shared(resourcev1.CapacityRequestPolicyRange{Min: quantity("0"), Step: quantity("18446744073709551616")}, "0"),
			[]string{step + `.step: Invalid value: "18446744073709551616": one step`, step + `: Invalid value: "18446744073709551616": must not be larger`}},
	} {
		t.Run(c.name, func(t *testing.T) { mustSay(t, validateResourceSlice(slice(c.change)), c.want...) })
	}
}
