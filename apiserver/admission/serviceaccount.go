package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
)

const (
	defaultServiceAccount = "default"
	tokenVolumePrefix     = "kube-api-access-"
	tokenMountPath        = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is upstream's mark of a token that was asked for by this plug-in: an hour and seven seconds.
	tokenSeconds  = 60*60 + 7
	rootCAConfig  = "kube-root-ca.crt"
	enforceSecret = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives every pod an identity that exists, and a token of it where the pod wants one.
type serviceAccount struct {
	reader Reader
	// patience is how long to wait for the default account of a namespace that was made just now.
	patience, poll time.Duration
}

func newServiceAccount(r Reader) serviceAccount {
	return serviceAccount{reader: r, patience: time.Second, poll: 20 * time.Millisecond}
}

func (serviceAccount) Name() string { return "ServiceAccount" }

func (p serviceAccount) Mutate(ctx context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Operation != Create || !r.is("", "pods", "") || isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := p.lookup(ctx, r, pod)
	if err != nil {
		return err
	}
	if automounts(sa, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 && len(sa.ImagePullSecrets) > 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), sa.ImagePullSecrets...)
	}
	return nil
}

func (p serviceAccount) Validate(ctx context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Operation != Create || !r.is("", "pods", "") {
		return nil
	}
	if isMirror(pod) {
		return r.mirrorRefusal(pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		return r.forbid(fmt.Errorf("no service account specified for pod %s/%s", r.Namespace, pod.Name))
	}
	sa, err := p.lookup(ctx, r, pod)
	if err != nil {
		return err
	}
	if sa.Annotations[enforceSecret] == "true" {
		if err := mountable(sa, pod); err != nil {
			return r.forbid(err)
		}
	}
	return nil
}

// lookup finds the pod's account. The default one follows its namespace by a moment, so it is waited for.
func (p serviceAccount) lookup(ctx context.Context, r *Request, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	name := pod.Spec.ServiceAccountName
	deadline := time.Now().Add(p.patience)
	for {
		sa, err := get[*corev1.ServiceAccount](ctx, p.reader, schema.GroupResource{Resource: "serviceaccounts"}, r.Namespace, name)
		if err == nil {
			return sa, nil
		}
		if apierrors.IsNotFound(err) { // upstream names the resource in the singular here
			err = apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
		}
		if !apierrors.IsNotFound(err) || name != defaultServiceAccount || time.Now().After(deadline) {
			return nil, r.forbid(fmt.Errorf("error looking up service account %s/%s: %w", r.Namespace, name, err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(p.poll):
		}
	}
}

func automounts(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return ptr.Deref(sa.AutomountServiceAccountToken, true)
}

// mountToken mounts the token volume wherever a container has nothing at its path.
func mountToken(pod *corev1.Pod) {
	name, has := "", false
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolumePrefix) {
			name, has = pod.Spec.Volumes[i].Name, true
			break
		}
	}
	if !has {
		name = tokenVolumePrefix + rand.String(5)
	}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !mountsAt(&containers[i], tokenMountPath) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
				needed = true
			}
		}
	}
	if needed && !has {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func mountsAt(c *corev1.Container, path string) bool {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].MountPath == path {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To[int32](0o644),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfig},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// mirrorRefusal: mirror pods only report what a node runs on its own and may not get at anything of the API.
func (r *Request) mirrorRefusal(pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return r.forbid(errors.New("a mirror pod may not reference service accounts"))
	}
	if len(secretsOf(pod)) > 0 {
		return r.forbid(errors.New("a mirror pod may not reference secrets"))
	}
	for i := range pod.Spec.Volumes {
		if proj := pod.Spec.Volumes[i].Projected; proj != nil {
			for j := range proj.Sources {
				if proj.Sources[j].ServiceAccountToken != nil {
					return r.forbid(errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
				}
			}
		}
	}
	return nil
}
