package statefulset

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
)

// parentAndOrdinal splits the name of a set's pod. Not ok means that no set gives such a name: "web-01" is nobody's.
func parentAndOrdinal(pod string) (parent string, ordinal int, ok bool) {
	dash := strings.LastIndexByte(pod, '-')
	if dash <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(pod[dash+1:], 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != pod[dash+1:] {
		return "", 0, false
	}
	return pod[:dash], int(n), true
}

// memberOf tells whether a pod has a name that the set gives.
func memberOf(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	parent, _, ok := parentAndOrdinal(pod.Name)
	return ok && parent == set.Name
}

// ordinalOf is the ordinal of a member.
func ordinalOf(pod *corev1.Pod) int {
	_, ordinal, _ := parentAndOrdinal(pod.Name)
	return ordinal
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// start is the first ordinal.
func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func replicas(set *appsv1.StatefulSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

// inRange tells whether the set is to have a pod of the ordinal.
func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(set) && ordinal < start(set)+replicas(set)
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// identityLabels name the pod and its ordinal.
func identityLabels(set *appsv1.StatefulSet, ordinal int) map[string]string {
	return map[string]string{appsv1.StatefulSetPodNameLabel: podName(set, ordinal), appsv1.PodIndexLabel: strconv.Itoa(ordinal)}
}

// newPod is the set's pod of an ordinal, of one revision's template.
func newPod(set *appsv1.StatefulSet, ordinal int, r revision) *corev1.Pod {
	name := podName(set, ordinal)
	labels := maps.Clone(r.template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, identityLabels(set, ordinal))
	labels[appsv1.StatefulSetRevisionLabel] = r.name
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: name, Labels: labels,
			Annotations: maps.Clone(r.template.Annotations), Finalizers: slices.Clone(r.template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(set, kind)},
		},
		Spec: *r.template.Spec.DeepCopy(),
	}
	pod.Spec.Hostname, pod.Spec.Subdomain = name, set.Spec.ServiceName
	pod.Spec.Volumes = withClaims(set, ordinal, pod.Spec.Volumes)
	return pod
}

// withClaims puts a volume for each claim template in the place of volumes of the same name.
func withClaims(set *appsv1.StatefulSet, ordinal int, volumes []corev1.Volume) []corev1.Volume {
	all := claimVolumes(set, ordinal)
	for _, v := range volumes {
		if !slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name }) {
			all = append(all, v)
		}
	}
	return all
}

// claimVolumes are the volumes of the pod's own claims.
func claimVolumes(set *appsv1.StatefulSet, ordinal int) []corev1.Volume {
	var volumes []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, t, ordinal)},
		}})
	}
	return volumes
}

// repair is what an existing pod lacks of its identity.
type repair struct {
	pod     *corev1.Pod
	labels  map[string]string
	volumes []corev1.Volume
}

// repairOf compares a pod with its identity; not ok when nothing is missing.
func repairOf(set *appsv1.StatefulSet, pod *corev1.Pod) (repair, bool) {
	r := repair{pod: pod}
	for key, value := range identityLabels(set, ordinalOf(pod)) {
		if pod.Labels[key] != value {
			if r.labels == nil {
				r.labels = map[string]string{}
			}
			r.labels[key] = value
		}
	}
	for _, want := range claimVolumes(set, ordinalOf(pod)) {
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == want.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == want.PersistentVolumeClaim.ClaimName
		}) {
			r.volumes = append(r.volumes, want)
		}
	}
	return r, r.labels != nil || r.volumes != nil
}
