package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"strconv"
)

const (
	replicasDefault         int32 = 1
	revisionHistoryDefault  int32 = 10
	progressDeadlineDefault int32 = 600
)

// podTemplates is the entry of PodTemplate.
func podTemplates() []Kind {
	return []Kind{{
		GVK:            corev1.SchemeGroupVersion.WithKind("PodTemplate"),
		Resource:       "podtemplates",
		Singular:       "podtemplate",
		Namespaced:     true,
		Prefix:         "podtemplates",
		New:            func() runtime.Object { return &corev1.PodTemplate{} },
		NewList:        func() runtime.Object { return &corev1.PodTemplateList{} },
		Default:        on(func(t *corev1.PodTemplate) { defaultPodTemplate(&t.Template) }),
		PrepareCreate:  on(func(t *corev1.PodTemplate) { dropDisabledPodFields(&t.Template.Spec, nil) }),
		PrepareUpdate:  onUpdate(func(t, old *corev1.PodTemplate) { dropDisabledPodFields(&t.Template.Spec, &old.Template.Spec) }),
		Validate:       check(validatePodTemplateObject),
		ValidateUpdate: checkUpdate(validatePodTemplateObjectUpdate),
		Warnings: warn(func(t, old *corev1.PodTemplate) []string {
			return templateWarnings(&t.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Template }), podTemplatePath)
		}),
		UnconditionalUpdate: true,
		Columns:             podTemplateColumns(),
		Cells:               cells(podTemplateCells),
	}}
}

// workloads are the entries of what runs several pods of one template.
func workloads() []Kind {
	return []Kind{replicationControllers(), deployments(), replicaSets(), controllerRevisions()}
}

func replicationControllers() Kind {
	return ofTemplate(Kind{
		GVK:             corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Resource:        "replicationcontrollers",
		Singular:        "replicationcontroller",
		ShortNames:      []string{"rc"},
		Prefix:          "controllers",
		New:             func() runtime.Object { return &corev1.ReplicationController{} },
		NewList:         func() runtime.Object { return &corev1.ReplicationControllerList{} },
		Default:         on(defaultReplicationController),
		Validate:        check(validateReplicationController),
		ValidateUpdate:  checkUpdate(validateReplicationControllerUpdate),
		Warnings:        warn(replicationControllerWarnings),
		OrphanByDefault: true,
		Fields: fieldSet(func(rc *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
		}),
		Columns: replicationControllerColumns(),
		Cells:   cells(replicationControllerCells),
		Status: &Subresource{
			ValidateUpdate: checkUpdate(validateReplicationControllerStatusUpdate),
		},
		Scale: scaleBy(func(o *corev1.ReplicationController) (*metav1.ObjectMeta, **int32, int32, labels.Selector) {
			return &o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, labels.SelectorFromSet(o.Spec.Selector)
		}),
	}, func(o *corev1.ReplicationController) (*corev1.ReplicationControllerSpec, *corev1.ReplicationControllerStatus, *corev1.PodTemplateSpec) {
		return &o.Spec, &o.Status, o.Spec.Template
	})
}

func deployments() Kind {
	return ofTemplate(Kind{
		GVK:            appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Resource:       "deployments",
		Singular:       "deployment",
		ShortNames:     []string{"deploy"},
		Prefix:         "deployments",
		New:            func() runtime.Object { return &appsv1.Deployment{} },
		NewList:        func() runtime.Object { return &appsv1.DeploymentList{} },
		Default:        on(defaultDeployment),
		Validate:       check(validateDeployment),
		ValidateUpdate: checkUpdate(validateDeploymentUpdate),
		Warnings:       warn(deploymentWarnings),
		Columns:        deploymentColumns(),
		Cells:          cells(deploymentCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareDeploymentStatusUpdate),
			ValidateUpdate: checkUpdate(validateDeploymentStatusUpdate),
		},
		Scale: scaleBy(func(o *appsv1.Deployment) (*metav1.ObjectMeta, **int32, int32, labels.Selector) {
			return &o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, selectorOf(o.Spec.Selector)
		}),
	}, func(o *appsv1.Deployment) (*appsv1.DeploymentSpec, *appsv1.DeploymentStatus, *corev1.PodTemplateSpec) {
		return &o.Spec, &o.Status, &o.Spec.Template
	})
}

func replicaSets() Kind {
	return ofTemplate(Kind{
		GVK:            appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Resource:       "replicasets",
		Singular:       "replicaset",
		ShortNames:     []string{"rs"},
		Prefix:         "replicasets",
		New:            func() runtime.Object { return &appsv1.ReplicaSet{} },
		NewList:        func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Default:        on(defaultReplicaSet),
		Validate:       check(validateReplicaSet),
		ValidateUpdate: checkUpdate(validateReplicaSetUpdate),
		Warnings:       warn(replicaSetWarnings),
		Fields: fieldSet(func(rs *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
		}),
		Columns: replicaSetColumns(),
		Cells:   cells(replicaSetCells),
		Status: &Subresource{
			ValidateUpdate: checkUpdate(validateReplicaSetStatusUpdate),
		},
		Scale: scaleBy(func(o *appsv1.ReplicaSet) (*metav1.ObjectMeta, **int32, int32, labels.Selector) {
			return &o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, selectorOf(o.Spec.Selector)
		}),
	}, func(o *appsv1.ReplicaSet) (*appsv1.ReplicaSetSpec, *appsv1.ReplicaSetStatus, *corev1.PodTemplateSpec) {
		return &o.Spec, &o.Status, &o.Spec.Template
	})
}

