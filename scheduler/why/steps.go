package why

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Step is something that happened on the way from create to ready. At is zero where nothing tells when.
type Step struct {
	At   time.Time `json:"at,omitzero"`
	What string    `json:"what"`
	// From is where the time was found: a field of the object, or an event.
	From string `json:"from,omitempty"`
}

// steps follows a pod through its objects and events. Steps that are yet to come are left out.
func steps(f *Facts) []Step {
	p := f.Pod
	list := []Step{{At: p.CreationTimestamp.Time, What: "created", From: "metadata.creationTimestamp"}}
	if p.Spec.NodeName == "" {
		return list
	}
	list = append(list, f.scheduled())
	if p.Status.StartTime != nil {
		list = append(list, Step{At: p.Status.StartTime.Time, What: "taken up by the node", From: "status.startTime"})
	}
	list = append(list, f.byCondition(corev1.PodReadyToStartContainers, "sandbox with its network ready")...)
	initialized := len(p.Spec.InitContainers) == 0
	restarts := int32(0)
	eachStatus(p, func(kind string, s *corev1.ContainerStatus) {
		if kind == "container" && !initialized {
			list = append(list, f.byCondition(corev1.PodInitialized, "initialized")...)
			initialized = true
		}
		if kind != "ephemeral container" {
			list = append(list, f.containerSteps(kind, s)...)
			restarts += s.RestartCount
		}
	})
	ready := "ready"
	if restarts > 0 {
		ready = "ready since"
	}
	list = append(list, f.byCondition(corev1.PodReady, ready)...)
	inTime(list)
	return list
}

// inTime sorts steps by time. Those of one second keep their order, and one without a time stays behind the one before it.
func inTime(list []Step) {
	type keyed struct {
		Step
		key time.Time
	}
	var before time.Time
	all := make([]keyed, len(list))
	for i, s := range list {
		if !s.At.IsZero() {
			before = s.At.Truncate(time.Second)
		}
		all[i] = keyed{s, before}
	}
	slices.SortStableFunc(all, func(a, b keyed) int { return a.key.Compare(b.key) })
	for i := range all {
		list[i] = all[i].Step
	}
}

func (f *Facts) scheduled() Step {
	s := Step{What: "scheduled to " + f.Pod.Spec.NodeName}
	if e := f.event("Scheduled", ""); e != nil {
		s.At, s.From = firstOf(e), "event Scheduled"
	} else if c := condition(f.Pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		s.At, s.From = c.LastTransitionTime.Time, "condition PodScheduled"
	}
	return s
}

func (f *Facts) byCondition(kind corev1.PodConditionType, what string) []Step {
	c := condition(f.Pod, kind)
	if c == nil || c.Status != corev1.ConditionTrue {
		return nil
	}
	return []Step{{At: c.LastTransitionTime.Time, What: what, From: "condition " + string(kind)}}
}

// event is the first of a reason, about a container unless that is empty.
func (f *Facts) event(reason, container string) *corev1.Event {
	var first *corev1.Event
	for i := range f.Events {
		e := &f.Events[i]
		if e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID != f.Pod.UID || e.Reason != reason || container != "" && containerOf(e) != container {
			continue
		}
		if first == nil || firstOf(e).Before(firstOf(first)) {
			first = e
		}
	}
	return first
}

// pullText is how the kubelet says how long a pull took.
var pullText = regexp.MustCompile(`^Successfully pulled image "([^"]+)" in (\S+) \((\S+) including waiting\)`)

// containerSteps are the image, the start and, for one that ran to its end, that.
func (f *Facts) containerSteps(kind string, s *corev1.ContainerStatus) []Step {
	first := started(s)
	if first.IsZero() && f.event("Pulled", s.Name) == nil {
		return nil // yet to come
	}
	list := []Step{f.pulled(s)}
	if first.IsZero() {
		return list
	}
	start := Step{At: first, What: fmt.Sprintf("%s %s started", kind, s.Name), From: "status of the container"}
	if s.RestartCount > 0 {
		start.At, start.From = time.Time{}, ""
		if e := f.event("Started", s.Name); e != nil {
			start.At, start.From = firstOf(e), "event Started"
		}
		start.What += " first"
	}
	list = append(list, start)
	if t := s.State.Terminated; t != nil && s.RestartCount == 0 {
		list = append(list, Step{At: t.FinishedAt.Time, What: fmt.Sprintf("%s %s ended, exit code %d", kind, s.Name, t.ExitCode), From: "status of the container"})
	}
	if s.RestartCount > 0 && s.State.Running != nil {
		list = append(list, Step{At: first, What: fmt.Sprintf("%s %s started last, restart %d", kind, s.Name, s.RestartCount), From: "status of the container"})
	}
	return list
}

// started is when a container was started last; zero where it was not.
func started(s *corev1.ContainerStatus) time.Time {
	switch {
	case s.State.Running != nil:
		return s.State.Running.StartedAt.Time
	case s.State.Terminated != nil:
		return s.State.Terminated.StartedAt.Time
	case s.LastTerminationState.Terminated != nil:
		return s.LastTerminationState.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// pulled is when the image was there; what the event says of it, too.
func (f *Facts) pulled(s *corev1.ContainerStatus) Step {
	step := Step{What: fmt.Sprintf("image of %s there", s.Name)}
	e := f.event("Pulled", s.Name)
	if e == nil {
		return step
	}
	step.At, step.From = firstOf(e), "event Pulled"
	if match := pullText.FindStringSubmatch(e.Message); match != nil {
		step.What = fmt.Sprintf("image of %s pulled in %s, %s with waiting", s.Name, match[2], match[3])
	} else if strings.Contains(e.Message, "already present") {
		step.What = fmt.Sprintf("image of %s was there already", s.Name)
	}
	return step
}
