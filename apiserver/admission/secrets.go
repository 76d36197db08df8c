package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// secretUse is one place where a pod refers to a Secret; what is upstream's wording of the place.
type secretUse struct{ what, secret string }

// secretsOf lists the Secrets that a pod's volumes and environment refer to. Pull secrets are not among them.
func secretsOf(pod *corev1.Pod) []secretUse {
	var out []secretUse
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil {
			out = append(out, secretUse{fmt.Sprintf("volume with secret.secretName=%q", v.Secret.SecretName), v.Secret.SecretName})
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if s := v.Projected.Sources[j].Secret; s != nil {
				out = append(out, secretUse{fmt.Sprintf("volume with secret.secretName=%q", s.Name), s.Name})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		out = append(out, environmentSecrets("init container "+c.Name, c.Env, c.EnvFrom)...)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		out = append(out, environmentSecrets("container "+c.Name, c.Env, c.EnvFrom)...)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		out = append(out, environmentSecrets("ephemeral container "+c.Name, c.Env, c.EnvFrom)...)
	}
	return out
}

func environmentSecrets(container string, env []corev1.EnvVar, from []corev1.EnvFromSource) []secretUse {
	var out []secretUse
	for i := range env {
		if s := env[i].ValueFrom; s != nil && s.SecretKeyRef != nil {
			out = append(out, secretUse{fmt.Sprintf("%s with envVar %s referencing secret.secretName=%q", container, env[i].Name, s.SecretKeyRef.Name), s.SecretKeyRef.Name})
		}
	}
	for i := range from {
		if s := from[i].SecretRef; s != nil {
			out = append(out, secretUse{fmt.Sprintf("%s with envFrom referencing secret.secretName=%q", container, s.Name), s.Name})
		}
	}
	return out
}

// mountable refuses a pod that uses Secrets its account does not list, where the account's annotation asks for that.
func mountable(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	allowed := map[string]bool{}
	for _, s := range sa.Secrets {
		allowed[s.Name] = true
	}
	for _, use := range secretsOf(pod) {
		if !allowed[use.secret] {
			return fmt.Errorf("%s is not allowed because service account %s does not reference that secret", use.what, sa.Name)
		}
	}
	pull := map[string]bool{}
	for _, s := range sa.ImagePullSecrets {
		pull[s.Name] = true
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !pull[s.Name] {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, sa.Name)
		}
	}
	return nil
}
