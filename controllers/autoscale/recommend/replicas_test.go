package recommend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// load has a pod for each letter: r is ready, n has never been ready, s has just become ready, p is pending, d is being deleted, f has failed. Each
// requests 1000m of CPU.
func load(letters string) Load {
	l := Load{Current: int32(len(letters)), Resource: corev1.ResourceCPU, Tolerances: Tolerances{.1, .1}, Now: now, CPUInitialization: 5 * time.Minute, ReadinessDelay: 30 * time.Second}
	for i, letter := range letters {
		started, turned := now.Add(-time.Hour), now.Add(-59*time.Minute)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}}
		pod.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
		phase, ready := corev1.PodRunning, corev1.ConditionTrue
		switch letter {
		case 'n':
			ready, turned = corev1.ConditionFalse, started.Add(time.Second)
		case 's':
			started, turned = now.Add(-time.Minute), now.Add(-30*time.Second)
		case 'p':
			phase = corev1.PodPending
		case 'd':
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		case 'f':
			phase = corev1.PodFailed
		}
		pod.Status = corev1.PodStatus{Phase: phase, StartTime: &metav1.Time{Time: started},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(turned)}}}
		l.Pods = append(l.Pods, pod)
	}
	return l
}

// samples are values of p0, p1, ...; a negative one is missing.
func samples(values ...int64) Samples {
	s := Samples{}
	for i, v := range values {
		if v >= 0 {
			s[fmt.Sprintf("p%d", i)] = Sample{Value: v, At: now.Add(-15 * time.Second), Window: 30 * time.Second}
		}
	}
	return s
}

func TestUtilization(t *testing.T) {
	for name, c := range map[string]struct {
		pods    string
		samples Samples
		target  int32
		want    int32
		percent int32
	}{
		"twice the target doubles":                          {"rr", samples(1000, 1000), 50, 4, 100},
		"half the target halves":                            {"rrrr", samples(250, 250, 250, 250), 50, 2, 25},
		"it is rounded up":                                  {"rrr", samples(300, 500, 700), 30, 5, 50},
		"within the tolerance nothing happens":              {"rrr", samples(540, 540, 540), 50, 3, 54},
		"nothing to do leaves none":                         {"rr", samples(0, 0), 50, 0, 0},
		"an unready pod is idle when there is much to do":   {"rrrn", samples(900, 900, 900, 100), 50, 6, 90},
		"and does not count when there is little":           {"rrrn", samples(100, 100, 100, 900), 50, 1, 10},
		"a pending one as well":                             {"rrp", samples(800, 800, -1), 50, 3, 80},
		"the sample of a pod from its start does not count": {"rrrs", samples(600, 600, 600, 5000), 50, 4, 60},
		"a missing one is idle when there is much to do":    {"rrr", samples(1000, 800, -1), 50, 4, 90},
		"and busy when there is little":                     {"rrr", samples(100, 100, -1), 50, 3, 10},
		"busy as the target when that is above its request": {"rrrr", samples(1000, 1000, 1000, -1), 200, 3, 100},
		"both, where each alone would not hold":             {"rrrnn", samples(900, -1, 900, 0, 0), 70, 5, 90},
		"one that goes does not count":                      {"rrd", samples(1000, 1000, 9000), 50, 4, 100},
		"one that failed does not count":                    {"rrf", samples(1000, 1000, -1), 50, 4, 100},
		"missing ones never turn it round":                  {"rrrr", samples(510, -1, -1, -1), 50, 4, 51},
		"a load beyond what can be counted":                 {"r", samples(1 << 55), 1, 2147483647, 2147483647},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Utilization(load(c.pods), c.samples, c.target)
			if err != nil {
				t.Fatal(err)
			}
			if p.Replicas != c.want || p.Utilization != c.percent {
				t.Fatalf("%+v, want %d at %d%%", p, c.want, c.percent)
			}
		})
	}
}

func TestAverage(t *testing.T) {
	for name, c := range map[string]struct {
		pods    string
		samples Samples
		target  int64
		want    int32
	}{
		"twice the target doubles":                 {"rr", samples(2000, 2000), 1000, 4},
		"it is rounded up":                         {"rrr", samples(1100, 1200, 1300), 1000, 4},
		"exactly the target, one missing":          {"rrr", samples(1000, 1000, -1), 1000, 3},
		"readiness means nothing to other metrics": {"rrn", samples(2000, 2000, 2000), 1000, 6},
		"a missing one is as the target says":      {"rrr", samples(100, 100, -1), 1000, 2},
	} {
		t.Run(name, func(t *testing.T) {
			l := load(c.pods)
			l.Resource = ""
			p, err := Average(l, c.samples, c.target)
			if err != nil || p.Replicas != c.want {
				t.Fatalf("%+v, want %d: %v", p, c.want, err)
			}
		})
	}
}

func TestTotalAndPerPod(t *testing.T) {
	for name, c := range map[string]struct {
		pods          string
		current       int32
		value, target int64
		want          int32
	}{
		"by the pods that are ready":   {"rrn", 3, 40, 20, 4},
		"within the tolerance":         {"rrr", 3, 21, 20, 3},
		"from zero, as many as needed": {"", 0, 70, 20, 4},
		"stays at zero":                {"", 0, 0, 20, 0},
		"to zero":                      {"rr", 2, 0, 20, 0},
	} {
		l := load(c.pods)
		l.Current = c.current
		p, err := Total(l, c.value, c.target)
		if err != nil || p.Replicas != c.want || p.Value != c.value {
			t.Errorf("%s: %+v, want %d: %v", name, p, c.want, err)
		}
	}
	if _, err := Total(Load{Current: 2, Tolerances: Tolerances{.1, .1}}, 90, 20); err == nil || err.Error() != "unable to calculate ready pods: no pods returned by selector while calculating replica count" {
		t.Error(err)
	}
	tolerances := Tolerances{.1, .1}
	for _, c := range []struct {
		status        int32
		value, target int64
		want          int32
		average       int64
	}{{3, 8600, 1000, 9, 2867}, {3, 3100, 1000, 3, 1034}, {0, 2500, 1000, 3, 2500}, {4, 0, 1000, 0, 0}} {
		if p := PerPod(tolerances, c.status, c.value, c.target); p.Replicas != c.want || p.Value != c.average {
			t.Errorf("%+v: %+v", c, p)
		}
	}
}

