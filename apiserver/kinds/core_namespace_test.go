package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNamespaceCreate(t *testing.T) {
	k := kindOf(t, "", "namespaces")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lab"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	wantTexts(t, create(k, ns))
	if ns.Labels["kubernetes.io/metadata.name"] != "lab" || ns.Status.Phase != corev1.NamespaceActive ||
		len(ns.Spec.Finalizers) != 1 || ns.Spec.Finalizers[0] != corev1.FinalizerKubernetes {
		t.Errorf("created: %+v", ns)
	}
	if have := rowText(k.Cells(ns, now)); have != "lab|Active|<unknown>" {
		t.Error(have)
	}
	wantTexts(t, create(k, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "a.b"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"mine", "example.com/f"}},
	}),
		`metadata.name: Invalid value: "a.b": must not contain dots`,
		`spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`)
}

func TestNamespaceUpdates(t *testing.T) {
	k := kindOf(t, "", "namespaces")
	old := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "lab", ResourceVersion: "1"},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
	defaultNamespace(old)
	ns := old.DeepCopy()
	ns.Spec.Finalizers, ns.Status.Phase, ns.Labels = nil, corev1.NamespaceTerminating, nil
	wantTexts(t, update(k, ns, old))
	if len(ns.Spec.Finalizers) != 1 || ns.Status.Phase != corev1.NamespaceActive || ns.Labels["kubernetes.io/metadata.name"] != "lab" {
		t.Errorf("updated: %+v", ns)
	}
	ns.Status.Phase = corev1.NamespaceTerminating
	k.Status.PrepareUpdate(ns, old)
	wantTexts(t, k.Status.ValidateUpdate(ns, old), "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty")

	finalize := NamespaceFinalize()
	ns = old.DeepCopy()
	ns.Spec.Finalizers, ns.Status.Phase = []corev1.FinalizerName{"mine"}, corev1.NamespaceTerminating
	finalize.PrepareUpdate(ns, old)
	if ns.Status.Phase != corev1.NamespaceActive {
		t.Error("finalize changes the status")
	}
	wantTexts(t, finalize.ValidateUpdate(ns, old), `spec.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`)
}
