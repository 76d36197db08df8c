package faults

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Recorder writes the history down as watches show it, without any fault between.
type Recorder struct {
	streams []*stream

	mu     sync.Mutex
	events []Event
	gaps   []Gap
	err    error
}

// stream is one resource.
type stream struct {
	*Recorder
	client   rest.Interface
	resource string
	revision int64
	// known is what the stream has shown last.
	known map[types.UID]metav1.Object
}

// NewRecorder follows everything that the rules look at.
func NewRecorder(client kubernetes.Interface) *Recorder {
	r := &Recorder{}
	for _, s := range []struct {
		client    rest.Interface
		resources []string
	}{
		{client.CoreV1().RESTClient(), []string{"pods", "nodes"}},
		{client.AppsV1().RESTClient(), []string{"replicasets", "deployments", "statefulsets", "daemonsets"}},
		{client.BatchV1().RESTClient(), []string{"jobs"}},
		{client.PolicyV1().RESTClient(), []string{"poddisruptionbudgets"}},
		{client.CoordinationV1().RESTClient(), []string{"leases"}},
	} {
		for _, resource := range s.resources {
			r.streams = append(r.streams, &stream{Recorder: r, client: s.client, resource: resource, known: map[types.UID]metav1.Object{}})
		}
	}
	return r
}

// Run records until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range r.streams {
		all.Go(func() { s.run(ctx) })
	}
	all.Wait()
}

// Take gives what has been recorded since the last time, and the gaps in it. Its error is a watch that broke the API's promises.
func (r *Recorder) Take() ([]Event, []Gap, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, gaps, err := r.events, r.gaps, r.err
	r.events, r.gaps, r.err = nil, nil, nil
	return events, gaps, err
}

// Agrees tells whether all that is listed is what the watches have shown.
func (r *Recorder) Agrees(ctx context.Context) error {
	for _, s := range r.streams {
		objects, _, err := s.list(ctx)
		if err != nil {
			return err
		}
		r.mu.Lock()
		err = s.agrees(objects)
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) agrees(listed []metav1.Object) error {
	if len(listed) != len(s.known) {
		return fmt.Errorf("%d %s are listed, watches have shown %d", len(listed), s.resource, len(s.known))
	}
	for _, o := range listed {
		if k := s.known[o.GetUID()]; k == nil || k.GetResourceVersion() != o.GetResourceVersion() {
			return fmt.Errorf("%s %s is not as the watch showed it last", s.resource, o.GetName())
		}
	}
	return nil
}

func (s *stream) run(ctx context.Context) {
	for ctx.Err() == nil {
		if s.revision == 0 && !s.relist(ctx) {
			pause(ctx)
			continue
		}
		w, err := s.client.Get().Resource(s.resource).VersionedParams(&metav1.ListOptions{
			Watch: true, ResourceVersion: strconv.FormatInt(s.revision, 10), AllowWatchBookmarks: true,
		}, scheme.ParameterCodec).Watch(ctx)
		if err != nil {
			s.expire(err)
			pause(ctx)
			continue
		}
		s.follow(w)
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
}

// expire makes the next round list, where the server knows no history from where we are.
func (s *stream) expire(err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		s.revision = 0
	}
}

// follow takes events until the watch ends.
func (s *stream) follow(w watch.Interface) {
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			s.expire(apierrors.FromObject(e.Object))
			return
		}
		o, err := meta.Accessor(e.Object)
		if err != nil {
			return
		}
		s.take(e.Type, o)
	}
}

func (s *stream) take(kind watch.EventType, o metav1.Object) {
	revision, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || revision <= s.revision && kind != watch.Bookmark {
		s.err = fmt.Errorf("the watch of %s went from revision %d to %q with %s of %s", s.resource, s.revision, o.GetResourceVersion(), kind, o.GetName())
		return
	}
	s.revision = revision
	if kind == watch.Bookmark {
		return
	}
	if was := s.known[o.GetUID()]; (was == nil) != (kind == watch.Added) {
		s.err = fmt.Errorf("the watch of %s shows %s of %s, which it had shown: %v", s.resource, kind, o.GetName(), was != nil)
	}
	s.note(revision, o, kind == watch.Deleted)
}

func (s *stream) note(revision int64, o metav1.Object, gone bool) {
	o.SetManagedFields(nil)
	if gone {
		delete(s.known, o.GetUID())
	} else {
		s.known[o.GetUID()] = o
	}
	s.events = append(s.events, Event{Revision: revision, At: time.Now(), Object: o, Gone: gone})
}

// relist brings the stream up to date; what happened meanwhile is a gap.
func (s *stream) relist(ctx context.Context) bool {
	objects, revision, err := s.list(ctx)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps = append(s.gaps, Gap{From: s.last() + 1, To: revision})
	listed := map[types.UID]bool{}
	for _, o := range objects {
		listed[o.GetUID()] = true
		if k := s.known[o.GetUID()]; k != nil && k.GetResourceVersion() == o.GetResourceVersion() {
			continue
		}
		at, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
		if err != nil {
			s.err = err
		}
		s.note(at, o, false)
	}
	for uid, o := range s.known {
		if !listed[uid] {
			s.note(revision, o, true)
		}
	}
	s.revision = revision
	return true
}

// last is the newest revision that the stream has shown.
func (s *stream) last() int64 {
	var last int64
	for _, o := range s.known {
		revision, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
		if err == nil {
			last = max(last, revision)
		}
	}
	return last
}

// list reads all there is, as it is now.
func (s *stream) list(ctx context.Context) ([]metav1.Object, int64, error) {
	list, err := s.client.Get().Resource(s.resource).Do(ctx).Get()
	if err != nil {
		return nil, 0, err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return nil, 0, err
	}
	revision, err := strconv.ParseInt(accessor.GetResourceVersion(), 10, 64)
	if err != nil {
		return nil, 0, err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, 0, err
	}
	objects := make([]metav1.Object, 0, len(items))
	for _, item := range items {
		o, err := meta.Accessor(item)
		if err != nil {
			return nil, 0, err
		}
		objects = append(objects, o)
	}
	return objects, revision, nil
}

// byName sorts what is reported.
func byName[T metav1.Object](list []T) []T {
	slices.SortFunc(list, func(a, b T) int {
		if a.GetNamespace()+"/"+a.GetName() < b.GetNamespace()+"/"+b.GetName() {
			return -1
		}
		return 1
	})
	return list
}
