package controllers_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

// job makes a job whose pods run an image that says how they end: "exit 3", or "exit 3 1" where pods of odd indexes end with the second number.
func (c *cluster) job(name, image string, edit func(*batchv1.JobSpec)) *batchv1.Job {
	c.Helper()
	t := template(nil, image)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Template: t}}
	if edit != nil {
		edit(&j.Spec)
	}
	j, err := c.client.BatchV1().Jobs("default").Create(c.ctx, j, metav1.CreateOptions{})
	c.must(err)
	return j
}

// endPods ends running pods as their image says.
func (c *cluster) endPods() {
	w, err := c.client.CoreV1().Pods("").Watch(c.ctx, metav1.ListOptions{})
	c.must(err)
	c.Cleanup(w.Stop)
	go func() {
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted || pod.Status.Phase != corev1.PodRunning || !strings.HasPrefix(pod.Spec.Containers[0].Image, "exit ") {
				continue
			}
			codes := strings.Fields(pod.Spec.Containers[0].Image)[1:]
			index, _ := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
			code, _ := strconv.Atoi(codes[index%len(codes)])
			c.endPod(pod, int32(code))
		}
	}()
}

func (c *cluster) endPod(pod *corev1.Pod, code int32) {
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			pod.Status.Conditions[i].Status, pod.Status.Conditions[i].LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}}}}
	_, _ = c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
}

// jobStatus waits until the job's status is as check wants it.
func (c *cluster) jobStatus(name string, check func(*batchv1.Job) bool) *batchv1.Job {
	c.Helper()
	var job *batchv1.Job
	c.eventually("job "+name, func() error {
		var err error
		job, err = c.client.BatchV1().Jobs("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		if !check(job) {
			return fmt.Errorf("%+v", job.Status)
		}
		return nil
	})
	return job
}

func jobHas(t batchv1.JobConditionType, reason string) func(*batchv1.Job) bool {
	return func(j *batchv1.Job) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t && c.Status == corev1.ConditionTrue && c.Reason == reason {
				return true
			}
		}
		return false
	}
}

func TestJobLife(t *testing.T) {
	c := start(t, nil)
	c.endPods()
	begin := time.Now()
	c.job("one", "exit 0", nil)
	job := c.jobStatus("one", jobHas(batchv1.JobComplete, batchv1.JobReasonCompletionsReached))
	t.Logf("complete after %v", time.Since(begin))
	s := job.Status
	if s.Succeeded != 1 || s.Failed != 0 || s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || s.StartTime == nil || s.CompletionTime == nil ||
		len(s.UncountedTerminatedPods.Succeeded) != 0 || !jobHas(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached)(job) {
		t.Fatalf("%+v", s)
	}
	pod := c.pods("job-name=one")[0]
	if len(pod.Finalizers) != 0 || !strings.HasPrefix(pod.Name, "one-") {
		t.Fatalf("%s %v", pod.Name, pod.Finalizers)
	}
	c.event("one", "SuccessfulCreate", "Created pod: "+pod.Name)
	c.event("one", "Completed", "Job completed")
	c.must(c.client.BatchV1().Jobs("default").Delete(c.ctx, "one", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
	c.podCount("job-name=one", 0)
}

// shifted is the machine's clock, put forward: back-offs are over at once.
type shifted struct{ by atomic.Int64 }

func (s *shifted) Now() time.Time { return time.Now().Add(time.Duration(s.by.Load())) }

// forward makes controllers live d later than everybody else.
func forward(d time.Duration) (*shifted, func(*controllers.Config)) {
	s := &shifted{}
	s.by.Store(int64(d))
	return s, func(cfg *controllers.Config) { cfg.Clock = s }
}

func TestIndexedJob(t *testing.T) {
	_, later := forward(time.Hour)
	c := start(t, later)
	c.endPods()
	c.job("squares", "exit 0", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](5), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
	})
	job := c.jobStatus("squares", jobHas(batchv1.JobComplete, batchv1.JobReasonCompletionsReached))
	if job.Status.CompletedIndexes != "0-4" || job.Status.Succeeded != 5 || job.Status.FailedIndexes != nil {
		t.Fatalf("%+v", job.Status)
	}
	seen := map[string]bool{}
	for _, pod := range c.pods("job-name=squares") {
		index := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
		env := pod.Spec.Containers[0].Env
		if seen[index] || pod.Labels[batchv1.JobCompletionIndexAnnotation] != index || pod.Spec.Hostname != "squares-"+index || !strings.HasPrefix(pod.Name, "squares-"+index+"-") ||
			len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" || env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
			t.Fatalf("%+v", pod)
		}
		seen[index] = true
	}
	if len(seen) != 5 {
		t.Fatal(seen)
	}
}

