package deployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// world is a deployment, its sets, and pods that appear and become ready when told to. It plays the API server and the ReplicaSet
// controller, so that rollouts run without either.
type world struct {
	d       *appsv1.Deployment
	sets    []*appsv1.ReplicaSet
	now     time.Time
	running map[types.UID]bool
	log     []string
}

func newWorld(replicas int32, surge, unavailable string) *world {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "d", Generation: 1, Annotations: map[string]string{"team": "blue"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, RevisionHistoryLimit: ptr.To[int32](10), ProgressDeadlineSeconds: ptr.To[int32](600),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
		},
	}
	return &world{d: d, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), running: map[types.UID]bool{}}
}

func (w *world) image(image string) {
	w.d = w.d.DeepCopy()
	w.d.Spec.Template.Spec.Containers[0].Image = image
	w.d.Generation++
}

func (w *world) scale(n int32) {
	w.d = w.d.DeepCopy()
	w.d.Spec.Replicas = &n
	w.d.Generation++
}

// step decides once and carries it out; it tells whether anything changed.
func (w *world) step() bool {
	p := decide(snapshot{deployment: w.d, sets: slices.Clone(w.sets), running: func(u types.UID) bool { return w.running[u] }, now: w.now})
	changed := p.create != nil || len(p.updates) > 0 || len(p.remove) > 0 || p.revision != ""
	if p.create != nil {
		set := p.create.DeepCopy()
		set.UID, set.CreationTimestamp = types.UID(set.Name), metav1.NewTime(w.now.Add(time.Duration(len(w.sets))*time.Second))
		w.sets = append(w.sets, set)
		w.logf("create %s=%d", image(set), size(set))
	}
	for _, u := range p.updates {
		i := slices.Index(w.sets, u.was)
		w.sets[i] = u.is
		if size(u.was) != size(u.is) {
			w.logf("%s %d->%d", image(u.is), size(u.was), size(u.is))
		}
	}
	for _, set := range p.remove {
		w.logf("remove %s", image(set))
		w.sets = slices.DeleteFunc(w.sets, func(s *appsv1.ReplicaSet) bool { return s.Name == set.Name })
	}
	w.d = w.d.DeepCopy()
	if p.revision != "" {
		w.d.Annotations[revisionAnnotation] = p.revision
	}
	w.d.Status = p.status
	return changed
}

func (w *world) logf(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

func image(set *appsv1.ReplicaSet) string { return set.Spec.Template.Spec.Containers[0].Image }

// follow lets every set have as many pods as it asks for; those of images in broken never become ready.
func (w *world) follow(broken ...string) {
	for i, set := range w.sets {
		set = set.DeepCopy()
		n := size(set)
		set.Status.Replicas, set.Status.ReadyReplicas, set.Status.AvailableReplicas = n, n, n
		if slices.Contains(broken, image(set)) {
			set.Status.ReadyReplicas, set.Status.AvailableReplicas = 0, 0
		}
		set.Status.TerminatingReplicas = ptr.To[int32](0)
		set.Status.ObservedGeneration = set.Generation
		w.running[set.UID] = n > 0
		w.sets[i] = set
	}
}

// settle runs until nothing changes any more.
func (w *world) settle(t interface{ Fatalf(string, ...any) }, broken ...string) {
	for range 400 {
		changed := w.step()
		w.follow(broken...)
		before := w.d.Status.DeepCopy()
		changed = w.step() || changed
		if !changed && before.AvailableReplicas == w.d.Status.AvailableReplicas {
			w.step()
			return
		}
		w.follow(broken...)
	}
	t.Fatalf("never settles: %v", w.log)
}

func (w *world) reason(t appsv1.DeploymentConditionType) string {
	if c := condition(&w.d.Status, t); c != nil {
		return string(c.Status) + "/" + c.Reason
	}
	return ""
}

func (w *world) expectLog(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.log, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(w.log, "\n"), strings.Join(want, "\n"))
	}
	w.log = nil
}

