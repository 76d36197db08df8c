package auth

import (
	"context"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
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

// leadsTo tells whether the object that a node asks for is one of its own, or one that its pods need.
func (p podIndex) leadsTo(ctx context.Context, r reference) (bool, error) {
	switch r.resource {
	case "pods":
		return p.onNode(ctx, r.node, r.namespace, r.name)
	case "secrets":
		ok, err := p.refers(ctx, r, refersToSecret)
		if ok || err != nil {
			return ok, err
		}
		return p.volumeRefers(ctx, r)
	case "configmaps":
		return p.refers(ctx, r, refersToConfigMap)
	case "serviceaccounts":
		return p.refers(ctx, r, refersToServiceAccount)
	case "persistentvolumeclaims":
		return p.refers(ctx, r, refersToClaim)
	case "resourceclaims":
		return p.refers(ctx, r, refersToResourceClaim)
	case "persistentvolumes":
		v, err := find[*corev1.PersistentVolume](ctx, p.reader, "persistentvolumes", "", r.name)
		if err != nil {
			return false, ignoreMissing(err)
		}
		return p.volume(ctx, r.node, v)
	case "volumeattachments":
		obj, err := p.reader.Get(ctx, schema.GroupResource{Group: storagev1.GroupName, Resource: r.resource}, "", r.name)
		if err != nil {
			return false, ignoreMissing(err)
		}
		va, ok := obj.(*storagev1.VolumeAttachment)
		return ok && va.Spec.NodeName == r.node, nil
	case "resourceslices":
		obj, err := p.reader.Get(ctx, schema.GroupResource{Group: resourcev1.GroupName, Resource: r.resource}, "", r.name)
		if err != nil {
			return false, ignoreMissing(err)
		}
		s, ok := obj.(*resourcev1.ResourceSlice)
		return ok && s.Spec.NodeName != nil && *s.Spec.NodeName == r.node, nil
	}
	return false, nil
}

// ignoreMissing: what is not there leads nowhere.
func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// volume tells whether a pod on the node uses the claim that a volume is for.
func (p podIndex) volume(ctx context.Context, node string, v *corev1.PersistentVolume) (bool, error) {
	claim := v.Spec.ClaimRef
	if claim == nil {
		return false, nil
	}
	return p.refers(ctx, reference{node, claim.Namespace, "persistentvolumeclaims", claim.Name}, refersToClaim)
}

// volumeRefers tells whether a volume that a pod on the node uses takes its credentials from a secret.
func (p podIndex) volumeRefers(ctx context.Context, r reference) (bool, error) {
	volumes, _, err := p.reader.List(ctx, schema.GroupResource{Resource: "persistentvolumes"}, "")
	if err != nil {
		return false, nil //nolint:nilerr // no volumes are served, so none refers
	}
	for _, obj := range volumes {
		v, ok := obj.(*corev1.PersistentVolume)
		if !ok || !slices.Contains(volumeSecrets(v), objectKey{r.namespace, r.name}) {
			continue
		}
		if used, err := p.volume(ctx, r.node, v); used || err != nil {
			return used, err
		}
	}
	return false, nil
}

// volumeSecrets are the secrets that a volume takes its credentials from; those without a namespace are in the claim's.
func volumeSecrets(v *corev1.PersistentVolume) []objectKey {
	var out []objectKey
	add := func(ref *corev1.SecretReference) {
		if ref == nil || ref.Name == "" {
			return
		}
		namespace := ref.Namespace
		if namespace == "" && v.Spec.ClaimRef != nil {
			namespace = v.Spec.ClaimRef.Namespace
		}
		out = append(out, objectKey{namespace, ref.Name})
	}
	s := &v.Spec.PersistentVolumeSource
	if s.CSI != nil {
		add(s.CSI.ControllerPublishSecretRef)
		add(s.CSI.NodePublishSecretRef)
		add(s.CSI.NodeStageSecretRef)
		add(s.CSI.NodeExpandSecretRef)
	}
	if s.AzureFile != nil {
		ref := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			ref.Namespace = *s.AzureFile.SecretNamespace
		}
		add(ref)
	}
	if s.CephFS != nil {
		add(s.CephFS.SecretRef)
	}
	if s.FlexVolume != nil {
		add(s.FlexVolume.SecretRef)
	}
	if s.RBD != nil {
		add(s.RBD.SecretRef)
	}
	if s.ScaleIO != nil {
		add(s.ScaleIO.SecretRef)
	}
	if s.ISCSI != nil {
		add(s.ISCSI.SecretRef)
	}
	return out
}

