package nodelifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/clock"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(ready corev1.ConditionStatus, existing ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(now.Add(-time.Minute))}}
	}
	for _, t := range existing {
		key, effect, _ := strings.Cut(t, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

func showTaints(list []corev1.Taint) string {
	var parts []string
	for _, t := range list {
		parts = append(parts, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	return strings.Join(parts, " ")
}

func TestTaints(t *testing.T) {
	const notReady, unreachable = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
	tests := []struct {
		name    string
		node    *corev1.Node
		mode    evict
		want    string
		changed bool
	}{
		{"ready", node("True"), evictNot, "", false},
		{"new", node(""), evictNow, "not-ready:NoSchedule", true},
		{"new, tainted by admission", node("", notReady+":NoSchedule"), evictNow, "not-ready:NoSchedule", false},
		{"says it is not ready", node("False"), evictNow, "not-ready:NoSchedule not-ready:NoExecute", true},
		{"silent", node("Unknown", notReady+":NoSchedule", notReady+":NoExecute", "mine:NoExecute"), evictNow, "mine:NoExecute unreachable:NoSchedule unreachable:NoExecute", true},
		{"silent, on hold", node("Unknown"), evictHold, "unreachable:NoSchedule", true},
		{"silent, on hold, given up before", node("Unknown", unreachable+":NoSchedule", unreachable+":NoExecute"), evictHold, "unreachable:NoSchedule unreachable:NoExecute", false},
		{"all are silent", node("Unknown", unreachable+":NoSchedule", unreachable+":NoExecute"), evictNot, "unreachable:NoSchedule", true},
		{"back", node("True", unreachable+":NoSchedule", unreachable+":NoExecute", "mine:NoSchedule"), evictNot, "mine:NoSchedule", true},
	}
	if got, _ := taints(node("False"), evictNow, metav1.NewTime(now)); !got[0].TimeAdded.Time.Equal(now) || !got[1].TimeAdded.Time.Equal(now) {
		t.Errorf("without their time: %+v", got)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, changed := taints(tt.node, tt.mode, metav1.NewTime(now))
			if showTaints(got) != tt.want || changed != tt.changed {
				t.Fatalf("%s, changed %v", showTaints(got), changed)
			}
		})
	}
	cordoned := node("True")
	cordoned.Spec.Unschedulable = true
	cordoned.Status.Conditions = append(cordoned.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: "True"}, corev1.NodeCondition{Type: corev1.NodePIDPressure, Status: "False"})
	if got, _ := taints(cordoned, evictNot, metav1.NewTime(now)); showTaints(got) != "unschedulable:NoSchedule disk-pressure:NoSchedule" {
		t.Fatal(showTaints(got))
	}
}

func TestMissingLabels(t *testing.T) {
	n := node("True")
	if got := missingLabels(n); len(got) != 0 {
		t.Errorf("of a node without labels: %v", got)
	}
	n.Labels = map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux"}
	if got := missingLabels(n); len(got) != 1 || got["beta.kubernetes.io/arch"] != "arm64" {
		t.Errorf("%v", got)
	}
}

func TestMarkLost(t *testing.T) {
	n := node("True")
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: "False"})
	got, changed := markLost(n, metav1.NewTime(now))
	if !changed || len(got) != 5 || n.Status.Conditions[0].Status != "True" {
		t.Fatalf("%+v", got)
	}
	if c := got[0]; c.Status != "Unknown" || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." || !c.LastHeartbeatTime.Time.Equal(now.Add(-time.Minute)) {
		t.Fatalf("%+v", c)
	}
	if c := got[2]; c.Type != corev1.NodeMemoryPressure || c.Reason != "NodeStatusNeverUpdated" {
		t.Fatalf("%+v", c)
	}
	n.Status.Conditions = got
	if _, changed := markLost(n, metav1.NewTime(now)); changed {
		t.Fatal("marks again")
	}
}

func TestUntilLost(t *testing.T) {
	if d := untilLost(node("True"), now.Add(-30*time.Second), now, 40*time.Second); d != 10*time.Second {
		t.Fatal(d)
	}
	if d := untilLost(node(""), now.Add(-50*time.Second), now, 40*time.Second); d != 10*time.Second {
		t.Fatal(d)
	}
}