func TestFirstRollout(t *testing.T) {
	w := newWorld(3, "25%", "25%")
	w.step()
	w.expectLog(t, "create v1=3")
	set := w.sets[0]
	if set.Annotations[revisionAnnotation] != "1" || set.Annotations[desiredAnnotation] != "3" || set.Annotations[maxAnnotation] != "4" || set.Annotations["team"] != "blue" {
		t.Fatalf("annotations %v", set.Annotations)
	}
	hash := set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if set.Name != "web-"+hash || set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || set.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
		t.Fatalf("hash %q not everywhere: %+v", hash, set)
	}
	if w.reason(appsv1.DeploymentProgressing) != "True/NewReplicaSetCreated" || w.reason(appsv1.DeploymentAvailable) != "False/MinimumReplicasUnavailable" {
		t.Fatalf("%+v", w.d.Status.Conditions)
	}
	w.settle(t)
	if w.reason(appsv1.DeploymentProgressing) != "True/NewReplicaSetAvailable" || w.reason(appsv1.DeploymentAvailable) != "True/MinimumReplicasAvailable" {
		t.Fatalf("%+v", w.d.Status.Conditions)
	}
	if s := w.d.Status; s.Replicas != 3 || s.UpdatedReplicas != 3 || s.AvailableReplicas != 3 || s.UnavailableReplicas != 0 || s.ObservedGeneration != 1 {
		t.Fatalf("%+v", s)
	}
	if w.d.Annotations[revisionAnnotation] != "1" {
		t.Fatal("no revision on the deployment")
	}
	if w.step() {
		t.Fatal("not idle")
	}
}

func TestRollingUpdateAndUndo(t *testing.T) {
	w := newWorld(3, "1", "0")
	w.settle(t)
	w.log = nil
	w.image("v2")
	w.settle(t)
	w.expectLog(t, "create v2=1", "v1 3->2", "v2 1->2", "v1 2->1", "v2 2->3", "v1 1->0")
	w.image("v1")
	w.settle(t)
	first := w.sets[0]
	if first.Annotations[revisionAnnotation] != "3" || first.Annotations[historyAnnotation] != "1" || w.d.Annotations[revisionAnnotation] != "3" {
		t.Fatalf("%v", first.Annotations)
	}
	if len(w.sets) != 2 {
		t.Fatal("an undo makes no new set")
	}
}

func TestRollover(t *testing.T) {
	w := newWorld(4, "1", "1")
	w.settle(t)
	w.image("v2")
	w.settle(t, "v2")
	if w.d.Status.AvailableReplicas != 3 {
		t.Fatalf("%d available", w.d.Status.AvailableReplicas)
	}
	w.log = nil
	w.image("v3")
	w.settle(t, "v2")
	if w.log[0] != "create v3=0" && w.log[0] != "create v3=1" || !strings.HasPrefix(w.log[1], "v2 ") {
		t.Fatalf("unhealthy pods do not go first: %v", w.log)
	}
	if w.d.Status.UpdatedReplicas != 4 || w.d.Status.Replicas != 4 {
		t.Fatalf("%+v", w.d.Status)
	}
}

// TestTrailingStatus goes back to a template whose set still shows the pods it had before it shrank: nothing shrinks on the word of that.
func TestTrailingStatus(t *testing.T) {
	w := newWorld(2, "0", "1")
	w.settle(t)
	w.image("v2")
	w.settle(t)
	w.image("v1")
	w.step()
	w.log = nil
	back := slices.IndexFunc(w.sets, func(s *appsv1.ReplicaSet) bool { return image(s) == "v1" })
	set := w.sets[back].DeepCopy()
	set.Spec.Replicas, set.Status.AvailableReplicas = ptr.To[int32](1), 2
	set.Generation, set.Status.ObservedGeneration = 4, 2
	w.sets[back] = set
	w.step()
	w.expectLog(t)
	set = set.DeepCopy()
	set.Status.ObservedGeneration = 4 // and what is more than its size is about to go
	w.sets[back] = set
	w.step()
	w.expectLog(t, "v2 1->0")
}

