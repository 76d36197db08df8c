package why

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Container is what happened last to a container that is not simply running.
type Container struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"` // "init container", "sidecar", "container", "ephemeral container"
	Restarts int32  `json:"restarts,omitempty"`
	// State is what kubectl shows, as CrashLoopBackOff.
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
	// Last is how it ended last; nil where it never ran.
	Last *End `json:"last,omitempty"`
	// Until is when it is started again; zero where that is not known.
	Until time.Time `json:"until,omitzero"`
}

// End is how a container ended.
type End struct {
	ExitCode int32     `json:"exitCode"`
	Signal   int32     `json:"signal,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Message  string    `json:"message,omitempty"`
	At       time.Time `json:"at,omitzero"`
	// Ran is how long it ran.
	Ran time.Duration `json:"ranNanoseconds,omitempty"`
}

// eachStatus calls f for every container that has a status, in the order they start.
func eachStatus(p *corev1.Pod, f func(kind string, s *corev1.ContainerStatus)) {
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		kind := "init container"
		if sidecars[s.Name] {
			kind = "sidecar"
		}
		f(kind, s)
	}
	for i := range p.Status.ContainerStatuses {
		f("container", &p.Status.ContainerStatuses[i])
	}
	for i := range p.Status.EphemeralContainerStatuses {
		f("ephemeral container", &p.Status.EphemeralContainerStatuses[i])
	}
}

// containers are those with something to tell: that wait, ended, restarted, or are not ready.
func containers(f *Facts) []Container {
	var list []Container
	eachStatus(f.Pod, func(kind string, s *corev1.ContainerStatus) {
		c := Container{Name: s.Name, Kind: kind, Restarts: s.RestartCount}
		last := s.LastTerminationState.Terminated
		switch {
		case s.State.Waiting != nil:
			c.State, c.Message = s.State.Waiting.Reason, s.State.Waiting.Message
			if waitsForOthers(c.State) && last == nil {
				return
			}
		case s.State.Terminated != nil:
			last = s.State.Terminated
			if kind == "init container" && last.ExitCode == 0 {
				return // as it should be
			}
			c.State = "Terminated"
		case s.State.Running != nil && (s.RestartCount > 0 || !s.Ready && kind == "container"):
			c.State = "Running"
			if !s.Ready {
				c.Message = f.probeFailed(s.Name)
			}
		default:
			return
		}
		if last != nil {
			c.Last = endOf(last)
			c.Until = backOffUntil(c)
		}
		list = append(list, c)
	})
	return list
}

func waitsForOthers(reason string) bool {
	return reason == "" || reason == "PodInitializing" || reason == "ContainerCreating"
}

func endOf(t *corev1.ContainerStateTerminated) *End {
	e := &End{ExitCode: t.ExitCode, Signal: t.Signal, Reason: t.Reason, Message: strings.TrimSpace(t.Message), At: t.FinishedAt.Time}
	if !t.StartedAt.IsZero() && !t.FinishedAt.IsZero() {
		e.Ran = t.FinishedAt.Sub(t.StartedAt.Time)
	}
	return e
}

// backOffText is how the kubelet's message says how long it waits.
var backOffText = regexp.MustCompile(`^back-off (\S+) restarting failed container`)

func backOffUntil(c Container) time.Time {
	match := backOffText.FindStringSubmatch(c.Message)
	if c.State != "CrashLoopBackOff" || match == nil || c.Last.At.IsZero() {
		return time.Time{}
	}
	wait, err := time.ParseDuration(match[1])
	if err != nil {
		return time.Time{}
	}
	return c.Last.At.Add(wait)
}

// probeFailed is what the last failed probe of a container said.
func (f *Facts) probeFailed(container string) string {
	text, at := "", time.Time{}
	for i := range f.Events {
		e := &f.Events[i]
		if e.Reason == "Unhealthy" && containerOf(e) == container && lastOf(e).After(at) {
			text, at = e.Message, lastOf(e)
		}
	}
	return text
}

// containerOf is the container that an event of a pod is about.
func containerOf(e *corev1.Event) string {
	_, name, _ := strings.Cut(e.InvolvedObject.FieldPath, "{")
	return strings.TrimSuffix(name, "}")
}

// firstTrouble is the state of the first container that waits for something that has failed.
func firstTrouble(list []Container) string {
	for _, c := range list {
		if c.State != "Running" && c.State != "Terminated" && !waitsForOthers(c.State) {
			return c.State
		}
	}
	return ""
}

func lastFinish(p *corev1.Pod) (at time.Time) {
	eachStatus(p, func(_ string, s *corev1.ContainerStatus) {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	})
	return at
}

// Claim is a claim that the pod needs and that is not bound.
type Claim struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Why says what it waits for.
	Why string `json:"why,omitempty"`
}

// claims are those of the pod's claims that keep it waiting.
func claims(f *Facts) []Claim {
	if f.unread("persistentvolumeclaims") {
		return nil
	}
	var list []Claim
	for i := range f.Pod.Spec.Volumes {
		name := ClaimOf(f.Pod, &f.Pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		claim := f.claim(name)
		switch {
		case claim == nil:
			list = append(list, Claim{Name: name, State: "missing", Why: "there is no such claim"})
		case claim.DeletionTimestamp != nil:
			list = append(list, Claim{Name: name, State: "Terminating", Why: "it is being deleted"})
		case claim.Status.Phase != corev1.ClaimBound:
			list = append(list, Claim{Name: name, State: string(claim.Status.Phase), Why: f.unbound(claim)})
		}
	}
	return list
}

// ClaimOf is the name of the claim behind a volume of a pod; empty where there is none.
func ClaimOf(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

func (f *Facts) claim(name string) *corev1.PersistentVolumeClaim {
	for i := range f.Claims {
		if f.Claims[i].Name == name && f.Claims[i].Namespace == f.Namespace {
			return &f.Claims[i]
		}
	}
	return nil
}

// unbound says what a claim waits for: what its controllers said last, or what can be seen from its class.
func (f *Facts) unbound(claim *corev1.PersistentVolumeClaim) string {
	text, at := "", time.Time{}
	for i := range f.Events {
		if e := &f.Events[i]; e.InvolvedObject.Kind == "PersistentVolumeClaim" && e.InvolvedObject.Name == claim.Name && !lastOf(e).Before(at) {
			text, at = e.Message, lastOf(e)
		}
	}
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	known := f.unread("storageclasses") || class == ""
	for i := range f.Classes {
		known = known || f.Classes[i].Name == class
	}
	switch {
	case !known:
		return fmt.Sprintf("there is no storage class %q", class)
	case text != "":
		return text
	case class == "":
		return "no volume fits, and it names no storage class"
	}
	return ""
}
