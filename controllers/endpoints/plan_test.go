package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and served for as long as the API has them.

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"team": "blue"}},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9", Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("web"), Protocol: corev1.ProtocolTCP},
		}},
	}
}

func pod(i int, ready bool, port int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "default", UID: types.UID(fmt.Sprint("u", i))},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

func show(e *corev1.Endpoints) string {
	var out string
	for _, s := range e.Subsets {
		for _, p := range s.Ports {
			out += fmt.Sprint(p.Name, ":", p.Port, " ")
		}
		for _, a := range s.Addresses {
			out += a.IP + " "
		}
		for _, a := range s.NotReadyAddresses {
			out += "!" + a.IP + " "
		}
	}
	return out
}

func TestSubsets(t *testing.T) {
	dying := pod(5, true, 8080)
	dying.DeletionTimestamp = ptr.To(metav1.Now())
	s := snapshot{service: service(), pods: []*corev1.Pod{pod(3, true, 9090), pod(2, true, 8080), pod(1, false, 8080), pod(0, true, 8080), dying}}
	got := decide(s)
	if show(got) != "http:8080 10.244.0.1 10.244.0.3 !10.244.0.2 http:9090 10.244.0.4 " {
		t.Fatal(show(got))
	}
	if got.Labels["team"] != "blue" || got.Labels[labelManagedBy] != managedBy || got.Subsets[0].Addresses[0].TargetRef.Name != "p0" {
		t.Fatalf("%+v", got)
	}
	s.have = got
	if again := decide(s); again != nil {
		t.Fatalf("needless write of %s", show(again))
	}
	s.service.Spec.PublishNotReadyAddresses = true
	if got := show(decide(s)); got != "http:8080 10.244.0.1 10.244.0.2 10.244.0.3 10.244.0.6 http:9090 10.244.0.4 " {
		t.Fatal(got)
	}
}

func TestHeadlessWithoutPorts(t *testing.T) {
	s := snapshot{service: service(), pods: []*corev1.Pod{pod(0, true, 8080)}}
	s.service.Spec.ClusterIP, s.service.Spec.Ports = corev1.ClusterIPNone, nil
	got := decide(s)
	if _, ok := got.Labels[corev1.IsHeadlessService]; !ok || show(got) != "10.244.0.1 " {
		t.Fatalf("%+v", got)
	}
}

func TestTruncation(t *testing.T) {
	s := snapshot{service: service()}
	for i := range 1200 {
		s.pods = append(s.pods, pod(i, i%2 == 0, 8080))
	}
	got := decide(s)
	if n, m := len(got.Subsets[0].Addresses), len(got.Subsets[0].NotReadyAddresses); n != 600 || m != 400 || got.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Fatal(n, m, got.Annotations)
	}
	s.have, s.pods = got, s.pods[:10]
	if got := decide(s); got.Annotations[corev1.EndpointsOverCapacity] != "" {
		t.Fatal("still marked")
	}
}
