package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestPodResize(t *testing.T) {
	nodes := objects{"nodes": []runtime.Object{
		&corev1.Node{ObjectMeta: om("", "n1"), Status: corev1.NodeStatus{Allocatable: amounts("cpu=2 memory=1Gi")}},
	}}
	pod := func(node, requests string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: om("default", "p"), Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Resources: requirements(requests, "")}}}}
	}
	for name, c := range map[string]struct{ node, to, want string }{
		"fits":         {"n1", "cpu=2 memory=1Gi", ""},
		"no change":    {"n1", "cpu=9", ""},
		"nowhere yet":  {"", "cpu=90", ""},
		"no such node": {"n2", "cpu=1", `pods "p" is forbidden: node "n2" not found`},
		"too much":     {"n1", "cpu=2500m memory=1Gi", `pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000`},
		"too much of both": {"n1", "cpu=3 memory=2Gi", `node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; ` +
			`memory, requested: 2147483648, allocatable: 1073741824`},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Request{Operation: Update, Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Subresource: "resize", Namespace: "default", Name: "p",
				Object: pod(c.node, c.to), Old: pod(c.node, "cpu=9")}
			_, err := in(t, nodes, func(reader Reader) Plugin { return podResize{reader} }, r)
			wantText(t, err, c.want)
		})
	}
}
