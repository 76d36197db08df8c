package rest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

func samplePod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}, Finalizers: []string{"x/y"}},
		Spec: corev1.PodSpec{
			NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "E", Value: "v"}}}},
			Tolerations: []corev1.Toleration{{Key: "k", Operator: "Exists"}},
		},
		Status: corev1.PodStatus{Phase: "Running", Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True"}}},
	}
}

// TestPartsAreTheWhole: patching only the fields that a patch names gives what patching the whole object does.
func TestPartsAreTheWhole(t *testing.T) {
	newPod := func() runtime.Object { return &corev1.Pod{} }
	patches := []string{
		`{}`,
		`{"metadata":{"labels":{"a":null,"n":"1"}}}`,
		`{"metadata":{"finalizers":["z/z"],"$deleteFromPrimitiveList/finalizers":["x/y"]}}`,
		`{"status":{"phase":"Failed","conditions":[{"type":"Ready","status":"False"},{"type":"New","status":"True"}]}}`,
		`{"spec":{"containers":[{"name":"c","image":"j"},{"name":"d"}]}}`,
		`{"spec":null}`,
		`{"metadata":{"annotations":{"x":"y"}},"status":{"message":"m"},"spec":{"nodeName":"o"}}`,
		`{"unknown":1}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"q":"r"}}}`,
		`{"$patch":"replace","metadata":{"name":"p"}}`,
	}
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		for _, patch := range patches {
			make := func(parts parts) (runtime.Object, error) {
				p := &patcher{
					c: &call{Handler: &Handler{}, fieldValidation: metav1.FieldValidationIgnore}, kind: kind, body: []byte(patch),
					gvk: corev1.SchemeGroupVersion.WithKind("Pod"), new: newPod, parts: parts,
				}
				old := samplePod()
				obj, err := p.apply(old, func() ([]byte, error) { return encodeJSON(old) })
				if diff := cmp.Diff(samplePod(), old); diff != "" {
					t.Errorf("%s %s changed the old object: %s", kind, patch, diff)
				}
				return obj, err
			}
			whole, err1 := make(nil)
			part, err2 := make(partsOf(newPod()))
			if (err1 == nil) != (err2 == nil) {
				t.Errorf("%s %s: %v, in parts %v", kind, patch, err1, err2)
			}
			if diff := cmp.Diff(whole, part); diff != "" {
				t.Errorf("%s %s differs in parts: %s", kind, patch, diff)
			}
		}
	}
}

func TestSpecChanged(t *testing.T) {
	change := func(f func(*corev1.Pod)) bool {
		p := samplePod()
		f(p)
		return specChanged(p, samplePod())
	}
	same := func(q string) corev1.ResourceList { return corev1.ResourceList{"cpu": apiresource.MustParse(q)} }
	a, b := samplePod(), samplePod()
	a.Spec.Overhead, b.Spec.Overhead = same("1"), same("1000m")
	for name, c := range map[string]struct{ got, want bool }{
		"nothing":          {change(func(*corev1.Pod) {}), false},
		"metadata, status": {change(func(p *corev1.Pod) { p.Labels = nil; p.Status.Phase = "Failed" }), false},
		"empty for nil":    {change(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{} }), false},
		"spec":             {change(func(p *corev1.Pod) { p.Spec.NodeName = "other" }), true},
		"quantity":         {specChanged(a, b), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", name, c.got)
		}
	}
}
