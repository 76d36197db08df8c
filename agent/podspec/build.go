// Package podspec turns what a pod asks for into what the runtime takes: environment, command, files, cgroup and
// security settings. It is pure: what it needs from the cluster and the node is handed to it, and every field is
// either carried over or refused by Unsupported.
package podspec

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec/fields"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// The labels that a container carries so that an agent that starts anew knows what it needs.
const (
	LabelImage   = "coracle.dev/spec-image"
	LabelBackoff = "coracle.dev/backoff"
	LabelGrace   = "coracle.dev/termination-grace"
	LabelMessage = "coracle.dev/termination-message"
	// What the status shows of the image: its full name, and the digest it was pulled by.
	LabelImageName = "coracle.dev/image-name"
	LabelImageID   = "coracle.dev/image-id"
)

// Input is all that one container is built from.
type Input struct {
	Pod       *v1.Pod
	Container *v1.Container
	Attempt   int
	Backoff   time.Duration
	Image     runtime.Image
	// ImageName is the image's full name: registry, repository and tag.
	ImageName string
	Sources   Sources
	Facts     fields.Facts
	Machine   Machine
	Hostname  string
	// Mounts has the volumes' mounts (of volumes.Manager), then the files that the agent makes: hosts, resolv.conf ...
	Mounts  []runtime.Mount
	LogPath string
	Seccomp SeccompLoader
	// Target is the ID of the container whose processes an ephemeral one is to see; empty is none.
	Target  string
	Support Support
}

// Container builds the runtime's configuration. Its errors are of the pod's making: CreateContainerConfigError.
func Container(in Input) (cfg runtime.ContainerConfig, warnings []string, err error) {
	pod, c := in.Pod, in.Container
	e, warnings, err := env(pod, c, in.Facts, in.Sources)
	if err != nil {
		return cfg, nil, err
	}
	sec, err := Security(pod, c, in.Support, in.Seccomp)
	if err != nil {
		return cfg, nil, err
	}
	lookup := inMap(e.values)
	cfg = runtime.ContainerConfig{
		Pod:        Ref(pod),
		Name:       c.Name,
		Attempt:    in.Attempt,
		Image:      in.Image.ID,
		Command:    expandAll(c.Command, lookup),
		Args:       expandAll(c.Args, lookup),
		Env:        e.list(),
		WorkingDir: c.WorkingDir,
		Mounts:     in.Mounts,
		Resources:  Resources(pod, c, in.Machine),
		Security:   sec,
		TTY:        c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		LogPath: in.LogPath, ProcessesOf: in.Target,
		Labels: map[string]string{LabelImage: c.Image, LabelBackoff: in.Backoff.String(),
			LabelGrace: strconv.FormatInt(gracePeriod(pod), 10), LabelMessage: MessagePath(c),
			LabelImageName: in.ImageName, LabelImageID: imageID(in.Image, in.ImageName), LabelResources: AppliedLabel(c.Resources)},
	}
	if _, ok := e.values["HOSTNAME"]; !ok && in.Hostname != "" {
		cfg.Env = append([]string{"HOSTNAME=" + in.Hostname}, cfg.Env...)
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		cfg.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	return cfg, warnings, nil
}

// imageID is the digest of the image in the repository it is named by, else in any, else of its configuration.
func imageID(img runtime.Image, name string) string {
	repo, _, _ := strings.Cut(name, "@")
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	for _, d := range img.Digests {
		if strings.HasPrefix(d, repo+"@") {
			return d
		}
	}
	if len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return img.ID
}

// Ref names the pod to the runtime.
func Ref(pod *v1.Pod) runtime.PodRef {
	return runtime.PodRef{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name}
}

func gracePeriod(pod *v1.Pod) int64 {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return v1.DefaultTerminationGracePeriodSeconds
}

// MessagePath is where in the container its termination message is written.
func MessagePath(c *v1.Container) string {
	if c.TerminationMessagePath != "" {
		return c.TerminationMessagePath
	}
	return v1.TerminationMessagePathDefault
}

// LogPath is the container's log below the folder of all logs.
func LogPath(root string, pod *v1.Pod, container string, attempt int) string {
	return path.Join(LogDir(root, Ref(pod)), container, fmt.Sprintf("%d.log", attempt))
}

// LogDir is the folder of a pod's logs.
func LogDir(root string, ref runtime.PodRef) string {
	return path.Join(root, ref.Namespace+"_"+ref.Name+"_"+ref.UID)
}

// Observed translates the runtime's report of a container.
func Observed(c runtime.Container) lifecycle.Container {
	out := lifecycle.Container{ID: c.ID, Name: c.Name, Attempt: c.Attempt, State: lifecycle.ContainerState(c.State), CreatedAt: c.CreatedAt,
		StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		SpecImage: c.Labels[LabelImage], Image: c.ImageRef, ImageID: c.ImageID, Grace: -1}
	if name := c.Labels[LabelImageName]; name != "" {
		out.Image = name
	}
	if id := c.Labels[LabelImageID]; id != "" {
		out.ImageID = id
	}
	if d, err := time.ParseDuration(c.Labels[LabelBackoff]); err == nil {
		out.Backoff = d
	}
	if g, err := strconv.ParseInt(c.Labels[LabelGrace], 10, 64); err == nil {
		out.Grace = time.Duration(g) * time.Second
	}
	out.User = &v1.LinuxContainerUser{UID: int64(c.User.UID), GID: int64(c.User.GID)}
	for _, g := range c.User.Groups {
		out.User.SupplementalGroups = append(out.User.SupplementalGroups, int64(g))
	}
	return out
}
