package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// validatePodStatusUpdate refuses a status that a pod cannot come to from the one it has.
func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	s, path := &pod.Status, field.NewPath("status")
	errs := slices.Concat(
		validateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta),
		inherited(validatePodAnnotationsUpdate(pod, old, podAnnotationsPath), func() field.ErrorList {
			return validatePodAnnotations(old.Annotations, &old.Spec, podAnnotationsPath)
		}),
		validatePodConditions(s.Conditions, path.Child("conditions")),
	)
	if pod.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "may not be changed directly"))
	}
	errs = append(errs, validateNominatedNode(pod, old, path.Child("nominatedNodeName"))...)
	if s.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(path.Child("observedGeneration"), s.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, immutable(s.QOSClass, old.Status.QOSClass, path.Child("qosClass"))...)
	return slices.Concat(errs,
		validateTransitions(s.ContainerStatuses, old.Status.ContainerStatuses, &old.Spec, old.Spec.Containers, path.Child("containerStatuses")),
		validateTransitions(s.InitContainerStatuses, old.Status.InitContainerStatuses, &old.Spec, old.Spec.InitContainers, path.Child("initContainerStatuses")),
		validateTransitions(s.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, nil, nil, path.Child("ephemeralContainerStatuses")),
		validateClaimStatuses(s.ResourceClaimStatuses, pod.Spec.ResourceClaims, path.Child("resourceClaimStatuses")),
		validateExtendedClaimStatus(s.ExtendedResourceClaimStatus, &pod.Spec, path.Child("extendedResourceClaimStatus")),
		validatePodIPs(s, &old.Status, path.Child("podIPs")),
		validateHostIPs(s, &old.Status, path.Child("hostIPs")),
		validateContainerStatuses(pod, path),
	)
}

func validateNominatedNode(pod, old *corev1.Pod, path *field.Path) field.ErrorList {
	name := pod.Status.NominatedNodeName
	if name == "" || name == old.Status.NominatedNodeName {
		return nil
	}
	errs := dnsSubdomain(name, path)
	if old.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(path, "may not be set on pods that are already bound to a node"))
	}
	return errs
}

func validatePodConditions(conditions []corev1.PodCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range conditions {
		c := &conditions[i]
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(path.Index(i).Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			errs = append(errs, qualifiedName(string(c.Type), path.Index(i).Child("Type"))...)
		}
	}
	return errs
}

// validateTransitions: a container that has ended and is not to be restarted stays so. Without a spec none is restarted.
func validateTransitions(statuses, old []corev1.ContainerStatus, s *corev1.PodSpec, containers []corev1.Container, path *field.Path) field.ErrorList {
	if s != nil && restartsAll(s) {
		return nil
	}
	var errs field.ErrorList
	for i := range old {
		ended := old[i].State.Terminated
		if ended == nil {
			continue
		}
		at := slices.IndexFunc(statuses, func(c corev1.ContainerStatus) bool { return c.Name == old[i].Name })
		if at < 0 || statuses[at].State.Terminated != nil {
			continue
		}
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == old[i].Name })
		if c < 0 || !restarts(&containers[c], s.RestartPolicy, ended.ExitCode) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// restartsAll reports whether some container's end can restart all others.
