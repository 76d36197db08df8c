package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// disabledField is a field behind a feature that v1.37 has off by default. As upstream does, such a field is dropped where a manifest has it,
// but for objects that have it already.
type disabledField struct {
	// gate is upstream's name of the feature.
	gate string
	// used reports whether the spec has the field, and clears it if clear is set.
	used func(s *corev1.PodSpec, clear bool) bool
}

// disabledPodFields are all there are in the spec of a pod. TaintTolerationComparisonOperators (the operators Lt and Gt of tolerations) and
// UserNamespacesHostNetworkSupport are off too; what they allow is refused by validation.
var disabledPodFields = []disabledField{
	{"AtomicWriteVolumeUserFields", volumeUsers},
	{"ContainerStopSignals", stopSignals},
	{"CrossNamespaceVolumeDataSource", crossNamespaceSources},
	{"EmptyDirVolumeMode", func(s *corev1.PodSpec, clear bool) (used bool) {
		for i := range s.Volumes {
			if e := s.Volumes[i].EmptyDir; e != nil {
				used = usedPtr(&e.Mode, clear) || used
			}
		}
		return used
	}},
	{"EvictionRequestAPI", func(s *corev1.PodSpec, clear bool) bool { return usedSlice(&s.EvictionResponders, clear) }},
	{"GRPCContainerProbeTLS", func(s *corev1.PodSpec, clear bool) (used bool) {
		visitProbes(s, func(p *corev1.Probe) {
			if p.GRPC != nil {
				used = usedPtr(&p.GRPC.Mode, clear) || used
			}
		})
		return used
	}},
	{"GenericWorkload", func(s *corev1.PodSpec, clear bool) bool { return usedPtr(&s.SchedulingGroup, clear) }},
	{"H2CContainerProbe", httpProtocols},
	{"VolumeBindMountOptions", func(s *corev1.PodSpec, clear bool) (used bool) {
		visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) {
			for i := range c.VolumeMounts {
				used = usedSlice(&c.VolumeMounts[i].BindMountOptions, clear) || used
			}
		})
		return used
	}},
}

// dropDisabledPodFields clears what is not enabled. old is the spec that is replaced, or nil.
func dropDisabledPodFields(s, old *corev1.PodSpec) {
	for i := range disabledPodFields {
		f := &disabledPodFields[i]
		if f.used(s, false) && (old == nil || !f.used(old, false)) {
			f.used(s, true)
		}
	}
}

func usedPtr[T any](p **T, clear bool) bool {
	used := *p != nil
	if clear {
		*p = nil
	}
	return used
}

func usedSlice[T any](p *[]T, clear bool) bool {
	used := len(*p) > 0
	if clear {
		*p = nil
	}
	return used
}

func visitProbes(s *corev1.PodSpec, f func(*corev1.Probe)) {
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) {
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil {
				f(p)
			}
		}
	})
}

func httpProtocols(s *corev1.PodSpec, clear bool) (used bool) {
	visit := func(h *corev1.HTTPGetAction) {
		if h != nil {
			used = usedPtr(&h.Protocol, clear) || used
		}
	}
	visitProbes(s, func(p *corev1.Probe) { visit(p.HTTPGet) })
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) {
		if c.Lifecycle == nil {
			return
		}
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				visit(h.HTTPGet)
			}
		}
	})
	return used
}

func stopSignals(s *corev1.PodSpec, clear bool) (used bool) {
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) {
		if c.Lifecycle == nil {
			return
		}
		used = usedPtr(&c.Lifecycle.StopSignal, clear) || used
		if clear && c.Lifecycle.PreStop == nil && c.Lifecycle.PostStart == nil {
			c.Lifecycle = nil
		}
	})
	return used
}

// crossNamespaceSources are the data sources of ephemeral volumes' claims that lie in another namespace.
func crossNamespaceSources(s *corev1.PodSpec, clear bool) (used bool) {
	for i := range s.Volumes {
		e := s.Volumes[i].Ephemeral
		if e == nil || e.VolumeClaimTemplate == nil {
			continue
		}
		claim := &e.VolumeClaimTemplate.Spec
		if r := claim.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" {
			used = usedPtr(&claim.DataSourceRef, clear) || used
		}
	}
	return used
}

// volumeUsers are the owners of single files in volumes that the agent writes.
func volumeUsers(s *corev1.PodSpec, clear bool) (used bool) {
	one := func(p **int64) { used = usedPtr(p, clear) || used }
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			one(&items[i].User)
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			one(&items[i].User)
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Secret != nil {
			one(&v.Secret.DefaultUser)
			keys(v.Secret.Items)
		}
		if v.ConfigMap != nil {
			one(&v.ConfigMap.DefaultUser)
			keys(v.ConfigMap.Items)
		}
		if v.DownwardAPI != nil {
			one(&v.DownwardAPI.DefaultUser)
			files(v.DownwardAPI.Items)
		}
		if v.Projected != nil {
			one(&v.Projected.DefaultUser)
			projectedUsers(v.Projected.Sources, one, keys, files)
		}
	}
	return used
}

func projectedUsers(sources []corev1.VolumeProjection, one func(**int64), keys func([]corev1.KeyToPath), files func([]corev1.DownwardAPIVolumeFile)) {
	for i := range sources {
		s := &sources[i]
		if s.Secret != nil {
			keys(s.Secret.Items)
		}
		if s.ConfigMap != nil {
			keys(s.ConfigMap.Items)
		}
		if s.DownwardAPI != nil {
			files(s.DownwardAPI.Items)
		}
		if s.ServiceAccountToken != nil {
			one(&s.ServiceAccountToken.User)
		}
		if s.ClusterTrustBundle != nil {
			one(&s.ClusterTrustBundle.User)
		}
		if s.PodCertificate != nil {
			one(&s.PodCertificate.User)
		}
	}
}

// dropDisabledPodStatus clears the fields of a status that are behind features which are off: ContainerStopSignals, CSIVolumeHealth,
// DRANodeAllocatableResources, ImageVolumeWithDigest and InPlacePodVerticalScalingAllocatedStatus.
func dropDisabledPodStatus(s *corev1.PodStatus) {
	s.VolumeHealth = nil
	s.NodeAllocatableResourceClaimStatuses = nil
	for _, statuses := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			statuses[i].StopSignal = nil
			statuses[i].AllocatedResources = nil
			for j := range statuses[i].VolumeMounts {
				statuses[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}
