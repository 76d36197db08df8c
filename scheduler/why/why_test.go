package why

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/decide"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// t0 is when the pods of the tests are created; the reports are of three minutes later.
var t0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

func at(seconds float64) metav1.Time {
	return metav1.NewTime(t0.Add(time.Duration(seconds * float64(time.Second))))
}

// newFacts are of a pod web in a cluster of three nodes of 4 CPUs, one of them tainted.
func newFacts(change ...func(*Facts)) *Facts {
	f := &Facts{Now: t0.Add(3 * time.Minute), Namespace: "default", Name: "web", Settings: decide.Defaults(), Pod: newPod("web")}
	for i := range 3 {
		f.Nodes = append(f.Nodes, newNode(fmt.Sprintf("node-%d", i+1), "4"))
	}
	f.Nodes[2].Spec.Taints = []corev1.Taint{{Key: "gpu", Value: "true", Effect: corev1.TaintEffectNoSchedule}}
	for _, c := range change {
		c(f)
	}
	return f
}

func newNode(name, cpu string) corev1.Node {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list, Capacity: list, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

func newPod(name string) *corev1.Pod {
	priority := int32(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), CreationTimestamp: at(0)},
		Spec:       corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Priority: &priority, Containers: []corev1.Container{{Name: "app", Image: "web:v1"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func asks(p *corev1.Pod, cpu, memory string) {
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// others puts a pod on each of the first n nodes.
func others(f *Facts, n int, cpu string) {
	for i := range n {
		p := newPod(fmt.Sprintf("other-%d", i+1))
		p.Spec.NodeName, p.Status.Phase = f.Nodes[i].Name, corev1.PodRunning
		asks(p, cpu, "1Gi")
		f.Pods = append(f.Pods, *p)
	}
}

func isTrue(kind corev1.PodConditionType, seconds float64) corev1.PodCondition {
	return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: at(seconds)}
}

func rejected(f *Facts, message string) {
	f.Pod.Status.Conditions = append(f.Pod.Status.Conditions, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message, LastTransitionTime: at(1),
	})
	e := event("Pod", "web", "FailedScheduling", message, 170)
	e.Type, e.Source.Component, e.Count = corev1.EventTypeWarning, "default-scheduler", 4
	f.Events = append(f.Events, e)
}

func event(kind, name, reason, message string, seconds float64) corev1.Event {
	return corev1.Event{
		InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name, Namespace: "default", UID: types.UID("uid-" + name), FieldPath: ""},
		Type:           corev1.EventTypeNormal, Reason: reason, Message: message, Source: corev1.EventSource{Component: "kubelet"},
		FirstTimestamp: at(seconds), LastTimestamp: at(seconds), Count: 1,
	}
}

func ofContainer(e corev1.Event, name string) corev1.Event {
	e.InvolvedObject.FieldPath = "spec.containers{" + name + "}"
	return e
}

// runs makes the pod one that came to node-2 and became ready, with an init container before.
func runs(f *Facts) {
	p := f.Pod
	p.Spec.NodeName, p.Status.Phase = "node-2", corev1.PodRunning
	f.Node = &f.Nodes[1]
	asks(p, "500m", "256Mi")
	p.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: "setup:v1"}}
	p.Status.StartTime = &metav1.Time{Time: at(1).Time}
	p.Status.Conditions = []corev1.PodCondition{
		isTrue(corev1.PodScheduled, 0), isTrue(corev1.PodReadyToStartContainers, 2), isTrue(corev1.PodInitialized, 7), isTrue(corev1.PodReady, 12),
	}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "setup", Ready: true, State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{StartedAt: at(4), FinishedAt: at(7), Reason: "Completed"},
	}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(10)}}}}
	scheduled := event("Pod", "web", "Scheduled", "Successfully assigned default/web to node-2", 0)
	scheduled.EventTime = metav1.NewMicroTime(t0.Add(41 * time.Millisecond))
	f.Events = []corev1.Event{
		scheduled,
		ofContainer(event("Pod", "web", "Pulled", `Successfully pulled image "setup:v1" in 1.2s (1.3s including waiting). Image size: 100 bytes.`, 3), "setup"),
		ofContainer(event("Pod", "web", "Pulled", `Container image "web:v1" already present on machine`, 8), "app"),
	}
	others(f, 1, "3")
	f.Pods = append(f.Pods, *p)
}

