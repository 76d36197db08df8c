package bench

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	fakeNodes     = 1000
	scheduledPods = 5000
)

// BenchmarkSchedule measures 5,000 pods on 1,000 nodes that nothing runs on, from the first create to the last binding.
func BenchmarkSchedule(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	kube := c.Client()
	awaitAccount(b, kube)
	a := newAPI(b, c)
	for i := range fakeNodes {
		fakeNode(b, kube, i)
	}
	bound, done := make(chan time.Time, 1), 0
	w, err := kube.CoreV1().Pods("default").Watch(b.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName!="})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	go func() {
		seen := map[string]bool{}
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && !seen[pod.Name] {
				seen[pod.Name] = true
				if done++; done == scheduledPods {
					bound <- time.Now()
				}
			}
		}
	}()
	began := time.Now()
	created, _ := a.together(scheduledPods, func(client *http.Client, i int) error {
		_, err := a.do(client, "POST", podsPath, asProtobuf, asJSON, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-%d"},
			"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}`, i))
		return err
	})
	select {
	case last := <-bound:
		figure(b, "schedule 5000 pods on 1000 nodes", scheduledPods/last.Sub(began).Seconds(), "pods_per_s", ">= 1200")
		figure(b, "created meanwhile", created, "pods_per_s", "")
	case <-time.After(time.Minute):
		b.Fatal("not all pods were bound within a minute")
	}
}

// fakeNode makes a node that says it is Ready, for as long as nobody expects its Lease.
func fakeNode(b *testing.B, kube kubernetes.Interface, i int) {
	b.Helper()
	room := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16Gi"), "pods": resource.MustParse("110")}
	now := metav1.Now()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("fake-%d", i), Labels: map[string]string{"kubernetes.io/hostname": fmt.Sprintf("fake-%d", i)}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Fake", LastHeartbeatTime: now, LastTransitionTime: now}}},
	}
	if _, err := kube.CoreV1().Nodes().Create(b.Context(), node, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}
