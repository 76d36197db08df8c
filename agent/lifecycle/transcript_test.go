package lifecycle

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden transcripts in testdata")

// TestTranscripts plays each testdata/*.txt: a pod's YAML, then commands, each followed by what Step made of it.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("transcript differs (run with -rewrite and review the diff); got:\n%s", got)
			}
		})
	}
}

// sim carries out every action at once and with success, unless a command said otherwise.
type sim struct {
	State
	out   bytes.Buffer
	fail  map[string]string // action key -> "REASON message"
	hold  map[string]bool   // action keys that do not return until released
	shown string
	done  bool
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func play(t *testing.T, text string) string {
	head, rest, ok := strings.Cut(text, "\n---\n")
	if !ok {
		t.Fatal("no --- after the pod")
	}
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(head), pod); err != nil {
		t.Fatal(err)
	}
	if pod.Name == "" {
		pod.Name, pod.Namespace, pod.UID = "web", "default", "u1"
	}
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	}
	s := newSim(pod)
	s.out.WriteString(head + "\n---\n")
	for _, line := range strings.Split(rest, "\n") {
		if cmd, ok := strings.CutPrefix(line, "> "); ok {
			fmt.Fprintf(&s.out, "> %s\n", cmd)
			s.command(t, strings.Fields(cmd))
			s.settle(t)
		}
	}
	return s.out.String()
}

func newSim(pod *v1.Pod) *sim {
	return &sim{fail: map[string]string{}, hold: map[string]bool{}, State: State{Pod: pod, Now: epoch, Node: Node{IPs: []string{"192.0.2.1"}},
		Images: map[string]string{}, Health: map[string]Health{}, Hooks: map[string]Hook{}, Failed: map[string]Failure{},
		InFlight: map[string]Action{}}}
}

func (s *sim) command(t *testing.T, f []string) {
	switch f[0] {
	case "run":
	case "tick":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		s.tick(t, d)
	case "clock": // clock DURATION: it is set
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		s.Now = s.Now.Add(d)
	case "exit": // exit NAME CODE
		code, _ := strconv.Atoi(f[2])
		c := s.last(f[1])
		c.State, c.ExitCode, c.FinishedAt = Exited, int32(code), s.Now
	case "fail": // fail KEY REASON message...
		s.fail[f[1]] = strings.Join(f[2:], " ")
	case "heal":
		delete(s.fail, f[1])
	case "hold":
		s.hold[f[1]] = true
	case "release":
		delete(s.hold, f[1])
		a := s.InFlight[f[1]]
		delete(s.InFlight, f[1])
		s.perform(a)
	case "probe": // probe NAME started|ready|live true|false
		s.probe(f[1], f[2], f[3] == "true")
	case "image": // image NAME IMAGE
		for i := range s.Pod.Spec.Containers {
			if c := &s.Pod.Spec.Containers[i]; c.Name == f[1] {
				c.Image = f[2]
			}
		}
	case "debug": // debug NAME: an ephemeral container is added
		s.Pod.Spec.EphemeralContainers = append(s.Pod.Spec.EphemeralContainers,
			v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: f[1], Image: "demo:v1"}})
	case "resize": // resize NAME CPU MEMORY
		s.resize(f[1], f[2], f[3])
	case "pending": // pending REASON message...
		s.Resize.Pending = &Pending{Reason: f[1], Message: strings.Join(f[2:], " "), Generation: s.Pod.Generation + 1}
	case "delete": // delete SECONDS
		g, _ := strconv.ParseInt(f[1], 10, 64)
		now := metav1.NewTime(s.Now)
		s.Pod.DeletionTimestamp, s.Pod.DeletionGracePeriodSeconds = &now, &g
	case "gone":
		s.Gone = true
	case "sandbox-lost":
		s.Sandbox = nil
	case "reboot": // namespaces and processes are gone, records stay
		for i := range s.Containers {
			if c := &s.Containers[i]; c.State == Running {
				c.State, c.StartedAt = Created, time.Time{}
			}
		}
		s.Sandbox = nil
		s.restartAgent()
	case "restart-agent":
		s.restartAgent()
	case "runtime": // runtime NAME created|exited CODE|gone: what the runtime knows of the newest instance, when the agent is back
		s.misremember(f[1], f[2:])
		s.restartAgent()
	default:
		t.Fatalf("unknown command %v", f)
	}
}