func TestBackoffLimitPerIndex(t *testing.T) {
	_, later := forward(time.Hour)
	c := start(t, later)
	c.endPods()
	c.job("odd", "exit 0 3", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](4), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
		s.BackoffLimitPerIndex = ptr.To[int32](1)
	})
	job := c.jobStatus("odd", jobHas(batchv1.JobFailed, batchv1.JobReasonFailedIndexes))
	if s := job.Status; s.CompletedIndexes != "0,2" || *s.FailedIndexes != "1,3" || s.Failed != 4 || s.Succeeded != 2 {
		t.Fatalf("%+v", s)
	}
	attempts := map[string]int{}
	for _, pod := range c.pods("job-name=odd") {
		attempts[pod.Annotations[batchv1.JobCompletionIndexAnnotation]+" after "+pod.Annotations[batchv1.JobIndexFailureCountAnnotation]]++
	}
	if fmt.Sprint(attempts) != "map[0 after 0:1 1 after 0:1 1 after 1:1 2 after 0:1 3 after 0:1 3 after 1:1]" {
		t.Fatal(attempts)
	}
	c.event("odd", "FailedIndexes", "Job has failed indexes")
}

func TestPodFailurePolicy(t *testing.T) {
	_, later := forward(time.Hour)
	c := start(t, later)
	c.endPods()
	onExit := func(action batchv1.PodFailurePolicyAction, code int32) *batchv1.PodFailurePolicy {
		return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code},
		}}}}
	}
	c.job("failjob", "exit 42", func(s *batchv1.JobSpec) { s.PodFailurePolicy = onExit(batchv1.PodFailurePolicyActionFailJob, 42) })
	job := c.jobStatus("failjob", jobHas(batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy))
	pod := c.pods("job-name=failjob")[0].Name
	want := "Container c for pod default/" + pod + " failed with exit code 42 matching FailJob rule at index 0"
	if s := job.Status; s.Failed != 1 || s.Conditions[0].Type != batchv1.JobFailureTarget || s.Conditions[1].Message != want {
		t.Fatalf("%+v", s)
	}
	c.event("failjob", "PodFailurePolicy", want)

	c.job("failindex", "exit 0 42", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](4), ptr.To[int32](4), ptr.To(batchv1.IndexedCompletion)
		s.BackoffLimitPerIndex = ptr.To[int32](5)
		s.PodFailurePolicy = onExit(batchv1.PodFailurePolicyActionFailIndex, 42)
	})
	job = c.jobStatus("failindex", jobHas(batchv1.JobFailed, batchv1.JobReasonFailedIndexes))
	if s := job.Status; *s.FailedIndexes != "1,3" || s.CompletedIndexes != "0,2" || s.Failed != 2 {
		t.Fatalf("%+v", s)
	}

	c.job("ignored", "v1", func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To[int32](0)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget}}}}}
	})
	first := c.runningPod("job-name=ignored", "")
	first.Status.Conditions = append(first.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
	c.endPod(first, 137)
	second := c.runningPod("job-name=ignored", first.Name)
	if s := c.jobStatus("ignored", func(j *batchv1.Job) bool { return j.Status.Active == 1 }).Status; s.Failed != 0 {
		t.Fatalf("%+v", s)
	}
	c.endPod(second, 1)
	c.jobStatus("ignored", jobHas(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded))
}

// runningPod waits for a running pod that is not called but.
func (c *cluster) runningPod(selector, but string) *corev1.Pod {
	c.Helper()
	var found *corev1.Pod
	c.eventually("a running pod", func() error {
		list := c.pods(selector)
		for i := range list {
			if list[i].Name != but && list[i].Status.Phase == corev1.PodRunning && list[i].DeletionTimestamp == nil {
				found = &list[i]
				return nil
			}
		}
		return fmt.Errorf("%d pods", len(list))
	})
	return found
}

