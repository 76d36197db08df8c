package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/agent/manifests"
)

// statics are the pods that the node runs from files. The API has a mirror of each, which the agent makes, and in which
// it reports the pod's status; what becomes of the mirror does not matter to the pod.
type statics struct {
	mu sync.Mutex
	// wanted are the pods of the files, running those that have a worker: of one name the next waits for the end of the one before.
	wanted  map[string]*v1.Pod // by namespace/name
	running map[string]*worker
	mirrors map[string]*v1.Pod // what the API has
	read    bool               // the folder was read
	wake    chan struct{}
}

func newStatics() *statics {
	return &statics{running: map[string]*worker{}, mirrors: map[string]*v1.Pod{}, wake: make(chan struct{}, 1)}
}

func fullKey(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }

// runStatic keeps the pods of the folder until ctx ends.
func (a *Agent) runStatic(ctx context.Context) {
	if a.cfg.Manifests == "" {
		return
	}
	err := manifests.Watch(ctx, a.cfg.Manifests, a.cfg.NodeName, a.cfg.Log, func(pods []*v1.Pod) { a.wantStatic(ctx, pods) })
	if err != nil && ctx.Err() == nil {
		a.cfg.Log.Error("static pods are not followed", "error", err)
	}
}

// wantStatic makes these the static pods.
func (a *Agent) wantStatic(ctx context.Context, pods []*v1.Pod) {
	s := a.statics
	s.mu.Lock()
	s.read, s.wanted = true, map[string]*v1.Pod{}
	for _, p := range pods {
		s.wanted[fullKey(p)] = p
	}
	running := maps.Clone(s.running)
	s.mu.Unlock()
	for key, w := range running {
		if p := s.want(key); p == nil || string(p.UID) != w.ref.UID {
			w.vanish(nil)
		}
	}
	for _, p := range pods {
		a.startStatic(ctx, fullKey(p))
	}
	s.poke()
}

func (s *statics) want(key string) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted[key]
}

func (s *statics) worker(key string) *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[key]
}

func (s *statics) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// startStatic runs the pod of that name, unless one is still running.
func (a *Agent) startStatic(ctx context.Context, key string) {
	s := a.statics
	a.allocating.Lock()
	defer a.allocating.Unlock()
	pod := s.want(key)
	if pod == nil || s.worker(key) != nil {
		return
	}
	w := newWorker(a, pod)
	w.static = true
	w.state.Rejection = a.admit(pod, len(a.cfg.Sandboxes.Pod(w.ref.UID).Containers) > 0)
	w.ended = func() {
		s.mu.Lock()
		delete(s.running, key)
		s.mu.Unlock()
		a.startStatic(ctx, key)
		s.poke()
	}
	s.mu.Lock()
	s.running[key] = w
	if m := s.mirrors[key]; m != nil {
		w.takeMirror(m)
	}
	s.mu.Unlock()
	a.start(ctx, w)
}

// observeMirror takes what the API has of a static pod.
func (a *Agent) observeMirror(pod *v1.Pod) {
	a.statics.mu.Lock()
	a.statics.mirrors[fullKey(pod)] = pod
	w := a.statics.running[fullKey(pod)]
	a.statics.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		w.takeMirror(pod)
		w.mu.Unlock()
		w.poke()
	}
	a.statics.poke()
}

// takeMirror keeps the mirror if it is this pod's and newer than what is known. The caller holds mu.
func (w *worker) takeMirror(pod *v1.Pod) {
	if string(manifests.MirrorOf(pod)) != w.ref.UID || w.mirror != nil && revision(pod) <= revision(w.mirror) {
		return
	}
	if at := pod.Status.StartTime; w.mirror == nil && at != nil {
		w.state.Last.StartTime = at // from before the agent was started
	}
	w.mirror = pod
	static := *w.state.Pod
	static.Generation, static.Status = pod.Generation, pod.Status
	w.state.Pod = &static
}

// lost: the API has the mirror no more, and gets another one.
func (s *statics) lost(mirror *v1.Pod) {
	s.mu.Lock()
	delete(s.mirrors, fullKey(mirror))
	w := s.running[fullKey(mirror)]
	s.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		w.lost(mirror.UID)
		w.mu.Unlock()
	}
	s.poke()
}

// object is what the API server has of the worker's pod: nil is nothing. The caller holds mu.
func (w *worker) object() *v1.Pod {
	if w.static {
		return w.mirror
	}
	if w.state.Pod.ResourceVersion == "" {
		return nil
	}
	return w.state.Pod
}

// takeObject takes what an update gave. The caller holds mu.
func (w *worker) takeObject(pod *v1.Pod) {
	if w.static {
		w.takeMirror(pod)
	} else {
		w.take(pod)
	}
}

// lost: the API server has no object of that UID any more; of a static pod it may have the next mirror already. The caller holds mu.
func (w *worker) lost(uid types.UID) {
	switch {
	case !w.static:
		w.state.Gone = true
	case w.mirror != nil && w.mirror.UID == uid:
		w.mirror = nil
	}
}

// keepMirrors makes the API have exactly one mirror of each static pod.
func (a *Agent) keepMirrors(ctx context.Context, pods cache.Store) {
	pause := time.Duration(0)
	for {
		var again <-chan time.Time
		if err := a.syncMirrors(ctx, pods); err != nil {
			pause = min(max(2*pause, 500*time.Millisecond), 30*time.Second)
			again = time.After(pause)
			a.cfg.Log.Debug("mirrors of static pods not in step", "error", err)
		} else {
			pause = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-a.statics.wake:
		case <-again:
		}
	}
}

func (a *Agent) syncMirrors(ctx context.Context, pods cache.Store) error {
	s := a.statics
	s.mu.Lock()
	read, wanted, running := s.read, maps.Clone(s.wanted), maps.Clone(s.running)
	s.mu.Unlock()
	if !read {
		return nil
	}
	for _, obj := range pods.List() {
		m := obj.(*v1.Pod)
		if manifests.MirrorOf(m) == "" {
			continue
		}
		key := fullKey(m)
		if w := running[key]; wanted[key] == nil && w != nil && w.ref.UID == string(manifests.MirrorOf(m)) {
			continue // it goes when its pod has gone
		}
		if p := wanted[key]; p == nil || p.UID != manifests.MirrorOf(m) || m.DeletionTimestamp != nil {
			opts := metav1.NewDeleteOptions(0)
			opts.Preconditions = metav1.NewUIDPreconditions(string(m.UID))
			if err := a.client.CoreV1().Pods(m.Namespace).Delete(ctx, m.Name, *opts); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		if _, have, _ := pods.GetByKey(key); have {
			continue
		}
		_, err := a.client.CoreV1().Pods(wanted[key].Namespace).Create(ctx, manifests.Mirror(wanted[key], a.node.Load()), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// shownAs is a pod of the API as the runtime knows it: a mirror stands for its static pod.
func shownAs(pod *v1.Pod) *v1.Pod {
	uid := manifests.MirrorOf(pod)
	if uid == "" {
		return pod
	}
	static := *pod
	static.UID = uid
	return &static
}
