package kinds

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// storedPod is newPod with a version, so that it can be updated.
func storedPod(t *testing.T, spec string) *corev1.Pod {
	pod := newPod(t, spec)
	pod.ResourceVersion, pod.UID = "1", "u"
	return pod
}

// wantErrorsCut is wantErrors for messages that end in a diff, which is cut off.
func wantErrorsCut(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	for _, err := range errs {
		err.Detail, _, _ = strings.Cut(err.Detail, "\n")
	}
	wantErrors(t, errs, want...)
}

const onlyThese = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

func TestValidatePodUpdate(t *testing.T) {
	const plain = `{containers: [{name: a, image: b}], initContainers: [{name: i, image: j}]}`
	seconds := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name, old string
		change    func(pod *corev1.Pod)
		want      []string
	}{
		{"nothing", plain, func(pod *corev1.Pod) {}, nil},
		{"labels and images", plain, func(pod *corev1.Pod) {
			pod.Labels = map[string]string{"a": "b"}
			pod.Spec.Containers[0].Image, pod.Spec.InitContainers[0].Image = "c", "k"
		}, nil},
		{"no image", plain, func(pod *corev1.Pod) { pod.Spec.Containers[0].Image = "" }, []string{`spec.containers[0].image: Required value`}},
		{"command", plain, func(pod *corev1.Pod) { pod.Spec.Containers[0].Command = []string{"x"} }, []string{onlyThese}},
		{"another container", plain, func(pod *corev1.Pod) {
			pod.Spec.Containers = append(pod.Spec.Containers, *pod.Spec.Containers[0].DeepCopy())
			pod.Spec.Containers[1].Name = "c"
		}, []string{`spec.containers: Forbidden: pod updates may not add or remove containers`}},
		{"deadline set", plain, func(pod *corev1.Pod) { pod.Spec.ActiveDeadlineSeconds = seconds(5) }, nil},
		{"deadline later", `{containers: [{name: a, image: b}], activeDeadlineSeconds: 5}`, func(pod *corev1.Pod) {
			pod.Spec.ActiveDeadlineSeconds = seconds(6)
		}, []string{`spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value`}},
		{"deadline removed", `{containers: [{name: a, image: b}], activeDeadlineSeconds: 5}`, func(pod *corev1.Pod) {
			pod.Spec.ActiveDeadlineSeconds = nil
		}, []string{`spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value`}},
		{"toleration added", plain, func(pod *corev1.Pod) {
			pod.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		}, nil},
		{"toleration changed", `{containers: [{name: a, image: b}], tolerations: [{key: k, operator: Exists, effect: NoExecute}]}`, func(pod *corev1.Pod) {
			pod.Spec.Tolerations[0].Key = "l"
		}, []string{`spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds`}},
		{"toleration for longer", `{containers: [{name: a, image: b}], tolerations: [{key: k, operator: Exists, effect: NoExecute}]}`, func(pod *corev1.Pod) {
			pod.Spec.Tolerations[0].TolerationSeconds = seconds(5)
		}, nil},
		{"grace period to one", `{containers: [{name: a, image: b}], terminationGracePeriodSeconds: -5}`, func(pod *corev1.Pod) {
			pod.Spec.TerminationGracePeriodSeconds = seconds(1)
		}, nil},
		{"grace period", plain, func(pod *corev1.Pod) { pod.Spec.TerminationGracePeriodSeconds = seconds(1) }, []string{onlyThese}},
		{"node selector", plain, func(pod *corev1.Pod) { pod.Spec.NodeSelector = map[string]string{"a": "b"} }, []string{onlyThese}},
		{"gate removed", `{containers: [{name: a, image: b}], schedulingGates: [{name: g}]}`, func(pod *corev1.Pod) {
			pod.Spec.SchedulingGates = nil
			pod.Spec.NodeSelector = map[string]string{"a": "b"}
			pod.Spec.Affinity = decode[corev1.Affinity](t, `nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: Exists}]}]}}`)
		}, nil},
		{"gate added", `{containers: [{name: a, image: b}], schedulingGates: [{name: g}]}`, func(pod *corev1.Pod) {
			pod.Spec.SchedulingGates = append(pod.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: "h"})
		}, []string{`spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'`}},
		{"gated, wider", `{containers: [{name: a, image: b}], schedulingGates: [{name: g}], nodeSelector: {a: b}, affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: Exists}]}]}}}}`, func(pod *corev1.Pod) {
			pod.Spec.NodeSelector = nil
			pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key = "l"
		}, []string{
			`spec.nodeSelector: Invalid value: null: only additions to spec.nodeSelector are allowed (no mutations or deletions)`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {"matchExpressions":[{"key":"l","operator":"Exists"}]}: only additions are allowed (no mutations or deletions)`}},
		{"node name", plain, func(pod *corev1.Pod) { pod.Spec.NodeName = "node" }, []string{onlyThese}},
		{"mirror", plain, func(pod *corev1.Pod) { pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, []string{
			`metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation`,
			`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := storedPod(t, c.old)
			pod := old.DeepCopy()
			c.change(pod)
			before := pod.DeepCopy()
			wantErrorsCut(t, validatePodUpdate(pod, old), c.want...)
			if !semanticEqual(before, pod) {
				t.Error("validation changed the pod")
			}
		})
	}
}

