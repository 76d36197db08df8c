package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/lifecycle"
)

// record is what the pretended runtime knows of one pod.
type record struct {
	uid  types.UID
	node *node
	life life

	stage                      lifecycle.Stage
	since                      time.Time
	rejection                  *lifecycle.Rejection
	sandbox                    *lifecycle.Sandbox
	containers                 []lifecycle.Container
	inFlight                   map[string]slow
	reclaimed, purged, deleted bool

	// rested is the version of the pod at which nothing was left to do until wake, which is never when zero.
	rested string
	wake   time.Time
	// sent is a status of which the server keeps something else, and sentVersion the version that gave: writing it again would not help.
	sent        *v1.PodStatus
	sentVersion string
}

// slow is an action that takes time.
type slow struct {
	action lifecycle.Action
	due    time.Time
}

// life is how one pod fares.
type life struct {
	pending, ready, terminate time.Duration
	never                     bool // ready
	runFor                    time.Duration
	exitCode                  int32
	fail                      float64
}

// lifeOf is Config with what the pod's annotations say.
func lifeOf(cfg *Config, pod *v1.Pod) life {
	l := life{pending: cfg.Pending, ready: cfg.Ready, terminate: cfg.Terminate, fail: cfg.Fail}
	if p := pod.Spec.RestartPolicy; p == v1.RestartPolicyNever || p == v1.RestartPolicyOnFailure {
		l.runFor = cfg.RunFor
	}
	if d, err := time.ParseDuration(pod.Annotations[AnnotationRunFor]); err == nil {
		l.runFor = d
	}
	if code, err := strconv.ParseInt(pod.Annotations[AnnotationExitCode], 10, 32); err == nil {
		l.exitCode, l.fail = int32(code), 0
	}
	switch after := pod.Annotations[AnnotationReadyAfter]; after {
	case "never":
		l.never = true
	default:
		if d, err := time.ParseDuration(after); err == nil {
			l.ready = d
		}
	}
	return l
}

// exit is how the pod's attempt at a container ends: the same however often it is asked.
func (l *life) exit(uid types.UID, attempt int) int32 {
	if l.fail == 0 {
		return l.exitCode
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(string(uid) + strconv.Itoa(attempt))) // a hash's Write gives no error
	if float64(h.Sum64()>>11)/(1<<53) < l.fail {
		return 1
	}
	return l.exitCode
}

// adopt begins a pod's record with what its status says that an earlier simulator has made of it.
func adopt(cfg *Config, n *node, pod *v1.Pod) *record {
	rec := &record{uid: pod.UID, node: n, life: lifeOf(cfg, pod)}
	s := &pod.Status
	if s.PodIP != "" && s.StartTime != nil {
		rec.sandbox = &lifecycle.Sandbox{CreatedAt: s.StartTime.Time, Networked: true}
		for _, ip := range s.PodIPs {
			rec.sandbox.IPs = append(rec.sandbox.IPs, ip.IP)
		}
		if !terminal(s) {
			n.claim(s.PodIP, pod.UID)
		}
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if c, ok := adoptContainer(&list[i]); ok {
				rec.containers = append(rec.containers, c)
			}
		}
	}
	return rec
}

func adoptContainer(s *v1.ContainerStatus) (lifecycle.Container, bool) {
	c := lifecycle.Container{ID: strings.TrimPrefix(s.ContainerID, "containerd://"), Name: s.Name, Attempt: int(s.RestartCount),
		SpecImage: s.Image, Image: s.Image, ImageID: s.ImageID, Grace: -1}
	ended := s.State.Terminated
	if ended == nil && s.State.Running == nil {
		ended = s.LastTerminationState.Terminated
	}
	switch {
	case s.State.Running != nil:
		c.State, c.StartedAt = lifecycle.Running, s.State.Running.StartedAt.Time
	case ended != nil:
		c.State, c.StartedAt, c.FinishedAt = lifecycle.Exited, ended.StartedAt.Time, ended.FinishedAt.Time
		c.ExitCode, c.Reason, c.Message, c.Backoff = ended.ExitCode, ended.Reason, ended.Message, 10*time.Second
	default:
		return c, false
	}
	c.CreatedAt = c.StartedAt
	return c, true
}

