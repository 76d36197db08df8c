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
	return Kind{
		GVK:                 corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Resource:            "replicationcontrollers",
		Singular:            "replicationcontroller",
		ShortNames:          []string{"rc"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "controllers",
		New:                 func() runtime.Object { return &corev1.ReplicationController{} },
		NewList:             func() runtime.Object { return &corev1.ReplicationControllerList{} },
		Default:             on(defaultReplicationController),
		PrepareCreate:       on(prepareRCCreate),
		PrepareUpdate:       onUpdate(prepareRCUpdate),
		Validate:            check(validateReplicationController),
		ValidateUpdate:      checkUpdate(validateReplicationControllerUpdate),
		Warnings:            warn(replicationControllerWarnings),
		UnconditionalUpdate: true,
		OrphanByDefault:     true,
		Fields: fieldSet(func(rc *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
		}),
		Columns: replicationControllerColumns(),
		Cells:   cells(replicationControllerCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(rc, old *corev1.ReplicationController) { old.Spec.DeepCopyInto(&rc.Spec) }),
			ValidateUpdate: checkUpdate(validateReplicationControllerStatusUpdate),
		},
		Scale: &Scale{
			Get: func(obj runtime.Object) *autoscalingv1.Scale {
				rc := obj.(*corev1.ReplicationController)
				return scaleOf(&rc.ObjectMeta, rc.Spec.Replicas, rc.Status.Replicas, labels.SelectorFromSet(rc.Spec.Selector))
			},
			Set: func(obj runtime.Object, replicas int32) {
				obj.(*corev1.ReplicationController).Spec.Replicas = &replicas
			},
		},
	}
}

func deployments() Kind {
	return Kind{
		GVK:                 appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Resource:            "deployments",
		Singular:            "deployment",
		ShortNames:          []string{"deploy"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "deployments",
		New:                 func() runtime.Object { return &appsv1.Deployment{} },
		NewList:             func() runtime.Object { return &appsv1.DeploymentList{} },
		Default:             on(defaultDeployment),
		PrepareCreate:       on(prepareDeploymentCreate),
		PrepareUpdate:       onUpdate(prepareDeploymentUpdate),
		Validate:            check(validateDeployment),
		ValidateUpdate:      checkUpdate(validateDeploymentUpdate),
		Warnings:            warn(deploymentWarnings),
		UnconditionalUpdate: true,
		Columns:             deploymentColumns(),
		Cells:               cells(deploymentCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareDeploymentStatusUpdate),
			ValidateUpdate: checkUpdate(validateDeploymentStatusUpdate),
		},
		Scale: &Scale{
			Get: func(obj runtime.Object) *autoscalingv1.Scale {
				d := obj.(*appsv1.Deployment)
				return scaleOf(&d.ObjectMeta, d.Spec.Replicas, d.Status.Replicas, selectorOf(d.Spec.Selector))
			},
			Set: func(obj runtime.Object, replicas int32) { obj.(*appsv1.Deployment).Spec.Replicas = &replicas },
		},
	}
}

func replicaSets() Kind {
	return Kind{
		GVK:                 appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Resource:            "replicasets",
		Singular:            "replicaset",
		ShortNames:          []string{"rs"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "replicasets",
		New:                 func() runtime.Object { return &appsv1.ReplicaSet{} },
		NewList:             func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Default:             on(defaultReplicaSet),
		PrepareCreate:       on(prepareReplicaSetCreate),
		PrepareUpdate:       onUpdate(prepareReplicaSetUpdate),
		Validate:            check(validateReplicaSet),
		ValidateUpdate:      checkUpdate(validateReplicaSetUpdate),
		Warnings:            warn(replicaSetWarnings),
		UnconditionalUpdate: true,
		Fields: fieldSet(func(rs *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
		}),
		Columns: replicaSetColumns(),
		Cells:   cells(replicaSetCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(rs, old *appsv1.ReplicaSet) { old.Spec.DeepCopyInto(&rs.Spec) }),
			ValidateUpdate: checkUpdate(validateReplicaSetStatusUpdate),
		},
		Scale: &Scale{
			Get: func(obj runtime.Object) *autoscalingv1.Scale {
				rs := obj.(*appsv1.ReplicaSet)
				return scaleOf(&rs.ObjectMeta, rs.Spec.Replicas, rs.Status.Replicas, selectorOf(rs.Spec.Selector))
			},
			Set: func(obj runtime.Object, replicas int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &replicas },
		},
	}
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

func prepareRCCreate(rc *corev1.ReplicationController) {
	rc.Status = corev1.ReplicationControllerStatus{}
	if rc.Spec.Template != nil {
		dropDisabledPodFields(&rc.Spec.Template.Spec, nil)
	}
}

func prepareRCUpdate(rc, old *corev1.ReplicationController) {
	old.Status.DeepCopyInto(&rc.Status)
	if rc.Spec.Template == nil {
		return
	}
	var oldSpec *corev1.PodSpec
	if old.Spec.Template != nil {
		oldSpec = &old.Spec.Template.Spec
	}
	dropDisabledPodFields(&rc.Spec.Template.Spec, oldSpec)
}

func prepareReplicaSetCreate(rs *appsv1.ReplicaSet) {
	rs.Status = appsv1.ReplicaSetStatus{}
	dropDisabledPodFields(&rs.Spec.Template.Spec, nil)
}

func prepareReplicaSetUpdate(rs, old *appsv1.ReplicaSet) {
	old.Status.DeepCopyInto(&rs.Status)
	dropDisabledPodFields(&rs.Spec.Template.Spec, &old.Spec.Template.Spec)
}

func prepareDeploymentCreate(d *appsv1.Deployment) {
	d.Status = appsv1.DeploymentStatus{}
	dropDisabledPodFields(&d.Spec.Template.Spec, nil)
}

func prepareDeploymentUpdate(d, old *appsv1.Deployment) {
	old.Status.DeepCopyInto(&d.Status)
	dropDisabledPodFields(&d.Spec.Template.Spec, &old.Spec.Template.Spec)
}

// prepareDeploymentStatusUpdate keeps labels too, as upstream does.
func prepareDeploymentStatusUpdate(d, old *appsv1.Deployment) {
	old.Spec.DeepCopyInto(&d.Spec)
	d.Labels = copyMap(old.Labels)
}
