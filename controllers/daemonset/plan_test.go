package daemonset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pod is written as "node age revision state", the age counting down the older it is; the state is waiting (for the scheduler), pending, ready, fresh (ready
// just now), unready, failed, succeeded, or one of these with a minus for terminating.
func pod(line string) *corev1.Pod {
	var node, rev, state string
	var serial int
	if _, err := fmt.Sscan(line, &node, &serial, &rev, &state); err != nil {
		panic(err)
	}
	p := newPod(build("1", "0"), rev, node)
	p.Name = fmt.Sprint(node, ".", serial)
	p.UID, p.CreationTimestamp, p.Spec.NodeName = types.UID(p.Name), metav1.NewTime(now.Add(time.Duration(serial-1000)*time.Minute)), node
	if rest, ok := strings.CutPrefix(state, "-"); ok {
		state, p.DeletionTimestamp = rest, ptr.To(metav1.NewTime(now))
	}
	become(p, state)
	return p
}

func become(p *corev1.Pod, state string) {
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}
	switch state {
	case "waiting":
		p.Status.Phase, p.Spec.NodeName = corev1.PodPending, ""
		return
	case "pending":
		p.Status.Phase = corev1.PodPending
		return
	case "failed":
		p.Status.Phase = corev1.PodFailed
		return
	case "succeeded":
		p.Status.Phase = corev1.PodSucceeded
		return
	case "fresh":
		ready.LastTransitionTime = metav1.NewTime(now.Add(-3 * time.Second))
	case "unready":
		ready.Status = corev1.ConditionFalse
	case "ready":
	default:
		panic(state)
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
}

func build(unavailable, surge string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ds", UID: "set", Generation: 3},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "ds"}}, MinReadySeconds: 10,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "ds"}},
				Spec:       corev1.PodSpec{NodeSelector: map[string]string{"on": "yes"}, Containers: []corev1.Container{{Name: "c"}}},
			},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxUnavailable: ptr.To(intstr.Parse(unavailable)), MaxSurge: ptr.To(intstr.Parse(surge)),
			}},
		},
	}
}

func onDelete() *appsv1.DaemonSet {
	set := build("1", "0")
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	return set
}

// nodes are written by name: a plain one runs daemons, "b-" is not selected, "c!" repels them, "d!!" evicts them.
func nodes(text string) []*corev1.Node {
	var list []*corev1.Node
	for _, word := range strings.Fields(text) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: strings.TrimRight(word, "-!"), Labels: map[string]string{"on": "yes"}}}
		switch {
		case strings.HasSuffix(word, "-"):
			n.Labels = nil
		case strings.HasSuffix(word, "!!"):
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}
		case strings.HasSuffix(word, "!"):
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
		}
		list = append(list, n)
	}
	return list
}

func snap(set *appsv1.DaemonSet, on string, lines ...string) snapshot {
	s := snapshot{
		set: set, nodes: nodes(on), now: now, backoff: func(string) time.Duration { return 0 },
		updated: func(p *corev1.Pod) bool { return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == "new" },
	}
	for _, line := range lines {
		s.pods = append(s.pods, pod(line))
	}
	return s
}