// progress is what advance has come to.
type progress struct {
	status v1.PodStatus
	remove bool      // the API object is to go
	wake   time.Time // when time alone changes something next
}

// advance carries out every action that is done by now, and says what the status is then.
func (rec *record) advance(pod *v1.Pod, now time.Time) progress {
	last := pod.Status
	wake := rec.pass(pod, now)
	for {
		s := rec.state(pod, now)
		s.Last = last
		s.Reported = rec.stage == lifecycle.Finished && rec.written(pod, &last) // asked before the object goes
		plan := lifecycle.Step(s)
		rec.stage, rec.since, rec.rejection = plan.Stage, plan.Since, plan.Rejection
		last = plan.Status
		withoutAllocated(&last)
		for _, key := range plan.Cancel {
			delete(rec.inFlight, key)
		}
		if len(plan.Actions) == 0 && len(plan.Cancel) == 0 {
			return progress{status: last, wake: earlier(wake, plan.Wake)}
		}
		for _, act := range plan.Actions {
			if act.Kind == lifecycle.DeletePod {
				return progress{status: last, remove: true}
			}
			wake = earlier(wake, rec.begin(pod, act, now))
		}
	}
}

// withoutAllocated: servers do not keep it while its feature is off.
func withoutAllocated(s *v1.PodStatus) {
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			list[i].AllocatedResources = nil
		}
	}
}

// written tells that there is nothing to write: the server has the status, or makes something else of it.
func (rec *record) written(pod *v1.Pod, status *v1.PodStatus) bool {
	if equality.Semantic.DeepEqual(pod.Status, *status) {
		rec.sent = nil
		return true
	}
	return rec.sent != nil && rec.sentVersion == pod.ResourceVersion && equality.Semantic.DeepEqual(*rec.sent, *status)
}

// settled tells that the pod is as it was when nothing was left to do, and that no time has come since.
func (rec *record) settled(pod *v1.Pod, now time.Time) bool {
	return rec.rested == pod.ResourceVersion && (rec.wake.IsZero() || now.Before(rec.wake))
}

// state is the record as package lifecycle wants it.
func (rec *record) state(pod *v1.Pod, now time.Time) lifecycle.State {
	s := lifecycle.State{
		Pod: pod, Now: now, Node: lifecycle.Node{IPs: []string{rec.node.ip.String()}},
		Stage: rec.stage, Since: rec.since, Rejection: rec.rejection, VolumesReady: true, Sandbox: rec.sandbox, Containers: rec.containers,
		Reclaimed: rec.reclaimed, Purged: rec.purged, Deleted: rec.deleted,
		Images: map[string]string{}, Health: map[string]lifecycle.Health{}, Hooks: map[string]lifecycle.Hook{}, InFlight: map[string]lifecycle.Action{},
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			s.Images[list[i].Name] = list[i].Image
		}
	}
	for i := range rec.containers {
		if c := &rec.containers[i]; c.State == lifecycle.Running {
			ready := !rec.life.never && !now.Before(c.StartedAt.Add(rec.life.ready))
			s.Health[c.ID] = lifecycle.Health{Ready: &ready}
		}
	}
	for key, a := range rec.inFlight {
		s.InFlight[key] = a.action
	}
	return s
}

// pass lets time pass: what was due has happened. It gives when something is due next.
func (rec *record) pass(pod *v1.Pod, now time.Time) (next time.Time) {
	for key, a := range rec.inFlight {
		if now.Before(a.due) {
			next = earlier(next, a.due)
			continue
		}
		delete(rec.inFlight, key)
		next = earlier(next, rec.done(pod, a.action, now))
	}
	for i := range rec.containers {
		next = earlier(next, rec.live(pod, &rec.containers[i], now))
	}
	return next
}

// live ends a container whose time is over, and gives when something of it changes next.
func (rec *record) live(pod *v1.Pod, c *lifecycle.Container, now time.Time) (next time.Time) {
	if c.State != lifecycle.Running || !isMain(pod, c.Name) || rec.stage != lifecycle.Syncing {
		return time.Time{}
	}
	if at := c.StartedAt.Add(rec.life.ready); !rec.life.never && now.Before(at) {
		next = at
	}
	if rec.life.runFor <= 0 {
		return next
	}
	end := c.StartedAt.Add(rec.life.runFor)
	if now.Before(end) {
		return earlier(next, end)
	}
	rec.end(c, rec.life.exit(rec.uid, c.Attempt), now)
	return time.Time{}
}