func TestProgressDeadline(t *testing.T) {
	w := newWorld(2, "1", "0")
	w.settle(t)
	w.image("v2")
	w.settle(t, "v2")
	if got := w.reason(appsv1.DeploymentProgressing); got != "True/ReplicaSetUpdated" {
		t.Fatal(got)
	}
	p := decide(snapshot{deployment: w.d, sets: w.sets, running: func(types.UID) bool { return true }, now: w.now})
	if p.again < 600*time.Second || p.again > 602*time.Second {
		t.Fatal(p.again)
	}
	w.now = w.now.Add(601 * time.Second)
	w.step()
	if got := w.reason(appsv1.DeploymentProgressing); got != "False/ProgressDeadlineExceeded" {
		t.Fatal(got)
	}
	w.settle(t)
	if got := w.reason(appsv1.DeploymentProgressing); got != "True/NewReplicaSetAvailable" {
		t.Fatal(got)
	}
}

func TestPause(t *testing.T) {
	w := newWorld(2, "1", "0")
	w.settle(t)
	w.log = nil
	w.d = w.d.DeepCopy()
	w.d.Spec.Paused = true
	w.image("v2")
	w.scale(4)
	w.settle(t)
	w.expectLog(t, "v1 2->4")
	if got := w.reason(appsv1.DeploymentProgressing); got != "Unknown/DeploymentPaused" {
		t.Fatal(got)
	}
	w.d.Spec.Paused = false
	w.d.Generation++
	w.step()
	if len(w.sets) != 2 {
		t.Fatal("not resumed")
	}
	w.settle(t)
	if w.d.Status.UpdatedReplicas != 4 {
		t.Fatalf("%+v", w.d.Status)
	}
}

func TestRecreate(t *testing.T) {
	w := newWorld(3, "1", "0")
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w.settle(t)
	w.log = nil
	w.image("v2")
	w.step()
	w.expectLog(t, "v1 3->0")
	w.step()
	w.expectLog(t) // its pods still run
	w.follow()
	w.step()
	w.expectLog(t, "create v2=3")
}

// TestRecreateWaitsForAnUnawareSet: it was told to have no pods before it was seen to make any.
func TestRecreateWaitsForAnUnawareSet(t *testing.T) {
	w := newWorld(3, "1", "0")
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w.step()
	w.image("v2")
	w.step()
	w.expectLog(t, "create v1=3", "v1 3->0")
	w.sets[0].Generation, w.sets[0].Status.ObservedGeneration = 2, 1
	w.step()
	w.expectLog(t)
	w.follow()
	w.step()
	w.expectLog(t, "create v2=3")
}

func TestProportionalScaling(t *testing.T) {
	tests := []struct {
		name           string
		surge          string
		old, fresh     int32 // sizes while the rollout is stuck
		from, to       int32
		wantOld, wantF int32
	}{
		{"grow", "3", 8, 5, 10, 15, 11, 7},
		{"shrink", "2", 10, 2, 10, 5, 6, 1},
		{"to zero", "1", 4, 1, 4, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(tt.from, tt.surge, "2")
			w.settle(t)
			w.image("v2")
			w.step()
			for i, n := range []int32{tt.old, tt.fresh} {
				w.sets[i] = w.sets[i].DeepCopy()
				w.sets[i].Spec.Replicas = &n
			}
			w.scale(tt.to)
			w.step()
			if a, b := size(w.sets[0]), size(w.sets[1]); a != tt.wantOld || b != tt.wantF {
				t.Fatalf("old %d, new %d", a, b)
			}
		})
	}
}

func TestHistoryLimit(t *testing.T) {
	w := newWorld(1, "1", "0")
	w.d.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	for i := range 6 {
		w.image(fmt.Sprintf("v%d", i))
		w.settle(t)
	}
	var left []string
	for _, s := range w.sets {
		left = append(left, image(s))
	}
	if strings.Join(left, " ") != "v3 v4 v5" {
		t.Fatal(left)
	}
}