// say writes a plan as text; pods with a question mark go only as they were seen.
func say(p plan) string {
	var words []string
	for _, node := range p.create {
		words = append(words, "+"+node)
	}
	for _, r := range p.delete {
		word := "-" + r.pod.Name + strings.ToLower(string(r.ended))
		if r.asSeen {
			word += "?"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestDecide(t *testing.T) {
	behind, ahead := func(n string) *appsv1.DaemonSet { return build(n, "0") }, func(n string) *appsv1.DaemonSet { return build("0", n) }
	for _, c := range []struct {
		name string
		set  *appsv1.DaemonSet
		on   string
		pods []string
		want string
	}{
		{"one each", behind("1"), "a b c- d! e!!", nil, "+a +b"},
		{"all is well", behind("1"), "a b", []string{"a 1 new ready", "b 1 new ready"}, ""},
		{"not where none belongs", behind("1"), "a- b! c!!", []string{"a 1 new ready", "b 1 new ready", "c 1 new ready"}, "-a.1 -c.1"},
		{"waits for one that terminates", behind("1"), "a", []string{"a 1 new -ready"}, ""},
		{"not for one that has ended", behind("1"), "a", []string{"a 1 new -failed"}, "+a"},
		{"one that the scheduler has yet to bind", behind("1"), "a", []string{"a 1 new waiting"}, ""},
		{"one for a node that is gone", behind("1"), "a", []string{"a 1 new ready", "z 1 new waiting", "z 2 new ready"}, "-z.1"},
		{"ended ones go", behind("1"), "a b", []string{"a 1 new failed", "b 1 new succeeded"}, "-a.1failed -b.1succeeded"},
		{"the oldest stays", behind("1"), "a", []string{"a 3 new ready", "a 1 new ready", "a 2 new ready"}, "-a.2 -a.3"},
		{"the oldest that serves", behind("1"), "a", []string{"a 1 new unready", "a 2 new ready", "a 3 new ready"}, "-a.1 -a.3"},
		{"one with a node before one without", behind("1"), "a", []string{"a 1 new waiting", "a 2 new ready"}, "-a.1"},

		{"an update takes one", behind("1"), "a b c", []string{"a 1 old ready", "b 1 old ready", "c 1 old ready"}, "-a.1"},
		{"an update goes on", behind("1"), "a b c", []string{"a 1 new ready", "b 1 old ready", "c 1 old ready"}, "-b.1"},
		{"an update waits", behind("1"), "a b", []string{"a 1 new unready", "b 1 old ready"}, ""},
		{"an update waits for availability", behind("1"), "a b", []string{"a 1 new fresh", "b 1 old ready"}, ""},
		{"an update waits for what terminates", behind("1"), "a b", []string{"a 1 old -ready", "b 1 old ready"}, ""},
		{"an update replaces what does not serve", behind("1"), "a b", []string{"a 1 old unready", "b 1 old ready"}, "-a.1?"},
		{"as many as may be missing", behind("3"), "a b c d", []string{"a 1 new unready", "b 1 old unready", "c 1 old ready", "d 1 old ready"}, "-b.1? -c.1"},
		{"a share is rounded up", behind("26%"), "a b c d", []string{"a 1 old ready", "b 1 old ready", "c 1 old ready", "d 1 old ready"}, "-a.1 -b.1"},
		{"nothing at all is one", build("0", "0"), "a b", []string{"a 1 old ready", "b 1 old ready"}, "-a.1"},
		{"gaps are filled first", behind("2"), "a b", []string{"a 1 old ready"}, "+b"},
		{"OnDelete updates nothing", onDelete(), "a b", []string{"a 1 old ready"}, "+b"},
		{"OnDelete at rest", onDelete(), "a b", []string{"a 1 old ready", "b 1 old unready"}, ""},
		{"a repelled pod is updated away", behind("1"), "a!", []string{"a 1 old ready"}, "-a.1"},

		{"surge makes one more", ahead("1"), "a b", []string{"a 1 old ready", "b 1 old ready"}, "+a"},
		{"surge waits", ahead("1"), "a b", []string{"a 1 old ready", "a 2 new unready", "b 1 old ready"}, ""},
		{"surge waits for availability", ahead("1"), "a b", []string{"a 1 old ready", "a 2 new fresh", "b 1 old ready"}, ""},
		{"surge takes the old one", ahead("1"), "a b", []string{"a 1 old ready", "a 2 new ready", "b 1 old ready"}, "-a.1"},
		{"an old one that does not serve goes at once", ahead("1"), "a", []string{"a 1 old unready", "a 2 new unready"}, "-a.1?"},
		{"and costs no surge", ahead("1"), "a b c", []string{"a 1 old unready", "b 1 old ready", "c 1 old ready"}, "+a +b"},
		{"surge does not wait for what terminates", ahead("1"), "a", []string{"a 1 new -ready"}, "+a"},
		{"surge on fresh nodes", ahead("1"), "a b", nil, "+a +b"},
		{"excess under surge", ahead("1"), "a", []string{"a 1 old ready", "a 2 old ready", "a 3 new unready", "a 4 new unready"}, "-a.4 -a.2"},
		{"a share of surge", ahead("50%"), "a b c", []string{"a 1 old ready", "b 1 old ready", "c 1 old ready"}, "+a +b"},
		{"a stray that serves stays while it is needed", ahead("1"), "a! b", []string{"a 1 old ready", "b 1 new unready"}, ""},
		{"and goes then", ahead("1"), "a! b", []string{"a 1 old ready", "b 1 new ready"}, "-a.1"},
		{"a stray that does not serve goes", ahead("1"), "a! b", []string{"a 1 old unready", "b 1 new unready"}, "-a.1"},
	} {
		if got := say(decide(snap(c.set, c.on, c.pods...))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestBackoffOfFailedPods(t *testing.T) {
	s := snap(build("1", "0"), "a b", "a 1 new failed", "b 1 new failed")
	s.backoff = func(node string) time.Duration { return map[string]time.Duration{"b": time.Minute}[node] }
	if p := decide(s); say(p) != "-a.1failed" || p.again != time.Minute {
		t.Fatal(say(p), p.again)
	}
	b := newBackoff()
	at := now
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		b.failed("k", at)
		if got := b.wait("k", at); got != want {
			t.Fatalf("%v, want %v", got, want)
		}
		if b.wait("k", at.Add(want)) != 0 || b.wait("other", at) != 0 {
			t.Fatal("still waits")
		}
		at = at.Add(want)
	}
	for range 20 {
		b.failed("k", at)
	}
	if got := b.wait("k", at); got != maxBackoff {
		t.Fatal(got)
	}
	at = at.Add(2*maxBackoff + time.Second)
	b.failed("k", at)
	if got := b.wait("k", at); got != minBackoff {
		t.Fatalf("%v after a long time without failures", got)
	}
	for i := range 2000 {
		b.failed(fmt.Sprint(i), at.Add(time.Duration(i)*time.Hour))
	}
	if len(b.entries) > 600 {
		t.Fatalf("%d keys remembered", len(b.entries))
	}
}

func TestBurst(t *testing.T) {
	s := snap(build("1", "0"), "")
	for i := range 300 {
		s.nodes = append(s.nodes, nodes(fmt.Sprint("n", i))...)
	}
	if p := decide(s); len(p.create) != burst || p.status.DesiredNumberScheduled != 300 {
		t.Fatal(len(p.create))
	}
}

func TestStatus(t *testing.T) {
	p := decide(snap(build("1", "0"), "a b c d e f- g!",
		"a 1 new ready", "b 1 old ready", "c 1 new fresh", "d 1 new unready", "f 1 new ready", "g 1 old ready", "z 1 new ready"))
	s := p.status
	got := fmt.Sprint(s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberReady, s.NumberAvailable, s.NumberUnavailable, s.UpdatedNumberScheduled, s.NumberMisscheduled)
	if want := "5 4 3 2 3 3 2"; got != want || s.ObservedGeneration != 3 || p.again != 7*time.Second {
		t.Errorf("%s, want %s, again in %v", got, want, p.again)
	}
	s = decide(snap(build("0", "1"), "a", "a 1 old ready", "a 2 new ready")).status
	if s.UpdatedNumberScheduled != 0 || s.NumberAvailable != 1 {
		t.Errorf("the older pod does not count: %+v", s)
	}
}

func TestPlacement(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) corev1.Taint {
		return corev1.Taint{Key: key, Effect: effect}
	}
	for _, c := range []struct {
		name      string
		edit      func(*corev1.PodSpec)
		labels    map[string]string
		taints    []corev1.Taint
		run, stay bool
	}{
		{"any node", func(*corev1.PodSpec) {}, nil, nil, true, true},
		{"another node's name", func(s *corev1.PodSpec) { s.NodeName = "other" }, nil, nil, false, false},
		{"its name", func(s *corev1.PodSpec) { s.NodeName = "n" }, nil, nil, true, true},
		{"selected", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"a": "b"} }, map[string]string{"a": "b"}, nil, true, true},
		{"not selected", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"a": "b"} }, nil, nil, false, false},
		{"by affinity", func(s *corev1.PodSpec) { s.Affinity = affinity("zone", "z1") }, map[string]string{"zone": "z1"}, nil, true, true},
		{"not by affinity", func(s *corev1.PodSpec) { s.Affinity = affinity("zone", "z1") }, map[string]string{"zone": "z2"}, nil, false, false},
		{"a node in trouble", func(*corev1.PodSpec) {}, nil, []corev1.Taint{
			taint("node.kubernetes.io/not-ready", "NoExecute"), taint("node.kubernetes.io/unreachable", "NoExecute"), taint("node.kubernetes.io/unschedulable", "NoSchedule"),
			taint("node.kubernetes.io/disk-pressure", "NoSchedule"), taint("node.kubernetes.io/memory-pressure", "NoSchedule"), taint("node.kubernetes.io/pid-pressure", "NoSchedule"),
		}, true, true},
		{"without a network", func(*corev1.PodSpec) {}, nil, []corev1.Taint{taint("node.kubernetes.io/network-unavailable", "NoSchedule")}, false, true},
		{"without need of one", func(s *corev1.PodSpec) { s.HostNetwork = true }, nil, []corev1.Taint{taint("node.kubernetes.io/network-unavailable", "NoSchedule")}, true, true},
		{"repelled", func(*corev1.PodSpec) {}, nil, []corev1.Taint{taint("k", "NoSchedule")}, false, true},
		{"evicted", func(*corev1.PodSpec) {}, nil, []corev1.Taint{taint("k", "NoExecute")}, false, false},
		{"preferred elsewhere", func(*corev1.PodSpec) {}, nil, []corev1.Taint{taint("k", "PreferNoSchedule")}, true, true},
		{"tolerated", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: "Exists"}} }, nil, []corev1.Taint{taint("k", "NoExecute")}, true, true},
	} {
		set := build("1", "0")
		set.Spec.Template.Spec.NodeSelector = nil
		c.edit(&set.Spec.Template.Spec)
		run, stay := placementOf(set).on(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: c.labels}, Spec: corev1.NodeSpec{Taints: c.taints}})
		if run != c.run || stay != c.stay {
			t.Errorf("%s: run %v, stay %v", c.name, run, stay)
		}
	}
}