func (rec *record) end(c *lifecycle.Container, code int32, now time.Time) {
	c.State, c.ExitCode, c.FinishedAt = lifecycle.Exited, code, now
}

func isMain(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return c.Name == name })
}

// begin starts an action. One that takes no time is done at once.
func (rec *record) begin(pod *v1.Pod, act lifecycle.Action, now time.Time) time.Time {
	took := time.Duration(0)
	switch act.Kind {
	case lifecycle.CreateSandbox:
		took = rec.life.pending
	case lifecycle.StopContainer:
		took = min(rec.life.terminate, act.Grace)
	}
	if took <= 0 {
		return rec.done(pod, act, now)
	}
	rec.wait(act, now.Add(took))
	return now.Add(took)
}

func (rec *record) wait(act lifecycle.Action, due time.Time) {
	if rec.inFlight == nil {
		rec.inFlight = map[string]slow{}
	}
	rec.inFlight[act.Key()] = slow{act, due}
}

// exitTerminated is that of a process which SIGTERM ended.
const exitTerminated = 128 + 15

// done is an action's outcome; it gives when something is due because of it.
func (rec *record) done(pod *v1.Pod, act lifecycle.Action, now time.Time) time.Time {
	switch act.Kind {
	case lifecycle.CreateSandbox:
		return rec.createSandbox(pod, act, now)
	case lifecycle.StartContainer:
		return rec.start(pod, act, now)
	case lifecycle.StopContainer:
		for i := range rec.containers {
			if c := &rec.containers[i]; c.ID == act.ID && c.State == lifecycle.Running {
				rec.end(c, exitTerminated, now)
			}
		}
	case lifecycle.RemoveContainer:
		rec.containers = slices.DeleteFunc(rec.containers, func(c lifecycle.Container) bool { return c.ID == act.ID })
	case lifecycle.Reclaim:
		rec.releaseIP()
		rec.sandbox, rec.reclaimed, rec.purged = nil, true, rec.purged || act.Purge
	}
	return time.Time{}
}

// noAddress is how soon a node that has no free address is asked again.
const noAddress = time.Second

func (rec *record) createSandbox(pod *v1.Pod, act lifecycle.Action, now time.Time) time.Time {
	box := &lifecycle.Sandbox{CreatedAt: now, Networked: true}
	if !pod.Spec.HostNetwork {
		ip, ok := rec.node.take(rec.uid)
		if !ok {
			rec.wait(act, now.Add(noAddress))
			return now.Add(noAddress)
		}
		box.IPs = []string{ip.String()}
	}
	rec.sandbox = box
	return time.Time{}
}

// start runs a container; one that only initializes is over at once.
func (rec *record) start(pod *v1.Pod, act lifecycle.Action, now time.Time) time.Time {
	id := sha256.Sum256([]byte(string(rec.uid) + "/" + act.Container + "/" + strconv.Itoa(act.Attempt)))
	c := lifecycle.Container{ID: hex.EncodeToString(id[:]), Name: act.Container, Attempt: act.Attempt, State: lifecycle.Running,
		CreatedAt: now, StartedAt: now, Backoff: act.Backoff, Grace: -1}
	sidecar := false
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == act.Container {
				c.SpecImage, c.Image, c.ImageID = list[i].Image, list[i].Image, list[i].Image
				sidecar = lifecycle.IsSidecar(&list[i])
			}
		}
	}
	if !sidecar && !isMain(pod, c.Name) {
		rec.end(&c, 0, now)
	}
	rec.containers = append(rec.containers, c)
	return rec.live(pod, &rec.containers[len(rec.containers)-1], now)
}

func (rec *record) releaseIP() {
	if rec.sandbox == nil {
		return
	}
	for _, ip := range rec.sandbox.IPs {
		rec.node.release(ip, rec.uid)
	}
}