func TestLimits(t *testing.T) {
	tests := []struct {
		want               int32
		surge, unavailable string
		s, u               int32
	}{
		{10, "25%", "25%", 3, 2}, {1, "25%", "25%", 1, 0}, {10, "0", "0%", 0, 1}, {3, "0", "9", 0, 3}, {0, "25%", "25%", 0, 0}, {5, "100%", "100%", 5, 5},
	}
	for _, tt := range tests {
		w := newWorld(tt.want, tt.surge, tt.unavailable)
		if s, u := limits(w.d); s != tt.s || u != tt.u {
			t.Errorf("%+v: %d %d", tt, s, u)
		}
	}
}

func TestHashIsStable(t *testing.T) {
	w := newWorld(1, "1", "0")
	if h := templateHash(&w.d.Spec.Template, nil); h != templateHash(w.d.Spec.Template.DeepCopy(), nil) || h == templateHash(&w.d.Spec.Template, ptr.To[int32](1)) {
		t.Fatal(h)
	}
	if h := templateHash(&w.d.Spec.Template, nil); h != "6696589ddb" {
		t.Fatalf("the hash of one and the same template changed to %s: an upgrade would restart every deployment's pods", h)
	}
}

// TestBounds changes a deployment at random while pods come and go at random, and holds that a rollout never exceeds its surge and
// never itself takes available pods below the floor, and that it ends.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int32Range(1, 12).Draw(t, "replicas")
		w := newWorld(n, fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "surge")), fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "unavailable")))
		w.settle(t)
		surge, unavailable := limits(w.d)
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "update") == 0 {
				w.image(fmt.Sprintf("v%d", i))
			}
			before := availableOf(w)
			w.step()
			w.shrinkNow()
			if sum := sizes(w); sum > n+surge {
				t.Fatalf("%d pods of %d+%d: %v", sum, n, surge, w.log)
			}
			if after := availableOf(w); after < before && after < n-unavailable {
				t.Fatalf("%d available of %d-%d: %v", after, n, unavailable, w.log)
			}
			w.advance(t)
		}
		w.settle(t)
		if s := w.d.Status; s.UpdatedReplicas != n || s.AvailableReplicas != n || s.Replicas != n {
			t.Fatalf("never finishes: %+v %v", s, w.log)
		}
	})
}

func sizes(w *world) (sum int32) {
	for _, s := range w.sets {
		sum += size(s)
	}
	return sum
}

func availableOf(w *world) (sum int32) {
	for _, s := range w.sets {
		sum += s.Status.AvailableReplicas
	}
	return sum
}

// shrinkNow takes away the pods that sets no longer ask for, those not available first.
func (w *world) shrinkNow() {
	for i, set := range w.sets {
		set = set.DeepCopy()
		set.Status.Replicas = min(set.Status.Replicas, size(set))
		set.Status.AvailableReplicas = min(set.Status.AvailableReplicas, size(set))
		set.Status.ReadyReplicas = set.Status.AvailableReplicas
		w.sets[i] = set
	}
}

// advance lets some pods appear and some become available.
func (w *world) advance(t *rapid.T) {
	for i, set := range w.sets {
		set = set.DeepCopy()
		set.Status.Replicas = rapid.Int32Range(set.Status.Replicas, size(set)).Draw(t, "appear")
		set.Status.AvailableReplicas = rapid.Int32Range(set.Status.AvailableReplicas, set.Status.Replicas).Draw(t, "ready")
		set.Status.ReadyReplicas = set.Status.AvailableReplicas
		set.Status.ObservedGeneration = set.Generation
		w.sets[i] = set
	}
}

func TestFailuresShow(t *testing.T) {
	w := newWorld(4, "1", "0")
	w.settle(t)
	w.image("v2")
	w.step()
	fail := func(image, reason string) {
		for i, set := range w.sets {
			if set.Spec.Template.Spec.Containers[0].Image == image {
				set = set.DeepCopy()
				set.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason}}
				w.sets[i] = set
			}
		}
		w.step()
	}
	fail("v1", "OfTheOld")
	if r := w.reason(appsv1.DeploymentReplicaFailure); r != "True/OfTheOld" {
		t.Errorf("while the newest set has no failure %q shows", r)
	}
	fail("v2", "OfTheNew")
	if r := w.reason(appsv1.DeploymentReplicaFailure); r != "True/OfTheNew" {
		t.Errorf("%q shows", r)
	}
}
