package faults

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const in = "faults"

func namespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: in}}
}

// template asks for an eighth of a node.
func template(name, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](2), Containers: []corev1.Container{{
			Name: "c", Image: image, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}},
		}}},
	}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

// change does one random thing to one random object. That it may fail is part of the game: the server may be away.
func (s *storm) change(ctx context.Context) {
	changes := []func(context.Context){s.changeDeployment, s.changeDeployment, s.changeDeployment, s.changeStateful, s.changeDaemon, s.changeJob, s.evict, s.deletePod, s.cordon}
	changes[s.random.IntN(len(changes))](ctx)
	s.writes++
}

func (s *storm) image() string { return fmt.Sprint("demo:", s.random.IntN(4)) }

// strategy is one of several for a name.
func strategy(n int) appsv1.DeploymentStrategy {
	rolling := func(surge, down intstr.IntOrString) appsv1.DeploymentStrategy {
		return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &down}}
	}
	return []appsv1.DeploymentStrategy{
		rolling(intstr.FromString("25%"), intstr.FromString("25%")), rolling(intstr.FromInt32(1), intstr.FromInt32(0)), rolling(intstr.FromInt32(0), intstr.FromInt32(2)),
		{Type: appsv1.RecreateDeploymentStrategyType},
	}[n]
}

func (s *storm) changeDeployment(ctx context.Context) {
	n := s.random.IntN(4)
	name := fmt.Sprint("d", n)
	deployments := s.client.AppsV1().Deployments(in)
	d, err := deployments.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, _ = deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(1 + s.random.IntN(8))), Selector: selector(name), Template: template(name, s.image()), Strategy: strategy(n),
			RevisionHistoryLimit: ptr.To[int32](2),
		}}, metav1.CreateOptions{})
		return
	}
	if err != nil {
		return
	}
	switch s.random.IntN(8) {
	case 0, 1, 2:
		d.Spec.Replicas = ptr.To(int32(s.random.IntN(9)))
	case 3, 4, 5:
		d.Spec.Template.Spec.Containers[0].Image = s.image() // often one it had before
	case 6:
		d.Spec.Paused = !d.Spec.Paused
	case 7:
		s.remove(func(o metav1.DeleteOptions) error { return deployments.Delete(ctx, name, o) })
		return
	}
	_, _ = deployments.Update(ctx, d, metav1.UpdateOptions{})
}

// remove deletes with a random propagation.
func (s *storm) remove(with func(metav1.DeleteOptions) error) {
	policy := []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationBackground}[s.random.IntN(2)]
	_ = with(metav1.DeleteOptions{PropagationPolicy: &policy})
}

func (s *storm) changeStateful(ctx context.Context) {
	n := s.random.IntN(2)
	name := fmt.Sprint("s", n)
	sets := s.client.AppsV1().StatefulSets(in)
	set, err := sets.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		policy := []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}[n]
		_, _ = sets.Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(1 + s.random.IntN(4))), Selector: selector(name), Template: template(name, s.image()), ServiceName: name, PodManagementPolicy: policy,
		}}, metav1.CreateOptions{})
		return
	}
	if err != nil {
		return
	}
	switch s.random.IntN(8) {
	case 0, 1, 2:
		set.Spec.Replicas = ptr.To(int32(s.random.IntN(5)))
	case 3, 4, 5, 6:
		set.Spec.Template.Spec.Containers[0].Image = s.image()
	case 7:
		s.remove(func(o metav1.DeleteOptions) error { return sets.Delete(ctx, name, o) })
		return
	}
	_, _ = sets.Update(ctx, set, metav1.UpdateOptions{})
}

func (s *storm) changeDaemon(ctx context.Context) {
	n := s.random.IntN(2)
	name := fmt.Sprint("ds", n)
	sets := s.client.AppsV1().DaemonSets(in)
	set, err := sets.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		rolling := []appsv1.RollingUpdateDaemonSet{{MaxUnavailable: ptr.To(intstr.FromInt32(2))}, {MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}}[n]
		t := template(name, s.image())
		t.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
		_, _ = sets.Create(ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DaemonSetSpec{
			Selector: selector(name), Template: t, UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &rolling},
		}}, metav1.CreateOptions{})
		return
	}
	if err != nil {
		return
	}
	if s.random.IntN(10) == 0 {
		s.remove(func(o metav1.DeleteOptions) error { return sets.Delete(ctx, name, o) })
		return
	}
	set.Spec.Template.Spec.Containers[0].Image = s.image()
	_, _ = sets.Update(ctx, set, metav1.UpdateOptions{})
}

