package kinds

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podSpecCheck is one validation of a pod's spec: what the checks of its parts need to know of the whole.
type podSpecCheck struct {
	spec *corev1.PodSpec
	path *field.Path
	// meta is of the pod, or nil where the spec is a template's.
	meta *metav1.ObjectMeta
	// volumes are the valid ones by name; claims the names in resourceClaims.
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

func (c *podSpecCheck) isPod() bool { return c.meta != nil }

// hostUsers reports whether the pod shares the user namespace of the node.
func (c *podSpecCheck) hostUsers() bool { return c.spec.HostUsers == nil || *c.spec.HostUsers }

// among refuses a value that is not among the supported.
func among[T ~string](value T, path *field.Path, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// amongPtr is among for a value that may be absent.
func amongPtr[T ~string](value *T, path *field.Path, supported ...T) field.ErrorList {
	if value == nil {
		return nil
	}
	return among(*value, path, supported...)
}

// validatePodTemplate checks a template of pods.
func validatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	specPath := path.Child("spec")
	errs := slices.Concat(
		metavalidation.ValidateLabels(t.Labels, path.Child("labels")),
		apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations")),
		validatePodAnnotations(t.Annotations, &t.Spec, path.Child("annotations")),
		validatePodSpec(&t.Spec, nil, specPath),
		validateProfileAnnotations(t.Annotations, &t.Spec, specPath),
	)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// validatePodSpec checks the spec of a pod or, where meta is nil, of a template.
func validatePodSpec(s *corev1.PodSpec, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	c := &podSpecCheck{spec: s, path: path, meta: meta, claims: sets.New[string]()}
	for i := range s.ResourceClaims {
		if name := s.ResourceClaims[i].Name; name != "" {
			c.claims.Insert(name)
		}
	}
	var errs field.ErrorList
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	errs = append(errs, c.validateVolumes()...)
	return slices.Concat(errs,
		c.resourceClaims(),
		c.validateContainers(),
		c.validateInitContainers(),
		c.validateEphemeralContainers(),
		c.podResources(),
		c.hostNetworkPorts(),
		oneOf(s.RestartPolicy, path.Child("restartPolicy"),
			corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever),
		oneOf(s.DNSPolicy, path.Child("dnsPolicy"),
			corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone),
		metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector")),
		validatePodSecurityContext(s, path),
		validateAffinity(s.Affinity, path.Child("affinity")),
		validatePodDNSConfig(s.DNSConfig, s.DNSPolicy, path.Child("dnsConfig")),
		validateGates(s, path),
		validateSpreadConstraints(s.TopologySpreadConstraints, path.Child("topologySpreadConstraints")),
		validateHostProcess(s, path),
		c.validateHostUsers(),
		c.names(),
		validateTolerations(s.Tolerations, path.Child("tolerations")),
		validateHostAliases(s.HostAliases, path.Child("hostAliases")),
		c.preemptionAndOverhead(),
		validatePodOS(s, path),
		c.fileKeyVolumes(),
	)
}

// names checks the fields that are names of things, and the deadline.
func (c *podSpecCheck) names() field.ErrorList {
	s, path := c.spec, c.path
	errs := validateHostnameOverride(s, path.Child("hostnameOverride"))
	for _, f := range []struct{ value, name string }{
		{s.ServiceAccountName, "serviceAccountName"}, {s.NodeName, "nodeName"}, {s.PriorityClassName, "priorityClassName"},
	} {
		if f.value != "" {
			errs = append(errs, dnsSubdomain(f.value, path.Child(f.name))...)
		}
	}
	for _, f := range []struct{ value, name string }{{s.Hostname, "hostname"}, {s.Subdomain, "subdomain"}} {
		if f.value != "" {
			errs = append(errs, dnsLabel(f.value, path.Child(f.name))...)
		}
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, dnsSubdomain(*s.RuntimeClassName, path.Child("runtimeClassName"))...)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	return errs
}

func validateHostnameOverride(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	const maxHostname = 64 // of the kernel
	if s.HostnameOverride == nil {
		return nil
	}
	var errs field.ErrorList
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(path, "may not be specified when setHostnameAsFQDN is true"))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(path, "may not be specified when hostNetwork is true"))
	}
	if len(*s.HostnameOverride) > maxHostname {
		errs = append(errs, field.TooLong(path, "", maxHostname))
	}
	return append(errs, dnsSubdomain(*s.HostnameOverride, path)...)
}