func TestSuccessPolicy(t *testing.T) {
	c := start(t, nil)
	c.job("leader", "v1", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](3), ptr.To[int32](3), ptr.To(batchv1.IndexedCompletion)
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1-2"), SucceededCount: ptr.To[int32](1)}}}
	})
	c.endPod(c.runningPod("job-name=leader,"+batchv1.JobCompletionIndexAnnotation+"=2", ""), 0)
	job := c.jobStatus("leader", jobHas(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy))
	if s := job.Status; s.CompletedIndexes != "2" || s.Succeeded != 1 || s.Failed != 0 || s.Conditions[0].Message != "Matched rules at index 0" || *s.Terminating != 0 {
		t.Fatalf("%+v", s)
	}
	c.podCount("job-name=leader", 1)
}

func TestSuspension(t *testing.T) {
	c := start(t, nil)
	jobs := c.client.BatchV1().Jobs("default")
	suspend := func(yes bool) {
		_, err := jobs.Patch(c.ctx, "paused", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"suspend":%v}}`, yes), metav1.PatchOptions{})
		c.must(err)
	}
	c.job("paused", "v1", func(s *batchv1.JobSpec) {
		s.Suspend, s.Parallelism, s.Completions, s.ActiveDeadlineSeconds = ptr.To(true), ptr.To[int32](2), ptr.To[int32](2), ptr.To[int64](3600)
	})
	job := c.jobStatus("paused", jobHas(batchv1.JobSuspended, "JobSuspended"))
	if job.Status.StartTime != nil || len(c.pods("")) != 0 {
		t.Fatalf("%+v", job.Status)
	}
	_, err := jobs.Patch(c.ctx, "paused", types.MergePatchType, []byte(`{"spec":{"template":{"spec":{"nodeSelector":{"disk":"fast"}}}}}`), metav1.PatchOptions{})
	c.must(err)
	suspend(false)
	job = c.jobStatus("paused", func(j *batchv1.Job) bool { return j.Status.Active == 2 && ptr.Deref(j.Status.Ready, 0) == 2 })
	if job.Status.StartTime == nil || job.Status.Conditions[0].Reason != "JobResumed" || c.pods("")[0].Spec.NodeSelector["disk"] != "fast" {
		t.Fatalf("%+v", job.Status)
	}
	suspend(true)
	job = c.jobStatus("paused", func(j *batchv1.Job) bool {
		return jobHas(batchv1.JobSuspended, "JobSuspended")(j) && j.Status.Active == 0 && ptr.Deref(j.Status.Terminating, 1) == 0
	})
	if job.Status.Failed != 0 || job.Status.StartTime != nil {
		t.Fatalf("suspended pods count as failed: %+v", job.Status)
	}
	c.podCount("", 0)
	c.event("paused", "Suspended", "Job suspended")
	c.event("paused", "Resumed", "Job resumed")
	c.endPods()
	suspend(false)
	for range 2 {
		c.endPod(c.runningPod("", ""), 0)
	}
	c.jobStatus("paused", jobHas(batchv1.JobComplete, batchv1.JobReasonCompletionsReached))
}

func TestDeadlineAndLimits(t *testing.T) {
	_, later := forward(time.Hour)
	c := start(t, later)
	c.endPods()
	c.job("late", "v1", func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds, s.Parallelism = ptr.To[int64](1), ptr.To[int32](2) })
	job := c.jobStatus("late", jobHas(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded))
	if s := job.Status; s.Active != 0 || s.Failed != 2 || s.CompletionTime != nil {
		t.Fatalf("%+v", s)
	}
	c.event("late", "DeadlineExceeded", "Job was active longer than specified deadline")
	c.podCount("job-name=late", 0)

	c.job("hopeless", "exit 1", func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](2) })
	job = c.jobStatus("hopeless", jobHas(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded))
	if s := job.Status; s.Failed != 3 || s.Succeeded != 0 {
		t.Fatalf("%+v", s)
	}
	c.podCount("job-name=hopeless", 3)
	c.event("hopeless", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

	c.job("others", "exit 0", func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To("example.com/queue") })
	c.job("soon", "exit 0", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) })
	c.eventually("the end of soon", func() error {
		_, err := c.client.BatchV1().Jobs("default").Get(c.ctx, "soon", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there: %w", err)
	})
	c.podCount("job-name=soon", 0)
	if job := c.jobStatus("others", func(*batchv1.Job) bool { return true }); job.Status.StartTime != nil || len(c.pods("job-name=others")) != 0 {
		t.Fatalf("%+v", job.Status)
	}
}

// TestJobPodsChangeHands orphans a pod, which comes back, changes another's labels, which lets it go, and deletes the job without its pods.
func TestJobPodsChangeHands(t *testing.T) {
	c := start(t, nil)
	pods := c.client.CoreV1().Pods("default")
	job := c.job("owner", "v1", func(s *batchv1.JobSpec) { s.Parallelism, s.Completions = ptr.To[int32](2), ptr.To[int32](2) })
	c.jobStatus("owner", func(j *batchv1.Job) bool { return ptr.Deref(j.Status.Ready, 0) == 2 })
	first := c.pods("job-name=owner")[0]
	patch := func(name, text string) {
		_, err := pods.Patch(c.ctx, name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		c.must(err)
	}
	patch(first.Name, `{"metadata":{"ownerReferences":null}}`)
	c.eventually("adoption", func() error {
		pod, err := pods.Get(c.ctx, first.Name, metav1.GetOptions{})
		c.must(err)
		if !metav1.IsControlledBy(pod, job) || len(pod.Finalizers) != 1 {
			return fmt.Errorf("%v %v", pod.OwnerReferences, pod.Finalizers)
		}
		return nil
	})
	patch(first.Name, `{"metadata":{"labels":null}}`)
	c.eventually("release", func() error {
		pod, err := pods.Get(c.ctx, first.Name, metav1.GetOptions{})
		c.must(err)
		if len(pod.OwnerReferences) != 0 || len(pod.Finalizers) != 0 {
			return fmt.Errorf("%v %v", pod.OwnerReferences, pod.Finalizers)
		}
		return nil
	})
	c.podCount("job-name=owner", 2)
	for _, pod := range c.pods("job-name=owner") {
		c.eventually("the pod runs", func() error { // so that the garbage collector knows it for long
			pod, err := pods.Get(c.ctx, pod.Name, metav1.GetOptions{})
			c.must(err)
			if pod.Status.Phase != corev1.PodRunning {
				return fmt.Errorf("%s", pod.Status.Phase)
			}
			return nil
		})
	}
	c.must(c.client.BatchV1().Jobs("default").Delete(c.ctx, "owner", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}))
	c.eventually("free pods", func() error {
		for _, pod := range c.pods("") {
			if len(pod.OwnerReferences) != 0 || len(pod.Finalizers) != 0 {
				return fmt.Errorf("%s: %v %v", pod.Name, pod.OwnerReferences, pod.Finalizers)
			}
		}
		return nil
	})
	c.podCount("", 3)
}

// TestJobsThroughRestarts runs a job whose every third pod fails while the controllers are restarted; nothing is counted twice or not at all.
func TestJobsThroughRestarts(t *testing.T) {
	_, later := forward(time.Hour)
	c := start(t, later)
	c.endPods()
	const completions = 60
	c.job("many", "exit 0 0 1", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](completions), ptr.To[int32](7), ptr.To(batchv1.IndexedCompletion)
		s.BackoffLimitPerIndex = ptr.To[int32](1)
	})
	c.job("plain", "exit 0", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](completions), ptr.To[int32](7) })
	for range 5 {
		time.Sleep(40 * time.Millisecond)
		c.restart()
	}
	many := c.jobStatus("many", jobHas(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)).Status
	if many.Succeeded != completions*2/3 || many.Failed != completions/3*2 {
		t.Fatalf("%+v", many)
	}
	plain := c.jobStatus("plain", jobHas(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)).Status
	succeeded := 0
	for _, pod := range c.pods("job-name=plain") {
		if pod.Status.Phase == corev1.PodSucceeded {
			succeeded++
		}
		if len(pod.Finalizers) != 0 {
			t.Fatalf("%s keeps %v", pod.Name, pod.Finalizers)
		}
	}
	if int(plain.Succeeded) != succeeded || succeeded != completions || plain.Failed != 0 {
		t.Fatalf("%d succeeded: %+v", succeeded, plain)
	}
}
