package nodeapi

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coracle-dev/coracle/agent/logs"
	"github.com/coracle-dev/coracle/agent/runtime"
)

func (a *api) logs(w http.ResponseWriter, r *http.Request) error {
	pod, known, err := a.pod(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	previous, _ := strconv.ParseBool(q.Get("previous"))
	c, err := logContainer(pod, known, r.PathValue("container"), previous)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	opts, err := logOptions(q.Get, time.Now())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	next := func() (<-chan struct{}, bool) { return a.cfg.Runtime.Follow(c.ID) }
	control := http.NewResponseController(w)
	if err := logs.Read(r.Context(), c.LogPath, opts, next, w, func() { _ = control.Flush() }); err != nil && r.Context().Err() == nil {
		a.log.Warn("cannot read a log", "path", c.LogPath, "error", err)
	}
	return nil
}

// logOptions reads the query of a log request.
func logOptions(get func(string) string, now time.Time) (logs.Options, error) {
	opts := logs.Options{Tail: -1}
	opts.Follow, _ = strconv.ParseBool(get("follow"))
	opts.Timestamps, _ = strconv.ParseBool(get("timestamps"))
	for name, set := range map[string]func(int64){
		"tailLines":    func(n int64) { opts.Tail = n },
		"limitBytes":   func(n int64) { opts.LimitBytes = n },
		"sinceSeconds": func(n int64) { opts.Since = now.Add(-time.Duration(n) * time.Second) },
	} {
		if text := get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return opts, fmt.Errorf("invalid %s %q", name, text)
			}
			set(n)
		}
	}
	if text := get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return opts, fmt.Errorf("invalid sinceTime %q", text)
		}
		opts.Since = at
	}
	switch stream := get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		opts.Stream = "stdout"
	case corev1.LogStreamStderr:
		opts.Stream = "stderr"
	default:
		return opts, fmt.Errorf("invalid stream %q", stream)
	}
	return opts, nil
}

// logContainer finds whose log is asked for, or says why there is none, in the kubelet's words.
func logContainer(pod *corev1.Pod, known runtime.Pod, name string, previous bool) (runtime.Container, error) {
	last, ok := newest(known, name)
	if !previous {
		// One that was made and has not started has no log; the one before it has.
		if ok && last.State == runtime.StateCreated && last.Attempt > 0 {
			if before, found := ended(known, name, last.Attempt); found {
				return before, nil
			}
		}
		if ok && last.State != runtime.StateCreated {
			return last, nil
		}
		return last, whyNoLog(pod, name)
	}
	// One that has ended and is about to be started anew is a previous one too.
	limit := last.Attempt
	if last.State == runtime.StateExited && waits(pod, name) {
		limit++
	}
	if before, found := ended(known, name, limit); ok && found {
		return before, nil
	}
	return last, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
}

// ended is the last attempt before the given one.
func ended(pod runtime.Pod, name string, attempt int) (found runtime.Container, ok bool) {
	for _, c := range pod.Containers {
		if c.Name == name && c.Attempt < attempt && (!ok || c.Attempt > found.Attempt) {
			found, ok = c, true
		}
	}
	return found, ok
}

// waits tells whether the pod's status has the container waiting, so that its last end is a previous one.
func waits(pod *corev1.Pod, name string) bool {
	s := statusOfContainer(pod, name)
	return s != nil && s.State.Waiting != nil
}

func statusOfContainer(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == name {
				return &statuses[i]
			}
		}
	}
	return nil
}

func whyNoLog(pod *corev1.Pod, name string) error {
	s := statusOfContainer(pod, name)
	reason := "ContainerCreating"
	switch {
	case s == nil:
	case s.State.Terminated != nil:
		return fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
	case s.State.Waiting != nil && s.State.Waiting.Reason != "":
		reason = s.State.Waiting.Reason
	}
	switch reason {
	case "ErrImagePull":
		reason = "image can't be pulled"
	case "ImagePullBackOff":
		reason = "trying and failing to pull image"
	}
	return fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
}