// changeJob makes a job: of three kinds, whose pods run for some time and may fail for ever; or deletes one.
func (s *storm) changeJob(ctx context.Context) {
	jobs := s.client.BatchV1().Jobs(in)
	if s.jobs > 0 && s.random.IntN(4) == 0 {
		s.remove(func(o metav1.DeleteOptions) error { return jobs.Delete(ctx, fmt.Sprint("j", s.random.IntN(s.jobs)), o) })
		return
	}
	name := fmt.Sprint("j", s.jobs)
	s.jobs++
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{
		Completions: ptr.To(int32(1 + s.random.IntN(6))), Parallelism: ptr.To(int32(1 + s.random.IntN(3))), Template: template(name, s.image()),
	}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	job.Spec.Template.Annotations = map[string]string{"simulate.coracle.dev/run-for": fmt.Sprint(s.random.IntN(1500), "ms")}
	kind := s.random.IntN(4)
	if kind > 0 {
		job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	}
	if kind > 1 {
		job.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
	}
	if kind == 3 {
		job.Spec.BackoffLimitPerIndex = ptr.To(int32(s.random.IntN(2)))
		job.Spec.Template.Annotations["simulate.coracle.dev/exit-code"] = "1"
	}
	_, _ = jobs.Create(ctx, job, metav1.CreateOptions{})
}

// evict makes sure that there are budgets, and evicts some pods.
func (s *storm) evict(ctx context.Context) {
	for n, budget := range []policyv1.PodDisruptionBudgetSpec{
		{MinAvailable: ptr.To(intstr.FromInt32(2)), Selector: selector("d0")}, {MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selector("d1")},
		{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selector("s1")},
	} {
		_, _ = s.client.PolicyV1().PodDisruptionBudgets(in).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", n)}, Spec: budget}, metav1.CreateOptions{})
	}
	app := []string{"d0", "d1", "s1"}[s.random.IntN(3)]
	list, err := s.client.CoreV1().Pods(in).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return
	}
	for i := range list.Items {
		pod := &list.Items[i]
		s.took(pod, s.client.PolicyV1().Evictions(in).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: in}}))
	}
}

// deletePod deletes a pod as a user does.
func (s *storm) deletePod(ctx context.Context) {
	list, err := s.client.CoreV1().Pods(in).List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return
	}
	pod := &list.Items[s.random.IntN(len(list.Items))]
	s.took(pod, s.client.CoreV1().Pods(in).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID))))
}

// took notes that we, not its controller, may have deleted a pod.
func (s *storm) took(pod *corev1.Pod, err error) {
	if !apierrors.IsTooManyRequests(err) && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.world.Foreign[pod.UID] = true
	}
}

// cordon makes a node take no pods, or take them again.
func (s *storm) cordon(ctx context.Context) {
	s.setCordon(ctx, fmt.Sprint("sim-", s.random.IntN(2)), s.random.IntN(2) == 0)
}

func (s *storm) setCordon(ctx context.Context, name string, on bool) {
	node, err := s.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err == nil && node.Spec.Unschedulable != on {
		node.Spec.Unschedulable = on
		_, _ = s.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	}
}

// ask makes what is asked for fit the nodes, until each object says so.
func (s *storm) ask() {
	s.Helper()
	until := time.Now().Add(time.Minute)
	for {
		err := s.tryAsk()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			s.Errorf("the server cannot be asked: %v", err)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (s *storm) tryAsk() error {
	s.setCordon(s.ctx, "sim-0", false)
	s.setCordon(s.ctx, "sim-1", false)
	deployments, err := s.client.AppsV1().Deployments(in).List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		d.Spec.Paused, d.Spec.Replicas = false, ptr.To(min(*d.Spec.Replicas, 3))
		if _, err := s.client.AppsV1().Deployments(in).Update(s.ctx, d, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	sets, err := s.client.AppsV1().StatefulSets(in).List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		set.Spec.Replicas = ptr.To(min(*set.Spec.Replicas, 3))
		if _, err := s.client.AppsV1().StatefulSets(in).Update(s.ctx, set, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
