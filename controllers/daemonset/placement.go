package daemonset

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// templateGeneration is the label of pods that tells which spec.templateGeneration, a field of former versions, they were made of.
const templateGeneration = "pod-template-generation"

// placement tells on which nodes a set's pods belong.
type placement struct {
	nodeName    string
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

func placementOf(set *appsv1.DaemonSet) placement {
	spec := &set.Spec.Template.Spec
	return placement{
		nodeName: spec.NodeName, affinity: nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity), tolerations: tolerations(spec),
	}
}

// on tells whether the node is to run a pod, and whether one that runs there may stay. A pod stays where it is merely not to be scheduled.
func (p placement) on(node *corev1.Node) (run, stay bool) {
	if p.nodeName != "" && p.nodeName != node.Name {
		return false, false
	}
	if ok, err := p.affinity.Match(node); err != nil || !ok {
		return false, false
	}
	repelled := func(effects ...corev1.TaintEffect) bool {
		_, found := schedulinghelper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, true)
		return found
	}
	return !repelled(corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule), !repelled(corev1.TaintEffectNoExecute)
}

// tolerations are the template's, and those for what ails a node, which every daemon has.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	all := slices.Clone(spec.Tolerations)
	add := func(effect corev1.TaintEffect, keys ...string) {
		for _, key := range keys {
			t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
			i := slices.IndexFunc(all, func(have corev1.Toleration) bool { return have.MatchToleration(&t) })
			if i >= 0 {
				all[i] = t // for good: without a time after which it ends
				continue
			}
			all = append(all, t)
		}
	}
	add(corev1.TaintEffectNoExecute, corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable)
	add(corev1.TaintEffectNoSchedule, corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable)
	if spec.HostNetwork {
		add(corev1.TaintEffectNoSchedule, corev1.TaintNodeNetworkUnavailable)
	}
	return all
}

// toNode is the affinity that binds a pod to one node through the scheduler. What else the template asks of a node has been looked at.
func toNode(affinity *corev1.Affinity, node string) *corev1.Affinity {
	bound := affinity.DeepCopy()
	if bound == nil {
		bound = &corev1.Affinity{}
	}
	if bound.NodeAffinity == nil {
		bound.NodeAffinity = &corev1.NodeAffinity{}
	}
	bound.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
	return bound
}

// nodeOf is the node that a pod runs on, or was made for; empty when neither is known.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			if r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn && len(r.Values) == 1 {
				return r.Values[0]
			}
		}
	}
	return ""
}

// generationOf is the template's generation as former versions counted it; not ok when the set has none.
func generationOf(set *appsv1.DaemonSet) (string, bool) {
	value, found := set.Annotations[appsv1.DeprecatedTemplateGeneration]
	if !found {
		return "", false
	}
	n, err := strconv.ParseInt(value, 10, 64)
	return strconv.FormatInt(n, 10), err == nil
}