// resize is the node's consent to other resources of a container.
func (s *sim) resize(name, cpu, memory string) {
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	s.Pod = s.Pod.DeepCopy()
	for i := range s.Pod.Spec.Containers {
		if c := &s.Pod.Spec.Containers[i]; c.Name == name {
			c.Resources = v1.ResourceRequirements{Requests: list, Limits: list}
		}
	}
	s.Pod.Generation++
	s.Resize = Resize{Generation: s.Pod.Generation, Pod: true}
}

// resized puts resources in place as the agent does.
func (s *sim) resized() {
	s.Resize.Pod = false
	for i := range s.Containers {
		c := &s.Containers[i]
		for j := range s.Pod.Spec.Containers {
			if spec := &s.Pod.Spec.Containers[j]; spec.Name == c.Name && restartsToResize(spec, c) {
				s.Resize.Pod = true
			} else if spec.Name == c.Name {
				c.Resources = spec.Resources.DeepCopy()
			}
		}
	}
}

// tick lets time pass, with a step at each moment that a plan asked for.
func (s *sim) tick(t *testing.T, d time.Duration) {
	end := s.Now.Add(d)
	for {
		wake := s.settle(t)
		if wake.IsZero() || wake.After(end) {
			break
		}
		s.Now = wake
	}
	s.Now = end
}

func (s *sim) probe(name, which string, ok bool) {
	c := s.last(name)
	h := s.Health[c.ID]
	switch which {
	case "started":
		h.Started = &ok
	case "ready":
		h.Ready = &ok
	case "live":
		h.Live = &ok
	}
	s.Health[c.ID] = h
}

// restartAgent forgets what only the agent's process knew.
func (s *sim) restartAgent() {
	s.Stage, s.Since, s.Rejection, s.VolumesReady, s.Purged, s.Reclaimed = Syncing, time.Time{}, nil, false, false, false
	s.Images, s.Health, s.Failed, s.InFlight = map[string]string{}, map[string]Health{}, map[string]Failure{}, map[string]Action{}
	s.Last = s.Pod.Status
}

// misremember makes the runtime's memory of the newest instance another one.
func (s *sim) misremember(name string, what []string) {
	c := s.last(name)
	switch what[0] {
	case "created":
		c.State, c.StartedAt, c.FinishedAt, c.ExitCode = Created, time.Time{}, time.Time{}, 0
	case "exited":
		code, _ := strconv.Atoi(what[1])
		c.State, c.ExitCode, c.Reason, c.FinishedAt = Exited, int32(code), "Unknown", s.Now
	case "gone":
		id := c.ID
		s.Containers = slices.DeleteFunc(s.Containers, func(c Container) bool { return c.ID == id })
	}
}

func (s *sim) last(name string) *Container {
	var found *Container
	for i := range s.Containers {
		if c := &s.Containers[i]; c.Name == name && (found == nil || c.Attempt > found.Attempt) {
			found = c
		}
	}
	return found
}

// settle steps until a plan holds no further action, and returns when to wake.
func (s *sim) settle(t *testing.T) time.Time {
	for range 100 {
		plan := Step(s.State)
		s.take(plan)
		if len(plan.Actions) == 0 && len(plan.Cancel) == 0 && s.quiet() {
			return plan.Wake
		}
		s.Reported = true
	}
	t.Fatal("does not settle")
	return time.Time{}
}

func (s *sim) quiet() bool { was := s.Reported; s.Reported = true; return was }

func (s *sim) take(plan Plan) {
	at := s.Now.Sub(epoch).Round(100 * time.Millisecond)
	if plan.Stage != s.Stage {
		fmt.Fprintf(&s.out, "%6s %s -> %s\n", at, s.Stage, plan.Stage)
	}
	s.Stage, s.Since, s.Rejection = plan.Stage, plan.Since, plan.Rejection
	if text := show(&plan.Status); text != s.shown {
		s.shown, s.Reported = text, false
		fmt.Fprintf(&s.out, "%6s status %s\n", at, text)
	}
	s.Last, s.Pod.Status = plan.Status, plan.Status
	for _, key := range plan.Cancel {
		fmt.Fprintf(&s.out, "%6s cancel %s\n", at, key)
		delete(s.InFlight, key)
		delete(s.hold, key)
	}
	for _, a := range plan.Actions {
		fmt.Fprintf(&s.out, "%6s do %s\n", at, a)
		if s.hold[a.Key()] {
			s.InFlight[a.Key()] = a
			continue
		}
		s.perform(a)
	}
	if plan.Done {
		fmt.Fprintf(&s.out, "%6s done\n", at)
	}
}