func controllerRevisions() Kind {
	return Kind{
		GVK:                 appsv1.SchemeGroupVersion.WithKind("ControllerRevision"),
		Resource:            "controllerrevisions",
		Singular:            "controllerrevision",
		Namespaced:          true,
		Prefix:              "controllerrevisions",
		New:                 func() runtime.Object { return &appsv1.ControllerRevision{} },
		NewList:             func() runtime.Object { return &appsv1.ControllerRevisionList{} },
		Validate:            check(validateControllerRevision),
		ValidateUpdate:      checkUpdate(validateControllerRevisionUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns:             controllerRevisionColumns(),
		Cells:               cells(controllerRevisionCells),
	}
}

// copier is *S, which copies an S.
type copier[S any] interface {
	*S
	DeepCopyInto(*S)
}

// ofTemplate completes the entry of a kind that makes pods of a template: who writes the object cannot write its status, and the other
// way round, unless the entry says otherwise. parts gives those of an object; the template may be nil.
func ofTemplate[T, Spec, Status any, S copier[Spec], U copier[Status], O interface {
	*T
	runtime.Object
}](k Kind, parts func(O) (S, U, *corev1.PodTemplateSpec)) Kind {
	k.Namespaced, k.Categories, k.UnconditionalUpdate = true, []string{"all"}, true
	k.PrepareCreate = on(func(obj O) {
		_, status, template := parts(obj)
		var none Status
		*status = none
		dropTemplateFields(template, nil)
	})
	k.PrepareUpdate = onUpdate(func(obj, old O) {
		_, status, template := parts(obj)
		_, oldStatus, oldTemplate := parts(old)
		oldStatus.DeepCopyInto(status)
		dropTemplateFields(template, oldTemplate)
	})
	if k.Status.PrepareUpdate == nil {
		k.Status.PrepareUpdate = onUpdate(func(obj, old O) {
			spec, _, _ := parts(obj)
			oldSpec, _, _ := parts(old)
			oldSpec.DeepCopyInto(spec)
		})
	}
	return k
}

func dropTemplateFields(t, old *corev1.PodTemplateSpec) {
	switch {
	case t == nil:
	case old == nil:
		dropDisabledPodFields(&t.Spec, nil)
	default:
		dropDisabledPodFields(&t.Spec, &old.Spec)
	}
}

// scaleBy is the scale of objects of which parts gives what it shows and changes.
func scaleBy[O runtime.Object](parts func(O) (m *metav1.ObjectMeta, replicas **int32, current int32, selector labels.Selector)) *Scale {
	return &Scale{
		Get: func(obj runtime.Object) *autoscalingv1.Scale {
			m, replicas, current, selector := parts(obj.(O))
			return scaleOf(m, *replicas, current, selector)
		},
		Set: func(obj runtime.Object, replicas int32) {
			_, to, _, _ := parts(obj.(O))
			*to = &replicas
		},
	}
}

// scaleOf makes the Scale of an object that has replicas.
func scaleOf(m *metav1.ObjectMeta, replicas *int32, current int32, selector labels.Selector) *autoscalingv1.Scale {
	s := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.Name, Namespace: m.Namespace, UID: m.UID,
			ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp,
		},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector.String()},
	}
	if replicas != nil {
		s.Spec.Replicas = *replicas
	}
	return s
}

// selectorOf matches nothing where the selector is not one; validation lets none such in.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func defaultReplicationController(rc *corev1.ReplicationController) {
	setDefaultPtr(&rc.Spec.Replicas, replicasDefault)
	t := rc.Spec.Template
	if t == nil {
		return
	}
	if len(rc.Spec.Selector) == 0 && t.Labels != nil {
		rc.Spec.Selector = copyMap(t.Labels)
	}
	if len(rc.Labels) == 0 && t.Labels != nil {
		rc.Labels = copyMap(t.Labels)
	}
	defaultPodTemplate(t)
}

func defaultReplicaSet(rs *appsv1.ReplicaSet) {
	setDefaultPtr(&rs.Spec.Replicas, replicasDefault)
	defaultPodTemplate(&rs.Spec.Template)
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	setDefaultPtr(&s.Replicas, replicasDefault)
	setDefaultPtr(&s.RevisionHistoryLimit, revisionHistoryDefault)
	setDefaultPtr(&s.ProgressDeadlineSeconds, progressDeadlineDefault)
	setDefault(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefaultPtr(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefaultPtr(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefaultPtr(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	defaultPodTemplate(&s.Template)
}

// prepareDeploymentStatusUpdate keeps labels too, as upstream does.
func prepareDeploymentStatusUpdate(d, old *appsv1.Deployment) {
	old.Spec.DeepCopyInto(&d.Spec)
	d.Labels = copyMap(old.Labels)
}
