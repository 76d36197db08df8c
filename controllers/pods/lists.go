package pods

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Filter gives the pods that are to be kept, in a list of their own.
func Filter(list []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range list {
		if keep(pod) {
			kept = append(kept, pod)
		}
	}
	return kept
}

// FalseFirst compares for sorting.
func FalseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// IgnoreEnd drops the error of what cannot be created because the namespace, and its owner with it, is about to go.
func IgnoreEnd(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
