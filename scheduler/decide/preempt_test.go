package decide

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// cost is what upstream compares candidates by, in order.
type cost struct {
	violations, highest int
	sum                 int64
	victims             int
	started             int64 // negated: later is better
}

func (c cost) compare(o cost) int {
	return cmp.Or(cmp.Compare(c.violations, o.violations), cmp.Compare(c.highest, o.highest), cmp.Compare(c.sum, o.sum),
		cmp.Compare(c.victims, o.victims), cmp.Compare(c.started, o.started))
}

func moreImportant(a, b *corev1.Pod) int {
	return cmp.Or(cmp.Compare(*b.Spec.Priority, *a.Spec.Priority), a.Status.StartTime.Compare(b.Status.StartTime.Time), cmp.Compare(a.UID, b.UID))
}

// victims are whom the pod would have to remove from a node, by removing and putting back in the objects themselves.
func (r *reference) victims(pod *corev1.Pod, node string, budgets []*policyv1.PodDisruptionBudget) (gone []*corev1.Pod, violations int, ok bool) {
	var lower []*corev1.Pod
	for _, p := range r.on(node) {
		if *p.Spec.Priority < *pod.Spec.Priority {
			lower = append(lower, p)
		}
	}
	slices.SortFunc(lower, moreImportant)
	for _, p := range lower {
		delete(r.pods, p.UID)
	}
	defer func() {
		for _, p := range lower {
			r.pods[p.UID] = p
		}
	}()
	if len(lower) == 0 || !r.feasible(pod)[node] {
		return nil, 0, false
	}
	spent := map[string]int32{}
	protected := func(p *corev1.Pod) (violates bool) {
		for _, b := range budgets {
			selector, _ := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if b.Namespace == p.Namespace && selector.Matches(labels.Set(p.Labels)) {
				spent[b.Name]++
				violates = violates || spent[b.Name] > b.Status.DisruptionsAllowed
			}
		}
		return violates
	}
	var first, then []*corev1.Pod
	for _, p := range lower {
		if protected(p) {
			first = append(first, p)
		} else {
			then = append(then, p)
		}
	}
	for i, p := range append(slices.Clone(first), then...) {
		r.pods[p.UID] = p
		if !r.feasible(pod)[node] {
			delete(r.pods, p.UID)
			gone = append(gone, p)
			if i < len(first) {
				violations++
			}
		}
	}
	return gone, violations, len(gone) > 0
}

func costOf(victims []*corev1.Pod, violations int) cost {
	slices.SortFunc(victims, moreImportant)
	c := cost{violations: violations, highest: int(*victims[0].Spec.Priority), victims: len(victims), started: math.MaxInt64}
	for _, p := range victims {
		c.sum += int64(*p.Spec.Priority) + math.MaxInt32 + 1
		if int(*p.Spec.Priority) == c.highest {
			c.started = min(c.started, p.Status.StartTime.Unix())
		}
	}
	c.started = -c.started
	return c
}

// TestPreemptionEqualsTheReference: the victims are those that removing and putting back the objects themselves finds, on a node that
// is as good as the best by upstream's criteria; and with them gone the pod fits.
func TestPreemptionEqualsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			reference: &reference{nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}, namespaces: map[string]map[string]string{}},
			cluster:   model.New(), decider: newDecider(t),
		}
		for range 4 {
			w.drawNode(t)
		}
		budgets := w.drawBudgets(t)
		for range rapid.IntRange(5, 30).Draw(t, "pods") {
			p := w.drawPod(t)
			priority := int32(rapid.IntRange(0, 3).Draw(t, "priority"))
			p.Spec.Priority = &priority
			p.Status.StartTime = &metav1.Time{Time: time.Unix(int64(rapid.IntRange(1, 5).Draw(t, "started")), 0)}
			if chance(t, "large", 3) {
				p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("900m")
			}
			if len(w.feasible(p)) > 0 {
				w.compare(t, p)
				continue
			}
			w.comparePreemption(t, p, budgets)
		}
	})
}

func (w *world) drawBudgets(t *rapid.T) (budgets []*policyv1.PodDisruptionBudget) {
	for i := range rapid.IntRange(0, 2).Draw(t, "budgets") {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("b", i)}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(t, "protected", "web", "db")}}
		b.Status.DisruptionsAllowed = int32(rapid.IntRange(0, 1).Draw(t, "allowed"))
		budgets = append(budgets, b)
		w.cluster.SetBudget(b)
	}
	return budgets
}

func (w *world) comparePreemption(t *rapid.T, p *corev1.Pod, budgets []*policyv1.PodDisruptionBudget) {
	best, possible := cost{}, false
	costs := map[string]cost{}
	for _, name := range nodeNames {
		node := w.nodes[name]
		if node == nil || !w.resolvable(p, node) {
			continue
		}
		victims, violations, ok := w.victims(p, name, budgets)
		if !ok {
			continue
		}
		costs[name] = costOf(victims, violations)
		if !possible || costs[name].compare(best) < 0 {
			best, possible = costs[name], true
		}
	}
	asked := model.NewPod(p)
	d := w.decider.Schedule(w.cluster, asked)
	if !possible {
		if d.Preempt != nil {
			t.Fatalf("%s: no preemption helps by the reference: %+v", p.Name, d.Preempt)
		}
		return
	}
	if d.Preempt == nil {
		t.Fatalf("%s: %+v; by the reference %v", p.Name, d, costs)
	}
	if costs[d.Preempt.Node].compare(best) != 0 {
		t.Fatalf("%s: chose %s of %+v", p.Name, d.Preempt.Node, costs)
	}
	want, _, _ := w.victims(p, d.Preempt.Node, budgets)
	slices.SortFunc(want, moreImportant)
	for i, v := range d.Preempt.Victims {
		if len(want) != len(d.Preempt.Victims) || want[i].UID != v.Pod.UID {
			t.Fatalf("%s: victims %v, want %v", p.Name, d.Preempt.Victims, want)
		}
		delete(w.pods, v.Pod.UID)
		w.cluster.RemovePod(v.Pod.UID)
	}
	w.compare(t, p)
}

// resolvable tells whether it is only for pods that could go that the node does not fit.
func (w *world) resolvable(p *corev1.Pod, node *corev1.Node) bool {
	d, err := New(Defaults())
	if err != nil {
		panic(err)
	}
	rejected := d.Fits(w.cluster, model.NewPod(p), w.cluster.Node(node.Name))
	return rejected != nil && !rejected.Final
}
