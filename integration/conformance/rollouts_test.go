package conformance

import (
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rollingUpdate makes a set of its own first, with a revision of somebody's, which the deployment takes over and replaces.
func rollingUpdate(e *env) {
	old := demoPod(app)
	old.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "VERSION", Value: "old"}}
	set := e.replicaSet(old, 1)
	_, err := e.kube.AppsV1().ReplicaSets(e.ns).Patch(e.ctx, "web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3546343826724305832"}}}`), metav1.PatchOptions{})
	e.must(err)
	e.setReady(1)
	e.deploy(demoPod(app), 1, nil)
	d := e.rolledOut(1)
	equal(e, "revision", d.Annotations["deployment.kubernetes.io/revision"], "3546343826724305833")
	for _, s := range e.sets() {
		owner := metav1.GetControllerOf(&s)
		if owner == nil || owner.UID != d.UID {
			e.Errorf("%s has owner %v", s.Name, owner)
		}
		want := int32(1)
		if s.UID == set.UID {
			want = 0
		}
		equal(e, s.Name, *s.Spec.Replicas, want)
	}
	e.eventually(func() error { return e.pods("", 1) })
}

func historyLimit(e *env) {
	e.replicaSet(simulatedPod(app), 1)
	e.setReady(1)
	limit := int32(0)
	template := simulatedPod(app)
	template.Annotations = map[string]string{"version": "2"}
	e.deploy(template, 1, func(s *appsv1.DeploymentSpec) { s.RevisionHistoryLimit = &limit })
	e.rolledOut(1)
	e.eventually(func() error { return same(len(e.sets()), 1) })
	if name := e.sets()[0].Name; name == "web" {
		e.Errorf("%s is left", name)
	}
}

// proportionalScaling scales a deployment whose second revision never becomes ready.
func proportionalScaling(e *env) {
	surge, unavailable := intstr.FromInt32(3), intstr.FromInt32(2)
	e.deploy(simulatedPod(app), 10, func(s *appsv1.DeploymentSpec) {
		s.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}}
	})
	e.rolledOut(10)
	e.patchDeployment(`{"spec":{"template":{"metadata":{"annotations":{"simulate.coracle.dev/ready-after":"never"}}}}}`)
	sizes := func(want string) func() error {
		return func() error {
			got := map[string]int32{}
			for _, s := range e.sets() {
				got["revision "+s.Annotations["deployment.kubernetes.io/revision"]] = *s.Spec.Replicas
			}
			return same(fmt.Sprint(got), want)
		}
	}
	e.eventually(sizes("map[revision 1:8 revision 2:5]"))
	e.eventually(func() error {
		d, err := e.getDeployment()
		if err != nil {
			return err
		}
		return same(d.Status.AvailableReplicas, 8)
	})
	e.patchDeployment(`{"spec":{"replicas":30}}`)
	e.eventually(sizes("map[revision 1:20 revision 2:13]"))
}

func (e *env) patchDeployment(patch string) {
	e.Helper()
	_, err := e.kube.AppsV1().Deployments(e.ns).Patch(e.ctx, "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	e.must(err)
}

// rolloutRules takes a deployment through a bad rollout: within its bounds, past its deadline, over to a third template, back, and paused.
func rolloutRules(e *env) {
	deadline, quarter := int32(2), intstr.FromString("25%")
	e.deploy(simulatedPod(app), 8, func(s *appsv1.DeploymentSpec) {
		s.ProgressDeadlineSeconds = &deadline
		s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter}
	})
	e.rolledOut(8)
	least, most := e.watchBounds(func() {
		e.patchDeployment(`{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}`)
		e.rolledOut(8)
	})
	if least < 6 || most > 10 {
		e.Errorf("at least %d replicas available and at most %d asked for during the rollout", least, most)
	}
	e.patchDeployment(`{"spec":{"template":{"metadata":{"annotations":{"simulate.coracle.dev/ready-after":"never"}}}}}`)
	e.progressing("False ProgressDeadlineExceeded")
	e.patchDeployment(`{"spec":{"template":{"metadata":{"annotations":{"version":"3"}}}}}`) // rolls over, and is as bad
	e.eventually(func() error {
		active := 0
		for _, s := range e.sets() {
			if *s.Spec.Replicas > 0 {
				active++
			}
		}
		return errors.Join(same(len(e.sets()), 4), same(active, 2))
	})
	if out, err := e.cluster.For(e.T).TryKubectl("", "-n", e.ns, "rollout", "undo", "deployment/web", "--to-revision=1"); err != nil {
		e.Fatalf("undo: %v\n%s", err, out)
	}
	d := e.rolledOut(8)
	equal(e, "revision", d.Annotations["deployment.kubernetes.io/revision"], "5")
	e.progressing("True NewReplicaSetAvailable")
	e.patchDeployment(`{"spec":{"paused":true}}`)
	e.progressing("Unknown DeploymentPaused")
	e.patchDeployment(`{"spec":{"replicas":9,"template":{"metadata":{"annotations":{"version":"6"}}}}}`)
	e.eventually(func() error { return e.pods("", 9) }) // scaled, but not rolled out
	equal(e, "sets", len(e.sets()), 4)
	e.patchDeployment(`{"spec":{"paused":false}}`)
	e.rolledOut(9)
	equal(e, "sets", len(e.sets()), 5)
}

// progressing waits for the Progressing condition's status and reason.
func (e *env) progressing(want string) {
	e.Helper()
	e.eventually(func() error {
		d, err := e.getDeployment()
		if err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentProgressing {
				return same(string(c.Status)+" "+c.Reason, want)
			}
		}
		return errors.New("no such condition")
	})
}

// watchBounds gives the least available replicas that the deployment showed meanwhile, and the most that its sets were told to have: how many
// there are at one moment is up to the sets, each of which follows in its own time.
func (e *env) watchBounds(meanwhile func()) (least, most int32) {
	e.Helper()
	d, err := e.getDeployment()
	e.must(err)
	deployments, err := e.kube.AppsV1().Deployments(e.ns).Watch(e.ctx, metav1.ListOptions{ResourceVersion: d.ResourceVersion})
	e.must(err)
	sets, err := e.kube.AppsV1().ReplicaSets(e.ns).Watch(e.ctx, metav1.ListOptions{})
	e.must(err)
	least = d.Status.AvailableReplicas
	var done sync.WaitGroup
	done.Go(func() {
		for ev := range deployments.ResultChan() {
			if d, ok := ev.Object.(*appsv1.Deployment); ok {
				least = min(least, d.Status.AvailableReplicas)
			}
		}
	})
	done.Go(func() {
		told := map[string]int32{}
		for ev := range sets.ResultChan() {
			if s, ok := ev.Object.(*appsv1.ReplicaSet); ok {
				told[s.Name] = *s.Spec.Replicas
			}
			sum := int32(0)
			for _, n := range told {
				sum += n
			}
			most = max(most, sum)
		}
	})
	meanwhile()
	deployments.Stop()
	sets.Stop()
	done.Wait()
	return least, most
}
