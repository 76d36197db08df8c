package agent

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/admission"
	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/internal/version"
)

func apiUID(s string) types.UID { return types.UID(s) }

// KubeletVersion is what the node calls itself.
func KubeletVersion() string { return version.KubernetesVersion + "-coracle" }

// admit refuses a pod that the node cannot or may not run. One that it took before is not asked again.
func (a *Agent) admit(pod *v1.Pod, runs bool) *lifecycle.Rejection {
	done := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	if runs || done || pod.DeletionTimestamp != nil || pod.Status.StartTime != nil {
		return nil
	}
	var r *lifecycle.Rejection
	if a.goesDown.Load() {
		r = &lifecycle.Rejection{Reason: nodeShutdownReason, Message: nodeShutdownMessage}
	} else if u := podspec.Unsupported(pod, a.cfg.Support); u != nil {
		r = &lifecycle.Rejection{Reason: u.Reason, Message: "Pod was rejected: " + u.Message}
	} else if n := a.node.Load(); n != nil {
		if refused := admission.Check(n, a.taken(), pod); refused != nil {
			r = &lifecycle.Rejection{Reason: refused.Reason, Message: refused.Message}
		}
	}
	if r == nil {
		r = a.guard.Admit(pod)
	}
	if r != nil {
		a.event(pod, v1.EventTypeWarning, r.Reason, r.Message)
	}
	return r
}

// taken are the pods that use the node's resources.
func (a *Agent) taken() []*v1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*v1.Pod
	for _, w := range a.workers {
		if p := w.active(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// active is the worker's pod unless it has ended, was refused, or is gone from the API: the scheduler has given its room to others then.
func (w *worker) active() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Stage >= lifecycle.Terminated || w.state.Rejection != nil || w.state.Gone {
		return nil
	}
	return w.state.Pod
}

// networkReady tells the worker that the node's network is up, and whether its pod is on it.
func (w *worker) networkReady(holdsAddress bool) {
	w.mu.Lock()
	if s := w.state.Sandbox; s != nil && !w.state.Pod.Spec.HostNetwork && !holdsAddress {
		s.Networked = false
	}
	delete(w.state.Failed, lifecycle.Action{Kind: lifecycle.CreateSandbox}.Key())
	w.mu.Unlock()
	w.poke()
}
