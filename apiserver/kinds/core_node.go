//lint:file-ignore SA1019 spec.configSource is deprecated, and checked.

package kinds

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// labelNodeRolePrefix begins labels whose rest is a role of the node.
	labelNodeRolePrefix = "node-role.kubernetes.io/"
	// labelNodeRole has a role as its value.
	labelNodeRole = "kubernetes.io/role"
)

func nodes() []Kind {
	info, status := corev1.NodeSystemInfo{}.SwaggerDoc(), corev1.NodeStatus{}.SwaggerDoc()
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Node"),
		Resource:   "nodes",
		Singular:   "node",
		ShortNames: []string{"no"},
		Prefix:     "minions",
		New:        func() runtime.Object { return &corev1.Node{} },
		NewList:    func() runtime.Object { return &corev1.NodeList{} },

		Default:             on(defaultNode),
		PrepareCreate:       on(prepareNodeCreate),
		PrepareUpdate:       onUpdate(prepareNodeUpdate),
		Validate:            check(validateNode),
		ValidateUpdate:      checkUpdate(validateNodeUpdate),
		Warnings:            warn(nodeWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Fields: fieldSet(func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "The status of the node"),
			column("Roles", "string", "The roles of the node"),
			ageColumn(),
			column("Version", "string", info["kubeletVersion"]),
			wideColumn("Internal-IP", "string", status["addresses"]),
			wideColumn("External-IP", "string", status["addresses"]),
			wideColumn("OS-Image", "string", info["osImage"]),
			wideColumn("Kernel-Version", "string", info["kernelVersion"]),
			wideColumn("Container-Runtime", "string", info["containerRuntimeVersion"]),
		},
		Cells: cells(nodeCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareNodeStatusUpdate),
			ValidateUpdate: checkUpdate(validateNodeStatusUpdate),
		},
		Others: []string{"proxy"},
	}}
}

// defaultNode makes podCIDR and podCIDRs agree where one is missing, and offers all of a node's capacity to pods.
func defaultNode(n *corev1.Node) {
	if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	roundResources(n.Status.Capacity)
	roundResources(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

// prepareNodeCreate keeps the status: a node's agent registers it together with what it found.
func prepareNodeCreate(n *corev1.Node) { n.Spec.ConfigSource = nil }

func prepareNodeUpdate(n, old *corev1.Node) {
	n.Status = *old.Status.DeepCopy()
	if old.Spec.ConfigSource == nil { // the feature is gone; objects from its time keep what they have
		n.Spec.ConfigSource = nil
	}
}

func prepareNodeStatusUpdate(n, old *corev1.Node) {
	n.Spec = *old.Spec.DeepCopy()
	if old.Status.Config == nil {
		n.Status.Config = nil
	}
}

func nodeCells(n *corev1.Node, now metav1.Time) []any {
	info := &n.Status.NodeInfo
	return []any{
		n.Name, nodeStatus(n), nodeRoles(n), age(now, n.CreationTimestamp), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		orUnknown(info.OSImage), nodeKernel(info), orUnknown(info.ContainerRuntimeVersion),
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

// nodeKernel is the kernel's version and what it runs on.
func nodeKernel(info *corev1.NodeSystemInfo) string {
	if info.KernelVersion == "" || info.Architecture == "" {
		return orUnknown(info.KernelVersion)
	}
	return info.KernelVersion + " (" + info.Architecture + ")"
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, labelNodeRolePrefix); ok && role != "" {
			roles = append(roles, role)
		} else if key == labelNodeRole && value != "" {
			roles = append(roles, value)
		}
	}
	if len(roles) == 0 {
		return "<none>"
	}
	slices.Sort(roles)
	return strings.Join(slices.Compact(roles), ",")
}

func nodeAddress(n *corev1.Node, typ corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == typ {
			return a.Address
		}
	}
	return "<none>"
}
