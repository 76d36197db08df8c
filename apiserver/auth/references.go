package auth

import (
	"context"

	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// podIndex answers the node rules' questions from the live pods. Looking through a namespace is for the first time a
// node asks for an object; the pod that justified it is remembered, and only that one is looked at from then on.
type podIndex struct {
	reader Reader
	known  *lru.Cache[reference, string] // to the name of a pod
}

// reference is one object a node has asked for.
type reference struct{ node, namespace, resource, name string }

func newPodIndex(r Reader) podIndex {
	cache, err := lru.New[reference, string](16384)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return podIndex{reader: r, known: cache}
}

func (p podIndex) onNode(ctx context.Context, node, namespace, name string) (bool, error) {
	pod, err := p.pod(ctx, namespace, name)
	return pod != nil && pod.Spec.NodeName == node, err
}

// pod returns nil where there is none.
func (p podIndex) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if name == "" {
		return nil, nil
	}
	pod, err := find[*corev1.Pod](ctx, p.reader, "pods", namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pod, err
}

// refers tells whether a pod that is bound to the node refers to the object in the way that match looks for.
func (p podIndex) refers(ctx context.Context, r reference, match func(*corev1.Pod, string) bool) (bool, error) {
	if name, ok := p.known.Get(r); ok {
		pod, err := p.pod(ctx, r.namespace, name)
		if err != nil || pod != nil && pod.Spec.NodeName == r.node && match(pod, r.name) {
			return err == nil, err
		}
		p.known.Remove(r)
	}
	pods, _, err := p.reader.List(ctx, schema.GroupResource{Resource: "pods"}, r.namespace)
	if err != nil {
		return false, err
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == r.node && match(pod, r.name) {
			p.known.Add(r, pod.Name)
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
