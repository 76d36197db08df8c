package controllers

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// trim is the informers' transform: of pods and nodes, the most numerous and the largest objects, only what controllers read is kept. Both are
// therefore only ever patched, never written whole. What it is given may be shared, so it is never changed.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return trimPod(o), nil
	case *corev1.Node:
		node := *o
		node.ManagedFields, node.Annotations = nil, trimAnnotations(o.Annotations, nodeAnnotations)
		node.Status.Images = nil
		return &node, nil
	}
	return client.DropManagedFields(obj)
}

func trimPod(o *corev1.Pod) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: o.ObjectMeta, Status: o.Status}
	pod.ManagedFields, pod.Annotations = nil, trimAnnotations(o.Annotations, podAnnotations)
	pod.Spec = corev1.PodSpec{
		NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, Hostname: o.Spec.Hostname, Subdomain: o.Spec.Subdomain, Tolerations: o.Spec.Tolerations,
		RestartPolicy: o.Spec.RestartPolicy, Affinity: trimAffinity(o.Spec.Affinity), Priority: o.Spec.Priority,
		Containers: trimContainers(o.Spec.Containers), InitContainers: trimContainers(o.Spec.InitContainers),
		Resources: o.Spec.Resources, Overhead: o.Spec.Overhead,
		Volumes: trimVolumes(o.Spec.Volumes), ResourceClaims: o.Spec.ResourceClaims, SchedulingGates: o.Spec.SchedulingGates,
	}
	pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses = trimStatuses(o.Status.ContainerStatuses), trimStatuses(o.Status.InitContainerStatuses)
	pod.Status.EphemeralContainerStatuses = nil
	return pod
}

// podAnnotations are the annotations of pods that controllers read.
var podAnnotations = []string{corev1.PodDeletionCost, batchv1.JobCompletionIndexAnnotation, batchv1.JobIndexFailureCountAnnotation, batchv1.JobIndexIgnoredFailureCountAnnotation}

// nodeAnnotations are the annotations of nodes that controllers read.
var nodeAnnotations = []string{corev1.ObjectTTLAnnotationKey, volumes.LocalFolders}

func trimAnnotations(all map[string]string, names []string) map[string]string {
	var kept map[string]string
	for _, name := range names {
		if value, ok := all[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

// trimAffinity keeps the node that a DaemonSet made the pod for.
func trimAffinity(a *corev1.Affinity) *corev1.Affinity {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
	}}
}

// trimVolumes keeps what says which claims the pod uses, and what those made for it are like.
func trimVolumes(list []corev1.Volume) []corev1.Volume {
	var trimmed []corev1.Volume
	for i := range list {
		switch v := &list[i]; {
		case v.PersistentVolumeClaim != nil:
			trimmed = append(trimmed, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: v.PersistentVolumeClaim}})
		case v.Ephemeral != nil:
			trimmed = append(trimmed, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{Ephemeral: v.Ephemeral}})
		}
	}
	return trimmed
}

func trimContainers(list []corev1.Container) []corev1.Container {
	var trimmed []corev1.Container
	for i := range list {
		trimmed = append(trimmed, corev1.Container{
			Name: list[i].Name, Ports: list[i].Ports, RestartPolicy: list[i].RestartPolicy, Resources: list[i].Resources,
		})
	}
	return trimmed
}

func trimStatuses(list []corev1.ContainerStatus) []corev1.ContainerStatus {
	var trimmed []corev1.ContainerStatus
	for i := range list {
		trimmed = append(trimmed, corev1.ContainerStatus{
			Name: list[i].Name, RestartCount: list[i].RestartCount, State: corev1.ContainerState{Terminated: list[i].State.Terminated},
		})
	}
	return trimmed
}
