package disruption

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pod(name string, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	return p
}

// pods are as many as the word has letters: r is ready, n is not, d is being deleted.
func podsOf(word string) []*corev1.Pod {
	var list []*corev1.Pod
	for i, letter := range word {
		p := pod(fmt.Sprintf("p%d", i), letter != 'n')
		if letter == 'd' {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		list = append(list, p)
	}
	return list
}

func budget(minAvailable, maxUnavailable string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: 3}}
	if minAvailable != "" {
		b.Spec.MinAvailable = ptr.To(intstr.Parse(minAvailable))
	}
	if maxUnavailable != "" {
		b.Spec.MaxUnavailable = ptr.To(intstr.Parse(maxUnavailable))
	}
	return b
}

func TestDecide(t *testing.T) {
	type counts struct{ expected, desired, healthy, allowed int32 }
	for name, c := range map[string]struct {
		min, max string
		pods     string
		scale    int32
		want     counts
	}{
		"a number that must stay":          {min: "2", pods: "rrr", want: counts{3, 2, 3, 1}},
		"more than there are":              {min: "5", pods: "rrr", want: counts{3, 5, 3, 0}},
		"nothing to keep":                  {min: "0", pods: "rr", want: counts{2, 0, 2, 2}},
		"no pods, nothing to keep":         {min: "0", pods: "", want: counts{0, 0, 0, 0}},
		"a share that must stay":           {min: "50%", pods: "rrrrr", scale: 5, want: counts{5, 3, 5, 2}},
		"a share of what should be there":  {min: "50%", pods: "rr", scale: 10, want: counts{10, 5, 2, 0}},
		"a number that may go":             {max: "1", pods: "rrr", scale: 3, want: counts{3, 2, 3, 1}},
		"a share that may go is rounded":   {max: "30%", pods: "rrrrrrr", scale: 7, want: counts{7, 4, 7, 3}},
		"everything may go":                {max: "100%", pods: "rr", scale: 2, want: counts{2, 0, 2, 2}},
		"nothing may go":                   {max: "0", pods: "rr", scale: 2, want: counts{2, 2, 2, 0}},
		"more may go than there should be": {max: "5", pods: "rr", scale: 2, want: counts{2, 0, 2, 2}},
		"one is not ready":                 {max: "1", pods: "rrn", scale: 3, want: counts{3, 2, 2, 0}},
		"one is being deleted":             {min: "2", pods: "rrd", want: counts{3, 2, 2, 0}},
		"nobody controls them":             {max: "1", pods: "rrr", want: counts{0, 0, 3, 0}},
		"a budget that asks for nothing":   {pods: "rr", want: counts{0, 0, 2, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot{budget: budget(c.min, c.max), pods: podsOf(c.pods), now: now}
			if c.scale > 0 {
				s.scales = map[types.UID]int32{"u": c.scale}
			}
			p, err := decide(s)
			if err != nil {
				t.Fatal(err)
			}
			got := counts{p.status.ExpectedPods, p.status.DesiredHealthy, p.status.CurrentHealthy, p.status.DisruptionsAllowed}
			if got != c.want {
				t.Fatalf("%+v, want %+v", got, c.want)
			}
			cond := p.status.Conditions[0]
			want := [2]string{"False", policyv1.InsufficientPodsReason}
			if got.allowed > 0 {
				want = [2]string{"True", policyv1.SufficientPodsReason}
			}
			if cond.Type != "DisruptionAllowed" || [2]string{string(cond.Status), cond.Reason} != want || cond.ObservedGeneration != 3 || p.status.ObservedGeneration != 3 {
				t.Fatalf("%+v", p.status)
			}
		})
	}
}

func TestDisruptedPodsAreWaitedFor(t *testing.T) {
	b := budget("1", "")
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	b.Status.DisruptedPods = map[string]metav1.Time{"p0": ago(time.Minute), "p1": ago(30 * time.Second), "p2": ago(121 * time.Second), "p3": ago(0), "gone": ago(0)}
	p, err := decide(snapshot{budget: b, pods: podsOf("rrrdr"), now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.status.DisruptedPods) != 2 || p.status.CurrentHealthy != 2 || p.status.DisruptionsAllowed != 1 {
		t.Fatalf("%+v", p.status)
	}
	if p.recheck != time.Minute || len(p.kept) != 1 || p.kept[0].Name != "p2" {
		t.Fatalf("recheck after %v, kept %v", p.recheck, p.kept)
	}
}

func TestFailed(t *testing.T) {
	b := budget("1", "")
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, CurrentHealthy: 4, DesiredHealthy: 1, DisruptionsAllowed: 3, ExpectedPods: 4}
	s := failed(b, &noController{"p"}, now)
	c := s.Conditions[0]
	if s.DisruptionsAllowed != 0 || s.CurrentHealthy != 4 || s.ObservedGeneration != 2 || c.Reason != policyv1.SyncFailedReason || c.Message != `found no controllers for pod "p"` {
		t.Fatalf("%+v", s)
	}
	if len(b.Status.Conditions) != 0 {
		t.Fatal("the informer's object was changed")
	}
}

