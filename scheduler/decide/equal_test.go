package decide

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// world holds the same cluster twice: in the model, and as plain objects.
type world struct {
	*reference
	cluster *model.Cluster
	decider *Decider
	serial  int
}

func pick[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

func chance(t *rapid.T, label string, in int) bool { return rapid.IntRange(1, in).Draw(t, label) == 1 }

var nodeNames = []string{"a", "b", "c", "d", "e", "f"}

func (w *world) drawNode(t *rapid.T) {
	name := pick(t, "node", nodeNames...)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if !chance(t, "no zone", 5) {
		n.Labels[corev1.LabelTopologyZone] = pick(t, "zone", "x", "y", "z")
	}
	if chance(t, "disk", 2) {
		n.Labels["disk"] = pick(t, "kind of disk", "ssd", "hdd")
	}
	if chance(t, "taint", 3) {
		n.Spec.Taints = []corev1.Taint{{Key: "t", Value: pick(t, "taint value", "1", "2"), Effect: pick(t, "effect", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule)}}
	}
	n.Spec.Unschedulable = chance(t, "cordoned", 10)
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(pick(t, "node cpu", "1", "2", "4")), corev1.ResourceMemory: resource.MustParse(pick(t, "node memory", "2Gi", "8Gi")),
		corev1.ResourcePods: resource.MustParse(pick(t, "node pods", "4", "110")),
	}
	if chance(t, "image", 3) {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"big:1"}, SizeBytes: 800 << 20}}
	}
	w.nodes[name] = n
	w.cluster.SetNode(n)
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	switch rapid.IntRange(0, 5).Draw(t, "selector") {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"db"}}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(t, "selected", "web", "db")}}
}

func drawKey(t *rapid.T) string {
	return pick(t, "topology", corev1.LabelHostname, corev1.LabelTopologyZone, "disk")
}

func drawTerm(t *rapid.T) corev1.PodAffinityTerm {
	term := corev1.PodAffinityTerm{TopologyKey: drawKey(t), LabelSelector: drawSelector(t)}
	if chance(t, "namespaces", 4) {
		term.Namespaces = []string{pick(t, "named", "default", "other")}
	}
	if chance(t, "namespace selector", 4) {
		term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": pick(t, "team", "red", "blue")}}
		if chance(t, "all namespaces", 3) {
			term.NamespaceSelector = &metav1.LabelSelector{}
		}
	}
	if chance(t, "match keys", 5) && term.LabelSelector != nil {
		term.MatchLabelKeys = []string{"version"}
	}
	if chance(t, "mismatch keys", 6) && term.LabelSelector != nil {
		term.MismatchLabelKeys = []string{"version"}
	}
	return term
}

func drawAffinity(t *rapid.T) *corev1.Affinity {
	a := &corev1.Affinity{}
	if chance(t, "pod affinity", 4) {
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: drawTerms(t, drawTerm)}
	}
	if chance(t, "pod anti-affinity", 4) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: drawTerms(t, drawTerm)}
	}
	weighted := func(t *rapid.T) corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: int32(rapid.IntRange(1, 100).Draw(t, "weight")), PodAffinityTerm: drawTerm(t)}
	}
	if chance(t, "preferred", 3) {
		if a.PodAffinity == nil {
			a.PodAffinity = &corev1.PodAffinity{}
		}
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = drawTerms(t, weighted)
	}
	if chance(t, "preferred against", 3) {
		if a.PodAntiAffinity == nil {
			a.PodAntiAffinity = &corev1.PodAntiAffinity{}
		}
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = drawTerms(t, weighted)
	}
	if chance(t, "node affinity", 4) {
		disk := func(op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
			return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: op, Values: values}}}
		}
		a.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 30, Preference: disk(corev1.NodeSelectorOpIn, "ssd")}, {Weight: 7, Preference: disk(corev1.NodeSelectorOpExists)},
		}}
		if chance(t, "required", 2) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				disk(corev1.NodeSelectorOpExists),
				{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}},
			}}
		}
	}
	return a
}

func drawTerms[T any](t *rapid.T, one func(*rapid.T) T) []T {
	terms := make([]T, rapid.IntRange(1, 2).Draw(t, "terms"))
	for i := range terms {
		terms[i] = one(t)
	}
	return terms
}

func drawConstraint(t *rapid.T) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{
		MaxSkew: int32(rapid.IntRange(1, 3).Draw(t, "skew")), TopologyKey: drawKey(t), LabelSelector: drawSelector(t),
		WhenUnsatisfiable: pick(t, "unsatisfiable", corev1.DoNotSchedule, corev1.ScheduleAnyway),
	}
	if c.WhenUnsatisfiable == corev1.DoNotSchedule && chance(t, "min domains", 3) {
		n := int32(rapid.IntRange(1, 4).Draw(t, "domains"))
		c.MinDomains = &n
	}
	policies := []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}
	if chance(t, "affinity policy", 3) {
		c.NodeAffinityPolicy = &policies[rapid.IntRange(0, 1).Draw(t, "affinity policy is")]
	}
	if chance(t, "taints policy", 3) {
		c.NodeTaintsPolicy = &policies[rapid.IntRange(0, 1).Draw(t, "taints policy is")]
	}
	if chance(t, "match keys", 4) && c.LabelSelector != nil {
		c.MatchLabelKeys = []string{"version"}
	}
	return c
}