// refers tells whether a pod that is bound to the node refers to the object in the way that match looks for. What mirror pods
// refer to does not count: nodes make those themselves.
func (p podIndex) refers(ctx context.Context, r reference, match func(*corev1.Pod, string) bool) (bool, error) {
	if name, ok := p.known.Get(r); ok {
		pod, err := p.pod(ctx, r.namespace, name)
		if err != nil || pod != nil && justifies(pod, r, match) {
			return err == nil, err
		}
		p.known.Remove(r)
	}
	pods, _, err := p.reader.List(ctx, schema.GroupResource{Resource: "pods"}, r.namespace)
	if err != nil {
		return false, err
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && justifies(pod, r, match) {
			p.known.Add(r, pod.Name)
			return true, nil
		}
	}
	return false, nil
}

func justifies(pod *corev1.Pod, r reference, match func(*corev1.Pod, string) bool) bool {
	if pod.Spec.NodeName != r.node {
		return false
	}
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return !mirror && match(pod, r.name)
}

func refersToClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name,
			v.Ephemeral != nil && pod.Name+"-"+v.Name == name:
			return true
		}
	}
	return false
}

func refersToResourceClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.ResourceClaims {
		if c := pod.Spec.ResourceClaims[i].ResourceClaimName; c != nil && *c == name {
			return true
		}
	}
	for i := range pod.Status.ResourceClaimStatuses {
		if c := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; c != nil && *c == name {
			return true
		}
	}
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && extended.ResourceClaimName == name
}

func refersToServiceAccount(pod *corev1.Pod, name string) bool {
	return pod.Spec.ServiceAccountName == name
}

func refersToSecret(pod *corev1.Pod, name string) bool {
	return AnySecret(pod, func(have string) bool { return have == name })
}

// AnySecret tells whether a pod refers to a Secret that is one of those asked for.
func AnySecret(pod *corev1.Pod, is func(name string) bool) bool {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if is(ref.Name) {
			return true
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil && is(v.Secret.SecretName) {
			return true
		}
		if name := driverSecret(&v.VolumeSource); name != "" && is(name) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if s := v.Projected.Sources[j].Secret; s != nil && is(s.Name) {
				return true
			}
		}
	}
	return envRefers(pod, func(from *corev1.EnvFromSource, env *corev1.EnvVarSource) bool {
		if from != nil {
			return from.SecretRef != nil && is(from.SecretRef.Name)
		}
		return env.SecretKeyRef != nil && is(env.SecretKeyRef.Name)
	})
}

// driverSecret is the secret that a volume's driver takes its credentials from.
func driverSecret(v *corev1.VolumeSource) string {
	var ref *corev1.LocalObjectReference
	switch {
	case v.AzureFile != nil:
		return v.AzureFile.SecretName
	case v.CSI != nil:
		ref = v.CSI.NodePublishSecretRef
	case v.CephFS != nil:
		ref = v.CephFS.SecretRef
	case v.Cinder != nil:
		ref = v.Cinder.SecretRef
	case v.FlexVolume != nil:
		ref = v.FlexVolume.SecretRef
	case v.ISCSI != nil:
		ref = v.ISCSI.SecretRef
	case v.RBD != nil:
		ref = v.RBD.SecretRef
	case v.ScaleIO != nil:
		ref = v.ScaleIO.SecretRef
	case v.StorageOS != nil:
		ref = v.StorageOS.SecretRef
	}
	if ref == nil {
		return ""
	}
	return ref.Name
}

func refersToConfigMap(pod *corev1.Pod, name string) bool {
	return AnyConfigMap(pod, func(have string) bool { return have == name })
}

// AnyConfigMap tells whether a pod refers to a ConfigMap that is one of those asked for.
func AnyConfigMap(pod *corev1.Pod, is func(name string) bool) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil && is(v.ConfigMap.Name) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if c := v.Projected.Sources[j].ConfigMap; c != nil && is(c.Name) {
				return true
			}
		}
	}
	return envRefers(pod, func(from *corev1.EnvFromSource, env *corev1.EnvVarSource) bool {
		if from != nil {
			return from.ConfigMapRef != nil && is(from.ConfigMapRef.Name)
		}
		return env.ConfigMapKeyRef != nil && is(env.ConfigMapKeyRef.Name)
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
