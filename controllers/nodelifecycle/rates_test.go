package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/clock"
)

// zone simulates: of its nodes some are lost at once, and each second all of these are looked at again.
type zone struct {
	c     *Controller
	nodes cache.Indexer
	clock *clock.Manual
	lost  []string
}

func newZone(t *testing.T, ready, lost int) *zone {
	t.Helper()
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	manual := clock.NewManual(now)
	z := &zone{nodes: nodes, clock: manual, c: &Controller{nodes: corelisters.NewNodeLister(nodes), clock: manual, pace: map[string]time.Time{}}}
	for i := range ready + lost {
		status := corev1.ConditionTrue
		if i >= ready {
			status = corev1.ConditionUnknown
		}
		n := node(status)
		n.Name = fmt.Sprint("n", i)
		if i >= ready {
			z.lost = append(z.lost, n.Name)
		}
		if err := nodes.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	return z
}

// run gives how many nodes are given up in so many seconds, and when.
func (z *zone) run(t *testing.T, seconds int) (at []int) {
	t.Helper()
	for second := range seconds {
		for _, name := range z.lost {
			n, err := z.c.nodes.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			before := evicting(n)
			mode, _ := z.c.mode(n)
			list, changed := taints(n, mode, metav1.NewTime(now))
			if !changed {
				continue
			}
			n = n.DeepCopy()
			n.Spec.Taints = list
			if err := z.nodes.Update(n); err != nil {
				t.Fatal(err)
			}
			if !before && evicting(n) {
				at = append(at, second)
			}
		}
		z.clock.Advance(time.Second)
	}
	return at
}

func TestRates(t *testing.T) {
	for name, c := range map[string]struct {
		ready, lost int
		want        []int
	}{
		"one of two":                          {1, 1, []int{0}},
		"a few of many, one every 10 s":       {20, 4, []int{0, 10, 20, 30}},
		"most of a small zone":                {4, 6, nil},
		"most of a large zone, one in 100 s":  {20, 40, []int{0, 100}},
		"all: the fault is likely on our own": {0, 5, nil},
	} {
		if at := newZone(t, c.ready, c.lost).run(t, 150); fmt.Sprint(at) != fmt.Sprint(c.want) {
			t.Errorf("%s: given up after %v s, want %v", name, at, c.want)
		}
	}
}

// TestAllAreLostAndBack: nodes that were given up are taken back when no node at all is ready any more, and given up again at
// the zone's pace once there is one.
func TestAllAreLostAndBack(t *testing.T) {
	z := newZone(t, 1, 3)
	if at := z.run(t, 30); len(at) != 0 { // 3 of 4 in a small zone
		t.Fatalf("given up after %v s", at)
	}
	z = newZone(t, 5, 3)
	if at := z.run(t, 30); len(at) != 3 {
		t.Fatalf("given up after %v s", at)
	}
	set := func(status corev1.ConditionStatus) {
		for i := range 5 {
			n, err := z.c.nodes.Get(fmt.Sprint("n", i))
			if err != nil {
				t.Fatal(err)
			}
			n = n.DeepCopy()
			n.Status.Conditions[0].Status = status
			if err := z.nodes.Update(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(corev1.ConditionUnknown)
	z.run(t, 2)
	for _, name := range z.lost {
		if n, err := z.c.nodes.Get(name); err != nil || evicting(n) {
			t.Errorf("%s is still given up: %v", name, err)
		}
	}
	set(corev1.ConditionTrue)
	if at := z.run(t, 60); len(at) != 3 || at[1]-at[0] < 10 || at[2]-at[1] < 10 {
		t.Errorf("given up again after %v s", at)
	}
}
