package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateContainers checks the ordinary containers. That their names differ from those of the other kinds of container is for
// the checks of those to say, so that it is said once.
func (c *podSpecCheck) validateContainers() field.ErrorList {
	path := c.path.Child("containers")
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		container, at := &c.spec.Containers[i], path.Index(i)
		errs = append(errs, c.validateContainer(container, at)...)
		if names.Has(container.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), container.Name))
		}
		names.Insert(container.Name)
		errs = append(errs, c.validateRunning(container, at)...)
		errs = append(errs, validateRestartRules(container, at)...)
		errs = append(errs, c.trimmedImage(container, at)...)
	}
	return append(errs, hostPortConflicts(c.spec.Containers, path)...)
}

// validateInitContainers checks init containers. Sidecars, which run on, may have what ordinary containers have; others end before anything
// could probe them.
func (c *podSpecCheck) validateInitContainers() field.ErrorList {
	path := c.path.Child("initContainers")
	names := containerNames(c.spec.Containers)
	var errs field.ErrorList
	for i := range c.spec.InitContainers {
		container, at := &c.spec.InitContainers[i], path.Index(i)
		errs = append(errs, c.validateContainer(container, at)...)
		errs = append(errs, validateRestartRules(container, at)...)
		if names.Has(container.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), container.Name))
		} else if container.Name != "" {
			names.Insert(container.Name)
		}
		// They run one after the other, so their ports do not meet.
		errs = append(errs, hostPortConflicts(c.spec.InitContainers[i:i+1], path)...)
		if isSidecar(container) {
			errs = append(errs, c.validateRunning(container, at)...)
		} else {
			errs = append(errs, refuseRunning(container, at)...)
		}
		errs = append(errs, c.trimmedImage(container, at)...)
	}
	return errs
}

// refuseRunning refuses what only a container that runs for long can have.
func refuseRunning(container *corev1.Container, path *field.Path) field.ErrorList {
	errs := refuseFields([]setField{
		{container.Lifecycle != nil, path.Child("lifecycle")},
		{container.LivenessProbe != nil, path.Child("livenessProbe")},
		{container.ReadinessProbe != nil, path.Child("readinessProbe")},
		{container.StartupProbe != nil, path.Child("startupProbe")},
	}, "may not be set for init containers without restartPolicy=Always")
	for i, p := range container.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer {
			errs = append(errs, field.Invalid(path.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy,
				"must not be set to 'RestartContainer' for non-sidecar initContainers"))
		}
	}
	return errs
}

// validateEphemeralContainers checks containers that were added for debugging: on them nothing may rely.
func (c *podSpecCheck) validateEphemeralContainers() field.ErrorList {
	if len(c.spec.EphemeralContainers) == 0 {
		return nil
	}
	var errs field.ErrorList
	others := containerNames(c.spec.Containers).Union(containerNames(c.spec.InitContainers))
	names := others.Clone()
	for i := range c.spec.EphemeralContainers {
		e, at := &c.spec.EphemeralContainers[i], c.path.Child("ephemeralContainers").Index(i)
		container := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = append(errs, c.validateContainer(container, at)...)
		errs = append(errs, untrimmedImage(container, at)...)
		if names.Has(e.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names.Insert(e.Name)
		if e.TargetContainerName != "" && !others.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		errs = append(errs, refuseFields(notEphemeral(container, at), "cannot be set for an Ephemeral Container")...)
	}
	return errs
}

// notEphemeral lists the fields that an ephemeral container may not have. Paths below a volume are among them: their mounts would stay
// until the pod ends.
func notEphemeral(c *corev1.Container, path *field.Path) []setField {
	fields := []setField{
		{c.Ports != nil, path.Child("ports")},
		{!equality.Semantic.DeepEqual(c.Resources, corev1.ResourceRequirements{}), path.Child("resources")},
		{c.ResizePolicy != nil, path.Child("resizePolicy")},
		{c.RestartPolicy != nil, path.Child("restartPolicy")},
		{c.RestartPolicyRules != nil, path.Child("restartPolicyRules")},
		{c.LivenessProbe != nil, path.Child("livenessProbe")},
		{c.ReadinessProbe != nil, path.Child("readinessProbe")},
		{c.StartupProbe != nil, path.Child("startupProbe")},
		{c.Lifecycle != nil, path.Child("lifecycle")},
	}
	for i, mount := range c.VolumeMounts {
		at := path.Child("volumeMounts").Index(i)
		fields = append(fields, setField{mount.SubPath != "", at.Child("subPath")}, setField{mount.SubPathExpr != "", at.Child("subPathExpr")})
	}
	return fields
}

func containerNames(containers []corev1.Container) sets.Set[string] {
	names := sets.New[string]()
	for i := range containers {
		names.Insert(containers[i].Name)
	}
	return names
}

// validateContainer checks what all kinds of container have in common.
func (c *podSpecCheck) validateContainer(container *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if container.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, dnsLabel(container.Name, path.Child("name"))...)
	}
	if container.Image == "" {
		errs = append(errs, field.Required(path.Child("image"), ""))
	}
	return slices.Concat(errs,
		oneOf(container.TerminationMessagePolicy, path.Child("terminationMessagePolicy"),
			corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError),
		validateContainerPorts(container.Ports, path.Child("ports")),
		validateEnv(container.Env, path.Child("env")),
		validateEnvFrom(container.EnvFrom, path.Child("envFrom")),
		c.validateMounts(container, path.Child("volumeMounts")),
		c.validateDevices(container, path.Child("volumeDevices")),
		validatePullPolicy(container.ImagePullPolicy, path.Child("imagePullPolicy")),
		validateResources(&container.Resources, containerResourceName, c.claims, path.Child("resources")),
		validateResizePolicy(container.ResizePolicy, c.spec.RestartPolicy, path.Child("resizePolicy")),
		validateSecurityContext(container.SecurityContext, c.hostUsers(), path.Child("securityContext")),
	)
}

