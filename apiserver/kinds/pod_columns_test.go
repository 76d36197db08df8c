package kinds

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tableNow is when the tables of these tests are made; manifests say how long before things happened.
var tableNow = metav1.NewTime(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC))

func TestPodCells(t *testing.T) {
	const two = `spec: {containers: [{name: a}, {name: b}]}, `
	for _, c := range []struct{ name, pod, ready, status, restarts string }{
		{"pending", `{spec: {containers: [{name: a}]}, status: {phase: Pending}}`, "0/1", "Pending", "0"},
		{"gated", `{spec: {containers: [{name: a}]}, status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]}}`, "0/1", "SchedulingGated", "0"},
		{"creating", `{` + two + `status: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}]}}`, "0/2", "ContainerCreating", "0"},
		{"running", `{` + two + `status: {phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}, {name: b, state: {running: {}}}]}}`, "1/2", "Running", "0"},
		{"crashing", `{` + two + `status: {phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}, {name: b, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: "2030-01-01T11:58:00Z"}}}]}}`, "1/2", "CrashLoopBackOff", "3 (2m ago)"},
		{"completed", `{spec: {containers: [{name: a}]}, status: {phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}]}}`, "0/1", "Completed", "0"},
		{"error", `{spec: {containers: [{name: a}]}, status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 1, reason: Error}}}]}}`, "0/1", "Error", "0"},
		{"signal", `{spec: {containers: [{name: a}]}, status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, signal: 9}}}]}}`, "0/1", "Signal:9", "0"},
		{"code", `{spec: {containers: [{name: a}]}, status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 2}}}]}}`, "0/1", "ExitCode:2", "0"},
		{"one completed, ready", `{` + two + `status: {phase: Running, conditions: [{type: Ready, status: "True"}], containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}}`, "1/2", "Running", "0"},
		{"one completed, not ready", `{` + two + `status: {phase: Running, containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}}`, "1/2", "NotReady", "0"},
		{"init", `{spec: {containers: [{name: a}], initContainers: [{name: i}, {name: j}]}, status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, state: {running: {}}}]}}`, "0/1", "Init:1/2", "0"},
		{"init waits", `{spec: {containers: [{name: a}], initContainers: [{name: i}]}, status: {phase: Pending, initContainerStatuses: [{name: i, state: {waiting: {reason: PodInitializing}}}]}}`, "0/1", "Init:0/1", "0"},
		{"init fails", `{spec: {containers: [{name: a}], initContainers: [{name: i}]}, status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {finishedAt: "2030-01-01T11:59:30Z"}}}]}}`, "0/1", "Init:CrashLoopBackOff", "2 (30s ago)"},
		{"init error", `{spec: {containers: [{name: a}], initContainers: [{name: i}]}, status: {phase: Failed, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 3}}}]}}`, "0/1", "Init:ExitCode:3", "0"},
		{"initializing", `{spec: {containers: [{name: a}], initContainers: [{name: i}]}, status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 1, state: {terminated: {exitCode: 0}}}], containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]}}`, "0/1", "PodInitializing", "0"},
		{"sidecar", `{spec: {containers: [{name: a}], initContainers: [{name: s, restartPolicy: Always}]}, status: {phase: Running, initContainerStatuses: [{name: s, ready: true, started: true, restartCount: 1, state: {running: {}}}], containerStatuses: [{name: a, ready: true, restartCount: 2, state: {running: {}}}]}}`, "2/2", "Running", "3"},
		{"terminating", `{metadata: {deletionTimestamp: "2030-01-01T12:00:00Z"}, ` + two + `status: {phase: Running}}`, "0/2", "Terminating", "0"},
		{"deleted when done", `{metadata: {deletionTimestamp: "2030-01-01T12:00:00Z"}, ` + two + `status: {phase: Succeeded}}`, "0/2", "Succeeded", "0"},
		{"lost", `{metadata: {deletionTimestamp: "2030-01-01T12:00:00Z"}, ` + two + `status: {phase: Running, reason: NodeLost}}`, "0/2", "Unknown", "0"},
		{"evicted", `{` + two + `status: {phase: Failed, reason: Evicted}}`, "0/2", "Evicted", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := decode[corev1.Pod](t, c.pod)
			pod.Name = "p"
			pod.CreationTimestamp = metav1.NewTime(tableNow.Add(-5 * time.Minute))
			want := []any{"p", c.ready, c.status, c.restarts, "5m", "<none>", "<none>", "<none>", "<none>"}
			if diff := cmp.Diff(want, podCells(pod, tableNow)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodCellsWide(t *testing.T) {
	pod := decode[corev1.Pod](t, `{metadata: {name: p}, spec: {containers: [{name: a}], nodeName: node, readinessGates: [{conditionType: x}, {conditionType: z}]}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}], nominatedNodeName: other, conditions: [{type: x, status: "True"}]}}`)
	want := []any{"p", "0/1", "Running", "0", "<unknown>", "10.0.0.1", "node", "other", "1/2"}
	if diff := cmp.Diff(want, podCells(pod, tableNow)); diff != "" {
		t.Error(diff)
	}
}

// TestTables: each entry of these files has as many cells as columns, of the columns' types, and described.
func TestTables(t *testing.T) {
	for _, name := range []string{"Pod", "PodTemplate", "ReplicationController", "ReplicaSet", "Deployment", "ControllerRevision"} {
		k := kindNamed(t, name)
		cells := k.Cells(k.New(), tableNow)
		if len(cells) != len(k.Columns) {
			t.Errorf("%s: %d cells in %d columns", name, len(cells), len(k.Columns))
		}
		for i, column := range k.Columns {
			if column.Description == "" {
				t.Errorf("%s: column %s has no description", name, column.Name)
			}
			if _, number := cells[i].(int64); column.Type == "integer" && !number {
				t.Errorf("%s: column %s has a %T", name, column.Name, cells[i])
			}
		}
		if k.Columns[0].Format != "name" {
			t.Errorf("%s: the first column is not the name", name)
		}
	}
}
