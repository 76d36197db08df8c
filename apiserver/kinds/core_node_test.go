//lint:file-ignore SA1019 spec.configSource is deprecated, and checked.

package kinds

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newNode(edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: "1"}}
	for _, e := range edits {
		e(n)
	}
	defaultNode(n)
	return n
}

func TestNodeDefaults(t *testing.T) {
	n := newNode(func(n *corev1.Node) {
		n.Spec.PodCIDR = "10.244.0.0/24"
		n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1.0001")}
	})
	if len(n.Spec.PodCIDRs) != 1 || n.Spec.PodCIDRs[0] != "10.244.0.0/24" {
		t.Errorf("podCIDRs %v", n.Spec.PodCIDRs)
	}
	if cpu := n.Status.Allocatable.Cpu().String(); cpu != "1001m" {
		t.Errorf("allocatable CPU %s", cpu)
	}
	if n := newNode(func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.0.0/24"} }); n.Spec.PodCIDR != "10.244.0.0/24" {
		t.Errorf("podCIDR %q", n.Spec.PodCIDR)
	}
}

func TestNodeValidation(t *testing.T) {
	k := kindOf(t, "", "nodes")
	for name, c := range map[string]struct {
		edit func(*corev1.Node)
		want []string
	}{
		"good": {edit: func(n *corev1.Node) {
			n.Spec.PodCIDRs = []string{"10.244.0.0/24", "fd00::/64"}
			n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}, {Key: "a", Effect: corev1.TaintEffectNoExecute}}
			n.Status.DeclaredFeatures = []string{"A", "A/b", "Z"}
		}},
		"taints": {
			edit: func(n *corev1.Node) {
				n.Spec.Taints = []corev1.Taint{{Effect: "Never"}, {Key: "a", Value: "-"}, {Key: "b", Effect: "NoSchedule"}, {Key: "b", Value: "c", Effect: "NoSchedule"}}
			},
			want: []string{
				`metadata.taints[0].key: Invalid value: "": name part must be non-empty`,
				`metadata.taints[0].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				`metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
				`metadata.taints[1].value: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
				"metadata.taints[1].effect: Required value",
				`metadata.taints[3]: Duplicate value: {"key":"b","value":"c","effect":"NoSchedule"}: taints must be unique by key and effect pair`,
			},
		},
		"pod CIDRs": {
			edit: func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.0.0/24", "10.244.0.0/24"} },
			want: []string{
				`spec.podCIDRs: Invalid value: ["10.244.0.0/24","10.244.0.0/24"]: may specify no more than one CIDR for each IP family`,
				`spec.podCIDRs[1]: Duplicate value: "10.244.0.0/24"`,
			},
		},
		"pod CIDR that is none": {
			edit: func(n *corev1.Node) { n.Spec.PodCIDR = "10.244.0.0" },
			want: []string{`spec.podCIDRs[0]: Invalid value: "10.244.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		},
		"quantities": {
			edit: func(n *corev1.Node) {
				n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("-1")}
				n.Status.Allocatable = corev1.ResourceList{"pods": resource.MustParse("1500m"), "example.com/gpu": resource.MustParse("500m"), "memory": resource.MustParse("0.5")}
			},
			want: []string{
				`status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0`,
				`status.allocatable.pods: Invalid value: "1500m": must be an integer`,
				`status.allocatable.example.com/gpu: Invalid value: "500m": must be an integer`,
			},
		},
		"features and swap": {
			edit: func(n *corev1.Node) {
				n.Status.DeclaredFeatures = []string{"B", "A", "A", "x"}
				n.Status.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: ptr(int64(0))}
			},
			want: []string{
				`metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero`,
				`status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically`,
				`status.declaredFeatures[2]: Duplicate value: "A"`,
				`status.declaredFeatures[3]: Invalid value: "x": invalid feature name "x": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes`,
			},
		},
		"preemption policy": {
			edit: func(n *corev1.Node) { n.Spec.PodPreemptionPolicy = &corev1.NodePodPreemptionPolicy{} },
			want: []string{"spec.podPreemptionPolicy: Forbidden"},
		},
		"annotations": {
			edit: func(n *corev1.Node) {
				n.Annotations = map[string]string{
					annotationTaints:                    `[{"key":"a","effect":"No"}]`,
					corev1.PreferAvoidPodsAnnotationKey: `{"preferAvoidPods":[{"podSignature":{"podController":{"kind":"ReplicaSet"}}},{}]}`,
				}
			},
			want: []string{
				`metadata.annotations.scheduler.alpha.kubernetes.io/taints[0].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
				`metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[0].PodSignature.PodController.Controller: Invalid value: null: must point to a controller`,
				`metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[1].PodSignature: Required value`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) { wantTexts(t, create(k, newNode(c.edit)), c.want...) })
	}
}

func TestNodeUpdate(t *testing.T) {
	k := kindOf(t, "", "nodes")
	old := newNode(func(n *corev1.Node) {
		n.Spec.PodCIDR, n.Spec.ProviderID, n.Spec.DoNotUseExternalID = "10.244.0.0/24", "lab://1", "x"
		n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("2")}
	})
	n := old.DeepCopy()
	n.Spec.Unschedulable = true
	n.Spec.ConfigSource = &corev1.NodeConfigSource{}
	n.Status = corev1.NodeStatus{}
	wantTexts(t, update(k, n, old))
	if n.Status.Capacity.Cpu().String() != "2" || n.Spec.ConfigSource != nil {
		t.Errorf("updated: %+v", n)
	}
	n = old.DeepCopy()
	n.Spec.PodCIDR, n.Spec.PodCIDRs, n.Spec.ProviderID, n.Spec.DoNotUseExternalID = "10.244.1.0/24", []string{"10.244.1.0/24"}, "lab://2", ""
	wantTexts(t, update(k, n, old),
		`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`,
		`spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`,
		"spec.externalID: Forbidden: may not be updated")
	empty := newNode()
	n = empty.DeepCopy()
	n.Spec.PodCIDR = "10.244.1.0/24"
	wantTexts(t, update(k, n, empty))
}

func TestNodeStatusUpdate(t *testing.T) {
	k := kindOf(t, "", "nodes")
	old := newNode()
	n := old.DeepCopy()
	n.Spec.Unschedulable = true
	n.Status.Config = &corev1.NodeConfigStatus{}
	n.Status.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "10.0.0.1"}}
	k.Status.PrepareUpdate(n, old)
	if n.Spec.Unschedulable || n.Status.Config != nil {
		t.Errorf("prepared: %+v", n)
	}
	wantTexts(t, k.Status.ValidateUpdate(n, old), `status.addresses[1]: Duplicate value: {"type":"InternalIP","address":"10.0.0.1"}`)
	n.Status = corev1.NodeStatus{Config: &corev1.NodeConfigStatus{
		Active:   &corev1.NodeConfigSource{},
		Assigned: &corev1.NodeConfigSource{ConfigMap: &corev1.ConfigMapNodeConfigSource{Namespace: "a.b"}},
	}}
	wantTexts(t, k.Status.ValidateUpdate(n, old),
		"status.config.active: Invalid value: {}: exactly one reference subfield must be non-nil",
		"status.config.assigned.configMap.uid: Required value: uid must be set in status",
		"status.config.assigned.configMap.resourceVersion: Required value: resourceVersion must be set in status",
		`status.config.assigned.configMap.namespace: Invalid value: "a.b": must not contain dots`,
		"status.config.assigned.configMap.name: Required value: name must be set",
		"status.config.assigned.configMap.kubeletConfigKey: Required value: kubeletConfigKey must be set")
}

func TestNodeCells(t *testing.T) {
	k := kindOf(t, "", "nodes")
	n := newNode(func(n *corev1.Node) {
		n.CreationTimestamp = metav1.NewTime(now.Add(-3 * time.Hour))
		n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "lab", "node-role.kubernetes.io/": ""}
		n.Spec.Unschedulable = true
		n.Status = corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", OSImage: "Debian 12", KernelVersion: "6.18.5", Architecture: "amd64", ContainerRuntimeVersion: "containerd://2.4.0"},
		}
	})
	if have, want := rowText(k.Cells(n, now)), "n1|Ready,SchedulingDisabled|control-plane,lab|3h|v1.37.2|10.0.0.1|<none>|Debian 12|6.18.5 (amd64)|containerd://2.4.0"; have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
	if have, want := rowText(k.Cells(newNode(), now)), "n1|Unknown|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"; have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
	n.Status.Conditions[0].Status = corev1.ConditionUnknown
	if have := nodeStatus(n); have != "NotReady,SchedulingDisabled" {
		t.Error(have)
	}
}
