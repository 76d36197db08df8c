package kinds

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodEphemeralContainers is the path by which containers for debugging are added to a pod that runs.
func PodEphemeralContainers() *Subresource {
	return &Subresource{PrepareUpdate: onUpdate(prepareEphemeralContainers), ValidateUpdate: checkUpdate(validateEphemeralUpdate)}
}

// PodResize is the path by which alone the resources of a pod that runs may change.
func PodResize() *Subresource {
	return &Subresource{PrepareUpdate: onUpdate(preparePodResize), ValidateUpdate: checkUpdate(validatePodResize)}
}

// keepAllBut makes pod what old is, but for what identifies the request, and change.
func keepAllBut(pod, old *corev1.Pod, change func(kept *corev1.Pod)) {
	kept := old.DeepCopy()
	kept.Name, kept.Namespace, kept.UID, kept.ResourceVersion = pod.Name, pod.Namespace, pod.UID, pod.ResourceVersion
	kept.TypeMeta, kept.ManagedFields, kept.Generation = pod.TypeMeta, pod.ManagedFields, pod.Generation
	change(kept)
	*pod = *kept
}

func prepareEphemeralContainers(pod, old *corev1.Pod) {
	added := pod.Spec.EphemeralContainers
	keepAllBut(pod, old, func(kept *corev1.Pod) { kept.Spec.EphemeralContainers = added })
}

// isMirror tells the API's picture of a pod that a node runs from a file of its own.
func isMirror(pod *corev1.Pod) bool {
	_, is := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return is
}

func validateEphemeralUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
	if isMirror(old) {
		return append(errs, field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers"))
	}
	errs = append(errs, inherited(validatePodSpec(&pod.Spec, &pod.ObjectMeta, podSpecPath), func() field.ErrorList {
		return validatePodSpec(&old.Spec, &old.ObjectMeta, podSpecPath)
	})...)
	path := podSpecPath.Child("ephemeralContainers")
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		at := slices.IndexFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		switch {
		case at < 0:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(was, &pod.Spec.EphemeralContainers[at]):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", was.Name)))
		}
	}
	return errs
}

// preparePodResize takes the resources of the containers, by their places, and of the pod.
func preparePodResize(pod, old *corev1.Pod) {
	wanted := pod.Spec.DeepCopy()
	keepAllBut(pod, old, func(kept *corev1.Pod) {
		kept.Spec.Resources = wanted.Resources
		kept.Spec.Containers = resized(wanted.Containers, kept.Spec.Containers)
		kept.Spec.InitContainers = resized(wanted.InitContainers, kept.Spec.InitContainers)
	})
}

// resized gives the containers of old with the resources wanted. Others, or in another order, are left for validation to find.
func resized(wanted, old []corev1.Container) []corev1.Container {
	byName := map[string]*corev1.Container{}
	for i := range old {
		byName[old[i].Name] = &old[i]
	}
	out := make([]corev1.Container, len(wanted))
	for i := range wanted {
		out[i] = wanted[i]
		if was := byName[wanted[i].Name]; was != nil {
			out[i] = *was
			out[i].Resources, out[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
		}
	}
	return out
}

func validatePodResize(pod, old *corev1.Pod) field.ErrorList {
	errs := validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
	switch {
	case isMirror(old):
		return append(errs, field.Forbidden(field.NewPath(""), "static pods cannot be resized"))
	case old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows:
		return append(errs, field.Forbidden(field.NewPath(""), "windows pods cannot be resized"))
	}
	errs = append(errs, inherited(validatePodSpec(&pod.Spec, &pod.ObjectMeta, podSpecPath), func() field.ErrorList {
		return validatePodSpec(&old.Spec, &old.ObjectMeta, podSpecPath)
	})...)
	if QOSClass(&pod.Spec) != QOSClass(&old.Spec) {
		errs = append(errs, field.Invalid(podSpecPath, QOSClass(&pod.Spec), "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(old) {
		errs = append(errs, field.Forbidden(podSpecPath, "Pod running on node without support for resize"))
	}
	rest := pod.Spec.DeepCopy()
	errs = append(errs, validateResizeList(pod.Spec.Containers, old.Spec.Containers, rest.Containers, "containers", false)...)
	errs = append(errs, validateResizeList(pod.Spec.InitContainers, old.Spec.InitContainers, rest.InitContainers, "initContainers", true)...)
	if len(rest.Containers) != len(old.Spec.Containers) || len(rest.InitContainers) != len(old.Spec.InitContainers) {
		return errs
	}
	if was, now := old.Spec.Resources, rest.Resources; was != nil || now != nil {
		before, after := *orZero(was), *orZero(now)
		errs = append(errs, validateRemovals(&after, &before, podSpecPath.Child("resources"))...)
		if !equality.Semantic.DeepEqual(fixedResources(after), fixedResources(before)) {
			errs = append(errs, field.Forbidden(podSpecPath, "only cpu and memory resources are mutable at pod-level"))
		}
		rest.Resources = was
	}
	if !equality.Semantic.DeepEqual(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(podSpecPath, "only cpu and memory resources are mutable\n"+diff.Diff(rest, &old.Spec)))
	}
	return errs
}

// resizable is false where a node runs the pod that does not tell the resources its containers have: it cannot change them.
func resizable(pod *corev1.Pod) bool {
	return !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Running != nil && s.Resources == nil
	})
}

// validateResizeList compares containers by their places, and takes back in rest what may change.
func validateResizeList(containers, old, rest []corev1.Container, name string, init bool) field.ErrorList {
	path := podSpecPath.Child(name)
	if len(containers) != len(old) {
		return field.ErrorList{field.Forbidden(path, name+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range containers {
		c, was, at := &containers[i], &old[i], path.Index(i)
		if c.Name != was.Name {
			errs = append(errs, field.Forbidden(at.Child("name"), name+" may not be renamed or reordered on resize"))
			continue
		}
		if init && !equality.Semantic.DeepEqual(c.Resources, was.Resources) && (was.RestartPolicy == nil || *was.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
			errs = append(errs, field.Forbidden(at.Child("resources"), "resources of non-sidecar init containers are immutable"))
		}
		errs = append(errs, validateRemovals(&c.Resources, &was.Resources, at.Child("resources"))...)
		if equality.Semantic.DeepEqual(fixedResources(c.Resources), fixedResources(was.Resources)) {
			rest[i].Resources = was.Resources
		}
		rest[i].ResizePolicy = was.ResizePolicy
	}
	return errs
}

// validateRemovals: amounts may change, but not go.
func validateRemovals(r, old *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	gone := func(list, old corev1.ResourceList) bool {
		for name := range old {
			if _, has := list[name]; !has && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
				return true
			}
		}
		return false
	}
	var errs field.ErrorList
	if gone(r.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(path.Child("requests"), "resource requests cannot be removed"))
	}
	if gone(r.Limits, old.Limits) {
		errs = append(errs, field.Forbidden(path.Child("limits"), "resource limits cannot be removed"))
	}
	return errs
}

// fixedResources are all but CPU and memory.
func fixedResources(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	without := func(list corev1.ResourceList) corev1.ResourceList {
		list = maps.Clone(list)
		delete(list, corev1.ResourceCPU)
		delete(list, corev1.ResourceMemory)
		return list
	}
	r.Requests, r.Limits = without(r.Requests), without(r.Limits)
	return r
}