func crashes(f *Facts) {
	runs(f)
	p := f.Pod
	p.Status.Conditions[3].Status = corev1.ConditionFalse
	p.Status.ContainerStatuses[0] = corev1.ContainerStatus{
		Name: "app", RestartCount: 4,
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 1m20s restarting failed container=app pod=web_default(uid-web)"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "OOMKilled", StartedAt: at(150), FinishedAt: at(152),
		}},
	}
	e := ofContainer(event("Pod", "web", "BackOff", "Back-off restarting failed container app in pod web_default(uid-web)", 20), "app")
	e.Type, e.LastTimestamp, e.Count = corev1.EventTypeWarning, at(175), 9
	f.Events = append(f.Events, e, ofContainer(event("Pod", "web", "Started", "Started container app", 10), "app"))
}

func TestReports(t *testing.T) {
	for name, facts := range map[string]*Facts{
		"pending-resources": newFacts(func(f *Facts) {
			asks(f.Pod, "3500m", "6Gi")
			others(f, 2, "3")
			rejected(f, "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: 0/3 nodes are available: "+
				"1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.")
		}),
		"pending-preemption": newFacts(func(f *Facts) {
			asks(f.Pod, "3", "1Gi")
			*f.Pod.Spec.Priority = 10
			others(f, 2, "2")
		}),
		"pending-more-than-any": newFacts(func(f *Facts) { asks(f.Pod, "64", "1Gi") }),
		"pending-affinity": newFacts(func(f *Facts) {
			f.Pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
			f.Pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a", "b"}}}}},
			}}}
		}),
		"pending-ports": newFacts(func(f *Facts) {
			f.Pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}}
			others(f, 2, "1")
			for i := range f.Pods {
				f.Pods[i].Spec.Containers[0].Ports = f.Pod.Spec.Containers[0].Ports
			}
		}),
		"pending-gated": newFacts(func(f *Facts) {
			f.Pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}, {Name: "example.com/paid"}}
		}),
		"pending-other-scheduler": newFacts(func(f *Facts) { f.Pod.Spec.SchedulerName = "mine" }),
		"pending-no-profile":      newFacts(func(f *Facts) { f.Pod.Spec.SchedulerName = "mine"; f.NoProfile = true }),
		"pending-plug-in": newFacts(func(f *Facts) {
			f.PlugIns = func(nodes []*corev1.Node) []PlugIn {
				return []PlugIn{{Name: "price", Weight: 1, Rejected: map[string]string{"node-1": "node(s) dearer than the pod's max-price"}, Scores: map[string]int64{"node-2": 5}},
					{Name: "licence", PodRejected: fmt.Sprintf("no licence for any of %d nodes", len(nodes))}}
			}
		}),
		"pending-plug-in-down": newFacts(func(f *Facts) {
			f.PlugIns = func([]*corev1.Node) []PlugIn {
				return []PlugIn{{Name: "price", Down: `plug-in "price" is not available: no answer in time: 200ms`, Ignored: true}, {Name: "licence", Down: `plug-in "licence" is not available: no answer in time: 200ms`}}
			}
		}),
		"running-plug-in": newFacts(runs, func(f *Facts) {
			f.PlugIns = func([]*corev1.Node) []PlugIn {
				return []PlugIn{{Name: "price", Weight: 3, Scores: map[string]int64{"node-1": 100, "node-2": 0}}}
			}
		}),
		"pending-no-nodes": newFacts(func(f *Facts) { f.Nodes = nil; rejected(f, "no nodes available to schedule pods") }),
		"pending-claims": newFacts(func(f *Facts) {
			for _, name := range []string{"missing", "waiting", "classless", "nowhere"} {
				f.Pod.Spec.Volumes = append(f.Pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
				}})
			}
			claim := func(name string, class *string) corev1.PersistentVolumeClaim {
				return corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}
			}
			local, nowhere := "local", "nowhere"
			f.Claims = []corev1.PersistentVolumeClaim{claim("waiting", &local), claim("classless", nil), claim("nowhere", &nowhere)}
			f.Classes = []storagev1.StorageClass{{ObjectMeta: metav1.ObjectMeta{Name: "local"}}}
			f.Events = append(f.Events, event("PersistentVolumeClaim", "waiting", "WaitForFirstConsumer", "waiting for first consumer to be created before binding", 5))
		}),
		"pending-claim-elsewhere": newFacts(func(f *Facts) {
			f.Pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			f.Claims = []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "default", UID: "uid-data", Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes"}},
				Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv-1"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
			}}
			f.Volumes = []corev1.PersistentVolume{{
				ObjectMeta: metav1.ObjectMeta{Name: "pv-1"},
				Spec: corev1.PersistentVolumeSpec{
					ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "data", UID: "uid-data"},
					NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
						MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"node-3"}}},
					}}}},
				},
			}}
		}),
		"pending-spread": newFacts(func(f *Facts) {
			f.Pod.Labels = map[string]string{"app": "web"}
			f.Nodes = nil
			for i := range 9 {
				f.Nodes = append(f.Nodes, newNode(fmt.Sprintf("node-%d", i), "4"))
				f.Nodes[i].Labels["zone"] = string(rune('a' + i/3))
			}
			others(f, 8, "1")
			for i := range f.Pods {
				f.Pods[i].Labels = f.Pod.Labels
			}
			f.Nodes[8].Spec.Unschedulable = true
			web := &metav1.LabelSelector{MatchLabels: f.Pod.Labels}
			f.Pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
				{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web},
				{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web},
			}
		}),
		"pending-pod-affinity": newFacts(func(f *Facts) {
			other := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
			term := func(s *metav1.LabelSelector) []corev1.PodAffinityTerm {
				return []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: s}}
			}
			f.Pod.Spec.Affinity = &corev1.Affinity{
				PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(&metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}})},
				PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(other)},
			}
			f.Nodes[2].Spec.Taints = nil
			others(f, 3, "1")
			f.Pods[0].Labels = map[string]string{"app": "db"}
			f.Pods[0].Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(&metav1.LabelSelector{})}}
			f.Pods[1].Labels = map[string]string{"app": "other"}
		}),
		"pending-forbidden": newFacts(func(f *Facts) {
			f.Nodes = nil
			f.Unread = []Unread{{What: "nodes", Why: `nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope`}}
			rejected(f, "0/3 nodes are available: 3 Insufficient cpu.")
		}),
		"pending-inexact": newFacts(func(f *Facts) {
			asks(f.Pod, "2", "1Gi")
			f.Unread = []Unread{{What: "pods" + Elsewhere, Why: "pods is forbidden"}, {What: "persistentvolumes", Why: "persistentvolumes is forbidden"}}
		}),
		"pending-nominated": newFacts(func(f *Facts) {
			asks(f.Pod, "3", "1Gi")
			*f.Pod.Spec.Priority = 10
			others(f, 2, "2")
			f.Pods[0].DeletionTimestamp = &metav1.Time{Time: f.Now}
			f.Pod.Status.NominatedNodeName = "node-1"
		}),
		"running": newFacts(runs),
		"running-elsewhere-better": newFacts(runs, func(f *Facts) {
			for i := range 6 {
				f.Nodes = append(f.Nodes, newNode(fmt.Sprintf("a-node-with-a-long-name-%d", i), "16"))
			}
			f.Nodes[1].Spec.Unschedulable = true
		}),
		"running-steps-forgotten": newFacts(runs, func(f *Facts) { f.Events = nil }),
		"running-not-ready": newFacts(runs, func(f *Facts) {
			f.Pod.Status.Conditions[3].Status = corev1.ConditionFalse
			f.Pod.Status.ContainerStatuses[0].Ready = false
			f.Pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/balanced"}}
			e := ofContainer(event("Pod", "web", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", 175), "app")
			e.Type, e.Count = corev1.EventTypeWarning, 33
			f.Events = append(f.Events, e)
		}),
		"running-node-gone": newFacts(runs, func(f *Facts) { f.Node = nil; f.Nodes = f.Nodes[:1] }),
		"running-node-not-ready": newFacts(runs, func(f *Facts) {
			f.Nodes[1].Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Message: "Kubelet stopped posting node status.", LastTransitionTime: at(90)}
			added, five := at(130), int64(300)
			f.Nodes[1].Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}}
			f.Pod.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &five}}
		}),
		"crash-loop": newFacts(crashes),
		"image": newFacts(runs, func(f *Facts) {
			f.Pod.Status.Phase = corev1.PodPending
			f.Pod.Status.Conditions = f.Pod.Status.Conditions[:3]
			f.Events = f.Events[:2]
			f.Pod.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "ImagePullBackOff", Message: `Back-off pulling image "web:v1": failed to pull and unpack image: not found`,
			}}}
		}),
		"failed": newFacts(runs, func(f *Facts) {
			f.Pod.Status.Phase, f.Pod.Status.Reason = corev1.PodFailed, "Evicted"
			f.Pod.Status.Message = "The node was low on resource: memory."
			f.Pod.Status.Conditions[3] = corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "TerminationByKubelet", Message: "The node was low on resource: memory."}
			f.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 1, Reason: "Error", Message: "no database\n", StartedAt: at(10), FinishedAt: at(70),
			}}
		}),
		"succeeded": newFacts(runs, func(f *Facts) {
			f.Pod.Status.Phase = corev1.PodSucceeded
			f.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: at(10), FinishedAt: at(70)}}
		}),
		"terminating": newFacts(runs, func(f *Facts) {
			grace := int64(30)
			deleted := at(130)
			f.Pod.DeletionTimestamp, f.Pod.DeletionGracePeriodSeconds = &deleted, &grace
			f.Pod.Finalizers = []string{"example.com/backup"}
		}),
		"gone": newFacts(func(f *Facts) {
			f.Pod = nil
			f.Events = []corev1.Event{event("Pod", "web", "Killing", "Stopping container app", 100)}
		}),
		"gone-quota": newFacts(func(f *Facts) {
			f.Pod = nil
			e := event("ReplicaSet", "web-7d9f", "FailedCreate", `Error creating: pods "web-7d9f-x2k1p" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2`, 100)
			e.Type, e.Count, e.Source.Component = corev1.EventTypeWarning, 12, "replicaset-controller"
			f.Events = []corev1.Event{e}
			f.Pods = []corev1.Pod{*newPod("web-7d9f-aaaaa")}
		}),
		"gone-unknown": newFacts(func(f *Facts) { f.Pod = nil }),
		"thousand-nodes": newFacts(func(f *Facts) {
			f.Nodes = nil
			for i := range 1000 {
				node := newNode(fmt.Sprintf("node-%04d", i), "4")
				if i%10 == 0 {
					node.Spec.Unschedulable = true
				}
				f.Nodes = append(f.Nodes, node)
			}
			asks(f.Pod, "3", "1Gi")
			others(f, 950, "2")
			f.Nodes[990].Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute}}
			f.Pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Explain(facts)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := r.Write(&b, facts.Now); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	for line := range strings.Lines(got) {
		if len(line) > width+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	path := filepath.Join("testdata", name+".txt")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// BenchmarkExplain is a report about one of 20,000 pods on 1,000 nodes, without what reading them takes.
func BenchmarkExplain(b *testing.B) {
	f := newFacts(func(f *Facts) { f.Nodes = nil; asks(f.Pod, "3", "1Gi") })
	for i := range 1000 {
		f.Nodes = append(f.Nodes, newNode(fmt.Sprintf("node-%04d", i), "4"))
	}
	for range 20 {
		others(f, 1000, "100m")
	}
	for i := range f.Pods {
		f.Pods[i].UID = types.UID(fmt.Sprint(i))
	}
	for b.Loop() {
		if _, err := Explain(f); err != nil {
			b.Fatal(err)
		}
	}
}