func (s *sim) perform(a Action) {
	s.Now = s.Now.Add(time.Millisecond)
	if why, ok := s.fail[a.Key()]; ok {
		reason, message, _ := strings.Cut(why, " ")
		f := s.Failed[a.Key()]
		s.Failed[a.Key()] = Failure{Reason: reason, Message: message, Count: f.Count + 1, At: s.Now}
		if a.Kind == PostStart {
			s.Hooks[a.ID] = Hook{Failed: true, Message: message}
		}
		return
	}
	delete(s.Failed, a.Key())
	switch a.Kind {
	case MountVolumes:
		s.VolumesReady, s.VolumesStale = true, false
	case CreateSandbox:
		s.Sandbox = &Sandbox{CreatedAt: s.Now, Networked: true, IPs: []string{"10.244.0.5"}}
	case PullImage:
		s.Images[a.Container] = "sha256:1"
	case StartContainer:
		s.start(a)
	case PostStart:
		s.Hooks[a.ID] = Hook{}
	case ResizePod:
		s.resized()
	case StopContainer:
		if a.Resize {
			s.Resize.Restarting = map[string]bool{a.ID: true}
		}
		for i := range s.Containers {
			if c := &s.Containers[i]; c.ID == a.ID {
				c.State, c.ExitCode, c.FinishedAt = Exited, 137, s.Now
			}
		}
	case RemoveContainer:
		s.Containers = slices.DeleteFunc(s.Containers, func(c Container) bool { return c.ID == a.ID })
	case Reclaim:
		s.Reclaimed, s.Sandbox = true, nil
		if a.Purge {
			s.Purged, s.Containers = true, nil
		}
	case DeletePod:
		s.Deleted = true
	}
}

func (s *sim) start(a Action) {
	delete(s.Images, a.Container)
	if c := s.last(a.Container); c != nil && c.State == Created && c.Attempt == a.Attempt {
		c.State, c.StartedAt = Running, s.Now
		return
	}
	image := ""
	var resources *v1.ResourceRequirements
	for _, c := range slices.Concat(s.Pod.Spec.InitContainers, s.Pod.Spec.Containers) {
		if c.Name == a.Container {
			image, resources = c.Image, c.Resources.DeepCopy()
		}
	}
	s.Containers = append(s.Containers, Container{ID: fmt.Sprintf("%s-%d", a.Container, a.Attempt), Name: a.Container, Attempt: a.Attempt,
		State: Running, CreatedAt: s.Now, StartedAt: s.Now, SpecImage: image, Image: image, Backoff: a.Backoff, Resources: resources})
}

// show is a status in one line, with what differs between two moments of a pod's life.
func show(st *v1.PodStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", st.Phase)
	if st.Reason != "" {
		fmt.Fprintf(&b, " (%s: %s)", st.Reason, st.Message)
	}
	for _, c := range slices.Concat(st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses) {
		fmt.Fprintf(&b, "\n         %s: %s", c.Name, showState(c.State))
		if c.Ready {
			b.WriteString(" ready")
		}
		if c.Resources != nil && len(c.Resources.Limits) > 0 {
			fmt.Fprintf(&b, " cpu=%s memory=%s", c.Resources.Limits.Cpu(), c.Resources.Limits.Memory())
		}
		if c.RestartCount > 0 {
			fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
		}
		if c.LastTerminationState.Terminated != nil {
			fmt.Fprintf(&b, " last=%s", showState(c.LastTerminationState))
		}
	}
	b.WriteString("\n        ")
	for _, c := range st.Conditions {
		fmt.Fprintf(&b, " %s=%s", c.Type, c.Status)
		if c.Reason != "" {
			fmt.Fprintf(&b, "(%s %s)", c.Reason, c.Message)
		}
	}
	return b.String()
}

func showState(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated(%d %s)", s.Terminated.ExitCode, s.Terminated.Reason)
	case s.Waiting != nil && s.Waiting.Message != "":
		return fmt.Sprintf("waiting(%s %q)", s.Waiting.Reason, s.Waiting.Message)
	case s.Waiting != nil:
		return fmt.Sprintf("waiting(%s)", s.Waiting.Reason)
	}
	return "nothing"
}
