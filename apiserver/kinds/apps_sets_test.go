package kinds

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

func TestTemplateGeneration(t *testing.T) {
	const annotation = appsv1.DeprecatedTemplateGeneration
	k := kindNamed(t, "DaemonSet")
	d := decode[appsv1.DaemonSet](t, `{metadata: {annotations: {`+annotation+`: "7"}}, spec: {`+goodSelector+goodTemplate+`}}`)
	d = prepared(t, "DaemonSet", d)
	if got := d.Annotations[annotation]; got != "1" {
		t.Fatalf("a new set has generation %q", got)
	}
	for i, c := range []struct {
		edit func(*appsv1.DaemonSet)
		want string
	}{
		{func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "other" }, "2"},
		{func(d *appsv1.DaemonSet) { d.Annotations = nil; d.Spec.MinReadySeconds = 3 }, "2"},
		{func(d *appsv1.DaemonSet) { d.Annotations[annotation] = "9" }, "2"},
		{func(d *appsv1.DaemonSet) { d.Spec.Template.Labels["more"] = "x" }, "3"},
	} {
		next := d.DeepCopy()
		c.edit(next)
		k.PrepareUpdate(next, d)
		if got := next.Annotations[annotation]; got != c.want {
			t.Errorf("edit %d: generation %q, want %s", i, got, c.want)
		}
		d = next
	}
}
