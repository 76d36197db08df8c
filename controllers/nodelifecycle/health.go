package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// startupGrace is how long a new node may take until its agent first reports.
const startupGrace = 60 * time.Second

// reported are the conditions that only the agent knows; without it they become Unknown.
var reported = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

func condition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func readiness(node *corev1.Node) corev1.ConditionStatus {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

// untilLost is how long the node may stay silent from now on; zero or less when it counts as lost.
func untilLost(node *corev1.Node, heard, now time.Time, grace time.Duration) time.Duration {
	if condition(node, corev1.NodeReady) == nil {
		grace = max(grace, startupGrace)
	}
	return heard.Add(grace).Sub(now)
}

// markLost gives the conditions of a node that is no longer heard of; changed is false when they say so already. It is pure.
func markLost(node *corev1.Node, now metav1.Time) (conditions []corev1.NodeCondition, changed bool) {
	conditions = slices.Clone(node.Status.Conditions)
	for _, t := range reported {
		i := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			conditions = append(conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			changed = true
		case conditions[i].Status != corev1.ConditionUnknown:
			c := &conditions[i]
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
			changed = true
		}
	}
	return conditions, changed
}

// ours are the taints that follow from a node's conditions; others' are never touched.
var ours = []corev1.Taint{
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
}

// pressures are the conditions that taint a node while they are true.
var pressures = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure: corev1.TaintNodeMemoryPressure, corev1.NodeDiskPressure: corev1.TaintNodeDiskPressure,
	corev1.NodePIDPressure: corev1.TaintNodePIDPressure, corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
}

// evict says what may be done about the pods of a node that is not ready.
type evict int

const (
	evictNow  evict = iota // taint it NoExecute
	evictHold              // leave its NoExecute taints as they are
	evictNot               // take them off: the fault is not likely the node's
)

// taints gives the node's taints as they should be; changed is false when they are. It is pure.
func taints(node *corev1.Node, mode evict, now metav1.Time) (list []corev1.Taint, changed bool) {
	wanted := wantedTaints(node, mode)
	for _, taint := range node.Spec.Taints {
		mine := slices.ContainsFunc(ours, same(taint))
		i := slices.IndexFunc(wanted, same(taint))
		if mine && i < 0 {
			changed = true
			continue
		}
		if i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		}
		list = append(list, taint)
	}
	for _, taint := range wanted {
		taint.TimeAdded = &now
		list, changed = append(list, taint), true
	}
	return list, changed
}

func wantedTaints(node *corev1.Node, mode evict) []corev1.Taint {
	var wanted []corev1.Taint
	add := func(key string, effect corev1.TaintEffect) {
		wanted = append(wanted, corev1.Taint{Key: key, Effect: effect})
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	for _, c := range node.Status.Conditions {
		if key := pressures[c.Type]; key != "" && c.Status == corev1.ConditionTrue {
			add(key, corev1.TaintEffectNoSchedule)
		}
	}
	if condition(node, corev1.NodeReady) == nil {
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule) // its agent is only starting
		return wanted
	}
	var key string
	switch readiness(node) {
	case corev1.ConditionTrue:
		return wanted
	case corev1.ConditionFalse:
		key = corev1.TaintNodeNotReady
	default:
		key = corev1.TaintNodeUnreachable
	}
	add(key, corev1.TaintEffectNoSchedule)
	if mode == evictNow || mode == evictHold && evicting(node) {
		add(key, corev1.TaintEffectNoExecute)
	}
	return wanted
}

// zone disruption, by upstream's figures.
const (
	largeZone        = 50               // nodes; smaller zones do not go on evicting when most of their nodes are lost
	unhealthyShare   = 0.55             // of a zone's nodes
	evictionInterval = 10 * time.Second // between two nodes of a zone
	slowInterval     = 100 * time.Second
)

// health counts a zone's nodes.
type health struct{ ready, notReady int }

// interval is how far apart nodes of the zone may be given up; never is true when none may be. When no node anywhere is ready the fault is most
// likely on this side; nowhere says so.
func (h health) interval(nowhere bool) (apart time.Duration, never bool) {
	total := h.ready + h.notReady
	switch {
	case nowhere:
		return 0, true
	case h.ready == 0 || h.notReady <= 2 || float64(h.notReady)/float64(total) < unhealthyShare:
		return evictionInterval, false
	case total > largeZone:
		return slowInterval, false
	}
	return 0, true
}

// secondary are the labels that older clients know, by those that they repeat.
var secondary = map[string]string{corev1.LabelOSStable: "beta.kubernetes.io/os", corev1.LabelArchStable: "beta.kubernetes.io/arch"}

// missingLabels are the secondary labels that the node lacks, or has with another value. It is pure.
func missingLabels(node *corev1.Node) map[string]string {
	missing := map[string]string{}
	for first, second := range secondary {
		if want, ok := node.Labels[first]; ok {
			if have, has := node.Labels[second]; !has || have != want {
				missing[second] = want
			}
		}
	}
	return missing
}

// same tells which taint has a's key and effect.
func same(a corev1.Taint) func(corev1.Taint) bool {
	return func(b corev1.Taint) bool { return a.Key == b.Key && a.Effect == b.Effect }
}