func TestStaleMarks(t *testing.T) {
	mark := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(now.Add(-90 * time.Second))}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		wait   time.Duration
		ok     bool
	}{
		"is waited for":       {func(*corev1.Pod) {}, 30 * time.Second, true},
		"is due":              {func(p *corev1.Pod) { p.Status.Conditions[1].LastTransitionTime = metav1.NewTime(now.Add(-time.Hour)) }, 0, true},
		"was taken off":       {func(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }, 0, false},
		"is the agent's":      {func(p *corev1.Pod) { p.Status.Conditions[1].Reason = corev1.PodReasonTerminationByKubelet }, 0, false},
		"of a pod that goes":  {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, 0, false},
		"of a pod that ended": {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 0, false},
	} {
		p := pod("p", true)
		p.Status.Conditions = append(p.Status.Conditions, mark)
		c.change(p)
		if wait, ok := untilStale(p, now); wait != c.wait || ok != c.ok {
			t.Errorf("%s: %v %v", name, wait, ok)
		}
	}
}

// TestNeverBelowTheBudget evicts whenever the count allows it, as the API server does, while pods come, go and change, and the count is
// made anew at any time.
func TestNeverBelowTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := budget(rapid.SampledFrom([]string{"0", "1", "3", "40%", "100%"}).Draw(t, "min"), "")
		scale := int32(rapid.IntRange(1, 8).Draw(t, "scale"))
		alive := podsOf("rrrrrrrr"[:scale])
		at, next := now, len(alive)
		count := func() {
			p, err := decide(snapshot{budget: b, pods: alive, scales: map[types.UID]int32{"u": scale}, now: at})
			if err != nil {
				t.Fatal(err)
			}
			b.Status = p.status
		}
		count()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, max(0, len(alive)-1)).Draw(t, "pod")
			switch rapid.SampledFrom([]string{"evict", "count", "replace", "delete", "time"}).Draw(t, "step") {
			case "evict":
				if len(alive) == 0 || b.Status.DisruptionsAllowed == 0 || alive[i].DeletionTimestamp != nil {
					continue
				}
				if _, going := b.Status.DisruptedPods[alive[i].Name]; going {
					continue
				}
				b.Status.DisruptionsAllowed--
				if b.Status.DisruptedPods == nil {
					b.Status.DisruptedPods = map[string]metav1.Time{}
				}
				b.Status.DisruptedPods[alive[i].Name] = metav1.NewTime(at)
			case "count":
				count()
			case "replace":
				if int32(len(alive)) < scale {
					alive, next = append(alive, pod(fmt.Sprintf("p%d", next), true)), next+1
				}
			case "delete": // an eviction that was allowed comes true
				if len(alive) == 0 {
					continue
				}
				if _, going := b.Status.DisruptedPods[alive[i].Name]; going {
					alive = append(append([]*corev1.Pod{}, alive[:i]...), alive[i+1:]...)
				}
			case "time":
				at = at.Add(10 * time.Second)
			}
			healthy := int32(0)
			for _, p := range alive {
				if _, going := b.Status.DisruptedPods[p.Name]; !going {
					healthy++
				}
			}
			if b.Spec.MinAvailable.Type == intstr.Int && scale < b.Spec.MinAvailable.IntVal {
				continue // it was never met
			}
			if healthy < b.Status.DesiredHealthy {
				t.Fatalf("%d healthy, %d must be", healthy, b.Status.DesiredHealthy)
			}
		}
	})
}

// BenchmarkDecide counts a budget of 5,000 pods, 20 of which are being evicted.
func BenchmarkDecide(b *testing.B) {
	list := podsOf(strings.Repeat("r", 5000))
	pdb := budget("", "10%")
	pdb.Status.DisruptedPods = map[string]metav1.Time{}
	for i := range 20 {
		pdb.Status.DisruptedPods[list[i*100].Name] = metav1.NewTime(now)
	}
	s := snapshot{budget: pdb, pods: list, scales: map[types.UID]int32{"u": 5000}, now: now}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := decide(s); err != nil || p.status.DisruptionsAllowed != 480 {
			b.Fatal(p.status.DisruptionsAllowed, err)
		}
	}
}
