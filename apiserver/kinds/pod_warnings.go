package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podWarnings are for new pods only: people change templates, programs change pods.
func podWarnings(pod, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	w := &warnings{spec: &pod.Spec, meta: &pod.ObjectMeta}
	if msgs := validation.IsDNS1123Label(pod.Name); len(msgs) > 0 {
		w.add(field.NewPath("metadata", "name"), "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs)
	}
	return w.all()
}

// podTemplateWarnings are those of a template at the path.
func podTemplateWarnings(t *corev1.PodTemplateSpec, path *field.Path) []string {
	w := &warnings{path: path, spec: &t.Spec, meta: &t.ObjectMeta, template: true}
	return w.all()
}

// warnings collects what is legal but most likely not meant.
type warnings struct {
	path     *field.Path
	spec     *corev1.PodSpec
	meta     *metav1.ObjectMeta
	template bool
	found    []string
}

func (w *warnings) add(path *field.Path, format string, args ...any) {
	w.found = append(w.found, path.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warnings) all() []string {
	w.nodeLabels()
	w.annotations()
	w.volumes()
	w.duplicates()
	w.containers()
	w.ports()
	if g := w.spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.add(w.path.Child("spec", "terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.nullSelectors()
	return w.found
}

// deprecatedNodeLabels are labels of nodes with a successor.
var deprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":           `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":             `deprecated since v1.14; use "kubernetes.io/os" instead`,
	corev1.LabelFailureDomainBetaRegion: `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	corev1.LabelFailureDomainBetaZone:   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	corev1.LabelInstanceType:            `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
}

func (w *warnings) nodeLabels() {
	at := w.path.Child("spec")
	for _, key := range slices.Sorted(maps.Keys(w.spec.NodeSelector)) {
		if msg := deprecatedNodeLabels[key]; msg != "" {
			w.add(at.Child("nodeSelector").Key(key), "%s", msg)
		}
	}
	if a := w.spec.Affinity; a != nil && a.NodeAffinity != nil {
		affinity := at.Child("affinity", "nodeAffinity")
		if required := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			for i := range required.NodeSelectorTerms {
				w.nodeTerm(&required.NodeSelectorTerms[i], affinity.Child(requiredTerms, "nodeSelectorTerms").Index(i))
			}
		}
		for i := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, affinity.Child(preferredTerms).Index(i).Child("preference"))
		}
	}
	for i := range w.spec.TopologySpreadConstraints {
		c, constraint := &w.spec.TopologySpreadConstraints[i], at.Child("topologySpreadConstraints").Index(i)
		if msg := deprecatedNodeLabels[c.TopologyKey]; msg != "" {
			w.add(constraint.Child("topologyKey"), "%s is %s", c.TopologyKey, msg)
		}
		if c.LabelSelector == nil {
			w.add(constraint.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
}

func (w *warnings) nodeTerm(t *corev1.NodeSelectorTerm, path *field.Path) {
	for i, r := range t.MatchExpressions {
		if msg := deprecatedNodeLabels[r.Key]; msg != "" {
			w.add(path.Child("matchExpressions").Index(i).Child("key"), "%s is %s", r.Key, msg)
		}
	}
}

func (w *warnings) annotations() {
	at := w.path.Child("metadata", "annotations")
	for _, deprecated := range []struct{ key, message string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, set := w.meta.Annotations[deprecated.key]; set {
			w.add(at.Key(deprecated.key), "%s", deprecated.message)
		}
	}
	const useField = `non-functional in v1.27+; use the "seccompProfile" field instead`
	sc := orZero(w.spec.SecurityContext)
	if _, set := w.meta.Annotations[corev1.SeccompPodAnnotationKey]; set && sc.SeccompProfile == nil {
		w.add(at.Key(corev1.SeccompPodAnnotationKey), useField)
	}
	visitContainers(w.spec, nil, func(c *corev1.Container, _ *field.Path) {
		own := orZero(c.SecurityContext)
		if _, set := w.meta.Annotations[seccompPrefix+c.Name]; set && own.SeccompProfile == nil {
			w.add(at.Key(seccompPrefix+c.Name), useField)
		}
		// A new pod has its fields made of the annotations already.
		if value, set := w.meta.Annotations[appArmorPrefix+c.Name]; set {
			made := !w.template && own.AppArmorProfile != nil && value != ""
			if made || sc.AppArmorProfile == nil && own.AppArmorProfile == nil {
				w.add(at.Key(appArmorPrefix+c.Name), `deprecated since v1.30; use the "appArmorProfile" field instead`)
			}
		}
	})
}

func (w *warnings) volumes() {
	tokens := sets.New[string]()
	for i := range w.spec.Volumes {
		v, at := &w.spec.Volumes[i], w.path.Child("spec", "volumes").Index(i)
		for _, gone := range []struct {
			used          bool
			name, message string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if gone.used {
				w.add(at.Child(gone.name), "%s", gone.message)
			}
		}
		if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			r := &e.VolumeClaimTemplate.Spec.Resources
			w.fractions(r.Requests, at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests"), corev1.ResourceStorage)
			w.fractions(r.Limits, at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "limits"), corev1.ResourceStorage)
		}
		for _, s := range orZero(v.Projected).Sources {
			if s.ServiceAccountToken != nil {
				tokens.Insert(s.ServiceAccountToken.Path)
			}
		}
	}
	if len(tokens) > 0 {
		w.hiddenTokens(tokens)
	}
}

// hiddenTokens warns of projected files at the place of a token.
func (w *warnings) hiddenTokens(tokens sets.Set[string]) {
	check := func(file string, path *field.Path) {
		if tokens.Has(file) {
			w.add(path, "has duplicated path with ServiceAccountToken %q", file)
		}
	}
	for i := range w.spec.Volumes {
		at := w.path.Child("spec", "volumes").Index(i).Child("projected", "sources")
		for _, s := range orZero(w.spec.Volumes[i].Projected).Sources {
			for j, item := range orZero(s.ConfigMap).Items {
				check(item.Path, at.Child("configMap").Index(j))
			}
			for j, item := range orZero(s.Secret).Items {
				check(item.Path, at.Child("secrets").Index(j))
			}
			for j, item := range orZero(s.DownwardAPI).Items {
				check(item.Path, at.Child("downwardAPI").Index(j))
			}
			if s.ClusterTrustBundle != nil {
				check(s.ClusterTrustBundle.Path, at.Child("ClusterTrustBundle"))
			}
		}
	}
}

// duplicates warns of entries of which clients that merge lists by name may lose one.
func (w *warnings) duplicates() {
	at := w.path.Child("spec")
	seen := sets.New[string]()
	for i, alias := range w.spec.HostAliases {
		if seen.Has(alias.IP) {
			w.add(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
		seen.Insert(alias.IP)
	}
	seen = sets.New[string]()
	for i, secret := range w.spec.ImagePullSecrets {
		path := at.Child("imagePullSecrets").Index(i).Child("name")
		if seen.Has(secret.Name) {
			w.add(path, "duplicate name %q", secret.Name)
		}
		seen.Insert(secret.Name)
		if secret.Name == "" {
			w.add(path, "invalid empty name %q", "")
		}
	}
}

// fractions warns of fractions of a byte.
func (w *warnings) fractions(list corev1.ResourceList, path *field.Path, names ...corev1.ResourceName) {
	for _, name := range names {
		if q, set := list[name]; set && q.MilliValue()%1000 != 0 {
			w.add(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

func (w *warnings) containers() {
	w.fractions(w.spec.Overhead, w.path.Child("spec", "overhead"), corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	visitContainers(w.spec, w.path.Child("spec"), func(c *corev1.Container, path *field.Path) {
		w.fractions(c.Resources.Limits, path.Child("resources", "limits"), corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
		w.fractions(c.Resources.Requests, path.Child("resources", "requests"), corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
		seen := sets.New[string]()
		for i, v := range c.Env {
			// X=a and then X=$(X)b is how one appends; all else hides.
			ref := "$(" + v.Name + ")"
			if seen.Has(v.Name) && (v.ValueFrom != nil || v.Value == ref || !strings.Contains(v.Value, ref)) {
				w.add(path.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
			}
			seen.Insert(v.Name)
		}
	})
}

// ports warns of ports that two entries define.
func (w *warnings) ports() {
	type defined struct {
		path *field.Path
		port corev1.ContainerPort
	}
	all := map[string][]defined{}
	visitContainers(w.spec, w.path.Child("spec"), func(c *corev1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range all[key] {
				switch o := other.port; {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.add(at, "duplicate port definition with %s", other.path)
				case p.HostPort == 0 || o.HostPort == 0:
					w.add(at, "overlapping port definition with %s", other.path)
				case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", other.path)
				}
			}
			all[key] = append(all[key], defined{at, p})
		}
	})
}

// nullSelectors warns of affinities to no pod at all.
func (w *warnings) nullSelectors() {
	a := w.spec.Affinity
	if a == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) {
		const message = "a null labelSelector results in matching no pod"
		for i := range required {
			if required[i].LabelSelector == nil {
				w.add(path.Child(requiredTerms).Index(i).Child("labelSelector"), message)
			}
		}
		for i := range preferred {
			if preferred[i].PodAffinityTerm.LabelSelector == nil {
				w.add(path.Child(preferredTerms).Index(i).Child("podAffinityTerm", "labelSelector"), message)
			}
		}
	}
	at := w.path.Child("spec", "affinity")
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}