func (c *podSpecCheck) preemptionAndOverhead() field.ErrorList {
	var errs field.ErrorList
	if p := c.spec.PreemptionPolicy; p != nil {
		errs = oneOf(*p, c.path.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if c.spec.Overhead != nil {
		limits := &corev1.ResourceRequirements{Limits: c.spec.Overhead}
		errs = append(errs, validateResources(limits, containerResourceName, nil, c.path.Child("overhead"))...)
	}
	return errs
}

// hostNetworkPorts: on the host's network a container's port is the host's. A template may leave the latter to the pod's defaults.
func (c *podSpecCheck) hostNetworkPorts() field.ErrorList {
	if !c.spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i := range c.spec.Containers {
		for j, p := range c.spec.Containers[i].Ports {
			if (c.isPod() || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(c.path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"),
					p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// validateGates checks readiness gates and scheduling gates.
func validateGates(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range s.ReadinessGates {
		errs = append(errs, qualifiedName(string(gate.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	seen := sets.New[string]()
	for i, gate := range s.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		errs = append(errs, qualifiedName(gate.Name, at)...)
		if seen.Has(gate.Name) {
			errs = append(errs, field.Duplicate(at, gate.Name))
		}
		seen.Insert(gate.Name)
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		errs = append(errs, legacyIP(alias.IP, path.Index(i).Child("ip"), nil)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, dnsSubdomain(name, path.Index(i).Child("hostnames").Index(j))...)
		}
	}
	return errs
}

// Bounds of a pod's resolv.conf.
const (
	maxNameservers      = 3
	maxSearchPaths      = 32
	maxSearchCharacters = 2048
)

func validatePodDNSConfig(config *corev1.PodDNSConfig, policy corev1.DNSPolicy, path *field.Path) field.ErrorList {
	if policy == corev1.DNSNone && config == nil {
		return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
	}
	if config == nil {
		return nil
	}
	servers, searches := path.Child("nameservers"), path.Child("searches")
	if policy == corev1.DNSNone && len(config.Nameservers) == 0 {
		return field.ErrorList{field.Required(servers, fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
	}
	var errs field.ErrorList
	if len(config.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(servers, config.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ip := range config.Nameservers {
		errs = append(errs, legacyIP(ip, servers.Index(i), nil)...)
	}
	if len(config.Searches) > maxSearchPaths {
		errs = append(errs, field.Invalid(searches, config.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchPaths)))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchCharacters {
		errs = append(errs, field.Invalid(searches, config.Searches,
			fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchCharacters)))
	}
	for i, search := range config.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			errs = append(errs, invalid(searches.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))...)
		}
	}
	for i, option := range config.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

// resourceClaims checks the list of devices' claims.
func (c *podSpecCheck) resourceClaims() field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.ResourceClaims {
		claim, path := &c.spec.ResourceClaims[i], c.path.Child("resourceClaims").Index(i)
		if c.isPod() {
			if _, mirror := c.meta.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
				errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
				continue
			}
		}
		switch {
		case claim.Name == "":
			errs = append(errs, field.Required(path.Child("name"), ""))
		case names.Has(claim.Name):
			errs = append(errs, field.Duplicate(path.Child("name"), claim.Name))
		default:
			errs = append(errs, dnsLabel(claim.Name, path.Child("name"))...)
			names.Insert(claim.Name)
		}
		errs = append(errs, validateClaimSource(claim, path)...)
	}
	return errs
}

func validateClaimSource(claim *corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
	if name != nil && template != nil {
		errs = append(errs, field.Invalid(path, *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
	}
	if name == nil && template == nil {
		errs = append(errs, field.Invalid(path, *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
	}
	if name != nil {
		errs = append(errs, dnsSubdomain(*name, path.Child("resourceClaimName"))...)
	}
	if template != nil {
		errs = append(errs, dnsSubdomain(*template, path.Child("resourceClaimTemplateName"))...)
	}
	return errs
}

// visitContainers calls f with every container, its path and what list it is of, in the order init, ordinary, ephemeral.
// Ephemeral ones are shown as ordinary ones; what f changes of them is not lost.
func visitContainers(s *corev1.PodSpec, path *field.Path, f func(c *corev1.Container, path *field.Path)) {
	for i := range s.InitContainers {
		f(&s.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		f(&s.Containers[i], path.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}
