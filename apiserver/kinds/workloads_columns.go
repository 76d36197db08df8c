package kinds

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func containerColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		wideColumn("Containers", "string", "Names of each container in the template."),
		wideColumn("Images", "string", "Images referenced by each container in the template."),
	}
}

// containerCells are the names and the images of containers, each joined by commas.
func containerCells(containers []corev1.Container) (names, images string) {
	n, i := make([]string, len(containers)), make([]string, len(containers))
	for at := range containers {
		n[at], i[at] = containers[at].Name, containers[at].Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// int64Or is the value of an optional number.
func int64Or(p *int32, otherwise int64) int64 {
	if p == nil {
		return otherwise
	}
	return int64(*p)
}

func replicationControllerColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return replicaColumns(spec, status)
}

func replicaSetColumns() []metav1.TableColumnDefinition {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return replicaColumns(spec, status)
}

// replicaColumns are common to ReplicaSet and its ancestor.
func replicaColumns(spec, status map[string]string) []metav1.TableColumnDefinition {
	columns := []metav1.TableColumnDefinition{
		nameColumn(),
		column("Desired", "integer", spec["replicas"]),
		column("Current", "integer", status["replicas"]),
		column("Ready", "integer", status["readyReplicas"]),
		ageColumn(),
	}
	columns = append(columns, containerColumns()...)
	return append(columns, wideColumn("Selector", "string", spec["selector"]))
}

func replicationControllerCells(rc *corev1.ReplicationController, now metav1.Time) []any {
	names, images := "", ""
	if rc.Spec.Template != nil {
		names, images = containerCells(rc.Spec.Template.Spec.Containers)
	}
	return []any{
		rc.Name, int64Or(rc.Spec.Replicas, 0), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
		age(now, rc.CreationTimestamp), names, images, labels.FormatLabels(rc.Spec.Selector),
	}
}

func replicaSetCells(rs *appsv1.ReplicaSet, now metav1.Time) []any {
	names, images := containerCells(rs.Spec.Template.Spec.Containers)
	return []any{
		rs.Name, int64Or(rs.Spec.Replicas, 0), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
		age(now, rs.CreationTimestamp), names, images, metav1.FormatLabelSelector(rs.Spec.Selector),
	}
}

func deploymentColumns() []metav1.TableColumnDefinition {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		nameColumn(),
		column("Ready", "string", "Number of the pod with ready state"),
		column("Up-to-date", "string", status["updatedReplicas"]),
		column("Available", "string", status["availableReplicas"]),
		ageColumn(),
	}
	columns = append(columns, containerColumns()...)
	return append(columns, wideColumn("Selector", "string", spec["selector"]))
}

func deploymentCells(d *appsv1.Deployment, now metav1.Time) []any {
	names, images := containerCells(d.Spec.Template.Spec.Containers)
	return []any{
		d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, int64Or(d.Spec.Replicas, 0)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(now, d.CreationTimestamp),
		names, images, selectorOf(d.Spec.Selector).String(),
	}
}

func podTemplateColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Containers", "string", "Names of each container in the template."),
		column("Images", "string", "Images referenced by each container in the template."),
		column("Pod Labels", "string", "The labels for the pod template."),
	}
}

func podTemplateCells(t *corev1.PodTemplate, _ metav1.Time) []any {
	names, images := containerCells(t.Template.Spec.Containers)
	return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
}

func controllerRevisionColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Controller", "string", "Controller of the object"),
		column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
		ageColumn(),
	}
}

func controllerRevisionCells(r *appsv1.ControllerRevision, now metav1.Time) []any {
	controller := cellNone
	if ref := metav1.GetControllerOf(r); ref != nil {
		if gv, err := schema.ParseGroupVersion(ref.APIVersion); err == nil {
			controller = strings.ToLower(gv.WithKind(ref.Kind).GroupKind().String()) + "/" + ref.Name
		}
	}
	return []any{r.Name, controller, r.Revision, age(now, r.CreationTimestamp)}
}
