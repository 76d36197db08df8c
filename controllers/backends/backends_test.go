package backends

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestTargetPort(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns", ContainerPort: 5353}}}},
		InitContainers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "setup", ContainerPort: 1}}},
			{RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 15001}}},
		},
	}}
	tests := []struct {
		port corev1.ServicePort
		want int32
		ok   bool
	}{
		{corev1.ServicePort{Port: 80}, 80, true},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8080)}, 8080, true},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("dns")}, 5353, true},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("dns"), Protocol: corev1.ProtocolUDP}, 53, true},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("proxy")}, 15001, true},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("setup")}, 0, false},
		{corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("nope")}, 0, false},
	}
	for _, tt := range tests {
		if got, ok := TargetPort(&tt.port, pod); got != tt.want || ok != tt.ok {
			t.Errorf("%+v: %d %v", tt.port, got, ok)
		}
	}
}

func TestSelects(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web", "tier": ""}}}
	for _, tt := range []struct {
		labels map[string]string
		want   bool
	}{
		{map[string]string{"app": "web", "tier": "", "x": "y"}, true}, {map[string]string{"app": "web"}, false}, {map[string]string{"app": "db", "tier": ""}, false}, {nil, false},
	} {
		if got := Selects(s, tt.labels); got != tt.want {
			t.Errorf("%v: %v", tt.labels, got)
		}
	}
	if Selects(&corev1.Service{}, map[string]string{"app": "web"}) {
		t.Error("a service without a selector selects")
	}
}

func TestTriggers(t *testing.T) {
	begin := time.Unix(1000, 0)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(begin)}}
	pod := func(after time.Duration) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, LastTransitionTime: metav1.NewTime(begin.Add(after))}}}}
	}
	triggers := NewTriggers()
	steps := []struct {
		pods []*corev1.Pod
		want time.Time
	}{
		{nil, begin},
		{nil, time.Time{}},
		{[]*corev1.Pod{pod(9 * time.Second), pod(5 * time.Second)}, begin.Add(5 * time.Second)},
		{[]*corev1.Pod{pod(9 * time.Second)}, time.Time{}}, // a deletion has no time
		{[]*corev1.Pod{pod(9 * time.Second), pod(12 * time.Second)}, begin.Add(12 * time.Second)},
	}
	for i, step := range steps {
		if got := triggers.Next("k", service, step.pods); !got.Equal(step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}