func TestInterval(t *testing.T) {
	tests := []struct {
		ready, notReady int
		nowhere         bool
		want            string
	}{
		{1, 1, false, "10s false"}, {1, 2, false, "10s false"}, {2, 3, false, "0s true"}, {60, 3, false, "10s false"}, {20, 40, false, "1m40s false"},
		{0, 4, false, "10s false"}, {0, 4, true, "0s true"},
	}
	for _, tt := range tests {
		d, never := health{tt.ready, tt.notReady}.interval(tt.nowhere)
		if got := fmt.Sprint(d, " ", never); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestSince(t *testing.T) {
	c := &Eviction{clock: clock.NewManual(now), seen: map[string]map[string]time.Time{}}
	taint := func(ago time.Duration) []corev1.Taint {
		added := metav1.NewTime(now.Add(-ago))
		return []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}}
	}
	since := func(ago time.Duration) time.Duration { return now.Sub(c.firstSeen("n")[taintID(&taint(ago)[0])]) }
	if c.note("n", taint(time.Hour), true); since(time.Hour) != 0 {
		t.Errorf("one that came now, dated an hour ago, counts since %v", since(time.Hour))
	}
	if c.note("n", taint(2*time.Hour), false); since(2*time.Hour) != 2*time.Hour {
		t.Errorf("one that was there at the start counts since %v", since(2*time.Hour))
	}
	if c.note("n", taint(2*time.Hour), true); since(2*time.Hour) != 2*time.Hour {
		t.Error("one that stays counts anew")
	}
	if c.note("n", taint(-time.Hour), false); since(-time.Hour) != 0 {
		t.Errorf("one of the future counts since %v", since(-time.Hour))
	}
	if c.note("n", nil, true); len(c.seen) != 0 {
		t.Error("remembers what is gone")
	}
}

func TestUntilEviction(t *testing.T) {
	at := metav1.NewTime(now.Add(-100 * time.Second))
	lost := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	other := corev1.Taint{Key: "maintenance", Effect: corev1.TaintEffectNoExecute}
	seen := map[string]time.Time{taintID(&other): now.Add(-10 * time.Second), taintID(&lost): now.Add(-100 * time.Second)}
	tolerate := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	tests := []struct {
		name   string
		taints []corev1.Taint
		tol    []corev1.Toleration
		bound  time.Duration // ago
		want   string
	}{
		{"no taint", nil, nil, time.Hour, "0s false"},
		{"none tolerated", []corev1.Taint{lost}, nil, time.Hour, "0s true"},
		{"default", []corev1.Taint{lost}, []corev1.Toleration{tolerate(lost.Key, ptr.To[int64](300))}, time.Hour, "3m20s true"},
		{"for ever", []corev1.Taint{lost}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, time.Hour, "0s false"},
		{"over", []corev1.Taint{lost}, []corev1.Toleration{tolerate(lost.Key, ptr.To[int64](30))}, time.Hour, "0s true"},
		{"bound later", []corev1.Taint{lost}, []corev1.Toleration{tolerate(lost.Key, ptr.To[int64](30))}, 10 * time.Second, "20s true"},
		{"one of two", []corev1.Taint{lost, other}, []corev1.Toleration{tolerate(lost.Key, nil)}, time.Hour, "0s true"},
		{"the first that fits counts", []corev1.Taint{lost}, []corev1.Toleration{tolerate(lost.Key, nil), tolerate(lost.Key, ptr.To[int64](1))}, time.Hour, "0s false"},
		{"a taint whose event is on its way", []corev1.Taint{{Key: "new", Effect: corev1.TaintEffectNoExecute}}, []corev1.Toleration{tolerate("new", ptr.To[int64](7))}, time.Hour, "7s true"},
		{"negative seconds", []corev1.Taint{lost}, []corev1.Toleration{tolerate(lost.Key, ptr.To[int64](-5))}, time.Hour, "0s true"},
		{"the shorter of two", []corev1.Taint{lost, other}, []corev1.Toleration{tolerate(lost.Key, ptr.To[int64](300)), tolerate(other.Key, ptr.To[int64](60))}, time.Hour, "50s true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: tt.tol}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: "True", LastTransitionTime: metav1.NewTime(now.Add(-tt.bound))},
			}}}
			d, evicted := untilEviction(pod, tt.taints, seen, now)
			if got := fmt.Sprint(d, " ", evicted); got != tt.want {
				t.Fatal(got)
			}
		})
	}
}