func restartsAll(s *corev1.PodSpec) bool {
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			for _, rule := range containers[i].RestartPolicyRules {
				if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

// restarts reports whether a container that has ended with the code is to be started again: by its rules, its own policy, or the pod's.
func restarts(c *corev1.Container, ofPod corev1.RestartPolicy, exitCode int32) bool {
	policy := ofPod
	if c.RestartPolicy != nil {
		for _, rule := range c.RestartPolicyRules {
			if e := rule.ExitCodes; e != nil {
				in := slices.Contains(e.Values, exitCode)
				if in == (e.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
					return true
				}
			}
		}
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && exitCode != 0
}

func validateClaimStatuses(statuses []corev1.PodResourceClaimStatus, claims []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range statuses {
		at := path.Index(i)
		if !slices.ContainsFunc(claims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, dnsSubdomain(*s.ResourceClaimName, at.Child("resourceClaimName"))...)
		}
	}
	return errs
}

func validateExtendedClaimStatus(s *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	list := path.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(list, "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range s.RequestMappings {
		at := list.Index(i)
		container := findContainer(spec, m.ContainerName)
		if container == nil {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName,
				"must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, requested := container.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !requested {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, dnsLabel(m.RequestName, path.Child("requestName"))...)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if s.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	return append(errs, dnsSubdomain(s.ResourceClaimName, path.Child("resourceClaimName"))...)
}

// findContainer is the init or ordinary container of the name, or nil.
func findContainer(s *corev1.PodSpec, name string) *corev1.Container {
	for _, containers := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range containers {
			if containers[i].Name == name {
				return &containers[i]
			}
		}
	}
	return nil
}

func validatePodIPs(s, old *corev1.PodStatus, path *field.Path) field.ErrorList {
	ips, had := make([]string, len(s.PodIPs)), make([]string, len(old.PodIPs))
	for i := range s.PodIPs {
		ips[i] = s.PodIPs[i].IP
	}
	for i := range old.PodIPs {
		had[i] = old.PodIPs[i].IP
	}
	return validateDualStack(ips, had, s.PodIPs, path)
}

func validateHostIPs(s, old *corev1.PodStatus, path *field.Path) field.ErrorList {
	if len(s.HostIPs) == 0 {
		return nil
	}
	var errs field.ErrorList
	if s.HostIP != s.HostIPs[0].IP {
		errs = append(errs, field.Invalid(path.Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	ips, had := make([]string, len(s.HostIPs)), make([]string, len(old.HostIPs))
	for i := range s.HostIPs {
		ips[i] = s.HostIPs[i].IP
	}
	for i := range old.HostIPs {
		had[i] = old.HostIPs[i].IP
	}
	return append(errs, validateDualStack(ips, had, s.HostIPs, path)...)
}

// validateDualStack checks addresses: one, or one of each family. shown is what an error shows of them.
func validateDualStack(ips, had []string, shown any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, legacyIP(ip, path.Index(i), had)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%v", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, shown, "may specify no more than one IP for each IP family"))
	}
	return errs
}

// validateContainerStatuses checks who containers run as and the health of their devices.
func validateContainerStatuses(pod *corev1.Pod, path *field.Path) field.ErrorList {
	windows := pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows
	s := &pod.Status
	var errs field.ErrorList
	for _, list := range []struct {
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
		name       string
	}{
		{s.ContainerStatuses, pod.Spec.Containers, "containerStatuses"},
		{s.InitContainerStatuses, pod.Spec.InitContainers, "initContainerStatuses"},
		{s.EphemeralContainerStatuses, nil, "ephemeralContainerStatuses"},
	} {
		for i := range list.statuses {
			c, at := &list.statuses[i], path.Child(list.name).Index(i)
			if c.User != nil && c.User.Linux != nil {
				errs = append(errs, validateLinuxUser(c.User.Linux, windows, at.Child("user", "linux"))...)
			}
			switch {
			case len(c.AllocatedResourcesStatus) == 0:
			case list.containers == nil:
				errs = append(errs, field.Forbidden(at.Child("allocatedResourcesStatus"), "must not be specified in container status"))
			default:
				errs = append(errs, validateDeviceHealth(c, list.containers, at.Child("allocatedResourcesStatus"))...)
			}
		}
	}
	return errs
}

func validateLinuxUser(u *corev1.LinuxContainerUser, windows bool, path *field.Path) field.ErrorList {
	if windows {
		return field.ErrorList{field.Forbidden(path, "cannot be set for a windows pod")}
	}
	errs := slices.Concat(
		validateID(&u.UID, path.Child("uid"), validation.IsValidUserID),
		validateID(&u.GID, path.Child("gid"), validation.IsValidGroupID),
	)
	for i := range u.SupplementalGroups {
		errs = append(errs, validateID(&u.SupplementalGroups[i], path.Child("supplementalGroups").Index(i), validation.IsValidGroupID)...)
	}
	return errs
}

func validateDeviceHealth(status *corev1.ContainerStatus, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == status.Name })
	for i, r := range status.AllocatedResourcesStatus {
		if at >= 0 {
			errs = append(errs, validateAllocatedName(string(r.Name), &containers[at].Resources, path.Index(i).Child("name"))...)
		}
		seen := sets.New[corev1.ResourceID]()
		for j, health := range r.Resources {
			of := path.Index(i).Child("resources").Index(j)
			errs = append(errs, among(health.Health, of.Child("health"),
				corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
			if m := health.Message; m != nil && *m == "" {
				errs = append(errs, field.Required(of.Child("message"), "must be non-empty if specified"))
			} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
				errs = append(errs, field.TooLong(of.Child("message"), "", corev1.ResourceHealthMessageMaxLength))
			}
			if seen.Has(health.ResourceID) {
				errs = append(errs, field.Duplicate(of.Child("resourceID"), health.ResourceID))
			}
			seen.Insert(health.ResourceID)
		}
	}
	return errs
}

// validateAllocatedName: a status speaks of what the container has asked for.
func validateAllocatedName(name string, r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	if !strings.HasPrefix(name, "claim:") {
		if _, requested := r.Requests[corev1.ResourceName(name)]; requested {
			return nil
		}
		return field.ErrorList{field.Invalid(path, name, "must match one of the container's resource requests")}
	}
	for _, c := range r.Claims {
		if name == "claim:"+c.Name && c.Request == "" || name == "claim:"+c.Name+"/"+c.Request && c.Request != "" {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(path, name,
		"must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")}
}
