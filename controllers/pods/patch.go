package pods

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// PatchStatus sets one condition of the pod, and its phase unless that is empty, provided the pod has not changed since it was read. The
// condition's transition time is kept when its status stays.
func PatchStatus(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, phase corev1.PodPhase, c corev1.PodCondition) error {
	c.ObservedGeneration = pod.Generation
	if have := Condition(pod, c.Type); have != nil && have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	status := map[string]any{"conditions": []corev1.PodCondition{c}}
	if phase != "" {
		status["phase"] = phase
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}, "status": status,
	})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
