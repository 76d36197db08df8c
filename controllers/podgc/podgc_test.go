package podgc

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDecide(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pod := func(name, node string, phase corev1.PodPhase, age int, deleting bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(begin.Add(-time.Duration(age) * time.Hour))}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if deleting {
			p.DeletionTimestamp = ptr.To(metav1.NewTime(begin))
		}
		return p
	}
	all := []*corev1.Pod{
		pod("runs", "n1", corev1.PodRunning, 9, false), pod("orphan", "lost", corev1.PodRunning, 9, false), pod("waits", "", corev1.PodPending, 9, false),
		pod("unscheduled", "", corev1.PodPending, 9, true), pod("stops", "n1", corev1.PodRunning, 9, true),
		pod("shuts", "shut", corev1.PodRunning, 9, true), pod("stays", "shut", corev1.PodRunning, 9, false),
		pod("done1", "n1", corev1.PodSucceeded, 1, false), pod("done3", "n1", corev1.PodFailed, 3, false), pod("done2", "n1", corev1.PodSucceeded, 2, false),
	}
	all[len(all)-1].Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}
	for threshold, want := range map[int]string{
		-1: "orphan unscheduled shuts ", 0: "orphan unscheduled shuts done2 done3 done1 ", 1: "orphan unscheduled shuts done2 done3 ", 2: "orphan unscheduled shuts done2 ", 3: "orphan unscheduled shuts ",
	} {
		var got string
		for _, r := range decide(all, map[string]bool{"lost": true, "n1": false}, map[string]bool{"shut": true}, threshold) {
			got += fmt.Sprint(r.pod.Name, " ")
		}
		if got != want {
			t.Errorf("threshold %d: %s", threshold, got)
		}
	}
}
