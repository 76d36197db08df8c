package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TolerationSeconds is how long pods that say nothing of it stay on a failing node.
type TolerationSeconds struct {
	// NotReady is for nodes that are not ready, Unreachable for those that are not heard of.
	NotReady, Unreachable int64
}

// DefaultTolerationSeconds are upstream's: five minutes.
var DefaultTolerationSeconds = TolerationSeconds{NotReady: 300, Unreachable: 300}

// defaultTolerationSeconds lets pods that say nothing of it stay on a failing node for a while.
type defaultTolerationSeconds struct{ seconds TolerationSeconds }

func (defaultTolerationSeconds) Name() string { return "DefaultTolerationSeconds" }

func (defaultTolerationSeconds) Validate(context.Context, *Request) error { return nil }

func (d defaultTolerationSeconds) Mutate(_ context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || !r.is("", "pods", "") || r.Operation != Create && r.Operation != Update {
		return nil
	}
	add := func(key string, seconds int64) {
		if !toleratesNoExecute(pod.Spec.Tolerations, key) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(seconds),
			})
		}
	}
	add(corev1.TaintNodeNotReady, d.seconds.NotReady)
	add(corev1.TaintNodeUnreachable, d.seconds.Unreachable)
	return nil
}

func toleratesNoExecute(tolerations []corev1.Toleration, key string) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// taintNodesByCondition keeps pods off a new node until the node lifecycle controller has seen it ready.
type taintNodesByCondition struct{}

func (taintNodesByCondition) Name() string { return "TaintNodesByCondition" }

func (taintNodesByCondition) Validate(context.Context, *Request) error { return nil }

func (taintNodesByCondition) Mutate(_ context.Context, r *Request) error {
	node, ok := r.Object.(*corev1.Node)
	if !ok || r.Operation != Create || !r.is("", "nodes", "") {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].MatchTaint(&taint) {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, taint)
	return nil
}
