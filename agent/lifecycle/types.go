// Package lifecycle decides, and does nothing else: given a pod, what the runtime reports of it, and what
// earlier actions and probes gave, Step names the next actions and the status the pod has now.
//
// Invariant: Step is a function of its argument alone (no clock, no I/O, no randomness), and a pod's
// Stage only ever grows. Whoever carries the actions out calls Step again after each of them.
package lifecycle

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Stage is how far a pod has come on this node; it never goes back.
type Stage int

// The stages of a pod, in order.
const (
	// Syncing: containers are started, watched and restarted.
	Syncing Stage = iota
	// Terminating: containers are being stopped; none is started any more.
	Terminating
	// Terminated: no container runs; sandbox, network and volumes are given back.
	Terminated
	// Finished: only records are left: dead containers and logs, until the pod is deleted.
	Finished
)

func (s Stage) String() string {
	return [...]string{"Syncing", "Terminating", "Terminated", "Finished"}[s]
}

// ContainerState is the runtime's view of a container.
type ContainerState int

// The states a container passes.
const (
	Created ContainerState = iota
	Running
	Exited
	Unknown
)

// Container is one instance (attempt) of a container of the pod, as the runtime reports it.
type Container struct {
	ID, Name   string
	Attempt    int
	State      ContainerState
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	// Reason and Message are of the exit.
	Reason, Message string
	// SpecImage is the image as the pod named it when this instance was made; Image and ImageID are what the
	// status shows.
	SpecImage, Image, ImageID string
	// Backoff is what the next instance waits after this one's exit, unless this one ran for long.
	Backoff time.Duration
	// Grace is the pod's termination grace period when this instance was made; negative if not known.
	Grace time.Duration
	// User is who its first process runs as; nil if not known.
	User *v1.LinuxContainerUser
	// Resources are those it was made with, or was given since; nil if not known.
	Resources *v1.ResourceRequirements
}

// Sandbox is what the pod's containers share.
type Sandbox struct {
	CreatedAt time.Time
	// Networked is true once the pod has its addresses (at once on the host's network).
	Networked bool
	IPs       []string
}

// Health is what the probes of one container instance say; nil means no verdict yet.
type Health struct {
	Started, Ready, Live *bool
}

// Hook is the outcome of a postStart hook.
type Hook struct {
	Failed  bool
	Message string
}

// Failure is the newest run of failures of one action.
type Failure struct {
	Reason, Message string
	Count           int
	At              time.Time
}

// Rejection ends a pod for a reason of the node: refused at admission, or past its deadline.
type Rejection struct {
	Reason, Message string
	// Grace, if not zero, bounds what the containers get to stop.
	Grace time.Duration
	// Disruption: the node ends the pod for the others' sake, which the condition DisruptionTarget tells.
	Disruption bool
}

// Node is what of the node appears in a pod's status.
type Node struct {
	IPs []string
	// RecursiveReadOnly mounts are those that ask for it if it is possible.
	RecursiveReadOnly bool
}

// State is all that a decision rests on.
type State struct {
	Pod *v1.Pod
	// Gone: the API server no longer has the pod.
	Gone bool
	Node Node
	Now  time.Time

	Stage Stage
	// Since is when the pod started to terminate.
	Since     time.Time
	Rejection *Rejection
	Resize    Resize

	// VolumesReady: every volume is mounted. VolumesStale: a source has changed since.
	VolumesReady, VolumesStale bool
	Sandbox                    *Sandbox
	Containers                 []Container
	// Images has, by container name, the image that is present and resolved for the next start.
	Images map[string]string
	Health map[string]Health  // by container ID
	Hooks  map[string]Hook    // by container ID: postStart hooks that have ended
	Failed map[string]Failure // by Action.Key
	// InFlight has the actions that have not returned yet, by Action.Key.
	InFlight map[string]Action

	// Reclaimed: sandbox, network and volumes are given back. Purged: containers, logs and files as well.
	Reclaimed, Purged bool
	// Deleted: the API object was removed.
	Deleted bool
	// Last is the status of the step before; at first, the API server's.
	Last v1.PodStatus
	// Reported: the API server has Last.
	Reported bool
}

// Kind of action.
type Kind int

// The actions a plan can hold.
const (
	MountVolumes Kind = iota
	CreateSandbox
	PullImage
	StartContainer
	PostStart
	StopContainer
	RemoveContainer
	// Reclaim gives back sandbox, network, volumes and cgroup; with Purge also containers, logs and files.
	Reclaim
	// DeletePod removes the API object.
	DeletePod
	// ResizePod gives containers that run, and the pod, the resources that are allocated to them.
	ResizePod
)

func (k Kind) String() string {
	return [...]string{"MountVolumes", "CreateSandbox", "PullImage", "StartContainer", "PostStart", "StopContainer",
		"RemoveContainer", "Reclaim", "DeletePod", "ResizePod"}[k]
}

// Action is one thing to do. Actions of different keys may run side by side.
type Action struct {
	Kind      Kind
	Container string // name
	ID        string // of the instance, where one exists
	Attempt   int
	Backoff   time.Duration // StartContainer: recorded with the instance
	Grace     time.Duration // StopContainer: from its start to SIGKILL
	Deadline  time.Time     // StopContainer: when the grace ends
	Message   string        // StopContainer: why, for the Killing event
	NoHook    bool          // StopContainer: without its preStop hook
	Purge     bool
	Recreate  bool // CreateSandbox: one existed before
	Resize    bool // StopContainer: the next instance has other resources
}

// Key identifies an action among those of its pod: two of one key never run at once.
func (a Action) Key() string {
	switch a.Kind {
	case PullImage, StartContainer:
		return a.Kind.String() + "/" + a.Container
	case PostStart, StopContainer, RemoveContainer:
		return a.Kind.String() + "/" + a.ID
	}
	return a.Kind.String()
}

func (a Action) String() string {
	s := a.Key()
	switch a.Kind {
	case StartContainer:
		s += fmt.Sprintf(" attempt=%d backoff=%s", a.Attempt, a.Backoff)
	case StopContainer:
		s += fmt.Sprintf(" grace=%s %q", a.Grace, a.Message)
		if a.NoHook {
			s += " without hook"
		}
	case Reclaim:
		s += fmt.Sprintf(" purge=%t", a.Purge)
	case CreateSandbox:
		if a.Recreate {
			s += " again"
		}
	}
	return s
}

// Plan is what Step decides.
type Plan struct {
	Stage     Stage
	Since     time.Time
	Rejection *Rejection
	// Actions are to be started now; Cancel names those in flight whose outcome is no longer wanted.
	Actions []Action
	Cancel  []string
	Status  v1.PodStatus
	// Wake is when time alone may change the decision; zero is never.
	Wake time.Time
	// Done: nothing of the pod is left and its worker may go.
	Done bool
}
