package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// history is what pods' statuses said, in order, and in what they contradicted themselves.
type history struct {
	mu     sync.Mutex
	pods   map[types.UID]*corev1.Pod
	owners map[string]types.UID // of containers, by ID
	lines  []string
	wrong  []string
}

func newHistory() *history {
	return &history{pods: map[types.UID]*corev1.Pod{}, owners: map[string]types.UID{}}
}

// record follows all pods until ctx ends. While there is no server it misses nothing that matters: what statuses must not do, they must not do over a
// gap either.
func (h *history) record(ctx context.Context, client kubernetes.Interface) {
	for ctx.Err() == nil {
		_ = h.follow(ctx, client)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (h *history) follow(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		h.see(&list.Items[i])
	}
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if pod, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Bookmark {
			h.see(pod)
		}
	}
	return nil
}

// note adds a line of what was done to the history.
func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line(fmt.Sprintf(format, args...))
}

func (h *history) line(text string) {
	h.lines = append(h.lines, time.Now().Format("15:04:05.000 ")+text)
}

// see compares a pod with what it was.
func (h *history) see(pod *corev1.Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.pods[pod.UID]
	h.pods[pod.UID] = pod
	h.line(describe(pod))
	for _, s := range statuses(pod) {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			h.owners[id] = pod.UID
		}
	}
	if was == nil {
		return
	}
	for _, text := range contradictions(was, pod) {
		h.wrong = append(h.wrong, fmt.Sprintf("pod %s: %s:\n\t%s\n\t%s", pod.Name, text, describe(was), describe(pod)))
		h.line("WRONG: " + text)
	}
}

// owner is the pod of a container, where a status has told.
func (h *history) owner(id string) (types.UID, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	uid, ok := h.owners[id]
	return uid, ok
}

func attemptKey(uid, name, attempt string) string { return uid + " " + name + " " + attempt }

func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// contradictions names what a status must never become after what it was.
func contradictions(was, is *corev1.Pod) []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if terminal(was) && was.Status.Phase != is.Status.Phase {
		say("it was %s and is %s", was.Status.Phase, is.Status.Phase)
	}
	if was.Status.Phase == corev1.PodRunning && is.Status.Phase == corev1.PodPending {
		say("it was Running and is Pending")
	}
	// A pod whose shared PID namespace was lost gets a new sandbox with another address.
	if was.Status.PodIP != "" && is.Status.PodIP != "" && was.Status.PodIP != is.Status.PodIP && is.Spec.ShareProcessNamespace == nil {
		say("its address was %s and is %s", was.Status.PodIP, is.Status.PodIP)
	}
	before := map[string]corev1.ContainerStatus{}
	for _, s := range statuses(was) {
		before[s.Name] = s
	}
	for _, s := range statuses(is) {
		b := before[s.Name]
		switch {
		case s.RestartCount < b.RestartCount:
			say("%s's restart count fell from %d to %d", s.Name, b.RestartCount, s.RestartCount)
		case s.RestartCount > b.RestartCount:
		case b.State.Terminated != nil && s.State.Running != nil:
			say("%s had ended and runs again without a restart", s.Name)
		case b.State.Waiting == nil && b.ContainerID != "" && s.ContainerID != "" && s.ContainerID != b.ContainerID:
			say("%s is another container without a restart", s.Name)
		case b.State.Terminated != nil && s.State.Terminated != nil && b.State.Terminated.ExitCode != s.State.Terminated.ExitCode:
			say("%s's exit code was %d and is %d", s.Name, b.State.Terminated.ExitCode, s.State.Terminated.ExitCode)
		}
	}
	return wrong
}

func terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// describe is a pod in one line.
func describe(pod *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s rv=%s %s", pod.Name, pod.UID[:8], pod.ResourceVersion, pod.Status.Phase)
	if pod.Status.Reason != "" {
		fmt.Fprintf(&b, " (%s: %s)", pod.Status.Reason, pod.Status.Message)
	}
	if pod.DeletionTimestamp != nil {
		b.WriteString(" deleting")
	}
	for _, s := range statuses(pod) {
		fmt.Fprintf(&b, " %s#%d", s.Name, s.RestartCount)
		switch {
		case s.State.Running != nil:
			b.WriteString(" running")
		case s.State.Terminated != nil:
			fmt.Fprintf(&b, " ended(%d %s)", s.State.Terminated.ExitCode, s.State.Terminated.Reason)
		case s.State.Waiting != nil:
			fmt.Fprintf(&b, " waits(%s)", s.State.Waiting.Reason)
		}
		if s.Ready {
			b.WriteString(" ready")
		}
	}
	return b.String()
}
