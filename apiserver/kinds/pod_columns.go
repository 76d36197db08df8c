package kinds

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	cellNone        = "<none>"
	nodeUnreachable = "NodeLost" // the reason in the status of a pod whose node is gone
)

func podColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
		column("Status", "string", "The aggregate status of the containers in this pod."),
		column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		ageColumn(),
		wideColumn("IP", "string", status["podIP"]),
		wideColumn("Node", "string", spec["nodeName"]),
		wideColumn("Nominated Node", "string", status["nominatedNodeName"]),
		wideColumn("Readiness Gates", "string", spec["readinessGates"]),
	}
}

func podCells(pod *corev1.Pod, now metav1.Time) []any {
	s := summarizePod(pod)
	restarts := strconv.Itoa(s.restarts.count)
	if s.restarts.count != 0 && !s.restarts.last.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts.count, age(now, s.restarts.last))
	}
	ip := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return []any{
		pod.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.status, restarts, age(now, pod.CreationTimestamp),
		orNone(ip), orNone(pod.Spec.NodeName), orNone(pod.Status.NominatedNodeName), podReadinessGates(pod),
	}
}

func orNone(s string) string {
	if s == "" {
		return cellNone
	}
	return s
}

// podReadinessGates is "true gates/all gates".
func podReadinessGates(pod *corev1.Pod) string {
	if len(pod.Spec.ReadinessGates) == 0 {
		return cellNone
	}
	passed := 0
	for _, gate := range pod.Spec.ReadinessGates {
		if podCondition(&pod.Status, gate.ConditionType) == corev1.ConditionTrue {
			passed++
		}
	}
	return fmt.Sprintf("%d/%d", passed, len(pod.Spec.ReadinessGates))
}

// podCondition is the status of the first condition of the type, or empty.
func podCondition(s *corev1.PodStatus, t corev1.PodConditionType) corev1.ConditionStatus {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return s.Conditions[i].Status
		}
	}
	return ""
}

// podRestarts counts restarts and keeps when the last of them ended a container.
type podRestarts struct {
	count int
	last  metav1.Time
}

func (r *podRestarts) add(c *corev1.ContainerStatus) {
	r.count += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

// podSummary is a pod in one line.
type podSummary struct {
	ready, total int
	status       string
	restarts     podRestarts
}

func summarizePod(pod *corev1.Pod) podSummary {
	s := podSummary{total: len(pod.Spec.Containers), status: string(pod.Status.Phase)}
	if pod.Status.Reason != "" {
		s.status = pod.Status.Reason
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.status = corev1.PodReasonSchedulingGated
		}
	}
	if !s.initContainers(pod) || podCondition(&pod.Status, corev1.PodInitialized) == corev1.ConditionTrue {
		s.containers(pod)
	}
	if pod.DeletionTimestamp != nil {
		if pod.Status.Reason == nodeUnreachable {
			s.status = "Unknown"
		} else if pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			s.status = "Terminating"
		}
	}
	return s
}

// initContainers accounts for init containers and reports whether one of them is still to finish or start. What it leaves as restarts
// are those of all init containers, if so, or else those of sidecars only.
func (s *podSummary) initContainers(pod *corev1.Pod) (initializing bool) {
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = true
			s.total++
		}
	}
	var all, ofSidecars podRestarts
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		all.add(c)
		if sidecars[c.Name] {
			ofSidecars.add(c)
		}
		if c.State.Terminated != nil && c.State.Terminated.ExitCode == 0 {
			continue
		}
		if sidecars[c.Name] && c.Started != nil && *c.Started {
			if c.Ready {
				s.ready++
			}
			continue
		}
		s.status = "Init:" + initProgress(c, i, len(pod.Spec.InitContainers))
		s.restarts = all
		if podCondition(&pod.Status, corev1.PodInitialized) == corev1.ConditionTrue {
			s.restarts = ofSidecars
		}
		return true
	}
	s.restarts = ofSidecars
	return false
}

func initProgress(c *corev1.ContainerStatus, index, total int) string {
	switch {
	case c.State.Terminated != nil:
		return exitReason(c.State.Terminated)
	case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
		return c.State.Waiting.Reason
	}
	return fmt.Sprintf("%d/%d", index, total)
}

func exitReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// containers accounts for the ordinary containers. The first that waits or has ended gives the status; it is Running again if that
// one completed and another runs.
func (s *podSummary) containers(pod *corev1.Pod) {
	running := false
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.restarts.add(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.status = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.status = exitReason(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.status == "Completed" && running {
		s.status = "NotReady"
		if podCondition(&pod.Status, corev1.PodReady) == corev1.ConditionTrue {
			s.status = "Running"
		}
	}
}

// isSidecar reports whether an init container stays while the pod runs.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
