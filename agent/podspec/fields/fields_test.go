package fields

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1", Labels: map[string]string{"b": "2", "a": "1\n"}},
		Spec: v1.PodSpec{ServiceAccountName: "sa", Containers: []v1.Container{{Name: "app",
			Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
				Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("128Mi")}},
		}}},
	}
}

var testFacts = Facts{NodeName: "n1", HostIPs: []string{"192.0.2.1"}, PodIPs: []string{"10.0.0.2", "fd00::2"},
	Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")}}

func TestField(t *testing.T) {
	for path, want := range map[string]string{
		"metadata.name": "web", "metadata.namespace": "shop", "metadata.uid": "u1", "metadata.labels['b']": "2",
		"metadata.labels": "a=\"1\\n\"\nb=\"2\"", "spec.nodeName": "n1", "spec.serviceAccountName": "sa",
		"status.hostIP": "192.0.2.1", "status.podIP": "10.0.0.2", "status.podIPs": "10.0.0.2,fd00::2", "metadata.annotations['x']": "",
	} {
		if got, err := Field(testPod(), testFacts, path); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", path, got, err, want)
		}
	}
	if _, err := Field(testPod(), testFacts, "spec.nonsense"); err == nil {
		t.Error("no error for an unknown path")
	}
}

func TestResource(t *testing.T) {
	pod := testPod()
	for _, c := range []struct{ resource, divisor, want string }{
		{"requests.cpu", "0", "1"}, {"requests.cpu", "1m", "250"}, {"limits.cpu", "0", "2"},
		{"limits.memory", "0", "134217728"}, {"limits.memory", "100Mi", "2"}, {"limits.memory", "1Mi", "128"},
	} {
		ref := &v1.ResourceFieldSelector{Resource: c.resource, Divisor: resource.MustParse(c.divisor), ContainerName: "app"}
		if got, err := Resource(pod, testFacts, ref, nil); err != nil || got != c.want {
			t.Errorf("%s/%s = %q, %v; want %q", c.resource, c.divisor, got, err, c.want)
		}
	}
	pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}}
	ref := &v1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m"), ContainerName: "app"}
	if got, err := Resource(pod, testFacts, ref, nil); err != nil || got != "1500" {
		t.Errorf("the pod's own limit: %q, %v", got, err)
	}
	if _, err := Resource(pod, testFacts, &v1.ResourceFieldSelector{Resource: "limits.cpu", ContainerName: "no"}, nil); err == nil {
		t.Error("no error for an unknown container")
	}
}
