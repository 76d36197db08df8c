// Package manifests reads the pods that a node runs from files of its own, without anybody's leave: static pods.
//
// Invariant: the same file on the same node gives the same pod with the same UID, so that an agent that starts anew
// knows its containers; another content gives another UID.
package manifests

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// The annotations of static pods and of their mirrors in the API, as the kubelet has them.
const (
	AnnotationSource = "kubernetes.io/config.source"
	AnnotationHash   = "kubernetes.io/config.hash"
)

// Parse makes the pod of a file, in JSON or YAML, for a node. Errors say what is wrong with the file.
func Parse(data []byte, node string) (*v1.Pod, error) {
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(data, pod); err != nil {
		return nil, err
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("it is no Pod of v1 but %q of %q", pod.Kind, pod.APIVersion)
	}
	pod.Status = v1.PodStatus{}
	pod.UID = uid(data, node)
	pod.Name += "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[AnnotationSource], pod.Annotations[AnnotationHash] = "file", string(pod.UID)
	pod.Generation, pod.Spec.NodeName = 1, node
	// Nothing drives it away: nobody could make it again elsewhere.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	setDefaults(&pod.Spec)
	return pod, validate(pod)
}

// uid is a hash of the node and the content of the file, in as many digits as the kubelet's.
func uid(data []byte, node string) types.UID {
	sum := sha256.Sum256(append([]byte(node+"\x00"), bytes.TrimSpace(data)...))
	return types.UID(hex.EncodeToString(sum[:16]))
}

// Mirror is how the API shows the pod: made by the node, and its own.
func Mirror(pod *v1.Pod, node *v1.Node) *v1.Pod {
	m := pod.DeepCopy()
	m.UID, m.ResourceVersion, m.Generation = "", "", 0
	m.Annotations[v1.MirrorPodAnnotationKey] = string(pod.UID)
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true)}}
	return m
}

// MirrorOf is the UID of the static pod that an API object is the picture of; empty: it is no mirror.
func MirrorOf(pod *v1.Pod) types.UID { return types.UID(pod.Annotations[v1.MirrorPodAnnotationKey]) }

// setDefaults are those of the API server that the agent relies on.
func setDefaults(s *v1.PodSpec) {
	if s.RestartPolicy == "" {
		s.RestartPolicy = v1.RestartPolicyAlways
	}
	if s.TerminationGracePeriodSeconds == nil {
		s.TerminationGracePeriodSeconds = new(int64(v1.DefaultTerminationGracePeriodSeconds))
	}
	if s.DNSPolicy == "" {
		s.DNSPolicy = v1.DNSClusterFirst
	}
	if s.EnableServiceLinks == nil {
		s.EnableServiceLinks = new(v1.DefaultEnableServiceLinks)
	}
	for _, list := range [][]v1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			c := &list[i]
			for _, p := range []*v1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				probeDefaults(p)
			}
			for name, q := range c.Resources.Limits {
				if _, ok := c.Resources.Requests[name]; !ok {
					if c.Resources.Requests == nil {
						c.Resources.Requests = v1.ResourceList{}
					}
					c.Resources.Requests[name] = q
				}
			}
		}
	}
}

func probeDefaults(p *v1.Probe) {
	if p == nil {
		return
	}
	for field, value := range map[*int32]int32{&p.TimeoutSeconds: 1, &p.PeriodSeconds: 10, &p.SuccessThreshold: 1, &p.FailureThreshold: 3} {
		if *field == 0 {
			*field = value
		}
	}
}

// validate refuses what could not be run, or not without the API; the rest of validation is the API server's, when it gets
// the mirror.
func validate(pod *v1.Pod) error {
	var errs []error
	for _, problem := range validation.NameIsDNSSubdomain(pod.Name, false) {
		errs = append(errs, fmt.Errorf("metadata.name: %s", problem))
	}
	if len(pod.Spec.Containers) == 0 {
		errs = append(errs, errors.New("spec.containers: there is none"))
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, errors.New("spec.ephemeralContainers: static pods have none"))
	}
	names := map[string]bool{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			for _, problem := range utilvalidation.IsDNS1123Label(c.Name) {
				errs = append(errs, fmt.Errorf("container %q: %s", c.Name, problem))
			}
			if names[c.Name] || c.Image == "" {
				errs = append(errs, fmt.Errorf("container %q: it needs a name of its own and an image", c.Name))
			}
			names[c.Name] = true
		}
	}
	if what := reference(pod); what != "" {
		errs = append(errs, fmt.Errorf("static pods may not reference %s", what))
	}
	return errors.Join(errs...)
}

// reference names the first kind of API object that the pod needs; empty is none.
func reference(pod *v1.Pod) string {
	switch {
	case pod.Spec.ServiceAccountName != "", pod.Spec.DeprecatedServiceAccount != "":
		return "serviceaccounts"
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.ConfigMap != nil:
			return "configmaps"
		case v.Secret != nil:
			return "secrets"
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil:
			return "objects by projected volumes"
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, e := range list[i].EnvFrom {
				if e.ConfigMapRef != nil || e.SecretRef != nil {
					return "configmaps or secrets"
				}
			}
			for _, e := range list[i].Env {
				if e.ValueFrom != nil && (e.ValueFrom.ConfigMapKeyRef != nil || e.ValueFrom.SecretKeyRef != nil) {
					return "configmaps or secrets"
				}
			}
		}
	}
	return ""
}