// TestUpdateOfInvalid: what was stored before a rule came may stay.
func TestUpdateOfInvalid(t *testing.T) {
	old := storedPod(t, `containers: [{name: a, image: b, imagePullPolicy: Sometimes}]`)
	pod := old.DeepCopy()
	pod.Labels = map[string]string{"a": "b"}
	wantErrors(t, validatePodUpdate(pod, old))
}

func TestValidatePodStatusUpdate(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	status := func(state corev1.ContainerState) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "a", State: state}}
	}
	const illegal = `status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state`
	for _, c := range []struct {
		name, spec string
		from, to   corev1.PodStatus
		want       []string
	}{
		{"restart", `containers: [{name: a, image: b}]`, corev1.PodStatus{ContainerStatuses: status(ended(1))}, corev1.PodStatus{ContainerStatuses: status(running)}, nil},
		{"no restart", `{restartPolicy: Never, containers: [{name: a, image: b}]}`, corev1.PodStatus{ContainerStatuses: status(ended(1))}, corev1.PodStatus{ContainerStatuses: status(running)}, []string{illegal}},
		{"restart of success", `{restartPolicy: OnFailure, containers: [{name: a, image: b}]}`, corev1.PodStatus{ContainerStatuses: status(ended(0))}, corev1.PodStatus{ContainerStatuses: status(running)}, []string{illegal}},
		{"own policy", `{restartPolicy: Never, containers: [{name: a, image: b, restartPolicy: Always}]}`, corev1.PodStatus{ContainerStatuses: status(ended(0))}, corev1.PodStatus{ContainerStatuses: status(running)}, nil},
		{"rule", `{restartPolicy: Never, containers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}]}]}`, corev1.PodStatus{ContainerStatuses: status(ended(3))}, corev1.PodStatus{ContainerStatuses: status(running)}, nil},
		{"other code", `{restartPolicy: Never, containers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}]}]}`, corev1.PodStatus{ContainerStatuses: status(ended(4))}, corev1.PodStatus{ContainerStatuses: status(running)}, []string{illegal}},
		{"addresses", `containers: [{name: a, image: b}]`, corev1.PodStatus{}, corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}, HostIP: "1.1.1.1", HostIPs: []corev1.HostIP{{IP: "x"}}}, []string{
			`status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`,
			"status.hostIPs[0].ip: Invalid value: \"x\": must be equal to `hostIP`",
			`status.hostIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		{"conditions", `containers: [{name: a, image: b}]`, corev1.PodStatus{}, corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "a b", ObservedGeneration: -1}}, NominatedNodeName: "N"}, []string{
			`status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer`,
			`status.conditions[0].Type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`status.nominatedNodeName: Invalid value: "N": ` + subdomainRule}},
		{"quality of service", `containers: [{name: a, image: b}]`, corev1.PodStatus{}, corev1.PodStatus{QOSClass: corev1.PodQOSGuaranteed}, []string{
			`status.qosClass: Invalid value: "Guaranteed": field is immutable`}},
		{"nominated when bound", `{nodeName: node, containers: [{name: a, image: b}]}`, corev1.PodStatus{}, corev1.PodStatus{NominatedNodeName: "other"}, []string{
			`status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := storedPod(t, c.spec)
			c.from.QOSClass = corev1.PodQOSBestEffort
			old.Status = c.from
			pod := old.DeepCopy()
			pod.Status = c.to
			preparePodStatusUpdate(pod, old)
			wantErrors(t, validatePodStatusUpdate(pod, old), c.want...)
		})
	}
}

func TestPreparePodStatusUpdate(t *testing.T) {
	old := storedPod(t, `containers: [{name: a, image: b}]`)
	old.OwnerReferences = []metav1.OwnerReference{{Name: "o"}}
	old.Status.ObservedGeneration = 3
	old.Status.Conditions = []corev1.PodCondition{{Type: "Ready", ObservedGeneration: 2}}
	pod := old.DeepCopy()
	pod.Spec.Containers[0].Image = "other"
	pod.OwnerReferences = nil
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: "Ready"}}}
	preparePodStatusUpdate(pod, old)
	if pod.Spec.Containers[0].Image != "b" || len(pod.OwnerReferences) != 1 {
		t.Error("a status update changed more than the status")
	}
	if s := pod.Status; s.Phase != corev1.PodRunning || s.QOSClass != corev1.PodQOSBestEffort || s.ObservedGeneration != 3 || s.Conditions[0].ObservedGeneration != 2 {
		t.Errorf("status: %+v", s)
	}
}

func TestPodGracePeriod(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name  string
		pod   corev1.Pod
		asked *int64
		want  int64
	}{
		{"not scheduled", corev1.Pod{}, seconds(7), 0},
		{"default", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node"}}, nil, 30},
		{"of the spec", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node", TerminationGracePeriodSeconds: seconds(5)}}, nil, 5},
		{"asked", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node", TerminationGracePeriodSeconds: seconds(5)}}, seconds(9), 9},
		{"now", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node"}}, seconds(0), 0},
		{"negative", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node", TerminationGracePeriodSeconds: seconds(-5)}}, nil, 1},
		{"failed", corev1.Pod{Spec: corev1.PodSpec{NodeName: "node"}, Status: corev1.PodStatus{Phase: corev1.PodFailed}}, nil, 0},
	} {
		if got := podGracePeriod(&c.pod, &metav1.DeleteOptions{GracePeriodSeconds: c.asked}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
