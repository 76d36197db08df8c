package job

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func exited(name string, code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now)}}}
}

func TestJudge(t *testing.T) {
	on := func(action batchv1.PodFailurePolicyAction, container *string, op batchv1.PodFailurePolicyOnExitCodesOperator, codes ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{ContainerName: container, Operator: op, Values: codes}}
	}
	const in, notIn = batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
		{Type: "Other", Status: corev1.ConditionTrue}, {Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	tests := []struct {
		name    string
		rules   []batchv1.PodFailurePolicyRule
		main    []corev1.ContainerStatus
		init    []corev1.ContainerStatus
		condAs  corev1.ConditionStatus
		action  batchv1.PodFailurePolicyAction
		message string
	}{
		{name: "no rule", main: []corev1.ContainerStatus{exited("a", 1)}, action: "Count"},
		{name: "listed", rules: []batchv1.PodFailurePolicyRule{on("FailJob", nil, in, 1, 3)}, main: []corev1.ContainerStatus{exited("a", 0), exited("b", 3)}, action: "FailJob",
			message: "Container b for pod ns/p failed with exit code 3 matching FailJob rule at index 0"},
		{name: "not listed", rules: []batchv1.PodFailurePolicyRule{on("FailJob", nil, in, 1)}, main: []corev1.ContainerStatus{exited("b", 3)}, action: "Count"},
		{name: "another than listed", rules: []batchv1.PodFailurePolicyRule{on("FailIndex", nil, notIn, 1)}, main: []corev1.ContainerStatus{exited("b", 3)}, action: "FailIndex"},
		{name: "zero is no failure", rules: []batchv1.PodFailurePolicyRule{on("FailJob", nil, notIn, 1)}, main: []corev1.ContainerStatus{exited("a", 0), exited("b", 1)}, action: "Count"},
		{name: "another container", rules: []batchv1.PodFailurePolicyRule{on("FailJob", ptr.To("a"), in, 3)}, main: []corev1.ContainerStatus{exited("b", 3)}, action: "Count"},
		{name: "an init container", rules: []batchv1.PodFailurePolicyRule{on("Ignore", ptr.To("i"), in, 3)}, init: []corev1.ContainerStatus{exited("i", 3)}, action: "Ignore"},
		{name: "still running", rules: []batchv1.PodFailurePolicyRule{on("FailJob", nil, notIn, 3)}, main: []corev1.ContainerStatus{{Name: "a"}}, action: "Count"},
		{name: "first rule wins", rules: []batchv1.PodFailurePolicyRule{on("Count", nil, in, 3), on("FailJob", nil, in, 3)}, main: []corev1.ContainerStatus{exited("a", 3)}, action: "Count"},
		{name: "unknown action", rules: []batchv1.PodFailurePolicyRule{on("Explode", nil, in, 3), on("Ignore", nil, in, 3)}, main: []corev1.ContainerStatus{exited("a", 3)}, action: "Ignore"},
		{name: "disrupted", rules: []batchv1.PodFailurePolicyRule{disrupted}, condAs: corev1.ConditionTrue, action: "Ignore"},
		{name: "not disrupted", rules: []batchv1.PodFailurePolicyRule{disrupted}, condAs: corev1.ConditionFalse, action: "Count"},
		{name: "condition fails the job", rules: []batchv1.PodFailurePolicyRule{{Action: "FailJob", OnPodConditions: disrupted.OnPodConditions}}, condAs: corev1.ConditionTrue, action: "FailJob",
			message: "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0"},
	}
	for _, tt := range tests {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: tt.main, InitContainerStatuses: tt.init}}
		if tt.condAs != "" {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: tt.condAs}}
		}
		if action, message := judge(&batchv1.PodFailurePolicy{Rules: tt.rules}, pod); action != tt.action || message != tt.message {
			t.Errorf("%s: %s %q", tt.name, action, message)
		}
	}
	if action, _ := judge(nil, &corev1.Pod{}); action != batchv1.PodFailurePolicyActionCount {
		t.Error("without a policy:", action)
	}
}