func TestTolerances(t *testing.T) {
	for _, c := range []struct {
		down, up float64
		value    int64
		want     int32
	}{{.1, .1, 560, 12}, {.1, .2, 560, 10}, {.1, .1, 440, 9}, {.2, .1, 440, 10}, {0, 0, 510, 11}, {0, 0, 500, 10}} {
		l := load("rrrrrrrrrr")
		l.Tolerances = Tolerances{c.down, c.up}
		v := c.value
		if p, err := Utilization(l, samples(v, v, v, v, v, v, v, v, v, v), 50); err != nil || p.Replicas != c.want {
			t.Errorf("%+v: %+v %v", c, p, err)
		}
	}
}

func TestLoadsThatCannotBeJudged(t *testing.T) {
	noRequest := load("rr")
	noRequest.Pods[1].Spec.Containers[0].Resources.Requests = nil
	other := load("r")
	other.Container = "other"
	for _, c := range []struct {
		want string
		f    func() (Proposal, error)
	}{
		{"no pods returned by selector while calculating replica count", func() (Proposal, error) { return Utilization(load(""), samples(1), 50) }},
		{"did not receive metrics for targeted pods (pods might be unready)", func() (Proposal, error) { return Utilization(load("pn"), samples(1, 1), 50) }},
		{"missing request for cpu in container c of Pod p1", func() (Proposal, error) { return Utilization(noRequest, samples(1, 1), 50) }},
		{"no metrics returned matched known pods", func() (Proposal, error) { return Utilization(other, samples(1), 50) }},
		{"no pods returned by selector while calculating replica count", func() (Proposal, error) { return Average(load(""), samples(1), 50) }},
		{"did not receive metrics for targeted pods (pods might be unready)", func() (Proposal, error) { return Average(load("p"), samples(1), 50) }},
	} {
		if _, err := c.f(); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestRequests(t *testing.T) {
	quantity := func(s string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(s)}}
	}
	pod := load("r").Pods[0]
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "d", Resources: quantity("500m")})
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Resources: quantity("7")}, {Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Resources: quantity("250m")}}
	for container, want := range map[string]int64{"": 1750, "d": 500, "side": 250} {
		if got, err := request(pod, container, corev1.ResourceCPU); err != nil || got != want {
			t.Errorf("%q requests %d, want %d: %v", container, got, want, err)
		}
	}
	whole := quantity("3")
	pod.Spec.Resources = &whole
	if got, err := request(pod, "", corev1.ResourceCPU); err != nil || got != 3000 {
		t.Errorf("%d %v", got, err)
	}
}

// TestUnknownLoadHoldsBack compares a proposal with those of pods all of which have samples: what is not known never leads farther than
// what could be known, and never the other way.
func TestUnknownLoadHoldsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "pods")
		l := load(strings.Repeat("r", n))
		target := int32(rapid.IntRange(1, 150).Draw(t, "target"))
		all, some := Samples{}, Samples{}
		for i := range n {
			v := Sample{Value: int64(rapid.IntRange(0, 2000).Draw(t, "value")), At: now}
			name := fmt.Sprintf("p%d", i)
			all[name] = v
			if i == 0 || rapid.Bool().Draw(t, "known") {
				some[name] = v
			}
		}
		p, err := Utilization(l, some, target)
		if err != nil {
			t.Fatal(err)
		}
		without, err := Utilization(Load{Current: l.Current, Pods: known(l.Pods, some), Resource: l.Resource, Tolerances: l.Tolerances, Now: now}, some, target)
		if err != nil {
			t.Fatal(err)
		}
		ratio := float64(without.Utilization) / float64(target)
		if ratio < 1 && p.Replicas > l.Current || ratio > 1 && p.Replicas < l.Current {
			t.Fatalf("%d replicas of %d at %v of the target", p.Replicas, l.Current, ratio)
		}
		busier := Samples{}
		for name, s := range all {
			busier[name] = Sample{Value: s.Value + int64(rapid.IntRange(0, 500).Draw(t, "more")), At: now}
		}
		a, err1 := Utilization(l, all, target)
		b, err2 := Utilization(l, busier, target)
		if err1 != nil || err2 != nil || b.Replicas < a.Replicas {
			t.Fatalf("more load, fewer replicas: %+v %+v", a, b)
		}
	})
}

func known(list []*corev1.Pod, s Samples) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range list {
		if _, ok := s[pod.Name]; ok {
			kept = append(kept, pod)
		}
	}
	return kept
}

// BenchmarkUtilization judges the load of 5,000 pods.
func BenchmarkUtilization(b *testing.B) {
	l := load(strings.Repeat("r", 5000))
	s := Samples{}
	for _, pod := range l.Pods {
		s[pod.Name] = Sample{Value: 750, At: now}
	}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := Utilization(l, s, 50); err != nil || p.Replicas != 7500 {
			b.Fatal(p, err)
		}
	}
}