// validateRunning checks what a container has that runs for long.
func (c *podSpecCheck) validateRunning(container *corev1.Container, path *field.Path) field.ErrorList {
	grace := c.spec.TerminationGracePeriodSeconds
	return slices.Concat(
		c.validateLifecycle(container.Lifecycle, path.Child("lifecycle")),
		validateProbe(container.LivenessProbe, livenessProbe, grace, path.Child("livenessProbe")),
		validateProbe(container.ReadinessProbe, readinessProbe, grace, path.Child("readinessProbe")),
		validateProbe(container.StartupProbe, startupProbe, grace, path.Child("startupProbe")),
	)
}

// trimmedImage refuses an image name with blanks about it in a pod. A template may have one: there are tools that fill in " ".
func (c *podSpecCheck) trimmedImage(container *corev1.Container, path *field.Path) field.ErrorList {
	if !c.isPod() {
		return nil
	}
	return untrimmedImage(container, path)
}

func untrimmedImage(container *corev1.Container, path *field.Path) field.ErrorList {
	if strings.TrimSpace(container.Image) == container.Image {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("image"), container.Image, "must not have leading or trailing whitespace")}
}

func validatePullPolicy(p corev1.PullPolicy, path *field.Path) field.ErrorList {
	return oneOf(p, path, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func validateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				errs = append(errs, invalid(at.Child("name"), p.Name, msgs)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			} else {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, portNumber(p.ContainerPort, at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, portNumber(p.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, portProtocol(p.Protocol, at.Child("protocol"))...)
	}
	return errs
}

// hostPortConflicts finds ports of the node that two containers claim.
func hostPortConflicts(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range containers {
		for j, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

func validateResizePolicy(policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, oneOf(p.ResourceName, path, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p.RestartPolicy, path, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// validateRestartRules checks a container's own restart policy and the rules that come before it.
func validateRestartRules(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.RestartPolicy == nil && len(c.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	errs = append(errs, amongPtr(c.RestartPolicy, path.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	rules := path.Child("restartPolicyRules")
	if len(c.RestartPolicyRules) > maxRestartRules {
		errs = append(errs, field.TooMany(rules, len(c.RestartPolicyRules), maxRestartRules))
	}
	for i, rule := range c.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, among(rule.Action, at.Child("action"),
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, among(rule.ExitCodes.Operator, at.Child("exitCodes", "operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > maxExitCodes {
			errs = append(errs, field.TooMany(at.Child("exitCodes", "values"), n, maxExitCodes))
		}
	}
	return errs
}
