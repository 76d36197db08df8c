package queue

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
	q := New(DefaultBackoff())
	q.Set(pod("old", 0), start)
	q.Set(pod("new", 0), start.Add(time.Second))
	q.Set(pod("urgent", 10), start.Add(2*time.Second))
	for _, want := range []string{"urgent", "old", "new", ""} {
		if got := popped(t, q, start.Add(3*time.Second)); got != want {
			t.Errorf("popped %q, want %q", got, want)
		}
	}
}

// by is an event that helps those whom one of the filters rejected.
func by(bits uint32) func(*Item) bool { return func(it *Item) bool { return it.RejectedBy&bits != 0 } }

func TestRejectedPodWaitsForItsEvent(t *testing.T) {
	q := New(DefaultBackoff())
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), 2, "", start)
	if got := popped(t, q, start.Add(time.Minute)); got != "" {
		t.Fatalf("popped %q without an event", got)
	}
	q.Wake(by(1), start)
	if got := popped(t, q, start.Add(time.Minute)); got != "" {
		t.Fatalf("popped %q after an event that does not help", got)
	}
	q.Wake(by(2), start.Add(100*time.Millisecond))
	if got := popped(t, q, start.Add(500*time.Millisecond)); got != "" {
		t.Fatalf("popped %q within its back-off", got)
	}
	if got := popped(t, q, start.Add(1100*time.Millisecond)); got != "p" {
		t.Fatalf("popped %q after its back-off, want p", got)
	}
}

func TestWaitingPodIsTriedAfterFiveMinutes(t *testing.T) {
	q := New(DefaultBackoff())
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), 1, "", start)
	at, ok := q.Next(start)
	if !ok || at != start.Add(5*time.Minute) {
		t.Errorf("next at %v, %v", at, ok)
	}
	if got := popped(t, q, at); got != "p" {
		t.Errorf("popped %q, want p", got)
	}
}

func TestBackoffDoublesToTenSeconds(t *testing.T) {
	q := New(DefaultBackoff())
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
	q := New(DefaultBackoff())
	q.Set(pod("p", 0), start)
	q.Rejected(q.Pop(start), 1, "", start)
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
	q.Delete("gone", start)
	if got := popped(t, q, start); got != "" {
		t.Errorf("popped the deleted %q", got)
	}
}

// TestAlikeAreWokenOneByOne: an event wakes the oldest of a group; each that is placed wakes the next, and one that is not ends it.
func TestAlikeAreWokenOneByOne(t *testing.T) {
	q := New(DefaultBackoff())
	for i, name := range []string{"a", "b", "c", "d"} {
		q.Set(pod(name, 0), start.Add(time.Duration(i)*time.Millisecond))
	}
	for range 4 {
		q.Rejected(q.Pop(start.Add(time.Second)), 1, "alike", start.Add(time.Second))
	}
	now := start.Add(time.Minute)
	q.Wake(by(1), now)
	first := q.Pop(now)
	if first == nil || first.Pod.Pod.Name != "a" || q.Pop(now) != nil {
		t.Fatalf("woken: %+v, and perhaps more", first)
	}
	q.Placed(first, now)
	second := q.Pop(now)
	if second == nil || second.Pod.Pod.Name != "b" {
		t.Fatalf("after one was placed: %+v", second)
	}
	q.Rejected(second, 1, "alike", now)
	if got := popped(t, q, now.Add(3*time.Second)); got != "" {
		t.Fatalf("woken after a rejection: %s", got)
	}
	q.Wake(by(1), now) // b backs off, c does not
	third := q.Pop(now)
	if third == nil || third.Pod.Pod.Name != "c" {
		t.Fatalf("woken by the next event: %+v", third)
	}
	q.Put(third)
	q.Delete("c", now)
	if got := popped(t, q, now); got != "d" {
		t.Fatalf("after the one that was woken went: %q, want d", got)
	}
}

// TestOtherReasonsHoldForTheGroup: of a group one is tried, and is rejected for another reason. From then on all wait for the end of that one.
func TestOtherReasonsHoldForTheGroup(t *testing.T) {
	for other, want := range map[string]int{"others": 1, "": 2} {
		q := New(DefaultBackoff())
		for i, name := range []string{"a", "b", "c"} {
			q.Set(pod(name, 0), start.Add(time.Duration(i)*time.Millisecond))
		}
		for range 3 {
			q.Rejected(q.Pop(start.Add(time.Second)), 1, "alike", start.Add(time.Second))
		}
		now := start.Add(time.Minute)
		q.Wake(by(1), now)
		tried := 0
		for it := q.Pop(now); it != nil && tried < 2; it = q.Pop(now) {
			q.Rejected(it, 2, other, now)
			tried++
		}
		if tried != want {
			t.Errorf("%q: %d were tried, want %d", other, tried, want)
		}
		if other == "" {
			continue
		}
		now = now.Add(time.Minute)
		if q.Wake(by(1), now); q.Pop(now) != nil {
			t.Error("woken by what keeps nobody off any more")
		}
		q.Wake(by(2), now)
		for _, name := range []string{"a", "b", "c"} {
			it := q.Pop(now)
			if it == nil || it.Pod.Pod.Name != name {
				t.Fatalf("%+v, want %s", it, name)
			}
			q.Placed(it, now)
		}
	}
}

// TestHold: a pod that room is made for is not tried before that is done, and then at once if what it waits for happened meanwhile.
func TestHold(t *testing.T) {
	q := New(DefaultBackoff())
	q.Set(pod("p", 0), start)
	q.Hold(q.Pop(start), 1, start)
	q.Wake(by(1), start)
	if got := popped(t, q, start.Add(time.Hour)); got != "" {
		t.Fatalf("popped the held %q", got)
	}
	q.Release("p")
	if got := popped(t, q, start); got != "p" {
		t.Fatalf("popped %q after release", got)
	}
	q.Set(pod("q", 0), start)
	q.Hold(q.Pop(start), 1, start)
	q.Release("q")
	if got := popped(t, q, start.Add(time.Minute)); got != "" {
		t.Fatalf("popped %q though nothing happened", got)
	}
	q.Wake(by(1), start.Add(time.Minute))
	if got := popped(t, q, start.Add(time.Minute)); got != "q" {
		t.Fatalf("popped %q after the event", got)
	}
}
