package queue

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func pod(name string, priority int32) *model.Pod {
	return model.NewPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1},
		Spec:       corev1.PodSpec{Priority: &priority},
	})
}

func popped(t *testing.T, q *Queue, at time.Time) string {
	t.Helper()
	if it := q.Pop(at); it != nil {
		return it.Pod.Pod.Name
	}
	return ""
}

func TestOrderIsPriorityThenAge(t *testing.T) {
	q := New()
	q.Set(pod("old", 0), start)
	q.Set(pod("new", 0), start.Add(time.Second))
	q.Set(pod("urgent", 10), start.Add(2*time.Second))
	for _, want := range []string{"urgent", "old", "new", ""} {
		if got := popped(t, q, start.Add(3*time.Second)); got != want {
			t.Errorf("popped %q, want %q", got, want)
		}
	}
}

func TestRejectedPodWaitsForItsEvent(t *testing.T) {
	q := New()
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), filter.PodGone, start)
	if got := popped(t, q, start.Add(time.Minute)); got != "" {
		t.Fatalf("popped %q without an event", got)
	}
	q.Wake(filter.NodeChanged, start)
	if got := popped(t, q, start.Add(time.Minute)); got != "" {
		t.Fatalf("popped %q after an event that does not help", got)
	}
	q.Wake(filter.PodGone, start.Add(100*time.Millisecond))
	if got := popped(t, q, start.Add(500*time.Millisecond)); got != "" {
		t.Fatalf("popped %q within its back-off", got)
	}
	if got := popped(t, q, start.Add(1100*time.Millisecond)); got != "p" {
		t.Fatalf("popped %q after its back-off, want p", got)
	}
}

func TestWaitingPodIsTriedAfterFiveMinutes(t *testing.T) {
	q := New()
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), filter.NodeChanged, start)
	at, ok := q.Next(start)
	if !ok || at != start.Add(5*time.Minute) {
		t.Errorf("next at %v, %v", at, ok)
	}
	if got := popped(t, q, at); got != "p" {
		t.Errorf("popped %q, want p", got)
	}
}

func TestBackoffDoublesToTenSeconds(t *testing.T) {
	q := New()
	now := start
	q.Set(pod("p", 0), now)
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		it := q.Pop(now)
		if it == nil {
			t.Fatal("nothing due")
		}
		q.Failed(it, now)
		at, _ := q.Next(now)
		if got := at.Sub(now); got != want*time.Second {
			t.Errorf("attempt %d: back-off %v, want %v", it.Attempts, got, want*time.Second)
		}
		now = at
	}
}

func TestChangedSpecMakesActive(t *testing.T) {
	q := New()
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), filter.NodeChanged, start)
	changed := pod("p", 0)
	q.Set(changed, start)
	if got := popped(t, q, start); got != "" {
		t.Fatalf("a status update woke %q", got)
	}
	changed = pod("p", 0)
	changed.Pod.Generation = 2
	q.Set(changed, start)
	if got := popped(t, q, start); got != "p" {
		t.Fatalf("popped %q after its spec changed, want p", got)
	}
	q.Set(pod("gone", 0), start)
	q.Delete("gone")
	if got := popped(t, q, start); got != "" {
		t.Errorf("popped the deleted %q", got)
	}
}