func affinity(key, value string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}},
		}}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1}},
	}}
}

func TestNewPod(t *testing.T) {
	set := build("1", "0")
	set.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "7"}
	spec := &set.Spec.Template.Spec
	spec.Affinity = affinity("zone", "z1")
	spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](5)}, {Key: "k", Operator: "Exists"}}
	before := set.DeepCopy()
	p := newPod(set, "abc", "n1")
	if nodeOf(p) != "n1" || p.GenerateName != "ds-" || p.Labels["controller-revision-hash"] != "abc" || p.Labels["pod-template-generation"] != "7" || p.Labels["app"] != "ds" {
		t.Errorf("%+v", p)
	}
	if terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms; len(terms) != 1 || len(terms[0].MatchExpressions) != 0 ||
		len(p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Errorf("%+v", p.Spec.Affinity)
	}
	if len(p.Spec.Tolerations) != 7 || p.Spec.Tolerations[0].TolerationSeconds != nil || p.Spec.Tolerations[1].Key != "k" {
		t.Errorf("%+v", p.Spec.Tolerations)
	}
	if !apiequality.Semantic.DeepEqual(before, set) {
		t.Error("the template was changed")
	}
	set.Annotations = nil
	if _, ok := newPod(set, "abc", "n1").Labels["pod-template-generation"]; ok {
		t.Error("a generation out of nothing")
	}
	for _, p := range []*corev1.Pod{{}, {Spec: corev1.PodSpec{Affinity: affinity("a", "b")}}} {
		if nodeOf(p) != "" {
			t.Errorf("%+v is on %q", p.Spec, nodeOf(p))
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s := snap(build("1", "0"), "")
	for i := range 5000 {
		name := fmt.Sprint("n", i)
		s.nodes = append(s.nodes, nodes(name)...)
		s.pods = append(s.pods, pod(name+" 1 new ready"))
	}
	for b.Loop() {
		if p := decide(s); say(p) != "" {
			b.Fatal(say(p))
		}
	}
}
