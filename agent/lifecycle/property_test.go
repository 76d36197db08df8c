package lifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func randomPod(t *rapid.T) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1"}}
	p.Spec.RestartPolicy = rapid.SampledFrom([]v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}).Draw(t, "policy")
	for i := range rapid.IntRange(0, 2).Draw(t, "inits") {
		c := v1.Container{Name: fmt.Sprint("i", i), Image: "demo:v1"}
		if rapid.Bool().Draw(t, "sidecar") {
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
		c := v1.Container{Name: fmt.Sprint("c", i), Image: "demo:v1"}
		if rapid.Bool().Draw(t, "hook") {
			c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

// names of every container of the pod.
func (s *sim) names() []string {
	var out []string
	for _, c := range slices.Concat(s.Pod.Spec.InitContainers, s.Pod.Spec.Containers) {
		out = append(out, c.Name)
	}
	return out
}

// check holds after every step.
func (s *sim) check(t *rapid.T) {
	running := map[string]int{}
	for _, c := range s.Containers {
		if c.State == Running {
			running[c.Name]++
		}
	}
	for name, n := range running {
		if n > 1 {
			t.Fatalf("%d instances of %s run", n, name)
		}
	}
	if s.Stage >= Terminated && len(running) > 0 {
		t.Fatalf("%v run at stage %s", running, s.Stage)
	}
	if s.Stage < Terminated && terminalPhase(s.Last.Phase) && len(running) > 0 {
		t.Fatalf("phase %s while %v run", s.Last.Phase, running)
	}
	for _, st := range s.Last.ContainerStatuses {
		if st.Ready && st.State.Running == nil {
			t.Fatalf("%s is ready but does not run", st.Name)
		}
	}
}

// step takes one step, some of whose actions do not return at once or fail.
func (s *sim) step(t *rapid.T) {
	plan := Step(s.State)
	if plan.Stage < s.Stage {
		t.Fatalf("stage went back from %s to %s", s.Stage, plan.Stage)
	}
	if terminalPhase(s.Last.Phase) && plan.Status.Phase != s.Last.Phase {
		t.Fatalf("phase went from %s to %s", s.Last.Phase, plan.Status.Phase)
	}
	for _, a := range plan.Actions {
		if _, busy := s.InFlight[a.Key()]; busy {
			t.Fatalf("%s began twice", a)
		}
	}
	s.take(plan)
	s.Reported = true
	s.done = s.done || plan.Done
}

// TestAnyLifeEnds plays random events to random pods: whatever has happened, nothing contradicts itself, and once the
// pod is deleted and actions succeed again it comes to its end.
func TestAnyLifeEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(randomPod(t))
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			name := rapid.SampledFrom(s.names()).Draw(t, "container")
			kind := rapid.SampledFrom([]Kind{MountVolumes, CreateSandbox, PullImage, StartContainer, PostStart, StopContainer, RemoveContainer}).Draw(t, "kind")
			a := Action{Kind: kind, Container: name, ID: name + "-0"}
			last := s.last(name)
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0, 1:
				if last != nil && last.State == Running {
					last.State, last.FinishedAt, last.ExitCode = Exited, s.Now, int32(rapid.IntRange(0, 1).Draw(t, "code"))
				}
			case 2:
				s.fail[a.Key()] = "Reason message"
			case 3:
				s.hold[a.Key()] = true
			case 4:
				s.letGo()
				clear(s.fail)
			case 5:
				s.Sandbox = nil
			case 6:
				s.letGo()
				s.restartAgent()
			case 7:
				if last != nil && last.State == Running {
					s.probe(name, "live", false)
				}
			default:
				s.Now = s.Now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second)
			}
			s.step(t)
			s.check(t)
		}
		now, grace := metav1.NewTime(s.Now), int64(5)
		s.Pod.DeletionTimestamp, s.Pod.DeletionGracePeriodSeconds = &now, &grace
		clear(s.fail)
		clear(s.hold)
		for range 50 {
			s.letGo()
			s.step(t)
			s.check(t)
			s.Now = s.Now.Add(10 * time.Second)
		}
		if !s.done || !s.Deleted || len(s.Containers) > 0 || s.Sandbox != nil {
			t.Fatalf("not at its end: stage %s, containers %v, in flight %v", s.Stage, s.Containers, s.InFlight)
		}
	})
}

// letGo lets all that is held return.
func (s *sim) letGo() {
	clear(s.hold)
	for key, a := range s.InFlight {
		delete(s.InFlight, key)
		s.perform(a)
	}
}
