package agent

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/reference"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/probes"
)

// event records an event of a pod or the node.
func (a *Agent) event(obj runtime.Object, kind, reason, message string) {
	a.recorder.Event(obj, kind, reason, message)
}

// nodeEvent records an event of the node, whose UID in events is its name, as the kubelet has it.
func (a *Agent) nodeEvent(kind, reason, message string) {
	name := a.cfg.NodeName
	a.recorder.Event(&v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: apiUID(name)}, kind, reason, message)
}

// containerEvent records an event of one container of a pod.
func (a *Agent) containerEvent(pod *v1.Pod, c *v1.Container, kind, reason, format string, args ...any) {
	ref, err := reference.GetReference(scheme.Scheme, pod)
	if err != nil {
		return
	}
	ref.FieldPath = fieldPath(pod, c.Name)
	a.recorder.Event(ref, kind, reason, fmt.Sprintf(format, args...))
}

func fieldPath(pod *v1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}

type note struct{ kind, reason, message string }

// backOffEvents tells of containers that have begun to wait between two statuses.
func backOffEvents(pod *v1.Pod, old, now *v1.PodStatus) []note {
	var out []note
	each := func(before, after []v1.ContainerStatus) {
		for i := range after {
			w := after[i].State.Waiting
			if w == nil || i < len(before) && before[i].State.Waiting != nil && before[i].State.Waiting.Reason == w.Reason {
				continue
			}
			switch w.Reason {
			case lifecycle.ReasonCrashLoop:
				out = append(out, note{v1.EventTypeWarning, "BackOff",
					fmt.Sprintf("Back-off restarting failed container %s in pod %s", after[i].Name, lifecycle.FullName(pod))})
			case lifecycle.ReasonImagePullBackOff:
				if c := containerSpec(pod, after[i].Name); c != nil {
					out = append(out, note{v1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image)},
						note{v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff"})
				}
			}
		}
	}
	each(old.InitContainerStatuses, now.InitContainerStatuses)
	each(old.ContainerStatuses, now.ContainerStatuses)
	each(old.EphemeralContainerStatuses, now.EphemeralContainerStatuses)
	return out
}

// Verdict passes a probe's verdict to the pod's worker.
func (a *Agent) Verdict(t probes.Target, k probes.Kind, ok bool) {
	if w := a.worker(string(t.Pod.UID)); w != nil {
		w.verdict(t.ID, k, ok)
	}
}

// Tell records what a probe has to tell.
func (a *Agent) Tell(t probes.Target, reason, message string) {
	a.containerEvent(t.Pod, t.Container, v1.EventTypeWarning, reason, "%s", message)
}