func (w *world) drawPod(t *rapid.T) *corev1.Pod {
	w.serial++
	p := pod(fmt.Sprint("p", w.serial), pick(t, "cpu", "", "100m", "700m"), pick(t, "memory", "", "64Mi", "1Gi"))
	p.Namespace = pick(t, "namespace", "default", "default", "other")
	p.Labels = map[string]string{"app": pick(t, "app", "web", "db")}
	if chance(t, "version", 2) {
		p.Labels["version"] = pick(t, "which version", "1", "2")
	}
	p.Spec.Containers[0].Image = pick(t, "image", "big:1", "small")
	if chance(t, "port", 6) {
		hostPort(80)(p)
	}
	if chance(t, "toleration", 3) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "t", Operator: corev1.TolerationOpEqual, Value: "1"}}
	}
	if chance(t, "node selector", 6) {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if chance(t, "affinity", 2) {
		p.Spec.Affinity = drawAffinity(t)
	}
	if chance(t, "spread", 3) {
		p.Spec.TopologySpreadConstraints = drawTerms(t, drawConstraint)
	} else if chance(t, "owner", 2) {
		controller := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", UID: types.UID("rs-" + p.Labels["app"] + p.Namespace), Controller: &controller}}
	}
	return p
}

// compare asks both about a pod, and places it where the model says.
func (w *world) compare(t *rapid.T, p *corev1.Pod) {
	fits := w.feasible(p)
	totals := w.totals(p, fits)
	fresh, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	asked := model.NewPod(p)
	for _, r := range fresh.Explain(w.cluster, asked).Nodes {
		if fits[r.Node] != (len(r.Verdicts) == 0) {
			t.Fatalf("%s on %s: feasible by the reference %v, verdicts %v", p.Name, r.Node, fits[r.Node], r.Verdicts)
		}
		if fits[r.Node] && r.Total != totals[r.Node] {
			t.Fatalf("%s on %s: total %d by the reference, %d (%v)", p.Name, r.Node, totals[r.Node], r.Total, r.Scores)
		}
	}
	d := w.decider.Schedule(w.cluster, asked)
	if len(fits) == 0 {
		if d.Node != "" || d.Message == "" {
			t.Fatalf("%s fits nowhere by the reference: %+v", p.Name, d)
		}
		return
	}
	best := slices.Max(slices.Collect(maps.Values(totals)))
	if !fits[d.Node] || totals[d.Node] != best {
		t.Fatalf("%s: chosen %q of %v", p.Name, d.Node, totals)
	}
	placed := p.DeepCopy()
	placed.Spec.NodeName = d.Node
	w.pods[p.UID] = placed
	w.cluster.SetPod(asked, d.Node)
}

// TestEqualsTheReference: whatever happens to a cluster, the nodes that can run a pod and their totals are those that a recount of
// everything gives, and the one chosen is one of the best.
func TestEqualsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			reference: &reference{nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}, namespaces: map[string]map[string]string{}},
			cluster:   model.New(), decider: newDecider(t),
		}
		for range 3 {
			w.drawNode(t)
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			w.step(t)
		}
	})
}

func (w *world) step(t *rapid.T) {
	switch rapid.IntRange(0, 11).Draw(t, "step") {
	case 0:
		w.drawNode(t)
	case 1:
		if name := pick(t, "lost", nodeNames...); len(w.nodes) > 1 {
			delete(w.nodes, name)
			w.cluster.RemoveNode(name)
		}
	case 2:
		if uid := w.anyPod(t); uid != "" {
			delete(w.pods, uid)
			w.cluster.RemovePod(uid)
		}
	case 3: // a placed pod changes its labels, or is being deleted
		if uid := w.anyPod(t); uid != "" {
			p := w.pods[uid].DeepCopy()
			p.Labels["app"] = pick(t, "relabelled", "web", "db")
			if chance(t, "terminating", 2) {
				p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
			}
			w.pods[uid] = p
			w.cluster.SetPod(model.NewPod(p), p.Spec.NodeName)
		}
	case 4:
		name, labels := pick(t, "namespace", "default", "other"), map[string]string{"team": pick(t, "of team", "red", "blue")}
		w.namespaces[name] = labels
		w.cluster.SetNamespace(name, labels)
	case 5:
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
		if len(w.services) == 0 {
			w.services = append(w.services, s)
			w.cluster.SetService(s)
		}
	default:
		w.compare(t, w.drawPod(t))
	}
}

func (w *world) anyPod(t *rapid.T) types.UID {
	if len(w.pods) == 0 {
		return ""
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(w.pods))).Draw(t, "pod")
}