func TestSucceededBy(t *testing.T) {
	rules := func(list ...batchv1.SuccessPolicyRule) *batchv1.SuccessPolicy {
		return &batchv1.SuccessPolicy{Rules: list}
	}
	of := func(indexes string, count int32) batchv1.SuccessPolicyRule {
		var r batchv1.SuccessPolicyRule
		if indexes != "" {
			r.SucceededIndexes = &indexes
		}
		if count > 0 {
			r.SucceededCount = &count
		}
		return r
	}
	for _, tt := range []struct {
		name   string
		policy *batchv1.SuccessPolicy
		done   string
		want   string
	}{
		{"no policy", nil, "0-9", ""},
		{"nothing done", rules(of("0", 0)), "", ""},
		{"all of them", rules(of("0,2-3", 0)), "0-4", "Matched rules at index 0"},
		{"not all", rules(of("0,2-3", 0)), "0,2", ""},
		{"enough of them", rules(of("0,2-3", 2)), "0,2,7", "Matched rules at index 0"},
		{"too few of them", rules(of("0,2-3", 2)), "0,4-9", ""},
		{"enough of any", rules(of("9", 0), of("", 3)), "1,3,5", "Matched rules at index 1"},
		{"unreadable", rules(of("x", 1)), "1,3,5", ""},
	} {
		message, met := succeededBy(tt.policy, parseIndexes(tt.done, 10), 10)
		if message != tt.want || met != (tt.want != "") {
			t.Errorf("%s: %q", tt.name, message)
		}
	}
}

func TestBackoff(t *testing.T) {
	ended := func(ago time.Duration) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{exited("c", 1)}}}
		p.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(now.Add(-ago))
		return p
	}
	list := func(ago ...time.Duration) (pods []*corev1.Pod) {
		for _, a := range ago {
			pods = append(pods, ended(a))
		}
		return pods
	}
	var b backoff
	for _, step := range []struct {
		name              string
		succeeded, failed []*corev1.Pod
		want              time.Duration
	}{
		{"none", nil, nil, 0},
		{"first failure", nil, list(4 * time.Second), 6 * time.Second},
		{"second", nil, list(3 * time.Second), 17 * time.Second},
		{"two more, the later counts", nil, list(2*time.Second, 20*time.Second), 78 * time.Second},
		{"a success", list(time.Second), nil, 0},
		{"failures before and after a success", list(10 * time.Second), list(3*time.Second, 11*time.Second), 7 * time.Second},
	} {
		b = b.after(step.succeeded, step.failed)
		if got := b.remaining(now); got != step.want {
			t.Fatalf("%s: %v, want %v", step.name, got, step.want)
		}
	}
	for failures, want := range map[int32]time.Duration{6: 320 * time.Second, 7: 6 * time.Minute, 1000: 6 * time.Minute} {
		if got := (backoff{failures: failures, last: now}).remaining(now); got != want {
			t.Errorf("%d failures: %v", failures, got)
		}
	}
}

func TestFinishedAt(t *testing.T) {
	made := metav1.NewTime(now.Add(-time.Hour))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made}}
	check := func(what string, want time.Time) {
		t.Helper()
		if got := finishedAt(p); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("nothing known", made.Time)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now)), ptr.To[int64](30)
	check("deleted", now.Add(-30*time.Second))
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}}
	check("not ready", now.Add(-time.Minute))
	p.Status.ContainerStatuses = []corev1.ContainerStatus{exited("a", 0), {Name: "b"}}
	check("one container runs", now.Add(-time.Minute))
	p.Status.ContainerStatuses = []corev1.ContainerStatus{exited("a", 0)}
	check("ended", now)
	p.Spec.InitContainers = []corev1.Container{{Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}, {Name: "init"}}
	late := exited("side", 0)
	late.State.Terminated.FinishedAt = metav1.NewTime(now.Add(time.Second))
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{late, {Name: "init"}}
	check("a sidecar ended later", now.Add(time.Second))
}
