package kinds

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// setWorkloads are the entries of what runs pods with an identity: a name or a node each.
func setWorkloads() []Kind { return []Kind{daemonSets(), statefulSets()} }

func daemonSets() Kind {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		nameColumn(),
		column("Desired", "integer", status["desiredNumberScheduled"]),
		column("Current", "integer", status["currentNumberScheduled"]),
		column("Ready", "integer", status["numberReady"]),
		column("Up-to-date", "integer", status["updatedNumberScheduled"]),
		column("Available", "integer", status["numberAvailable"]),
		column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
		ageColumn(),
	}
	columns = append(append(columns, containerColumns()...), wideColumn("Selector", "string", spec["selector"]))
	return countingTemplates(ofTemplate(Kind{
		GVK:            appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		Resource:       "daemonsets",
		Singular:       "daemonset",
		ShortNames:     []string{"ds"},
		Prefix:         "daemonsets",
		New:            func() runtime.Object { return &appsv1.DaemonSet{} },
		NewList:        func() runtime.Object { return &appsv1.DaemonSetList{} },
		Default:        on(defaultDaemonSet),
		Validate:       check(validateDaemonSet),
		ValidateUpdate: checkUpdate(validateDaemonSetUpdate),
		Warnings:       warn(daemonSetWarnings),
		Columns:        columns,
		Cells:          cells(daemonSetCells),
		Status: &Subresource{
			ValidateUpdate: checkUpdate(validateDaemonSetStatusUpdate),
		},
	}, func(o *appsv1.DaemonSet) (*appsv1.DaemonSetSpec, *appsv1.DaemonSetStatus, *corev1.PodTemplateSpec) {
		return &o.Spec, &o.Status, &o.Spec.Template
	}))
}

// countingTemplates completes the entry of DaemonSets: how often the template has changed, a field of former versions, is an annotation that
// nobody else sets.
func countingTemplates(k Kind) Kind {
	create, update := k.PrepareCreate, k.PrepareUpdate
	set := func(d *appsv1.DaemonSet, n int64) {
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
	}
	k.PrepareCreate = func(obj runtime.Object) {
		create(obj)
		set(obj.(*appsv1.DaemonSet), 1)
	}
	k.PrepareUpdate = func(obj, old runtime.Object) {
		update(obj, old)
		d, was := obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
		n, err := strconv.ParseInt(was.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
		if err != nil {
			n = 0
		}
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, was.Spec.Template) {
			n++
		}
		set(d, n)
	}
	return k
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	setDefault(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	setDefaultPtr(&s.RevisionHistoryLimit, revisionHistoryDefault)
	defaultPodTemplate(&s.Template)
}

func daemonSetCells(d *appsv1.DaemonSet, now metav1.Time) []any {
	names, images := containerCells(d.Spec.Template.Spec.Containers)
	return []any{
		d.Name, int64(d.Status.DesiredNumberScheduled), int64(d.Status.CurrentNumberScheduled), int64(d.Status.NumberReady),
		int64(d.Status.UpdatedNumberScheduled), int64(d.Status.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
		age(now, d.CreationTimestamp), names, images, metav1.FormatLabelSelector(d.Spec.Selector),
	}
}

func statefulSets() Kind {
	columns := append([]metav1.TableColumnDefinition{
		nameColumn(),
		column("Ready", "string", "Number of the pod with ready state"),
		ageColumn(),
	}, containerColumns()...)
	return ofTemplate(Kind{
		GVK:            appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		Resource:       "statefulsets",
		Singular:       "statefulset",
		ShortNames:     []string{"sts"},
		Prefix:         "statefulsets",
		New:            func() runtime.Object { return &appsv1.StatefulSet{} },
		NewList:        func() runtime.Object { return &appsv1.StatefulSetList{} },
		Default:        on(defaultStatefulSet),
		Validate:       check(validateStatefulSet),
		ValidateUpdate: checkUpdate(validateStatefulSetUpdate),
		Warnings:       warn(statefulSetWarnings),
		Columns:        columns,
		Cells:          cells(statefulSetCells),
		Status: &Subresource{
			ValidateUpdate: checkUpdate(validateStatefulSetStatusUpdate),
		},
		Scale: scaleBy(func(o *appsv1.StatefulSet) (*metav1.ObjectMeta, **int32, int32, labels.Selector) {
			return &o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, selectorOf(o.Spec.Selector)
		}),
	}, func(o *appsv1.StatefulSet) (*appsv1.StatefulSetSpec, *appsv1.StatefulSetStatus, *corev1.PodTemplateSpec) {
		return &o.Spec, &o.Status, &o.Spec.Template
	})
}

func defaultStatefulSet(set *appsv1.StatefulSet) {
	s := &set.Spec
	setDefault(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	setDefault(&s.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate.Partition, 0)
		setDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefaultPtr(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	setDefault(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefault(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefaultPtr(&s.Replicas, replicasDefault)
	setDefaultPtr(&s.RevisionHistoryLimit, revisionHistoryDefault)
	defaultPodTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		setDefault(&c.APIVersion, "v1")
		setDefault(&c.Kind, "PersistentVolumeClaim")
		setDefaultPtr(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		setDefault(&c.Status.Phase, corev1.ClaimPending)
	}
}

func statefulSetCells(s *appsv1.StatefulSet, now metav1.Time) []any {
	names, images := containerCells(s.Spec.Template.Spec.Containers)
	return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, int64Or(s.Spec.Replicas, 0)), age(now, s.CreationTimestamp), names, images}
}
