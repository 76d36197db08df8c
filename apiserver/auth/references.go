package auth

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// podIndex answers the node rules' questions from the live pods.
type podIndex struct{ reader Reader }

func newPodIndex(r Reader) podIndex { return podIndex{reader: r} }

func (p podIndex) onNode(ctx context.Context, node, namespace, name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	pod, err := find[*corev1.Pod](ctx, p.reader, "pods", namespace, name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && pod.Spec.NodeName == node, err
}

// refers tells whether a pod of the namespace that is bound to the node satisfies match.
func (p podIndex) refers(ctx context.Context, node, namespace string, match func(*corev1.Pod) bool) (bool, error) {
	pods, _, err := p.reader.List(ctx, schema.GroupResource{Resource: "pods"}, namespace)
	if err != nil {
		return false, err
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == node && match(pod) {
			return true, nil
		}
	}
	return false, nil
}

func refersToServiceAccount(pod *corev1.Pod, name string) bool {
	return pod.Spec.ServiceAccountName == name
}

func refersToSecret(pod *corev1.Pod, name string) bool {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == name {
			return true
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if s := v.Projected.Sources[j].Secret; s != nil && s.Name == name {
				return true
			}
		}
	}
	return envRefers(pod, func(from *corev1.EnvFromSource, env *corev1.EnvVarSource) bool {
		if from != nil {
			return from.SecretRef != nil && from.SecretRef.Name == name
		}
		return env.SecretKeyRef != nil && env.SecretKeyRef.Name == name
	})
}

func refersToConfigMap(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if c := v.Projected.Sources[j].ConfigMap; c != nil && c.Name == name {
				return true
			}
		}
	}
	return envRefers(pod, func(from *corev1.EnvFromSource, env *corev1.EnvVarSource) bool {
		if from != nil {
			return from.ConfigMapRef != nil && from.ConfigMapRef.Name == name
		}
		return env.ConfigMapKeyRef != nil && env.ConfigMapKeyRef.Name == name
	})
}

// envRefers calls match for every source of environment that any container of the pod has; one argument is nil.
func envRefers(pod *corev1.Pod, match func(*corev1.EnvFromSource, *corev1.EnvVarSource) bool) bool {
	check := func(from []corev1.EnvFromSource, env []corev1.EnvVar) bool {
		for i := range from {
			if match(&from[i], nil) {
				return true
			}
		}
		for i := range env {
			if env[i].ValueFrom != nil && match(nil, env[i].ValueFrom) {
				return true
			}
		}
		return false
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if check(list[i].EnvFrom, list[i].Env) {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; check(c.EnvFrom, c.Env) {
			return true
		}
	}
	return false
}
